//! A replica on the simulated disk: what is acknowledged when, what a crash leaves of it, and who is woken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use ottla_batch::{
    AppendOrigin, BatchBuilder, BatchOptions, CheckedBatches, CompressionPolicy, LeaderEpoch, Offset, Record,
    TimestampMs, TimestampType, check_produced,
};
use ottla_raft::{BrokerEpoch, BrokerId, PartitionEpoch, TopicId};
use ottla_storage::disk::{Disk, Fault, SimulatedDisk};
use ottla_storage::log::{FirstBatch, LogConfig};
use ottla_storage::logdir::LogDir;
use tokio::time::Instant;
use uuid::Uuid;

use super::following::Fetched;
use super::group_commit::SyncQueue;
use super::in_sync::Membership;
use super::partition::Queues;
use super::waiters::{AckWait, FetchWait};
use super::*;

const EPOCH: LeaderEpoch = LeaderEpoch(3);

fn settings(durability: Durability) -> TopicSettings {
    TopicSettings {
        log: Arc::new(LogConfig::default()),
        durability,
        compression: CompressionPolicy::Producer,
        timestamp_type: TimestampType::CreateTime,
        timestamp_before_ms_max: i64::MAX,
        timestamp_after_ms_max: i64::MAX,
        batch_bytes_max: 1 << 20,
        min_in_sync: 1,
        throttled_as_leader: Throttled::None,
        throttled_as_follower: Throttled::None,
        deletes_tier_when_disabled: false,
    }
}

/// One replica, its disk, and a sync queue that the test empties by hand.
struct Bench {
    disk: SimulatedDisk,
    dir: LogDir,
    syncs: Arc<SyncQueue>,
    replica: Arc<Replica>,
    fatal: Arc<AtomicUsize>,
}

impl Bench {
    fn new(durability: Durability) -> Bench {
        Bench::on(SimulatedDisk::new(), durability)
    }

    fn on(disk: SimulatedDisk, durability: Durability) -> Bench {
        let bench = Bench::idle_on(disk, durability);
        lead(&bench.replica, 0, &[], &[]);
        bench
    }

    /// As after a start, before the image says who leads.
    fn idle_on(disk: SimulatedDisk, durability: Durability) -> Bench {
        let fatal = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&fatal);
        let on_fatal = Arc::new(move |_: Fatal| {
            count.fetch_add(1, Ordering::SeqCst);
        });
        let syncs = SyncQueue::without_threads(on_fatal, None);
        let dir = LogDir::open(Disk::simulated(&disk), "/data", "cluster", 1).unwrap();
        let settings = settings(durability);
        let id = Uuid::from_u128(7);
        let config = Arc::clone(&settings.log);
        let log = dir.open_log("topic", 0, Some(id), config, TimestampMs(1)).unwrap();
        let remembered = dir.read_high_watermarks().unwrap().get(&("topic".to_owned(), 0)).copied();
        let replica = Arc::new(Replica::new(
            "topic".into(),
            TopicId(id),
            0,
            0,
            Arc::new(settings),
            log,
            Queues { syncs: Arc::clone(&syncs), isr_changes: Arc::default() },
        ));
        if let Some(remembered) = remembered {
            replica.restore_high_watermark(remembered);
        }
        Bench { disk, dir, syncs, replica, fatal }
    }

    fn append(&self, acks: RequiredAcks) -> Result<(Offset, Committed), AppendError> {
        let batches = batch("value");
        let request =
            AppendRequest { batches: &batches, origin: AppendOrigin::Client, acks, leader_epoch: EPOCH };
        self.replica.append(&request).map(|(appended, committed)| (appended.last_offset, committed))
    }

    fn sync(&self) -> usize {
        let mut syncs = 0;
        while self.syncs.run_one() {
            syncs += 1;
        }
        syncs
    }

    fn read(&self, from: i64) -> Result<Read, ReadError> {
        self.replica.read(&ReadRequest {
            from: Offset(from),
            bound: ReadBound::HighWatermark,
            bytes_max: 1 << 20,
            first_batch: FirstBatch::Whole,
            leader_epoch: LeaderEpoch::NONE,
            last_fetched_epoch: LeaderEpoch::NONE,
            served: Served::ByLeader,
        })
    }
}

/// Leads with these other replicas, of which some are in sync.
fn lead(replica: &Arc<Replica>, partition_epoch: i32, others: &[i32], in_sync: &[i32]) {
    let ids = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect();
    let membership = Membership {
        partition_epoch: PartitionEpoch(partition_epoch),
        others: ids(others),
        in_sync_others: ids(in_sync),
        is_recovering: false,
    };
    replica.become_leader(EPOCH, membership, |_| Some(BrokerEpoch(1)), Instant::now()).unwrap();
}

