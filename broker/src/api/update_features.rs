//! UpdateFeatures (key 57, versions 0 to 2, KIP-584): finalized feature levels, all of them changed or none.
//!
//! v1: kinds of downgrades and validation without change (KIP-778). v2: the answer has no results per feature (KIP-1022).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::update_features_response::UpdatableFeatureResult;
use kafka_protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::requests::{FeatureUpdate, FeatureUpdateType, UpdateFeatures};

use super::{Close, RequestContext, create_topics};
use crate::error_map;

pub async fn handle(
    cx: RequestContext,
    request: UpdateFeaturesRequest,
) -> Result<UpdateFeaturesResponse, Close> {
    let updates = request.feature_updates.iter().map(|update| {
        let kind = match (cx.api_version, update.allow_downgrade, update.upgrade_type) {
            (0, false, _) | (1.., _, 1) => FeatureUpdateType::Upgrade,
            (0, true, _) | (1.., _, 2) => FeatureUpdateType::SafeDowngrade,
            (1.., _, 3) => FeatureUpdateType::UnsafeDowngrade,
            (_, _, other) => FeatureUpdateType::Unknown(other),
        };
        FeatureUpdate { name: update.feature.to_string(), level: update.max_version_level, kind }
    });
    let validate_only = cx.api_version >= 1 && request.validate_only;
    let submitted = cx.broker.metadata.submit(UpdateFeatures { updates: updates.collect(), validate_only });
    let refused = |error: ResponseError, message: String| {
        Ok(UpdateFeaturesResponse::default()
            .with_error_code(error.code())
            .with_error_message(Some(StrBytes::from_string(message))))
    };
    let decided = match tokio::time::timeout(create_topics::timeout(request.timeout_ms), submitted).await {
        Ok(Ok(Ok(decided))) => decided,
        Ok(Ok(Err(error))) => return refused(error_map::update_features(&error), error.to_string()),
        Ok(Err(error)) => return refused(error_map::submit(&error), error.to_string()),
        Err(_) => {
            return refused(ResponseError::RequestTimedOut, "the controller did not answer in time".into());
        }
    };
    let results = if cx.api_version >= 2 { Vec::new() } else { decided };
    Ok(UpdateFeaturesResponse::default().with_error_message(None).with_results(
        results
            .into_iter()
            .map(|result| {
                UpdatableFeatureResult::default()
                    .with_feature(StrBytes::from_string(result.name))
                    .with_error_message(None)
            })
            .collect(),
    ))
}
