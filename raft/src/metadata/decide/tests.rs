//! Every refusal of every request, the records of the accepted ones, and the properties that hold for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::metadata::features;
use crate::metadata::ids::*;
use crate::metadata::image::Partition;
use crate::metadata::records::*;
use crate::quorum::encoding::{decode as decode_stored, encode};
use crate::requests::*;

/// A cluster under decision: what the controller does, without a quorum.
struct Cluster {
    image: Image,
    log: Vec<(Position, Vec<Record>)>,
    live: BTreeSet<BrokerId>,
    settings: StaticSettings,
    applied: BTreeMap<BrokerId, u64>,
    check: Option<ConfigCheck>,
}

impl Cluster {
    fn empty() -> Cluster {
        Cluster {
            image: Image::empty(ClusterId("test".into())),
            log: Vec::new(),
            live: BTreeSet::new(),
            settings: StaticSettings::default(),
            applied: BTreeMap::new(),
            check: None,
        }
    }

    /// Brokers 1..=count, registered and unfenced.
    fn of(count: i32) -> Cluster {
        let mut cluster = Cluster::empty();
        for id in 1..=count {
            cluster.add_broker(id, None);
        }
        cluster
    }

    fn add_broker(&mut self, id: i32, rack: Option<&str>) -> BrokerEpoch {
        let epoch = self.submit(registration(id, id as u128, rack)).unwrap();
        let state = self.submit(heartbeat(id, epoch)).unwrap();
        assert!(state.is_caught_up && !state.is_fenced);
        epoch
    }

    fn fence(&mut self, id: i32) {
        let epoch = self.image.broker(BrokerId(id)).unwrap().epoch;
        let request = BrokerHeartbeat { want_fence: true, ..heartbeat(id, epoch) };
        assert!(self.submit(request).unwrap().is_fenced);
    }

    fn unfence(&mut self, id: i32) {
        let epoch = self.image.broker(BrokerId(id)).unwrap().epoch;
        assert!(!self.submit(heartbeat(id, epoch)).unwrap().is_fenced);
    }

    fn next(&self) -> Position {
        Position { offset: self.image.last_offset + 1, epoch: 1 }
    }

    fn decide(&self, request: impl Into<Request>) -> Decision {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&self.image.last_offset.to_le_bytes());
        let context = Context {
            next: self.next(),
            seed,
            live_brokers: &self.live,
            topic_defaults: TopicDefaults { partitions: 3, replication_factor: 1 },
            static_settings: self.settings,
            applied_offsets: &self.applied,
            config_check: self.check.as_ref(),
        };
        decide(&request.into(), &self.image, &context)
    }

    fn submit<R: Submit>(&mut self, request: R) -> R::Response {
        let request = request.into();
        loop {
            let decision = self.decide(request.clone());
            let mut ahead = decision.ahead;
            if !decision.records.is_empty() {
                let next = self.next();
                self.image.replay_entry(&decision.records, next);
                ahead.last_offset = next.offset;
                ahead.last_epoch = next.epoch;
                self.log.push((next, decision.records));
            }
            assert_eq!(self.image, ahead, "the image ahead is the image that replay gives");
            check_image(&self.image);
            if let Some(response) = decision.response {
                check_leaders(&self.image);
                return R::response(response).unwrap();
            }
        }
    }

    fn create(&mut self, topic: NewTopic) -> Result<CreatedTopic, CreateTopicError> {
        self.submit(CreateTopics { topics: vec![topic], validate_only: false }).remove(0).result
    }

    fn leader(&self, topic: &str, partition: i32) -> (Option<i32>, i32) {
        let state = self.image.partition(topic, partition).unwrap();
        (state.leader.map(|id| id.0), state.leader_epoch.0)
    }
}

/// What must hold of every image.
fn check_image(image: &Image) {
    assert_eq!(image.topics.len(), image.topic_names.len());
    let mut partitions = 0;
    for topic in image.topics.values() {
        assert_eq!(image.topic_names.get(&topic.name), Some(&topic.id));
        assert!(!topic.partitions.is_empty(), "{} has no partition", topic.name);
        partitions += topic.partitions.len();
        for state in &topic.partitions {
            check_partition(image, state);
        }
    }
    assert_eq!(image.partition_count, partitions);
    let leaderless = image.topics.values().flat_map(|topic| {
        let without = (0..).zip(&topic.partitions).filter(|(_, state)| state.leader.is_none());
        without.map(|(partition, _)| (topic.id, partition))
    });
    assert!(image.leaderless.iter().copied().eq(leaderless), "the index of partitions without leader");
    let at = Position { offset: image.last_offset, epoch: image.last_epoch };
    let again = Image::from_records(image.cluster_id.clone(), &image.to_records(), at, image.features_epoch);
    assert_eq!(*image, again, "a snapshot gives the same image");
}

