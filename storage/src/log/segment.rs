//! One segment: a log file, its indexes, and how to find batches in it.
//!
//! The files are in [`SegmentFiles`], shared with syncs and compactions that run without the log's lock; what changes with
//! each append is in [`Segment`] and belongs to the log. Positions count bytes in the log file and fit into 31 bits.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ottla_batch::{BatchHeader, HEADER_LEN, Offset, TimestampMs};

use super::offset_index::OffsetIndex;
use super::time_index::{TimeEntry, TimeIndex};
use super::transaction_index::{Presence, TransactionIndex};
use crate::disk::{Disk, File, FileHandle};

pub(crate) const LOG_SUFFIX: &str = ".log";
pub(crate) const OFFSET_INDEX_SUFFIX: &str = ".index";
pub(crate) const TIME_INDEX_SUFFIX: &str = ".timeindex";
pub(crate) const TRANSACTION_INDEX_SUFFIX: &str = ".txnindex";
pub(crate) const SNAPSHOT_SUFFIX: &str = ".snapshot";
pub(crate) const DELETED_SUFFIX: &str = ".deleted";
pub(crate) const CLEANED_SUFFIX: &str = ".cleaned";
pub(crate) const SWAP_SUFFIX: &str = ".swap";

/// Positions are i32 in Kafka's index files.
pub(crate) const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// Headers are read in pieces of this size: what an index entry leaves to be scanned fits mostly into one.
const SCAN_CHUNK: usize = 4096;

/// `00000000000000000042.log` and its like.
pub(crate) fn file_name(offset: Offset, suffix: &str) -> String {
    format!("{:020}{suffix}", offset.0)
}

/// Why a segment could not be read.
#[derive(Debug)]
pub(crate) enum SegmentError {
    Io { path: PathBuf, source: io::Error },
    Corrupt { path: PathBuf, position: u64, what: String },
}

pub(crate) struct SegmentFiles {
    pub base_offset: Offset,
    pub log: FileHandle,
    pub offset_index: OffsetIndex,
    pub time_index: TimeIndex,
    pub transaction_index: TransactionIndex,
}

impl SegmentFiles {
    /// `suffix` follows Kafka's own one: "" or `.cleaned`.
    pub(crate) fn new(disk: &Disk, dir: &Path, base_offset: Offset, suffix: &str) -> SegmentFiles {
        let name = |kind: &str| disk.handle(dir.join(file_name(base_offset, kind) + suffix));
        SegmentFiles {
            base_offset,
            log: name(LOG_SUFFIX),
            offset_index: OffsetIndex::new(name(OFFSET_INDEX_SUFFIX), base_offset),
            time_index: TimeIndex::new(name(TIME_INDEX_SUFFIX), base_offset),
            transaction_index: TransactionIndex::existing(name(TRANSACTION_INDEX_SUFFIX)),
        }
    }

    pub(crate) fn existing(
        disk: &Disk,
        dir: &Path,
        base_offset: Offset,
        txn_index: Presence,
    ) -> SegmentFiles {
        let name = |kind: &str| disk.handle(dir.join(file_name(base_offset, kind)));
        SegmentFiles {
            base_offset,
            log: name(LOG_SUFFIX),
            offset_index: OffsetIndex::existing(name(OFFSET_INDEX_SUFFIX), base_offset),
            time_index: TimeIndex::existing(name(TIME_INDEX_SUFFIX), base_offset),
            transaction_index: TransactionIndex::known(name(TRANSACTION_INDEX_SUFFIX), txn_index),
        }
    }

    /// In the order in which they may be taken away: the log file, which makes it a segment, goes last.
    pub(crate) fn handles(&self) -> [&FileHandle; 4] {
        [self.offset_index.file(), self.time_index.file(), self.transaction_index.file(), &self.log]
    }

    pub(crate) fn flush_indexes(&self) -> io::Result<()> {
        self.offset_index.flush()?;
        self.time_index.flush()
    }

    pub(crate) fn close(&self) {
        self.handles().into_iter().for_each(FileHandle::close);
    }

    fn io_error(&self, source: io::Error) -> SegmentError {
        SegmentError::Io { path: self.log.path(), source }
    }

