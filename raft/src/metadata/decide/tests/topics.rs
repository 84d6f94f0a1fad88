//! CreateTopics, DeleteTopics, CreatePartitions.

use super::*;

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
