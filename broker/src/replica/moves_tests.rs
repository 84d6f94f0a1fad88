//! Replicas that are moved between log directories: while they are written to, cancelled, and with the process dying at each
//! operation of the disk.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::alter_replica_log_dirs_request::{AlterReplicaLogDir, AlterReplicaLogDirTopic};
use kafka_protocol::messages::{AlterReplicaLogDirsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_batch::Offset;
use ottla_raft::requests::{ConfigOperation, IncrementalAlterConfigs};
use ottla_raft::{BrokerId, ConfigResource};
use ottla_storage::disk::{Disk, Fault};

use super::cluster_for_tests::{append, contents, eventually, produce};
use super::log_dirs_tests::{DIRS, Machine, TOPIC};
use super::*;
use crate::api::{RequestContext, in_test};

async fn alter(machine: &Machine, topic: &str, partition: i32, path: &str) -> i16 {
    let topic = AlterReplicaLogDirTopic::default()
        .with_name(TopicName(StrBytes::from_string(topic.to_owned())))
        .with_partitions(vec![partition]);
    let dir = AlterReplicaLogDir::default()
        .with_path(StrBytes::from_string(path.to_owned()))
        .with_topics(vec![topic]);
    let request = AlterReplicaLogDirsRequest::default().with_dirs(vec![dir]);
    let response = in_test::call(RequestContext::in_test(machine.broker(), 2, None), &request).await;
    response.results[0].partitions[0].error_code
}

fn code(error: ResponseError) -> i16 {
    error.code()
}

/// Until the partition lies in a directory and nothing is copied any more.
async fn is_in(machine: &Machine, partition: i32, dir: usize) {
    eventually("the replica is moved", || {
        let replicas = &machine.broker().replicas;
        let is_moving = replicas.log_dirs().any(|dir| !replicas.futures_in(dir).is_empty());
        (machine.dir_of(partition) == dir && !is_moving).then_some(())
    })
    .await;
}

async fn controller_knows(machine: &Machine, partition: i32, dir: usize) {
    eventually("the controller knows the directory", || {
        let id = machine.broker().replicas.log_dirs().nth(dir)?.directory_id();
        let image = machine.broker().metadata.image();
        (image.partition(TOPIC, partition)?.directory(BrokerId(1)) == id).then_some(())
    })
    .await;
}

/// Directories of the partition, by the names in the log directories.
fn names(machine: &Machine, partition: i32) -> Vec<String> {
    let disk = Disk::simulated(&machine.disk);
    let of_dir = |dir: &&str| disk.read_dir(Path::new(dir)).unwrap();
    let names = DIRS.iter().flat_map(of_dir).map(|entry| entry.name);
    names.filter(|name| name.starts_with(&format!("{TOPIC}-{partition}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_moves_while_it_is_written_to_and_survives_a_restart() {
    let mut machine = Machine::start().await;
    machine.create(2).await;
    let (partition, other) = (machine.partition_in(0, 2), machine.partition_in(1, 2));
    let replica = machine.replica(partition);
    produce(&replica, 0..100).await;
    replica.delete_records(Offset(7)).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (replica, stop) = (Arc::clone(&replica), Arc::clone(&stop));
        async move {
            let mut next = 100;
            while !stop.load(Ordering::SeqCst) {
                produce(&replica, next..next + 1).await;
                next += 1;
            }
            next
        }
    });
    assert_eq!(alter(&machine, TOPIC, partition, DIRS[1]).await, 0);
    is_in(&machine, partition, 1).await;
    controller_knows(&machine, partition, 1).await;
    stop.store(true, Ordering::SeqCst);
    let written = writer.await.unwrap();
    produce(&replica, written..written + 10).await;
    let (bytes, end) = (contents(&replica), replica.end_offset());
    assert_eq!((end, replica.high_watermark()), (Offset(written as i64 + 10), end));
    assert_eq!(replica.log_start_offset(), Offset(7));
    assert_eq!(machine.dir_of(other), 1);
    assert!(names(&machine, partition).iter().all(|name| !name.ends_with("-future")));

    machine.stop().await;
    machine.spawn().await.unwrap();
    let replica = machine.leader(partition).await;
    assert_eq!((machine.dir_of(partition), contents(&replica)), (1, bytes));
    assert_eq!((replica.log_start_offset(), replica.end_offset()), (Offset(7), end));
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttled_move_is_shown_resumed_and_cancelled() {
    let mut machine = Machine::start().await;
    machine.create(2).await;
    let partition = machine.partition_in(0, 2);
    let replica = machine.replica(partition);
    for _ in 0..20 {
        append(&replica, &"x".repeat(50_000), RequiredAcks::All).unwrap().await.unwrap();
    }
    // A batch in ten seconds.
    set_rate(&machine, "5000").await;
    assert_eq!(alter(&machine, TOPIC, partition, DIRS[1]).await, 0);
    let shown = eventually("something is copied", || {
        let log_dirs = machine.broker().replicas.log_dirs().nth(1).cloned()?;
        let futures = machine.broker().replicas.futures_in(&log_dirs);
        futures.first().filter(|future| future.size > 0).map(|future| (future.size, future.lag))
    });
    let (size, lag) = shown.await;
    assert!(size < replica.size_in_bytes() && lag > 0, "{size} bytes are copied, {lag} records are not");
    let described = machine.describe().await;
    let copy = &described[1].topics.iter().find(|topic| &*topic.name.0 == TOPIC).unwrap().partitions;
    let copy = copy.iter().find(|one| one.partition_index == partition).unwrap();
    assert!(copy.is_future_key && copy.partition_size > 0 && copy.offset_lag > 0, "{copy:?}");
    let there = described[0].topics.iter().flat_map(|topic| &topic.partitions);
    assert!(there.filter(|one| one.partition_index == partition).all(|one| !one.is_future_key));

    // It goes on after a restart.
    machine.stop().await;
    machine.spawn().await.unwrap();
    let replica = machine.leader(partition).await;
    let is_copying = || {
        let replicas = &machine.broker().replicas;
        (!replicas.futures_in(replicas.log_dirs().nth(1)?).is_empty()).then_some(())
    };
    eventually("it is copied again", is_copying).await;
    assert_eq!(machine.dir_of(partition), 0);

    // Naming the directory where it is cancels the move.
    assert_eq!(alter(&machine, TOPIC, partition, DIRS[0]).await, 0);
    eventually("the copy is gone", || (names(&machine, partition).len() == 1).then_some(())).await;
    controller_knows(&machine, partition, 0).await;

    // Begun once more, it ends when it may.
    assert_eq!(alter(&machine, TOPIC, partition, DIRS[1]).await, 0);
    assert!(names(&machine, partition).iter().any(|name| name.ends_with("-future")));
    set_rate(&machine, "100000000").await;
    is_in(&machine, partition, 1).await;
    produce(&replica, 0..3).await;
    machine.stop().await;
}

async fn set_rate(machine: &Machine, rate: &str) {
    let key = "replica.alter.log.dirs.io.max.bytes.per.second".to_owned();
    let set = vec![(key, ConfigOperation::Set(rate.to_owned()))];
    let request = IncrementalAlterConfigs {
        resources: vec![(ConfigResource::all_brokers(), set)],
        validate_only: false,
    };
    let broker = machine.broker();
    let results = broker.metadata.submit(request).await.unwrap();
    assert!(results[0].result.is_ok(), "{results:?}");
    broker.config.apply(&broker.metadata.image());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_moved_is_said_as_kafka_says_it() {
    let mut machine = Machine::start().await;
    machine.create(2).await;
    let (kept, lost) = (machine.partition_in(0, 2), machine.partition_in(1, 2));
    assert_eq!(alter(&machine, TOPIC, kept, "/c").await, code(ResponseError::LogDirNotFound));
    assert_eq!(
        alter(&machine, &"x".repeat(249), 0, DIRS[0]).await,
        code(ResponseError::InvalidTopicException)
    );
    assert_eq!(alter(&machine, "unknown", 0, DIRS[0]).await, code(ResponseError::UnknownTopicOrPartition));
    assert_eq!(alter(&machine, TOPIC, 7, DIRS[0]).await, code(ResponseError::UnknownTopicOrPartition));
    assert_eq!(alter(&machine, TOPIC, kept, DIRS[0]).await, 0, "it is there");
    machine.break_dir(1);
    assert!(append(&machine.replica(lost), "refused", RequiredAcks::All).is_err());
    assert_eq!(alter(&machine, TOPIC, kept, DIRS[1]).await, code(ResponseError::KafkaStorageError));
    assert_eq!(alter(&machine, TOPIC, lost, DIRS[0]).await, code(ResponseError::KafkaStorageError));
    machine.stop().await;
    machine.spawn().await.unwrap();
    assert_eq!(alter(&machine, TOPIC, kept, DIRS[1]).await, code(ResponseError::KafkaStorageError));
    assert_eq!(alter(&machine, TOPIC, lost, DIRS[0]).await, code(ResponseError::KafkaStorageError));
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_created_where_somebody_said_before() {
    for dir in [0, 1] {
        let mut machine = Machine::start().await;
        // Four of the same name, of which the emptier directory would get two.
        for partition in 0..4 {
            let told = alter(&machine, TOPIC, partition, DIRS[dir]).await;
            assert_eq!(told, code(ResponseError::UnknownTopicOrPartition));
        }
        machine.create(4).await;
        assert!((0..4).all(|partition| machine.dir_of(partition) == dir));
        machine.stop().await;
    }
}

/// The process dies with the power at one operation of the disk after the other, from the request to the last file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_survives_a_crash_at_any_operation() {
    let mut is_over = false;
    let mut at = 0;
    let mut cut_off = 0;
    while !is_over {
        let mut machine = Machine::start().await;
        machine.create(2).await;
        let partition = machine.partition_in(0, 2);
        let replica = machine.replica(partition);
        produce(&replica, 0..40).await;
        let before = contents(&replica);
        machine.disk.set_fault(machine.disk.operations() + at, Fault::Crash);
        let begun = alter(&machine, TOPIC, partition, DIRS[1]).await;
        // Until it is there, or the disk is gone.
        eventually("the move or the disk ends", || {
            let replicas = &machine.broker().replicas;
            let is_moving = replicas.log_dirs().any(|dir| !replicas.futures_in(dir).is_empty());
            (!is_moving).then_some(())
        })
        .await;
        is_over = begun == 0 && machine.dir_of(partition) == 1 && !machine.disk.is_crashed();
        let acknowledged = match append(&replica, "one more", RequiredAcks::All) {
            Ok(committed) => committed.await.is_ok(),
            Err(_) => false,
        };
        let after = acknowledged.then(|| contents(&replica));
        cut_off += usize::from(machine.disk.is_crashed());
        machine.stop().await;
        machine.disk.crash(at);

        machine.spawn().await.unwrap_or_else(|error| panic!("crash at {at}: {error}"));
        let replica = machine.leader(partition).await;
        let found = contents(&replica);
        assert!(found.starts_with(&before), "crash at {at}: {:?}", names(&machine, partition));
        assert!(after.is_none_or(|after| found == after), "crash at {at}");
        // A move that had begun to copy goes on by itself; it can be asked for in any case.
        assert_eq!(alter(&machine, TOPIC, partition, DIRS[1]).await, 0, "crash at {at}");
        is_in(&machine, partition, 1).await;
        produce(&replica, 100..105).await;
        let moved = contents(&replica);
        assert!(moved.starts_with(&found));
        machine.stop().await;
        machine.spawn().await.unwrap();
        assert_eq!(contents(machine.leader(partition).await.as_ref()), moved, "crash at {at}");
        assert!(names(&machine, partition).iter().all(|name| !name.ends_with("-future")));
        machine.stop().await;
        at += 1;
    }
    assert!(cut_off > 20, "the move has {cut_off} operations");
}
