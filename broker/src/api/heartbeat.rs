//! Heartbeat.

use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};

use super::{Close, RequestContext};

pub async fn handle(_cx: RequestContext, _request: HeartbeatRequest) -> Result<HeartbeatResponse, Close> {
    Err(Close::new("Heartbeat is not built"))
}
