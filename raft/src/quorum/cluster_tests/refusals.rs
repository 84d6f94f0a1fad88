//! Nodes and messages that must not be let in.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_old_copy_of_a_directory_is_refused() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let restored = cluster.others(leader)[0];
    let backup = cluster.store(restored).copy();
    for number in 0..5 {
        create(cluster.node(leader), &format!("topic-{number}")).await;
    }
    cluster.converge().await;
    cluster.kill(restored).await;
    cluster.stores.insert(restored, Arc::new(backup));
    let config = cluster.config(restored);
    let refused = within(60, cluster.starting(config)).await.err();
    assert!(matches!(refused, Some(StartError::OldCopy { .. })), "{refused:?}");
    create(cluster.node(leader), "goes-on").await;
}

/// As a machine that is cloned has one: everything in it is right, but it is not the only one.
#[tokio::test(start_paused = true)]
async fn a_copied_directory_is_refused_while_its_owner_lives() {
    for id in [2, 7] {
        let mut cluster = TestCluster::started(3).await;
        let _beating = serve_as_brokers(&cluster).await;
        cluster.start(7).await;
        cluster.converge().await;
        let copied = MetadataConfig {
            peer_address: "node-19".into(),
            transport: Arc::new(Wire { wires: cluster.wires.clone(), from: "node-19".into() }),
            ..cluster.config(id)
        };
        let owner = cluster.store(id);
        for config in [&copied, &MetadataConfig { peer_address: address(id), ..copied.clone() }] {
            let copy = Arc::new(owner.copy());
            let refused = within(60, Metadata::start_in_memory(config.clone(), copy)).await.err();
            let Some(error @ StartError::Copied { .. }) = refused else { panic!("{refused:?}") };
            assert!(
                error.to_string().contains(&format!("another node runs with node.id {id}, at node-{id}"))
            );
        }

        // When its owner has ended, nobody can tell it from a node that moved.
        let copy = Arc::new(owner.copy());
        cluster.kill(id).await;
        cluster.stores.insert(id, copy);
        let moved = within(60, cluster.starting(copied)).await.unwrap();
        create(&moved, "from-elsewhere").await;
        // And then it is the owner that comes second.
        cluster.stores.insert(id, owner);
        let config = cluster.config(id);
        let refused = within(60, cluster.starting(config)).await.err();
        assert!(
            matches!(refused, Some(StartError::Copied { .. })),
            "node {id}: what the quorum says counts, not the own disk: {refused:?}"
        );
        moved.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_id_is_one_node() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    cluster.start(7).await;
    let twin = |id: i32, cluster: &TestCluster| MetadataConfig {
        peer_address: "node-19".into(),
        transport: Arc::new(Wire { wires: cluster.wires.clone(), from: "node-19".into() }),
        ..cluster.config(id)
    };
    for (id, text) in [(7, "another node runs with node.id 7"), (1, "two nodes have node.id 1")] {
        let config = MetadataConfig { voters: cluster.voters.clone(), ..twin(id, &cluster) };
        let held = cluster.stores.remove(&id);
        let refused = within(60, cluster.starting(config)).await.err();
        cluster.stores.insert(id, held.unwrap());
        let Some(StartError::NotAdmitted(reason)) = refused else { panic!("{refused:?}") };
        assert!(reason.contains(text), "{reason}");
    }
    // A node that moved keeps its place: its directory says who it is.
    cluster.kill(7).await;
    let config = twin(7, &cluster);
    let moved = within(60, cluster.starting(config)).await.unwrap();
    create(&moved, "from-elsewhere").await;
    assert_eq!(moved.quorum().addresses[&BrokerId(7)], "node-19");
    // An observer that lost its directory is taken as a new one, once the old one is gone.
    moved.shutdown().await;
    cluster.wires.listening.lock().remove("node-19");
    cluster.stores.remove(&7);
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.start(7).await;
    create(cluster.node(7), "anew").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_cluster_is_refused() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let mut config = cluster.config(7);
    config.cluster_id = Some(crate::ClusterId("another".into()));
    let refused = within(20, cluster.starting(config)).await.err();
    assert!(matches!(refused, Some(StartError::PeersOfOtherCluster { .. })), "{refused:?}");
    assert!(cluster.node(1).quorum().observers.is_empty());

    // One that was all of its own cluster, and would go on as that.
    let alone = MetadataConfig { voters: Vec::new(), ..cluster.config(8) };
    let alone = MetadataConfig { role: QuorumRole::Voter, ..alone };
    within(20, cluster.starting(alone.clone())).await.unwrap().shutdown().await;
    let voters = [cluster.voters.clone(), vec![(BrokerId(8), address(8))]].concat();
    let refused = within(20, cluster.starting(MetadataConfig { voters, ..alone })).await.err();
    assert!(matches!(refused, Some(StartError::PeersOfOtherCluster { .. })), "{refused:?}");
    let config = cluster.config(8);
    let refused = within(20, cluster.starting(config)).await.err();
    assert!(
        matches!(refused, Some(StartError::InvalidConfig(_))),
        "a voter that is to be a broker only: {refused:?}"
    );

    // One that holds another cluster's data and comes by mistake: nobody listens to it.
    let leader = cluster.leader().await;
    let alone = MetadataConfig { voters: vec![(BrokerId(1), address(1))], ..cluster.config(1) };
    let other = TestCluster::new(1);
    let alone = MetadataConfig {
        transport: Arc::new(Wire { wires: other.wires.clone(), from: address(1) }),
        ..alone
    };
    let store = Arc::new(MemoryStore::new());
    let stranger = Metadata::start_in_memory(alone, store).await.unwrap();
    let member = cluster.node(leader).links.member(leader as u64).unwrap();
    let call = stranger.links.envelope_for_test(&links::Peer::member(leader as u64, &member));
    let service = cluster.wires.listening.lock()[&address(leader)].clone();
    let reply = service.handle(call).await.unwrap();
    let reply: messages::Envelope<messages::Reply> = encoding::decode(&reply).unwrap();
    assert!(matches!(reply.body, Err(messages::Denied::OtherCluster(_))), "{:?}", reply.body);
    stranger.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn who_holds_partitions_and_no_metadata_founds_nothing() {
    let mut cluster = TestCluster::new(3);
    let alone = MetadataConfig { voters: Vec::new(), holds_partitions: true, ..cluster.config(1) };
    let refused = within(20, cluster.starting(alone)).await.err();
    assert!(matches!(refused, Some(StartError::Vanished { .. })), "{refused:?}");

    // Two of three are a majority that could found; with what they hold they wait for the third.
    let two = [1, 2].map(|id| MetadataConfig { holds_partitions: true, ..cluster.config(id) });
    let two = two.map(|config| tokio::spawn(cluster.starting(config)));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(two.iter().all(|starting| !starting.is_finished()));
    two.iter().for_each(|starting| starting.abort());
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_refused_and_forgotten() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let service = cluster.wires.listening.lock()[&address(1)].clone();
    let whole = cluster.node(2).links.envelope_for_test(&links::Peer::at("node-1"));
    assert!(service.handle(whole.clone()).await.is_ok());
    for length in 0..whole.len() {
        assert!(service.handle(whole.slice(..length)).await.is_err(), "{length} bytes");
    }
    let mut bits = 1u32;
    for _ in 0..20_000 {
        let mut damaged = whole.to_vec();
        for _ in 0..3 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let place = (bits >> 8) as usize % damaged.len();
            damaged[place] = bits as u8;
        }
        let _ = service.handle(damaged.into()).await;
    }
    create(cluster.node(1), "alive").await;
}

/// A peer that speaks the language and lies about numbers: it is refused with a reason before anything counts on from them.
#[tokio::test(start_paused = true)]
async fn numbers_that_cannot_be_are_refused() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let liar = cluster.node(leader);
    let target = cluster.others(leader)[0];
    let member = liar.links.member(target as u64).unwrap();
    let peer = links::Peer::member(target as u64, &member);
    let vote = {
        let metrics = liar.raft.metrics();
        StoredVote::from(&metrics.borrow_watched().vote)
    };
    let id = |offset| StoredLogId { epoch: 1, offset };
    let entry = |offset| {
        let entry = StoredEntry { epoch: 1, offset, payload: StoredPayload::Blank };
        Bytes::from(encoding::encode(&entry).unwrap())
    };
    let append = |previous, offsets: &[u64], committed| {
        let entries = offsets.iter().map(|offset| entry(*offset)).collect();
        Call::Append(Append { vote, previous, entries, committed })
    };
    let piece = |length, offset, size| {
        Call::Snapshot(SnapshotPiece { vote, length, crc: 0, offset, bytes: Bytes::from(vec![0; size]) })
    };
    let ballot = |epoch, last| Ballot { vote: StoredVote { epoch, ..vote }, last, leadership_transfer: true };
    let lies = [
        append(Some(id(u64::MAX)), &[u64::MAX], None),
        append(Some(id(u64::MAX - 1)), &[u64::MAX, 0], None),
        append(Some(id(i64::MAX as u64)), &[1 << 63], None),
        append(None, &[], Some(id(u64::MAX))),
        append(None, &[1], None),
        piece(100, u64::MAX, 100),
        piece(100, u64::MAX - 99, 100),
        piece(100, 1, 100),
        piece(u64::MAX, 0, 1),
        Call::Vote(ballot(u64::MAX, None)),
        Call::PreVote(ballot(1, Some(id(u64::MAX)))),
        Call::TransferLeader(TransferLeader {
            vote: StoredVote { epoch: u64::MAX, ..vote },
            to: target as u64,
            last: None,
        }),
    ];
    for lie in lies {
        let told = format!("{lie:?}");
        let answer = liar.links.call(&peer, Lane::Raft, lie, Duration::from_secs(1)).await;
        assert!(matches!(answer, Err(CallError::Denied(Denied::NotReady(_)))), "{told}: {answer:?}");
    }
    create(cluster.node(target), "alive").await;
    assert_eq!(cluster.leader().await, leader);
}
