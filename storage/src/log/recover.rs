//! Opening a log: finding its segments, finishing what a crash interrupted, and finding its end.
//!
//! After a clean shutdown only the last batches are looked at. After any other, everything from the recovery point on is
//! read and checked (framing, CRC, order); at the first batch that does not hold the log is cut, and indexes, leader
//! epochs and producers are rebuilt from what is left. Nothing that was synced is lost by that: synced batches lie before
//! the torn ones. At the end all is synced, so that what is served is what the next crash would leave.
//!
//! What a crash may leave of files: `.deleted` (goes), `.cleaned` (a compaction that was not finished; goes), `.swap` (one
//! that was: it takes the place of what it was made from), `.tmp` (goes), an index without its segment (goes).

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ottla_batch::{LeaderEpoch, Offset, TimestampMs, planted};

use super::leader_epochs::{EpochFile, LeaderEpochs};
use super::producer_state::ProducerState;
use super::segment::{
    CLEANED_SUFFIX, DELETED_SUFFIX, LOG_SUFFIX, OFFSET_INDEX_SUFFIX, SNAPSHOT_SUFFIX, SWAP_SUFFIX, Segment,
    SegmentError, SegmentFiles, TIME_INDEX_SUFFIX, TRANSACTION_INDEX_SUFFIX, continues, file_name,
};
use super::transaction_index::Presence;
use super::{LastShutdown, Latch, Log, OpenError, OpenLog, roll_jitter_ms};
use crate::disk::Disk;
use crate::partition_metadata::{self, PartitionMetadataError};

/// A crash may leave one batch in a buffer that grows to its size; it is bounded by what the file holds anyway.
const RECOVERY_BUFFER_KEPT: usize = 4 << 20;

impl Log {
    pub fn open(open: OpenLog) -> Result<Log, OpenError> {
        let OpenLog { disk, dir, partition, checkpoints, config, topic_id, last_shutdown, now, jitter_seed } =
            open;
        let is_new = prepare_dir(&disk, &dir)?;
        let topic_id = check_topic_id(&disk, &dir, topic_id)?;
        let found = match is_new {
            true => Found::default(),
            false => {
                Found::list(&disk, &dir).map_err(|source| OpenError::Io { path: dir.clone(), source })?
            }
        };
        let (live, cleaner_offset) = checkpoints.register(&partition);
        let epochs = match is_new {
            true => LeaderEpochs::default(),
            false => LeaderEpochs::read(&disk, &dir)
                .map_err(|source| OpenError::Io { path: dir.clone(), source })?,
        };
        let mut log = Log {
            roll_jitter_ms: roll_jitter_ms(&config, jitter_seed),
            jitter_seed,
            latch: Arc::new(Latch { dir: dir.display().to_string(), reason: OnceLock::new() }),
            segments: Vec::with_capacity(found.segments.len().max(1)),
            log_start_offset: live.log_start_offset(),
            end_offset: Offset(0),
            synced_end_offset: Offset(0),
            epoch_file: Arc::new(EpochFile::new(disk.clone(), &dir, &epochs)),
            epochs,
            producers: ProducerState::default(),
            snapshots: found.snapshots,
            unsynced_snapshots: Vec::new(),
            names_version: 0,
            names_synced: 0,
            generation: 0,
            truncated_to: Offset(i64::MAX),
            recovery_position: 0,
            cleaner_offset,
            disk,
            dir,
            partition,
            topic_id,
            config,
            checkpoints,
            live,
        };
        log.open_segments(&found.segments, now)?;
        log.recover(last_shutdown, now)?;
        Ok(log)
    }

    fn open_error(&self, source: io::Error) -> OpenError {
        OpenError::Io { path: self.dir.clone(), source }
    }

