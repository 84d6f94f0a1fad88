//! InitProducerId: API key 22, versions 0 to 5.
//!
//! v2: flexible. v3: the producer's current id and epoch (KIP-360). v4: PRODUCER_FENCED. v5: TRANSACTION_ABORTABLE (KIP-890).
//!
//! Gives an idempotent producer an id of its own with epoch 0, whatever id it had. A transactional id is answered with
//! UNSUPPORTED_VERSION, which the Java and C clients take as fatal at once instead of trying again: this broker coordinates no
//! transactions.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse, ProducerId};

use super::{Close, RequestContext};
use crate::error_map;

const NO_PRODUCER_ID: i64 = -1;
const NO_PRODUCER_EPOCH: i16 = -1;

pub async fn handle(
    cx: RequestContext,
    request: InitProducerIdRequest,
) -> Result<InitProducerIdResponse, Close> {
    let refused = |error: ResponseError| {
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(NO_PRODUCER_ID))
            .with_producer_epoch(NO_PRODUCER_EPOCH)
    };
    if let Some(transactional_id) = &request.transactional_id {
        if transactional_id.is_empty() {
            return Ok(refused(ResponseError::InvalidRequest));
        }
        return Ok(refused(ResponseError::UnsupportedVersion));
    }
    let has_id = request.producer_id.0 != NO_PRODUCER_ID;
    let has_epoch = request.producer_epoch != NO_PRODUCER_EPOCH;
    if has_id != has_epoch {
        return Ok(refused(ResponseError::InvalidRequest));
    }
    let replicas = &cx.broker.replicas;
    Ok(match replicas.producer_ids().next(&cx.broker.metadata, replicas.local()).await {
        Ok(id) => InitProducerIdResponse::default().with_producer_id(ProducerId(id.0)).with_producer_epoch(0),
        Err(error) => {
            tracing::warn!(%error, "no producer id can be given");
            refused(error_map::producer_id(&error))
        }
    })
}
