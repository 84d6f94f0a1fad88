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
