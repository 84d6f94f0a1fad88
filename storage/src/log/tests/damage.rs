//! What random damage (see tests/fuzz.rs of this crate) has found, each as its own test.

use super::support::*;
use crate::log::*;
use ottla_batch::ControlKind;
use std::io::IoSlice;
use std::path::{Path, PathBuf};

fn file(base: Offset, suffix: &str) -> PathBuf {
    Path::new("/data/topic-0").join(format!("{:020}.{suffix}", base.0))
}

fn replace(t: &TestLog, path: &Path, content: &[u8]) {
    let file = t.disk.handle(path).open_or_create().unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(&mut [IoSlice::new(content)], 0).unwrap();
}

fn content(t: &TestLog, path: &Path) -> Vec<u8> {
    t.disk.read(path, u64::MAX).unwrap()
}

fn close(t: &mut TestLog) {
    t.log.close().unwrap();
    t.checkpoints.write().unwrap();
}

/// Batches whose timestamps grow by a second each.
fn filled(batches: i64) -> TestLog {
    let mut t = TestLog::new(LogConfig { retention_ms: Some(3_600_000), ..small_config() });
    for n in 0..batches {
        t.append(&batch_at(2, NOW.0 + n * 1000)).unwrap();
    }
    t
}

#[test]
fn a_damaged_time_index_takes_no_records_with_it_and_hides_none() {
    for damage in ["zeros", "ones", "one entry less", "swapped"] {
        let mut t = filled(60);
        let records = t.records_from(Offset(0));
        close(&mut t);
        let bases: Vec<_> = t.log.segments.iter().map(|segment| segment.base_offset).collect();
        let first = file(bases[0], "timeindex");
        let good = content(&t, &first);
        let bad = match damage {
            "zeros" => vec![0; good.len()],
            "ones" => vec![0xff; good.len()],
            "one entry less" => good[..good.len() - 12].to_vec(),
            _ => content(&t, &file(bases[1], "timeindex")),
        };
        replace(&t, &first, &bad);
        t.reopen(LastShutdown::Clean);
        if damage != "one entry less" {
            for n in 0..60 {
                let found = t.log.offset_for_timestamp(TimestampMs(NOW.0 + n * 1000), Offset(i64::MAX));
                assert_eq!(found.unwrap().map(|found| found.offset), Some(Offset(n * 2)), "{damage}");
            }
        }
        let newest_of_first = NOW.0 + (bases[1].0 / 2 - 1) * 1000;
        let now = TimestampMs(newest_of_first + 3_600_000);
        for _ in 0..2 {
            let deleted = t.log.delete_old_segments(now, t.log.end_offset(), None).unwrap();
            assert!(deleted.is_empty(), "{damage}: {:?}", deleted.segments());
        }
        assert_eq!(t.records_from(Offset(0)), records, "{damage}");
        // Rebuilt, the index says when the segment does go.
        let now = TimestampMs(now.0 + 1);
        let deleted = t.log.delete_old_segments(now, t.log.end_offset(), None).unwrap();
        assert_eq!(deleted.segments().len(), 1, "{damage}");
    }
}

#[test]
fn a_damaged_transaction_index_is_made_anew() {
    for shutdown in [LastShutdown::Clean, LastShutdown::Unclean] {
        for damage in ["ones", "zeros", "noise in front"] {
            let mut t = TestLog::new(small_config());
            for n in 0..8 {
                t.append(&transactional(5, n * 2, 2)).unwrap();
                t.append(&batch(3)).unwrap();
                t.append_marker(5, if n % 2 == 0 { ControlKind::Abort } else { ControlKind::Commit });
            }
            let end = t.log.end_offset();
            let aborted = t.log.aborted_transactions(Offset(0), end).unwrap();
            assert_eq!(aborted.len(), 4);
            close(&mut t);
            let with_aborts = t
                .log
                .segments
                .iter()
                .map(|segment| file(segment.base_offset, "txnindex"))
                .find(|path| t.disk.exists(path).unwrap());
            let path = with_aborts.unwrap();
            let good = content(&t, &path);
            let bad = match damage {
                "ones" => vec![0xff; good.len()],
                "zeros" => vec![0; good.len()],
                _ => [&[7; 34][..], &good].concat(),
            };
            replace(&t, &path, &bad);
            t.reopen(shutdown);
            assert_eq!(t.log.aborted_transactions(Offset(0), end).unwrap(), aborted, "{damage} {shutdown:?}");
            t.crash(1);
            assert_eq!(t.log.aborted_transactions(Offset(0), end).unwrap(), aborted, "{damage} {shutdown:?}");
        }
    }
}

