//! The durable store: entries and cells in sled, the snapshot in a file beside it.
//!
//! What makes sled safe here, each found by cutting the power (tests/crash):
//! - `flush` hands data to the device but not the file's length and block map, so every flush is followed by
//!   `sync_data` on sled's `db` file;
//! - a value over a quarter of a segment would go to a file of its own that sled never syncs, and a leaf page holds up
//!   to 17 values: values are cut into chunks of `CHUNK_BYTES`;
//! - a page that moves to the end of the file frees its old place, and sled takes the move for durable before the
//!   file's length is: at most `UNSYNCED_BYTES_MAX` are written between two syncs, less than the segment that sled must
//!   fill before it reuses one, and sled's own background writer is off.
//!
//! A chunk 0 carries length and checksum of its value; it is written after the others and removed before them. sled recovers
//! a prefix of its writes, so an entry with a chunk 0 is whole; chunks without one are the torn end of an append or of a
//! truncation and are removed.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crc_fast::CrcAlgorithm;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{FallocateFlags, FlockOperation};
use rustix::io::Errno;

use super::store::{Cell, Store, Write};

/// sled stores a value over `SEGMENT_BYTES / 4` outside its log, and writes a page of up to 17 values (and one that
/// takes a merged neighbour, up to 20) as one value.
const CHUNK_BYTES: usize = 4 * 1024;
const SEGMENT_BYTES: usize = 512 * 1024;
const UNSYNCED_BYTES_MAX: usize = 64 * 1024;
/// What sled writes for a key besides its bytes, roughly; counts small writes and removals too.
const WRITE_OVERHEAD_BYTES: usize = 128;
const CACHE_BYTES: u64 = 2 * 1024 * 1024;
const HEADER_BYTES: usize = 8;
/// A file that is given up so that the store opens on a full disk.
const ROOM_FOR_START: &str = "room-for-start";
const ROOM_FOR_START_BYTES: u64 = 128 * 1024;
const SNAPSHOT: &str = "snapshot";
/// Where it is written before it takes the name above.
const SNAPSHOT_TEMPORARY: &str = "snapshot.tmp";

pub struct SledStore {
    directory: PathBuf,
    open: RwLock<Option<Open>>,
    /// Bytes written since the last sync. Also keeps writers apart, so that the order of writes is one.
    unsynced: Mutex<usize>,
}

