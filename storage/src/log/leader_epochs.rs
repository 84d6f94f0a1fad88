//! `leader-epoch-checkpoint`: where in the log each leader epoch begins. With it followers find where they and a new
//! leader part (KIP-101, KIP-279). Format (Kafka's): a line `0`, a line with the number of entries, lines `<epoch> <start offset>`.
//!
//! Kept in memory; the file is written when the recovery point moves, or at a clean end: an epoch with records past the
//! recovery point is found again from their batches, and one without records has told nobody anything, so it is not written
//! at all. A change of leaders alone costs no write.
//! Epochs and start offsets both strictly grow along the entries.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_batch::{LeaderEpoch, Offset};
use parking_lot::Mutex;

use super::EpochEnd;
use crate::disk::Disk;

pub(crate) const FILE_NAME: &str = "leader-epoch-checkpoint";
const FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EpochEntry {
    pub epoch: LeaderEpoch,
    pub start_offset: Offset,
}

#[derive(Debug, Default)]
pub(crate) struct LeaderEpochs {
    entries: Vec<EpochEntry>,
    /// Grows with every change.
    version: u64,
}

impl LeaderEpochs {
    pub(crate) fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|last| last.epoch)
    }

    /// Another history takes the place of this one.
    pub(crate) fn replace(&mut self, with: LeaderEpochs) {
        self.entries = with.entries;
        self.version += 1;
    }

    pub(crate) fn clear(&mut self) {
        self.change(|entries| entries.clear());
    }

    /// The first record of `epoch` is, or will be, at `start_offset`. What an older leader put at or after it goes.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) {
        if epoch < LeaderEpoch(0) || self.latest() == Some(epoch) {
            return;
        }
        self.change(|entries| {
            entries.retain(|entry| entry.epoch < epoch && entry.start_offset < start_offset);
            entries.push(EpochEntry { epoch, start_offset });
        });
    }

    pub(crate) fn truncate_from_end(&mut self, end_offset: Offset) {
        self.change(|entries| entries.retain(|entry| entry.start_offset < end_offset));
    }

    /// Records before `start_offset` are gone; the epoch that holds it now begins there.
    pub(crate) fn truncate_from_start(&mut self, start_offset: Offset) {
        self.change(|entries| {
            let gone = entries.partition_point(|entry| entry.start_offset <= start_offset);
            if gone > 0 {
                entries.drain(..gone - 1);
                entries[0].start_offset = start_offset;
            }
        });
    }

    /// What is known of the log up to `end_offset`.
    pub(crate) fn up_to(&self, end_offset: Offset) -> LeaderEpochs {
        LeaderEpochs { entries: before(&self.entries, end_offset).to_vec(), version: self.version }
    }

    /// The epochs of what lies from `start` to `end`, and where in it they begin.
    pub(crate) fn within(&self, start: Offset, end: Offset) -> Vec<(LeaderEpoch, Offset)> {
        let first = self.entries.partition_point(|entry| entry.start_offset <= start).saturating_sub(1);
        let within = self.entries[first..].iter().take_while(|entry| entry.start_offset < end);
        within.map(|entry| (entry.epoch, entry.start_offset.max(start))).collect()
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<EpochEntry>)) {
        let before = (self.entries.len(), self.entries.first().copied(), self.entries.last().copied());
        change(&mut self.entries);
        if before != (self.entries.len(), self.entries.first().copied(), self.entries.last().copied()) {
            self.version += 1;
        }
    }

    /// The largest epoch at most `requested`, and the offset at which the next one begins.
    pub(crate) fn end_offset_for(&self, requested: LeaderEpoch, log_end_offset: Offset) -> Option<EpochEnd> {
        if requested < LeaderEpoch(0) {
            return None;
        }
        if self.latest() == Some(requested) {
            return Some(EpochEnd { leader_epoch: requested, end_offset: log_end_offset });
        }
        let next = self.entries.partition_point(|entry| entry.epoch <= requested);
        // None larger than the requested one: this log has not heard of it.
        let end_offset = self.entries.get(next)?.start_offset;
        // Older than all that is left: its records, if any, ended before the first one known.
        let leader_epoch = if next == 0 { requested } else { self.entries[next - 1].epoch };
        Some(EpochEnd { leader_epoch, end_offset })
    }

    pub(crate) fn epoch_for(&self, offset: Offset) -> Option<LeaderEpoch> {
        let next = self.entries.partition_point(|entry| entry.start_offset <= offset);
        next.checked_sub(1).map(|index| self.entries[index].epoch)
    }

    pub(crate) fn encode(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("0\n{}\n", self.entries.len());
        for entry in &self.entries {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{} {}", entry.epoch, entry.start_offset);
        }
        text
    }

    pub(crate) fn decode(text: &str) -> Option<LeaderEpochs> {
        let mut lines = text.lines();
        if lines.next()?.trim() != "0" {
            return None;
        }
        let count: usize = lines.next()?.trim().parse().ok()?;
        let mut epochs = LeaderEpochs::default();
        for line in lines {
            let (epoch, start_offset) = line.trim().split_once(' ')?;
            let (epoch, start_offset) =
                (LeaderEpoch(epoch.parse().ok()?), Offset(start_offset.parse().ok()?));
            let grows = epochs
                .entries
                .last()
                .is_none_or(|last| epoch > last.epoch && start_offset >= last.start_offset);
            if !grows {
                return None;
            }
            epochs.entries.push(EpochEntry { epoch, start_offset });
        }
        (epochs.entries.len() == count).then_some(epochs)
    }

    /// What is unreadable is ignored: recovery from the batches fills it again as far as it can.
    pub(crate) fn read(disk: &Disk, dir: &Path) -> io::Result<LeaderEpochs> {
        let path = dir.join(FILE_NAME);
        match disk.read(&path, FILE_BYTES_MAX) {
            Ok(bytes) => Ok(LeaderEpochs::decode(&String::from_utf8_lossy(&bytes)).unwrap_or_else(|| {
                tracing::error!(path = %path.display(), "an unreadable leader epoch checkpoint is ignored");
                LeaderEpochs::default()
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(LeaderEpochs::default()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!(path = %path.display(), %error, "a leader epoch checkpoint is ignored");
                Ok(LeaderEpochs::default())
            }
            Err(error) => Err(error),
        }
    }
}

/// Those that have records in a log that ends at `end_offset`.
fn before(entries: &[EpochEntry], end_offset: Offset) -> &[EpochEntry] {
    &entries[..entries.partition_point(|entry| entry.start_offset < end_offset)]
}

/// The file, written outside of the log's lock.
pub(crate) struct EpochFile {
    disk: Disk,
    path: PathBuf,
    /// What the file holds.
    written: Mutex<LeaderEpochs>,
}

/// A content for the file.
pub(crate) struct EpochWrite {
    file: Arc<EpochFile>,
    epochs: LeaderEpochs,
}

impl EpochFile {
    /// `epochs` is what the file holds.
    pub(crate) fn new(disk: Disk, dir: &Path, epochs: &LeaderEpochs) -> EpochFile {
        EpochFile { disk, path: dir.join(FILE_NAME), written: Mutex::new(epochs.up_to(Offset(i64::MAX))) }
    }

    /// What has to be written so that the next open of a log that ends at `end_offset` finds its epochs, if anything.
    pub(crate) fn write_for(
        self: &Arc<EpochFile>,
        epochs: &LeaderEpochs,
        end_offset: Offset,
    ) -> Option<EpochWrite> {
        let written = self.written.lock();
        let is_behind = before(&written.entries, end_offset) != before(&epochs.entries, end_offset);
        is_behind.then(|| EpochWrite { file: Arc::clone(self), epochs: epochs.up_to(end_offset) })
    }
}

impl EpochWrite {
    /// Writers may come in any order: the newest content wins; of one version that of the longer log, which has more of it.
    pub(crate) fn run(&self) -> io::Result<()> {
        let mut written = self.file.written.lock();
        let age = |epochs: &LeaderEpochs| (epochs.version, epochs.entries.len());
        if age(&written) < age(&self.epochs) {
            self.file.disk.write_durably(&self.file.path, self.epochs.encode().as_bytes())?;
            *written = self.epochs.up_to(Offset(i64::MAX));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        for (epoch, start) in entries {
            epochs.assign(LeaderEpoch(*epoch), Offset(*start));
        }
        epochs
    }

    fn pairs(epochs: &LeaderEpochs) -> Vec<(i32, i64)> {
        epochs.entries.iter().map(|entry| (entry.epoch.0, entry.start_offset.0)).collect()
    }

    #[test]
    fn golden() {
        let text = "0\n2\n1 0\n4 120\n";
        assert_eq!(epochs(&[(1, 0), (4, 120)]).up_to(Offset(121)).encode(), text);
        assert_eq!(epochs(&[(1, 0), (4, 120)]).up_to(Offset(120)).encode(), "0\n1\n1 0\n");
        assert_eq!(pairs(&LeaderEpochs::decode(text).unwrap()), [(1, 0), (4, 120)]);
        for wrong in ["", "1\n0\n", "0\n1\n", "0\n2\n4 0\n1 120\n", "0\n1\n1 x\n", "0\n1\n1\n"] {
            assert!(LeaderEpochs::decode(wrong).is_none(), "{wrong:?}");
        }
    }

    #[test]
    fn a_new_epoch_takes_over_what_it_overlaps() {
        assert_eq!(pairs(&epochs(&[(1, 0), (2, 10), (2, 15)])), [(1, 0), (2, 10)]);
        // An epoch without records gives way to the next one at the same offset.
        assert_eq!(pairs(&epochs(&[(1, 0), (2, 10), (3, 10)])), [(1, 0), (3, 10)]);
        assert_eq!(pairs(&epochs(&[(1, 0), (2, 10), (3, 20), (4, 5)])), [(1, 0), (4, 5)]);
        assert_eq!(pairs(&epochs(&[(-1, 0)])), []);
    }

    #[test]
    fn end_offsets_as_kafka_answers_them() {
        let epochs = epochs(&[(2, 10), (4, 20), (7, 40)]);
        let answer = |epoch| {
            epochs.end_offset_for(LeaderEpoch(epoch), Offset(55)).map(|e| (e.leader_epoch.0, e.end_offset.0))
        };
        assert_eq!(answer(-1), None);
        assert_eq!(answer(1), Some((1, 10)));
        assert_eq!(answer(2), Some((2, 20)));
        assert_eq!(answer(3), Some((2, 20)));
        assert_eq!(answer(6), Some((4, 40)));
        assert_eq!(answer(7), Some((7, 55)));
        assert_eq!(answer(8), None);
        assert_eq!(LeaderEpochs::default().end_offset_for(LeaderEpoch(0), Offset(5)), None);
        assert_eq!(epochs.epoch_for(Offset(9)), None);
        assert_eq!(epochs.epoch_for(Offset(39)), Some(LeaderEpoch(4)));
    }

    #[test]
    fn truncation_from_both_sides() {
        let mut epochs = epochs(&[(2, 10), (4, 20), (7, 40)]);
        epochs.truncate_from_end(Offset(40));
        assert_eq!(pairs(&epochs), [(2, 10), (4, 20)]);
        let version = epochs.version;
        epochs.truncate_from_end(Offset(21));
        epochs.truncate_from_start(Offset(5));
        assert_eq!(epochs.version, version, "nothing changed, nothing to write");
        epochs.truncate_from_start(Offset(25));
        assert_eq!(pairs(&epochs), [(4, 25)]);
        assert!(epochs.version > version);
    }
}
