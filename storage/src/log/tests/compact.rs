use std::collections::BTreeMap;

use super::support::*;
use crate::disk::Fault;
use crate::log::*;
use bytes::Bytes;
use ottla_batch::{BatchOptions, Codec, ControlKind, Offset};

fn config() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy::Compact,
        min_cleanable_dirty_ratio: 0.0,
        delete_retention_ms: 1000,
        ..small_config()
    }
}

fn put(t: &mut TestLog, key: &str, value: Option<&str>) {
    let record = (key.as_bytes(), value.map(str::as_bytes), NOW.0);
    t.append(&batch_with(BatchOptions::default(), &[record])).unwrap();
}

fn later(ms: i64) -> TimestampMs {
    TimestampMs(NOW.0 + ms)
}

fn compact_at(t: &mut TestLog, now: TimestampMs) -> Option<CompactionResult> {
    let plan = t.log.plan_compaction(t.log.end_offset(), now)?;
    let compacted = plan.rewrite(now, &|| true).unwrap();
    Some(t.log.swap_compacted(compacted).unwrap())
}

/// Closes the active segment, so that all that was written may be compacted.
fn seal(t: &mut TestLog) {
    let segments = t.log.segments_count();
    while t.log.segments_count() == segments {
        put(t, "filler", Some("0123456789012345678901234567890123456789"));
    }
}

fn latest(records: &[(i64, Bytes, Bytes)]) -> BTreeMap<Bytes, Bytes> {
    records.iter().map(|(_, key, value)| (key.clone(), value.clone())).collect()
}

#[test]
fn the_newest_record_of_each_key_stays_at_its_offset() {
    let mut t = TestLog::new(config());
    for n in 0..200 {
        put(&mut t, &format!("key{}", n % 7), Some(&format!("value {n}")));
    }
    let before = t.records_from(Offset(0));
    let (end, segments) = (t.log.end_offset(), t.log.segments_count());
    let result = compact_at(&mut t, NOW).unwrap();
    assert!(result.bytes_after < result.bytes_before / 4);
    assert_eq!(t.log.segments_count(), segments);
    let after = t.records_from(Offset(0));
    assert_eq!(latest(&after), latest(&before));
    assert!(after.iter().all(|record| before.contains(record)), "nothing is made up");
    assert_eq!((t.log.log_start_offset(), t.log.end_offset()), (Offset(0), end));
    assert_eq!(result.cleaner_offset, t.log.active().base_offset);
    assert!(compact_at(&mut t, NOW).is_none(), "nothing is dirty now");
    // A read at an offset that is gone goes on at the next one.
    let slice = t.log.read(Offset(1), end, 1, FirstBatch::Whole).unwrap();
    assert!(slice.base_offset > Offset(1));
    result.deleted.run().unwrap();
    // What became small is merged by the next round.
    seal(&mut t);
    let filler = t.records_from(Offset(0)).len();
    compact_at(&mut t, NOW).unwrap();
    assert!(t.log.segments_count() < segments / 2, "{} of {segments}", t.log.segments_count());
    let after = t.records_from(Offset(0));
    assert!(after.len() <= filler);
    assert_eq!(after.iter().filter(|record| record.1 != "filler").count(), 7);
    for shutdown in [LastShutdown::Clean, LastShutdown::Unclean] {
        t.log.close().unwrap();
        t.checkpoints.write().unwrap();
        t.reopen(shutdown);
        assert_eq!(t.records_from(Offset(0)), after);
    }
}

#[test]
fn tombstones_stay_until_their_horizon() {
    let mut t = TestLog::new(config());
    put(&mut t, "a", Some("1"));
    put(&mut t, "b", Some("1"));
    put(&mut t, "a", None);
    seal(&mut t);
    compact_at(&mut t, NOW).unwrap();
    let keys = |t: &TestLog| -> Vec<Bytes> {
        t.records_from(Offset(0)).into_iter().map(|record| record.1).filter(|key| key != "filler").collect()
    };
    assert_eq!(keys(&t), ["b", "a"]);
    seal(&mut t);
    compact_at(&mut t, later(999)).unwrap();
    assert_eq!(keys(&t), ["b", "a"], "the horizon was set by the first compaction");
    seal(&mut t);
    compact_at(&mut t, later(1000)).unwrap();
    assert_eq!(keys(&t), ["b"]);
}

