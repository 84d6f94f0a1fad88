//! Whatever is asked in whatever order.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Create { name: u8, partitions: i32, factor: i16 },
    Delete(u8),
    Grow { name: u8, count: i32 },
    Config { name: u8, key: u8, value: Option<u8> },
    Fence(i32),
    Restart(i32),
    Heartbeat(i32),
    Unregister(i32),
    ShutDown(i32),
    ProducerIds(i32),
    Elect { name: u8, unclean: bool },
    ElectAll(bool),
    AlterIsr { name: u8, members: u8 },
    Reassign { name: u8, replicas: Option<Vec<i32>> },
    Directory { id: i32, name: u8, choice: bool },
    FailDirectory { id: i32, choice: bool },
    Tier { name: u8, manifest: u64, end_offset: i64 },
    TierDeleted(i32),
    EligibleReplicas(bool),
    Upkeep(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..6u8;
    let broker = 1..5i32;
    let replicas = proptest::sample::subsequence(vec![1, 2, 3, 4], 1..=3).prop_shuffle();
    prop_oneof![
        3 => (name.clone(), 0..5i32, 0..4i16).prop_map(|(name, partitions, factor)| Step::Create { name, partitions, factor }),
        1 => name.clone().prop_map(Step::Delete),
        2 => (name.clone(), 0..9i32).prop_map(|(name, count)| Step::Grow { name, count }),
        2 => (name.clone(), 0..3u8, any::<Option<u8>>()).prop_map(|(name, key, value)| Step::Config { name, key, value }),
        2 => broker.clone().prop_map(Step::Fence),
        1 => broker.clone().prop_map(Step::Restart),
        4 => broker.clone().prop_map(Step::Heartbeat),
        1 => broker.clone().prop_map(Step::Unregister),
        1 => broker.clone().prop_map(Step::ShutDown),
        1 => broker.clone().prop_map(Step::ProducerIds),
        2 => (name.clone(), any::<bool>()).prop_map(|(name, unclean)| Step::Elect { name, unclean }),
        1 => any::<bool>().prop_map(Step::ElectAll),
        6 => (name.clone(), any::<u8>()).prop_map(|(name, members)| Step::AlterIsr { name, members }),
        2 => (name.clone(), proptest::option::of(replicas)).prop_map(|(name, replicas)| Step::Reassign { name, replicas }),
        2 => (broker.clone(), name.clone(), any::<bool>()).prop_map(|(id, name, choice)| Step::Directory { id, name, choice }),
        1 => (broker.clone(), any::<bool>()).prop_map(|(id, choice)| Step::FailDirectory { id, choice }),
        3 => (name.clone(), 1..5u64, 0..5i64).prop_map(|(name, manifest, end_offset)| Step::Tier { name, manifest, end_offset }),
        1 => broker.clone().prop_map(Step::TierDeleted),
        1 => any::<bool>().prop_map(Step::EligibleReplicas),
        1 => any::<bool>().prop_map(Step::Upkeep),
    ]
}

fn both_directories(id: i32) -> [Uuid; 2] {
    [directory(id), Uuid::from_u128(2000 + id as u128)]
}

fn topic_name(name: u8) -> String {
    ["a", "b", "c.d", "c_d", "e", "f"][usize::from(name)].into()
}

