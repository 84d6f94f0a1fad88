//! Taking away the old end of the log: retention by time, by size, and by the log start offset (DeleteRecords); and taking
//! away the whole log when its topic is deleted.
//!
//! Of a tiered topic two retentions speak. What lies in the tier goes from here by the local one, and the log start stays where it
//! is; that of the whole is the leader's matter, which moves the log start (`increment_log_start_offset`). What is not in the tier yet
//! goes by neither, unless nothing more is copied there.
//!
//! Files are not removed at once: they are renamed to `.deleted` (Kafka's suffix) and removed after
//! `file.delete.delay.ms` by a value that the caller keeps; a restart removes what is left of them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_batch::{Offset, TimestampMs};
use uuid::Uuid;

use super::segment::{DELETED_SUFFIX, Segment, SegmentFiles};
use super::{ChangeError, Log};
use crate::disk::{Disk, FileHandle};
use crate::logdir::deleted_partition_name;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionReason {
    RetentionTime,
    RetentionSize,
    /// It lies in the tier too.
    LocalRetentionTime,
    LocalRetentionSize,
    LogStartOffset,
}

/// What a rule for old segments does to the log start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Records are deleted.
    Moves,
    /// Only copies of what the tier has are.
    Stays,
}

/// Segments that are out of the log and renamed to `.deleted`, but still on the disk for readers that hold them.
#[derive(Default)]
pub struct DeletedSegments {
    segments: Vec<(Offset, u64, DeletionReason)>,
    files: Vec<FileHandle>,
}

impl DeletedSegments {
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// (base offset, bytes, why); empty for what a compaction replaced.
    pub fn segments(&self) -> &[(Offset, u64, DeletionReason)] {
        &self.segments
    }

    /// Removes the files.
    pub fn run(self) -> io::Result<()> {
        self.files.iter().try_for_each(FileHandle::remove)
    }
}

/// See [`Log::mark_deleted`].
pub struct DeletedLog {
    disk: Disk,
    dir: PathBuf,
}

impl DeletedLog {
    /// Removes the directory.
    pub fn run(self) -> io::Result<()> {
        self.disk.remove_dir_all(&self.dir)?;
        self.disk.sync_parent(&self.dir)
    }
}

impl Log {
    /// DeleteRecords, or a follower following its leader. At most the high watermark. Durable with the next
    /// `LogDir::write_checkpoints`.
    pub fn increment_log_start_offset(
        &mut self,
        offset: Offset,
        high_watermark: Offset,
    ) -> Result<(), ChangeError> {
        self.latch.check()?;
        let limit = high_watermark.min(self.end_offset);
        if offset > limit {
            return Err(ChangeError::OffsetOutOfRange {
                requested: offset,
                log_start_offset: self.log_start_offset,
                limit,
            });
        }
        if offset > self.log_start_offset {
            self.set_log_start_offset(offset);
            self.epochs.truncate_from_start(offset);
        }
        Ok(())
    }

    pub(super) fn set_log_start_offset(&mut self, offset: Offset) {
        self.log_start_offset = offset;
        self.live.set_log_start_offset(offset);
    }

