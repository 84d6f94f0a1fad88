//! The records of `__consumer_offsets`, in Kafka's own formats (OffsetCommitKey/Value, GroupMetadataKey/Value).
//!
//! Written as Kafka 4 writes them: OffsetCommitKey v1 with OffsetCommitValue v3 (v1 when the client set a retention),
//! GroupMetadataKey v2 with GroupMetadataValue v3. Read in every version, v0 to v4. Keys of other versions (KIP-848
//! groups, share and streams groups, and what comes later) are skipped, as Kafka skips what it does not know.
//! Nothing here trusts a length: the bytes come from disk and perhaps from another broker.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::{GroupId, InstanceId, MemberId};

const OFFSET_KEY_VERSION: i16 = 1;
const OFFSET_VALUE_VERSION: i16 = 3;
/// The only version that carries an expire timestamp.
const OFFSET_VALUE_VERSION_WITH_EXPIRY: i16 = 1;
const GROUP_KEY_VERSION: i16 = 2;
const GROUP_VALUE_VERSION: i16 = 3;
const VALUE_VERSION_MAX: i16 = 4;
const FIRST_FLEXIBLE_VERSION: i16 = 4;

/// One change of the durable state; a `None` value is a tombstone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Offset { group_id: GroupId, topic: Arc<str>, partition: i32, value: Option<CommittedOffset> },
    Group { group_id: GroupId, value: Option<GroupValue> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    pub offset: i64,
    /// -1: not known.
    pub leader_epoch: i32,
    pub metadata: Arc<str>,
    /// Wall clock of the broker that took the commit, milliseconds.
    pub commit_ms: i64,
    /// Set only by OffsetCommit v2 to v4 with a retention time.
    pub expire_ms: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupValue {
    pub protocol_type: Arc<str>,
    pub generation: i32,
    pub protocol: Option<Arc<str>>,
    pub leader: Option<MemberId>,
    /// When the group entered its state, wall clock in milliseconds; absent before v2.
    pub state_since_ms: Option<i64>,
    pub members: Vec<MemberValue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// The member's metadata for the protocol that was selected.
    pub subscription: Bytes,
    pub assignment: Bytes,
}

/// A record of the log as far as this coordinator knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    Record(Record),
    /// A key version that belongs to another kind of group.
    UnknownKey(i16),
}

