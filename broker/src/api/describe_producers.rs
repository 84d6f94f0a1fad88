//! DescribeProducers.

use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: DescribeProducersRequest,
) -> Result<DescribeProducersResponse, Close> {
    Err(Close::new("DescribeProducers is not built"))
}