fn take(cluster: &mut Cluster, step: Step) {
    let epoch = |cluster: &Cluster, id| {
        cluster.image.broker(BrokerId(id)).map_or(BrokerEpoch(0), |broker| broker.epoch)
    };
    match step {
        Step::Create { name, partitions, factor } => {
            let _ = cluster.create(topic(&topic_name(name), partitions, factor));
        }
        Step::Delete(name) => {
            cluster.submit(DeleteTopics { topics: vec![TopicReference::Name(topic_name(name))] });
        }
        Step::Grow { name, count } => {
            let wanted = NewPartitions { name: topic_name(name), count, assignments: None };
            cluster.submit(CreatePartitions { topics: vec![wanted], validate_only: false });
        }
        Step::Config { name, key, value } => {
            let operation = value.map_or(ConfigOperation::Delete, |value| set(&value.to_string()));
            let key = ["unclean.leader.election.enable", "x", "y"][usize::from(key)];
            let operation = match (key, operation) {
                ("unclean.leader.election.enable", ConfigOperation::Set(_)) => set("true"),
                (_, other) => other,
            };
            let _ = alter(cluster, ConfigResource::topic(topic_name(name)), vec![(key, operation)]);
        }
        Step::Fence(id) => {
            let request = BrokerHeartbeat { want_fence: true, ..heartbeat(id, epoch(cluster, id)) };
            let _ = cluster.submit(request);
        }
        Step::Restart(id) => {
            let incarnation = u128::from(cluster.image.last_offset) + 1000;
            let rack = ["r1", "r2"][id as usize % 2];
            let log_dirs = both_directories(id).to_vec();
            let _ = cluster.submit(RegisterBroker { log_dirs, ..registration(id, incarnation, Some(rack)) });
        }
        Step::Heartbeat(id) => {
            let _ = cluster.submit(heartbeat(id, epoch(cluster, id)));
        }
        Step::Unregister(id) => {
            let _ = cluster.submit(UnregisterBroker { id: BrokerId(id) });
        }
        Step::ShutDown(id) => {
            let request = BrokerHeartbeat { want_shut_down: true, ..heartbeat(id, epoch(cluster, id)) };
            let _ = cluster.submit(request);
        }
        Step::ProducerIds(id) => {
            let _ = cluster.submit(AllocateProducerIds { broker: BrokerId(id), epoch: epoch(cluster, id) });
        }
        Step::Elect { name, unclean } => {
            let election = if unclean { ElectionType::Unclean } else { ElectionType::Preferred };
            let partitions = Some((0..3).map(|partition| (topic_name(name), partition)).collect());
            cluster.submit(ElectLeaders { election, partitions });
        }
        Step::ElectAll(unclean) => {
            let election = if unclean { ElectionType::Unclean } else { ElectionType::Preferred };
            cluster.submit(ElectLeaders { election, partitions: None });
        }
        Step::AlterIsr { name, members } => {
            let Some(topic) = cluster.image.topic_by_name(&topic_name(name)).cloned() else { return };
            for (partition, state) in (0..).zip(&topic.partitions) {
                let Some(broker) = state.leader else { continue };
                let isr = state.replicas.iter().filter(|id| **id == broker || members & (1 << id.0) != 0);
                let item = AlterPartitionItem {
                    topic: topic.id,
                    partition,
                    leader_epoch: state.leader_epoch,
                    partition_epoch: state.partition_epoch,
                    isr: isr.map(|id| (*id, epoch(cluster, id.0))).collect(),
                    recovered: true,
                };
                let broker_epoch = epoch(cluster, broker.0);
                cluster.submit(AlterPartition { broker, broker_epoch, partitions: vec![item] }).unwrap();
            }
        }
        Step::Reassign { name, replicas } => {
            let replicas = replicas.map(|replicas| brokers(&replicas));
            let item = ReassignmentItem { topic: topic_name(name), partition: 0, replicas };
            let items = vec![item];
            cluster.submit(AlterPartitionReassignments { items, allow_replication_factor_change: true });
        }
        Step::Directory { id, name, choice } => {
            let Some(topic) = cluster.image.topic_by_name(&topic_name(name)) else { return };
            let assignments = vec![(topic.id, 0, both_directories(id)[usize::from(choice)])];
            let broker_epoch = epoch(cluster, id);
            let request = AssignReplicasToDirs { broker: BrokerId(id), broker_epoch, assignments };
            let _ = cluster.submit(request);
        }
        Step::FailDirectory { id, choice } => {
            let offline_log_dirs = vec![both_directories(id)[usize::from(choice)]];
            let request = BrokerHeartbeat { offline_log_dirs, ..heartbeat(id, epoch(cluster, id)) };
            let _ = cluster.submit(request);
        }
        Step::Tier { name, manifest, end_offset } => {
            let Some(topic) = cluster.image.topic_by_name(&topic_name(name)) else { return };
            let Some(state) = topic.partition(0) else { return };
            let Some(broker) = state.leader else { return };
            let leader_epoch = state.leader_epoch;
            let item = ReportTierItem { topic: topic.id, partition: 0, leader_epoch, manifest, end_offset };
            let broker_epoch = epoch(cluster, broker.0);
            cluster.submit(ReportTier { broker, broker_epoch, items: vec![item] }).unwrap();
        }
        Step::TierDeleted(id) => {
            let topics = cluster.image.tiers_to_delete.keys().copied().collect();
            let broker_epoch = epoch(cluster, id);
            let _ = cluster.submit(ReportTierDeleted { broker: BrokerId(id), broker_epoch, topics });
        }
        Step::EligibleReplicas(on) => {
            let kind = if on { FeatureUpdateType::Upgrade } else { FeatureUpdateType::SafeDowngrade };
            let update = FeatureUpdate { name: features::ELR_VERSION.into(), level: i16::from(on), kind };
            let _ = cluster.submit(UpdateFeatures { updates: vec![update], validate_only: false });
        }
        Step::Upkeep(balance) => {
            if balance {
                cluster.submit(BalanceLeaders {});
            } else {
                cluster.submit(ElectUnclean {});
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is asked: every image on the way is sound (`check_image`), leader epochs never go back, and replaying the
    /// log, each entry through its stored form, gives the image that the controller had.
    #[test]
    fn replaying_the_log_gives_the_live_image(steps in proptest::collection::vec(step(), 1..60)) {
        let mut cluster = Cluster::of(3);
        for step in steps {
            let before = cluster.image.clone();
            take(&mut cluster, step);
            for topic in before.topics.values() {
                let Some(after) = cluster.image.topic_by_id(topic.id) else { continue };
                for (old, new) in topic.partitions.iter().zip(&after.partitions) {
                    prop_assert!(old.leader_epoch <= new.leader_epoch);
                    prop_assert!(old.partition_epoch <= new.partition_epoch);
                    prop_assert!(old.leader == new.leader || old.leader_epoch < new.leader_epoch);
                }
                for partition in 0..topic.partitions.len() as i32 {
                    let Some(old) = before.tier_position(topic.id, partition) else { continue };
                    let new = cluster.image.tier_position(topic.id, partition).unwrap();
                    let is_newer = old.leader_epoch < new.leader_epoch || old.is_doubtful;
                    prop_assert!(old.manifest <= new.manifest || is_newer, "{old:?} {new:?}");
                }
            }
        }
        cluster.settle();
        let mut again = Image::empty(cluster.image.cluster_id.clone());
        for (at, records) in &cluster.log {
            let stored = encode(records).unwrap();
            let records: Vec<Record> = decode_stored(&stored).unwrap();
            again.replay_entry(&records, *at);
        }
        prop_assert_eq!(&again, &cluster.image);
    }
}
