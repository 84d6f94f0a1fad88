//! Fetch sessions (KIP-227): a consumer names its partitions once; later fetches carry, and are answered with, what changed.
//!
//! Bounds: `max.incremental.fetch.session.cache.slots` sessions, each as large as the requests that made it. A session gives
//! its place to a new one when it was idle for two minutes, or when it is older than that and smaller than the new one.
//! A client that gets none fetches in full each time; that is slower, not wrong.
//!
//! A session is locked while one request is taken into it and while its answer is cut down to what changed, not while the
//! fetch waits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka_protocol::messages::TopicName;
use ottla_batch::{LeaderEpoch, Offset, TimestampMs};
use parking_lot::Mutex;
use uuid::Uuid;

/// How long a session keeps its place against newer ones (Kafka's `MIN_INCREMENTAL_FETCH_SESSION_EVICTION_MS`).
const EVICTION_AFTER_MS: i64 = 120_000;

/// What `session_epoch` says in a request.
const INITIAL_EPOCH: i32 = 0;
const FINAL_EPOCH: i32 = -1;

/// How a request names a topic: by name up to version 12, by id since.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TopicKey {
    Name(TopicName),
    Id(Uuid),
}

/// One partition of a fetch.
#[derive(Debug, Clone)]
pub struct WantedPartition {
    pub topic: TopicKey,
    pub partition: i32,
    pub fetch_offset: Offset,
    pub bytes_max: i32,
    pub leader_epoch: LeaderEpoch,
    pub last_fetched_epoch: LeaderEpoch,
}

/// What a response tells about a partition beyond records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub high_watermark: i64,
    pub log_start_offset: i64,
}

impl Told {
    /// Nothing was told yet, or an error, after which everything is news.
    pub const NOTHING: Told = Told { high_watermark: -1, log_start_offset: -1 };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("no such fetch session")]
    IdNotFound,
    #[error("fetch session epoch {found}, expected {expected}")]
    InvalidEpoch { found: i32, expected: i32 },
    #[error("the fetch session names topics in the other way")]
    TopicIdError,
}

#[derive(Debug)]
struct Cached {
    wanted: WantedPartition,
    told: Told,
}

/// The partitions of one session in the order in which they are served.
#[derive(Debug)]
struct Session {
    /// Epoch that the next request must carry.
    next_epoch: i32,
    uses_ids: bool,
    /// By turn: a partition that returned records goes to the end, so that the others get their share of the bytes.
    turns: BTreeMap<u64, Cached>,
    turn_of: HashMap<(TopicKey, i32), u64>,
    next_turn: u64,
}

impl Session {
    fn upsert(&mut self, wanted: WantedPartition) {
        let key = (wanted.topic.clone(), wanted.partition);
        if let Some(cached) = self.turn_of.get(&key).and_then(|turn| self.turns.get_mut(turn)) {
            cached.wanted = wanted;
            return;
        }
        self.turn_of.insert(key, self.next_turn);
        self.turns.insert(self.next_turn, Cached { wanted, told: Told::NOTHING });
        self.next_turn += 1;
    }

    fn forget(&mut self, topic: TopicKey, partition: i32) {
        if let Some(turn) = self.turn_of.remove(&(topic, partition)) {
            self.turns.remove(&turn);
        }
    }

    fn move_to_end(&mut self, turn: u64) {
        let Some(cached) = self.turns.remove(&turn) else { return };
        self.turn_of.insert((cached.wanted.topic.clone(), cached.wanted.partition), self.next_turn);
        self.turns.insert(self.next_turn, cached);
        self.next_turn += 1;
    }

    fn wanted(&self) -> Vec<WantedPartition> {
        self.turns.values().map(|cached| cached.wanted.clone()).collect()
    }
}

#[derive(Debug)]
struct Slot {
    session: Arc<Mutex<Session>>,
    created: TimestampMs,
    last_used: TimestampMs,
    size: usize,
}

#[derive(Debug, Default)]
struct Slots {
    by_id: HashMap<i32, Slot>,
}

/// All sessions of this broker.
#[derive(Debug)]
pub struct FetchSessions {
    slots_max: usize,
    slots: Mutex<Slots>,
}

