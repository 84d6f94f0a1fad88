//! What leaders say of the tier, and what is left of it when a topic goes.

use super::*;

fn report(cluster: &Cluster, manifest: u64, end_offset: i64) -> ReportTier {
    let topic = cluster.image.topic_by_name("t").unwrap();
    let state = topic.partition(0).unwrap();
    let broker = state.leader.unwrap();
    let (topic, leader_epoch) = (topic.id, state.leader_epoch);
    let item = ReportTierItem { topic, partition: 0, leader_epoch, manifest, end_offset };
    ReportTier { broker, broker_epoch: cluster.epoch(broker.0), items: vec![item] }
}

fn position(cluster: &Cluster) -> Option<(u64, i64, i32, bool)> {
    let topic = cluster.image.topic_by_name("t").unwrap().id;
    let position = cluster.image.tier_position(topic, 0)?;
    Some((position.manifest, position.end_offset, position.leader_epoch.0, position.is_doubtful))
}

fn submit(cluster: &mut Cluster, request: ReportTier) -> Result<(), ReportTierError> {
    cluster.submit(request).unwrap().remove(0).result
}

#[test]
fn only_the_leader_of_the_present_epoch_says_how_far_the_tier_reaches() {
    let mut cluster = Cluster::of(2);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    assert_eq!(position(&cluster), None);
    let good = report(&cluster, 1, 100);
    let refused = |change: &dyn Fn(&mut ReportTierItem)| {
        let mut request = good.clone();
        change(&mut request.items[0]);
        let decision = cluster.decide(request);
        assert!(decision.records.is_empty());
        let Some(Response::ReportTier(Ok(results))) = decision.response else { panic!("no answer") };
        results[0].result.clone().unwrap_err()
    };
    assert_eq!(refused(&|item| item.topic = TopicId(Uuid::from_u128(99))), ReportTierError::UnknownTopicId);
    assert_eq!(refused(&|item| item.partition = 1), ReportTierError::UnknownPartition);
    assert_eq!(refused(&|item| item.leader_epoch = LeaderEpoch(1)), ReportTierError::NotController);
    let (current, given) = (LeaderEpoch(0), LeaderEpoch(-1));
    assert_eq!(
        refused(&|item| item.leader_epoch = given),
        ReportTierError::FencedLeaderEpoch { current, given }
    );
    assert!(matches!(refused(&|item| item.manifest = 0), ReportTierError::InvalidRequest(_)));
    assert!(matches!(refused(&|item| item.end_offset = -1), ReportTierError::InvalidRequest(_)));
    let other = ReportTier { broker: BrokerId(2), broker_epoch: cluster.epoch(2), ..good.clone() };
    assert!(matches!(submit(&mut cluster, other), Err(ReportTierError::InvalidRequest(_))));
    let stale = ReportTier { broker_epoch: BrokerEpoch(0), ..good.clone() };
    assert!(matches!(cluster.submit(stale), Err(BrokerEpochError::Stale { .. })));
    assert_eq!(position(&cluster), None);

    submit(&mut cluster, good.clone()).unwrap();
    assert_eq!(position(&cluster), Some((1, 100, 0, false)));
    let written = cluster.log.len();
    submit(&mut cluster, good).unwrap();
    assert_eq!(cluster.log.len(), written, "what was said is not said again");
}

#[test]
fn of_one_leader_the_newest_manifest_counts() {
    let mut cluster = Cluster::of(2);
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    for (manifest, end, expected) in
        [(3, 300, (3, 300)), (2, 400, (3, 300)), (3, 400, (3, 300)), (4, 300, (4, 300))]
    {
        let request = report(&cluster, manifest, end);
        submit(&mut cluster, request).unwrap();
        assert_eq!(position(&cluster), Some((expected.0, expected.1, 0, false)));
    }
    // The topic left the tier.
    let request = report(&cluster, 5, 0);
    submit(&mut cluster, request).unwrap();
    assert_eq!(position(&cluster), Some((5, 0, 0, false)));
    // A clean election changes nothing; what the next leader says counts, whatever it is.
    cluster.fence(1);
    assert_eq!(position(&cluster), Some((5, 0, 0, false)));
    let request = report(&cluster, 5, 250);
    submit(&mut cluster, request).unwrap();
    assert_eq!(position(&cluster), Some((5, 250, 1, false)));
}

#[test]
fn an_unclean_election_puts_the_tier_in_doubt_until_the_leader_has_looked() {
    let mut cluster = Cluster::of(2);
    cluster.settings.unclean_leader_election = true;
    cluster.create(assigned("t", &[(0, &[1, 2])])).unwrap();
    let request = report(&cluster, 4, 300);
    submit(&mut cluster, request).unwrap();
    cluster.alter_isr("t", &[1]).unwrap();
    cluster.fence(1);
    assert_eq!(cluster.partition("t").leader, Some(BrokerId(2)));
    assert_eq!(position(&cluster), Some((4, 300, 0, true)));
    cluster.alter_isr("t", &[2]).unwrap();
    assert_eq!(position(&cluster), Some((4, 300, 0, true)), "it has recovered, and not looked");
    let request = report(&cluster, 5, 120);
    submit(&mut cluster, request).unwrap();
    assert_eq!(position(&cluster).map(|position| (position.1, position.3)), Some((120, false)));
}

