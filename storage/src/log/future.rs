//! A log that is copied into another log directory to take the place of the one there is (KIP-113): Kafka's future replica, in a
//! directory `<topic>-<partition>.<id>-future` until then.
//!
//! Invariants
//! - A future log is a prefix of the current one from some offset on, or is cut back to one before anything is added.
//! - It gets the partition's name only when it has everything and all of it is on stable storage. From that rename on it is the
//!   log, whatever else is still there under the same name in another directory.

use std::sync::{Arc, OnceLock};

use ottla_batch::{CheckedBatches, LeaderEpoch, Offset, TimestampMs};

use super::leader_epochs::EpochFile;
use super::{AppendError, ChangeError, Latch, Log};

impl Log {
    /// Cuts a future log back to where it agrees with `current`, which may have been truncated since. Answers the offset to copy from.
    pub fn agree_with(&mut self, current: &Log) -> Result<Offset, ChangeError> {
        self.latch.check()?;
        while let Some(epoch) = self.latest_epoch() {
            let agreed = match current.end_offset_for_epoch(epoch) {
                Some(end) if end.leader_epoch == epoch => end.end_offset,
                // All of an epoch that `current` does not have goes, and then the one before is looked at.
                _ => self.start_of_epoch(epoch),
            };
            if agreed >= self.end_offset {
                break;
            }
            self.truncate_to(agreed)?;
        }
        if self.end_offset > current.end_offset {
            self.truncate_to(current.end_offset)?;
        }
        if self.end_offset < current.local_start_offset() {
            self.truncate_fully_and_start_at(current.local_start_offset())?;
        }
        Ok(self.end_offset)
    }

    fn start_of_epoch(&self, epoch: LeaderEpoch) -> Offset {
        let before = self.end_offset_for_epoch(LeaderEpoch(epoch.0 - 1));
        before.map_or(self.log_start_offset, |end| end.end_offset)
    }

    /// Appends what was read of the current log from this one's end on. The first batch may begin before it, if this log is empty: a
    /// log may start in the middle of a batch.
    pub fn append_copied(&mut self, batches: &CheckedBatches, now: TimestampMs) -> Result<(), AppendError> {
        self.latch.check()?;
        let Some(first) = batches.as_slice().first() else { return Ok(()) };
        let base_offset = first.header().base_offset;
        let start = self.log_start_offset;
        if self.size_in_bytes() == 0 && base_offset < self.end_offset {
            self.restart_at(base_offset, base_offset).map_err(|error| {
                AppendError::Offline(self.take_offline("starting in the middle of a batch", &error))
            })?;
        }
        self.append_as_follower(batches, now)?;
        if start > self.log_start_offset {
            self.set_log_start_offset(start.min(self.end_offset));
        }
        Ok(())
    }

    /// Takes over what is known of `current` beside its batches, and makes everything durable. Both end at the same offset.
    pub fn complete_from(&mut self, current: &Log) -> Result<(), ChangeError> {
        self.latch.check()?;
        assert!(
            self.end_offset == current.end_offset,
            "a future log that ends at {} is not the log that ends at {}",
            self.end_offset,
            current.end_offset
        );
        self.set_log_start_offset(current.log_start_offset);
        // Of a leader that appended nothing yet, and of what lies only in the tier, no batch tells.
        self.epochs.replace(current.epochs.up_to(Offset(i64::MAX)));
        // Batches before the log start are not copied, but their producers may be remembered.
        self.producers = current.producers.clone();
        self.cleaner_offset = current.cleaner_offset;
        self.generation = self.generation.max(current.generation) + 1;
        self.remove_snapshots(|_| true).map_err(|error| self.change_error(error))?;
        if self.end_offset > Offset(0) {
            self.write_snapshot(self.end_offset);
        }
        self.sync_all()?;
        // What a client deleted must not come back after a crash.
        let noted = self
            .checkpoints
            .write()
            .and_then(|()| self.checkpoints.write_cleaner_offset(&self.partition, self.cleaner_offset));
        noted.map_err(|error| self.change_error(error))
    }

    /// Gives a completed future log the name of its partition, durably. If that fails it can't be known what a restart will find, and
    /// this log is offline.
    pub fn take_name(&mut self) -> Result<(), ChangeError> {
        self.latch.check()?;
        let (topic, partition) = &self.partition;
        let to = self.dir.with_file_name(format!("{topic}-{partition}"));
        if let Err(error) = self.disk.rename(&self.dir, &to) {
            return Err(self.change_error(error));
        }
        let files = self.segments.iter().flat_map(|segment| segment.files.handles());
        for file in files {
            if let Some(name) = file.path().file_name() {
                file.moved_to(to.join(name));
            }
        }
        self.dir = to;
        self.latch = Arc::new(Latch { dir: self.dir.display().to_string(), reason: OnceLock::new() });
        self.epoch_file =
            Arc::new(EpochFile::new(self.disk.clone(), &self.dir, &self.epochs.up_to(self.end_offset)));
        self.disk.sync_parent(&self.dir).map_err(|error| {
            self.take_offline("making the name of a moved log durable", &error);
            self.change_error(error)
        })
    }
}
