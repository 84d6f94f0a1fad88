//! The group coordinator: consumer groups (the classic protocol) and committed offsets, kept in `__consumer_offsets`.
//!
//! [`GroupCoordinator`] is what handlers ask. It finds the shard of a group, runs one step of the shard's machine under
//! its lock, and waits for the answer. Around it:
//! - `machine` with `decide` (reads, returns) and `replay` (the only mutator): the rules, pure, with time as a value;
//! - `records`, `subscription`: formats; `state`, `timers`: values;
//! - `shard`: lock, parked requests and write queue of one partition; `load`: reading it;
//! - `offsets_log`: the door to the log, `replicas_log` its implementation in a broker.
//!
//! Invariants: an answer that promises something to be stored leaves after it is durable; what others see is durable;
//! a shard answers only between having read its partition to an end that is committed and losing its leadership. Handlers, sockets and
//! error codes are elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use ottla_batch::{Codec, LeaderEpoch};
use ottla_raft::{BrokerId, Image, Metadata};
use parking_lot::RwLock;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub mod decide;
mod load;
pub mod machine;
mod offsets_log;
mod offsets_topic;
pub mod records;
mod replay;
mod replicas_log;
mod requests;
mod shard;
pub mod state;
mod subscription;
mod timers;

pub use offsets_log::{AppendError, OffsetsLog, ReadBatches, ReadError};
pub use offsets_topic::{OFFSETS_TOPIC, partition_for, topic_configs};
pub use shard::batches_of;

pub use replicas_log::ReplicasLog;
pub use requests::*;

use crate::clock;
use crate::config::{GroupConfig, NodeConfig};
use decide::{Answer, Effects, Now, Rules};
use load::LoadError;
use machine::Machine;
use offsets_topic::OffsetsTopic;
use shard::{Core, Job, Kind, NextAppend, Shard, Status};
use state::Token;

/// Between attempts to read a partition, doubling from the first to the second.
const LOAD_RETRY_MIN: Duration = Duration::from_millis(10);
const LOAD_RETRY_MAX: Duration = Duration::from_secs(10);
/// The same while the replica has not followed the metadata yet, or the metadata not the replica: a matter of milliseconds.
const LEADERSHIP_RETRY_MAX: Duration = Duration::from_millis(100);
/// How long a request waits for its partition to be loaded, or the node for the broker's leaderships to be known here.
/// Longer than an ordinary start takes, shorter than any client's patience.
const LOADED_WAIT_MAX: Duration = Duration::from_secs(1);

/// As of when a partition's committed offsets were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetsVersion {
    pub partition: i32,
    pub leader_epoch: LeaderEpoch,
    pub changes: u64,
}

