//! Reads of what lies in the tier alone: records for a fetch, and offsets by time.
//!
//! Nothing here holds a thread or a lock while it waits, and whoever waits may give up at any time: what was asked of the store
//! goes on, and the next read of the same place finds it (see `ottla_storage::tiering::reader`).
//!
//! What that costs is bounded apart from everything else. The store is asked at most `remote.log.reader.threads` times at once and no
//! faster than `remote.log.manager.fetch.max.bytes.per.second` ([`super::read_store`]); `remote.log.reader.max.pending.tasks`
//! partitions wait at once; of what came `ottla.tier.read.cache.bytes` are kept in memory and `ottla.tier.read.cache.disk.bytes` on the disk of
//! the first log directory; answers that clients have not taken yet hold
//! `ottla.tier.read.answers.bytes`. While clients that take nothing hold all of those, every other read still gets one batch: it is
//! slow then, but nobody is stopped by others. Reads of local records share none of these.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_batch::{BatchHeader, Offset, TimestampMs};
use ottla_raft::TopicId;
use ottla_storage::log::{AbortedTransaction, TimestampedOffset};
use ottla_storage::tiering::key::SegmentKey;
use ottla_storage::tiering::manifest::{Manifest, ManifestError, TieredSegment};
use ottla_storage::tiering::reader::RemoteReadError;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Tier;

/// How long an answer waits for room.
const ROOM_WAIT: Duration = Duration::from_millis(100);
/// Failures are said once in this time: a store that is away fails every fetch of every consumer.
const FAILURES_SAID_EVERY: Duration = Duration::from_secs(10);

/// Where in the tier a read begins.
#[derive(Debug, Clone, Copy)]
pub struct ReadPlace {
    pub topic: TopicId,
    pub partition: i32,
    /// Number of the manifest, as the image has it.
    pub manifest: u64,
    pub from: Offset,
    /// What lies there and after it is read from the local log.
    pub local_start: Offset,
}

/// What is read for one partition.
#[derive(Debug)]
pub struct TierRead {
    /// Whole batches. Empty: compaction left nothing up to the local log, where the reader goes on.
    pub bytes: Bytes,
    /// Aborted transactions that touch them; empty unless they were asked for.
    pub aborted: Vec<AbortedTransaction>,
    /// Offset after the last batch.
    pub next_offset: Offset,
    /// Transactions that began before this end past the tier: the local log knows which of them were aborted.
    pub has_undecided: bool,
}

/// Which batches a reader sees as what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aborted {
    Wanted,
    NotWanted,
}

/// Why the tier gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum TierReadError {
    #[error("this node has no tier (remote.log.storage.system.enable), and the offset lies there alone")]
    NoTier,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Remote(#[from] RemoteReadError),
    /// It was deleted while it was asked for, or the store is not the one that it was.
    #[error("offset {from} is not in the tier, which has {tier_start} to {tier_end} in manifest {manifest}")]
    NotThere { from: Offset, tier_start: Offset, tier_end: Offset, manifest: u64 },
}

/// Bounds what reads hold.
pub(super) struct Budget {
    waiting: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    answers_bytes_max: usize,
}

impl Budget {
    pub(super) fn new(waiting_max: usize, answers_bytes_max: usize) -> Budget {
        let answers_bytes_max = answers_bytes_max.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Budget {
            waiting: Arc::new(Semaphore::new(waiting_max.clamp(1, Semaphore::MAX_PERMITS))),
            answers: Arc::new(Semaphore::new(answers_bytes_max)),
            answers_bytes_max,
        }
    }

    /// Bytes of answers on their way to clients.
    pub(super) fn answers_bytes(&self) -> usize {
        self.answers_bytes_max - self.answers.available_permits()
    }
}

