//! What a node says about others, which are brokers in name only here: registered, kept alive and fenced by the tests. And
//! what it serves on the listeners of controllers.

use bytes::{BufMut, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableReplicaAssignment;
use kafka_protocol::messages::*;
use ottla_raft::requests::{AssignReplicasToDirs, BrokerHeartbeat, RegisterBroker};
use ottla_raft::{BrokerEpoch, features};
use uuid::Uuid;

use super::admin_tests::{Bench, code, name, text, topic};
use super::*;

/// The id of a broker's log directory.
fn directory(broker: i32, number: u128) -> Uuid {
    Uuid::from_u128(broker as u128 * 100 + number)
}

/// Registered, not running.
struct OtherBroker {
    id: i32,
    epoch: BrokerEpoch,
}

impl OtherBroker {
    async fn register(bench: &Bench, id: i32) -> OtherBroker {
        let endpoint = ottla_raft::Endpoint {
            name: "PLAINTEXT".into(),
            host: format!("broker-{id}").into(),
            port: 9092,
            security_protocol: 0,
        };
        let request = RegisterBroker {
            id: ottla_raft::BrokerId(id),
            incarnation: Uuid::from_u128(id as u128),
            endpoints: vec![endpoint],
            rack: Some(format!("rack-{id}").into()),
            features: features::supported(),
            log_dirs: (0..3).map(|number| directory(id, number)).collect(),
            previous_epoch: None,
        };
        let epoch = bench.broker().metadata.submit(request).await.unwrap().unwrap();
        let other = OtherBroker { id, epoch };
        other.beat(bench, false).await;
        other
    }

    async fn beat(&self, bench: &Bench, want_fence: bool) {
        self.beat_without(bench, want_fence, vec![]).await;
    }

    /// A heartbeat of a broker some of whose log directories failed.
    async fn beat_without(&self, bench: &Bench, want_fence: bool, offline_log_dirs: Vec<Uuid>) {
        let metadata = &bench.broker().metadata;
        let beat = BrokerHeartbeat {
            id: ottla_raft::BrokerId(self.id),
            epoch: self.epoch,
            metadata_offset: metadata.image().last_offset,
            want_fence,
            want_shut_down: false,
            offline_log_dirs,
        };
        let state = metadata.submit(beat).await.unwrap().unwrap();
        assert_eq!(state.is_fenced, want_fence);
    }
}

async fn create(bench: &Bench, topic_: &str, replicas: &[i32]) {
    let assignment = CreatableReplicaAssignment::default()
        .with_partition_index(0)
        .with_broker_ids(replicas.iter().map(|id| BrokerId(*id)).collect());
    let topic = topic(topic_, -1, &[]).with_replication_factor(-1).with_assignments(vec![assignment]);
    let created = bench.create(7, topic).await;
    assert_eq!(created.error_code, 0, "{:?}", created.error_message);
}

fn ids(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|id| id.0).collect()
}

