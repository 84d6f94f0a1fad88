//! Controllers that die, stop or are cut off, and who takes over when.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_death_of_the_active_controller_is_over_in_two_seconds() {
    let mut cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    for round in 0..5 {
        let dead = cluster.leader().await;
        cluster.converge().await;
        beating[&dead].abort();
        cluster.kill(dead).await;
        let begin = tokio::time::Instant::now();
        let survivor = cluster.others(dead)[0];
        // Asked while nobody leads.
        create(cluster.node(survivor), &format!("round-{round}")).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        let others = cluster.others(dead);
        cluster.leader_other_than(Some(dead), &others).await;
        // Its broker died with it, and the new controller finds out before that one's session ends.
        eventually(5, || (!is_unfenced(&cluster, dead)).then_some(())).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        cluster.start(dead).await;
        cluster.converge().await;
        assert_eq!(cluster.node(dead).image().topics.len(), round + 1);
        cluster.converge().await;
        let id = dead;
        if beating[&id].is_finished() || round < 4 {
            let epoch = register(cluster.node(id), id).await;
            tokio::spawn(beat(cluster.node(id).clone(), id, epoch));
        }
    }
}

/// Nobody waits for a timeout when nobody listens where the leader was; who only hears nothing does.
#[tokio::test(start_paused = true)]
async fn the_end_of_the_active_controller_is_found_out_and_its_silence_waited_out() {
    let timeout = MetadataConfig::new(BrokerId(1), "").election_timeout;
    for round in 0..5 {
        let mut cluster = TestCluster::started(5).await;
        let _beating = serve_as_brokers(&cluster).await;
        let dead = cluster.leader().await;
        let others = cluster.others(dead);
        tokio::time::sleep(Duration::from_millis(17 * round)).await;
        cluster.kill(dead).await;
        let begin = tokio::time::Instant::now();
        let second = cluster.leader_other_than(Some(dead), &others).await;
        eventually(5, || (!is_unfenced(&cluster, dead)).then_some(())).await;
        assert!(begin.elapsed() < timeout * 2 / 5, "{:?}", begin.elapsed());

        // Its connections are cut, and one of its voters is told that it refuses: no majority believes that.
        let others = cluster.others(second);
        let epoch = cluster.node(second).raft.metrics().borrow_watched().current_term;
        cluster.wires.refuse(&address(others[0]), &address(second));
        cluster.node(others[0]).doubt(BrokerId(second));
        tokio::time::sleep(timeout / 2).await;
        assert_eq!(cluster.leader().await, second);
        assert_eq!(cluster.node(second).raft.metrics().borrow_watched().current_term, epoch);
        cluster.wires.isolate(&address(second), 1..=5);
        let begin = tokio::time::Instant::now();
        cluster.leader_other_than(Some(second), &others).await;
        assert!(begin.elapsed() > timeout / 2, "{:?}", begin.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_doubt_ends_when_the_peer_answers_is_fenced_or_stays_silent() {
    let mut cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    let (asked, peer) = (cluster.node(others[0]).clone(), BrokerId(others[1]));
    let begin = tokio::time::Instant::now();
    asked.doubt(peer);
    assert!(asked.is_doubted(peer));
    eventually(5, || (!asked.is_doubted(peer)).then_some(())).await;
    // Long before the doubt would end by itself.
    assert!(begin.elapsed() < Duration::from_millis(500), "it did not answer: {:?}", begin.elapsed());

    cluster.wires.cut(&address(others[0]), &address(others[1]));
    asked.doubt(peer);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(asked.is_doubted(peer));
    tokio::time::sleep(Duration::from_millis(501)).await;
    assert!(!asked.is_doubted(peer), "nobody knows");
    cluster.wires.heal();
    // Asked now and then, so that the next doubt counts again.
    tokio::time::sleep(Duration::from_secs(2)).await;

    beating[&others[1]].abort();
    cluster.kill(others[1]).await;
    asked.doubt(peer);
    assert!(asked.is_doubted(peer));
    eventually(5, || asked.image().broker(peer).is_some_and(|broker| broker.fenced).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!asked.is_doubted(peer), "it is fenced");
}

/// A voter that wrongly takes a living leader for dead does not bring it down, alone or with a majority that hears it.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_heard_is_not_replaced_because_its_address_refuses() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let epoch = cluster.node(leader).raft.metrics().borrow_watched().current_term;
    for other in cluster.others(leader) {
        cluster.wires.refuse(&address(other), &address(leader));
        cluster.node(other).doubt(BrokerId(leader));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.node(leader).raft.metrics().borrow_watched().current_term, epoch);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_stops_hands_over_without_a_timeout() {
    let mut cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    let old = cluster.leader().await;
    let begin = tokio::time::Instant::now();
    beating[&old].abort();
    cluster.stop(old).await;
    let others = cluster.others(old);
    cluster.leader_other_than(Some(old), &others).await;
    create(cluster.node(others[0]), "at-once").await;
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_last_controller_waits_for_nobody_when_it_stops() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let last = cluster.leader().await;
    let quorum_ended = |node: &Metadata| {
        let node = node.clone();
        tokio::spawn(async move { node.quorum_ended().await })
    };
    let ended = quorum_ended(cluster.node(last));
    let others = cluster.others(last);
    cluster.kill(others[0]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!ended.is_finished(), "two of three are a quorum");
    cluster.kill(others[1]).await;
    let begin = tokio::time::Instant::now();
    within(2, ended).await.unwrap();
    cluster.stop(last).await;
    assert!(begin.elapsed() < HAND_OVER_MAX, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_makes_nothing_happen() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    cluster.wires.isolate(&address(old), 1..=3);
    let lost = tokio::spawn({
        let node = cluster.node(old).clone();
        async move { node.submit(topic("lost")).await }
    });
    let new = cluster.leader_other_than(Some(old), &others).await;
    create(cluster.node(others[0]), "kept").await;
    cluster.wires.heal();
    cluster.converge().await;
    assert_eq!(cluster.leader().await, new);
    let answer = within(60, lost).await.unwrap();
    let made = cluster.node(new).image().topic_by_name("lost").is_some();
    match answer {
        // It was tried again with the new leader, before it had any effect.
        Ok(_) => assert!(made),
        Err(SubmitError::OutcomeUnknown) => {}
        Err(error) => panic!("{error}"),
    }
    assert!(cluster.node(old).image().topic_by_name("kept").is_some());
}

#[tokio::test(start_paused = true)]
async fn who_passes_a_read_barrier_sees_everything_and_who_is_cut_off_does_not_pass() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    cluster.wires.isolate(&address(old), 1..=3);
    let new = cluster.leader_other_than(Some(old), &others).await;
    create(cluster.node(new), "topic").await;
    // It may still believe that it leads.
    let passed = cluster.node(old).read_barrier(Duration::from_secs(2)).await;
    assert!(passed.is_err() && cluster.node(old).image().topic_by_name("topic").is_none());

    for id in others {
        let passed = join_all((0..10).map(|_| cluster.node(id).read_barrier(Duration::from_secs(2)))).await;
        assert!(passed.iter().all(Result::is_ok), "{passed:?}");
        assert!(cluster.node(id).image().topic_by_name("topic").is_some());
    }
    cluster.wires.heal();
    cluster.node(old).read_barrier(Duration::from_secs(10)).await.unwrap();
    assert!(cluster.node(old).image().topic_by_name("topic").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_broker_is_fenced_is_replaced_when_it_is_cut_off() {
    let cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    let old = cluster.leader().await;
    beating[&old].abort();
    let others = cluster.others(old);
    let image = || cluster.node(others[0]).image();
    eventually(20, || image().broker(BrokerId(old))?.fenced.then_some(())).await;
    // Its silence makes the others doubt it again and again, and a fenced broker is not asked: time must go on nevertheless.
    cluster.wires.isolate(&address(old), 1..=3);
    cluster.leader_other_than(Some(old), &others).await;
}

#[tokio::test(start_paused = true)]
async fn a_minority_serves_nobody() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    for other in cluster.others(leader) {
        cluster.kill(other).await;
    }
    let answer = within(120, cluster.node(leader).submit(topic("never"))).await;
    assert!(matches!(answer, Err(SubmitError::NoController(_) | SubmitError::OutcomeUnknown)), "{answer:?}");
    cluster.start_all((1..=3).filter(|id| *id != leader)).await;
    cluster.leader().await;
    create(cluster.node(leader), "again").await;
}
