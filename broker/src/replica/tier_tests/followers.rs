//! Followers whose leader has the next records in the tier alone.

use super::*;

/// (epoch, end) for each epoch up to `upto`, as clients are told.
async fn epochs(cluster: &Cluster, id: i32, upto: i32) -> Vec<(i32, i64)> {
    let mut ends = Vec::new();
    for epoch in 0..=upto {
        let partition = OffsetForLeaderPartition::default()
            .with_partition(0)
            .with_leader_epoch(epoch)
            .with_current_leader_epoch(-1);
        let topic = OffsetForLeaderTopic::default().with_topic(topic()).with_partitions(vec![partition]);
        let request =
            OffsetForLeaderEpochRequest::default().with_replica_id((-2).into()).with_topics(vec![topic]);
        let response = cluster.call(id, 4, &request).await;
        let end = &response.topics[0].partitions[0];
        assert_eq!(end.error_code, 0);
        ends.push((end.leader_epoch, end.end_offset));
    }
    ends
}

/// Leads with `id`, which must be in sync.
async fn lead(cluster: &Cluster, id: i32) {
    let leader = cluster.partition().leader.unwrap().0;
    if leader != id {
        cluster.beat(leader, true).await;
        cluster.beat(leader, false).await;
    }
    eventually("another leader", || {
        (cluster.partition().leader == Some(BrokerId(id)) && cluster.replica(id).leader_epoch().is_some())
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_for_long_begins_behind_the_tier() {
    let cluster = Cluster::start_tiered(&[2, 3]).await;
    cluster.create(&[2, 3], SMALL_SEGMENTS).await;
    // Several epochs, which only the tier knows from batches.
    produce(&cluster.leader(), 0..8).await;
    lead(&cluster, 3).await;
    cluster.await_in_sync(&[2, 3]).await;
    produce(&cluster.leader(), 8..14).await;
    lead(&cluster, 2).await;
    cluster.await_in_sync(&[2, 3]).await;
    cluster.cut(3, true);
    let leader = cluster.leader();
    transactional(&leader, 7, 0);
    abort(&leader, 7);
    produce(&leader, 16..50).await;
    cluster.await_in_sync(&[2]).await;
    let all = all_batches(&leader);
    let epoch = cluster.partition().leader_epoch.0;
    let told = epochs(&cluster, 2, epoch).await;
    let end = cluster.tier(0).await;
    assert_eq!(epochs(&cluster, 2, epoch).await, told, "also what lies in the tier alone");
    let away = cluster.replica(3);
    assert!(away.end_offset() < end);

    // A store that is away delays it and no more.
    let store = cluster.store.as_ref().unwrap();
    store.go_away(true);
    store.gets.lock().clear();
    cluster.cut(3, false);
    eventually("an attempt", || (!store.gets.lock().is_empty()).then_some(())).await;
    store.go_away(false);
    cluster.await_in_sync(&[2, 3]).await;
    assert_eq!((away.local_start_offset(), away.log_start_offset()), (end, Offset(0)));
    let producers = |replica: &Replica| {
        let all = replica.state.lock().log.active_producers(TimestampMs(2));
        all.into_iter().map(|p| (p.producer_id, p.last_sequence, p.producer_epoch)).collect::<Vec<_>>()
    };
    assert_eq!(producers(&away), producers(&leader));
    assert_eq!(producers(&away).len(), 1);
    // It leads, and clients see nothing of it.
    lead(&cluster, 3).await;
    assert_eq!(epochs(&cluster, 3, epoch).await[..told.len() - 1], told[..told.len() - 1]);
    assert_eq!(cluster.consume(3, Offset(0)).await, all);
    produce(&cluster.leader(), 50..55).await;
    assert_eq!(cluster.consume(3, Offset(0)).await[..all.len()], all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_replica_copies_nothing_that_is_in_the_tier() {
    let cluster = Cluster::start_tiered(&[2, 3, 4]).await;
    cluster.create(&[2], SMALL_SEGMENTS).await;
    let leader = cluster.leader();
    produce(&leader, 0..40).await;
    let all = all_batches(&leader);
    let end = cluster.tier(0).await;
    cluster.reassign(0..1, &[3]).await;
    eventually("the move", || {
        let partition = cluster.partition();
        (partition.leader == Some(BrokerId(3)) && partition.replicas.iter().map(|id| id.0).eq([3]))
            .then_some(())
    })
    .await;
    let moved = cluster.replica_when_there(3).await;
    assert_eq!(
        (moved.local_start_offset(), moved.log_start_offset(), moved.end_offset()),
        (end, Offset(0), Offset(40))
    );
    assert_eq!(cluster.consume(3, Offset(0)).await, all);
    // The next one, after more has gone there from the new leader.
    produce(&moved, 40..70).await;
    let further = cluster.tier(0).await;
    assert!(further > end);
    cluster.reassign(0..1, &[3, 4]).await;
    cluster.await_in_sync(&[3, 4]).await;
    assert_eq!(cluster.replica(4).local_start_offset(), further);
    lead(&cluster, 4).await;
    assert_eq!(cluster.consume(4, Offset(0)).await[..all.len()], all);
}
