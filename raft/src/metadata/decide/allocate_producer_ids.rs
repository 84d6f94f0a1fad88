//! AllocateProducerIds (KIP-730): a block of ids that no other broker ever gets.

use super::Draft;
use super::broker_heartbeat::check_broker_epoch;
use crate::metadata::records::Record;
use crate::requests::{AllocateProducerIds, AllocateProducerIdsError, PRODUCER_ID_BLOCK, ProducerIdBlock};

pub(super) fn decide(
    request: &AllocateProducerIds,
    draft: &mut Draft<'_>,
) -> Result<ProducerIdBlock, AllocateProducerIdsError> {
    check_broker_epoch(&draft.image, request.broker, request.epoch)?;
    let first = draft.image.next_producer_id;
    let next = first.checked_add(PRODUCER_ID_BLOCK.into()).ok_or(AllocateProducerIdsError::Exhausted)?;
    draft.push(Record::ProducerIdsAllocated { broker: request.broker, epoch: request.epoch, next });
    Ok(ProducerIdBlock { first, count: PRODUCER_ID_BLOCK })
}
