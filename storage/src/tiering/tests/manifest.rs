//! Manifests: their rules against a model, and commits through a store that loses answers.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use ottla_batch::{LeaderEpoch, Offset, TimestampMs};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use crate::disk::{Disk, SimulatedDisk};
use crate::tiering::directory::DirectoryStore;
use crate::tiering::manifest::{Manifest, ManifestError, TieredSegment, Writer, commit, load};
use crate::tiering::store::{Answer, ByteRange, Condition, Content, ObjectStore, Page, Piece, StoreError};

const TOPIC: Uuid = Uuid::from_u64_pair(1, 2);
const NOW: TimestampMs = TimestampMs(1_000);

fn writer(broker: i32, epoch: i32, nonce: u64) -> Writer {
    Writer { broker, leader_epoch: LeaderEpoch(epoch), nonce }
}

fn empty() -> Manifest {
    Manifest::first("stocks", TOPIC, 3, writer(1, 4, 99), Offset(0))
}

fn segment(base: i64, end: i64) -> TieredSegment {
    TieredSegment {
        base_offset: Offset(base),
        end_offset: Offset(end),
        valid_to: Offset(end),
        leader_epoch: LeaderEpoch(4),
        suffix: 0xc0_ffee,
        bytes: end.abs_diff(base) * 10,
        max_timestamp: Some(TimestampMs(end)),
        epochs: vec![(LeaderEpoch(2), Offset(base)), (LeaderEpoch(4), Offset(end - 1))],
    }
}

fn with(segments: &[(i64, i64)]) -> Manifest {
    let mut manifest = empty();
    for (base, end) in segments {
        manifest.add(segment(*base, *end), NOW).unwrap();
    }
    manifest
}

fn ranges(manifest: &Manifest) -> Vec<(i64, i64)> {
    manifest.segments().iter().map(|segment| (segment.base_offset.0, segment.valid_to.0)).collect()
}

