//! ListGroups.

use kafka_protocol::messages::{ListGroupsRequest, ListGroupsResponse};

use super::{Close, RequestContext};

pub async fn handle(_cx: RequestContext, _request: ListGroupsRequest) -> Result<ListGroupsResponse, Close> {
    Err(Close::new("ListGroups is not built"))
}
