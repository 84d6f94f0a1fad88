//! Pieces of objects in memory: fetched once however many ask, kept while there is room, the least recently used given up
//! first.
//!
//! A fetch runs on its own, whoever asked for it goes away or not. What is on its way counts as if it were there, so that reading
//! ahead never takes more than the cache may hold; what somebody waits for is fetched in any case, and bounding how many
//! wait is up to the caller.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;

use super::key::SegmentKey;
use super::store::{ByteRange, ObjectStore, StoreError};

/// Runs a task beside whoever asks.
pub type Spawn = Arc<dyn Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + Sync>;

/// A piece of an object: position and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ChunkId {
    pub key: SegmentKey,
    pub position: u64,
    pub len: usize,
}

type Fetch = Shared<BoxFuture<'static, Result<Bytes, Arc<StoreError>>>>;

#[derive(Clone)]
pub(super) struct ChunkCache {
    shared: Arc<CacheShared>,
}

struct CacheShared {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    spawn: Spawn,
    bytes_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    chunks: HashMap<ChunkId, Chunk>,
    /// By last use.
    by_use: BTreeMap<u64, ChunkId>,
    uses: u64,
    bytes: usize,
    counts: CacheCounts,
}

struct Chunk {
    fetch: Fetch,
    is_there: bool,
    last_use: u64,
    /// Tells a fetch from an earlier one of the same chunk.
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

impl State {
    fn touch(&mut self, id: &ChunkId) {
        self.uses += 1;
        if let Some(chunk) = self.chunks.get_mut(id) {
            self.by_use.remove(&chunk.last_use);
            chunk.last_use = self.uses;
            self.by_use.insert(self.uses, *id);
        }
    }

    fn remove(&mut self, id: &ChunkId) {
        if let Some(chunk) = self.chunks.remove(id) {
            self.by_use.remove(&chunk.last_use);
            self.bytes -= id.len;
        }
    }

    /// Gives up what is there and was not used for the longest time, until `len` bytes more fit in; whether they do.
    fn make_room(&mut self, len: usize, bytes_max: usize) -> bool {
        let excess = (self.bytes + len).saturating_sub(bytes_max);
        let mut freed = 0;
        let mut victims = Vec::new();
        for id in self.by_use.values() {
            if freed >= excess {
                break;
            }
            if self.chunks.get(id).is_some_and(|chunk| chunk.is_there) {
                freed += id.len;
                victims.push(*id);
            }
        }
        victims.iter().for_each(|id| self.remove(id));
        freed >= excess
    }
}

impl ChunkCache {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        spawn: Spawn,
        bytes_max: usize,
    ) -> ChunkCache {
        let state = Mutex::new(State::default());
        ChunkCache {
            shared: Arc::new(CacheShared { store, prefix: prefix.to_owned(), spawn, bytes_max, state }),
        }
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        &*self.shared.store
    }

    /// The name in the store.
    pub(super) fn name(&self, key: &SegmentKey) -> String {
        format!("{}{key}", self.shared.prefix)
    }

    pub(super) async fn get(&self, id: ChunkId) -> Result<Bytes, Arc<StoreError>> {
        let fetch = {
            let mut state = self.shared.state.lock();
            let known = state.chunks.get(&id).map(|chunk| chunk.fetch.clone());
            match known {
                Some(fetch) => {
                    state.counts.hits += 1;
                    state.touch(&id);
                    fetch
                }
                None => {
                    state.counts.misses += 1;
                    state.make_room(id.len, self.shared.bytes_max);
                    let fetch = self.begin(&mut state, id);
                    drop(state);
                    self.run(fetch.clone());
                    fetch
                }
            }
        };
        fetch.await
    }

    /// Fetches what will be read soon, if there is room for it.
    pub(super) fn read_ahead(&self, id: ChunkId) {
        let mut state = self.shared.state.lock();
        if !state.chunks.contains_key(&id) && state.make_room(id.len, self.shared.bytes_max) {
            let fetch = self.begin(&mut state, id);
            drop(state);
            self.run(fetch);
        }
    }

    /// It was damaged: the next reader fetches it again.
    pub(super) fn forget(&self, id: &ChunkId) {
        self.shared.state.lock().remove(id);
    }

    pub(super) fn counts(&self) -> CacheCounts {
        let state = self.shared.state.lock();
        CacheCounts { held_bytes: state.bytes as u64, ..state.counts }
    }

    fn begin(&self, state: &mut State, id: ChunkId) -> Fetch {
        let name = self.name(&id.key);
        state.uses += 1;
        let number = state.uses;
        let (store, shared) = (self.shared.store.clone(), Arc::downgrade(&self.shared));
        let fetch = async move {
            let got = store.get(&name, ByteRange::From { position: id.position, len: id.len }).await;
            let got = got.and_then(|piece| match piece.bytes.len() == id.len {
                true => Ok(piece.bytes),
                false => Err(StoreError::Unavailable(format!(
                    "{name}: {} bytes came where {} were asked for",
                    piece.bytes.len(),
                    id.len
                ))),
            });
            end(&shared, &id, number, got.is_ok());
            got.map_err(Arc::new)
        };
        let fetch = fetch.boxed().shared();
        state.chunks.insert(id, Chunk { fetch: fetch.clone(), is_there: false, last_use: number, number });
        state.by_use.insert(number, id);
        state.bytes += id.len;
        fetch
    }

    /// Not under the lock, which the end of a fetch takes.
    fn run(&self, fetch: Fetch) {
        // Whoever waits has the outcome.
        (self.shared.spawn)(Box::pin(fetch.map(drop)));
    }
}

fn end(shared: &Weak<CacheShared>, id: &ChunkId, number: u64, is_there: bool) {
    let Some(shared) = shared.upgrade() else { return };
    let mut state = shared.state.lock();
    let Some(chunk) = state.chunks.get_mut(id).filter(|chunk| chunk.number == number) else { return };
    chunk.is_there = is_there;
    if is_there {
        state.counts.fetched_bytes += id.len as u64;
        // What was fetched while all was full of what is on its way.
        state.make_room(0, shared.bytes_max);
    } else {
        state.remove(id);
    }
}
