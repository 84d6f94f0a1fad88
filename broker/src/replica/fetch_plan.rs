//! What a fetcher asks its leader next: which partitions a request names, which it forgets, and which wait after an error
//! (KIP-227 from the follower's side). Values in, values out; no clock, lock or socket.
//!
//! A partition is named when it is new, when its log moved, and when its pause after an error is over; the session
//! remembers the others at the leader. Requests are numbered: an answer to a request that was made before a partition was
//! named (again) says nothing about it, for it was given to another epoch or another log end.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use ottla_batch::LeaderEpoch;
use ottla_raft::TopicId;
use tokio::time::Instant;

pub type Key = (TopicId, i32);

/// The first pause after an error, doubled by each that follows up to `replica.fetch.backoff.ms`. At a change of leaders the follower
/// may hear of it before the leader does, which is a matter of milliseconds.
const BACKOFF_MIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
struct Planned {
    leader_epoch: LeaderEpoch,
    /// Whether the leader's session has it.
    is_in_session: bool,
    /// Number of the request that named it; answers to earlier ones do not count. `None` until it is named.
    named_by: Option<u64>,
    retry_at: Option<Instant>,
    failures: u32,
}

/// One request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub number: u64,
    pub session_id: i32,
    pub session_epoch: i32,
    pub forgotten: Vec<Key>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct FetchPlan {
    /// 0: none yet, the next request opens one.
    session_id: i32,
    session_epoch: i32,
    partitions: HashMap<Key, Planned>,
    /// Sets, and in an order of their own: thousands of partitions come and go when a leader dies.
    to_name: BTreeSet<Key>,
    to_forget: BTreeSet<Key>,
    retries: BTreeSet<(Instant, Key)>,
    /// Those that lack something that is committed, or may.
    behind: BTreeSet<Key>,
    next_number: u64,
    /// Requests before this one belong to a session that is lost.
    session_since: u64,
}

impl FetchPlan {
    /// From now on this partition is followed in this epoch.
    pub fn follow(&mut self, key: Key, leader_epoch: LeaderEpoch) {
        let planned = self.partitions.entry(key).or_insert(Planned {
            leader_epoch,
            is_in_session: false,
            named_by: None,
            retry_at: None,
            failures: 0,
        });
        planned.leader_epoch = leader_epoch;
        planned.named_by = None;
        planned.failures = 0;
        self.behind.insert(key);
        if let Some(at) = planned.retry_at.take() {
            self.retries.remove(&(at, key));
        }
        self.to_name.insert(key);
    }

    pub fn leave(&mut self, key: Key) {
        let Some(planned) = self.partitions.remove(&key) else { return };
        self.behind.remove(&key);
        self.to_name.remove(&key);
        if let Some(at) = planned.retry_at {
            self.retries.remove(&(at, key));
        }
        if planned.is_in_session {
            self.to_forget.insert(key);
        }
    }

    /// Whether anything is followed that does not wait after an error.
    pub fn is_idle(&self) -> bool {
        self.partitions.len() == self.retries.len()
    }

    /// Whether a request should be made although one is waiting at the leader.
    pub fn is_urgent(&self) -> bool {
        !self.to_name.is_empty()
    }

    pub fn next_retry(&self) -> Option<Instant> {
        self.retries.first().map(|(at, _)| *at)
    }

    /// Pauses that are over end.
    pub fn wake_retries(&mut self, now: Instant) {
        while let Some((at, key)) = self.retries.first().copied().filter(|(at, _)| *at <= now) {
            self.retries.remove(&(at, key));
            if let Some(planned) = self.partitions.get_mut(&key) {
                planned.retry_at = None;
                self.to_name.insert(key);
            }
        }
    }

    /// The partitions that the next request has to name, with the epochs in which they are followed.
    pub fn take_to_name(&mut self, now: Instant) -> Vec<(Key, LeaderEpoch)> {
        self.wake_retries(now);
        let keys = std::mem::take(&mut self.to_name);
        keys.into_iter().filter_map(|key| Some((key, self.partitions.get(&key)?.leader_epoch))).collect()
    }

    /// The request that names `named` is sent.
    pub fn on_request(&mut self, named: &[Key]) -> Request {
        let number = self.next_number;
        self.next_number += 1;
        for key in named {
            if let Some(planned) = self.partitions.get_mut(key) {
                planned.is_in_session = true;
                planned.named_by = Some(number);
            }
            // Forgotten and taken up again since the last request: the new word counts.
            self.to_forget.remove(key);
        }
        let session_epoch = self.session_epoch;
        self.session_epoch = if session_epoch == i32::MAX { 1 } else { session_epoch + 1 };
        Request {
            number,
            session_id: self.session_id,
            session_epoch,
            forgotten: std::mem::take(&mut self.to_forget).into_iter().collect(),
        }
    }

