//! CreatePartitions.

use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: CreatePartitionsRequest,
) -> Result<CreatePartitionsResponse, Close> {
    Err(Close::new("CreatePartitions is not built"))
}