#[test]
fn ratio_lag_stability_and_policy_decide() {
    let mut t =
        TestLog::new(LogConfig { min_cleanable_dirty_ratio: 0.5, min_compaction_lag_ms: 500, ..config() });
    for _ in 0..30 {
        put(&mut t, "k", Some("v"));
    }
    let end = t.log.end_offset();
    assert!(t.log.plan_compaction(end, later(499)).is_none(), "too young");
    assert!(t.log.plan_compaction(Offset(3), later(500)).is_none(), "not stable");
    let plan = t.log.plan_compaction(end, later(500)).unwrap();
    assert_eq!(plan.dirty_ratio(), 1.0);
    let stopped = plan.rewrite(later(500), &|| false);
    assert!(matches!(stopped, Err(CompactError::Abandoned(_))));
    let names = t.disk.read_dir(&t.log.dir()).unwrap();
    assert!(names.iter().all(|entry| !entry.name.contains("cleaned")), "{names:?}");
    compact_at(&mut t, later(500)).unwrap();
    let mut fat = Vec::new();
    for n in 0..60 {
        fat.push(format!("key {n}"));
    }
    fat.iter().for_each(|key| put(&mut t, key, Some("0123456789")));
    compact_at(&mut t, later(500)).unwrap();
    seal(&mut t);
    assert!(t.log.plan_compaction(t.log.end_offset(), later(500)).is_none(), "too little is dirty");
    t.log
        .update_config(Arc::new(LogConfig { max_compaction_lag_ms: 400, ..t.log.config().as_ref().clone() }));
    assert!(t.log.plan_compaction(t.log.end_offset(), later(500)).is_some(), "it has waited too long");
    t.log.update_config(Arc::new(LogConfig::default()));
    assert!(t.log.plan_compaction(t.log.end_offset(), later(500)).is_none());
}

#[test]
fn a_small_buffer_cleans_in_rounds() {
    let mut t = TestLog::new(LogConfig { dedupe_buffer_bytes: 48 * 10, ..config() });
    for round in 0..3 {
        for n in 0..25 {
            put(&mut t, &format!("key{n}"), Some(&format!("{round}")));
        }
    }
    let before = latest(&t.records_from(Offset(0)));
    let mut rounds = 0;
    let mut last = Offset(0);
    while let Some(result) = compact_at(&mut t, NOW) {
        assert!(result.cleaner_offset > last);
        last = result.cleaner_offset;
        rounds += 1;
        assert_eq!(latest(&t.records_from(Offset(0))), before);
    }
    assert!(rounds > 2, "{rounds}");
    let many = batch_with(
        Default::default(),
        &(0..11u8)
            .map(|n| ([n], n))
            .collect::<Vec<_>>()
            .iter()
            .map(|(k, _)| (&k[..], None, NOW.0))
            .collect::<Vec<_>>(),
    );
    t.append(&many).unwrap();
    seal(&mut t);
    let plan = t.log.plan_compaction(t.log.end_offset(), NOW);
    let outcome = plan.map(|plan| plan.rewrite(NOW, &|| true));
    assert!(matches!(outcome, Some(Err(CompactError::Abandoned(_)) | Ok(_))));
}

#[test]
fn the_last_batch_of_a_producer_stays_as_a_header() {
    let mut t = TestLog::new(config());
    for n in 0..3 {
        t.append(&idempotent(7, 0, n, 1)).unwrap();
    }
    put(&mut t, "k", Some("newer"));
    seal(&mut t);
    compact_at(&mut t, NOW).unwrap();
    assert!(t.records_from(Offset(0)).iter().all(|record| record.1 != "k" || record.2 == "newer"));
    // Without snapshots all that is known comes from the log.
    for shutdown in [LastShutdown::Clean, LastShutdown::Unclean] {
        t.log.close().unwrap();
        for entry in t.disk.read_dir(&t.log.dir()).unwrap() {
            if entry.name.ends_with(".snapshot") {
                t.disk.remove_file(&t.log.dir().join(entry.name)).unwrap();
            }
        }
        t.reopen(shutdown);
        assert!(t.append(&idempotent(7, 0, 2, 1)).unwrap().duplicate);
        assert!(matches!(t.append(&idempotent(7, 0, 5, 1)), Err(AppendError::OutOfOrderSequence { .. })));
    }
    t.append(&idempotent(7, 0, 3, 1)).unwrap();
    seal(&mut t);
    compact_at(&mut t, NOW).unwrap();
    assert!(t.append(&idempotent(7, 0, 3, 1)).unwrap().duplicate);
}