struct Open {
    database: sled::Db,
    entries: sled::Tree,
    cells: sled::Tree,
    /// sled's own file, for the sync that sled leaves out.
    file: File,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    #[error("{0}")]
    Corrupt(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<sled::Error> for OpenStoreError {
    fn from(error: sled::Error) -> OpenStoreError {
        match error {
            sled::Error::Io(source) => OpenStoreError::Io(source),
            other => OpenStoreError::Corrupt(other.to_string()),
        }
    }
}

impl SledStore {
    /// Opens or makes the store in `directory`, which exists and which no other process uses.
    pub fn open(directory: &Path) -> Result<SledStore, OpenStoreError> {
        match SledStore::try_open(directory) {
            // sled writes a small file of its own when it opens.
            Err(OpenStoreError::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                std::fs::remove_file(directory.join(ROOM_FOR_START)).map_err(|_| error)?;
                SledStore::try_open(directory)
            }
            opened => opened,
        }
    }

    fn try_open(directory: &Path) -> Result<SledStore, OpenStoreError> {
        let path = directory.join("store");
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None);
        remove_torn_snapshots(&path)?;
        let database = open_database(&config, &path)?;
        let entries = database.open_tree("entries")?;
        let cells = database.open_tree("cells")?;
        let file = OpenOptions::new().read(true).write(true).open(path.join("db"))?;
        let store = SledStore {
            directory: directory.to_path_buf(),
            open: RwLock::new(Some(Open { database, entries, cells, file })),
            unsynced: Mutex::new(0),
        };
        store.remove_torn_end()?;
        store.sync()?;
        // ORDER: before anything is acknowledged, the names of sled's files and its settings are durable too; sled syncs
        // neither.
        let settings = path.join("conf");
        if settings.exists() {
            File::open(settings)?.sync_all()?;
        }
        for directory in [path.join("blobs"), path.clone(), directory.to_path_buf()] {
            sync_directory(&directory)?;
        }
        if std::fs::read_dir(path.join("blobs"))?.next().is_some() {
            return Err(OpenStoreError::Corrupt(
                "sled holds values outside its log, which is never synced".into(),
            ));
        }
        Ok(store)
    }

    /// Chunks after the last chunk 0 belong to an append or a truncation that was never acknowledged.
    fn remove_torn_end(&self) -> Result<(), OpenStoreError> {
        self.with(|open| {
            let mut torn = Vec::new();
            for item in open.entries.iter().keys().rev() {
                let key = item.map_err(io_error)?;
                let (index, chunk) = split_key(&key)?;
                if chunk == 0 || open.entries.contains_key(entry_key(index, 0)).map_err(io_error)? {
                    break;
                }
                torn.push(key);
            }
            for key in torn {
                open.entries.remove(key).map_err(io_error)?;
            }
            Ok(())
        })
        .map_err(OpenStoreError::Io)
    }

    /// Whatever comes of it: only a start on a full disk would miss it.
    fn keep_room_for_start(&self) {
        let path = self.directory.join(ROOM_FOR_START);
        if path.exists() {
            return;
        }
        // What was given up is not all free again: a part of it is enough for many more starts.
        let sizes = [ROOM_FOR_START_BYTES, ROOM_FOR_START_BYTES / 2, ROOM_FOR_START_BYTES / 4];
        let made = File::create(&path).is_ok_and(|file| {
            sizes.iter().any(|bytes| rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, *bytes).is_ok())
        });
        if !made {
            let _ = std::fs::remove_file(&path);
        }
    }

    fn with<T>(&self, act: impl FnOnce(&Open) -> io::Result<T>) -> io::Result<T> {
        match &*self.open.read() {
            Some(open) => act(open),
            None => Err(io::Error::other("the metadata store is closed")),
        }
    }

    fn sync_open(open: &Open, unsynced: &mut usize) -> io::Result<()> {
        open.database.flush().map_err(io_error)?;
        // ORDER: after flush; see the file's head.
        open.file.sync_data()?;
        *unsynced = 0;
        Ok(())
    }

    fn count(open: &Open, unsynced: &mut usize, bytes: usize) -> io::Result<()> {
        *unsynced += bytes + WRITE_OVERHEAD_BYTES;
        if *unsynced >= UNSYNCED_BYTES_MAX {
            SledStore::sync_open(open, unsynced)?;
        }
        Ok(())
    }

    fn put_entry(open: &Open, unsynced: &mut usize, index: u64, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::other("an entry of over 4 GiB"))?;
        let head_len = bytes.len().min(CHUNK_BYTES - HEADER_BYTES);
        let (head, rest) = bytes.split_at(head_len);
        for (chunk, part) in (1u32..).zip(rest.chunks(CHUNK_BYTES)) {
            open.entries.insert(entry_key(index, chunk), part).map_err(io_error)?;
            SledStore::count(open, unsynced, part.len())?;
        }
        let mut first = Vec::with_capacity(HEADER_BYTES + head.len());
        first.extend_from_slice(&length.to_le_bytes());
        first.extend_from_slice(&checksum(bytes).to_le_bytes());
        first.extend_from_slice(head);
        // ORDER: last, because its presence says that the entry is whole.
        open.entries.insert(entry_key(index, 0), first).map_err(io_error)?;
        SledStore::count(open, unsynced, head.len())
    }

    fn truncate(open: &Open, unsynced: &mut usize, start: u64) -> io::Result<()> {
        while let Some((key, _)) = open.entries.last().map_err(io_error)? {
            let (index, _) = split_key(&key)?;
            if index < start {
                break;
            }
            // ORDER: the last entry first, or a crash leaves a hole; of each, chunk 0 first, or one that is not whole.
            let keys = open.entries.scan_prefix(index.to_be_bytes()).keys();
            SledStore::remove(open, unsynced, keys)?;
        }
        Ok(())
    }

    fn remove(
        open: &Open,
        unsynced: &mut usize,
        keys: impl Iterator<Item = sled::Result<sled::IVec>>,
    ) -> io::Result<()> {
        for key in keys {
            open.entries.remove(key.map_err(io_error)?).map_err(io_error)?;
            SledStore::count(open, unsynced, 0)?;
        }
        Ok(())
    }
}

