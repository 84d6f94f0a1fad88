//! What of a partition is in the tier: one small object that is never changed, only followed by the next.
//!
//! `tier/v1/<topic id>/<partition>/manifest/<number>.json` holds everything about the partition's tier, as of that number. A
//! leader that has uploaded segments, or wants to delete some, writes the next number, which has one writer. So of two
//! brokers that both believe they lead, one hears that it does not; and a cluster can be made again from the bucket alone.
//! An object is uploaded before the manifest names it, and deleted after one no longer does: whatever happens in between
//! leaves objects that nobody names, never names without an object.
//!
//! The segments are of one history: from the log start on without a hole. They may overlap, since the next leader's segments may
//! begin elsewhere; what lies in two of them is the same.

use ottla_batch::{LeaderEpoch, Offset, TimestampMs};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::key::{SegmentKey, partition_prefix};
use super::numbered::{self, Numbered, NumberedError};
use super::object::Damaged;
use super::store::{ObjectStore, StoreError};

/// 200,000 segments or so.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// From 1 on.
    pub number: u64,
    pub writer: Writer,
    pub topic: String,
    #[serde(with = "topic_id")]
    pub topic_id: Uuid,
    pub partition: i32,
    /// Records below are deleted.
    pub log_start_offset: Offset,
    /// By base offset and `valid_to`, both growing.
    segments: Vec<TieredSegment>,
    /// No longer read; their objects go when nobody can be reading them any more.
    unused: Vec<UnusedSegment>,
}

/// Who wrote a manifest. The nonce is new with each, so that one whose answer was lost knows its own again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    pub broker: i32,
    pub leader_epoch: LeaderEpoch,
    pub nonce: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TieredSegment {
    pub base_offset: Offset,
    /// Exclusive.
    pub end_offset: Offset,
    /// Exclusive: what comes after it in the object is of another history and not read. Mostly the end.
    pub valid_to: Offset,
    /// Of the leader that uploaded it, and what sets its key apart.
    pub leader_epoch: LeaderEpoch,
    pub suffix: u32,
    /// Of the object.
    pub bytes: u64,
    pub max_timestamp: Option<TimestampMs>,
    /// The epochs of its records and where in it they begin.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedSegment {
    #[serde(flatten)]
    pub segment: TieredSegment,
    pub since: TimestampMs,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("object {key}: {what}")]
    Damaged { key: String, what: String },
    /// Somebody else wrote this number; read it and decide anew, or stop if the writer's epoch is the newer one.
    #[error("manifest {number} was written by broker {} in epoch {}", writer.broker, writer.leader_epoch)]
    Fenced { number: u64, writer: Writer },
}

impl TieredSegment {
    fn is_sound(&self) -> bool {
        self.base_offset < self.valid_to && self.valid_to <= self.end_offset
    }
}

impl Manifest {
    /// Of a partition that has nothing in the tier yet.
    pub fn first(
        topic: &str,
        topic_id: Uuid,
        partition: i32,
        writer: Writer,
        log_start_offset: Offset,
    ) -> Manifest {
        Manifest {
            number: 1,
            writer,
            topic: topic.to_owned(),
            topic_id,
            partition,
            log_start_offset,
            segments: Vec::new(),
            unused: Vec::new(),
        }
    }

    /// To be changed and committed.
    pub fn next(&self, writer: Writer) -> Manifest {
        Manifest { number: self.number + 1, writer, ..self.clone() }
    }

    pub fn segments(&self) -> &[TieredSegment] {
        &self.segments
    }

    pub fn unused(&self) -> &[UnusedSegment] {
        &self.unused
    }

    /// Where the tier ends: all records from the log start up to here are in it. None: it has no segment.
    pub fn end_offset(&self) -> Option<Offset> {
        self.segments.last().map(|last| last.valid_to)
    }

    pub fn size_in_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The segment that holds an offset; of several the newest.
    pub fn segment_of(&self, offset: Offset) -> Option<&TieredSegment> {
        let after = self.segments.partition_point(|segment| segment.base_offset <= offset);
        let segment = &self.segments[after.checked_sub(1)?];
        (offset < segment.valid_to && offset >= self.log_start_offset).then_some(segment)
    }

    pub fn key_of(&self, segment: &TieredSegment) -> SegmentKey {
        SegmentKey {
            topic_id: self.topic_id,
            partition: self.partition,
            base_offset: segment.base_offset,
            end_offset: segment.end_offset,
            leader_epoch: segment.leader_epoch,
            suffix: segment.suffix,
        }
    }

    /// A segment was uploaded. It continues the tier, or reaches further than it; what it holds all of is no longer used.
    pub fn add(&mut self, segment: TieredSegment, now: TimestampMs) -> Result<(), Damaged> {
        let continues = match self.segments.last() {
            Some(last) => segment.base_offset <= last.valid_to && segment.valid_to > last.valid_to,
            None => segment.base_offset <= self.log_start_offset.max(Offset(0)),
        };
        if !segment.is_sound() || !continues {
            let end = self.end_offset().unwrap_or(self.log_start_offset);
            let (base_offset, end_offset) = (segment.base_offset, segment.valid_to);
            return Err(Damaged::new(format!(
                "a segment from {base_offset} to {end_offset} does not continue what ends at {end}"
            )));
        }
        let kept = self.segments.partition_point(|known| known.base_offset < segment.base_offset);
        self.retire(kept.., now);
        self.segments.push(segment);
        Ok(())
    }

    /// Records below `offset` were deleted.
    pub fn start_at(&mut self, offset: Offset, now: TimestampMs) {
        self.log_start_offset = self.log_start_offset.max(offset);
        let gone = self.segments.partition_point(|segment| segment.valid_to <= self.log_start_offset);
        self.retire(..gone, now);
    }

