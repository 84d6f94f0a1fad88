//! LeaveGroup: API key 13, versions 0 to 5.
//!
//! v1, v2: throttling. v3: several members, also static ones by their instance id only, with a result each (KIP-345). v4:
//! flexible. v5: a reason (KIP-800), logged at debug level.

use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

use super::group_values::{owned, owned_option, str_bytes};
use super::{Close, RequestContext};
use crate::error_map;
use crate::group::{LeaveGroup, LeavingMember};

const FIRST_BATCHED_VERSION: i16 = 3;

pub async fn handle(cx: RequestContext, request: LeaveGroupRequest) -> Result<LeaveGroupResponse, Close> {
    cx.broker.groups.await_loaded([request.group_id.0.as_str()]).await;
    let is_batched = cx.api_version >= FIRST_BATCHED_VERSION;
    let leave = LeaveGroup { group_id: owned(&request.group_id.0)?, members: leaving(&request, is_batched)? };
    let mut response = LeaveGroupResponse::default();
    match cx.broker.groups.leave_group(&leave) {
        Err(error) => response.error_code = error_map::group(error).code(),
        Ok(left) if is_batched => {
            response.members = left
                .into_iter()
                .map(|left| {
                    let error_code = left.result.err().map_or(0, |error| error_map::group(error).code());
                    MemberResponse::default()
                        .with_member_id(str_bytes(&left.member_id))
                        .with_group_instance_id(left.instance_id.as_deref().map(str_bytes))
                        .with_error_code(error_code)
                })
                .collect();
        }
        Ok(left) => {
            let error = left.into_iter().find_map(|left| left.result.err());
            response.error_code = error.map_or(0, |error| error_map::group(error).code());
        }
    }
    Ok(response)
}

fn leaving(request: &LeaveGroupRequest, is_batched: bool) -> Result<Vec<LeavingMember>, Close> {
    if !is_batched {
        return Ok(vec![LeavingMember { member_id: owned(&request.member_id)?, instance_id: None }]);
    }
    let read = |member: &kafka_protocol::messages::leave_group_request::MemberIdentity| {
        if let Some(reason) = member.reason.as_ref().filter(|reason| !reason.is_empty()) {
            let (group, member) = (&*request.group_id.0, &*member.member_id);
            tracing::debug!(group, member, reason = &**reason, "a member leaves");
        }
        Ok(LeavingMember {
            member_id: owned(&member.member_id)?,
            instance_id: owned_option(&member.group_instance_id)?,
        })
    };
    request.members.iter().map(read).collect()
}
