//! SyncGroup: API key 14, versions 0 to 5.
//!
//! v1, v2: throttling. v3: static members (KIP-345). v4: flexible. v5: protocol type and name, in the request to be checked and
//! in the response (KIP-559).
//!
//! The answer is parked until the leader's assignment is durable.

use bytes::Bytes;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};

use super::group_values::{owned, owned_option, str_bytes};
use super::{Close, RequestContext};
use crate::error_map;
use crate::group::SyncGroup;

pub async fn handle(cx: RequestContext, request: SyncGroupRequest) -> Result<SyncGroupResponse, Close> {
    cx.broker.groups.await_loaded([request.group_id.0.as_str()]).await;
    let assignments = request.assignments.iter().map(|assigned| {
        // Copied: it lives as long as the member.
        Ok((owned(&assigned.member_id)?, Bytes::copy_from_slice(&assigned.assignment)))
    });
    let sync = SyncGroup {
        group_id: owned(&request.group_id.0)?,
        generation: request.generation_id,
        member_id: owned(&request.member_id)?,
        instance_id: owned_option(&request.group_instance_id)?,
        protocol_type: owned_option(&request.protocol_type)?,
        protocol_name: owned_option(&request.protocol_name)?,
        assignments: assignments.collect::<Result<_, Close>>()?,
    };
    let mut response = SyncGroupResponse::default();
    match cx.broker.groups.sync_group(sync).await {
        Ok(synced) => {
            response.assignment = synced.assignment;
            if cx.api_version >= 5 {
                response.protocol_type = synced.protocol_type.as_deref().map(str_bytes);
                response.protocol_name = synced.protocol_name.as_deref().map(str_bytes);
            }
        }
        Err(error) => response.error_code = error_map::group(error).code(),
    }
    Ok(response)
}
