//! The log of one partition: a row of segments, of which only the last is appended to.
//!
//! A `Log` is synchronous and has one owner (a replica, behind a mutex); what may take long comes out as a value that runs
//! without that mutex: [`LogSlice`] (reads the payload), [`SyncWork`] (fsync), [`CompactionPlan`] (rewrite),
//! [`DeletedSegments`] and [`DeletedLog`] (unlink), [`SealedSegment`] (makes an object of it). Concerns are in one file each: `append`, `roll`, `read`, `recover`,
//! `truncate`, `bootstrap`, `retain`, `compact`, `sync`, `sealed`.
//!
//! Invariants
//! - `recovery_point <= synced_end_offset <= end_offset`, and `log_start_offset <= local_start_offset <= end_offset`. The first two
//!   differ only where the topic is tiered: what lies between them is in the tier alone. Leader epochs begin at the log start.
//! - Below the recovery point log files and indexes are on stable storage, so nothing below it is checked after a crash.
//! - Segments are sorted and do not overlap; there is always one, and only the last (active) one grows.
//! - After an error the log is as it was before, or it is latched offline: then nothing works any more but dropping it.

mod append;
mod bootstrap;
mod compact;
pub mod config;
pub mod errors;
mod future;
mod leader_epochs;
pub(crate) mod offset_index;
pub(crate) mod producer_state;
mod read;
mod recover;
mod retain;
mod roll;
mod sealed;
mod segment;
mod sync;
pub(crate) mod time_index;
pub(crate) mod transaction_index;
mod truncate;

#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use ottla_batch::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};
use uuid::Uuid;

use crate::checkpoints::{Checkpoints, LiveOffsets, TopicPartition};
use crate::disk::Disk;
use leader_epochs::{EpochFile, LeaderEpochs};
use producer_state::ProducerState;
use segment::Segment;

pub use bootstrap::{BehindTier, BootstrapError};
pub use compact::{Compacted, CompactionPlan, CompactionResult};
pub use config::{CleanupPolicy, LogConfig};
pub use errors::{AppendError, ChangeError, CompactError, Offline, OpenError, ReadError};
pub use read::{FirstBatch, LogSlice};
pub use retain::{DeletedLog, DeletedSegments, DeletionReason};
pub use sealed::{PastTier, SealedError, SealedSegment};
pub use sync::{SyncWork, Synced};

/// What a log needs to be opened. [`crate::logdir::LogDir::open_log`] fills it in.
pub struct OpenLog {
    pub disk: Disk,
    /// The partition's own directory, `<log dir>/<topic>-<partition>`; created when missing.
    pub dir: PathBuf,
    pub partition: TopicPartition,
    /// Of the log directory: recovery point, log start offset, cleaner offset.
    pub checkpoints: Arc<Checkpoints>,
    pub config: Arc<LogConfig>,
    pub topic_id: Option<Uuid>,
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

/// An aborted transaction, as a fetch response lists it.
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

/// Set once, when it is not safe to go on; shared with the work that runs outside of the lock.
#[derive(Debug)]
struct Latch {
    dir: String,
    reason: OnceLock<String>,
}

impl Latch {
    fn set(&self, reason: String) -> Offline {
        tracing::error!(dir = %self.dir, %reason, "log is offline");
        // The first reason stays: it is the cause.
        let _ = self.reason.set(reason);
        self.offline().unwrap_or_else(|| Offline { dir: self.dir.clone(), reason: String::new() })
    }

    fn offline(&self) -> Option<Offline> {
        self.reason.get().map(|reason| Offline { dir: self.dir.clone(), reason: reason.clone() })
    }

    fn check(&self) -> Result<(), Offline> {
        match self.offline() {
            None => Ok(()),
            Some(offline) => Err(offline),
        }
    }
}

pub struct Log {
    disk: Disk,
    dir: PathBuf,
    partition: TopicPartition,
    topic_id: Option<Uuid>,
    config: Arc<LogConfig>,
    roll_jitter_ms: i64,
    jitter_seed: u64,
    checkpoints: Arc<Checkpoints>,
    live: Arc<LiveOffsets>,
    latch: Arc<Latch>,
    /// By base offset; never empty, the last is the active one.
    segments: Vec<Segment>,
    log_start_offset: Offset,
    /// Exclusive: the next offset.
    end_offset: Offset,
    synced_end_offset: Offset,
    epochs: LeaderEpochs,
    epoch_file: Arc<EpochFile>,
    producers: ProducerState,
    /// Offsets of the `.snapshot` files, sorted.
    snapshots: Vec<Offset>,
    /// Those of them that no sync covers yet.
    unsynced_snapshots: Vec<Offset>,
    /// Grows when a file appears in the directory or is renamed, and how much of that is durable.
    names_version: u64,
    names_synced: u64,
    /// Grows with every truncation: what was begun before says nothing about what is there now.
    generation: u64,
    /// The least of the ends that the log was truncated to since a sync was last begun and ended without one.
    truncated_to: Offset,
    /// Position of the recovery point in the active segment; 0 when it lies before it.
    recovery_position: u64,
    /// Compacted up to here.
    cleaner_offset: Option<Offset>,
}

impl Log {
    pub fn log_start_offset(&self) -> Offset {
        self.log_start_offset
    }