#[test]
fn a_wrong_leader_epoch_file_cuts_no_batches() {
    let mut t = filled(20);
    t.sync();
    t.checkpoints.write().unwrap();
    assert!(t.log.recovery_point() > Offset(0));
    let end = t.log.end_offset();
    let records = t.records_from(Offset(0));
    t.simulated.kill();
    t.disk = crate::disk::Disk::simulated(&t.simulated);
    replace(&t, Path::new("/data/topic-0/leader-epoch-checkpoint"), b"0\n1\n90 0\n");
    t.reopen(LastShutdown::Unclean);
    assert_eq!(t.log.end_offset(), end);
    assert_eq!(t.records_from(Offset(0)), records);
    assert_eq!(t.log.latest_epoch(), Some(EPOCH), "the batches say which epoch it is");
}

#[test]
fn a_stray_copy_of_a_segment_does_not_give_its_offsets_out_again() {
    for shutdown in [LastShutdown::Clean, LastShutdown::Unclean] {
        let mut t = filled(60);
        close(&mut t);
        let end = t.log.end_offset();
        let second = t.log.segments[1].base_offset;
        let copied = content(&t, &file(second, "log"));
        replace(&t, &file(end, "log"), &copied);
        t.reopen(shutdown);
        assert_eq!(t.log.end_offset(), end, "{shutdown:?}");
        assert_eq!(t.append(&batch(1)).unwrap().base_offset, end);
        assert_eq!(t.records_from(Offset(0)).len() as i64, end.0 + 1);
    }
}

#[test]
fn a_batch_whose_offset_no_segment_can_hold_is_cut() {
    let mut t = filled(3);
    t.simulated.kill();
    t.disk = crate::disk::Disk::simulated(&t.simulated);
    let path = file(Offset(0), "log");
    let mut log = content(&t, &path);
    let last = log.len() / 3 * 2;
    // Not covered by the CRC.
    log[last] = 0x40;
    replace(&t, &path, &log);
    t.reopen(LastShutdown::Unclean);
    assert_eq!(t.log.end_offset(), Offset(4));
}

#[test]
fn a_rotten_batch_that_was_synced_takes_none_after_it_along() {
    let mut t = filled(60);
    close(&mut t);
    let end = t.log.end_offset();
    let active = t.log.segments.last().unwrap().base_offset;
    let path = file(active, "log");
    let mut log = content(&t, &path);
    // In the payload of the first batch of the segment; and an index that makes recovery read all of it.
    log[90] ^= 1;
    replace(&t, &path, &log);
    replace(&t, &file(active, "index"), &[0xff; 16]);
    t.reopen(LastShutdown::Unclean);
    assert_eq!(t.log.end_offset(), end);
    let slice = t.log.read(active, end, 1, FirstBatch::Whole).unwrap().read().unwrap();
    assert!(ottla_batch::check_replicated(slice).is_err(), "its readers are told");
    assert_eq!(t.records_from(active.plus(2)).len() as i64, end.0 - active.0 - 2);
}

#[test]
fn what_lies_behind_a_batch_that_cannot_be_read_stays_within_reach() {
    let config = LogConfig { index_interval_bytes: 100, ..LogConfig::default() };
    let mut t = TestLog::new(config);
    for n in 0..20 {
        t.append(&batch_at(2, NOW.0 + n)).unwrap();
    }
    close(&mut t);
    let path = file(Offset(0), "log");
    let mut log = content(&t, &path);
    let batch_bytes = log.len() / 20;
    log[5 * batch_bytes + 8..5 * batch_bytes + 12].fill(0x7f);
    replace(&t, &path, &log);
    t.reopen(LastShutdown::Clean);
    let read = |t: &TestLog, offset| t.log.read(Offset(offset), Offset(i64::MAX), 1, FirstBatch::Whole);
    assert!(matches!(read(&t, 10), Err(ReadError::Corrupt { .. })));
    t.log.delete_old_segments(NOW, t.log.end_offset(), None).unwrap();
    for offset in (0..10).chain(20..40) {
        assert_eq!(read(&t, offset).unwrap().base_offset.0, offset / 2 * 2);
    }
}

