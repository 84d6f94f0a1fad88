//! What was fetched from the store, in memory: fetched once however many ask, kept while there is room, the least recently used
//! given up first.
//!
//! A fetch runs on its own, whoever asked for it goes away or not. What is on its way counts as if it were there, so that reading
//! ahead never takes more than the cache may hold; what somebody waits for is fetched in any case, and bounding how much of
//! that there is at a time is up to the store that is asked.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::reader::RemoteReadError;

/// Runs a task beside whoever asks.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// What is kept, of a size in memory.
pub(super) trait Kept: Clone + Send + Sync + 'static {
    fn size_in_bytes(&self) -> usize;
}

pub(super) type Fetched<V> = BoxFuture<'static, Result<V, RemoteReadError>>;
type Fetch<V> = Shared<Fetched<V>>;

pub(super) struct Cache<K, V> {
    shared: Arc<CacheShared<K, V>>,
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Cache { shared: self.shared.clone() }
    }
}

struct CacheShared<K, V> {
    spawn: Spawn,
    bytes_max: usize,
    state: Mutex<State<K, V>>,
}

struct State<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// By last use.
    by_use: BTreeMap<u64, K>,
    uses: u64,
    bytes: usize,
    counts: CacheCounts,
}

struct Entry<V> {
    fetch: Fetch<V>,
    is_there: bool,
    bytes: usize,
    last_use: u64,
    /// Tells a fetch from an earlier one of the same key.
    number: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Reads that found what they wanted in memory, or already on its way.
    pub hits: u64,
    pub misses: u64,
    pub fetched_bytes: u64,
    pub held_bytes: u64,
}

impl<K: Copy + Eq + Hash, V> State<K, V> {
    fn touch(&mut self, key: &K) {
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(key) {
            self.by_use.remove(&entry.last_use);
            entry.last_use = self.uses;
            self.by_use.insert(self.uses, *key);
        }
    }

    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_use.remove(&entry.last_use);
            self.bytes -= entry.bytes;
        }
    }

    /// Gives up what is there and was not used for the longest time, until `bytes` more fit in; whether they do.
    fn make_room(&mut self, bytes: usize, bytes_max: usize) -> bool {
        let excess = (self.bytes + bytes).saturating_sub(bytes_max);
        let mut freed = 0;
        let mut victims = Vec::new();
        for key in self.by_use.values() {
            if freed >= excess {
                break;
            }
            if let Some(entry) = self.entries.get(key).filter(|entry| entry.is_there) {
                freed += entry.bytes;
                victims.push(*key);
            }
        }
        victims.iter().for_each(|key| self.remove(key));
        freed >= excess
    }
}

impl<K: Copy + Eq + Hash + Send + Sync + 'static, V: Kept> Cache<K, V> {
    pub(super) fn new(spawn: Spawn, bytes_max: usize) -> Cache<K, V> {
        let state = State {
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
            bytes: 0,
            counts: CacheCounts::default(),
        };
        Cache { shared: Arc::new(CacheShared { spawn, bytes_max, state: Mutex::new(state) }) }
    }

    /// `bytes_expected`: what it counts until it is there.
    pub(super) async fn get(
        &self,
        key: K,
        bytes_expected: usize,
        fetch: impl FnOnce() -> Fetched<V>,
    ) -> Result<V, RemoteReadError> {
        let fetch = {
            let mut state = self.shared.state.lock();
            let known = state.entries.get(&key).map(|entry| entry.fetch.clone());
            match known {
                Some(fetch) => {
                    state.counts.hits += 1;
                    state.touch(&key);
                    fetch
                }
                None => {
                    state.counts.misses += 1;
                    state.make_room(bytes_expected, self.shared.bytes_max);
                    let fetch = self.begin(&mut state, key, bytes_expected, fetch());
                    drop(state);
                    self.run(fetch.clone());
                    fetch
                }
            }
        };
        fetch.await
    }

    /// Fetches what will be read soon, if there is room for it.
    pub(super) fn read_ahead(&self, key: K, bytes_expected: usize, fetch: impl FnOnce() -> Fetched<V>) {
        let mut state = self.shared.state.lock();
        if !state.entries.contains_key(&key) && state.make_room(bytes_expected, self.shared.bytes_max) {
            let fetch = self.begin(&mut state, key, bytes_expected, fetch());
            drop(state);
            self.run(fetch);
        }
    }

    /// Whether it is there or on its way.
    pub(super) fn knows(&self, key: &K) -> bool {
        self.shared.state.lock().entries.contains_key(key)
    }

    /// What is there, without waiting, and without counting as a use.
    pub(super) fn peek(&self, key: &K) -> Option<V> {
        let fetch = self.shared.state.lock().entries.get(key).filter(|entry| entry.is_there)?.fetch.clone();
        fetch.peek()?.clone().ok()
    }

    /// It was damaged: the next reader fetches it again.
    pub(super) fn forget(&self, key: &K) {
        self.shared.state.lock().remove(key);
    }

    pub(super) fn counts(&self) -> CacheCounts {
        let state = self.shared.state.lock();
        CacheCounts { held_bytes: state.bytes as u64, ..state.counts }
    }

    fn begin(&self, state: &mut State<K, V>, key: K, bytes: usize, fetch: Fetched<V>) -> Fetch<V> {
        state.uses += 1;
        let number = state.uses;
        let shared = Arc::downgrade(&self.shared);
        let fetch = async move {
            let got = fetch.await;
            end(&shared, &key, number, got.as_ref().ok());
            got
        };
        let fetch = fetch.boxed().shared();
        let entry = Entry { fetch: fetch.clone(), is_there: false, bytes, last_use: number, number };
        state.entries.insert(key, entry);
        state.by_use.insert(number, key);
        state.bytes += bytes;
        fetch
    }

    /// Not under the lock, which the end of a fetch takes.
    fn run(&self, fetch: Fetch<V>) {
        // Whoever waits has the outcome.
        (self.shared.spawn)(Box::pin(fetch.map(drop)));
    }
}

fn end<K: Copy + Eq + Hash, V: Kept>(
    shared: &Weak<CacheShared<K, V>>,
    key: &K,
    number: u64,
    got: Option<&V>,
) {
    let Some(shared) = shared.upgrade() else { return };
    let mut state = shared.state.lock();
    let State { entries, bytes, counts, .. } = &mut *state;
    let Some(entry) = entries.get_mut(key).filter(|entry| entry.number == number) else { return };
    match got {
        Some(got) => {
            *bytes = *bytes - entry.bytes + got.size_in_bytes();
            entry.bytes = got.size_in_bytes();
            entry.is_there = true;
            counts.fetched_bytes += entry.bytes as u64;
            // What was fetched while all was full of what is on its way.
            state.make_room(0, shared.bytes_max);
        }
        None => state.remove(key),
    }
}