impl Store for SledStore {
    fn entries(&self, range: Range<u64>) -> io::Result<Vec<(u64, Vec<u8>)>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.with(|open| {
            let mut found: Vec<(u64, Assembly)> = Vec::new();
            for item in open.entries.range(entry_key(range.start, 0)..entry_key(range.end, 0)) {
                let (key, value) = item.map_err(io_error)?;
                let (index, chunk) = split_key(&key)?;
                if chunk == 0 {
                    found.push((index, Assembly::begin(index, &value)?));
                    continue;
                }
                // Chunks without a head: an append that is on its way in another thread.
                if let Some((last, assembly)) = found.last_mut()
                    && *last == index
                {
                    assembly.add(chunk, &value);
                }
            }
            found.into_iter().map(|(index, assembly)| Ok((index, assembly.finish(index)?))).collect()
        })
    }

    fn bounds(&self) -> io::Result<Option<(u64, u64)>> {
        self.with(|open| {
            let first = open.entries.first().map_err(io_error)?;
            let last = open.entries.last().map_err(io_error)?;
            match first.zip(last) {
                None => Ok(None),
                Some(((first, _), (last, _))) => Ok(Some((split_key(&first)?.0, split_key(&last)?.0))),
            }
        })
    }

    fn cell(&self, cell: Cell) -> io::Result<Option<Vec<u8>>> {
        self.with(|open| Ok(open.cells.get(cell.key()).map_err(io_error)?.map(|value| value.to_vec())))
    }

    fn write(&self, writes: &[Write]) -> io::Result<()> {
        let mut unsynced = self.unsynced.lock();
        self.with(|open| {
            for write in writes {
                match write {
                    Write::Entry { index, bytes } => {
                        SledStore::put_entry(open, &mut unsynced, *index, bytes)?
                    }
                    Write::Purge { end } => {
                        let keys = open.entries.range(..entry_key(*end, 0)).keys();
                        SledStore::remove(open, &mut unsynced, keys)?;
                    }
                    Write::Truncate { start } => SledStore::truncate(open, &mut unsynced, *start)?,
                    Write::Cell { cell, bytes: Some(bytes) } => {
                        open.cells.insert(cell.key(), bytes.as_slice()).map_err(io_error)?;
                        SledStore::count(open, &mut unsynced, bytes.len())?;
                    }
                    Write::Cell { cell, bytes: None } => {
                        open.cells.remove(cell.key()).map_err(io_error)?;
                        SledStore::count(open, &mut unsynced, 0)?;
                    }
                }
            }
            Ok(())
        })
    }

    /// Blocks past the end of sled's file: its writes extend the file into them, and nobody else can take them meanwhile.
    /// What is left of them outlives this process, so that a node can start on a full disk.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.with(|open| {
            // First, or what a start has just given up would go to the log.
            self.keep_room_for_start();
            allocate(&open.file, open.file.metadata()?.len(), bytes)
        })
    }

    /// The file that the snapshot is written to, before it is.
    fn reserve_snapshot(&self, bytes: u64) -> io::Result<()> {
        self.with(|_| Ok(()))?;
        let path = self.directory.join(SNAPSHOT_TEMPORARY);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
        allocate(&file, 0, bytes + HEADER_BYTES as u64).inspect_err(|_| {
            let _ = std::fs::remove_file(&path);
        })
    }

    fn sync(&self) -> io::Result<()> {
        // Held while syncing: a write that slipped in between flush and sync_data would count as synced.
        let mut unsynced = self.unsynced.lock();
        self.with(|open| SledStore::sync_open(open, &mut unsynced))
    }

    fn sync_blocks(&self) -> bool {
        true
    }

    fn save_snapshot(&self, bytes: &[u8]) -> io::Result<()> {
        self.with(|_| Ok(()))?;
        let mut content = Vec::with_capacity(bytes.len() + HEADER_BYTES);
        content.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        content.extend_from_slice(&checksum(bytes).to_le_bytes());
        content.extend_from_slice(bytes);
        let temporary = self.directory.join(SNAPSHOT_TEMPORARY);
        let write = || {
            // Not made anew: its blocks may have been reserved.
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(&temporary)?;
            file.write_all(&content)?;
            file.set_len(content.len() as u64)?;
            file.sync_all()
        };
        write().inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })?;
        std::fs::rename(&temporary, self.directory.join(SNAPSHOT))?;
        sync_directory(&self.directory)
    }

    fn snapshot(&self) -> io::Result<Option<Vec<u8>>> {
        let content = match std::fs::read(self.directory.join(SNAPSHOT)) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the snapshot is damaged");
        let (header, bytes) = content.split_at_checked(HEADER_BYTES).ok_or_else(damaged)?;
        let (length, crc) = parse_header(header).ok_or_else(damaged)?;
        if length as usize != bytes.len() || crc != checksum(bytes) {
            return Err(damaged());
        }
        Ok(Some(bytes.to_vec()))
    }

    fn close(&self) {
        let _writer = self.unsynced.lock();
        self.open.write().take();
    }
}

