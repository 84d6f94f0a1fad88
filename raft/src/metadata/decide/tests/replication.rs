//! In-sync sets, eligible leader replicas, reassignments and log directories: one test for each of Kafka's rules.

use super::*;

fn isr(state: &Partition) -> Vec<i32> {
    state.isr.iter().map(|id| id.0).collect()
}

fn elr(state: &Partition) -> Vec<i32> {
    state.elr.iter().map(|id| id.0).collect()
}

fn min_isr(cluster: &mut Cluster, topic: &str, value: &str) {
    alter(cluster, ConfigResource::topic(topic), vec![("min.insync.replicas", set(value))]).unwrap();
}

/// The process is gone without a word, and another one is there.
fn restart(cluster: &mut Cluster, id: i32, previous_epoch: Option<BrokerEpoch>) {
    let incarnation = u128::from(cluster.image.last_offset) + 100;
    let epoch =
        cluster.submit(RegisterBroker { previous_epoch, ..registration(id, incarnation, None) }).unwrap();
    assert!(!cluster.submit(heartbeat(id, epoch)).unwrap().is_fenced);
}

// ---- AlterPartition

#[test]
fn kip_497_the_controller_checks_what_a_leader_proposes() {
    use AlterPartitionError::*;
    let mut cluster = Cluster::of(4);
    cluster.create(assigned("t", &[(0, &[1, 2, 3])])).unwrap();
    let good = cluster.proposal("t", &[1, 2]);
    let mut refused = |change: &dyn Fn(&mut AlterPartitionItem)| {
        let mut request = good.clone();
        change(&mut request.partitions[0]);
        let entries = cluster.log.len();
        let result = cluster.submit(request).unwrap().remove(0).result.unwrap_err();
        assert_eq!(cluster.log.len(), entries, "a refusal changes nothing");
        result
    };
    assert_eq!(refused(&|item| item.topic = TopicId::ZERO), UnknownTopicId);
    assert_eq!(refused(&|item| item.partition = 1), UnknownPartition);
    assert_eq!(refused(&|item| item.leader_epoch = LeaderEpoch(1)), NotController);
    assert_eq!(refused(&|item| item.partition_epoch = PartitionEpoch(1)), NotController);
    let fenced = refused(&|item| item.leader_epoch = LeaderEpoch(-1));
    assert!(matches!(fenced, FencedLeaderEpoch { .. }), "{fenced:?}");
    let outdated = refused(&|item| item.partition_epoch = PartitionEpoch(-1));
    assert!(matches!(outdated, InvalidUpdateVersion { .. }), "{outdated:?}");
    let mut invalid = |text: &str, change: &dyn Fn(&mut AlterPartitionItem)| {
        let error = refused(change);
        assert!(matches!(&error, InvalidRequest(reason) if reason.contains(text)), "{error:?}");
    };
    let epoch = BrokerEpoch(-1);
    invalid("empty", &|item| item.isr.clear());
    invalid("twice", &|item| item.isr.push((BrokerId(1), epoch)));
    invalid("no replica", &|item| item.isr.push((BrokerId(4), epoch)));
    invalid("leader is not", &|item| item.isr = vec![(BrokerId(2), epoch)]);
    invalid("alone", &|item| item.recovered = false);
    invalid("does not recover again", &|item| {
        item.recovered = false;
        item.isr.truncate(1);
    });
    // The order: a newer epoch is found before an older one, and both before who asks.
    let both = refused(&|item| {
        item.leader_epoch = LeaderEpoch(-1);
        item.partition_epoch = PartitionEpoch(1);
    });
    assert_eq!(both, NotController);

    let stranger = AlterPartition { broker: BrokerId(2), broker_epoch: cluster.epoch(2), ..good.clone() };
    let error = cluster.submit(stranger).unwrap().remove(0).result.unwrap_err();
    assert!(matches!(error, InvalidRequest(_)), "{error:?}");
    let given = BrokerEpoch(cluster.epoch(1).0 - 1);
    assert_eq!(
        cluster.submit(AlterPartition { broker_epoch: given, ..good.clone() }),
        Err(BrokerEpochError::Stale { id: BrokerId(1), current: cluster.epoch(1), given })
    );

    let state = cluster.submit(good.clone()).unwrap().remove(0).result.unwrap();
    assert_eq!(state, cluster.partition("t"));
    assert_eq!(
        (isr(&state), state.leader_epoch, state.partition_epoch),
        (vec![1, 2], LeaderEpoch(0), PartitionEpoch(1))
    );
    let again = cluster.submit(good).unwrap().remove(0).result.unwrap_err();
    assert!(matches!(again, InvalidUpdateVersion { .. }), "what was done is not done twice: {again:?}");
}

