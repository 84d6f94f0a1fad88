//! Compaction: of each key only the newest record stays (`cleanup.policy=compact`). Rules are Kafka's.
//!
//! Three steps, so that the log's lock is held only for short: `plan` (what to clean, under the lock), `rewrite` (new files
//! beside the old ones, without it), `swap` (renames, under it again). Whatever happens in between, the old segments are
//! whole until the new ones are on stable storage:
//! - new files are `.cleaned` while they are written (a crash: they go at the next open);
//! - synced, they become `.swap`, the log file last: from then on the swap is going to be finished, by the next open if need be;
//! - then the old files become `.deleted`, then the new ones lose their suffix.
//!
//! The active segment, records above the last stable offset, and records younger than `min.compaction.lag.ms` stay as
//! they are. Offsets never change; a batch keeps its first and last offset whatever leaves it.

mod key_map;
mod rewrite;
mod transactions;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_batch::{Offset, ProducerId, TimestampMs};

use super::producer_state::LastRecord;
use super::retain::rename_to_deleted;
use super::segment::{CLEANED_SUFFIX, SWAP_SUFFIX, Segment, SegmentFiles};
use super::{CompactError, DeletedSegments, Latch, Log, LogConfig};
use crate::disk::{Disk, FileHandle};

/// What one compaction will do; see [`Log::plan_compaction`].
pub struct CompactionPlan {
    disk: Disk,
    dir: PathBuf,
    config: Arc<LogConfig>,
    latch: Arc<Latch>,
    /// Those that may be rewritten, from the first of the log on.
    sources: Vec<Source>,
    /// All of the log's, for their aborted transactions: the marker of one that began in a source may lie after them.
    all_files: Vec<Arc<SegmentFiles>>,
    log_start_offset: Offset,
    first_dirty_offset: Offset,
    last_records: HashMap<ProducerId, LastRecord>,
    dirty_ratio: f64,
    generation: u64,
}

struct Source {
    files: Arc<SegmentFiles>,
    size: u64,
    /// Base offset of the next segment.
    end_offset: Offset,
}

/// Rewritten segments that wait for their turn; dropped without a swap, their files stay until the next open.
pub struct Compacted {
    groups: Vec<Group>,
    cleaner_offset: Offset,
    bytes_before: u64,
    bytes_after: u64,
    generation: u64,
}

/// One new segment and those it replaces.
struct Group {
    cleaned: Segment,
    replaced: Vec<Offset>,
}

pub struct CompactionResult {
    /// What the cleaner-offset checkpoint should say.
    pub cleaner_offset: Offset,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// The old files; `run` them after file.delete.delay.ms.
    pub deleted: DeletedSegments,
}

impl CompactionPlan {
    /// Share of the bytes that may be cleaned which were not cleaned yet.
    pub fn dirty_ratio(&self) -> f64 {
        self.dirty_ratio
    }
}

impl Log {
    /// None: nothing to compact now (policy, ratio, lags). `stable_limit` is the last stable offset.
    pub fn plan_compaction(&self, stable_limit: Offset, now: TimestampMs) -> Option<CompactionPlan> {
        if !self.config.cleanup_policy.compacts() || self.latch.check().is_err() {
            return None;
        }
        let active = self.segments.len() - 1;
        // A checkpoint outside of the log is of another life of it.
        let first_dirty_offset = self
            .cleaner_offset
            .filter(|offset| *offset >= self.local_start_offset() && *offset <= self.active().base_offset)
            .unwrap_or(self.local_start_offset());
        let first_dirty = self.segment_index(first_dirty_offset);
        let young = now.0.saturating_sub(self.config.min_compaction_lag_ms);
        let mut end = 0;
        for (index, segment) in self.segments[..active].iter().enumerate() {
            let is_stable = self.segments[index + 1].base_offset <= stable_limit;
            let has_lagged = self.config.min_compaction_lag_ms <= 0
                || index < first_dirty
                || matches!(segment.max_timestamp(), Ok(max) if max.is_none_or(|max| max.timestamp.0 <= young));
            if !is_stable || !has_lagged {
                break;
            }
            end = index + 1;
        }
        if end <= first_dirty || self.segments[end].base_offset <= first_dirty_offset {
            return None;
        }
        let bytes = |segments: &[Segment]| segments.iter().map(|segment| segment.size).sum::<u64>();
        let (clean, dirty) = (bytes(&self.segments[..first_dirty]), bytes(&self.segments[first_dirty..end]));
        if dirty == 0 {
            return None;
        }
        let dirty_ratio = dirty as f64 / (clean + dirty) as f64;
        if dirty_ratio <= self.config.min_cleanable_dirty_ratio && !self.must_compact_now(first_dirty, now) {
            return None;
        }
        let source = |index: usize| Source {
            files: Arc::clone(&self.segments[index].files),
            size: self.segments[index].size,
            end_offset: self.segments[index + 1].base_offset,
        };
        Some(CompactionPlan {
            disk: self.disk.clone(),
            dir: self.dir.clone(),
            config: Arc::clone(&self.config),
            latch: Arc::clone(&self.latch),
            sources: (0..end).map(source).collect(),
            all_files: self.segments.iter().map(|segment| Arc::clone(&segment.files)).collect(),
            log_start_offset: self.log_start_offset,
            first_dirty_offset,
            last_records: self.producers.last_records(),
            dirty_ratio,
            generation: self.generation,
        })
    }

