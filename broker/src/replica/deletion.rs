//! Records deleted by clients: the log start moves at the leader, and followers move theirs when they hear of it. What lies below
//! the low watermark, the least log start of all replicas on live brokers, cannot come back with another leader.

use std::sync::Arc;

use ottla_batch::Offset;
use ottla_storage::log::ChangeError;

use super::in_sync::Actions;
use super::partition::{LeaderError, Replica};
use super::waiters::AckWait;

/// A wait for the low watermark, which is taken back when this is dropped.
#[derive(Debug)]
pub struct DeletionWait {
    replica: Arc<Replica>,
    wait: Arc<AckWait>,
}

impl Drop for DeletionWait {
    fn drop(&mut self) {
        self.replica.waiters.deregister_delete(&self.wait);
    }
}

impl Replica {
    /// DeleteRecords: everything below `offset`, at most the high watermark, is no longer served. Answers the new start.
    pub fn delete_records(self: &Arc<Replica>, offset: Offset) -> Result<Offset, ChangeError> {
        let mut state = self.state.lock();
        let high_watermark = self.high_watermark();
        state.log.increment_log_start_offset(offset, high_watermark)?;
        let start = state.log.log_start_offset();
        self.act(state, Actions::default());
        Ok(start)
    }

    /// No live replica serves anything below.
    pub fn low_watermark(&self) -> Result<Offset, LeaderError> {
        self.state.lock().low_watermark().ok_or_else(|| self.no_leader())
    }

    /// `wait` is settled when the low watermark reaches `offset`, or this broker does not lead any more; as long as what this answers
    /// is kept.
    pub fn await_low_watermark(self: &Arc<Replica>, offset: Offset, wait: &Arc<AckWait>) -> DeletionWait {
        {
            let state = self.state.lock();
            if state.low_watermark().is_some_and(|low_watermark| low_watermark < offset) {
                // ORDER: registered under the lock, so that the low watermark cannot reach it in between.
                self.waiters.register_delete(offset, wait);
            }
        }
        DeletionWait { replica: Arc::clone(self), wait: Arc::clone(wait) }
    }
}
