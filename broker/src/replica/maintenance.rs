//! Work on logs that nobody waits for: retention, compaction, delayed deletion of files, checkpoints, idle files.
//! Runs on its own threads, one tick a second for the clockwork and `log.cleaner.threads` for compaction, so that no
//! request waits behind it longer than a log's lock is held.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ottla_batch::{Offset, TimestampMs};
use ottla_storage::log::{DeletedLog, DeletedSegments};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::in_sync::Actions;
use super::manager::ReplicaManager;
use super::partition::Replica;
use crate::clock;
use crate::threads::{Next, Signal, Worker};

/// How exact the intervals are.
const TICK: Duration = Duration::from_secs(1);
/// A replica that nobody used for this long closes its files and frees its buffers.
const IDLE_AFTER_MS: i64 = 60_000;
/// How often idle replicas are looked for.
const IDLE_CHECK_INTERVAL_MS: i64 = 30_000;

/// Files to remove when their readers had time to finish.
enum Deletion {
    Segments(DeletedSegments),
    Log(DeletedLog),
}

struct Due {
    at: TimestampMs,
    /// Tells apart what is due at the same time.
    number: u64,
    deletion: Deletion,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// The threads and what they have to do later.
#[derive(Default)]
pub struct Maintenance {
    stopping: AtomicBool,
    wake: Arc<Signal>,
    workers: Mutex<Vec<Worker>>,
    deletions: Mutex<BinaryHeap<Reverse<Due>>>,
}

impl Maintenance {
    pub(super) fn start(&self, manager: &Arc<ReplicaManager>) -> io::Result<()> {
        let mut workers = self.workers.lock();
        let mut upkeep = Upkeep::new(Arc::clone(manager));
        workers.push(Worker::spawn("log-upkeep".to_owned(), Arc::clone(&self.wake), move || upkeep.step())?);
        if manager.config().replication.cleaner_enable {
            for index in 0..manager.config().dynamic().cleaner_threads {
                let cleaner = Arc::clone(manager);
                let step = move || clean(&cleaner);
                workers.push(Worker::spawn(format!("log-cleaner-{index}"), Arc::clone(&self.wake), step)?);
            }
        }
        Ok(())
    }

    /// Ends the threads; a compaction under way is abandoned. Files due for deletion stay: the next start removes them.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake.wake_all();
        for worker in std::mem::take(&mut *self.workers.lock()) {
            if let Err(error) = worker.join() {
                tracing::error!(error, "a maintenance thread did not end well");
            }
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(super) fn delete_log_later(&self, log: DeletedLog, now: TimestampMs, delay_ms: i64) {
        self.delete_later(Deletion::Log(log), now, delay_ms);
    }

    pub(super) fn delete_segments_later(&self, segments: DeletedSegments, now: TimestampMs, delay_ms: i64) {
        if !segments.is_empty() {
            self.delete_later(Deletion::Segments(segments), now, delay_ms);
        }
    }

    fn delete_later(&self, deletion: Deletion, now: TimestampMs, delay_ms: i64) {
        let mut deletions = self.deletions.lock();
        let number = deletions.len() as u64;
        deletions.push(Reverse(Due { at: TimestampMs(now.0.saturating_add(delay_ms)), number, deletion }));
    }

    fn delete_due(&self, now: TimestampMs) {
        loop {
            let due = {
                let mut deletions = self.deletions.lock();
                match deletions.peek() {
                    Some(Reverse(due)) if due.at <= now => deletions.pop(),
                    _ => return,
                }
            };
            let Some(Reverse(due)) = due else { return };
            let removed = match due.deletion {
                Deletion::Segments(segments) => segments.run(),
                Deletion::Log(log) => log.run(),
            };
            if let Err(error) = removed {
                tracing::error!(%error, "files of a deleted segment or partition can't be removed; the next start will try");
            }
        }
    }
}

/// When something was done last, against its interval.
struct Timer {
    interval_ms: i64,
    next: TimestampMs,
}

impl Timer {
    fn new(now: TimestampMs, first: Duration, interval: Duration) -> Timer {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Timer { interval_ms: ms(interval).max(1), next: TimestampMs(now.0.saturating_add(ms(first))) }
    }

