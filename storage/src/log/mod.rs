//! The log of one partition: a row of segments, of which only the last is appended to.
//!
//! A `Log` is synchronous and has one owner (a replica, behind a mutex); what may take long comes out as a value that runs
//! without that mutex: [`LogSlice`] (reads the payload), [`SyncWork`] (fsync), [`CompactionPlan`] (rewrite), and
//! [`DeletedSegments`] (unlink). Concerns are in one file each: `append`, `read`, `roll`, `recover`, `truncate`, `retain`,
//! `compact`, `sync`; the rules shared by them are here.
//!
//! Invariants
//! - `log_start_offset <= recovery_point <= synced_end_offset <= end_offset`, except that a moved log start offset may pass the recovery point.
//! - Segments are sorted, do not overlap, and there is always one (the active one).
//! - What an error leaves behind is the log as it was before, or the log is latched offline.

pub mod config;
pub mod errors;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ottla_batch::{
    AppendOrigin, CheckedBatches, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs,
};
use uuid::Uuid;

use crate::checkpoints::{Checkpoints, TopicPartition};
use crate::disk::{Disk, File};
pub use config::{CleanupPolicy, LogConfig};
pub use errors::{AppendError, ChangeError, CompactError, Offline, OpenError, ReadError};

/// What a log needs to be opened. [`crate::logdir::LogDir::open_log`] fills it from the directory's checkpoints.
pub struct OpenLog {
    pub disk: Disk,
    /// The partition's own directory, `<log dir>/<topic>-<partition>`; created when missing.
    pub dir: PathBuf,
    pub config: Arc<LogConfig>,
    pub topic_id: Option<Uuid>,
    pub partition: TopicPartition,
    /// Of the log directory: recovery point (what lies before it is trusted), log start offset, cleaner offset.
    pub checkpoints: Arc<Checkpoints>,
    pub last_shutdown: LastShutdown,
    pub now: TimestampMs,
    /// Any number; spreads `segment.jitter.ms` over the logs of a node.
    pub jitter_seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastShutdown {
    Clean,
    Unclean,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub base_offset: Offset,
    /// Inclusive; for an append of several batches the last offset of the last one.
    pub last_offset: Offset,
    /// Some only with `message.timestamp.type=LogAppendTime`.
    pub log_append_time: Option<TimestampMs>,
    pub log_start_offset: Offset,
    /// Nothing was written: the producer's retry of what the log already holds at these offsets.
    pub duplicate: bool,
}

/// Whether the first batch of a read comes whole although it is larger than the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBatch {
    Whole,
    MayBeCut,
}

/// A piece of one segment file. Holds the file open; stays readable whatever happens to the log.
#[derive(Debug, Clone)]
pub struct LogSlice {
    /// None only when `len` is 0.
    pub file: Option<Arc<File>>,
    pub position: u64,
    pub len: usize,
    /// Base offset of the first batch, which may lie before the offset asked for (a batch is never split at its front).
    pub base_offset: Offset,
    /// Base offset of the segment the slice is in.
    pub segment_base_offset: Offset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampedOffset {
    pub timestamp: TimestampMs,
    pub offset: Offset,
    pub leader_epoch: Option<LeaderEpoch>,
}

/// Answer of OffsetForLeaderEpoch: the largest epoch at most the one asked for, and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    pub leader_epoch: LeaderEpoch,
    pub end_offset: Offset,
}

/// An entry of a `.txnindex`, as a fetch response lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
}

/// One producer as DescribeProducers lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub last_sequence: Sequence,
    pub last_timestamp: TimestampMs,
    /// -1: none yet.
    pub coordinator_epoch: i32,
    pub current_txn_start_offset: Option<Offset>,
}

fn unbuilt<T>() -> T {
    panic!("ottla-storage: not landed yet")
}

/// Shape of the log, landed first so that others compile; the bodies follow.
pub struct Log {}

impl Log {
    pub fn open(_open: OpenLog) -> Result<Log, OpenError> {
        unbuilt()
    }

