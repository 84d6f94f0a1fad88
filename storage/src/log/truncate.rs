//! Cutting the log at its end: a follower that diverged from its leader, or an append that could not be finished.
//!
//! The danger is the recovery point: what lies before it is believed after a crash without a check. So it is lowered,
//! durably, before anything is cut; and the cut is durable before new batches take the place of the old ones.

use std::io;
use std::path::Path;

use ottla_batch::{EndTxnMarker, Offset, TimestampMs};

use super::producer_state::ProducerState;
use super::segment::{Located, SNAPSHOT_SUFFIX, Segment, SegmentError, SegmentFiles, file_name};
use super::{ChangeError, Log, ReadError};

/// A bound against reading something that is no snapshot: more producers than fit into memory anyway.
const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;

impl Log {
    /// Removes everything from `end_offset` on. A batch that spans it goes as a whole. When the log ends before, only the leader
    /// epochs that begin there go: those of a leader that appended nothing, which the next leader need not have heard of.
    pub fn truncate_to(&mut self, end_offset: Offset) -> Result<(), ChangeError> {
        self.latch.check()?;
        if end_offset >= self.end_offset {
            self.epochs.truncate_from_end(end_offset);
            return Ok(());
        }
        if end_offset < self.local_start_offset() {
            // Of a tiered topic, what lies before is in the tier; else nothing does.
            return self.start_anew(end_offset, end_offset.min(self.log_start_offset));
        }
        // The recovery point must be the end of a batch: the one that spans the new end is not checked otherwise.
        let spanning = self.segments[self.segment_index(end_offset)].locate_header(end_offset);
        let end_offset = spanning
            .map_err(ReadError::from)?
            .map_or(end_offset, |batch| end_offset.min(batch.header.base_offset));
        tracing::info!(dir = %self.dir.display(), from = %self.end_offset, to = %end_offset, "truncating");
        self.lower_recovery_point(end_offset)?;
        self.truncate_end(end_offset).and_then(|()| self.sync_cut()).inspect_err(|error| {
            self.latch.set(format!("truncation failed half way: {error}"));
        })
    }

    /// Removes everything; the next record gets `offset`, and nothing lies before.
    pub fn truncate_fully_and_start_at(&mut self, offset: Offset) -> Result<(), ChangeError> {
        self.start_anew(offset, offset)
    }

    fn start_anew(&mut self, offset: Offset, log_start_offset: Offset) -> Result<(), ChangeError> {
        self.latch.check()?;
        tracing::info!(dir = %self.dir.display(), from = %self.end_offset, to = %offset, "starting anew");
        self.lower_recovery_point(Offset(0))?;
        self.restart_at(offset, log_start_offset).and_then(|()| self.sync_cut()).inspect_err(|error| {
            self.latch.set(format!("truncation failed half way: {error}"));
        })
    }

    pub(super) fn lower_recovery_point(&mut self, offset: Offset) -> Result<(), ChangeError> {
        if offset < self.live.recovery_point() {
            self.live.set_recovery_point(offset);
            // ORDER: durable before the first byte is cut. Else a crash after new appends would find a recovery point
            // past them and believe torn batches.
            self.checkpoints
                .lower_recovery_point(&self.partition, &self.live)
                .map_err(|error| self.change_error(error))?;
        }
        Ok(())
    }

    /// Epochs from `log_start_offset` to `offset` stay.
    pub(super) fn restart_at(&mut self, offset: Offset, log_start_offset: Offset) -> Result<(), ChangeError> {
        self.remove_segments()?;
        self.begin_at(offset)?;
        self.set_log_start_offset(log_start_offset);
        if log_start_offset < offset {
            self.epochs.truncate_from_end(offset);
        } else {
            self.epochs.clear();
        }
        self.producers.clear();
        self.remove_snapshots(|_| true).map_err(|error| self.change_error(error))
    }

    pub(super) fn remove_segments(&mut self) -> Result<(), ChangeError> {
        self.note_truncation(Offset(0));
        // ORDER: from the end, so that a crash in between leaves a log without a hole.
        for segment in self.segments.iter().rev() {
            remove(&segment.files).map_err(|error| self.change_error(error))?;
        }
        Ok(())
    }

