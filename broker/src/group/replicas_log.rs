//! The log of the coordinator in a broker: this broker's replicas of `__consumer_offsets`.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use ottla_batch::{AppendOrigin, AppendPolicy, BatchError, BatchHeader, LeaderEpoch, Offset, check_produced};

use super::{AppendError, OFFSETS_TOPIC, OffsetsLog, ReadBatches, ReadError};
use crate::clock;
use crate::replica::waiters::FetchWait;
use crate::replica::{self, AppendRequest, LeaderError, NotCommitted, Replica, ReplicaManager, RequiredAcks};
use crate::threads;

/// As long as no replica says otherwise: Kafka's default of `max.message.bytes`.
const BATCH_BYTES_MAX_DEFAULT: usize = 1_048_588;

pub struct ReplicasLog {
    replicas: Arc<ReplicaManager>,
}

impl ReplicasLog {
    pub fn new(replicas: Arc<ReplicaManager>) -> Arc<ReplicasLog> {
        Arc::new(ReplicasLog { replicas })
    }

    fn replica(&self, partition: i32) -> Option<Arc<Replica>> {
        self.replicas.get(OFFSETS_TOPIC, partition)
    }
}

impl OffsetsLog for ReplicasLog {
    fn append(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
    ) -> BoxFuture<'static, Result<(), AppendError>> {
        let Some(replica) = self.replica(partition) else {
            return futures::future::ready(Err(AppendError::NotLeader)).boxed();
        };
        async move {
            let committed = append(&replica, leader_epoch, batch)?;
            match committed.await {
                Ok(()) => Ok(()),
                Err(NotCommitted::Leader(_)) => Err(AppendError::NotLeader),
                // It is committed, if on fewer replicas than a producer may ask for, and the next coordinator will read it: to
                // take it for lost would have this one disagree with its log.
                Err(NotCommitted::NotEnoughReplicas { .. }) => Ok(()),
            }
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
        let Some(replica) = self.replica(partition) else {
            return futures::future::ready(Err(ReadError::NotLeader)).boxed();
        };
        async move {
            let read = threads::blocking(move || read(&replica, leader_epoch, from, bytes_max)).await;
            read.unwrap_or_else(|error| Err(ReadError::Failed(error.to_string())))
        }
        .boxed()
    }

    fn committed(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        end: Offset,
    ) -> BoxFuture<'static, Result<(), ReadError>> {
        let Some(replica) = self.replica(partition) else {
            return futures::future::ready(Err(ReadError::NotLeader)).boxed();
        };
        async move {
            let wait = FetchWait::new();
            loop {
                // ORDER: registered before looking, or a movement between the look and the wait is missed.
                replica.waiters().register_fetch(&wait, 0);
                // ORDER: the high watermark before the role: another leader's says nothing about what was read here.
                let high_watermark = replica.high_watermark();
                let left = replica.check_leader(leader_epoch).map_err(|_| ReadError::NotLeader);
                if left.is_err() || high_watermark >= end {
                    replica.waiters().deregister_fetch(&wait);
                    return left.map(|_| ());
                }
                wait.news().await;
            }
        }
        .boxed()
    }

    fn confirm_leader(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
    ) -> BoxFuture<'static, Result<(), ReadError>> {
        let Some(replica) = self.replica(partition) else {
            return futures::future::ready(Err(ReadError::NotLeader)).boxed();
        };
        let replicas = Arc::clone(&self.replicas);
        async move {
            let confirmed = replicas.confirm_leader(&replica, leader_epoch).await;
            confirmed.map_err(|_| ReadError::NotLeader)
        }
        .boxed()
    }

    fn batch_bytes_max(&self) -> usize {
        self.replica(0).map_or(BATCH_BYTES_MAX_DEFAULT, |replica| replica.settings().batch_bytes_max)
    }
}

fn append(
    replica: &Arc<Replica>,
    leader_epoch: LeaderEpoch,
    batch: Bytes,
) -> Result<replica::Committed, AppendError> {
    let policy =
        AppendPolicy { origin: AppendOrigin::Coordinator, ..replica.settings().append_policy(clock::now()) };
    let batches = check_produced(batch, &policy).map_err(|error| match error {
        BatchError::BatchTooLarge { .. } => AppendError::TooLarge,
        other => AppendError::Failed(other.to_string()),
    })?;
    let request = AppendRequest {
        batches: &batches,
        origin: AppendOrigin::Coordinator,
        acks: RequiredAcks::All,
        leader_epoch,
    };
    match replica.append(&request) {
        Ok((_, committed)) => Ok(committed),
        Err(replica::AppendError::Leader(error)) => Err(leader_error(error)),
        Err(replica::AppendError::NotEnoughReplicas { .. }) => Err(AppendError::NotEnoughReplicas),
        Err(replica::AppendError::Log(ottla_storage::log::AppendError::LargerThanSegment { .. })) => {
            Err(AppendError::TooLarge)
        }
        // The disk failed: others will lead, and what of the batch is in the log is not known here.
        Err(replica::AppendError::Log(_)) if replica.is_offline() => Err(AppendError::NotLeader),
        Err(replica::AppendError::Log(error)) => Err(AppendError::Failed(error.to_string())),
    }
}

fn leader_error(error: LeaderError) -> AppendError {
    match error {
        LeaderError::NotLeader
        | LeaderError::FencedEpoch { .. }
        | LeaderError::UnknownEpoch { .. }
        | LeaderError::Offline
        | LeaderError::Deleted => AppendError::NotLeader,
    }
}

fn read(
    replica: &Arc<Replica>,
    leader_epoch: LeaderEpoch,
    from: Offset,
    bytes_max: usize,
) -> Result<ReadBatches, ReadError> {
    replica.check_leader(leader_epoch).map_err(|_| ReadError::NotLeader)?;
    let failed = |error: &dyn std::error::Error| ReadError::Failed(error.to_string());
    let (log_start_offset, end_offset) = (replica.log_start_offset(), replica.end_offset());
    let nothing = ReadBatches { batches: Bytes::new(), log_start_offset, end_offset };
    if from < log_start_offset || from >= end_offset {
        return Ok(nothing);
    }
    let slice = replica.read_local(from, bytes_max).map_err(|error| failed(&error))?;
    if slice.len == 0 {
        return Ok(nothing);
    }
    let bytes = slice.read().map_err(|error| failed(&error))?;
    Ok(ReadBatches { batches: whole_batches(bytes), ..nothing })
}

/// Cuts off a batch that the size limit of the read has split.
fn whole_batches(bytes: Bytes) -> Bytes {
    let mut end = 0;
    while let Ok(header) = BatchHeader::parse(&bytes[end..]) {
        let size = header.size_in_bytes();
        if bytes.len() - end < size {
            break;
        }
        end += size;
    }
    bytes.slice(..end)
}
