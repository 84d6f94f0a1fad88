//! AlterConfigs.

use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: AlterConfigsRequest,
) -> Result<AlterConfigsResponse, Close> {
    Err(Close::new("AlterConfigs is not built"))
}
