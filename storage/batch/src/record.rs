//! Reading the records of a batch.
//!
//! `RecordRefs` walks a decompressed payload without allocating; `RecordIter` wraps it for those who keep records
//! (key, value and headers are slices of the batch, or of its decompressed copy). Offsets and timestamps are
//! relative in a `RecordRef`, absolute in a `Record`. Headers keep their order and their duplicates.

use bytes::Bytes;

use crate::codec::{Codec, DecompressError, decompress};
use crate::error::{BatchError, RecordFlaw};
use crate::header::{BatchHeader, HEADER_LEN, TimestampType};
use crate::quantity::{Offset, TimestampMs};
use crate::varint;

/// A header of a record. Kafka requires keys to be UTF-8 but no broker checks it, so they are bytes here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// A record with its place in the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub offset: Offset,
    /// The append time of the batch if the batch has `TimestampType::LogAppendTime`.
    pub timestamp: TimestampMs,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

/// A record as it lies in its batch.
#[derive(Clone, Copy, Debug)]
pub struct RecordRef<'a> {
    /// To be added to the batch's base timestamp (unless the batch has `LogAppendTime`).
    pub timestamp_delta: i64,
    /// To be added to the batch's base offset.
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: HeaderRefs<'a>,
    /// The whole encoding, length included.
    pub encoded: &'a [u8],
}

/// A position in a slice that may end anywhere.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes }
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, RecordFlaw> {
        let (first, rest) = self.rest.split_first().ok_or(RecordFlaw::Ends)?;
        self.rest = rest;
        Ok(*first)
    }

    #[inline]
    fn i32(&mut self) -> Result<i32, RecordFlaw> {
        // Most lengths and deltas are one byte, the rest two: worth a branch before the loop.
        match *self.rest {
            [first, ref rest @ ..] if first < 0x80 => {
                self.rest = rest;
                Ok(i32::from(first >> 1) ^ -i32::from(first & 1))
            }
            _ => varint::read_i32(|| self.byte()),
        }
    }

    #[inline]
    fn i64(&mut self) -> Result<i64, RecordFlaw> {
        match *self.rest {
            [first, ref rest @ ..] if first < 0x80 => {
                self.rest = rest;
                Ok(i64::from(first >> 1) ^ -i64::from(first & 1))
            }
            _ => varint::read_i64(|| self.byte()),
        }
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], RecordFlaw> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(RecordFlaw::Ends)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes with their length in front; as in Kafka any negative length is null.
    #[inline]
    fn nullable(&mut self) -> Result<Option<&'a [u8]>, RecordFlaw> {
        match usize::try_from(self.i32()?) {
            Ok(length) => self.take(length).map(Some),
            Err(_negative) => Ok(None),
        }
    }

    #[inline]
    fn length(&mut self) -> Result<usize, RecordFlaw> {
        usize::try_from(self.i32()?).map_err(|_| RecordFlaw::NegativeLength)
    }

    #[inline]
    fn header(&mut self) -> Result<(&'a [u8], Option<&'a [u8]>), RecordFlaw> {
        let length = self.length()?;
        Ok((self.take(length)?, self.nullable()?))
    }

    /// The record that starts here. Every border inside it has been checked afterwards, those of its headers too.
    #[inline]
    pub(crate) fn record(&mut self) -> Result<RecordRef<'a>, RecordFlaw> {
        let start = self.rest;
        let length = self.length()?;
        let mut body = Cursor { rest: self.take(length)? };
        let encoded = &start[..start.len() - self.rest.len()];
        let _attributes = body.byte()?;
        let timestamp_delta = body.i64()?;
        let offset_delta = body.i32()?;
        let key = body.nullable()?;
        let value = body.nullable()?;
        let count = body.length()?;
        let headers = HeaderRefs { rest: body.rest, count };
        // The count is only claimed: each round takes at least two bytes, so the bytes bound the loop.
        for _ in 0..count {
            body.header()?;
        }
        if !body.is_at_end() {
            return Err(RecordFlaw::Length);
        }
        Ok(RecordRef { timestamp_delta, offset_delta, key, value, headers, encoded })
    }
}

/// The headers of one record, in order.
#[derive(Clone, Copy, Debug)]
pub struct HeaderRefs<'a> {
    rest: &'a [u8],
    count: usize,
}

impl<'a> Iterator for HeaderRefs<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let mut cursor = Cursor { rest: self.rest };
        // `Cursor::record` has walked these bytes before it handed them out.
        let header = cursor.header().ok()?;
        self.rest = cursor.rest;
        Some(header)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for HeaderRefs<'_> {}

