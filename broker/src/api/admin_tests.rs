//! The administration APIs against a running node in a temporary directory, at every version that the table offers:
//! requests go in encoded, through their rows in the table, and answers come back as a socket would carry them.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::describe_topic_partitions_request as partitions_request;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::update_features_request::FeatureUpdateKey;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Request, StrBytes};
use uuid::Uuid;

use super::*;
use crate::config::NodeConfig;
use crate::node::{self, Node};

/// A node in a directory of its own.
pub(super) struct Bench {
    node: Node,
    _dir: tempfile::TempDir,
}

impl Bench {
    pub(super) async fn start(overrides: &[(&str, &str)]) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let mut all: Vec<(String, String)> = vec![
            ("listeners".into(), "PLAINTEXT://127.0.0.1:0".into()),
            ("log.dirs".into(), dir.path().join("data").display().to_string()),
            ("ottla.metrics.listener".into(), String::new()),
        ];
        all.extend(overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let config = NodeConfig::load(None, &all).unwrap();
        Bench { node: node::start(config).await.unwrap(), _dir: dir }
    }

    pub(super) fn broker(&self) -> &Arc<Broker> {
        self.node.broker()
    }

    pub(super) async fn call<Q: Request>(&self, version: i16, request: &Q) -> Q::Response {
        in_test::call(RequestContext::in_test(self.node.broker(), version, None), request).await
    }

    /// As a listener of controllers takes it.
    pub(super) async fn call_controller<Q: Request>(&self, version: i16, request: &Q) -> Q::Response {
        let mut cx = RequestContext::in_test(self.node.broker(), version, None);
        let (peer, local) = (cx.connection.peer, cx.connection.local);
        cx.connection = Arc::new(Connection {
            id: 2,
            peer,
            listener: "CONTROLLER".to_owned(),
            role: ListenerRole::Controller,
            local,
            software: parking_lot::Mutex::default(),
        });
        in_test::call(cx, request).await
    }

    pub(super) async fn create(
        &self,
        version: i16,
        topic: CreatableTopic,
    ) -> create_topics_response::CreatableTopicResult {
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000);
        let mut response = self.call(version, &request).await;
        assert_eq!(response.topics.len(), 1);
        response.topics.remove(0)
    }

    async fn describe(
        &self,
        kind: i8,
        resource: &str,
    ) -> Result<Vec<DescribeConfigsResourceResult>, (i16, String)> {
        let wanted = DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(resource))
            .with_configuration_keys(None);
        let request = DescribeConfigsRequest::default()
            .with_resources(vec![wanted])
            .with_include_synonyms(true)
            .with_include_documentation(true);
        let result = self.call(4, &request).await.results.remove(0);
        match result.error_code {
            0 => Ok(result.configs),
            code => Err((code, result.error_message.unwrap_or_default().to_string())),
        }
    }

    async fn alter(
        &self,
        kind: i8,
        resource: &str,
        operations: &[(&str, i8, Option<&str>)],
    ) -> (i16, String) {
        use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
        let configs = operations.iter().map(|(key, operation, value)| {
            AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(*operation)
                .with_value(value.map(text))
        });
        let resource = AlterConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(resource))
            .with_configs(configs.collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        let response = self.call(1, &request).await.responses.remove(0);
        (response.error_code, response.error_message.unwrap_or_default().to_string())
    }

    pub(super) async fn stop(self) {
        self.node.shutdown().await;
    }
}

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;

pub(super) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub(super) fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

pub(super) fn topic(name_: &str, partitions: i32, configs: &[(&str, &str)]) -> CreatableTopic {
    let configs = configs.iter().map(|(key, value)| {
        CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
    });
    CreatableTopic::default()
        .with_name(name(name_))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs.collect())
}

fn by_name(names: &[&str]) -> Option<Vec<MetadataRequestTopic>> {
    Some(names.iter().map(|topic| MetadataRequestTopic::default().with_name(Some(name(topic)))).collect())
}

pub(super) fn code(error: ResponseError) -> i16 {
    error.code()
}

fn value<'a>(configs: &'a [DescribeConfigsResourceResult], key: &str) -> &'a DescribeConfigsResourceResult {
    configs.iter().find(|config| &*config.name == key).unwrap_or_else(|| panic!("no {key}"))
}

