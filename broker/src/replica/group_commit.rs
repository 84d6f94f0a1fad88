//! Group commit: one fdatasync serves every append that arrived before it began.
//!
//! An append under `ottla.durability=fsync` queues its replica; a few threads per log directory take queued replicas and sync
//! them without holding their logs. A replica is synced by one thread at a time: appends during a sync queue it once more,
//! whatever their number, so an append waits for at most the sync that runs and the one after it.
//!
//! A failed sync is never repeated on the same file and nothing is acknowledged after it: the kernel may have dropped the
//! dirty pages, so that a second fsync would succeed over lost data. The process stops with [`Fatal::SyncFailed`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::counters::Counters;
use super::partition::Replica;

/// How many syncs of one log directory may run at once: the device and the journal merge concurrent flushes, so replicas
/// need not wait for each other; more threads than this only wait for the same flush.
pub const SYNC_THREADS_PER_LOG_DIR: usize = 4;

/// Why the process must stop at once.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fatal {
    #[error(
        "fdatasync of {log} failed: {reason}; what was not acknowledged may be lost, so this process stops"
    )]
    SyncFailed { log: String, reason: String },
}

impl Fatal {
    /// What the process ends with.
    pub fn exit_code(&self) -> i32 {
        match self {
            // EX_IOERR of sysexits.h.
            Fatal::SyncFailed { .. } => 74,
        }
    }
}

/// Called once with the reason; expected to end the process.
pub type OnFatal = Arc<dyn Fn(Fatal) + Send + Sync>;

// Where a replica stands, in `Replica::sync_stage`. Changed under the queue's lock only.
const IDLE: u8 = 0;
const QUEUED: u8 = 1;
const RUNNING: u8 = 2;
const RUNNING_AND_WANTED: u8 = 3;

/// The replicas of one log directory that wait for a sync.
pub struct SyncQueue {
    state: Mutex<QueueState>,
    ready: Condvar,
    on_fatal: OnFatal,
    counters: Option<Arc<Counters>>,
}

#[derive(Default)]
struct QueueState {
    queued: VecDeque<Arc<Replica>>,
    running: usize,
    stopping: bool,
    threads: Vec<JoinHandle<()>>,
}

impl SyncQueue {
    /// `name` ends up in the names of the threads.
    pub fn start(
        name: &str,
        on_fatal: OnFatal,
        counters: Option<Arc<Counters>>,
    ) -> io::Result<Arc<SyncQueue>> {
        let queue = SyncQueue::without_threads(on_fatal, counters);
        for index in 0..SYNC_THREADS_PER_LOG_DIR {
            let worker = Arc::clone(&queue);
            let thread = std::thread::Builder::new()
                .name(format!("sync-{name}-{index}"))
                .spawn(move || while worker.run_one(true) {})?;
            queue.state.lock().threads.push(thread);
        }
        Ok(queue)
    }

    /// A queue that its owner empties by hand, for tests and simulations that decide when a sync happens.
    pub fn without_threads(on_fatal: OnFatal, counters: Option<Arc<Counters>>) -> Arc<SyncQueue> {
        Arc::new(SyncQueue { state: Mutex::default(), ready: Condvar::new(), on_fatal, counters })
    }

    /// `replica` has unsynced bytes that somebody waits for.
    pub fn request(&self, replica: &Arc<Replica>) {
        let mut state = self.state.lock();
        match replica.sync_stage.load(Ordering::Relaxed) {
            IDLE => {
                replica.sync_stage.store(QUEUED, Ordering::Relaxed);
                state.queued.push_back(Arc::clone(replica));
                drop(state);
                self.ready.notify_one();
            }
            RUNNING => replica.sync_stage.store(RUNNING_AND_WANTED, Ordering::Relaxed),
            // It is known already.
            _ => {}
        }
    }

    /// Syncs the first replica in the queue, waiting for one if `wait`. False when there is none, or the queue stops.
    pub fn run_one(&self, wait: bool) -> bool {
        let replica = {
            let mut state = self.state.lock();
            loop {
                if let Some(replica) = state.queued.pop_front() {
                    replica.sync_stage.store(RUNNING, Ordering::Relaxed);
                    state.running += 1;
                    break replica;
                }
                if state.stopping || !wait {
                    return false;
                }
                self.ready.wait(&mut state);
            }
        };
        let started = Instant::now();
        let outcome = replica.sync();
        if let Some(counters) = &self.counters {
            counters.sync_seconds.observe(started.elapsed().as_secs_f64());
        }
        let mut state = self.state.lock();
        state.running -= 1;
        if let Err(reason) = outcome {
            // ORDER: the stage stays RUNNING, so that nothing ever queues this replica again.
            drop(state);
            let fatal = Fatal::SyncFailed {
                log: format!("{}-{}", replica.topic(), replica.partition()),
                reason: reason.to_string(),
            };
            tracing::error!(%fatal, "stopping");
            (self.on_fatal)(fatal);
            return true;
        }
        if replica.sync_stage.load(Ordering::Relaxed) == RUNNING_AND_WANTED {
            replica.sync_stage.store(QUEUED, Ordering::Relaxed);
            // Nobody is woken for it: this thread comes for the next one at once.
            state.queued.push_back(replica);
        } else {
            replica.sync_stage.store(IDLE, Ordering::Relaxed);
        }
        true
    }

    /// Syncs what is queued, then ends the threads. Appends after this are not synced.
    pub fn stop(&self) {
        let threads = {
            let mut state = self.state.lock();
            state.stopping = true;
            std::mem::take(&mut state.threads)
        };
        self.ready.notify_all();
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a sync thread panicked");
            }
        }
    }
}

impl Replica {
    /// Syncs the log and publishes how far. Only a sync thread calls it.
    fn sync(self: &Arc<Replica>) -> io::Result<()> {
        let work = {
            let state = self.state.lock();
            if self.is_deleted() {
                return Ok(());
            }
            state.log.begin_sync()
        };
        match work.run() {
            Ok(synced) => {
                self.on_synced(synced);
                Ok(())
            }
            // Files of a topic deleted meanwhile may be gone; nobody waits for them.
            Err(_) if self.is_deleted() => Ok(()),
            Err(source) => Err(source),
        }
    }
}