fn check_partition(image: &Image, state: &Partition) {
    let distinct: BTreeSet<BrokerId> = state.replicas.iter().copied().collect();
    assert!(!distinct.is_empty() && distinct.len() == state.replicas.len(), "{state:?}");
    let elr_enabled = image.features.contains_key(features::ELR_VERSION);
    for (list, what) in [
        (&*state.isr, "in sync"),
        (&*state.elr, "eligible"),
        (&*state.adding_replicas, "being added"),
        (&*state.removing_replicas, "being removed"),
    ] {
        let members: BTreeSet<BrokerId> = list.iter().copied().collect();
        assert_eq!(members.len(), list.len(), "{what} twice: {state:?}");
        assert!(members.is_subset(&distinct), "{what}, but no replica: {state:?}");
    }
    assert!(!state.elr.iter().any(|id| state.isr.contains(id)), "eligible and in sync: {state:?}");
    assert!(elr_enabled || !state.isr.is_empty(), "{state:?}");
    assert!(elr_enabled || (state.elr.is_empty() && state.last_known_elr.is_empty()), "{state:?}");
    assert!(state.last_known_elr.is_empty() || state.isr.is_empty(), "{state:?}");
    assert!(state.directories.is_empty() || state.directories.len() == state.replicas.len(), "{state:?}");
    if let Some(leader) = state.leader {
        assert!(state.isr.contains(&leader), "the leader is in sync: {state:?}");
        assert!(image.may_lead(leader, state), "the leader {leader} is alive: {state:?}");
    }
}

/// What must hold when a request is done: who could lead does.
fn check_leaders(image: &Image) {
    for state in image.topics.values().flat_map(|topic| &topic.partitions) {
        let candidates = if state.isr.is_empty() { &*state.elr } else { &*state.isr };
        assert!(
            state.leader.is_some() || !candidates.iter().any(|id| image.may_lead(*id, state)),
            "a complete replica could lead: {state:?}"
        );
    }
}

fn registration(id: i32, incarnation: u128, rack: Option<&str>) -> RegisterBroker {
    RegisterBroker {
        id: BrokerId(id),
        incarnation: Uuid::from_u128(incarnation),
        endpoints: vec![Endpoint {
            name: "PLAINTEXT".into(),
            host: "localhost".into(),
            port: 9092,
            security_protocol: 0,
        }],
        rack: rack.map(Into::into),
        features: features::supported(),
        log_dirs: vec![],
        previous_epoch: None,
    }
}

fn heartbeat(id: i32, epoch: BrokerEpoch) -> BrokerHeartbeat {
    BrokerHeartbeat {
        id: BrokerId(id),
        epoch,
        metadata_offset: u64::MAX,
        want_fence: false,
        want_shut_down: false,
        offline_log_dirs: vec![],
    }
}

fn topic(name: &str, partitions: i32, factor: i16) -> NewTopic {
    NewTopic {
        name: name.into(),
        partitions,
        replication_factor: factor,
        assignments: vec![],
        configs: vec![],
    }
}

fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> NewTopic {
    NewTopic {
        assignments: assignments.iter().map(|(p, ids)| (*p, brokers(ids))).collect(),
        ..topic(name, -1, -1)
    }
}

fn brokers(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(*id)).collect()
}

macro_rules! assert_refused {
    ($result:expr, $variant:pat, $text:expr) => {{
        let result = $result;
        assert!(matches!(result, Err($variant)), "{result:?}");
        let text = result.unwrap_err().to_string();
        assert!(text.contains($text), "`{text}` does not say `{}`", $text);
    }};
}

// ---- CreateTopics

#[test]
fn topics_are_created_with_defaults_and_configs() {
    let mut cluster = Cluster::of(1);
    let mut wanted = topic("plain", -1, -1);
    wanted.configs = vec![("retention.ms".into(), "5".into())];
    let created = cluster.create(wanted).unwrap();
    assert_eq!((created.partitions, created.replication_factor), (3, 1));
    assert!(!created.id.is_reserved());
    let found = cluster.image.topic_by_id(created.id).unwrap();
    assert_eq!(&*found.name, "plain");
    assert_eq!(cluster.leader("plain", 2), (Some(1), 0));
    assert_eq!(cluster.image.config(&ConfigResource::topic("plain"), "retention.ms").unwrap().as_ref(), "5");
}

