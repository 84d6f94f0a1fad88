//! The group APIs against a running node: requests go in encoded, through their rows in the table.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Message, Request, StrBytes};
use ottla_raft::requests::{CreateTopics, NewTopic};

use super::*;
use crate::config::NodeConfig;
use crate::group::{FetchOffsets, GroupCoordinator, GroupError, OFFSETS_TOPIC, ReplicasLog};
use crate::node::{self, Node};

struct Bench {
    node: Node,
}

impl Bench {
    async fn start(dir: &std::path::Path) -> Bench {
        let overrides: Vec<(String, String)> = vec![
            ("listeners".into(), "PLAINTEXT://127.0.0.1:0".into()),
            ("log.dirs".into(), dir.join("data").display().to_string()),
            ("ottla.metrics.listener".into(), String::new()),
            ("group.initial.rebalance.delay.ms".into(), "0".into()),
            ("offsets.topic.num.partitions".into(), "4".into()),
        ];
        let config = NodeConfig::load(None, &overrides).unwrap();
        Bench { node: node::start(config).await.unwrap() }
    }

    async fn call<Q: Request>(&self, version: i16, request: &Q) -> Q::Response {
        let mut body = BytesMut::new();
        request.encode(&mut body, version.min(Q::VERSIONS.max)).unwrap();
        self.call_encoded::<Q>(version, body.freeze()).await
    }

    async fn call_encoded<Q: Request>(&self, version: i16, body: Bytes) -> Q::Response {
        let cx = RequestContext::in_test(self.node.broker(), version, Some(text("client")));
        let reply = match table::row(Q::KEY).unwrap().start(cx, body).unwrap() {
            Started::Serial(answer) | Started::Pipelined(answer) => answer.await.unwrap(),
            Started::Silent => panic!("no answer"),
        };
        let [Part::Bytes(encoded)] = &reply.parts[..] else { panic!("a group answer in parts") };
        let mut encoded = encoded.clone();
        let response = Q::Response::decode(&mut encoded, version.min(Q::Response::VERSIONS.max)).unwrap();
        assert!(encoded.is_empty());
        response
    }

    /// The first request to a coordinator that may still be loading its partition: it is held, not refused.
    async fn fetch_at_once(&self, version: i16) -> OffsetFetchResponse {
        let response = self.call(version, &fetch_request()).await;
        assert_eq!(response.groups[0].error_code, 0);
        response
    }

    async fn topic(&self, name: &str) -> uuid::Uuid {
        let topic = NewTopic {
            name: name.to_owned(),
            partitions: 2,
            replication_factor: 1,
            assignments: Vec::new(),
            configs: Vec::new(),
        };
        let request = CreateTopics { topics: vec![topic], validate_only: false };
        let results = self.node.broker().metadata.submit(request).await.unwrap();
        results[0].result.as_ref().unwrap().id.0
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group() -> GroupId {
    GroupId(text("g"))
}

fn fetch_request() -> OffsetFetchRequest {
    let topic = OffsetFetchRequestTopics::default()
        .with_name(TopicName(text("t")))
        .with_partition_indexes(vec![0, 1]);
    let group = OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(Some(vec![topic]));
    OffsetFetchRequest::default().with_groups(vec![group])
}

fn join_request(member_id: StrBytes) -> JoinGroupRequest {
    JoinGroupRequest::default()
        .with_group_id(group())
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(60_000)
        .with_member_id(member_id)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![
            JoinGroupRequestProtocol::default()
                .with_name(text("range"))
                .with_metadata(Bytes::from_static(&[0; 6])),
        ])
}

fn commit_request(generation: i32, member_id: &StrBytes, partition: i32, offset: i64) -> OffsetCommitRequest {
    let partition =
        OffsetCommitRequestPartition::default().with_partition_index(partition).with_committed_offset(offset);
    OffsetCommitRequest::default()
        .with_group_id(group())
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(member_id.clone())
        .with_topics(vec![
            OffsetCommitRequestTopic::default()
                .with_name(TopicName(text("t")))
                .with_partitions(vec![partition]),
        ])
}

#[tokio::test]
async fn a_group_lives_through_its_apis_and_is_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::start(dir.path()).await;
    let topic_id = bench.topic("t").await;

