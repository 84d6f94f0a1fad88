//! OffsetForLeaderEpoch.

use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: OffsetForLeaderEpochRequest,
) -> Result<OffsetForLeaderEpochResponse, Close> {
    Err(Close::new("OffsetForLeaderEpoch is not built"))
}