    /// Whether another request may be made before the first of a session is answered, which gives the session its id.
    pub fn may_overlap(&self) -> bool {
        self.session_id != 0
    }

    /// The leader answered a request of the current session.
    pub fn on_answer(&mut self, session_id: i32) {
        self.session_id = session_id;
        if session_id == 0 {
            self.on_session_lost();
        }
    }

    /// The connection, or the leader's memory of the session, is gone: everything is named again.
    pub fn on_session_lost(&mut self) {
        (self.session_id, self.session_epoch) = (0, 0);
        self.session_since = self.next_number;
        self.to_forget.clear();
        for (key, planned) in &mut self.partitions {
            planned.is_in_session = false;
            planned.named_by = None;
            if planned.retry_at.is_none() {
                self.to_name.insert(*key);
            }
        }
    }

    /// Whether the answer to request `number` belongs to the session that there is now.
    pub fn is_current(&self, number: u64) -> bool {
        number >= self.session_since
    }

    /// The epoch in which an answer to request `number` is to be taken; `None` if it says nothing about the partition.
    pub fn epoch_of_answer(&self, key: Key, number: u64) -> Option<LeaderEpoch> {
        let planned = self.partitions.get(&key)?;
        planned.named_by.is_some_and(|named_by| named_by <= number).then_some(planned.leader_epoch)
    }

    /// Records came, or the log was cut: the next request says where it ends now.
    pub fn on_moved(&mut self, key: Key) {
        if let Some(planned) = self.partitions.get_mut(&key) {
            planned.failures = 0;
            self.to_name.insert(key);
        }
    }

    /// Whether it lacks something that the leader said is committed.
    pub fn on_position(&mut self, key: Key, is_behind: bool) {
        if is_behind && self.partitions.contains_key(&key) {
            self.behind.insert(key);
        } else {
            self.behind.remove(&key);
        }
    }

    /// Those that are behind, and that the leader may answer without being asked for them again.
    pub fn behind_in_session(&self) -> Vec<Key> {
        let is_in_session =
            |key: &&Key| self.partitions.get(key).is_some_and(|planned| planned.is_in_session);
        self.behind.iter().filter(is_in_session).copied().collect()
    }

    pub fn is_behind(&self, key: Key) -> bool {
        self.behind.contains(&key)
    }

    /// It is left alone for a while.
    pub fn on_failed(&mut self, key: Key, now: Instant, backoff_max: Duration) {
        let Some(planned) = self.partitions.get_mut(&key) else { return };
        if planned.retry_at.is_some() {
            return;
        }
        let backoff =
            BACKOFF_MIN.saturating_mul(1 << planned.failures.min(10)).min(backoff_max.max(BACKOFF_MIN));
        planned.failures += 1;
        self.hold_back(key, now + backoff);
    }