#[test]
fn kip_841_a_fenced_or_leaving_broker_does_not_come_in_sync() {
    let mut cluster = Cluster::of(3);
    cluster.create(assigned("t", &[(0, &[1, 2, 3])])).unwrap();
    cluster.fence(3);
    assert_refused!(cluster.alter_isr("t", &[1, 2, 3]), AlterPartitionError::IneligibleReplica(_), "fenced");
    cluster.unfence(3);
    cluster.alter_isr("t", &[1, 2, 3]).unwrap();
    let leaving = BrokerHeartbeat { want_shut_down: true, ..heartbeat(3, cluster.epoch(3)) };
    cluster.submit(leaving).unwrap();
    assert_refused!(
        cluster.alter_isr("t", &[1, 2, 3]),
        AlterPartitionError::IneligibleReplica(_),
        "shutting"
    );
    cluster.submit(UnregisterBroker { id: BrokerId(3) }).unwrap();
    assert_refused!(cluster.alter_isr("t", &[1, 2, 3]), AlterPartitionError::IneligibleReplica(_), "not reg");
}

#[test]
fn kip_903_a_restarted_broker_does_not_come_in_sync_by_what_it_fetched_before() {
    let mut cluster = Cluster::of(2);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    let before = cluster.epoch(2);
    restart(&mut cluster, 2, None);
    let mut request = cluster.proposal("t", &[1, 2]);
    request.partitions[0].isr[1].1 = before;
    let result = cluster.submit(request.clone()).unwrap().remove(0).result;
    assert_refused!(result, AlterPartitionError::IneligibleReplica(_), "epoch");
    request.partitions[0].isr[1].1 = BrokerEpoch(-1);
    assert!(cluster.submit(request).unwrap().remove(0).result.is_ok(), "-1 is not compared");
}

#[test]
fn kip_704_a_recovering_leader_says_when_it_has_recovered() {
    let mut cluster = Cluster::of(2);
    cluster.settings.unclean_leader_election = true;
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    cluster.alter_isr("t", &[1]).unwrap();
    cluster.fence(1);
    let state = cluster.partition("t");
    assert!(state.leader == Some(BrokerId(2)) && state.leader_recovering);
    assert!(!cluster.alter_isr("t", &[2]).unwrap().leader_recovering);
}

// ---- eligible leader replicas

#[test]
fn kip_966_members_that_leave_below_the_minimum_stay_eligible() {
    let mut cluster = Cluster::with_elr(4);
    cluster.create(assigned("t", &[(0, &[1, 2, 3])])).unwrap();
    min_isr(&mut cluster, "t", "2");
    cluster.fence(3);
    assert_eq!((isr(&cluster.partition("t")), elr(&cluster.partition("t"))), (vec![1, 2], vec![]));
    cluster.fence(2);
    assert_eq!((isr(&cluster.partition("t")), elr(&cluster.partition("t"))), (vec![1], vec![2]));
    cluster.fence(1);
    let state = cluster.partition("t");
    assert_eq!((isr(&state), elr(&state), state.leader), (vec![], vec![2, 1], None));
    assert_eq!(state.last_known_elr, brokers(&[1]), "the last leader");
    cluster.unfence(3);
    assert_eq!(cluster.partition("t").leader, None, "3 may not have what was committed after it left");
    cluster.unfence(2);
    let state = cluster.partition("t");
    assert_eq!((isr(&state), elr(&state), state.leader), (vec![2], vec![1], Some(BrokerId(2))));
    assert!(!state.leader_recovering && state.last_known_elr.is_empty());
    cluster.unfence(1);
    cluster.alter_isr("t", &[2, 1]).unwrap();
    assert_eq!(elr(&cluster.partition("t")), [] as [i32; 0], "enough are in sync again");
}

