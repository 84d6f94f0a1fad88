//! The small text files that map partitions to offsets: `recovery-point-offset-checkpoint`,
//! `log-start-offset-checkpoint`, `cleaner-offset-checkpoint` (one of each per log directory).
//!
//! Format (Kafka's CheckpointFile): a line `0` (version), a line with the number of entries, one line per entry
//! `<topic> <partition> <offset>`. Written whole and replaced by rename.
//!
//! [`Checkpoints`] holds the three of a directory. Open logs publish their offsets in a [`LiveOffsets`] cell, from which
//! the files are written, under one lock: so a file never says more than a log has, even when the log is truncated while
//! the file is being written. That matters for the recovery point alone: what lies before it is not checked after a crash.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use ottla_batch::Offset;
use parking_lot::Mutex;

use crate::disk::Disk;

/// (topic, partition)
pub type TopicPartition = (String, i32);

/// A bound only against reading something that is no checkpoint: a million partitions with the longest names.
const FILE_BYTES_MAX: u64 = 300 << 20;
const VERSION: &str = "0";

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("line {line}: {what}")]
    Malformed { line: usize, what: String },
}

pub fn encode(entries: &BTreeMap<TopicPartition, Offset>) -> String {
    use std::fmt::Write;
    let mut text = format!("{VERSION}\n{}\n", entries.len());
    for ((topic, partition), offset) in entries {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{topic} {partition} {offset}");
    }
    text
}

pub fn decode(text: &str) -> Result<BTreeMap<TopicPartition, Offset>, CheckpointError> {
    let malformed = |line: usize, what: &str| CheckpointError::Malformed { line, what: what.to_owned() };
    let mut lines = text.lines();
    if lines.next().map(str::trim) != Some(VERSION) {
        return Err(malformed(1, "unknown version"));
    }
    let count: usize = lines
        .next()
        .and_then(|line| line.trim().parse().ok())
        .ok_or_else(|| malformed(2, "expected the number of entries"))?;
    let mut entries = BTreeMap::new();
    for (index, line) in lines.enumerate() {
        let line_number = index + 3;
        let mut fields = line.split_ascii_whitespace();
        let (Some(topic), Some(partition), Some(offset), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(malformed(line_number, "expected `<topic> <partition> <offset>`"));
        };
        let partition = partition.parse().map_err(|_| malformed(line_number, "partition is no number"))?;
        let offset = offset.parse().map_err(|_| malformed(line_number, "offset is no number"))?;
        entries.insert((topic.to_owned(), partition), Offset(offset));
    }
    if entries.len() != count {
        return Err(malformed(2, &format!("{count} entries announced, {} found", entries.len())));
    }
    Ok(entries)
}

