//! Followers and leaders of one partition, in one process and cut off from each other.

use futures::FutureExt;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{DeleteRecordsRequest, FetchRequest};
use kafka_protocol::protocol::StrBytes;
use ottla_batch::{LeaderEpoch, Offset};
use ottla_raft::BrokerId;
use ottla_storage::log::FirstBatch;

use super::cluster_for_tests::*;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_is_on_all_who_are_in_sync() {
    let cluster = Cluster::start(&[2, 3, 4]).await;
    cluster.create(&[2, 3, 4], &[]).await;
    let leader = cluster.leader();
    for value in 0..50 {
        let committed = append(&leader, &format!("value {value}"), RequiredAcks::All).unwrap();
        committed.await.unwrap();
        for follower in [3, 4] {
            let synced = cluster.replica(follower).state.lock().log.synced_end_offset();
            assert!(synced > Offset(value), "broker {follower} has synced {synced} of {}", value + 1);
        }
    }
    cluster.await_equal(&[2, 3, 4]).await;
    cluster.await_in_sync(&[2, 3, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_cut_off_leaves_and_comes_back() {
    let cluster = Cluster::start(&[2, 3, 4]).await;
    cluster.create(&[2, 3, 4], &[("min.insync.replicas", "2")]).await;
    let leader = cluster.leader();
    produce(&leader, 0..5).await;
    cluster.cut(4, true);
    // Acknowledged when 4 is out, and not before.
    produce(&leader, 5..10).await;
    cluster.await_in_sync(&[2, 3]).await;
    cluster.cut(3, true);
    let committed = append(&leader, "not enough", RequiredAcks::All).unwrap();
    cluster.await_in_sync(&[2]).await;
    assert!(
        matches!(append(&leader, "refused", RequiredAcks::All), Err(AppendError::NotEnoughReplicas { .. })),
        "one is less than min.insync.replicas"
    );
    assert_eq!(leader.high_watermark(), Offset(10), "KIP-966: what one alone holds is not committed");
    cluster.cut(3, false);
    cluster.cut(4, false);
    cluster.await_in_sync(&[2, 3, 4]).await;
    assert_eq!(committed.await, Ok(()));
    cluster.await_equal(&[2, 3, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kip_101_a_leader_that_was_cut_off_loses_what_nobody_else_had_and_nothing_else() {
    let cluster = Cluster::start(&[2, 3, 4]).await;
    cluster.create(&[2, 3, 4], &[]).await;
    let old = cluster.leader();
    produce(&old, 0..10).await;
    let mut epoch = cluster.partition().leader_epoch;
    // Twice, so that the second divergence lies in an epoch that the new leader does not know (KIP-279).
    for round in 0..2usize {
        let old = cluster.leader();
        let id = cluster.partition().leader.unwrap().0;
        cluster.cut(id, true);
        // Its producer waits for another partition too, and looks late: when the new leader's log has passed this offset.
        let looked_at_late = append(&old, "lost", RequiredAcks::All).unwrap();
        for lost in 0..5 {
            let committed = append(&old, &format!("lost {round} {lost}"), RequiredAcks::All).unwrap();
            assert_eq!(committed.now_or_never(), None);
        }
        cluster.beat(id, true).await;
        let partition = cluster.partition();
        assert!(partition.leader_epoch > epoch && partition.leader != Some(BrokerId(id)));
        epoch = partition.leader_epoch;
        let new = cluster.leader();
        eventually("a new leader", || new.leader_epoch().filter(|led| led.0 == epoch.0)).await;
        let from = 10 + round * 10;
        produce(&new, from..from + 10).await;
        eventually("the old one learns of it", || old.leader_epoch().is_none().then_some(())).await;
        cluster.cut(id, false);
        cluster.beat(id, false).await;
        cluster.await_in_sync(&[2, 3, 4]).await;
        cluster.await_equal(&[2, 3, 4]).await;
        assert_eq!(cluster.leader().end_offset(), Offset(from as i64 + 10));
        assert_eq!(looked_at_late.await, Err(NotCommitted::Leader(LeaderError::NotLeader)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_place_the_leader_has_deleted_starts_anew() {
    let cluster = Cluster::start(&[2, 3]).await;
    cluster.create(&[2, 3], &[("segment.bytes", "1048576")]).await;
    let leader = cluster.leader();
    produce(&leader, 0..5).await;
    cluster.cut(3, true);
    produce(&leader, 5..20).await;
    cluster.await_in_sync(&[2]).await;
    leader.delete_records(Offset(15)).unwrap();
    cluster.cut(3, false);
    cluster.await_in_sync(&[2, 3]).await;
    cluster.await_equal(&[2, 3]).await;
    assert_eq!(cluster.replica(3).log_start_offset(), Offset(15));
    // The start moves along while it follows.
    leader.delete_records(Offset(18)).unwrap();
    produce(&leader, 20..21).await;
    eventually("the log start follows", || {
        (cluster.replica(3).log_start_offset() == Offset(18)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_moves_to_other_brokers_and_leaves_nothing_behind() {
    let cluster = Cluster::start(&[2, 3, 4]).await;
    cluster.create(&[2, 3], &[("file.delete.delay.ms", "0")]).await;
    produce(&cluster.leader(), 0..20).await;
    cluster.reassign(0..1, &[4, 3]).await;
    eventually("the move is over", || {
        let partition = cluster.partition();
        (*partition.replicas == [BrokerId(4), BrokerId(3)]).then_some(())
    })
    .await;
    let gone = &cluster.brokers[&2].broker.replicas;
    eventually("no replica any more", || gone.get(TOPIC, 0).is_none().then_some(())).await;
    let path = cluster.brokers[&2].broker.config.log_dirs[0].join(format!("{TOPIC}-0"));
    eventually("no directory any more", || (!path.exists()).then_some(())).await;
    cluster.await_in_sync(&[3, 4]).await;
    produce(&cluster.leader(), 20..30).await;
    cluster.await_equal(&[3, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_may_read_from_a_follower_what_that_knows_to_be_committed() {
    let cluster = Cluster::start(&[2, 3]).await;
    cluster.create(&[2, 3], &[]).await;
    produce(&cluster.leader(), 0..10).await;
    cluster.await_equal(&[2, 3]).await;
    let follower = cluster.replica(3);
    let mut request = ReadRequest {
        from: Offset(0),
        bound: ReadBound::HighWatermark,
        bytes_max: 1 << 20,
        first_batch: FirstBatch::Whole,
        leader_epoch: LeaderEpoch::NONE,
        last_fetched_epoch: LeaderEpoch::NONE,
        served: Served::ByAnyReplica,
    };
    assert!(follower.read(&request).unwrap().slice.is_some());
    request.served = Served::ByLeader;
    assert!(matches!(follower.read(&request), Err(ReadError::Leader(LeaderError::NotLeader))));
}

/// A consumer's fetch of everything from `offset` on, in a rack.
async fn fetch(cluster: &Cluster, broker: i32, rack: &str, offset: i64) -> PartitionData {
    let topic = cluster.leader().topic_id();
    let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic_id(topic.0).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_replica_state(ReplicaState::default().with_replica_id((-1).into()))
        .with_rack_id(StrBytes::from_string(rack.to_owned()))
        .with_session_epoch(-1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic]);
    let response = cluster.call(broker, 17, &request).await;
    response.responses[0].partitions[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kip_392_a_consumer_is_sent_to_a_replica_in_its_rack() {
    let cluster = Cluster::start(&[2, 3, 4]).await;
    cluster.create(&[2, 3], &[]).await;
    produce(&cluster.leader(), 0..10).await;
    cluster.await_in_sync(&[2, 3]).await;
    cluster.await_equal(&[2, 3]).await;
    let has_records = |data: &PartitionData| data.records.as_ref().is_some_and(|records| !records.is_empty());

    let sent = fetch(&cluster, 2, "rack-3", 0).await;
    assert_eq!((sent.preferred_read_replica.0, sent.error_code, sent.high_watermark), (3, 0, 10));
    assert!(!has_records(&sent));
    let there = fetch(&cluster, 3, "rack-3", 0).await;
    assert_eq!((there.preferred_read_replica.0, there.error_code, there.high_watermark), (-1, 0, 10));
    let here = fetch(&cluster, 2, "rack-2", 0).await;
    assert_eq!(here.preferred_read_replica.0, -1);
    assert!(here.records.is_some() && there.records == here.records, "the same bytes");
    for rack in ["", "rack-4", "elsewhere"] {
        let served = fetch(&cluster, 2, rack, 0).await;
        assert_eq!(served.preferred_read_replica.0, -1, "no replica in {rack}");
        assert!(has_records(&served));
    }
    // What a follower knows nothing of: the consumer goes back to the leader with it.
    assert_eq!(fetch(&cluster, 3, "rack-3", 11).await.error_code, ResponseError::OffsetOutOfRange.code());

    cluster.cut(3, true);
    produce(&cluster.leader(), 10..11).await;
    cluster.await_in_sync(&[2]).await;
    let served = fetch(&cluster, 2, "rack-3", 0).await;
    assert_eq!(served.preferred_read_replica.0, -1, "3 is not in sync");
    assert!(has_records(&served));
}

/// DeleteRecords to the leader: the error code and the low watermark.
async fn delete_records(cluster: &Cluster, upto: i64, timeout_ms: i32) -> (i16, i64) {
    let partition = DeleteRecordsPartition::default().with_offset(upto);
    let topic = DeleteRecordsTopic::default()
        .with_name(StrBytes::from_static_str(TOPIC).into())
        .with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(timeout_ms);
    let leader = cluster.partition().leader.unwrap().0;
    let response = cluster.call(leader, 2, &request).await;
    let result = &response.topics[0].partitions[0];
    (result.error_code, result.low_watermark)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_records_are_gone_from_all_live_replicas() {
    const LONG_MS: i32 = 60_000;
    let late = ResponseError::RequestTimedOut.code();
    let cluster = Cluster::start(&[2, 3, 4]).await;
    cluster.create(&[2, 3, 4], &[]).await;
    produce(&cluster.leader(), 0..20).await;
    assert_eq!(delete_records(&cluster, 5, LONG_MS).await, (0, 5));
    for id in [2, 3, 4] {
        assert_eq!(cluster.replica(id).log_start_offset(), Offset(5), "broker {id}");
    }
    assert_eq!(delete_records(&cluster, 3, 0).await, (0, 5), "that is so already");

    // Nothing is heard from 4, which the controller holds to be alive.
    cluster.cut(4, true);
    assert_eq!(delete_records(&cluster, 7, 50).await, (late, 5));
    assert_eq!(cluster.leader().log_start_offset(), Offset(7), "the leader's own stays deleted");
    let ((), waited) = tokio::join!(cluster.beat(4, true), delete_records(&cluster, 9, LONG_MS));
    assert_eq!(waited, (0, 9), "nobody waits for one that is fenced");

    // Alive again but not there yet.
    cluster.beat(4, false).await;
    assert_eq!(delete_records(&cluster, 11, 50).await.0, late);
    let back = async {
        cluster.cut(4, false);
    };
    let ((), waited) = tokio::join!(back, delete_records(&cluster, 12, LONG_MS));
    assert_eq!(waited, (0, 12));
    assert_eq!(cluster.replica(4).log_start_offset(), Offset(12));

    // Another leader is chosen while one waits.
    cluster.cut(3, true);
    let moved = async {
        eventually("the leader deletes", || {
            (cluster.replica(2).log_start_offset() == Offset(15)).then_some(())
        })
        .await;
        cluster.beat(2, true).await;
    };
    let ((), waited) = tokio::join!(moved, delete_records(&cluster, 15, LONG_MS));
    assert_eq!(waited, (ResponseError::NotLeaderOrFollower.code(), -1));
}