#[test]
fn kip_966_an_unclean_shutdown_ends_eligibility_where_acknowledged_data_may_be_lost() {
    let scenario = |durability: &str, is_clean: bool| {
        let mut cluster = Cluster::with_elr(2);
        cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
        min_isr(&mut cluster, "t", "2");
        alter(&mut cluster, ConfigResource::topic("t"), vec![("ottla.durability", set(durability))]).unwrap();
        cluster.fence(2);
        cluster.fence(1);
        let previous = cluster.epoch(2);
        restart(&mut cluster, 2, is_clean.then_some(previous));
        let state = cluster.partition("t");
        (state.leader.map(|id| id.0), elr(&state))
    };
    assert_eq!(scenario("memory", true), (Some(2), vec![1]));
    assert_eq!(scenario("memory", false), (None, vec![1]), "waits for 1");
    assert_eq!(scenario("fsync", false), (Some(2), vec![1]), "what it acknowledged it has synced");
    // Another epoch than that of the registration: something ran in between.
    let mut cluster = Cluster::with_elr(2);
    cluster.settings.acknowledges_unsynced = true;
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    cluster.fence(2);
    cluster.fence(1);
    let other = cluster.epoch(1);
    restart(&mut cluster, 2, Some(other));
    assert_eq!(cluster.partition("t").leader, None);
}

#[test]
fn kip_966_the_last_leader_takes_over_when_nobody_is_known_to_be_complete() {
    let mut cluster = Cluster::with_elr(2);
    cluster.settings.acknowledges_unsynced = true;
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    cluster.fence(2);
    cluster.fence(1);
    cluster.unfence(2);
    assert_eq!(cluster.partition("t").leader, None);
    restart(&mut cluster, 1, None);
    let state = cluster.partition("t");
    assert_eq!((isr(&state), state.leader), (vec![1], Some(BrokerId(1))));
    assert!(state.leader_recovering, "what it had acknowledged may be gone");
}

#[test]
fn kip_966_the_minimum_is_one_that_the_controller_knows() {
    let mut cluster = Cluster::with_elr(2);
    let of_all = ConfigResource::all_brokers();
    assert_eq!(cluster.image.config(&of_all, "min.insync.replicas").unwrap().as_ref(), "1");
    let delete = ConfigOperation::Delete;
    let removed = alter(&mut cluster, of_all.clone(), vec![("min.insync.replicas", delete)]);
    assert_refused!(removed, AlterConfigsError::InvalidConfig(_), "cannot be removed");
    let of_one = ConfigResource::broker(BrokerId(1));
    let single = alter(&mut cluster, of_one.clone(), vec![("min.insync.replicas", set("2"))]);
    assert_refused!(single, AlterConfigsError::InvalidConfig(_), "single broker");
    alter(&mut cluster, of_all, vec![("min.insync.replicas", set("2"))]).unwrap();
    // Switched on later: one value for all, what was set for all stays.
    let mut cluster = Cluster::of(2);
    alter(&mut cluster, of_one.clone(), vec![("min.insync.replicas", set("2"))]).unwrap();
    cluster.settings.min_insync_replicas = 2;
    let elr = |level, kind| UpdateFeatures {
        updates: vec![FeatureUpdate { name: features::ELR_VERSION.into(), level, kind }],
        validate_only: false,
    };
    cluster.submit(elr(1, FeatureUpdateType::Upgrade)).unwrap();
    assert_eq!(cluster.image.configs_of(&of_one), None);
    assert_eq!(
        cluster.image.config(&ConfigResource::all_brokers(), "min.insync.replicas").unwrap().as_ref(),
        "2"
    );
    // Switched off: nobody stays eligible, and somebody is in sync.
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    cluster.fence(1);
    cluster.fence(2);
    assert_eq!(isr(&cluster.partition("t")), [] as [i32; 0]);
    cluster.submit(elr(0, FeatureUpdateType::SafeDowngrade)).unwrap();
    let state = cluster.partition("t");
    assert_eq!((isr(&state), state.elr.len(), state.leader), (vec![1, 2], 0, None));
    cluster.unfence(1);
    assert_eq!(cluster.partition("t").leader, Some(BrokerId(1)));
}

