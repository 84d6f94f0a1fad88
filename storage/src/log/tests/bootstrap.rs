//! Logs that begin behind the tier.

use ottla_batch::{LeaderEpoch, Offset};
use uuid::Uuid;

use super::support::*;
use crate::disk::Fault;
use crate::log::*;
use crate::tiering::key::SegmentKey;
use crate::tiering::object::{Footer, Section};

fn tiered_config() -> LogConfig {
    LogConfig { remote_storage: true, ..small_config() }
}

/// A leader with several epochs and a producer of which the last object knows.
fn leader() -> TestLog {
    let mut t = TestLog::new(tiered_config());
    for epoch in 0..3 {
        for n in 0..6 {
            t.append_in(&batch(10), LeaderEpoch(epoch)).unwrap();
            t.append_in(&idempotent(7, 0, epoch * 6 + n, 1), LeaderEpoch(epoch)).unwrap();
        }
    }
    t.sync();
    t
}

/// Where the last object of a log ends, and its sections of epochs and producers.
fn last_object(t: &TestLog) -> (Offset, Vec<u8>, Vec<u8>) {
    let (mut next, mut last) = (Offset(0), None);
    while let Some(segment) = t.log.sealed_segment(next, Offset(i64::MAX)).unwrap() {
        next = segment.end_offset;
        let key = SegmentKey {
            topic_id: Uuid::nil(),
            partition: 0,
            base_offset: segment.base_offset,
            end_offset: segment.end_offset,
            leader_epoch: EPOCH,
            suffix: 0,
        };
        let content = segment.into_object(&key).unwrap();
        let object = content.read(0, content.len() as usize).unwrap();
        let footer = Footer::decode(&object, object.len() as u64).unwrap();
        let section = |section| {
            let range = footer.range(section);
            object[range.start as usize..range.end as usize].to_vec()
        };
        last = Some((next, section(Section::LeaderEpochs), section(Section::ProducerSnapshot)));
    }
    last.unwrap()
}

/// A replica with a short history of its own, partly synced, which ends before the tier does.
fn follower() -> TestLog {
    let mut t = TestLog::new(tiered_config());
    for n in 0..4 {
        t.append(&batch(10)).unwrap();
        t.append(&idempotent(8, 0, n, 1)).unwrap();
    }
    t.sync();
    t.checkpoints.write().unwrap();
    t.append(&batch(3)).unwrap();
    t
}

fn behind((_, epochs, producers): &(Offset, Vec<u8>, Vec<u8>), log_start: i64) -> BehindTier {
    BehindTier::new(Offset(log_start), epochs, producers).unwrap()
}

fn assert_bootstrapped(t: &TestLog, leader: &TestLog, at: Offset) {
    assert_eq!(
        (t.log.log_start_offset(), t.log.local_start_offset(), t.log.end_offset()),
        (Offset(2), at, at)
    );
    for epoch in (0..2).map(LeaderEpoch) {
        assert_eq!(t.log.end_offset_for_epoch(epoch), leader.log.end_offset_for_epoch(epoch));
    }
    assert_eq!(t.log.epoch_for_offset(Offset(1)), None, "deleted");
    assert_eq!(t.log.epoch_for_offset(at.plus(-1)), leader.log.epoch_for_offset(at.plus(-1)));
    let producers: Vec<i64> = t.log.active_producers(NOW).iter().map(|p| p.producer_id.0).collect();
    assert_eq!(producers, [7], "those of the tier, and none of the old log");
}

