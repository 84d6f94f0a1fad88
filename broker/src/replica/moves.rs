//! Moves of replicas between the log directories of this broker (KIP-113): the log is copied beside the one there is, and takes its
//! place when it has everything.
//!
//! Who calls: AlterReplicaLogDirs begins and cancels moves; one thread does a step of each in turn. The order of a move's end:
//!
//! 1. The copy has nearly everything and is synced.
//! 2. The controller takes note of the new directory (KIP-858).
//! 3. Under the replica's lock: the rest is copied and synced, the copy is given the partition's name, the replica goes on with it.
//! 4. The old log is removed.
//!
//! ORDER: 2 before 3. A crash between the halves of 3 and 4 leaves two directories of the same name, and the controller knows which
//! is the newer. Before 3 the copy has another name, and a start goes on copying.
//!
//! Nothing is compacted while it is moved, as in Kafka: what was copied would not be what there is.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ottla_batch::{BatchError, Offset, check_replicated};
use ottla_raft::TopicId;
use ottla_storage::log::{AppendError, ChangeError, FirstBatch, Log, OpenError, ReadError};
use ottla_storage::logdir::{self, PartitionDir};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::group_commit::Fatal;
use super::manager::{LookupError, ReplicaManager};
use super::partition::{Replica, State};
use super::quota::Room;
use crate::clock;
use crate::threads::{Next, Signal, Worker};

/// Copied in one step, which is how long another move waits.
const STEP_BYTES: usize = 1 << 20;
/// The most that is copied while the replica is held.
const REST_BYTES_MAX: usize = 256 << 10;
/// How often a move that waits (for the controller, its rate, or space) is looked at.
const POLL: Duration = Duration::from_millis(20);
/// Before a disk that was full is tried again, and the controller asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Partitions without a replica here for which a directory is remembered.
const PREFERRED_MAX: usize = 10_000;

type Key = (TopicId, i32);