#[test]
fn kip_966_a_lower_minimum_ends_eligibility_before_it_is_in_force() {
    for resource in [ConfigResource::topic("t"), ConfigResource::all_brokers()] {
        let mut cluster = Cluster::with_elr(2);
        cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
        alter(&mut cluster, resource.clone(), vec![("min.insync.replicas", set("2"))]).unwrap();
        cluster.fence(2);
        assert_eq!(elr(&cluster.partition("t")), [2]);
        // From here on the leader commits alone.
        alter(&mut cluster, resource, vec![("min.insync.replicas", set("1"))]).unwrap();
        assert_eq!(elr(&cluster.partition("t")), [] as [i32; 0]);
        let (_, records) = cluster.log.last().unwrap();
        assert!(
            matches!(&records[..], [Record::PartitionChanged(_), Record::ConfigSet { .. }]),
            "{records:?}"
        );
    }
}

#[test]
fn kip_966_a_leader_that_is_enough_alone_ends_eligibility() {
    let mut cluster = Cluster::with_elr(2);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    min_isr(&mut cluster, "t", "2");
    cluster.fence(2);
    cluster.fence(1);
    assert_eq!(elr(&cluster.partition("t")), [2, 1]);
    min_isr(&mut cluster, "t", "1");
    assert_eq!(elr(&cluster.partition("t")), [2, 1], "nobody commits while nobody is in sync");
    cluster.unfence(1);
    let state = cluster.partition("t");
    assert_eq!((isr(&state), elr(&state)), (vec![1], vec![]), "from here on 1 commits alone");
}

// ---- reassignments

fn reassign(
    cluster: &mut Cluster,
    topic: &str,
    replicas: Option<&[i32]>,
    allow_replication_factor_change: bool,
) -> Result<(), ReassignmentError> {
    let item = ReassignmentItem { topic: topic.into(), partition: 0, replicas: replicas.map(brokers) };
    let request = AlterPartitionReassignments { items: vec![item], allow_replication_factor_change };
    cluster.submit(request).remove(0).result
}

#[test]
fn kip_455_a_reassignment_ends_when_the_new_replicas_are_in_sync() {
    let mut cluster = Cluster::of(4);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    reassign(&mut cluster, "t", Some(&[3, 4]), false).unwrap();
    let state = cluster.partition("t");
    assert_eq!(*state.replicas, *brokers(&[3, 4, 1, 2]));
    assert_eq!((&state.adding_replicas, &state.removing_replicas), (&brokers(&[3, 4]), &brokers(&[1, 2])));
    assert_eq!((isr(&state), state.leader), (vec![1, 2], Some(BrokerId(1))));
    assert_eq!(state.directories, [directory(3), directory(4), directory(1), directory(2)]);
    let moving: Vec<_> = cluster.image.reassignments(Some("t")).collect();
    assert_eq!((moving.len(), moving[0].partition), (1, 0));
    assert_eq!(cluster.image.reassignments(Some("other")).count(), 0);

    cluster.alter_isr("t", &[1, 2, 3]).unwrap();
    assert!(cluster.partition("t").is_reassigning(), "4 is not in sync");
    let error = cluster.alter_isr("t", &[1, 2, 3, 4]).unwrap_err();
    assert_eq!(error, AlterPartitionError::NewLeaderElected(Some(BrokerId(3))));
    let state = cluster.partition("t");
    assert_eq!((&*state.replicas, isr(&state)), (&*brokers(&[3, 4]), vec![3, 4]));
    assert_eq!((state.leader, state.leader_epoch), (Some(BrokerId(3)), LeaderEpoch(1)));
    assert!(!state.is_reassigning());
    assert_eq!(state.directories, [directory(3), directory(4)]);
}

#[test]
fn kip_455_a_leader_that_stays_gets_a_new_epoch_when_others_go() {
    let mut cluster = Cluster::of(3);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    reassign(&mut cluster, "t", Some(&[1, 3]), false).unwrap();
    let state = cluster.alter_isr("t", &[1, 2, 3]).unwrap();
    assert_eq!(
        (isr(&state), state.leader, state.leader_epoch),
        (vec![1, 3], Some(BrokerId(1)), LeaderEpoch(1))
    );
    // Another order only: done at once, and the leader stays.
    reassign(&mut cluster, "t", Some(&[3, 1]), false).unwrap();
    let state = cluster.partition("t");
    assert_eq!((&*state.replicas, state.leader), (&*brokers(&[3, 1]), Some(BrokerId(1))));
    assert_eq!(state.leader_epoch, LeaderEpoch(1));
}