    /// `max.compaction.lag.ms`: the oldest record that was not cleaned has waited too long.
    fn must_compact_now(&self, first_dirty: usize, now: TimestampMs) -> bool {
        let segment = &self.segments[first_dirty];
        if self.config.max_compaction_lag_ms == i64::MAX || segment.size == 0 {
            return false;
        }
        let first = match segment.first_timestamp {
            Some(first) => Some(first),
            None => {
                let first = segment.files.scan(0, segment.size).and_then(|mut scan| scan.next());
                first.ok().flatten().map(|first| first.header.max_timestamp)
            }
        };
        let waited_ms = first.map_or(0, |first| now.0.saturating_sub(first.0));
        first.is_some_and(|first| first.0 >= 0) && waited_ms > self.config.max_compaction_lag_ms.max(0)
    }

    /// Puts the rewritten segments in the place of the old ones.
    pub fn swap_compacted(&mut self, compacted: Compacted) -> Result<CompactionResult, CompactError> {
        self.latch.check()?;
        if !self.still_fits(&compacted) {
            compacted.groups.iter().for_each(|group| remove_files(&group.cleaned.files));
            return Err(CompactError::Abandoned(
                "the log was truncated or its old segments were deleted meanwhile",
            ));
        }
        let mut deleted = DeletedSegments::default();
        for group in compacted.groups {
            let swapped = self.swap(group, &mut deleted);
            // Half swapped, the next open finishes it; this log does not know its own files any more.
            swapped.map_err(|error| self.take_offline("swapping in compacted segments", &error))?;
        }
        self.cleaner_offset = Some(compacted.cleaner_offset);
        Ok(CompactionResult {
            cleaner_offset: compacted.cleaner_offset,
            bytes_before: compacted.bytes_before,
            bytes_after: compacted.bytes_after,
            deleted,
        })
    }

    fn still_fits(&self, compacted: &Compacted) -> bool {
        let sealed = &self.segments[..self.segments.len() - 1];
        let is_there =
            |base: &Offset| sealed.binary_search_by_key(base, |segment| segment.base_offset).is_ok();
        compacted.generation == self.generation
            && compacted.groups.iter().all(|group| group.replaced.iter().all(is_there))
    }

    fn swap(&mut self, group: Group, deleted: &mut DeletedSegments) -> io::Result<()> {
        let Group { cleaned, replaced } = group;
        // ORDER: the log file is the last to become `.swap`: with it the swap is decided, so all else must be there.
        change_suffix(&cleaned.files, CLEANED_SUFFIX, SWAP_SUFFIX)?;
        self.disk.sync_dir(&self.dir)?;
        let first = self.segments.partition_point(|segment| segment.base_offset < cleaned.base_offset);
        for segment in &self.segments[first..first + replaced.len()] {
            rename_to_deleted(&segment.files, deleted)?;
        }
        // ORDER: the old names are gone durably before the new ones are taken. Else a crash could leave the new segment
        // beside old ones that begin within it, and nothing would say which is right.
        self.disk.sync_dir(&self.dir)?;
        change_suffix(&cleaned.files, SWAP_SUFFIX, "")?;
        self.disk.sync_dir(&self.dir)?;
        self.segments.splice(first..first + replaced.len(), [cleaned]);
        // A producer snapshot belongs to the segment that begins at its offset.
        self.remove_snapshots(|offset| replaced[1..].contains(&offset))
    }
}

/// Renames what there is of a segment's files, the log file last.
fn change_suffix(files: &SegmentFiles, from: &str, to: &str) -> io::Result<()> {
    for file in files.handles() {
        let path = file.path();
        let name = path.to_string_lossy();
        let name = name.strip_suffix(from).unwrap_or(&name);
        match file.rename(Path::new(&format!("{name}{to}"))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                file.moved_to(PathBuf::from(format!("{name}{to}")));
            }
            other => other?,
        }
    }
    Ok(())
}

/// Abandoned work; what stays goes at the next open.
fn remove_files(files: &SegmentFiles) {
    let removed: io::Result<()> = files.handles().into_iter().try_for_each(FileHandle::remove);
    if let Err(error) = removed {
        tracing::warn!(log = %files.log.path().display(), %error, "an abandoned compaction leaves files behind");
    }
}