    let found =
        bench.call(6, &FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")])).await;
    assert_eq!((found.coordinators[0].error_code, &*found.coordinators[0].host), (0, "127.0.0.1"));
    assert!(found.coordinators[0].port > 0);
    for version in 0..4 {
        let found = bench.call(version, &FindCoordinatorRequest::default().with_key(text("g"))).await;
        assert_eq!((found.error_code, found.node_id), (0, BrokerId(found.node_id.0.max(0))), "v{version}");
    }
    let transactional =
        FindCoordinatorRequest::default().with_key_type(1).with_coordinator_keys(vec![text("x")]);
    let found = bench.call(6, &transactional).await;
    assert_eq!(found.coordinators[0].error_code, ResponseError::InvalidRequest.code());
    assert!(found.coordinators[0].error_message.as_ref().unwrap().contains("transactions"));
    bench.fetch_at_once(9).await;

    let asked = bench.call(9, &join_request(text(""))).await;
    assert_eq!(asked.error_code, ResponseError::MemberIdRequired.code());
    let joined = bench.call(9, &join_request(asked.member_id.clone())).await;
    assert_eq!((joined.error_code, joined.generation_id, &joined.leader), (0, 1, &joined.member_id));
    let member_id = joined.member_id.clone();
    let assigned = SyncGroupRequestAssignment::default()
        .with_member_id(member_id.clone())
        .with_assignment(Bytes::from_static(b"a"));
    let sync = SyncGroupRequest::default()
        .with_group_id(group())
        .with_generation_id(1)
        .with_member_id(member_id.clone())
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(vec![assigned]);
    let synced = bench.call(5, &sync).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"a"[..]));
    let heartbeat = HeartbeatRequest::default()
        .with_group_id(group())
        .with_generation_id(1)
        .with_member_id(member_id.clone());
    assert_eq!(bench.call(4, &heartbeat).await.error_code, 0);

    for version in 2..10 {
        let response = bench.call(version, &commit_request(1, &member_id, 0, i64::from(version))).await;
        assert_eq!(response.topics[0].partitions[0].error_code, 0, "v{version}");
    }
    let stale = bench.call(9, &commit_request(7, &member_id, 0, 1)).await;
    assert_eq!(stale.topics[0].partitions[0].error_code, ResponseError::IllegalGeneration.code());
    let beyond = bench.call(9, &commit_request(1, &member_id, 2, 1)).await;
    assert_eq!(beyond.topics[0].partitions[0].error_code, ResponseError::UnknownTopicOrPartition.code());
    let fetched = bench.fetch_at_once(9).await;
    let offsets: Vec<i64> =
        fetched.groups[0].topics[0].partitions.iter().map(|p| p.committed_offset).collect();
    assert_eq!(offsets, [9, -1]);

    // By topic id.
    let mut body = vec![2, 2, b'g', 0, 0xff, 0xff, 0xff, 0xff, 0];
    body.extend([0, 0, 0]);
    let all = bench.call_encoded::<OffsetFetchRequest>(10, body.into()).await;
    assert_eq!(all.groups[0].topics[0].topic_id, topic_id);
    assert_eq!(all.groups[0].topics[0].partitions[0].committed_offset, 9);

    let described = bench.call(6, &DescribeGroupsRequest::default().with_groups(vec![group()])).await;
    assert_eq!((&*described.groups[0].group_state, described.groups[0].members.len()), ("Stable", 1));
    let listed = bench.call(5, &ListGroupsRequest::default().with_states_filter(vec![text("stable")])).await;
    assert_eq!((listed.groups.len(), &*listed.groups[0].group_type), (1, "classic"));
    let delete = DeleteGroupsRequest::default().with_groups_names(vec![group()]);
    assert_eq!(bench.call(2, &delete).await.results[0].error_code, ResponseError::NonEmptyGroup.code());

    // Another coordinator reads the same log.
    let broker = bench.node.broker();
    let partition = broker.groups.partition_of("g");
    let leader_epoch = broker.metadata.image().partition(OFFSETS_TOPIC, partition).unwrap().leader_epoch.0;
    let log = ReplicasLog::new(Arc::clone(&broker.replicas));
    let again = GroupCoordinator::new(broker.config.group.clone(), log);
    again.become_leader(partition, ottla_batch::LeaderEpoch(leader_epoch));
    let mut loaded = Err(GroupError::CoordinatorLoadInProgress);
    for _ in 0..1_000 {
        loaded = again.describe_group(&"g".into()).await;
        if loaded != Err(GroupError::CoordinatorLoadInProgress) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(loaded, broker.groups.describe_group(&"g".into()).await);
    assert_eq!(loaded.unwrap().members.len(), 1);
    let all = FetchOffsets { group_id: "g".into(), topics: None };
    assert_eq!(again.fetch_offsets(&all).await, broker.groups.fetch_offsets(&all).await);

    let leave = LeaveGroupRequest::default().with_group_id(group()).with_member_id(member_id);
    assert_eq!(bench.call(2, &leave).await.error_code, 0);
    assert_eq!(bench.call(2, &delete).await.results[0].error_code, 0);
    let described = bench.call(6, &DescribeGroupsRequest::default().with_groups(vec![group()])).await;
    assert_eq!(described.groups[0].error_code, ResponseError::GroupIdNotFound.code());
    bench.node.shutdown().await;
}
