//! Logs of tiered topics: what is in the tier goes from the disk, and the log start stays.

use ottla_batch::BatchOptions;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::support::*;
use crate::log::*;

fn tiered_config() -> LogConfig {
    LogConfig {
        remote_storage: true,
        retention_ms: None,
        local_retention_ms: Some(0),
        local_retention_bytes: None,
        ..small_config()
    }
}

const LATER: TimestampMs = TimestampMs(NOW.0 + 1_000_000);

/// 60 records in three epochs and several segments, all synced.
fn filled(config: LogConfig) -> TestLog {
    let mut t = TestLog::new(config);
    for n in 0..60 {
        t.append_in(&idempotent(7, 0, n, 1), LeaderEpoch(n / 20)).unwrap();
    }
    t.sync();
    t.checkpoints.write().unwrap();
    assert!(t.log.segments_count() > 4);
    t
}

fn base_offsets(t: &TestLog) -> Vec<i64> {
    t.log.segments.iter().map(|segment| segment.base_offset.0).collect()
}

#[test]
fn what_the_tier_has_goes_from_the_disk_and_the_log_start_stays() {
    let mut t = filled(tiered_config());
    let end = t.log.end_offset();
    assert!(t.log.delete_old_segments(LATER, end, None).unwrap().is_empty(), "nobody knows the tier");
    assert!(t.log.delete_old_segments(LATER, end, Some(Offset(0))).unwrap().is_empty(), "nothing is there");
    let third = base_offsets(&t)[2];
    // A segment goes when all of it is there.
    let deleted = t.log.delete_old_segments(LATER, end, Some(Offset(third + 1))).unwrap();
    assert_eq!(deleted.segments().len(), 2);
    assert!(deleted.segments().iter().all(|segment| segment.2 == DeletionReason::LocalRetentionTime));
    assert_eq!((t.log.log_start_offset(), t.log.local_start_offset()), (Offset(0), Offset(third)));
    assert!(t.log.delete_old_segments(LATER, Offset(third), Some(end)).unwrap().is_empty(), "not committed");
    let read = |t: &TestLog, from: i64| t.log.read(Offset(from), end, 1, FirstBatch::Whole);
    for _ in 0..2 {
        let error = read(&t, third - 1).unwrap_err();
        assert!(
            matches!(error, ReadError::OnlyInTier { local_start_offset, .. } if local_start_offset.0 == third)
        );
        assert_eq!(t.records_from(Offset(third))[0].0, third);
        // Of what is only in the tier the epochs are known.
        for epoch in 0..3 {
            let answer = t.log.end_offset_for_epoch(LeaderEpoch(epoch)).unwrap();
            assert_eq!(answer.end_offset, Offset((i64::from(epoch) + 1) * 20));
            assert_eq!(t.log.epoch_for_offset(Offset(i64::from(epoch) * 20)), Some(LeaderEpoch(epoch)));
        }
        // And the producer's last batches.
        assert!(t.append_in(&idempotent(7, 0, 58, 1), LeaderEpoch(2)).unwrap().duplicate);
        assert!(t.append_in(&idempotent(7, 0, 61, 1), LeaderEpoch(2)).is_err());
        t.checkpoints.write().unwrap();
        t.crash(1);
        assert_eq!((t.log.log_start_offset(), t.log.local_start_offset()), (Offset(0), Offset(third)));
    }
    // All of it: the active segment goes too, and offsets go on.
    t.log.delete_old_segments(LATER, end, Some(end)).unwrap().run().unwrap();
    assert_eq!((t.log.log_start_offset(), t.log.local_start_offset()), (Offset(0), end));
    t.sync();
    t.checkpoints.write().unwrap();
    t.log.close().unwrap();
    t.reopen(LastShutdown::Clean);
    assert_eq!((t.log.log_start_offset(), t.log.local_start_offset()), (Offset(0), end));
    assert_eq!(t.log.end_offset_for_epoch(LeaderEpoch(1)).unwrap().end_offset, Offset(40));
    assert!(t.append_in(&idempotent(7, 0, 59, 1), LeaderEpoch(2)).unwrap().duplicate);
    assert_eq!(t.append_in(&idempotent(7, 0, 60, 1), LeaderEpoch(3)).unwrap().base_offset, end);
}

#[test]
fn by_local_size() {
    let config = LogConfig {
        local_retention_ms: None,
        local_retention_bytes: Some(2500),
        retention_bytes: Some(1),
        ..tiered_config()
    };
    let mut t = filled(config);
    let end = t.log.end_offset();
    let deleted = t.log.delete_old_segments(NOW, end, Some(end)).unwrap();
    assert!(deleted.segments().iter().all(|segment| segment.2 == DeletionReason::LocalRetentionSize));
    assert!((2500..3500).contains(&t.log.size_in_bytes()), "{}", t.log.size_in_bytes());
    assert_eq!(t.log.log_start_offset(), Offset(0), "retention of the whole is not this log's matter");
}

