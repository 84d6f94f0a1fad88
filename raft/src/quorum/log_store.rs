//! openraft's log storage over a `Store`.
//!
//! Invariants: nothing is acknowledged before `Store::sync` returned; the log has no hole, and begins right after the purged
//! offset; the first failed write or sync latches, and from then on everything is refused, because what the disk holds is not known any more.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, OnceLock, mpsc};

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};

use super::encoding::{StoredEntry, StoredLogId, StoredVote, decode, encode};
use super::store::{Cell, Store, Write};
use super::types::{Entry, LogId, MetadataRaft, Vote};
use crate::planted;

/// Clones share one log.
#[derive(Clone)]
pub struct LogStore {
    store: Arc<dyn Store>,
    /// Set once, by the first failure.
    failure: Arc<OnceLock<String>>,
    syncs: Syncs,
}

/// Who makes the syncs.
#[derive(Clone)]
enum Syncs {
    /// Whoever asks for one.
    Here,
    /// A thread, which waits for the device.
    Thread(mpsc::Sender<SyncRequest>),
    /// A task, which waits as long as a simulated device would.
    Task(tokio::sync::mpsc::UnboundedSender<SyncRequest>),
}

type SyncRequest = Box<dyn FnOnce(io::Result<()>) + Send>;

#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    #[error("{0}")]
    Corrupt(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl LogStore {
    /// Checks that the log is one piece that fits the purged offset and the snapshot, and starts the thread that syncs.
    pub fn open(store: Arc<dyn Store>, snapshot: Option<StoredLogId>) -> Result<LogStore, OpenLogError> {
        check(&*store, snapshot)?;
        let failure = Arc::new(OnceLock::new());
        let syncs = if store.sync_blocks() {
            let (sender, requests) = mpsc::channel::<SyncRequest>();
            std::thread::Builder::new().name("metadata-sync".into()).spawn({
                let store = store.clone();
                let failure = failure.clone();
                move || {
                    while let Ok(first) = requests.recv() {
                        serve_syncs(&*store, &failure, std::iter::once(first).chain(requests.try_iter()));
                    }
                }
            })?;
            Syncs::Thread(sender)
        } else if store.sync_time().is_some() {
            let (sender, requests) = tokio::sync::mpsc::unbounded_channel();
            tokio::spawn(serve_simulated_syncs(store.clone(), failure.clone(), requests));
            Syncs::Task(sender)
        } else {
            Syncs::Here
        };
        Ok(LogStore { store, failure, syncs })
    }

    fn check_usable(&self) -> io::Result<()> {
        match self.failure.get() {
            Some(reason) => Err(io::Error::other(format!("the metadata log failed before: {reason}"))),
            None => Ok(()),
        }
    }

    fn write(&self, writes: &[Write]) -> io::Result<()> {
        self.check_usable()?;
        self.store.write(writes).inspect_err(|error| {
            tracing::error!(%error, "a write of the metadata log failed; this node's metadata stops");
            let _ = self.failure.set(error.to_string());
        })
    }

    /// Calls `done` after a sync that began after this call.
    fn sync_then(&self, done: impl FnOnce(io::Result<()>) + Send + 'static) -> io::Result<()> {
        let gone = || io::Error::other("the thread that syncs the metadata log is gone");
        let request: SyncRequest = Box::new(done);
        match &self.syncs {
            Syncs::Here => {
                serve_syncs(&*self.store, &self.failure, std::iter::once(request));
                Ok(())
            }
            Syncs::Thread(thread) => thread.send(request).map_err(|_| gone()),
            Syncs::Task(task) => task.send(request).map_err(|_| gone()),
        }
    }

    async fn sync(&self) -> io::Result<()> {
        let (done, synced) = tokio::sync::oneshot::channel();
        self.sync_then(move |result| {
            let _ = done.send(result);
        })?;
        synced.await.unwrap_or_else(|_| Err(io::Error::other("the sync was given up")))
    }

    fn read_cell<T: serde::de::DeserializeOwned>(&self, cell: Cell) -> io::Result<Option<T>> {
        self.store
            .cell(cell)?
            .map(|bytes| decode(&bytes).map_err(|error| invalid(cell.key(), error)))
            .transpose()
    }

    fn read(&self, range: std::ops::Range<u64>) -> io::Result<Vec<Entry>> {
        self.store
            .entries(range)?
            .into_iter()
            .map(|(index, bytes)| {
                let entry: StoredEntry = decode(&bytes).map_err(|error| invalid_entry(index, error))?;
                entry.to_entry().map_err(|error| invalid_entry(index, error))
            })
            .collect()
    }

    fn last_log_id(&self, purged: Option<LogId>) -> io::Result<Option<LogId>> {
        match self.store.bounds()? {
            None => Ok(purged),
            Some((_, last)) => {
                let entry = self.read(last..last + 1)?.pop();
                entry.map(|entry| Some(entry.log_id)).ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("entry {last} is there only in part"))
                })
            }
        }
    }
}

async fn serve_simulated_syncs(
    store: Arc<dyn Store>,
    failure: Arc<OnceLock<String>>,
    mut requests: tokio::sync::mpsc::UnboundedReceiver<SyncRequest>,
) {
    while let Some(first) = requests.recv().await {
        // Those that come meanwhile wait for the next one, as on a device.
        let waiting: Vec<_> =
            std::iter::once(first).chain(std::iter::from_fn(|| requests.try_recv().ok())).collect();
        tokio::time::sleep(store.sync_time().unwrap_or_default()).await;
        serve_syncs(&*store, &failure, waiting.into_iter());
    }
}

