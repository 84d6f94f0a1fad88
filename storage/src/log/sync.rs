//! Making appended batches durable, and with them, now and then, the indexes.
//!
//! The usual sync is one fdatasync of the active log file. Sealed segments bring their indexes and the leader epochs, a new
//! file name its directory. Every `CHECKPOINT_BYTES` of log the active indexes are written and synced
//! too, and only then the recovery point follows: what recovery reads after a crash is bounded by that, and what lies
//! before it needs no check.
//!
//! Group commit: `begin_sync` under the log's lock, `run` without it, `on_synced` under it again. One at a time per log.
//! A failed fsync latches the log: the kernel may have dropped the pages, so a second try could succeed over lost data.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ottla_batch::Offset;

use super::leader_epochs::EpochWrite;
use super::segment::{SNAPSHOT_SUFFIX, SegmentFiles, file_name};
use super::{ChangeError, Latch, Log};
use crate::disk::{Disk, FileHandle};

/// How far the recovery point may lag behind the synced end of a log that is written to.
const CHECKPOINT_BYTES: u64 = 32 << 20;

/// What a sync made durable; give it back to the log it came from. (A log truncated meanwhile knows to ignore it.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synced {
    pub end_offset: Offset,
    recovery_point: Option<Offset>,
    /// Of the active segment, if the recovery point is the end.
    recovery_position: u64,
    generation: u64,
    names_version: u64,
    /// The newest snapshot that the sync covered.
    snapshots_upto: Option<Offset>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Indexes {
    /// Only those of sealed segments.
    Sealed,
    All,
}

/// See [`Log::begin_sync`].
pub struct SyncWork {
    disk: Disk,
    latch: Arc<Latch>,
    /// Sealed since the last sync, oldest first.
    sealed: Vec<Arc<SegmentFiles>>,
    active: Option<Arc<SegmentFiles>>,
    indexes: Indexes,
    snapshots: Vec<PathBuf>,
    dir: Option<PathBuf>,
    epochs: Option<EpochWrite>,
    synced: Synced,
}

impl Log {
    /// What has to be synced now. Cheap: a few reference counts.
    pub fn begin_sync(&self) -> SyncWork {
        self.sync_work(Indexes::Sealed)
    }

    fn sync_work(&self, indexes: Indexes) -> SyncWork {
        let (active, older) = (self.active(), &self.segments[..self.segments.len() - 1]);
        let first_unsynced = older.iter().rposition(|segment| !segment.unsynced).map_or(0, |index| index + 1);
        let sealed: Vec<_> =
            older[first_unsynced..].iter().map(|segment| Arc::clone(&segment.files)).collect();
        let is_due = active.size >= self.recovery_position + CHECKPOINT_BYTES;
        let indexes = if is_due { Indexes::All } else { indexes };
        let recovery_point = match indexes {
            Indexes::All => Some(self.end_offset),
            Indexes::Sealed => (!sealed.is_empty()).then_some(active.base_offset),
        };
        if indexes == Indexes::All {
            // The largest timestamp so far, or retention would take the records before the recovery point for older
            // than they are.
            if let Err(error) = active.seal_time_index() {
                tracing::warn!(dir = %self.dir.display(), %error, "time index");
            }
        }
        // Recovery finds the epochs after the recovery point in the batches.
        let epochs = recovery_point.and_then(|_| self.epoch_file.write_for(&self.epochs, self.end_offset));
        let snapshot_path = |offset: &Offset| self.dir.join(file_name(*offset, SNAPSHOT_SUFFIX));
        SyncWork {
            disk: self.disk.clone(),
            latch: Arc::clone(&self.latch),
            sealed,
            active: (active.unsynced || indexes == Indexes::All).then(|| Arc::clone(&active.files)),
            indexes,
            snapshots: self.unsynced_snapshots.iter().map(snapshot_path).collect(),
            dir: (self.names_synced < self.names_version).then(|| self.dir.clone()),
            epochs,
            synced: Synced {
                end_offset: self.end_offset,
                recovery_point,
                recovery_position: if indexes == Indexes::All { active.size } else { 0 },
                generation: self.generation,
                names_version: self.names_version,
                snapshots_upto: self.unsynced_snapshots.last().copied(),
            },
        }
    }

    pub fn on_synced(&mut self, synced: Synced) {
        if synced.generation != self.generation {
            // Truncated meanwhile: other batches may be at the offsets from there on.
            let end_offset = synced.end_offset.min(self.truncated_to).min(self.end_offset);
            self.synced_end_offset = self.synced_end_offset.max(end_offset);
            return;
        }
        self.truncated_to = Offset(i64::MAX);
        self.synced_end_offset = self.synced_end_offset.max(synced.end_offset);
        let is_all = synced.end_offset == self.end_offset;
        let mut next_base_offset = None;
        for segment in self.segments.iter_mut().rev() {
            let is_covered = match next_base_offset {
                None => is_all,
                // Sealed before the sync began, and nothing of it waits in memory; else the next sync has it again.
                Some(next) => synced.recovery_point.is_some_and(|recovery_point| recovery_point >= next),
            };
            if next_base_offset.is_some() && !segment.unsynced {
                break;
            }
            if is_covered && segment.unsynced {
                segment.unsynced = false;
                segment.files.log.unpin();
            }
            next_base_offset = Some(segment.base_offset);
        }
        self.names_synced = self.names_synced.max(synced.names_version);
        self.unsynced_snapshots.retain(|offset| Some(*offset) > synced.snapshots_upto);
        if let Some(recovery_point) = synced.recovery_point
            && recovery_point > self.live.recovery_point()
        {
            self.live.set_recovery_point(recovery_point);
            if is_all {
                self.recovery_position = synced.recovery_position;
            }
        }
    }