#[test]
fn kip_455_refusals() {
    use ReassignmentError::*;
    let mut cluster = Cluster::of(3);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    assert_eq!(reassign(&mut cluster, "none", Some(&[1, 3]), false), Err(UnknownTopicOrPartition));
    assert_eq!(reassign(&mut cluster, "t", None, false), Err(NoReassignmentInProgress));
    for (replicas, text) in [
        (&[][..], "no replica"),
        (&[1, 1], "more than once"),
        (&[1, 9], "not registered"),
        (&[-1, 1], "invalid"),
    ] {
        assert_refused!(reassign(&mut cluster, "t", Some(replicas), true), InvalidReplicaAssignment(_), text);
    }
    let before = cluster.image.clone();
    reassign(&mut cluster, "t", Some(&[1, 2]), false).unwrap();
    assert_eq!(before, cluster.image, "as it is already");
}

#[test]
fn kip_860_the_replication_factor_changes_only_where_allowed() {
    use ReassignmentError::*;
    let mut cluster = Cluster::of(4);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    assert_refused!(
        reassign(&mut cluster, "t", Some(&[1]), false),
        InvalidReplicationFactor(_),
        "from 2 to 1"
    );
    reassign(&mut cluster, "t", Some(&[1, 2, 3]), true).unwrap();
    // While it moves, the factor is that of what it moves to.
    assert_refused!(
        reassign(&mut cluster, "t", Some(&[1, 4]), false),
        InvalidReplicationFactor(_),
        "from 3 to 2"
    );
    reassign(&mut cluster, "t", Some(&[1, 2, 4]), false).unwrap();
    let state = cluster.partition("t");
    assert_eq!(*state.replicas, *brokers(&[1, 2, 4, 3]));
    reassign(&mut cluster, "t", None, false).unwrap();
    assert_eq!(*cluster.partition("t").replicas, *brokers(&[1, 2]), "back to where it all began");
}

#[test]
fn kip_455_a_cancellation_goes_back_if_that_loses_nothing() {
    let mut cluster = Cluster::of(4);
    cluster.create(assigned("t", &[(0, &[1])])).unwrap();
    reassign(&mut cluster, "t", Some(&[2, 3]), true).unwrap();
    cluster.alter_isr("t", &[1, 2]).unwrap();
    reassign(&mut cluster, "t", None, false).unwrap();
    let state = cluster.partition("t");
    assert_eq!((&*state.replicas, isr(&state), state.leader), (&*brokers(&[1]), vec![1], Some(BrokerId(1))));
    // The new replica is the only one in sync: it would be an unclean election.
    reassign(&mut cluster, "t", Some(&[2, 3]), true).unwrap();
    cluster.alter_isr("t", &[1, 2]).unwrap();
    cluster.fence(1);
    assert_eq!(cluster.partition("t").leader, Some(BrokerId(2)));
    assert_refused!(
        reassign(&mut cluster, "t", None, false),
        ReassignmentError::InvalidReplicaAssignment(_),
        "lose data"
    );
    cluster.unfence(1);
    alter(&mut cluster, ConfigResource::topic("t"), vec![("unclean.leader.election.enable", set("true"))])
        .unwrap();
    reassign(&mut cluster, "t", None, false).unwrap();
    let state = cluster.partition("t");
    assert_eq!((&*state.replicas, state.leader), (&*brokers(&[1]), Some(BrokerId(1))));
    assert!(state.leader_recovering);
}

// ---- log directories

fn with_two_directories(cluster: &mut Cluster, id: i32) -> [Uuid; 2] {
    let dirs = [Uuid::from_u128(501), Uuid::from_u128(502)];
    let epoch =
        cluster.submit(RegisterBroker { log_dirs: dirs.to_vec(), ..registration(id, 77, None) }).unwrap();
    cluster.submit(heartbeat(id, epoch)).unwrap();
    dirs
}