/// When it opens, sled writes a snapshot of its page table under a name that ends so, and renames it when it is synced; but
/// it reads the unfinished ones too, and takes an empty or torn one for corruption. It never needs one: what it cannot find
/// in a snapshot it finds in its log.
const UNFINISHED_SNAPSHOT: &str = ".generating";

fn remove_torn_snapshots(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(UNFINISHED_SNAPSHOT) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// sled has a lock of its own on its file. Nobody else can hold it, since the caller owns the directory, except a store
/// that this process just closed: sled's last threads let go of it a moment later.
const LOCK_WAIT: Duration = Duration::from_secs(5);

fn open_database(config: &sled::Config, path: &Path) -> Result<sled::Db, OpenStoreError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        if let Ok(file) = File::open(path.join("db"))
            && rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        // sled asserts on some damage instead of returning it.
        return catch_unwind(AssertUnwindSafe(|| config.open()))
            .map_err(|_| OpenStoreError::Corrupt("sled gave up on it (see the message above)".into()))?
            .map_err(OpenStoreError::from);
    }
}

/// An entry being put together from its chunks.
struct Assembly {
    length: usize,
    crc: u32,
    next_chunk: u32,
    bytes: Vec<u8>,
}

impl Assembly {
    fn begin(index: u64, first: &[u8]) -> io::Result<Assembly> {
        let header = first.split_at_checked(HEADER_BYTES);
        let parsed = header.and_then(|(header, head)| Some((parse_header(header)?, head)));
        let Some(((length, crc), head)) = parsed else { return Err(damaged(index)) };
        Ok(Assembly { length: length as usize, crc, next_chunk: 1, bytes: head.to_vec() })
    }

    fn add(&mut self, chunk: u32, value: &[u8]) {
        // A chunk out of line leaves the length wrong, which `finish` reports.
        if chunk == self.next_chunk && self.bytes.len() < self.length {
            self.bytes.extend_from_slice(value);
            self.next_chunk += 1;
        }
    }

