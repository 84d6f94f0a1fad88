//! `<base offset>.timeindex`: how late the records of a segment are. Entry (Kafka's): i64 the largest timestamp so far,
//! i32 offset (relative to the base offset) of the batch that brought it. An entry is written only when the timestamp
//! grew, so both columns grow; the last entry of a sealed segment is its largest timestamp.
//!
//! Small (one entry per `index.interval.bytes` at most), written in chunks as the offset index is, searched on disk.

use std::io::{self, IoSlice};

use ottla_batch::{NO_TIMESTAMP, Offset, TimestampMs};
use parking_lot::Mutex;

use crate::disk::FileHandle;

pub(crate) const ENTRY_LEN: usize = 12;
const CHUNK_ENTRIES: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeEntry {
    pub timestamp: TimestampMs,
    /// Absolute: last offset of the batch with that timestamp.
    pub offset: Offset,
}

impl TimeEntry {
    pub(crate) fn decode(bytes: [u8; ENTRY_LEN], base_offset: Offset) -> TimeEntry {
        let [t0, t1, t2, t3, t4, t5, t6, t7, o0, o1, o2, o3] = bytes;
        let delta = i32::from_be_bytes([o0, o1, o2, o3]);
        TimeEntry {
            timestamp: TimestampMs(i64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7])),
            offset: Offset(base_offset.0.saturating_add(i64::from(delta))),
        }
    }

    pub(crate) fn encode(self, base_offset: Offset) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        bytes[..8].copy_from_slice(&self.timestamp.0.to_be_bytes());
        bytes[8..].copy_from_slice(&((self.offset.0 - base_offset.0) as i32).to_be_bytes());
        bytes
    }
}

pub(crate) struct TimeIndex {
    file: FileHandle,
    base_offset: Offset,
    state: Mutex<State>,
}

struct State {
    /// Entries in the file; None until the file was looked at.
    written: Option<u32>,
    /// The last entry, in memory or in the file; None until the file was looked at.
    last: Option<Option<TimeEntry>>,
    pending: Vec<TimeEntry>,
    /// An entry was found that no batch has.
    distrusted: bool,
    unsynced: bool,
}

impl TimeIndex {
    pub(crate) fn existing(file: FileHandle, base_offset: Offset) -> TimeIndex {
        let state =
            State { written: None, last: None, pending: Vec::new(), distrusted: false, unsynced: false };
        TimeIndex { file, base_offset, state: Mutex::new(state) }
    }

    pub(crate) fn new(file: FileHandle, base_offset: Offset) -> TimeIndex {
        let index = TimeIndex::existing(file, base_offset);
        {
            let mut state = index.state.lock();
            state.written = Some(0);
            state.last = Some(None);
        }
        index
    }

    pub(crate) fn file(&self) -> &FileHandle {
        &self.file
    }

    /// Left out when the timestamp is not larger than the last one.
    pub(crate) fn append(&self, entry: TimeEntry) -> io::Result<()> {
        let mut state = self.state.lock();
        let last = self.last_of(&mut state)?;
        let grows = last.is_none_or(|last| entry.timestamp > last.timestamp && entry.offset >= last.offset);
        if grows
            && entry.timestamp > NO_TIMESTAMP
            && entry.offset.0 - self.base_offset.0 <= i64::from(i32::MAX)
        {
            state.pending.push(entry);
            state.last = Some(Some(entry));
        }
        Ok(())
    }

    pub(crate) fn wants_flush(&self) -> bool {
        self.state.lock().pending.len() >= CHUNK_ENTRIES
    }

    pub(crate) fn size_in_bytes(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        let written = self.written(&mut state)?;
        Ok(u64::from(written) * ENTRY_LEN as u64 + (state.pending.len() * ENTRY_LEN) as u64)
    }

    /// The largest timestamp that is indexed.
    pub(crate) fn last(&self) -> io::Result<Option<TimeEntry>> {
        self.last_of(&mut self.state.lock())
    }