#[test]
fn a_leader_of_an_older_epoch_than_the_log_is_refused() {
    let mut t = TestLog::new(small_config());
    t.append_in(&batch(1), LeaderEpoch(3)).unwrap();
    let refused = t.append_in(&batch(1), LeaderEpoch(2));
    assert!(matches!(refused, Err(AppendError::LeaderEpochWentBack { .. })));
    assert_eq!(t.append_in(&batch(1), LeaderEpoch(3)).unwrap().base_offset, Offset(1));
}

#[test]
fn garbage_behind_the_last_batch_of_a_segment_does_not_cost_the_next_ones() {
    let mut t = filled(60);
    let records = t.records_from(Offset(0));
    t.simulated.kill();
    t.disk = crate::disk::Disk::simulated(&t.simulated);
    let path = file(Offset(0), "log");
    let log = content(&t, &path);
    replace(&t, &path, &[&log[..], &[0; 100]].concat());
    t.reopen(LastShutdown::Unclean);
    assert_eq!(t.records_from(Offset(0)), records);
}

#[test]
fn appends_never_lie_behind_what_cannot_be_read() {
    let mut t = TestLog::new(LogConfig { index_interval_bytes: 100, ..LogConfig::default() });
    for n in 0..20 {
        // The largest timestamp is in the third batch, before the damage.
        t.append(&batch_at(2, NOW.0 + if n == 2 { 100 } else { n })).unwrap();
    }
    close(&mut t);
    let path = file(Offset(0), "log");
    let mut log = content(&t, &path);
    let batch_bytes = log.len() / 20;
    log[5 * batch_bytes + 8..5 * batch_bytes + 12].fill(0x7f);
    replace(&t, &path, &log);
    // The index leads astray for the third batch, and is right at its end.
    let path = file(Offset(0), "index");
    let mut index = content(&t, &path);
    let astray = [3u32.to_be_bytes(), (15 * batch_bytes as u32).to_be_bytes()].concat();
    let last = index.split_off(index.len() - 8);
    replace(&t, &path, &[astray, last].concat());
    t.reopen(LastShutdown::Clean);
    assert_eq!(t.log.end_offset(), Offset(40));
    let at = t.append(&batch(2)).unwrap().base_offset;
    t.sync();
    t.log.release_idle().unwrap();
    let slice = t.log.read(at, Offset(i64::MAX), 1, FirstBatch::Whole).unwrap();
    assert_eq!(slice.base_offset, at);
}

#[test]
fn a_marker_that_cannot_be_read_keeps_no_log_from_opening() {
    for shutdown in [LastShutdown::Clean, LastShutdown::Unclean] {
        let mut t = TestLog::new(LogConfig::default());
        t.append(&transactional(5, 0, 2)).unwrap();
        t.append_marker(5, ControlKind::Abort);
        t.append(&batch(2)).unwrap();
        close(&mut t);
        let path = file(Offset(0), "log");
        let mut log = content(&t, &path);
        let marker = ottla_batch::BatchHeader::parse(&log).unwrap().size_in_bytes();
        // The length of its record.
        log[marker + ottla_batch::HEADER_LEN] = 0xff;
        replace(&t, &path, &log);
        t.disk.remove_file(&file(Offset(5), "snapshot")).unwrap();
        t.reopen(shutdown);
        assert_eq!(t.log.end_offset(), Offset(5));
    }
}

#[test]
fn a_rotten_batch_before_the_log_start_cuts_nothing_even_without_a_recovery_point() {
    let mut t = filled(8);
    t.log.increment_log_start_offset(Offset(6), Offset(16)).unwrap();
    let end = t.log.end_offset();
    close(&mut t);
    let path = file(Offset(0), "log");
    let mut log = content(&t, &path);
    log[90] ^= 1;
    replace(&t, &path, &log);
    replace(&t, Path::new("/data/recovery-point-offset-checkpoint"), b"noise");
    t.reopen(LastShutdown::Unclean);
    assert_eq!(t.log.end_offset(), end);
    assert_eq!(t.records_from(Offset(6)).len() as i64, end.0 - 6);
}
