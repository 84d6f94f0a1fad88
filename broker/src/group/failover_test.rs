//! Coordinators of several brokers over one replicated partition whose leadership moves: what was acknowledged stays, what
//! was answered does not go back, and a broker that is about to learn that it leads no longer harms nobody.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use ottla_batch::{BatchHeader, Offset};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::tests::{commit, config, fetch, join};
use super::*;

/// A mistake in the log under the coordinator, which the checks below have to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// An append is answered before it is replicated.
    AckBeforeCommit,
    /// A new leader is told that all of its log is committed.
    EndIsCommitted,
}

/// One partition as its in-sync replicas hold it.
struct ReplicatedLog {
    state: Mutex<State>,
    moved: Notify,
    planted: Planted,
}

#[derive(Default)]
struct State {
    batches: Vec<Bytes>,
    leader_epoch: i32,
    /// What every in-sync replica holds.
    committed: i64,
    /// As far as the leader knows.
    high_watermark: i64,
}

impl State {
    fn end(&self) -> i64 {
        self.batches.last().map_or(0, |batch| BatchHeader::parse(batch).unwrap().next_offset().0)
    }
}

impl ReplicatedLog {
    fn new(planted: Planted) -> Arc<ReplicatedLog> {
        Arc::new(ReplicatedLog { state: Mutex::default(), moved: Notify::new(), planted })
    }

    /// Followers fetch the first `batches` of those that only the leader has, and the leader hears of it.
    fn replicate(&self, batches: usize) {
        let mut state = self.state.lock();
        let behind = state.batches.iter().map(|batch| BatchHeader::parse(batch).unwrap().next_offset().0);
        let mut behind = behind.filter(|end| *end > state.committed).collect::<Vec<_>>();
        behind.truncate(batches);
        state.committed = behind.last().copied().unwrap_or(state.committed);
        state.high_watermark = state.committed;
        drop(state);
        self.moved.notify_waiters();
    }

    /// Another replica leads: it has all that is committed, `kept` batches that are not, and a high watermark that
    /// lags by one batch.
    fn elect(&self, kept: usize) -> LeaderEpoch {
        let mut state = self.state.lock();
        let committed = state.committed;
        let is_committed = |batch: &&Bytes| BatchHeader::parse(batch).unwrap().next_offset().0 <= committed;
        let whole = state.batches.iter().take_while(is_committed).count();
        state.batches.truncate(whole + kept);
        state.high_watermark =
            state.batches[..whole].last().map_or(0, |batch| BatchHeader::parse(batch).unwrap().base_offset.0);
        state.leader_epoch += 1;
        let epoch = LeaderEpoch(state.leader_epoch);
        drop(state);
        self.moved.notify_waiters();
        epoch
    }

    fn check(&self, leader_epoch: LeaderEpoch) -> Result<(), ReadError> {
        if self.state.lock().leader_epoch == leader_epoch.0 { Ok(()) } else { Err(ReadError::NotLeader) }
    }

    async fn until_committed(&self, leader_epoch: LeaderEpoch, end: i64) -> Result<(), ReadError> {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            if self.state.lock().high_watermark >= end {
                return Ok(());
            }
            self.check(leader_epoch)?;
            moved.await;
        }
    }
}

/// The log as one broker reaches it.
struct Reached(Arc<ReplicatedLog>);

impl OffsetsLog for Reached {
    fn append(
        &self,
        _: i32,
        leader_epoch: LeaderEpoch,
        batch: Bytes,
    ) -> BoxFuture<'static, Result<(), AppendError>> {
        let log = Arc::clone(&self.0);
        async move {
            log.check(leader_epoch).map_err(|_| AppendError::NotLeader)?;
            let end = {
                let mut state = log.state.lock();
                let mut batch = BytesMut::from(&batch[..]);
                // The base offset is not covered by the CRC.
                batch[..8].copy_from_slice(&state.end().to_be_bytes());
                state.batches.push(batch.freeze());
                state.end()
            };
            match log.planted {
                Planted::AckBeforeCommit => Ok(()),
                Planted::Nothing | Planted::EndIsCommitted => {
                    log.until_committed(leader_epoch, end).await.map_err(|_| AppendError::NotLeader)
                }
            }
        }
        .boxed()
    }

    fn read(
        &self,
        _: i32,
        leader_epoch: LeaderEpoch,
        from: Offset,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<ReadBatches, ReadError>> {
        let log = Arc::clone(&self.0);
        async move {
            log.check(leader_epoch)?;
            let state = log.state.lock();
            let mut read = BytesMut::new();
            for batch in &state.batches {
                let wanted = BatchHeader::parse(batch).unwrap().next_offset() > from;
                if wanted && (read.is_empty() || read.len() + batch.len() <= bytes_max) {
                    read.extend_from_slice(batch);
                } else if wanted {
                    break;
                }
            }
            let end_offset = Offset(state.end());
            Ok(ReadBatches { batches: read.freeze(), log_start_offset: Offset(0), end_offset })
        }
        .boxed()
    }

    fn committed(
        &self,
        _: i32,
        leader_epoch: LeaderEpoch,
        end: Offset,
    ) -> BoxFuture<'static, Result<(), ReadError>> {
        let log = Arc::clone(&self.0);
        async move {
            match log.planted {
                Planted::EndIsCommitted => Ok(()),
                Planted::Nothing | Planted::AckBeforeCommit => log.until_committed(leader_epoch, end.0).await,
            }
        }
        .boxed()
    }

    fn confirm_leader(&self, _: i32, leader_epoch: LeaderEpoch) -> BoxFuture<'static, Result<(), ReadError>> {
        futures::future::ready(self.0.check(leader_epoch)).boxed()
    }

    fn batch_bytes_max(&self) -> usize {
        4_096
    }
}