/// Bytes of an answer, counted until the socket has taken them.
struct Counted {
    bytes: Bytes,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Tier {
    /// From the batch that holds the offset on, or the first one after it.
    pub async fn read(
        &self,
        place: &ReadPlace,
        bytes_max: usize,
        aborted: Aborted,
    ) -> Result<TierRead, TierReadError> {
        let _waiting = self.read_metrics().waiting();
        // Never closed.
        let _permit = self.budget().waiting.acquire().await.ok();
        let manifest = self.manifest_of(place).await?;
        let mut from = place.from;
        loop {
            let Some(segment) = manifest.segment_of(from) else {
                if from > place.from && from >= place.local_start {
                    return Ok(TierRead {
                        bytes: Bytes::new(),
                        aborted: Vec::new(),
                        next_offset: from,
                        has_undecided: false,
                    });
                }
                return Err(not_there(&manifest, from));
            };
            let key = manifest.key_of(segment);
            let read = self.reader().read(&key, from, segment.valid_to, bytes_max).await?;
            if read.nears_end {
                self.expect_after(&manifest, segment, place.local_start);
            }
            if read.bytes.is_empty() {
                from = segment.valid_to;
                continue;
            }
            let (aborted, has_undecided) = match aborted {
                Aborted::Wanted => self.aborted(&manifest, place.from, read.next_offset).await?,
                Aborted::NotWanted => (Vec::new(), false),
            };
            let bytes = self.counted(&read.bytes).await;
            return Ok(TierRead { bytes, aborted, next_offset: read.next_offset, has_undecided });
        }
    }

    /// The bytes of a read on their way to a client, as soon as there is room for them. A copy: a slow client would keep all of the
    /// piece that they are cut from.
    async fn counted(&self, bytes: &Bytes) -> Bytes {
        let budget = self.budget();
        // One that is larger than all the room there is goes alone.
        let permits = bytes.len().min(budget.answers_bytes_max) as u32;
        let permit = Arc::clone(&budget.answers).acquire_many_owned(permits);
        let counted = match tokio::time::timeout(ROOM_WAIT, permit).await {
            // Never closed.
            Ok(permit) => {
                Bytes::from_owner(Counted { bytes: Bytes::copy_from_slice(bytes), _permit: permit.ok() })
            }
            Err(_) => Bytes::copy_from_slice(first_batch(bytes)),
        };
        self.read_metrics().on_read(counted.len());
        counted
    }

    /// A client was told so.
    pub fn on_read_failed(&self, topic: &str, partition: i32, offset: Offset, error: &TierReadError) {
        self.read_metrics().on_failure();
        let Some(unsaid) = self.failures.on_failure(Instant::now()) else { return };
        tracing::error!(topic, partition, %offset, %error, unsaid, "a read from the tier failed");
    }

    /// The first record at or after the place that is not older than `timestamp`, of those that are not in the local log.
    pub async fn offset_for_timestamp(
        &self,
        place: &ReadPlace,
        timestamp: TimestampMs,
        decompressed_bytes_max: usize,
    ) -> Result<Option<TimestampedOffset>, TierReadError> {
        let manifest = self.manifest_of(place).await?;
        for segment in manifest.segments() {
            let limit = segment.valid_to.min(place.local_start);
            let from = segment.base_offset.max(place.from).max(manifest.log_start_offset);
            if from >= limit || segment.max_timestamp.is_none_or(|max| max < timestamp) {
                continue;
            }
            let key = manifest.key_of(segment);
            let reader = self.reader();
            let found =
                reader.offset_for_timestamp(&key, timestamp, from, limit, decompressed_bytes_max).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The first record of the largest timestamp, of those that are not in the local log; `None` if that is less than `at_least`.
    pub async fn offset_of_max_timestamp(
        &self,
        place: &ReadPlace,
        at_least: Option<TimestampMs>,
        decompressed_bytes_max: usize,
    ) -> Result<Option<TimestampedOffset>, TierReadError> {
        let manifest = self.manifest_of(place).await?;
        // A segment may reach into the local log, and have its largest there.
        let tiered = manifest.segments().iter().filter(|segment| segment.base_offset < place.local_start);
        let mut largest: Vec<TimestampMs> = tiered.filter_map(|segment| segment.max_timestamp).collect();
        largest.sort_unstable();
        largest.dedup();
        for timestamp in
            largest.into_iter().rev().filter(|largest| at_least.is_none_or(|least| *largest >= least))
        {
            let found = self.offset_for_timestamp(place, timestamp, decompressed_bytes_max).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    async fn manifest_of(&self, place: &ReadPlace) -> Result<Arc<Manifest>, TierReadError> {
        let manifest = self.manifest(place.topic, place.partition, place.manifest).await?;
        manifest.ok_or(TierReadError::NotThere {
            from: place.from,
            tier_start: Offset(0),
            tier_end: Offset(0),
            manifest: 0,
        })
    }

    /// Whoever reads the end of a segment will soon want the next one, unless that is here.
    fn expect_after(&self, manifest: &Manifest, segment: &TieredSegment, local_start: Offset) {
        if segment.valid_to < local_start
            && let Some(next) = manifest.segment_of(segment.valid_to)
        {
            self.reader().expect(&manifest.key_of(next));
        }
    }

    /// Aborted transactions that touch `[from, upto)`, and whether some of which nothing is known yet may.
    async fn aborted(
        &self,
        manifest: &Manifest,
        from: Offset,
        upto: Offset,
    ) -> Result<(Vec<AbortedTransaction>, bool), TierReadError> {
        let mut found = Vec::new();
        let mut next = from;
        while let Some(segment) = manifest.segment_of(next) {
            let key: SegmentKey = manifest.key_of(segment);
            let (aborted, goes_on) = self.reader().aborted_transactions(&key, from, upto).await?;
            // Segments may overlap.
            found.extend(aborted.into_iter().filter(|aborted| !found.contains(aborted)).collect::<Vec<_>>());
            if !goes_on {
                return Ok((found, false));
            }
            next = segment.valid_to;
        }
        Ok((found, true))
    }
}

fn first_batch(bytes: &[u8]) -> &[u8] {
    let len = BatchHeader::parse(bytes).map_or(bytes.len(), |header| header.size_in_bytes());
    bytes.get(..len).unwrap_or(bytes)
}

/// Failures of reads, of which some are said.
#[derive(Default)]
pub(super) struct Failures {
    /// When one was said last, and how many were not since.
    said: Mutex<Option<(Instant, u64)>>,
}

impl Failures {
    /// How many were not said before this one, which is to be; `None` if it is too soon.
    fn on_failure(&self, now: Instant) -> Option<u64> {
        let mut said = self.said.lock();
        match &mut *said {
            Some((at, unsaid)) if now.duration_since(*at) < FAILURES_SAID_EVERY => {
                *unsaid += 1;
                None
            }
            before => Some(before.replace((now, 0)).map_or(0, |(_, unsaid)| unsaid)),
        }
    }
}

fn not_there(manifest: &Manifest, from: Offset) -> TierReadError {
    TierReadError::NotThere {
        from,
        tier_start: manifest.log_start_offset,
        tier_end: manifest.end_offset().unwrap_or(manifest.log_start_offset),
        manifest: manifest.number,
    }
}

#[cfg(test)]
mod tests {
    use ottla_batch::{BatchBuilder, BatchOptions};
    use ottla_storage::disk::Disk;
    use ottla_storage::tiering::directory::DirectoryStore;

    use super::*;
    use crate::config::NodeConfig;
    use crate::metrics::Metrics;
    use crate::threads;

    fn batch(value: &[u8]) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        builder.push(TimestampMs(1), None, Some(value), &[]).unwrap();
        builder.build().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_take_nothing_slow_others_down_and_stop_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(&Disk::real(), dir.path(), "test", threads::beside()).unwrap();
        let batches: Bytes = [batch(b"one"), batch(&[7; 300])].concat().into();
        let room = (batches.len() + 10).to_string();
        let config = NodeConfig::load(None, &[("ottla.tier.read.answers.bytes".to_owned(), room)]).unwrap();
        let metrics = Metrics::new();
        let tier = Tier::new(Arc::new(store), "", &Arc::new(config), &metrics, &Disk::real());
        let held = tier.counted(&batches).await;
        assert_eq!(held, batches);
        assert_eq!(tier.budget().answers_bytes(), batches.len());
        assert!(
            metrics.encode().unwrap().contains(&format!("ottla_tier_answers_held_bytes {}", batches.len()))
        );
        let other = tier.counted(&batches).await;
        assert_eq!(other, batch(b"one"));
        // A piece of it is as good as all of it.
        let piece = held.slice(5..);
        drop(held);
        assert_eq!(tier.counted(&batches).await, other);
        drop(piece);
        assert_eq!(tier.counted(&batches).await, batches);
        // What is larger than all the room there is goes alone.
        let larger: Bytes = [batches.clone(), batches.clone()].concat().into();
        assert_eq!(tier.counted(&larger).await, larger);
        assert_eq!(tier.budget().answers_bytes(), 0);
    }

    #[test]
    fn failures_are_said_now_and_then() {
        let failures = Failures::default();
        let begun = Instant::now();
        let said: Vec<_> =
            (0..25).map(|second| failures.on_failure(begun + Duration::from_secs(second))).collect();
        assert_eq!((said[0], said[10], said[20]), (Some(0), Some(9), Some(9)));
        assert_eq!(said.iter().flatten().count(), 3);
    }
}
