//! Metadata.

use kafka_protocol::messages::{MetadataRequest, MetadataResponse};

use super::{Close, RequestContext};

pub async fn handle(_cx: RequestContext, _request: MetadataRequest) -> Result<MetadataResponse, Close> {
    Err(Close::new("Metadata is not built"))
}