#[test]
fn aborted_records_go_and_markers_follow_when_nothing_needs_them() {
    let mut t = TestLog::new(config());
    t.append(&transactional(1, 0, 2)).unwrap(); // aborted
    t.append(&transactional(2, 0, 1)).unwrap(); // committed
    t.append_marker(1, ControlKind::Abort);
    t.append_marker(2, ControlKind::Commit);
    put(&mut t, "k", Some("last"));
    seal(&mut t);
    let control = |t: &TestLog| {
        let records = all_records(&t.log, Offset(0));
        records
            .iter()
            .filter(|record| record.key.as_ref().is_some_and(|key| key.len() == 4 && key[0] == 0))
            .count()
    };
    let now = later(0);
    compact_at(&mut t, now).unwrap();
    let values: Vec<_> = t.records_from(Offset(0)).into_iter().filter(|r| r.1 == "k").map(|r| r.2).collect();
    assert_eq!(values, ["last"]);
    // Both markers are there: their batches were until now (the last of producer 1 still is, as a header).
    assert_eq!(control(&t), 2);
    assert_eq!(t.log.aborted_transactions(Offset(0), t.log.end_offset()).unwrap().len(), 1);
    // Producers expire, their headers go, then the markers get a horizon, then they go.
    t.log.expire_producers(later(i64::MAX / 4));
    for round in 1..6 {
        seal(&mut t);
        compact_at(&mut t, later(round * 2000)).unwrap();
    }
    assert_eq!(control(&t), 0);
    assert!(t.log.aborted_transactions(Offset(0), t.log.end_offset()).unwrap().is_empty());
}

#[test]
fn an_open_transaction_is_left_alone() {
    let mut t = TestLog::new(config());
    for _ in 0..20 {
        put(&mut t, "k", Some("0123456789"));
    }
    t.append(&transactional(1, 0, 2)).unwrap();
    seal(&mut t);
    seal(&mut t);
    let stable = t.log.first_unstable_offset(t.log.end_offset()).unwrap();
    let plan = t.log.plan_compaction(stable, NOW).unwrap();
    let compacted = plan.rewrite(NOW, &|| true).unwrap();
    t.log.swap_compacted(compacted).unwrap();
    assert!(
        t.records_from(Offset(0)).iter().filter(|record| record.0 >= stable.0 && record.1 == "k").count()
            == 2
    );
}

#[test]
fn compressed_batches_and_log_append_time_keep_their_shape() {
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut t = TestLog::new(LogConfig { segment_bytes: 4000, ..config() });
        for n in 0..60 {
            let value = format!("value {n} {}", "x".repeat(30));
            let (a, b) = (format!("a{}", n % 3), format!("b{n}"));
            let records: [Row<'_>; 2] = [
                (a.as_bytes(), Some(value.as_bytes()), NOW.0 + n),
                (b.as_bytes(), Some(b"y"), NOW.0 + n + 1),
            ];
            t.append(&batch_with(BatchOptions { codec, ..Default::default() }, &records)).unwrap();
        }
        let before = all_records(&t.log, Offset(0));
        compact_at(&mut t, NOW).unwrap();
        let after = all_records(&t.log, Offset(0));
        assert!(after.len() < before.len());
        assert!(after.iter().all(|record| before.contains(record)), "{codec:?}");
        for record in after.iter().filter(|record| record.offset < t.log.active().base_offset) {
            let found = t.log.offset_for_timestamp(record.timestamp, t.log.end_offset()).unwrap().unwrap();
            assert!(found.offset <= record.offset);
        }
    }
}

#[test]
fn a_compaction_of_what_is_not_there_any_more_is_abandoned() {
    let mut t = TestLog::new(config());
    for _ in 0..60 {
        put(&mut t, "k", Some("0123456789"));
    }
    let plan = t.log.plan_compaction(t.log.end_offset(), NOW).unwrap();
    let compacted = plan.rewrite(NOW, &|| true).unwrap();
    t.log.truncate_to(Offset(5)).unwrap();
    put(&mut t, "k", Some("after"));
    let records = t.records_from(Offset(0));
    assert!(matches!(t.log.swap_compacted(compacted), Err(CompactError::Abandoned(_))));
    assert_eq!(t.records_from(Offset(0)), records);
    assert!(t.log.offline().is_none());
}

