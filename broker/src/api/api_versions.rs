//! ApiVersions.

use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use super::{Close, RequestContext};

pub async fn handle(_cx: RequestContext, _request: ApiVersionsRequest) -> Result<ApiVersionsResponse, Close> {
    Err(Close::new("ApiVersions is not built"))
}