/// Coordinates the groups whose `__consumer_offsets` partition this broker leads. One per broker.
pub struct GroupCoordinator {
    config: GroupConfig,
    rules: Rules,
    codec: Codec,
    log: Arc<dyn OffsetsLog>,
    topic: OffsetsTopic,
    /// The partitions led by this broker.
    shards: RwLock<BTreeMap<i32, Arc<Shard>>>,
    /// Of `__consumer_offsets`, as soon as it exists; as configured before.
    partitions: AtomicI32,
    started: Instant,
    /// When `run` wakes for timers, milliseconds since `started`; a step that arms an earlier one tells `wake`.
    wake_ms: AtomicU64,
    wake: Notify,
    /// Offset of the newest image whose leaderships are in force here.
    followed: tokio::sync::watch::Sender<u64>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl GroupCoordinator {
    pub fn new(config: GroupConfig, log: Arc<dyn OffsetsLog>) -> Arc<GroupCoordinator> {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let timeout = |duration: Duration| i32::try_from(duration.as_millis()).unwrap_or(i32::MAX);
        let rules = Rules {
            session_timeout_ms_min: timeout(config.session_timeout_min),
            session_timeout_ms_max: timeout(config.session_timeout_max),
            members_max: config.size_max,
            initial_rebalance_delay_ms: u64::try_from(millis(config.initial_rebalance_delay)).unwrap_or(0),
            metadata_bytes_max: config.offset_metadata_bytes_max.min(records::STRING_BYTES_MAX),
            retention_ms: millis(config.offsets_retention),
            log_wait_ms_max: u64::try_from(millis(config.offset_commit_timeout)).unwrap_or(0),
        };
        let codec = match config.offsets_topic_compression {
            1 => Codec::Gzip,
            2 => Codec::Snappy,
            3 => Codec::Lz4,
            4 => Codec::Zstd,
            _ => Codec::None,
        };
        Arc::new(GroupCoordinator {
            rules,
            codec,
            log,
            topic: OffsetsTopic::default(),
            shards: RwLock::default(),
            partitions: AtomicI32::new(config.offsets_topic_partitions.max(1)),
            started: Instant::now(),
            wake_ms: AtomicU64::new(u64::MAX),
            wake: Notify::new(),
            followed: tokio::sync::watch::Sender::new(0),
            stop: tokio::sync::watch::Sender::new(false),
            config,
        })
    }

    // ---- what handlers ask

    /// Holds a request until the partitions of its groups are loaded, for a short time at most: COORDINATOR_LOAD_IN_PROGRESS
    /// is Kafka's answer while they are not, but clients make noise about it (KafkaJS logs a crash), and in an ordinary
    /// start it is a matter of milliseconds. Whether they are loaded then is for the request itself to find out.
    pub fn await_loaded<'a>(&self, group_ids: impl IntoIterator<Item = &'a str>) -> BoxFuture<'static, ()> {
        let loading = |group_id| self.shard(group_id).ok().filter(|shard| shard.is_loading());
        // Boxed: a future that named the type of the iterator could not be sent between threads (rust-lang/rust#100013).
        await_shards(group_ids.into_iter().filter_map(loading).collect()).boxed()
    }

    /// As [`GroupCoordinator::await_loaded`], for all groups of this broker.
    pub fn await_all_loaded(&self) -> BoxFuture<'static, ()> {
        await_shards(self.all_shards()).boxed()
    }

    /// Creates `__consumer_offsets` if it is not there, and waits until this broker knows it.
    pub async fn ensure_topic(&self, metadata: &Metadata, config: &NodeConfig) -> Result<(), GroupError> {
        self.topic.ensure(metadata, config, Instant::now()).await
    }

    /// Holds an answer that names this broker as a coordinator until it knows that it is one.
    pub async fn await_followed(&self, metadata_offset: u64) {
        let mut followed = self.followed.subscribe();
        let reached = followed.wait_for(|followed| *followed >= metadata_offset);
        let _ = tokio::time::timeout(LOADED_WAIT_MAX, reached).await;
    }

    pub async fn join_group(
        self: &Arc<Self>,
        request: JoinGroup,
        suffix: MemberIdSuffix,
    ) -> Result<Joined, JoinRefused> {
        let refused = |error| JoinRefused { error, member_id: request.member_id.clone() };
        // The log could never take it; and until it had to, it would lie in memory for as long as the member's session.
        let subscribed: usize = request.protocols.iter().map(|protocol| protocol.metadata.len()).sum();
        if subscribed > self.log.batch_bytes_max() {
            return Err(refused(GroupError::SubscriptionTooLarge));
        }
        let asked = self.ask(&request.group_id, Kind::Join, |core, now, token| {
            core.check_backlog()?;
            Ok(core.machine.join(now, token, &request, suffix))
        });
        match wait(asked).await {
            Ok(Answer::Join(result)) => result,
            Ok(other) => panic!("JoinGroup was answered by {other:?}"),
            Err(error) => Err(refused(error)),
        }
    }

    pub async fn sync_group(self: &Arc<Self>, request: SyncGroup) -> Result<Synced, GroupError> {
        let group_id = request.group_id.clone();
        let asked = self.ask(&group_id, Kind::Sync, |core, now, token| {
            core.check_backlog()?;
            Ok(core.machine.sync(now, token, request))
        });
        match wait(asked).await? {
            Answer::Sync(result) => result,
            other => panic!("SyncGroup was answered by {other:?}"),
        }
    }

    pub fn heartbeat(self: &Arc<Self>, request: &Heartbeat) -> Result<(), GroupError> {
        self.step(&request.group_id, |core, now| {
            let (result, effects) = core.machine.heartbeat(now, request);
            core.perform(effects);
            result
        })?
    }

    pub fn leave_group(self: &Arc<Self>, request: &LeaveGroup) -> Result<Vec<LeftMember>, GroupError> {
        self.step(&request.group_id, |core, now| {
            let (result, effects) = core.machine.leave(now, request);
            core.perform(effects);
            result
        })?
    }

    /// Answers when the offsets are durable, or COORDINATOR_NOT_AVAILABLE after `offsets.commit.timeout.ms`; they may
    /// still become so then.
    pub async fn commit_offsets(
        self: &Arc<Self>,
        request: &CommitOffsets,
    ) -> Result<PartitionResults, GroupError> {
        let asked = self.ask(&request.group_id, Kind::Partitions, |core, now, token| {
            core.check_backlog()?;
            Ok(core.machine.commit(now, token, request))
        });
        self.partitions_answer(asked).await
    }

    pub async fn fetch_offsets(
        self: &Arc<Self>,
        request: &FetchOffsets,
    ) -> Result<FetchedOffsets, GroupError> {
        self.confirm(&request.group_id).await?;
        self.step(&request.group_id, |core, _| core.machine.fetch(request))?
    }

    pub async fn delete_offsets(
        self: &Arc<Self>,
        request: DeleteOffsets,
    ) -> Result<PartitionResults, GroupError> {
        let group_id = request.group_id.clone();
        let asked = self.ask(&group_id, Kind::Partitions, |core, _, token| {
            core.enqueue(Job::DeleteOffsets(token, request));
            Ok(Effects::default())
        });
        self.partitions_answer(asked).await
    }

    pub async fn delete_group(self: &Arc<Self>, group_id: &GroupId) -> Result<(), GroupError> {
        let asked = self.ask(group_id, Kind::Done, |core, _, token| {
            core.enqueue(Job::Delete(token, group_id.clone()));
            Ok(Effects::default())
        });
        match self.wait_for_log(asked).await? {
            Answer::Done(result) => result,
            other => panic!("DeleteGroups was answered by {other:?}"),
        }
    }

    pub async fn describe_group(self: &Arc<Self>, group_id: &GroupId) -> Result<DescribedGroup, GroupError> {
        self.confirm(group_id).await?;
        self.step(group_id, |core, _| core.machine.describe(group_id))?
    }

    /// All groups of this broker; refused while one of its partitions is being read, as the list would have a hole.
    pub fn list_groups(&self) -> Result<Vec<ListedGroup>, GroupError> {
        let mut groups = Vec::new();
        for shard in self.all_shards() {
            let core = shard.core.lock();
            match core.check_active() {
                Ok(()) => groups.extend(core.machine.list()),
                Err(GroupError::CoordinatorLoadInProgress) => {
                    return Err(GroupError::CoordinatorLoadInProgress);
                }
                // Led no longer: the next broker lists them.
                Err(_) => {}
            }
        }
        Ok(groups)
    }

    /// How often the committed offsets changed in each partition that this broker coordinates; not in those that it is reading.
    pub fn offsets_versions(&self) -> Vec<OffsetsVersion> {
        let mut versions = Vec::new();
        for shard in self.all_shards() {
            let core = shard.core.lock();
            if core.check_active().is_ok() {
                let (partition, leader_epoch) = (shard.partition, core.leader_epoch);
                versions.push(OffsetsVersion {
                    partition,
                    leader_epoch,
                    changes: core.machine.offsets_version(),
                });
            }
        }
        versions
    }

    /// All that is committed in a partition; None if this broker does not coordinate it as of that version's epoch.
    pub fn committed_offsets(&self, version: &OffsetsVersion) -> Option<Vec<records::Record>> {
        let shard = self.shards.read().get(&version.partition).cloned()?;
        let core = shard.core.lock();
        core.check_active().ok()?;
        (core.leader_epoch == version.leader_epoch).then(|| core.machine.committed_offsets().collect())
    }

    /// Makes certain that what is read of a group from here on is not older than this call: a coordinator that is cut off does not
    /// know of the commits that another one takes. Heartbeats do without it, as they show nothing, and so do lists.
    async fn confirm(&self, group_id: &str) -> Result<(), GroupError> {
        let shard = self.shard(group_id)?;
        let leader_epoch = {
            let core = shard.core.lock();
            core.check_active()?;
            core.leader_epoch
        };
        let confirmed = self.log.confirm_leader(shard.partition, leader_epoch).await;
        confirmed.map_err(|_| GroupError::NotCoordinator)
    }

    /// The partition of `__consumer_offsets` that holds a group.
    pub fn partition_of(&self, group_id: &str) -> i32 {
        partition_for(group_id, self.partitions.load(Ordering::Relaxed))
    }

    // ---- steps

    fn now(&self) -> Now {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { wall_ms: clock::now().0, ms }
    }

    fn shard(&self, group_id: &str) -> Result<Arc<Shard>, GroupError> {
        self.shards.read().get(&self.partition_of(group_id)).cloned().ok_or(GroupError::NotCoordinator)
    }

    fn all_shards(&self) -> Vec<Arc<Shard>> {
        self.shards.read().values().cloned().collect()
    }

    /// One step of the shard of a group.
    fn step<R>(
        self: &Arc<Self>,
        group_id: &str,
        step: impl FnOnce(&mut Core, Now) -> R,
    ) -> Result<R, GroupError> {
        let shard = self.shard(group_id)?;
        let mut core = shard.core.lock();
        core.check_active()?;
        let result = step(&mut core, self.now());
        self.after_step(&shard, &mut core);
        Ok(result)
    }

    /// One step with an answer that may come later.
    fn ask(
        self: &Arc<Self>,
        group_id: &str,
        kind: Kind,
        step: impl FnOnce(&mut Core, Now, Token) -> Result<Effects, GroupError>,
    ) -> Result<oneshot::Receiver<Answer>, GroupError> {
        self.step(group_id, |core, now| {
            let (token, receiver) = core.park(kind);
            let effects = step(core, now, token)?;
            core.perform(effects);
            Ok(receiver)
        })?
    }

    async fn partitions_answer(
        &self,
        asked: Result<oneshot::Receiver<Answer>, GroupError>,
    ) -> Result<PartitionResults, GroupError> {
        match self.wait_for_log(asked).await? {
            Answer::Partitions(result) => result,
            other => panic!("a request over partitions was answered by {other:?}"),
        }
    }

    async fn wait_for_log(
        &self,
        asked: Result<oneshot::Receiver<Answer>, GroupError>,
    ) -> Result<Answer, GroupError> {
        tokio::time::timeout(self.config.offset_commit_timeout, wait(asked))
            .await
            .unwrap_or(Err(GroupError::CoordinatorNotAvailable))
    }

    /// What every step may have brought: an earlier timer, something to write.
    fn after_step(self: &Arc<Self>, shard: &Arc<Shard>, core: &mut Core) {
        if let Some(deadline_ms) = core.machine.next_deadline_ms()
            && self.wake_ms.fetch_min(deadline_ms, Ordering::AcqRel) > deadline_ms
        {
            self.wake.notify_one();
        }
        self.start_writer(shard, core);
    }

    fn start_writer(self: &Arc<Self>, shard: &Arc<Shard>, core: &mut Core) {
        if core.has_work() && !core.is_writing && core.status == Status::Active {
            core.is_writing = true;
            tokio::spawn(Arc::clone(self).write(Arc::clone(shard), core.leader_epoch));
        }
    }

    // ---- writing

    /// Appends what waits, one batch after the other, until nothing does.
    async fn write(self: Arc<Self>, shard: Arc<Shard>, leader_epoch: LeaderEpoch) {
        loop {
            let next = {
                let mut core = shard.core.lock();
                if core.status != Status::Active || core.leader_epoch != leader_epoch {
                    core.is_writing = false;
                    return;
                }
                let next = core.next_append(self.now(), self.log.batch_bytes_max(), self.codec);
                if next.is_none() {
                    core.is_writing = false;
                    self.after_step(&shard, &mut core);
                    return;
                }
                next
            };
            let Some(NextAppend { batches, writes }) = next else { return };
            let mut result = Ok(());
            for (index, batch) in batches.into_iter().enumerate() {
                result = self.log.append(shard.partition, leader_epoch, batch).await;
                if let Err(error) = &mut result {
                    if index > 0 {
                        // Some of the tombstones are in the log: as with a lost leadership, it must be read again.
                        tracing::warn!(partition = shard.partition, %error, "a deletion was written in part");
                        *error = AppendError::NotLeader;
                    }
                    break;
                }
            }
            if !self.settle(&shard, leader_epoch, writes, result) {
                return;
            }
        }
    }

    /// Applies what became of an append. False ends the writer: the shard is led no longer, or is read again and will
    /// have another writer.
    fn settle(
        self: &Arc<Self>,
        shard: &Arc<Shard>,
        leader_epoch: LeaderEpoch,
        writes: Vec<decide::Write>,
        result: Result<(), AppendError>,
    ) -> bool {
        let mut core = shard.core.lock();
        if core.status != Status::Active || core.leader_epoch != leader_epoch {
            return false;
        }
        let error = match result {
            Ok(()) => None,
            Err(AppendError::NotLeader) => {
                // The batch may or may not be in the log: only the log knows, so it is read again.
                core.is_writing = false;
                self.reload(shard, &mut core);
                return false;
            }
            Err(AppendError::NotEnoughReplicas) => Some(GroupError::CoordinatorNotAvailable),
            Err(AppendError::TooLarge) => Some(GroupError::InvalidCommitOffsetSize),
            Err(AppendError::Failed(reason)) => {
                tracing::error!(partition = shard.partition, reason, "append to {OFFSETS_TOPIC} failed");
                Some(GroupError::CoordinatorNotAvailable)
            }
        };
        let now = self.now();
        for write in writes {
            let effects = match error {
                None => core.machine.on_stored(now, write),
                Some(error) => core.machine.on_lost(now, write, error),
            };
            core.perform(effects);
        }
        self.after_step(shard, &mut core);
        true
    }

    // ---- leadership

    /// Follows the metadata (leadership, deleted topics) and drives timers until `shutdown`. One task per node.
    pub async fn run(self: Arc<Self>, metadata: Metadata, broker: BrokerId) {
        let mut changes = metadata.changes();
        changes.mark_changed();
        let mut stop = self.stop.subscribe();
        let mut expiry =
            tokio::time::interval(self.config.offsets_retention_check_interval.max(Duration::from_millis(1)));
        expiry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick is at once, before anything is loaded.
        expiry.tick().await;
        let mut seen: Option<Arc<Image>> = None;
        loop {
            let wake_ms = self.fire_timers();
            let wake_at = self.started.checked_add(Duration::from_millis(wake_ms));
            let due = async {
                match wake_at {
                    Some(at) if wake_ms != u64::MAX => tokio::time::sleep_until(at).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let image = metadata.image();
                    self.follow(&image, seen.as_deref(), broker);
                    self.followed.send_replace(image.last_offset);
                    seen = Some(image);
                }
                _ = self.wake.notified() => {}
                _ = due => {}
                _ = expiry.tick() => self.expire_offsets(),
            }
        }
    }

    /// Fires what is due in all shards, and returns when the next timer is.
    fn fire_timers(self: &Arc<Self>) -> u64 {
        // ORDER: forget the old time before looking, so that a step which arms a timer in a shard already looked at sees a
        // later time here and wakes the loop.
        self.wake_ms.store(u64::MAX, Ordering::Release);
        let mut next_ms = u64::MAX;
        for shard in self.all_shards() {
            let mut core = shard.core.lock();
            if core.status != Status::Active {
                continue;
            }
            let now = self.now();
            while let Some(effects) = core.machine.on_timer(now) {
                core.perform(effects);
            }
            // Not `after_step`: its wake-up would have this very loop look again, for ever.
            self.start_writer(&shard, &mut core);
            next_ms = next_ms.min(core.machine.next_deadline_ms().unwrap_or(u64::MAX));
        }
        self.wake_ms.fetch_min(next_ms, Ordering::AcqRel).min(next_ms)
    }

    fn expire_offsets(self: &Arc<Self>) {
        for shard in self.all_shards() {
            let mut core = shard.core.lock();
            if core.status != Status::Active {
                continue;
            }
            for group_id in core.machine.expiry_candidates(self.now()) {
                core.enqueue(Job::Expire(group_id));
            }
            self.after_step(&shard, &mut core);
        }
    }

    fn follow(self: &Arc<Self>, image: &Image, seen: Option<&Image>, broker: BrokerId) {
        if let Some(seen) = seen {
            for topic in seen.topics.values().filter(|topic| !image.topics.contains_key(&topic.id)) {
                self.forget_topic(&topic.name);
            }
        }
        let mut led = BTreeMap::new();
        if let Some(topic) = image.topic_by_name(OFFSETS_TOPIC) {
            self.partitions.store(topic.partitions.len().max(1) as i32, Ordering::Relaxed);
            for (partition, state) in (0..).zip(&topic.partitions) {
                if state.leader == Some(broker) {
                    led.insert(partition, LeaderEpoch(state.leader_epoch.0));
                }
            }
        }
        let held: Vec<i32> = self.shards.read().keys().copied().collect();
        for partition in held.into_iter().filter(|partition| !led.contains_key(partition)) {
            self.become_follower(partition);
        }
        for (partition, leader_epoch) in led {
            self.become_leader(partition, leader_epoch);
        }
    }

    /// A topic was deleted: its offsets go, so that a topic made later with its name starts anew.
    fn forget_topic(self: &Arc<Self>, topic: &Arc<str>) {
        for shard in self.all_shards() {
            let mut core = shard.core.lock();
            if core.status != Status::Active {
                continue;
            }
            for group_id in core.machine.groups_with_offsets_of(topic) {
                core.enqueue(Job::Forget(group_id, topic.clone()));
            }
            self.after_step(&shard, &mut core);
        }
    }

    /// This broker leads the partition from `leader_epoch` on: reads it, then answers for its groups.
    pub fn become_leader(self: &Arc<Self>, partition: i32, leader_epoch: LeaderEpoch) {
        let shard = {
            let mut shards = self.shards.write();
            if let Some(held) = shards.get(&partition) {
                let mut core = held.core.lock();
                if core.leader_epoch >= leader_epoch {
                    return;
                }
                core.dismiss(Status::Closed, GroupError::NotCoordinator);
                held.tell_loaded();
            }
            let shard = Shard::new(partition, leader_epoch, self.rules.clone());
            shards.insert(partition, Arc::clone(&shard));
            shard
        };
        tokio::spawn(Arc::clone(self).load(shard, leader_epoch));
    }

    /// This broker leads the partition no longer: parked requests are answered, the state is dropped.
    pub fn become_follower(&self, partition: i32) {
        if let Some(shard) = self.shards.write().remove(&partition) {
            shard.core.lock().dismiss(Status::Closed, GroupError::NotCoordinator);
            shard.tell_loaded();
        }
    }

    fn reload(self: &Arc<Self>, shard: &Arc<Shard>, core: &mut Core) {
        core.dismiss(Status::Loading, GroupError::NotCoordinator);
        tokio::spawn(Arc::clone(self).load(Arc::clone(shard), core.leader_epoch));
    }

    /// Reads until it succeeds or the leadership is gone.
    async fn load(self: Arc<Self>, shard: Arc<Shard>, leader_epoch: LeaderEpoch) {
        let partition = shard.partition;
        let began = Instant::now();
        let mut retry = LOAD_RETRY_MIN;
        loop {
            let mut machine = Machine::new(self.rules.clone());
            let bytes_max = self.config.load_buffer_bytes;
            let loaded = load::load(&*self.log, partition, leader_epoch, bytes_max, &mut machine).await;
            match loaded {
                Ok(loaded) => {
                    self.finish_loading(&shard, leader_epoch, machine);
                    tracing::debug!(
                        partition,
                        records = loaded.records,
                        skipped = loaded.skipped,
                        broken = loaded.broken,
                        end_offset = loaded.end_offset,
                        elapsed_ms = began.elapsed().as_millis() as u64,
                        "groups are loaded"
                    );
                    return;
                }
                // The replica may not be there yet, or the leadership is about to be seen gone.
                Err(LoadError::Read(ReadError::NotLeader)) => retry = retry.min(LEADERSHIP_RETRY_MAX),
                Err(error) => {
                    tracing::error!(partition, %error, "groups could not be loaded; will try again")
                }
            }
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LOAD_RETRY_MAX);
            if shard.core.lock().status != Status::Loading {
                return;
            }
        }
    }

    fn finish_loading(self: &Arc<Self>, shard: &Arc<Shard>, leader_epoch: LeaderEpoch, mut machine: Machine) {
        let mut core = shard.core.lock();
        if core.status != Status::Loading || core.leader_epoch != leader_epoch {
            return;
        }
        let effects = machine.finish_loading(self.now());
        core.machine = machine;
        core.status = Status::Active;
        effects.into_iter().for_each(|effects| core.perform(effects));
        self.after_step(shard, &mut core);
        drop(core);
        shard.tell_loaded();
    }

    /// Answers all parked requests with NOT_COORDINATOR and ends `run`.
    pub fn shutdown(&self) {
        self.stop.send_replace(true);
        let shards = std::mem::take(&mut *self.shards.write());
        for shard in shards.into_values() {
            shard.core.lock().dismiss(Status::Closed, GroupError::NotCoordinator);
            shard.tell_loaded();
        }
    }
}

/// All of them within one limit.
async fn await_shards(shards: Vec<Arc<Shard>>) {
    let loaded = async {
        for shard in shards {
            shard.await_loaded().await;
        }
    };
    let _ = tokio::time::timeout(LOADED_WAIT_MAX, loaded).await;
}

async fn wait(asked: Result<oneshot::Receiver<Answer>, GroupError>) -> Result<Answer, GroupError> {
    // A shard answers everyone before it is dropped; should it not, nobody is coordinating.
    asked?.await.map_err(|_| GroupError::NotCoordinator)
}

#[cfg(test)]
#[path = "failover_test.rs"]
mod failover_tests;
#[cfg(test)]
#[path = "coordinator_test.rs"]
mod tests;
