use super::support::*;
use crate::disk::{Disk, Fault};
use crate::log::*;
use std::io::IoSlice;
use std::path::{Path, PathBuf};

fn file(name: &str) -> PathBuf {
    Path::new("/data/topic-0").join(name)
}

fn filled(config: LogConfig, batches: usize) -> TestLog {
    let mut t = TestLog::new(config);
    for n in 0..batches {
        t.append(&batch_at(2, NOW.0 + n as i64)).unwrap();
    }
    t
}

#[test]
fn synced_batches_survive_a_crash_at_every_operation() {
    let mut operations = 0;
    for at in 0.. {
        let mut t = TestLog::new(small_config());
        let start = t.simulated.operations();
        t.simulated.set_fault(start + at, Fault::Crash);
        let mut synced = 0;
        for n in 0..30 {
            if t.append(&idempotent(1, 0, n, 1)).is_err() {
                break;
            }
            if n % 4 == 3 {
                match t.log.begin_sync().run() {
                    Ok(done) => t.log.on_synced(done),
                    Err(_) => break,
                }
                synced = t.log.synced_end_offset().0;
            }
            if n % 10 == 9 && t.checkpoints.write().is_err() {
                break;
            }
        }
        let crashed = t.simulated.operations() > start + at;
        t.crash(at);
        let records = t.records_from(Offset(0));
        assert!(records.len() as i64 >= synced, "{} of {synced} at {at}", records.len());
        assert_eq!(records.len() as i64, t.log.end_offset().0);
        t.append(&batch(1)).unwrap();
        operations = at;
        if !crashed {
            break;
        }
    }
    assert!(operations > 50);
}

#[test]
fn a_crash_while_recovering_loses_nothing_either() {
    for at in 0..40 {
        for seed in 0..4 {
            let mut t = filled(small_config(), 25);
            t.sync();
            let synced = t.log.end_offset();
            t.append(&batch(2)).unwrap();
            t.simulated.crash(seed);
            t.simulated.set_fault(t.simulated.operations() + at, Fault::Crash);
            let _ = open(&Disk::simulated(&t.simulated), &t.config, LastShutdown::Unclean);
            t.crash(seed + 1);
            assert!(t.log.end_offset() >= synced);
            assert_eq!(t.records_from(Offset(0)).len() as i64, t.log.end_offset().0);
        }
    }
}

#[test]
fn a_torn_tail_is_cut_and_nothing_before_the_recovery_point_is_read() {
    let mut t = filled(LogConfig { index_interval_bytes: 100, ..LogConfig::default() }, 500);
    t.log.close().unwrap();
    t.checkpoints.write().unwrap();
    t.reopen(LastShutdown::Clean);
    let end = t.log.end_offset();
    assert_eq!(end, Offset(1000));
    for n in 0..10 {
        t.append(&batch_at(2, NOW.0 + 1000 + n)).unwrap();
    }
    t.simulated.kill();
    // The last batch loses a byte.
    let disk = Disk::simulated(&t.simulated);
    let log = disk.handle(file("00000000000000000000.log")).open().unwrap();
    log.set_len(log.len().unwrap() - 1).unwrap();
    let before = t.simulated.counts().reads;
    t.reopen(LastShutdown::Unclean);
    let reads = t.simulated.counts().reads - before;
    assert_eq!(t.log.end_offset(), Offset(1018));
    assert!(reads < 80, "{reads} reads for ten batches past the recovery point");
    assert_eq!(t.records_from(Offset(0)).len(), 1018);
    // Also the largest timestamp before the recovery point is still known.
    assert_eq!(t.log.offset_of_max_timestamp(end).unwrap().unwrap().timestamp.0, NOW.0 + 499);
}

#[test]
fn a_flipped_bit_past_the_recovery_point_cuts_there() {
    let mut t = filled(small_config(), 40);
    assert!(t.log.segments_count() > 4);
    t.simulated.kill();
    let disk = Disk::simulated(&t.simulated);
    let second = t.log.segments[1].base_offset;
    let log = disk.handle(file(&format!("{:020}.log", second.0))).open().unwrap();
    let mut byte = [0];
    log.read_exact_at(&mut byte, 100).unwrap();
    log.write_all_at(&mut [IoSlice::new(&[byte[0] ^ 4])], 100).unwrap();
    t.reopen(LastShutdown::Unclean);
    assert_eq!(t.log.end_offset(), second);
    assert_eq!(t.log.segments_count(), 2, "what followed the hole is gone");
    t.append(&batch(2)).unwrap();
    assert_eq!(t.records_from(Offset(0)).len() as i64, t.log.end_offset().0);
}

