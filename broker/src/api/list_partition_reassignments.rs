//! ListPartitionReassignments (key 46, version 0, KIP-455): the partitions that are moving. Topics and partitions that do
//! not exist or do not move are left out.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::list_partition_reassignments_response::{
    OngoingPartitionReassignment, OngoingTopicReassignment,
};
use kafka_protocol::messages::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::{Close, RequestContext, topic_listing};

pub async fn handle(
    cx: RequestContext,
    request: ListPartitionReassignmentsRequest,
) -> Result<ListPartitionReassignmentsResponse, Close> {
    let image = cx.broker.metadata.image();
    let wanted: Option<BTreeSet<(&str, i32)>> =
        request.topics.as_ref().map(|topics| topics.iter().flat_map(wanted_of).collect());
    let mut topics: BTreeMap<String, Vec<OngoingPartitionReassignment>> = BTreeMap::new();
    for moving in image.reassignments(None) {
        if wanted.as_ref().is_some_and(|wanted| !wanted.contains(&(&*moving.topic, moving.partition))) {
            continue;
        }
        topics.entry(moving.topic.to_string()).or_default().push(
            OngoingPartitionReassignment::default()
                .with_partition_index(moving.partition)
                .with_replicas(topic_listing::wire_ids(&moving.replicas))
                .with_adding_replicas(topic_listing::wire_ids(&moving.adding_replicas))
                .with_removing_replicas(topic_listing::wire_ids(&moving.removing_replicas)),
        );
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        OngoingTopicReassignment::default()
            .with_name(TopicName(StrBytes::from_string(name)))
            .with_partitions(partitions)
    });
    Ok(ListPartitionReassignmentsResponse::default().with_error_message(None).with_topics(topics.collect()))
}

fn wanted_of(
    topic: &kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics,
) -> impl Iterator<Item = (&str, i32)> {
    topic.partition_indexes.iter().map(|partition| (&**topic.name, *partition))
}