#[test]
fn a_deleted_topic_leaves_a_note_of_its_objects() {
    let mut cluster = Cluster::of(1);
    for name in ["t", "plain", "never-reported"] {
        cluster.create(topic(name, 2, 1)).unwrap();
    }
    alter(
        &mut cluster,
        ConfigResource::topic("never-reported"),
        vec![("remote.storage.enable", set("true"))],
    )
    .unwrap();
    let request = report(&cluster, 1, 10);
    submit(&mut cluster, request).unwrap();
    let id = |cluster: &Cluster, name: &str| cluster.image.topic_by_name(name).unwrap().id;
    let (tiered, switched_on) = (id(&cluster, "t"), id(&cluster, "never-reported"));
    let topics = ["t", "plain", "never-reported"].map(|name| TopicReference::Name(name.into()));
    cluster.submit(DeleteTopics { topics: topics.to_vec() });
    let left: BTreeSet<TopicId> = cluster.image.tiers_to_delete.keys().copied().collect();
    assert_eq!(left, BTreeSet::from([tiered, switched_on]));
    assert_eq!(cluster.image.tiers_to_delete[&tiered].partitions, 2);
    assert_eq!(cluster.image.tier_position(tiered, 0), None);

    let deleted = |cluster: &Cluster, topics| ReportTierDeleted {
        broker: BrokerId(1),
        broker_epoch: cluster.epoch(1),
        topics,
    };
    let stale = ReportTierDeleted { broker_epoch: BrokerEpoch(0), ..deleted(&cluster, vec![tiered]) };
    assert!(cluster.submit(stale).is_err());
    cluster.submit(deleted(&cluster, vec![tiered, TopicId(Uuid::from_u128(99))])).unwrap();
    assert!(cluster.image.tiers_to_delete.keys().eq([&switched_on]));
    cluster.submit(deleted(&cluster, vec![tiered])).unwrap();
}

#[test]
fn topics_of_a_lost_cluster_come_back_with_their_ids_and_are_led_by_who_has_made_their_logs() {
    let mut cluster = Cluster::empty();
    let epoch = cluster.submit(registration(1, 1, None)).unwrap();
    assert!(!cluster.image.is_active(BrokerId(1)), "it has not opened its logs yet");
    let partition = |leader_epoch: i32, tier| RestoredPartition {
        leader_epoch: LeaderEpoch(leader_epoch),
        directory: Uuid::nil(),
        tier,
    };
    let topic = RestoredTopic {
        name: "t".into(),
        id: TopicId(Uuid::from_u128(77)),
        configs: vec![("retention.ms".into(), "5".into())],
        partitions: vec![partition(6, Some((9, 1000))), partition(0, None)],
    };
    let request = |topics: &[RestoredTopic]| RestoreTopics {
        broker: BrokerId(1),
        broker_epoch: epoch,
        producer_ids_from: 5_000,
        topics: topics.to_vec(),
    };
    let restored = cluster.submit(request(std::slice::from_ref(&topic))).unwrap().remove(0).result.unwrap();
    assert_eq!((restored.id, restored.partitions), (topic.id, 2));
    assert_eq!(&*cluster.image.topic_by_id(topic.id).unwrap().name, "t");
    assert_eq!(cluster.image.config(&ConfigResource::topic("t"), "retention.ms").unwrap().as_ref(), "5");
    assert_eq!(position(&cluster), Some((9, 1000, 6, false)));
    assert_eq!(cluster.image.tier_position(topic.id, 1), None);
    assert_eq!(cluster.leader("t", 0), (None, 7));
    assert_eq!(cluster.image.next_producer_id, 5_000);
    // Asked again, as after an answer that was lost.
    let decision = cluster.decide(request(std::slice::from_ref(&topic)));
    assert!(decision.records.is_empty());
    cluster.submit(heartbeat(1, epoch)).unwrap();
    assert_eq!(cluster.leader("t", 0), (Some(1), 8), "newer than any epoch of the lost cluster");
    assert_eq!(cluster.leader("t", 1), (Some(1), 2));
    assert!(!cluster.image.tier_position(topic.id, 0).unwrap().is_doubtful);

    let mut refused = |change: &dyn Fn(&mut RestoredTopic)| {
        let mut other = RestoredTopic { name: "u".into(), id: TopicId(Uuid::from_u128(78)), ..topic.clone() };
        change(&mut other);
        let result = cluster.submit(request(&[other])).unwrap().remove(0).result;
        result.unwrap_err().to_string()
    };
    assert!(refused(&|topic| topic.id = TopicId(Uuid::from_u128(77))).contains("another topic's"));
    assert!(refused(&|topic| topic.name = "t".into()).contains('t'));
    assert!(refused(&|topic| topic.id = TopicId::ZERO).contains("not to be used"));
    assert!(refused(&|topic| topic.partitions.clear()).contains("cannot be"));
    assert!(refused(&|topic| topic.partitions[0].tier = Some((0, 1))).contains("cannot be"));
    assert!(refused(&|topic| topic.name = "a b".into()).contains("characters"));
    let stale = RestoreTopics { broker_epoch: BrokerEpoch(epoch.0 + 1), ..request(&[]) };
    assert!(cluster.submit(stale).is_err());
}
