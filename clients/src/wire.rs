//! What comes from a socket, made safe to decode; and the names of Kafka's error codes.
//!
//! kafka-protocol's array decoders take memory for whatever length the wire claims, before a single element is read. So
//! a response is decoded over `Guarded`, which never answers a length larger than what is left of the frame can hold:
//! an array that lies then fails for want of bytes at a bounded cost. If a large value was an ordinary integer (an
//! offset lag, a timeout) that first decode succeeds, which proves that no length was false, and the frame is decoded
//! again with the true values.

use std::fmt;
use std::ops::Range;

use bytes::{Buf, Bytes, TryGetError};
use kafka_protocol::ResponseError;
use kafka_protocol::protocol::buf::ByteBuf;
use kafka_protocol::protocol::{Decodable, StrBytes};

/// The largest response frame accepted. Java brokers cut fetch responses at 50 MiB plus one batch.
pub const FRAME_BYTES_MAX: usize = 128 << 20;

/// Decodes a response body that nobody has checked yet.
pub fn decode<M: Decodable>(frame: &Bytes, version: i16) -> Result<M, String> {
    let mut guarded = Guarded { bytes: frame.clone(), clamped: false, varint: None };
    let message = M::decode(&mut guarded, version).map_err(|e| e.to_string())?;
    if !guarded.clamped {
        return Ok(message);
    }
    M::decode(&mut frame.clone(), version).map_err(|e| e.to_string())
}

struct Guarded {
    bytes: Bytes,
    /// Whether any value was made smaller than what the frame says.
    clamped: bool,
    /// What is left to answer, byte by byte, of a varint that was made smaller: value, bytes left.
    varint: Option<(u64, usize)>,
}

impl Guarded {
    /// Looks at an unsigned varint at the front: its value and how many bytes it takes, if it takes more than one.
    fn peek_long_varint(&self) -> Option<(u64, usize)> {
        let mut value = 0u64;
        for (index, byte) in self.bytes.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f).checked_shl(7 * index as u32).unwrap_or(0);
            if byte & 0x80 == 0 {
                return (index > 0).then_some((value, index + 1));
            }
        }
        None
    }
}

impl Buf for Guarded {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.varint = None;
        self.bytes.advance(count);
    }

    fn try_get_i32(&mut self) -> Result<i32, TryGetError> {
        self.varint = None;
        let value = self.bytes.try_get_i32()?;
        // One more than what is left: an array of that many elements of at least one byte can't be complete.
        let fits = self.bytes.remaining().saturating_add(1).min(i32::MAX as usize) as i32;
        if value > fits {
            self.clamped = true;
            return Ok(fits);
        }
        Ok(value)
    }

    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        if self.varint.is_none()
            && let Some((value, length)) = self.peek_long_varint()
        {
            // Compact lengths are stored plus one, hence two more than what is left.
            let fits = (self.bytes.remaining() - length) as u64 + 2;
            if value > fits {
                self.clamped = true;
                self.varint = Some((fits, length));
            } else {
                self.varint = Some((value, length));
            }
        }
        let byte = self.bytes.try_get_u8()?;
        let Some((value, left)) = self.varint.take() else {
            return Ok(byte);
        };
        if left > 1 {
            self.varint = Some((value >> 7, left - 1));
            return Ok((value & 0x7f) as u8 | 0x80);
        }
        Ok((value & 0x7f) as u8)
    }
}

