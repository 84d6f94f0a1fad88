//! Finding batches: by offset, by time, by the largest time; and the aborted transactions among them.
//!
//! A read looks at headers only and hands out a place in a file; the payload goes from there to the socket. It is safe beside appends
//! because a slice never reaches past the size that the segment had, and appends only write after that.

use std::sync::Arc;

use bytes::Bytes;
use ottla_batch::{BatchHeader, LeaderEpoch, Offset, RecordIter, TimestampMs};

use super::segment::{Located, Segment};
use super::{AbortedTransaction, Log, ReadError, TimestampedOffset};
use crate::disk::File;

/// Whether the first batch of a read comes whole although it is larger than the bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBatch {
    Whole,
    MayBeCut,
}

/// A piece of one segment file. Holds the file open; stays readable whatever happens to the log.
#[derive(Debug, Clone)]
pub struct LogSlice {
    /// None only when `len` is 0.
    pub file: Option<Arc<File>>,
    pub position: u64,
    pub len: usize,
    /// Base offset of the first batch, which may lie before the offset asked for (a batch is never split at its front).
    pub base_offset: Offset,
    /// Base offset of the segment the slice is in.
    pub segment_base_offset: Offset,
}

impl LogSlice {
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads the bytes, for where they cannot go by `sendfile` (TLS, the simulated disk, the broker's own reads).
    pub fn read(&self) -> std::io::Result<Bytes> {
        let Some(file) = self.file.as_ref().filter(|_| self.len > 0) else { return Ok(Bytes::new()) };
        let mut buffer = vec![0; self.len];
        file.read_exact_at(&mut buffer, self.position)?;
        Ok(buffer.into())
    }
}

impl Log {
    /// From the batch that holds `from` on, within one segment, up to `limit` (exclusive). The last batch may be cut at
    /// `bytes_max`, as Kafka does. Empty at the end of the log and where nothing is left below `limit`.
    pub fn read(
        &self,
        from: Offset,
        limit: Offset,
        bytes_max: usize,
        first: FirstBatch,
    ) -> Result<LogSlice, ReadError> {
        self.latch.check()?;
        if from < self.log_start_offset || from > self.end_offset {
            return Err(ReadError::OffsetOutOfRange {
                requested: from,
                log_start_offset: self.log_start_offset,
                end_offset: self.end_offset,
            });
        }
        let local_start_offset = self.local_start_offset();
        if from < local_start_offset {
            return Err(ReadError::OnlyInTier { requested: from, local_start_offset });
        }
        let empty = |segment: &Segment| LogSlice {
            file: None,
            position: 0,
            len: 0,
            base_offset: from,
            segment_base_offset: segment.base_offset,
        };
        let first_index = self.segment_index(from);
        if from >= limit.min(self.end_offset) {
            return Ok(empty(&self.segments[first_index]));
        }
        for (index, segment) in self.segments.iter().enumerate().skip(first_index) {
            // None: compaction left nothing at or after the offset in this segment.
            let Some(place) = segment.locate(from)? else { continue };
            // What lies between two segments is gone: the end of this one is at most the base of the next.
            let end_offset = self.segments.get(index + 1).map_or(self.end_offset, |next| next.base_offset);
            let end = if limit >= end_offset { segment.size } else { segment.position_of(limit)? };
            let available = end.saturating_sub(place.position);
            let wanted = match first {
                FirstBatch::Whole => (bytes_max as u64).max(place.size),
                FirstBatch::MayBeCut => bytes_max as u64,
            };
            let len = available.min(wanted) as usize;
            if len == 0 {
                return Ok(empty(segment));
            }
            let file = segment.files.log.open();
            let file = file.map_err(|source| ReadError::Io { path: segment.files.log.path(), source })?;
            return Ok(LogSlice {
                file: Some(file),
                position: place.position,
                len,
                base_offset: place.base_offset,
                segment_base_offset: segment.base_offset,
            });
        }
        Ok(empty(self.active()))
    }

