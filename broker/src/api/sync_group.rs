//! SyncGroup.

use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::{Close, RequestContext};

pub async fn handle(_cx: RequestContext, _request: SyncGroupRequest) -> Result<SyncGroupResponse, Close> {
    Err(Close::new("SyncGroup is not built"))
}
