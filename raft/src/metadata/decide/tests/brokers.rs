//! Registration, heartbeats, and the elections that follow from them.

use super::*;

#[test]
fn registrations() {
    let mut cluster = Cluster::empty();
    cluster
        .submit(UpdateFeatures {
            updates: vec![FeatureUpdate {
                name: features::METADATA_VERSION.into(),
                level: 25,
                kind: FeatureUpdateType::Upgrade,
            }],
            validate_only: false,
        })
        .unwrap();
    let invalid = |request: RegisterBroker, text: &str| {
        assert_refused!(Cluster::empty().submit(request), RegisterBrokerError::Invalid(_), text);
    };
    let good = registration(1, 1, Some("r"));
    invalid(RegisterBroker { id: BrokerId(-1), ..good.clone() }, "no broker id");
    invalid(RegisterBroker { endpoints: vec![], ..good.clone() }, "endpoints");
    invalid(
        RegisterBroker {
            endpoints: vec![good.endpoints[0].clone(), good.endpoints[0].clone()],
            ..good.clone()
        },
        "given twice",
    );
    invalid(RegisterBroker { rack: Some("r".repeat(2000).into()), ..good.clone() }, "longer");
    invalid(RegisterBroker { log_dirs: vec![Uuid::nil(); 2000], ..good.clone() }, "too many");
    assert_refused!(
        cluster.submit(RegisterBroker { features: BTreeMap::new(), ..good.clone() }),
        RegisterBrokerError::UnsupportedFeatures(_),
        "supports none"
    );
    let narrow = BTreeMap::from([(features::METADATA_VERSION.to_owned(), FeatureRange { min: 1, max: 24 })]);
    assert_refused!(
        cluster.submit(RegisterBroker { features: narrow, ..good.clone() }),
        RegisterBrokerError::UnsupportedFeatures(_),
        "1 to 24"
    );
    let epoch = cluster.submit(good.clone()).unwrap();
    assert!(cluster.image.broker(BrokerId(1)).unwrap().fenced, "fenced until it is caught up");

    let behind = BrokerHeartbeat { metadata_offset: epoch.0 as u64 - 1, ..heartbeat(1, epoch) };
    let state = cluster.submit(behind).unwrap();
    assert!(!state.is_caught_up && state.is_fenced);
    cluster.unfence(1);

    // The same process again: keeps its standing, with a new epoch.
    let second = cluster.submit(good).unwrap();
    assert!(second > epoch && !cluster.image.broker(BrokerId(1)).unwrap().fenced);
    assert_eq!(
        cluster.submit(heartbeat(1, epoch)),
        Err(BrokerEpochError::Stale { id: BrokerId(1), current: second, given: epoch })
    );
    assert_eq!(cluster.submit(heartbeat(5, epoch)), Err(BrokerEpochError::NotRegistered(BrokerId(5))));

    // Another process: only if the first is not heard of any more.
    cluster.live.insert(BrokerId(1));
    assert_eq!(cluster.submit(registration(1, 2, None)), Err(RegisterBrokerError::Duplicate(BrokerId(1))));
    cluster.live.clear();
    assert!(cluster.submit(registration(1, 2, None)).unwrap() > second);
}

#[test]
fn a_restarted_broker_leads_again_in_a_new_leader_epoch() {
    let mut cluster = Cluster::of(2);
    cluster.create(assigned("s", &[(0, &[1])])).unwrap();
    cluster.create(assigned("t", &[(0, &[2, 1]), (1, &[1, 2])])).unwrap();
    let epoch = cluster.submit(registration(1, 99, None)).unwrap();
    assert_eq!(cluster.leader("s", 0), (None, 1), "waits for the only replica");
    assert_eq!(cluster.leader("t", 1), (Some(2), 1));
    assert_eq!(cluster.leader("t", 0), (Some(2), 0));
    assert_eq!(*cluster.image.partition("s", 0).unwrap().isr, *brokers(&[1]));
    assert_eq!(*cluster.image.partition("t", 0).unwrap().isr, *brokers(&[2]));
    cluster.submit(heartbeat(1, epoch)).unwrap();
    assert_eq!(cluster.leader("s", 0), (Some(1), 2));
    assert_eq!(cluster.leader("t", 1), (Some(2), 1), "not in sync until it has caught up");
    assert!(cluster.image.partition("t", 0).unwrap().partition_epoch > PartitionEpoch(0));
}

#[test]
fn controlled_shutdown_moves_leaders_first() {
    let mut cluster = Cluster::of(2);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    cluster.create(assigned("s", &[(0, &[1])])).unwrap();
    let epoch = cluster.image.broker(BrokerId(1)).unwrap().epoch;
    let leaving = BrokerHeartbeat { want_shut_down: true, ..heartbeat(1, epoch) };
    let state = cluster.submit(leaving.clone()).unwrap();
    assert!(!state.should_shut_down && !state.is_fenced, "broker 2 may not know yet what it leads");
    assert!(cluster.image.broker(BrokerId(1)).unwrap().in_controlled_shutdown);
    cluster.applied.insert(BrokerId(2), cluster.image.last_offset - 1);
    assert!(!cluster.submit(leaving.clone()).unwrap().should_shut_down);
    cluster.applied.insert(BrokerId(2), cluster.image.last_offset);
    let state = cluster.submit(leaving.clone()).unwrap();
    assert!(state.should_shut_down && state.is_fenced);
    assert_eq!(cluster.leader("t", 0), (Some(2), 1));
    assert_eq!(cluster.leader("s", 0), (None, 1));
    assert!(cluster.submit(leaving).unwrap().should_shut_down, "asked again");
    assert!(cluster.submit(heartbeat(1, epoch)).unwrap().is_fenced, "a shutdown is not taken back");
    // A new process of the same broker may come at once, although the old one was heard of just now.
    cluster.live.insert(BrokerId(1));
    cluster.submit(registration(1, 7, None)).unwrap();
}

