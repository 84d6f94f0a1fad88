//! OffsetFetch: API key 9, versions 1 to 10.
//!
//! v2: no topics ask for all, errors of the group. v3, v4: throttling. v5: leader epochs (KIP-320). v6: flexible. v7: require_stable
//! (KIP-447): with no transactions every committed offset is stable. v8: several groups (KIP-709). v9: member id and epoch
//! of KIP-848, which a classic group does not look at. v10: topics by id.

use std::sync::Arc;

use futures::future::try_join_all;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{GroupId, OffsetFetchRequest, OffsetFetchResponse, TopicName};
use ottla_raft::{Image, TopicId};

use super::group_values::{owned, str_bytes};
use super::{Close, RequestContext};
use crate::error_map;
use crate::group::{FetchOffsets, FetchedOffset, FetchedOffsets, GroupError};

const FIRST_WITH_GROUP_ERROR: i16 = 2;
const FIRST_BATCHED_VERSION: i16 = 8;
const FIRST_WITH_TOPIC_IDS: i16 = 10;

pub async fn handle(cx: RequestContext, request: OffsetFetchRequest) -> Result<OffsetFetchResponse, Close> {
    let mut response = OffsetFetchResponse::default();
    if cx.api_version >= FIRST_BATCHED_VERSION {
        cx.broker.groups.await_loaded(request.groups.iter().map(|group| group.group_id.0.as_str())).await;
        let image = cx.broker.metadata.image();
        // Side by side: each may have to wait for a proof that this broker still coordinates it.
        let groups = request.groups.iter().map(|group| fetch_group(&cx, &image, group));
        response.groups = try_join_all(groups).await?;
        return Ok(response);
    }
    cx.broker.groups.await_loaded([request.group_id.0.as_str()]).await;
    match fetch(&cx, &request.group_id, topics_by_name(request.topics.as_deref())?).await? {
        Ok(fetched) => {
            response.topics =
                fetched.topics.into_iter().map(|(name, offsets)| old_topic(&name, offsets)).collect();
        }
        Err(error) if cx.api_version >= FIRST_WITH_GROUP_ERROR => {
            response.error_code = error_map::group(error).code();
        }
        Err(error) => {
            let error_code = error_map::group(error).code();
            response.topics = refused_topics(request.topics.as_deref().unwrap_or(&[]), error_code);
        }
    }
    Ok(response)
}

type Wanted = Option<Vec<(Arc<str>, Vec<i32>)>>;

async fn fetch(
    cx: &RequestContext,
    group_id: &GroupId,
    topics: Wanted,
) -> Result<Result<FetchedOffsets, GroupError>, Close> {
    let request = FetchOffsets { group_id: owned(&group_id.0)?, topics };
    Ok(cx.broker.groups.fetch_offsets(&request).await)
}

// ---- one group, up to v7

fn topics_by_name(topics: Option<&[OffsetFetchRequestTopic]>) -> Result<Wanted, Close> {
    let wanted =
        |topic: &OffsetFetchRequestTopic| Ok((owned(&topic.name.0)?, topic.partition_indexes.clone()));
    topics.map(|topics| topics.iter().map(wanted).collect()).transpose()
}

fn old_topic(name: &str, offsets: Vec<FetchedOffset>) -> OffsetFetchResponseTopic {
    let partition = |fetched: FetchedOffset| {
        OffsetFetchResponsePartition::default()
            .with_partition_index(fetched.partition)
            .with_committed_offset(fetched.offset)
            .with_committed_leader_epoch(fetched.leader_epoch)
            .with_metadata(Some(str_bytes(&fetched.metadata)))
    };
    OffsetFetchResponseTopic::default()
        .with_name(TopicName(str_bytes(name)))
        .with_partitions(offsets.into_iter().map(partition).collect())
}

fn refused_topics(topics: &[OffsetFetchRequestTopic], error_code: i16) -> Vec<OffsetFetchResponseTopic> {
    let partition = |partition: &i32| {
        OffsetFetchResponsePartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(-1)
            .with_metadata(Some(str_bytes("")))
            .with_error_code(error_code)
    };
    let topic = |topic: &OffsetFetchRequestTopic| {
        OffsetFetchResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(topic.partition_indexes.iter().map(partition).collect())
    };
    topics.iter().map(topic).collect()
}

// ---- several groups, from v8

async fn fetch_group(
    cx: &RequestContext,
    image: &Image,
    group: &OffsetFetchRequestGroup,
) -> Result<OffsetFetchResponseGroup, Close> {
    let by_id = cx.api_version >= FIRST_WITH_TOPIC_IDS;
    let mut response = OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone());
    let mut unknown = Vec::new();
    let wanted = match &group.topics {
        None => None,
        Some(topics) => {
            let mut wanted = Vec::with_capacity(topics.len());
            for topic in topics {
                let name = if by_id {
                    image.topic_by_id(TopicId(topic.topic_id)).map(|known| Arc::clone(&known.name))
                } else {
                    Some(owned(&topic.name.0)?)
                };
                match name {
                    Some(name) => wanted.push((name, topic.partition_indexes.clone())),
                    None => unknown.push((topic.topic_id, &topic.partition_indexes)),
                }
            }
            Some(wanted)
        }
    };
    let fetched = match fetch(cx, &group.group_id, wanted).await? {
        Ok(fetched) => fetched,
        Err(error) => return Ok(response.with_error_code(error_map::group(error).code())),
    };
    for (name, offsets) in fetched.topics {
        let mut topic = OffsetFetchResponseTopics::default();
        if by_id {
            // Asked for all: what has no id any more cannot be named.
            let Some(known) = image.topic_by_name(&name) else { continue };
            topic.topic_id = known.id.0;
        } else {
            topic.name = TopicName(str_bytes(&name));
        }
        topic.partitions = offsets.into_iter().map(new_partition).collect();
        response.topics.push(topic);
    }
    let error_code = ResponseError::UnknownTopicId.code();
    for (topic_id, partitions) in unknown {
        let none = |partition: &i32| {
            let fetched =
                FetchedOffset { partition: *partition, offset: -1, leader_epoch: -1, metadata: "".into() };
            new_partition(fetched).with_error_code(error_code)
        };
        response.topics.push(
            OffsetFetchResponseTopics::default()
                .with_topic_id(topic_id)
                .with_partitions(partitions.iter().map(none).collect()),
        );
    }
    Ok(response)
}

fn new_partition(fetched: FetchedOffset) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions::default()
        .with_partition_index(fetched.partition)
        .with_committed_offset(fetched.offset)
        .with_committed_leader_epoch(fetched.leader_epoch)
        .with_metadata(Some(str_bytes(&fetched.metadata)))
}
