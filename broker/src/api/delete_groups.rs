//! DeleteGroups.

use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: DeleteGroupsRequest,
) -> Result<DeleteGroupsResponse, Close> {
    Err(Close::new("DeleteGroups is not built"))
}