    /// ListOffsets by time: the first record at or after `timestamp` that lies below `limit`.
    pub fn offset_for_timestamp(
        &self,
        timestamp: TimestampMs,
        limit: Offset,
    ) -> Result<Option<TimestampedOffset>, ReadError> {
        self.latch.check()?;
        for segment in &self.segments {
            if segment.base_offset >= limit {
                break;
            }
            let io_error = |source| ReadError::Io { path: segment.files.time_index.file().path(), source };
            // A segment without entries is small or has none of its timestamps indexed: its headers tell.
            if segment.checked_max_timestamp()?.is_some_and(|max| max.timestamp < timestamp) {
                continue;
            }
            let files = &segment.files;
            let indexed = match files.time_index.lookup(timestamp).map_err(io_error)? {
                Some(entry) => files.batch_of(entry, segment.size)?.map(|batch| batch.header.base_offset),
                None => None,
            };
            let from = indexed.unwrap_or(segment.base_offset).max(self.log_start_offset);
            let Some(start) = segment.locate(from)? else { continue };
            let mut scan = segment.files.scan(start.position, segment.size)?;
            while let Some(batch) = scan.next()? {
                if batch.header.base_offset >= limit {
                    return Ok(None);
                }
                if batch.header.max_timestamp < timestamp {
                    continue;
                }
                let found = self.record_in(segment, &batch, limit, |record| record >= timestamp)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// ListOffsets with -3: the first of the records below `limit` with the largest timestamp.
    pub fn offset_of_max_timestamp(&self, limit: Offset) -> Result<Option<TimestampedOffset>, ReadError> {
        self.latch.check()?;
        let mut best: Option<(&Segment, Located)> = None;
        for segment in &self.segments {
            if segment.base_offset >= limit {
                break;
            }
            let max = segment.checked_max_timestamp()?;
            if let (Some(max), Some((_, best))) = (max, &best)
                && max.timestamp <= best.header.max_timestamp
            {
                continue;
            }
            let located = match max {
                Some(max) if max.offset >= self.log_start_offset && max.offset < limit => {
                    let at = segment.locate_header(max.offset)?;
                    at.filter(|at| at.header.max_timestamp == max.timestamp)
                }
                _ => None,
            };
            // The largest one lies outside of what is asked for, or the index is wrong.
            let located = match located {
                Some(located) => Some(located),
                None => self.max_by_scan(segment, limit)?,
            };
            if let Some(located) = located
                && best
                    .as_ref()
                    .is_none_or(|(_, best)| located.header.max_timestamp > best.header.max_timestamp)
            {
                best = Some((segment, located));
            }
        }
        let Some((segment, batch)) = best else { return Ok(None) };
        let max = batch.header.max_timestamp;
        self.record_in(segment, &batch, limit, |timestamp| timestamp >= max)
    }

    fn max_by_scan(&self, segment: &Segment, limit: Offset) -> Result<Option<Located>, ReadError> {
        let Some(start) = segment.locate(self.log_start_offset)? else { return Ok(None) };
        let mut scan = segment.files.scan(start.position, segment.size)?;
        let mut max: Option<Located> = None;
        while let Some(batch) = scan.next()? {
            if batch.header.base_offset >= limit {
                break;
            }
            let is_larger = max.is_none_or(|max| batch.header.max_timestamp > max.header.max_timestamp);
            if is_larger && batch.header.records_count > 0 {
                max = Some(batch);
            }
        }
        Ok(max)
    }

    /// The first record of a batch whose timestamp fits and that a client may see.
    fn record_in(
        &self,
        segment: &Segment,
        batch: &Located,
        limit: Offset,
        fits: impl Fn(TimestampMs) -> bool,
    ) -> Result<Option<TimestampedOffset>, ReadError> {
        for record in self.records(segment, batch)? {
            let record = record.map_err(|error| corrupt(segment, batch, &error))?;
            if fits(record.timestamp) && record.offset >= self.log_start_offset && record.offset < limit {
                let epoch = batch.header.leader_epoch;
                return Ok(Some(TimestampedOffset {
                    timestamp: record.timestamp,
                    offset: record.offset,
                    leader_epoch: (epoch > LeaderEpoch::NONE).then_some(epoch),
                }));
            }
        }
        Ok(None)
    }

    pub(super) fn records(&self, segment: &Segment, batch: &Located) -> Result<RecordIter, ReadError> {
        let bytes = segment.files.read_batch(batch.position, &batch.header)?;
        ottla_batch::records(&bytes, self.config.decompressed_bytes_max)
            .map_err(|error| corrupt(segment, batch, &error))
    }

    /// The aborted transactions that a read_committed reader of `[from, upto)` has to know.
    pub fn aborted_transactions(
        &self,
        from: Offset,
        upto: Offset,
    ) -> Result<Vec<AbortedTransaction>, ReadError> {
        self.latch.check()?;
        let mut found = Vec::new();
        for segment in &self.segments[self.segment_index(from)..] {
            let index = &segment.files.transaction_index;
            let entries = index.entries();
            for entry in entries.map_err(|source| ReadError::Io { path: index.file().path(), source })? {
                if entry.last_offset >= from && entry.first_offset < upto {
                    found.push(AbortedTransaction {
                        producer_id: entry.producer_id,
                        first_offset: entry.first_offset,
                    });
                }
                // Everything before the last stable offset was decided when this marker was written.
                if entry.last_stable_offset >= upto {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }
}

fn corrupt(segment: &Segment, batch: &Located, error: &ottla_batch::BatchError) -> ReadError {
    let BatchHeader { base_offset, .. } = batch.header;
    ReadError::Corrupt {
        path: segment.files.log.path(),
        position: batch.position,
        what: format!("batch at offset {base_offset}: {error}"),
    }
}
