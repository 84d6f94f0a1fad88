use super::support::*;
use crate::disk::Fault;
use crate::log::*;
use ottla_batch::{AppendOrigin, BatchOptions};
use std::path::Path;

#[test]
fn offsets_are_assigned_and_everything_is_read_back_across_segments() {
    let mut t = TestLog::new(small_config());
    for n in 0..100 {
        let appended = t.append(&batch(1 + n % 3)).unwrap();
        assert!(!appended.duplicate);
        assert_eq!(appended.last_offset.0 + 1, t.log.end_offset().0);
    }
    assert!(t.log.segments_count() > 5, "{}", t.log.segments_count());
    for from in 0..t.log.end_offset().0 {
        let offsets: Vec<i64> = t.records_from(Offset(from)).iter().map(|record| record.0).collect();
        assert_eq!(offsets, (from..t.log.end_offset().0).collect::<Vec<_>>());
    }
    for shutdown in [LastShutdown::Clean, LastShutdown::Unclean] {
        let expected = t.records_from(Offset(0));
        t.log.close().unwrap();
        t.checkpoints.write().unwrap();
        t.reopen(shutdown);
        assert_eq!(t.records_from(Offset(0)), expected);
        t.append(&batch(3)).unwrap();
    }
}

#[test]
fn one_write_per_append_and_no_other_call() {
    let mut t = TestLog::new(LogConfig::default());
    t.append(&batch(1)).unwrap();
    let before = t.simulated.counts();
    for _ in 0..100 {
        t.append(&batch(16)).unwrap();
    }
    let after = t.simulated.counts();
    assert_eq!(after.writes - before.writes, 100);
    assert_eq!((after.opens, after.reads, after.syncs), (before.opens, before.reads, before.syncs));
    // A consumer at the end is found a place without a look at the disk.
    let slice = t.log.read(Offset(1585), t.log.end_offset(), 1 << 20, FirstBatch::Whole).unwrap();
    assert_eq!(slice.base_offset, Offset(1585));
    assert_eq!(t.simulated.counts().reads, after.reads);
    // And a group commit is one sync.
    t.sync();
    t.append(&batch(16)).unwrap();
    let before = t.simulated.counts();
    t.sync();
    let after = t.simulated.counts();
    assert_eq!((after.syncs - before.syncs, after.dir_syncs - before.dir_syncs), (1, 0));
    assert!(t.log.begin_sync().is_empty());
}

#[test]
fn read_stops_at_the_limit_and_at_the_bound() {
    let mut t = TestLog::new(LogConfig::default());
    for _ in 0..200 {
        t.append(&batch(2)).unwrap();
    }
    let size = batch(2).len();
    let read = |from, limit, bytes, first| t.log.read(Offset(from), Offset(limit), bytes, first).unwrap();
    assert_eq!(read(0, 400, usize::MAX, FirstBatch::Whole).len, 200 * size);
    assert_eq!(read(0, 100, usize::MAX, FirstBatch::Whole).len, 50 * size);
    assert_eq!(read(21, 100, usize::MAX, FirstBatch::Whole).len, 40 * size);
    assert_eq!(read(21, 100, usize::MAX, FirstBatch::Whole).base_offset, Offset(20));
    assert_eq!(read(0, 400, 10, FirstBatch::Whole).len, size);
    assert_eq!(read(0, 400, 10, FirstBatch::MayBeCut).len, 10);
    assert_eq!(read(0, 400, 0, FirstBatch::MayBeCut).len, 0);
    assert!(read(400, 400, 100, FirstBatch::Whole).is_empty());
    assert!(read(100, 100, 100, FirstBatch::Whole).is_empty());
    assert!(read(120, 100, 100, FirstBatch::Whole).is_empty());
    assert!(matches!(
        t.log.read(Offset(401), Offset(500), 1, FirstBatch::Whole),
        Err(ReadError::OffsetOutOfRange { .. })
    ));
}