/// What is wrong with a record of `__consumer_offsets`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("a record without a key")]
    NoKey,
    #[error("{field} ends {missing} bytes early")]
    Truncated { field: &'static str, missing: usize },
    #[error("{field} has the length {length}")]
    Length { field: &'static str, length: i64 },
    #[error("{field} is not UTF-8")]
    NotUtf8 { field: &'static str },
    #[error("{what} has version {version}; known are 0 to {VALUE_VERSION_MAX}")]
    ValueVersion { what: &'static str, version: i16 },
}

impl Record {
    pub fn group_id(&self) -> &GroupId {
        match self {
            Record::Offset { group_id, .. } | Record::Group { group_id, .. } => group_id,
        }
    }

    pub fn key(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Record::Offset { group_id, topic, partition, .. } => {
                out.put_i16(OFFSET_KEY_VERSION);
                put_string(&mut out, group_id);
                put_string(&mut out, topic);
                out.put_i32(*partition);
            }
            Record::Group { group_id, .. } => {
                out.put_i16(GROUP_KEY_VERSION);
                put_string(&mut out, group_id);
            }
        }
        out.freeze()
    }

    /// `None`: a tombstone.
    pub fn value(&self) -> Option<Bytes> {
        match self {
            Record::Offset { value, .. } => value.as_ref().map(offset_value),
            Record::Group { value, .. } => value.as_ref().map(group_value),
        }
    }
}

fn offset_value(value: &CommittedOffset) -> Bytes {
    let mut out = BytesMut::with_capacity(32 + value.metadata.len());
    match value.expire_ms {
        Some(expire_ms) => {
            out.put_i16(OFFSET_VALUE_VERSION_WITH_EXPIRY);
            out.put_i64(value.offset);
            put_string(&mut out, &value.metadata);
            out.put_i64(value.commit_ms);
            out.put_i64(expire_ms);
        }
        None => {
            out.put_i16(OFFSET_VALUE_VERSION);
            out.put_i64(value.offset);
            out.put_i32(value.leader_epoch);
            put_string(&mut out, &value.metadata);
            out.put_i64(value.commit_ms);
        }
    }
    out.freeze()
}

fn group_value(value: &GroupValue) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(GROUP_VALUE_VERSION);
    put_string(&mut out, &value.protocol_type);
    out.put_i32(value.generation);
    put_nullable_string(&mut out, value.protocol.as_deref());
    put_nullable_string(&mut out, value.leader.as_deref());
    out.put_i64(value.state_since_ms.unwrap_or(-1));
    out.put_i32(value.members.len() as i32);
    for member in &value.members {
        put_string(&mut out, &member.member_id);
        put_nullable_string(&mut out, member.instance_id.as_deref());
        put_string(&mut out, &member.client_id);
        put_string(&mut out, &member.client_host);
        out.put_i32(member.rebalance_timeout_ms);
        out.put_i32(member.session_timeout_ms);
        put_bytes(&mut out, &member.subscription);
        put_bytes(&mut out, &member.assignment);
    }
    out.freeze()
}

/// The longest string that these formats can hold.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;

fn put_string(out: &mut BytesMut, text: &str) {
    assert!(text.len() <= STRING_BYTES_MAX, "a string of {} bytes passed the request's bounds", text.len());
    out.put_i16(text.len() as i16);
    out.put_slice(text.as_bytes());
}

fn put_nullable_string(out: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_string(out, text),
        None => out.put_i16(-1),
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    assert!(bytes.len() <= i32::MAX as usize, "{} bytes do not fit into a frame", bytes.len());
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

/// Reads one record of the log.
pub fn parse(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<Parsed, RecordError> {
    let mut key = Reader { rest: key.ok_or(RecordError::NoKey)?, flexible: false };
    let record = match key.i16("key version")? {
        0 | 1 => Record::Offset {
            group_id: key.string("group")?,
            topic: key.string("topic")?,
            partition: key.i32("partition")?,
            value: value.map(parse_offset_value).transpose()?,
        },
        GROUP_KEY_VERSION => {
            Record::Group { group_id: key.string("group")?, value: value.map(parse_group_value).transpose()? }
        }
        other => return Ok(Parsed::UnknownKey(other)),
    };
    Ok(Parsed::Record(record))
}

fn parse_offset_value(bytes: &[u8]) -> Result<CommittedOffset, RecordError> {
    let (version, mut value) = Reader::value("OffsetCommitValue", bytes)?;
    let committed = CommittedOffset {
        offset: value.i64("offset")?,
        leader_epoch: if version >= 3 { value.i32("leaderEpoch")? } else { -1 },
        metadata: value.string("metadata")?,
        commit_ms: value.i64("commitTimestamp")?,
        expire_ms: if version == 1 {
            Some(value.i64("expireTimestamp")?).filter(|&ms| ms != -1)
        } else {
            None
        },
    };
    value.skip_tags()?;
    Ok(committed)
}

fn parse_group_value(bytes: &[u8]) -> Result<GroupValue, RecordError> {
    let (version, mut value) = Reader::value("GroupMetadataValue", bytes)?;
    let protocol_type = value.string("protocolType")?;
    let generation = value.i32("generation")?;
    let protocol = value.nullable_string("protocol")?;
    let leader = value.nullable_string("leader")?;
    let state_since_ms =
        if version >= 2 { Some(value.i64("currentStateTimestamp")?).filter(|&ms| ms != -1) } else { None };
    let count = value.array_length("members")?;
    // Grows with what is really there: the count is only a claim.
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(parse_member(version, &mut value)?);
    }
    value.skip_tags()?;
    Ok(GroupValue { protocol_type, generation, protocol, leader, state_since_ms, members })
}

fn parse_member(version: i16, value: &mut Reader<'_>) -> Result<MemberValue, RecordError> {
    let member_id = value.string("memberId")?;
    let instance_id = if version >= 3 { value.nullable_string("groupInstanceId")? } else { None };
    let client_id = value.string("clientId")?;
    let client_host = value.string("clientHost")?;
    let rebalance_timeout_ms = if version >= 1 { Some(value.i32("rebalanceTimeout")?) } else { None };
    let session_timeout_ms = value.i32("sessionTimeout")?;
    let subscription = value.bytes("subscription")?;
    let assignment = value.bytes("assignment")?;
    value.skip_tags()?;
    Ok(MemberValue {
        member_id,
        instance_id,
        client_id,
        client_host,
        // A v0 member had no rebalance timeout of its own; its session timeout served as one.
        rebalance_timeout_ms: rebalance_timeout_ms.unwrap_or(session_timeout_ms),
        session_timeout_ms,
        subscription,
        assignment,
    })
}

struct Reader<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    fn value(what: &'static str, bytes: &'a [u8]) -> Result<(i16, Reader<'a>), RecordError> {
        let mut reader = Reader { rest: bytes, flexible: false };
        let version = reader.i16("value version")?;
        if !(0..=VALUE_VERSION_MAX).contains(&version) {
            return Err(RecordError::ValueVersion { what, version });
        }
        reader.flexible = version >= FIRST_FLEXIBLE_VERSION;
        Ok((version, reader))
    }

    fn take(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], RecordError> {
        match self.rest.split_at_checked(length) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(RecordError::Truncated { field, missing: length - self.rest.len() }),
        }
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], RecordError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(field, N)?);
        Ok(bytes)
    }

    fn i16(&mut self, field: &'static str) -> Result<i16, RecordError> {
        Ok(i16::from_be_bytes(self.array(field)?))
    }

    fn i32(&mut self, field: &'static str) -> Result<i32, RecordError> {
        Ok(i32::from_be_bytes(self.array(field)?))
    }

    fn i64(&mut self, field: &'static str) -> Result<i64, RecordError> {
        Ok(i64::from_be_bytes(self.array(field)?))
    }

    fn unsigned_varint(&mut self, field: &'static str) -> Result<u32, RecordError> {
        let mut value: u64 = 0;
        for shift in (0..35).step_by(7) {
            let [byte] = self.array(field)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| RecordError::Length { field, length: value as i64 });
            }
        }
        Err(RecordError::Length { field, length: -1 })
    }

    /// A length as the version writes it: plus one in a varint when flexible, else `fixed`. `None` is null.
    fn length(
        &mut self,
        field: &'static str,
        fixed: fn(&mut Self, &'static str) -> Result<i64, RecordError>,
    ) -> Result<Option<usize>, RecordError> {
        let length =
            if self.flexible { i64::from(self.unsigned_varint(field)?) - 1 } else { fixed(self, field)? };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| RecordError::Length { field, length }),
        }
    }

    fn nullable_string(&mut self, field: &'static str) -> Result<Option<Arc<str>>, RecordError> {
        let Some(length) = self.length(field, |reader, field| reader.i16(field).map(i64::from))? else {
            return Ok(None);
        };
        let bytes = self.take(field, length)?;
        std::str::from_utf8(bytes)
            .map(|text| Some(Arc::from(text)))
            .map_err(|_| RecordError::NotUtf8 { field })
    }

    fn string(&mut self, field: &'static str) -> Result<Arc<str>, RecordError> {
        self.nullable_string(field)?.ok_or(RecordError::Length { field, length: -1 })
    }

    /// Copied: a slice would keep the whole read buffer of the load alive for as long as the group lives.
    fn bytes(&mut self, field: &'static str) -> Result<Bytes, RecordError> {
        let length = self
            .length(field, |reader, field| reader.i32(field).map(i64::from))?
            .ok_or(RecordError::Length { field, length: -1 })?;
        Ok(Bytes::copy_from_slice(self.take(field, length)?))
    }

    fn array_length(&mut self, field: &'static str) -> Result<usize, RecordError> {
        self.length(field, |reader, field| reader.i32(field).map(i64::from))?
            .ok_or(RecordError::Length { field, length: -1 })
    }

    /// Tagged fields that later versions of Kafka may add are read past.
    fn skip_tags(&mut self) -> Result<(), RecordError> {
        if !self.flexible {
            return Ok(());
        }
        let count = self.unsigned_varint("tagged fields")?;
        for _ in 0..count {
            self.unsigned_varint("tag")?;
            let length = self.unsigned_varint("tag")?;
            self.take("tagged field", length as usize)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "records_test.rs"]
mod tests;
