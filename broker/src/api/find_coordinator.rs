//! FindCoordinator.

use kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: FindCoordinatorRequest,
) -> Result<FindCoordinatorResponse, Close> {
    Err(Close::new("FindCoordinator is not built"))
}
