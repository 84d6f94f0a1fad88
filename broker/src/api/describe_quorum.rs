//! DescribeQuorum.

use kafka_protocol::messages::{DescribeQuorumRequest, DescribeQuorumResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: DescribeQuorumRequest,
) -> Result<DescribeQuorumResponse, Close> {
    Err(Close::new("DescribeQuorum is not built"))
}
