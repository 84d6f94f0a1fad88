//! What can go wrong with a log, one enum per operation. The broker's error map turns them into Kafka codes.

use std::io;
use std::path::PathBuf;

use ottla_batch::{BatchError, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

/// The log took no more part in anything since this happened; only a restart (with recovery) brings it back.
#[derive(Debug, Clone, thiserror::Error)]
#[error("log {dir} is offline: {reason}")]
pub struct Offline {
    pub dir: String,
    pub reason: String,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    /// Something that recovery may not repair by itself, because the data lies below what was synced.
    #[error("{path} at position {position}: {what}")]
    Corrupt { path: PathBuf, position: u64, what: String },
    #[error("{path} holds topic id {found}, expected {expected}")]
    TopicIdMismatch { path: PathBuf, found: uuid::Uuid, expected: uuid::Uuid },
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Nothing was appended; the log stays usable and the next append is tried again.
    #[error("no space left on the disk of {path}")]
    DiskFull { path: PathBuf },
    /// Nothing was appended and the log is as it was before.
    #[error("append to {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Offline(#[from] Offline),
    #[error("a record set of {bytes} bytes is larger than segment.bytes {segment_bytes}")]
    LargerThanSegment { bytes: usize, segment_bytes: u32 },
    #[error("producer {producer_id} at offset {end_offset}: sequence {found}, expected {expected}")]
    OutOfOrderSequence { producer_id: ProducerId, end_offset: Offset, found: Sequence, expected: Sequence },
    #[error("producer {producer_id}: epoch {found} is older than {current}")]
    InvalidProducerEpoch { producer_id: ProducerId, found: ProducerEpoch, current: ProducerEpoch },
    /// The batch is no longer among the last five of its producer.
    #[error("producer {producer_id}: sequence {found} is below what is still remembered")]
    DuplicateSequence { producer_id: ProducerId, found: Sequence },
    #[error("producer {producer_id}: a non-transactional batch inside an open transaction")]
    InvalidTxnState { producer_id: ProducerId },
    #[error("producer {producer_id}: marker of coordinator epoch {found}, current is {current}")]
    TransactionCoordinatorFenced { producer_id: ProducerId, found: i32, current: i32 },
    /// Follower appends only: the batch does not continue the log.
    #[error("batch at offset {found} does not continue the log, which ends at {end_offset}")]
    UnexpectedOffset { found: Offset, end_offset: Offset },
    /// Epochs never go back along a log.
    #[error("batch at offset {offset} has leader epoch {found}, the log is at {latest}")]
    LeaderEpochWentBack { offset: Offset, found: LeaderEpoch, latest: LeaderEpoch },
    #[error("the offsets of the log are used up")]
    OffsetsUsedUp,
    #[error(transparent)]
    Batch(#[from] BatchError),
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("offset {requested} is outside of {log_start_offset} to {end_offset}")]
    OffsetOutOfRange { requested: Offset, log_start_offset: Offset, end_offset: Offset },
    #[error("offset {requested} is only in the tier, the local log begins at {local_start_offset}")]
    OnlyInTier { requested: Offset, local_start_offset: Offset },
    #[error("read of {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} at position {position}: {what}")]
    Corrupt { path: PathBuf, position: u64, what: String },
    #[error(transparent)]
    Offline(#[from] Offline),
}

/// Truncation, deletion of segments, moves of the log start offset, epoch assignment, close.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("offset {requested} is outside of {log_start_offset} to {limit}")]
    OffsetOutOfRange { requested: Offset, log_start_offset: Offset, limit: Offset },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Offline(#[from] Offline),
}

#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} at position {position}: {what}")]
    Corrupt { path: PathBuf, position: u64, what: String },
    /// The caller asked to stop, or the log was truncated or deleted meanwhile. Nothing changed.
    #[error("compaction was abandoned: {0}")]
    Abandoned(&'static str),
    #[error(transparent)]
    Offline(#[from] Offline),
}