#[test]
fn rolls_by_size_time_and_offset_span() {
    let mut t = TestLog::new(LogConfig { segment_ms: 1000, ..LogConfig::default() });
    t.append(&batch_at(1, NOW.0)).unwrap();
    t.append(&batch_at(1, NOW.0 + 1000)).unwrap();
    assert_eq!(t.log.segments_count(), 1);
    t.append(&batch_at(1, NOW.0 + 1001)).unwrap();
    assert_eq!(t.log.segments_count(), 2);
    // Late records do not roll.
    t.append(&batch_at(1, NOW.0 - 50_000)).unwrap();
    assert_eq!(t.log.segments_count(), 2);

    let mut follower = TestLog::new(LogConfig::default());
    let at = |offset| {
        batch_with(
            BatchOptions { base_offset: Offset(offset), leader_epoch: EPOCH, ..Default::default() },
            &[(b"k", None, 1)],
        )
    };
    follower.log.append_as_follower(&replicated(&[at(0), at(7)]), NOW).unwrap();
    let far = i64::from(i32::MAX) + 1;
    follower.log.append_as_follower(&replicated(&[at(far)]), NOW).unwrap();
    assert_eq!((follower.log.segments_count(), follower.log.end_offset()), (2, Offset(far + 1)));
    let offsets: Vec<_> = follower.records_from(Offset(0)).iter().map(|r| r.0).collect();
    assert_eq!(offsets, [0, 7, far]);
    assert!(matches!(
        follower.log.append_as_follower(&replicated(&[at(far)]), NOW),
        Err(AppendError::UnexpectedOffset { .. })
    ));
}

#[test]
fn a_follower_takes_a_fetch_larger_than_a_segment() {
    let mut leader = TestLog::new(LogConfig::default());
    for _ in 0..100 {
        leader.append(&batch(2)).unwrap();
    }
    let bytes =
        leader.log.read(Offset(0), Offset(i64::MAX), usize::MAX, FirstBatch::Whole).unwrap().read().unwrap();
    let mut follower = TestLog::new(small_config());
    follower.log.append_as_follower(&ottla_batch::check_replicated(bytes).unwrap(), NOW).unwrap();
    assert!(follower.log.segments_count() > 5);
    assert_eq!(follower.records_from(Offset(0)), leader.records_from(Offset(0)));
    assert_eq!(follower.log.latest_epoch(), Some(EPOCH));
}

#[test]
fn a_batch_larger_than_a_segment_is_refused() {
    let mut t = TestLog::new(small_config());
    assert!(matches!(t.append(&batch(100)), Err(AppendError::LargerThanSegment { .. })));
    assert_eq!(t.log.end_offset(), Offset(0));
    t.append(&batch(1)).unwrap();
}

#[test]
fn a_full_disk_refuses_and_resumes_by_itself() {
    let mut t = TestLog::new(small_config());
    let mut appended = 0;
    for capacity in (0..6000).step_by(37) {
        t.simulated.set_capacity(Some(capacity));
        loop {
            match t.append(&batch(1)) {
                Ok(_) => appended += 1,
                Err(AppendError::DiskFull { .. }) => break,
                Err(error) => panic!("{error}"),
            }
            assert_eq!(t.log.end_offset(), Offset(appended));
        }
        assert_eq!(t.records_from(Offset(0)).len() as i64, appended);
        assert!(t.log.offline().is_none());
    }
    assert!(appended > 20);
    t.simulated.set_capacity(None);
    t.append(&batch(1)).unwrap();
    t.sync();
    t.crash(1);
    assert_eq!(t.records_from(Offset(0)).len() as i64, appended + 1);
}

