//! DescribeQuorum (key 55, versions 0 to 2, KIP-595): the Raft quorum of the metadata, as the log `__cluster_metadata-0`.
//!
//! Any node answers, with what the active controller sees: only that one knows how far the others are.
//!
//! v1: times of the last fetch (KIP-836). v2: directories, messages with errors, addresses of the voters (KIP-853).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_quorum_response::{
    Listener, Node, PartitionData, ReplicaState, TopicData,
};
use kafka_protocol::messages::{
    BrokerId as WireBrokerId, DescribeQuorumRequest, DescribeQuorumResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::{BrokerId, QuorumInfo, VoterInfo};
use uuid::Uuid;

use super::describe_cluster::split_address;
use super::{Close, RequestContext};
use crate::clock;
use crate::error_map;

const METADATA_TOPIC: &str = "__cluster_metadata";

pub async fn handle(
    cx: RequestContext,
    request: DescribeQuorumRequest,
) -> Result<DescribeQuorumResponse, Close> {
    let asks_for_metadata = matches!(
        &request.topics[..],
        [topic] if &**topic.topic_name == METADATA_TOPIC
            && matches!(&topic.partitions[..], [partition] if partition.partition_index == 0)
    );
    if !asks_for_metadata {
        let error = ResponseError::UnknownTopicOrPartition;
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                PartitionData::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(error.code())
                    .with_error_message(Some(StrBytes::from_string(error.to_string())))
            });
            TopicData::default()
                .with_topic_name(topic.topic_name.clone())
                .with_partitions(partitions.collect())
        });
        return Ok(DescribeQuorumResponse::default().with_error_message(None).with_topics(topics.collect()));
    }

    let refused = |error: ResponseError, message: String| {
        let refused = DescribeQuorumResponse::default().with_error_code(error.code());
        refused.with_error_message(Some(StrBytes::from_string(message)))
    };
    let quorum = match cx.broker.metadata.describe_quorum().await {
        Ok(quorum) => quorum,
        Err(error) => return Ok(refused(error_map::submit(&error), error.to_string())),
    };
    let Some(leader) = quorum.leader else {
        let message = "the quorum has no leader at the moment";
        return Ok(refused(ResponseError::LeaderNotAvailable, message.to_owned()));
    };
    let now = clock::now().0;
    let partition = PartitionData::default()
        .with_partition_index(0)
        .with_error_message(None)
        .with_leader_id(WireBrokerId(leader.0))
        .with_leader_epoch(quorum.leader_epoch)
        .with_high_watermark(quorum.high_watermark)
        .with_current_voters(
            quorum.voters.iter().map(|voter| state(voter, leader, now, cx.api_version)).collect(),
        )
        .with_observers(
            quorum.observers.iter().map(|observer| state(observer, leader, now, cx.api_version)).collect(),
        );
    let topic = TopicData::default()
        .with_topic_name(TopicName(StrBytes::from_static_str(METADATA_TOPIC)))
        .with_partitions(vec![partition]);
    let controller = cx.broker.config.controller_listener_names.first().map_or("CONTROLLER", String::as_str);
    Ok(DescribeQuorumResponse::default()
        .with_error_message(None)
        .with_topics(vec![topic])
        .with_nodes(if cx.api_version >= 2 { nodes(&quorum, controller) } else { Vec::new() }))
}

fn state(replica: &VoterInfo, leader: BrokerId, now: i64, version: i16) -> ReplicaState {
    let before = |elapsed_ms: Option<u64>| match elapsed_ms {
        _ if replica.id == leader => now,
        Some(elapsed) => now.saturating_sub(i64::try_from(elapsed).unwrap_or(i64::MAX)).max(0),
        None => -1,
    };
    ReplicaState::default()
        .with_replica_id(WireBrokerId(replica.id.0))
        .with_replica_directory_id(if version >= 2 { replica.directory_id } else { Uuid::nil() })
        .with_log_end_offset(replica.log_end_offset)
        .with_last_fetch_timestamp(before(replica.silent_ms))
        .with_last_caught_up_timestamp(before(replica.behind_ms))
}

fn nodes(quorum: &QuorumInfo, listener: &str) -> Vec<Node> {
    let of_voter = |voter: &VoterInfo| {
        let address = quorum.addresses.get(&voter.id).and_then(|address| split_address(address));
        let listeners = address.map(|(host, port)| {
            Listener::default()
                .with_name(StrBytes::from_string(listener.to_owned()))
                .with_host(StrBytes::from_string(host.to_owned()))
                .with_port(port)
        });
        Node::default().with_node_id(WireBrokerId(voter.id.0)).with_listeners(listeners.into_iter().collect())
    };
    quorum.voters.iter().map(of_voter).collect()
}
