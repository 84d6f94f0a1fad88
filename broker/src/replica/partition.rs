//! One replica: its log behind one lock, the bounds that readers check without it, and its role.
//!
//! Who calls: the manager changes role and settings, handlers and the group coordinator append and read, the sync threads
//! report what is on stable storage, maintenance trims and compacts. The bounds are published under the log's lock, so
//! each of them moves forward only; a reader without the lock may see one of them a moment older than another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use ottla_batch::{AppendPolicy, CompressionPolicy, LeaderEpoch, Offset, TimestampMs, TimestampType};
use ottla_raft::{Image, TopicId};
use ottla_storage::log::{Log, LogConfig, Synced};
use parking_lot::{Mutex, MutexGuard};

use super::group_commit::SyncQueue;
use super::in_sync::{Action, Durability, InSyncSet};
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
}

/// See the module's head.
pub struct Replica {
    pub(super) topic: Arc<str>,
    pub(super) topic_id: TopicId,
    pub(super) partition: i32,
    /// Which of the manager's log directories holds it.
    pub(super) dir: usize,
    pub(super) settings: ArcSwap<TopicSettings>,
    pub(super) state: Mutex<State>,
    pub(super) waiters: Waiters,
    pub(super) syncs: Arc<SyncQueue>,
    /// Owned by `group_commit`.
    pub(super) sync_stage: AtomicU8,
    /// How many brokers hold the partition, in sync or not.
    pub(super) replicas_count: AtomicUsize,
    /// The last append failed because of the disk.
    pub(super) appends_fail: AtomicBool,
    /// Whether compaction has it now.
    pub(super) compacting: AtomicBool,
    role: AtomicU8,
    /// -1 unless this broker leads.
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

/// What the lock guards.
pub(super) struct State {
    pub log: Log,
    pub leader: Option<Leader>,
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
        syncs: Arc<SyncQueue>,
    ) -> Replica {
        let replica = Replica {
            topic,
            topic_id,
            partition,
            dir,
            settings: ArcSwap::new(settings),
            waiters: Waiters::default(),
            syncs,
            sync_stage: AtomicU8::new(0),
            replicas_count: AtomicUsize::new(1),
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
            state: Mutex::new(State { log, leader: None }),
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

    /// Who waits for this replica.
    pub fn waiters(&self) -> &Waiters {
        &self.waiters
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
            Role::Idle | Role::Offline | Role::Deleted => None,
        }
    }

    /// Whether this broker leads in the epoch that a client believes in; -1 believes in any.
    pub fn check_leader(&self, given: LeaderEpoch) -> Result<LeaderEpoch, LeaderError> {
        let Some(current) = self.leader_epoch() else {
            return Err(self.no_leader());
        };
        if given == LeaderEpoch::NONE || given == current {
            Ok(current)
        } else if given < current {
            Err(LeaderError::FencedEpoch { given, current })
        } else {
            Err(LeaderError::UnknownEpoch { given, current })
        }
    }

    pub(super) fn no_leader(&self) -> LeaderError {
        match self.role() {
            Role::Leader | Role::Idle => LeaderError::NotLeader,
            Role::Offline => LeaderError::Offline,
            Role::Deleted => LeaderError::Deleted,
        }
    }

    fn role(&self) -> Role {
        match self.role.load(Ordering::Acquire) {
            1 => Role::Leader,
            2 => Role::Offline,
            3 => Role::Deleted,
            _ => Role::Idle,
        }
    }

    /// Leads from now on in `epoch` with these other members of the in-sync set; again with a newer epoch or set.
    pub(super) fn become_leader(
        self: &Arc<Replica>,
        epoch: LeaderEpoch,
        in_sync_others: &[i32],
    ) -> Result<(), ottla_storage::log::ChangeError> {
        let mut state = self.state.lock();
        if matches!(self.role(), Role::Offline | Role::Deleted) {
            return Ok(());
        }
        let (synced, end) = (state.log.synced_end_offset(), state.log.end_offset());
        if state.leader.as_ref().is_none_or(|leader| leader.epoch < epoch) {
            state.log.assign_epoch(epoch, end)?;
            let in_sync =
                InSyncSet::new(self.settings.load().durability, end, synced.min(end), self.high_watermark());
            state.leader = Some(Leader { epoch, in_sync });
            self.epoch_start.store(end.0, Ordering::Release);
            self.leader_epoch.store(epoch.0, Ordering::Release);
            self.role.store(Role::Leader as u8, Ordering::Release);
        }
        let Some(leader) = state.leader.as_mut() else { return Ok(()) };
        let members = leader.in_sync.on_in_sync_set(in_sync_others);
        // A restart or a changed set may have moved what counts.
        let appended = leader.in_sync.on_appended(end);
        self.act(state, [members, appended]);
        Ok(())
    }

    /// Serves nothing more in this role; those who wait are told.
    fn leave(&self, role: Role) {
        {
            let mut state = self.state.lock();
            if self.role() == Role::Deleted {
                return;
            }
            state.leader = None;
            self.leader_epoch.store(-1, Ordering::Release);
            self.role.store(role as u8, Ordering::Release);
        }
        self.waiters.on_ended();
    }

    /// Another broker leads.
    pub(super) fn resign(&self) {
        self.leave(Role::Idle);
    }

    /// The log directory failed.
    pub(super) fn go_offline(&self) {
        self.leave(Role::Offline);
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
        let durability = settings.durability;
        let mut state = self.state.lock();
        state.log.update_config(Arc::clone(&settings.log));
        self.settings.store(settings);
        let action = state.leader.as_mut().and_then(|leader| leader.in_sync.on_durability(durability));
        self.act(state, [action, None]);
    }

    /// A sync of the log ended well.
    pub(super) fn on_synced(self: &Arc<Replica>, synced: Synced) {
        let mut state = self.state.lock();
        state.log.on_synced(synced);
        // What the log makes of it counts: after a truncation an older sync says nothing.
        let end = state.log.synced_end_offset();
        let action = state.leader.as_mut().and_then(|leader| leader.in_sync.on_synced(end));
        self.act(state, [action, None]);
    }

    /// Publishes the bounds, lets the lock go, and does what the machine asked for.
    pub(super) fn act(self: &Arc<Replica>, state: MutexGuard<'_, State>, actions: [Option<Action>; 2]) {
        self.publish(&state);
        let high_watermark = self.high_watermark();
        // ORDER: waiters and the sync queue are touched without the log's lock, so that those they wake do not run into it.
        drop(state);
        let mut moved = false;
        for action in actions.into_iter().flatten() {
            match action {
                Action::AdvanceHighWatermark(_) => moved = true,
                Action::Sync => self.syncs.request(self),
            }
        }
        if moved {
            self.waiters.on_moved(high_watermark);
        }
    }

    /// Makes the bounds visible to those who read without the lock.
    pub(super) fn publish(&self, state: &State) {
        self.log_start.store(state.log.log_start_offset().0, Ordering::Release);
        self.end.store(state.log.end_offset().0, Ordering::Release);
        if let Some(leader) = &state.leader {
            let high_watermark = leader.in_sync.high_watermark().max(state.log.log_start_offset());
            let before = self.high_watermark.fetch_max(high_watermark.0, Ordering::SeqCst);
            assert!(
                before <= state.log.end_offset().0,
                "the high watermark {before} of {}-{} must not pass the end {}",
                self.topic,
                self.partition,
                state.log.end_offset()
            );
        }
        let first_unstable = state.log.first_unstable_offset(self.high_watermark());
        self.first_unstable.store(first_unstable.map_or(i64::MAX, |offset| offset.0), Ordering::SeqCst);
    }

    pub(super) fn touch(&self, now: TimestampMs) {
        // A plain store by whoever comes: nobody needs to know who was last.
        self.last_used_ms.store(now.0, Ordering::Relaxed);
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