#[test]
fn topic_names() {
    let mut cluster = Cluster::of(1);
    let long = "x".repeat(250);
    for (name, text) in [
        ("", "empty"),
        (".", "no topic name"),
        ("..", "no topic name"),
        (long.as_str(), "250"),
        ("a b", "characters other"),
        ("ä", "characters other"),
        ("a/b", "characters other"),
    ] {
        assert_refused!(cluster.create(topic(name, 1, 1)), CreateTopicError::InvalidName(_), text);
    }
    cluster.create(topic(&"x".repeat(249), 1, 1)).unwrap();
    cluster.create(topic("a.b", 1, 1)).unwrap();
    assert_refused!(cluster.create(topic("a_b", 1, 1)), CreateTopicError::InvalidName(_), "`a.b`");
    assert_refused!(cluster.create(topic("a.b", 1, 1)), CreateTopicError::AlreadyExists(_), "a.b");
    cluster.create(topic("ab", 1, 1)).unwrap();
    cluster.submit(DeleteTopics { topics: vec![TopicReference::Name("a.b".into())] });
    cluster.create(topic("a_b", 1, 1)).unwrap();
    assert_refused!(
        cluster.create(topic("__cluster_metadata", 1, 1)),
        CreateTopicError::InvalidRequest(_),
        "cluster's own"
    );
}

#[test]
fn topic_counts() {
    let mut cluster = Cluster::of(2);
    for count in [0, -2, i32::MIN] {
        assert_refused!(
            cluster.create(topic("t", count, 1)),
            CreateTopicError::InvalidPartitions(_),
            "positive"
        );
    }
    for factor in [0, -2, i16::MIN] {
        assert_refused!(
            cluster.create(topic("t", 1, factor)),
            CreateTopicError::InvalidReplicationFactor(_),
            "positive"
        );
    }
    assert_refused!(
        cluster.create(topic("t", 1, 3)),
        CreateTopicError::InvalidReplicationFactor(_),
        "2 registered"
    );
    assert_refused!(
        cluster.create(topic("t", i32::MAX, 1)),
        CreateTopicError::LimitReached(_),
        "10000 records"
    );
    assert_refused!(
        cluster.create(topic("t", 10_000, 1)),
        CreateTopicError::LimitReached(_),
        "10000 records"
    );
    cluster.create(topic("t", 9_999, 1)).unwrap();
    assert_refused!(
        Cluster::empty().create(topic("t", 1, 1)),
        CreateTopicError::InvalidReplicationFactor(_),
        "fenced"
    );
    cluster.fence(1);
    cluster.fence(2);
    assert_refused!(
        cluster.create(topic("u", 1, 1)),
        CreateTopicError::InvalidReplicationFactor(_),
        "fenced"
    );
}

#[test]
fn a_request_for_too_many_topics_is_refused_as_a_whole() {
    let cluster = Cluster::of(1);
    let ask = |count: usize| {
        let topics = (0..count).map(|number| topic(&format!("t{number}"), 1, 1)).collect();
        let decided = cluster.decide(CreateTopics { topics, validate_only: false });
        let Some(Response::CreateTopics(results)) = decided.response else {
            panic!("{:?}", decided.response)
        };
        (decided.records.len(), results)
    };
    let (records, results) = ask(RECORDS_PER_REQUEST_MAX / 2);
    assert!(results.iter().all(|topic| topic.result.is_ok()));
    assert_eq!(records, RECORDS_PER_REQUEST_MAX);
    let (records, results) = ask(RECORDS_PER_REQUEST_MAX / 2 + 1);
    assert_eq!((records, results.len()), (0, RECORDS_PER_REQUEST_MAX / 2 + 1));
    let refused =
        |result: &Result<_, CreateTopicError>| matches!(result, Err(CreateTopicError::LimitReached(_)));
    assert!(results.iter().all(|topic| refused(&topic.result)));
}

#[test]
fn partitions_of_the_cluster_are_bounded() {
    let mut cluster = Cluster::of(1);
    cluster.image.partition_count = PARTITIONS_MAX - 1;
    let result = |cluster: &Cluster, count| match cluster
        .decide(CreateTopics { topics: vec![topic("t", count, 1)], validate_only: false })
        .response
        .unwrap()
    {
        Response::CreateTopics(mut results) => results.remove(0).result,
        other => panic!("{other:?}"),
    };
    assert_refused!(result(&cluster, 2), CreateTopicError::LimitReached(_), "1000000 partitions");
    result(&cluster, 1).unwrap();
}