    fn open_segments(
        &mut self,
        found: &BTreeMap<Offset, FoundSegment>,
        now: TimestampMs,
    ) -> Result<(), OpenError> {
        for (base_offset, files) in found {
            let size = self.disk.file_len(&self.dir.join(file_name(*base_offset, LOG_SUFFIX)));
            let size = size.map_err(|error| self.open_error(error))?;
            let presence = if files.transaction_index { Presence::Unknown } else { Presence::Missing };
            let files = SegmentFiles::existing(&self.disk, &self.dir, *base_offset, presence);
            self.segments.push(Segment::new(files, size, now));
        }
        if self.segments.is_empty() {
            let files = SegmentFiles::new(&self.disk, &self.dir, self.log_start_offset, "");
            files.log.open_or_create().map_err(|error| self.open_error(error))?;
            self.segments.push(Segment::new(files, 0, now));
            self.names_version += 1;
        }
        let first = self.segments[0].base_offset;
        // What lies before the first segment of a tiered topic is in the tier.
        if first > self.log_start_offset && !self.config.remote_storage {
            self.set_log_start_offset(first);
        }
        // A sealed segment has an entry in its time index, and a large one in its offset index; without the file they are
        // made anew. (The tail of the log is recovered in any case, its indexes with it.)
        for (index, segment) in self.segments.iter().enumerate() {
            let Some(files) = found.get(&segment.base_offset) else { continue };
            let is_sealed = index + 1 < self.segments.len() && segment.size > 0;
            let is_large = segment.size > 2 * u64::from(self.config.index_interval_bytes);
            if (is_sealed && !files.time_index) || (is_large && !(files.offset_index && files.time_index)) {
                segment.files.offset_index.distrust();
            }
        }
        Ok(())
    }

    fn recover(&mut self, last_shutdown: LastShutdown, now: TimestampMs) -> Result<(), OpenError> {
        let recovery_point = self.live.recovery_point();
        let aborts_lost_from = self.check_transaction_indexes()?;
        let is_recovered = match last_shutdown {
            LastShutdown::Clean => match self.find_end() {
                Ok(()) => false,
                Err(error @ OpenError::Corrupt { .. }) => {
                    tracing::error!(dir = %self.dir.display(), %error, "the log was closed cleanly but its end does not hold; recovering");
                    self.recover_from(recovery_point)?;
                    true
                }
                Err(error) => return Err(error),
            },
            LastShutdown::Unclean => {
                self.recover_from(recovery_point)?;
                true
            }
        };
        // Lost, or cut by a start behind the tier that did not come to its end: what is appended there is not to be believed
        // unchecked.
        self.lower_recovery_point(self.end_offset)
            .map_err(|error| OpenError::Io { path: self.dir.clone(), source: io::Error::other(error) })?;
        self.epochs.truncate_from_end(self.end_offset);
        self.check_epochs();
        // Indexes of older segments that were not there at all, and what was found to be wrong up to here.
        self.rebuild_distrusted_indexes();
        if self.end_offset < self.log_start_offset {
            // All that is left was deleted by DeleteRecords or lost; offsets are not used twice.
            tracing::warn!(dir = %self.dir.display(), end_offset = %self.end_offset, log_start_offset = %self.log_start_offset,
                "the log ends before its start and begins anew there");
            let start = self.log_start_offset;
            self.restart_at(start, start)
                .map_err(|error| OpenError::Io { path: self.dir.clone(), source: io::Error::other(error) })?;
        }
        self.epochs.truncate_from_start(self.log_start_offset);
        // After a crash a snapshot past the recovery point may be of batches that were truncated since: its removal need
        // not have been durable. (The newest one is written anew below.)
        let believed = if is_recovered { recovery_point } else { self.end_offset };
        self.remove_stray_snapshots(believed).map_err(|error| self.open_error(error))?;
        let (snapshot, aborts_from) = match is_recovered {
            // Aborts after the recovery point are found again by replaying from before it.
            true => (recovery_point, Some(recovery_point)),
            false => (self.end_offset, None),
        };
        let (snapshot, aborts_from) = match aborts_lost_from {
            Some(lost) => (snapshot.min(lost), Some(aborts_from.map_or(lost, |from| from.min(lost)))),
            None => (snapshot, aborts_from),
        };
        self.load_producers(snapshot, aborts_from).map_err(read_to_open)?;
        // Indexes that could not be rebuilt: what is appended must not lie behind what cannot be read.
        if self.active().size > 0 && self.active().files.indexes_are_distrusted() {
            self.roll(self.end_offset, now).map_err(|error| self.open_error(error))?;
        }
        self.synced_end_offset = self.end_offset;
        if is_recovered || self.end_offset == Offset(0) {
            // The next sync has to see to the names: those that a killed process removed may come back with the power, and
            // the end of a process does not make those of an empty log durable.
            self.names_version += 1;
        }
        // Also without changes: a killed process may have left in the page cache what was never synced.
        // (An empty log has nothing to sync: a truncation is durable when it returns.)
        if (is_recovered || aborts_lost_from.is_some()) && self.end_offset > Offset(0) {
            self.active_mut().unsynced = true;
            self.write_snapshot(self.end_offset);
            self.sync_all()
                .map_err(|error| OpenError::Io { path: self.dir.clone(), source: io::Error::other(error) })?;
        }
        self.segments.iter().for_each(|segment| segment.files.close());
        Ok(())
    }

