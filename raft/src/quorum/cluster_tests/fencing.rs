//! When brokers are fenced.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_broker_that_died_is_fenced_at_once_and_a_silent_one_after_its_session() {
    let mut cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    beating[&others[0]].abort();
    let begin = tokio::time::Instant::now();
    cluster.kill(others[0]).await;
    eventually(10, || (!is_unfenced(&cluster, others[0])).then_some(())).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    // Its next process is taken at once, although nobody has told that the former one is gone.
    cluster.start(others[0]).await;
    let begin = tokio::time::Instant::now();
    let epoch = register(cluster.node(others[0]), others[0]).await;
    let beating_again = tokio::spawn(beat(cluster.node(others[0]).clone(), others[0], epoch));
    eventually(10, || is_unfenced(&cluster, others[0]).then_some(())).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());

    let begin = tokio::time::Instant::now();
    cluster.wires.isolate(&address(others[1]), 1..=3);
    eventually(10, || (!is_unfenced(&cluster, others[1])).then_some(())).await;
    let took = begin.elapsed();
    assert!((2_500..4_500).contains(&took.as_millis()), "{took:?}");
    cluster.wires.heal();
    eventually(10, || is_unfenced(&cluster, others[1]).then_some(())).await;

    // It speaks, but does not hear: what it would be given it would never know of.
    cluster.wires.cut(&address(leader), &address(others[1]));
    eventually(10, || (!is_unfenced(&cluster, others[1])).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!is_unfenced(&cluster, others[1]), "it stays fenced");
    cluster.wires.heal();
    eventually(20, || is_unfenced(&cluster, others[1]).then_some(())).await;
    beating_again.abort();
}

#[tokio::test(start_paused = true)]
async fn the_broker_of_a_controller_that_fell_silent_is_fenced_a_session_after_its_last_word() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    let begin = tokio::time::Instant::now();
    cluster.wires.isolate(&address(old), 1..=3);
    let new = cluster.leader_other_than(Some(old), &others).await;
    let image_of = |id: i32| cluster.node(id).image();
    eventually(10, || image_of(new).broker(BrokerId(old)).is_some_and(|broker| broker.fenced).then_some(()))
        .await;
    let took = begin.elapsed();
    assert!((2_500..4_000).contains(&took.as_millis()), "{took:?}");
    // The old one hears nobody either, but that is not for it to judge.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for id in others {
        assert!(!image_of(old).broker(BrokerId(id)).unwrap().fenced);
        assert!(!image_of(new).broker(BrokerId(id)).unwrap().fenced);
    }
}