/// Serves all requests that waited with one sync.
fn serve_syncs(store: &dyn Store, failure: &OnceLock<String>, requests: impl Iterator<Item = SyncRequest>) {
    // ORDER: taken before the sync: a request that comes later may be of a write that this sync misses.
    let waiting: Vec<SyncRequest> = requests.collect();
    let result = match failure.get() {
        Some(reason) => Err(reason.clone()),
        None => store.sync().map_err(|error| {
            tracing::error!(%error, "a sync of the metadata log failed; this node's metadata stops");
            let reason = format!("sync: {error}");
            let _ = failure.set(reason.clone());
            reason
        }),
    };
    for done in waiting {
        done(result.clone().map_err(io::Error::other));
    }
}

fn check(store: &dyn Store, snapshot: Option<StoredLogId>) -> Result<(), OpenLogError> {
    let purged: Option<StoredLogId> = match store.cell(Cell::Purged)? {
        Some(bytes) => Some(
            decode(&bytes).map_err(|error| OpenLogError::Corrupt(format!("the purged offset: {error}")))?,
        ),
        None => None,
    };
    if let Some(purged) = purged {
        if snapshot.is_none_or(|snapshot| snapshot.offset < purged.offset) {
            return Err(OpenLogError::Corrupt(format!(
                "the log begins after offset {}, and no snapshot reaches that far (it ends at {:?})",
                purged.offset,
                snapshot.map(|snapshot| snapshot.offset)
            )));
        }
        // A crash in the middle of a purge leaves entries that count as gone.
        store.write(&[Write::Purge { end: purged.offset + 1 }])?;
    }
    let Some((first, last)) = store.bounds()? else { return Ok(()) };
    let expected = purged.map_or(0, |purged| purged.offset + 1);
    if first != expected {
        return Err(OpenLogError::Corrupt(format!(
            "the log should begin at offset {expected} and begins at {first}"
        )));
    }
    // Piece by piece, so that a long log does not have to be in memory.
    const PIECE: u64 = 256;
    let mut next = first;
    while next <= last {
        let piece =
            store.entries(next..(next + PIECE).min(last + 1)).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => OpenLogError::Corrupt(error.to_string()),
                _ => OpenLogError::Io(error),
            })?;
        if piece.is_empty() {
            return Err(OpenLogError::Corrupt(format!("the log has no entry {next}, but has {last}")));
        }
        for (index, bytes) in piece {
            if index != next {
                return Err(OpenLogError::Corrupt(format!("the log has no entry {next}, but has {index}")));
            }
            let entry: StoredEntry =
                decode(&bytes).map_err(|error| OpenLogError::Corrupt(format!("entry {index}: {error}")))?;
            if entry.offset != index {
                return Err(OpenLogError::Corrupt(format!(
                    "entry {index} says it is entry {}",
                    entry.offset
                )));
            }
            next += 1;
        }
    }
    Ok(())
}

fn invalid(what: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} of the metadata log: {error}"))
}

fn invalid_entry(index: u64, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("entry {index} of the metadata log: {error}"))
}

fn to_range(range: impl RangeBounds<u64>) -> std::ops::Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl RaftLogReader<MetadataRaft> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(to_range(range))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.read_cell::<StoredVote>(Cell::Vote)?.map(Vote::from))
    }
}

impl RaftLogStorage<MetadataRaft> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<MetadataRaft>, io::Error> {
        let last_purged_log_id = self.read_cell::<StoredLogId>(Cell::Purged)?.map(LogId::from);
        let last_log_id = self.last_log_id(last_purged_log_id)?;
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if planted::is("vote-not-persisted") {
            return Ok(());
        }
        let bytes = encode(&StoredVote::from(vote))?;
        self.write(&[Write::Cell { cell: Cell::Vote, bytes: Some(bytes) }])?;
        // ORDER: a vote that is answered before it is durable can be given twice in one epoch.
        self.sync().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // Not synced: it only saves work at the next start, and a quorum knows better anyway.
        let bytes = committed.as_ref().map(|id| encode(&StoredLogId::from(id))).transpose()?;
        self.write(&[Write::Cell { cell: Cell::Committed, bytes }])
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let committed = self.read_cell::<StoredLogId>(Cell::Committed)?.map(LogId::from);
        // It may be from before a truncation that lost its race with a crash: never promise more than is there.
        let last = self.last_log_id(self.read_cell::<StoredLogId>(Cell::Purged)?.map(LogId::from))?;
        Ok(committed.filter(|committed| last.as_ref().is_some_and(|last| committed <= last)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<MetadataRaft>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut writes = Vec::new();
        for entry in entries {
            let bytes = encode(&StoredEntry::from(&entry))?;
            writes.push(Write::Entry { index: entry.log_id.index, bytes });
        }
        self.write(&writes)?;
        self.sync_then(move |result| callback.io_completed(result))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let first_gone = last_log_id.map_or(0, |id| id.index + 1);
        self.write(&[Write::Truncate { start: first_gone }])?;
        self.sync().await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let bytes = encode(&StoredLogId::from(&log_id))?;
        // ORDER: the mark before the removal: entries below the mark are nobody's, a hole above it would be corruption.
        self.write(&[
            Write::Cell { cell: Cell::Purged, bytes: Some(bytes) },
            Write::Purge { end: log_id.index + 1 },
        ])?;
        self.sync().await
    }
}