    /// The epoch file holds text without a checksum. If it does not know the epoch of the last batch it is of no use, and the
    /// epochs are taken from all batches.
    fn check_epochs(&mut self) {
        let last = self.segments.iter().rev().find(|segment| segment.size > 0);
        let last = last.and_then(|segment| segment.locate_header(self.end_offset.plus(-1)).ok().flatten());
        let Some(last) = last.map(|last| last.header) else { return };
        let is_known = self.epochs.epoch_for(last.last_offset()) == Some(last.leader_epoch);
        if is_known || last.leader_epoch <= LeaderEpoch::NONE {
            return;
        }
        tracing::error!(dir = %self.dir.display(), epoch = %last.leader_epoch, "the leader epoch checkpoint does not fit the log and is made anew");
        // Of what lies only in the tier there is nothing else.
        self.epochs.truncate_from_end(self.segments[0].base_offset);
        for segment in &self.segments {
            let Ok(mut scan) = segment.files.scan(0, segment.size) else { continue };
            // A segment that can't be read tells its readers so.
            while let Ok(Some(batch)) = scan.next() {
                self.epochs.assign(batch.header.leader_epoch, batch.header.base_offset);
            }
        }
    }

    /// Transaction indexes that cannot be right are made anew from the batches, with all after them. Returns from where on.
    fn check_transaction_indexes(&mut self) -> Result<Option<Offset>, OpenError> {
        let mut lost_from = None;
        for segment in &mut self.segments {
            let index = &segment.files.transaction_index;
            let io_error = |source| OpenError::Io { path: index.file().path(), source };
            if lost_from.is_none() && !index.check(segment.base_offset).map_err(io_error)? {
                tracing::error!(path = %index.file().path().display(), "a damaged transaction index is made anew");
                lost_from = Some(segment.base_offset);
            }
            if lost_from.is_some() {
                index.clear().map_err(io_error)?;
                segment.unsynced = true;
            }
        }
        Ok(lost_from)
    }

    /// After a clean shutdown: from the last index entry to the end.
    fn find_end(&mut self) -> Result<(), OpenError> {
        if self.overlaps_previous(self.segments.len() - 1) {
            let path = self.active().files.log.path();
            return Err(OpenError::Corrupt {
                path,
                position: 0,
                what: "the segment before ends in this one".to_owned(),
            });
        }
        let active = self.active_mut();
        let mut end_offset = active.base_offset;
        if active.size > 0 {
            let path = active.files.offset_index.file().path();
            let io_error = |source| OpenError::Io { path: path.clone(), source };
            // An index of garbage is one more thing that recovery handles.
            end_offset = active.files.end_offset(active.size)?;
            active.load_max_timestamp().map_err(io_error)?;
            active.checked_max_timestamp()?;
            active.load_first_timestamp()?;
        }
        self.recovery_position = self.active().size;
        self.end_offset = end_offset;
        Ok(())
    }

    /// Whether the segment before goes on past where this one begins: its offsets must not be given out again.
    fn overlaps_previous(&self, index: usize) -> bool {
        let Some(before) = index.checked_sub(1).map(|before| &self.segments[before]) else { return false };
        before.files.readable_end_offset(before.size) > self.segments[index].base_offset
    }

