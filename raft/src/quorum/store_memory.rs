//! The store in memory, with the sync rules of a disk: the model that the sled store is tested against, and the metadata
//! store of simulated clusters.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use parking_lot::Mutex;

use super::store::{Cell, Store, Write};

#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: Content,
    synced: Content,
    fail_writes: bool,
    /// What `reserve` may hand out; `None` for any amount.
    room: Option<u64>,
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
        let mut state = self.state.lock();
        state.live = state.synced.clone();
        state.fail_writes = false;
    }

    /// From now on every write and sync fails.
    pub fn fail_writes(&self) {
        self.state.lock().fail_writes = true;
    }

    /// From now on `reserve` refuses more than this; `None` for no limit.
    pub fn limit_room(&self, bytes: Option<u64>) {
        self.state.lock().room = bytes;
    }

    fn writable(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.state.lock();
        if state.fail_writes {
            return Err(io::Error::other("the simulated disk fails"));
        }
        Ok(state)
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
            match write {
                Write::Entry { index, bytes } => {
                    state.live.entries.insert(*index, bytes.clone());
                }
                Write::Purge { end } => state.live.entries.retain(|index, _| index >= end),
                Write::Truncate { start } => state.live.entries.retain(|index, _| index < start),
                Write::Cell { cell, bytes: Some(bytes) } => {
                    state.live.cells.insert(*cell, bytes.clone());
                }
                Write::Cell { cell, bytes: None } => {
                    state.live.cells.remove(cell);
                }
            }
        }
        Ok(())
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        match self.state.lock().room {
            Some(room) if room < bytes => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.writable()?;
        state.synced = state.live.clone();
        Ok(())
    }

    /// No thread: in a simulation everything happens on the simulator's own.
    fn sync_blocks(&self) -> bool {
        false
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