#[test]
fn manual_assignments() {
    let mut cluster = Cluster::of(3);
    let invalid = |cluster: &mut Cluster, assignments: &[(i32, &[i32])], text: &str| {
        assert_refused!(
            cluster.create(assigned("t", assignments)),
            CreateTopicError::InvalidReplicaAssignment(_),
            text
        );
    };
    invalid(&mut cluster, &[(0, &[])], "no replica");
    invalid(&mut cluster, &[(0, &[1, 1])], "more than once");
    invalid(&mut cluster, &[(0, &[4])], "not registered");
    invalid(&mut cluster, &[(0, &[-1])], "invalid broker id");
    invalid(&mut cluster, &[(0, &[1, 2]), (1, &[3])], "1 replica(s), the other partitions have 2");
    invalid(&mut cluster, &[(0, &[1]), (0, &[2])], "more than once");
    invalid(&mut cluster, &[(0, &[1]), (2, &[2])], "without a gap");
    invalid(&mut cluster, &[(-1, &[1])], "without a gap");
    let mut with_count = assigned("t", &[(0, &[1])]);
    with_count.partitions = 1;
    assert_refused!(cluster.create(with_count), CreateTopicError::InvalidRequest(_), "partitions must be -1");
    let mut with_factor = assigned("t", &[(0, &[1])]);
    with_factor.replication_factor = 1;
    assert_refused!(cluster.create(with_factor), CreateTopicError::InvalidRequest(_), "factor must be -1");

    cluster.fence(3);
    invalid(&mut cluster, &[(0, &[3])], "fenced");
    let created = cluster.create(assigned("t", &[(1, &[3, 2]), (0, &[1, 2])])).unwrap();
    assert_eq!((created.partitions, created.replication_factor), (2, 2));
    let state = cluster.image.partition("t", 1).unwrap();
    assert_eq!(*state.replicas, *brokers(&[3, 2]));
    assert_eq!(
        (&*state.isr, state.leader),
        (&*brokers(&[2]), Some(BrokerId(2))),
        "a fenced replica is not in sync"
    );
}

#[test]
fn topic_configs_are_checked_before_anything_is_written() {
    let mut cluster = Cluster::of(1);
    let with = |configs: &[(&str, &str)]| NewTopic {
        configs: configs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        ..topic("t", 1, 1)
    };
    assert_refused!(
        cluster.create(with(&[("a", "1"), ("a", "2")])),
        CreateTopicError::InvalidConfig(_),
        "given twice"
    );
    assert_refused!(cluster.create(with(&[("", "1")])), CreateTopicError::InvalidConfig(_), "empty");
    let long = "x".repeat(CONFIG_VALUE_BYTES_MAX + 1);
    assert_refused!(cluster.create(with(&[("a", &long)])), CreateTopicError::InvalidConfig(_), "longer than");
    let many: Vec<(String, String)> =
        (0..=CONFIG_KEYS_MAX).map(|key| (key.to_string(), String::new())).collect();
    let mut too_many = topic("t", 1, 1);
    too_many.configs = many;
    assert_refused!(cluster.create(too_many), CreateTopicError::LimitReached(_), "1000");
    cluster.check = Some(Arc::new(|resource, configs| {
        assert_eq!(*resource, ConfigResource::topic("t"));
        match configs.get("a") {
            Some(value) if &**value == "bad" => Err("a is bad".into()),
            _ => Ok(()),
        }
    }));
    assert_refused!(cluster.create(with(&[("a", "bad")])), CreateTopicError::InvalidConfig(_), "a is bad");
    assert!(cluster.image.topics.is_empty());
    cluster.create(with(&[("a", "good")])).unwrap();
}

#[test]
fn topics_of_one_request() {
    let mut cluster = Cluster::of(1);
    let request = |validate_only| CreateTopics {
        topics: vec![
            topic("a", 1, 1),
            topic("twice", 1, 1),
            topic("b", 0, 1),
            topic("twice", 2, 1),
            topic("x.y", 1, 1),
            topic("x_y", 1, 1),
        ],
        validate_only,
    };
    for validate_only in [true, false] {
        let results = cluster.submit(request(validate_only));
        let by_name: BTreeMap<_, _> =
            results.iter().map(|result| (result.name.as_str(), &result.result)).collect();
        assert_eq!(results.len(), 5, "a name is answered once");
        assert_eq!(by_name["a"].as_ref().map(|created| created.id == TopicId::ZERO), Ok(validate_only));
        assert!(matches!(by_name["twice"], Err(CreateTopicError::InvalidRequest(_))));
        assert!(matches!(by_name["b"], Err(CreateTopicError::InvalidPartitions(_))));
        assert!(by_name["x.y"].is_ok());
        assert!(
            matches!(by_name["x_y"], Err(CreateTopicError::InvalidName(_))),
            "collides within the request"
        );
        assert_eq!(cluster.image.topic_by_name("a").is_some(), !validate_only);
    }
}

#[test]
fn the_same_seed_gives_the_same_decision() {
    let cluster = Cluster::of(3);
    let request = CreateTopics { topics: vec![topic("a", 30, 2)], validate_only: false };
    assert_eq!(cluster.decide(request.clone()).records, cluster.decide(request).records);
}

