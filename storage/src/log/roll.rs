//! Closing the active segment and beginning the next one. Rules are Kafka's (`LogSegment.shouldRoll`): the segment would
//! grow past `segment.bytes`, it is older than `segment.ms` by its batches' timestamps, an index is full, or the offsets
//! would not fit into 31 bits relative to its base.
//!
//! A roll does no fsync: it runs inside an append. The sealed segment's files, the new name and the producer snapshot
//! become durable with the next sync, before which nothing in the new segment is acknowledged.

use std::io::{self, IoSlice};

use ottla_batch::{Offset, TimestampMs};

use super::Log;
use super::offset_index;
use super::segment::{SEGMENT_BYTES_MAX, SNAPSHOT_SUFFIX, Segment, SegmentFiles, file_name};
use super::time_index;

/// What the append that may need a roll brings.
pub(super) struct Incoming {
    pub last_offset: Offset,
    pub size: u64,
    pub max_timestamp: TimestampMs,
    pub now: TimestampMs,
}

impl Log {
    pub(super) fn should_roll(&self, incoming: &Incoming) -> io::Result<bool> {
        let active = self.active();
        let config = &self.config;
        if incoming.last_offset.0 - active.base_offset.0 > i64::from(i32::MAX) {
            return Ok(true);
        }
        if active.size == 0 {
            return Ok(false);
        }
        let bytes_max = u64::from(config.segment_bytes).min(SEGMENT_BYTES_MAX);
        if active.size + incoming.size > bytes_max {
            return Ok(true);
        }
        let age_ms = match active.first_timestamp {
            Some(first) if first.0 >= 0 => incoming.max_timestamp.0.saturating_sub(first.0),
            _ => incoming.now.0.saturating_sub(active.created.0),
        };
        // Only sealed segments are compacted: max.compaction.lag.ms bounds the age of the active one too.
        let age_ms_max = match config.cleanup_policy.compacts() && config.max_compaction_lag_ms > 0 {
            true => config.segment_ms.min(config.max_compaction_lag_ms),
            false => config.segment_ms,
        };
        if age_ms > age_ms_max.saturating_sub(self.roll_jitter_ms) {
            return Ok(true);
        }
        // Full: no room for one more entry.
        let room = |used: u64, entry: usize| used + entry as u64 <= u64::from(config.segment_index_bytes);
        Ok(!room(active.files.offset_index.size_in_bytes()?, offset_index::ENTRY_LEN)
            || !room(active.files.time_index.size_in_bytes()?, time_index::ENTRY_LEN))
    }

    /// Begins a segment for batches that end at `last_offset`. On an error the old one stays active, and nothing else changed.
    ///
    /// The new segment begins where the old one ends, even if the next batch begins later (a follower of a compacted log):
    /// so recovery can tell a gap that compaction made from a segment whose end was lost in a crash.
    pub(super) fn roll(&mut self, last_offset: Offset, now: TimestampMs) -> io::Result<()> {
        let base_offset = match last_offset.0.saturating_sub(self.end_offset.0) <= i64::from(i32::MAX) {
            true => self.end_offset,
            false => last_offset.plus(-i64::from(i32::MAX)),
        };
        let files = SegmentFiles::new(&self.disk, &self.dir, base_offset, "");
        // A leftover of the same name can only be an empty or abandoned segment: nothing at or past the end is ours.
        let created = files.log.open_or_create().and_then(|file| match file.is_empty()? {
            true => Ok(()),
            false => file.set_len(0),
        });
        if let Err(error) = created {
            // An empty file that stays would be an empty segment at the next open; it does no harm.
            let _ = files.log.remove();
            return Err(error);
        }
        self.names_version += 1;
        self.seal_active();
        self.segments.push(Segment::new(files, 0, now));
        self.recovery_position = 0;
        self.write_snapshot(base_offset);
        Ok(())
    }

    /// The active segment gets no more batches. What cannot be written to its indexes now (a full disk) waits in memory
    /// for the next sync, before which the recovery point does not pass this segment.
    fn seal_active(&mut self) {
        let active = self.active_mut();
        active.forget_tail();
        active.unsynced = true;
        let sealed = active.seal_time_index().and_then(|()| active.files.flush_indexes());
        if let Err(error) = sealed {
            tracing::warn!(dir = %self.dir.display(), %error, "the index of a full segment waits in memory");
        }
    }

    /// Notes the producers as of `offset`, which is the end of the log. A snapshot only spares reading: one that is
    /// missing or torn (its CRC tells) is made up for from an older one and the batches since.
    pub(super) fn write_snapshot(&mut self, offset: Offset) {
        // Nothing is known there: a snapshot would say that there are no producers.
        if self.lacks_its_past() {
            return;
        }
        if let Err(position) = self.snapshots.binary_search(&offset) {
            let path = self.dir.join(file_name(offset, SNAPSHOT_SUFFIX));
            let content = self.producers.encode_snapshot();
            let handle = self.disk.handle(&path);
            let written = handle.open_or_create().and_then(|file| {
                file.set_len(0)?;
                file.write_all_at(&mut [IoSlice::new(&content)], 0)
            });
            match written {
                Ok(()) => {
                    self.snapshots.insert(position, offset);
                    self.unsynced_snapshots.push(offset);
                    self.names_version += 1;
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "no producer snapshot");
                    let _ = handle.remove();
                }
            }
        }
    }
}
