use super::support::*;
use crate::log::*;
use std::path::Path;

fn names(t: &TestLog) -> Vec<String> {
    t.disk.read_dir(Path::new("/data/topic-0")).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn filled(config: LogConfig, batches: i64) -> TestLog {
    let mut t = TestLog::new(config);
    for n in 0..batches {
        t.append(&batch_at(2, NOW.0 + n * 1000)).unwrap();
    }
    t
}

#[test]
fn by_time_only_below_the_high_watermark_and_the_active_segment_rolls() {
    let config = LogConfig { retention_ms: Some(10_000), ..small_config() };
    let mut t = filled(config, 40);
    let segments = t.log.segments_count();
    let end = t.log.end_offset();
    let none = t.log.delete_old_segments(NOW, end, None).unwrap();
    assert!(none.is_empty());
    let none = t.log.delete_old_segments(TimestampMs(NOW.0 + 1_000_000), Offset(0), None).unwrap();
    assert!(none.is_empty(), "nothing is replicated");
    let later = TimestampMs(NOW.0 + 30_000);
    let deleted = t.log.delete_old_segments(later, end, None).unwrap();
    assert!(!deleted.is_empty());
    assert!(deleted.segments().iter().all(|segment| segment.2 == DeletionReason::RetentionTime));
    assert_eq!(t.log.segments_count(), segments - deleted.segments().len());
    let start = t.log.log_start_offset();
    // The first record left is in a segment whose last is at most ten seconds old.
    assert!(start > Offset(0) && start < Offset(40));
    assert!(names(&t).iter().any(|name| name.ends_with(".log.deleted")));
    deleted.run().unwrap();
    assert!(!names(&t).iter().any(|name| name.ends_with(".deleted")));
    assert!(matches!(
        t.log.read(Offset(0), end, 1, FirstBatch::Whole),
        Err(ReadError::OffsetOutOfRange { .. })
    ));
    // All of it: the active segment goes too, and offsets go on.
    let all = t.log.delete_old_segments(TimestampMs(NOW.0 + 1_000_000), end, None).unwrap();
    assert_eq!((t.log.segments_count(), t.log.log_start_offset(), t.log.size_in_bytes()), (1, end, 0));
    drop(all);
    t.sync();
    t.crash(9);
    assert_eq!((t.log.log_start_offset(), t.log.end_offset()), (end, end));
    assert_eq!(t.append(&batch(1)).unwrap().base_offset, end);
    assert!(!names(&t).iter().any(|name| name.ends_with(".deleted")));
}

#[test]
fn by_size_keeps_at_least_what_is_asked() {
    let config = LogConfig { retention_bytes: Some(3000), retention_ms: None, ..small_config() };
    let mut t = filled(config, 60);
    let end = t.log.end_offset();
    let before = t.log.size_in_bytes();
    let deleted = t.log.delete_old_segments(NOW, end, None).unwrap();
    let bytes: u64 = deleted.segments().iter().map(|segment| segment.1).sum();
    assert_eq!(before - bytes, t.log.size_in_bytes());
    assert!(t.log.size_in_bytes() >= 3000 && t.log.size_in_bytes() < 3000 + 1000);
    assert!(t.log.delete_old_segments(NOW, end, None).unwrap().is_empty());
}

#[test]
fn delete_records_moves_the_start_and_frees_whole_segments() {
    let mut t = filled(LogConfig { retention_ms: None, ..small_config() }, 40);
    let end = t.log.end_offset();
    assert!(t.log.increment_log_start_offset(Offset(31), Offset(30)).is_err(), "above the high watermark");
    t.log.increment_log_start_offset(Offset(31), end).unwrap();
    t.log.increment_log_start_offset(Offset(5), end).unwrap();
    assert_eq!(t.log.log_start_offset(), Offset(31));
    assert_eq!(t.records_from(Offset(31))[0].0, 31);
    assert!(t.log.read(Offset(30), end, 1, FirstBatch::Whole).is_err());
    let deleted = t.log.delete_old_segments(NOW, end, None).unwrap();
    assert!(deleted.segments().iter().all(|segment| segment.2 == DeletionReason::LogStartOffset));
    assert!(!deleted.is_empty());
    assert_eq!(t.log.log_start_offset(), Offset(31));
    t.sync();
    t.checkpoints.write().unwrap();
    t.crash(2);
    assert_eq!(t.log.log_start_offset(), Offset(31));
    assert_eq!(t.log.offset_for_timestamp(TimestampMs(0), end).unwrap().unwrap().offset, Offset(31));
    t.log.increment_log_start_offset(end, end).unwrap();
    t.log.delete_old_segments(NOW, end, None).unwrap();
    assert_eq!(t.log.end_offset(), end);
    t.append(&batch(1)).unwrap();
}

#[test]
fn lookups_by_time_as_list_offsets_answers_them() {
    let mut t = filled(small_config(), 40);
    let end = t.log.end_offset();
    for n in 0..40i64 {
        for (ask, expected) in [(NOW.0 + n * 1000, n * 2), (NOW.0 + n * 1000 - 1, n * 2)] {
            let found = t.log.offset_for_timestamp(TimestampMs(ask), end).unwrap().unwrap();
            assert_eq!(
                (found.offset.0, found.timestamp.0, found.leader_epoch),
                (expected, NOW.0 + n * 1000, Some(EPOCH))
            );
        }
    }
    assert_eq!(t.log.offset_for_timestamp(TimestampMs(NOW.0 + 39_001), end).unwrap(), None);
    assert_eq!(
        t.log.offset_for_timestamp(TimestampMs(NOW.0 + 39_000), Offset(78)).unwrap(),
        None,
        "not below the limit"
    );
    let max = t.log.offset_of_max_timestamp(end).unwrap().unwrap();
    assert_eq!((max.offset.0, max.timestamp.0), (78, NOW.0 + 39_000));
    assert_eq!(t.log.offset_of_max_timestamp(Offset(20)).unwrap().unwrap().offset.0, 18);
    assert_eq!(t.log.offset_of_max_timestamp(Offset(0)).unwrap(), None);
    // A late record does not count, an equal one neither: the first with the largest time is the answer.
    t.append(&batch_at(1, NOW.0)).unwrap();
    t.append(&batch_at(1, NOW.0 + 39_000)).unwrap();
    assert_eq!(t.log.offset_of_max_timestamp(Offset(i64::MAX)).unwrap().unwrap().offset.0, 78);
    assert_eq!(t.log.offset_for_timestamp(TimestampMs(NOW.0), end).unwrap().unwrap().offset.0, 0);
    // Within a batch, the record itself.
    let mixed = batch_with(
        Default::default(),
        &[(b"a", None, NOW.0), (b"b", None, NOW.0 + 90_000), (b"c", None, NOW.0 + 1)],
    );
    let base = t.append(&mixed).unwrap().base_offset.0;
    assert_eq!(
        t.log.offset_for_timestamp(TimestampMs(NOW.0 + 50_000), Offset(i64::MAX)).unwrap().unwrap().offset.0,
        base + 1
    );
    t.log.close().unwrap();
    t.reopen(LastShutdown::Clean);
    assert_eq!(t.log.offset_of_max_timestamp(Offset(i64::MAX)).unwrap().unwrap().offset.0, base + 1);
}

#[test]
fn a_deleted_log_is_renamed_and_forgotten() {
    let mut t = filled(small_config(), 10);
    t.sync();
    t.checkpoints.write().unwrap();
    let slice = t.log.read(Offset(0), Offset(2), 1000, FirstBatch::Whole).unwrap();
    let deleted = t.log.mark_deleted().unwrap();
    assert!(t.append(&batch(1)).is_err());
    assert!(!slice.read().unwrap().is_empty(), "a reader on the way is not disturbed");
    assert!(!t.disk.exists(Path::new("/data/topic-0")).unwrap());
    t.reopen(LastShutdown::Clean);
    assert_eq!(t.log.end_offset(), Offset(0));
    deleted.run().unwrap();
    let left: Vec<_> = t
        .disk
        .read_dir(Path::new("/data"))
        .unwrap()
        .into_iter()
        .filter(|e| e.is_dir)
        .map(|e| e.name)
        .collect();
    assert_eq!(left, ["topic-0"]);
}
