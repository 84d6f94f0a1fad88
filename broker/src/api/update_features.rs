//! UpdateFeatures.

use kafka_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};

use super::{Close, RequestContext};

pub async fn handle(
    _cx: RequestContext,
    _request: UpdateFeaturesRequest,
) -> Result<UpdateFeaturesResponse, Close> {
    Err(Close::new("UpdateFeatures is not built"))
}
