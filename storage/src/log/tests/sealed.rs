//! Segments made objects, and read again from them.

use bytes::{Bytes, BytesMut};
use ottla_batch::{BatchHeader, ControlKind, crc32c};
use uuid::Uuid;

use super::support::*;
use crate::log::*;
use crate::tiering::key::SegmentKey;
use crate::tiering::object::{FOOTER_BYTES, Footer, Indexes, Section};

const LIMIT: Offset = Offset(i64::MAX);

fn key(segment: &SealedSegment) -> SegmentKey {
    SegmentKey {
        topic_id: Uuid::from_u64_pair(1, 2),
        partition: 3,
        base_offset: segment.base_offset,
        end_offset: segment.end_offset,
        leader_epoch: LeaderEpoch(4),
        suffix: 5,
    }
}

/// All sealed segments from `from` on as objects.
fn objects(log: &Log, from: Offset) -> Vec<(SegmentKey, Bytes)> {
    let mut objects = Vec::new();
    let mut next = from;
    while let Some(segment) = log.sealed_segment(next, LIMIT).unwrap() {
        next = segment.end_offset;
        let key = key(&segment);
        let content = segment.into_object(&key).unwrap();
        objects.push((key, content.read(0, content.len() as usize).unwrap()));
    }
    objects
}

fn footer(object: &Bytes) -> Footer {
    Footer::decode(object, object.len() as u64).unwrap()
}

fn section(object: &Bytes, section: Section) -> Bytes {
    let footer = footer(object);
    let range = footer.range(section);
    let bytes = object.slice(range.start as usize..range.end as usize);
    footer.check(section, &bytes).unwrap();
    bytes
}

fn indexes(object: &Bytes) -> Indexes {
    Indexes::new(&footer(object), section(object, Section::OffsetIndex), section(object, Section::TimeIndex))
        .unwrap()
}

/// A log with aborts, several epochs and producers, timestamps that go up and down, and a dozen segments.
fn mixed() -> TestLog {
    let mut test = TestLog::new(small_config());
    for n in 0..60i64 {
        let epoch = LeaderEpoch(n as i32 / 25);
        test.append_in(&batch_at(1 + n as usize % 4, NOW.0 + (n * 37) % 100), epoch).unwrap();
        if n % 7 == 0 {
            test.append_in(&transactional(9, n as i32 / 7, 1), epoch).unwrap();
            test.log.append_as_leader(&abort(), epoch, ottla_batch::AppendOrigin::Coordinator, NOW).unwrap();
        }
        test.append_in(&idempotent(7, 1, n as i32, 1), epoch).unwrap();
    }
    test.sync();
    assert!(test.log.segments_count() > 8, "{}", test.log.segments_count());
    test
}

fn abort() -> ottla_batch::CheckedBatches {
    let marker = ottla_batch::EndTxnMarker { kind: ControlKind::Abort, coordinator_epoch: 0 };
    let batch = ottla_batch::build_end_txn_marker(ProducerId(9), ProducerEpoch(0), marker, NOW).unwrap();
    let policy = ottla_batch::AppendPolicy {
        origin: ottla_batch::AppendOrigin::Coordinator,
        ..ottla_batch::AppendPolicy::new(NOW)
    };
    ottla_batch::check_produced(batch, &policy).unwrap()
}

fn file(test: &TestLog, offset: Offset, suffix: &str) -> Vec<u8> {
    let path = test.log.dir().join(crate::log::segment::file_name(offset, suffix));
    test.disk.read(&path, 1 << 20).unwrap_or_default()
}