    /// Rolls the active segment when its newest record is too old, and takes out of the log what retention by time, size
    /// and log start offset no longer covers, never at or above the high watermark. `tier_end`: up to where everything from the log
    /// start on is in the tier, if that is known; asked of tiered topics only. `run` the result after file.delete.delay.ms.
    pub fn delete_old_segments(
        &mut self,
        now: TimestampMs,
        high_watermark: Offset,
        tier_end: Option<Offset>,
    ) -> Result<DeletedSegments, ChangeError> {
        self.latch.check()?;
        self.producers.on_high_watermark(high_watermark);
        self.rebuild_distrusted_indexes();
        let mut deleted = DeletedSegments::default();
        let config = Arc::clone(&self.config);
        if config.remote_storage {
            let limit = high_watermark.min(tier_end.unwrap_or(Offset(0)));
            if let Some(retention_ms) = config.local_retention_ms {
                let goes = is_older_than(retention_ms, now);
                let rule = (DeletionReason::LocalRetentionTime, Start::Stays);
                self.delete_while(limit, now, rule, &mut deleted, goes)?;
            }
            if let Some(retention_bytes) = config.local_retention_bytes {
                let goes = self.exceeds(retention_bytes);
                let rule = (DeletionReason::LocalRetentionSize, Start::Stays);
                self.delete_while(limit, now, rule, &mut deleted, goes)?;
            }
        }
        // Where all that was in the tier is gone, and nothing more goes there, the log is as one that was never tiered.
        let local_start = self.local_start_offset();
        let is_all_local =
            self.log_start_offset >= tier_end.map_or(local_start, |tier_end| tier_end.min(local_start));
        let goes_by_retention = !config.remote_storage || (config.remote_copy_disabled && is_all_local);
        if goes_by_retention && config.cleanup_policy.deletes() {
            if let Some(retention_ms) = config.retention_ms {
                let goes = is_older_than(retention_ms, now);
                let rule = (DeletionReason::RetentionTime, Start::Moves);
                self.delete_while(high_watermark, now, rule, &mut deleted, goes)?;
            }
            if let Some(retention_bytes) = config.retention_bytes {
                let goes = self.exceeds(retention_bytes);
                let rule = (DeletionReason::RetentionSize, Start::Moves);
                self.delete_while(high_watermark, now, rule, &mut deleted, goes)?;
            }
        }
        let log_start_offset = self.log_start_offset;
        // The predicate sees segments in order; each is superseded when the next one begins at or before the log start.
        let ends: Vec<_> = self.segments.iter().skip(1).map(|segment| segment.base_offset).collect();
        let mut ends = ends.into_iter();
        let is_before = move |_: &Segment| ends.next().is_some_and(|end| end <= log_start_offset);
        let rule = (DeletionReason::LogStartOffset, Start::Stays);
        self.delete_while(high_watermark, now, rule, &mut deleted, is_before)?;
        Ok(deleted)
    }

    /// Whether a segment is more than is to be kept, asked from the first segment on.
    fn exceeds(&self, bytes_max: u64) -> impl FnMut(&Segment) -> bool + use<> {
        let mut excess = self.size_in_bytes().saturating_sub(bytes_max);
        move |segment: &Segment| {
            let goes = segment.size > 0 && segment.size <= excess;
            excess -= if goes { segment.size } else { 0 };
            goes
        }
    }

    /// Takes segments that end at or below `limit` from the front as long as `goes`. The active one only if it holds something and is rolled first.
    fn delete_while(
        &mut self,
        limit: Offset,
        now: TimestampMs,
        rule: (DeletionReason, Start),
        deleted: &mut DeletedSegments,
        mut goes: impl FnMut(&Segment) -> bool,
    ) -> Result<(), ChangeError> {
        let mut count = 0;
        for (index, segment) in self.segments.iter().enumerate() {
            let end_offset = self.segments.get(index + 1).map_or(self.end_offset, |next| next.base_offset);
            let is_empty_active = index + 1 == self.segments.len() && segment.size == 0;
            if is_empty_active || end_offset > limit || !goes(segment) {
                break;
            }
            count += 1;
        }
        if count == 0 {
            return Ok(());
        }
        if count == self.segments.len() {
            self.roll(self.end_offset, now).map_err(|error| self.change_error(error))?;
            // ORDER: the name of the new segment before the others go. A log without any begins anew at its start, where its
            // offsets would be given out again.
            self.disk.sync_dir(&self.dir).map_err(|error| self.change_error(error))?;
        }
        self.delete_front(count, rule, deleted)
    }

    fn delete_front(
        &mut self,
        count: usize,
        (reason, start): (DeletionReason, Start),
        deleted: &mut DeletedSegments,
    ) -> Result<(), ChangeError> {
        let new_start = self.segments[count].base_offset;
        // ORDER: the log start first, then file by file from the front: a crash in between leaves a log without a
        // hole that begins a little earlier, as if fewer segments had been deleted.
        if start == Start::Moves && new_start > self.log_start_offset {
            self.set_log_start_offset(new_start);
            self.epochs.truncate_from_start(new_start);
        }
        let mut removed = 0;
        let mut outcome = Ok(());
        for segment in &self.segments[..count] {
            if let Err(error) = rename_to_deleted(&segment.files, deleted) {
                outcome = Err(error);
                break;
            }
            deleted.segments.push((segment.base_offset, segment.size, reason));
            removed += 1;
        }
        self.segments.drain(..removed);
        self.names_version += 1;
        // A segment half renamed is still in the log by its log file, but has lost indexes: they are rebuilt.
        if outcome.is_err() {
            self.segments[0].files.offset_index.distrust();
        }
        let first = self.segments[0].base_offset;
        let snapshots = self.remove_snapshots(|offset| offset < first);
        outcome.and(snapshots).map_err(|error| self.change_error(error))
    }

