//! The coordinator around the machine, on a log in memory and paused time: loading, leadership, grouped writes, turns.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use ottla_batch::{BatchHeader, Offset};
use parking_lot::Mutex;
use uuid::Uuid;

use super::*;

/// Keeps batches per partition; appends wait while `gate` is closed and fail as told.
#[derive(Default)]
struct MemoryLog {
    partitions: Mutex<BTreeMap<i32, Vec<Bytes>>>,
    fail_next: Mutex<Option<AppendError>>,
    gate: Mutex<Option<Arc<Notify>>>,
    is_unreadable: Mutex<bool>,
}

impl MemoryLog {
    fn end(batches: &[Bytes]) -> i64 {
        batches.last().map_or(0, |batch| BatchHeader::parse(batch).unwrap().next_offset().0)
    }

    fn batches(&self, partition: i32) -> Vec<Bytes> {
        self.partitions.lock().get(&partition).cloned().unwrap_or_default()
    }

    fn put(&self, partition: i32, batch: Bytes) {
        let mut partitions = self.partitions.lock();
        let batches = partitions.entry(partition).or_default();
        let mut batch = BytesMut::from(&batch[..]);
        // The base offset is not covered by the CRC.
        batch[..8].copy_from_slice(&Self::end(batches).to_be_bytes());
        batches.push(batch.freeze());
    }

    /// Closes the gate until the returned handle is notified once per waiting append.
    fn close_gate(&self) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        *self.gate.lock() = Some(Arc::clone(&gate));
        gate
    }
}

struct SharedLog(Arc<MemoryLog>);

impl OffsetsLog for SharedLog {
    fn append(
        &self,
        partition: i32,
        _: LeaderEpoch,
        batch: Bytes,
    ) -> BoxFuture<'static, Result<(), AppendError>> {
        let log = Arc::clone(&self.0);
        async move {
            let gate = log.gate.lock().clone();
            if let Some(gate) = gate {
                gate.notified().await;
            }
            if let Some(error) = log.fail_next.lock().take() {
                return Err(error);
            }
            log.put(partition, batch);
            Ok(())
        }
        .boxed()
    }

    fn read(
        &self,
        partition: i32,
        _: LeaderEpoch,
        from: Offset,
        bytes_max: usize,
    ) -> BoxFuture<'static, Result<ReadBatches, ReadError>> {
        if *self.0.is_unreadable.lock() {
            return futures::future::ready(Err(ReadError::NotLeader)).boxed();
        }
        let batches = self.0.batches(partition);
        let end_offset = Offset(MemoryLog::end(&batches));
        let mut read = BytesMut::new();
        for batch in batches {
            let header = BatchHeader::parse(&batch).unwrap();
            if header.next_offset() > from {
                // As a replica: the first batch whole, the last cut where the limit says.
                let room = if read.is_empty() { batch.len() } else { bytes_max.saturating_sub(read.len()) };
                read.extend_from_slice(&batch[..room.min(batch.len())]);
                if room < batch.len() {
                    break;
                }
            }
        }
        let read = ReadBatches { batches: read.freeze(), log_start_offset: Offset(0), end_offset };
        futures::future::ready(Ok(read)).boxed()
    }

    fn committed(&self, _: i32, _: LeaderEpoch, _: Offset) -> BoxFuture<'static, Result<(), ReadError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn confirm_leader(&self, _: i32, _: LeaderEpoch) -> BoxFuture<'static, Result<(), ReadError>> {
        futures::future::ready(Ok(())).boxed()
    }

    fn batch_bytes_max(&self) -> usize {
        4_096
    }
}

pub(super) fn config() -> GroupConfig {
    GroupConfig {
        initial_rebalance_delay: Duration::from_secs(3),
        session_timeout_min: Duration::from_secs(6),
        session_timeout_max: Duration::from_secs(1_800),
        size_max: 100,
        offset_metadata_bytes_max: 8_192,
        offsets_topic_partitions: 1,
        offsets_topic_replication_factor: 1,
        offsets_topic_segment_bytes: 104_857_600,
        offsets_topic_compression: 0,
        offsets_retention: Duration::from_secs(7 * 24 * 3_600),
        offsets_retention_check_interval: Duration::from_secs(600),
        offset_commit_timeout: Duration::from_secs(5),
        load_buffer_bytes: 1_000,
    }
}

fn coordinator(log: &Arc<MemoryLog>) -> Arc<GroupCoordinator> {
    GroupCoordinator::new(config(), Arc::new(SharedLog(Arc::clone(log))))
}

