//! Appending as the leader: fence, check the in-sync set, append, and wait for what the producer asked for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use ottla_batch::{AppendOrigin, CheckedBatches, LeaderEpoch, Offset, planted};
use ottla_storage::log::Appended;
use tokio::time::Instant;

use super::partition::{LeaderError, Replica};
use super::waiters::{AckSettled, AckWait};
use crate::clock;

/// What a producer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredAcks {
    /// Nothing: no answer is sent.
    None,
    /// The append to the leader's log.
    Leader,
    /// The whole in-sync set.
    All,
}

/// Why nothing was appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    #[error(transparent)]
    Leader(#[from] LeaderError),
    #[error("the in-sync set has {in_sync} members, {required} are required")]
    NotEnoughReplicas { in_sync: usize, required: usize },
    #[error(transparent)]
    Log(#[from] ottla_storage::log::AppendError),
}

/// The batch was appended, but nobody can say that it is committed. It may be there, and may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotCommitted {
    #[error(transparent)]
    Leader(LeaderError),
    /// All who are left in sync have it, but they are fewer than the producer may rely on.
    #[error("the in-sync set fell to {in_sync} members after the append, {required} are required")]
    NotEnoughReplicas { in_sync: usize, required: usize },
}

/// Resolves when the appended batch is committed, or never will be by this leader. Dropping it takes nothing back.
#[derive(Debug)]
pub struct Committed {
    replica: Arc<Replica>,
    epoch: LeaderEpoch,
    required: Offset,
    settled: AckSettled,
}

impl Future for Committed {
    type Output = Result<(), NotCommitted>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.settled).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(self.replica.committed(self.required, self.epoch)),
        }
    }
}

/// One append to one partition.
#[derive(Debug, Clone, Copy)]
pub struct AppendRequest<'a> {
    pub batches: &'a CheckedBatches,
    pub origin: AppendOrigin,
    pub acks: RequiredAcks,
    /// The epoch in which the writer believes this broker to lead; -1 for any.
    pub leader_epoch: LeaderEpoch,
}

impl Replica {
    /// Appends and hands out a future for its commit. With acks other than all, the future is ready at once.
    pub fn append(
        self: &Arc<Replica>,
        request: &AppendRequest<'_>,
    ) -> Result<(Appended, Committed), AppendError> {
        let wait = AckWait::new();
        let (appended, epoch) = self.append_for(request, &wait)?;
        let required = match request.acks {
            RequiredAcks::All => appended.last_offset.plus(1),
            RequiredAcks::None | RequiredAcks::Leader => Offset(0),
        };
        let committed = Committed { replica: Arc::clone(self), epoch, required, settled: wait.settled() };
        Ok((appended, committed))
    }

    /// As [`Replica::append`] for a request over many partitions: one `wait` is settled by all of them, after which
    /// [`Replica::committed`] says what became of each.
    pub fn append_for(
        self: &Arc<Replica>,
        request: &AppendRequest<'_>,
        wait: &Arc<AckWait>,
    ) -> Result<(Appended, LeaderEpoch), AppendError> {
        let now = clock::now();
        let mut state = self.state.lock();
        // One borrow for the two halves of the state.
        let held = &mut *state;
        let Some(leader) = held.leader.as_mut() else { return Err(self.no_leader().into()) };
        let epoch = self.check_leader(request.leader_epoch)?;
        if request.acks == RequiredAcks::All {
            let (in_sync, required) = (leader.in_sync.members_count(), leader.in_sync.min_in_sync());
            if in_sync < required {
                return Err(AppendError::NotEnoughReplicas { in_sync, required });
            }
        }
        let appended = match held.log.append_as_leader(request.batches, epoch, request.origin, now) {
            Ok(appended) => appended,
            Err(error) => {
                drop(state);
                self.on_append_failed(&error);
                self.check_offline(&error);
                return Err(error.into());
            }
        };
        if self.appends_fail.load(Ordering::Relaxed) && self.appends_fail.swap(false, Ordering::Relaxed) {
            tracing::info!(topic = %self.topic, partition = self.partition, "appends work again");
        }
        let action = leader.in_sync.on_appended(held.log.end_offset(), Instant::now());
        let required = appended.last_offset.plus(1);
        // ORDER: registered before the lock goes, so that no sync can commit it in between. A high watermark that this very
        // append moved is already past it.
        if request.acks == RequiredAcks::All && leader.in_sync.high_watermark() < required {
            self.waiters.register_ack(required, wait);
        }
        self.touch(now);
        self.act(state, action);
        Ok((appended, epoch))
    }

    /// The first failure of the disk is for the operator; the ones after it say nothing new.
    fn on_append_failed(&self, error: &ottla_storage::log::AppendError) {
        use ottla_storage::log::AppendError::{DiskFull, Io, Offline};
        if matches!(error, DiskFull { .. } | Io { .. } | Offline(_))
            && !self.appends_fail.swap(true, Ordering::Relaxed)
        {
            tracing::error!(topic = %self.topic, partition = self.partition, %error, "appends fail");
        }
    }

    /// Whether everything below `required`, appended in `epoch`, is committed, asked after a wait for it was settled. 0 for a
    /// producer that does not care. It may be asked much later: a wait over many partitions is settled by the last of them.
    pub fn committed(&self, required: Offset, epoch: LeaderEpoch) -> Result<(), NotCommitted> {
        if required == Offset(0) {
            return Ok(());
        }
        // ORDER: the high watermark before the role. If this broker leads in that epoch still, it is of that epoch.
        let high_watermark = self.high_watermark();
        let (high_watermark, otherwise) = match self.check_leader(epoch) {
            // The wait timed out; the caller's answer is a retriable one either way.
            Ok(_) => (high_watermark, LeaderError::NotLeader),
            Err(error) => match self.state.lock().led {
                Some(led) if led.epoch == epoch => (led.high_watermark, error),
                _ => return Err(NotCommitted::Leader(error)),
            },
        };
        if high_watermark < required {
            return Err(NotCommitted::Leader(otherwise));
        }
        let required = self.settings.load().min_in_sync;
        if required > 1 && self.leader_epoch().is_some() && !planted!("min-insync-ignored") {
            let required = required.min(self.replicas_count.load(Ordering::Relaxed));
            let in_sync = self.in_sync_count.load(Ordering::Relaxed);
            if in_sync < required {
                return Err(NotCommitted::NotEnoughReplicas { in_sync, required });
            }
        }
        Ok(())
    }
}
