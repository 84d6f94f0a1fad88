//! DescribeTopicPartitions (key 75, version 0, KIP-966): topics in the order of their names, a page at a time, with the
//! eligible leader replicas. A page ends after `response_partition_limit` partitions, at most
//! `max.request.partition.size.limit`; the cursor says where the next one begins.

use std::collections::BTreeSet;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::metadata::decide::check_topic_name;
use ottla_raft::{Image, Partition, Topic};
use uuid::Uuid;

use super::{Close, RequestContext, authorized_operations, topic_listing};

pub async fn handle(
    cx: RequestContext,
    request: DescribeTopicPartitionsRequest,
) -> Result<DescribeTopicPartitionsResponse, Close> {
    let image = cx.broker.metadata.image();
    let limit = usize::try_from(request.response_partition_limit)
        .unwrap_or(0)
        .min(cx.broker.config.describe_partitions_max);
    Ok(page(&image, &cx.connection.listener, &request, limit.max(1)))
}

fn page(
    image: &Image,
    listener: &str,
    request: &DescribeTopicPartitionsRequest,
    limit: usize,
) -> DescribeTopicPartitionsResponse {
    let (from_topic, from_partition) = match &request.cursor {
        Some(cursor) => (cursor.topic_name.0.clone(), cursor.partition_index),
        None => (StrBytes::default(), 0),
    };
    let mut response = DescribeTopicPartitionsResponse::default();
    if from_partition < 0 {
        let names = request.topics.iter().map(|topic| topic.name.clone()).collect::<BTreeSet<_>>();
        response.topics = names.into_iter().map(|name| failed(name, ResponseError::InvalidRequest)).collect();
        return response;
    }
    let asks_for_all = request.topics.is_empty();
    let names: BTreeSet<StrBytes> = if asks_for_all {
        image.topic_names.keys().map(|name| StrBytes::from_string(name.to_string())).collect()
    } else {
        request.topics.iter().map(|topic| topic.name.0.clone()).collect()
    };
    let mut left = limit;
    for name in names.into_iter().filter(|name| *name >= from_topic) {
        if left == 0 {
            response.next_cursor = Some(cursor(name, 0));
            break;
        }
        let Some(topic) = image.topic_by_name(&name) else {
            let error = match check_topic_name(&name) {
                Ok(()) => ResponseError::UnknownTopicOrPartition,
                Err(_) => ResponseError::InvalidTopicException,
            };
            response.topics.push(failed(TopicName(name), error));
            continue;
        };
        let first = if name == from_topic { from_partition as usize } else { 0 };
        let partitions: Vec<_> = topic
            .partitions
            .iter()
            .enumerate()
            .skip(first)
            .take(left)
            .map(|(index, state)| partition(image, listener, index as i32, state))
            .collect();
        left -= partitions.len();
        let next = first.saturating_add(partitions.len());
        let is_cut = next < topic.partitions.len();
        response.topics.push(described(topic, partitions));
        if is_cut {
            response.next_cursor = Some(cursor(name, next as i32));
            break;
        }
    }
    response
}

fn cursor(topic: StrBytes, partition: i32) -> Cursor {
    Cursor::default().with_topic_name(TopicName(topic)).with_partition_index(partition)
}

fn failed(name: TopicName, error: ResponseError) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(error.code())
        .with_is_internal(topic_listing::is_internal(&name))
        .with_name(Some(name))
        .with_topic_id(Uuid::nil())
        .with_topic_authorized_operations(authorized_operations::NOT_ASKED)
}

fn described(
    topic: &Topic,
    partitions: Vec<DescribeTopicPartitionsResponsePartition>,
) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(topic.name.to_string()))))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic_listing::is_internal(&topic.name))
        .with_partitions(partitions)
        .with_topic_authorized_operations(authorized_operations::of_topic(true))
}

fn partition(
    image: &Image,
    listener: &str,
    index: i32,
    state: &Partition,
) -> DescribeTopicPartitionsResponsePartition {
    let leader = topic_listing::leader(image, listener, state, true);
    DescribeTopicPartitionsResponsePartition::default()
        .with_error_code(leader.err().map_or(0, |error| error.code()))
        .with_partition_index(index)
        .with_leader_id(leader.unwrap_or(topic_listing::NO_LEADER))
        .with_leader_epoch(state.leader_epoch.0)
        .with_replica_nodes(topic_listing::wire_ids(&state.replicas))
        .with_isr_nodes(topic_listing::wire_ids(&state.isr))
        .with_eligible_leader_replicas(Some(topic_listing::wire_ids(&state.elr)))
        .with_last_known_elr(Some(topic_listing::wire_ids(&state.last_known_elr)))
        .with_offline_replicas(topic_listing::offline_replicas(image, listener, state))
}
