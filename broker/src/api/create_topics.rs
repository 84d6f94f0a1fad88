//! CreateTopics.

use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: CreateTopicsRequest,
) -> Result<CreateTopicsResponse, Close> {
    Err(Close::new("CreateTopics is not built"))
}