#[test]
fn what_was_deleted_goes_wherever_it_lies() {
    let mut t = filled(tiered_config());
    let end = t.log.end_offset();
    let bases = base_offsets(&t);
    t.log.delete_old_segments(LATER, end, Some(Offset(bases[2]))).unwrap();
    // Only in the tier.
    t.log.increment_log_start_offset(Offset(bases[1]), end).unwrap();
    assert!(t.log.delete_old_segments(NOW, end, Some(Offset(bases[2]))).unwrap().is_empty());
    assert_eq!((t.log.log_start_offset().0, t.log.local_start_offset().0), (bases[1], bases[2]));
    // In what is here: also of what is not in the tier yet.
    t.log.increment_log_start_offset(Offset(bases[4] + 1), end).unwrap();
    assert_eq!(t.log.local_start_offset(), t.log.log_start_offset());
    let deleted = t.log.delete_old_segments(NOW, end, Some(Offset(bases[2]))).unwrap();
    assert!(deleted.segments().iter().all(|segment| segment.2 == DeletionReason::LogStartOffset));
    assert_eq!(base_offsets(&t)[0], bases[4]);
    assert_eq!(t.log.log_start_offset(), Offset(bases[4] + 1));
    assert_eq!(t.log.end_offset_for_epoch(LeaderEpoch(2)).unwrap().end_offset, end);
}

#[test]
fn when_nothing_more_is_copied_retention_waits_for_the_tier_and_then_goes_on() {
    let config = LogConfig {
        remote_copy_disabled: true,
        retention_ms: Some(10_000),
        local_retention_ms: Some(10_000),
        ..tiered_config()
    };
    let mut t = filled(config);
    let end = t.log.end_offset();
    let bases = base_offsets(&t);
    let tier_end = Offset(bases[2]);
    t.log.delete_old_segments(LATER, end, Some(tier_end)).unwrap();
    assert_eq!((t.log.log_start_offset(), t.log.local_start_offset()), (Offset(0), tier_end));
    assert!(t.log.delete_old_segments(LATER, end, Some(tier_end)).unwrap().is_empty(), "the tier goes first");
    t.log.increment_log_start_offset(tier_end, end).unwrap();
    let deleted = t.log.delete_old_segments(LATER, end, Some(tier_end)).unwrap();
    assert!(deleted.segments().iter().all(|segment| segment.2 == DeletionReason::RetentionTime));
    assert_eq!((t.log.log_start_offset(), t.log.local_start_offset()), (end, end));
}

#[test]
fn a_follower_that_is_cut_below_its_first_segment_still_knows_what_is_in_the_tier() {
    let mut t = filled(tiered_config());
    let end = t.log.end_offset();
    t.log.delete_old_segments(LATER, end, Some(Offset(50))).unwrap();
    assert!(t.log.local_start_offset() > Offset(30));
    t.log.truncate_to(Offset(30)).unwrap();
    for _ in 0..2 {
        assert_eq!((t.log.log_start_offset(), t.log.local_start_offset()), (Offset(0), Offset(30)));
        assert_eq!(t.log.end_offset(), Offset(30));
        assert_eq!(t.log.latest_epoch(), Some(LeaderEpoch(1)));
        assert_eq!(t.log.end_offset_for_epoch(LeaderEpoch(0)).unwrap().end_offset, Offset(20));
        t.sync();
        t.log.close().unwrap();
        t.checkpoints.write().unwrap();
        t.reopen(LastShutdown::Clean);
    }
    // Below the log start nothing is in the tier either.
    t.log.increment_log_start_offset(Offset(10), Offset(30)).unwrap();
    t.log.truncate_to(Offset(5)).unwrap();
    assert_eq!((t.log.log_start_offset(), t.log.end_offset()), (Offset(5), Offset(5)));
    assert_eq!(t.log.latest_epoch(), None);
}

#[test]
fn a_segment_is_sealed_before_its_time_and_goes_to_the_tier() {
    let mut t = TestLog::new(LogConfig { segment_bytes: 1 << 20, ..tiered_config() });
    t.log.seal_active_segment(NOW).unwrap();
    assert_eq!(t.log.segments_count(), 1, "it is empty");
    for n in 0..30 {
        t.append_in(&idempotent(7, 0, n, 1), LeaderEpoch(n / 20)).unwrap();
    }
    t.sync();
    assert!(t.log.sealed_segment(Offset(0), Offset(30)).unwrap().is_none());
    t.log.seal_active_segment(NOW).unwrap();
    assert_eq!((t.log.segments_count(), t.log.active_base_offset()), (2, Offset(30)));
    assert!(t.log.sealed_segment(Offset(0), Offset(30)).unwrap().is_none(), "its indexes are not synced");
    t.sync();
    let sealed = t.log.sealed_segment(Offset(0), Offset(30)).unwrap().unwrap();
    assert_eq!((sealed.base_offset, sealed.end_offset), (Offset(0), Offset(30)));
    assert_eq!(sealed.record_epochs, [(LeaderEpoch(0), Offset(0)), (LeaderEpoch(1), Offset(20))]);
    t.append_in(&idempotent(7, 0, 30, 1), LeaderEpoch(1)).unwrap();
    let (sealed_bytes, bytes) = (sealed.size, t.log.size_in_bytes());
    assert_eq!(t.log.past(Offset(29)), PastTier { sealed_segments: 1, sealed_bytes, bytes });
    let bytes = bytes - sealed_bytes;
    assert_eq!(t.log.past(Offset(30)), PastTier { sealed_segments: 0, sealed_bytes: 0, bytes });
}

