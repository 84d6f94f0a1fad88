//! The object that holds one segment:
//!
//! ```text
//! batches | offset index | time index | transaction index | leader epochs | producer snapshot | footer
//! ```
//!
//! All but the footer is in Kafka's formats: the batches are the bytes of the segment's log file, the others those of its
//! `.index`, `.timeindex`, `.txnindex`, of `leader-epoch-checkpoint` up to the end of the segment, and of the `.snapshot` at its
//! end. What a reader needs first lies last, so that one request for the end of the object brings the footer and mostly the
//! indexes too.
//!
//! Footer, 134 bytes, big endian: for each of the six sections its length (u64) and the CRC-32C of its bytes (u32); topic id
//! (16 bytes), partition (i32), base offset (i64), end offset (i64, exclusive), epoch of the leader that wrote it (i32),
//! largest timestamp (i64, -1 for none); the CRC-32C of the footer so far (u32); version (u16, 1); `OttlaSeg`.

use std::ops::Range;

use bytes::Bytes;
use ottla_batch::{LeaderEpoch, NO_TIMESTAMP, Offset, TimestampMs, crc32c};
use uuid::Uuid;

use super::key::SegmentKey;
use crate::fields::Fields;
use crate::log::offset_index::{self, IndexEntry};
use crate::log::time_index::{self, TimeEntry};

pub const FOOTER_BYTES: usize = SECTIONS * 12 + HEAD_BYTES + 4 + 2 + MAGIC.len();
const HEAD_BYTES: usize = 16 + 4 + 8 + 8 + 4 + 8;
const SECTIONS: usize = 6;
const VERSION: u16 = 1;
/// Of the sections behind the batches: a bound for what is read whole.
const SECTION_BYTES_MAX: u64 = 64 << 20;
const MAGIC: &[u8; 8] = b"OttlaSeg";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    Batches,
    OffsetIndex,
    TimeIndex,
    TransactionIndex,
    LeaderEpochs,
    ProducerSnapshot,
}

impl Section {
    pub const ALL: [Section; SECTIONS] = [
        Section::Batches,
        Section::OffsetIndex,
        Section::TimeIndex,
        Section::TransactionIndex,
        Section::LeaderEpochs,
        Section::ProducerSnapshot,
    ];
}

/// What of an object cannot be so.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Damaged(String);