    fn is_due(&mut self, now: TimestampMs) -> bool {
        if now < self.next {
            return false;
        }
        self.next = TimestampMs(now.0.saturating_add(self.interval_ms));
        true
    }
}

/// The clockwork.
struct Upkeep {
    manager: Arc<ReplicaManager>,
    retention: Timer,
    checkpoints: Timer,
    producers: Timer,
    idle: Timer,
    in_sync: Timer,
    high_watermarks: Timer,
}

impl Upkeep {
    fn new(manager: Arc<ReplicaManager>) -> Upkeep {
        let config = &manager.config().replication;
        let now = clock::now();
        let initial = config.initial_task_delay;
        Upkeep {
            retention: Timer::new(now, initial, config.retention_check_interval),
            checkpoints: Timer::new(now, initial, config.recovery_point_checkpoint_interval),
            producers: Timer::new(now, initial, config.producer_id_expiration_check_interval),
            idle: Timer::new(now, initial, Duration::from_millis(IDLE_CHECK_INTERVAL_MS as u64)),
            // Kafka's interval: whoever lags leaves after one and a half times the limit at most.
            high_watermarks: Timer::new(now, initial, config.high_watermark_checkpoint_interval),
            in_sync: Timer::new(now, config.lag_time_max / 2, config.lag_time_max / 2),
            manager,
        }
    }

