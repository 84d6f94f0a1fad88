//! ListGroups: API key 16, versions 0 to 5.
//!
//! v1, v2: throttling. v3: flexible. v4: a filter by state, and the state (KIP-518). v5: a filter by type, and the type (KIP-848):
//! all groups are classic ones here. Filters do not mind the case.

use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{GroupId, ListGroupsRequest, ListGroupsResponse};
use kafka_protocol::protocol::StrBytes;

use super::group_values::str_bytes;
use super::{Close, RequestContext};
use crate::error_map;

const CLASSIC: &str = "classic";

pub async fn handle(cx: RequestContext, request: ListGroupsRequest) -> Result<ListGroupsResponse, Close> {
    cx.broker.groups.await_all_loaded().await;
    let mut response = ListGroupsResponse::default();
    let groups = match cx.broker.groups.list_groups() {
        Ok(groups) => groups,
        Err(error) => {
            response.error_code = error_map::group(error).code();
            return Ok(response);
        }
    };
    if !passes(&request.types_filter, CLASSIC) {
        return Ok(response);
    }
    for group in groups {
        if !passes(&request.states_filter, group.state.name()) {
            continue;
        }
        let mut listed = ListedGroup::default()
            .with_group_id(GroupId(str_bytes(&group.group_id)))
            .with_protocol_type(str_bytes(&group.protocol_type));
        if cx.api_version >= 4 {
            listed.group_state = str_bytes(group.state.name());
        }
        if cx.api_version >= 5 {
            listed.group_type = str_bytes(CLASSIC);
        }
        response.groups.push(listed);
    }
    Ok(response)
}

/// An empty filter lets everything pass.
fn passes(filter: &[StrBytes], value: &str) -> bool {
    filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(value))
}