#[test]
fn an_object_holds_what_the_files_of_the_segment_hold() {
    let test = mixed();
    let objects = objects(&test.log, Offset(0));
    assert_eq!(objects.len(), test.log.segments_count() - 1, "all but the active one");
    let mut next = Offset(0);
    for (key, object) in &objects {
        assert_eq!(key.base_offset, next);
        next = key.end_offset;
        let footer = footer(object);
        footer.check_key(key).unwrap();
        for (part, suffix) in [
            (Section::Batches, ".log"),
            (Section::OffsetIndex, ".index"),
            (Section::TimeIndex, ".timeindex"),
            (Section::TransactionIndex, ".txnindex"),
        ] {
            assert_eq!(section(object, part), file(&test, key.base_offset, suffix), "{suffix} of {key}");
        }
        assert_eq!(section(object, Section::ProducerSnapshot), file(&test, key.end_offset, ".snapshot"));
    }
    let epochs = |(_, object): &(SegmentKey, Bytes)| {
        String::from_utf8(section(object, Section::LeaderEpochs).to_vec()).unwrap()
    };
    assert_eq!(epochs(&objects[0]), "0\n1\n0 0\n", "the log had no other when the segment ended");
    assert!(epochs(&objects[objects.len() - 1]).starts_with("0\n3\n0 0\n1 "));
}

#[test]
fn every_record_of_an_object_is_found_by_offset_and_time() {
    let test = mixed();
    for (key, object) in objects(&test.log, Offset(0)) {
        let indexes = indexes(&object);
        let batches = section(&object, Section::Batches);
        let headers = |from: u64| {
            let mut rest = batches.slice(from as usize..);
            std::iter::from_fn(move || {
                let header = BatchHeader::parse(&rest).ok()?;
                rest = rest.split_off(header.size_in_bytes());
                Some(header)
            })
        };
        for offset in key.base_offset.0..key.end_offset.0 {
            let from = indexes.position(Offset(offset));
            let found = headers(from).find(|header| header.last_offset() >= Offset(offset)).unwrap();
            assert!(found.base_offset <= Offset(offset), "{offset}: {found:?}");
        }
        assert_eq!(headers(indexes.position(Offset(0))).next().unwrap().base_offset, key.base_offset);
        for timestamp in NOW.0 - 1..NOW.0 + 101 {
            let from = indexes.offset_before(TimestampMs(timestamp));
            let first = headers(0).find(|header| header.max_timestamp >= TimestampMs(timestamp));
            assert!(first.is_none_or(|first| from <= first.last_offset()), "{timestamp}: {from}, {first:?}");
        }
        let max = headers(0).map(|header| header.max_timestamp).max();
        assert_eq!(footer(&object).max_timestamp, max);
    }
}

#[test]
fn golden_object() {
    let mut test = TestLog::new(LogConfig { segment_bytes: 120, ..small_config() });
    test.append(&idempotent(7, 1, 0, 1)).unwrap();
    test.append_in(&idempotent(7, 1, 1, 1), LeaderEpoch(1)).unwrap();
    test.sync();
    let (key, object) = objects(&test.log, Offset(0)).remove(0);
    let batches = file(&test, Offset(0), ".log");
    let mut golden = BytesMut::from(&batches[..]);
    let mut times = Vec::new();
    times.extend_from_slice(&NOW.0.to_be_bytes());
    times.extend_from_slice(&0i32.to_be_bytes());
    let snapshot = file(&test, Offset(1), ".snapshot");
    let sections: [&[u8]; 6] = [&batches, b"", &times, b"", b"0\n1\n0 0\n", &snapshot];
    sections[1..].iter().for_each(|section| golden.extend_from_slice(section));
    let mut foot = Vec::new();
    for section in sections {
        foot.extend_from_slice(&(section.len() as u64).to_be_bytes());
        foot.extend_from_slice(&crc32c(section).to_be_bytes());
    }
    foot.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]); // topic id
    foot.extend_from_slice(&3i32.to_be_bytes()); // partition
    foot.extend_from_slice(&0i64.to_be_bytes()); // base offset
    foot.extend_from_slice(&1i64.to_be_bytes()); // end offset
    foot.extend_from_slice(&4i32.to_be_bytes()); // leader epoch
    foot.extend_from_slice(&NOW.0.to_be_bytes()); // largest timestamp
    foot.extend_from_slice(&crc32c(&foot).to_be_bytes());
    foot.extend_from_slice(b"\0\x01OttlaSeg");
    assert_eq!(foot.len(), FOOTER_BYTES);
    golden.extend_from_slice(&foot);
    assert_eq!(object, golden);
    assert_eq!(footer(&object).encode(), foot);
    footer(&object).check_key(&key).unwrap();
    let other = SegmentKey { end_offset: Offset(2), ..key };
    assert!(footer(&object).check_key(&other).is_err());
}

