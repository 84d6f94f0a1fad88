//! Tiered segments read piece by piece, from a store that counts, waits and fails as it is told.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use ottla_batch::{BatchHeader, ControlKind, LeaderEpoch, Offset, TimestampMs};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::log::tests::support::*;
use crate::tiering::Spawn;
use crate::tiering::disk_cache::DiskCache;
use crate::tiering::key::SegmentKey;
use crate::tiering::object::{Footer, Section};
use crate::tiering::reader::{ReaderConfig, RemoteReadError, RemoteReader};
use crate::tiering::store::{Answer, ByteRange, Condition, Content, ObjectStore, Page, Piece, StoreError};

/// Objects in memory.
pub(super) struct Scripted {
    pub(super) objects: Mutex<HashMap<String, Bytes>>,
    asked: Mutex<Vec<ByteRange>>,
    /// A get takes a permit and gives it back.
    open: Semaphore,
    failures: Mutex<Vec<StoreError>>,
    /// The next answer has this byte of it changed.
    pub(super) damage: Mutex<Option<usize>>,
}

impl ObjectStore for Scripted {
    fn put<'a>(&'a self, _: &'a str, _: Content, _: Condition) -> Answer<'a, ()> {
        panic!("only read here")
    }

    fn get<'a>(&'a self, key: &'a str, range: ByteRange) -> Answer<'a, Piece> {
        async move {
            self.asked.lock().push(range);
            let _open = self.open.acquire().await.unwrap();
            if let Some(failure) = self.failures.lock().pop() {
                return Err(failure);
            }
            let object = self.objects.lock().get(key).cloned();
            let object = object.ok_or_else(|| StoreError::NotFound(key.to_owned()))?;
            let (position, len) = match range {
                ByteRange::Whole { .. } => (0, object.len()),
                ByteRange::From { position, len } => {
                    (position as usize, len.min(object.len() - position as usize))
                }
                ByteRange::Suffix { len } => (object.len() - len.min(object.len()), len.min(object.len())),
            };
            let mut bytes = object[position..position + len].to_vec();
            if let Some(at) = self.damage.lock().take() {
                bytes[at] ^= 1;
            }
            Ok(Piece { bytes: bytes.into(), position: position as u64, object_bytes: object.len() as u64 })
        }
        .boxed()
    }

    fn list<'a>(&'a self, _: &'a str, _: Option<&'a str>) -> Answer<'a, Page> {
        panic!("only read here")
    }

    fn delete<'a>(&'a self, _: &'a [String]) -> Answer<'a, ()> {
        panic!("only read here")
    }
}

/// No limit.
pub(super) const END: Offset = Offset(i64::MAX);

pub(super) struct Tier {
    pub(super) store: Arc<Scripted>,
    pub(super) reader: Arc<RemoteReader>,
    pub(super) keys: Vec<SegmentKey>,
    /// Of the local log.
    pub(super) batches: Vec<Bytes>,
    log: TestLog,
}

pub(super) const SMALL: ReaderConfig = ReaderConfig {
    chunk_bytes: NonZeroUsize::new(700).unwrap(),
    cache_bytes_max: 2_100,
    heads_bytes_max: 1_500,
    tail_bytes: 200,
};

/// All sealed segments of a log with small and large batches and an abort.
fn tier(config: ReaderConfig) -> Tier {
    tier_with(config, None)
}

pub(super) fn tier_with(config: ReaderConfig, disk_cache: Option<DiskCache>) -> Tier {
    let mut log = TestLog::new(crate::log::LogConfig { segment_bytes: 6_000, ..small_config() });
    for n in 0..60i64 {
        log.append(&batch_at(1 + (n as usize * 7) % 40, NOW.0 + n * 10)).unwrap();
        if n == 20 {
            log.append(&transactional(9, 0, 2)).unwrap();
            log.append_marker(9, ControlKind::Abort);
        }
    }
    tier_of(log, config, disk_cache)
}

