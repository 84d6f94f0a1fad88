//! UnregisterBroker (key 64, version 0, KIP-631): forgets a broker that is gone for good. One that still runs is fenced by
//! it and registers again only when it is started again.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::BrokerId;
use ottla_raft::requests::UnregisterBroker;

use super::{Close, RequestContext, create_topics};
use crate::error_map;

pub async fn handle(
    cx: RequestContext,
    request: UnregisterBrokerRequest,
) -> Result<UnregisterBrokerResponse, Close> {
    let submitted = cx.broker.metadata.submit(UnregisterBroker { id: BrokerId(request.broker_id.0) });
    let failure = match tokio::time::timeout(create_topics::TIMEOUT_DEFAULT, submitted).await {
        Ok(Ok(Ok(()))) => None,
        Ok(Ok(Err(error))) => Some((error_map::unregister_broker(&error), error.to_string())),
        Ok(Err(error)) => Some((error_map::submit(&error), error.to_string())),
        Err(_) => Some((ResponseError::RequestTimedOut, "the controller did not answer in time".to_owned())),
    };
    let response = UnregisterBrokerResponse::default().with_error_message(None);
    Ok(match failure {
        None => response,
        Some((error, message)) => {
            response.with_error_code(error.code()).with_error_message(Some(StrBytes::from_string(message)))
        }
    })
}