#[test]
fn missing_and_wrong_indexes_are_made_anew() {
    for damage in ["missing", "zeros", "garbage", "torn"] {
        for shutdown in [LastShutdown::Clean, LastShutdown::Unclean] {
            let mut t = filled(small_config(), 60);
            let records = t.records_from(Offset(0));
            t.log.close().unwrap();
            t.checkpoints.write().unwrap();
            let segments: Vec<_> = t.log.segments.iter().map(|segment| segment.base_offset).collect();
            for base in &segments[..segments.len() - 1] {
                for suffix in ["index", "timeindex"] {
                    let path = file(&format!("{:020}.{suffix}", base.0));
                    let disk = &t.disk;
                    let len = disk.file_len(&path).unwrap();
                    let handle = disk.handle(&path);
                    let content = match damage {
                        "missing" => {
                            disk.remove_file(&path).unwrap();
                            continue;
                        }
                        "zeros" => vec![0; len as usize],
                        "torn" => {
                            handle.open().unwrap().set_len(len - 3).unwrap();
                            continue;
                        }
                        // Growing, but not where batches are.
                        _ => (0..len).map(|n| (n * 7 % 251) as u8).collect(),
                    };
                    handle.open().unwrap().write_all_at(&mut [IoSlice::new(&content)], 0).unwrap();
                }
            }
            t.reopen(shutdown);
            assert_eq!(t.records_from(Offset(0)), records, "{damage}");
            for offset in 0..t.log.end_offset().0 {
                let slice = t.log.read(Offset(offset), Offset(i64::MAX), 1, FirstBatch::Whole).unwrap();
                assert_eq!(slice.base_offset.0, offset / 2 * 2, "{damage}");
            }
            // What was distrusted while reading is rebuilt by the next upkeep.
            t.log.delete_old_segments(NOW, Offset(0), None).unwrap();
            assert!(t.log.segments.iter().all(|segment| !segment.files.offset_index.is_distrusted()));
            assert_eq!(t.records_from(Offset(0)), records, "{damage}");
        }
    }
}

#[test]
fn leader_epochs_come_back_from_the_batches() {
    let mut t = TestLog::new(small_config());
    for epoch in 0..5 {
        for _ in 0..4 {
            t.append_in(&batch(1), LeaderEpoch(epoch * 2)).unwrap();
        }
    }
    let answers = |t: &TestLog| {
        (0..10)
            .map(|epoch| {
                t.log.end_offset_for_epoch(LeaderEpoch(epoch)).map(|e| (e.leader_epoch.0, e.end_offset.0))
            })
            .collect::<Vec<_>>()
    };
    let before = answers(&t);
    assert_eq!(before[3], Some((2, 8)));
    t.simulated.kill();
    t.reopen(LastShutdown::Unclean);
    assert_eq!(answers(&t), before);
    t.log.truncate_to(Offset(9)).unwrap();
    assert_eq!(t.log.latest_epoch(), Some(LeaderEpoch(4)));
    assert_eq!(t.log.end_offset_for_epoch(LeaderEpoch(4)).unwrap().end_offset, Offset(9));
    t.log.truncate_fully_and_start_at(Offset(100)).unwrap();
    assert_eq!(
        (t.log.latest_epoch(), t.log.end_offset(), t.log.log_start_offset()),
        (None, Offset(100), Offset(100))
    );
    t.append_in(&batch(1), LeaderEpoch(11)).unwrap();
    t.sync();
    t.crash(5);
    assert_eq!(t.records_from(Offset(100)).len(), 1);
}

#[test]
fn truncation_below_the_checkpointed_recovery_point_is_survived() {
    for seed in 0..50 {
        let mut t = filled(small_config(), 30);
        t.log.close().unwrap();
        t.checkpoints.write().unwrap();
        t.reopen(LastShutdown::Clean);
        assert_eq!(t.log.recovery_point(), Offset(60));
        t.log.truncate_to(Offset(41)).unwrap();
        assert_eq!(t.log.end_offset(), Offset(40), "a batch that spans the end goes as a whole");
        for _ in 0..15 {
            t.append_in(&batch(2), LeaderEpoch(1)).unwrap();
        }
        // Nothing of the new batches was synced; the file on disk still must not be believed past 40.
        t.crash(seed);
        assert_eq!(t.records_from(Offset(0)).len() as i64, t.log.end_offset().0);
    }
}