fn tier_of(mut log: TestLog, config: ReaderConfig, disk_cache: Option<DiskCache>) -> Tier {
    log.sync();
    let (mut objects, mut keys, mut batches) = (HashMap::new(), Vec::new(), Vec::new());
    let mut next = Offset(0);
    while let Some(segment) = log.log.sealed_segment(next, Offset(i64::MAX)).unwrap() {
        next = segment.end_offset;
        let key = SegmentKey {
            topic_id: Uuid::from_u64_pair(1, 2),
            partition: 0,
            base_offset: segment.base_offset,
            end_offset: segment.end_offset,
            leader_epoch: LeaderEpoch(0),
            suffix: 7,
        };
        let content = segment.into_object(&key).unwrap();
        let object = content.read(0, content.len() as usize).unwrap();
        let mut rest = object.clone();
        while let Ok(header) = BatchHeader::parse(&rest) {
            if header.base_offset < key.base_offset || header.size_in_bytes() > rest.len() {
                break;
            }
            batches.push(rest.split_to(header.size_in_bytes()));
        }
        objects.insert(format!("cluster/{key}"), object);
        keys.push(key);
    }
    assert!(keys.len() > 3, "{}", keys.len());
    let store = Arc::new(Scripted {
        objects: Mutex::new(objects),
        asked: Mutex::default(),
        open: Semaphore::new(1_000),
        failures: Mutex::default(),
        damage: Mutex::default(),
    });
    let spawn: Spawn = Arc::new(|task| drop(tokio::spawn(task)));
    let reader = Arc::new(RemoteReader::new(store.clone(), "cluster/", spawn, config, disk_cache));
    Tier { store, reader, keys, batches, log }
}

impl Tier {
    pub(super) fn asked(&self) -> usize {
        self.store.asked.lock().len()
    }

    fn key_of(&self, offset: Offset) -> &SegmentKey {
        self.keys.iter().find(|key| key.base_offset <= offset && offset < key.end_offset).unwrap()
    }
}

#[tokio::test]
async fn every_offset_is_read_as_the_log_has_it() {
    for bytes_max in [1, 500, 100_000] {
        let tier = tier(SMALL);
        let end = tier.keys[tier.keys.len() - 1].end_offset;
        // From each offset the batch that holds it.
        for offset in (0..end.0).map(Offset) {
            let read = tier.reader.read(tier.key_of(offset), offset, END, bytes_max).await.unwrap();
            let first = BatchHeader::parse(&read.bytes).unwrap();
            assert!(first.base_offset <= offset && offset < first.next_offset(), "{offset}: {first:?}");
            assert!(read.bytes.len() <= bytes_max.max(first.size_in_bytes()));
        }
        // And from the first on all of them.
        let (mut next, mut all) = (Offset(0), Vec::new());
        while next < end {
            let read = tier.reader.read(tier.key_of(next), next, END, bytes_max).await.unwrap();
            assert!(read.next_offset > next);
            next = read.next_offset;
            all.extend_from_slice(&read.bytes);
        }
        assert_eq!(all, tier.batches.concat());
        assert!(tier.reader.counts().held_bytes <= SMALL.cache_bytes_max as u64);
    }
}

#[tokio::test]
async fn the_sections_are_those_of_the_log() {
    for config in [SMALL, ReaderConfig::default()] {
        let tier = tier(config);
        for key in &tier.keys {
            let footer = tier.reader.footer(key).await.unwrap();
            footer.check_key(key).unwrap();
            for section in Section::ALL {
                let bytes = tier.reader.section(key, section).await.unwrap();
                footer.check(section, &bytes).unwrap();
            }
        }
        let marker = tier.batches.iter().map(|batch| BatchHeader::parse(batch).unwrap());
        let marker = marker.clone().find(BatchHeader::is_control).unwrap().base_offset;
        let holds = *tier.key_of(marker);
        let (from, upto) = (Offset(0), tier.log.log.end_offset());
        for key in &tier.keys {
            let (aborted, _) = tier.reader.aborted_transactions(key, from, upto).await.unwrap();
            let expected =
                if *key == holds { tier.log.log.aborted_transactions(from, upto).unwrap() } else { vec![] };
            assert_eq!(aborted, expected);
        }
        let (none, _) = tier.reader.aborted_transactions(&holds, marker.plus(1), upto).await.unwrap();
        assert_eq!(none, []);
    }
}

