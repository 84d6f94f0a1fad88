//! `<base offset>.index`: where in the segment's log file a batch begins, one entry at most every
//! `index.interval.bytes`. Entry (Kafka's): i32 last offset of a batch relative to the base offset, i32 position of that
//! batch; both strictly grow along the file.
//!
//! New entries wait in memory and are written in chunks (at a roll, at a checkpoint of the recovery point, at close, or
//! when a chunk is full). Looking up never loads the file: a binary search of single entries narrows down to one page,
//! which is read at once. What the file says is a hint: the reader checks the batch that it finds there, and calls
//! `distrust` when that is not one it can come from; the segment is then scanned from its beginning until the index is
//! rebuilt.

use std::io::{self, IoSlice};

use ottla_batch::Offset;
use parking_lot::Mutex;

use crate::disk::FileHandle;

pub(crate) const ENTRY_LEN: usize = 8;
/// Entries kept in memory before they are written: one page of the file.
const CHUNK_ENTRIES: usize = 512;
const PAGE_ENTRIES: u32 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub offset_delta: u32,
    pub position: u32,
}

impl IndexEntry {
    pub(crate) fn decode(bytes: &[u8]) -> IndexEntry {
        let field = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        IndexEntry { offset_delta: field(0), position: field(4) }
    }

    pub(crate) fn encode(self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        bytes[..4].copy_from_slice(&self.offset_delta.to_be_bytes());
        bytes[4..].copy_from_slice(&self.position.to_be_bytes());
        bytes
    }
}

pub(crate) struct OffsetIndex {
    file: FileHandle,
    base_offset: Offset,
    state: Mutex<State>,
}

struct State {
    /// Entries in the file; None until the file was looked at.
    written: Option<u32>,
    pending: Vec<IndexEntry>,
    distrusted: bool,
    /// The file has writes that no sync covers yet.
    unsynced: bool,
}

impl OffsetIndex {
    /// For a segment that is found on disk: the file is looked at when it is first needed.
    pub(crate) fn existing(file: FileHandle, base_offset: Offset) -> OffsetIndex {
        let state = State { written: None, pending: Vec::new(), distrusted: false, unsynced: false };
        OffsetIndex { file, base_offset, state: Mutex::new(state) }
    }

    /// For a new segment: whatever lies under the name (of a crash) is ignored and cut at the first write.
    pub(crate) fn new(file: FileHandle, base_offset: Offset) -> OffsetIndex {
        let index = OffsetIndex::existing(file, base_offset);
        index.state.lock().written = Some(0);
        index
    }

    pub(crate) fn file(&self) -> &FileHandle {
        &self.file
    }

    /// A batch with this last offset begins at `position`. Entries that do not grow are left out.
    pub(crate) fn append(&self, last_offset: Offset, position: u64) {
        let mut state = self.state.lock();
        let (Ok(offset_delta), Ok(position)) =
            (u32::try_from(last_offset.0 - self.base_offset.0), u32::try_from(position))
        else {
            return;
        };
        if state
            .pending
            .last()
            .is_some_and(|last| last.offset_delta >= offset_delta || last.position >= position)
        {
            return;
        }
        state.pending.push(IndexEntry { offset_delta, position });
    }

    pub(crate) fn wants_flush(&self) -> bool {
        self.state.lock().pending.len() >= CHUNK_ENTRIES
    }

    pub(crate) fn size_in_bytes(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        let written = self.written(&mut state)?;
        Ok(u64::from(written) * ENTRY_LEN as u64 + (state.pending.len() * ENTRY_LEN) as u64)
    }

    /// Position of the last indexed batch whose last offset is at most `offset`; 0 when there is none.
    pub(crate) fn lookup(&self, offset: Offset) -> io::Result<u64> {
        let mut state = self.state.lock();
        let Ok(target) = u32::try_from(offset.0.saturating_sub(self.base_offset.0)) else {
            // Before the segment: its front. Past what a segment can hold: its last entry.
            return if offset < self.base_offset { Ok(0) } else { self.last_position(&mut state) };
        };
        if state.distrusted {
            return Ok(0);
        }
        let in_memory = state.pending.partition_point(|entry| entry.offset_delta <= target);
        if in_memory > 0 {
            return Ok(u64::from(state.pending[in_memory - 1].position));
        }
        let written = self.written(&mut state)?;
        // The lock is kept over the reads: a truncation in between would move the entries away.
        let found = self.search(written, |entry| entry.offset_delta <= target)?;
        Ok(found.map_or(0, |entry| u64::from(entry.position)))
    }

    fn last_position(&self, state: &mut State) -> io::Result<u64> {
        Ok(self.last_entry(state)?.map_or(0, |entry| u64::from(entry.position)))
    }

    /// The last entry, from which the end of the log is found at open.
    pub(crate) fn last(&self) -> io::Result<Option<IndexEntry>> {
        self.last_entry(&mut self.state.lock())
    }