#[test]
fn delete_and_compact_together() {
    let mut t = TestLog::new(LogConfig {
        cleanup_policy: CleanupPolicy::CompactAndDelete,
        retention_ms: Some(5000),
        ..config()
    });
    for n in 0..60 {
        put(&mut t, &format!("k{}", n % 3), Some("v"));
    }
    compact_at(&mut t, NOW).unwrap();
    let end = t.log.end_offset();
    let deleted = t.log.delete_old_segments(later(6000), end, None).unwrap();
    assert!(!deleted.is_empty());
    assert_eq!(t.log.log_start_offset(), end);
}

/// The heart of it: the machine stops at any operation of a compaction, and the newest value of every key is there.
#[test]
fn a_crash_at_any_operation_loses_no_key_and_doubles_nothing() {
    let fill = |t: &mut TestLog| {
        for n in 0..70 {
            put(t, &format!("key{}", n % 9), Some(&format!("value {n}")));
        }
        t.append(&transactional(1, 0, 2)).unwrap();
        t.append_marker(1, ControlKind::Abort);
        put(t, "k", Some("kept"));
        seal(t);
        t.sync();
        t.checkpoints.write().unwrap();
    };
    let mut operations = 0;
    for at in 0.. {
        let mut finished = false;
        for seed in 0..3 {
            let mut t = TestLog::new(config());
            fill(&mut t);
            let before = t.records_from(Offset(0));
            let start = t.simulated.operations();
            t.simulated.set_fault(start + at, Fault::Crash);
            let plan = t.log.plan_compaction(t.log.end_offset(), NOW).unwrap();
            let swapped = plan.rewrite(NOW, &|| true).and_then(|compacted| t.log.swap_compacted(compacted));
            let removed = swapped.as_ref().is_ok();
            let removed = removed && swapped.is_ok_and(|result| result.deleted.run().is_ok());
            finished = removed;
            t.crash(at * 31 + seed);
            let after = t.records_from(Offset(0));
            let is_data = |record: &&(i64, Bytes, Bytes)| record.1.len() > 4 || record.1 == "k";
            let keys = |records: &[(i64, Bytes, Bytes)]| {
                let aborted = |record: &&(i64, Bytes, Bytes)| record.1 == "k" && record.2 == "v";
                let kept: Vec<_> = records.iter().filter(is_data).filter(|r| !aborted(r)).cloned().collect();
                latest(&kept)
            };
            assert_eq!(keys(&after), keys(&before), "at {at}, seed {seed}");
            let mut offsets: Vec<_> = after.iter().map(|record| record.0).collect();
            assert!(offsets.is_sorted());
            offsets.dedup();
            assert_eq!(offsets.len(), after.len(), "at {at}, seed {seed}");
            assert!(after.iter().all(|record| before.contains(record)));
            let names = t.disk.read_dir(&t.log.dir()).unwrap();
            let is_leftover =
                |name: &str| [".cleaned", ".swap", ".deleted"].iter().any(|s| name.ends_with(s));
            assert!(!names.iter().any(|entry| is_leftover(&entry.name)), "{names:?}");
            // While a batch of the aborted transaction is there, the index says so.
            let has_aborted = after.iter().any(|record| record.1 == "k" && record.2 == "v");
            let aborted = t.log.aborted_transactions(Offset(0), t.log.end_offset()).unwrap();
            assert!(!has_aborted || aborted.len() == 1, "at {at}, seed {seed}");
            t.append(&batch(1)).unwrap();
            compact_at(&mut t, NOW);
            assert_eq!(keys(&t.records_from(Offset(0))).len(), keys(&before).len());
        }
        operations = at;
        if finished {
            break;
        }
    }
    assert!(operations > 20, "{operations}");
}

#[test]
fn a_full_disk_abandons_and_leaves_the_log_as_it_was() {
    for left in (0..3000).step_by(97) {
        let mut t = TestLog::new(config());
        for n in 0..70 {
            put(&mut t, &format!("key{}", n % 40), Some(&format!("value {n}")));
        }
        let before = t.records_from(Offset(0));
        t.simulated.set_capacity(Some(t.simulated.used_bytes() + left));
        let plan = t.log.plan_compaction(t.log.end_offset(), NOW).unwrap();
        match plan.rewrite(NOW, &|| true) {
            Ok(compacted) => {
                t.log.swap_compacted(compacted).unwrap();
            }
            Err(CompactError::Io { .. }) => {
                assert_eq!(t.records_from(Offset(0)), before);
                let names = t.disk.read_dir(&t.log.dir()).unwrap();
                assert!(names.iter().all(|entry| !entry.name.contains("cleaned")), "{names:?}");
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(latest(&t.records_from(Offset(0))), latest(&before));
        assert!(t.log.offline().is_none());
    }
}
