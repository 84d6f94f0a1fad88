//! Producer ids for idempotent producers: this broker takes blocks of them from the metadata and gives them out one by one.
//! An id is given once in the life of the cluster; what is left of a block at a restart is lost.

use ottla_batch::ProducerId;
use ottla_raft::requests::{AllocateProducerIds, AllocateProducerIdsError};
use ottla_raft::{BrokerId, Metadata, SubmitError};

#[derive(Debug, thiserror::Error)]
pub enum ProducerIdError {
    #[error("this broker is not registered yet")]
    NotRegistered,
    #[error(transparent)]
    Refused(#[from] AllocateProducerIdsError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// Held across the request for a block: producers that come meanwhile wait for the same one.
#[derive(Debug, Default)]
pub struct ProducerIds {
    block: tokio::sync::Mutex<std::ops::Range<i64>>,
}

impl ProducerIds {
    pub async fn next(&self, metadata: &Metadata, local: BrokerId) -> Result<ProducerId, ProducerIdError> {
        let mut block = self.block.lock().await;
        if let Some(id) = block.next() {
            return Ok(ProducerId(id));
        }
        let epoch = metadata.image().broker(local).ok_or(ProducerIdError::NotRegistered)?.epoch;
        let given = metadata.submit(AllocateProducerIds { broker: local, epoch }).await??;
        *block = given.first..given.first + i64::from(given.count);
        block.next().map(ProducerId).ok_or(ProducerIdError::Refused(AllocateProducerIdsError::Exhausted))
    }
}