// ---- DeleteTopics

#[test]
fn topics_are_deleted_with_their_configs() {
    let mut cluster = Cluster::of(1);
    let mut wanted = topic("a", 2, 1);
    wanted.configs = vec![("k".into(), "v".into())];
    let id = cluster.create(wanted).unwrap().id;
    let other = cluster.create(topic("b", 1, 1)).unwrap().id;
    let unknown = TopicId(Uuid::from_u128(77));
    let name = |name: &str| TopicReference::Name(name.into());
    let results = cluster.submit(DeleteTopics {
        topics: vec![
            name("a"),
            name("none"),
            TopicReference::Id(unknown),
            name("b"),
            TopicReference::Id(other),
        ],
    });
    let results: Vec<_> = results.into_iter().map(|result| result.result).collect();
    assert_eq!(results[0], Ok(("a".into(), id)));
    assert_eq!(results[1], Err(DeleteTopicError::UnknownName));
    assert_eq!(results[2], Err(DeleteTopicError::UnknownId));
    assert!(matches!(results[3], Err(DeleteTopicError::InvalidRequest(_))), "by name and by id");
    assert!(matches!(results[4], Err(DeleteTopicError::InvalidRequest(_))));
    assert!(cluster.image.topic_by_name("a").is_none() && cluster.image.topic_by_name("b").is_some());
    assert!(cluster.image.configs.is_empty());

    let results = cluster.submit(DeleteTopics { topics: vec![name("b"), name("b")] });
    assert_eq!(results.len(), 1);
    assert_refused!(results[0].result.clone(), DeleteTopicError::InvalidRequest(_), "more than once");
    let again = cluster.submit(DeleteTopics { topics: vec![TopicReference::Id(other)] });
    assert!(again[0].result.is_ok());
    let recreated = cluster.create(topic("a", 1, 1)).unwrap();
    assert_ne!(recreated.id, id, "a topic created again is another");
}

// ---- CreatePartitions

#[test]
fn partitions_are_added() {
    let mut cluster = Cluster::of(3);
    cluster.create(topic("a", 2, 2)).unwrap();
    let add = |cluster: &mut Cluster, count, assignments: Option<&[&[i32]]>| {
        let wanted = NewPartitions {
            name: "a".into(),
            count,
            assignments: assignments.map(|sets| sets.iter().map(|ids| brokers(ids)).collect()),
        };
        cluster.submit(CreatePartitions { topics: vec![wanted], validate_only: false }).remove(0).result
    };
    assert_refused!(add(&mut cluster, 2, None), CreatePartitionsError::InvalidPartitions(_), "already");
    assert_refused!(add(&mut cluster, 1, None), CreatePartitionsError::InvalidPartitions(_), "fewer");
    assert_refused!(add(&mut cluster, -5, None), CreatePartitionsError::InvalidPartitions(_), "fewer");
    assert_refused!(add(&mut cluster, i32::MAX, None), CreatePartitionsError::LimitReached(_), "10000");
    let invalid = |result, text: &str| {
        assert_refused!(result, CreatePartitionsError::InvalidReplicaAssignment(_), text);
    };
    invalid(add(&mut cluster, 4, Some(&[&[1, 2]])), "1 assignment(s)");
    invalid(add(&mut cluster, 3, Some(&[&[1]])), "1 replica(s), the other partitions have 2");
    invalid(add(&mut cluster, 3, Some(&[&[1, 9]])), "not registered");
    add(&mut cluster, 3, Some(&[&[3, 1]])).unwrap();
    assert_eq!(*cluster.image.partition("a", 2).unwrap().replicas, *brokers(&[3, 1]));
    add(&mut cluster, 5, None).unwrap();
    let added = cluster.image.partition("a", 4).unwrap();
    assert_eq!(added.replicas.len(), 2, "as the topic's other partitions");
    cluster.fence(3);
    add(&mut cluster, 6, Some(&[&[3, 1]])).unwrap();
    assert_eq!(
        *cluster.image.partition("a", 5).unwrap().isr,
        *brokers(&[1]),
        "a fenced replica is not in sync"
    );
    cluster.fence(1);
    cluster.fence(2);
    invalid(add(&mut cluster, 7, Some(&[&[3, 1]])), "fenced");
    assert_refused!(add(&mut cluster, 7, None), CreatePartitionsError::InvalidReplicationFactor(_), "fenced");

    let both = |name: &str| NewPartitions { name: name.into(), count: 9, assignments: None };
    let results = cluster
        .submit(CreatePartitions { topics: vec![both("a"), both("none"), both("a")], validate_only: true });
    assert!(matches!(results[0].result, Err(CreatePartitionsError::InvalidRequest(_))));
    assert_eq!(results[1].result, Err(CreatePartitionsError::UnknownTopic));
    assert_eq!(results.len(), 2);
}