#[test]
fn unregistering() {
    let mut cluster = Cluster::of(2);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    assert_eq!(cluster.submit(UnregisterBroker { id: BrokerId(1) }), Ok(()));
    assert_eq!(cluster.leader("t", 0), (Some(2), 1));
    assert_eq!(
        cluster.submit(UnregisterBroker { id: BrokerId(1) }),
        Err(UnregisterBrokerError::NotRegistered(BrokerId(1)))
    );
}

#[test]
fn unclean_election_only_where_configured() {
    let mut cluster = Cluster::of(2);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    cluster.create(assigned("u", &[(0, &[1, 2])])).unwrap();
    alter(&mut cluster, ConfigResource::topic("u"), vec![("unclean.leader.election.enable", set("true"))])
        .unwrap();
    cluster.fence(2);
    cluster.unfence(2);
    assert_eq!(*cluster.image.partition("t", 0).unwrap().isr, *brokers(&[1]));
    cluster.fence(1);
    assert_eq!(cluster.leader("t", 0).0, None);
    assert_eq!(cluster.leader("u", 0).0, Some(2));
    let state = cluster.image.partition("u", 0).unwrap();
    assert!(state.leader_recovering && *state.isr == *brokers(&[2]));
    // The dynamic default of all brokers, then the static setting.
    let by_setting = |resource: Option<ConfigResource>| {
        let mut cluster = Cluster::of(2);
        cluster.settings.unclean_leader_election = resource.is_none();
        if let Some(resource) = resource {
            alter(&mut cluster, resource, vec![("unclean.leader.election.enable", set("true"))]).unwrap();
        }
        cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
        cluster.fence(2);
        cluster.unfence(2);
        cluster.fence(1);
        cluster.leader("t", 0).0
    };
    assert_eq!(by_setting(Some(ConfigResource::all_brokers())), Some(2));
    assert_eq!(by_setting(None), Some(2));
}

#[test]
fn elections() {
    use ElectLeaderError::*;
    let mut cluster = Cluster::of(3);
    cluster.create(assigned("t", &[(0, &[1, 2]), (1, &[2, 1])])).unwrap();
    cluster.create(assigned("s", &[(0, &[3])])).unwrap();
    let elect = |cluster: &mut Cluster, election, partitions: Option<&[(&str, i32)]>| {
        let partitions =
            partitions.map(|all| all.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect());
        let results = cluster.submit(ElectLeaders { election, partitions });
        results.into_iter().map(|result| (result.partition, result.result)).collect::<Vec<_>>()
    };
    use ElectionType::*;
    assert_eq!(elect(&mut cluster, Preferred, Some(&[("t", 0)])), [(0, Err(NotNeeded))]);
    assert_eq!(elect(&mut cluster, Preferred, None), [], "what needs nothing is left out");
    let unknown = elect(&mut cluster, Preferred, Some(&[("none", 0), ("t", 9), ("t", -1)]));
    assert!(
        unknown.iter().all(|(_, result)| matches!(result, Err(UnknownTopicOrPartition(_)))),
        "{unknown:?}"
    );

    cluster.fence(1);
    assert_eq!(cluster.leader("t", 0), (Some(2), 1));
    assert_eq!(elect(&mut cluster, Preferred, Some(&[("t", 0)])), [(0, Err(PreferredLeaderNotAvailable))]);
    cluster.unfence(1);
    assert_eq!(
        elect(&mut cluster, Preferred, None),
        [(0, Err(PreferredLeaderNotAvailable))],
        "alive, but not in sync"
    );
    assert_eq!(elect(&mut cluster, Unclean, Some(&[("t", 0)])), [(0, Err(NotNeeded))]);
    cluster.fence(3);
    assert_eq!(elect(&mut cluster, Unclean, Some(&[("s", 0)])), [(0, Err(EligibleLeadersNotAvailable))]);
    cluster.fence(2);
    assert_eq!(cluster.leader("t", 0).0, None);
    let unclean = elect(&mut cluster, Unclean, Some(&[("t", 0), ("t", 0)]));
    assert_eq!(unclean, [(0, Ok(())), (0, Err(NotNeeded))], "the second sees what the first did");
    assert_eq!(cluster.leader("t", 0).0, Some(1));

    // Back to the preferred one when it is in sync.
    let mut cluster = Cluster::of(2);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    let id = cluster.image.topic_by_name("t").unwrap().id;
    let moved = Record::PartitionChanged(PartitionChange {
        leader: Some(LeaderChange::To(BrokerId(2))),
        ..PartitionChange::of(id, 0)
    });
    let next = cluster.next();
    cluster.image.replay_entry([&moved], next);
    assert_eq!(elect(&mut cluster, Preferred, None), [(0, Ok(()))]);
    assert_eq!(cluster.leader("t", 0), (Some(1), 2));
}
