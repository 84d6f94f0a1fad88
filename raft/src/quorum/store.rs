//! What the Raft log needs from a disk: numbered entries, a few cells, one snapshot, and a `sync` that means it.
//!
//! Two implementations: sled (`store_sled`) in production, and memory with the same rules (`store_memory`) for tests
//! and simulation, where a crash drops what was not synced. Writes become durable in the order in which they were made: after a
//! crash the store holds a prefix of the writes, and at least those before the last `sync` that returned.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A value of its own, beside the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    Vote,
    /// The last log id known to be committed; may lag.
    Committed,
    /// The last log id that was purged.
    Purged,
}

impl Cell {
    pub const ALL: [Cell; 3] = [Cell::Vote, Cell::Committed, Cell::Purged];

    pub(super) fn key(self) -> &'static str {
        match self {
            Cell::Vote => "vote",
            Cell::Committed => "committed",
            Cell::Purged => "purged",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Entry {
        index: u64,
        bytes: Vec<u8>,
    },
    /// Removes the entries before this index, the first ones first.
    Purge {
        end: u64,
    },
    /// Removes the entries from this index on, the last ones first: a crash in between leaves no hole.
    Truncate {
        start: u64,
    },
    Cell {
        cell: Cell,
        bytes: Option<Vec<u8>>,
    },
}

pub trait Store: Send + Sync + 'static {
    /// The entries present in the range, in order.
    fn entries(&self, range: Range<u64>) -> io::Result<Vec<(u64, Vec<u8>)>>;
    /// Index of the first and the last entry.
    fn bounds(&self) -> io::Result<Option<(u64, u64)>>;
    fn cell(&self, cell: Cell) -> io::Result<Option<Vec<u8>>>;
    /// In order. Readable when it returns, durable after the next `sync`, and then whole: an entry is never half there.
    fn write(&self, writes: &[Write]) -> io::Result<()>;
    /// Makes sure that the next writes of about this many bytes find room on the disk, before any of them is made: a write
    /// that fails halfway leaves a store that nobody may go on with. An error has changed nothing.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Returns when everything written before the call is on stable storage. May block for a disk's time.
    fn sync(&self) -> io::Result<()>;
    /// Whether `sync` waits for a device, so that it belongs on a thread of its own.
    fn sync_blocks(&self) -> bool;
    /// How long the next sync is to take beyond what it really takes, on a simulated disk: whoever asks for syncs waits so
    /// long first. Only if `sync` does not block.
    fn sync_time(&self) -> Option<Duration> {
        None
    }
    /// As `reserve`, for a snapshot of so many bytes.
    fn reserve_snapshot(&self, bytes: u64) -> io::Result<()>;
    /// Replaces the snapshot, durable when it returns. An error of a full disk has changed nothing.
    fn save_snapshot(&self, bytes: &[u8]) -> io::Result<()>;
    fn snapshot(&self) -> io::Result<Option<Vec<u8>>>;
    /// Lets go of the files; every later call is an error.
    fn close(&self);
}

/// Runs work that may wait for a device beside the tasks of the runtime; on a store that never waits, right here.
pub async fn beside<T, W>(store: &Arc<dyn Store>, work: W) -> io::Result<T>
where
    T: Send + 'static,
    W: FnOnce(&dyn Store) -> io::Result<T> + Send + 'static,
{
    if !store.sync_blocks() {
        return work(&**store);
    }
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || work(&*store))
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}
