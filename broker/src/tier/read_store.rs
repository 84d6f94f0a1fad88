//! The store as readers reach it: so many requests at once, so many bytes a second, counted, and with an end.

use std::sync::Arc;
use std::time::Duration;

use ottla_storage::tiering::store::{
    Answer, ByteRange, Condition, Content, ObjectStore, Page, Piece, StoreError,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::read_metrics::ReadMetrics;
use crate::config::NodeConfig;
use crate::replica::quota::{Quota, Room};

/// Of one request. A store that does not answer would keep its place, and those who wait behind it, for ever.
const REQUEST_MAX: Duration = Duration::from_secs(60);

pub(super) struct ReadStore {
    store: Arc<dyn ObjectStore>,
    config: Arc<NodeConfig>,
    quota: Quota,
    metrics: Arc<ReadMetrics>,
    requests: Requests,
}

/// Requests under way, at most as many as are configured at the time.
#[derive(Default)]
struct Requests {
    under_way: Mutex<usize>,
    ended: Notify,
}

struct Request<'a>(&'a Requests);

impl Drop for Request<'_> {
    fn drop(&mut self) {
        *self.0.under_way.lock() -= 1;
        self.0.ended.notify_one();
    }
}

impl Requests {
    async fn begin(&self, max: impl Fn() -> usize) -> Request<'_> {
        loop {
            // ORDER: before the look, so that a request that ends in between wakes this one.
            let ended = self.ended.notified();
            {
                let mut under_way = self.under_way.lock();
                if *under_way < max().max(1) {
                    *under_way += 1;
                    return Request(self);
                }
            }
            ended.await;
        }
    }
}

impl ReadStore {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        config: &Arc<NodeConfig>,
        metrics: Arc<ReadMetrics>,
    ) -> ReadStore {
        let quota = Quota::new(config, |dynamic| dynamic.remote_fetch_rate, config.tier_read.quota_window);
        ReadStore { store, config: Arc::clone(config), quota, metrics, requests: Requests::default() }
    }

    async fn get(&self, key: &str, range: ByteRange) -> Result<Piece, StoreError> {
        let _request = self.requests.begin(|| self.config.dynamic().remote_reader_threads).await;
        while let Room::NoneUntil(at) = self.quota.room(Instant::now()) {
            tokio::time::sleep_until(at).await;
        }
        let begun = Instant::now();
        let got = match tokio::time::timeout(REQUEST_MAX, self.store.get(key, range)).await {
            Ok(got) => got,
            Err(_) => {
                Err(StoreError::Unavailable(format!("{key}: no answer within {} s", REQUEST_MAX.as_secs())))
            }
        };
        let bytes = got.as_ref().map_or(0, |piece| piece.bytes.len());
        self.quota.spend(bytes, Instant::now());
        self.metrics.on_request(begun.elapsed(), bytes, got.is_ok());
        got
    }
}

impl ObjectStore for ReadStore {
    fn put<'a>(&'a self, key: &'a str, content: Content, condition: Condition) -> Answer<'a, ()> {
        self.store.put(key, content, condition)
    }

    fn get<'a>(&'a self, key: &'a str, range: ByteRange) -> Answer<'a, Piece> {
        Box::pin(self.get(key, range))
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        self.store.list(prefix, after)
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        self.store.delete(keys)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures::FutureExt;
    use futures::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::metrics::Metrics;

    /// Answers every get with so many bytes when it is let.
    struct Gated {
        bytes: usize,
        open: Semaphore,
        at_once: AtomicUsize,
        at_once_max: AtomicUsize,
    }

    impl Gated {
        fn new(bytes: usize, permits: usize) -> Arc<Gated> {
            let open = Semaphore::new(permits);
            Arc::new(Gated { bytes, open, at_once: AtomicUsize::new(0), at_once_max: AtomicUsize::new(0) })
        }
    }

    impl ObjectStore for Gated {
        fn put<'a>(&'a self, _: &'a str, _: Content, _: Condition) -> Answer<'a, ()> {
            panic!("only read here")
        }

        fn get<'a>(&'a self, _: &'a str, _: ByteRange) -> Answer<'a, Piece> {
            async move {
                let at_once = 1 + self.at_once.fetch_add(1, Ordering::SeqCst);
                self.at_once_max.fetch_max(at_once, Ordering::SeqCst);
                self.open.acquire().await.unwrap().forget();
                self.at_once.fetch_sub(1, Ordering::SeqCst);
                let bytes = Bytes::from(vec![0; self.bytes]);
                Ok(Piece { object_bytes: bytes.len() as u64, bytes, position: 0 })
            }
            .boxed()
        }

        fn list<'a>(&'a self, _: &'a str, _: Option<&'a str>) -> Answer<'a, Page> {
            panic!("only read here")
        }

        fn delete<'a>(&'a self, _: &'a [String]) -> Answer<'a, ()> {
            panic!("only read here")
        }
    }

    fn read_store(store: Arc<Gated>, key: &str, value: &str) -> ReadStore {
        let config = NodeConfig::load(None, &[(key.to_owned(), value.to_owned())]).unwrap();
        ReadStore::new(store, &Arc::new(config), ReadMetrics::register(&Metrics::new()))
    }

    const RANGE: ByteRange = ByteRange::Suffix { len: 1 };

    #[tokio::test(start_paused = true)]
    async fn so_many_requests_are_under_way_at_once_and_all_have_their_turn() {
        let store = Gated::new(1, 0);
        let reads = read_store(store.clone(), "remote.log.reader.threads", "3");
        let open = async {
            for _ in 0..20 {
                tokio::task::yield_now().await;
                store.open.add_permits(1);
            }
        };
        let (all, ()) = tokio::join!(join_all((0..20).map(|_| reads.get("key", RANGE))), open);
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(store.at_once_max.load(Ordering::SeqCst), 3);
        assert_eq!(*reads.requests.under_way.lock(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept() {
        let store = Gated::new(500_000, 1_000);
        let reads = read_store(store, "remote.log.manager.fetch.max.bytes.per.second", "1000000");
        let begun = Instant::now();
        for _ in 0..40 {
            reads.get("key", RANGE).await.unwrap();
        }
        // 20 MB, but for what a bucket holds that was just set up, and what the last one owes.
        let took = begun.elapsed();
        assert!((17.0..=20.5).contains(&took.as_secs_f64()), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_not_answered_gives_up_its_place() {
        let store = Gated::new(1, 0);
        let reads = read_store(store.clone(), "remote.log.reader.threads", "1");
        let failed = reads.get("key", RANGE).await.unwrap_err();
        assert_eq!(failed.to_string(), "key: no answer within 60 s");
        store.open.add_permits(1);
        reads.get("key", RANGE).await.unwrap();
        // So does one that nobody waits for any more.
        assert!(reads.get("key", RANGE).now_or_never().is_none());
        store.open.add_permits(1);
        reads.get("key", RANGE).await.unwrap();
    }
}
