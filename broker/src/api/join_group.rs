//! JoinGroup.

use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};

use super::{Close, RequestContext};

pub async fn handle(_cx: RequestContext, _request: JoinGroupRequest) -> Result<JoinGroupResponse, Close> {
    Err(Close::new("JoinGroup is not built"))
}
