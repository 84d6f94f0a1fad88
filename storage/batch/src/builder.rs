//! Building a batch: what producers send, what coordinators append, what compaction writes back.
//!
//! Records are encoded straight into the buffer that becomes the batch, behind room for the header; an uncompressed
//! batch is therefore never copied. Nothing here is fed by hostile bytes: sizes are the caller's own.

use std::io;

use bytes::Bytes;

use crate::codec::{Codec, compress};
use crate::crc::crc32c;
use crate::header::{BatchHeader, CRC_COVERS_FROM, HEADER_LEN, LOG_OVERHEAD, TimestampType};
use crate::quantity::{
    LeaderEpoch, NO_SEQUENCE, NO_TIMESTAMP, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs,
};
use crate::record::{Header, Record};
use crate::varint;

/// What a batch says about itself. The default is a plain uncompressed batch from offset 0.
#[derive(Clone, Copy, Debug)]
pub struct BatchOptions {
    /// 0 for producers; the broker assigns offsets.
    pub base_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    pub codec: Codec,
    /// Of the codec; `None` is its default.
    pub level: Option<i32>,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: Sequence,
    pub is_transactional: bool,
    pub is_control: bool,
    /// With `LogAppendTime` set `max_timestamp` too.
    pub timestamp_type: TimestampType,
    /// Instead of the largest timestamp pushed: the append time, or what an emptied batch keeps.
    pub max_timestamp: Option<TimestampMs>,
    /// Instead of the largest offset pushed: compaction keeps the last offset of the original batch.
    pub last_offset_delta: Option<i32>,
    /// When compaction may drop the tombstones and markers of this batch (KIP-534).
    pub delete_horizon: Option<TimestampMs>,
}

