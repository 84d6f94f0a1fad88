//! IncrementalAlterConfigs.

use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: IncrementalAlterConfigsRequest,
) -> Result<IncrementalAlterConfigsResponse, Close> {
    Err(Close::new("IncrementalAlterConfigs is not built"))
}
