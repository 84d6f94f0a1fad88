//! DescribeCluster.

use kafka_protocol::messages::{DescribeClusterRequest, DescribeClusterResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: DescribeClusterRequest,
) -> Result<DescribeClusterResponse, Close> {
    Err(Close::new("DescribeCluster is not built"))
}