    /// Reads and checks everything from `recovery_point` on.
    fn recover_from(&mut self, recovery_point: Offset) -> Result<(), OpenError> {
        let mut first = self.segment_index(recovery_point);
        while self.overlaps_previous(first) {
            first -= 1;
        }
        self.end_offset = self.segments[first].base_offset;
        let mut buffer = Vec::new();
        let mut index = first;
        while index < self.segments.len() {
            // Segments begin where the one before ends. One that begins within it is not part of the log, nor is one after
            // a gap: the end of the one before was lost in the crash. Only a follower may have been sent over a gap so
            // large that a segment cannot span it.
            let gap = self.segments[index].base_offset.0 - self.end_offset.0;
            let follows = gap == 0 || gap > i64::from(i32::MAX) || index == first;
            let whole = follows && self.recover_segment(index, recovery_point, &mut buffer)?;
            index += usize::from(follows);
            if !whole && index < self.segments.len() {
                // What follows a hole is not part of the log.
                let rest: Vec<_> = self.segments.drain(index..).collect();
                // ORDER: from the end, so that a crash in between leaves the same hole to be found.
                for segment in rest.iter().rev() {
                    tracing::warn!(log = %segment.files.log.path().display(), "a segment after a torn one is removed");
                    segment
                        .files
                        .handles()
                        .into_iter()
                        .try_for_each(|file| file.remove())
                        .map_err(|error| self.open_error(error))?;
                }
                self.names_version += 1;
            }
        }
        if self.end_offset > Offset(0) {
            // Nothing says what of it the last process synced. The segment before may have been cut, and the log rolled then:
            // its end would come back and take the offsets of what follows.
            self.segments[first.saturating_sub(1)..].iter_mut().for_each(|segment| segment.unsynced = true);
        }
        let active = self.active_mut();
        active.load_first_timestamp()?;
        self.recovery_position = 0;
        Ok(())
    }