#[test]
fn what_is_not_on_stable_storage_or_past_the_limit_waits() {
    let mut test = TestLog::new(small_config());
    while test.log.segments_count() < 4 {
        test.append(&batch(3)).unwrap();
    }
    assert!(test.log.sealed_segment(Offset(0), LIMIT).unwrap().is_none(), "not synced");
    test.sync();
    let first = test.log.sealed_segment(Offset(0), LIMIT).unwrap().unwrap();
    let before = Offset(first.end_offset.0 - 1);
    assert!(test.log.sealed_segment(Offset(0), before).unwrap().is_none());
    assert!(test.log.sealed_segment(Offset(0), first.end_offset).unwrap().is_some());
    let again = test.log.sealed_segment(before, LIMIT).unwrap().unwrap();
    assert_eq!(again.base_offset, first.base_offset, "it holds the offset");
    let end = test.log.end_offset();
    assert!(test.log.sealed_segment(end, LIMIT).unwrap().is_none(), "the active one");
    assert!(test.log.sealed_segment(LIMIT, LIMIT).unwrap().is_none());
}

#[test]
fn a_missing_producer_snapshot_is_made_again() {
    let mut test = mixed();
    let with: Vec<_> = objects(&test.log, Offset(0));
    for entry in test.disk.read_dir(&test.log.dir()).unwrap() {
        if entry.name.ends_with(".snapshot") {
            test.disk.remove_file(&test.log.dir().join(entry.name)).unwrap();
        }
    }
    assert_eq!(objects(&test.log, Offset(0)), with);
    test.reopen(LastShutdown::Clean);
}

#[test]
fn a_damaged_segment_makes_no_object() {
    let test = mixed();
    let second = test.log.sealed_segment(Offset(0), LIMIT).unwrap().unwrap().end_offset;
    let path = test.log.dir().join(crate::log::segment::file_name(second, ".log"));
    let whole = test.disk.read(&path, 1 << 20).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        test.disk
            .handle(&path)
            .open_to_write()
            .unwrap()
            .write_all_at(&mut [std::io::IoSlice::new(&damaged)], 0)
            .unwrap();
        let segment = test.log.sealed_segment(second, LIMIT).unwrap().unwrap();
        let key = key(&segment);
        let made = segment.into_object(&key);
        // The CRC of a batch covers neither its leader epoch nor all of its base offset: offsets may leave a hole.
        if let Ok(content) = made {
            let within = at - batch_start(&whole, at);
            assert!(
                (0..8).contains(&within) || (12..16).contains(&within),
                "byte {at} of {key}, {within} of its batch"
            );
            assert_eq!(content.read(0, whole.len()).unwrap(), damaged);
        }
    }
}

fn batch_start(log: &[u8], at: usize) -> usize {
    let mut start = 0;
    loop {
        let next = start + BatchHeader::parse(&log[start..]).unwrap().size_in_bytes();
        if next > at {
            return start;
        }
        start = next;
    }
}

#[test]
fn a_damaged_or_cut_object_is_refused() {
    let test = mixed();
    let (_, object) = objects(&test.log, Offset(0)).remove(0);
    let len = object.len() as u64;
    let foot = object.slice(object.len() - FOOTER_BYTES..);
    assert_eq!(Footer::decode(&foot, len).unwrap(), footer(&object));
    assert!(Footer::decode(&foot[1..], len).is_err());
    assert!(Footer::decode(&foot, len - 1).is_err());
    assert!(Footer::decode(&[0; 200], 200).is_err());
    for at in 0..foot.len() {
        let mut damaged = foot.to_vec();
        damaged[at] ^= 1;
        assert!(Footer::decode(&damaged, len).is_err(), "byte {at}");
    }
    let footer = footer(&object);
    for part in Section::ALL {
        let mut bytes = section(&object, part).to_vec();
        bytes.push(0);
        assert!(footer.check(part, &bytes).is_err());
        bytes.pop();
        if let Some(first) = bytes.first_mut() {
            *first ^= 1;
            assert!(footer.check(part, &bytes).is_err());
        }
    }
}