    pub(crate) fn scan(&self, position: u64, end: u64) -> Result<HeaderScan, SegmentError> {
        let file = self.log.open().map_err(|error| self.io_error(error))?;
        Ok(HeaderScan::new(file, self.log.clone(), position, end))
    }

    /// Where the last batch ends, from the headers since the last index entry. Corrupt when the entry cannot be of the batch
    /// there (Kafka's may be of several batches), or offsets do not grow: the CRC of a batch does not cover its offset.
    pub(crate) fn end_offset(&self, size: u64) -> Result<Offset, SegmentError> {
        let entry = self.offset_index.last().map_err(|error| self.io_error(error))?;
        let position = entry.map_or(0, |entry| u64::from(entry.position));
        let corrupt =
            |position: u64, what: String| SegmentError::Corrupt { path: self.log.path(), position, what };
        if position > 0 && position >= size {
            return Err(corrupt(position, "the index points past the end".to_owned()));
        }
        let mut indexed = entry.map(|entry| self.base_offset.plus(i64::from(entry.offset_delta)));
        let mut end_offset = self.base_offset;
        let mut scan = self.scan(position, size)?;
        while let Some(batch) = scan.next()? {
            let header = &batch.header;
            if !continues(header, self.base_offset, end_offset)
                || indexed.take().is_some_and(|indexed| indexed < header.last_offset())
            {
                let what =
                    format!("a batch at offset {} where {end_offset} was expected", header.base_offset);
                return Err(corrupt(batch.position, what));
            }
            end_offset = header.next_offset();
        }
        Ok(end_offset)
    }

    /// As `end_offset`, but of as much as can be read, whatever the index says.
    pub(crate) fn readable_end_offset(&self, size: u64) -> Offset {
        if let Ok(end_offset) = self.end_offset(size) {
            return end_offset;
        }
        let mut end_offset = self.base_offset;
        if let Ok(mut scan) = self.scan(0, size) {
            while let Ok(Some(batch)) = scan.next() {
                if !continues(&batch.header, self.base_offset, end_offset) {
                    break;
                }
                end_offset = batch.header.next_offset();
            }
        }
        end_offset
    }

    /// The whole batch at a position.
    pub(crate) fn read_batch(
        &self,
        position: u64,
        header: &BatchHeader,
    ) -> Result<bytes::Bytes, SegmentError> {
        let mut batch = vec![0; header.size_in_bytes()];
        let file = self.log.open().map_err(|error| self.io_error(error))?;
        file.read_exact_at(&mut batch, position).map_err(|error| self.io_error(error))?;
        Ok(batch.into())
    }
}