    /// False: the segment was cut before its end, and something is missing there.
    fn recover_segment(
        &mut self,
        index: usize,
        recovery_point: Offset,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, OpenError> {
        let interval = self.config.index_interval_bytes;
        let is_sealed = index + 1 < self.segments.len();
        let log_path = self.segments[index].files.log.path();
        let io_error = |source| OpenError::Io { path: log_path.clone(), source };
        let (earlier, rest) = self.segments.split_at_mut(index);
        let segment = &mut rest[0];
        let files = Arc::clone(&segment.files);
        let file_size = segment.size;
        let (mut position, mut end_offset) = (0, segment.base_offset);
        let trusted = recovery_point > segment.base_offset
            && !files.offset_index.is_distrusted()
            && files.offset_index.check(file_size).map_err(io_error)?
            && files.time_index.check(Offset(i64::MAX)).map_err(io_error)?;
        if trusted {
            // Below the recovery point the indexes are synced, past it they are guesses.
            files.offset_index.truncate_to(recovery_point).map_err(io_error)?;
            files.time_index.truncate_to(recovery_point).map_err(io_error)?;
            files.transaction_index.truncate_to(recovery_point).map_err(io_error)?;
            match files.locate(recovery_point, file_size) {
                Ok(Some(batch)) => (position, end_offset) = (batch.position, batch.header.base_offset),
                Ok(None) => {
                    // All of it lies before: where it ends is asked of its last batches.
                    match files.end_offset(file_size) {
                        Ok(end) => (position, end_offset) = (file_size, end),
                        Err(SegmentError::Corrupt { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                    if !is_sealed && end_offset < recovery_point {
                        tracing::error!(path = %log_path.display(), %end_offset, %recovery_point,
                            "the log ends before what was on stable storage");
                    }
                }
                // Scanned from its beginning below, which says where it breaks.
                Err(SegmentError::Corrupt { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if position == 0 {
            end_offset = segment.base_offset;
            files.offset_index.clear().map_err(io_error)?;
            files.time_index.clear().map_err(io_error)?;
            files.transaction_index.truncate_to(recovery_point).map_err(io_error)?;
        }
        segment.on_truncated(position).map_err(io_error)?;
        segment.unsynced = position < file_size;
        let file = files.log.open().map_err(io_error)?;
        // Of the batch before the scan, not of the checkpoint: nothing says whether that is damaged.
        let before = match position > 0 {
            true => files.locate(end_offset.plus(-1), position)?,
            false => match earlier.last() {
                Some(before) => before.locate_header(end_offset.plus(-1)).ok().flatten(),
                None => None,
            },
        };
        let mut last_epoch = before.map(|before| before.header.leader_epoch);
        // The scan may begin before the recovery point, and finds them again from there on.
        self.epochs.truncate_from_end(end_offset);
        // What lies before the log start nobody reads: rotten or not, it must not take the rest along.
        let known_good = recovery_point.max(self.log_start_offset);
        while position < file_size {
            match checked_batch(&file, position, file_size, files.base_offset, end_offset, known_good, buffer)
                .map_err(io_error)?
            {
                // Epochs never go back along a log. Where they do, a truncation was not durable yet when the crash came,
                // and what follows the new batches is what it had cut off.
                Ok(header) if Some(header.leader_epoch) < last_epoch => {
                    tracing::warn!(path = %log_path.display(), position, offset = %header.base_offset, "batches of an older leader are cut");
                    break;
                }
                Ok(header) => {
                    last_epoch = Some(header.leader_epoch);
                    segment.on_appended(&header, interval).map_err(io_error)?;
                    self.epochs.assign(header.leader_epoch, header.base_offset);
                    end_offset = header.next_offset();
                    position += header.size_in_bytes() as u64;
                }
                Err(what) => {
                    tracing::warn!(path = %log_path.display(), position, file_size, %what, "the log is cut here");
                    break;
                }
            }
        }
        buffer.truncate(RECOVERY_BUFFER_KEPT);
        buffer.shrink_to(RECOVERY_BUFFER_KEPT);
        segment.forget_tail();
        self.end_offset = end_offset;
        if position < file_size {
            return self.cut_segment(index, position, file_size);
        }
        if is_sealed {
            self.segments[index].seal_time_index().map_err(io_error)?;
            // A full disk: they wait in memory.
            let _ = files.flush_indexes();
        }
        Ok(true)
    }

    fn cut_segment(&mut self, index: usize, position: u64, file_size: u64) -> Result<bool, OpenError> {
        let segment = &mut self.segments[index];
        segment.unsynced = true;
        if position < file_size {
            let cut = segment.files.log.open_to_write().and_then(|file| file.set_len(position));
            cut.map_err(|source| OpenError::Io { path: segment.files.log.path(), source })?;
        }
        // Only what was no batch is gone if the next one begins here: there is no hole.
        let follows = self.segments.get(index + 1).is_some_and(|next| next.base_offset == self.end_offset);
        if follows {
            let sealed = self.segments[index].seal_time_index();
            sealed.map_err(|error| self.open_error(error))?;
        }
        Ok(follows)
    }

    /// Snapshots stay where a segment begins, and the newest one; those after the end are of batches that are gone.
    fn remove_stray_snapshots(&mut self, believed: Offset) -> io::Result<()> {
        let end_offset = self.end_offset.min(believed);
        let kept: HashSet<Offset> = self.segments.iter().map(|segment| segment.base_offset).collect();
        let newest = self.snapshots.iter().rev().find(|offset| **offset <= end_offset).copied();
        self.remove_snapshots(|offset| {
            offset > end_offset || !(kept.contains(&offset) || Some(offset) == newest)
        })
    }
}

#[allow(clippy::too_many_arguments)] // One call; a struct for it would only be taken apart again.
/// The batch at a position if it holds: Err says why it does not.
fn checked_batch(
    file: &crate::disk::File,
    position: u64,
    file_size: u64,
    base_offset: Offset,
    end_offset: Offset,
    known_good: Offset,
    buffer: &mut Vec<u8>,
) -> io::Result<Result<ottla_batch::BatchHeader, String>> {
    use ottla_batch::{BatchHeader, HEADER_LEN};
    let rest = file_size - position;
    if rest < HEADER_LEN as u64 {
        return Ok(Err(format!("{rest} bytes are no batch")));
    }
    let mut header = [0; HEADER_LEN];
    file.read_exact_at(&mut header, position)?;
    let header = match BatchHeader::parse(&header) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error.to_string())),
    };
    if header.size_in_bytes() as u64 > rest {
        return Ok(Err(format!("a batch of {} bytes of which {rest} are there", header.size_in_bytes())));
    }
    if !continues(&header, base_offset, end_offset) {
        return Ok(Err(format!("a batch at offset {} where {end_offset} was expected", header.base_offset)));
    }
    buffer.resize(header.size_in_bytes(), 0);
    file.read_exact_at(buffer, position)?;
    match header.check_crc(buffer) {
        Err(_) if planted!("crc-unchecked-at-recovery") => Ok(Ok(header)),
        // It was on stable storage, so it is not torn but rotten. What lies behind it must not go with it; whoever reads it
        // sees by the CRC.
        Err(error) if header.last_offset() < known_good => {
            tracing::error!(position, offset = %header.base_offset, %error, "a damaged batch that was synced is kept");
            Ok(Ok(header))
        }
        checked => Ok(checked.map(|()| header).map_err(|error| error.to_string())),
    }
}

fn read_to_open(error: super::ReadError) -> OpenError {
    match error {
        super::ReadError::Io { path, source } => OpenError::Io { path, source },
        super::ReadError::Corrupt { path, position, what } => OpenError::Corrupt { path, position, what },
        error => OpenError::Io { path: PathBuf::new(), source: io::Error::other(error) },
    }
}

/// True when the directory did not exist.
fn prepare_dir(disk: &Disk, dir: &Path) -> Result<bool, OpenError> {
    let create = || {
        if disk.exists(dir)? {
            return Ok(false);
        }
        disk.create_dir_all(dir)?;
        disk.sync_parent(dir)?;
        Ok(true)
    };
    create().map_err(|source| OpenError::Io { path: dir.to_owned(), source })
}

fn check_topic_id(
    disk: &Disk,
    dir: &Path,
    expected: Option<uuid::Uuid>,
) -> Result<Option<uuid::Uuid>, OpenError> {
    let path = dir.join(partition_metadata::FILE_NAME);
    match (partition_metadata::read(disk, dir), expected) {
        (Ok(Some(found)), Some(expected)) if found != expected => {
            Err(OpenError::TopicIdMismatch { path, found, expected })
        }
        (Ok(None), Some(expected)) => match partition_metadata::write(disk, dir, expected) {
            Ok(()) => Ok(Some(expected)),
            Err(source) => Err(OpenError::Io { path, source }),
        },
        (Ok(found), _) => Ok(found),
        (Err(PartitionMetadataError::Io(source)), _) => Err(OpenError::Io { path, source }),
        // Whose data it is must be known before it is touched.
        (Err(PartitionMetadataError::Malformed(what)), _) => {
            Err(OpenError::Corrupt { path, position: 0, what: what.to_owned() })
        }
    }
}

#[derive(Default)]
struct Found {
    segments: BTreeMap<Offset, FoundSegment>,
    snapshots: Vec<Offset>,
}

#[derive(Default)]
struct FoundSegment {
    offset_index: bool,
    time_index: bool,
    transaction_index: bool,
}

impl Found {
    /// Finishes what a crash interrupted, and lists what is there then.
    fn list(disk: &Disk, dir: &Path) -> io::Result<Found> {
        let names: Vec<String> =
            disk.read_dir(dir)?.into_iter().filter(|entry| !entry.is_dir).map(|entry| entry.name).collect();
        let swapped = complete_swaps(disk, dir, &names)?;
        let leftover = |name: &String| {
            [DELETED_SUFFIX, CLEANED_SUFFIX, SWAP_SUFFIX, ".tmp"].iter().any(|suffix| name.ends_with(suffix))
        };
        // ORDER: after the swaps. Until the new segment is in place durably, `.deleted` files may be all there is.
        for name in names.iter().filter(|name| leftover(name)) {
            disk.remove_file(&dir.join(name))?;
        }
        let names = match swapped {
            false => names,
            true => disk.read_dir(dir)?.into_iter().map(|entry| entry.name).collect(),
        };
        let mut found = Found::default();
        for name in &names {
            if let Some(base_offset) = parse_name(name, LOG_SUFFIX) {
                found.segments.entry(base_offset).or_default();
            }
        }
        for name in &names {
            let kinds = [OFFSET_INDEX_SUFFIX, TIME_INDEX_SUFFIX, TRANSACTION_INDEX_SUFFIX];
            for (kind, suffix) in kinds.into_iter().enumerate() {
                let Some(base_offset) = parse_name(name, suffix) else { continue };
                match found.segments.get_mut(&base_offset) {
                    Some(segment) if kind == 0 => segment.offset_index = true,
                    Some(segment) if kind == 1 => segment.time_index = true,
                    Some(segment) => segment.transaction_index = true,
                    None => disk.remove_file(&dir.join(name))?,
                }
            }
            found.snapshots.extend(parse_name(name, SNAPSHOT_SUFFIX));
        }
        found.snapshots.sort_unstable();
        Ok(found)
    }
}

/// `<20 digits><suffix>`
fn parse_name(name: &str, suffix: &str) -> Option<Offset> {
    let digits = name.strip_suffix(suffix)?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).map(Offset)
}

/// A `.log.swap` is whole and synced (see `compact`): it replaces every segment that begins within it. Its indexes are
/// not looked for but rebuilt.
fn complete_swaps(disk: &Disk, dir: &Path, names: &[String]) -> io::Result<bool> {
    let swap_suffix = format!("{LOG_SUFFIX}{SWAP_SUFFIX}");
    let mut swapped = false;
    for name in names {
        let Some(base_offset) = parse_name(name, &swap_suffix) else { continue };
        tracing::info!(path = %dir.join(name).display(), "finishing a compaction");
        let size = disk.file_len(&dir.join(name))?;
        let handle = disk.handle(dir.join(name));
        let end_offset = last_offset(&handle, size)?.map_or(base_offset, |last| last.plus(1));
        for other in names {
            let Some(other_base) = parse_name(other, LOG_SUFFIX) else { continue };
            if other_base > base_offset && other_base < end_offset {
                for suffix in [OFFSET_INDEX_SUFFIX, TIME_INDEX_SUFFIX, TRANSACTION_INDEX_SUFFIX, LOG_SUFFIX] {
                    disk.remove_file(&dir.join(file_name(other_base, suffix)))?;
                }
            }
        }
        for suffix in [OFFSET_INDEX_SUFFIX, TIME_INDEX_SUFFIX] {
            disk.remove_file(&dir.join(file_name(base_offset, suffix)))?;
            disk.remove_file(&dir.join(file_name(base_offset, suffix) + SWAP_SUFFIX))?;
        }
        // The transaction index can't be rebuilt. While the old log file is there, an index without suffix is the old
        // one and goes with it; later it can only be the new one.
        if names.contains(&file_name(base_offset, LOG_SUFFIX)) {
            disk.remove_file(&dir.join(file_name(base_offset, TRANSACTION_INDEX_SUFFIX)))?;
            disk.remove_file(&dir.join(file_name(base_offset, LOG_SUFFIX)))?;
        }
        // ORDER: what the new segment replaces is gone durably before any part of it takes its place.
        disk.sync_dir(dir)?;
        let transactions = dir.join(file_name(base_offset, TRANSACTION_INDEX_SUFFIX));
        let swapped_transactions = dir.join(file_name(base_offset, TRANSACTION_INDEX_SUFFIX) + SWAP_SUFFIX);
        if disk.exists(&swapped_transactions)? {
            disk.rename(&swapped_transactions, &transactions)?;
        }
        drop(handle);
        // ORDER: the log file last, in case renames become durable one by one: until then this is done again.
        disk.rename(&dir.join(name), &dir.join(file_name(base_offset, LOG_SUFFIX)))?;
        swapped = true;
    }
    if swapped {
        disk.sync_dir(dir)?;
    }
    Ok(swapped)
}

fn last_offset(handle: &crate::disk::FileHandle, size: u64) -> io::Result<Option<Offset>> {
    let mut scan = super::segment::HeaderScan::new(handle.open()?, handle.clone(), 0, size);
    let mut last = None;
    while let Some(batch) = scan.next()? {
        last = Some(batch.header.last_offset());
    }
    Ok(last)
}