#[test]
fn added_partitions_may_only_be_validated() {
    let mut cluster = Cluster::of(1);
    cluster.create(topic("a", 1, 1)).unwrap();
    let wanted = NewPartitions { name: "a".into(), count: 2, assignments: None };
    let results = cluster.submit(CreatePartitions { topics: vec![wanted], validate_only: true });
    assert_eq!(results[0].result, Ok(()));
    assert_eq!(cluster.image.partition_count, 1);
}

// ---- configs

fn alter(
    cluster: &mut Cluster,
    resource: ConfigResource,
    operations: Vec<(&str, ConfigOperation)>,
) -> Result<(), AlterConfigsError> {
    let operations = operations.into_iter().map(|(key, operation)| (key.to_owned(), operation)).collect();
    cluster
        .submit(IncrementalAlterConfigs { resources: vec![(resource, operations)], validate_only: false })
        .remove(0)
        .result
}

fn set(value: &str) -> ConfigOperation {
    ConfigOperation::Set(value.into())
}

#[test]
fn configs_change_one_by_one() {
    let mut cluster = Cluster::of(1);
    cluster.create(topic("t", 1, 1)).unwrap();
    let t = ConfigResource::topic("t");
    let append =
        |items: &str| ConfigOperation::Append { items: items.into(), default: Some("delete".into()) };
    let subtract =
        |items: &str| ConfigOperation::Subtract { items: items.into(), default: Some("x,y".into()) };
    let value = |cluster: &Cluster, key: &str| cluster.image.config(&t, key).map(|value| value.to_string());
    alter(&mut cluster, t.clone(), vec![("a", set("1")), ("list", append("compact,delete"))]).unwrap();
    assert_eq!(value(&cluster, "a").as_deref(), Some("1"));
    assert_eq!(value(&cluster, "list").as_deref(), Some("delete,compact"));
    alter(&mut cluster, t.clone(), vec![("list", subtract("delete")), ("other", subtract("x"))]).unwrap();
    assert_eq!(value(&cluster, "list").as_deref(), Some("compact"));
    assert_eq!(value(&cluster, "other").as_deref(), Some("y"), "of the default");
    alter(&mut cluster, t.clone(), vec![("list", subtract("compact"))]).unwrap();
    assert_eq!(value(&cluster, "list").as_deref(), Some(""), "an empty list is a value");
    alter(&mut cluster, t.clone(), vec![("list", append("compact"))]).unwrap();
    assert_eq!(value(&cluster, "list").as_deref(), Some("compact"));
    let entries = cluster.log.len();
    alter(&mut cluster, t.clone(), vec![("a", set("1")), ("none", ConfigOperation::Delete)]).unwrap();
    assert_eq!(cluster.log.len(), entries, "what changes nothing writes nothing");
    alter(&mut cluster, t.clone(), vec![("a", ConfigOperation::Delete)]).unwrap();
    assert_eq!(value(&cluster, "a"), None);
}

