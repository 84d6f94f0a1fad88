//! Why a batch is refused. The broker's error map turns each variant into the Kafka code that its comment names.

use std::fmt;
use std::io;

use crate::codec::Codec;
use crate::quantity::TimestampMs;

/// Why bytes are not an acceptable batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// CORRUPT_MESSAGE. Kafka cuts a torn end off silently; a produce request has no reason to carry one.
    #[error("the batch needs {needed} bytes and {available} are there")]
    Truncated { needed: usize, available: usize },
    /// CORRUPT_MESSAGE
    #[error("the batch length {batch_length} is less than a batch header")]
    BatchTooSmall { batch_length: i32 },
    /// CORRUPT_MESSAGE
    #[error("the stored CRC is {stored:#010x}, the computed one {computed:#010x}")]
    CrcMismatch { stored: u32, computed: u32 },
    /// INVALID_RECORD on Produce (what Kafka answers since it stores only format 2),
    /// UNSUPPORTED_FOR_MESSAGE_FORMAT elsewhere.
    #[error("message format {magic} is not stored any more, format 2 is needed")]
    OldMagic { magic: i8 },
    /// CORRUPT_MESSAGE
    #[error("message format {magic} does not exist")]
    UnknownMagic { magic: i8 },
    /// UNSUPPORTED_COMPRESSION_TYPE
    #[error("compression type {id} does not exist")]
    UnknownCodec { id: u8 },
    /// INVALID_RECORD
    #[error("there is no batch at all")]
    NoBatch,
    /// INVALID_RECORD
    #[error("more than {batches_max} batches for one partition")]
    TooManyBatches { batches_max: usize },
    /// MESSAGE_TOO_LARGE
    #[error("the batch of {size} bytes exceeds the maximum of {batch_bytes_max}")]
    BatchTooLarge { size: usize, batch_bytes_max: usize },
    /// MESSAGE_TOO_LARGE, upon which a Java producer splits the batch and tries again.
    #[error("the batch decompresses to more than {decompressed_bytes_max} bytes")]
    DecompressedTooLarge { decompressed_bytes_max: usize },
    /// INVALID_RECORD: the CRC was right, so sending it again would not help.
    #[error("the records can't be decompressed ({codec})")]
    Decompression {
        codec: Codec,
        #[source]
        source: io::Error,
    },
    /// UNKNOWN_SERVER_ERROR: the broker's own compressor failed.
    #[error("the records can't be compressed ({codec})")]
    Compression {
        codec: Codec,
        #[source]
        source: io::Error,
    },
    /// INVALID_RECORD
    #[error("the base offset of a produced batch must be 0, it is {base_offset}")]
    BaseOffsetNotZero { base_offset: i64 },
    /// INVALID_RECORD
    #[error("the batch claims {records_count} records and a last offset delta of {last_offset_delta}")]
    CountMismatch { records_count: i32, last_offset_delta: i32 },
    /// INVALID_RECORD
    #[error("clients may not write control batches")]
    ControlBatch,
    /// INVALID_RECORD
    #[error("sequence {base_sequence} in a batch of producer id {producer_id}")]
    InvalidSequence { producer_id: i64, base_sequence: i32 },
    /// INVALID_RECORD
    #[error("record {index} is malformed: {flaw}")]
    MalformedRecord { index: i32, flaw: RecordFlaw },
    /// INVALID_RECORD
    #[error("bytes remain after the {records_count} records of the batch")]
    TrailingBytes { records_count: i32 },
    /// INVALID_TIMESTAMP with these record errors (Produce v8+).
    #[error("one or more records have been rejected due to an invalid timestamp")]
    InvalidTimestamps { records: Vec<RecordError> },
    /// INVALID_RECORD with these record errors (Produce v8+).
    #[error("one or more records have been rejected")]
    InvalidRecords { records: Vec<RecordError> },
}

impl BatchError {
    /// The rejected records that a Produce response of v8 or later lists; empty for errors of the whole batch.
    pub fn record_errors(&self) -> &[RecordError] {
        match self {
            BatchError::InvalidTimestamps { records } | BatchError::InvalidRecords { records } => records,
            _ => &[],
        }
    }
}

/// One rejected record. Its `Display` is the message for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Position of the record in its batch.
    pub batch_index: i32,
    pub fault: RecordFault,
}

/// What is wrong with one well-formed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    KeyMissing,
    TimestampOutOfRange { timestamp: TimestampMs, least: i64, most: i64 },
    LogAppendTimeSetByProducer,
    OffsetDelta { found: i32, expected: i32 },
}

impl RecordFault {
    pub(crate) fn is_about_time(self) -> bool {
        match self {
            RecordFault::TimestampOutOfRange { .. } | RecordFault::LogAppendTimeSetByProducer => true,
            RecordFault::KeyMissing | RecordFault::OffsetDelta { .. } => false,
        }
    }
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fault {
            RecordFault::KeyMissing => f.write_str("a record of a compacted topic needs a key"),
            RecordFault::TimestampOutOfRange { timestamp, least, most } => {
                write!(f, "timestamp {timestamp} is out of range, it should be within [{least}, {most}]")
            }
            RecordFault::LogAppendTimeSetByProducer => {
                f.write_str("a producer may not set the timestamp type LogAppendTime")
            }
            RecordFault::OffsetDelta { found, expected } => {
                write!(f, "offset delta {found} where {expected} was expected")
            }
        }
    }
}

/// How the bytes of a record fail to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFlaw {
    #[error("the bytes end within it")]
    Ends,
    #[error("a varint is longer than its type allows")]
    Varint,
    #[error("a length is negative")]
    NegativeLength,
    #[error("its fields do not end where its length says")]
    Length,
}
