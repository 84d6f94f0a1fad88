//! ListOffsets.

use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::{Close, RequestContext};

pub async fn handle(_cx: RequestContext, _request: ListOffsetsRequest) -> Result<ListOffsetsResponse, Close> {
    Err(Close::new("ListOffsets is not built"))
}
