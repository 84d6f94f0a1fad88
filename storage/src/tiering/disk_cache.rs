//! Pieces of objects on a local disk, behind those in memory: who reads what memory no longer holds finds it here, and the store is
//! not asked again.
//!
//! A file holds one piece. Nothing is synced, and nothing outlives the process: the next one begins with an empty directory.
//! What is read must have the length and the checksum of what was written; that it has not, and whatever else fails, is a
//! miss. The disk is mostly that of logs, which go before: a piece is written beside whoever wanted it, or not at all while
//! others still are, and of the last tenth of the disk nothing is taken.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::channel::oneshot;
use ottla_batch::crc32c;
use parking_lot::Mutex;
use uuid::Uuid;

use super::directory::Beside;
use super::reader::ChunkId;
use crate::disk::{Disk, OpenMode};

/// Pieces that are being written at once. A disk that is slower than the store gets fewer, and never holds memory up.
const WRITES_MAX: usize = 4;
/// Of the disk, a share that stays free: one in so many bytes.
const FREE_SHARE: u64 = 10;

pub struct DiskCache {
    shared: Arc<Shared>,
    beside: Beside,
    /// One piece is read at a time: a disk is no faster for being asked for several, and each of them takes memory.
    turn: futures::lock::Mutex<()>,
}

struct Shared {
    disk: Disk,
    directory: PathBuf,
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: HashMap<ChunkId, Kept>,
    by_use: BTreeMap<u64, ChunkId>,
    /// By the number of the file. Who is no longer among these when it is written has been forgotten meanwhile.
    writing: HashMap<ChunkId, u64>,
    /// Of files, those that are being written included.
    bytes: u64,
    /// The last number that was given to a file or a use.
    number: u64,
    counts: DiskCacheCounts,
}

struct Kept {
    number: u64,
    crc: u32,
    last_use: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskCacheCounts {
    /// Pieces that were read here instead of from the store.
    pub hits: u64,
    pub misses: u64,
    /// Files that could not be written, or were not read as they had been written.
    pub failures: u64,
    pub held_bytes: u64,
}

impl State {
    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Number and checksum of the file.
    fn touch(&mut self, id: &ChunkId) -> Option<(u64, u32)> {
        let last_use = self.next_number();
        let kept = self.kept.get_mut(id)?;
        self.by_use.remove(&kept.last_use);
        kept.last_use = last_use;
        self.by_use.insert(last_use, *id);
        Some((kept.number, kept.crc))
    }

    /// The number of the file, which goes too.
    fn remove(&mut self, id: &ChunkId) -> Option<u64> {
        let kept = self.kept.remove(id)?;
        self.by_use.remove(&kept.last_use);
        self.bytes -= id.len as u64;
        Some(kept.number)
    }

    /// Gives up those that were not used for the longest time, so many bytes of them; the numbers of their files.
    fn give_up(&mut self, bytes: u64) -> Vec<u64> {
        let mut freed = 0;
        let mut numbers = Vec::new();
        while freed < bytes {
            let Some(id) = self.by_use.first_key_value().map(|(_, id)| *id) else { break };
            numbers.extend(self.remove(&id));
            freed += id.len as u64;
        }
        numbers
    }
}

impl DiskCache {
    /// All that is in `directory` goes: it is this cache's alone. Waits for the disk.
    pub fn open(disk: &Disk, directory: &Path, bytes_max: u64, beside: Beside) -> io::Result<DiskCache> {
        disk.remove_dir_all(directory)?;
        disk.create_dir_all(directory)?;
        let shared = Shared {
            disk: disk.clone(),
            directory: directory.to_owned(),
            bytes_max,
            state: Mutex::default(),
        };
        Ok(DiskCache { shared: Arc::new(shared), beside, turn: futures::lock::Mutex::default() })
    }

    pub fn counts(&self) -> DiskCacheCounts {
        let state = self.shared.state.lock();
        DiskCacheCounts { held_bytes: state.bytes, ..state.counts }
    }

    pub(super) async fn get(&self, id: &ChunkId) -> Option<Bytes> {
        let found = {
            let mut state = self.shared.state.lock();
            let found = state.touch(id);
            state.counts.misses += u64::from(found.is_none());
            found
        };
        let (number, crc) = found?;
        let _turn = self.turn.lock().await;
        let (answer, answered) = oneshot::channel();
        let (shared, id) = (Arc::clone(&self.shared), *id);
        (self.beside)(Box::new(move || {
            // Whoever asked may have gone away.
            let _ = answer.send(shared.read(&id, number, crc));
        }));
        answered.await.ok()?
    }