async fn described(bench: &Bench, topic: &str) -> metadata_response::MetadataResponsePartition {
    let asked = metadata_request::MetadataRequestTopic::default().with_name(Some(name(topic)));
    let request = MetadataRequest::default().with_topics(Some(vec![asked]));
    bench.call(12, &request).await.topics.remove(0).partitions.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn other_brokers_are_seen_until_they_are_fenced() {
    let bench = Bench::start(&[]).await;
    let second = OtherBroker::register(&bench, 2).await;
    let third = OtherBroker::register(&bench, 3).await;
    let all = DescribeClusterRequest::default();
    let brokers = bench.call(2, &all).await.brokers;
    assert_eq!(brokers.iter().map(|broker| broker.broker_id.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((&*brokers[1].host, brokers[1].port), ("broker-2", 9092));
    assert_eq!(brokers[1].rack.as_deref(), Some("rack-2"));

    create(&bench, "away", &[2]).await;
    create(&bench, "shared", &[2, 1, 3]).await;
    let partition = described(&bench, "shared").await;
    assert_eq!((partition.error_code, partition.leader_id.0), (0, 2));
    assert_eq!(ids(&partition.offline_replicas), [0; 0]);

    second.beat(&bench, true).await;
    third.beat(&bench, false).await;
    let shown = bench.call(2, &all).await.brokers;
    assert_eq!(shown.iter().map(|broker| broker.broker_id.0).collect::<Vec<_>>(), [1, 3]);
    let with_fenced = bench.call(2, &all.with_include_fenced_brokers(true)).await.brokers;
    assert_eq!(with_fenced.iter().map(|broker| broker.is_fenced).collect::<Vec<_>>(), [false, true, false]);

    let shared = described(&bench, "shared").await;
    assert_eq!((shared.error_code, shared.leader_id.0), (0, 1));
    assert!(shared.leader_epoch > partition.leader_epoch);
    assert_eq!(ids(&shared.replica_nodes), [2, 1, 3]);
    assert_eq!(ids(&shared.isr_nodes), [1, 3]);
    assert_eq!(ids(&shared.offline_replicas), [2]);
    let away = described(&bench, "away").await;
    assert_eq!(away.error_code, code(ResponseError::LeaderNotAvailable));
    assert_eq!((away.leader_id.0, ids(&away.isr_nodes), ids(&away.offline_replicas)), (-1, vec![], vec![2]));

    let asked = describe_topic_partitions_request::TopicRequest::default().with_name(name("away"));
    let request = DescribeTopicPartitionsRequest::default().with_topics(vec![asked]);
    let request = request.with_response_partition_limit(10).with_cursor(None);
    let away = bench.call(0, &request).await.topics.remove(0).partitions.remove(0);
    assert_eq!(away.error_code, code(ResponseError::LeaderNotAvailable));
    assert_eq!((away.leader_id.0, ids(&away.offline_replicas)), (-1, vec![2]));
    assert_eq!(
        away.eligible_leader_replicas.as_deref().map(ids),
        Some(vec![2]),
        "it has all that was acknowledged"
    );
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_the_wrong_broker_is_told_the_right_one() {
    let bench = Bench::start(&[]).await;
    let _second = OtherBroker::register(&bench, 2).await;
    create(&bench, "elsewhere", &[2]).await;
    let id = bench.broker().metadata.image().topic_by_name("elsewhere").unwrap().id.0;

    let partition = fetch_request::FetchPartition::default().with_partition_max_bytes(1024);
    let topic = fetch_request::FetchTopic::default().with_topic_id(id).with_partitions(vec![partition]);
    let request = FetchRequest::default().with_max_bytes(1024).with_topics(vec![topic]);
    let fetched = bench.call(16, &request).await;
    let partition = &fetched.responses[0].partitions[0];
    assert_eq!(partition.error_code, code(ResponseError::NotLeaderOrFollower));
    assert_eq!(partition.current_leader.leader_id.0, 2);
    let [endpoint] = &fetched.node_endpoints[..] else { panic!("{:?}", fetched.node_endpoints) };
    assert_eq!((endpoint.node_id.0, &*endpoint.host, endpoint.port), (2, "broker-2", 9092));
    assert_eq!(endpoint.rack.as_deref(), Some("rack-2"));

    let mut batch = ottla_batch::BatchBuilder::new(ottla_batch::BatchOptions::default());
    batch.push(ottla_batch::TimestampMs(1), None, Some(b"v"), &[]).unwrap();
    let partition =
        produce_request::PartitionProduceData::default().with_records(Some(batch.build().unwrap()));
    let topic = produce_request::TopicProduceData::default()
        .with_name(name("elsewhere"))
        .with_partition_data(vec![partition]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(1000).with_topic_data(vec![topic]);
    let produced = bench.call(12, &request).await;
    let partition = &produced.responses[0].partition_responses[0];
    assert_eq!(partition.error_code, code(ResponseError::NotLeaderOrFollower));
    assert_eq!(partition.current_leader.leader_id.0, 2);
    assert_eq!(produced.node_endpoints.iter().map(|node| node.node_id.0).collect::<Vec<_>>(), [2]);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_in_a_failed_directory_are_offline() {
    let bench = Bench::start(&[]).await;
    let other = OtherBroker::register(&bench, 2).await;
    create(&bench, "t", &[1, 2]).await;
    let id = bench.broker().metadata.image().topic_by_name("t").unwrap().id;
    let assigned = AssignReplicasToDirs {
        broker: ottla_raft::BrokerId(2),
        broker_epoch: other.epoch,
        assignments: vec![(id, 0, directory(2, 1))],
    };
    bench.broker().metadata.submit(assigned).await.unwrap().unwrap();
    assert_eq!(ids(&described(&bench, "t").await.offline_replicas), [0; 0]);
    other.beat_without(&bench, false, vec![directory(2, 0)]).await;
    assert_eq!(ids(&described(&bench, "t").await.offline_replicas), [0; 0]);
    other.beat_without(&bench, false, vec![directory(2, 0), directory(2, 1)]).await;
    assert_eq!(ids(&described(&bench, "t").await.offline_replicas), [2]);
    bench.stop().await;
}

async fn reassign(
    bench: &Bench,
    version: i16,
    topic: &str,
    replicas: Option<&[i32]>,
) -> alter_partition_reassignments_response::AlterPartitionReassignmentsResponse {
    use alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
    let replicas = replicas.map(|ids| ids.iter().map(|id| BrokerId(*id)).collect());
    let partition = ReassignablePartition::default().with_partition_index(0).with_replicas(replicas);
    let topic = ReassignableTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(5000)
        .with_allow_replication_factor_change(version < 1)
        .with_topics(vec![topic]);
    bench.call(version, &request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_move_until_it_is_cancelled() {
    let bench = Bench::start(&[]).await;
    let _second = OtherBroker::register(&bench, 2).await;
    create(&bench, "t", &[1]).await;
    let code_of = |answer: AlterPartitionReassignmentsResponse| {
        assert_eq!((answer.error_code, answer.error_message), (0, None));
        answer.responses[0].partitions[0].error_code
    };
    let moving = async || {
        let answer = bench.call(0, &ListPartitionReassignmentsRequest::default().with_topics(None)).await;
        assert_eq!(answer.error_code, 0);
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        partitions
            .map(|one| (ids(&one.replicas), ids(&one.adding_replicas), ids(&one.removing_replicas)))
            .collect::<Vec<_>>()
    };
    for (version, topic, replicas, expected) in [
        (0, "nope", Some(&[1, 2][..]), ResponseError::UnknownTopicOrPartition),
        (0, "t", Some(&[1, 9]), ResponseError::InvalidReplicaAssignment),
        (0, "t", Some(&[2, 2]), ResponseError::InvalidReplicaAssignment),
        (0, "t", Some(&[]), ResponseError::InvalidReplicaAssignment),
        (1, "t", Some(&[1, 2]), ResponseError::InvalidReplicationFactor),
        (0, "t", None, ResponseError::NoReassignmentInProgress),
    ] {
        let answer = reassign(&bench, version, topic, replicas).await;
        assert_eq!(code_of(answer), code(expected), "{topic} to {replicas:?}");
    }
    assert_eq!(moving().await, []);
    assert_eq!(code_of(reassign(&bench, 1, "t", Some(&[2])).await), 0);
    assert_eq!(moving().await, [(vec![2, 1], vec![2], vec![1])]);
    assert_eq!(code_of(reassign(&bench, 0, "t", None).await), 0);
    assert_eq!(moving().await, []);
    let partition = described(&bench, "t").await;
    assert_eq!((partition.leader_id.0, ids(&partition.replica_nodes)), (1, vec![1]));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_are_elected_as_asked() {
    let bench = Bench::start(&[]).await;
    let second = OtherBroker::register(&bench, 2).await;
    create(&bench, "t", &[2, 1]).await;
    create(&bench, "alone", &[2]).await;
    let elect = async |election, topic: &str| {
        let partitions = elect_leaders_request::TopicPartitions::default()
            .with_topic(name(topic))
            .with_partitions(vec![0]);
        let request = ElectLeadersRequest::default()
            .with_election_type(election)
            .with_topic_partitions(Some(vec![partitions]))
            .with_timeout_ms(5000);
        let answer = bench.call(2, &request).await;
        assert_eq!(answer.error_code, 0);
        answer.replica_election_results[0].partition_result[0].error_code
    };
    let (preferred, unclean) = (0, 1);
    assert_eq!(elect(preferred, "t").await, code(ResponseError::ElectionNotNeeded));
    second.beat(&bench, true).await;
    assert_eq!(elect(preferred, "t").await, code(ResponseError::PreferredLeaderNotAvailable));
    assert_eq!(elect(unclean, "t").await, code(ResponseError::ElectionNotNeeded), "1 leads");
    assert_eq!(elect(unclean, "alone").await, code(ResponseError::EligibleLeadersNotAvailable));
    assert_eq!(elect(unclean, "nope").await, code(ResponseError::UnknownTopicOrPartition));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_wait_for_as_many_brokers_as_their_topic_needs() {
    let bench = Bench::start(&[("offsets.topic.replication.factor", "3")]).await;
    let find = async || {
        let request = FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]);
        bench.call(4, &request).await.coordinators.remove(0).error_code
    };
    let _second = OtherBroker::register(&bench, 2).await;
    assert_eq!(find().await, code(ResponseError::CoordinatorNotAvailable));
    assert!(bench.broker().metadata.image().topic_by_name(crate::group::OFFSETS_TOPIC).is_none());
    let _third = OtherBroker::register(&bench, 3).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while find().await != 0 {
        assert!(std::time::Instant::now() < deadline, "the refusal of a moment ago is over");
        tokio::task::yield_now().await;
    }
    let image = bench.broker().metadata.image();
    let topic = image.topic_by_name(crate::group::OFFSETS_TOPIC).unwrap();
    assert!(topic.partitions.iter().all(|partition| partition.replicas.len() == 3));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_are_unregistered_once() {
    let bench = Bench::start(&[]).await;
    let other = OtherBroker::register(&bench, 2).await;
    let request = UnregisterBrokerRequest::default().with_broker_id(BrokerId(other.id));
    let answer = bench.call(0, &request).await;
    assert_eq!((answer.error_code, answer.error_message), (0, None));
    assert!(bench.broker().metadata.image().broker(ottla_raft::BrokerId(2)).is_none());
    let again = bench.call(0, &request).await;
    assert_eq!(again.error_code, code(ResponseError::BrokerIdNotRegistered));
    assert!(again.error_message.is_some());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn controllers_that_vote_or_are_unknown_are_not_unregistered() {
    let bench = Bench::start(&[]).await;
    let own = bench.broker().config.node_id;
    // CONTROLLER_ID_NOT_REGISTERED
    for (id, expected) in [(own, code(ResponseError::InvalidRequest)), (own + 8, 136)] {
        let mut body = BytesMut::new();
        body.put_i32(id);
        body.put_u8(0);
        let cx = RequestContext::in_test(bench.broker(), 0, None);
        let row = table::row(94).unwrap();
        assert!(row.request_header_is_flexible(0) && row.response_header_is_flexible(0));
        let Started::Serial(answer) = row.start(cx, body.freeze()).unwrap() else { panic!("no answer") };
        let [Part::Bytes(answer)] = &answer.await.unwrap().parts[..] else { panic!("not one part") };
        let message_len = answer.len() - 8;
        assert_eq!(answer[..6], [&[0, 0, 0, 0][..], &expected.to_be_bytes()].concat());
        assert!(message_len > 10 && usize::from(answer[6]) == message_len + 1, "{answer:?}");
        assert_eq!(answer.last(), Some(&0));
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_voters_are_checked() {
    let bench = Bench::start(&[]).await;
    let cluster = text(&bench.broker().metadata.image().cluster_id.to_string());
    let listener = |name: &str, host: &str, port| {
        add_raft_voter_request::Listener::default()
            .with_name(text(name))
            .with_host(text(host))
            .with_port(port)
    };
    let good = AddRaftVoterRequest::default()
        .with_cluster_id(Some(cluster.clone()))
        .with_timeout_ms(1000)
        .with_voter_id(2)
        .with_voter_directory_id(Uuid::from_u128(2))
        .with_listeners(vec![listener("CONTROLLER", "controller-2", 9093)]);
    let invalid = ResponseError::InvalidRequest;
    let refused = [
        (good.clone().with_cluster_id(Some(text("other"))), ResponseError::InconsistentClusterId),
        (good.clone().with_voter_id(-1), invalid),
        (good.clone().with_voter_directory_id(Uuid::nil()), invalid),
        (good.clone().with_listeners(vec![]), invalid),
        (good.clone().with_listeners(vec![listener("OTHER", "controller-2", 9093)]), invalid),
        (good.clone().with_listeners(vec![listener("CONTROLLER", "controller-2", 0)]), invalid),
    ];
    for (request, expected) in refused {
        let answer = bench.call(0, &request).await;
        assert_eq!(answer.error_code, code(expected), "{request:?}");
        assert!(answer.error_message.is_some());
    }
    let good = RemoveRaftVoterRequest::default()
        .with_cluster_id(Some(cluster))
        .with_voter_id(2)
        .with_voter_directory_id(Uuid::from_u128(2));
    for (request, expected) in [
        (good.clone().with_cluster_id(Some(text("other"))), ResponseError::InconsistentClusterId),
        (good.clone().with_voter_id(-1), invalid),
        (good.with_voter_directory_id(Uuid::nil()), invalid),
    ] {
        let answer = bench.call(0, &request).await;
        assert_eq!(answer.error_code, code(expected), "{request:?}");
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_of_controllers_serve_what_controllers_decide() {
    let listeners = "PLAINTEXT://127.0.0.1:0,CONTROLLER://127.0.0.1:0";
    let bench = Bench::start(&[("listeners", listeners)]).await;
    let asked = ApiVersionsRequest::default()
        .with_client_software_name(text("test"))
        .with_client_software_version(text("1"));
    let versions = bench.call_controller(4, &asked).await;
    let mut keys: Vec<i16> = versions.api_keys.iter().map(|key| key.api_key).collect();
    keys.sort();
    // Kafka's, as far as they are offered at all; controllers here do not speak Fetch to each other.
    assert_eq!(keys, [18, 19, 20, 32, 33, 37, 43, 44, 45, 46, 55, 57, 60, 64, 80, 81, 94]);
    let on_brokers = bench.call(4, &asked).await;
    assert_eq!(on_brokers.api_keys.len(), table::rows().len());

    let request = DescribeClusterRequest::default().with_endpoint_type(2);
    let described = bench.call_controller(1, &request).await;
    assert_eq!((described.error_code, described.controller_id.0, described.endpoint_type), (0, 1, 2));
    assert_eq!(described.brokers.iter().map(|node| node.broker_id.0).collect::<Vec<_>>(), [1]);
    assert_eq!(&*described.brokers[0].host, "127.0.0.1");
    let mismatched = bench.call_controller(1, &request.with_endpoint_type(1)).await;
    assert_eq!(mismatched.error_code, code(ResponseError::MismatchedEndpointType));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_changes_only_its_own_configs() {
    use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let bench = Bench::start(&[]).await;
    let _other = OtherBroker::register(&bench, 2).await;
    let of = |broker: &str| {
        let config =
            AlterableConfig::default().with_name(text("log.cleaner.threads")).with_value(Some(text("2")));
        let resource = AlterConfigsResource::default()
            .with_resource_type(4)
            .with_resource_name(text(broker))
            .with_configs(vec![config]);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    };
    let refused = bench.call(1, &of("2")).await.responses.remove(0);
    assert_eq!(refused.error_code, code(ResponseError::InvalidRequest));
    assert!(refused.error_message.unwrap().contains("Unexpected broker id, expected 1"));
    let unknown = bench.call_controller(1, &of("9")).await.responses.remove(0);
    assert_eq!(unknown.error_code, code(ResponseError::BrokerIdNotRegistered));
    for broker in ["1", "2", ""] {
        let changed = bench.call_controller(1, &of(broker)).await.responses.remove(0);
        assert_eq!(changed.error_code, 0, "{changed:?}");
    }
    bench.stop().await;
}