#[tokio::test]
async fn one_request_serves_all_who_ask_and_what_is_kept_needs_none() {
    let tier =
        tier(ReaderConfig { chunk_bytes: NonZeroUsize::new(8 << 20).unwrap(), ..ReaderConfig::default() });
    let readers = (0..20).map(|_| tier.reader.read(&tier.keys[0], Offset(0), END, 1 << 20));
    let all = futures::future::try_join_all(readers).await.unwrap();
    assert!(all.iter().all(|read| read == &all[0]));
    assert_eq!(tier.asked(), 2, "the end of the object, and the batches");
    tier.reader.read(&tier.keys[0], Offset(3), END, 1 << 20).await.unwrap();
    assert_eq!(tier.asked(), 2);
}

#[tokio::test]
async fn what_comes_next_is_read_ahead_and_only_if_there_is_room() {
    let with_room = |cache_bytes_max| tier(ReaderConfig { cache_bytes_max, tail_bytes: 64 << 10, ..SMALL });
    let tier = with_room(1 << 20);
    let key = tier.keys[0];
    let chunks = tier.reader.footer(&key).await.unwrap().range(Section::Batches).end / 700;
    let mut next = key.base_offset;
    while next < key.end_offset {
        next = tier.reader.read(&key, next, END, 1).await.unwrap().next_offset;
        tokio::task::yield_now().await;
    }
    let counts = tier.reader.counts();
    assert_eq!(tier.asked() as u64, 1 + chunks, "each piece once");
    assert!(counts.misses < chunks, "some were there before they were asked for: {counts:?}");

    // While a piece is on its way that fills the cache, nothing is read ahead.
    let tier = with_room(700);
    let (key, reader) = (tier.keys[0], tier.reader.clone());
    tier.reader.footer(&key).await.unwrap();
    let closed = tier.store.open.acquire_many(1_000).await.unwrap();
    let reading = tokio::spawn(async move { reader.read(&key, Offset(0), END, 1).await });
    while tier.asked() < 2 {
        tokio::task::yield_now().await;
    }
    drop(closed);
    reading.await.unwrap().unwrap();
    assert!(tier.reader.counts().held_bytes <= 700);
}