#[test]
fn a_snapshot_of_truncated_batches_is_not_believed() {
    // Found by the model: the removal of the snapshot is lost in a crash, and the log has grown to its offset again.
    for seed in 0..200 {
        let mut t = TestLog::new(LogConfig::default());
        for n in 0..5 {
            t.append(&idempotent(1, 0, n, 1)).unwrap();
        }
        t.log.close().unwrap();
        t.checkpoints.write().unwrap();
        t.reopen(LastShutdown::Clean);
        t.log.truncate_to(Offset(1)).unwrap();
        for n in [1, 3] {
            t.append_in(&idempotent(1, 0, n, 2), LeaderEpoch(1)).unwrap();
        }
        t.crash(seed);
        t.checkpoints.write().unwrap();
        t.crash(seed + 1);
        if t.log.end_offset() == Offset(5) && t.log.latest_epoch() == Some(LeaderEpoch(1)) {
            assert!(t.append_in(&idempotent(1, 0, 3, 2), LeaderEpoch(1)).unwrap().duplicate, "seed {seed}");
        }
    }
}

#[test]
fn a_truncation_that_fails_half_way_takes_the_log_offline_and_no_more() {
    for at in 0..40 {
        let mut t = filled(small_config(), 30);
        t.sync();
        t.simulated.set_fault(t.simulated.operations() + at, Fault::Always(std::io::ErrorKind::Other));
        let truncated = t.log.truncate_fully_and_start_at(Offset(7));
        assert!(truncated.is_ok() || t.log.offline().is_some() || t.log.end_offset() == Offset(60));
        // Whatever is asked of it then, it answers.
        let _ = (t.log.begin_sync().run(), t.log.release_idle(), t.log.size_in_bytes(), t.log.close());
        t.simulated.kill();
        t.reopen(LastShutdown::Unclean);
        assert_eq!(
            t.records_from(t.log.log_start_offset()).len() as i64,
            t.log.end_offset().0 - t.log.log_start_offset().0
        );
    }
}

#[test]
fn an_idle_log_keeps_no_file_open() {
    let mut t = filled(small_config(), 30);
    assert!(t.disk.open_files() > 0);
    t.sync();
    t.log.release_idle().unwrap();
    assert_eq!(t.disk.open_files(), 0);
    t.log.close().unwrap();
    t.checkpoints.write().unwrap();
    t.reopen(LastShutdown::Clean);
    assert_eq!(t.disk.open_files(), 0);
    t.append(&batch(1)).unwrap();
}

#[test]
fn a_change_of_leaders_and_a_log_without_batches_cost_no_disk() {
    let mut t = TestLog::new(small_config());
    let before = t.simulated.operations();
    t.log.assign_epoch(LeaderEpoch(3), Offset(0)).unwrap();
    t.log.close().unwrap();
    t.reopen(LastShutdown::Unclean);
    t.log.assign_epoch(LeaderEpoch(4), Offset(0)).unwrap();
    // The test syncs the name of the log directory when it opens it.
    assert_eq!(t.simulated.operations(), before + 1, "empty: nothing is written, at the end or by recovery");

    t.append_in(&batch(2), LeaderEpoch(4)).unwrap();
    t.log.close().unwrap();
    t.checkpoints.write().unwrap();
    t.reopen(LastShutdown::Clean);
    let before = t.simulated.operations();
    t.log.assign_epoch(LeaderEpoch(5), Offset(2)).unwrap();
    t.log.close().unwrap();
    assert_eq!(t.simulated.operations(), before, "an epoch without batches is not written");
    t.reopen(LastShutdown::Clean);
    assert_eq!(t.log.latest_epoch(), Some(LeaderEpoch(4)));
    assert_eq!(t.log.epoch_for_offset(Offset(1)), Some(LeaderEpoch(4)));
}

#[test]
fn an_epoch_is_written_when_it_has_batches_however_often_the_file_was_written_before() {
    let mut t = TestLog::new(small_config());
    t.append_in(&batch(2), LeaderEpoch(4)).unwrap();
    t.log.assign_epoch(LeaderEpoch(5), Offset(2)).unwrap();
    t.log.sync_all().unwrap();
    let written = |t: &TestLog| t.disk.read(&file("leader-epoch-checkpoint"), 100).unwrap();
    assert_eq!(written(&t), b"0\n1\n4 0\n");
    t.append_in(&batch(1), LeaderEpoch(5)).unwrap();
    t.log.close().unwrap();
    assert_eq!(written(&t), b"0\n2\n4 0\n5 2\n");
}
