//! Throttled replication between brokers in one process: judged by what went, not by when.

use std::sync::Arc;

use ottla_batch::Offset;
use ottla_raft::{BrokerId, ConfigResource};
use tokio::time::Instant;

use super::cluster_for_tests::*;
use super::*;

const BATCHES: i64 = 50;
const BATCH_BYTES: usize = 10_000;
const LEADER: i32 = 2;
const FOLLOWER: i32 = 3;

fn found(cluster: &Cluster, id: i32, partition: i32) -> Option<Arc<Replica>> {
    cluster.brokers[&id].broker.replicas.get(TOPIC, partition)
}

async fn is_moved(cluster: &Cluster, partition: i32) {
    eventually(&format!("partition {partition} is moved"), || {
        let image = cluster.node.broker().metadata.image();
        let state = image.partition(TOPIC, partition)?;
        (*state.isr == [BrokerId(LEADER), BrokerId(FOLLOWER)]).then_some(())
    })
    .await;
}

/// Two partitions of half a megabyte are to be copied; the throttle is for one of them, and its rate lets no more through than a
/// few batches.
async fn a_throttled_copy(side: &str, throttled_broker: i32) {
    let cluster = Cluster::start(&[LEADER, FOLLOWER]).await;
    let list = format!("0:{throttled_broker}");
    let list_key = format!("{side}.replication.throttled.replicas");
    cluster.create_partitions(&[&[LEADER], &[LEADER]], &[(&list_key, &list)]).await;
    for partition in 0..2 {
        let leader = eventually("a leader", || {
            found(&cluster, LEADER, partition).filter(|replica| replica.leader_epoch().is_some())
        });
        let leader = leader.await;
        for _ in 0..BATCHES {
            append(&leader, &"x".repeat(BATCH_BYTES), RequiredAcks::All).unwrap().await.unwrap();
        }
    }
    let rate_key = format!("{side}.replication.throttled.rate");
    let rate = 5_000;
    let began = Instant::now();
    cluster.set_config(ConfigResource::all_brokers(), &rate_key, &rate.to_string()).await;
    cluster.reassign(0..2, &[LEADER, FOLLOWER]).await;
    is_moved(&cluster, 1).await;
    let throttled = eventually("the replica is there", || found(&cluster, FOLLOWER, 0)).await;
    // It comes, though slowly.
    eventually("a few batches", || (throttled.end_offset() >= Offset(3)).then_some(())).await;
    let copied = throttled.size_in_bytes() as usize;
    let allowed = rate * (began.elapsed().as_secs() as usize + 2) + BATCH_BYTES + 200;
    assert!(copied <= allowed, "{copied} bytes came, {allowed} may");
    if copied < BATCHES as usize * BATCH_BYTES {
        let image = cluster.node.broker().metadata.image();
        assert_eq!(*image.partition(TOPIC, 0).unwrap().isr, [BrokerId(LEADER)]);
    }

    cluster.set_config(ConfigResource::all_brokers(), &rate_key, "1000000000").await;
    is_moved(&cluster, 0).await;
    for partition in 0..2 {
        let [leader, follower] = [LEADER, FOLLOWER].map(|id| found(&cluster, id, partition).unwrap());
        assert_eq!((follower.end_offset(), contents(&follower)), (Offset(BATCHES), contents(&leader)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_sends_at_the_rate_and_holds_up_nothing_else() {
    a_throttled_copy("leader", LEADER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_fetches_at_the_rate_and_holds_up_nothing_else() {
    a_throttled_copy("follower", FOLLOWER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_in_sync_are_not_throttled() {
    let cluster = Cluster::start(&[LEADER, FOLLOWER]).await;
    let all =
        [("leader.replication.throttled.replicas", "*"), ("follower.replication.throttled.replicas", "*")];
    cluster.create(&[LEADER, FOLLOWER], &all).await;
    cluster.await_in_sync(&[LEADER, FOLLOWER]).await;
    produce(&cluster.leader(), 0..1).await;
    let rate = async |side: &str, rate: &str| {
        let key = format!("{side}.replication.throttled.rate");
        cluster.set_config(ConfigResource::all_brokers(), &key, rate).await;
    };
    rate("leader", "1").await;
    rate("follower", "1").await;
    produce(&cluster.leader(), 1..50).await;
    cluster.await_in_sync(&[LEADER, FOLLOWER]).await;
    // Who fell behind is.
    rate("follower", "1000000").await;
    cluster.cut(FOLLOWER, true);
    produce(&cluster.leader(), 50..60).await;
    cluster.await_in_sync(&[LEADER]).await;
    let began = Instant::now();
    cluster.cut(FOLLOWER, false);
    let sessions = cluster.brokers[&LEADER].broker.replicas.follower_sessions();
    // Twice: the answer to the first fetch is in then.
    let mut after = began;
    for _ in 0..2 {
        let fetched = || sessions.contact(BrokerId(FOLLOWER)).filter(|at| *at > after);
        after = eventually("the follower fetches", fetched).await;
    }
    assert!(cluster.replica(FOLLOWER).end_offset() < Offset(60));
    rate("leader", "1000000").await;
    cluster.await_in_sync(&[LEADER, FOLLOWER]).await;
    cluster.await_equal(&[LEADER, FOLLOWER]).await;
}
