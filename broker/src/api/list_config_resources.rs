//! ListConfigResources.

use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: ListConfigResourcesRequest,
) -> Result<ListConfigResourcesResponse, Close> {
    Err(Close::new("ListConfigResources is not built"))
}
