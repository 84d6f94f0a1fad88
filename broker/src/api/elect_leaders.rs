//! ElectLeaders.

use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: ElectLeadersRequest,
) -> Result<ElectLeadersResponse, Close> {
    Err(Close::new("ElectLeaders is not built"))
}