    fn last_entry(&self, state: &mut State) -> io::Result<Option<IndexEntry>> {
        if state.distrusted {
            return Ok(None);
        }
        if let Some(last) = state.pending.last() {
            return Ok(Some(*last));
        }
        match self.written(state)? {
            0 => Ok(None),
            written => self.read_entry(written - 1).map(Some),
        }
    }

    /// The last entry of the file for which `before` holds; it must hold for a prefix of the entries.
    fn search(&self, written: u32, before: impl Fn(IndexEntry) -> bool) -> io::Result<Option<IndexEntry>> {
        let (mut low, mut high) = (0, written);
        while high - low > PAGE_ENTRIES {
            let middle = low + (high - low) / 2;
            if before(self.read_entry(middle)?) { low = middle } else { high = middle }
        }
        if low == high {
            return Ok(None);
        }
        let mut page = [0; PAGE_ENTRIES as usize * ENTRY_LEN];
        let page = &mut page[..(high - low) as usize * ENTRY_LEN];
        self.file.open()?.read_exact_at(page, u64::from(low) * ENTRY_LEN as u64)?;
        let mut found = None;
        for bytes in page.chunks_exact(ENTRY_LEN) {
            let entry = IndexEntry::decode(bytes);
            if !before(entry) {
                break;
            }
            found = Some(entry);
        }
        Ok(found)
    }

    fn read_entry(&self, number: u32) -> io::Result<IndexEntry> {
        let mut bytes = [0; ENTRY_LEN];
        self.file.open()?.read_exact_at(&mut bytes, u64::from(number) * ENTRY_LEN as u64)?;
        Ok(IndexEntry::decode(&bytes))
    }

