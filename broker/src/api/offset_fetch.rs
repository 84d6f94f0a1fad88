//! OffsetFetch.

use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};

use super::{Close, RequestContext};

pub async fn handle(_cx: RequestContext, _request: OffsetFetchRequest) -> Result<OffsetFetchResponse, Close> {
    Err(Close::new("OffsetFetch is not built"))
}