/// A missing file is an empty checkpoint.
pub fn read(disk: &Disk, path: &Path) -> Result<BTreeMap<TopicPartition, Offset>, CheckpointError> {
    match disk.read(path, FILE_BYTES_MAX) {
        Ok(bytes) => decode(&String::from_utf8_lossy(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error.into()),
    }
}

pub fn write(disk: &Disk, path: &Path, entries: &BTreeMap<TopicPartition, Offset>) -> io::Result<()> {
    disk.write_durably(path, encode(entries).as_bytes())
}

const RECOVERY_POINT_FILE: &str = "recovery-point-offset-checkpoint";
const LOG_START_FILE: &str = "log-start-offset-checkpoint";
const CLEANER_FILE: &str = "cleaner-offset-checkpoint";

/// What an open log wants its directory to remember.
#[derive(Debug, Default)]
pub struct LiveOffsets {
    recovery_point: AtomicI64,
    log_start_offset: AtomicI64,
}

impl LiveOffsets {
    pub fn recovery_point(&self) -> Offset {
        Offset(self.recovery_point.load(Ordering::Acquire))
    }

    pub(crate) fn log_start_offset(&self) -> Offset {
        Offset(self.log_start_offset.load(Ordering::Acquire))
    }

    pub(crate) fn set_recovery_point(&self, offset: Offset) {
        self.recovery_point.store(offset.0, Ordering::Release);
    }

    pub(crate) fn set_log_start_offset(&self, offset: Offset) {
        self.log_start_offset.store(offset.0, Ordering::Release);
    }
}

/// The checkpoint files of one log directory.
pub struct Checkpoints {
    disk: Disk,
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    /// As in the files.
    recovery_points: BTreeMap<TopicPartition, Offset>,
    log_starts: BTreeMap<TopicPartition, Offset>,
    cleaner_offsets: BTreeMap<TopicPartition, Offset>,
    live: BTreeMap<TopicPartition, Weak<LiveOffsets>>,
}

impl Checkpoints {
    pub fn open(disk: Disk, dir: &Path) -> io::Result<Checkpoints> {
        let read = |name: &str| match read(&disk, &dir.join(name)) {
            Ok(entries) => Ok(entries),
            Err(CheckpointError::Io(error)) => Err(error),
            // Without it more is recovered than need be, and a DeleteRecords may have to be repeated; no data is lost.
            Err(error @ CheckpointError::Malformed { .. }) => {
                let path = dir.join(name);
                tracing::error!(path = %path.display(), %error, "an unreadable checkpoint is ignored");
                Ok(BTreeMap::new())
            }
        };
        let state = State {
            recovery_points: read(RECOVERY_POINT_FILE)?,
            log_starts: read(LOG_START_FILE)?,
            cleaner_offsets: read(CLEANER_FILE)?,
            live: BTreeMap::new(),
        };
        Ok(Checkpoints { disk, dir: dir.to_owned(), state: Mutex::new(state) })
    }

    /// What the files say of a partition, in the cell that its log keeps up to date from now on.
    pub(crate) fn register(&self, partition: &TopicPartition) -> (Arc<LiveOffsets>, Option<Offset>) {
        let mut state = self.state.lock();
        let of = |entries: &BTreeMap<_, Offset>| entries.get(partition).map_or(0, |offset: &Offset| offset.0);
        let live = Arc::new(LiveOffsets {
            recovery_point: AtomicI64::new(of(&state.recovery_points)),
            log_start_offset: AtomicI64::new(of(&state.log_starts)),
        });
        let cleaner_offset = state.cleaner_offsets.get(partition).copied();
        state.live.insert(partition.clone(), Arc::downgrade(&live));
        (live, cleaner_offset)
    }

    /// Writes the files if the logs have moved. Partitions whose log is not open keep their entries.
    pub fn write(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        self.write_from_live(&mut state)
    }

    fn write_from_live(&self, state: &mut State) -> io::Result<()> {
        let mut recovery_points = state.recovery_points.clone();
        let mut log_starts = state.log_starts.clone();
        state.live.retain(|_, live| live.strong_count() > 0);
        for (partition, live) in &state.live {
            let Some(live) = live.upgrade() else { continue };
            let note = |entries: &mut BTreeMap<TopicPartition, Offset>, offset: &AtomicI64| {
                // 0 is what a missing entry means.
                match offset.load(Ordering::Acquire) {
                    0 => entries.remove(partition),
                    offset => entries.insert(partition.clone(), Offset(offset)),
                };
            };
            note(&mut recovery_points, &live.recovery_point);
            note(&mut log_starts, &live.log_start_offset);
        }
        if state.recovery_points != recovery_points {
            write(&self.disk, &self.dir.join(RECOVERY_POINT_FILE), &recovery_points)?;
            state.recovery_points = recovery_points;
        }
        if state.log_starts != log_starts {
            write(&self.disk, &self.dir.join(LOG_START_FILE), &log_starts)?;
            state.log_starts = log_starts;
        }
        Ok(())
    }

    /// Makes sure that the file says at most what the log's cell says, which was lowered just before.
    pub(crate) fn lower_recovery_point(
        &self,
        partition: &TopicPartition,
        live: &LiveOffsets,
    ) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.recovery_points.get(partition) {
            Some(written) if *written > live.recovery_point() => self.write_from_live(&mut state),
            _ => Ok(()),
        }
    }

    /// Notes how far a log is compacted; None forgets it.
    pub fn write_cleaner_offset(&self, partition: &TopicPartition, offset: Option<Offset>) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut entries = state.cleaner_offsets.clone();
        let before = match offset {
            Some(offset) => entries.insert(partition.clone(), offset),
            None => entries.remove(partition),
        };
        if before != offset {
            write(&self.disk, &self.dir.join(CLEANER_FILE), &entries)?;
            state.cleaner_offsets = entries;
        }
        Ok(())
    }

    /// The partition is deleted: one created again under its name must not find the old offsets.
    pub(crate) fn forget(&self, partition: &TopicPartition) -> io::Result<()> {
        let mut state = self.state.lock();
        state.live.remove(partition);
        let State { recovery_points, log_starts, cleaner_offsets, .. } = &mut *state;
        for (name, entries) in [
            (RECOVERY_POINT_FILE, recovery_points),
            (LOG_START_FILE, log_starts),
            (CLEANER_FILE, cleaner_offsets),
        ] {
            if entries.contains_key(partition) {
                let mut rest = entries.clone();
                rest.remove(partition);
                write(&self.disk, &self.dir.join(name), &rest)?;
                *entries = rest;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BTreeMap<TopicPartition, Offset> {
        BTreeMap::from([(("b.topic".to_owned(), 11), Offset(i64::MAX)), (("a".to_owned(), 0), Offset(5))])
    }

    const GOLDEN: &str = "0\n2\na 0 5\nb.topic 11 9223372036854775807\n";

    #[test]
    fn golden() {
        assert_eq!(encode(&sample()), GOLDEN);
        assert_eq!(decode(GOLDEN).unwrap(), sample());
        assert_eq!(encode(&BTreeMap::new()), "0\n0\n");
    }

    #[test]
    fn what_is_torn_is_refused() {
        for end in 0..GOLDEN.len() - 1 {
            let torn = &GOLDEN[..end];
            match decode(torn) {
                // Cut within the last number, it still looks like one; the rename in `write` is what prevents that.
                Ok(_) => assert!(torn.starts_with("0\n2\na 0 5\nb.topic 11 9"), "{torn:?}"),
                Err(CheckpointError::Malformed { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        assert!(decode("1\n0\n").is_err());
        assert!(decode("0\n1\na 0 5 7\n").is_err());
    }

    #[test]
    fn survives_a_crash_at_any_operation_as_old_or_new() {
        use crate::disk::{Fault, SimulatedDisk};
        let old = BTreeMap::from([(("t".to_owned(), 0), Offset(1))]);
        let path = Path::new("/d/recovery-point-offset-checkpoint");
        for operation in 0..8 {
            for seed in 0..20 {
                let simulated = SimulatedDisk::new();
                let disk = Disk::simulated(&simulated);
                disk.create_dir_all(Path::new("/d")).unwrap();
                disk.sync_dir(Path::new("/")).unwrap();
                write(&disk, path, &old).unwrap();
                simulated.set_fault(simulated.operations() + operation, Fault::Crash);
                let written = write(&disk, path, &sample());
                simulated.crash(seed);
                let found = read(&Disk::simulated(&simulated), path).unwrap();
                match written {
                    Ok(()) => assert_eq!(found, sample()),
                    Err(_) => assert!(found == old || found == sample(), "{found:?}"),
                }
            }
        }
    }

    #[test]
    fn files_follow_the_logs_and_a_lowered_recovery_point_is_durable_at_once() {
        use crate::disk::SimulatedDisk;
        let simulated = SimulatedDisk::new();
        let disk = Disk::simulated(&simulated);
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let checkpoints = Checkpoints::open(disk.clone(), Path::new("/d")).unwrap();
        let (a, b) = (("a".to_owned(), 0), ("b".to_owned(), 0));
        let (live, _) = checkpoints.register(&a);
        let (live_b, _) = checkpoints.register(&b);
        live.set_recovery_point(Offset(150));
        live.set_log_start_offset(Offset(7));
        live_b.set_recovery_point(Offset(9));
        checkpoints.write().unwrap();
        checkpoints.write_cleaner_offset(&a, Some(Offset(5))).unwrap();
        drop(live_b);
        live.set_recovery_point(Offset(100));
        checkpoints.lower_recovery_point(&a, &live).unwrap();
        simulated.crash(3);

        let checkpoints = Checkpoints::open(Disk::simulated(&simulated), Path::new("/d")).unwrap();
        let (live, cleaner_offset) = checkpoints.register(&a);
        assert_eq!(live.recovery_point(), Offset(100));
        assert_eq!(live.log_start_offset.load(Ordering::Relaxed), 7);
        assert_eq!(cleaner_offset, Some(Offset(5)));
        let (live_b, cleaner_offset) = checkpoints.register(&b);
        assert_eq!((live_b.recovery_point(), cleaner_offset), (Offset(9), None));
        checkpoints.forget(&a).unwrap();
        let checkpoints = Checkpoints::open(Disk::simulated(&simulated), Path::new("/d")).unwrap();
        assert_eq!(checkpoints.register(&a).0.recovery_point(), Offset(0));
        assert_eq!(checkpoints.register(&b).0.recovery_point(), Offset(9));
    }
}