/// What a request turned out to be.
#[derive(Debug)]
pub enum FetchKind {
    /// Everything asked is answered; no session.
    Sessionless,
    /// The first fetch of a session that begins (if there is room).
    Full,
    /// A fetch within a session.
    Incremental(SessionRef),
}

/// A session during one request.
#[derive(Debug, Clone)]
pub struct SessionRef {
    pub id: i32,
    session: Arc<Mutex<Session>>,
}

/// A request's own part of a session: what it carries.
pub struct SessionRequest {
    pub id: i32,
    pub epoch: i32,
    pub uses_ids: bool,
    pub partitions: Vec<WantedPartition>,
    pub forgotten: Vec<(TopicKey, i32)>,
}

impl FetchSessions {
    pub fn new(slots_max: usize) -> FetchSessions {
        FetchSessions { slots_max, slots: Mutex::default() }
    }

    pub fn len(&self) -> usize {
        self.slots.lock().by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes a request in: what kind it is, and which partitions it asks for.
    pub fn begin(
        &self,
        request: SessionRequest,
        now: TimestampMs,
    ) -> Result<(FetchKind, Vec<WantedPartition>), SessionError> {
        let SessionRequest { id, epoch, uses_ids, partitions, forgotten } = request;
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            // A full fetch ends the session it names, if any.
            if id != 0 {
                self.slots.lock().by_id.remove(&id);
            }
            let kind = if epoch == FINAL_EPOCH { FetchKind::Sessionless } else { FetchKind::Full };
            return Ok((kind, partitions));
        }
        let session = {
            let mut slots = self.slots.lock();
            let slot = slots.by_id.get_mut(&id).ok_or(SessionError::IdNotFound)?;
            slot.last_used = now;
            Arc::clone(&slot.session)
        };
        let (wanted, size) = {
            let mut held = session.lock();
            if held.next_epoch != epoch {
                return Err(SessionError::InvalidEpoch { found: epoch, expected: held.next_epoch });
            }
            if held.uses_ids != uses_ids {
                return Err(SessionError::TopicIdError);
            }
            for partition in partitions {
                held.upsert(partition);
            }
            for (topic, partition) in forgotten {
                held.forget(topic, partition);
            }
            held.next_epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
            (held.wanted(), held.turns.len())
        };
        {
            let mut slots = self.slots.lock();
            if size == 0 {
                // The client gave up its last partition: Kafka ends the session and answers without one.
                slots.by_id.remove(&id);
                return Ok((FetchKind::Sessionless, wanted));
            }
            if let Some(slot) = slots.by_id.get_mut(&id) {
                slot.size = size;
            }
        }
        Ok((FetchKind::Incremental(SessionRef { id, session }), wanted))
    }

    /// Opens a session over the partitions of a full fetch that was answered with `told`. 0: there is no room.
    pub fn create(
        &self,
        wanted: Vec<WantedPartition>,
        told: impl Fn(usize) -> Option<Told>,
        uses_ids: bool,
        now: TimestampMs,
    ) -> i32 {
        if wanted.is_empty() {
            return 0;
        }
        let mut slots = self.slots.lock();
        if slots.by_id.len() >= self.slots_max && !slots.evict(wanted.len(), now) {
            return 0;
        }
        let id = loop {
            let id = rand::random_range(1..=i32::MAX);
            if !slots.by_id.contains_key(&id) {
                break id;
            }
        };
        let size = wanted.len();
        let mut session = Session {
            next_epoch: 1,
            uses_ids,
            turns: BTreeMap::new(),
            turn_of: HashMap::with_capacity(size),
            next_turn: 0,
        };
        for (index, partition) in wanted.into_iter().enumerate() {
            let turn = session.next_turn;
            session.upsert(partition);
            if let Some(cached) = session.turns.get_mut(&turn) {
                cached.told = told(index).unwrap_or(Told::NOTHING);
            }
        }
        let slot = Slot { session: Arc::new(Mutex::new(session)), created: now, last_used: now, size };
        slots.by_id.insert(id, slot);
        id
    }
}