/// Whether a batch may follow one that ends at `end_offset`, in a segment that begins at `base_offset`.
pub(crate) fn continues(header: &BatchHeader, base_offset: Offset, end_offset: Offset) -> bool {
    header.base_offset >= end_offset
        && header.last_offset_delta >= 0
        && header.last_offset().0.saturating_sub(base_offset.0) <= i64::from(i32::MAX)
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Located {
    pub header: BatchHeader,
    pub position: u64,
}

/// Walks the batch headers of a file from one position to another.
pub(crate) struct HeaderScan {
    file: Arc<File>,
    handle: FileHandle,
    position: u64,
    end: u64,
    chunk: [u8; SCAN_CHUNK],
    chunk_at: u64,
    chunk_len: usize,
}

impl HeaderScan {
    pub(crate) fn new(file: Arc<File>, handle: FileHandle, position: u64, end: u64) -> HeaderScan {
        HeaderScan { file, handle, position, end, chunk: [0; SCAN_CHUNK], chunk_at: 0, chunk_len: 0 }
    }

    fn corrupt(&self, what: String) -> SegmentError {
        SegmentError::Corrupt { path: self.handle.path(), position: self.position, what }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.position >= self.end
    }

    /// The next batch. It lies wholly before the end, or the result is an error.
    pub(crate) fn next(&mut self) -> Result<Option<Located>, SegmentError> {
        if self.position >= self.end {
            return Ok(None);
        }
        let within = self.position.wrapping_sub(self.chunk_at) as usize;
        let bytes = if self.position >= self.chunk_at && within + HEADER_LEN <= self.chunk_len {
            &self.chunk[within..within + HEADER_LEN]
        } else {
            let wanted = (self.end - self.position).min(SCAN_CHUNK as u64) as usize;
            let read = self.file.read_full_at(&mut self.chunk[..wanted], self.position);
            self.chunk_len = read.map_err(|source| SegmentError::Io { path: self.handle.path(), source })?;
            self.chunk_at = self.position;
            &self.chunk[..self.chunk_len.min(HEADER_LEN)]
        };
        let header = BatchHeader::parse(bytes).map_err(|error| self.corrupt(error.to_string()))?;
        let position = self.position;
        if position + header.size_in_bytes() as u64 > self.end {
            return Err(self.corrupt(format!(
                "a batch of {} bytes, but the log ends at {}",
                header.size_in_bytes(),
                self.end
            )));
        }
        self.position += header.size_in_bytes() as u64;
        Ok(Some(Located { header, position }))
    }
}

/// Where the last few batches of the active segment lie: what consumers at the end of the log, and the high watermark,
/// are looked up by. Spares the system calls that finding them in the file would cost.
struct Tail {
    /// A ring, the oldest at `len % TAIL_BATCHES` once it is full.
    batches: [TailBatch; TAIL_BATCHES],
    len: usize,
}

const TAIL_BATCHES: usize = 32;

#[derive(Clone, Copy, Default)]
struct TailBatch {
    base_offset: Offset,
    last_offset: Offset,
    position: u32,
    size: u32,
}

impl Tail {
    fn push(&mut self, batch: TailBatch) {
        self.batches[self.len % TAIL_BATCHES] = batch;
        self.len += 1;
    }

    fn find(&self, offset: Offset) -> Option<TailBatch> {
        let known = self.len.min(TAIL_BATCHES);
        let mut found = None;
        // From the newest back: the first one that ends before the offset shows that the one found is the right one.
        for back in 1..=known {
            let batch = self.batches[(self.len - back) % TAIL_BATCHES];
            if batch.last_offset < offset {
                return found;
            }
            found = Some(batch);
            if batch.base_offset <= offset {
                return found;
            }
        }
        None
    }
}

pub(crate) struct Segment {
    pub files: Arc<SegmentFiles>,
    pub base_offset: Offset,
    /// End of the last batch in the log file.
    pub size: u64,
    /// Not all of it is known to be on stable storage.
    pub unsynced: bool,
    /// Kafka's `rollingBasedTimestamp`: largest timestamp of the first batch. None: not looked at, or no batch.
    pub first_timestamp: Option<TimestampMs>,
    /// For segments without timestamps: when this one was opened or created.
    pub created: TimestampMs,
    bytes_since_index_entry: u64,
    /// Largest timestamp so far; for a sealed segment in its time index.
    max_timestamp: Option<TimeEntry>,
    /// That the batch named there has it; of a file that may be damaged.
    max_is_checked: AtomicBool,
    tail: Option<Box<Tail>>,
}

/// A batch's place as the slice of a read needs it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub base_offset: Offset,
    pub position: u64,
    pub size: u64,
}

impl Segment {
    pub(crate) fn new(files: SegmentFiles, size: u64, now: TimestampMs) -> Segment {
        Segment {
            base_offset: files.base_offset,
            files: Arc::new(files),
            size,
            unsynced: false,
            first_timestamp: None,
            created: now,
            bytes_since_index_entry: 0,
            max_timestamp: None,
            max_is_checked: AtomicBool::new(false),
            tail: None,
        }
    }

