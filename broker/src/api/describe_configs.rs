//! DescribeConfigs.

use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: DescribeConfigsRequest,
) -> Result<DescribeConfigsResponse, Close> {
    Err(Close::new("DescribeConfigs is not built"))
}
