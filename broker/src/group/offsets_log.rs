//! The door from the coordinator to the partitions of `__consumer_offsets`: replicas in a broker, memory in tests.

use bytes::Bytes;
use futures::future::BoxFuture;
use ottla_batch::{LeaderEpoch, Offset};

/// One implementation is the broker's replicas, the other a log in memory for tests and the simulator.
pub trait OffsetsLog: Send + Sync + 'static {
    /// Appends one record batch as the leader of `leader_epoch`, like a produce with acks=all: ready when the batch is
    /// durable on every in-sync replica. Calls for one partition are made one after the other.
    fn append(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
    ) -> BoxFuture<'static, Result<(), AppendError>>;

    /// Whole batches of the log from `from` on, at most `bytes_max` (but at least one), up to its end.
    fn read(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        from: Offset,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<ReadBatches, ReadError>>;

    /// Ready when everything below `end` is committed, i.e. held by the whole in-sync set.
    fn committed(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
        end: Offset,
    ) -> BoxFuture<'static, Result<(), ReadError>>;

    /// Ready when it is certain that no other broker had begun to lead the partition when this was called.
    fn confirm_leader(
        &self,
        partition: i32,
        leader_epoch: LeaderEpoch,
    ) -> BoxFuture<'static, Result<(), ReadError>>;

    /// The largest batch that the topic takes (`max.message.bytes`).
    fn batch_bytes_max(&self) -> usize;
}

/// What [`OffsetsLog::read`] found.
#[derive(Clone, Debug)]
pub struct ReadBatches {
    /// Empty at the end of the log.
    pub batches: Bytes,
    /// The log's start: where to read from when `from` lies before it.
    pub log_start_offset: Offset,
    /// Exclusive: one past the last record now in the log.
    pub end_offset: Offset,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    #[error("this broker no longer leads the partition in that epoch")]
    NotLeader,
    #[error("too few replicas are in sync")]
    NotEnoughReplicas,
    #[error("the batch is larger than the topic takes")]
    TooLarge,
    #[error("{0}")]
    Failed(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this broker no longer leads the partition in that epoch")]
    NotLeader,
    #[error("{0}")]
    Failed(String),
}