    /// Indexes that were found to be wrong while reading are made anew.
    pub(super) fn rebuild_distrusted_indexes(&mut self) {
        for index in 0..self.segments.len() {
            if self.segments[index].files.indexes_are_distrusted()
                && let Err(error) = self.rebuild_indexes(index)
            {
                // The segment holds what can't be read; its readers are told. Nothing else is kept from going on.
                tracing::error!(dir = %self.dir.display(), %error, "indexes can't be rebuilt");
            }
        }
    }

    /// Ends the active segment if it holds something, though it is neither full nor old: what is sealed can go to the tier.
    pub fn seal_active_segment(&mut self, now: TimestampMs) -> Result<(), ChangeError> {
        self.latch.check()?;
        if self.active().size == 0 {
            return Ok(());
        }
        self.roll(self.end_offset, now).map_err(|error| self.change_error(error))
    }

    /// From the batches of one segment, to its end.
    pub(super) fn rebuild_indexes(&mut self, index: usize) -> Result<(), ChangeError> {
        let interval = self.config.index_interval_bytes;
        let segment = &mut self.segments[index];
        let size = segment.size;
        let files = Arc::clone(&segment.files);
        let rebuilt = (|| {
            // Before anything is given up: entries behind a damaged batch are the only way to those after it.
            let mut scan = files.scan(0, size)?;
            while scan.next()?.is_some() {}
            files.offset_index.clear()?;
            files.time_index.clear()?;
            segment.on_truncated(0)?;
            let mut scan = files.scan(0, size)?;
            while let Some(batch) = scan.next()? {
                segment.on_appended(&batch.header, interval)?;
            }
            segment.seal_time_index()?;
            files.flush_indexes()?;
            files.offset_index.size_in_bytes()
        })();
        segment.size = size;
        segment.forget_tail();
        // A segment of a batch or two has no entries, and so no file, however large it is: nothing was missing then.
        match rebuilt {
            Ok(0) => tracing::debug!(log = %files.log.path().display(), "a segment needs no offset index"),
            Ok(_) => {
                tracing::warn!(log = %files.log.path().display(), "indexes were missing or wrong and are made anew");
            }
            Err(error) => return Err(self.change_error(error)),
        }
        Ok(())
    }

    /// Renames the directory to `<topic>-<partition>.<hex>-delete` and latches the log. `run` the result later.
    pub fn mark_deleted(&mut self) -> Result<DeletedLog, ChangeError> {
        let name = self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let to = self.dir.with_file_name(deleted_partition_name(name, Uuid::new_v4()));
        let renamed = self.disk.rename(&self.dir, &to).and_then(|()| self.disk.sync_parent(&to));
        renamed.map_err(|error| self.change_error(error))?;
        // ORDER: the offsets are forgotten after the rename: a crash in between finds no partition for them.
        let forgotten = self.checkpoints.forget(&self.partition);
        let _ = self.latch.reason.set("deleted".to_owned());
        for segment in &self.segments {
            for file in segment.files.handles() {
                file.unpin();
                file.close();
                if let Some(name) = file.path().file_name() {
                    file.moved_to(to.join(name));
                }
            }
        }
        self.dir = to.clone();
        forgotten.map_err(|error| self.change_error(error))?;
        Ok(DeletedLog { disk: self.disk.clone(), dir: to })
    }
}

/// Whether all records of a segment are too old.
fn is_older_than(retention_ms: i64, now: TimestampMs) -> impl FnMut(&Segment) -> bool {
    move |segment| match segment.checked_max_timestamp() {
        // Not known before the indexes are rebuilt, which the next round begins with.
        _ if segment.files.indexes_are_distrusted() => false,
        // Records from the future count as new. Before anything goes the batches are asked too: an index
        // that lost entries must not take records with it.
        Ok(Some(max)) => {
            now.0.saturating_sub(max.timestamp.0) > retention_ms
                && segment.has_none_newer(max).unwrap_or(false)
        }
        // Without any timestamp it is as old as we have known it; Kafka asks the file's date, which a copy changes.
        Ok(None) => segment.size == 0 || now.0.saturating_sub(segment.created.0) > retention_ms,
        Err(_) => false,
    }
}

/// Renames what there is of a segment's files; the log file, which makes it a segment, last.
pub(super) fn rename_to_deleted(files: &SegmentFiles, deleted: &mut DeletedSegments) -> io::Result<()> {
    for file in files.handles() {
        let mut to = file.path().into_os_string();
        to.push(DELETED_SUFFIX);
        match file.rename(Path::new(&to)) {
            Ok(()) => {
                // Nothing in it will be needed after a crash.
                file.unpin();
                deleted.files.push(file.clone());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