fn versions(key: ApiKey) -> std::ops::RangeInclusive<i16> {
    table::row(key as i16).unwrap().versions.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_live_and_die_at_every_version() {
    let bench = Bench::start(&[]).await;
    for version in versions(ApiKey::CreateTopics) {
        let wanted = format!("created-{version}");
        let created = bench.create(version, topic(&wanted, 3, &[("retention.ms", "1000")])).await;
        assert_eq!(created.error_code, 0, "{:?}", created.error_message);
        assert_eq!(created.error_message, None);
        if version >= 5 {
            assert_eq!((created.num_partitions, created.replication_factor), (3, 1));
            let configs = created.configs.expect("the configuration");
            let retention = configs.iter().find(|config| &*config.name == "retention.ms").unwrap();
            assert_eq!(retention.value.as_deref(), Some("1000"));
            assert_eq!(retention.config_source, 1);
        }
        assert_eq!(version >= 7, !created.topic_id.is_nil());
        // What was answered can be used at once.
        for partition in 0..3 {
            assert!(bench.node.broker().replicas.get(&wanted, partition).is_some(), "version {version}");
        }
        let again = bench.create(version, topic(&wanted, 3, &[])).await;
        assert_eq!(again.error_code, code(ResponseError::TopicAlreadyExists));
    }
    for version in versions(ApiKey::CreatePartitions) {
        let wanted = format!("created-{}", version + 2);
        let more = |count| {
            let topic = CreatePartitionsTopic::default()
                .with_name(name(&wanted))
                .with_count(count)
                .with_assignments(None);
            CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(5000)
        };
        let validated = bench.call(version, &more(4).with_validate_only(true)).await;
        assert_eq!(validated.results[0].error_code, 0);
        let done = bench.call(version, &more(4)).await;
        assert_eq!(done.results[0].error_code, 0, "{:?}", done.results[0].error_message);
        assert!(bench.node.broker().replicas.get(&wanted, 3).is_some());
        for count in [4, 2] {
            let refused = bench.call(version, &more(count)).await;
            assert_eq!(refused.results[0].error_code, code(ResponseError::InvalidPartitions));
        }
    }
    for version in versions(ApiKey::DeleteTopics) {
        let wanted = format!("created-{}", version + 1);
        let request = DeleteTopicsRequest::default().with_timeout_ms(5000);
        let request = if version >= 6 {
            let state = DeleteTopicState::default().with_name(Some(name(&wanted)));
            request.with_topics(vec![state])
        } else {
            request.with_topic_names(vec![name(&wanted)])
        };
        let deleted = bench.call(version, &request).await;
        assert_eq!(deleted.responses[0].error_code, 0, "{deleted:?}");
        let again = bench.call(version, &request).await;
        assert_eq!(again.responses[0].error_code, code(ResponseError::UnknownTopicOrPartition));
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_deleted_by_id_and_only_where_allowed() {
    let bench = Bench::start(&[]).await;
    let created = bench.create(7, topic("t", 1, &[])).await;
    let delete = |state: DeleteTopicState| {
        DeleteTopicsRequest::default().with_timeout_ms(5000).with_topics(vec![state])
    };
    let state = DeleteTopicState::default;
    let both = state().with_name(Some(name("t"))).with_topic_id(created.topic_id);
    assert_eq!(
        bench.call(6, &delete(both)).await.responses[0].error_code,
        code(ResponseError::InvalidRequest)
    );
    let nothing = state().with_name(None);
    assert_eq!(
        bench.call(6, &delete(nothing)).await.responses[0].error_code,
        code(ResponseError::InvalidRequest)
    );
    let unknown = state().with_name(None).with_topic_id(Uuid::new_v4());
    assert_eq!(
        bench.call(6, &delete(unknown)).await.responses[0].error_code,
        code(ResponseError::UnknownTopicId)
    );
    let by_id = state().with_name(None).with_topic_id(created.topic_id);
    let deleted = bench.call(6, &delete(by_id)).await.responses.remove(0);
    assert_eq!((deleted.error_code, deleted.name), (0, Some(name("t"))));
    assert!(bench.node.broker().replicas.get("t", 0).is_none());
    bench.stop().await;

    let bench = Bench::start(&[("delete.topic.enable", "false")]).await;
    bench.create(7, topic("t", 1, &[])).await;
    for (version, error) in [(2, ResponseError::InvalidRequest), (3, ResponseError::TopicDeletionDisabled)] {
        let request = DeleteTopicsRequest::default().with_topic_names(vec![name("t")]);
        assert_eq!(bench.call(version, &request).await.responses[0].error_code, code(error));
    }
    assert!(bench.node.broker().replicas.get("t", 0).is_some());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_topics_are_refused() {
    let bench = Bench::start(&[("num.partitions", "4")]).await;
    let create = |topic: CreatableTopic| bench.create(7, topic);
    let long = "x".repeat(250);
    for bad in ["", ".", "..", "a b", "a/b", "ä", long.as_str()] {
        assert_eq!(
            create(topic(bad, 1, &[])).await.error_code,
            code(ResponseError::InvalidTopicException),
            "{bad}"
        );
    }
    assert_eq!(create(topic("t_1", 1, &[])).await.error_code, 0);
    assert_eq!(create(topic("t.1", 1, &[])).await.error_code, code(ResponseError::InvalidTopicException));
    for partitions in [0, -2] {
        let refused = create(topic("t", partitions, &[])).await;
        assert_eq!(refused.error_code, code(ResponseError::InvalidPartitions));
    }
    for factor in [0, -2, 3] {
        let refused = create(topic("t", 1, &[]).with_replication_factor(factor)).await;
        assert_eq!(refused.error_code, code(ResponseError::InvalidReplicationFactor));
    }
    let refused = create(topic("t", 1_000_000, &[])).await;
    assert_eq!(refused.error_code, code(ResponseError::PolicyViolation));
    for (key, bad) in
        [("nope", "1"), ("retention.ms", "abc"), ("segment.bytes", "1"), ("cleanup.policy", "x")]
    {
        let refused = create(topic("t", 1, &[(key, bad)])).await;
        assert_eq!(refused.error_code, code(ResponseError::InvalidConfig));
        assert!(refused.error_message.unwrap().contains(key));
    }
    let null = CreatableTopicConfig::default().with_name(text("retention.ms")).with_value(None);
    let refused = create(topic("t", 1, &[]).with_configs(vec![null])).await;
    assert_eq!(refused.error_code, code(ResponseError::InvalidConfig));

    let assigned = |partition: i32, brokers: &[i32]| {
        let assignment = CreatableReplicaAssignment::default()
            .with_partition_index(partition)
            .with_broker_ids(brokers.iter().map(|id| BrokerId(*id)).collect());
        topic("ta", -1, &[]).with_replication_factor(-1).with_assignments(vec![assignment])
    };
    for (partition, brokers) in [(0, &[9][..]), (0, &[1, 1]), (1, &[1]), (0, &[])] {
        let refused = create(assigned(partition, brokers)).await;
        assert_eq!(refused.error_code, code(ResponseError::InvalidReplicaAssignment));
    }
    assert_eq!(create(assigned(0, &[1])).await.error_code, 0);

    let defaults = create(topic("defaults", -1, &[]).with_replication_factor(-1)).await;
    assert_eq!((defaults.num_partitions, defaults.replication_factor), (4, 1));
    let twice =
        CreateTopicsRequest::default().with_topics(vec![topic("twice", 1, &[]), topic("twice", 1, &[])]);
    let refused = bench.call(7, &twice).await;
    assert_eq!(refused.topics.len(), 1);
    assert_eq!(refused.topics[0].error_code, code(ResponseError::InvalidRequest));
    let only =
        CreateTopicsRequest::default().with_topics(vec![topic("only", 2, &[])]).with_validate_only(true);
    let validated = bench.call(7, &only).await.topics.remove(0);
    assert_eq!((validated.error_code, validated.num_partitions), (0, 2));
    assert!(bench.node.broker().metadata.image().topic_by_name("only").is_none());

    let wrong =
        CreatePartitionsTopic::default().with_name(name("t_1")).with_count(3).with_assignments(Some(vec![
            CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1)]),
        ]));
    let refused = bench.call(3, &CreatePartitionsRequest::default().with_topics(vec![wrong])).await;
    assert_eq!(refused.results[0].error_code, code(ResponseError::InvalidReplicaAssignment));
    let unknown =
        CreatePartitionsTopic::default().with_name(name("none")).with_count(3).with_assignments(None);
    let refused = bench.call(3, &CreatePartitionsRequest::default().with_topics(vec![unknown])).await;
    assert_eq!(refused.results[0].error_code, code(ResponseError::UnknownTopicOrPartition));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_at_every_version() {
    let bench = Bench::start(&[("broker.rack", "r1")]).await;
    let id = bench.create(7, topic("t", 2, &[])).await.topic_id;
    let port = i32::from(bench.node.broker().addresses["PLAINTEXT"].port());
    for version in versions(ApiKey::Metadata) {
        let all = MetadataRequest::default().with_topics(if version == 0 { Some(vec![]) } else { None });
        let response = bench.call(version, &all).await;
        assert_eq!(response.brokers.len(), 1);
        let broker = &response.brokers[0];
        assert_eq!((broker.node_id.0, &*broker.host, broker.port), (1, "127.0.0.1", port));
        assert_eq!(broker.rack.as_deref(), (version >= 1).then_some("r1"));
        if version >= 1 {
            assert_eq!(response.controller_id.0, 1);
        }
        if version >= 2 {
            assert_eq!(
                response.cluster_id.as_deref(),
                Some(&*bench.node.broker().metadata.image().cluster_id.to_string())
            );
        }
        assert_eq!(response.topics.len(), 1);
        let found = &response.topics[0];
        assert_eq!((found.error_code, found.name.clone()), (0, Some(name("t"))));
        assert_eq!(found.topic_id, if version >= 10 { id } else { Uuid::nil() });
        assert_eq!(found.partitions.len(), 2);
        for (index, partition) in found.partitions.iter().enumerate() {
            assert_eq!((partition.error_code, partition.partition_index), (0, index as i32));
            assert_eq!(partition.leader_id.0, 1);
            assert_eq!(partition.replica_nodes, [BrokerId(1)]);
            assert_eq!(partition.isr_nodes, [BrokerId(1)]);
        }
        if version >= 8 {
            assert_eq!(found.topic_authorized_operations, i32::MIN);
            let request = all.clone().with_include_topic_authorized_operations(true);
            let asked = bench.call(version, &request).await;
            assert_eq!(asked.topics[0].topic_authorized_operations, 0b1101_1111_1000);
        }
        if version >= 1 {
            let none = MetadataRequest::default().with_topics(Some(vec![]));
            assert_eq!(bench.call(version, &none).await.topics, []);
        }
        if version >= 12 {
            let of = |id| MetadataRequestTopic::default().with_topic_id(id).with_name(None);
            let ids = MetadataRequest::default().with_topics(Some(vec![of(id), of(Uuid::new_v4())]));
            let mut found = bench.call(version, &ids).await.topics;
            found.sort_by_key(|topic| topic.error_code);
            assert_eq!((found[0].error_code, found[0].name.clone()), (0, Some(name("t"))));
            assert_eq!(found[1].error_code, code(ResponseError::UnknownTopicId));
        }
    }
    // A topic named many times is answered once.
    let many = MetadataRequest::default().with_topics(by_name(&["t"; 1000]));
    assert_eq!(bench.call(9, &many).await.topics.len(), 1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_when_clients_ask_for_them() {
    let bench = Bench::start(&[("num.partitions", "2")]).await;
    for version in versions(ApiKey::Metadata) {
        let wanted = format!("wanted-{version}");
        let request = MetadataRequest::default().with_topics(by_name(&[&wanted]));
        if version >= 4 {
            let refused = bench.call(version, &request.clone().with_allow_auto_topic_creation(false)).await;
            assert_eq!(refused.topics[0].error_code, code(ResponseError::UnknownTopicOrPartition));
        }
        let created = bench.call(version, &request.with_allow_auto_topic_creation(true)).await;
        assert_eq!(
            (created.topics[0].error_code, created.topics[0].partitions.len()),
            (0, 2),
            "version {version}"
        );
        assert_eq!(created.topics[0].partitions[0].leader_id.0, 1);
        assert!(bench.node.broker().replicas.get(&wanted, 1).is_some(), "it can be used at once");
    }
    let request = MetadataRequest::default().with_topics(by_name(&["a b", "__transaction_state"]));
    let refused = bench.call(9, &request).await;
    let of = |topic: &str| refused.topics.iter().find(|t| t.name == Some(name(topic))).unwrap().error_code;
    assert_eq!(of("a b"), code(ResponseError::InvalidTopicException));
    assert_eq!(of("__transaction_state"), code(ResponseError::UnknownTopicOrPartition));

    // Many clients at once: one creates it, all are answered.
    let request = MetadataRequest::default().with_topics(by_name(&["at-once"]));
    let calls = (0..20).map(|_| bench.call(9, &request));
    for response in futures::future::join_all(calls).await {
        assert_eq!((response.topics[0].error_code, response.topics[0].partitions.len()), (0, 2));
    }

    let request = MetadataRequest::default().with_topics(by_name(&["__consumer_offsets"]));
    let offsets = bench.call(9, &request).await.topics.remove(0);
    assert!(offsets.is_internal);
    assert_eq!(offsets.partitions.len(), 50);
    let configs = bench.describe(TOPIC, "__consumer_offsets").await.unwrap();
    assert_eq!(value(&configs, "cleanup.policy").value.as_deref(), Some("compact"));
    assert_eq!(value(&configs, "segment.bytes").value.as_deref(), Some("104857600"));
    bench.stop().await;

    let bench = Bench::start(&[("auto.create.topics.enable", "false")]).await;
    let request = MetadataRequest::default().with_topics(by_name(&["wanted"]));
    let refused = bench.call(9, &request).await;
    assert_eq!(refused.topics[0].error_code, code(ResponseError::UnknownTopicOrPartition));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_partitions_come_in_pages() {
    let bench = Bench::start(&[]).await;
    for wanted in ["a", "b", "c"] {
        bench.create(7, topic(wanted, 3, &[])).await;
    }
    let mut request = DescribeTopicPartitionsRequest::default().with_response_partition_limit(4);
    let mut seen = Vec::new();
    let mut pages = 0;
    loop {
        let page = bench.call(0, &request).await;
        pages += 1;
        for found in &page.topics {
            assert_eq!(found.error_code, 0);
            seen.extend(
                found
                    .partitions
                    .iter()
                    .map(|p| format!("{}-{}", **found.name.as_ref().unwrap(), p.partition_index)),
            );
        }
        let Some(cursor) = page.next_cursor else { break };
        request.cursor = Some(
            partitions_request::Cursor::default()
                .with_topic_name(cursor.topic_name)
                .with_partition_index(cursor.partition_index),
        );
    }
    let expected: Vec<String> =
        ["a", "b", "c"].iter().flat_map(|t| (0..3).map(move |p| format!("{t}-{p}"))).collect();
    assert_eq!((seen, pages), (expected, 3));

    let of = |topic: &str| partitions_request::TopicRequest::default().with_name(name(topic));
    let named =
        DescribeTopicPartitionsRequest::default().with_topics(vec![of("none"), of("b"), of("b"), of("a b")]);
    let found = bench.call(0, &named.clone().with_response_partition_limit(100)).await;
    let codes: Vec<_> =
        found.topics.iter().map(|t| (t.name.clone().unwrap().to_string(), t.error_code)).collect();
    assert_eq!(
        codes,
        [
            ("a b".to_owned(), code(ResponseError::InvalidTopicException)),
            ("b".to_owned(), 0),
            ("none".to_owned(), code(ResponseError::UnknownTopicOrPartition))
        ]
    );
    assert_eq!(found.topics[1].partitions[0].leader_id.0, 1);
    assert_eq!(found.topics[1].partitions[0].eligible_leader_replicas, Some(vec![]));
    let nothing = named.with_cursor(Some(partitions_request::Cursor::default().with_partition_index(-1)));
    let refused = bench.call(0, &nothing).await;
    assert!(refused.topics.iter().all(|topic| topic.error_code == code(ResponseError::InvalidRequest)));
    // A limit of nothing still makes progress.
    let one = DescribeTopicPartitionsRequest::default().with_response_partition_limit(-5);
    assert_eq!(bench.call(0, &one).await.topics[0].partitions.len(), 1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configs_are_described_and_altered() {
    let bench = Bench::start(&[("log.segment.bytes", "2097152")]).await;
    bench.create(7, topic("t", 1, &[("cleanup.policy", "compact")])).await;
    let configs = bench.describe(TOPIC, "t").await.unwrap();
    let policy = value(&configs, "cleanup.policy");
    assert_eq!((policy.value.as_deref(), policy.config_source, policy.config_type), (Some("compact"), 1, 7));
    assert_eq!(policy.synonyms.len(), 2);
    assert!(policy.documentation.as_ref().unwrap().len() > 10);
    let segment = value(&configs, "segment.bytes");
    assert_eq!((segment.value.as_deref(), segment.config_source), (Some("2097152"), 4));
    assert_eq!(&*segment.synonyms[0].name, "log.segment.bytes");

    assert_eq!(
        bench
            .alter(TOPIC, "t", &[("cleanup.policy", 2, Some("delete")), ("retention.ms", 0, Some("77"))])
            .await
            .0,
        0
    );
    let replica = bench.node.broker().replicas.get("t", 0).unwrap();
    assert_eq!(replica.settings().log.retention_ms, Some(77), "in force when it is answered");
    let configs = bench.describe(TOPIC, "t").await.unwrap();
    assert_eq!(value(&configs, "cleanup.policy").value.as_deref(), Some("compact,delete"));
    assert_eq!(
        bench.alter(TOPIC, "t", &[("cleanup.policy", 3, Some("compact")), ("retention.ms", 1, None)]).await.0,
        0
    );
    let configs = bench.describe(TOPIC, "t").await.unwrap();
    assert_eq!(value(&configs, "cleanup.policy").value.as_deref(), Some("delete"));
    assert_eq!(value(&configs, "retention.ms").config_source, 5);

    let invalid_config = code(ResponseError::InvalidConfig);
    let invalid_request = code(ResponseError::InvalidRequest);
    let unknown = code(ResponseError::UnknownTopicOrPartition);
    for (resource, key, operation, given, error) in [
        ("t", "retention.ms", 0, Some("-7"), invalid_config),
        ("t", "nope", 0, Some("1"), invalid_config),
        ("t", "retention.ms", 2, Some("1"), invalid_config),
        ("t", "cleanup.policy", 2, Some("foo"), invalid_config),
        ("t", "segment.ms", 0, None, invalid_request),
        ("t", "segment.ms", 9, Some("1"), invalid_request),
        ("none", "retention.ms", 0, Some("1"), unknown),
        ("", "retention.ms", 0, Some("1"), invalid_request),
        ("a b", "retention.ms", 0, Some("1"), code(ResponseError::InvalidTopicException)),
    ] {
        let (found, message) = bench.alter(TOPIC, resource, &[(key, operation, given)]).await;
        assert_eq!(found, error, "{resource} {key} {operation}: {message}");
        assert!(!message.is_empty());
    }
    let twice = [("retention.ms", 0, Some("1")), ("retention.ms", 0, Some("2"))];
    assert_eq!(bench.alter(TOPIC, "t", &twice).await.0, invalid_request);
    // One bad key, and nothing of the resource is changed.
    let mixed = [("retention.ms", 0, Some("5")), ("segment.bytes", 0, Some("1"))];
    assert_eq!(bench.alter(TOPIC, "t", &mixed).await.0, invalid_config);
    assert_eq!(replica.settings().log.retention_ms, Some(604_800_000));

    assert_eq!(bench.describe(TOPIC, "none").await.unwrap_err().0, unknown);
    assert_eq!(bench.describe(TOPIC, "a b").await.unwrap_err().0, code(ResponseError::InvalidTopicException));
    assert_eq!(bench.describe(3, "t").await.unwrap_err().0, invalid_request);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn configs_of_brokers_groups_and_the_rest() {
    let bench = Bench::start(&[]).await;
    bench.create(7, topic("t", 1, &[])).await;
    let invalid_request = code(ResponseError::InvalidRequest);
    let configs = bench.describe(BROKER, "1").await.unwrap();
    assert!(configs.len() > 300, "all keys of a broker: {}", configs.len());
    assert!(value(&configs, "num.partitions").read_only);
    assert!(!value(&configs, "log.cleaner.threads").read_only);
    let of_all = bench.describe(BROKER, "").await.unwrap();
    assert_eq!(of_all.len(), 1, "what eligible leader replicas need from the start: {of_all:?}");
    assert_eq!(value(&of_all, "min.insync.replicas").value.as_deref(), Some("1"));
    assert_eq!(bench.describe(BROKER, "9").await.unwrap_err().0, invalid_request);
    assert_eq!(bench.describe(BROKER, "x").await.unwrap_err().0, invalid_request);

    assert_eq!(bench.alter(BROKER, "", &[("message.max.bytes", 0, Some("2000000"))]).await.0, 0);
    let broker = Arc::clone(bench.node.broker());
    assert_eq!(broker.config.dynamic().message_bytes_max, 2_000_000, "in force when it is answered");
    assert_eq!(broker.replicas.get("t", 0).unwrap().settings().batch_bytes_max, 2_000_000, "for topics too");
    assert_eq!(bench.alter(BROKER, "1", &[("message.max.bytes", 0, Some("3000000"))]).await.0, 0);
    assert_eq!(broker.config.dynamic().message_bytes_max, 3_000_000);
    assert_eq!(value(&bench.describe(BROKER, "1").await.unwrap(), "message.max.bytes").config_source, 2);
    assert_eq!(value(&bench.describe(BROKER, "").await.unwrap(), "message.max.bytes").config_source, 3);
    let configs = bench.describe(TOPIC, "t").await.unwrap();
    assert_eq!(value(&configs, "max.message.bytes").config_source, 2);
    assert_eq!(bench.alter(BROKER, "1", &[("message.max.bytes", 1, None)]).await.0, 0);
    assert_eq!(broker.config.dynamic().message_bytes_max, 2_000_000);
    for (resource, key, given) in [
        ("1", "node.id", "5"),
        ("1", "log.cleaner.threads", "abc"),
        ("1", "ssl.keystore.location", "/a"),
        ("", "cordoned.log.dirs", "/a"),
        ("x", "log.cleaner.threads", "2"),
        ("9", "log.cleaner.threads", "2"),
    ] {
        assert_eq!(bench.alter(BROKER, resource, &[(key, 0, Some(given))]).await.0, invalid_request, "{key}");
    }

    assert_eq!(bench.alter(GROUP, "g", &[("consumer.session.timeout.ms", 0, Some("46000"))]).await.0, 0);
    let configs = bench.describe(GROUP, "g").await.unwrap();
    assert_eq!(value(&configs, "consumer.session.timeout.ms").config_source, 8);
    assert_eq!(bench.describe(GROUP, "").await.unwrap_err().0, invalid_request);
    let too_short = bench.alter(GROUP, "g", &[("consumer.session.timeout.ms", 0, Some("1"))]).await;
    assert_eq!(too_short.0, code(ResponseError::InvalidConfig));
    assert_eq!(bench.describe(CLIENT_METRICS, "m").await.unwrap().len(), 3);
    assert_eq!(
        bench.alter(CLIENT_METRICS, "m", &[("interval.ms", 0, Some("1000"))]).await.0,
        invalid_request
    );
    assert_eq!(bench.describe(LOGGER, "1").await.unwrap_err().0, invalid_request);
    assert_eq!(bench.alter(LOGGER, "1", &[("a", 0, Some("DEBUG"))]).await.0, invalid_request);

    let all = bench.call(1, &ListConfigResourcesRequest::default()).await;
    let mut listed: Vec<_> =
        all.config_resources.iter().map(|r| (r.resource_type, r.resource_name.to_string())).collect();
    listed.sort();
    let expected = [(TOPIC, "t"), (BROKER, "1"), (LOGGER, "1"), (GROUP, "g")];
    assert_eq!(listed, expected.map(|(kind, name)| (kind, name.to_owned())));
    let topics =
        bench.call(1, &ListConfigResourcesRequest::default().with_resource_types(vec![TOPIC, TOPIC])).await;
    assert_eq!(topics.config_resources.len(), 1);
    let unknown = bench.call(1, &ListConfigResourcesRequest::default().with_resource_types(vec![7])).await;
    assert_eq!(unknown.error_code, code(ResponseError::UnsupportedVersion));
    assert_eq!(bench.call(0, &ListConfigResourcesRequest::default()).await.config_resources, []);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn config_requests_at_every_version() {
    use alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let bench = Bench::start(&[]).await;
    bench.create(7, topic("t", 1, &[("segment.ms", "5")])).await;
    for version in versions(ApiKey::AlterConfigs) {
        let retention = (1000 + version).to_string();
        let config =
            AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text(&retention)));
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text("t"))
            .with_configs(vec![config]);
        let request = AlterConfigsRequest::default().with_resources(vec![resource.clone()]);
        let validated = bench.call(version, &request.clone().with_validate_only(true)).await;
        assert_eq!(validated.responses[0].error_code, 0);
        let before = bench.describe(TOPIC, "t").await.unwrap();
        assert_ne!(value(&before, "retention.ms").value.as_deref(), Some(&*retention), "only validated");
        assert_eq!(bench.call(version, &request).await.responses[0].error_code, 0);
        let after = bench.describe(TOPIC, "t").await.unwrap();
        assert_eq!(value(&after, "retention.ms").value.as_deref(), Some(&*retention));
        assert_eq!(value(&after, "segment.ms").config_source, 5, "what was not given is gone");
        let twice = AlterConfigsRequest::default().with_resources(vec![resource.clone(), resource]);
        let refused = bench.call(version, &twice).await;
        assert!(refused.responses.iter().all(|r| r.error_code == code(ResponseError::InvalidRequest)));
    }
    for version in versions(ApiKey::IncrementalAlterConfigs) {
        use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
        let config = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("9")));
        let resource = AlterConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text("t"))
            .with_configs(vec![config]);
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
        assert_eq!(bench.call(version, &request).await.responses[0].error_code, 0);
    }
    for version in versions(ApiKey::DescribeConfigs) {
        let resource = DescribeConfigsResource::default()
            .with_resource_type(TOPIC)
            .with_resource_name(text("t"))
            .with_configuration_keys(Some(vec![text("retention.ms"), text("nope")]));
        let request =
            DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
        let described = bench.call(version, &request).await.results.remove(0);
        assert_eq!((described.error_code, described.configs.len()), (0, 1));
        assert_eq!(described.configs[0].value.as_deref(), Some("9"));
        assert_eq!(described.configs[0].config_type, if version >= 3 { 5 } else { 0 });
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_can_make_the_answer_grow_to_is_bounded() {
    let bench = Bench::start(&[]).await;
    let resource = DescribeConfigsResource::default()
        .with_resource_type(BROKER)
        .with_resource_name(text("1"))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource; 3000]);
    let described = bench.call(4, &request).await.results;
    let entries: usize = described.iter().map(|result| result.configs.len()).sum();
    assert!(entries <= 400_000, "{entries}");
    assert_eq!(described.last().unwrap().error_code, code(ResponseError::InvalidRequest));
    assert_eq!(described[0].error_code, 0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_and_its_quorum() {
    let bench = Bench::start(&[]).await;
    bench.create(7, topic("t", 2, &[])).await;
    for version in versions(ApiKey::DescribeCluster) {
        let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(true);
        let described = bench.call(version, &request).await;
        assert_eq!((described.error_code, described.controller_id.0, described.brokers.len()), (0, 1, 1));
        assert_eq!(described.cluster_authorized_operations, 0b1_1111_1010_0000);
        if version >= 1 {
            let controllers = bench.call(version, &request.clone().with_endpoint_type(2)).await;
            assert_eq!(controllers.error_code, code(ResponseError::MismatchedEndpointType));
            let others = bench.call(version, &request.with_endpoint_type(9)).await;
            assert_eq!(others.error_code, code(ResponseError::UnsupportedEndpointType));
        }
    }
    for version in versions(ApiKey::DescribeQuorum) {
        use describe_quorum_request::{PartitionData, TopicData};
        let of = |topic: &str| {
            let topic = TopicData::default()
                .with_topic_name(name(topic))
                .with_partitions(vec![PartitionData::default().with_partition_index(0)]);
            DescribeQuorumRequest::default().with_topics(vec![topic])
        };
        let described = bench.call(version, &of("__cluster_metadata")).await;
        assert_eq!(described.error_code, 0);
        let partition = &described.topics[0].partitions[0];
        assert_eq!((partition.error_code, partition.leader_id.0), (0, 1));
        assert!(partition.leader_epoch > 0 && partition.high_watermark > 0, "{partition:?}");
        assert_eq!(partition.current_voters.len(), 1);
        assert_eq!(partition.current_voters[0].replica_id.0, 1);
        assert!(partition.current_voters[0].log_end_offset >= partition.high_watermark);
        if version >= 1 {
            assert!(partition.current_voters[0].last_fetch_timestamp > 1_600_000_000_000);
        }
        if version >= 2 {
            assert_eq!(described.nodes.len(), 1);
        }
        let other = bench.call(version, &of("t")).await;
        assert_eq!(other.topics[0].partitions[0].error_code, code(ResponseError::UnknownTopicOrPartition));
    }
    for version in versions(ApiKey::ElectLeaders) {
        let partitions = TopicPartitions::default().with_topic(name("t")).with_partitions(vec![0, 99]);
        let request = ElectLeadersRequest::default()
            .with_topic_partitions(Some(vec![partitions]))
            .with_timeout_ms(5000);
        let elected = bench.call(version, &request).await;
        assert_eq!(elected.error_code, 0);
        let codes: Vec<_> = elected.replica_election_results[0]
            .partition_result
            .iter()
            .map(|result| result.error_code)
            .collect();
        assert_eq!(
            codes,
            [code(ResponseError::ElectionNotNeeded), code(ResponseError::UnknownTopicOrPartition)]
        );
        let all = bench.call(version, &request.clone().with_topic_partitions(None)).await;
        assert_eq!((all.error_code, all.replica_election_results.len()), (0, 0));
        if version >= 1 {
            let unknown = bench.call(version, &request.with_election_type(7)).await;
            assert_eq!(unknown.error_code, code(ResponseError::InvalidRequest));
        }
    }
    let moving = bench.call(0, &ListPartitionReassignmentsRequest::default().with_topics(None)).await;
    assert_eq!((moving.error_code, moving.topics.len()), (0, 0));
    for version in versions(ApiKey::UpdateFeatures) {
        let update = |feature: &str, level| {
            let update =
                FeatureUpdateKey::default().with_feature(text(feature)).with_max_version_level(level);
            let update = if version >= 1 { update.with_upgrade_type(1) } else { update };
            UpdateFeaturesRequest::default().with_feature_updates(vec![update]).with_timeout_ms(5000)
        };
        let refused = bench.call(version, &update("nope", 1)).await;
        assert_eq!(refused.error_code, code(ResponseError::InvalidUpdateVersion));
        assert!(refused.error_message.unwrap().contains("nope"));
        let current = bench.node.broker().metadata.image().features.get("metadata.version").copied();
        if let Some(current) = current {
            let same = bench.call(version, &update("metadata.version", current)).await;
            assert_eq!(same.error_code, 0, "{same:?}");
        }
    }
    bench.stop().await;
}
