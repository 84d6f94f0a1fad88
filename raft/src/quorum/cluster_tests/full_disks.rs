//! Followers without room.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_follower_without_room_lags_and_neither_votes_nor_stops() {
    let mut cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    cluster.converge().await;
    let leader = cluster.leader().await;
    let full = cluster.others(leader)[0];
    cluster.stores[&full].limit_room(Some(0));
    let held = cluster.stores[&full].bounds().unwrap();
    create(cluster.node(leader), "without-it").await;
    assert_eq!(cluster.stores[&full].bounds().unwrap(), held);
    // It hears its leader and stays a part of the cluster: its broker is not fenced, and what it asks for is done.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(is_unfenced(&cluster, full));
    assert_eq!(cluster.leader().await, leader);
    let asked = cluster.node(full).submit(topic("asked-by-it"));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), asked).await.is_err(),
        "it cannot see what it asked for"
    );
    assert!(cluster.node(leader).image().topic_by_name("asked-by-it").is_some());

    // Its vote would be a write too: the rest has no majority without it, and it makes none.
    let vote = cluster.stores[&full].cell(Cell::Vote).unwrap();
    beating[&leader].abort();
    cluster.kill(leader).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(cluster.nodes.values().all(|node| !node.is_controller()));
    assert_eq!(cluster.stores[&full].cell(Cell::Vote).unwrap(), vote);

    cluster.stores[&full].limit_room(None);
    let others = cluster.others(leader);
    cluster.leader_other_than(Some(leader), &others).await;
    create(cluster.node(full), "with-it").await;
    cluster.converge().await;
    assert!(cluster.node(full).image().topic_by_name("without-it").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_follower_without_room_takes_no_snapshot_until_there_is() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let full = cluster.others(leader)[0];
    cluster.kill(full).await;
    make_snapshot(&cluster, leader).await;
    let store = cluster.store(full);
    store.limit_room(Some(0));
    let config = cluster.config(full);
    let starting = tokio::spawn(cluster.starting(config));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!starting.is_finished());
    assert_eq!(store.snapshot().unwrap(), None);
    store.limit_room(None);
    let node = within(60, starting).await.unwrap().unwrap();
    assert_eq!(node.image(), cluster.node(leader).image());
    cluster.nodes.insert(full, node);
}
