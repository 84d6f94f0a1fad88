//! The group coordinator's door to `__consumer_offsets`, opened onto this broker's replicas.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use ottla_batch::{AppendOrigin, LeaderEpoch, Offset};

use crate::group::{AppendError, OFFSETS_TOPIC, OffsetsLog, ReadBatches, ReadError};
use crate::replica::{self, AppendRequest, LeaderError, Replica, ReplicaManager, RequiredAcks};

pub struct ReplicatedOffsetsLog {
    replicas: Arc<ReplicaManager>,
}

impl ReplicatedOffsetsLog {
    pub fn new(replicas: Arc<ReplicaManager>) -> ReplicatedOffsetsLog {
        ReplicatedOffsetsLog { replicas }
    }

    fn start_append(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
    ) -> Result<replica::Committed, AppendError> {
        let replica = self.replicas.get(OFFSETS_TOPIC, partition).ok_or(AppendError::NotLeader)?;
        if batch.len() > replica.settings().batch_bytes_max {
            return Err(AppendError::TooLarge);
        }
        let batches =
            ottla_batch::check_replicated(batch).map_err(|error| AppendError::Failed(error.to_string()))?;
        let request = AppendRequest {
            batches: &batches,
            origin: AppendOrigin::Coordinator,
            acks: RequiredAcks::All,
            leader_epoch,
        };
        match replica.append(&request) {
            Ok((_, committed)) => Ok(committed),
            Err(replica::AppendError::Leader(error)) => Err(not_leading(error)),
            Err(replica::AppendError::NotEnoughReplicas { .. }) => Err(AppendError::NotEnoughReplicas),
            Err(replica::AppendError::Log(error)) => Err(AppendError::Failed(error.to_string())),
        }
    }
}

/// Whatever the reason, the group must look for its coordinator again.
fn not_leading(error: LeaderError) -> AppendError {
    match error {
        LeaderError::Offline => AppendError::Failed(error.to_string()),
        _ => AppendError::NotLeader,
    }
}

impl OffsetsLog for ReplicatedOffsetsLog {
    fn append(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
    ) -> BoxFuture<'static, Result<(), AppendError>> {
        // The append itself happens here and now, so that calls keep their order.
        let started = self.start_append(partition, leader_epoch, batch);
        async move {
            started?.await.map_err(|error| match error {
                replica::NotCommitted::Leader(error) => not_leading(error),
            })
        }
        .boxed()
    }

    fn read(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        from: Offset,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<ReadBatches, ReadError>> {
        let replica = self.replicas.get(OFFSETS_TOPIC, partition);
        async move {
            let replica = replica.ok_or(ReadError::NotLeader)?;
            if replica.leader_epoch() != Some(leader_epoch) {
                return Err(ReadError::NotLeader);
            }
            let read = tokio::task::spawn_blocking(move || read_batches(&replica, from, bytes_max));
            read.await.map_err(|error| ReadError::Failed(error.to_string()))?
        }
        .boxed()
    }

    fn batch_bytes_max(&self) -> usize {
        let replicas = self.replicas.topic(OFFSETS_TOPIC);
        let settings = replicas.and_then(|topic| topic.replicas().next().map(|replica| replica.settings()));
        settings.map_or(BATCH_BYTES_DEFAULT, |settings| settings.batch_bytes_max)
    }
}

/// Kafka's default of `max.message.bytes`, for a topic that isn't here yet.
const BATCH_BYTES_DEFAULT: usize = 1_048_588;

fn read_batches(replica: &Replica, from: Offset, bytes_max: usize) -> Result<ReadBatches, ReadError> {
    let failed = |error: &dyn std::fmt::Display| ReadError::Failed(error.to_string());
    let log_start_offset = replica.log_start_offset();
    let from = from.max(log_start_offset);
    let end_offset = replica.end_offset();
    let batches = if from >= end_offset {
        Bytes::new()
    } else {
        let slice = replica.read_local(from, bytes_max).map_err(|error| failed(&error))?;
        slice.read().map_err(|error| failed(&error))?
    };
    Ok(ReadBatches { batches, log_start_offset, end_offset })
}