    fn finish(self, index: u64) -> io::Result<Vec<u8>> {
        if self.bytes.len() != self.length || checksum(&self.bytes) != self.crc {
            return Err(damaged(index));
        }
        Ok(self.bytes)
    }
}

fn damaged(index: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("entry {index} of the metadata log is damaged"))
}

fn parse_header(header: &[u8]) -> Option<(u32, u32)> {
    let length = header.get(..4)?.try_into().ok()?;
    let crc = header.get(4..8)?.try_into().ok()?;
    Some((u32::from_le_bytes(length), u32::from_le_bytes(crc)))
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Big endian, so that sled's order is the order of indexes.
fn entry_key(index: u64, chunk: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn split_key(key: &[u8]) -> io::Result<(u64, u32)> {
    let parts = key.split_at_checked(8).and_then(|(index, chunk)| {
        Some((u64::from_be_bytes(index.try_into().ok()?), u32::from_be_bytes(chunk.try_into().ok()?)))
    });
    parts.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a key of the metadata log is damaged"))
}

fn io_error(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(source) => source,
        other => io::Error::other(other),
    }
}

/// Blocks of a file that nobody else can take.
fn allocate(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, bytes) {
        Ok(()) => Ok(()),
        // This file system promises nothing; what is free now is the best guess.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let space = rustix::fs::fstatvfs(file)?;
            match space.f_bavail.saturating_mul(space.f_frsize) >= bytes {
                true => Ok(()),
                false => Err(io::ErrorKind::StorageFull.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Replaces a file so that a crash leaves the old content or the new, and the new once this returns.
pub(super) fn write_file_durably(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    sync_directory(directory)
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use sled::Event;

    use super::*;

    /// sled recovers a prefix of its writes: whichever it is, what opens is a log of whole entries without a hole.
    #[test]
    fn a_crash_between_any_two_writes_leaves_whole_entries() {
        let entry = |index: u64, chunks: usize| Write::Entry {
            index,
            bytes: vec![index as u8; (chunks - 1) * CHUNK_BYTES + 9],
        };
        let directory = tempfile::tempdir().unwrap();
        let store = SledStore::open(directory.path()).unwrap();
        let events = store.with(|open| Ok(open.entries.watch_prefix([]))).unwrap();
        store.write(&[entry(0, 1), entry(1, 3), entry(2, 4), entry(3, 1), entry(4, 2)]).unwrap();
        store.write(&[Write::Truncate { start: 1 }]).unwrap();
        store.write(&[entry(1, 3), entry(2, 2)]).unwrap();
        store.with(|open| Ok(open.entries.insert(b"end", b"").unwrap())).unwrap();
        let is_written = |event: &Event| !matches!(event, Event::Insert { key, .. } if key == b"end");
        let events: Vec<Event> = events.take_while(is_written).collect();
        assert_eq!(events.len(), 11 + 10 + 5);

        for crash in 0..=events.len() {
            let directory = tempfile::tempdir().unwrap();
            let store = SledStore::open(directory.path()).unwrap();
            let replay = |open: &Open| {
                for event in &events[..crash] {
                    match event {
                        Event::Insert { key, value } => open.entries.insert(key, value).unwrap(),
                        Event::Remove { key } => open.entries.remove(key).unwrap(),
                    };
                }
                Ok(())
            };
            store.with(replay).unwrap();
            store.close();
            let store = SledStore::open(directory.path()).unwrap();
            let found = store.entries(0..u64::MAX).unwrap_or_else(|error| panic!("{crash} writes: {error}"));
            let indexes: Vec<u64> = found.iter().map(|(index, _)| *index).collect();
            assert_eq!(indexes, (0..found.len() as u64).collect::<Vec<_>>(), "{crash} writes");
            assert_eq!(store.bounds().unwrap(), indexes.last().map(|last| (0, *last)), "{crash} writes");
        }
    }
}
