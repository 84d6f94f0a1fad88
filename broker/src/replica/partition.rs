//! One replica: its log behind one lock, the bounds that readers check without it, and its role.
//!
//! Who calls: the manager changes role and settings, handlers and the group coordinator append and read, the sync threads
//! report what is on stable storage, maintenance trims and compacts. The bounds are published under the log's lock, so
//! each of them moves forward only; a reader without the lock may see one of them a moment older than another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use ottla_batch::{
    AppendPolicy, CompressionPolicy, LeaderEpoch, Offset, TimestampMs, TimestampType, planted,
};
use ottla_raft::{BrokerEpoch, BrokerId, Image, TopicId};
use ottla_storage::disk::device_failure;
use ottla_storage::log::{Log, LogConfig, Synced};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::group_commit::{Fatal, SyncQueue};
use super::in_sync::{Actions, Durability, InSyncSet, Membership};
use super::isr_changes::IsrChanges;
use super::quota::Throttled;
use super::waiters::Waiters;
use crate::clock;

/// What is in force for one topic, of what replicas and the produce path need.
#[derive(Debug, Clone)]
pub struct TopicSettings {
    pub log: Arc<LogConfig>,
    /// `ottla.durability`
    pub durability: Durability,
    /// `compression.type` with its level.
    pub compression: CompressionPolicy,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`
    pub timestamp_before_ms_max: i64,
    /// `message.timestamp.after.max.ms`
    pub timestamp_after_ms_max: i64,
    /// `max.message.bytes`
    pub batch_bytes_max: usize,
    /// `min.insync.replicas`
    pub min_in_sync: usize,
    /// `leader.replication.throttled.replicas`, of this broker.
    pub throttled_as_leader: Throttled,
    /// `follower.replication.throttled.replicas`, of this broker.
    pub throttled_as_follower: Throttled,
    /// `remote.log.delete.on.disable`
    pub deletes_tier_when_disabled: bool,
}

impl TopicSettings {
    /// The rules for batches that a client produces now.
    pub fn append_policy(&self, now: TimestampMs) -> AppendPolicy {
        AppendPolicy {
            batch_bytes_max: self.batch_bytes_max,
            timestamp_type: self.timestamp_type,
            compression: self.compression,
            timestamp_before_ms_max: self.timestamp_before_ms_max,
            timestamp_after_ms_max: self.timestamp_after_ms_max,
            keys_required: self.log.cleanup_policy.compacts(),
            decompressed_bytes_max: self.log.decompressed_bytes_max,
            ..AppendPolicy::new(now)
        }
    }
}

/// Computes a topic's settings from an image and the node's configuration.
pub type TopicSettingsOf = Arc<dyn Fn(&Image, &str) -> TopicSettings + Send + Sync>;

/// Why this broker can't serve a partition as its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LeaderError {
    #[error("this broker does not lead the partition")]
    NotLeader,
    #[error("leader epoch {given} is older than {current}")]
    FencedEpoch { given: LeaderEpoch, current: LeaderEpoch },
    #[error("leader epoch {given} is newer than {current}")]
    UnknownEpoch { given: LeaderEpoch, current: LeaderEpoch },
    #[error("the log directory of the partition is offline")]
    Offline,
    #[error("the partition was deleted")]
    Deleted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Role {
    /// Neither leads nor follows yet.
    Idle = 0,
    Leader = 1,
    Offline = 2,
    Deleted = 3,
    Follower = 4,
}

/// See the module's head.
pub struct Replica {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: TopicId,
    pub(super) partition: i32,
    /// Which of the manager's log directories holds it. Changed under the log's lock, with `syncs` and the log itself.
    dir: AtomicUsize,
    pub(super) settings: ArcSwap<TopicSettings>,
    pub(super) state: Mutex<State>,
    pub(super) waiters: Waiters,
    /// Of the log directory.
    pub(super) syncs: ArcSwap<SyncQueue>,
    /// Owned by `group_commit`.
    pub(super) sync_stage: AtomicU8,
    /// Where a leader says that its in-sync set should change.
    pub(super) isr_changes: Arc<IsrChanges>,
    /// Whether `isr_changes` has it queued.
    pub(super) isr_change_is_queued: AtomicBool,
    /// While this broker leads: how many replicas there are, and for how many of them the high watermark waits.
    pub(super) replicas_count: AtomicUsize,
    pub(super) in_sync_count: AtomicUsize,
    /// The last append failed because of the disk.
    pub(super) appends_fail: AtomicBool,
    /// Whether compaction has it now.
    pub(super) compacting: AtomicBool,
    role: AtomicU8,
    /// The epoch in which this broker leads or follows; -1 if it does neither.
    leader_epoch: AtomicI32,
    /// First offset a reader gets.
    log_start: AtomicI64,
    /// First offset that is not committed.
    high_watermark: AtomicI64,
    /// The end of the log when this broker began to lead; see [`Replica::knows_its_bounds`].
    epoch_start: AtomicI64,
    /// First offset of the earliest open transaction; `i64::MAX` without one.
    first_unstable: AtomicI64,
    /// Offset of the next append.
    end: AtomicI64,
    /// When a reader or writer last came, in `clock::now`'s milliseconds: idle replicas close their files.
    pub(super) last_used_ms: AtomicI64,
}

/// Where a replica queues itself for what others do.
pub(super) struct Queues {
    pub syncs: Arc<SyncQueue>,
    pub isr_changes: Arc<IsrChanges>,
}

/// What the lock guards.
pub(super) struct State {
    pub log: Log,
    /// Of this and `follower` at most one.
    pub leader: Option<Leader>,
    pub follower: Option<Following>,
    /// What was committed when the last leadership of this broker ended. The high watermark of whoever leads afterwards says
    /// nothing about what was appended here: at the same offsets other records may be committed.
    pub led: Option<Led>,
}

impl State {
    /// This broker's leadership ends, if it had one.
    pub(super) fn end_leadership(&mut self) {
        if let Some(Leader { epoch, in_sync }) = self.leader.take() {
            self.led = Some(Led { epoch, high_watermark: in_sync.high_watermark() });
        }
    }
}

/// A leadership that ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Led {
    pub epoch: LeaderEpoch,
    pub high_watermark: Offset,
}

impl State {
    /// See [`InSyncSet::low_watermark`]; none if this broker does not lead.
    pub fn low_watermark(&self) -> Option<Offset> {
        let leader = self.leader.as_ref()?;
        Some(leader.in_sync.low_watermark(self.log.log_start_offset()))
    }
}

/// Whom a follower follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Following {
    /// `None` while the partition has no leader.
    pub leader: Option<BrokerId>,
    pub epoch: LeaderEpoch,
}

pub(super) struct Leader {
    pub epoch: LeaderEpoch,
    pub in_sync: InSyncSet,
}

impl Replica {
    pub(super) fn new(
        topic: Arc<str>,
        topic_id: TopicId,
        partition: i32,
        dir: usize,
        settings: Arc<TopicSettings>,
        log: Log,
        queues: Queues,
    ) -> Replica {
        let replica = Replica {
            topic,
            topic_id,
            partition,
            dir: AtomicUsize::new(dir),
            settings: ArcSwap::new(settings),
            waiters: Waiters::default(),
            syncs: ArcSwap::new(queues.syncs),
            sync_stage: AtomicU8::new(0),
            isr_changes: queues.isr_changes,
            isr_change_is_queued: AtomicBool::new(false),
            replicas_count: AtomicUsize::new(1),
            in_sync_count: AtomicUsize::new(1),
            appends_fail: AtomicBool::new(false),
            compacting: AtomicBool::new(false),
            role: AtomicU8::new(Role::Idle as u8),
            leader_epoch: AtomicI32::new(-1),
            log_start: AtomicI64::new(log.log_start_offset().0),
            high_watermark: AtomicI64::new(log.log_start_offset().0),
            first_unstable: AtomicI64::new(i64::MAX),
            epoch_start: AtomicI64::new(0),
            end: AtomicI64::new(log.end_offset().0),
            last_used_ms: AtomicI64::new(clock::now().0),
            state: Mutex::new(State { log, leader: None, follower: None, led: None }),
        };
        replica.publish(&replica.state.lock());
        replica
    }

    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    pub fn topic_id(&self) -> TopicId {
        self.topic_id
    }

    pub fn partition(&self) -> i32 {
        self.partition
    }

    pub(super) fn dir(&self) -> usize {
        self.dir.load(Ordering::Acquire)
    }

    /// `log` is this one in another directory: the same up to the end, which is synced. Answers the one that it replaces. Called
    /// under the log's lock.
    pub(super) fn move_to(&self, state: &mut State, dir: usize, syncs: Arc<SyncQueue>, log: Log) -> Log {
        assert!(
            log.end_offset() == state.log.end_offset() && log.synced_end_offset() == log.end_offset(),
            "a log that ends at {} is replaced by one that ends at {} and is synced to {}",
            state.log.end_offset(),
            log.end_offset(),
            log.synced_end_offset(),
        );
        let mut log = log;
        log.update_config(Arc::clone(&self.settings.load().log));
        self.dir.store(dir, Ordering::Release);
        self.syncs.store(syncs);
        std::mem::replace(&mut state.log, log)
    }

    /// Who waits for this replica.
    pub fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// Whether what this broker sends of it to followers counts for the leader's quota.
    pub fn is_throttled_as_leader(&self) -> bool {
        self.settings.load().throttled_as_leader.contains(self.partition)
    }

    /// Whether what this broker fetches of it counts for the follower's quota.
    pub fn is_throttled_as_follower(&self) -> bool {
        self.settings.load().throttled_as_follower.contains(self.partition)
    }

    /// Whether this broker leads, and the controller has `broker` in the in-sync set.
    pub fn has_in_sync(&self, broker: BrokerId) -> bool {
        self.state.lock().leader.as_ref().is_some_and(|leader| leader.in_sync.is_member(broker))
    }

    /// The settings in force; a change of the topic's configs swaps them.
    pub fn settings(&self) -> Arc<TopicSettings> {
        self.settings.load_full()
    }

    pub fn log_start_offset(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    /// Exclusive.
    pub fn high_watermark(&self) -> Offset {
        // Sequentially consistent with the flag of `Waiters`: a fetch that has just registered must not read an older one.
        Offset(self.high_watermark.load(Ordering::SeqCst))
    }

    /// Exclusive: what a reader of committed transactions may see.
    pub fn last_stable_offset(&self) -> Offset {
        Offset(self.first_unstable.load(Ordering::SeqCst)).min(self.high_watermark())
    }

    /// Whether the high watermark has reached where this leader began. Before that it may lie below what an earlier
    /// leader (or this process before its restart) already showed, so nobody is told the latest offset (KIP-207).
    pub fn knows_its_bounds(&self) -> bool {
        self.high_watermark().0 >= self.epoch_start.load(Ordering::Acquire)
    }

    /// Exclusive: the offset that the next record gets.
    pub fn end_offset(&self) -> Offset {
        Offset(self.end.load(Ordering::Acquire))
    }

    /// The epoch in which this broker leads, if it does.
    pub fn leader_epoch(&self) -> Option<LeaderEpoch> {
        match self.role() {
            Role::Leader => Some(LeaderEpoch(self.leader_epoch.load(Ordering::Acquire))),
            Role::Idle | Role::Follower | Role::Offline | Role::Deleted => None,
        }
    }

    /// Whether this broker leads in the epoch that a client believes in; -1 believes in any.
    pub fn check_leader(&self, given: LeaderEpoch) -> Result<LeaderEpoch, LeaderError> {
        let Some(current) = self.leader_epoch() else {
            return Err(self.no_leader());
        };
        compare_epochs(given, current)
    }

    /// As [`Replica::check_leader`], for a reader that a follower may serve too.
    pub fn check_leader_or_follower(&self, given: LeaderEpoch) -> Result<LeaderEpoch, LeaderError> {
        match self.role() {
            Role::Leader | Role::Follower => {
                compare_epochs(given, LeaderEpoch(self.leader_epoch.load(Ordering::Acquire)))
            }
            Role::Idle | Role::Offline | Role::Deleted => Err(self.no_leader()),
        }
    }

    pub(super) fn no_leader(&self) -> LeaderError {
        match self.role() {
            Role::Leader | Role::Follower | Role::Idle => LeaderError::NotLeader,
            Role::Offline => LeaderError::Offline,
            Role::Deleted => LeaderError::Deleted,
        }
    }

    fn role(&self) -> Role {
        match self.role.load(Ordering::Acquire) {
            1 => Role::Leader,
            2 => Role::Offline,
            3 => Role::Deleted,
            4 => Role::Follower,
            _ => Role::Idle,
        }
    }

    /// Leads from now on in `epoch`; again with a newer epoch, or with the newer membership of the same. `active_epoch`: see
    /// [`InSyncSet::on_brokers`].
    pub(super) fn become_leader(
        self: &Arc<Replica>,
        epoch: LeaderEpoch,
        membership: Membership,
        active_epoch: impl Fn(BrokerId) -> Option<BrokerEpoch>,
        now: Instant,
    ) -> Result<(), ottla_storage::log::ChangeError> {
        let mut state = self.state.lock();
        if matches!(self.role(), Role::Offline | Role::Deleted) {
            return Ok(());
        }
        let (synced, end) = (state.log.synced_end_offset(), state.log.end_offset());
        if state.leader.as_ref().is_none_or(|leader| leader.epoch < epoch) {
            state.log.assign_epoch(epoch, end)?;
            let (durability, min_in_sync) = self.rules();
            let in_sync =
                InSyncSet::new(durability, min_in_sync, end, synced.min(end), self.high_watermark());
            state.end_leadership();
            state.follower = None;
            state.leader = Some(Leader { epoch, in_sync });
            self.epoch_start.store(end.0, Ordering::Release);
            self.leader_epoch.store(epoch.0, Ordering::Release);
            self.role.store(Role::Leader as u8, Ordering::Release);
        }
        let Some(leader) = state.leader.as_mut() else { return Ok(()) };
        let members = leader.in_sync.on_membership(membership, now);
        let brokers = leader.in_sync.on_brokers(active_epoch);
        // A restart or a changed set may have moved what counts.
        let appended = leader.in_sync.on_appended(end, now);
        self.act(state, members.and(brokers).and(appended));
        Ok(())
    }

    /// Follows from now on, in `epoch`. True if that is news: another leader, another epoch, or the end of an own leadership.
    pub(super) fn become_follower(&self, leader: Option<BrokerId>, epoch: LeaderEpoch) -> bool {
        {
            let mut state = self.state.lock();
            if matches!(self.role(), Role::Offline | Role::Deleted) {
                return false;
            }
            let following = Following { leader, epoch };
            if state.follower == Some(following) {
                return false;
            }
            if planted!("truncates-to-the-high-watermark") {
                let _ = state.log.truncate_to(self.high_watermark());
            }
            state.end_leadership();
            state.follower = Some(following);
            self.leader_epoch.store(epoch.0, Ordering::Release);
            self.role.store(Role::Follower as u8, Ordering::Release);
        }
        self.waiters.on_ended();
        true
    }

    /// `ottla.durability` and `min.insync.replicas`.
    fn rules(&self) -> (Durability, usize) {
        let settings = self.settings.load();
        (settings.durability, settings.min_in_sync)
    }

    /// An event for the leader's machine, if this broker leads.
    pub(super) fn on_leader(self: &Arc<Replica>, event: impl FnOnce(&mut InSyncSet) -> Actions) {
        let mut state = self.state.lock();
        if let Some(leader) = state.leader.as_mut() {
            let actions = event(&mut leader.in_sync);
            self.act(state, actions);
        }
    }

    /// Serves nothing more in this role; those who wait are told.
    fn leave(&self, role: Role) {
        self.leave_if(role, || true);
    }

    fn leave_if(&self, role: Role, applies: impl FnOnce() -> bool) {
        {
            let mut state = self.state.lock();
            if self.role() == Role::Deleted || !applies() {
                return;
            }
            state.end_leadership();
            state.follower = None;
            self.leader_epoch.store(-1, Ordering::Release);
            self.role.store(role as u8, Ordering::Release);
        }
        self.waiters.on_ended();
    }

    /// Neither leads nor follows any more: the broker stops.
    pub(super) fn resign(&self) {
        self.leave(Role::Idle);
    }

    /// The log can't be trusted.
    pub(super) fn go_offline(&self) {
        self.leave(Role::Offline);
    }

    /// A log directory failed; but the replica may have been moved out of it in this moment.
    pub(super) fn go_offline_in(&self, dir: usize) {
        self.leave_if(Role::Offline, || self.dir() == dir);
    }

    /// After an error of the log: if it took the log offline, so is the replica, and its directory is not to be trusted; nor is
    /// it if the error says that the device failed. Called without the log's lock.
    pub(super) fn check_offline(&self, error: &(dyn std::error::Error + 'static)) {
        // The log of a deleted topic refuses everything, which is nobody's fault.
        if self.is_deleted() {
            return;
        }
        let log = || format!("{}-{}", self.topic, self.partition);
        let offline = self.state.lock().log.offline();
        if let Some(offline) = offline {
            self.go_offline();
            self.syncs.load().report(Fatal::LogOffline { log: log(), reason: offline.reason });
        } else if let Some(reason) = device_failure(error) {
            self.syncs.load().report(Fatal::DeviceFailed { log: log(), reason: reason.to_string() });
        }
    }

    /// The topic is gone. The caller removes the files.
    pub(super) fn mark_deleted(&self) {
        self.leave(Role::Deleted);
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.role() == Role::Deleted
    }

    /// Whether the log directory of this replica failed.
    pub fn is_offline(&self) -> bool {
        self.role() == Role::Offline
    }

    pub(super) fn update_settings(self: &Arc<Replica>, settings: Arc<TopicSettings>) {
        let (durability, min_in_sync) = (settings.durability, settings.min_in_sync);
        let mut state = self.state.lock();
        state.log.update_config(Arc::clone(&settings.log));
        self.settings.store(settings);
        let actions = state.leader.as_mut().map(|leader| leader.in_sync.on_rules(durability, min_in_sync));
        self.act(state, actions.unwrap_or_default());
    }

    /// A sync of the log ended well.
    pub(super) fn on_synced(self: &Arc<Replica>, synced: Synced) {
        let mut state = self.state.lock();
        state.log.on_synced(synced);
        // What the log makes of it counts: after a truncation an older sync says nothing.
        let end = state.log.synced_end_offset();
        let actions = state.leader.as_mut().map(|leader| leader.in_sync.on_synced(end));
        self.act(state, actions.unwrap_or_default());
        self.waiters.on_synced(end);
    }

    /// Publishes the bounds, lets the lock go, and does what the machine asked for.
    pub(super) fn act(self: &Arc<Replica>, state: MutexGuard<'_, State>, actions: Actions) {
        let moved = self.publish(&state);
        let high_watermark = self.high_watermark();
        let low_watermark = match self.waiters.has_deletes() {
            true => state.low_watermark(),
            false => None,
        };
        // ORDER: waiters and queues are touched without the log's lock, so that those they wake do not run into it.
        drop(state);
        if actions.sync {
            self.syncs.load().request(self);
        }
        if actions.propose {
            self.isr_changes.push(self);
        }
        if moved.end {
            self.waiters.on_end_moved();
        }
        if moved.high_watermark {
            self.waiters.on_moved(high_watermark);
        }
        if moved.log_start {
            self.waiters.on_log_start_moved();
        }
        if let Some(low_watermark) = low_watermark {
            self.waiters.on_low_watermark(low_watermark);
        }
    }

    /// Makes the bounds visible to those who read without the lock.
    pub(super) fn publish(&self, state: &State) -> Moved {
        let end = state.log.end_offset();
        let log_start = state.log.log_start_offset();
        let mut moved = Moved {
            end: self.end.swap(end.0, Ordering::AcqRel) < end.0,
            high_watermark: false,
            log_start: self.log_start.swap(log_start.0, Ordering::AcqRel) < log_start.0,
        };
        if let Some(leader) = &state.leader {
            let high_watermark = leader.in_sync.high_watermark().max(state.log.log_start_offset());
            let before = self.high_watermark.fetch_max(high_watermark.0, Ordering::SeqCst);
            moved.high_watermark = before < high_watermark.0;
            assert!(
                before <= end.0,
                "the high watermark {before} of {}-{} must not pass the end {end}",
                self.topic,
                self.partition,
            );
            self.replicas_count.store(leader.in_sync.replicas_count(), Ordering::Relaxed);
            self.in_sync_count.store(leader.in_sync.maximal_count(), Ordering::Relaxed);
        }
        let first_unstable = state.log.first_unstable_offset(self.high_watermark());
        self.first_unstable.store(first_unstable.map_or(i64::MAX, |offset| offset.0), Ordering::SeqCst);
        moved
    }

    /// What the directory remembers from before the start.
    pub(super) fn restore_high_watermark(&self, to: Offset) {
        let state = self.state.lock();
        self.raise_high_watermark(&state, to);
        self.publish(&state);
    }

    /// A follower heard of this high watermark, or the checkpoint says so: it holds of what is here. Called under the log's lock.
    /// True if it moved.
    pub(super) fn raise_high_watermark(&self, state: &State, to: Offset) -> bool {
        let to = to.min(state.log.end_offset()).max(state.log.log_start_offset());
        self.high_watermark.fetch_max(to.0, Ordering::SeqCst) < to.0
    }

    /// A follower cut its log: what lay above is gone, as what the leader has says. Called under the log's lock.
    pub(super) fn lower_high_watermark(&self, state: &State) {
        self.high_watermark.fetch_min(state.log.end_offset().0, Ordering::SeqCst);
    }

    pub(super) fn touch(&self, now: TimestampMs) {
        // A plain store by whoever comes: nobody needs to know who was last.
        self.last_used_ms.store(now.0, Ordering::Relaxed);
    }
}

/// What of the bounds moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    pub end: bool,
    pub high_watermark: bool,
    pub log_start: bool,
}

/// Whether an epoch that a client believes in is the current one; -1 believes in any.
fn compare_epochs(given: LeaderEpoch, current: LeaderEpoch) -> Result<LeaderEpoch, LeaderError> {
    if given == LeaderEpoch::NONE || given == current {
        Ok(current)
    } else if given < current {
        Err(LeaderError::FencedEpoch { given, current })
    } else {
        Err(LeaderError::UnknownEpoch { given, current })
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica")
            .field("topic", &self.topic)
            .field("partition", &self.partition)
            .field("role", &self.role())
            .field("high_watermark", &self.high_watermark())
            .field("end", &self.end_offset())
            .finish_non_exhaustive()
    }
}
