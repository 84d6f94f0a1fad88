//! How a try of a request comes along, so that a slow one is told from one that stands still.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ottla_storage::tiering::store::RequestCounters;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

/// Counts the bytes of one try, and when the last ones went.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    last: Arc<Mutex<Instant>>,
    counters: Arc<RequestCounters>,
}

impl Progress {
    pub fn new(counters: &Arc<RequestCounters>) -> Progress {
        Progress { last: Arc::new(Mutex::new(Instant::now())), counters: counters.clone() }
    }

    pub fn sent(&self, bytes: usize) {
        *self.last.lock() = Instant::now();
        self.counters.put(bytes as u64);
    }

    pub fn got(&self, bytes: usize) {
        *self.last.lock() = Instant::now();
        self.counters.got(bytes);
    }

    /// None: for all of `limit` no bytes went, nor was it done.
    pub async fn watch<T>(&self, limit: Duration, attempt: impl Future<Output = T>) -> Option<T> {
        let mut attempt = pin!(attempt);
        loop {
            let last = *self.last.lock();
            match timeout_at(last + limit, &mut attempt).await {
                Ok(done) => return Some(done),
                Err(_) if *self.last.lock() == last => return None,
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn what_comes_along_may_take_as_long_as_it_wants() {
        let progress = Progress::new(&Arc::default());
        let slow = async {
            for _ in 0..100 {
                sleep(LIMIT - Duration::from_secs(1)).await;
                progress.sent(1);
            }
            sleep(LIMIT - Duration::from_secs(1)).await;
        };
        assert_eq!(progress.watch(LIMIT, slow).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_still_is_given_up() {
        let progress = Progress::new(&Arc::default());
        let begun = Instant::now();
        let stalled = async {
            sleep(LIMIT / 2).await;
            progress.got(1);
            std::future::pending::<()>().await;
        };
        assert_eq!(progress.watch(LIMIT, stalled).await, None);
        assert!((LIMIT..LIMIT * 2).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}