    /// The first offset that a reader gets from this log itself; what lies below is in the tier.
    pub fn local_start_offset(&self) -> Offset {
        self.segments[0].base_offset.max(self.log_start_offset)
    }

    /// Exclusive: the offset of the next record.
    pub fn end_offset(&self) -> Offset {
        self.end_offset
    }

    /// Everything below is on stable storage.
    pub fn synced_end_offset(&self) -> Offset {
        self.synced_end_offset
    }

    pub fn recovery_point(&self) -> Offset {
        self.live.recovery_point()
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.clone()
    }

    pub fn topic_id(&self) -> Option<Uuid> {
        self.topic_id
    }

    pub fn config(&self) -> &Arc<LogConfig> {
        &self.config
    }

    pub fn offline(&self) -> Option<Offline> {
        self.latch.offline()
    }

    pub fn size_in_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// Where the segment begins that is appended to.
    pub fn active_base_offset(&self) -> Offset {
        self.active().base_offset
    }

    pub fn segments_count(&self) -> usize {
        self.segments.len()
    }

    pub fn update_config(&mut self, config: Arc<LogConfig>) {
        self.roll_jitter_ms = roll_jitter_ms(&config, self.jitter_seed);
        self.config = config;
    }

    /// Called when a leader takes over, before its first append.
    pub fn assign_epoch(
        &mut self,
        leader_epoch: LeaderEpoch,
        start_offset: Offset,
    ) -> Result<(), ChangeError> {
        self.latch.check()?;
        self.epochs.assign(leader_epoch, start_offset);
        Ok(())
    }

    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.epochs.latest()
    }

    /// None: the epoch asked for is larger than every one known here.
    pub fn end_offset_for_epoch(&self, leader_epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.epochs.end_offset_for(leader_epoch, self.end_offset)
    }

    /// The epoch of the record at `offset`, if known.
    pub fn epoch_for_offset(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.epochs.epoch_for(offset)
    }

    /// The last stable offset is the least of the high watermark and this one: the first offset of a transaction that
    /// is open, or whose end is not below the high watermark yet.
    pub fn first_unstable_offset(&self, high_watermark: Offset) -> Option<Offset> {
        let first = self.producers.first_unstable_offset(high_watermark)?;
        Some(first.max(self.log_start_offset))
    }

    pub fn active_producers(&self, now: TimestampMs) -> Vec<ActiveProducer> {
        self.producers.active(now, self.config.producer_id_expiration_ms)
    }

    /// Forgets producers that wrote nothing for `producer.id.expiration.ms`. Called now and then.
    pub fn expire_producers(&mut self, now: TimestampMs) {
        self.producers.expire(now, self.config.producer_id_expiration_ms);
    }

    fn active(&self) -> &Segment {
        // Never empty: open makes one, and whatever removes the last one puts another in its place first.
        &self.segments[self.segments.len() - 1]
    }

    fn active_mut(&mut self) -> &mut Segment {
        let last = self.segments.len() - 1;
        &mut self.segments[last]
    }

    /// Index of the segment that holds `offset` if any does: the last whose base offset is at most `offset`, else the first.
    fn segment_index(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base_offset <= offset).saturating_sub(1)
    }

    fn change_error(&self, source: std::io::Error) -> ChangeError {
        ChangeError::Io { path: self.dir.clone(), source }
    }

    /// It is not known any more what the disk holds: only recovery at the next start can tell.
    fn take_offline(&self, what: &str, error: &dyn std::fmt::Display) -> Offline {
        self.latch.set(format!("{what}: {error}"))
    }
}

/// `segment.jitter.ms` keeps the logs of a node from rolling all at once: each takes off its own fixed part.
fn roll_jitter_ms(config: &LogConfig, seed: u64) -> i64 {
    let bound = config.segment_jitter_ms.clamp(0, config.segment_ms.max(0));
    if bound == 0 { 0 } else { (seed % bound as u64) as i64 }
}