fn broker(log: &Arc<ReplicatedLog>) -> Arc<GroupCoordinator> {
    GroupCoordinator::new(config(), Arc::new(Reached(Arc::clone(log))))
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

async fn committed_offset(groups: &Arc<GroupCoordinator>) -> Result<i64, GroupError> {
    groups.fetch_offsets(&fetch("g")).await.map(|fetched| fetched.topics[0].1[0].offset)
}

fn start_commit(
    groups: &Arc<GroupCoordinator>,
    offset: i64,
) -> tokio::task::JoinHandle<Result<(), GroupError>> {
    let groups = Arc::clone(groups);
    tokio::spawn(async move { groups.commit_offsets(&commit("g", offset)).await.map(|_| ()) })
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_answers_when_all_that_it_took_over_is_committed() {
    let log = ReplicatedLog::new(Planted::Nothing);
    let (old, new) = (broker(&log), broker(&log));
    old.become_leader(0, log.elect(0));
    settle().await;
    let first = start_commit(&old, 1);
    settle().await;
    log.replicate(1);
    assert_eq!(first.await.unwrap(), Ok(()));
    let second = start_commit(&old, 2);
    settle().await;
    assert!(!second.is_finished(), "an answer waits for the in-sync set");

    // The second commit survives on the new leader, whose followers do not have it yet.
    let epoch = log.elect(1);
    new.become_leader(0, epoch);
    old.become_follower(0);
    assert_eq!(second.await.unwrap(), Err(GroupError::NotCoordinator));
    assert_eq!(committed_offset(&old).await, Err(GroupError::NotCoordinator));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(committed_offset(&new).await, Err(GroupError::CoordinatorLoadInProgress));
    assert_eq!(
        new.commit_offsets(&commit("g", 3)).await,
        Err(GroupError::CoordinatorLoadInProgress),
        "nor does it take anything"
    );
    log.replicate(1);
    settle().await;
    assert_eq!(committed_offset(&new).await, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_does_not_know_of_its_successor_acknowledges_nothing() {
    let log = ReplicatedLog::new(Planted::Nothing);
    let (old, new) = (broker(&log), broker(&log));
    old.become_leader(0, log.elect(0));
    settle().await;
    let pending = start_commit(&old, 1);
    settle().await;
    new.become_leader(0, log.elect(0));
    settle().await;
    assert_eq!(pending.await.unwrap(), Err(GroupError::NotCoordinator), "cut off with the old leader's log");
    assert_eq!(committed_offset(&new).await, Ok(-1));
    // The old leader tries to read its partition again, which its lost epoch forbids for ever.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(committed_offset(&old).await, Err(GroupError::CoordinatorLoadInProgress));
    assert_eq!(start_commit(&old, 2).await.unwrap(), Err(GroupError::CoordinatorLoadInProgress));
    old.become_follower(0);
    assert_eq!(committed_offset(&old).await, Err(GroupError::NotCoordinator));
}

#[tokio::test(start_paused = true)]
async fn a_load_for_a_lost_epoch_never_wins() {
    let log = ReplicatedLog::new(Planted::Nothing);
    let (first, other) = (broker(&log), broker(&log));
    first.become_leader(0, log.elect(0));
    settle().await;
    let uncommitted = start_commit(&first, 7);
    settle().await;
    // The load of epoch 2 hangs on the record that is not committed yet.
    first.become_leader(0, log.elect(1));
    settle().await;
    assert_eq!(uncommitted.await.unwrap(), Err(GroupError::NotCoordinator));
    // Epoch 3 is elsewhere, without that record; epoch 4 is here again.
    other.become_leader(0, log.elect(0));
    first.become_follower(0);
    settle().await;
    let elsewhere = start_commit(&other, 9);
    settle().await;
    log.replicate(1);
    assert_eq!(elsewhere.await.unwrap(), Ok(()));
    first.become_leader(0, log.elect(0));
    log.replicate(1);
    settle().await;
    assert_eq!(committed_offset(&first).await, Ok(9));
}

#[tokio::test(start_paused = true)]
async fn a_group_goes_on_where_it_moves_to() {
    let log = ReplicatedLog::new(Planted::Nothing);
    let (old, new) = (broker(&log), broker(&log));
    let timers = [&old, &new].map(super::tests::drive_timers);
    old.become_leader(0, log.elect(0));
    settle().await;
    let joined = old.join_group(join(""), MemberIdSuffix(uuid::Uuid::nil())).await.unwrap();
    let sync = || SyncGroup {
        group_id: "g".into(),
        generation: joined.generation,
        member_id: joined.member_id.clone(),
        instance_id: None,
        protocol_type: None,
        protocol_name: None,
        assignments: vec![(joined.member_id.clone(), Bytes::from_static(b"all"))],
    };
    // The assignment is on its way to the followers when the leadership moves: the member is sent on, and asks again.
    let parked = {
        let (old, sync) = (Arc::clone(&old), sync());
        tokio::spawn(async move { old.sync_group(sync).await })
    };
    settle().await;
    new.become_leader(0, log.elect(1));
    old.become_follower(0);
    assert_eq!(parked.await.unwrap(), Err(GroupError::NotCoordinator));
    log.replicate(1);
    settle().await;
    assert_eq!(new.sync_group(sync()).await.unwrap().assignment, "all");
    let heartbeat = Heartbeat {
        group_id: "g".into(),
        generation: joined.generation,
        member_id: joined.member_id.clone(),
        instance_id: None,
    };
    assert_eq!(new.heartbeat(&heartbeat), Ok(()));
    assert_eq!(old.heartbeat(&heartbeat), Err(GroupError::NotCoordinator));
    timers.iter().for_each(|timer| timer.abort());
}

/// Random commits, replication and elections, with brokers that learn late of what they lost. Says what went wrong.
async fn run(seed: u64, planted: Planted) -> Result<(), String> {
    let mut random = StdRng::seed_from_u64(seed);
    let log = ReplicatedLog::new(planted);
    let brokers: Vec<_> = (0..3).map(|_| broker(&log)).collect();
    let mut leader = 0;
    brokers[0].become_leader(0, log.elect(0));
    let (mut acknowledged, mut seen) = (-1, -1);
    let mut on_their_way: BTreeMap<i64, tokio::task::JoinHandle<Result<(), GroupError>>> = BTreeMap::new();
    for step in 1..400 {
        match random.random_range(0..10) {
            0..4 => {
                // Any broker may be asked; those that do not lead, or not any more, must refuse.
                let asked = if random.random_bool(0.8) { leader } else { random.random_range(0..3) };
                on_their_way.insert(step, start_commit(&brokers[asked], step));
            }
            4..7 => log.replicate(random.random_range(0..3)),
            7 => {
                let epoch = log.elect(random.random_range(0..3));
                let next = random.random_range(0..3);
                brokers[next].become_leader(0, epoch);
                if next != leader && random.random_bool(0.5) {
                    brokers[leader].become_follower(0);
                }
                leader = next;
            }
            8 => {
                let behind = random.random_range(0..3);
                if behind != leader {
                    brokers[behind].become_follower(0);
                }
            }
            _ => tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await,
        }
        settle().await;
        let finished: Vec<i64> =
            on_their_way.iter().filter(|(_, task)| task.is_finished()).map(|(offset, _)| *offset).collect();
        for offset in finished {
            let answer = on_their_way.remove(&offset).unwrap().await.unwrap();
            if answer.is_ok() {
                acknowledged = acknowledged.max(offset);
            }
        }
        if let Ok(offset) = committed_offset(&brokers[leader]).await {
            if offset < acknowledged {
                return Err(format!("step {step}: {acknowledged} was acknowledged, {offset} is there"));
            }
            if offset < seen {
                return Err(format!("step {step}: {seen} was seen, {offset} is there"));
            }
            seen = offset;
        }
    }
    // Faults have ended: the group works again.
    let replicating = async {
        loop {
            log.replicate(usize::MAX);
            settle().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let last = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        start_commit(&brokers[leader], 1_000).await
    };
    let last = tokio::select! {
        last = last => last,
        () = replicating => unreachable!("it never ends"),
    };
    last.unwrap().map_err(|error| format!("the last commit: {error}"))
}

#[tokio::test(start_paused = true)]
async fn no_acknowledged_commit_is_lost_and_no_answer_goes_back() {
    for seed in 0..60 {
        assert_eq!(run(seed, Planted::Nothing).await, Ok(()), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_checks_see_planted_mistakes() {
    for planted in [Planted::AckBeforeCommit, Planted::EndIsCommitted] {
        let mut caught = None;
        for seed in 0..60 {
            caught = caught.or(run(seed, planted).await.err());
        }
        assert!(caught.is_some(), "{planted:?} is not seen");
    }
}