impl Damaged {
    pub(crate) fn new(what: impl Into<String>) -> Damaged {
        Damaged(what.into())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    pub topic_id: Uuid,
    pub partition: i32,
    pub base_offset: Offset,
    /// Exclusive.
    pub end_offset: Offset,
    pub leader_epoch: LeaderEpoch,
    /// None: no record has a timestamp.
    pub max_timestamp: Option<TimestampMs>,
    sections: [(u64, u32); SECTIONS],
}

impl Footer {
    pub(crate) fn new(
        key: &SegmentKey,
        max_timestamp: Option<TimestampMs>,
        sections: [(u64, u32); SECTIONS],
    ) -> Footer {
        Footer {
            topic_id: key.topic_id,
            partition: key.partition,
            base_offset: key.base_offset,
            end_offset: key.end_offset,
            leader_epoch: key.leader_epoch,
            max_timestamp,
            sections,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        for (len, crc) in self.sections {
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(&crc.to_be_bytes());
        }
        bytes.extend_from_slice(self.topic_id.as_bytes());
        bytes.extend_from_slice(&self.partition.to_be_bytes());
        bytes.extend_from_slice(&self.base_offset.0.to_be_bytes());
        bytes.extend_from_slice(&self.end_offset.0.to_be_bytes());
        bytes.extend_from_slice(&self.leader_epoch.0.to_be_bytes());
        bytes.extend_from_slice(&self.max_timestamp.unwrap_or(NO_TIMESTAMP).0.to_be_bytes());
        bytes.extend_from_slice(&crc32c(&bytes).to_be_bytes());
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(MAGIC);
        bytes
    }

    /// From the end of an object of `object_bytes`, of which `tail` holds the last ones.
    pub fn decode(tail: &[u8], object_bytes: u64) -> Result<Footer, Damaged> {
        let (_, footer) = tail
            .split_last_chunk::<FOOTER_BYTES>()
            .ok_or_else(|| Damaged::new(format!("{} bytes hold no footer of {FOOTER_BYTES}", tail.len())))?;
        let mut fields = Fields::new(footer);
        let mut sections = [(0, 0); SECTIONS];
        for (len, crc) in &mut sections {
            *len = u64::from_be_bytes(fields.take());
            *crc = u32::from_be_bytes(fields.take());
        }
        let decoded = Footer {
            sections,
            topic_id: Uuid::from_bytes(fields.take()),
            partition: i32::from_be_bytes(fields.take()),
            base_offset: Offset(i64::from_be_bytes(fields.take())),
            end_offset: Offset(i64::from_be_bytes(fields.take())),
            leader_epoch: LeaderEpoch(i32::from_be_bytes(fields.take())),
            max_timestamp: Some(TimestampMs(i64::from_be_bytes(fields.take())))
                .filter(|max| *max != NO_TIMESTAMP),
        };
        let crc = u32::from_be_bytes(fields.take());
        let version = u16::from_be_bytes(fields.take());
        if fields.take::<8>() != *MAGIC {
            return Err(Damaged::new("it does not end as a segment does"));
        }
        if version != VERSION {
            return Err(Damaged::new(format!("it has version {version}, and {VERSION} is known here")));
        }
        if crc != crc32c(&footer[..SECTIONS * 12 + HEAD_BYTES]) {
            return Err(Damaged::new("the checksum of the footer is wrong"));
        }
        if sections[1..].iter().any(|(len, _)| *len > SECTION_BYTES_MAX) {
            return Err(Damaged::new("a section is larger than any can be"));
        }
        let lengths = sections.iter().try_fold(FOOTER_BYTES as u64, |sum, (len, _)| sum.checked_add(*len));
        if lengths != Some(object_bytes) {
            return Err(Damaged::new(format!("it has {object_bytes} bytes, and its sections do not")));
        }
        Ok(decoded)
    }

    /// Where a section lies in the object.
    pub fn range(&self, section: Section) -> Range<u64> {
        let index = section as usize;
        let start = self.sections[..index].iter().map(|(len, _)| len).sum();
        start..start + self.sections[index].0
    }

    /// Whether these are the bytes of a section.
    pub fn check(&self, section: Section, bytes: &[u8]) -> Result<(), Damaged> {
        let (len, crc) = self.sections[section as usize];
        if bytes.len() as u64 != len || crc32c(bytes) != crc {
            return Err(Damaged::new(format!("the checksum of the section {section:?} is wrong")));
        }
        Ok(())
    }

    /// Whether this is the segment that a key names.
    pub fn check_key(&self, key: &SegmentKey) -> Result<(), Damaged> {
        let is_it = self.topic_id == key.topic_id
            && self.partition == key.partition
            && self.base_offset == key.base_offset
            && self.end_offset == key.end_offset
            && self.leader_epoch == key.leader_epoch;
        if is_it { Ok(()) } else { Err(Damaged::new(format!("it is not what its key says: {self:?}"))) }
    }
}

/// The sections behind the batches, for finding places in them.
#[derive(Debug, Clone)]
pub struct Indexes {
    base_offset: Offset,
    offset_index: Bytes,
    time_index: Bytes,
}

impl Indexes {
    /// `offset_index` and `time_index` are the bytes of these sections.
    pub fn new(footer: &Footer, offset_index: Bytes, time_index: Bytes) -> Result<Indexes, Damaged> {
        footer.check(Section::OffsetIndex, &offset_index)?;
        footer.check(Section::TimeIndex, &time_index)?;
        let is_whole = offset_index.len().is_multiple_of(offset_index::ENTRY_LEN)
            && time_index.len().is_multiple_of(time_index::ENTRY_LEN);
        if !is_whole {
            return Err(Damaged::new("an index that ends within an entry"));
        }
        Ok(Indexes { base_offset: footer.base_offset, offset_index, time_index })
    }

    pub fn bytes(&self) -> usize {
        self.offset_index.len() + self.time_index.len()
    }

    /// A position in the object at or before the batch that holds `offset`, where a batch begins.
    pub fn position(&self, offset: Offset) -> u64 {
        let entries = self.offset_index.as_chunks::<{ offset_index::ENTRY_LEN }>().0;
        let target = offset.0.saturating_sub(self.base_offset.0);
        let before = |entry: &[u8; offset_index::ENTRY_LEN]| {
            i64::from(IndexEntry::decode(entry).offset_delta) <= target
        };
        match entries.partition_point(before) {
            0 => 0,
            count => u64::from(IndexEntry::decode(&entries[count - 1]).position),
        }
    }

    /// An offset at or before the first record that is not older than `timestamp`.
    pub fn offset_before(&self, timestamp: TimestampMs) -> Offset {
        let entries = self.time_index.as_chunks::<{ time_index::ENTRY_LEN }>().0;
        let entry = |bytes: &[u8; time_index::ENTRY_LEN]| TimeEntry::decode(*bytes, self.base_offset);
        // Up to the batch of the last entry that is older, everything is.
        match entries.partition_point(|bytes| entry(bytes).timestamp < timestamp) {
            0 => self.base_offset,
            count => entry(&entries[count - 1]).offset,
        }
    }
}