#[tokio::test]
async fn what_is_left_of_a_segment_comes_with_its_last_piece() {
    let whole = tier(ReaderConfig::default());
    let batches = whole.reader.footer(&whole.keys[0]).await.unwrap().range(Section::Batches).end as usize;
    for (chunk_bytes, requests) in [
        (batches * 2, 1),
        (batches + 1, 1),
        (batches, 1),
        (batches - 1, 1),
        (batches / 2 + 1, 1),
        (batches / 2, 2),
        (batches / 3, 3),
        (batches / 3 - 1, 3),
    ] {
        let tier = tier(ReaderConfig {
            chunk_bytes: NonZeroUsize::new(chunk_bytes).unwrap(),
            tail_bytes: 64 << 10,
            ..ReaderConfig::default()
        });
        let (key, mut next, mut all) = (tier.keys[0], Offset(0), Vec::new());
        while next < key.end_offset {
            let read = tier.reader.read(&key, next, END, 1).await.unwrap();
            next = read.next_offset;
            all.extend_from_slice(&read.bytes);
        }
        assert_eq!(all.len(), batches);
        assert_eq!(tier.asked(), 1 + requests, "the end of the object, and pieces of {chunk_bytes}");
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_stop_the_fetch() {
    let tier = tier(ReaderConfig::default());
    tier.reader.footer(&tier.keys[0]).await.unwrap();
    let closed = tier.store.open.acquire_many(1_000).await.unwrap();
    let gone = tier.reader.read(&tier.keys[0], Offset(0), END, 1).now_or_never();
    assert!(gone.is_none());
    drop(closed);
    while tier.reader.counts().fetched_bytes == 0 {
        tokio::task::yield_now().await;
    }
    tier.reader.read(&tier.keys[0], Offset(0), END, 1).await.unwrap();
    assert_eq!(tier.asked(), 2);
}

#[tokio::test]
async fn a_failure_reaches_those_who_waited_and_is_not_kept() {
    let tier = tier(ReaderConfig::default());
    let away = || StoreError::Unavailable("away".to_owned());
    tier.store.failures.lock().push(away());
    let failed = tier.reader.read(&tier.keys[0], Offset(0), END, 1).await.unwrap_err();
    assert_eq!(failed.to_string(), "away");
    tier.reader.footer(&tier.keys[0]).await.unwrap();
    tier.store.failures.lock().push(away());
    let closed = tier.store.open.acquire_many(1_000).await.unwrap();
    let both = futures::future::join3(
        tier.reader.read(&tier.keys[0], Offset(0), END, 1),
        tier.reader.read(&tier.keys[0], Offset(1), END, 1),
        async move { drop(closed) },
    );
    let (first, second, ()) = both.await;
    assert!(first.is_err() && second.is_err());
    assert_eq!(tier.reader.counts().held_bytes, 0);
    tier.reader.read(&tier.keys[0], Offset(0), END, 1).await.unwrap();
    let missing = SegmentKey { suffix: 8, ..tier.keys[0] };
    let missing = tier.reader.read(&missing, Offset(0), END, 1).await.unwrap_err();
    assert!(matches!(&missing, RemoteReadError::Store(error) if matches!(**error, StoreError::NotFound(_))));
}

#[tokio::test]
async fn damage_on_the_way_is_found_and_asked_for_again() {
    let tier = tier(ReaderConfig::default());
    let key = tier.keys[0];
    let object = tier.store.objects.lock()[&format!("cluster/{key}")].clone();
    let footer = Footer::decode(&object, object.len() as u64).unwrap();
    // In the footer and in an index: the first answer is the whole object.
    for at in [object.len() - 20, footer.range(Section::TimeIndex).start as usize] {
        *tier.store.damage.lock() = Some(at);
        let damaged = tier.reader.read(&key, Offset(0), END, 1 << 20).await.unwrap_err();
        assert!(matches!(damaged, RemoteReadError::Damaged { .. }), "{damaged}");
    }
    tier.reader.footer(&key).await.unwrap();
    *tier.store.damage.lock() = Some(70);
    let damaged = tier.reader.read(&key, Offset(0), END, 1 << 20).await.unwrap_err();
    assert!(matches!(damaged, RemoteReadError::Damaged { .. }), "{damaged}");
    assert!(!tier.reader.read(&key, Offset(0), END, 1 << 20).await.unwrap().bytes.is_empty());
}

#[tokio::test]
async fn times_lead_to_the_offsets_that_the_log_finds() {
    let tier = tier(SMALL);
    let limit = tier.keys[tier.keys.len() - 1].end_offset;
    for timestamp in (NOW.0 - 5..NOW.0 + 650).step_by(5).map(TimestampMs) {
        let expected = tier.log.log.offset_for_timestamp(timestamp, limit).unwrap();
        let mut found = None;
        for key in &tier.keys {
            let (from, limit) = (key.base_offset, key.end_offset);
            found = tier.reader.offset_for_timestamp(key, timestamp, from, limit, 1 << 20).await.unwrap();
            if found.is_some() {
                break;
            }
        }
        assert_eq!(found, expected, "{timestamp:?}");
    }
    let key = &tier.keys[1];
    let (from, limit) = (key.base_offset.plus(3), key.base_offset.plus(5));
    let find = |timestamp| tier.reader.offset_for_timestamp(key, timestamp, from, limit, 1 << 20);
    let first = find(TimestampMs(0)).await.unwrap().unwrap();
    assert_eq!(first.offset, from, "not before what was asked for");
    assert_eq!(find(TimestampMs(first.timestamp.0 + 100)).await.unwrap(), None, "the limit");
}

#[tokio::test]
async fn nothing_is_read_from_the_limit_on() {
    let tier = tier(ReaderConfig::default());
    let key = &tier.keys[0];
    let second = BatchHeader::parse(&tier.batches[1]).unwrap();
    let read = tier.reader.read(key, Offset(0), second.base_offset, 1 << 20).await.unwrap();
    assert_eq!((read.bytes, read.next_offset), (tier.batches[0].clone(), second.base_offset));
    let read = tier.reader.read(key, second.base_offset, second.base_offset, 1 << 20).await.unwrap();
    assert_eq!((read.bytes.len(), read.next_offset), (0, second.base_offset));
}

#[tokio::test]
async fn the_next_segment_is_on_its_way_before_it_is_asked_for() {
    let tier = tier(ReaderConfig {
        cache_bytes_max: 1 << 20,
        heads_bytes_max: 1 << 20,
        tail_bytes: 64 << 10,
        chunk_bytes: NonZeroUsize::new(2_000).unwrap(),
    });
    let read = tier.reader.read(&tier.keys[0], Offset(0), END, 1).await.unwrap();
    assert!(!read.nears_end);
    let (mut next, mut nears_end) = (Offset(0), false);
    while next < tier.keys[0].end_offset {
        let read = tier.reader.read(&tier.keys[0], next, END, 1).await.unwrap();
        (next, nears_end) = (read.next_offset, read.nears_end);
    }
    assert!(nears_end);
    while tier.reader.counts().fetched_bytes
        < tier.reader.footer(&tier.keys[0]).await.unwrap().range(Section::Batches).end
    {
        tokio::task::yield_now().await;
    }
    let misses = tier.reader.counts().misses + tier.reader.head_counts().misses;
    // The head, then the batches.
    let asked = tier.asked();
    while tier.asked() < asked + 2 {
        tier.reader.expect(&tier.keys[1]);
        tokio::task::yield_now().await;
    }
    tier.reader.read(&tier.keys[1], next, END, 1).await.unwrap();
    assert_eq!(tier.reader.counts().misses + tier.reader.head_counts().misses, misses);
}

#[tokio::test]
async fn a_head_is_fetched_on_although_nobody_waits_for_it() {
    let tier = tier(ReaderConfig::default());
    let closed = tier.store.open.acquire_many(1_000).await.unwrap();
    for _ in 0..3 {
        assert!(tier.reader.footer(&tier.keys[0]).now_or_never().is_none(), "given up");
    }
    drop(closed);
    tier.reader.footer(&tier.keys[0]).await.unwrap();
    assert_eq!(tier.asked(), 1);
}

#[tokio::test]
async fn later_segments_are_asked_for_aborts_only_while_something_is_open() {
    let mut log = TestLog::new(crate::log::LogConfig { segment_bytes: 3_000, ..small_config() });
    log.append(&transactional(9, 0, 2)).unwrap();
    for n in 0..40i64 {
        log.append(&batch_at(20, NOW.0 + n)).unwrap();
    }
    log.append_marker(9, ControlKind::Abort);
    for n in 40..80i64 {
        log.append(&batch_at(20, NOW.0 + n)).unwrap();
    }
    let marker = log.log.aborted_transactions(Offset(0), log.log.end_offset()).unwrap();
    assert_eq!(marker.len(), 1);
    let tier = tier_of(log, ReaderConfig::default(), None);
    let (mut found, mut looked_at) = (Vec::new(), 0);
    for key in &tier.keys {
        let (aborted, goes_on) =
            tier.reader.aborted_transactions(key, Offset(0), tier.keys[0].end_offset).await.unwrap();
        found.extend(aborted);
        looked_at += 1;
        if !goes_on {
            break;
        }
    }
    assert_eq!(found, marker);
    assert!(looked_at > 1 && looked_at < tier.keys.len(), "{looked_at} of {}", tier.keys.len());
    // Nothing that begins at or after the end of what is read concerns it.
    let (none, goes_on) =
        tier.reader.aborted_transactions(&tier.keys[0], Offset(0), Offset(0)).await.unwrap();
    assert_eq!((none, goes_on), (vec![], false));
}
