//! LeaveGroup.

use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::{Close, RequestContext};

pub async fn handle(_cx: RequestContext, _request: LeaveGroupRequest) -> Result<LeaveGroupResponse, Close> {
    Err(Close::new("LeaveGroup is not built"))
}
