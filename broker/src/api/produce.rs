//! Produce.

use kafka_protocol::messages::{ProduceRequest, ProduceResponse};

use super::{Close, RequestContext};

pub async fn handle(_cx: RequestContext, _request: ProduceRequest) -> Result<ProduceResponse, Close> {
    Err(Close::new("Produce is not built"))
}