#[test]
fn kip_858_a_failed_directory_takes_its_replicas_only() {
    let mut cluster = Cluster::of(2);
    let dirs = with_two_directories(&mut cluster, 1);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    cluster.create(assigned("u", &[(0, &[1, 2])])).unwrap();
    assert!(cluster.partition("t").directory(BrokerId(1)).is_nil(), "the broker chooses among two");
    let id = |cluster: &Cluster, name| cluster.image.topic_by_name(name).unwrap().id;
    let assignments = vec![
        (id(&cluster, "t"), 0, dirs[0]),
        (id(&cluster, "u"), 0, dirs[1]),
        (id(&cluster, "t"), 5, dirs[0]),
        (TopicId::ZERO, 0, dirs[0]),
    ];
    let request = AssignReplicasToDirs { broker: BrokerId(1), broker_epoch: cluster.epoch(1), assignments };
    let results: Vec<_> =
        cluster.submit(request.clone()).unwrap().into_iter().map(|result| result.result).collect();
    use AssignReplicaError::*;
    assert_eq!(results, [Ok(()), Ok(()), Err(UnknownPartition), Err(UnknownTopicId)]);
    assert_eq!(cluster.partition("t").directories, [dirs[0], directory(2)]);
    let stale = AssignReplicasToDirs { broker_epoch: BrokerEpoch(0), ..request };
    assert!(cluster.submit(stale).is_err());
    cluster.create(assigned("v", &[(0, &[2])])).unwrap();
    let request = AssignReplicasToDirs {
        broker: BrokerId(1),
        broker_epoch: cluster.epoch(1),
        assignments: vec![(id(&cluster, "v"), 0, dirs[0])],
    };
    assert_eq!(cluster.submit(request).unwrap()[0].result, Err(NotAReplica(BrokerId(1))));

    let failed = BrokerHeartbeat { offline_log_dirs: vec![dirs[0]], ..heartbeat(1, cluster.epoch(1)) };
    assert!(!cluster.submit(failed.clone()).unwrap().is_fenced);
    assert_eq!(cluster.partition("t").leader, Some(BrokerId(2)));
    assert_eq!(isr(&cluster.partition("t")), [2]);
    assert_eq!(cluster.partition("u").leader, Some(BrokerId(1)), "on the other directory");
    assert_eq!(cluster.image.broker(BrokerId(1)).unwrap().log_dirs, [dirs[1]]);
    let before = cluster.image.clone();
    cluster.submit(failed).unwrap();
    assert_eq!(before, cluster.image, "known already");
    // A replica that turns out to lie there goes too.
    let late = AssignReplicasToDirs {
        broker: BrokerId(1),
        broker_epoch: cluster.epoch(1),
        assignments: vec![(id(&cluster, "u"), 0, dirs[0])],
    };
    cluster.submit(late).unwrap();
    assert_eq!(cluster.partition("u").leader, Some(BrokerId(2)));
    // The last one: nothing is left to serve from.
    let failed = BrokerHeartbeat { offline_log_dirs: dirs.to_vec(), ..heartbeat(1, cluster.epoch(1)) };
    assert!(cluster.submit(failed.clone()).unwrap().is_fenced);
    assert!(cluster.submit(failed).unwrap().is_fenced, "and stays so");
}

#[test]
fn a_replica_on_a_directory_that_is_not_there_any_more_does_not_lead() {
    let mut cluster = Cluster::with_elr(2);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    min_isr(&mut cluster, "t", "2");
    cluster.fence(1);
    cluster.fence(2);
    // The disk of 1 was replaced. Under fsync a crash alone would not matter.
    let replaced = Uuid::from_u128(999);
    let request = RegisterBroker { log_dirs: vec![replaced], ..registration(1, 50, None) };
    let epoch = cluster.submit(request).unwrap();
    cluster.submit(heartbeat(1, epoch)).unwrap();
    let state = cluster.partition("t");
    assert_eq!((state.leader, elr(&state)), (None, vec![2]));
    let topic = cluster.image.topic_by_name("t").unwrap().id;
    let moved = AssignReplicasToDirs {
        broker: BrokerId(1),
        broker_epoch: epoch,
        assignments: vec![(topic, 0, replaced)],
    };
    cluster.submit(moved).unwrap();
    assert_eq!(cluster.partition("t").leader, None, "an empty replica is not eligible");
    cluster.unfence(2);
    assert_eq!(cluster.partition("t").leader, Some(BrokerId(2)));
    // A copy of a disk is not a second broker's.
    let copy = RegisterBroker { log_dirs: vec![replaced], ..registration(2, 51, None) };
    assert_refused!(cluster.submit(copy), RegisterBrokerError::Invalid(_), "copy");
    let twice = RegisterBroker { log_dirs: vec![replaced; 2], ..registration(1, 51, None) };
    assert_refused!(cluster.submit(twice), RegisterBrokerError::Invalid(_), "twice");
}

