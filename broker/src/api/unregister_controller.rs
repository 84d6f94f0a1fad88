//! UnregisterController (key 94, version 0, KIP-1312, new in Kafka 4.4): forgets a controller that was taken out of the voters and is
//! gone for good. One that still runs comes back by itself.
//!
//! kafka-protocol does not know it; request and response have the shape of UnregisterBroker's.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::BrokerId;

use super::{Close, RequestContext, create_topics};
use crate::error_map;

pub const KEY: i16 = 94;

pub async fn handle(
    cx: RequestContext,
    request: UnregisterBrokerRequest,
) -> Result<UnregisterBrokerResponse, Close> {
    let unregistered = cx.broker.metadata.unregister_controller(BrokerId(request.broker_id.0));
    let failure = match tokio::time::timeout(create_topics::TIMEOUT_DEFAULT, unregistered).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some((error_map::unregister_controller(&error), error.to_string())),
        Err(_) => {
            let message = "the controller was not forgotten in time; it may still be";
            Some((ResponseError::RequestTimedOut.code(), message.to_owned()))
        }
    };
    let response = UnregisterBrokerResponse::default().with_error_message(None);
    Ok(match failure {
        None => response,
        Some((code, message)) => {
            response.with_error_code(code).with_error_message(Some(StrBytes::from_string(message)))
        }
    })
}
