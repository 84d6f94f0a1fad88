//! OffsetDelete.

use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: OffsetDeleteRequest,
) -> Result<OffsetDeleteResponse, Close> {
    Err(Close::new("OffsetDelete is not built"))
}
