//! The door to threads: the only place of the broker that makes any. In a simulated cluster there is one thread, and what
//! would block is a task of the simulated host, which dies with it.

use std::sync::Arc;
use std::time::Duration;

use ottla_storage::tiering::directory::Beside;
use tokio::task::JoinError;

/// Runs work that may wait for disks, beside the tasks of the runtime.
pub async fn blocking<T, F>(work: F) -> Result<T, JoinError>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    #[cfg(not(ottla_sim))]
    return tokio::task::spawn_blocking(work).await;
    #[cfg(ottla_sim)]
    return tokio::spawn(async move { work() }).await;
}

/// The same for a store that answers by itself.
pub fn beside() -> Beside {
    Arc::new(|work| {
        #[cfg(not(ottla_sim))]
        tokio::task::spawn_blocking(work);
        #[cfg(ottla_sim)]
        tokio::spawn(async move { work() });
    })
}

/// Runs `work` on `count` threads at once and returns when all have returned. `work` must be such that one thread would
/// do it all.
pub fn together(count: usize, work: impl Fn() + Sync) {
    #[cfg(not(ottla_sim))]
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(&work);
        }
    });
    #[cfg(ottla_sim)]
    {
        let _ = count;
        work();
    }
}

/// Added to the niceness of threads that nobody waits for. Under full load they get a tenth of what others get (sched(7)).
#[cfg(not(ottla_sim))]
const BACKGROUND_NICENESS: i32 = 10;

/// Threads for what computes for long and what no client waits for: whoever answers clients goes first. They end when they had
/// nothing to do for a while.
pub struct Background {
    /// Only for its blocking threads. There until this is dropped.
    #[cfg(not(ottla_sim))]
    runtime: Option<tokio::runtime::Runtime>,
}

impl Background {
    #[cfg(not(ottla_sim))]
    pub fn new(threads_max: usize) -> Background {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(threads_max)
            .thread_name("background")
            .on_thread_start(|| {
                let inherited = rustix::process::getpriority_process(None).unwrap_or_default();
                // Of this thread alone, on Linux. The work is as good without.
                if let Err(error) =
                    rustix::process::setpriority_process(None, inherited + BACKGROUND_NICENESS)
                {
                    tracing::debug!(%error, "a background thread keeps its priority");
                }
            })
            .build()
            .expect("it opens nothing that could fail");
        Background { runtime: Some(runtime) }
    }

    #[cfg(ottla_sim)]
    pub fn new(_threads_max: usize) -> Background {
        Background {}
    }

    pub async fn run<T, F>(&self, work: F) -> Result<T, JoinError>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        #[cfg(not(ottla_sim))]
        return self.runtime.as_ref().expect("there until dropped").spawn_blocking(work).await;
        #[cfg(ottla_sim)]
        return tokio::spawn(async move { work() }).await;
    }
}

#[cfg(not(ottla_sim))]
impl Drop for Background {
    fn drop(&mut self) {
        // What still computes is not waited for: this may be a worker of the runtime that serves clients.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a worker does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next step, at once.
    Again,
    /// The next step when the signal comes.
    OnSignal,
    /// The next step after so long, or when the signal comes.
    OnSignalOrAfter(Duration),
    /// The next step after so long, whatever the signal.
    After(Duration),
    End,
}

pub use kind::{Signal, Worker};

#[cfg(not(ottla_sim))]
mod kind {
    use std::io;
    use std::sync::Arc;
    use std::thread::JoinHandle;
    use std::time::{Duration, Instant};

    use parking_lot::{Condvar, Mutex};

    use super::Next;

    /// Wakes workers. A signal that nobody waits for is kept for the next that does.
    #[derive(Default)]
    pub struct Signal {
        state: Mutex<Kept>,
        wake: Condvar,
    }

    #[derive(Default)]
    struct Kept {
        signals: usize,
        /// Set for good by `wake_all`.
        all: bool,
    }

    /// More are not kept: they would only make steps that find nothing to do.
    const SIGNALS_KEPT_MAX: usize = 64;

    impl Signal {
        pub fn wake_one(&self) {
            let mut kept = self.state.lock();
            kept.signals = (kept.signals + 1).min(SIGNALS_KEPT_MAX);
            drop(kept);
            self.wake.notify_one();
        }

        /// Nobody waits for this signal any more.
        pub fn wake_all(&self) {
            self.state.lock().all = true;
            self.wake.notify_all();
        }

        fn wait(&self, limit: Option<Duration>) {
            let deadline = limit.map(|limit| Instant::now() + limit);
            let mut kept = self.state.lock();
            while kept.signals == 0 && !kept.all {
                match deadline {
                    None => self.wake.wait(&mut kept),
                    Some(deadline) => {
                        if self.wake.wait_until(&mut kept, deadline).timed_out() {
                            return;
                        }
                    }
                }
            }
            kept.signals = kept.signals.saturating_sub(1);
        }
    }

