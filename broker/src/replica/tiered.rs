//! What the work on the tier asks of a replica that this broker leads.

use std::sync::Arc;

use ottla_batch::{LeaderEpoch, Offset};
use ottla_storage::log::{ChangeError, Log, PastTier, ReadError, SealedSegment};

use super::in_sync::Actions;
use super::partition::{LeaderError, Replica, State};
use crate::clock;

impl Replica {
    /// Looks at the log, as long as this broker leads in `epoch`.
    pub(crate) fn with_log<T>(
        &self,
        epoch: LeaderEpoch,
        look: impl FnOnce(&Log) -> T,
    ) -> Result<T, LeaderError> {
        let state = self.state.lock();
        self.check_leads(&state, epoch)?;
        Ok(look(&state.log))
    }

    /// The next segment for the tier: sealed, on stable storage, and without a transaction that is open.
    pub(crate) fn sealed_segment(
        self: &Arc<Replica>,
        epoch: LeaderEpoch,
        from: Offset,
    ) -> Result<Option<SealedSegment>, SealedSegmentError> {
        let state = self.state.lock();
        self.check_leads(&state, epoch)?;
        let sealed = state.log.sealed_segment(from, self.last_stable_offset())?;
        if sealed.is_none() && state.log.past(from).sealed_segments > 0 {
            // Nobody may wait for its sync (`ottla.durability=memory`, or it was sealed before it was full).
            self.act(state, Actions { sync: true, ..Actions::default() });
        }
        Ok(sealed)
    }

    pub(crate) fn past_tier(&self, tier_end: Offset) -> PastTier {
        self.state.lock().log.past(tier_end)
    }

    pub(crate) fn seal_active_segment(
        self: &Arc<Replica>,
        epoch: LeaderEpoch,
    ) -> Result<(), SealedSegmentError> {
        let mut state = self.state.lock();
        self.check_leads(&state, epoch)?;
        state.log.seal_active_segment(clock::now())?;
        self.act(state, Actions { sync: true, ..Actions::default() });
        Ok(())
    }

    fn check_leads(&self, state: &State, epoch: LeaderEpoch) -> Result<(), LeaderError> {
        match &state.leader {
            Some(leader) if leader.epoch == epoch => Ok(()),
            _ => Err(self.check_leader(epoch).err().unwrap_or(LeaderError::NotLeader)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SealedSegmentError {
    #[error(transparent)]
    NotLeader(#[from] LeaderError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Change(#[from] ChangeError),
}