    /// The history of the partition ends at `offset` (an unclean election): what comes after it is of another.
    pub fn truncate_to(&mut self, offset: Offset, now: TimestampMs) {
        let kept = self.segments.partition_point(|segment| segment.base_offset < offset);
        self.retire(kept.., now);
        for segment in &mut self.segments {
            segment.valid_to = segment.valid_to.min(offset);
        }
        // Of several that reach so far, the first will do.
        while let [.., before, last] = &self.segments[..]
            && last.valid_to <= before.valid_to
        {
            let last = self.segments.len() - 1;
            self.retire(last.., now);
        }
        self.start_at(self.log_start_offset, now);
    }

    fn retire(&mut self, range: impl std::ops::RangeBounds<usize>, now: TimestampMs) {
        let retired = self.segments.drain(range).map(|segment| UnusedSegment { segment, since: now });
        self.unused.extend(retired);
    }

    /// Those that are unused since before `before`; their objects may be deleted, then `forget` them.
    pub fn deletable(&self, before: TimestampMs) -> Vec<SegmentKey> {
        let old = self.unused.iter().filter(|unused| unused.since < before);
        old.map(|unused| self.key_of(&unused.segment)).collect()
    }

    /// These objects are deleted.
    pub fn forget(&mut self, deleted: &[SegmentKey]) {
        let is_gone = |unused: &UnusedSegment| deleted.contains(&self.key_of(&unused.segment));
        let kept = self.unused.iter().filter(|unused| !is_gone(unused)).cloned().collect();
        self.unused = kept;
    }

    /// Where the log would begin if as much was deleted as retention allows. `local_bytes`: what the log holds past the end of the
    /// tier. A limit of -1 is none.
    pub fn retained_from(
        &self,
        now: TimestampMs,
        retention_ms: i64,
        retention_bytes: i64,
        local_bytes: u64,
    ) -> Offset {
        let mut excess = match u64::try_from(retention_bytes) {
            Ok(bytes_max) => (self.size_in_bytes() + local_bytes).saturating_sub(bytes_max),
            Err(_) => 0,
        };
        let mut from = self.log_start_offset;
        for segment in &self.segments {
            let is_old = retention_ms >= 0
                && segment.max_timestamp.is_some_and(|max| now.0.saturating_sub(max.0) > retention_ms);
            // As Kafka: a segment goes for its size only if what stays is not less than the limit.
            let is_excess = retention_bytes >= 0 && segment.bytes <= excess;
            if !is_old && !is_excess {
                break;
            }
            excess = excess.saturating_sub(segment.bytes);
            from = from.max(segment.valid_to);
        }
        from
    }

    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        numbered::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Manifest, Damaged> {
        numbered::decode(bytes)
    }
}

impl Numbered for Manifest {
    const FORMAT: u32 = 1;
    const BYTES_MAX: usize = MANIFEST_BYTES_MAX;
    const WHAT: &'static str = "manifest";

    fn number(&self) -> u64 {
        self.number
    }

    fn check(&self) -> Result<(), Damaged> {
        let follows = |pair: &[TieredSegment]| {
            pair[0].base_offset < pair[1].base_offset
                && pair[1].base_offset <= pair[0].valid_to
                && pair[0].valid_to < pair[1].valid_to
        };
        let is_whole = self.segments.windows(2).all(follows)
            && self.segments.iter().all(TieredSegment::is_sound)
            && self.segments.first().is_none_or(|first| first.valid_to > self.log_start_offset);
        if is_whole { Ok(()) } else { Err(Damaged::new("its segments do not follow each other")) }
    }
}

impl From<NumberedError> for ManifestError {
    fn from(error: NumberedError) -> ManifestError {
        match error {
            NumberedError::Store(error) => ManifestError::Store(error),
            NumberedError::Damaged { key, what } => ManifestError::Damaged { key, what },
        }
    }
}

fn manifests(prefix: &str, topic_id: Uuid, partition: i32) -> String {
    format!("{prefix}{}manifest/", partition_prefix(topic_id, partition))
}

/// The newest manifest of a partition; None if it never had one. `prefix` as in the reader.
pub async fn load(
    store: &dyn ObjectStore,
    prefix: &str,
    topic_id: Uuid,
    partition: i32,
) -> Result<Option<Manifest>, ManifestError> {
    Ok(numbered::load(store, &manifests(prefix, topic_id, partition)).await?)
}

/// Writes the next manifest. After an error of the store nobody knows whether it is there: to be tried again as it is.
/// Then removes those that are too old to be of use.
pub async fn commit(store: &dyn ObjectStore, prefix: &str, manifest: &Manifest) -> Result<(), ManifestError> {
    let folder = manifests(prefix, manifest.topic_id, manifest.partition);
    match numbered::claim(store, &folder, manifest).await {
        Ok(()) => {}
        Err(StoreError::Exists(_)) => {
            let there: Manifest = numbered::claimed(store, &folder, manifest.number).await?;
            if there.writer != manifest.writer {
                return Err(ManifestError::Fenced { number: manifest.number, writer: there.writer });
            }
        }
        Err(error) => return Err(error.into()),
    }
    numbered::remove_old(store, &folder, manifest.number).await;
    Ok(())
}

/// Kafka's text form.
pub(super) mod topic_id {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use uuid::Uuid;

    use crate::partition_metadata::{decode_uuid, encode_uuid};

    pub(in crate::tiering) fn serialize<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode_uuid(*id))
    }

    pub(in crate::tiering) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Uuid, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode_uuid(&text).ok_or_else(|| D::Error::custom("no topic id"))
    }
}
