//! Voters found one cluster, requests work on every node of it, and restarts and late comers change nothing.

use super::*;

#[tokio::test(start_paused = true)]
async fn three_voters_found_one_cluster() {
    let cluster = TestCluster::started(3).await;
    cluster.converge().await;
    let ids: BTreeSet<String> =
        cluster.nodes.values().map(|node| node.image().cluster_id.to_string()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(ids.first().unwrap().len(), 22);
    let leader = cluster.leader().await;
    let quorum = cluster.node(leader).quorum();
    let directories: BTreeMap<i32, Uuid> =
        quorum.voters.iter().map(|voter| (voter.id.0, voter.directory_id)).collect();
    let held: BTreeMap<i32, Uuid> =
        cluster.nodes.iter().map(|(id, node)| (*id, node.directory_id())).collect();
    assert_eq!(directories, held);
    assert_eq!(quorum.addresses.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_works_on_every_node_and_is_visible_there() {
    let cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    for (id, node) in &cluster.nodes {
        create(node, &format!("by-{id}")).await;
    }
    cluster.converge().await;
    beating.values().for_each(|task| task.abort());
}

#[tokio::test(start_paused = true)]
async fn voters_that_are_configured_otherwise_are_not_counted() {
    let mut cluster = TestCluster::new(3);
    let mut wrong = cluster.config(3);
    wrong.voters = vec![(BrokerId(3), address(3)), (BrokerId(4), address(4)), (BrokerId(5), address(5))];
    let wrong = tokio::spawn(cluster.starting(wrong));
    cluster.start_all([1, 2]).await;
    let _beating = serve_as_brokers(&cluster).await;
    create(cluster.node(1), "made-by-two").await;
    wrong.abort();

    // When too few agree, everybody hears why.
    let mut cluster = TestCluster::new(3);
    let configs: Vec<MetadataConfig> = (1..=3)
        .map(|id| {
            let mut config = cluster.config(id);
            config.voters.push((BrokerId(10 + id), address(10 + id)));
            config
        })
        .collect();
    let starts: Vec<_> = configs.into_iter().map(|config| cluster.starting(config)).collect();
    for started in within(30, join_all(starts)).await {
        let error = started.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("controller.quorum.voters is 1@node-1"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_comes_later_joins_what_the_others_founded() {
    let mut cluster = TestCluster::new(3);
    cluster.start_all([1, 3]).await;
    let _beating = serve_as_brokers(&cluster).await;
    create(cluster.node(1), "before").await;
    cluster.start(2).await;
    assert!(cluster.node(2).image().topic_by_name("before").is_some(), "complete when started");
    let voters = cluster.node(cluster.leader().await).quorum().voters;
    let known = voters.iter().find(|voter| voter.id.0 == 2).unwrap();
    assert_eq!(known.directory_id, cluster.node(2).directory_id());
    // From now on it counts.
    cluster.kill(3).await;
    cluster.leader().await;
    create(cluster.node(2), "after").await;
}

#[tokio::test(start_paused = true)]
async fn all_nodes_restart_at_once() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    create(cluster.node(2), "kept").await;
    let image = cluster.node(cluster.leader().await).image();
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    let begin = tokio::time::Instant::now();
    cluster.start_all(1..=3).await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    cluster.converge().await;
    let after = cluster.node(1).image();
    assert_eq!((&after.cluster_id, &after.topics), (&image.cluster_id, &image.topics));
}

#[tokio::test(start_paused = true)]
async fn an_observer_follows_forwards_and_comes_back() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    create(cluster.node(1), "before").await;
    cluster.start(7).await;
    assert!(cluster.node(7).image().topic_by_name("before").is_some(), "complete when started");
    create(cluster.node(7), "by-the-observer").await;
    assert_eq!(cluster.node(7).quorum().observers.iter().map(|node| node.id.0).collect::<Vec<_>>(), [7]);
    cluster.kill(7).await;
    create(cluster.node(1), "meanwhile").await;
    cluster.start(7).await;
    assert!(cluster.node(7).image().topic_by_name("meanwhile").is_some());
    // Observers do not vote: two of three voters are needed, whatever the observer does.
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    create(cluster.node(7), "under-another").await;
    let info = within(30, cluster.node(7).describe_quorum()).await.unwrap();
    assert_eq!(info.leader, cluster.node(7).controller_id());
    let own = info.observers.iter().find(|node| node.id.0 == 7).unwrap();
    assert!(own.log_end_offset > 0 && own.silent_ms.is_some() && own.behind_ms.is_some(), "{own:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_lags_gets_a_snapshot() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let behind = cluster.others(leader)[0];
    cluster.kill(behind).await;
    make_snapshot(&cluster, leader).await;
    // The one that comes back, and one that never was there.
    cluster.start(behind).await;
    cluster.start(9).await;
    cluster.converge().await;
    for id in [behind, 9] {
        let metrics = cluster.node(id).raft.metrics().borrow_watched().clone();
        assert!(metrics.snapshot.is_some(), "node {id} got its metadata by entries");
        assert_eq!(cluster.node(id).image().topics.len(), 20);
    }
    create(cluster.node(9), "after").await;
    cluster.kill(behind).await;
    cluster.start(behind).await;
    cluster.converge().await;
}