#[test]
fn a_move_to_another_directory_takes_along_what_is_only_in_the_tier() {
    let mut t = filled(tiered_config());
    let end = t.log.end_offset();
    t.log.delete_old_segments(LATER, end, Some(Offset(50))).unwrap();
    let local_start = t.log.local_start_offset();
    let mut future = TestLog::new(tiered_config());
    let mut at = future.log.agree_with(&t.log).unwrap();
    assert_eq!(at, local_start);
    while at < end {
        let bytes = t.log.read(at, end, 500, FirstBatch::Whole).unwrap().read().unwrap();
        let header = ottla_batch::BatchHeader::parse(&bytes).unwrap();
        let batch = bytes.slice(..header.size_in_bytes());
        future.log.append_copied(&replicated(&[batch]), NOW).unwrap();
        at = future.log.end_offset();
    }
    future.log.complete_from(&t.log).unwrap();
    for _ in 0..2 {
        assert_eq!(
            (future.log.log_start_offset(), future.log.local_start_offset()),
            (Offset(0), local_start)
        );
        assert_eq!(future.log.end_offset_for_epoch(LeaderEpoch(0)).unwrap().end_offset, Offset(20));
        assert_eq!(future.records_from(local_start), t.records_from(local_start));
        future.crash(3);
    }
}

/// Whatever happens between an upload and a crash, what is not in the tier is here.
#[test]
fn crashes_take_nothing_that_is_not_in_the_tier() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut t = TestLog::new(tiered_config());
        let mut values = Vec::new();
        let (mut tier_end, mut synced, mut log_start) = (Offset(0), 0, Offset(0));
        for _ in 0..150 {
            match random.random_range(0..10) {
                0..5 => {
                    let epoch = LeaderEpoch(values.len() as i32 / 15);
                    let value = format!("{seed} {}", values.len());
                    let row: Row<'_> = (b"k", Some(value.as_bytes()), NOW.0);
                    t.append_in(&batch_with(BatchOptions::default(), &[row]), epoch).unwrap();
                    values.push(value);
                }
                5 => {
                    t.sync();
                    synced = values.len();
                }
                6 => {
                    if let Some(sealed) = t.log.sealed_segment(tier_end, t.log.end_offset()).unwrap() {
                        tier_end = sealed.end_offset;
                    }
                }
                7 => {
                    let deleted = t.log.delete_old_segments(LATER, t.log.end_offset(), Some(tier_end));
                    let deleted = deleted.unwrap();
                    if random.random_bool(0.5) {
                        deleted.run().unwrap();
                    }
                    if random.random_bool(0.5) {
                        t.checkpoints.write().unwrap();
                    }
                }
                8 if random.random_bool(0.2) => {
                    log_start = Offset(random.random_range(log_start.0..=tier_end.0.max(log_start.0)));
                    t.log.increment_log_start_offset(log_start, t.log.end_offset()).unwrap();
                    t.checkpoints.write().unwrap();
                }
                8 => t.log.seal_active_segment(NOW).unwrap(),
                _ if random.random_bool(0.3) => {
                    t.crash(seed * 1000 + values.len() as u64);
                    let end = t.log.end_offset().0 as usize;
                    assert!(end >= synced, "seed {seed}: {synced} synced, {end} there");
                    values.truncate(end);
                    synced = end;
                }
                _ => {}
            }
            let local_start = t.log.local_start_offset();
            assert_eq!(t.log.log_start_offset(), log_start, "seed {seed}");
            assert!(local_start <= tier_end.max(log_start), "seed {seed}: {local_start} {tier_end}");
            assert!(local_start >= log_start && t.log.end_offset().0 == values.len() as i64);
        }
        let local_start = t.log.local_start_offset();
        let records = t.records_from(local_start);
        assert_eq!(records.len(), values.len() - local_start.0 as usize, "seed {seed}");
        for (offset, _, value) in records {
            assert_eq!(value, values[offset as usize].as_bytes(), "seed {seed}");
        }
        for offset in (log_start.0..values.len() as i64).step_by(7) {
            let epoch = t.log.epoch_for_offset(Offset(offset));
            assert_eq!(epoch, Some(LeaderEpoch(offset as i32 / 15)), "seed {seed}: at {offset}");
        }
    }
}