impl Default for BatchOptions {
    fn default() -> BatchOptions {
        BatchOptions {
            base_offset: Offset(0),
            leader_epoch: LeaderEpoch::NONE,
            codec: Codec::None,
            level: None,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: NO_SEQUENCE,
            is_transactional: false,
            is_control: false,
            timestamp_type: TimestampType::CreateTime,
            max_timestamp: None,
            last_offset_delta: None,
            delete_horizon: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("a batch can't hold more than {} bytes", i32::MAX)]
    TooLarge,
    #[error("offset {offset} does not follow {previous} within a batch from {base_offset}")]
    OffsetOrder { offset: i64, previous: i64, base_offset: i64 },
    #[error("a batch without records needs a last offset delta and a largest timestamp")]
    Empty,
    #[error("compression failed")]
    Compression(#[source] io::Error),
}

/// Collects records and makes one batch of them.
pub struct BatchBuilder {
    options: BatchOptions,
    /// `HEADER_LEN` bytes to be filled in by `build`, then the records.
    buffer: Vec<u8>,
    records_count: i32,
    /// Of the last record pushed; -1 before the first.
    last_offset_delta: i32,
    base_timestamp: TimestampMs,
    max_timestamp: TimestampMs,
}

impl BatchBuilder {
    pub fn new(options: BatchOptions) -> BatchBuilder {
        BatchBuilder {
            options,
            buffer: vec![0; HEADER_LEN],
            records_count: 0,
            last_offset_delta: -1,
            base_timestamp: options.delete_horizon.unwrap_or(NO_TIMESTAMP),
            max_timestamp: NO_TIMESTAMP,
        }
    }

    pub fn records_count(&self) -> i32 {
        self.records_count
    }

    pub fn is_empty(&self) -> bool {
        self.records_count == 0
    }

    /// Bytes of the batch so far, before compression.
    pub fn uncompressed_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Names the idempotent producer once the batch's place in its sequence is known, which is after the records are.
    pub fn set_producer(&mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: Sequence) {
        self.options.producer_id = id;
        self.options.producer_epoch = epoch;
        self.options.base_sequence = base_sequence;
    }

    /// Appends a record at the next offset.
    pub fn push(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> Result<(), BuildError> {
        let offset_delta = self.last_offset_delta.checked_add(1).ok_or(BuildError::TooLarge)?;
        self.push_at(offset_delta, timestamp, key, value, headers)
    }

    /// Appends a record at its own offset, which must be past the previous one.
    pub fn push_record(&mut self, record: &Record) -> Result<(), BuildError> {
        let base_offset = self.options.base_offset.0;
        let offset_delta = record
            .offset
            .0
            .checked_sub(base_offset)
            .and_then(|delta| i32::try_from(delta).ok())
            .filter(|delta| *delta > self.last_offset_delta)
            .ok_or(BuildError::OffsetOrder {
                offset: record.offset.0,
                previous: base_offset.saturating_add(i64::from(self.last_offset_delta)),
                base_offset,
            })?;
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        self.push_at(offset_delta, record.timestamp, key, value, &record.headers)
    }

    fn push_at(
        &mut self,
        offset_delta: i32,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> Result<(), BuildError> {
        if self.is_empty() && self.options.delete_horizon.is_none() {
            self.base_timestamp = timestamp;
        }
        // Readers wrap when they add it again.
        let timestamp_delta = timestamp.0.wrapping_sub(self.base_timestamp.0);
        let body_len = 1
            + varint::len(timestamp_delta)
            + varint::len(i64::from(offset_delta))
            + nullable_len(key)
            + nullable_len(value)
            + varint::len(headers.len() as i64)
            + headers
                .iter()
                .map(|header| nullable_len(Some(&header.key)) + nullable_len(header.value.as_deref()))
                .sum::<usize>();
        let record_len = varint::len(body_len as i64) + body_len;
        if self.buffer.len().saturating_add(record_len) > i32::MAX as usize {
            return Err(BuildError::TooLarge);
        }
        let end = self.buffer.len() + record_len;
        self.buffer.reserve(record_len);
        varint::put(&mut self.buffer, body_len as i64);
        self.buffer.push(0); // attributes: none are defined
        varint::put(&mut self.buffer, timestamp_delta);
        varint::put(&mut self.buffer, i64::from(offset_delta));
        put_nullable(&mut self.buffer, key);
        put_nullable(&mut self.buffer, value);
        varint::put(&mut self.buffer, headers.len() as i64);
        for header in headers {
            put_nullable(&mut self.buffer, Some(&header.key));
            put_nullable(&mut self.buffer, header.value.as_deref());
        }
        assert_eq!(self.buffer.len(), end, "a record's length is computed before it is written");
        self.records_count += 1;
        self.last_offset_delta = offset_delta;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        Ok(())
    }

    /// The batch. Without records only if the options give what the records would have.
    pub fn build(self) -> Result<Bytes, BuildError> {
        let BatchBuilder { options, mut buffer, .. } = self;
        if self.records_count == 0 && (options.last_offset_delta.is_none() || options.max_timestamp.is_none())
        {
            return Err(BuildError::Empty);
        }
        // A batch without records has no stream to compress (Kafka's readers do not look for one).
        let codec = if self.records_count == 0 { Codec::None } else { options.codec };
        if codec != Codec::None {
            let compressed =
                compress(codec, options.level, &buffer[HEADER_LEN..]).map_err(BuildError::Compression)?;
            buffer.truncate(HEADER_LEN);
            buffer.extend_from_slice(&compressed);
        }
        let batch_length = i32::try_from(buffer.len() - LOG_OVERHEAD).map_err(|_| BuildError::TooLarge)?;
        let mut header = BatchHeader {
            base_offset: options.base_offset,
            batch_length,
            leader_epoch: options.leader_epoch,
            crc: 0,
            attributes: 0,
            last_offset_delta: options.last_offset_delta.unwrap_or(self.last_offset_delta),
            base_timestamp: self.base_timestamp,
            max_timestamp: options.max_timestamp.unwrap_or(self.max_timestamp),
            producer_id: options.producer_id,
            producer_epoch: options.producer_epoch,
            base_sequence: options.base_sequence,
            records_count: self.records_count,
        };
        header.set_codec(codec);
        header.set_timestamp_type(options.timestamp_type);
        if options.is_transactional {
            header.mark_transactional();
        }
        if options.is_control {
            header.mark_control();
        }
        if options.delete_horizon.is_some() {
            header.mark_delete_horizon();
        }
        buffer[..HEADER_LEN].copy_from_slice(&header.encode());
        header.crc = crc32c(&buffer[CRC_COVERS_FROM..]);
        buffer[..HEADER_LEN].copy_from_slice(&header.encode());
        Ok(buffer.into())
    }
}

fn nullable_len(bytes: Option<&[u8]>) -> usize {
    match bytes {
        None => varint::len(-1),
        Some(bytes) => varint::len(bytes.len() as i64) + bytes.len(),
    }
}

fn put_nullable(buffer: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::put(buffer, -1),
        Some(bytes) => {
            varint::put(buffer, bytes.len() as i64);
            buffer.extend_from_slice(bytes);
        }
    }
}