#[test]
fn config_refusals() {
    let mut cluster = Cluster::of(1);
    cluster.create(topic("t", 1, 1)).unwrap();
    let t = || ConfigResource::topic("t");
    assert_eq!(
        alter(&mut cluster, ConfigResource::topic("none"), vec![("a", set("1"))]),
        Err(AlterConfigsError::UnknownTopic)
    );
    assert_eq!(
        alter(&mut cluster, ConfigResource::broker(BrokerId(9)), vec![("a", set("1"))]),
        Err(AlterConfigsError::UnknownBroker("9".into()))
    );
    let named = |kind, name: &str| ConfigResource { kind, name: name.into() };
    assert_refused!(
        alter(&mut cluster, named(ConfigResourceType::Broker, "x"), vec![]),
        AlterConfigsError::InvalidRequest(_),
        "no broker id"
    );
    assert_refused!(
        alter(&mut cluster, ConfigResource::group(""), vec![("a", set("1"))]),
        AlterConfigsError::InvalidRequest(_),
        "no name"
    );
    assert_refused!(
        alter(&mut cluster, ConfigResource::group("g".repeat(40_000)), vec![("a", set("1"))]),
        AlterConfigsError::InvalidRequest(_),
        "too long"
    );
    assert_refused!(
        alter(&mut cluster, t(), vec![("a", set("1")), ("a", set("2"))]),
        AlterConfigsError::InvalidRequest(_),
        "given twice"
    );
    assert_refused!(
        alter(&mut cluster, t(), vec![("a", ConfigOperation::OnlyForLists)]),
        AlterConfigsError::InvalidConfig(_),
        "need a list"
    );
    assert_refused!(
        alter(&mut cluster, t(), vec![("", set(""))]),
        AlterConfigsError::InvalidConfig(_),
        "empty"
    );
    let long = "x".repeat(CONFIG_VALUE_BYTES_MAX);
    alter(&mut cluster, t(), vec![("a", set(&long))]).unwrap();
    let grow = ConfigOperation::Append { items: "more".into(), default: None };
    assert_refused!(
        alter(&mut cluster, t(), vec![("a", grow)]),
        AlterConfigsError::InvalidConfig(_),
        "longer"
    );
    let keys: Vec<String> = (0..=CONFIG_KEYS_MAX).map(|key| format!("k{key}")).collect();
    let many = keys.iter().map(|key| (key.as_str(), set("1"))).collect();
    assert_refused!(alter(&mut cluster, t(), many), AlterConfigsError::InvalidConfig(_), "1000 configs");
    cluster.check = Some(Arc::new(|_, configs| match configs.len() {
        0..=1 => Ok(()),
        _ => Err("one is enough".into()),
    }));
    assert_refused!(
        alter(&mut cluster, t(), vec![("b", set("1"))]),
        AlterConfigsError::InvalidConfig(_),
        "one is enough"
    );
    let swap = vec![("a", ConfigOperation::Delete), ("b", set("1"))];
    alter(&mut cluster, t(), swap).unwrap();

    let results = cluster.submit(IncrementalAlterConfigs {
        resources: vec![(t(), vec![]), (ConfigResource::all_brokers(), vec![]), (t(), vec![])],
        validate_only: false,
    });
    assert_eq!(results.len(), 2);
    assert_refused!(results[0].result.clone(), AlterConfigsError::InvalidRequest(_), "more than once");
    assert_eq!(results[1].result, Ok(()));
}

#[test]
fn resources_with_configs_are_bounded() {
    let mut cluster = Cluster::of(1);
    let one: crate::metadata::image::Configs = [(Arc::from("a"), Arc::from("1"))].into_iter().collect();
    for number in 0..CONFIG_RESOURCES_MAX {
        cluster.image.configs.insert(ConfigResource::group(format!("g{number}")), one.clone());
    }
    let request = |name: &str| IncrementalAlterConfigs {
        resources: vec![(ConfigResource::group(name), vec![("a".into(), set("2"))])],
        validate_only: false,
    };
    let result = |cluster: &Cluster, name| match cluster.decide(request(name)).response.unwrap() {
        Response::IncrementalAlterConfigs(mut results) => results.remove(0).result,
        other => panic!("{other:?}"),
    };
    assert_refused!(result(&cluster, "new"), AlterConfigsError::InvalidConfig(_), "no further");
    assert_eq!(result(&cluster, "g5"), Ok(()), "what has configs may change them");
}

#[test]
fn broker_configs_are_written_again() {
    let mut cluster = Cluster::of(1);
    for resource in [ConfigResource::all_brokers(), ConfigResource::broker(BrokerId(1))] {
        alter(&mut cluster, resource.clone(), vec![("a", set("1"))]).unwrap();
        let entries = cluster.log.len();
        alter(&mut cluster, resource, vec![("a", set("1"))]).unwrap();
        assert_eq!(cluster.log.len(), entries + 1, "brokers act on a repeated SET");
    }
}

#[test]
fn legacy_alter_replaces_all() {
    let mut cluster = Cluster::of(1);
    cluster.create(topic("t", 1, 1)).unwrap();
    let t = ConfigResource::topic("t");
    alter(&mut cluster, t.clone(), vec![("a", set("1")), ("b", set("2"))]).unwrap();
    let replace = |entries: &[(&str, &str)], validate_only| AlterConfigs {
        resources: vec![(
            t.clone(),
            entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        )],
        validate_only,
    };
    assert_eq!(cluster.submit(replace(&[("c", "3")], true))[0].result, Ok(()));
    assert_eq!(cluster.image.configs_of(&t).unwrap().len(), 2);
    assert_eq!(cluster.submit(replace(&[("b", "2"), ("c", "3")], false))[0].result, Ok(()));
    let keys: Vec<_> = cluster.image.configs_of(&t).unwrap().keys().map(|key| key.to_string()).collect();
    assert_eq!(keys, ["b", "c"]);
    let twice = cluster.submit(replace(&[("b", "2"), ("b", "3")], false)).remove(0).result;
    assert_refused!(twice, AlterConfigsError::InvalidRequest(_), "given twice");
    cluster.submit(replace(&[], false));
    assert!(cluster.image.configs_of(&t).is_none());
}

// ---- brokers

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

// ---- producer ids

