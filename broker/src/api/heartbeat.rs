//! Heartbeat: API key 12, versions 0 to 4.
//!
//! v1, v2: throttling. v3: static members (KIP-345). v4: flexible.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::group_values::{owned, owned_option};
use super::{Close, RequestContext};
use crate::error_map;
use crate::group::Heartbeat;

pub async fn handle(cx: RequestContext, request: HeartbeatRequest) -> Result<HeartbeatResponse, Close> {
    cx.broker.groups.await_loaded([request.group_id.0.as_str()]).await;
    let heartbeat = Heartbeat {
        group_id: owned(&request.group_id.0)?,
        generation: request.generation_id,
        member_id: owned(&request.member_id)?,
        instance_id: owned_option(&request.group_instance_id)?,
    };
    let mut response = HeartbeatResponse::default();
    if let Err(error) = cx.broker.groups.heartbeat(&heartbeat) {
        response.error_code = error_map::group(error).code();
    }
    Ok(response)
}