fn batch(value: &'static str) -> CheckedBatches {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let record = Record {
        offset: Offset(0),
        timestamp: TimestampMs(1),
        key: None,
        value: Some(Bytes::from_static(value.as_bytes())),
        headers: Vec::new(),
    };
    builder.push_record(&record).unwrap();
    let policy = settings(Durability::Fsync).append_policy(TimestampMs(1));
    check_produced(builder.build().unwrap(), &policy).unwrap()
}

/// Checker: nothing that was acknowledged is missing after a power cut. Answers what is missing.
fn acked_and_lost(bench: Bench, acked: Option<Offset>, seed: u64) -> Option<Offset> {
    let Bench { disk, dir, syncs, replica, .. } = bench;
    disk.crash(seed);
    drop((dir, syncs, replica));
    let after = Bench::on(disk, Durability::Memory);
    acked.filter(|acked| *acked >= after.replica.end_offset())
}

/// Appends and syncs as `seed` says; the last offset that was acknowledged.
fn produce_some(bench: &Bench, seed: u64) -> Option<Offset> {
    let mut acked = None;
    let mut open: Vec<(Offset, Committed)> = Vec::new();
    for step in 0..20 {
        open.push(bench.append(RequiredAcks::All).unwrap());
        // Every third step on average, and never after the last appends.
        if (seed >> step) & 3 == 0 && step < 17 {
            bench.syncs.run_one();
        }
        open.retain_mut(|(offset, committed)| match committed.now_or_never() {
            Some(outcome) => {
                assert_eq!(outcome, Ok(()));
                acked = acked.max(Some(*offset));
                false
            }
            None => true,
        });
    }
    acked
}

#[test]
fn a_follower_begins_in_the_middle_of_a_batch() {
    // DeleteRecords may end within a batch; a new replica is sent that batch as a whole.
    let leader = Bench::new(Durability::Fsync);
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for offset in 0..3 {
        let record = Record {
            offset: Offset(offset),
            timestamp: TimestampMs(1),
            key: None,
            value: Some(Bytes::from_static(b"value")),
            headers: Vec::new(),
        };
        builder.push_record(&record).unwrap();
    }
    let policy = settings(Durability::Fsync).append_policy(TimestampMs(1));
    let batches = check_produced(builder.build().unwrap(), &policy).unwrap();
    let request = AppendRequest {
        batches: &batches,
        origin: AppendOrigin::Client,
        acks: RequiredAcks::Leader,
        leader_epoch: EPOCH,
    };
    leader.replica.append(&request).unwrap();
    leader.append(RequiredAcks::Leader).unwrap();
    let records = leader.replica.read_local(Offset(0), 1 << 20).unwrap().read().unwrap();

    let follower = Bench::idle_on(SimulatedDisk::new(), Durability::Memory);
    let replica = &follower.replica;
    replica.become_follower(Some(BrokerId(2)), EPOCH);
    replica.on_out_of_range(EPOCH, Offset(2)).unwrap();
    let fetched = Fetched { records, high_watermark: Offset(4), log_start: Offset(2) };
    replica.append_as_follower(EPOCH, fetched, &AckWait::new()).unwrap();
    let bounds = (replica.log_start_offset(), replica.high_watermark(), replica.end_offset());
    assert_eq!(bounds, (Offset(2), Offset(4), Offset(4)));
    assert!(replica.read_local(Offset(1), 1 << 20).is_err(), "what was deleted stays deleted");
}

/// What was noted of the high watermark before a crash, and how the log that it left goes on.
fn crashed_with_a_checkpoint(noted: i64, seed: u64) -> Bench {
    let bench = Bench::new(Durability::Fsync);
    for _ in 0..5 {
        bench.append(RequiredAcks::All).unwrap();
    }
    bench.sync();
    assert_eq!(bench.replica.high_watermark(), Offset(5));
    let noted = std::collections::BTreeMap::from([(("topic".to_owned(), 0), Offset(noted))]);
    bench.dir.write_high_watermarks(&noted).unwrap();
    // Synced by nobody: a crash takes some of it.
    for _ in 0..5 {
        bench.append(RequiredAcks::Leader).unwrap();
    }
    let Bench { disk, dir, syncs, replica, .. } = bench;
    disk.crash(seed);
    drop((dir, syncs, replica));
    Bench::idle_on(disk, Durability::Fsync)
}