    /// A batch was written at `position == size`.
    pub(crate) fn on_appended(&mut self, header: &BatchHeader, index_interval_bytes: u32) -> io::Result<()> {
        let position = self.size;
        let size = header.size_in_bytes() as u64;
        self.size += size;
        self.unsynced = true;
        self.first_timestamp.get_or_insert(header.max_timestamp);
        if self.max_timestamp.is_none_or(|max| header.max_timestamp > max.timestamp) {
            self.max_timestamp =
                Some(TimeEntry { timestamp: header.max_timestamp, offset: header.last_offset() });
        }
        if self.bytes_since_index_entry > u64::from(index_interval_bytes) {
            self.files.offset_index.append(header.last_offset(), position);
            if let Some(max) = self.max_timestamp {
                self.files.time_index.append(max)?;
            }
            self.bytes_since_index_entry = 0;
        }
        self.bytes_since_index_entry += size;
        let tail = self.tail.get_or_insert_with(|| Box::new(Tail { batches: Default::default(), len: 0 }));
        tail.push(TailBatch {
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            position: position as u32,
            size: size as u32,
        });
        Ok(())
    }

    /// Drops what only an active segment in use needs.
    pub(crate) fn forget_tail(&mut self) {
        self.tail = None;
    }

    /// Largest timestamp and the last offset of the batch that has it.
    pub(crate) fn max_timestamp(&self) -> io::Result<Option<TimeEntry>> {
        match self.max_timestamp {
            Some(max) => Ok(Some(max)),
            None => self.files.time_index.last(),
        }
    }

    /// `max_timestamp` if the batch it names has it. If not, the indexes are not used any more until they are rebuilt.
    pub(crate) fn checked_max_timestamp(&self) -> Result<Option<TimeEntry>, SegmentError> {
        let max = self.max_timestamp().map_err(|error| self.files.io_error(error))?;
        let Some(max) = max.filter(|_| !self.files.time_index.is_distrusted()) else { return Ok(None) };
        if self.max_is_checked.load(Ordering::Relaxed) {
            return Ok(Some(max));
        }
        let is_right = self.files.batch_of(max, self.size)?.is_some();
        self.max_is_checked.store(is_right, Ordering::Relaxed);
        Ok(is_right.then_some(max))
    }

