//! The store in memory, with the sync rules of a disk: the model that the sled store is tested against, and the metadata
//! store of simulated clusters.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::directory::Identity;
use super::store::{Cell, Store, Write};

#[derive(Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    /// Of the process that holds this handle.
    generation: u64,
}

#[derive(Default)]
struct State {
    live: Content,
    synced: Content,
    /// What makes `live` of `synced`, in order.
    unsynced: Vec<Write>,
    /// Handles of earlier generations are dead.
    generation: u64,
    /// Shortest and longest time of a sync, and where the next one is drawn from.
    sync_time: Option<(Duration, Duration, StdRng)>,
    fail_writes: bool,
    /// What `reserve` may hand out; `None` for any amount.
    room: Option<u64>,
    /// Beside the store, as a directory has it in a file; always synced.
    identity: Option<Identity>,
}

#[derive(Clone, Default)]
struct Content {
    entries: BTreeMap<u64, Vec<u8>>,
    cells: BTreeMap<Cell, Vec<u8>>,
    snapshot: Option<Vec<u8>>,
}

impl MemoryStore {
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// Power loss: what was not synced is gone.
    pub fn crash(&self) {
        self.state.lock().crash(0);
    }

    /// The process dies, with the power of its machine: of what was not synced the first part may have reached the disk, as
    /// `seed` says. The handles so far are dead, so that nothing that still runs makes the crash look clean; the one
    /// returned is for the next start.
    #[must_use]
    pub fn crash_and_reopen(&self, seed: u64) -> MemoryStore {
        let mut state = self.state.lock();
        let kept = StdRng::seed_from_u64(seed).random_range(0..=state.unsynced.len());
        state.crash(kept);
        state.generation += 1;
        MemoryStore { state: self.state.clone(), generation: state.generation }
    }

    /// The process dies, its machine does not.
    #[must_use]
    pub fn kill_and_reopen(&self) -> MemoryStore {
        let mut state = self.state.lock();
        state.fail_writes = false;
        state.generation += 1;
        MemoryStore { state: self.state.clone(), generation: state.generation }
    }

    /// From now on each sync takes a time between these two, drawn from `seed`.
    pub fn set_sync_time(&self, min: Duration, max: Duration, seed: u64) {
        self.state.lock().sync_time = Some((min, max, StdRng::seed_from_u64(seed)));
    }

    /// From now on every write and sync fails.
    pub fn fail_writes(&self) {
        self.state.lock().fail_writes = true;
    }

    /// From now on `reserve` refuses more than this; `None` for no limit.
    pub fn limit_room(&self, bytes: Option<u64>) {
        self.state.lock().room = bytes;
    }

    pub(super) fn identity(&self) -> Option<Identity> {
        self.state.lock().identity.clone()
    }

    pub(super) fn save_identity(&self, identity: Identity) {
        self.state.lock().identity = Some(identity);
    }

    /// A store with the same content: what somebody who restores a backup starts from.
    pub fn copy(&self) -> MemoryStore {
        let state = self.state.lock();
        let (synced, identity) = (state.synced.clone(), state.identity.clone());
        let copied = State { live: synced.clone(), synced, identity, ..State::default() };
        MemoryStore { state: Arc::new(Mutex::new(copied)), generation: 0 }
    }

    fn writable(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("this store was opened before a simulated crash"));
        }
        if state.fail_writes {
            return Err(io::Error::other("the simulated disk fails"));
        }
        Ok(state)
    }
}

impl State {
    fn crash(&mut self, kept: usize) {
        for write in self.unsynced.drain(..).take(kept) {
            self.synced.apply(&write);
        }
        self.live = self.synced.clone();
        self.fail_writes = false;
    }
}

impl Content {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Entry { index, bytes } => {
                self.entries.insert(*index, bytes.clone());
            }
            Write::Purge { end } => self.entries = self.entries.split_off(end),
            Write::Truncate { start } => {
                self.entries.split_off(start);
            }
            Write::Cell { cell, bytes: Some(bytes) } => {
                self.cells.insert(*cell, bytes.clone());
            }
            Write::Cell { cell, bytes: None } => {
                self.cells.remove(cell);
            }
        }
    }
}

impl Store for MemoryStore {
    fn entries(&self, range: Range<u64>) -> io::Result<Vec<(u64, Vec<u8>)>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let state = self.state.lock();
        Ok(state.live.entries.range(range).map(|(index, bytes)| (*index, bytes.clone())).collect())
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        let state = self.state.lock();
        let entries = &state.live.entries;
        Ok(entries
            .first_key_value()
            .zip(entries.last_key_value())
            .map(|((first, _), (last, _))| (*first, *last)))
    }

    fn cell(&self, cell: Cell) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state.lock().live.cells.get(&cell).cloned())
    }

    fn write(&self, writes: &[Write]) -> io::Result<()> {
        let mut state = self.writable()?;
        for write in writes {
            state.live.apply(write);
            state.unsynced.push(write.clone());
        }
        Ok(())
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        match self.state.lock().room {
            Some(room) if room < bytes => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn reserve_snapshot(&self, bytes: u64) -> io::Result<()> {
        self.reserve(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.writable()?;
        let State { synced, unsynced, .. } = &mut *state;
        for write in unsynced.drain(..) {
            synced.apply(&write);
        }
        Ok(())
    }

    /// No thread: in a simulation everything happens on the simulator's own.
    fn sync_blocks(&self) -> bool {
        false
    }

    fn sync_time(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        let (min, max, random) = state.sync_time.as_mut()?;
        Some(random.random_range(*min..=*max))
    }

    fn save_snapshot(&self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.writable()?;
        state.live.snapshot = Some(bytes.to_vec());
        state.synced.snapshot = Some(bytes.to_vec());
        Ok(())
    }

    fn snapshot(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state.lock().live.snapshot.clone())
    }

    fn close(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> Write {
        Write::Entry { index, bytes: vec![index as u8] }
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_first_part_of_the_rest() {
        let mut ends = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let store = MemoryStore::new();
            store.write(&[entry(1), entry(2)]).unwrap();
            store.sync().unwrap();
            store.write(&[entry(3), entry(4)]).unwrap();
            let after = store.crash_and_reopen(seed);
            let (first, last) = after.bounds().unwrap().unwrap();
            assert_eq!(first, 1);
            assert!((2..=4).contains(&last), "{last}");
            assert_eq!(after.entries(1..last + 1).unwrap().len() as u64, last);
            ends.insert(last);
            // What died cannot write any more, and has nothing to say about what is durable.
            assert!(store.write(&[entry(5)]).is_err());
            assert!(store.sync().is_err());
            after.write(&[entry(last + 1)]).unwrap();
            assert_eq!(after.crash_and_reopen(0).bounds().unwrap().unwrap().0, 1);
        }
        assert_eq!(ends.len(), 3, "{ends:?}");
    }
}