    /// A loop of steps on a thread of its own.
    pub struct Worker {
        thread: JoinHandle<()>,
    }

    impl Worker {
        pub fn spawn(
            name: String,
            signal: Arc<Signal>,
            mut step: impl FnMut() -> Next + Send + 'static,
        ) -> io::Result<Worker> {
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                loop {
                    match step() {
                        Next::Again => {}
                        Next::OnSignal => signal.wait(None),
                        Next::OnSignalOrAfter(limit) => signal.wait(Some(limit)),
                        Next::After(pause) => std::thread::sleep(pause),
                        Next::End => return,
                    }
                }
            })?;
            Ok(Worker { thread })
        }

        /// Waits for the end of the loop. An error if a step panicked.
        pub fn join(self) -> Result<(), &'static str> {
            self.thread.join().map_err(|_| "panicked")
        }
    }
}

#[cfg(ottla_sim)]
mod kind {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::Notify;
    use tokio::task::JoinHandle;

    use super::Next;

    #[derive(Default)]
    pub struct Signal {
        wake: Notify,
        all: AtomicBool,
    }

    impl Signal {
        pub fn wake_one(&self) {
            self.wake.notify_one();
        }

        pub fn wake_all(&self) {
            self.all.store(true, Ordering::SeqCst);
            self.wake.notify_waiters();
        }

        async fn wait(&self) {
            if !self.all.load(Ordering::SeqCst) {
                self.wake.notified().await;
            }
        }
    }

    /// A loop of steps as a task.
    pub struct Worker {
        task: JoinHandle<()>,
    }

    impl Worker {
        pub fn spawn(
            _name: String,
            signal: Arc<Signal>,
            mut step: impl FnMut() -> Next + Send + 'static,
        ) -> io::Result<Worker> {
            let task = tokio::spawn(async move {
                loop {
                    match step() {
                        Next::Again => tokio::task::yield_now().await,
                        Next::OnSignal => signal.wait().await,
                        Next::OnSignalOrAfter(limit) => {
                            let _ = tokio::time::timeout(limit, signal.wait()).await;
                        }
                        Next::After(pause) => tokio::time::sleep(pause).await,
                        Next::End => return,
                    }
                }
            });
            Ok(Worker { task })
        }

        /// There is nothing to wait on in a single thread: the loop ends between two steps.
        pub fn join(self) -> Result<(), &'static str> {
            self.task.abort();
            Ok(())
        }
    }
}

#[cfg(all(test, not(ottla_sim)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_signal_before_the_wait_is_not_lost_and_the_last_one_ends_all() {
        let signal = Arc::new(Signal::default());
        let steps = Arc::new(AtomicUsize::new(0));
        let stopping = Arc::new(AtomicUsize::new(0));
        signal.wake_one();
        let workers: Vec<Worker> = (0..3)
            .map(|index| {
                let (steps, stopping) = (steps.clone(), stopping.clone());
                Worker::spawn(format!("test-{index}"), signal.clone(), move || {
                    steps.fetch_add(1, Ordering::SeqCst);
                    if stopping.load(Ordering::SeqCst) == 1 { Next::End } else { Next::OnSignal }
                })
                .unwrap()
            })
            .collect();
        let deadline = Instant::now() + Duration::from_secs(10);
        while steps.load(Ordering::SeqCst) < 4 {
            assert!(Instant::now() < deadline, "three first steps, and one for the signal");
            std::thread::yield_now();
        }
        stopping.store(1, Ordering::SeqCst);
        signal.wake_all();
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(steps.load(Ordering::SeqCst), 7);
    }

    #[tokio::test]
    async fn work_in_the_background_is_nicer_than_the_rest() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let own = niceness();
        let background = Background::new(1);
        let lower = (own + BACKGROUND_NICENESS).min(19);
        assert_eq!(background.run(niceness).await.unwrap(), lower);
        // By the same thread: what it takes from what it inherits is not added up.
        assert_eq!(background.run(niceness).await.unwrap(), lower);
        assert_eq!((niceness(), blocking(niceness).await.unwrap()), (own, own));
        assert!(background.run(|| panic!("as work may")).await.unwrap_err().is_panic());
    }

    #[test]
    fn work_together_is_done_once() {
        let done = AtomicUsize::new(0);
        let next = AtomicUsize::new(0);
        together(4, || {
            while next.fetch_add(1, Ordering::SeqCst) < 100 {
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
        assert_eq!(done.load(Ordering::SeqCst), 100);
    }
}