    /// Everything before this offset has a timestamp smaller than `timestamp`: the last entry at or before it.
    pub(crate) fn lookup(&self, timestamp: TimestampMs) -> io::Result<Option<TimeEntry>> {
        let mut state = self.state.lock();
        if state.distrusted {
            return Ok(None);
        }
        let in_memory = state.pending.partition_point(|entry| entry.timestamp <= timestamp);
        if in_memory > 0 {
            return Ok(Some(state.pending[in_memory - 1]));
        }
        let written = self.written(&mut state)?;
        match self.partition_point(written, |entry| entry.timestamp <= timestamp)? {
            0 => Ok(None),
            count => self.read_entry(count - 1).map(Some),
        }
    }

    fn partition_point(&self, written: u32, before: impl Fn(TimeEntry) -> bool) -> io::Result<u32> {
        let (mut low, mut high) = (0, written);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.read_entry(middle)?) { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    fn read_entry(&self, number: u32) -> io::Result<TimeEntry> {
        let mut bytes = [0; ENTRY_LEN];
        self.file.open()?.read_exact_at(&mut bytes, u64::from(number) * ENTRY_LEN as u64)?;
        Ok(TimeEntry::decode(bytes, self.base_offset))
    }

    fn written(&self, state: &mut State) -> io::Result<u32> {
        if let Some(written) = state.written {
            return Ok(written);
        }
        let written = match self.file.open() {
            Ok(file) => (file.len()? / ENTRY_LEN as u64) as u32,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        state.written = Some(written);
        Ok(written)
    }

    fn last_of(&self, state: &mut State) -> io::Result<Option<TimeEntry>> {
        if let Some(last) = state.last {
            return Ok(last);
        }
        let last = match self.written(state)? {
            0 => None,
            written => Some(self.read_entry(written - 1)?),
        };
        state.last = Some(last);
        Ok(last)
    }

    /// Reads the whole file and answers whether every entry could be right in a segment that ends at `end_offset`.
    pub(crate) fn check(&self, end_offset: Offset) -> io::Result<bool> {
        let mut state = self.state.lock();
        let written = self.written(&mut state)?;
        if written == 0 {
            return Ok(true);
        }
        let file = self.file.open()?;
        let mut last: Option<TimeEntry> = None;
        let mut page = [0; 341 * ENTRY_LEN];
        for first in (0..written).step_by(341) {
            let page = &mut page[..(written - first).min(341) as usize * ENTRY_LEN];
            file.read_exact_at(page, u64::from(first) * ENTRY_LEN as u64)?;
            for bytes in page.as_chunks::<ENTRY_LEN>().0 {
                let entry = TimeEntry::decode(*bytes, self.base_offset);
                let grows =
                    last.is_none_or(|last| entry.timestamp > last.timestamp && entry.offset >= last.offset);
                if !grows || entry.offset < self.base_offset || entry.offset >= end_offset {
                    return Ok(false);
                }
                last = Some(entry);
            }
        }
        Ok(true)
    }

    /// Not looked at any more until it is rebuilt.
    pub(crate) fn distrust(&self) {
        self.state.lock().distrusted = true;
    }

    pub(crate) fn is_distrusted(&self) -> bool {
        self.state.lock().distrusted
    }

    pub(crate) fn clear(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.distrusted = false;
        state.pending.clear();
        self.cut_file(&mut state, 0)
    }

    /// Keeps the entries of offsets before `end_offset`.
    pub(crate) fn truncate_to(&self, end_offset: Offset) -> io::Result<()> {
        let mut state = self.state.lock();
        let kept = state.pending.partition_point(|entry| entry.offset < end_offset);
        state.pending.truncate(kept);
        state.last = state.pending.last().map(|last| Some(*last));
        if kept > 0 {
            return Ok(());
        }
        let written = self.written(&mut state)?;
        let kept = self.partition_point(written, |entry| entry.offset < end_offset)?;
        if kept < written { self.cut_file(&mut state, kept) } else { Ok(()) }
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
        state.last = None;
        Ok(())
    }

    /// See `OffsetIndex::flush`.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let written = self.written(&mut state)?;
        if state.pending.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(state.pending.len() * ENTRY_LEN);
        state.pending.iter().for_each(|entry| bytes.extend_from_slice(&entry.encode(self.base_offset)));
        let file = self.file.open_or_create()?;
        if written == 0 {
            file.set_len(0)?;
        }
        file.write_all_at(&mut [IoSlice::new(&bytes)], u64::from(written) * ENTRY_LEN as u64)?;
        state.written = Some(written + state.pending.len() as u32);
        state.pending = Vec::new();
        state.unsynced = true;
        Ok(())
    }

    pub(crate) fn take_unsynced(&self) -> bool {
        std::mem::take(&mut self.state.lock().unsynced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, SimulatedDisk};
    use std::path::Path;

    fn entry(timestamp: i64, offset: i64) -> TimeEntry {
        TimeEntry { timestamp: TimestampMs(timestamp), offset: Offset(offset) }
    }

    fn disk() -> Disk {
        let disk = Disk::simulated(&SimulatedDisk::new());
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk
    }

    #[test]
    fn golden() {
        let disk = disk();
        let index = TimeIndex::new(disk.handle("/d/5.timeindex"), Offset(5));
        index.append(entry(0x0102_0304_0506, 7)).unwrap();
        index.append(entry(0x0102_0304_0507, 261)).unwrap();
        index.flush().unwrap();
        let bytes = disk.read(Path::new("/d/5.timeindex"), 100).unwrap();
        assert_eq!(bytes, [0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 2, 0, 0, 1, 2, 3, 4, 5, 7, 0, 0, 1, 0],);
    }

    #[test]
    fn only_growing_timestamps_are_kept() {
        let disk = disk();
        let index = TimeIndex::new(disk.handle("/d/5.timeindex"), Offset(5));
        for (timestamp, offset) in [(-1, 5), (10, 6), (10, 7), (9, 8), (11, 9)] {
            index.append(entry(timestamp, offset)).unwrap();
        }
        assert_eq!(index.last().unwrap(), Some(entry(11, 9)));
        assert_eq!(index.lookup(TimestampMs(10)).unwrap(), Some(entry(10, 6)));
        assert_eq!(index.lookup(TimestampMs(9)).unwrap(), None);
    }

    #[test]
    fn lookup_and_truncation_agree_in_memory_and_on_disk() {
        for flushed_after in [0, 1, 400, 1000] {
            let disk = disk();
            let index = TimeIndex::new(disk.handle("/d/5.timeindex"), Offset(0));
            for n in 1..=1000 {
                index.append(entry(n * 100, n * 10)).unwrap();
                if n == flushed_after {
                    index.flush().unwrap();
                }
            }
            assert_eq!(index.lookup(TimestampMs(99)).unwrap(), None);
            assert_eq!(index.lookup(TimestampMs(45_678)).unwrap(), Some(entry(45_600, 4560)));
            assert_eq!(index.lookup(TimestampMs(i64::MAX)).unwrap(), Some(entry(100_000, 10_000)));
            index.truncate_to(Offset(3001)).unwrap();
            assert_eq!(index.last().unwrap(), Some(entry(30_000, 3000)));
            index.truncate_to(Offset(3000)).unwrap();
            assert_eq!(index.last().unwrap(), Some(entry(29_900, 2990)));
            index.append(entry(50_000, 3005)).unwrap();
            index.flush().unwrap();
            assert!(index.check(Offset(3006)).unwrap());
            assert!(!index.check(Offset(3005)).unwrap());
            let again = TimeIndex::existing(disk.handle("/d/5.timeindex"), Offset(0));
            assert_eq!(again.last().unwrap(), Some(entry(50_000, 3005)));
        }
    }
}