    /// Assigns offsets and `leader_epoch`, checks producer sequences, and appends.
    pub fn append_as_leader(
        &mut self,
        _batches: &CheckedBatches,
        _leader_epoch: LeaderEpoch,
        _origin: AppendOrigin,
        _now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        unbuilt()
    }

    /// Appends what a leader sent, as it is.
    pub fn append_as_follower(
        &mut self,
        _batches: &CheckedBatches,
        _now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        unbuilt()
    }

    /// From the batch that holds `from` on. Empty at `from == end_offset` and when nothing below `limit` is left.
    pub fn read(
        &self,
        _from: Offset,
        _limit: Offset,
        _bytes_max: usize,
        _first: FirstBatch,
    ) -> Result<LogSlice, ReadError> {
        unbuilt()
    }

    /// ListOffsets by time: the first record at or after `timestamp`, below `limit`.
    pub fn offset_for_timestamp(
        &self,
        _timestamp: TimestampMs,
        _limit: Offset,
    ) -> Result<Option<TimestampedOffset>, ReadError> {
        unbuilt()
    }

    /// ListOffsets with -3: the record with the largest timestamp below `limit` (the first of several).
    pub fn offset_of_max_timestamp(&self, _limit: Offset) -> Result<Option<TimestampedOffset>, ReadError> {
        unbuilt()
    }

    pub fn log_start_offset(&self) -> Offset {
        unbuilt()
    }

    pub fn end_offset(&self) -> Offset {
        unbuilt()
    }

    pub fn synced_end_offset(&self) -> Offset {
        unbuilt()
    }

    /// What the recovery-point checkpoint should say.
    pub fn recovery_point(&self) -> Offset {
        unbuilt()
    }

    pub fn dir(&self) -> PathBuf {
        unbuilt()
    }

    pub fn topic_id(&self) -> Option<Uuid> {
        unbuilt()
    }

    pub fn config(&self) -> &Arc<LogConfig> {
        unbuilt()
    }

    pub fn offline(&self) -> Option<Offline> {
        unbuilt()
    }

    /// Called when a leader takes over, before its first append.
    pub fn assign_epoch(
        &mut self,
        _leader_epoch: LeaderEpoch,
        _start_offset: Offset,
    ) -> Result<(), ChangeError> {
        unbuilt()
    }

    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        unbuilt()
    }

    /// None: every epoch known here is larger, or none is known.
    pub fn end_offset_for_epoch(&self, _leader_epoch: LeaderEpoch) -> Option<EpochEnd> {
        unbuilt()
    }

    /// The epoch of the record at `offset`, if known.
    pub fn epoch_for_offset(&self, _offset: Offset) -> Option<LeaderEpoch> {
        unbuilt()
    }

    /// The last stable offset is the least of the high watermark and this one. `high_watermark` also bounds which
    /// finished transactions still count as unstable.
    pub fn first_unstable_offset(&self, _high_watermark: Offset) -> Option<Offset> {
        unbuilt()
    }

    /// Aborted transactions that overlap `[from, upto)`.
    pub fn aborted_transactions(
        &self,
        _from: Offset,
        _upto: Offset,
    ) -> Result<Vec<AbortedTransaction>, ReadError> {
        unbuilt()
    }

    pub fn active_producers(&self, _now: TimestampMs) -> Vec<ActiveProducer> {
        unbuilt()
    }

    /// Forgets producers that wrote nothing for `producer.id.expiration.ms`. Called now and then.
    pub fn expire_producers(&mut self, _now: TimestampMs) {
        unbuilt()
    }

    pub fn truncate_to(&mut self, _end_offset: Offset) -> Result<(), ChangeError> {
        unbuilt()
    }

    pub fn truncate_fully_and_start_at(&mut self, _offset: Offset) -> Result<(), ChangeError> {
        unbuilt()
    }

    /// DeleteRecords, or a follower following its leader. At most the high watermark.
    pub fn increment_log_start_offset(
        &mut self,
        _offset: Offset,
        _high_watermark: Offset,
    ) -> Result<(), ChangeError> {
        unbuilt()
    }

    /// Rolls the active segment when it is older than segment.ms allows, and takes out of the log what retention by
    /// time, size and log start offset no longer covers. `run` the result after file.delete.delay.ms.
    pub fn delete_old_segments(
        &mut self,
        _now: TimestampMs,
        _high_watermark: Offset,
    ) -> Result<DeletedSegments, ChangeError> {
        unbuilt()
    }

    pub fn size_in_bytes(&self) -> u64 {
        unbuilt()
    }

    pub fn segments_count(&self) -> usize {
        unbuilt()
    }

    pub fn update_config(&mut self, _config: Arc<LogConfig>) {
        unbuilt()
    }

    /// Group commit: take this under the lock, `run` it without, then `on_synced` under the lock.
    pub fn begin_sync(&self) -> SyncWork {
        unbuilt()
    }

    pub fn on_synced(&mut self, _synced: Synced) {
        unbuilt()
    }

    /// Syncs everything and leaves a producer snapshot, so that the next open need not recover.
    pub fn close(&mut self) -> Result<(), ChangeError> {
        unbuilt()
    }

    /// Closes files and frees buffers of a log that nothing asks for lately; it stays usable.
    pub fn release_idle(&mut self) -> Result<(), ChangeError> {
        unbuilt()
    }

    /// Renames the directory to `<topic>-<partition>.<hex>-delete` and latches the log. `run` the result later.
    pub fn mark_deleted(&mut self) -> Result<DeletedLog, ChangeError> {
        unbuilt()
    }

    /// None: nothing to compact now (ratio, lags, policy). `stable_limit` is the last stable offset.
    pub fn plan_compaction(&self, _stable_limit: Offset, _now: TimestampMs) -> Option<CompactionPlan> {
        unbuilt()
    }

    /// Puts the rewritten segments in the place of the old ones.
    pub fn swap_compacted(&mut self, _compacted: Compacted) -> Result<CompactionResult, CompactError> {
        unbuilt()
    }
}

