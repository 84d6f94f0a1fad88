//! Nodes that start and stop in this process.

use std::io::{Read, Write};

use super::*;

fn config(dir: &std::path::Path) -> NodeConfig {
    let overrides = [
        ("listeners", "PLAINTEXT://127.0.0.1:0".to_owned()),
        ("log.dirs", dir.join("data").display().to_string()),
        ("ottla.metrics.listener", String::new()),
    ];
    let overrides: Vec<_> = overrides.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    NodeConfig::load(None, &overrides).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_shut_down_can_be_started_again_in_the_same_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut held = Vec::new();
    for round in 0..3 {
        let node = start(config(dir.path())).await.unwrap_or_else(|error| panic!("round {round}: {error}"));
        let broker = Arc::clone(node.broker());
        let id = BrokerId(broker.config.node_id);
        let image = broker.metadata.image();
        let registered = image.broker(id).unwrap();
        assert!(registered.is_active(), "round {round}");
        assert_eq!(registered.features, features::supported());

        // A client in the middle of a request.
        let mut client = std::net::TcpStream::connect(broker.addresses["PLAINTEXT"]).unwrap();
        client.write_all(&[0, 0, 0, 50, 0, 3]).unwrap();
        let began = Instant::now();
        node.shutdown().await;
        assert!(began.elapsed() < Duration::from_secs(3), "a half request holds nobody up");
        assert!(!broker.metadata.image().broker(id).unwrap().is_active(), "the controller was told");
        // Whoever still has a handle does not keep the directory.
        held.push((broker, client));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_of_both_directions_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(config(dir.path())).await.unwrap();
    let mut client = std::net::TcpStream::connect(node.broker().addresses["PLAINTEXT"]).unwrap();
    // ApiVersions v0, correlation id 1, no client id.
    let request = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    client.write_all(&request).unwrap();
    let mut length = [0; 4];
    client.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    client.read_exact(&mut answer).unwrap();
    let metrics = &node.broker().metrics;
    assert_eq!(metrics.bytes_in.get(), request.len() as u64);
    // Counted after the write, which the client may see first.
    let began = Instant::now();
    while metrics.bytes_out.get() != (length.len() + answer.len()) as u64 {
        assert!(began.elapsed() < Duration::from_secs(5), "{} bytes counted", metrics.bytes_out.get());
        tokio::task::yield_now().await;
    }
    node.shutdown().await;
}

/// Ports that nobody has at the moment.
fn free_ports<const N: usize>() -> [u16; N] {
    let held: [_; N] = std::array::from_fn(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|socket| socket.local_addr().unwrap().port())
}

/// Node `id` of three that vote.
fn member(dir: &std::path::Path, id: usize, ports: &[u16; 3], more: &[(&str, &str)]) -> NodeConfig {
    let voters: Vec<_> = (1..=3).map(|id| format!("{id}@127.0.0.1:{}", ports[id - 1])).collect();
    let controller =
        ports.get(id - 1).map_or(String::new(), |port| format!(",CONTROLLER://127.0.0.1:{port}"));
    let mut overrides = vec![
        ("node.id".to_owned(), id.to_string()),
        ("listeners".to_owned(), format!("PLAINTEXT://127.0.0.1:0{controller}")),
        ("controller.quorum.voters".to_owned(), voters.join(",")),
        ("log.dirs".to_owned(), dir.join(id.to_string()).display().to_string()),
        ("ottla.metrics.listener".to_owned(), String::new()),
    ];
    overrides.extend(more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    NodeConfig::load(None, &overrides).unwrap()
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn active(node: &Node, id: i32) -> bool {
    node.broker().metadata.image().broker(BrokerId(id)).is_some_and(|broker| broker.is_active())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_and_a_broker_are_one_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports::<3>();
    let start_one = |id| start(member(dir.path(), id, &ports, &[]));
    let (one, two, three) = tokio::join!(start_one(1), start_one(2), start_one(3));
    let (one, two, three) = (one.unwrap(), two.unwrap(), three.unwrap());
    let broker = start(member(dir.path(), 4, &ports, &[("process.roles", "broker")])).await.unwrap();
    for node in [&one, &two, &three, &broker] {
        until("all see all", || (1..=4).all(|id| active(node, id))).await;
        assert_eq!(node.broker().metadata.image().cluster_id, one.broker().metadata.image().cluster_id);
    }
    let image = broker.broker().metadata.image();
    let address = one.broker().config.inter_broker_address(&image, BrokerId(4)).unwrap();
    assert_eq!(address, format!("127.0.0.1:{}", broker.broker().addresses["PLAINTEXT"].port()));

    // A leader that is told to stop is one no more when it has.
    let topic = ottla_raft::requests::NewTopic {
        name: "t".into(),
        partitions: -1,
        replication_factor: -1,
        assignments: vec![(0, [4, 1, 2].map(BrokerId).to_vec())],
        configs: Vec::new(),
    };
    let create = ottla_raft::requests::CreateTopics { topics: vec![topic], validate_only: false };
    let created = three.broker().metadata.submit(create).await.unwrap();
    assert!(created[0].result.is_ok(), "{created:?}");
    let leader = |node: &Node| {
        let image = node.broker().metadata.image();
        image.topics.values().next().and_then(|topic| topic.partitions[0].leader)
    };
    until("broker 4 leads", || leader(&one) == Some(BrokerId(4))).await;
    broker.shutdown().await;
    until("broker 1 leads", || leader(&one) == Some(BrokerId(1))).await;
    assert!(!active(&one, 4));

    // Whichever is the active controller: two of three go on.
    two.shutdown().await;
    until("two is gone", || !active(&one, 2) && !active(&three, 2)).await;
    let two = start_one(2).await.unwrap();
    until("two is back", || active(&one, 2)).await;
    for node in [two, three, one] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controllers_and_brokers_apart() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports::<3>();
    let controller = |id: usize| {
        let listeners = format!("CONTROLLER://127.0.0.1:{}", ports[id - 1]);
        start(member(dir.path(), id, &ports, &[("process.roles", "controller"), ("listeners", &listeners)]))
    };
    let broker = start(member(dir.path(), 4, &ports, &[("process.roles", "broker")]));
    let (one, two, three, broker) = tokio::join!(controller(1), controller(2), controller(3), broker);
    let (one, two, three, broker) = (one.unwrap(), two.unwrap(), three.unwrap(), broker.unwrap());
    let image = one.broker().metadata.image();
    assert_eq!(image.brokers.keys().map(|id| id.0).collect::<Vec<_>>(), [4], "controllers are no brokers");
    broker.shutdown().await;
    until("the broker is gone", || !active(&one, 4)).await;
    for node in [two, three, one] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_joins_the_voters_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports::<3>();
    let found_by = format!("127.0.0.1:{}", ports[0]);
    let start_one = |id: usize, auto_join: &'static str| {
        let by_bootstrap = [
            ("controller.quorum.voters", ""),
            ("controller.quorum.bootstrap.servers", &found_by),
            ("controller.quorum.auto.join.enable", auto_join),
        ];
        start(member(dir.path(), id, &ports, &by_bootstrap))
    };
    let one = start_one(1, "false").await.unwrap();
    let two = start_one(2, "true").await.unwrap();
    let three = start_one(3, "false").await.unwrap();
    let voters = |node: &Node| -> Vec<i32> {
        node.broker().metadata.quorum().voters.iter().map(|voter| voter.id.0).collect()
    };
    until("node 2 votes", || voters(&one) == [1, 2] && voters(&two) == [1, 2]).await;
    until("node 3 follows", || active(&one, 3)).await;
    assert_eq!(voters(&one), [1, 2], "node 3 was not told to join");
    for node in [three, two, one] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_with_a_new_disk_may_lead_again() {
    let dir = tempfile::tempdir().unwrap();
    let ports = free_ports::<1>();
    let voters = format!("1@127.0.0.1:{}", ports[0]);
    let controllers = format!("PLAINTEXT://127.0.0.1:0,CONTROLLER://127.0.0.1:{}", ports[0]);
    let ports = [0, 0, 0];
    let by_one = [("controller.quorum.voters", &*voters), ("listeners", &*controllers)];
    let one = start(member(dir.path(), 1, &ports, &by_one)).await.unwrap();
    let start_two = || {
        let broker = [
            ("controller.quorum.voters", &*voters),
            ("listeners", "PLAINTEXT://127.0.0.1:0"),
            ("process.roles", "broker"),
        ];
        start(member(dir.path(), 2, &ports, &broker))
    };
    let two = start_two().await.unwrap();
    until("both are there", || active(&one, 1) && active(&one, 2)).await;
    let topic = ottla_raft::requests::NewTopic {
        name: "t".into(),
        partitions: -1,
        replication_factor: -1,
        assignments: vec![(0, [2, 1].map(BrokerId).to_vec())],
        configs: Vec::new(),
    };
    let create = ottla_raft::requests::CreateTopics { topics: vec![topic], validate_only: false };
    assert!(one.broker().metadata.submit(create).await.unwrap()[0].result.is_ok());
    let directory_id = two.broker().metadata.directory_id();
    two.shutdown().await;
    std::fs::remove_dir_all(dir.path().join("2")).unwrap();

    let two = start_two().await.unwrap();
    let image = one.broker().metadata.image();
    assert_ne!(two.broker().metadata.directory_id(), directory_id);
    assert_eq!(
        image.broker(BrokerId(2)).unwrap().log_dirs,
        [two.broker().metadata.directory_id()],
        "a directory has one id, whether it is the metadata's or not"
    );
    until("broker 2 may lead", || {
        let image = one.broker().metadata.image();
        let state = image.topics.values().next().unwrap().partitions[0].clone();
        state.isr.contains(&BrokerId(2)) && image.may_lead(BrokerId(2), &state)
    })
    .await;
    two.shutdown().await;
    one.shutdown().await;
}