/// Why a replica is not moved.
#[derive(Debug, thiserror::Error)]
pub enum AlterLogDirError {
    #[error("the topic's name is too long for its partitions to be moved between log directories")]
    TopicNameTooLong,
    #[error("{0} is no log directory of this broker")]
    LogDirNotFound(String),
    #[error("log directory {0} is offline")]
    LogDirOffline(String),
    #[error("the replica is on a log directory that is offline")]
    ReplicaOffline,
    #[error("this server does not host this topic-partition")]
    UnknownTopicOrPartition,
    #[error("this broker has no replica of the partition yet; if it gets one, it will be in the directory")]
    ReplicaNotAvailable,
    #[error("the copy cannot be begun: {0}")]
    Open(#[from] OpenError),
}

/// A move as DescribeLogDirs shows it.
#[derive(Debug, Clone)]
pub struct FutureReplica {
    pub replica: Arc<Replica>,
    pub size: u64,
    /// How far the copy is behind, in offsets.
    pub lag: i64,
}

// What the controller knows of a move's directory.
const UNTOLD: u8 = 0;
const ASKED: u8 = 1;
const TOLD: u8 = 2;

struct Move {
    replica: Arc<Replica>,
    /// The log directory.
    to: usize,
    work: Mutex<Work>,
    told: Arc<AtomicU8>,
    /// Of the copy, for those who only look.
    size: AtomicU64,
    end: AtomicI64,
}

struct Work {
    /// `None` once the move is done or cancelled.
    future: Option<Log>,
    /// Whether compaction is held off.
    holds_compaction: bool,
    pause_until: Option<Instant>,
}

/// What a step came to.
enum Step {
    /// There is more to do at once.
    Again,
    Wait,
    Done,
}

/// Why a move cannot go on.
#[derive(Debug, thiserror::Error)]
enum MoveError {
    #[error("the log can't be read: {0}")]
    Read(#[from] ReadError),
    #[error("the log holds what is no batch: {0}")]
    Batch(#[from] BatchError),
    #[error("reading went nowhere at offset {0}")]
    NoProgress(Offset),
    #[error("the copy can't be written: {0}")]
    Append(#[from] AppendError),
    #[error("the copy can't be changed: {0}")]
    Change(#[from] ChangeError),
    #[error("reading from the log's file: {0}")]
    ReadFile(std::io::Error),
    #[error("the copy can't be synced: {0}")]
    Sync(std::io::Error),
    /// It is not known under which name the copy will be found after a restart.
    #[error("the copy can't take the partition's name: {0}")]
    Name(ChangeError),
}

#[derive(Default)]
pub(super) struct Moves {
    running: Mutex<BTreeMap<Key, Arc<Move>>>,
    /// Where replicas are to be created that are not there yet.
    preferred: Mutex<HashMap<(String, i32), usize>>,
    /// One request at a time begins or cancels moves.
    altering: Mutex<()>,
    stopping: AtomicBool,
    wake: Arc<Signal>,
    worker: Mutex<Option<Worker>>,
}

impl Moves {
    pub fn start(&self, manager: &Arc<ReplicaManager>) -> std::io::Result<()> {
        let manager = Arc::downgrade(manager);
        let step = move || manager.upgrade().map_or(Next::End, |manager| manager.step_moves());
        let worker = Worker::spawn("alter-log-dirs".to_owned(), Arc::clone(&self.wake), step)?;
        *self.worker.lock() = Some(worker);
        Ok(())
    }

    /// Ends the thread and closes the copies, which the next start goes on with. Answers the directories in which one did not
    /// close well.
    pub fn stop(&self) -> Vec<usize> {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake.wake_all();
        if let Some(worker) = self.worker.lock().take()
            && let Err(error) = worker.join()
        {
            tracing::error!(error, "the thread of moves between log directories did not end well");
        }
        let mut unclean = Vec::new();
        for moving in std::mem::take(&mut *self.running.lock()).into_values() {
            let Some(mut future) = moving.work.lock().future.take() else { continue };
            if let Err(error) = future.close() {
                tracing::error!(path = %future.dir().display(), %error, "a copy did not close well");
                unclean.push(moving.to);
            }
        }
        unclean
    }

    /// Where a new replica is to be created, if somebody said so.
    pub fn take_preferred(&self, topic: &str, partition: i32) -> Option<usize> {
        self.preferred.lock().remove(&(topic.to_owned(), partition))
    }

    fn prefer(&self, topic: &str, partition: i32, dir: usize) {
        let mut preferred = self.preferred.lock();
        let key = (topic.to_owned(), partition);
        if preferred.len() < PREFERRED_MAX || preferred.contains_key(&key) {
            preferred.insert(key, dir);
        } else {
            tracing::warn!(
                topic,
                partition,
                "too many directories of partitions that are not here are remembered already"
            );
        }
    }

    /// A directory failed: nothing more is copied into it, nor out of it. The copies stay for when it is back.
    pub fn on_dir_failed(&self, manager: &ReplicaManager, dir: usize) {
        let concerned: Vec<_> = {
            let mut running = self.running.lock();
            let is_concerned = |one: &Move| one.to == dir || one.replica.dir() == dir;
            let keys: Vec<_> =
                running.iter().filter(|(_, one)| is_concerned(one)).map(|(key, _)| *key).collect();
            keys.iter().filter_map(|key| running.remove(key)).collect()
        };
        for moving in concerned {
            drop(manager.end_move(&moving));
        }
    }
}

impl ReplicaManager {
    /// Moves a replica of this broker to another of its log directories, or cancels that by naming the one where it is. If there is
    /// none, it will be created there.
    pub fn alter_replica_log_dir(
        &self,
        topic: &str,
        partition: i32,
        path: &str,
    ) -> Result<(), AlterLogDirError> {
        if !logdir::can_be_moved(topic, partition) {
            return Err(AlterLogDirError::TopicNameTooLong);
        }
        let to = self.dir_by_path(path)?;
        let _one_at_a_time = self.moves.altering.lock();
        let found = self.get(topic, partition);
        if let Some(replica) = &found {
            if replica.is_offline() {
                return Err(AlterLogDirError::ReplicaOffline);
            }
            let key = (replica.topic_id(), partition);
            let running = self.moves.running.lock().get(&key).cloned();
            match running {
                Some(running) if running.to == to => return Ok(()),
                Some(_) => self.cancel_move(key),
                None => {}
            }
            if replica.dir() == to {
                return Ok(());
            }
            return Ok(self.begin_move(replica, to, None)?);
        }
        self.moves.prefer(topic, partition, to);
        match self.find(topic, partition) {
            Err(LookupError::Failed) => Err(AlterLogDirError::ReplicaOffline),
            Err(LookupError::UnknownTopicOrPartition | LookupError::UnknownTopicId) => {
                Err(AlterLogDirError::UnknownTopicOrPartition)
            }
            // Also if it was just created: whoever asks again gets it moved.
            Err(LookupError::NotHere) | Ok(_) => Err(AlterLogDirError::ReplicaNotAvailable),
        }
    }

    /// By the path that DescribeLogDirs shows.
    fn dir_by_path(&self, path: &str) -> Result<usize, AlterLogDirError> {
        let is_it = |known: &Path| std::path::absolute(known).is_ok_and(|known| known == Path::new(path));
        if let Some(index) = self.dirs.iter().position(|dir| is_it(dir.log_dir.path())) {
            return match self.dirs[index].log_dir.offline() {
                None => Ok(index),
                Some(_) => Err(AlterLogDirError::LogDirOffline(path.to_owned())),
            };
        }
        match self.unusable_dirs().iter().any(|dir| is_it(&dir.path)) {
            true => Err(AlterLogDirError::LogDirOffline(path.to_owned())),
            false => Err(AlterLogDirError::LogDirNotFound(path.to_owned())),
        }
    }

    /// `found` is a copy that was begun before a restart.
    fn begin_move(&self, replica: &Arc<Replica>, to: usize, found: Option<PathBuf>) -> Result<(), OpenError> {
        let (topic, partition) = (replica.topic(), replica.partition());
        let config = Arc::clone(&replica.settings().log);
        let id = Some(replica.topic_id().0);
        let future = self.dirs[to].log_dir.open_future_log(found, topic, partition, id, config, clock::now());
        let future = future.inspect_err(|error| self.check_dir(to, "a copy", error))?;
        let (from, into) = (self.log_dir_of(replica).path(), self.dirs[to].log_dir.path());
        tracing::info!(%topic, partition, from = %from.display(), to = %into.display(), "the replica is moved to another log directory");
        let moving = Arc::new(Move {
            replica: Arc::clone(replica),
            to,
            size: AtomicU64::new(future.size_in_bytes()),
            end: AtomicI64::new(future.end_offset().0),
            work: Mutex::new(Work { future: Some(future), holds_compaction: false, pause_until: None }),
            told: Arc::new(AtomicU8::new(UNTOLD)),
        });
        self.moves.running.lock().insert((replica.topic_id(), partition), moving);
        self.moves.wake.wake_one();
        Ok(())
    }

    /// Goes on with the copies that a start found.
    pub(super) fn resume_moves(&self, futures: Vec<(usize, PartitionDir)>) {
        for (dir, found) in futures {
            let replica = self.get(&found.topic, found.partition);
            let is_online = self.dirs[dir].log_dir.offline().is_none();
            match replica {
                Some(replica)
                    if found.topic_id == Some(replica.topic_id().0)
                        && replica.dir() != dir
                        && !replica.is_offline()
                        && is_online
                        && !self.is_moving(&replica) =>
                {
                    if let Err(error) = self.begin_move(&replica, dir, Some(found.path)) {
                        let (topic, partition) = (replica.topic(), replica.partition());
                        tracing::error!(%topic, partition, %error, "a move between log directories can't be continued");
                    }
                }
                // It may be of a replica that can't be read now.
                None if self.has_offline_dirs() => {}
                _ if is_online => self.set_path_aside(dir, &found.path),
                _ => {}
            }
        }
    }

    fn is_moving(&self, replica: &Replica) -> bool {
        self.moves.running.lock().contains_key(&(replica.topic_id(), replica.partition()))
    }

    /// The copies that are being made in a log directory.
    pub fn futures_in(&self, log_dir: &logdir::LogDir) -> Vec<FutureReplica> {
        let running = self.moves.running.lock();
        let there = running.values().filter(|one| std::ptr::eq(&*self.dirs[one.to].log_dir, log_dir));
        there
            .map(|one| FutureReplica {
                replica: Arc::clone(&one.replica),
                size: one.size.load(Ordering::Relaxed),
                lag: one.replica.end_offset().0 - one.end.load(Ordering::Relaxed),
            })
            .collect()
    }

    /// The copy goes away, if there is one.
    pub(super) fn cancel_move(&self, key: Key) {
        let moving = self.moves.running.lock().remove(&key);
        if let Some(moving) = moving {
            tracing::info!(topic = %moving.replica.topic(), partition = key.1, "the move to another log directory is cancelled");
            self.abandon(&moving);
        }
    }

    fn abandon(&self, moving: &Move) {
        let Some(mut future) = self.end_move(moving) else { return };
        match future.mark_deleted() {
            Ok(deleted) => self.maintenance().delete_log_later(deleted, clock::now(), 0),
            Err(error) => {
                tracing::error!(path = %future.dir().display(), %error, "a copy can't be removed");
                self.check_dir(moving.to, "a copy", &error);
            }
        }
    }

    /// Takes the copy out of a move that ends without success.
    fn end_move(&self, moving: &Move) -> Option<Log> {
        let mut work = moving.work.lock();
        let future = work.future.take()?;
        if work.holds_compaction {
            moving.replica.compacting.store(false, Ordering::Release);
        }
        if moving.told.load(Ordering::Acquire) != UNTOLD {
            self.tell_directory(&moving.replica);
        }
        Some(future)
    }

    /// One step of each move.
    fn step_moves(self: &Arc<Self>) -> Next {
        let running: Vec<_> = self.moves.running.lock().values().cloned().collect();
        let mut next = if running.is_empty() { Next::OnSignal } else { Next::OnSignalOrAfter(POLL) };
        for moving in running {
            if self.moves.stopping.load(Ordering::SeqCst) {
                return Next::End;
            }
            let mut work = moving.work.lock();
            let step = self.step(&moving, &mut work);
            if let Some(future) = &work.future {
                moving.size.store(future.size_in_bytes(), Ordering::Relaxed);
                moving.end.store(future.end_offset().0, Ordering::Relaxed);
            }
            drop(work);
            match step {
                Ok(Step::Again) => next = Next::Again,
                Ok(Step::Wait) => {}
                Ok(Step::Done) => {
                    self.moves
                        .running
                        .lock()
                        .remove(&(moving.replica.topic_id(), moving.replica.partition()));
                    self.check_dirs_of(std::slice::from_ref(&moving.replica));
                    self.write_high_watermarks();
                }
                Err(error) => self.on_move_failed(&moving, &error),
            }
        }
        if self.moves.stopping.load(Ordering::SeqCst) { Next::End } else { next }
    }

    fn step(self: &Arc<Self>, moving: &Arc<Move>, work: &mut Work) -> Result<Step, MoveError> {
        let now = Instant::now();
        let Some(future) = work.future.as_mut() else { return Ok(Step::Wait) };
        if work.pause_until.is_some_and(|until| now < until) {
            return Ok(Step::Wait);
        }
        if !work.holds_compaction {
            if moving.replica.compacting.swap(true, Ordering::AcqRel) {
                return Ok(Step::Wait);
            }
            work.holds_compaction = true;
        }
        let bytes_max = match self.quotas().alter_log_dirs.room(now) {
            Room::Unlimited => STEP_BYTES,
            Room::Bytes(bytes) => bytes.min(STEP_BYTES),
            Room::NoneUntil(until) => {
                work.pause_until = Some(until.min(now + RETRY_PAUSE));
                return Ok(Step::Wait);
            }
        };
        let (slice, is_near) = {
            let state = moving.replica.state.lock();
            let from = future.agree_with(&state.log)?;
            let end = state.log.end_offset();
            let slice = state.log.read(from, end, bytes_max, FirstBatch::Whole)?;
            if slice.is_empty() && from < end {
                return Err(MoveError::NoProgress(from));
            }
            (slice, state.log.size_in_bytes().saturating_sub(future.size_in_bytes()) <= REST_BYTES_MAX as u64)
        };
        let copied = slice.read().map_err(MoveError::ReadFile)?;
        self.quotas().alter_log_dirs.spend(copied.len(), now);
        let is_there = copied.is_empty();
        match future.append_copied(&check_replicated(copied)?, clock::now()) {
            Ok(()) => {}
            Err(AppendError::DiskFull { path }) => {
                if work.pause_until.is_none() {
                    tracing::error!(path = %path.display(), "no space left to copy a replica to; the move waits");
                }
                work.pause_until = Some(now + RETRY_PAUSE);
                return Ok(Step::Wait);
            }
            Err(error) => return Err(error.into()),
        }
        work.pause_until = None;
        if !is_there && !is_near {
            return Ok(Step::Again);
        }
        match moving.told.load(Ordering::Acquire) {
            UNTOLD => {
                sync(future)?;
                self.ask_controller(moving);
                Ok(Step::Again)
            }
            ASKED if is_there => Ok(Step::Wait),
            ASKED => Ok(Step::Again),
            _ => {
                // Most of it now, without the lock.
                sync(future)?;
                self.finish(moving, work)
            }
        }
    }

    /// Step 3 and 4 of a move.
    fn finish(&self, moving: &Move, work: &mut Work) -> Result<Step, MoveError> {
        let replica = &moving.replica;
        let mut state = replica.state.lock();
        if replica.is_offline() || replica.is_deleted() || *self.stop.borrow() {
            // Whoever made it so ends the move too.
            return Ok(Step::Wait);
        }
        let Some(future) = work.future.as_mut() else { return Ok(Step::Wait) };
        if !copy_rest(future, &state)? {
            return Ok(Step::Again);
        }
        future.complete_from(&state.log)?;
        future.take_name().map_err(MoveError::Name)?;
        let Some(future) = work.future.take() else { return Ok(Step::Wait) };
        let from = replica.dir();
        let mut old = replica.move_to(&mut state, moving.to, Arc::clone(&self.dirs[moving.to].syncs), future);
        // ORDER: only now that the replica goes on with the copy may the old log go.
        drop(state);
        self.dirs[from].replicas.fetch_sub(1, Ordering::Relaxed);
        self.dirs[moving.to].replicas.fetch_add(1, Ordering::Relaxed);
        replica.compacting.store(false, Ordering::Release);
        let to = self.dirs[moving.to].log_dir.path();
        tracing::info!(topic = %replica.topic(), partition = replica.partition(), to = %to.display(), "the replica was moved");
        match old.mark_deleted() {
            Ok(deleted) => {
                let delay_ms = replica.settings().log.file_delete_delay_ms;
                self.maintenance().delete_log_later(deleted, clock::now(), delay_ms);
            }
            // The next start finds out which of the two is the log.
            Err(error) => {
                tracing::error!(path = %old.dir().display(), %error, "the log that was moved away can't be removed");
            }
        }
        Ok(Step::Done)
    }

    fn on_move_failed(&self, moving: &Move, error: &MoveError) {
        let replica = &moving.replica;
        tracing::error!(
            topic = %replica.topic(), partition = replica.partition(), %error, "the replica can't be moved to another log directory"
        );
        if matches!(error, MoveError::Name(_)) {
            // ORDER: before anything else can be appended to a log that a restart may not choose.
            let copy_is_unsure =
                moving.work.lock().future.as_ref().is_some_and(|future| future.offline().is_some());
            if copy_is_unsure {
                replica.go_offline();
                let log = format!("{}-{}", replica.topic(), replica.partition());
                self.fail_dir(moving.to, Fatal::LogOffline { log, reason: error.to_string() });
                return;
            }
        }
        self.cancel_move((replica.topic_id(), replica.partition()));
        match error {
            MoveError::Read(_) | MoveError::ReadFile(_) => replica.check_offline(error),
            MoveError::Append(_) | MoveError::Change(_) | MoveError::Sync(_) | MoveError::Name(_) => {
                self.check_dir(moving.to, "a copy", error);
            }
            MoveError::Batch(_) | MoveError::NoProgress(_) => {}
        }
    }

    /// Step 2 of a move.
    fn ask_controller(self: &Arc<Self>, moving: &Move) {
        moving.told.store(ASKED, Ordering::Release);
        let directory = self.dirs[moving.to].log_dir.directory_id();
        let (told, wake) = (Arc::clone(&moving.told), Arc::downgrade(self));
        self.tell_directory_and_then(&moving.replica, directory, move |is_taken| {
            told.store(if is_taken { TOLD } else { UNTOLD }, Ordering::Release);
            if let Some(manager) = Weak::upgrade(&wake) {
                manager.moves.wake.wake_one();
            }
        });
    }
}

fn sync(future: &mut Log) -> Result<(), MoveError> {
    let synced = future.begin_sync().run().map_err(MoveError::Sync)?;
    future.on_synced(synced);
    Ok(())
}

/// Whether the copy has everything now.
fn copy_rest(future: &mut Log, state: &State) -> Result<bool, MoveError> {
    let end = state.log.end_offset();
    let mut copied = 0;
    loop {
        let from = future.agree_with(&state.log)?;
        if from == end {
            return Ok(true);
        }
        if copied > REST_BYTES_MAX {
            return Ok(false);
        }
        let slice = state.log.read(from, end, REST_BYTES_MAX, FirstBatch::Whole)?;
        if slice.is_empty() {
            return Err(MoveError::NoProgress(from));
        }
        let bytes = slice.read().map_err(MoveError::ReadFile)?;
        copied += bytes.len();
        future.append_copied(&check_replicated(bytes)?, clock::now())?;
    }
}
