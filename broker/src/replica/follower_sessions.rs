//! The fetch sessions of followers (KIP-227), kept so that a fetch costs what has changed, not what is followed: a session is
//! told by its partitions when they move ([`FollowerWaiter`]), and looks only at those and at what a request names.
//!
//! A follower has at most two requests of a session under way. The second one ends the wait of the first: so partitions
//! that come to a follower while its fetch waits need not wait for the end of that. A partition that was answered with
//! records or an error is not looked at again before a request names it; the follower names it, also where nothing changed.
//!
//! Bounds: [`SESSIONS_MAX`] sessions. A new session of a follower ends its sessions of an older broker epoch, and the
//! one that was idle the longest gives its place when there are too many; a follower without one begins anew.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Weak};

use futures::task::AtomicWaker;
use ottla_batch::{LeaderEpoch, Offset};
use ottla_raft::{BrokerEpoch, BrokerId, TopicId};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::partition::Replica;
use super::sessions::{SessionError, Told};
use super::waiters::{FollowerNews, FollowerWaiter};

/// Brokers times their fetchers, with room for those that began anew.
const SESSIONS_MAX: usize = 1_000;

/// Who fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerId {
    pub broker: BrokerId,
    /// `None` before Fetch v15.
    pub broker_epoch: Option<BrokerEpoch>,
}

/// What a request says of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerWants {
    pub topic: TopicId,
    pub partition: i32,
    pub end: Offset,
    pub log_start: Offset,
    pub bytes_max: usize,
    pub leader_epoch: LeaderEpoch,
    pub last_fetched_epoch: LeaderEpoch,
}

/// A partition of a session.
#[derive(Debug, Clone)]
pub struct Slot {
    pub wants: FollowerWants,
    /// `None` while this broker has no replica of it; looked up again when a request names it.
    pub replica: Option<Arc<Replica>>,
    pub told: Told,
    /// A request said it, and nobody has counted that yet.
    pub is_new: bool,
    /// It was answered with records or an error.
    awaits_request: bool,
    /// Epoch of the request that named it last.
    named_by: i32,
}

#[derive(Debug, Default)]
struct State {
    /// Epoch of the next request.
    next_epoch: i32,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_key: HashMap<(TopicId, i32), u32>,
    /// Epoch of the newest request: an older one that waits ends.
    newest: i32,
    /// Epoch of the last request that was answered, or given up.
    answered: i32,
    /// When the last two answers were made, the newest first.
    answered_at: [Option<Instant>; 2],
    /// The follower heard an answer that was made then before it made its newest request.
    heard_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct News {
    /// To be looked at, in this order: who waits longest comes first.
    queue: VecDeque<u32>,
    is_queued: Vec<bool>,
    /// Something moved, since the queue was taken, that is worth an answer at once.
    has_records: bool,
    /// Something moved that can wait a little.
    has_high_watermarks: bool,
    /// The waiting fetch knows that high watermarks moved, and wants to hear of records only.
    defers: bool,
    /// Not to be looked at before the leader's quota has room again; in this order then.
    held_back: VecDeque<u32>,
    is_held_back: Vec<bool>,
}

impl News {
    fn push(&mut self, index: u32) {
        if !set(&mut self.is_queued, index) {
            self.queue.push_back(index);
        }
    }

    fn hold_back(&mut self, index: u32) {
        if !set(&mut self.is_held_back, index) {
            self.held_back.push_back(index);
        }
    }

    /// To the front: whoever the room goes to now comes last the next time, or the first would take it every time.
    fn release(&mut self) {
        let behind = std::mem::take(&mut self.queue);
        self.is_queued.fill(false);
        for index in std::mem::take(&mut self.held_back) {
            self.is_held_back[index as usize] = false;
            self.push(index);
        }
        behind.into_iter().for_each(|index| self.push(index));
    }
}

/// Sets one of the flags and answers what it was.
fn set(flags: &mut Vec<bool>, index: u32) -> bool {
    let at = index as usize;
    if flags.len() <= at {
        flags.resize(at + 1, false);
    }
    std::mem::replace(&mut flags[at], true)
}

/// See the module's head.
#[derive(Debug)]
pub struct FollowerSession {
    pub id: i32,
    pub follower: FollowerId,
    state: Mutex<State>,
    /// Apart from the state, for whoever moves a partition.
    news: Mutex<News>,
    waker: AtomicWaker,
    /// The next request waits here for the answer of the one before.
    turn: tokio::sync::Notify,
}

/// What woke a waiting fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    Records,
    OnlyHighWatermarks,
    /// A newer request of the session came.
    Superseded,
}