#[test]
fn a_log_begins_where_an_object_ends_and_knows_what_was_before() {
    let leader = leader();
    let object = last_object(&leader);
    let at = object.0;
    let mut t = follower();
    t.log.start_behind_tier(at, behind(&object, 2)).unwrap();
    assert_bootstrapped(&t, &leader, at);
    assert!(matches!(
        t.log.read(Offset(5), Offset(i64::MAX), 100, FirstBatch::Whole),
        Err(ReadError::OnlyInTier { local_start_offset, .. }) if local_start_offset == at
    ));
    // What the leader has from there on, a retry of the producer included.
    let slice = leader.log.read(at, Offset(i64::MAX), 1 << 20, FirstBatch::Whole).unwrap();
    let batches = replicated(&[slice.read().unwrap()]);
    t.log.append_copied(&batches, NOW).unwrap();
    let retry = idempotent(7, 0, 17, 1);
    assert!(t.append_in(&retry, LeaderEpoch(3)).unwrap().duplicate);
    t.sync();
    for shutdown in [LastShutdown::Unclean, LastShutdown::Clean, LastShutdown::Unclean] {
        if shutdown == LastShutdown::Clean {
            t.log.close().unwrap();
            t.checkpoints.write().unwrap();
        } else {
            t.simulated.kill();
        }
        t.reopen(shutdown);
        assert_eq!((t.log.log_start_offset(), t.log.local_start_offset()), (Offset(2), at));
        assert_eq!(
            t.log.end_offset_for_epoch(LeaderEpoch(1)),
            leader.log.end_offset_for_epoch(LeaderEpoch(1))
        );
        assert!(t.append_in(&retry, LeaderEpoch(3)).unwrap().duplicate);
    }
}

#[test]
fn a_crash_leaves_a_log_that_knows_all_before_its_end_or_ends_earlier() {
    let leader = leader();
    let object = last_object(&leader);
    let at = object.0;
    let mut outcomes = [0, 0];
    for operation in 0.. {
        let mut is_done = false;
        for seed in 0..6 {
            let mut t = follower();
            t.simulated.set_fault(t.simulated.operations() + operation, Fault::Crash);
            let started = t.log.start_behind_tier(at, behind(&object, 2));
            is_done |= started.is_ok();
            t.crash(seed);
            if t.log.end_offset() == at {
                assert_bootstrapped(&t, &leader, at);
                outcomes[0] += 1;
            } else {
                assert!(started.is_err(), "it was durable when it returned");
                assert!(t.log.end_offset() < at);
                assert!(t.log.recovery_point() <= t.log.end_offset());
                // The leader sends it here again.
                t.log.start_behind_tier(at, behind(&object, 2)).unwrap();
                assert_bootstrapped(&t, &leader, at);
                outcomes[1] += 1;
            }
        }
        if is_done {
            break;
        }
    }
    assert!(outcomes[0] > 6 && outcomes[1] > 20, "{outcomes:?}");
}

#[test]
fn a_log_that_is_cut_where_the_tier_alone_has_the_records_begins_again() {
    let leader = leader();
    let object = last_object(&leader);
    let mut t = follower();
    assert!(!t.log.lacks_its_past());
    t.log.start_behind_tier(object.0, behind(&object, 2)).unwrap();
    assert!(!t.log.lacks_its_past());
    t.log.truncate_to(Offset(50)).unwrap();
    assert_eq!((t.log.log_start_offset(), t.log.end_offset()), (Offset(2), Offset(50)));
    assert!(t.log.lacks_its_past());
    t.crash(7);
    assert!(t.log.lacks_its_past());
    t.log.start_behind_tier(object.0, behind(&object, 2)).unwrap();
    assert_bootstrapped(&t, &leader, object.0);
    assert!(!TestLog::new(tiered_config()).log.lacks_its_past(), "a new one has none");
}

#[test]
fn what_is_no_snapshot_and_no_epochs_is_refused() {
    let (_, epochs, producers) = last_object(&leader());
    let refused =
        |epochs: &[u8], producers: &[u8]| BehindTier::new(Offset(0), epochs, producers).err().unwrap();
    for wrong in [&b""[..], b"0\n2\n0 0\n", b"\xff", &producers] {
        assert!(matches!(refused(wrong, &producers), BootstrapError::Epochs));
    }
    for wrong in [&b""[..], &epochs, &producers[..producers.len() - 1]] {
        assert!(matches!(refused(&epochs, wrong), BootstrapError::Producers));
    }
}