    fn written(&self, state: &mut State) -> io::Result<u32> {
        if let Some(written) = state.written {
            return Ok(written);
        }
        let written = match self.file.open() {
            // A torn last entry does not count; Kafka's trailing zeros of a file that was not trimmed are cut off by
            // `check` where the file is checked at all.
            Ok(file) => (file.len()? / ENTRY_LEN as u64) as u32,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        state.written = Some(written);
        Ok(written)
    }

    /// Reads the whole file and answers whether every entry could be right in a log file of `log_size` bytes.
    pub(crate) fn check(&self, log_size: u64) -> io::Result<bool> {
        let mut state = self.state.lock();
        let written = self.written(&mut state)?;
        if written == 0 {
            return Ok(true);
        }
        let file = self.file.open()?;
        let mut last: Option<IndexEntry> = None;
        let mut page = [0; PAGE_ENTRIES as usize * ENTRY_LEN];
        for first in (0..written).step_by(PAGE_ENTRIES as usize) {
            let page = &mut page[..(written - first).min(PAGE_ENTRIES) as usize * ENTRY_LEN];
            file.read_exact_at(page, u64::from(first) * ENTRY_LEN as u64)?;
            for bytes in page.chunks_exact(ENTRY_LEN) {
                let entry = IndexEntry::decode(bytes);
                let grows = last.is_none_or(|last| {
                    entry.offset_delta > last.offset_delta && entry.position > last.position
                });
                if !grows || u64::from(entry.position) >= log_size || entry.offset_delta > i32::MAX as u32 {
                    return Ok(false);
                }
                last = Some(entry);
            }
        }
        Ok(true)
    }

    /// What was found through the index cannot be right.
    pub(crate) fn distrust(&self) {
        self.state.lock().distrusted = true;
    }

    pub(crate) fn is_distrusted(&self) -> bool {
        self.state.lock().distrusted
    }

    /// Forgets all entries, before a rebuild.
    pub(crate) fn clear(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.pending.clear();
        state.distrusted = false;
        self.cut_file(&mut state, 0)
    }

    /// Keeps the entries of batches that lie wholly before `end_offset`.
    pub(crate) fn truncate_to(&self, end_offset: Offset) -> io::Result<()> {
        let mut state = self.state.lock();
        let keeps = |entry: &IndexEntry| self.base_offset.0 + i64::from(entry.offset_delta) < end_offset.0;
        let kept = state.pending.partition_point(keeps);
        state.pending.truncate(kept);
        if kept > 0 {
            return Ok(());
        }
        let written = self.written(&mut state)?;
        let (mut low, mut high) = (0, written);
        while low < high {
            let middle = low + (high - low) / 2;
            if keeps(&self.read_entry(middle)?) { low = middle + 1 } else { high = middle }
        }
        if low < written { self.cut_file(&mut state, low) } else { Ok(()) }
    }

    fn cut_file(&self, state: &mut State, entries: u32) -> io::Result<()> {
        match self.file.open() {
            Ok(file) => {
                file.set_len(u64::from(entries) * ENTRY_LEN as u64)?;
                state.unsynced = true;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && entries == 0 => {}
            Err(error) => return Err(error),
        }
        state.written = Some(entries);
        Ok(())
    }

    /// Writes what waits in memory. After an error it still waits there; the next flush writes over what is half there.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let written = self.written(&mut state)?;
        if state.pending.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(state.pending.len() * ENTRY_LEN);
        state.pending.iter().for_each(|entry| bytes.extend_from_slice(&entry.encode()));
        let file = self.file.open_or_create()?;
        if written == 0 {
            file.set_len(0)?;
        }
        file.write_all_at(&mut [IoSlice::new(&bytes)], u64::from(written) * ENTRY_LEN as u64)?;
        state.written = Some(written + state.pending.len() as u32);
        // A log that goes idle keeps no buffer.
        state.pending = Vec::new();
        state.unsynced = true;
        Ok(())
    }

    /// Whether a sync is due; the caller syncs `file()` and reports a failure.
    pub(crate) fn take_unsynced(&self) -> bool {
        std::mem::take(&mut self.state.lock().unsynced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, SimulatedDisk};
    use std::path::Path;

    fn disk() -> Disk {
        let disk = Disk::simulated(&SimulatedDisk::new());
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk
    }

    fn filled(disk: &Disk, entries: u32) -> OffsetIndex {
        let index = OffsetIndex::new(disk.handle("/d/100.index"), Offset(100));
        for n in 1..=entries {
            index.append(Offset(100 + i64::from(n) * 10), u64::from(n) * 5000);
        }
        index
    }

    #[test]
    fn golden() {
        let disk = disk();
        let index = OffsetIndex::new(disk.handle("/d/100.index"), Offset(100));
        index.append(Offset(107), 4200);
        index.append(Offset(365), 0x0102_0304);
        index.flush().unwrap();
        let bytes = disk.read(Path::new("/d/100.index"), 100).unwrap();
        assert_eq!(bytes, [0, 0, 0, 7, 0, 0, 0x10, 0x68, 0, 0, 1, 9, 1, 2, 3, 4]);
    }

    #[test]
    fn lookup_is_the_floor_in_memory_on_disk_and_across() {
        for entries in [0u32, 1, 2, 511, 512, 513, 3000] {
            for flushed_after in [0, 1, entries / 2, entries] {
                let disk = disk();
                let index = OffsetIndex::new(disk.handle("/d/100.index"), Offset(100));
                for n in 1..=entries {
                    index.append(Offset(100 + i64::from(n) * 10), u64::from(n) * 5000);
                    if n == flushed_after {
                        index.flush().unwrap();
                    }
                }
                for offset in (90..100 + i64::from(entries) * 10 + 25).step_by(7) {
                    let expected = ((offset - 100) / 10).clamp(0, i64::from(entries)) * 5000;
                    assert_eq!(index.lookup(Offset(offset)).unwrap(), expected as u64, "{entries} {offset}");
                }
                index.flush().unwrap();
                let again = OffsetIndex::existing(disk.handle("/d/100.index"), Offset(100));
                assert_eq!(again.lookup(Offset(115)).unwrap(), if entries == 0 { 0 } else { 5000 });
                assert_eq!(again.lookup(Offset(i64::MAX)).unwrap(), u64::from(entries) * 5000);
            }
        }
    }

    #[test]
    fn truncation_keeps_whole_batches_before_the_end() {
        for flushed in [0, 700, 1000] {
            let disk = disk();
            let index = filled(&disk, flushed);
            index.flush().unwrap();
            for n in flushed + 1..=1000 {
                index.append(Offset(100 + i64::from(n) * 10), u64::from(n) * 5000);
            }
            // The batch with last offset 100 + 6000 ends at 6101.
            index.truncate_to(Offset(6101)).unwrap();
            assert_eq!(
                index.last().unwrap().unwrap(),
                IndexEntry { offset_delta: 6000, position: 3_000_000 }
            );
            index.truncate_to(Offset(6100)).unwrap();
            assert_eq!(index.last().unwrap().unwrap().offset_delta, 5990);
            index.append(Offset(6200), 3_000_001);
            index.flush().unwrap();
            assert!(index.check(4_000_000).unwrap());
            assert_eq!(index.lookup(Offset(6200)).unwrap(), 3_000_001);
        }
    }

    #[test]
    fn a_wrong_file_is_noticed() {
        let disk = disk();
        let index = filled(&disk, 600);
        index.flush().unwrap();
        assert!(index.check(600 * 5000 + 1).unwrap());
        assert!(!index.check(600 * 5000).unwrap(), "a position at the end of the log");
        let file = disk.handle("/d/100.index").open().unwrap();
        file.write_all_at(&mut [IoSlice::new(&[0; 8])], 8 * 550).unwrap();
        let again = OffsetIndex::existing(disk.handle("/d/100.index"), Offset(100));
        assert!(!again.check(1 << 30).unwrap());
        again.clear().unwrap();
        assert_eq!(again.lookup(Offset(500)).unwrap(), 0);
        assert!(again.check(1 << 30).unwrap());
    }
}