async fn until_active(groups: &Arc<GroupCoordinator>) {
    for _ in 0..1_000 {
        if groups.list_groups().is_ok() && groups.fetch_offsets(&fetch("g")).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the partition is never loaded");
}

async fn leading(log: &Arc<MemoryLog>, leader_epoch: i32) -> Arc<GroupCoordinator> {
    let groups = coordinator(log);
    groups.become_leader(0, LeaderEpoch(leader_epoch));
    until_active(&groups).await;
    groups
}

pub(super) fn fetch(group_id: &str) -> FetchOffsets {
    FetchOffsets { group_id: group_id.into(), topics: Some(vec![("t".into(), vec![0])]) }
}

async fn fetched(groups: &Arc<GroupCoordinator>, group_id: &str) -> i64 {
    groups.fetch_offsets(&fetch(group_id)).await.unwrap().topics[0].1[0].offset
}

pub(super) fn commit(group_id: &str, offset: i64) -> CommitOffsets {
    let partition = CommitPartition { partition: 0, offset, leader_epoch: -1, metadata: "".into() };
    CommitOffsets {
        group_id: group_id.into(),
        generation: -1,
        member_id: "".into(),
        instance_id: None,
        retention_ms: None,
        topics: vec![CommitTopic { name: "t".into(), partitions: vec![partition] }],
    }
}

pub(super) fn join(member_id: &str) -> JoinGroup {
    JoinGroup {
        group_id: "g".into(),
        member_id: member_id.into(),
        instance_id: None,
        client_id: "client".into(),
        client_host: "/127.0.0.1".into(),
        protocol_type: "consumer".into(),
        protocols: vec![Protocol { name: "range".into(), metadata: Bytes::from_static(b"m") }],
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        member_id_rule: MemberIdRule::Assign,
        static_rejoin: StaticRejoin::SkipAssignment,
    }
}

/// Drives timers as `run` does, without the metadata.
pub(super) fn drive_timers(groups: &Arc<GroupCoordinator>) -> tokio::task::JoinHandle<()> {
    let groups = Arc::clone(groups);
    tokio::spawn(async move {
        loop {
            let wake_ms = groups.fire_timers();
            let at = groups.started + Duration::from_millis(wake_ms.min(1_000_000_000));
            tokio::select! {
                _ = tokio::time::sleep_until(at) => {}
                _ = groups.wake.notified() => {}
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_of_the_partition_answers() {
    let log = Arc::new(MemoryLog::default());
    let groups = coordinator(&log);
    assert_eq!(groups.fetch_offsets(&fetch("g")).await, Err(GroupError::NotCoordinator));
    *log.is_unreadable.lock() = true;
    groups.become_leader(0, LeaderEpoch(3));
    assert_eq!(groups.fetch_offsets(&fetch("g")).await, Err(GroupError::CoordinatorLoadInProgress));
    assert_eq!(groups.list_groups(), Err(GroupError::CoordinatorLoadInProgress));
    *log.is_unreadable.lock() = false;
    until_active(&groups).await;
    assert_eq!(groups.commit_offsets(&commit("g", 1)).await.map(|_| ()), Ok(()));
    groups.become_follower(0);
    assert_eq!(groups.commit_offsets(&commit("g", 2)).await, Err(GroupError::NotCoordinator));
    assert_eq!(groups.list_groups(), Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn requests_wait_a_little_for_a_partition_that_is_being_loaded() {
    let log = Arc::new(MemoryLog::default());
    let groups = coordinator(&log);
    let began = Instant::now();
    groups.await_loaded(["g"]).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "nothing is loading");

    *log.is_unreadable.lock() = true;
    groups.become_leader(0, LeaderEpoch(3));
    groups.await_loaded(["g", "h"]).await;
    assert_eq!(began.elapsed(), LOADED_WAIT_MAX, "one limit for all groups of a request");
    assert_eq!(groups.fetch_offsets(&fetch("g")).await, Err(GroupError::CoordinatorLoadInProgress));

    // Loaded within the time; and those who wait are let go when the leadership is lost.
    let waiting = tokio::spawn({
        let groups = Arc::clone(&groups);
        async move { groups.await_loaded(["g"]).await }
    });
    tokio::task::yield_now().await;
    *log.is_unreadable.lock() = false;
    waiting.await.unwrap();
    assert!(groups.fetch_offsets(&fetch("g")).await.is_ok());

    *log.is_unreadable.lock() = true;
    groups.become_leader(0, LeaderEpoch(4));
    let began = Instant::now();
    let waiting = tokio::spawn({
        let groups = Arc::clone(&groups);
        async move { groups.await_all_loaded().await }
    });
    tokio::task::yield_now().await;
    groups.become_follower(0);
    waiting.await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_is_there_after_a_restart() {
    let log = Arc::new(MemoryLog::default());
    let groups = leading(&log, 1).await;
    for offset in 0..50 {
        groups.commit_offsets(&commit(&format!("g{}", offset % 5), offset)).await.unwrap();
    }
    let again = leading(&log, 2).await;
    for group in 0..5 {
        assert_eq!(fetched(&again, &format!("g{group}")).await, 45 + group);
    }
}

#[tokio::test(start_paused = true)]
async fn commits_that_wait_share_the_next_append() {
    let log = Arc::new(MemoryLog::default());
    let groups = leading(&log, 1).await;
    let gate = log.close_gate();
    let mut commits = Vec::new();
    for number in 0..20 {
        let groups = Arc::clone(&groups);
        commits
            .push(tokio::spawn(async move { groups.commit_offsets(&commit("g", number)).await.map(|_| ()) }));
        // The first reaches the log before the others come.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fetched(&groups, "g").await, -1, "nothing is seen before it is durable");
    gate.notify_one();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    for commit in commits {
        assert_eq!(commit.await.unwrap(), Ok(()));
    }
    assert_eq!(log.batches(0).len(), 2, "the first alone, all that came meanwhile together");
    assert_eq!(fetched(&groups, "g").await, 19);
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_takes_too_long_is_answered_in_time() {
    let log = Arc::new(MemoryLog::default());
    let groups = leading(&log, 1).await;
    let gate = log.close_gate();
    let began = Instant::now();
    assert_eq!(groups.commit_offsets(&commit("g", 1)).await, Err(GroupError::CoordinatorNotAvailable));
    assert_eq!(began.elapsed().as_secs(), 5);
    gate.notify_one();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fetched(&groups, "g").await, 1, "it became durable later");
}

#[tokio::test(start_paused = true)]
async fn a_failed_append_refuses_its_commits_only() {
    let log = Arc::new(MemoryLog::default());
    let groups = leading(&log, 1).await;
    for (failure, expected) in [
        (AppendError::NotEnoughReplicas, GroupError::CoordinatorNotAvailable),
        (AppendError::TooLarge, GroupError::InvalidCommitOffsetSize),
        (AppendError::Failed("disk".to_owned()), GroupError::CoordinatorNotAvailable),
    ] {
        *log.fail_next.lock() = Some(failure);
        assert_eq!(groups.commit_offsets(&commit("g", 1)).await, Err(expected));
        assert_eq!(fetched(&groups, "g").await, -1);
    }
    assert!(groups.commit_offsets(&commit("g", 2)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_append_in_a_lost_epoch_sends_everyone_away_and_reads_the_log_again() {
    let log = Arc::new(MemoryLog::default());
    let groups = leading(&log, 1).await;
    groups.commit_offsets(&commit("g", 1)).await.unwrap();
    *log.fail_next.lock() = Some(AppendError::NotLeader);
    assert_eq!(groups.commit_offsets(&commit("g", 2)).await, Err(GroupError::NotCoordinator));
    until_active(&groups).await;
    assert_eq!(fetched(&groups, "g").await, 1);
    assert!(groups.commit_offsets(&commit("g", 3)).await.is_ok(), "a writer runs again");
}

#[tokio::test(start_paused = true)]
async fn offsets_that_do_not_fit_into_a_batch_are_refused() {
    let log = Arc::new(MemoryLog::default());
    let groups = leading(&log, 1).await;
    let mut request = commit("g", 1);
    let template = request.topics[0].partitions[0].clone();
    request.topics[0].partitions =
        (0..100).map(|partition| CommitPartition { partition, ..template.clone() }).collect();
    assert_eq!(groups.commit_offsets(&request).await, Err(GroupError::InvalidCommitOffsetSize));
    assert!(log.batches(0).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deletion_takes_offsets_that_were_on_their_way_and_spans_batches() {
    let log = Arc::new(MemoryLog::default());
    let groups = leading(&log, 1).await;
    let gate = log.close_gate();
    let mut commits = Vec::new();
    for partition in 0..100 {
        let groups = Arc::clone(&groups);
        let mut request = commit("g", 7);
        request.topics[0].partitions[0].partition = partition;
        commits.push(tokio::spawn(async move { groups.commit_offsets(&request).await.map(|_| ()) }));
        tokio::task::yield_now().await;
    }
    let deletion = {
        let groups = Arc::clone(&groups);
        // A group that exists: its first commit is under way, so the deletion must wait for its turn.
        tokio::spawn(async move { groups.delete_group(&"g".into()).await })
    };
    tokio::task::yield_now().await;
    *log.gate.lock() = None;
    gate.notify_one();
    for commit in commits {
        assert_eq!(commit.await.unwrap(), Ok(()));
    }
    assert_eq!(deletion.await.unwrap(), Ok(()));
    assert_eq!(fetched(&groups, "g").await, -1);
    assert!(log.batches(0).iter().all(|batch| batch.len() <= 4_096));
    assert!(log.batches(0).len() > 3);
    let again = leading(&log, 2).await;
    assert_eq!(again.list_groups(), Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_group_forms_on_the_coordinators_own_timers() {
    let log = Arc::new(MemoryLog::default());
    let groups = leading(&log, 1).await;
    let timers = drive_timers(&groups);
    let began = Instant::now();
    let joined = groups.join_group(join(""), MemberIdSuffix(Uuid::nil())).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 3, "the initial rebalance delay");
    let sync = SyncGroup {
        group_id: "g".into(),
        generation: joined.generation,
        member_id: joined.member_id.clone(),
        instance_id: None,
        protocol_type: None,
        protocol_name: None,
        assignments: vec![(joined.member_id.clone(), Bytes::from_static(b"all"))],
    };
    assert_eq!(groups.sync_group(sync).await.unwrap().assignment, "all");
    assert_eq!(groups.describe_group(&"g".into()).await.unwrap().state, GroupState::Stable);

    // Another broker takes over: the group goes on, until its member is silent for a session.
    let next = leading(&log, 2).await;
    let next_timers = drive_timers(&next);
    assert_eq!(next.describe_group(&"g".into()).await, groups.describe_group(&"g".into()).await);
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    assert_eq!(next.describe_group(&"g".into()).await.unwrap().state, GroupState::Empty);
    timers.abort();
    next_timers.abort();
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_the_log_cannot_take_is_refused_at_once() {
    let groups = leading(&Arc::new(MemoryLog::default()), 3).await;
    let mut request = join("");
    request.protocols[0].metadata = vec![0; 4_097].into();
    let refused = groups.join_group(request.clone(), MemberIdSuffix(Uuid::from_u128(1))).await.unwrap_err();
    assert_eq!(refused.error, GroupError::SubscriptionTooLarge);
    assert_eq!(groups.list_groups(), Ok(vec![]));
    request.protocols[0].metadata = vec![0; 4_096].into();
    request.member_id_rule = MemberIdRule::Require;
    let refused = groups.join_group(request, MemberIdSuffix(Uuid::from_u128(1))).await.unwrap_err();
    assert_eq!(refused.error, GroupError::MemberIdRequired);
}

#[tokio::test(start_paused = true)]
async fn parked_requests_are_answered_when_the_leadership_goes() {
    let log = Arc::new(MemoryLog::default());
    let groups = leading(&log, 1).await;
    let parked = {
        let groups = Arc::clone(&groups);
        tokio::spawn(async move { groups.join_group(join(""), MemberIdSuffix(Uuid::nil())).await })
    };
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    groups.shutdown();
    assert_eq!(parked.await.unwrap().unwrap_err().error, GroupError::NotCoordinator);
}

#[tokio::test(start_paused = true)]
async fn records_that_cannot_be_read_are_left_out() {
    let log = Arc::new(MemoryLog::default());
    let mut builder = ottla_batch::BatchBuilder::new(Default::default());
    let now = ottla_batch::TimestampMs(1);
    builder.push(now, Some(&[0, 9, 1]), Some(b"of a later version"), &[]).unwrap();
    builder.push(now, Some(&[0, 1, 0, 9]), Some(b"cut off"), &[]).unwrap();
    log.put(0, builder.build().unwrap());
    let groups = leading(&log, 1).await;
    groups.commit_offsets(&commit("g", 4)).await.unwrap();
    assert_eq!(fetched(&leading(&log, 2).await, "g").await, 4);
}

#[tokio::test(start_paused = true)]
async fn an_older_epoch_does_not_take_a_newer_ones_place() {
    let log = Arc::new(MemoryLog::default());
    let groups = leading(&log, 5).await;
    groups.commit_offsets(&commit("g", 4)).await.unwrap();
    groups.become_leader(0, LeaderEpoch(4));
    groups.become_leader(0, LeaderEpoch(5));
    assert_eq!(fetched(&groups, "g").await, 4, "nothing is loaded again");
    groups.become_leader(0, LeaderEpoch(6));
    assert_eq!(groups.fetch_offsets(&fetch("g")).await, Err(GroupError::CoordinatorLoadInProgress));
    until_active(&groups).await;
    assert_eq!(fetched(&groups, "g").await, 4);
}