/// The records of a decompressed payload. After an error it ends.
pub struct RecordRefs<'a> {
    cursor: Cursor<'a>,
    records_count: i32,
    index: i32,
    is_done: bool,
}

impl<'a> RecordRefs<'a> {
    /// `payload` is what follows the header, decompressed; `records_count` is the header's.
    pub fn new(payload: &'a [u8], records_count: i32) -> RecordRefs<'a> {
        RecordRefs { cursor: Cursor { rest: payload }, records_count, index: 0, is_done: false }
    }
}

impl<'a> Iterator for RecordRefs<'a> {
    type Item = Result<RecordRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        if self.index >= self.records_count {
            self.is_done = true;
            let is_complete = self.cursor.is_at_end();
            return (!is_complete)
                .then_some(Err(BatchError::TrailingBytes { records_count: self.records_count }));
        }
        let index = self.index;
        self.index += 1;
        let record = self.cursor.record().map_err(|flaw| BatchError::MalformedRecord { index, flaw });
        self.is_done = record.is_err();
        Some(record)
    }
}

/// The records of one batch, in order. After an error it ends.
pub struct RecordIter {
    header: BatchHeader,
    /// Decompressed.
    payload: Bytes,
    position: usize,
    index: i32,
    is_done: bool,
}

/// The records of the batch at the front of `batch` (what follows it is ignored). The CRC is not checked here.
/// A compressed batch is decompressed at once, to at most `decompressed_bytes_max` bytes.
pub fn records(batch: &Bytes, decompressed_bytes_max: usize) -> Result<RecordIter, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let size = header.size_in_bytes();
    if batch.len() < size {
        return Err(BatchError::Truncated { needed: size, available: batch.len() });
    }
    RecordIter::new(header, batch.slice(HEADER_LEN..size), decompressed_bytes_max)
}

impl RecordIter {
    /// `payload` is what follows the header, as stored.
    pub fn new(
        header: BatchHeader,
        payload: Bytes,
        decompressed_bytes_max: usize,
    ) -> Result<RecordIter, BatchError> {
        if header.records_count < 0 {
            return Err(BatchError::CountMismatch {
                records_count: header.records_count,
                last_offset_delta: header.last_offset_delta,
            });
        }
        let codec = header.codec()?;
        // Compaction leaves batches without records, and then without a compressed stream either.
        let payload = if codec == Codec::None || header.records_count == 0 {
            payload
        } else {
            decompress(codec, &payload, decompressed_bytes_max)
                .map_err(|error| match error {
                    DecompressError::TooLarge { bytes_max } => {
                        BatchError::DecompressedTooLarge { decompressed_bytes_max: bytes_max }
                    }
                    DecompressError::Malformed(source) => BatchError::Decompression { codec, source },
                })?
                .into()
        };
        Ok(RecordIter { header, payload, position: 0, index: 0, is_done: false })
    }

    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The decompressed payload, for `RecordRefs`.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    fn own(&self, record: RecordRef<'_>) -> Record {
        let slice = |bytes: &[u8]| self.payload.slice_ref(bytes);
        Record {
            offset: self.header.base_offset.plus(i64::from(record.offset_delta)),
            timestamp: match self.header.timestamp_type() {
                TimestampType::LogAppendTime => self.header.max_timestamp,
                // A hostile delta wraps, as in Kafka.
                TimestampType::CreateTime => {
                    TimestampMs(self.header.base_timestamp.0.wrapping_add(record.timestamp_delta))
                }
            },
            key: record.key.map(slice),
            value: record.value.map(slice),
            headers: record
                .headers
                .map(|(key, value)| Header { key: slice(key), value: value.map(slice) })
                .collect(),
        }
    }
}

impl Iterator for RecordIter {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let rest = &self.payload[self.position..];
        if self.index >= self.header.records_count {
            self.is_done = true;
            let records_count = self.header.records_count;
            return (!rest.is_empty()).then_some(Err(BatchError::TrailingBytes { records_count }));
        }
        match Cursor::new(rest).record() {
            Ok(record) => {
                self.position += record.encoded.len();
                self.index += 1;
                Some(Ok(self.own(record)))
            }
            Err(flaw) => {
                self.is_done = true;
                Some(Err(BatchError::MalformedRecord { index: self.index, flaw }))
            }
        }
    }
}
