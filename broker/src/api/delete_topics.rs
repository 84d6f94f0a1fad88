//! DeleteTopics.

use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: DeleteTopicsRequest,
) -> Result<DeleteTopicsResponse, Close> {
    Err(Close::new("DeleteTopics is not built"))
}