#[test]
fn a_high_watermark_comes_back_from_the_checkpoint() {
    for seed in 0..50 {
        let bench = crashed_with_a_checkpoint(4, seed);
        assert!(bench.replica.end_offset() >= Offset(5));
        assert_eq!(bench.replica.high_watermark(), Offset(4), "seed {seed}");
        // A follower says so to consumers, and no less when its leader, just elected, knows less.
        bench.replica.become_follower(Some(BrokerId(2)), EPOCH);
        let mut state = bench.replica.state.lock();
        assert!(!bench.replica.raise_high_watermark(&state, Offset(1)));
        state.log.increment_log_start_offset(Offset(2), Offset(4)).unwrap();
        drop(state);
        assert_eq!(bench.replica.high_watermark(), Offset(4), "seed {seed}");
    }
}

#[test]
fn a_leader_after_a_crash_tells_nobody_less_than_before() {
    for seed in 0..50 {
        let bench = crashed_with_a_checkpoint(4, seed);
        let end = bench.replica.end_offset();
        // The other one in sync has not fetched yet: what lies above 4 may be committed or not.
        lead(&bench.replica, 0, &[2], &[2]);
        assert_eq!(bench.replica.high_watermark(), Offset(4), "seed {seed}");
        assert!(!bench.replica.knows_its_bounds(), "nobody is told the latest offset (KIP-207)");
        assert!(bench.read(0).unwrap().slice.is_some(), "what was committed is read");
        assert!(bench.read(4).unwrap().slice.is_none(), "and nothing else");
        assert!(bench.read(5).is_ok(), "a consumer that had read more waits, and is not out of range");
        // Alone in sync, it is all that counts.
        lead(&bench.replica, 1, &[2], &[]);
        bench.sync();
        assert_eq!(bench.replica.high_watermark(), end, "seed {seed}");
        assert!(bench.replica.knows_its_bounds());
    }
}

#[test]
fn a_checkpoint_says_no_more_than_the_log_holds() {
    for seed in 0..50 {
        let bench = crashed_with_a_checkpoint(1_000, seed);
        assert_eq!(bench.replica.high_watermark(), bench.replica.end_offset(), "seed {seed}");
    }
}

#[test]
fn what_is_acknowledged_survives_a_power_cut() {
    let mut some = 0;
    for seed in 0..200u64 {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bench = Bench::new(Durability::Fsync);
        let acked = produce_some(&bench, seed);
        some += usize::from(acked.is_some());
        assert_eq!(acked_and_lost(bench, acked, seed), None, "seed {seed}");
    }
    assert!(some > 100, "too few runs acknowledged anything: {some}");
}

#[test]
fn the_checker_catches_an_acknowledgement_before_the_sync() {
    // Planted: the page cache counts as stable storage.
    let caught = (0..20u64).any(|seed| {
        let bench = Bench::new(Durability::Memory);
        let acked = produce_some(&bench, seed);
        acked_and_lost(bench, acked, seed).is_some()
    });
    assert!(caught, "an ack before fsync went unnoticed in 20 power cuts");
}

#[test]
fn one_sync_serves_all_that_arrived_meanwhile() {
    let bench = Bench::new(Durability::Fsync);
    // The first sync of a log also covers its leader epochs.
    bench.append(RequiredAcks::All).unwrap();
    bench.sync();
    let before = bench.disk.counts().syncs;
    let mut open: Vec<Committed> = (0..50).map(|_| bench.append(RequiredAcks::All).unwrap().1).collect();
    for committed in &mut open {
        assert_eq!(committed.now_or_never(), None, "acknowledged before the sync");
    }
    assert_eq!(bench.replica.high_watermark(), Offset(1));
    assert_eq!(bench.sync(), 1);
    assert_eq!(bench.disk.counts().syncs - before, 1, "one fdatasync for fifty appends");
    for committed in &mut open {
        assert_eq!(committed.now_or_never(), Some(Ok(())));
    }
    assert_eq!(bench.replica.high_watermark(), Offset(51));
}

#[test]
fn acks_1_is_ready_before_the_sync_but_readers_wait_for_it() {
    let bench = Bench::new(Durability::Fsync);
    bench.sync();
    let (_, committed) = bench.append(RequiredAcks::Leader).unwrap();
    assert_eq!(committed.now_or_never(), Some(Ok(())));
    assert!(bench.read(0).unwrap().slice.is_none(), "unsynced records are not shown");
    bench.sync();
    assert!(bench.read(0).unwrap().slice.is_some());
}

