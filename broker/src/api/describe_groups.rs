//! DescribeGroups: API key 15, versions 0 to 6.
//!
//! v1, v2: throttling. v3: authorised operations (KIP-430). v4: group instance ids (KIP-345). v5: flexible. v6: an unknown group is
//! GROUP_ID_NOT_FOUND with a message (KIP-1043); before, it is a group in state Dead.
//!
//! There is no authorizer: all operations on groups are allowed.

use futures::future::try_join_all;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse, GroupId};
use kafka_protocol::protocol::StrBytes;

use super::group_values::{ALL_GROUP_OPERATIONS, owned, str_bytes};
use super::{Close, RequestContext};
use crate::error_map;
use crate::group::{self, GroupError, GroupState};

const FIRST_WITH_NOT_FOUND: i16 = 6;

pub async fn handle(
    cx: RequestContext,
    request: DescribeGroupsRequest,
) -> Result<DescribeGroupsResponse, Close> {
    cx.broker.groups.await_loaded(request.groups.iter().map(|id| id.0.as_str())).await;
    // Side by side: each may have to wait for a proof that this broker still coordinates it.
    let described = request.groups.iter().map(|group_id| async {
        let result = cx.broker.groups.describe_group(&owned(&group_id.0)?).await;
        let mut described = describe(group_id, result, cx.api_version);
        if cx.api_version >= 3 && request.include_authorized_operations && described.error_code == 0 {
            described.authorized_operations = ALL_GROUP_OPERATIONS;
        }
        Ok(described)
    });
    let groups = try_join_all(described).await?;
    Ok(DescribeGroupsResponse::default().with_groups(groups))
}

fn describe(
    group_id: &GroupId,
    result: Result<group::DescribedGroup, GroupError>,
    version: i16,
) -> DescribedGroup {
    let described = DescribedGroup::default().with_group_id(group_id.clone());
    match result {
        Ok(group) => described
            .with_group_state(str_bytes(group.state.name()))
            .with_protocol_type(str_bytes(&group.protocol_type))
            .with_protocol_data(str_bytes(&group.protocol_name))
            .with_members(group.members.into_iter().map(|member| describe_member(member, version)).collect()),
        Err(GroupError::GroupIdNotFound) if version < FIRST_WITH_NOT_FOUND => {
            described.with_group_state(str_bytes(GroupState::Dead.name()))
        }
        Err(GroupError::GroupIdNotFound) => described
            .with_error_code(error_map::group(GroupError::GroupIdNotFound).code())
            .with_error_message(Some(StrBytes::from_string(format!("Group {} not found.", &*group_id.0))))
            .with_group_state(str_bytes(GroupState::Dead.name())),
        Err(error) => described.with_error_code(error_map::group(error).code()),
    }
}

fn describe_member(member: group::DescribedMember, version: i16) -> DescribedGroupMember {
    let mut described = DescribedGroupMember::default()
        .with_member_id(str_bytes(&member.member_id))
        .with_client_id(str_bytes(&member.client_id))
        .with_client_host(str_bytes(&member.client_host))
        .with_member_metadata(member.metadata)
        .with_member_assignment(member.assignment);
    if version >= 4 {
        described.group_instance_id = member.instance_id.as_deref().map(str_bytes);
    }
    described
}
