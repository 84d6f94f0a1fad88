//! The names of tiered objects: `tier/v1/<topic id>/<partition>/<base>-<end>-<epoch>-<suffix>.seg`, below the prefix that the
//! operator chose. Offsets and epochs have a fixed width, so that a list is in the order of offsets. The suffix is new with each
//! attempt: an upload that was given up never meets the one that replaced it.

use ottla_batch::{LeaderEpoch, Offset};
use uuid::Uuid;

use crate::partition_metadata::{decode_uuid, encode_uuid};

const VERSION: &str = "tier/v1";
const SUFFIX: &str = ".seg";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentKey {
    pub topic_id: Uuid,
    pub partition: i32,
    pub base_offset: Offset,
    /// Exclusive.
    pub end_offset: Offset,
    /// Of the leader that uploaded it.
    pub leader_epoch: LeaderEpoch,
    pub suffix: u32,
}

/// What the keys of all objects of a topic begin with, below the operator's prefix.
pub fn topic_prefix(topic_id: Uuid) -> String {
    format!("{VERSION}/{}/", encode_uuid(topic_id))
}

/// The same of a partition.
pub fn partition_prefix(topic_id: Uuid, partition: i32) -> String {
    format!("{}{partition}/", topic_prefix(topic_id))
}

impl std::fmt::Display for SegmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&partition_prefix(self.topic_id, self.partition))?;
        let (base, end, epoch) = (self.base_offset.0, self.end_offset.0, self.leader_epoch.0);
        write!(f, "{base:020}-{end:020}-{epoch:010}-{:08x}{SUFFIX}", self.suffix)
    }
}

impl SegmentKey {
    /// None: no key of a segment, or not written as this version writes it.
    pub fn parse(key: &str) -> Option<SegmentKey> {
        let (topic_id, rest) = key.strip_prefix(VERSION)?.strip_prefix('/')?.split_once('/')?;
        let (partition, name) = rest.split_once('/')?;
        let mut fields = name.strip_suffix(SUFFIX)?.split('-');
        let parsed = SegmentKey {
            topic_id: decode_uuid(topic_id)?,
            partition: partition.parse().ok().filter(|partition| *partition >= 0)?,
            base_offset: Offset(fields.next()?.parse().ok()?),
            end_offset: Offset(fields.next()?.parse().ok()?),
            leader_epoch: LeaderEpoch(fields.next()?.parse().ok()?),
            suffix: u32::from_str_radix(fields.next()?, 16).ok()?,
        };
        // One key has one spelling.
        (parsed.base_offset < parsed.end_offset && parsed.to_string() == key).then_some(parsed)
    }
}
