//! Who waits for a replica, and how they are woken: by the thread that moves the high watermark, never by a timer.
//!
//! - A produce waits for one or more partitions ([`AckWait`]). Its task is woken once, when the last of them is settled.
//! - A fetch waits for any of its partitions ([`FetchWait`]). A partition that moves names itself and forgets the waiter;
//!   the fetch looks again at the named ones only, and registers again with those if it goes on waiting.
//! - A follower's sync is waited for as a produce is, by the offset that it shall reach; and so is the low watermark, by those who
//!   deleted records.
//! - The session of a follower ([`FollowerWaiter`]) is told of every movement as long as it lives: of the log's end, which
//!   brings records, and of the high watermark.
//!
//! A fetch that ends for another reason (answered, timed out, connection gone) takes its registrations back when it is
//! dropped; a produce's registrations go away when the high watermark passes them, which bounds them by the appends in
//! flight.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use ottla_batch::Offset;
use parking_lot::Mutex;

/// Waits until a number of appends are settled: committed, or known never to be.
#[derive(Debug, Default)]
pub struct AckWait {
    /// Appends not yet settled.
    open: AtomicUsize,
    waker: AtomicWaker,
}

impl AckWait {
    pub fn new() -> Arc<AckWait> {
        Arc::new(AckWait::default())
    }

    pub fn is_settled(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// Resolves when all appends registered so far are settled.
    pub fn settled(self: &Arc<AckWait>) -> AckSettled {
        AckSettled { wait: Arc::clone(self) }
    }

    fn settle_one(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.waker.wake();
        }
    }
}

/// See [`AckWait::settled`].
#[derive(Debug)]
pub struct AckSettled {
    wait: Arc<AckWait>,
}

impl Future for AckSettled {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.wait.is_settled() {
            return Poll::Ready(());
        }
        // ORDER: register before looking again, or a wake-up between look and registration is lost.
        self.wait.waker.register(context.waker());
        if self.wait.is_settled() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// Waits for news of any of a set of partitions, each known by an index of the waiter's choice.
#[derive(Debug, Default)]
pub struct FetchWait {
    fired: Mutex<Vec<u32>>,
    waker: AtomicWaker,
}

impl FetchWait {
    pub fn new() -> Arc<FetchWait> {
        Arc::new(FetchWait::default())
    }

    /// Resolves with the indices of the partitions that moved, at least one.
    pub fn news(self: &Arc<FetchWait>) -> FetchNews {
        FetchNews { wait: Arc::clone(self) }
    }

    fn fire(&self, index: u32) {
        let first = {
            let mut fired = self.fired.lock();
            fired.push(index);
            fired.len() == 1
        };
        // Later ones find the task woken already.
        if first {
            self.waker.wake();
        }
    }

    fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.fired.lock())
    }
}

/// See [`FetchWait::news`].
#[derive(Debug)]
pub struct FetchNews {
    wait: Arc<FetchWait>,
}

impl Future for FetchNews {
    type Output = Vec<u32>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<u32>> {
        let fired = self.wait.take();
        if !fired.is_empty() {
            return Poll::Ready(fired);
        }
        // ORDER: register before looking again, or a wake-up between look and registration is lost.
        self.wait.waker.register(context.waker());
        let fired = self.wait.take();
        if fired.is_empty() { Poll::Pending } else { Poll::Ready(fired) }
    }
}

/// What happened to a partition that a follower fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowerNews {
    /// There is more to fetch, or the leadership ended: worth an answer.
    EndMoved,
    /// Only the high watermark or the log start moved: it travels with the next records, or a little later without.
    BoundsMoved,
}

/// A follower's session, which keeps the partitions it fetches by an index of its choice.
pub trait FollowerWaiter: Send + Sync + std::fmt::Debug {
    fn on_news(&self, index: u32, news: FollowerNews);
}

/// Those who wait for one replica.
#[derive(Debug, Default)]
pub struct Waiters {
    /// In the order of the offsets: appends register under the log's lock.
    acks: Mutex<VecDeque<(Offset, Arc<AckWait>)>>,
    /// In no order, and few: one for each fetch of a follower.
    syncs: Mutex<Vec<(Offset, Arc<AckWait>)>>,
    /// In no order: those who deleted records, until all live replicas have.
    deletes: Mutex<Vec<(Offset, Arc<AckWait>)>>,
    /// Whether `deletes` may hold someone.
    has_deletes: AtomicBool,
    followers: Mutex<Vec<(Weak<dyn FollowerWaiter>, u32)>>,
    /// Whether `followers` may hold someone.
    has_followers: AtomicBool,
    fetches: Mutex<Vec<(Arc<FetchWait>, u32)>>,
    /// Whether `fetches` may hold someone: an append without waiting consumers costs one load.
    has_fetches: AtomicBool,
}