    /// For later readers, if there is room and the disk keeps up.
    pub(super) fn put(&self, id: ChunkId, bytes: Bytes) {
        let number = {
            let mut state = self.shared.state.lock();
            let is_known = state.kept.contains_key(&id) || state.writing.contains_key(&id);
            let fits = bytes.len() == id.len && id.len as u64 <= self.shared.bytes_max;
            if is_known || !fits || state.writing.len() >= WRITES_MAX {
                return;
            }
            let number = state.next_number();
            state.writing.insert(id, number);
            state.bytes += id.len as u64;
            number
        };
        let shared = Arc::clone(&self.shared);
        (self.beside)(Box::new(move || shared.put(id, number, &bytes)));
    }

    /// It is not what the store has: the next reader asks there.
    pub(super) fn forget(&self, id: &ChunkId) {
        let number = {
            let mut state = self.shared.state.lock();
            state.writing.remove(id);
            state.remove(id)
        };
        self.remove_beside(number.into_iter().collect());
    }

    /// The topic is deleted.
    pub(super) fn forget_topic(&self, topic_id: Uuid) {
        let numbers = {
            let mut state = self.shared.state.lock();
            state.writing.retain(|id, _| id.key.topic_id != topic_id);
            let of_topic = state.by_use.values().filter(|id| id.key.topic_id == topic_id);
            let of_topic: Vec<ChunkId> = of_topic.copied().collect();
            of_topic.iter().filter_map(|id| state.remove(id)).collect()
        };
        self.remove_beside(numbers);
    }

    fn remove_beside(&self, numbers: Vec<u64>) {
        if !numbers.is_empty() {
            let shared = Arc::clone(&self.shared);
            (self.beside)(Box::new(move || shared.remove_files(&numbers)));
        }
    }
}

impl Shared {
    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number}.piece"))
    }

    fn read(&self, id: &ChunkId, number: u64, crc: u32) -> Option<Bytes> {
        let read = self.disk.read(&self.path(number), id.len as u64);
        let whole = read.ok().filter(|bytes| bytes.len() == id.len && crc32c(bytes) == crc);
        let mut state = self.state.lock();
        if whole.is_some() {
            state.counts.hits += 1;
            return whole.map(Bytes::from);
        }
        state.counts.misses += 1;
        // It may just have been given up.
        if state.kept.get(id).is_some_and(|kept| kept.number == number) {
            state.remove(id);
            self.on_failure(&mut state, "was not read as it had been written");
            drop(state);
            self.remove_files(&[number]);
        }
        None
    }

    fn put(&self, id: ChunkId, number: u64, bytes: &[u8]) {
        let crc = crc32c(bytes);
        let written = self.write(number, bytes);
        let mut state = self.state.lock();
        let is_wanted = state.writing.get(&id) == Some(&number);
        if is_wanted {
            state.writing.remove(&id);
        }
        if is_wanted && matches!(written, Ok(true)) {
            let last_use = state.next_number();
            state.kept.insert(id, Kept { number, crc, last_use });
            state.by_use.insert(last_use, id);
            return;
        }
        state.bytes -= id.len as u64;
        if let Err(error) = written {
            self.on_failure(&mut state, &error.to_string());
        }
        drop(state);
        self.remove_files(&[number]);
    }

    /// Whether there was room.
    fn write(&self, number: u64, bytes: &[u8]) -> io::Result<bool> {
        let given_up = {
            let mut state = self.state.lock();
            let excess = state.bytes.saturating_sub(self.bytes_max);
            state.give_up(excess)
        };
        self.remove_files(&given_up);
        let space = self.disk.space(&self.directory)?;
        if space.usable_bytes < space.total_bytes / FREE_SHARE + bytes.len() as u64 {
            let given_up = self.state.lock().give_up(bytes.len() as u64);
            self.remove_files(&given_up);
            return Ok(false);
        }
        if self.state.lock().bytes > self.bytes_max {
            return Ok(false);
        }
        let file = self.disk.open(&self.path(number), OpenMode::Create)?;
        file.write_all_at(&mut [IoSlice::new(bytes)], 0)?;
        Ok(true)
    }

    fn on_failure(&self, state: &mut State, reason: &str) {
        // The first one: the metrics say how many there are.
        if state.counts.failures == 0 {
            let directory = self.directory.display();
            tracing::warn!(%directory, reason, "a file of the disk cache of the remote tier; what is not there comes from the store");
        }
        state.counts.failures += 1;
    }

    fn remove_files(&self, numbers: &[u64]) {
        for number in numbers {
            // What stays goes with the directory at the next start.
            let _ = self.disk.remove_file(&self.path(*number));
        }
    }
}