    fn step(&mut self) -> Next {
        let manager = &self.manager;
        if manager.maintenance().is_stopping() {
            return Next::End;
        }
        let now = clock::now();
        manager.maintenance().delete_due(now);
        if self.retention.is_due(now) {
            for replica in manager.replicas() {
                retain(manager, &replica, now);
                if manager.maintenance().is_stopping() {
                    return Next::End;
                }
            }
        }
        if self.checkpoints.is_due(now) {
            sync_what_lags(manager);
            manager.write_checkpoints();
        }
        if self.producers.is_due(now) {
            for replica in manager.replicas() {
                replica.state.lock().log.expire_producers(now);
            }
        }
        if self.high_watermarks.is_due(now) {
            manager.write_high_watermarks();
        }
        if self.in_sync.is_due(now) {
            let (now, lag_max) = (Instant::now(), manager.config().replication.lag_time_max);
            for replica in manager.replicas() {
                replica.on_leader(|in_sync| {
                    in_sync.on_tick(now, lag_max, |broker| manager.follower_sessions().contact(broker))
                });
            }
        }
        if self.idle.is_due(now) {
            for replica in manager.replicas() {
                release_if_idle(&replica, now);
            }
        }
        Next::OnSignalOrAfter(TICK)
    }
}

/// Up to where everything of the partition is in the tier; None if that is not sure.
fn tier_end(manager: &ReplicaManager, replica: &Replica) -> Option<Offset> {
    match manager.metadata().image().tier_position(replica.topic_id(), replica.partition()) {
        // Nothing ever was.
        None => Some(Offset(0)),
        Some(position) => (!position.is_doubtful).then_some(Offset(position.end_offset)),
    }
}

/// Retention by time, size and log start offset.
pub(super) fn retain(manager: &ReplicaManager, replica: &Arc<Replica>, now: TimestampMs) {
    let mut state = replica.state.lock();
    if state.leader.is_none() && replica.is_offline() {
        return;
    }
    let high_watermark = replica.high_watermark();
    match state.log.delete_old_segments(now, high_watermark, tier_end(manager, replica)) {
        Ok(deleted) => {
            replica.act(state, Actions::default());
            for (base_offset, bytes, reason) in deleted.segments() {
                tracing::info!(
                    topic = %replica.topic(), partition = replica.partition(), %base_offset, bytes, ?reason,
                    "segment deleted"
                );
            }
            let delay_ms = replica.settings().log.file_delete_delay_ms;
            manager.maintenance().delete_segments_later(deleted, now, delay_ms);
        }
        Err(error) => {
            drop(state);
            tracing::error!(topic = %replica.topic(), partition = replica.partition(), %error, "retention failed");
            replica.check_offline(&error);
        }
    }
}

/// Under `ottla.durability=memory` nobody asks for syncs: this bounds what a power cut takes and what recovery reads.
fn sync_what_lags(manager: &ReplicaManager) {
    for replica in manager.replicas() {
        let lags = {
            let state = replica.state.lock();
            state.log.offline().is_none() && state.log.synced_end_offset() < state.log.end_offset()
        };
        if lags {
            replica.syncs.load().request(&replica);
        }
    }
}

fn release_if_idle(replica: &Arc<Replica>, now: TimestampMs) {
    if now.0 - replica.last_used_ms.load(Ordering::Relaxed) < IDLE_AFTER_MS {
        return;
    }
    if let Err(error) = replica.state.lock().log.release_idle() {
        tracing::warn!(topic = %replica.topic(), partition = replica.partition(), %error, "idle files not closed");
    }
}

/// Only what is committed is compacted; of a tiered topic only what is in the tier as it was written. Else a deletion that compaction
/// forgot could be missing there, and what it deleted would be read again.
fn compaction_limit(manager: &ReplicaManager, replica: &Replica) -> Offset {
    let stable = replica.last_stable_offset();
    match replica.settings().log.remote_storage {
        true => stable.min(tier_end(manager, replica).unwrap_or(Offset(0))),
        false => stable,
    }
}

/// A step of a cleaner.
fn clean(manager: &ReplicaManager) -> Next {
    if manager.maintenance().is_stopping() {
        return Next::End;
    }
    match compact_dirtiest(manager) {
        true => Next::Again,
        false => Next::OnSignalOrAfter(manager.config().dynamic().cleaner_backoff),
    }
}

/// Compacts the log with the largest share of uncompacted bytes. False when no log needs it.
pub(super) fn compact_dirtiest(manager: &ReplicaManager) -> bool {
    let now = clock::now();
    let mut dirtiest: Option<(Arc<Replica>, ottla_storage::log::CompactionPlan)> = None;
    for replica in manager.replicas() {
        if !replica.settings().log.cleanup_policy.compacts() || replica.compacting.load(Ordering::Acquire) {
            continue;
        }
        let limit = compaction_limit(manager, &replica);
        let Some(plan) = replica.state.lock().log.plan_compaction(limit, now) else { continue };
        if dirtiest.as_ref().is_none_or(|(_, other)| other.dirty_ratio() < plan.dirty_ratio()) {
            dirtiest = Some((replica, plan));
        }
    }
    let Some((replica, plan)) = dirtiest else { return false };
    // Another thread may have chosen the same one.
    if replica.compacting.swap(true, Ordering::AcqRel) {
        return true;
    }
    // Made anew now that nobody else can replace segments: another thread, or a move to another log directory.
    drop(plan);
    let limit = compaction_limit(manager, &replica);
    let plan = replica.state.lock().log.plan_compaction(limit, now);
    let done = plan.map_or(Ok(()), |plan| compact(manager, &replica, plan, now));
    replica.compacting.store(false, Ordering::Release);
    match done {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(topic = %replica.topic(), partition = replica.partition(), %error, "compaction failed");
            // The same log would be chosen again at once.
            false
        }
    }
}

fn compact(
    manager: &ReplicaManager,
    replica: &Arc<Replica>,
    plan: ottla_storage::log::CompactionPlan,
    now: TimestampMs,
) -> Result<(), ottla_storage::log::CompactError> {
    let go_on = || !manager.maintenance().is_stopping() && !replica.is_deleted() && !replica.is_offline();
    let compacted = plan.rewrite(now, &go_on)?;
    let result = {
        let mut state = replica.state.lock();
        let result = state.log.swap_compacted(compacted)?;
        replica.act(state, Actions::default());
        result
    };
    tracing::info!(
        topic = %replica.topic(), partition = replica.partition(), before = result.bytes_before, after = result.bytes_after,
        "compacted"
    );
    let log_dir = manager.log_dir_of(replica);
    if let Err(error) =
        log_dir.write_cleaner_offset(replica.topic(), replica.partition(), Some(result.cleaner_offset))
    {
        // It is then compacted again after a restart; nothing is lost.
        tracing::warn!(topic = %replica.topic(), partition = replica.partition(), %error, "cleaner offset not written");
    }
    let delay_ms = replica.settings().log.file_delete_delay_ms;
    manager.maintenance().delete_segments_later(result.deleted, now, delay_ms);
    Ok(())
}