impl Waiters {
    /// `wait` is settled when the high watermark reaches `required`. The caller holds the log's lock, so that offsets come in
    /// order and no high watermark moves meanwhile.
    pub fn register_ack(&self, required: Offset, wait: &Arc<AckWait>) {
        let mut acks = self.acks.lock();
        debug_assert!(acks.back().is_none_or(|(last, _)| *last <= required || required <= *last));
        wait.open.fetch_add(1, Ordering::AcqRel);
        // A duplicate append waits for an offset that lies before those in flight.
        let at = acks.partition_point(|(offset, _)| *offset <= required);
        acks.insert(at, (required, Arc::clone(wait)));
    }

    /// `wait` is settled when everything below `required` is on stable storage. The caller holds the log's lock.
    pub fn register_sync(&self, required: Offset, wait: &Arc<AckWait>) {
        wait.open.fetch_add(1, Ordering::AcqRel);
        self.syncs.lock().push((required, Arc::clone(wait)));
    }

    /// `wait` is settled when no live replica serves anything below `required` any more. The caller holds the log's lock.
    pub fn register_delete(&self, required: Offset, wait: &Arc<AckWait>) {
        wait.open.fetch_add(1, Ordering::AcqRel);
        self.deletes.lock().push((required, Arc::clone(wait)));
        self.has_deletes.store(true, Ordering::Release);
    }

    /// Takes back what `wait` registered here.
    pub fn deregister_delete(&self, wait: &Arc<AckWait>) {
        let mut deletes = self.deletes.lock();
        deletes.retain(|(_, other)| !Arc::ptr_eq(other, wait));
        self.has_deletes.store(!deletes.is_empty(), Ordering::Release);
    }

    /// Whether somebody wants to hear of the low watermark. Asked under the log's lock.
    pub fn has_deletes(&self) -> bool {
        self.has_deletes.load(Ordering::Acquire)
    }

    /// The low watermark may have moved.
    pub fn on_low_watermark(&self, low_watermark: Offset) {
        settle_reached(&mut self.deletes.lock(), low_watermark);
    }

    /// `waiter` hears of all movements from now on, until it is dropped or deregistered.
    pub fn register_follower(&self, waiter: Weak<dyn FollowerWaiter>, index: u32) {
        let mut followers = self.followers.lock();
        followers.retain(|(other, _)| other.strong_count() > 0);
        followers.push((waiter, index));
        // ORDER: as in `register_fetch`.
        self.has_followers.store(true, Ordering::SeqCst);
    }

    pub fn deregister_follower(&self, waiter: &Weak<dyn FollowerWaiter>) {
        let mut followers = self.followers.lock();
        followers.retain(|(other, _)| other.strong_count() > 0 && !other.ptr_eq(waiter));
        self.has_followers.store(!followers.is_empty(), Ordering::SeqCst);
    }

    /// Asks for one wake-up of `wait` at the next movement of this replica.
    pub fn register_fetch(&self, wait: &Arc<FetchWait>, index: u32) {
        let mut fetches = self.fetches.lock();
        fetches.push((Arc::clone(wait), index));
        // ORDER: sequentially consistent with the load in `on_moved`: either the mover sees this waiter, or the waiter, which
        // looks at the offsets after registering, sees the movement.
        self.has_fetches.store(true, Ordering::SeqCst);
    }

    /// Takes back what `wait` registered here.
    pub fn deregister_fetch(&self, wait: &Arc<FetchWait>) {
        let mut fetches = self.fetches.lock();
        fetches.retain(|(other, _)| !Arc::ptr_eq(other, wait));
        if fetches.is_empty() {
            self.has_fetches.store(false, Ordering::SeqCst);
        }
    }

    /// The high watermark (or what else bounds a reader) moved; the new value was published before this call.
    pub fn on_moved(&self, high_watermark: Offset) {
        {
            let mut acks = self.acks.lock();
            while acks.front().is_some_and(|(required, _)| *required <= high_watermark) {
                if let Some((_, wait)) = acks.pop_front() {
                    wait.settle_one();
                }
            }
        }
        self.wake_fetches();
        self.tell_followers(FollowerNews::BoundsMoved);
    }

