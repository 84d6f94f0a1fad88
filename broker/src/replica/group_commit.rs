//! Group commit: one fdatasync serves every append that arrived before it began.
//!
//! An append under `ottla.durability=fsync` queues its replica; a few threads per log directory take queued replicas and sync
//! them without holding their logs. A replica is synced by one thread at a time: appends during a sync queue it once more,
//! whatever their number, so an append waits for at most the sync that runs and the one after it.
//!
//! A failed sync is never repeated on the same file and nothing is acknowledged after it: the kernel may have dropped the
//! dirty pages, so that a second fsync would succeed over lost data. The log directory is given up with [`Fatal::SyncFailed`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ottla_storage::disk::Disk;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::counters::Counters;
use super::partition::Replica;
use crate::threads::{Next, Signal, Worker};

/// How many syncs of one log directory may run at once: the device and the journal merge concurrent flushes, so replicas
/// need not wait for each other; more threads than this only wait for the same flush.
pub const SYNC_THREADS_PER_LOG_DIR: usize = 4;

/// Why a log directory must not be used any more; or the process must stop at once, having no other.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fatal {
    #[error("fdatasync of {log} failed: {reason}; what was not acknowledged may be lost")]
    SyncFailed { log: String, reason: String },
    #[error("log {log} can't be trusted any more: {reason}")]
    LogOffline { log: String, reason: String },
    #[error("the device below {log} fails: {reason}")]
    DeviceFailed { log: String, reason: String },
    #[error("no log directory is left, so this process stops; the last one was {path}: {reason}")]
    NoLogDirLeft { path: String, reason: String },
}

impl Fatal {
    /// What the process ends with.
    pub fn exit_code(&self) -> i32 {
        match self {
            // EX_IOERR of sysexits.h.
            Fatal::SyncFailed { .. }
            | Fatal::LogOffline { .. }
            | Fatal::DeviceFailed { .. }
            | Fatal::NoLogDirLeft { .. } => 74,
        }
    }
}

/// Called once with the reason; expected to end the process.
pub type OnFatal = Arc<dyn Fn(Fatal) + Send + Sync>;

// Where a replica stands, in `Replica::sync_stage`. Whoever makes it QUEUED puts it into a queue, whoever takes it from there makes
// it RUNNING and afterwards something else: it is in one queue or with one thread at most, also while it moves to another log
// directory and so to another queue.
const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const RUNNING_AND_WANTED: u8 = 3;

/// The replicas of one log directory that wait for a sync.
pub struct SyncQueue {
    state: Mutex<QueueState>,
    ready: Arc<Signal>,
    on_fatal: OnFatal,
    is_reported: AtomicBool,
    counters: Option<Arc<Counters>>,
    disk: Option<Disk>,
}

#[derive(Default)]
struct QueueState {
    queued: VecDeque<Arc<Replica>>,
    stopping: bool,
    threads: Vec<Worker>,
}

impl SyncQueue {
    /// `name` ends up in the names of the threads.
    pub fn start(
        name: &str,
        disk: Disk,
        on_fatal: OnFatal,
        counters: Option<Arc<Counters>>,
    ) -> io::Result<Arc<SyncQueue>> {
        let queue = SyncQueue::new(on_fatal, counters, Some(disk));
        for index in 0..SYNC_THREADS_PER_LOG_DIR {
            let worker = Arc::clone(&queue);
            let mut taken = None;
            let step = move || worker.step(&mut taken);
            let thread = Worker::spawn(format!("sync-{name}-{index}"), Arc::clone(&queue.ready), step)?;
            queue.state.lock().threads.push(thread);
        }
        Ok(queue)
    }

    /// A queue that its owner empties by hand, for tests and simulations that decide when a sync happens.
    pub fn without_threads(on_fatal: OnFatal, counters: Option<Arc<Counters>>) -> Arc<SyncQueue> {
        SyncQueue::new(on_fatal, counters, None)
    }

    fn new(on_fatal: OnFatal, counters: Option<Arc<Counters>>, disk: Option<Disk>) -> Arc<SyncQueue> {
        Arc::new(SyncQueue {
            state: Mutex::default(),
            ready: Arc::default(),
            on_fatal,
            is_reported: AtomicBool::new(false),
            counters,
            disk,
        })
    }

