//! A real directory with every kind of file, byte for byte: what is there after a close is what Kafka's tools read.

use super::support::*;
use crate::checkpoints::Checkpoints;
use crate::disk::Disk;
use crate::log::*;
use ottla_batch::{
    AppendOrigin, AppendPolicy, ControlKind, EndTxnMarker, build_end_txn_marker, check_produced,
};

/// Kept when OTTLA_GOLDEN_DIR names a place, for kafka-dump-log.
#[test]
fn a_real_directory_holds_every_format() {
    let temporary = tempfile::tempdir().unwrap();
    let root = std::env::var_os("OTTLA_GOLDEN_DIR").map_or(temporary.path().to_owned(), Into::into);
    let disk = Disk::real();
    disk.create_dir_all(&root).unwrap();
    let checkpoints = Arc::new(Checkpoints::open(disk.clone(), &root).unwrap());
    let open = |now| OpenLog {
        disk: disk.clone(),
        dir: root.join("topic-0"),
        partition: ("topic".to_owned(), 0),
        checkpoints: checkpoints.clone(),
        config: Arc::new(small_config()),
        topic_id: Some(uuid::Uuid::from_u64_pair(1, 2)),
        last_shutdown: LastShutdown::Clean,
        now,
        jitter_seed: 0,
    };
    let mut log = Log::open(open(NOW)).unwrap();
    let client = AppendOrigin::Client;
    let marker = |kind| {
        let marker = EndTxnMarker { kind, coordinator_epoch: 3 };
        let batch =
            build_end_txn_marker(ottla_batch::ProducerId(9), ottla_batch::ProducerEpoch(0), marker, NOW);
        let policy = AppendPolicy { origin: AppendOrigin::Coordinator, ..AppendPolicy::new(NOW) };
        check_produced(batch.unwrap(), &policy).unwrap()
    };
    for n in 0..20 {
        log.append_as_leader(&checked(&batch_at(2, NOW.0 + n)), LeaderEpoch(1), client, NOW).unwrap();
    }
    for n in 0..7 {
        log.append_as_leader(&checked(&idempotent(7, 1, n, 1)), LeaderEpoch(2), client, NOW).unwrap();
    }
    log.append_as_leader(&checked(&transactional(9, 0, 2)), LeaderEpoch(2), client, NOW).unwrap();
    log.append_as_leader(&marker(ControlKind::Abort), LeaderEpoch(2), AppendOrigin::Coordinator, NOW)
        .unwrap();
    log.append_as_leader(&checked(&transactional(9, 2, 1)), LeaderEpoch(2), client, NOW).unwrap();
    let slice = log.read(Offset(5), Offset(i64::MAX), 200, FirstBatch::Whole).unwrap();
    assert!(slice.file.as_ref().unwrap().as_fd().is_some());
    assert_eq!(slice.read().unwrap().len(), 200);
    log.close().unwrap();
    checkpoints.write().unwrap();

    let text = |name: &str| String::from_utf8(std::fs::read(root.join(name)).unwrap()).unwrap();
    assert_eq!(text("topic-0/leader-epoch-checkpoint"), "0\n2\n1 0\n2 40\n");
    assert_eq!(text("topic-0/partition.metadata"), "version: 0\ntopic_id: AAAAAAAAAAEAAAAAAAAAAg");
    assert_eq!(text("recovery-point-offset-checkpoint"), "0\n1\ntopic 0 51\n");
    let names: Vec<_> =
        disk.read_dir(&root.join("topic-0")).unwrap().into_iter().map(|entry| entry.name).collect();
    let expected = [
        "00000000000000000000.index",
        "00000000000000000000.log",
        "00000000000000000000.timeindex",
        "00000000000000000016.index",
        "00000000000000000016.log",
        "00000000000000000016.snapshot",
        "00000000000000000016.timeindex",
        "00000000000000000032.index",
        "00000000000000000032.log",
        "00000000000000000032.snapshot",
        "00000000000000000032.timeindex",
        "00000000000000000047.index",
        "00000000000000000047.log",
        "00000000000000000047.snapshot",
        "00000000000000000047.timeindex",
        "00000000000000000047.txnindex",
        "00000000000000000051.snapshot",
        "leader-epoch-checkpoint",
        "partition.metadata",
    ];
    assert_eq!(names, expected);
    // Entries after the first 100 bytes of batches of 121: the last offset of each, and where it begins.
    let index = std::fs::read(root.join("topic-0/00000000000000000000.index")).unwrap();
    let entries: Vec<_> = index.as_chunks::<4>().0.iter().map(|field| u32::from_be_bytes(*field)).collect();
    assert_eq!(entries[..4], [3, 121, 5, 242]);
    assert_eq!(index.len(), 7 * 8);

    let log = Log::open(open(NOW)).unwrap();
    assert_eq!((log.end_offset(), log.latest_epoch()), (Offset(51), Some(LeaderEpoch(2))));
    assert_eq!(log.first_unstable_offset(Offset(51)), Some(Offset(50)));
    assert!(matches!(
        Log::open(OpenLog { topic_id: Some(uuid::Uuid::from_u64_pair(3, 4)), ..open(NOW) }),
        Err(OpenError::TopicIdMismatch { .. })
    ));
}
