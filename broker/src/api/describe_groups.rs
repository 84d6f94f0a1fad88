//! DescribeGroups.

use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: DescribeGroupsRequest,
) -> Result<DescribeGroupsResponse, Close> {
    Err(Close::new("DescribeGroups is not built"))
}