impl Slots {
    /// Makes room for a session of `size` partitions, if one may be put out.
    fn evict(&mut self, size: usize, now: TimestampMs) -> bool {
        let old = now.0 - EVICTION_AFTER_MS;
        let idlest = self.by_id.iter().min_by_key(|(_, slot)| slot.last_used);
        let victim = match idlest {
            Some((id, slot)) if slot.last_used.0 <= old => Some(*id),
            _ => self
                .by_id
                .iter()
                .filter(|(_, slot)| slot.created.0 <= old && slot.size < size)
                .min_by_key(|(id, slot)| (slot.size, **id))
                .map(|(id, _)| *id),
        };
        victim.is_some_and(|id| self.by_id.remove(&id).is_some())
    }
}

/// Whether a partition's answer belongs into an incremental response, and what of it the session remembers.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub told: Told,
    pub has_records: bool,
    pub is_error: bool,
    /// A diverging epoch or a preferred replica: always said.
    pub is_notice: bool,
}

impl SessionRef {
    /// For each answered partition (in the order that `begin` gave) whether it is part of the response, and remembers
    /// what the client will know.
    pub fn select(&self, wanted: &[WantedPartition], answers: &[Answer]) -> Vec<bool> {
        let mut session = self.session.lock();
        let mut selected = Vec::with_capacity(wanted.len());
        for (partition, answer) in wanted.iter().zip(answers) {
            // Nobody else should use this session, but a client may: then its partitions may be gone by now.
            let turn = session.turn_of.get(&(partition.topic.clone(), partition.partition)).copied();
            let Some((turn, cached)) = turn.and_then(|turn| session.turns.get_mut(&turn).map(|c| (turn, c)))
            else {
                selected.push(answer.has_records || answer.is_error || answer.is_notice);
                continue;
            };
            let is_news = cached.told != answer.told;
            cached.told = if answer.is_error { Told::NOTHING } else { answer.told };
            selected.push(is_news || answer.has_records || answer.is_error || answer.is_notice);
            if answer.has_records {
                session.move_to_end(turn);
            }
        }
        selected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(partition: i32) -> WantedPartition {
        WantedPartition {
            topic: TopicKey::Id(Uuid::from_u128(1)),
            partition,
            fetch_offset: Offset(0),
            bytes_max: 1,
            leader_epoch: LeaderEpoch::NONE,
            last_fetched_epoch: LeaderEpoch::NONE,
        }
    }

    fn told(high_watermark: i64) -> Told {
        Told { high_watermark, log_start_offset: 0 }
    }

    fn request(id: i32, epoch: i32, partitions: Vec<WantedPartition>) -> SessionRequest {
        SessionRequest { id, epoch, uses_ids: true, partitions, forgotten: Vec::new() }
    }

    fn quiet(high_watermark: i64) -> Answer {
        Answer { told: told(high_watermark), has_records: false, is_error: false, is_notice: false }
    }

    const NOW: TimestampMs = TimestampMs(1_000_000);

    fn partitions_of(kind: &(FetchKind, Vec<WantedPartition>)) -> Vec<i32> {
        kind.1.iter().map(|wanted| wanted.partition).collect()
    }

    #[test]
    fn a_session_lives_by_its_epochs() {
        let sessions = FetchSessions::new(10);
        let (kind, partitions) = sessions.begin(request(0, 0, vec![wanted(0), wanted(1)]), NOW).unwrap();
        assert!(matches!(kind, FetchKind::Full));
        let id = sessions.create(partitions, |_| Some(told(5)), true, NOW);
        assert_ne!(id, 0);

        assert_eq!(partitions_of(&sessions.begin(request(id, 1, vec![]), NOW).unwrap()), [0, 1]);
        assert_eq!(
            sessions.begin(request(id, 1, vec![]), NOW).unwrap_err(),
            SessionError::InvalidEpoch { found: 1, expected: 2 }
        );
        assert_eq!(sessions.begin(request(id ^ 1, 2, vec![]), NOW).unwrap_err(), SessionError::IdNotFound);
        let mut by_name = request(id, 2, vec![]);
        by_name.uses_ids = false;
        assert_eq!(sessions.begin(by_name, NOW).unwrap_err(), SessionError::TopicIdError);

        let mut change = request(id, 2, vec![wanted(7)]);
        change.forgotten = vec![(TopicKey::Id(Uuid::from_u128(1)), 0)];
        assert_eq!(partitions_of(&sessions.begin(change, NOW).unwrap()), [1, 7]);

        let (kind, _) = sessions.begin(request(id, -1, vec![]), NOW).unwrap();
        assert!(matches!(kind, FetchKind::Sessionless));
        assert!(sessions.is_empty(), "the final epoch ends the session");
    }

    #[test]
    fn forgetting_the_last_partition_ends_the_session() {
        let sessions = FetchSessions::new(10);
        let id = sessions.create(vec![wanted(0)], |_| None, true, NOW);
        let mut change = request(id, 1, vec![]);
        change.forgotten = vec![(TopicKey::Id(Uuid::from_u128(1)), 0)];
        let (kind, partitions) = sessions.begin(change, NOW).unwrap();
        assert!(matches!(kind, FetchKind::Sessionless));
        assert!(partitions.is_empty());
        assert!(sessions.is_empty());
    }

    #[test]
    fn an_incremental_answer_carries_what_changed_and_turns_the_order() {
        let sessions = FetchSessions::new(10);
        let id = sessions.create(vec![wanted(0), wanted(1), wanted(2)], |_| Some(told(5)), true, NOW);
        let (FetchKind::Incremental(session), partitions) =
            sessions.begin(request(id, 1, vec![]), NOW).unwrap()
        else {
            panic!("not incremental")
        };
        let with_records = Answer { has_records: true, ..quiet(9) };
        assert_eq!(session.select(&partitions, &[with_records, quiet(5), quiet(6)]), [true, false, true]);
        let next = sessions.begin(request(id, 2, vec![]), NOW).unwrap();
        assert_eq!(partitions_of(&next), [1, 2, 0], "what returned records comes last");
        let failed = Answer { is_error: true, ..quiet(5) };
        assert_eq!(session.select(&next.1, &[failed, quiet(6), quiet(9)]), [true, false, false]);
        let next = sessions.begin(request(id, 3, vec![]), NOW).unwrap();
        assert_eq!(
            session.select(&next.1, &[quiet(5), quiet(6), quiet(9)]),
            [true, false, false],
            "after an error all is news"
        );
    }

    #[test]
    fn a_full_cache_gives_place_only_to_the_deserving() {
        let sessions = FetchSessions::new(2);
        let one = sessions.create(vec![wanted(0)], |_| None, true, NOW);
        let two = sessions.create(vec![wanted(0), wanted(1)], |_| None, true, NOW);
        assert_eq!(
            sessions.create(vec![wanted(0), wanted(1), wanted(2)], |_| None, true, NOW),
            0,
            "all are young"
        );

        let later = TimestampMs(NOW.0 + EVICTION_AFTER_MS);
        // Both in use until just now: only a larger one gets the place of the smaller.
        let just_before = TimestampMs(later.0 - 1);
        sessions.begin(request(one, 1, vec![]), just_before).unwrap();
        sessions.begin(request(two, 1, vec![]), just_before).unwrap();
        assert_eq!(sessions.create(vec![wanted(0)], |_| None, true, later), 0);
        assert_ne!(sessions.create(vec![wanted(0), wanted(1), wanted(2)], |_| None, true, later), 0);
        assert_eq!(sessions.begin(request(one, 2, vec![]), later).unwrap_err(), SessionError::IdNotFound);
        sessions.begin(request(two, 2, vec![]), later).unwrap();

        // Idle: anyone gets it.
        let much_later = TimestampMs(later.0 + EVICTION_AFTER_MS);
        assert_ne!(sessions.create(vec![wanted(0)], |_| None, true, much_later), 0);
        assert_eq!(sessions.len(), 2);
    }

    #[test]
    fn an_epoch_wraps_to_one() {
        let sessions = FetchSessions::new(1);
        let id = sessions.create(vec![wanted(0)], |_| None, true, NOW);
        let session = Arc::clone(&sessions.slots.lock().by_id[&id].session);
        session.lock().next_epoch = i32::MAX;
        sessions.begin(request(id, i32::MAX, vec![]), NOW).unwrap();
        sessions.begin(request(id, 1, vec![]), NOW).unwrap();
    }
}