    /// It is not fetched before `at`.
    pub fn hold_back(&mut self, key: Key, at: Instant) {
        let Some(planned) = self.partitions.get_mut(&key).filter(|planned| planned.retry_at.is_none()) else {
            return;
        };
        planned.named_by = None;
        planned.retry_at = Some(at);
        self.retries.insert((at, key));
        if std::mem::take(&mut planned.is_in_session) {
            self.to_forget.insert(key);
        }
        self.to_name.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: LeaderEpoch = LeaderEpoch(3);
    const BACKOFF_MAX: Duration = Duration::from_secs(1);

    fn key(partition: i32) -> Key {
        (TopicId(uuid::Uuid::from_u128(5)), partition)
    }

    fn keys(named: &[(Key, LeaderEpoch)]) -> Vec<i32> {
        named.iter().map(|((_, partition), _)| *partition).collect()
    }

    /// Makes a request that names everything that is to be named.
    fn request(plan: &mut FetchPlan, now: Instant) -> (Vec<i32>, Request) {
        let named = plan.take_to_name(now);
        let request = plan.on_request(&named.iter().map(|(key, _)| *key).collect::<Vec<_>>());
        (keys(&named), request)
    }

    #[test]
    fn a_session_names_everything_once_and_then_what_moved() {
        let now = Instant::now();
        let mut plan = FetchPlan::default();
        (0..3).for_each(|partition| plan.follow(key(partition), EPOCH));
        let (named, first) = request(&mut plan, now);
        assert_eq!((named, first.session_id, first.session_epoch), (vec![0, 1, 2], 0, 0));
        assert!(!plan.may_overlap());
        plan.on_answer(9);
        assert_eq!(plan.epoch_of_answer(key(1), first.number), Some(EPOCH));
        plan.on_moved(key(1));
        plan.on_moved(key(1));
        let (named, second) = request(&mut plan, now);
        assert_eq!((named, second.session_id, second.session_epoch), (vec![1], 9, 1));
        assert_eq!(request(&mut plan, now).0, Vec::<i32>::new(), "nothing moved");
        plan.on_answer(9);
        plan.on_session_lost();
        assert!(!plan.is_current(second.number));
        let (named, third) = request(&mut plan, now);
        assert_eq!((named, third.session_id, third.session_epoch), (vec![0, 1, 2], 0, 0));
    }

    #[test]
    fn an_answer_from_before_a_new_epoch_says_nothing() {
        let now = Instant::now();
        let mut plan = FetchPlan::default();
        plan.follow(key(0), EPOCH);
        let first = request(&mut plan, now).1;
        plan.on_answer(9);
        plan.follow(key(0), LeaderEpoch(4));
        assert_eq!(plan.epoch_of_answer(key(0), first.number), None);
        let (named, second) = request(&mut plan, now);
        assert_eq!(named, [0]);
        assert_eq!(plan.epoch_of_answer(key(0), first.number), None);
        assert_eq!(plan.epoch_of_answer(key(0), second.number), Some(LeaderEpoch(4)));
    }

    #[test]
    fn what_failed_is_forgotten_at_the_leader_and_named_again_later_and_later() {
        let start = Instant::now();
        let mut plan = FetchPlan::default();
        plan.follow(key(0), EPOCH);
        plan.follow(key(1), EPOCH);
        request(&mut plan, start);
        plan.on_answer(9);
        plan.on_failed(key(0), start, BACKOFF_MAX);
        let (named, next) = request(&mut plan, start);
        assert_eq!((named, next.forgotten), (vec![], vec![key(0)]));
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let at = plan.next_retry().unwrap();
            pauses.push((at - now).as_millis());
            now = at;
            assert_eq!(request(&mut plan, now).0, [0]);
            plan.on_failed(key(0), now, BACKOFF_MAX);
        }
        assert_eq!(pauses, [20, 40, 80, 160, 320, 640, 1000, 1000]);
        plan.on_failed(key(1), now, BACKOFF_MAX);
        assert!(plan.is_idle());
        plan.follow(key(1), LeaderEpoch(4));
        assert!(!plan.is_idle(), "a new epoch does not wait");
    }

    #[test]
    fn what_is_held_back_is_forgotten_until_its_time_and_has_not_failed() {
        let now = Instant::now();
        let later = now + Duration::from_millis(300);
        let mut plan = FetchPlan::default();
        plan.follow(key(0), EPOCH);
        plan.follow(key(1), EPOCH);
        assert!(plan.is_behind(key(0)) && plan.is_behind(key(1)), "not known yet");
        assert_eq!(plan.behind_in_session(), []);
        let first = request(&mut plan, now).1;
        plan.on_answer(9);
        plan.on_position(key(0), false);
        assert_eq!(plan.behind_in_session(), [key(1)]);
        plan.hold_back(key(1), later);
        assert_eq!(plan.epoch_of_answer(key(1), first.number), None, "what is still on its way is not taken");
        let (named, second) = request(&mut plan, now);
        assert_eq!((named, second.forgotten), (vec![], vec![key(1)]));
        assert_eq!(plan.next_retry(), Some(later));
        assert_eq!(request(&mut plan, later).0, [1]);
        plan.on_failed(key(1), later, BACKOFF_MAX);
        assert_eq!(plan.next_retry(), Some(later + BACKOFF_MIN), "the first failure");
        plan.leave(key(1));
        plan.on_position(key(1), true);
        assert!(!plan.is_behind(key(1)));
    }

    #[test]
    fn what_left_is_forgotten_unless_it_comes_back_in_time() {
        let now = Instant::now();
        let mut plan = FetchPlan::default();
        plan.follow(key(0), EPOCH);
        plan.follow(key(1), EPOCH);
        request(&mut plan, now);
        plan.on_answer(9);
        plan.leave(key(0));
        plan.leave(key(1));
        plan.follow(key(1), EPOCH);
        let (named, next) = request(&mut plan, now);
        assert_eq!((named, next.forgotten), (vec![1], vec![key(0)]));
        plan.leave(key(7));
        assert!(!plan.is_urgent());
    }
}