#[test]
fn an_error_at_any_operation_leaves_the_log_as_it_was_or_offline() {
    for fault in [
        Fault::Once(std::io::ErrorKind::Other),
        Fault::Once(std::io::ErrorKind::StorageFull),
        Fault::Always(std::io::ErrorKind::Other),
    ] {
        for at in 0..60 {
            let mut t = TestLog::new(small_config());
            t.simulated.set_fault(t.simulated.operations() + at, fault);
            let mut good = 0;
            for n in 0..40 {
                match t.append(&idempotent(1, 0, n, 1)) {
                    Ok(appended) => {
                        assert_eq!(appended.base_offset, Offset(good));
                        good += 1;
                    }
                    // The retry has the same sequence; what follows would be out of order without it.
                    Err(AppendError::Offline(_)) => break,
                    Err(_) => {
                        assert_eq!(t.log.end_offset(), Offset(good));
                        match t.append(&idempotent(1, 0, n, 1)) {
                            Ok(appended) => {
                                assert!(!appended.duplicate);
                                good += 1;
                            }
                            Err(_) => break,
                        }
                    }
                }
            }
            t.simulated.kill();
            t.reopen(LastShutdown::Unclean);
            assert_eq!(t.records_from(Offset(0)).len() as i64, good, "{fault:?} at {at}");
        }
    }
}

#[test]
fn a_failed_sync_latches_and_is_not_tried_again() {
    let mut t = TestLog::new(small_config());
    t.append(&batch(1)).unwrap();
    t.simulated.set_fault(t.simulated.operations(), Fault::Once(std::io::ErrorKind::Other));
    assert!(t.log.begin_sync().run().is_err());
    assert!(t.log.offline().is_some());
    assert!(t.log.begin_sync().run().is_err());
    assert!(matches!(t.append(&batch(1)), Err(AppendError::Offline(_))));
    assert!(t.log.read(Offset(0), Offset(1), 1, FirstBatch::Whole).is_err());
    assert!(t.log.close().is_err());
}

#[test]
fn duplicates_are_recognised_five_deep_also_after_a_restart() {
    for restart in [None, Some(LastShutdown::Clean), Some(LastShutdown::Unclean)] {
        let mut t = TestLog::new(LogConfig::default());
        for n in 0..8 {
            t.append(&idempotent(7, 0, n * 2, 2)).unwrap();
        }
        if let Some(shutdown) = restart {
            t.log.close().unwrap();
            t.reopen(shutdown);
        }
        for n in 3..8 {
            let again = t.append(&idempotent(7, 0, n * 2, 2)).unwrap();
            assert!(again.duplicate);
            assert_eq!((again.base_offset.0, again.last_offset.0), (i64::from(n) * 2, i64::from(n) * 2 + 1));
        }
        assert!(matches!(t.append(&idempotent(7, 0, 4, 2)), Err(AppendError::OutOfOrderSequence { .. })));
        assert!(matches!(t.append(&idempotent(7, 0, 17, 2)), Err(AppendError::OutOfOrderSequence { .. })));
        assert!(!t.append(&idempotent(7, 0, 16, 2)).unwrap().duplicate);
        // A new epoch begins at 0 and fences the old one.
        assert!(matches!(t.append(&idempotent(7, 1, 3, 1)), Err(AppendError::OutOfOrderSequence { .. })));
        t.append(&idempotent(7, 1, 0, 1)).unwrap();
        assert!(matches!(t.append(&idempotent(7, 0, 18, 1)), Err(AppendError::InvalidProducerEpoch { .. })));
        // An unknown producer may begin anywhere.
        t.append(&idempotent(8, 0, 55, 1)).unwrap();
        assert_eq!(t.log.active_producers(NOW).len(), 2);
        let later = TimestampMs(NOW.0 + t.config.producer_id_expiration_ms);
        t.log.expire_producers(later);
        assert!(t.log.active_producers(NOW).is_empty());
    }
}

#[test]
fn sequences_wrap() {
    let mut t = TestLog::new(LogConfig::default());
    t.append(&idempotent(7, 0, i32::MAX - 1, 2)).unwrap();
    t.append(&idempotent(7, 0, 0, 2)).unwrap();
    assert!(t.append(&idempotent(7, 0, i32::MAX - 1, 2)).unwrap().duplicate);
    let spanning = idempotent(9, 0, i32::MAX - 1, 4);
    t.append(&spanning).unwrap();
    assert!(t.append(&spanning).unwrap().duplicate);
    t.append(&idempotent(9, 0, 2, 1)).unwrap();
}