impl LogSlice {
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads the bytes, for where they cannot go by `sendfile` (TLS, the simulated disk, the broker's own reads).
    pub fn read(&self) -> std::io::Result<Bytes> {
        unbuilt()
    }
}

/// See [`Log::begin_sync`].
pub struct SyncWork {}

impl SyncWork {
    /// Everything below this offset is durable after `run`.
    pub fn end_offset(&self) -> Offset {
        unbuilt()
    }

    pub fn is_empty(&self) -> bool {
        unbuilt()
    }

    /// An error latched the log offline: nothing is acknowledged any more.
    pub fn run(&self) -> std::io::Result<Synced> {
        unbuilt()
    }
}

/// What a sync made durable; give it back to the log it came from. (A log truncated meanwhile knows to ignore it.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    pub end_offset: Offset,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionReason {
    RetentionTime,
    RetentionSize,
    LogStartOffset,
}

/// Segments that are out of the log and renamed to `.deleted`, but still on the disk for readers that hold them.
pub struct DeletedSegments {}

impl DeletedSegments {
    pub fn is_empty(&self) -> bool {
        unbuilt()
    }

    /// (base offset, bytes, why)
    pub fn segments(&self) -> &[(Offset, u64, DeletionReason)] {
        unbuilt()
    }

    /// Removes the files.
    pub fn run(self) -> std::io::Result<()> {
        unbuilt()
    }
}

/// See [`Log::mark_deleted`].
pub struct DeletedLog {}

impl DeletedLog {
    /// Removes the directory.
    pub fn run(self) -> std::io::Result<()> {
        unbuilt()
    }
}

/// What one compaction will do; see [`Log::plan_compaction`].
pub struct CompactionPlan {}

impl CompactionPlan {
    pub fn dirty_ratio(&self) -> f64 {
        unbuilt()
    }

    /// Rewrites without the lock. `go_on` is asked between chunks; false abandons.
    pub fn rewrite(self, _now: TimestampMs, _go_on: &dyn Fn() -> bool) -> Result<Compacted, CompactError> {
        unbuilt()
    }
}

pub struct Compacted {}

pub struct CompactionResult {
    /// What the cleaner-offset checkpoint should say.
    pub cleaner_offset: Offset,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// The old files; `run` them after file.delete.delay.ms.
    pub deleted: DeletedSegments,
}
