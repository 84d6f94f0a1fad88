//! Sealed segments on their way to the tier: which one is next, and the object made of it.
//!
//! The object is made of the batches alone. They are read and checked once anyway, since what is damaged must not take the
//! place of a good copy; the indexes made on the way cannot be as wrong as files may be. Only aborted transactions, epochs and
//! producers come from the log, which knows what was before the segment.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use ottla_batch::{BatchHeader, HEADER_LEN, LeaderEpoch, NO_TIMESTAMP, Offset, TimestampMs, crc32c};

use super::offset_index::IndexEntry;
use super::segment::{SNAPSHOT_SUFFIX, continues, file_name};
use super::time_index::TimeEntry;
use super::transaction_index::AbortedTxn;
use super::{Log, ReadError};
use crate::disk::File;
use crate::tiering::key::SegmentKey;
use crate::tiering::object::{Footer, Section};
use crate::tiering::store::Content;

const READ_BYTES: usize = 1 << 20;

/// A segment that gets no more batches and is wholly on stable storage, as of one moment. Stays readable when the log
/// deletes it; a segment that is compacted or truncated meanwhile is another one.
pub struct SealedSegment {
    pub base_offset: Offset,
    /// Exclusive.
    pub end_offset: Offset,
    pub size: u64,
    /// The epochs of its records and where in it they begin.
    pub record_epochs: Vec<(LeaderEpoch, Offset)>,
    file: Arc<File>,
    path: PathBuf,
    index_interval_bytes: u64,
    aborted: Vec<AbortedTxn>,
    epochs: String,
    producers: Bytes,
}

/// What of a log is not in the tier, or not all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PastTier {
    pub sealed_segments: u64,
    pub sealed_bytes: u64,
    /// With the active segment.
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} at position {position}: {what}")]
    Corrupt { path: PathBuf, position: u64, what: String },
}

impl Log {
    /// The first sealed segment with records at or after `from`. None when it ends past `limit`, or is not yet known to be
    /// on stable storage.
    pub fn sealed_segment(&self, from: Offset, limit: Offset) -> Result<Option<SealedSegment>, ReadError> {
        self.latch.check()?;
        let index = self.segment_index(from.max(self.log_start_offset));
        let Some(next) = self.segments.get(index + 1) else { return Ok(None) };
        let (segment, end_offset) = (&self.segments[index], next.base_offset);
        if end_offset > limit.min(self.recovery_point()) || segment.size == 0 {
            return Ok(None);
        }
        let path = segment.files.log.path();
        let file = segment.files.log.open();
        let file = file.map_err(|source| ReadError::Io { path: path.clone(), source })?;
        let transactions = &segment.files.transaction_index;
        let aborted = transactions.entries();
        let aborted = aborted.map_err(|source| ReadError::Io { path: transactions.file().path(), source })?;
        Ok(Some(SealedSegment {
            base_offset: segment.base_offset,
            end_offset,
            size: segment.size,
            record_epochs: self.epochs.within(segment.base_offset, end_offset),
            file,
            path,
            index_interval_bytes: u64::from(self.config.index_interval_bytes),
            aborted,
            epochs: self.epochs.up_to(end_offset).encode(),
            producers: self.producers_at(end_offset)?,
        }))
    }

    /// What of the log lies past the end of the tier.
    pub fn past(&self, tier_end: Offset) -> PastTier {
        let mut past = PastTier::default();
        for (index, segment) in self.segments.iter().enumerate().rev() {
            match self.segments.get(index + 1) {
                Some(next) if next.base_offset <= tier_end => break,
                Some(_) => {
                    past.sealed_segments += 1;
                    past.sealed_bytes += segment.size;
                }
                None => {}
            }
            past.bytes += segment.size;
        }
        past
    }

    /// The producer snapshot of an offset at which a segment begins.
    fn producers_at(&self, offset: Offset) -> Result<Bytes, ReadError> {
        let path = self.dir.join(file_name(offset, SNAPSHOT_SUFFIX));
        if let Some((content, _)) = self.read_snapshot(&path)? {
            return Ok(content.into());
        }
        Ok(self.replay_producers(offset, offset, None)?.encode_snapshot().into())
    }
}

