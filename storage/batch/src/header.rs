//! The 61 fixed bytes in front of every batch.
//!
//! `BatchHeader` keeps every field, unknown attribute bits included, so that `encode` gives back the bytes that
//! `parse` read. The CRC covers everything from the attributes on; base offset, length and leader epoch lie before
//! it, which is why a leader can assign them without touching the payload.

use crate::codec::Codec;
use crate::error::BatchError;
use crate::quantity::{LeaderEpoch, NO_SEQUENCE, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs};

/// Bytes of a batch before its records.
pub const HEADER_LEN: usize = 61;
/// Bytes (base offset, length) that the length field does not count.
pub const LOG_OVERHEAD: usize = 12;
/// The only format that is stored.
pub const MAGIC: i8 = 2;

/// Where the bytes that the CRC covers begin.
pub(crate) const CRC_COVERS_FROM: usize = 21;
const MAGIC_AT: usize = 16;
/// The smallest size that formats 0 and 1 have after the log overhead (Kafka refuses less before it looks at the magic).
const OLD_RECORD_LEN_MIN: i32 = 14;

const CODEC_MASK: i16 = 0b111;
const LOG_APPEND_TIME_BIT: i16 = 1 << 3;
const TRANSACTIONAL_BIT: i16 = 1 << 4;
const CONTROL_BIT: i16 = 1 << 5;
const DELETE_HORIZON_BIT: i16 = 1 << 6;

/// Who sets the timestamps of records (`message.timestamp.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// All fixed fields of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: Offset,
    /// Bytes after the first 12; at least 49.
    pub batch_length: i32,
    pub leader_epoch: LeaderEpoch,
    pub crc: u32,
    pub attributes: i16,
    /// Last offset minus base offset; compaction keeps it, so it may exceed `records_count - 1`.
    pub last_offset_delta: i32,
    /// What the records' timestamp deltas count from; with `has_delete_horizon` it is that horizon.
    pub base_timestamp: TimestampMs,
    /// The largest timestamp of the records, or the append time with `TimestampType::LogAppendTime`.
    pub max_timestamp: TimestampMs,
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: Sequence,
    pub records_count: i32,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

impl BatchHeader {
    /// Reads the header at the front of `bytes`, which need not hold the records too. Checks only what must hold
    /// for the fields to mean anything: 61 bytes, format 2, a length that holds a header.
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        if bytes.len() <= MAGIC_AT {
            return Err(BatchError::Truncated { needed: HEADER_LEN, available: bytes.len() });
        }
        let batch_length = i32::from_be_bytes(field(bytes, 8));
        if batch_length < OLD_RECORD_LEN_MIN {
            return Err(BatchError::BatchTooSmall { batch_length });
        }
        match bytes[MAGIC_AT] as i8 {
            MAGIC => {}
            magic @ (0 | 1) => return Err(BatchError::OldMagic { magic }),
            magic => return Err(BatchError::UnknownMagic { magic }),
        }
        if (batch_length as usize) < HEADER_LEN - LOG_OVERHEAD {
            return Err(BatchError::BatchTooSmall { batch_length });
        }
        if bytes.len() < HEADER_LEN {
            return Err(BatchError::Truncated { needed: HEADER_LEN, available: bytes.len() });
        }
        Ok(BatchHeader {
            base_offset: Offset(i64::from_be_bytes(field(bytes, 0))),
            batch_length,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(bytes, 12))),
            crc: u32::from_be_bytes(field(bytes, 17)),
            attributes: i16::from_be_bytes(field(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(field(bytes, 23)),
            base_timestamp: TimestampMs(i64::from_be_bytes(field(bytes, 27))),
            max_timestamp: TimestampMs(i64::from_be_bytes(field(bytes, 35))),
            producer_id: ProducerId(i64::from_be_bytes(field(bytes, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(field(bytes, 51))),
            base_sequence: Sequence(i32::from_be_bytes(field(bytes, 53))),
            records_count: i32::from_be_bytes(field(bytes, 57)),
        })
    }

    /// The 61 bytes of this header.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..8].copy_from_slice(&self.base_offset.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.leader_epoch.0.to_be_bytes());
        bytes[16] = MAGIC as u8;
        bytes[17..21].copy_from_slice(&self.crc.to_be_bytes());
        bytes[21..23].copy_from_slice(&self.attributes.to_be_bytes());
        bytes[23..27].copy_from_slice(&self.last_offset_delta.to_be_bytes());
        bytes[27..35].copy_from_slice(&self.base_timestamp.0.to_be_bytes());
        bytes[35..43].copy_from_slice(&self.max_timestamp.0.to_be_bytes());
        bytes[43..51].copy_from_slice(&self.producer_id.0.to_be_bytes());
        bytes[51..53].copy_from_slice(&self.producer_epoch.0.to_be_bytes());
        bytes[53..57].copy_from_slice(&self.base_sequence.0.to_be_bytes());
        bytes[57..61].copy_from_slice(&self.records_count.to_be_bytes());
        bytes
    }

    /// How the records are compressed; an error for the three numbers that name no codec.
    pub fn codec(&self) -> Result<Codec, BatchError> {
        let id = (self.attributes & CODEC_MASK) as u8;
        Codec::from_id(id).ok_or(BatchError::UnknownCodec { id })
    }

    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME_BIT == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL_BIT != 0
    }

    /// Holds markers of the broker (see `control`), not records of a client.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL_BIT != 0
    }

    /// Compaction has noted in `base_timestamp` when tombstones and markers of this batch may go (KIP-534).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON_BIT != 0
    }

    pub fn has_producer_id(&self) -> bool {
        self.producer_id > ProducerId::NONE
    }

    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(i64::from(self.last_offset_delta))
    }

    pub fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// Sequence of the last record, or -1 if the batch has none.
    pub fn last_sequence(&self) -> Sequence {
        if self.base_sequence == NO_SEQUENCE {
            NO_SEQUENCE
        } else {
            self.base_sequence.plus(self.last_offset_delta)
        }
    }

    /// Bytes of the whole batch, header included.
    pub fn size_in_bytes(&self) -> usize {
        LOG_OVERHEAD + self.batch_length as usize
    }

    pub(crate) fn set_codec(&mut self, codec: Codec) {
        self.attributes = (self.attributes & !CODEC_MASK) | i16::from(codec.id());
    }

    pub(crate) fn set_timestamp_type(&mut self, timestamp_type: TimestampType) {
        match timestamp_type {
            TimestampType::CreateTime => self.attributes &= !LOG_APPEND_TIME_BIT,
            TimestampType::LogAppendTime => self.attributes |= LOG_APPEND_TIME_BIT,
        }
    }

    pub(crate) fn mark_transactional(&mut self) {
        self.attributes |= TRANSACTIONAL_BIT;
    }

    pub(crate) fn mark_control(&mut self) {
        self.attributes |= CONTROL_BIT;
    }

    pub(crate) fn mark_delete_horizon(&mut self) {
        self.attributes |= DELETE_HORIZON_BIT;
    }
}
