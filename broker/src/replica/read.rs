//! Reading as the leader: fence, bound by what the reader may see, and name the bytes without copying them.

use std::sync::Arc;
use std::time::Duration;

use ottla_batch::{LeaderEpoch, Offset, TimestampMs, planted};
use ottla_storage::log::{
    AbortedTransaction, ActiveProducer, EpochEnd, FirstBatch, LogSlice, TimestampedOffset,
};
use tokio::time::Instant;

use super::in_sync::{FollowerFetch, NotAFollower};
use super::partition::{LeaderError, Replica, State};
use crate::clock;

/// `isolation_level` of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
}

/// How far a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBound {
    HighWatermark,
    LastStable,
    /// Followers, and this broker's own coordinators.
    LogEnd,
}

impl From<Isolation> for ReadBound {
    fn from(isolation: Isolation) -> ReadBound {
        match isolation {
            Isolation::ReadUncommitted => ReadBound::HighWatermark,
            Isolation::ReadCommitted => ReadBound::LastStable,
        }
    }
}

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Leader(#[from] LeaderError),
    #[error(transparent)]
    Follower(#[from] NotAFollower),
    #[error(transparent)]
    Log(#[from] ottla_storage::log::ReadError),
}

/// What a fetch asks of one partition.
#[derive(Debug, Clone, Copy)]
pub struct ReadRequest {
    pub from: Offset,
    pub bound: ReadBound,
    pub bytes_max: usize,
    pub first_batch: FirstBatch,
    /// The epoch the reader believes in, -1 for none.
    pub leader_epoch: LeaderEpoch,
    /// The epoch of the reader's last record, -1 for none: a reader whose log diverged is told where (KIP-595).
    pub last_fetched_epoch: LeaderEpoch,
    /// Whether a follower's copy will do (KIP-392).
    pub served: Served,
}

/// Who may serve a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    ByLeader,
    ByAnyReplica,
}

/// What a fetch is told of one partition.
#[derive(Debug)]
pub struct Read {
    /// None when there is nothing below the bound.
    pub slice: Option<LogSlice>,
    pub high_watermark: Offset,
    pub last_stable_offset: Offset,
    pub log_start_offset: Offset,
    /// Some when the reader's last epoch ends before its offset.
    pub diverging: Option<EpochEnd>,
    /// Aborted transactions in the slice; empty unless the reader reads committed records.
    pub aborted: Vec<AbortedTransaction>,
    /// What comes next for this reader is in the tier alone.
    pub is_in_tier: bool,
}

impl Replica {
    /// The exclusive end of what a reader may see now.
    pub fn bound(&self, bound: ReadBound) -> Offset {
        match bound {
            ReadBound::HighWatermark => self.high_watermark(),
            ReadBound::LastStable => self.last_stable_offset(),
            ReadBound::LogEnd => self.end_offset(),
        }
    }

    /// Bytes for this broker's own coordinators, up to the end of the log and whoever leads: nothing is fenced.
    pub fn read_local(
        &self,
        from: Offset,
        bytes_max: usize,
    ) -> Result<LogSlice, ottla_storage::log::ReadError> {
        let state = self.state.lock();
        state.log.read(from, state.log.end_offset(), bytes_max, FirstBatch::Whole)
    }

    /// Answers a fetch of a consumer, or of whoever else only reads.
    pub fn read(&self, request: &ReadRequest) -> Result<Read, ReadError> {
        match request.served {
            Served::ByLeader => self.check_leader(request.leader_epoch)?,
            Served::ByAnyReplica => self.check_leader_or_follower(request.leader_epoch)?,
        };
        // The poll of a consumer that has everything needs no lock: most partitions of most fetches.
        let log_start_offset = self.log_start_offset();
        let caught_up = request.from == self.bound(request.bound) && request.from >= log_start_offset;
        if caught_up && request.last_fetched_epoch == LeaderEpoch::NONE {
            return Ok(Read {
                slice: None,
                high_watermark: self.high_watermark(),
                last_stable_offset: self.last_stable_offset(),
                log_start_offset,
                diverging: None,
                aborted: Vec::new(),
                is_in_tier: false,
            });
        }
        self.touch(clock::now());
        let read = match self.read_locked(&self.state.lock(), request) {
            Err(ReadError::Log(ottla_storage::log::ReadError::OnlyInTier { .. })) => Ok(Read {
                slice: None,
                high_watermark: self.high_watermark(),
                last_stable_offset: self.last_stable_offset(),
                log_start_offset: self.log_start_offset(),
                diverging: None,
                aborted: Vec::new(),
                is_in_tier: true,
            }),
            read => read,
        };
        read.inspect_err(|error| self.check_offline(error))
    }

    /// Answers a fetch of a follower up to the end of the log. `fetch` is what it says about itself, which counts from now
    /// on; `None` when it was counted before.
    pub fn read_for_follower(
        self: &Arc<Replica>,
        request: &ReadRequest,
        fetch: Option<&FollowerFetch>,
        lag_max: Duration,
    ) -> Result<Read, ReadError> {
        self.read_and_count(request, fetch, lag_max).inspect_err(|error| self.check_offline(error))
    }

    fn read_and_count(
        self: &Arc<Replica>,
        request: &ReadRequest,
        fetch: Option<&FollowerFetch>,
        lag_max: Duration,
    ) -> Result<Read, ReadError> {
        let mut state = self.state.lock();
        self.check_leader(request.leader_epoch)?;
        if let (Some(fetch), Some(leader)) = (fetch, &state.leader) {
            leader.in_sync.check_follower(fetch.broker, fetch.broker_epoch)?;
        }
        let mut read = self.read_locked(&state, request)?;
        // ORDER: counted only after the read found that its offset lies in this log and its last epoch ends here too. What a
        // follower holds of another history is worth nothing (KIP-101).
        if let (Some(fetch), Some(leader), None) = (fetch, state.leader.as_mut(), &read.diverging) {
            let actions = leader.in_sync.on_follower_fetch(fetch, Instant::now(), lag_max);
            self.act(state, actions);
            read.high_watermark = self.high_watermark();
        }
        if read.slice.is_some() {
            self.touch(clock::now());
        }
        Ok(read)
    }

    fn read_locked(&self, state: &State, request: &ReadRequest) -> Result<Read, ReadError> {
        // Under the lock the bounds belong together.
        let mut read = Read {
            slice: None,
            high_watermark: self.high_watermark(),
            last_stable_offset: self.last_stable_offset(),
            log_start_offset: state.log.log_start_offset(),
            diverging: None,
            aborted: Vec::new(),
            is_in_tier: false,
        };
        let end = state.log.end_offset();
        if request.last_fetched_epoch != LeaderEpoch::NONE && !planted!("truncates-to-the-high-watermark") {
            let known = state.log.end_offset_for_epoch(request.last_fetched_epoch);
            // An epoch nobody knows, or a reader below the log start, must begin anew; there is no epoch to go back to.
            let known = known.filter(|_| request.from >= read.log_start_offset);
            let known = known.ok_or(ottla_storage::log::ReadError::OffsetOutOfRange {
                requested: request.from,
                log_start_offset: read.log_start_offset,
                end_offset: end,
            })?;
            let is_older =
                known.leader_epoch < request.last_fetched_epoch && !planted!("epoch-of-the-answer-ignored");
            if is_older || known.end_offset < request.from {
                read.diverging = Some(known);
                return Ok(read);
            }
        }
        let limit = match request.bound {
            ReadBound::HighWatermark if planted!("reads-past-the-high-watermark") => end,
            ReadBound::HighWatermark => read.high_watermark,
            ReadBound::LastStable => read.last_stable_offset,
            ReadBound::LogEnd => end,
        };
        // The log judges the range, also of an offset between the bound and the end, which is in range but not readable.
        let slice = state.log.read(request.from, limit, request.bytes_max, request.first_batch)?;
        if request.bound == ReadBound::LastStable && !slice.is_empty() {
            // The slice's last offset isn't known without reading it: what lies up to the bound covers it.
            read.aborted = state.log.aborted_transactions(request.from, limit)?;
        }
        if !slice.is_empty() {
            read.slice = Some(slice);
        }
        Ok(read)
    }

    /// ListOffsets by time, below what `bound` lets the reader see.
    pub fn offset_for_timestamp(
        &self,
        timestamp: TimestampMs,
        bound: ReadBound,
    ) -> Result<Option<TimestampedOffset>, ottla_storage::log::ReadError> {
        let limit = self.bound(bound);
        let found = self.state.lock().log.offset_for_timestamp(timestamp, limit);
        found.inspect_err(|error| self.check_offline(error))
    }

    pub fn offset_of_max_timestamp(
        &self,
        bound: ReadBound,
    ) -> Result<Option<TimestampedOffset>, ottla_storage::log::ReadError> {
        let limit = self.bound(bound);
        let found = self.state.lock().log.offset_of_max_timestamp(limit);
        found.inspect_err(|error| self.check_offline(error))
    }

    /// Of the local log; see [`ottla_storage::log::Log::aborted_transactions`].
    pub fn aborted_transactions(
        &self,
        from: Offset,
        upto: Offset,
    ) -> Result<Vec<AbortedTransaction>, ottla_storage::log::ReadError> {
        let found = self.state.lock().log.aborted_transactions(from, upto);
        found.inspect_err(|error| self.check_offline(error))
    }

    /// What lies before is in the tier alone.
    pub fn local_start_offset(&self) -> Offset {
        self.state.lock().log.local_start_offset()
    }

    pub fn epoch_for_offset(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.state.lock().log.epoch_for_offset(offset)
    }

    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.state.lock().log.latest_epoch()
    }

    /// Where `epoch`, or the largest one before it, ends in this leader's log.
    pub fn end_offset_for_epoch(&self, epoch: LeaderEpoch) -> Option<EpochEnd> {
        self.state.lock().log.end_offset_for_epoch(epoch)
    }

    pub fn active_producers(&self) -> Vec<ActiveProducer> {
        self.state.lock().log.active_producers(clock::now())
    }

    pub fn size_in_bytes(&self) -> u64 {
        self.state.lock().log.size_in_bytes()
    }
}