#[test]
fn the_last_stable_offset_waits_for_transactions_and_their_replication() {
    use ottla_batch::ControlKind;
    let mut t = TestLog::new(small_config());
    t.append(&batch(1)).unwrap();
    t.append(&transactional(1, 0, 2)).unwrap(); // 1, 2
    t.append(&transactional(2, 0, 1)).unwrap(); // 3
    assert_eq!(t.log.first_unstable_offset(Offset(4)), Some(Offset(1)));
    t.append_marker(1, ControlKind::Abort); // 4
    assert_eq!(t.log.first_unstable_offset(Offset(4)), Some(Offset(1)), "the marker is not replicated");
    assert_eq!(t.log.first_unstable_offset(Offset(5)), Some(Offset(3)));
    t.append_marker(2, ControlKind::Commit); // 5
    assert_eq!(t.log.first_unstable_offset(Offset(6)), None);
    let aborted = |t: &TestLog, from, upto| {
        let found = t.log.aborted_transactions(Offset(from), Offset(upto)).unwrap();
        found.into_iter().map(|a| (a.producer_id.0, a.first_offset.0)).collect::<Vec<_>>()
    };
    assert_eq!(aborted(&t, 0, 6), [(1, 1)]);
    assert_eq!(aborted(&t, 5, 6), []);
    assert_eq!(aborted(&t, 0, 1), []);
    let marker = ottla_batch::EndTxnMarker { kind: ControlKind::Abort, coordinator_epoch: -1 };
    let old = ottla_batch::build_end_txn_marker(
        ottla_batch::ProducerId(1),
        ottla_batch::ProducerEpoch(0),
        marker,
        NOW,
    )
    .unwrap();
    let policy = ottla_batch::AppendPolicy {
        origin: AppendOrigin::Coordinator,
        ..ottla_batch::AppendPolicy::new(NOW)
    };
    let old = ottla_batch::check_produced(old, &policy).unwrap();
    assert!(matches!(
        t.log.append_as_leader(&old, EPOCH, AppendOrigin::Coordinator, NOW),
        Err(AppendError::TransactionCoordinatorFenced { .. })
    ));
    t.append(&transactional(3, 0, 1)).unwrap(); // 6, stays open
    assert!(matches!(t.append(&idempotent(3, 0, 1, 1)), Err(AppendError::InvalidTxnState { .. })));
    for seed in 0..4 {
        t.sync();
        t.crash(seed);
        assert_eq!(aborted(&t, 0, 6), [(1, 1)]);
        assert_eq!(t.log.first_unstable_offset(Offset(7)), Some(Offset(6)));
    }
}

#[test]
fn old_files_and_names_are_as_kafka_has_them() {
    let mut t = TestLog::new(small_config());
    for n in 0..20 {
        t.append(&idempotent(1, 0, n, 1)).unwrap();
    }
    t.sync();
    t.log.close().unwrap();
    let names: Vec<_> =
        t.disk.read_dir(Path::new("/data/topic-0")).unwrap().into_iter().map(|e| e.name).collect();
    assert!(names.contains(&"00000000000000000000.log".to_owned()), "{names:?}");
    assert!(names.contains(&"00000000000000000000.index".to_owned()), "{names:?}");
    assert!(names.contains(&"00000000000000000000.timeindex".to_owned()), "{names:?}");
    assert!(names.contains(&"00000000000000000020.snapshot".to_owned()), "{names:?}");
    assert!(names.contains(&"leader-epoch-checkpoint".to_owned()), "{names:?}");
    let epochs = t.disk.read(Path::new("/data/topic-0/leader-epoch-checkpoint"), 100).unwrap();
    assert_eq!(epochs, b"0\n1\n0 0\n");
}