impl ByteBuf for Guarded {
    fn peek_bytes(&mut self, range: Range<usize>) -> Bytes {
        self.bytes.slice(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.varint = None;
        self.bytes.split_to(size)
    }
}

/// An error code of the Kafka protocol; 0 is no error.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub i16);

impl ErrorCode {
    pub const UNKNOWN_SERVER_ERROR: ErrorCode = ErrorCode(-1);
    pub const NONE: ErrorCode = ErrorCode(0);
    pub const OFFSET_OUT_OF_RANGE: ErrorCode = ErrorCode(1);
    pub const UNKNOWN_TOPIC_OR_PARTITION: ErrorCode = ErrorCode(3);
    pub const LEADER_NOT_AVAILABLE: ErrorCode = ErrorCode(5);
    pub const NOT_LEADER_OR_FOLLOWER: ErrorCode = ErrorCode(6);
    pub const REQUEST_TIMED_OUT: ErrorCode = ErrorCode(7);
    pub const BROKER_NOT_AVAILABLE: ErrorCode = ErrorCode(8);
    pub const MESSAGE_TOO_LARGE: ErrorCode = ErrorCode(10);
    pub const COORDINATOR_LOAD_IN_PROGRESS: ErrorCode = ErrorCode(14);
    pub const COORDINATOR_NOT_AVAILABLE: ErrorCode = ErrorCode(15);
    pub const NOT_COORDINATOR: ErrorCode = ErrorCode(16);
    pub const ILLEGAL_GENERATION: ErrorCode = ErrorCode(22);
    pub const UNKNOWN_MEMBER_ID: ErrorCode = ErrorCode(25);
    pub const REBALANCE_IN_PROGRESS: ErrorCode = ErrorCode(27);
    pub const UNSUPPORTED_VERSION: ErrorCode = ErrorCode(35);
    pub const NOT_CONTROLLER: ErrorCode = ErrorCode(41);
    pub const OUT_OF_ORDER_SEQUENCE_NUMBER: ErrorCode = ErrorCode(45);
    pub const DUPLICATE_SEQUENCE_NUMBER: ErrorCode = ErrorCode(46);
    pub const UNKNOWN_PRODUCER_ID: ErrorCode = ErrorCode(59);
    pub const GROUP_ID_NOT_FOUND: ErrorCode = ErrorCode(69);
    pub const FENCED_LEADER_EPOCH: ErrorCode = ErrorCode(74);
    pub const UNKNOWN_LEADER_EPOCH: ErrorCode = ErrorCode(75);
    pub const MEMBER_ID_REQUIRED: ErrorCode = ErrorCode(79);
    pub const FENCED_INSTANCE_ID: ErrorCode = ErrorCode(82);

    pub fn is_error(self) -> bool {
        self.0 != 0
    }

    /// Whether Kafka says that the same request may succeed later.
    pub fn is_retriable(self) -> bool {
        ResponseError::try_from_code(self.0).is_some_and(|e| e.is_retriable())
    }

    /// Whether the error says that the cached metadata is old.
    pub fn is_stale_metadata(self) -> bool {
        matches!(self.0, 3 | 5 | 6 | 13 | 56 | 74 | 75 | 100)
    }

    /// `Ok` for 0, else the code itself as an error.
    pub fn check(code: i16) -> Result<(), ErrorCode> {
        if code == 0 { Ok(()) } else { Err(ErrorCode(code)) }
    }

    /// Kafka's name of the code, as its documentation spells it: `UNKNOWN_TOPIC_OR_PARTITION`.
    pub fn name(self) -> String {
        match ResponseError::try_from_code(self.0) {
            None => "NONE".to_owned(),
            Some(ResponseError::Unknown(code)) => format!("ERROR_{code}"),
            Some(error) => {
                let camel = error.to_string();
                let mut name = String::with_capacity(camel.len() + 8);
                for (index, letter) in camel.chars().enumerate() {
                    if index > 0 && letter.is_ascii_uppercase() {
                        name.push('_');
                    }
                    name.push(letter.to_ascii_uppercase());
                }
                name
            }
        }
    }