    /// Whether no record is newer than `max`, which `checked_max_timestamp` gave. Reads the headers from there on: entries
    /// at the end of the time index may be lost.
    pub(crate) fn has_none_newer(&self, max: TimeEntry) -> Result<bool, SegmentError> {
        let from = self.position_of(max.offset)?;
        let mut scan = self.files.scan(from, self.size)?;
        while let Some(batch) = scan.next()? {
            if batch.header.max_timestamp > max.timestamp {
                self.files.distrust_times();
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes what the time index says as the largest timestamp so far, before more is appended.
    pub(crate) fn load_max_timestamp(&mut self) -> io::Result<()> {
        self.max_is_checked.store(false, Ordering::Relaxed);
        self.max_timestamp = self.files.time_index.last()?;
        Ok(())
    }

    /// The largest timestamp gets its entry, so that the index alone says how old the segment is.
    pub(crate) fn seal_time_index(&self) -> io::Result<()> {
        match self.max_timestamp {
            Some(max) => self.files.time_index.append(max),
            None => Ok(()),
        }
    }

    pub(crate) fn load_first_timestamp(&mut self) -> Result<(), SegmentError> {
        if self.first_timestamp.is_none() && self.size > 0 {
            let first = self.files.scan(0, self.size)?.next()?;
            self.first_timestamp = first.map(|first| first.header.max_timestamp);
        }
        Ok(())
    }

    /// The first batch whose last offset is at least `offset`.
    pub(crate) fn locate(&self, offset: Offset) -> Result<Option<Place>, SegmentError> {
        if let Some(batch) = self.tail.as_ref().and_then(|tail| tail.find(offset)) {
            return Ok(Some(Place {
                base_offset: batch.base_offset,
                position: u64::from(batch.position),
                size: u64::from(batch.size),
            }));
        }
        let found = self.locate_header(offset)?;
        Ok(found.map(|found| Place {
            base_offset: found.header.base_offset,
            position: found.position,
            size: found.header.size_in_bytes() as u64,
        }))
    }

    pub(crate) fn locate_header(&self, offset: Offset) -> Result<Option<Located>, SegmentError> {
        self.files.locate(offset, self.size)
    }

    /// Position of the batch that holds `offset`, or of the end.
    pub(crate) fn position_of(&self, offset: Offset) -> Result<u64, SegmentError> {
        Ok(self.locate(offset)?.map_or(self.size, |place| place.position))
    }

    /// After the log file was cut (or written anew) elsewhere: forgets what was known of what is gone.
    pub(crate) fn on_truncated(&mut self, size: u64) -> io::Result<()> {
        self.size = size;
        self.unsynced = true;
        self.tail = None;
        self.bytes_since_index_entry = 0;
        if size == 0 {
            self.first_timestamp = None;
        }
        self.load_max_timestamp()
    }
}

impl SegmentFiles {
    /// The first batch whose last offset is at least `offset`, in the first `size` bytes.
    pub(crate) fn locate(&self, offset: Offset, size: u64) -> Result<Option<Located>, SegmentError> {
        let hint = self.offset_index.lookup(offset).map_err(|error| self.io_error(error))?;
        if hint > 0 {
            match self.locate_from(hint, offset, size) {
                Ok(Some(found)) if found.position == hint && found.header.base_offset > offset => {}
                // Nothing at or after a wrong hint proves nothing either.
                Ok(None) if hint >= size => {}
                // Without the index nothing behind a damaged batch would be found: it is blamed only if the batches hold.
                Err(SegmentError::Corrupt { .. }) => {
                    let found = self.locate_from(0, offset, size)?;
                    self.distrust_offsets(offset, hint);
                    return Ok(found);
                }
                found => return found,
            }
            self.distrust_offsets(offset, hint);
        }
        self.locate_from(0, offset, size)
    }

    fn distrust_offsets(&self, offset: Offset, hint: u64) {
        let path = self.offset_index.file().path();
        tracing::warn!(path = %path.display(), %offset, hint, "a wrong index is not used any more until it is rebuilt");
        self.offset_index.distrust();
    }

    /// The batch that an entry of the time index is of; None, and no more trust, if there is no such one.
    pub(crate) fn batch_of(&self, entry: TimeEntry, size: u64) -> Result<Option<Located>, SegmentError> {
        let found = self.locate(entry.offset, size)?.filter(|found| {
            found.header.base_offset <= entry.offset && found.header.max_timestamp == entry.timestamp
        });
        if found.is_none() {
            self.distrust_times();
        }
        Ok(found)
    }

    fn distrust_times(&self) {
        let path = self.time_index.file().path();
        tracing::warn!(path = %path.display(), "a wrong time index is not used any more until it is rebuilt");
        self.time_index.distrust();
    }

    /// Whether an index was found to be wrong since it was made. Both are rebuilt together.
    pub(crate) fn indexes_are_distrusted(&self) -> bool {
        self.offset_index.is_distrusted() || self.time_index.is_distrusted()
    }

    fn locate_from(&self, from: u64, offset: Offset, size: u64) -> Result<Option<Located>, SegmentError> {
        let mut scan = self.scan(from, size)?;
        while let Some(found) = scan.next()? {
            if found.header.last_offset() >= offset {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

impl From<SegmentError> for super::ReadError {
    fn from(error: SegmentError) -> super::ReadError {
        match error {
            SegmentError::Io { path, source } => super::ReadError::Io { path, source },
            SegmentError::Corrupt { path, position, what } => {
                super::ReadError::Corrupt { path, position, what }
            }
        }
    }
}

impl From<SegmentError> for super::OpenError {
    fn from(error: SegmentError) -> super::OpenError {
        match error {
            SegmentError::Io { path, source } => super::OpenError::Io { path, source },
            SegmentError::Corrupt { path, position, what } => {
                super::OpenError::Corrupt { path, position, what }
            }
        }
    }
}

impl From<SegmentError> for super::CompactError {
    fn from(error: SegmentError) -> super::CompactError {
        match error {
            SegmentError::Io { path, source } => super::CompactError::Io { path, source },
            SegmentError::Corrupt { path, position, what } => {
                super::CompactError::Corrupt { path, position, what }
            }
        }
    }
}

impl From<SegmentError> for super::ChangeError {
    fn from(error: SegmentError) -> super::ChangeError {
        super::ChangeError::Read(error.into())
    }
}
