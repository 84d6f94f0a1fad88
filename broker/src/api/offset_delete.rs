//! OffsetDelete: API key 47, version 0 (KIP-496).
//!
//! Offsets of topics that members of the group consume are kept. The answer leaves when the tombstones are durable.

use std::collections::VecDeque;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use super::group_values::owned;
use super::{Close, RequestContext};
use crate::error_map;
use crate::group::DeleteOffsets;

pub async fn handle(cx: RequestContext, request: OffsetDeleteRequest) -> Result<OffsetDeleteResponse, Close> {
    cx.broker.groups.await_loaded([request.group_id.0.as_str()]).await;
    let image = cx.broker.metadata.image();
    let mut known: Vec<(Arc<str>, Vec<i32>)> = Vec::new();
    for topic in &request.topics {
        if image.topic_by_name(&topic.name.0).is_some() {
            let partitions = topic.partitions.iter().map(|partition| partition.partition_index).collect();
            known.push((owned(&topic.name.0)?, partitions));
        }
    }
    let delete = DeleteOffsets { group_id: owned(&request.group_id.0)?, topics: known };
    let mut results: VecDeque<_> = match cx.broker.groups.delete_offsets(delete).await {
        Ok(results) => results.topics.into(),
        Err(error) => {
            let error_code = error_map::group(error).code();
            return Ok(OffsetDeleteResponse::default().with_error_code(error_code));
        }
    };
    let mut response = OffsetDeleteResponse::default();
    for topic in &request.topics {
        // The results are those of the known topics, in the order of the request.
        let of_topic = match results.front() {
            Some((name, _)) if **name == *topic.name.0 => results.pop_front().map(|(_, results)| results),
            Some(_) | None => None,
        };
        let partitions = match of_topic {
            Some(results) => results
                .into_iter()
                .map(|(partition, result)| {
                    (partition, result.err().map_or(0, |error| error_map::group(error).code()))
                })
                .collect(),
            None => {
                let unknown = ResponseError::UnknownTopicOrPartition.code();
                topic
                    .partitions
                    .iter()
                    .map(|partition| (partition.partition_index, unknown))
                    .collect::<Vec<_>>()
            }
        };
        response.topics.push(
            OffsetDeleteResponseTopic::default().with_name(topic.name.clone()).with_partitions(
                partitions
                    .into_iter()
                    .map(|(partition, error_code)| {
                        OffsetDeleteResponsePartition::default()
                            .with_partition_index(partition)
                            .with_error_code(error_code)
                    })
                    .collect(),
            ),
        );
    }
    Ok(response)
}