#[test]
fn golden_manifest() {
    let mut manifest = with(&[(0, 100), (100, 150)]).next(writer(2, 5, u64::MAX));
    manifest.start_at(Offset(100), TimestampMs(2_000));
    let golden = concat!(
        r#"{"format":1,"number":2,"writer":{"broker":2,"leader_epoch":5,"nonce":18446744073709551615},"#,
        r#""topic":"stocks","topic_id":"AAAAAAAAAAEAAAAAAAAAAg","partition":3,"log_start_offset":100,"#,
        r#""segments":[{"base_offset":100,"end_offset":150,"valid_to":150,"leader_epoch":4,"suffix":12648430,"#,
        r#""bytes":500,"max_timestamp":150,"epochs":[[2,100],[4,149]]}],"#,
        r#""unused":[{"base_offset":0,"end_offset":100,"valid_to":100,"leader_epoch":4,"suffix":12648430,"#,
        r#""bytes":1000,"max_timestamp":100,"epochs":[[2,0],[4,99]],"since":2000}]}"#
    );
    assert_eq!(String::from_utf8(manifest.encode().unwrap()).unwrap(), golden);
    assert_eq!(Manifest::decode(golden.as_bytes()).unwrap(), manifest);
    for (from, to) in [
        (r#""format":1"#, r#""format":2"#),
        (r#""number":2"#, r#""number":0"#),
        (r#""valid_to":150"#, r#""valid_to":151"#),
        (r#""log_start_offset":100"#, r#""log_start_offset":150"#),
        (r#"AAg""#, r#"AA""#),
        (r#""partition":3,"#, ""),
        (r#"}]}"#, r#"}]"#),
    ] {
        let other = golden.replacen(from, to, 1);
        assert_ne!(other, golden);
        assert!(Manifest::decode(other.as_bytes()).is_err(), "{other}");
    }
}

#[test]
fn a_segment_continues_the_tier_or_reaches_further() {
    let mut manifest = with(&[(0, 100), (100, 200)]);
    for (base, end) in [(201, 300), (100, 200), (50, 200), (200, 200), (300, 250)] {
        assert!(manifest.add(segment(base, end), NOW).is_err(), "{base} to {end}");
    }
    manifest.add(segment(150, 300), NOW).unwrap();
    assert_eq!(ranges(&manifest), [(0, 100), (100, 200), (150, 300)]);
    assert_eq!(manifest.segment_of(Offset(180)).unwrap().base_offset, Offset(150), "the newest");
    manifest.add(segment(100, 400), NOW).unwrap();
    assert_eq!(ranges(&manifest), [(0, 100), (100, 400)]);
    assert_eq!(manifest.unused().len(), 2);
    assert_eq!(manifest.end_offset(), Some(Offset(400)));
    assert!(empty().add(segment(1, 2), NOW).is_err(), "there would be a hole after the log start");
}

#[test]
fn what_is_unused_is_deleted_after_a_while_and_then_forgotten() {
    let mut manifest = with(&[(0, 100), (100, 200), (200, 300)]);
    let first = manifest.key_of(&manifest.segments()[0].clone());
    manifest.start_at(Offset(150), TimestampMs(5_000));
    assert_eq!(ranges(&manifest), [(100, 200), (200, 300)], "a segment goes as a whole");
    assert_eq!(manifest.segment_of(Offset(149)), None);
    assert_eq!(manifest.segment_of(Offset(150)).unwrap().base_offset, Offset(100));
    assert_eq!(manifest.deletable(TimestampMs(5_000)), []);
    assert_eq!(manifest.deletable(TimestampMs(5_001)), [first]);
    manifest.start_at(Offset(10), NOW);
    assert_eq!(manifest.log_start_offset, Offset(150), "it never goes back");
    manifest.forget(&[first]);
    assert_eq!(manifest.unused(), []);
}

#[test]
fn retention_goes_by_time_and_by_size() {
    let manifest = with(&[(0, 100), (100, 200), (200, 300)]);
    let from = |now, ms, bytes, local| manifest.retained_from(TimestampMs(now), ms, bytes, local).0;
    assert_eq!(from(1_000_000, -1, -1, 0), 0);
    assert_eq!(from(1_100, 1_000, -1, 0), 0, "a record as old as the limit stays");
    assert_eq!(from(1_101, 1_000, -1, 0), 100);
    assert_eq!(from(9_999, 1_000, -1, 0), 300);
    assert_eq!(from(0, -1, 3_000, 0), 0);
    assert_eq!(from(0, -1, 2_001, 0), 0, "what stays is not less than the limit");
    assert_eq!(from(0, -1, 2_000, 0), 100);
    assert_eq!(from(0, -1, 2_000, 1_500), 200, "what is not uploaded yet counts");
    assert_eq!(from(0, -1, 0, 0), 300);
    let mut without = empty();
    without.add(TieredSegment { max_timestamp: None, ..segment(0, 10) }, NOW).unwrap();
    assert_eq!(
        without.retained_from(TimestampMs(i64::MAX), 0, -1, 0),
        Offset(0),
        "records without a time do not age"
    );
}

/// Whatever is done, the tier is one piece without a hole, decodes to itself, and finds each offset where a list of what
/// each record came from has it.
#[test]
fn the_tier_is_a_row_without_holes() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut manifest = empty();
        let mut known = Vec::new();
        for step in 0..40 {
            let end = manifest.end_offset().unwrap_or(manifest.log_start_offset).0;
            match random.random_range(0..6) {
                0 => {
                    let to = Offset(random.random_range(manifest.log_start_offset.0..=end));
                    manifest.truncate_to(to, NOW);
                }
                1 => {
                    let from = Offset(random.random_range(manifest.log_start_offset.0..=end));
                    manifest.start_at(from, NOW);
                }
                _ => {
                    let base = if random.random_bool(0.7) { end } else { random.random_range(0..=end) };
                    let mut added = segment(base, end + random.random_range(1..20));
                    added.suffix = step;
                    if manifest.add(added.clone(), NOW).is_ok() {
                        known.push(added);
                    }
                }
            }
            let start = manifest.log_start_offset;
            let end = manifest.end_offset().unwrap_or(start).max(start);
            assert_eq!(Manifest::decode(&manifest.encode().unwrap()).unwrap(), manifest, "seed {seed}");
            for offset in (start.0 - 2..end.0 + 2).map(Offset) {
                let found = manifest.segment_of(offset);
                let is_in = start <= offset && offset < end;
                assert_eq!(found.is_some(), is_in, "seed {seed}: {offset} of {start} to {end}");
                assert!(found.is_none_or(|found| found.base_offset <= offset && offset < found.valid_to));
            }
            let mut named: Vec<u32> = manifest.segments().iter().map(|segment| segment.suffix).collect();
            named.extend(manifest.unused().iter().map(|unused| unused.segment.suffix));
            named.sort_unstable();
            let all: Vec<u32> = known.iter().map(|segment| segment.suffix).collect();
            assert_eq!(named, all, "seed {seed}: no object is lost sight of");
        }
    }
}

/// Fails some requests, after or before they are done.
struct Flaky {
    inner: DirectoryStore,
    random: Mutex<StdRng>,
    /// Of requests that fail.
    rate: f64,
}

impl Flaky {
    fn new(seed: u64, rate: f64) -> Flaky {
        let disk = Disk::simulated(&SimulatedDisk::new());
        disk.create_dir_all(Path::new("/bucket")).unwrap();
        let inner = DirectoryStore::open(&disk, Path::new("/bucket"), "1", Arc::new(|work| work())).unwrap();
        Flaky { inner, random: Mutex::new(StdRng::seed_from_u64(seed)), rate }
    }

    fn is_lost(&self) -> bool {
        self.random.lock().random_bool(self.rate)
    }
}

fn lost<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("lost".to_owned()))
}

impl ObjectStore for Flaky {
    fn put<'a>(&'a self, key: &'a str, content: Content, condition: Condition) -> Answer<'a, ()> {
        async move {
            if self.is_lost() {
                return lost();
            }
            let done = self.inner.put(key, content, condition).await;
            if self.is_lost() { lost() } else { done }
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a str, range: ByteRange) -> Answer<'a, Piece> {
        async move { if self.is_lost() { lost() } else { self.inner.get(key, range).await } }.boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        async move { if self.is_lost() { lost() } else { self.inner.list(prefix, after).await } }.boxed()
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        async move { if self.is_lost() { lost() } else { self.inner.delete(keys).await } }.boxed()
    }
}

#[tokio::test]
async fn commits_whose_answers_are_lost_are_made_once() {
    for seed in 0..50 {
        let store = Flaky::new(seed, 0.3);
        let mut made: Option<Manifest> = None;
        for number in 1..20u64 {
            let writer = writer(1, 4, number);
            let first = || Manifest::first("stocks", TOPIC, 3, writer, Offset(0));
            let mut next = made.as_ref().map_or_else(first, |made| made.next(writer));
            let end = next.end_offset().unwrap_or_default().0;
            next.add(segment(end, end + 10), NOW).unwrap();
            loop {
                match commit(&store, "p/", &next).await {
                    Ok(()) => break,
                    Err(ManifestError::Store(StoreError::Unavailable(_))) => {}
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            made = Some(next);
        }
        let loaded = loop {
            match load(&store, "p/", TOPIC, 3).await {
                Ok(loaded) => break loaded,
                Err(ManifestError::Store(StoreError::Unavailable(_))) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
        };
        assert_eq!(loaded, made);
        assert_eq!(loaded.unwrap().number, 19);
    }
}

#[tokio::test]
async fn of_two_leaders_one_is_told() {
    let store = Flaky::new(0, 0.0);
    assert_eq!(load(&store, "p/", TOPIC, 3).await.unwrap(), None);
    commit(&store, "p/", &empty()).await.unwrap();
    // Both have read the same.
    let old = empty().next(writer(1, 4, 1));
    let mut new = empty().next(writer(2, 5, 2));
    new.add(segment(0, 10), NOW).unwrap();
    commit(&store, "p/", &new).await.unwrap();
    let fenced = commit(&store, "p/", &old).await.unwrap_err();
    assert!(
        matches!(&fenced, ManifestError::Fenced { number: 2, writer } if *writer == new.writer),
        "{fenced}"
    );
    assert_eq!(fenced.to_string(), "manifest 2 was written by broker 2 in epoch 5");
    assert_eq!(load(&store, "p/", TOPIC, 3).await.unwrap(), Some(new));
    assert_eq!(load(&store, "other/", TOPIC, 3).await.unwrap(), None);
    assert_eq!(load(&store, "p/", TOPIC, 33).await.unwrap(), None);
}

#[tokio::test]
async fn a_damaged_manifest_is_named_and_not_passed_over() {
    let store = Flaky::new(0, 0.0);
    commit(&store, "", &empty()).await.unwrap();
    let key = "tier/v1/AAAAAAAAAAEAAAAAAAAAAg/3/manifest/0000000002.json";
    for content in ["", "{}", "[1]"] {
        store.put(key, Content::from(Bytes::from_static(content.as_bytes())), Condition::None).await.unwrap();
        let error = load(&store, "", TOPIC, 3).await.unwrap_err();
        assert!(matches!(&error, ManifestError::Damaged { key: named, .. } if named == key), "{error}");
    }
    // The first one under the name of the second.
    store.put(key, Content::from(Bytes::from(empty().encode().unwrap())), Condition::None).await.unwrap();
    assert!(matches!(load(&store, "", TOPIC, 3).await, Err(ManifestError::Damaged { .. })));
}