// ---- what the controller asks itself

#[test]
fn leaders_go_back_to_where_they_are_preferred() {
    let mut cluster = Cluster::of(2);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    cluster.create(assigned("u", &[(0, &[1, 2])])).unwrap();
    cluster.fence(1);
    cluster.unfence(1);
    cluster.submit(BalanceLeaders {});
    assert_eq!(cluster.leader("t", 0), (Some(2), 1), "1 is not in sync");
    cluster.alter_isr("t", &[1, 2]).unwrap();
    cluster.submit(BalanceLeaders {});
    assert_eq!((cluster.leader("t", 0), cluster.leader("u", 0)), ((Some(1), 2), (Some(2), 1)));
    let entries = cluster.log.len();
    cluster.submit(BalanceLeaders {});
    assert_eq!(cluster.log.len(), entries);
}

#[test]
fn unclean_elections_come_with_the_config_that_allows_them() {
    let mut cluster = Cluster::of(2);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    cluster.alter_isr("t", &[1]).unwrap();
    cluster.fence(1);
    cluster.submit(ElectUnclean {});
    assert_eq!(cluster.leader("t", 0).0, None);
    alter(&mut cluster, ConfigResource::topic("t"), vec![("unclean.leader.election.enable", set("true"))])
        .unwrap();
    cluster.submit(ElectUnclean {});
    assert_eq!(cluster.leader("t", 0).0, Some(2));
}

// ---- many partitions

/// A broker of many partitions goes in steps, each a sound image (`submit` looks), the broker's own record in the last.
#[test]
fn a_broker_of_many_partitions_goes_in_steps() {
    let mut cluster = Cluster::with_elr(3);
    let count = 2 * CHANGES_PER_STEP_MAX as i32 + 500;
    let assignments: Vec<_> = (0..count).map(|partition| (partition, &[1, 2, 3][..])).collect();
    cluster.create(assigned("t", &assignments)).unwrap();
    let sizes = |cluster: &Cluster, from: usize| -> Vec<usize> {
        cluster.log[from..].iter().map(|(_, records)| records.len()).collect()
    };
    let from = cluster.log.len();
    cluster.fence(1);
    let step = CHANGES_PER_STEP_MAX;
    assert_eq!(sizes(&cluster, from), [step, step, 501]);
    let is_fence = |record: &Record| matches!(record, Record::BrokerChanged { fenced: Some(true), .. });
    let fences: Vec<bool> =
        cluster.log[from..].iter().map(|(_, records)| records.iter().any(is_fence)).collect();
    assert_eq!(fences, [false, false, true], "no leader is fenced on the way");
    cluster.fence(2);
    cluster.fence(3);
    assert_eq!(cluster.image.leaderless_count(), count as usize);
    let from = cluster.log.len();
    cluster.unfence(3);
    assert_eq!(sizes(&cluster, from), [step + 1, step, 500]);
    assert_eq!(cluster.image.leaderless_count(), 0);
    // Cut short: the next heartbeat goes on.
    cluster.fence(3);
    let request = heartbeat(3, cluster.epoch(3));
    let first = cluster.decide(request);
    assert!(first.response.is_none());
    let next = cluster.next();
    cluster.image.replay_entry(&first.records, next);
    cluster.submit(heartbeat(3, cluster.epoch(3))).unwrap();
    assert_eq!(cluster.image.leaderless_count(), 0);
    for request in
        [Request::from(UnregisterBroker { id: BrokerId(3) }), Request::from(registration(3, 99, None))]
    {
        let decision = cluster.decide(request);
        assert!(decision.response.is_none() && decision.records.len() == step, "{}", decision.records.len());
    }
}