    /// The directory can't be trusted any more. Said once.
    pub fn report(&self, fatal: Fatal) {
        if !self.is_reported.swap(true, Ordering::SeqCst) {
            (self.on_fatal)(fatal);
        }
    }

    /// `replica` has unsynced bytes that somebody waits for.
    pub fn request(&self, replica: &Arc<Replica>) {
        let wanted =
            replica.sync_stage.fetch_update(Ordering::AcqRel, Ordering::Acquire, |stage| match stage {
                IDLE => Some(QUEUED),
                RUNNING => Some(RUNNING_AND_WANTED),
                // It is known already.
                _ => None,
            });
        if wanted == Ok(IDLE) {
            self.state.lock().queued.push_back(Arc::clone(replica));
            self.ready.wake_one();
        }
    }

    /// A step of a sync thread. `taken` is what it took in the step before, to be synced now: a simulated disk takes its
    /// time.
    fn step(&self, taken: &mut Option<Arc<Replica>>) -> Next {
        if let Some(replica) = taken.take() {
            self.sync(replica);
            return Next::Again;
        }
        match self.take() {
            Some(replica) => match self.disk.as_ref().and_then(Disk::sync_time) {
                None => {
                    self.sync(replica);
                    Next::Again
                }
                Some(time) => {
                    *taken = Some(replica);
                    Next::After(time)
                }
            },
            None if self.state.lock().stopping => Next::End,
            None => Next::OnSignal,
        }
    }

    /// Syncs the first replica in the queue. False when there is none.
    pub fn run_one(&self) -> bool {
        self.take().map(|replica| self.sync(replica)).is_some()
    }

    fn take(&self) -> Option<Arc<Replica>> {
        let mut state = self.state.lock();
        let replica = state.queued.pop_front()?;
        replica.sync_stage.store(RUNNING, Ordering::Release);
        Some(replica)
    }

    fn sync(&self, replica: Arc<Replica>) {
        let started = Instant::now();
        let (queue, outcome) = replica.sync();
        if let Some(counters) = &self.counters {
            counters.sync_seconds.observe(started.elapsed().as_secs_f64());
        }
        let is_moved = !Arc::ptr_eq(&queue, &replica.syncs.load());
        if let Err(reason) = outcome {
            let log = format!("{}-{}", replica.topic(), replica.partition());
            queue.report(Fatal::SyncFailed { log, reason: reason.to_string() });
            if !is_moved {
                // ORDER: the stage stays RUNNING, so that nothing ever queues this replica again.
                return;
            }
        }
        let stage = &replica.sync_stage;
        if stage.compare_exchange(RUNNING, IDLE, Ordering::AcqRel, Ordering::Acquire).is_err() {
            stage.store(QUEUED, Ordering::Release);
            let queue = replica.syncs.load_full();
            queue.state.lock().queued.push_back(replica);
            // This thread comes for the next one of its own queue at once.
            if !std::ptr::eq(Arc::as_ptr(&queue), self) {
                queue.ready.wake_one();
            }
        }
    }

    /// Syncs what is queued, then ends the threads. Appends after this are not synced.
    pub fn stop(&self) {
        let threads = {
            let mut state = self.state.lock();
            state.stopping = true;
            std::mem::take(&mut state.threads)
        };
        self.ready.wake_all();
        for thread in threads {
            if let Err(error) = thread.join() {
                tracing::error!(error, "a sync thread did not end well");
            }
        }
        while self.run_one() {}
    }
}

impl Replica {
    /// Syncs the log and publishes how far. Only a sync thread calls it. Answers the queue of the directory in which the log lay.
    fn sync(self: &Arc<Replica>) -> (Arc<SyncQueue>, io::Result<()>) {
        let (queue, work) = {
            let state = self.state.lock();
            let queue = self.syncs.load_full();
            if self.is_deleted() {
                return (queue, Ok(()));
            }
            (queue, state.log.begin_sync())
        };
        let outcome = match work.run() {
            Ok(synced) => {
                self.on_synced(synced);
                Ok(())
            }
            // Files of a topic deleted meanwhile may be gone, as those of a log that was moved to another directory; nobody waits
            // for them.
            Err(_) if self.is_deleted() || !Arc::ptr_eq(&queue, &self.syncs.load()) => Ok(()),
            Err(source) => Err(source),
        };
        (queue, outcome)
    }
}
