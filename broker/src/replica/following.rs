//! One replica as a follower: what its leader sent is checked against its role and its log, appended, and synced before it
//! counts; a log that parted from the leader's is cut back to where they agree.
//!
//! Who calls: the fetcher of the leader, one at a time for a replica. Each call names the leader epoch in which the fetcher
//! works: an answer that comes after the role changed touches nothing.

use std::sync::Arc;

use ottla_batch::{BatchError, CheckedBatches, LeaderEpoch, Offset, check_replicated, planted};
use ottla_storage::log::{BehindTier, ChangeError, EpochEnd};

use super::in_sync::{Actions, Durability};
use super::partition::{Replica, State};
use super::waiters::AckWait;
use crate::clock;

/// Why what a leader sent could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("the replica does not follow in epoch {0} any more")]
    RoleChanged(LeaderEpoch),
    #[error("the leader sent what is no batch: {0}")]
    Batch(#[from] BatchError),
    #[error(transparent)]
    Append(#[from] ottla_storage::log::AppendError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The leader's history is older than what lies here, although its epoch is newer: its metadata or its disk went back in
    /// time. Cutting this log could destroy the only copy.
    #[error(
        "the leader does not know epoch {ours}, in which this log ends at {end}; nothing is cut, the partition is not followed"
    )]
    LeaderIsOlder { ours: LeaderEpoch, end: Offset },
}

/// Where a follower stands: what its next fetch says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerPosition {
    /// Everything below is held, on stable storage under [`Durability::Fsync`].
    pub end: Offset,
    /// Epoch of the log's last record; -1 for none.
    pub last_epoch: LeaderEpoch,
    pub log_start: Offset,
    /// See [`ottla_storage::log::Log::lacks_its_past`].
    pub lacks_its_past: bool,
}

/// What a fetch brought for one partition.
#[derive(Debug)]
pub struct Fetched {
    /// As they came; nothing is believed yet.
    pub records: bytes::Bytes,
    pub high_watermark: Offset,
    pub log_start: Offset,
}

impl Replica {
    /// None while a part of the log is not synced that has to be: see [`Replica::sync_for_fetch`].
    pub(super) fn follower_position(
        &self,
        epoch: LeaderEpoch,
    ) -> Result<Option<FollowerPosition>, FollowError> {
        let state = self.state.lock();
        check_follows(&state, epoch)?;
        if self.is_unsynced(&state) {
            return Ok(None);
        }
        Ok(Some(FollowerPosition {
            end: state.log.end_offset(),
            last_epoch: state.log.latest_epoch().unwrap_or(LeaderEpoch::NONE),
            log_start: state.log.log_start_offset(),
            lacks_its_past: state.log.lacks_its_past(),
        }))
    }

    /// Sees to it that the log is synced as far as its next fetch has to say, and settles `wait` then.
    pub(super) fn sync_for_fetch(
        self: &Arc<Replica>,
        epoch: LeaderEpoch,
        wait: &Arc<AckWait>,
    ) -> Result<(), FollowError> {
        let state = self.state.lock();
        check_follows(&state, epoch)?;
        if self.is_unsynced(&state) {
            self.waiters.register_sync(state.log.end_offset(), wait);
            self.act(state, Actions { sync: true, ..Actions::default() });
        }
        Ok(())
    }

    fn is_unsynced(&self, state: &State) -> bool {
        self.settings.load().durability == Durability::Fsync
            && state.log.synced_end_offset() < state.log.end_offset()
    }

    /// Appends what a fetch from `from` brought, follows the leader's high watermark and log start, and settles `wait`
    /// when the append is synced (if it has to be). True if the log start moved.
    pub(super) fn append_as_follower(
        self: &Arc<Replica>,
        epoch: LeaderEpoch,
        fetched: Fetched,
        wait: &Arc<AckWait>,
    ) -> Result<bool, FollowError> {
        // CRC and framing, before the lock.
        let batches = check_replicated(fetched.records)?;
        let now = clock::now();
        let mut state = self.state.lock();
        check_follows(&state, epoch)?;
        let bytes = if batches.is_empty() { 0 } else { self.append_new(&mut state, &batches, epoch)? };
        let mut sync = false;
        if bytes > 0 {
            self.touch(now);
            if self.is_unsynced(&state) {
                // ORDER: registered under the lock, so that no sync can cover it in between.
                self.waiters.register_sync(state.log.end_offset(), wait);
                sync = true;
            }
        }
        let moved = self.raise_high_watermark(&state, fetched.high_watermark);
        let high_watermark = self.high_watermark();
        // What the leader's clients deleted, or its retention: not before it is known to be committed here too.
        let log_start_moves =
            fetched.log_start > state.log.log_start_offset() && fetched.log_start <= high_watermark;
        if log_start_moves {
            state.log.increment_log_start_offset(fetched.log_start, high_watermark)?;
        }
        self.act(state, Actions { sync, ..Actions::default() });
        if moved {
            self.waiters.on_moved(high_watermark);
        }
        Ok(log_start_moves)
    }

    fn append_new(
        &self,
        state: &mut State,
        batches: &CheckedBatches,
        epoch: LeaderEpoch,
    ) -> Result<usize, FollowError> {
        let end = state.log.end_offset();
        // A fetch is answered from the batch that holds its offset; what is here already is passed over. Records of an epoch
        // that this follower has not heard of yet wait until it has.
        let is_new =
            |header: &ottla_batch::BatchHeader| header.next_offset() > end && header.leader_epoch <= epoch;
        let first = batches.iter().take_while(|batch| batch.header().next_offset() <= end).count();
        let count = batches.as_slice()[first..].iter().take_while(|batch| is_new(batch.header())).count();
        if count == 0 {
            return Ok(0);
        }
        let batches = batches.select(first..first + count);
        match state.log.append_copied(&batches, clock::now()) {
            Ok(_) => Ok(batches.size_in_bytes()),
            Err(error) => Err(error.into()),
        }
    }