impl SealedSegment {
    /// What is to be stored under `key`, which names this segment. Reads all of it; to be run without the log's lock.
    pub fn into_object(self, key: &SegmentKey) -> Result<Content, SealedError> {
        debug_assert_eq!((key.base_offset, key.end_offset), (self.base_offset, self.end_offset));
        let indexed = self.index()?;
        let mut transaction_index = Vec::new();
        self.aborted.iter().for_each(|aborted| transaction_index.extend_from_slice(&aborted.encode()));
        let behind: [Bytes; Section::ALL.len() - 1] = [
            indexed.offset_index.into(),
            indexed.time_index.into(),
            transaction_index.into(),
            self.epochs.into(),
            self.producers,
        ];
        let mut sections = [(self.size, indexed.crc); Section::ALL.len()];
        for (section, bytes) in sections[1..].iter_mut().zip(&behind) {
            *section = (bytes.len() as u64, crc32c(bytes));
        }
        let mut content = Content::default();
        content.push_file(self.file, 0, self.size);
        behind.into_iter().for_each(|bytes| content.push_bytes(bytes));
        content.push_bytes(Footer::new(key, indexed.max_timestamp, sections).encode().into());
        Ok(content)
    }

    fn index(&self) -> Result<Indexed, SealedError> {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let mut indexed = Indexed::default();
        let mut largest: Option<TimeEntry> = None;
        let mut indexed_time = None;
        let (mut end_offset, mut since_entry) = (self.base_offset, 0);
        self.for_each_batch(|position, header, batch| {
            header.check_crc(batch).map_err(|error| error.to_string())?;
            if !continues(header, self.base_offset, end_offset) || header.next_offset() > self.end_offset {
                return Err(format!("a batch at offset {} after {end_offset}", header.base_offset));
            }
            end_offset = header.next_offset();
            digest.update(batch);
            if header.max_timestamp > largest.map_or(NO_TIMESTAMP, |largest| largest.timestamp) {
                largest = Some(TimeEntry { timestamp: header.max_timestamp, offset: header.last_offset() });
            }
            // As the active segment indexes its batches.
            if since_entry > self.index_interval_bytes {
                let offset_delta = (header.last_offset().0 - self.base_offset.0) as u32;
                let entry = IndexEntry { offset_delta, position: position as u32 };
                indexed.offset_index.extend_from_slice(&entry.encode());
                if largest != indexed_time {
                    indexed_time = largest;
                    let entry = largest.map(|largest| largest.encode(self.base_offset));
                    indexed.time_index.extend(entry.into_iter().flatten());
                }
                since_entry = 0;
            }
            since_entry += batch.len() as u64;
            Ok(())
        })?;
        if largest != indexed_time {
            let entry = largest.map(|largest| largest.encode(self.base_offset));
            indexed.time_index.extend(entry.into_iter().flatten());
        }
        indexed.max_timestamp = largest.map(|largest| largest.timestamp);
        indexed.crc = digest.finalize() as u32;
        Ok(indexed)
    }

    fn for_each_batch(
        &self,
        mut visit: impl FnMut(u64, &BatchHeader, &[u8]) -> Result<(), String>,
    ) -> Result<(), SealedError> {
        let io_error = |source| SealedError::Io { path: self.path.clone(), source };
        let mut buffer = Vec::new();
        let mut position = 0;
        while position < self.size {
            let corrupt = |what: String| SealedError::Corrupt { path: self.path.clone(), position, what };
            let rest = self.size - position;
            buffer.resize(rest.min(READ_BYTES as u64) as usize, 0);
            self.file.read_exact_at(&mut buffer, position).map_err(io_error)?;
            let header = BatchHeader::parse(&buffer).map_err(|error| corrupt(error.to_string()))?;
            if header.size_in_bytes() as u64 > rest {
                return Err(corrupt(format!(
                    "a batch of {} bytes of which {rest} are there",
                    header.size_in_bytes()
                )));
            }
            if header.size_in_bytes() > buffer.len() {
                buffer.resize(header.size_in_bytes(), 0);
                self.file.read_exact_at(&mut buffer, position).map_err(io_error)?;
            }
            let mut at = 0;
            while buffer.len() - at >= HEADER_LEN {
                let here = position + at as u64;
                let corrupt =
                    |what: String| SealedError::Corrupt { path: self.path.clone(), position: here, what };
                let header = BatchHeader::parse(&buffer[at..]).map_err(|error| corrupt(error.to_string()))?;
                let Some(batch) = buffer.get(at..at + header.size_in_bytes()) else { break };
                visit(here, &header, batch).map_err(corrupt)?;
                at += batch.len();
            }
            position += at as u64;
        }
        Ok(())
    }
}

#[derive(Default)]
struct Indexed {
    offset_index: Vec<u8>,
    time_index: Vec<u8>,
    max_timestamp: Option<TimestampMs>,
    crc: u32,
}