#[test]
fn producer_id_blocks_never_overlap() {
    let mut cluster = Cluster::of(1);
    let epoch = cluster.image.broker(BrokerId(1)).unwrap().epoch;
    let ask = AllocateProducerIds { broker: BrokerId(1), epoch };
    assert_eq!(cluster.submit(ask.clone()), Ok(ProducerIdBlock { first: 0, count: 1000 }));
    assert_eq!(cluster.submit(ask.clone()), Ok(ProducerIdBlock { first: 1000, count: 1000 }));
    assert_eq!(
        cluster.submit(AllocateProducerIds { broker: BrokerId(2), epoch }),
        Err(BrokerEpochError::NotRegistered(BrokerId(2)).into())
    );
    let given = BrokerEpoch(epoch.0 + 1);
    assert_eq!(
        cluster.submit(AllocateProducerIds { broker: BrokerId(1), epoch: given }),
        Err(BrokerEpochError::Stale { id: BrokerId(1), current: epoch, given }.into())
    );
    cluster.image.next_producer_id = i64::MAX - 999;
    assert_eq!(cluster.submit(ask), Err(AllocateProducerIdsError::Exhausted));
}

// ---- features

#[test]
fn feature_updates() {
    use FeatureUpdateType::*;
    let mut cluster = Cluster::of(1);
    let mut update = |name: &str, level, kind, validate_only| {
        let updates = vec![FeatureUpdate { name: name.into(), level, kind }];
        cluster.submit(UpdateFeatures { updates, validate_only }).map(|_| {
            let epoch = cluster.image.features_epoch;
            (cluster.image.features.get(name).copied(), epoch == cluster.image.last_offset)
        })
    };
    let refused = |result: Result<_, UpdateFeaturesError>, text: &str| {
        assert_refused!(result, UpdateFeaturesError::InvalidUpdateVersion(_), text);
    };
    let version = features::METADATA_VERSION;
    assert_eq!(update(version, 24, Upgrade, true), Ok((None, false)));
    assert_eq!(update(version, 24, Upgrade, false), Ok((Some(24), true)));
    assert_eq!(update(version, 25, Upgrade, false), Ok((Some(25), true)));
    refused(update(version, 26, Upgrade, false), "7 to 25");
    refused(update(version, -1, Upgrade, false), "negative");
    refused(update(version, 0, UnsafeDowngrade, false), "7 to 25");
    refused(update(version, 24, Upgrade, false), "downgrade must be asked for");
    refused(update("group.version", 1, Upgrade, false), "does not support");
    refused(update(version, 25, Unknown(9), false), "type 9");
    assert_eq!(update(version, 24, SafeDowngrade, false), Ok((Some(24), true)));
    refused(update(version, 25, SafeDowngrade, false), "lower");
    refused(update(version, 22, SafeDowngrade, false), "lost");
    refused(update(version, 22, UnsafeDowngrade, false), "not supported");
    assert_eq!(update(version, 24, Upgrade, false), Ok((Some(24), true)), "nothing to do");
    assert_eq!(update("unknown", 0, SafeDowngrade, false), Ok((None, true)), "off already");
    let both = |level| FeatureUpdate { name: version.into(), level, kind: Upgrade };
    assert_refused!(
        cluster.submit(UpdateFeatures { updates: vec![both(25), both(25)], validate_only: false }),
        UpdateFeaturesError::InvalidRequest(_),
        "twice"
    );
    assert_refused!(
        cluster.submit(UpdateFeatures { updates: vec![both(25); 1001], validate_only: false }),
        UpdateFeaturesError::InvalidRequest(_),
        "1000"
    );
    // A broker that cannot follow.
    let narrow = BTreeMap::from([(version.to_owned(), FeatureRange { min: 7, max: 24 })]);
    cluster.submit(RegisterBroker { features: narrow, ..registration(2, 2, None) }).unwrap();
    let result = cluster.submit(UpdateFeatures { updates: vec![both(25)], validate_only: false });
    assert_refused!(result, UpdateFeaturesError::InvalidUpdateVersion(_), "broker 2");
}

// ---- elections

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

// ---- properties

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
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..6u8;
    let broker = 1..5i32;
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
        1 => broker.prop_map(Step::ProducerIds),
        2 => (name, any::<bool>()).prop_map(|(name, unclean)| Step::Elect { name, unclean }),
        1 => any::<bool>().prop_map(Step::ElectAll),
    ]
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
            let _ = cluster.submit(registration(id, incarnation, Some(rack)));
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
            }
        }
        let mut again = Image::empty(cluster.image.cluster_id.clone());
        for (at, records) in &cluster.log {
            let stored = encode(records).unwrap();
            let records: Vec<Record> = decode_stored(&stored).unwrap();
            again.replay_entry(&records, *at);
        }
        prop_assert_eq!(&again, &cluster.image);
    }
}