    /// Of a log whose segments are removed: the next record gets `offset`.
    pub(super) fn begin_at(&mut self, offset: Offset) -> Result<(), ChangeError> {
        let files = SegmentFiles::new(&self.disk, &self.dir, offset, "");
        files.log.open_or_create().map_err(|error| self.change_error(error))?;
        // At once, for there is always a segment, also in a log that an error above took offline.
        self.segments = vec![Segment::new(files, 0, TimestampMs(0))];
        self.names_version += 1;
        self.recovery_position = 0;
        self.end_offset = offset;
        self.synced_end_offset = offset;
        self.cleaner_offset = None;
        Ok(())
    }

    /// Without checks, and without the recovery point, which the caller knows to be below.
    pub(super) fn truncate_end(&mut self, end_offset: Offset) -> Result<(), ChangeError> {
        self.note_truncation(end_offset);
        let kept = self.segment_index(end_offset);
        while self.segments.len() > kept + 1 {
            // ORDER: from the end, as above.
            let Some(segment) = self.segments.pop() else { break };
            remove(&segment.files).map_err(|error| self.change_error(error))?;
            self.names_version += 1;
            self.recovery_position = 0;
        }
        let active = self.active();
        let cut = active.locate_header(end_offset).map_err(ReadError::from)?;
        let (size, end_offset) = match cut {
            Some(batch) => (batch.position, end_offset.min(batch.header.base_offset)),
            None => (active.size, end_offset),
        };
        let active = self.active_mut();
        let files = std::sync::Arc::clone(&active.files);
        // Indexes first: entries must not point past the end of the file.
        let cut = files
            .offset_index
            .truncate_to(end_offset)
            .and_then(|()| files.time_index.truncate_to(end_offset))
            .and_then(|()| files.transaction_index.truncate_to(end_offset))
            .and_then(|()| files.log.open_to_write()?.set_len(size))
            .and_then(|()| active.on_truncated(size));
        cut.map_err(|error| self.change_error(error))?;
        // The batch that was cut in two may begin before what was asked for.
        self.note_truncation(end_offset);
        self.recovery_position = self.recovery_position.min(size);
        self.end_offset = end_offset;
        self.synced_end_offset = self.synced_end_offset.min(end_offset);
        self.epochs.truncate_from_end(end_offset);
        self.cleaner_offset = self.cleaner_offset.map(|offset| offset.min(end_offset));
        self.remove_snapshots(|offset| offset > end_offset).map_err(|error| self.change_error(error))?;
        self.load_producers(end_offset, None)?;
        Ok(())
    }

    /// ORDER: before anything is appended. A crash could mix what was cut with what took its place, in a row of batches that no
    /// leader ever had and whose epochs fit the leader's.
    pub(super) fn sync_cut(&mut self) -> Result<(), ChangeError> {
        let active = &self.active().files.log;
        let synced =
            active.open().and_then(|file| file.sync_data()).and_then(|()| self.disk.sync_dir(&self.dir));
        synced.map_err(|error| self.change_error(error))?;
        self.names_synced = self.names_version;
        Ok(())
    }

    /// A sync that is under way now says nothing about what will be written from here on.
    fn note_truncation(&mut self, end_offset: Offset) {
        self.generation += 1;
        self.truncated_to = self.truncated_to.min(end_offset);
    }

    pub(super) fn remove_snapshots(&mut self, goes: impl Fn(Offset) -> bool) -> io::Result<()> {
        let mut removed = Ok(());
        let (disk, dir) = (&self.disk, &self.dir);
        self.snapshots.retain(|offset| {
            if !goes(*offset) || removed.is_err() {
                return true;
            }
            removed = disk.remove_file(&dir.join(file_name(*offset, SNAPSHOT_SUFFIX)));
            removed.is_err()
        });
        let snapshots = &self.snapshots;
        self.unsynced_snapshots.retain(|offset| snapshots.binary_search(offset).is_ok());
        removed
    }