    /// What the code means to the person at the keyboard, in a few words.
    pub fn meaning(self) -> &'static str {
        match self.0 {
            -1 => "the broker met an error it did not expect; its log says more",
            1 => "the offset is outside of the log",
            2 => "the records arrived corrupt",
            3 => "no such topic or partition",
            5 => "the partition has no leader now",
            6 => "the broker no longer leads the partition",
            7 => "the broker gave up waiting",
            8 => "no such broker in the cluster",
            10 => "a record batch is larger than the topic's max.message.bytes",
            14 => "the group's coordinator is still loading",
            15 => "the group's coordinator is not available",
            16 => "the group has moved to another coordinator",
            17 => "not a valid topic name",
            19 => "fewer replicas in sync than min.insync.replicas",
            20 => "fewer replicas in sync than min.insync.replicas; the records were written nevertheless",
            22 => "the group has rebalanced meanwhile",
            23 => "the group's members have no assignor in common",
            24 => "not a valid group id",
            25 => "the group does not know this member",
            26 => "the session timeout is outside of the broker's bounds",
            27 => "the group is rebalancing",
            29..=31 => "not authorised",
            32 => "a timestamp is too far from the broker's clock",
            35 => "the broker does not support this version of the request",
            36 => "the topic exists already",
            37 => "not a valid number of partitions",
            38 => "the replication factor is larger than the number of brokers",
            39 => "not a valid assignment of replicas",
            40 => "not a valid configuration",
            41 => "the broker is not the controller",
            42 => "the broker refused the request as invalid",
            44 => "refused by the broker's policy",
            45 => "records would be missing or out of order",
            56 => "the partition's disk is offline",
            68 => "the group has active members; stop them first",
            69 => "no such group",
            72 => "no listener matches",
            73 => "topic deletion is switched off (delete.topic.enable=false)",
            76 => "the broker does not support this compression",
            81 => "the group is full (group.max.size)",
            82 => "another member took over this group.instance.id",
            86 => "the group is subscribed to the topic",
            87 => "the broker refused a record",
            89 => "too many changes at once: throttled",
            _ => "",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.meaning() {
            "" => f.write_str(&self.name()),
            meaning => write!(f, "{meaning} ({})", self.name()),
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.name())
    }
}

impl std::error::Error for ErrorCode {}

/// A string for the wire.
pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// What a broker says beside an error code, if it says anything.
pub(crate) fn said(message: Option<&StrBytes>) -> Option<String> {
    message.map(|m| m.as_str().trim().to_owned()).filter(|m| !m.is_empty())
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::{ListOffsetsResponse, MetadataResponse};
    use kafka_protocol::messages::{
        list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
        metadata_response::MetadataResponseBroker,
    };
    use kafka_protocol::protocol::Encodable;

    use super::*;

    #[test]
    fn names_are_kafkas() {
        assert_eq!(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.name(), "UNKNOWN_TOPIC_OR_PARTITION");
        assert_eq!(ErrorCode::NOT_LEADER_OR_FOLLOWER.name(), "NOT_LEADER_OR_FOLLOWER");
        assert_eq!(ErrorCode(9999).name(), "ERROR_9999");
        assert!(ErrorCode::NOT_LEADER_OR_FOLLOWER.is_retriable());
        assert!(!ErrorCode::MESSAGE_TOO_LARGE.is_retriable());
    }

    #[test]
    fn valid_messages_decode_equally_with_large_integers() {
        for version in 1..=9i16 {
            let response = ListOffsetsResponse::default().with_throttle_time_ms(0).with_topics(vec![
                ListOffsetsTopicResponse::default().with_name(text("t").into()).with_partitions(vec![
                    ListOffsetsPartitionResponse::default()
                        .with_partition_index(i32::MAX - 1)
                        .with_timestamp(i64::MAX)
                        .with_offset(1 << 40)
                        .with_leader_epoch(if version >= 4 { 1_000_000 } else { -1 }),
                ]),
            ]);
            let mut bytes = BytesMut::new();
            response.encode(&mut bytes, version).unwrap();
            assert_eq!(decode::<ListOffsetsResponse>(&bytes.freeze(), version).unwrap(), response);
        }
        for version in 0..=13i16 {
            let long_host = "h".repeat(300);
            let response = MetadataResponse::default().with_brokers(vec![
                MetadataResponseBroker::default()
                    .with_node_id(2_000_000_000.into())
                    .with_host(text(&long_host))
                    .with_port(9092);
                40
            ]);
            let mut bytes = BytesMut::new();
            response.encode(&mut bytes, version).unwrap();
            assert_eq!(decode::<MetadataResponse>(&bytes.freeze(), version).unwrap(), response, "{version}");
        }
    }

    #[test]
    fn array_lengths_that_lie_are_refused_before_memory_is_taken() {
        // Version 0: brokers is an array with an int32 length. Unguarded, this reserves tens of gigabytes.
        let plain = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0]);
        assert!(decode::<MetadataResponse>(&plain, 0).is_err());
        // Version 9: throttle time, then a compact array length as a varint of five bytes.
        let compact = Bytes::from_static(&[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0]);
        assert!(decode::<MetadataResponse>(&compact, 9).is_err());
    }

    #[test]
    fn truncated_frames_are_errors() {
        let mut bytes = BytesMut::new();
        MetadataResponse::default()
            .with_brokers(vec![MetadataResponseBroker::default().with_host(text("somewhere"))])
            .encode(&mut bytes, 12)
            .unwrap();
        let whole = bytes.freeze();
        for length in 0..whole.len() {
            assert!(decode::<MetadataResponse>(&whole.slice(..length), 12).is_err(), "{length}");
        }
    }
}