impl FollowerWaiter for FollowerSession {
    fn on_news(&self, index: u32, news: FollowerNews) {
        let wakes = {
            let mut held = self.news.lock();
            held.push(index);
            match news {
                FollowerNews::EndMoved => !std::mem::replace(&mut held.has_records, true),
                FollowerNews::BoundsMoved => {
                    !std::mem::replace(&mut held.has_high_watermarks, true) && !held.defers
                }
            }
        };
        if wakes {
            self.waker.wake();
        }
    }
}

impl FollowerSession {
    /// Takes a request into the session. `look_up` finds this broker's replica of a partition.
    fn begin(
        self: &Arc<FollowerSession>,
        epoch: i32,
        wants: Vec<FollowerWants>,
        forgotten: Vec<(TopicId, i32)>,
        look_up: impl Fn(TopicId, i32) -> Option<Arc<Replica>>,
    ) -> Result<(), SessionError> {
        let this: Weak<dyn FollowerWaiter> = {
            let weak: Weak<FollowerSession> = Arc::downgrade(self);
            weak
        };
        let mut state = self.state.lock();
        if state.next_epoch != epoch {
            return Err(SessionError::InvalidEpoch { found: epoch, expected: state.next_epoch });
        }
        state.next_epoch = next(epoch);
        state.newest = epoch;
        // Two requests are under way at most: the answer to the one before this may still be on its way to the follower, but not
        // the answer before that.
        let heard = state.answered_at[usize::from(next(state.answered) == epoch)];
        state.heard_at = state.heard_at.max(heard);
        for key in forgotten {
            let Some(index) = state.by_key.remove(&key) else { continue };
            let slot = state.slots[index as usize].take();
            state.free.push(index);
            if let Some(replica) = slot.and_then(|slot| slot.replica) {
                replica.waiters().deregister_follower(&this);
            }
        }
        for wants in wants {
            let key = (wants.topic, wants.partition);
            let index = match state.by_key.get(&key) {
                Some(index) => *index,
                None => {
                    let index = state.free.pop().unwrap_or(state.slots.len() as u32);
                    if index as usize == state.slots.len() {
                        state.slots.push(None);
                    }
                    state.by_key.insert(key, index);
                    index
                }
            };
            let before = state.slots[index as usize].take();
            let known = before.as_ref().and_then(|slot| slot.replica.clone());
            let found = look_up(wants.topic, wants.partition);
            // The partition may have been opened, or deleted and created again, since the last request.
            if let Some(found) = &found
                && known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, found))
            {
                found.waiters().register_follower(this.clone(), index);
            }
            let told = before.map_or(Told::NOTHING, |slot| slot.told);
            let slot =
                Slot { wants, replica: found, told, is_new: true, awaits_request: false, named_by: epoch };
            state.slots[index as usize] = Some(slot);
            // ORDER: queued after the replica knows whom to tell, so that what moves in between is seen or told.
            self.news.lock().push(index);
        }
        drop(state);
        self.waker.wake();
        Ok(())
    }

    /// Waits until the request before this one is answered: the answers of a session are made one after the other.
    pub async fn turn(&self, epoch: i32) {
        loop {
            let notified = self.turn.notified();
            let mut notified = std::pin::pin!(notified);
            notified.as_mut().enable();
            if next(self.state.lock().answered) == epoch {
                return;
            }
            notified.await;
        }
    }

    /// The answer of `epoch` is made, or its connection ended.
    pub fn end_turn(&self, epoch: i32, now: Instant) {
        let mut state = self.state.lock();
        state.answered = epoch;
        state.answered_at = [Some(now), state.answered_at[0]];
        drop(state);
        self.turn.notify_waiters();
    }

    /// Whether the follower still followed the partition in this epoch at some time after `since`: before each request it looks
    /// whom it follows, and its newest was made after it had heard an answer that is younger than `since`.
    fn has_followed_since(&self, key: (TopicId, i32), leader_epoch: LeaderEpoch, since: Instant) -> bool {
        let state = self.state.lock();
        let slot = state.by_key.get(&key).and_then(|index| state.slots.get(*index as usize)?.as_ref());
        state.heard_at.is_some_and(|heard| heard > since)
            && slot.is_some_and(|slot| slot.wants.leader_epoch == leader_epoch)
    }

    fn is_superseded(&self, epoch: i32) -> bool {
        self.state.lock().newest != epoch
    }

    /// Those to be looked at for the answer of `epoch`, in the order in which they are served. What a newer request named is
    /// left to the answer of that one: in an earlier answer the follower would not take it for an answer.
    pub fn take_news(&self, epoch: i32) -> Vec<(u32, Slot)> {
        let mut state = self.state.lock();
        let mut news = self.news.lock();
        (news.has_records, news.has_high_watermarks, news.defers) = (false, false, false);
        let mut taken = Vec::new();
        for index in std::mem::take(&mut news.queue) {
            news.is_queued[index as usize] = false;
            let newest = state.newest;
            let Some(slot) = state.slots.get_mut(index as usize).and_then(Option::as_mut) else { continue };
            if newest != epoch && slot.named_by == newest {
                news.push(index);
            } else if !slot.awaits_request {
                taken.push((index, slot.clone()));
                slot.is_new = false;
            }
        }
        taken
    }

    /// To be looked at by the next request: there was no room left in this answer.
    pub fn put_back(&self, index: u32) {
        self.news.lock().push(index);
    }

    /// There is more of a throttled partition than the leader's quota allows now.
    pub fn hold_back(&self, index: u32) {
        self.news.lock().hold_back(index);
    }

    pub fn holds_back(&self) -> bool {
        !self.news.lock().held_back.is_empty()
    }

    /// The quota has room again: what was held back is looked at, before everything else.
    pub fn release_held_back(&self) {
        self.news.lock().release();
    }

    /// A partition was answered.
    pub fn on_answered(&self, index: u32, wants: &FollowerWants, told: Option<Told>, awaits_request: bool) {
        let mut state = self.state.lock();
        let slot = state.slots.get_mut(index as usize).and_then(Option::as_mut);
        // A newer request may have said something else of it, or nothing any more.
        if let Some(slot) = slot.filter(|slot| slot.wants == *wants) {
            slot.told = told.unwrap_or(Told::NOTHING);
            slot.awaits_request = awaits_request && !slot.is_new;
        }
    }

    /// Resolves when there may be something to answer `epoch` with.
    pub async fn woken(&self, epoch: i32) -> Woken {
        std::future::poll_fn(|context| {
            // ORDER: registered before looking, or a wake-up between look and registration is lost.
            self.waker.register(context.waker());
            if self.is_superseded(epoch) {
                return std::task::Poll::Ready(Woken::Superseded);
            }
            let news = self.news.lock();
            match (news.has_records, news.has_high_watermarks && !news.defers) {
                (true, _) => std::task::Poll::Ready(Woken::Records),
                (false, true) => std::task::Poll::Ready(Woken::OnlyHighWatermarks),
                (false, false) => std::task::Poll::Pending,
            }
        })
        .await
    }

    /// Until the news are taken, only records wake: the answer waits a little for some to go with the high watermarks.
    pub fn defer_high_watermarks(&self) {
        self.news.lock().defers = true;
    }

    pub fn len(&self) -> usize {
        self.state.lock().by_key.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn next(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

/// All sessions of followers at this broker.
#[derive(Debug, Default)]
pub struct FollowerSessions {
    /// Not drawn by lot: a follower that lost its connection begins anew, so no id of an earlier process comes back.
    next_id: AtomicI32,
    sessions: Mutex<HashMap<i32, (Arc<FollowerSession>, Instant)>>,
    contacts: Mutex<HashMap<BrokerId, Instant>>,
    /// Tells those in `followed_since` of a request.
    asked: tokio::sync::Notify,
}

impl FollowerSessions {
    /// Takes a request: into a new session (epoch 0), or into the one it names.
    #[allow(clippy::too_many_arguments)] // The parts of one request.
    pub fn begin(
        &self,
        follower: FollowerId,
        id: i32,
        epoch: i32,
        wants: Vec<FollowerWants>,
        forgotten: Vec<(TopicId, i32)>,
        now: Instant,
        look_up: impl Fn(TopicId, i32) -> Option<Arc<Replica>>,
    ) -> Result<Arc<FollowerSession>, SessionError> {
        self.contacts.lock().insert(follower.broker, now);
        let session = match epoch {
            0 => self.create(follower, id, now),
            _ => {
                let mut sessions = self.sessions.lock();
                let (session, used) = sessions.get_mut(&id).ok_or(SessionError::IdNotFound)?;
                if session.follower != follower {
                    return Err(SessionError::IdNotFound);
                }
                *used = now;
                Arc::clone(session)
            }
        };
        session.begin(epoch, wants, forgotten, look_up)?;
        self.asked.notify_waiters();
        Ok(session)
    }

    fn create(&self, follower: FollowerId, replaced: i32, now: Instant) -> Arc<FollowerSession> {
        let mut sessions = self.sessions.lock();
        sessions.retain(|id, (session, _)| {
            let is_same = session.follower.broker == follower.broker;
            *id != replaced && !(is_same && session.follower.broker_epoch < follower.broker_epoch)
        });
        if sessions.len() >= SESSIONS_MAX {
            let idlest = sessions.iter().min_by_key(|(id, (_, used))| (*used, **id)).map(|(id, _)| *id);
            idlest.map(|id| sessions.remove(&id));
        }
        let id = loop {
            let id = self.next_id.fetch_add(1, Ordering::Relaxed) & i32::MAX;
            if id != 0 && !sessions.contains_key(&id) {
                break id;
            }
        };
        // The answer of epoch 0 comes first: as if the one before it had been given.
        let state = State { next_epoch: 0, answered: -1, ..State::default() };
        let session = Arc::new(FollowerSession {
            id,
            follower,
            state: Mutex::new(state),
            news: Mutex::default(),
            waker: AtomicWaker::new(),
            turn: tokio::sync::Notify::new(),
        });
        sessions.insert(id, (Arc::clone(&session), now));
        session
    }

    /// Resolves when each of these brokers is known to have followed the partition in this epoch after `since`.
    pub async fn followed_since(
        &self,
        followers: &[BrokerId],
        key: (TopicId, i32),
        leader_epoch: LeaderEpoch,
        since: Instant,
    ) {
        loop {
            let mut asked = std::pin::pin!(self.asked.notified());
            // ORDER: registered before looking, or a request between look and wait is missed.
            asked.as_mut().enable();
            let all = {
                let sessions = self.sessions.lock();
                followers.iter().all(|broker| {
                    sessions.values().any(|(session, _)| {
                        session.follower.broker == *broker
                            && session.has_followed_since(key, leader_epoch, since)
                    })
                })
            };
            if all {
                return;
            }
            asked.await;
        }
    }

    /// When a broker last fetched anything from this one.
    pub fn contact(&self, broker: BrokerId) -> Option<Instant> {
        self.contacts.lock().get(&broker).copied()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const FOLLOWER: FollowerId = FollowerId { broker: BrokerId(2), broker_epoch: Some(BrokerEpoch(1)) };

    fn wants(partition: i32) -> FollowerWants {
        FollowerWants {
            topic: TopicId(uuid::Uuid::from_u128(5)),
            partition,
            end: Offset(0),
            log_start: Offset(0),
            bytes_max: 1,
            leader_epoch: LeaderEpoch(1),
            last_fetched_epoch: LeaderEpoch::NONE,
        }
    }

    fn taken(session: &FollowerSession, epoch: i32) -> Vec<i32> {
        session.take_news(epoch).iter().map(|(_, slot)| slot.wants.partition).collect()
    }

    #[test]
    fn what_the_next_request_says_is_not_answered_with_the_one_before() {
        let sessions = FollowerSessions::default();
        let begin = |id, epoch, named: &[i32]| {
            let named = named.iter().map(|partition| wants(*partition)).collect();
            sessions.begin(FOLLOWER, id, epoch, named, vec![], Instant::now(), |_, _| None)
        };
        let session = begin(0, 0, &[0, 1]).unwrap();
        assert_eq!(taken(&session, 0), [0, 1]);
        session.end_turn(0, Instant::now());
        // Both are here before the first is looked at.
        begin(session.id, 1, &[0]).unwrap();
        begin(session.id, 2, &[1, 2]).unwrap();
        assert_eq!(taken(&session, 1), [0]);
        session.end_turn(1, Instant::now());
        assert_eq!(taken(&session, 2), [1, 2]);
        assert_eq!(taken(&session, 2), [0; 0]);
        assert!(matches!(begin(session.id, 2, &[]), Err(SessionError::InvalidEpoch { .. })));
        assert!(matches!(begin(session.id + 1, 1, &[]), Err(SessionError::IdNotFound)));
    }

    #[test]
    fn what_was_held_back_comes_first_when_it_is_released_and_in_its_order() {
        let sessions = FollowerSessions::default();
        let all = (0..4).map(wants).collect();
        let session = sessions.begin(FOLLOWER, 0, 0, all, vec![], Instant::now(), |_, _| None).unwrap();
        assert_eq!(taken(&session, 0), [0, 1, 2, 3]);
        assert!(!session.holds_back());
        for index in [2, 1, 2] {
            session.hold_back(index);
        }
        session.put_back(3);
        session.put_back(1);
        session.on_news(0, FollowerNews::EndMoved);
        session.release_held_back();
        assert!(!session.holds_back());
        assert_eq!(taken(&session, 0), [2, 1, 3, 0]);
        session.hold_back(2);
        session.put_back(2);
        assert_eq!(taken(&session, 0), [2], "a movement is looked at, held back or not");
        assert!(session.holds_back());
    }

    #[test]
    fn what_was_answered_with_records_waits_for_a_request_that_names_it() {
        let sessions = FollowerSessions::default();
        let session = sessions.begin(FOLLOWER, 0, 0, vec![wants(0)], vec![], Instant::now(), |_, _| None);
        let session = session.unwrap();
        let (index, slot) = session.take_news(0).remove(0);
        session.on_answered(index, &slot.wants, None, true);
        session.on_news(index, FollowerNews::EndMoved);
        assert_eq!(taken(&session, 0), [0; 0]);
        session.end_turn(0, Instant::now());
        let again = vec![wants(0)];
        sessions.begin(FOLLOWER, session.id, 1, again, vec![], Instant::now(), |_, _| None).unwrap();
        assert_eq!(taken(&session, 1), [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_is_believed_what_it_says_after_it_heard_a_younger_answer() {
        let sessions = FollowerSessions::default();
        let mut id = 0;
        let mut begin = |epoch, named: &[i32]| {
            let named = named.iter().map(|partition| wants(*partition)).collect();
            let now = Instant::now();
            let session = sessions.begin(FOLLOWER, id, epoch, named, vec![], now, |_, _| None).unwrap();
            id = session.id;
            session
        };
        let a_second = || tokio::time::advance(std::time::Duration::from_secs(1));
        let follows = |key, leader_epoch, since| {
            sessions.followed_since(&[BrokerId(2)], key, leader_epoch, since).now_or_never().is_some()
        };
        let key = (wants(0).topic, 0);
        let session = begin(0, &[0]);
        session.end_turn(0, Instant::now());
        a_second().await;
        let since = Instant::now();
        // Both may have been sent before that.
        begin(1, &[]);
        begin(2, &[]);
        assert!(!follows(key, LeaderEpoch(1), since));
        a_second().await;
        session.end_turn(1, Instant::now());
        // This was made after the answer to 1 was there, which was made after `since`.
        begin(3, &[]);
        assert!(follows(key, LeaderEpoch(1), since));
        assert!(!follows(key, LeaderEpoch(2), since), "in another epoch");
        assert!(!follows((wants(0).topic, 1), LeaderEpoch(1), since), "another partition");
        assert!(!follows(key, LeaderEpoch(1), Instant::now()), "not since now");
        // 3 is not answered later than 2 here: what 4 proves is the answer to 2.
        let later = Instant::now();
        a_second().await;
        session.end_turn(2, Instant::now());
        session.end_turn(3, Instant::now() + std::time::Duration::from_secs(1));
        let between = Instant::now();
        begin(4, &[]);
        assert!(follows(key, LeaderEpoch(1), later));
        assert!(!follows(key, LeaderEpoch(1), between));
    }
}
