//! Fetch.

use kafka_protocol::messages::{FetchRequest, FetchResponse};

use super::{Close, RequestContext};

pub async fn handle(_cx: RequestContext, _request: FetchRequest) -> Result<FetchResponse, Close> {
    Err(Close::new("Fetch is not built"))
}