    /// The leader's log and this one part before this one's end: cuts back to where they may agree. The next fetch tells whether they
    /// do (KIP-101, KIP-279, KIP-595).
    pub(super) fn truncate_to_leader(
        self: &Arc<Replica>,
        epoch: LeaderEpoch,
        diverging: EpochEnd,
    ) -> Result<Offset, FollowError> {
        let mut state = self.state.lock();
        check_follows(&state, epoch)?;
        let end = state.log.end_offset();
        let own = state.log.end_offset_for_epoch(diverging.leader_epoch);
        let to = truncation_point(diverging, own, end);
        tracing::info!(
            topic = %self.topic, partition = self.partition, leader_epoch = %diverging.leader_epoch,
            leader_end = %diverging.end_offset, from = %end, %to, "the log parted from the leader's and is cut"
        );
        state.log.truncate_to(to)?;
        self.lower_high_watermark(&state);
        let to = state.log.end_offset();
        self.act(state, Actions::default());
        Ok(to)
    }

    /// The leader does not have the offset at which this log ends. Its own begins at `leader_start`.
    pub(super) fn on_out_of_range(
        self: &Arc<Replica>,
        epoch: LeaderEpoch,
        leader_start: Offset,
    ) -> Result<(), FollowError> {
        let mut state = self.state.lock();
        check_follows(&state, epoch)?;
        let end = state.log.end_offset();
        match state.log.latest_epoch() {
            // A new leader's epoch is the newest there is, so it knows where every earlier one ended, and says so instead.
            Some(ours) if leader_start <= end => return Err(FollowError::LeaderIsOlder { ours, end }),
            _ => {}
        }
        // Everything here, if anything, lies before what the leader still keeps: it was deleted by retention or by clients,
        // and so was committed.
        tracing::info!(
            topic = %self.topic, partition = self.partition, %end, %leader_start,
            "the leader has deleted what comes after this log, which starts anew"
        );
        state.log.truncate_fully_and_start_at(leader_start)?;
        self.lower_high_watermark(&state);
        self.raise_high_watermark(&state, leader_start);
        self.act(state, Actions::default());
        Ok(())
    }
}

impl Replica {
    /// The leader has what comes next only in the tier: the log begins anew at `offset`, and knows what was before. False if it
    /// reaches so far already.
    pub(super) fn start_behind_tier(
        self: &Arc<Replica>,
        epoch: LeaderEpoch,
        offset: Offset,
        before: BehindTier,
    ) -> Result<bool, FollowError> {
        let mut state = self.state.lock();
        check_follows(&state, epoch)?;
        if state.log.end_offset() >= offset && !state.log.lacks_its_past() {
            return Ok(false);
        }
        state.log.start_behind_tier(offset, before)?;
        // What is in the tier is committed.
        self.lower_high_watermark(&state);
        self.raise_high_watermark(&state, offset);
        self.act(state, Actions::default());
        Ok(true)
    }
}

fn check_follows(state: &State, epoch: LeaderEpoch) -> Result<(), FollowError> {
    match state.follower {
        Some(following) if following.epoch == epoch => Ok(()),
        _ => Err(FollowError::RoleChanged(epoch)),
    }
}

/// Where to cut a log that ends at `end` when the leader says that its records up to the epoch of this log's last one end at
/// `leader`. `own` is where this log's records up to the leader's epoch end.
fn truncation_point(leader: EpochEnd, own: Option<EpochEnd>, end: Offset) -> Offset {
    match own {
        _ if planted!("epoch-of-the-answer-ignored") => leader.end_offset.min(end),
        // Both have the epoch: the shorter one ends it. Or this log does not (KIP-279): what it has after the last epoch before
        // is unknown to the leader.
        Some(own) if own.leader_epoch == leader.leader_epoch => {
            own.end_offset.min(leader.end_offset).min(end)
        }
        Some(own) => own.end_offset.min(end),
        None => leader.end_offset.min(end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: i32, end: i64) -> EpochEnd {
        EpochEnd { leader_epoch: LeaderEpoch(epoch), end_offset: Offset(end) }
    }

    #[test]
    fn kip_101_the_shorter_end_of_a_common_epoch_is_where_logs_part() {
        assert_eq!(truncation_point(at(3, 10), Some(at(3, 14)), Offset(14)), Offset(10));
        assert_eq!(truncation_point(at(3, 10), Some(at(3, 8)), Offset(14)), Offset(8));
    }

    #[test]
    fn kip_279_an_epoch_that_only_the_leader_has_takes_what_came_after_the_last_common_one() {
        // The leader has epochs 1 and 3, this log 1 and 2: asked for 2, the leader names 1. Asked for 4, of a log with 1, 2 and 4, it
        // names 3, which is unknown here.
        assert_eq!(truncation_point(at(1, 10), Some(at(1, 12)), Offset(20)), Offset(10));
        assert_eq!(truncation_point(at(3, 18), Some(at(2, 15)), Offset(20)), Offset(15));
    }

    #[test]
    fn without_common_epochs_the_leaders_end_counts() {
        assert_eq!(truncation_point(at(3, 5), None, Offset(20)), Offset(5));
        assert_eq!(truncation_point(at(3, 50), None, Offset(20)), Offset(20));
    }
}