    /// Everything durable now, the indexes too, and the recovery point at the end.
    pub(super) fn sync_all(&mut self) -> Result<(), ChangeError> {
        self.latch.check()?;
        let work = self.sync_work(Indexes::All);
        let synced = work.run().map_err(|error| self.change_error(error))?;
        self.on_synced(synced);
        Ok(())
    }

    /// Leaves the log so that the next open need not look for anything. The log takes no more part afterwards.
    pub fn close(&mut self) -> Result<(), ChangeError> {
        self.latch.check()?;
        if self.end_offset > Offset(0) {
            self.write_snapshot(self.end_offset);
        }
        let is_behind = self.live.recovery_point() < self.end_offset
            || self.synced_end_offset < self.end_offset
            // Also of a log that is empty only since it was truncated.
            || self.segments.iter().any(|segment| segment.unsynced)
            // A log that never held anything has no names to lose.
            || (self.end_offset > Offset(0) && self.names_synced < self.names_version)
            || self.epoch_file.write_for(&self.epochs, self.end_offset).is_some();
        if is_behind {
            self.sync_all()?;
        }
        self.segments.iter().for_each(|segment| segment.files.close());
        let _ = self.latch.reason.set("closed".to_owned());
        Ok(())
    }

    /// Closes files and frees buffers of a log that nothing asks for lately; it stays usable.
    pub fn release_idle(&mut self) -> Result<(), ChangeError> {
        self.latch.check()?;
        let active = self.active_mut();
        active.forget_tail();
        let flushed = active.files.flush_indexes();
        // Whatever has unsynced writes stays open until they are synced.
        self.segments.iter().for_each(|segment| segment.files.close());
        flushed.map_err(|error| self.change_error(error))
    }
}

impl SyncWork {
    /// Everything below this offset is durable after `run`.
    pub fn end_offset(&self) -> Offset {
        self.synced.end_offset
    }

    /// Nothing to do; `run` costs nothing.
    pub fn is_empty(&self) -> bool {
        self.active.is_none()
            && self.sealed.is_empty()
            && self.snapshots.is_empty()
            && self.dir.is_none()
            && self.epochs.is_none()
    }

    /// An error latched the log offline: nothing is acknowledged any more.
    pub fn run(&self) -> io::Result<Synced> {
        if let Some(offline) = self.latch.offline() {
            return Err(io::Error::other(offline.to_string()));
        }
        self.try_run().inspect_err(|error| {
            self.latch.set(format!("a sync failed: {error}"));
        })
    }

    fn try_run(&self) -> io::Result<Synced> {
        let mut synced = self.synced;
        for (files, is_active) in self
            .sealed
            .iter()
            .map(|files| (files, false))
            .chain(self.active.iter().map(|files| (files, true)))
        {
            sync_file(&files.log)?;
            if is_active && self.indexes == Indexes::Sealed {
                continue;
            }
            // A full disk keeps index entries in memory, not batches from being durable: only the recovery point waits.
            if let Err(error) = files.flush_indexes() {
                tracing::warn!(log = %files.log.path().display(), %error, "index entries wait in memory");
                synced.recovery_point = None;
                continue;
            }
            if files.offset_index.take_unsynced() {
                sync_file(files.offset_index.file())?;
            }
            if files.time_index.take_unsynced() {
                sync_file(files.time_index.file())?;
            }
            if files.transaction_index.take_unsynced() {
                sync_file(files.transaction_index.file())?;
            }
        }
        for path in &self.snapshots {
            sync_file(&self.disk.handle(path))?;
        }
        if let Some(epochs) = &self.epochs {
            match epochs.run() {
                Ok(()) => {}
                // Until it is written, recovery has to find the epochs in the batches.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    tracing::warn!(dir = %self.latch.dir, %error, "leader epochs wait in memory");
                    synced.recovery_point = None;
                }
                Err(error) => return Err(error),
            }
        }
        // ORDER: `on_synced` only after the names are durable. Synced bytes of a file without a name are lost at a crash.
        if let Some(dir) = &self.dir {
            self.disk.sync_dir(dir)?;
        }
        Ok(synced)
    }
}

/// A file that retention or truncation removed meanwhile needs no sync.
fn sync_file(handle: &FileHandle) -> io::Result<()> {
    let synced = handle.open().and_then(|file| file.sync_data());
    match synced {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            handle.poison(&format!("a sync failed: {error}"));
            Err(error)
        }
        Ok(()) => Ok(()),
    }
}
