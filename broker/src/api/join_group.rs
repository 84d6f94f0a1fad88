//! JoinGroup: API key 11, versions 0 to 9.
//!
//! v1: a rebalance timeout apart from the session timeout. v4: a member without an id is given one first (KIP-394). v5: static
//! members (KIP-345). v6: flexible. v7: protocol type in the response. v8: a reason (KIP-800). v9: a static leader that came back
//! is told to skip the assignment (KIP-814).
//!
//! The answer is parked until the members have joined. The reason is logged at debug level.

use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::group_values::{client_host, client_id, owned, owned_option, str_bytes};
use super::{Close, RequestContext};
use crate::error_map;
use crate::group::{JoinGroup, Joined, MemberIdRule, MemberIdSuffix, Protocol, StaticRejoin};

pub async fn handle(cx: RequestContext, request: JoinGroupRequest) -> Result<JoinGroupResponse, Close> {
    cx.broker.groups.await_loaded([request.group_id.0.as_str()]).await;
    let version = cx.api_version;
    if let Some(reason) = request.reason.as_ref().filter(|reason| !reason.is_empty()) {
        let (group, member) = (&*request.group_id.0, &*request.member_id);
        tracing::debug!(group, member, reason = &**reason, "a member joins");
    }
    let join = read(&cx, &request)?;
    let result = cx.broker.groups.join_group(join, MemberIdSuffix(Uuid::new_v4())).await;
    let mut response = JoinGroupResponse::default();
    match result {
        Ok(joined) => write(&mut response, joined, version),
        Err(refused) => {
            response.error_code = error_map::group(refused.error).code();
            response.generation_id = -1;
            response.member_id = str_bytes(&refused.member_id);
        }
    }
    if version < 7 {
        // Not nullable before.
        response.protocol_name.get_or_insert_with(StrBytes::default);
    }
    Ok(response)
}

fn read(cx: &RequestContext, request: &JoinGroupRequest) -> Result<JoinGroup, Close> {
    let protocols = request.protocols.iter().map(|protocol| {
        // Copied: it lives as long as the member.
        let metadata = bytes::Bytes::copy_from_slice(&protocol.metadata);
        Ok(Protocol { name: owned(&protocol.name)?, metadata })
    });
    Ok(JoinGroup {
        group_id: owned(&request.group_id.0)?,
        member_id: owned(&request.member_id)?,
        instance_id: owned_option(&request.group_instance_id)?,
        client_id: client_id(cx)?,
        client_host: client_host(cx),
        protocol_type: owned(&request.protocol_type)?,
        protocols: protocols.collect::<Result<_, Close>>()?,
        session_timeout_ms: request.session_timeout_ms,
        rebalance_timeout_ms: match cx.api_version {
            0 => request.session_timeout_ms,
            _ => request.rebalance_timeout_ms,
        },
        member_id_rule: match cx.api_version {
            0..=3 => MemberIdRule::Assign,
            _ => MemberIdRule::Require,
        },
        static_rejoin: match cx.api_version {
            0..=8 => StaticRejoin::AsFollower,
            _ => StaticRejoin::SkipAssignment,
        },
    })
}

fn write(response: &mut JoinGroupResponse, joined: Joined, version: i16) {
    response.generation_id = joined.generation;
    if version >= 7 {
        response.protocol_type = joined.protocol_type.as_deref().map(str_bytes);
    }
    response.protocol_name = joined.protocol_name.as_deref().map(str_bytes);
    response.leader = str_bytes(&joined.leader);
    response.skip_assignment = joined.skip_assignment;
    response.member_id = str_bytes(&joined.member_id);
    response.members = joined
        .members
        .into_iter()
        .map(|member| {
            let mut listed = JoinGroupResponseMember::default()
                .with_member_id(str_bytes(&member.member_id))
                .with_metadata(member.metadata);
            if version >= 5 {
                listed.group_instance_id = member.instance_id.as_deref().map(str_bytes);
            }
            listed
        })
        .collect();
}