    /// The producers as of the end of the log: from the newest usable snapshot at or before `from_snapshot`, and the
    /// batches after it. With `aborts_from`, aborted transactions that end at or after it go into the transaction indexes.
    pub(super) fn load_producers(
        &mut self,
        from_snapshot: Offset,
        aborts_from: Option<Offset>,
    ) -> Result<(), ReadError> {
        self.producers = self.replay_producers(from_snapshot, self.end_offset, aborts_from)?;
        Ok(())
    }

    /// The same as of `upto`, where a batch begins.
    pub(super) fn replay_producers(
        &self,
        from_snapshot: Offset,
        upto: Offset,
        aborts_from: Option<Offset>,
    ) -> Result<ProducerState, ReadError> {
        let mut state = ProducerState::default();
        let mut loaded_to = self.segments[0].base_offset;
        for offset in self.snapshots.iter().rev().filter(|offset| **offset <= from_snapshot) {
            let path = self.dir.join(file_name(*offset, SNAPSHOT_SUFFIX));
            if let Some((_, found)) = self.read_snapshot(&path)? {
                state = found;
                loaded_to = *offset;
                break;
            }
        }
        if loaded_to < upto {
            for segment in &self.segments[self.segment_index(loaded_to)..] {
                let Some(start) = segment.locate_header(loaded_to.max(segment.base_offset))? else {
                    continue;
                };
                let mut scan = segment.files.scan(start.position, segment.size)?;
                while let Some(batch) = scan.next()?.filter(|batch| batch.header.base_offset < upto) {
                    self.replay_batch(&mut state, segment, &batch, aborts_from)?;
                }
            }
        }
        Ok(state)
    }

    /// The bytes of a snapshot and what they say; None when there is none that can be used.
    pub(super) fn read_snapshot(&self, path: &Path) -> Result<Option<(Vec<u8>, ProducerState)>, ReadError> {
        let content = match self.disk.read(path, SNAPSHOT_BYTES_MAX) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ReadError::Io { path: path.to_owned(), source }),
        };
        let Some(state) = ProducerState::decode_snapshot(&content) else {
            tracing::warn!(path = %path.display(), "an unusable producer snapshot is ignored");
            return Ok(None);
        };
        Ok(Some((content, state)))
    }

    fn replay_batch(
        &self,
        state: &mut ProducerState,
        segment: &Segment,
        batch: &Located,
        aborts_from: Option<Offset>,
    ) -> Result<(), ReadError> {
        let header = &batch.header;
        if !header.has_producer_id() {
            return Ok(());
        }
        if !header.is_control() {
            // What compaction emptied still says how far its producer is.
            state.on_data_batch(header);
            return Ok(());
        }
        let record = match self.records(segment, batch) {
            Ok(mut records) => records.next(),
            // As an append of a follower: a marker that cannot be read ends nothing, and the log opens all the same.
            Err(error @ ReadError::Corrupt { .. }) => {
                tracing::error!(dir = %self.dir.display(), offset = %header.base_offset, %error, "unreadable control batch");
                None
            }
            Err(error) => return Err(error),
        };
        let Some(Ok(record)) = record else { return Ok(()) };
        let Ok(marker) = EndTxnMarker::parse(record.key.as_deref(), record.value.as_deref()) else {
            return Ok(());
        };
        if let Some(aborted) = state.on_marker(header, &marker)
            && aborts_from.is_some_and(|from| aborted.last_offset >= from)
        {
            let index = &segment.files.transaction_index;
            index.append(&aborted).map_err(|source| ReadError::Io { path: index.file().path(), source })?;
        }
        Ok(())
    }
}

/// The log file goes last: while it is there, the segment is.
fn remove(files: &SegmentFiles) -> io::Result<()> {
    files.handles().into_iter().try_for_each(|file| file.remove())
}

impl From<SegmentError> for io::Error {
    fn from(error: SegmentError) -> io::Error {
        match error {
            SegmentError::Io { source, .. } => source,
            SegmentError::Corrupt { path, position, what } => io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} at position {position}: {what}", path.display()),
            ),
        }
    }
}