    /// Records were appended, whose end was published before this call.
    pub fn on_end_moved(&self) {
        self.tell_followers(FollowerNews::EndMoved);
    }

    /// Everything below `end` is on stable storage.
    pub fn on_synced(&self, end: Offset) {
        settle_reached(&mut self.syncs.lock(), end);
    }

    /// The log start moved; the new one was published before this call.
    pub fn on_log_start_moved(&self) {
        self.tell_followers(FollowerNews::BoundsMoved);
    }

    fn tell_followers(&self, news: FollowerNews) {
        if !self.has_followers.load(Ordering::SeqCst) {
            return;
        }
        for (follower, index) in self.followers.lock().iter() {
            if let Some(follower) = follower.upgrade() {
                follower.on_news(*index, news);
            }
        }
    }

    /// Settles everything: the replica is no leader any more, was deleted, or went offline. Those woken find the reason in the
    /// replica's state, which was changed before this call.
    pub fn on_ended(&self) {
        for (_, wait) in std::mem::take(&mut *self.acks.lock()) {
            wait.settle_one();
        }
        for waiting in [&self.syncs, &self.deletes] {
            for (_, wait) in std::mem::take(&mut *waiting.lock()) {
                wait.settle_one();
            }
        }
        self.wake_fetches();
        self.tell_followers(FollowerNews::EndMoved);
    }

    fn wake_fetches(&self) {
        if !self.has_fetches.load(Ordering::SeqCst) {
            return;
        }
        let waiting = {
            let mut fetches = self.fetches.lock();
            self.has_fetches.store(false, Ordering::SeqCst);
            std::mem::take(&mut *fetches)
        };
        for (wait, index) in waiting {
            wait.fire(index);
        }
    }

    #[cfg(test)]
    pub fn fetches_waiting(&self) -> usize {
        self.fetches.lock().len()
    }
}

/// Settles those whose offset is reached.
fn settle_reached(waiting: &mut Vec<(Offset, Arc<AckWait>)>, reached: Offset) {
    waiting.retain(|(required, wait)| {
        let is_reached = *required <= reached;
        if is_reached {
            wait.settle_one();
        }
        !is_reached
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn an_ack_over_two_partitions_is_settled_by_the_last() {
        let (one, two) = (Waiters::default(), Waiters::default());
        let wait = AckWait::new();
        one.register_ack(Offset(5), &wait);
        two.register_ack(Offset(3), &wait);
        let mut settled = wait.settled();
        one.on_moved(Offset(4));
        assert_eq!((&mut settled).now_or_never(), None);
        one.on_moved(Offset(5));
        assert_eq!((&mut settled).now_or_never(), None);
        two.on_moved(Offset(9));
        assert_eq!((&mut settled).now_or_never(), Some(()));
    }

    #[test]
    fn the_end_of_a_replica_settles_everyone() {
        let waiters = Waiters::default();
        let (ack, fetch) = (AckWait::new(), FetchWait::new());
        waiters.register_ack(Offset(5), &ack);
        waiters.register_fetch(&fetch, 7);
        waiters.on_ended();
        assert!(ack.is_settled());
        assert_eq!(fetch.news().now_or_never(), Some(vec![7]));
    }

    #[test]
    fn a_fetch_is_woken_once_and_names_what_moved() {
        let waiters = Waiters::default();
        let fetch = FetchWait::new();
        waiters.register_fetch(&fetch, 3);
        assert_eq!(fetch.news().now_or_never(), None);
        waiters.on_moved(Offset(1));
        waiters.on_moved(Offset(2));
        assert_eq!(fetch.news().now_or_never(), Some(vec![3]), "the second movement found nobody registered");
        assert_eq!(fetch.news().now_or_never(), None);
    }

    #[test]
    fn a_dropped_fetch_leaves_nothing_behind() {
        let waiters = Waiters::default();
        let (gone, other) = (FetchWait::new(), FetchWait::new());
        waiters.register_fetch(&gone, 0);
        waiters.register_fetch(&other, 0);
        waiters.deregister_fetch(&gone);
        assert_eq!(waiters.fetches_waiting(), 1);
        assert_eq!(Arc::strong_count(&gone), 1);
        waiters.on_moved(Offset(1));
        assert_eq!(other.news().now_or_never(), Some(vec![0]));
    }
}
