//! OffsetCommit: API key 8, versions 2 to 10.
//!
//! v3, v4: throttling. v5: no retention time. v6: leader epochs (KIP-320). v7: static members (KIP-345). v8: flexible. v9: member
//! epochs of KIP-848, errors for them. v10: topics by id.
//!
//! The answer leaves when the offsets are durable. Where Kafka takes offsets for any partition number of a known topic, one
//! that the topic does not have is UNKNOWN_TOPIC_OR_PARTITION here: it bounds what a client can store.

use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};
use ottla_raft::{Image, Topic, TopicId};

use super::group_values::{owned, owned_option};
use super::{Close, RequestContext};
use crate::error_map;
use crate::group::{CommitOffsets, CommitPartition, CommitTopic, GroupError, PartitionResults};

const FIRST_WITH_TOPIC_IDS: i16 = 10;
const LAST_WITH_RETENTION: i16 = 4;
const NO_RETENTION: i64 = -1;

pub async fn handle(cx: RequestContext, request: OffsetCommitRequest) -> Result<OffsetCommitResponse, Close> {
    cx.broker.groups.await_loaded([request.group_id.0.as_str()]).await;
    let image = cx.broker.metadata.image();
    let mut response = OffsetCommitResponse::default();
    let mut topics = Vec::new();
    for topic in &request.topics {
        let known = find_topic(&image, topic, cx.api_version);
        let (answered, accepted) = split(topic, known, cx.api_version)?;
        response.topics.push(answered);
        if let Some(accepted) = accepted {
            topics.push((response.topics.len() - 1, accepted));
        }
    }
    if topics.is_empty() {
        return Ok(response);
    }
    let (places, topics): (Vec<usize>, Vec<CommitTopic>) = topics.into_iter().unzip();
    let has_retention = cx.api_version <= LAST_WITH_RETENTION && request.retention_time_ms != NO_RETENTION;
    let commit = CommitOffsets {
        group_id: owned(&request.group_id.0)?,
        generation: request.generation_id_or_member_epoch,
        member_id: owned(&request.member_id)?,
        instance_id: owned_option(&request.group_instance_id)?,
        retention_ms: has_retention.then_some(request.retention_time_ms),
        topics,
    };
    let result = cx.broker.groups.commit_offsets(&commit).await;
    fill_in(&mut response, &places, &commit.topics, result);
    Ok(response)
}

fn find_topic(
    image: &Image,
    topic: &OffsetCommitRequestTopic,
    version: i16,
) -> Result<Arc<Topic>, ResponseError> {
    if version >= FIRST_WITH_TOPIC_IDS {
        image.topic_by_id(TopicId(topic.topic_id)).cloned().ok_or(ResponseError::UnknownTopicId)
    } else {
        image.topic_by_name(&topic.name.0).cloned().ok_or(ResponseError::UnknownTopicOrPartition)
    }
}

/// What is refused at once, and what goes to the coordinator.
fn split(
    topic: &OffsetCommitRequestTopic,
    known: Result<Arc<Topic>, ResponseError>,
    version: i16,
) -> Result<(OffsetCommitResponseTopic, Option<CommitTopic>), Close> {
    let mut answered = OffsetCommitResponseTopic::default();
    if version >= FIRST_WITH_TOPIC_IDS {
        answered.topic_id = topic.topic_id;
    } else {
        answered.name = topic.name.clone();
    }
    let mut accepted = Vec::new();
    for partition in &topic.partitions {
        let error = match &known {
            Err(error) => Some(*error),
            Ok(known) if known.partition(partition.partition_index).is_none() => {
                Some(ResponseError::UnknownTopicOrPartition)
            }
            Ok(_) => None,
        };
        match error {
            Some(error) => answered.partitions.push(answer(partition.partition_index, error.code())),
            None => accepted.push(CommitPartition {
                partition: partition.partition_index,
                offset: partition.committed_offset,
                leader_epoch: partition.committed_leader_epoch,
                // Its bound, offset.metadata.max.bytes, is the coordinator's to answer.
                metadata: partition.committed_metadata.as_deref().unwrap_or("").into(),
            }),
        }
    }
    let accepted = match known {
        Ok(known) if !accepted.is_empty() => {
            Some(CommitTopic { name: Arc::clone(&known.name), partitions: accepted })
        }
        Ok(_) | Err(_) => None,
    };
    Ok((answered, accepted))
}

fn fill_in(
    response: &mut OffsetCommitResponse,
    places: &[usize],
    topics: &[CommitTopic],
    result: Result<PartitionResults, GroupError>,
) {
    match result {
        Ok(results) => {
            for (place, (_, partitions)) in places.iter().zip(results.topics) {
                let answers = partitions.into_iter().map(|(partition, result)| {
                    answer(partition, result.err().map_or(0, |error| error_map::group(error).code()))
                });
                response.topics[*place].partitions.extend(answers);
            }
        }
        Err(error) => {
            let error_code = error_map::group(error).code();
            for (place, topic) in places.iter().zip(topics) {
                let answers = topic.partitions.iter().map(|commit| answer(commit.partition, error_code));
                response.topics[*place].partitions.extend(answers);
            }
        }
    }
}

fn answer(partition: i32, error_code: i16) -> OffsetCommitResponsePartition {
    OffsetCommitResponsePartition::default().with_partition_index(partition).with_error_code(error_code)
}
