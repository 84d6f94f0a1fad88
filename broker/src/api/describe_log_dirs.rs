//! DescribeLogDirs.

use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: DescribeLogDirsRequest,
) -> Result<DescribeLogDirsResponse, Close> {
    Err(Close::new("DescribeLogDirs is not built"))
}
