//! OffsetCommit.

use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: OffsetCommitRequest,
) -> Result<OffsetCommitResponse, Close> {
    Err(Close::new("OffsetCommit is not built"))
}