#[test]
fn memory_commits_with_the_append() {
    let bench = Bench::new(Durability::Memory);
    let (_, committed) = bench.append(RequiredAcks::All).unwrap();
    assert_eq!(committed.now_or_never(), Some(Ok(())));
    assert!(!bench.syncs.run_one(), "nobody asked for a sync");
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_and_the_process_is_told_to_stop() {
    let bench = Bench::new(Durability::Fsync);
    bench.sync();
    let (_, mut committed) = bench.append(RequiredAcks::All).unwrap();
    bench.disk.set_fault(bench.disk.operations(), Fault::Once(std::io::ErrorKind::Other));
    bench.sync();
    assert_eq!(bench.fatal.load(Ordering::SeqCst), 1);
    assert_eq!((&mut committed).now_or_never(), None);
    // The disk works again, but a later sync of the same file proves nothing.
    let _ = bench.append(RequiredAcks::All);
    bench.sync();
    assert_ne!((&mut committed).now_or_never(), Some(Ok(())));
    assert_eq!(bench.replica.high_watermark(), Offset(0));
    assert_eq!(bench.fatal.load(Ordering::SeqCst), 1, "a failed sync is never repeated");
}

#[test]
fn a_full_disk_refuses_appends_and_goes_on_reading() {
    let bench = Bench::new(Durability::Memory);
    bench.append(RequiredAcks::All).unwrap();
    bench.disk.set_capacity(Some(bench.disk.used_bytes()));
    let error = bench.append(RequiredAcks::All).unwrap_err();
    assert!(matches!(error, AppendError::Log(ottla_storage::log::AppendError::DiskFull { .. })), "{error}");
    assert!(bench.read(0).unwrap().slice.is_some());
    bench.disk.set_capacity(None);
    assert_eq!(bench.append(RequiredAcks::All).unwrap().0, Offset(1), "goes on where it was");
}

#[test]
fn epochs_fence_appends_and_reads() {
    let bench = Bench::new(Durability::Memory);
    let batches = batch("value");
    for (epoch, expected) in [
        (LeaderEpoch(2), LeaderError::FencedEpoch { given: LeaderEpoch(2), current: EPOCH }),
        (LeaderEpoch(4), LeaderError::UnknownEpoch { given: LeaderEpoch(4), current: EPOCH }),
    ] {
        let request = AppendRequest {
            batches: &batches,
            origin: AppendOrigin::Client,
            acks: RequiredAcks::All,
            leader_epoch: epoch,
        };
        match bench.replica.append(&request) {
            Err(AppendError::Leader(error)) => assert_eq!(error, expected),
            other => panic!("{other:?}"),
        }
        assert_eq!(bench.replica.check_leader(epoch), Err(expected));
    }
    bench.replica.resign();
    assert!(matches!(bench.append(RequiredAcks::All), Err(AppendError::Leader(LeaderError::NotLeader))));
    assert!(matches!(bench.read(0), Err(ReadError::Leader(LeaderError::NotLeader))));
}

#[test]
fn too_small_an_in_sync_set_refuses_acks_all_only() {
    let bench = Bench::new(Durability::Memory);
    lead(&bench.replica, 1, &[2, 3], &[]);
    bench.replica.update_settings(Arc::new(TopicSettings { min_in_sync: 2, ..settings(Durability::Memory) }));
    let error = bench.append(RequiredAcks::All).unwrap_err();
    assert!(matches!(error, AppendError::NotEnoughReplicas { in_sync: 1, required: 2 }), "{error}");
    bench.append(RequiredAcks::Leader).unwrap();
    // A topic with one replica cannot ask for two.
    lead(&bench.replica, 2, &[], &[]);
    bench.append(RequiredAcks::All).unwrap();
}

#[test]
fn an_in_sync_follower_holds_the_high_watermark() {
    let bench = Bench::new(Durability::Memory);
    bench.append(RequiredAcks::All).unwrap();
    lead(&bench.replica, 1, &[2], &[2]);
    let (_, mut committed) = bench.append(RequiredAcks::All).unwrap();
    assert_eq!((&mut committed).now_or_never(), None);
    assert_eq!(bench.replica.high_watermark(), Offset(1));
    lead(&bench.replica, 2, &[2], &[]);
    assert_eq!(committed.now_or_never(), Some(Ok(())), "the follower left the set");
}

#[test]
fn those_who_wait_learn_of_the_end() {
    let bench = Bench::new(Durability::Fsync);
    bench.sync();
    let (_, resigned) = bench.append(RequiredAcks::All).unwrap();
    bench.replica.resign();
    assert_eq!(resigned.now_or_never(), Some(Err(NotCommitted::Leader(LeaderError::NotLeader))));

    let bench = Bench::new(Durability::Fsync);
    bench.sync();
    let (_, deleted) = bench.append(RequiredAcks::All).unwrap();
    let fetch = FetchWait::new();
    bench.replica.waiters().register_fetch(&fetch, 0);
    bench.replica.mark_deleted();
    assert_eq!(deleted.now_or_never(), Some(Err(NotCommitted::Leader(LeaderError::Deleted))));
    assert_eq!(fetch.news().now_or_never(), Some(vec![0]));
}

#[test]
fn a_waiting_fetch_is_woken_by_the_sync_that_shows_it_something() {
    let bench = Bench::new(Durability::Fsync);
    bench.sync();
    let fetch = FetchWait::new();
    bench.replica.waiters().register_fetch(&fetch, 4);
    let wait = AckWait::new();
    let batches = batch("value");
    let request = AppendRequest {
        batches: &batches,
        origin: AppendOrigin::Client,
        acks: RequiredAcks::All,
        leader_epoch: LeaderEpoch::NONE,
    };
    bench.replica.append_for(&request, &wait).unwrap();
    assert_eq!(fetch.news().now_or_never(), None, "nothing to see before the sync");
    assert!(!wait.is_settled());
    bench.sync();
    assert_eq!(fetch.news().now_or_never(), Some(vec![4]));
    assert!(wait.is_settled());
}

#[test]
fn the_latest_offset_is_kept_back_until_the_recovered_log_counts() {
    let bench = Bench::new(Durability::Fsync);
    for _ in 0..3 {
        bench.append(RequiredAcks::All).unwrap();
    }
    bench.sync();
    let Bench { disk, dir, syncs, replica, .. } = bench;
    disk.kill();
    drop((dir, syncs, replica));
    let again = Bench::on(disk, Durability::Fsync);
    if again.replica.high_watermark() < Offset(3) {
        assert!(!again.replica.knows_its_bounds());
    }
    again.sync();
    assert!(again.replica.knows_its_bounds());
    assert_eq!(again.replica.high_watermark(), Offset(3));
}

#[test]
fn delete_records_moves_the_start_and_readers_are_told() {
    let bench = Bench::new(Durability::Memory);
    for _ in 0..5 {
        bench.append(RequiredAcks::All).unwrap();
    }
    assert_eq!(bench.replica.delete_records(Offset(3)).unwrap(), Offset(3));
    assert_eq!(bench.replica.log_start_offset(), Offset(3));
    assert!(matches!(
        bench.read(1),
        Err(ReadError::Log(ottla_storage::log::ReadError::OffsetOutOfRange { .. }))
    ));
    assert!(bench.read(3).unwrap().slice.is_some());
    assert!(bench.read(5).unwrap().slice.is_none(), "at the end there is nothing, and no error");
    assert!(matches!(
        bench.read(6),
        Err(ReadError::Log(ottla_storage::log::ReadError::OffsetOutOfRange { .. }))
    ));
}

#[test]
fn the_sync_threads_commit_from_many_writers() {
    let fatal = Arc::new(|fatal: Fatal| panic!("{fatal}"));
    let bench = Bench::new(Durability::Fsync);
    bench.sync();
    let threads = SyncQueue::start("test", Disk::real(), fatal, None).unwrap();
    bench.replica.syncs.store(Arc::clone(&threads));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let replica = Arc::clone(&bench.replica);
    runtime.block_on(async {
        let writers: Vec<_> = (0..8)
            .map(|_| {
                let replica = Arc::clone(&replica);
                tokio::spawn(async move {
                    let mut last_seen = Offset(0);
                    for _ in 0..100 {
                        let batches = batch("value");
                        let request = AppendRequest {
                            batches: &batches,
                            origin: AppendOrigin::Client,
                            acks: RequiredAcks::All,
                            leader_epoch: EPOCH,
                        };
                        let (appended, committed) = replica.append(&request).unwrap();
                        committed.await.unwrap();
                        let high_watermark = replica.high_watermark();
                        assert!(high_watermark > appended.last_offset);
                        assert!(high_watermark >= last_seen, "the high watermark fell");
                        last_seen = high_watermark;
                    }
                })
            })
            .collect();
        for writer in writers {
            tokio::time::timeout(std::time::Duration::from_secs(60), writer).await.unwrap().unwrap();
        }
    });
    threads.stop();
    assert_eq!(bench.replica.high_watermark(), Offset(800));
    assert!(bench.disk.counts().syncs < 800, "syncs are shared");
}
