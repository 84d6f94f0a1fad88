//! `<base offset>.txnindex`: the aborted transactions whose marker lies in the segment. Entry (Kafka's AbortedTxn): i16
//! version 0, i64 producer id, i64 first offset, i64 last offset (the marker), i64 last stable offset when it was written.
//!
//! Rare and small: written at once, read whole. The file exists only where there was an abort. Not trusted after a
//! crash: recovery rebuilds it with the producer state.

use std::io::{self, IoSlice};

use ottla_batch::{Offset, ProducerId};
use parking_lot::Mutex;

use crate::disk::FileHandle;

const VERSION: i16 = 0;
pub(crate) const ENTRY_LEN: usize = 34;
/// A bound against reading something else: 2 million aborts in one segment.
const FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AbortedTxn {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    /// Inclusive: the offset of the marker.
    pub last_offset: Offset,
    pub last_stable_offset: Offset,
}

impl AbortedTxn {
    pub(crate) fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        bytes[..2].copy_from_slice(&VERSION.to_be_bytes());
        let fields = [self.producer_id.0, self.first_offset.0, self.last_offset.0, self.last_stable_offset.0];
        for (index, field) in fields.into_iter().enumerate() {
            bytes[2 + index * 8..10 + index * 8].copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; ENTRY_LEN]) -> Option<AbortedTxn> {
        if i16::from_be_bytes([bytes[0], bytes[1]]) > VERSION {
            return None;
        }
        let field = |index: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&bytes[2 + index * 8..10 + index * 8]);
            i64::from_be_bytes(field)
        };
        Some(AbortedTxn {
            producer_id: ProducerId(field(0)),
            first_offset: Offset(field(1)),
            last_offset: Offset(field(2)),
            last_stable_offset: Offset(field(3)),
        })
    }
}

pub(crate) struct TransactionIndex {
    file: FileHandle,
    state: Mutex<State>,
}

struct State {
    /// Length of the file; None until it was looked at.
    len: Option<u64>,
    unsynced: bool,
}

impl TransactionIndex {
    pub(crate) fn existing(file: FileHandle) -> TransactionIndex {
        TransactionIndex { file, state: Mutex::new(State { len: None, unsynced: false }) }
    }

    /// `has_file`: the directory listing has shown whether there is one, so that asking costs no system call.
    pub(crate) fn known(file: FileHandle, has_file: Presence) -> TransactionIndex {
        let index = TransactionIndex::existing(file);
        if has_file == Presence::Missing {
            index.state.lock().len = Some(0);
        }
        index
    }

    pub(crate) fn file(&self) -> &FileHandle {
        &self.file
    }

    fn len(&self, state: &mut State) -> io::Result<u64> {
        if let Some(len) = state.len {
            return Ok(len);
        }
        let len = match self.file.open() {
            Ok(file) => file.len()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        state.len = Some(len);
        Ok(len)
    }

    pub(crate) fn append(&self, aborted: &AbortedTxn) -> io::Result<()> {
        let mut state = self.state.lock();
        // Whole entries only, should the file have a torn end.
        let at = self.len(&mut state)? / ENTRY_LEN as u64 * ENTRY_LEN as u64;
        let file = self.file.open_or_create()?;
        file.write_all_at(&mut [IoSlice::new(&aborted.encode())], at)?;
        state.len = Some(at + ENTRY_LEN as u64);
        state.unsynced = true;
        Ok(())
    }

    /// All entries in the order of their markers.
    pub(crate) fn entries(&self) -> io::Result<Vec<AbortedTxn>> {
        let mut state = self.state.lock();
        let len = self.len(&mut state)?;
        if len == 0 {
            return Ok(Vec::new());
        }
        if len > FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no transaction index is that large"));
        }
        let mut bytes = vec![0; len as usize];
        self.file.open()?.read_exact_at(&mut bytes, 0)?;
        let entries = bytes.as_chunks::<ENTRY_LEN>().0;
        entries
            .iter()
            .map(|entry| {
                AbortedTxn::decode(entry)
                    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unknown entry version"))
            })
            .collect()
    }

    /// Whether every entry could be right in a segment that begins at `base_offset`.
    pub(crate) fn check(&self, base_offset: Offset) -> io::Result<bool> {
        let entries = match self.entries() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(false),
            Err(error) => return Err(error),
        };
        let mut next = base_offset;
        Ok(entries.iter().all(|entry| {
            let follows = entry.last_offset >= next;
            next = entry.last_offset.plus(1);
            follows
                && entry.producer_id > ProducerId::NONE
                && entry.first_offset >= Offset(0)
                && entry.first_offset < entry.last_offset
                && entry.last_stable_offset >= Offset(0)
                && entry.last_stable_offset <= next
        }))
    }

    /// Forgets all entries, before they are made anew.
    pub(crate) fn clear(&self) -> io::Result<()> {
        self.cut(0)
    }

    /// Keeps the entries whose marker lies before `end_offset`.
    pub(crate) fn truncate_to(&self, end_offset: Offset) -> io::Result<()> {
        let entries = self.entries()?;
        let kept = entries.partition_point(|entry| entry.last_offset < end_offset);
        if kept < entries.len() { self.cut((kept * ENTRY_LEN) as u64) } else { Ok(()) }
    }

    fn cut(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        if self.len(&mut state)? > len {
            self.file.open()?.set_len(len)?;
            state.len = Some(len);
            state.unsynced = true;
        }
        Ok(())
    }

    pub(crate) fn take_unsynced(&self) -> bool {
        std::mem::take(&mut self.state.lock().unsynced)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Missing,
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, SimulatedDisk};
    use std::path::Path;

    fn aborted(n: i64) -> AbortedTxn {
        AbortedTxn {
            producer_id: ProducerId(n),
            first_offset: Offset(n * 10),
            last_offset: Offset(n * 10 + 5),
            last_stable_offset: Offset(n * 10 - 1),
        }
    }

    #[test]
    fn golden_truncation_and_torn_end() {
        let disk = Disk::simulated(&SimulatedDisk::new());
        disk.create_dir_all(Path::new("/d")).unwrap();
        let path = Path::new("/d/0.txnindex");
        let index = TransactionIndex::known(disk.handle(path), Presence::Missing);
        assert!(index.entries().unwrap().is_empty());
        assert!(!disk.exists(path).unwrap());
        for n in 1..=3 {
            index.append(&aborted(n)).unwrap();
        }
        let bytes = disk.read(path, 1000).unwrap();
        let mut golden = vec![0, 0];
        for field in [1i64, 10, 15, 9] {
            golden.extend_from_slice(&field.to_be_bytes());
        }
        assert_eq!(bytes[..ENTRY_LEN], golden);
        index.truncate_to(Offset(26)).unwrap();
        assert_eq!(index.entries().unwrap(), [aborted(1), aborted(2)]);
        disk.handle(path).open().unwrap().set_len(2 * ENTRY_LEN as u64 - 3).unwrap();
        let again = TransactionIndex::existing(disk.handle(path));
        again.append(&aborted(7)).unwrap();
        assert_eq!(again.entries().unwrap(), [aborted(1), aborted(7)]);
    }
}
