//! The set of voters changes.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_voter_without_its_directory_is_refused_until_it_is_replaced() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    create(cluster.node(1), "kept").await;
    let lost = cluster.others(cluster.leader().await)[0];
    let directory = cluster.node(lost).directory_id();
    cluster.kill(lost).await;
    cluster.stores.remove(&lost);
    let config = cluster.config(lost);
    let refused = within(60, cluster.starting(config)).await.err();
    let Some(StartError::NotAdmitted(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("remove the voter") && reason.contains(&format!("node.id {lost}")), "{reason}");

    let other = *cluster.nodes.keys().next().unwrap();
    let wrong = cluster.node(other).remove_voter(BrokerId(lost), Uuid::from_u128(1)).await;
    assert!(matches!(wrong, Err(VoterChangeError::VoterNotFound(_))), "{wrong:?}");
    within(60, cluster.node(other).remove_voter(BrokerId(lost), directory)).await.unwrap();
    cluster.start(lost).await;
    let again = cluster.node(lost).directory_id();
    assert_ne!(again, directory);
    within(60, cluster.node(lost).add_voter(BrokerId(lost), again, &address(lost))).await.unwrap();
    let twice = cluster.node(other).add_voter(BrokerId(lost), again, &address(lost)).await;
    assert_eq!(twice, Err(VoterChangeError::DuplicateVoter(BrokerId(lost))));
    // It counts: one of the others may go.
    cluster.kill(other).await;
    create(cluster.node(lost), "counted").await;
    assert!(cluster.node(lost).image().topic_by_name("kept").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_gone_for_good_is_forgotten() {
    let mut cluster = TestCluster::started(3).await;
    let leader = cluster.leader().await;
    let [gone, other] = cluster.others(leader)[..] else { panic!("three nodes") };
    let directory = cluster.node(gone).directory_id();
    let voting = cluster.node(other).unregister_controller(BrokerId(gone)).await;
    assert!(matches!(voting, Err(VoterChangeError::InvalidRequest(_))), "{voting:?}");
    within(60, cluster.node(other).remove_voter(BrokerId(gone), directory)).await.unwrap();
    let follows = |cluster: &TestCluster, id: i32| {
        cluster.node(leader).quorum().observers.iter().any(|observer| observer.id == BrokerId(id))
    };
    eventually(30, || follows(&cluster, gone).then_some(())).await;
    cluster.kill(gone).await;
    within(60, cluster.node(other).unregister_controller(BrokerId(gone))).await.unwrap();
    eventually(30, || (!follows(&cluster, gone)).then_some(())).await;
    let again = cluster.node(other).unregister_controller(BrokerId(gone)).await;
    assert!(matches!(again, Err(VoterChangeError::VoterNotFound(_))), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_quorum_grows_from_one_to_three_and_changes_all_its_voters_under_load() {
    let mut cluster = TestCluster::new(1);
    cluster.start(1).await;
    let _beating = serve_as_brokers(&cluster).await;
    let controller = |id: i32, cluster: &TestCluster| MetadataConfig {
        role: QuorumRole::Voter,
        voters: vec![],
        bootstrap_servers: vec![address(1), address(2), address(3), address(id)],
        ..cluster.config(id)
    };
    let load = |node: Metadata| {
        tokio::spawn(async move {
            let mut made: Vec<String> = Vec::new();
            for number in 0.. {
                let name = format!("load-{number}");
                match node.submit(topic(&name)).await {
                    Ok(answer) => {
                        answer[0].result.as_ref().unwrap_or_else(|error| panic!("{name}: {error}"));
                        made.push(name);
                    }
                    Err(SubmitError::OutcomeUnknown) => {}
                    Err(SubmitError::Stopped(_)) => return made,
                    Err(error) => panic!("{name}: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            made
        })
    };
    for id in 2..=5 {
        let config = controller(id, &cluster);
        let started = within(60, cluster.starting(config)).await.unwrap();
        cluster.nodes.insert(id, started);
    }
    let _beating_too = serve_as_brokers(&cluster).await;
    let loading = load(cluster.node(5).clone());
    for id in 2..=5 {
        let directory = cluster.node(id).directory_id();
        within(60, cluster.node(3).add_voter(BrokerId(id), directory, &address(id))).await.unwrap();
    }
    for id in [1, 2] {
        let directory = cluster.node(id).directory_id();
        within(60, async {
            while let Err(error) = cluster.node(3).remove_voter(BrokerId(id), directory).await {
                assert!(
                    matches!(error, VoterChangeError::Submit(_) | VoterChangeError::TimedOut(_)),
                    "{error}"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    }
    eventually(30, || {
        let voters: Vec<i32> = cluster.node(5).quorum().voters.iter().map(|voter| voter.id.0).collect();
        (voters == [3, 4, 5]).then_some(())
    })
    .await;
    cluster.kill(1).await;
    cluster.kill(2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    create(cluster.node(4), "at-the-end").await;
    cluster.stop(3).await;
    create(cluster.node(4), "with-two").await;
    cluster.stop(5).await;
    let made = within(60, loading).await.unwrap();
    assert!(made.len() > 50, "{}", made.len());
    for id in [3, 5] {
        let config = controller(id, &cluster);
        let started = within(60, cluster.starting(config)).await.unwrap();
        cluster.nodes.insert(id, started);
    }
    cluster.converge().await;
    let image = cluster.node(4).image();
    for name in made {
        assert!(image.topic_by_name(&name).is_some(), "{name} is lost");
    }
}
