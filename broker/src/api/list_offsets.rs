//! ListOffsets: API key 2, versions 1 to 11.
//!
//! v2: isolation level. v4: leader epochs (KIP-320). v5: OFFSET_NOT_AVAILABLE (KIP-207). v6: flexible. v7: -3, the record of
//! the largest timestamp (KIP-734). v8: -4, the earliest local offset (KIP-405). v9: -5, the latest tiered (KIP-1005). v10: a
//! timeout for remote lookups (KIP-1075). v11: -6, the earliest not yet uploaded (KIP-1023), in v10's shape.
//!
//! Nothing lies in a tier here: -4 is the log start, -5 and -6 answer that there is no such offset, as Kafka does for a
//! topic without remote storage.

use std::collections::HashSet;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use ottla_batch::{LeaderEpoch, Offset, TimestampMs};

use super::{Close, RequestContext};
use crate::error_map;
use crate::replica::{Isolation, ReadBound, Replica};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

const LEADER_EPOCH_FROM_VERSION: i16 = 4;
const OFFSET_NOT_AVAILABLE_FROM_VERSION: i16 = 5;

/// `replica_id` of a consumer or an admin client.
const CONSUMER: i32 = -1;

/// An offset as it is answered; -1 stands for "there is none".
struct Listed {
    timestamp: i64,
    offset: i64,
    leader_epoch: i32,
}

impl Listed {
    const NONE: Listed = Listed { timestamp: -1, offset: -1, leader_epoch: -1 };

    fn at(offset: Offset, leader_epoch: Option<LeaderEpoch>) -> Listed {
        Listed { timestamp: -1, offset: offset.0, leader_epoch: leader_epoch.map_or(-1, |epoch| epoch.0) }
    }
}

pub async fn handle(cx: RequestContext, request: ListOffsetsRequest) -> Result<ListOffsetsResponse, Close> {
    let bound = match (request.replica_id.0, request.isolation_level) {
        (CONSUMER, 1) => Isolation::ReadCommitted.into(),
        (CONSUMER, _) => Isolation::ReadUncommitted.into(),
        _ => ReadBound::LogEnd,
    };
    let mut seen = HashSet::new();
    let mut twice = HashSet::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            if !seen.insert((&topic.name, partition.partition_index)) {
                twice.insert((topic.name.clone(), partition.partition_index));
            }
        }
    }
    let mut response = ListOffsetsResponse::default();
    for topic in &request.topics {
        let mut answered = ListOffsetsTopicResponse::default().with_name(topic.name.clone());
        for partition in &topic.partitions {
            let listed = match twice.contains(&(topic.name.clone(), partition.partition_index)) {
                true => Err(ResponseError::InvalidRequest),
                false => list(&cx, &topic.name, partition, bound),
            };
            let data =
                ListOffsetsPartitionResponse::default().with_partition_index(partition.partition_index);
            answered.partitions.push(match listed {
                Ok(listed) => {
                    let data = data.with_timestamp(listed.timestamp).with_offset(listed.offset);
                    match cx.api_version >= LEADER_EPOCH_FROM_VERSION {
                        true => data.with_leader_epoch(listed.leader_epoch),
                        false => data,
                    }
                }
                Err(error) => data.with_error_code(error.code()),
            });
        }
        response.topics.push(answered);
    }
    Ok(response)
}

fn list(
    cx: &RequestContext,
    topic: &str,
    partition: &ListOffsetsPartition,
    bound: ReadBound,
) -> Result<Listed, ResponseError> {
    check_timestamp(partition.timestamp, cx.api_version)?;
    let replica = cx
        .broker
        .replicas
        .find(topic, partition.partition_index)
        .map_err(|error| error_map::lookup(&error))?;
    replica
        .check_leader(LeaderEpoch(partition.current_leader_epoch))
        .map_err(|error| error_map::leader(&error))?;
    let starts = matches!(partition.timestamp, EARLIEST | EARLIEST_LOCAL);
    if !starts && bound != ReadBound::LogEnd && !replica.knows_its_bounds() {
        return Err(match cx.api_version >= OFFSET_NOT_AVAILABLE_FROM_VERSION {
            true => ResponseError::OffsetNotAvailable,
            false => ResponseError::LeaderNotAvailable,
        });
    }
    look_up(&replica, partition.timestamp, bound).map_err(|error| {
        tracing::error!(topic, partition = partition.partition_index, %error, "offset lookup failed");
        error_map::log_read(&error)
    })
}

/// Refuses the special timestamps that the version does not know, and those that nobody does.
fn check_timestamp(timestamp: i64, version: i16) -> Result<(), ResponseError> {
    let from_version = match timestamp {
        LATEST | EARLIEST => 1,
        MAX_TIMESTAMP => 7,
        EARLIEST_LOCAL => 8,
        LATEST_TIERED => 9,
        EARLIEST_PENDING_UPLOAD => 11,
        0.. => 1,
        _ => i16::MAX,
    };
    if version >= from_version { Ok(()) } else { Err(ResponseError::UnsupportedVersion) }
}

fn look_up(
    replica: &Arc<Replica>,
    timestamp: i64,
    bound: ReadBound,
) -> Result<Listed, ottla_storage::log::ReadError> {
    let found = match timestamp {
        LATEST => return Ok(Listed::at(replica.bound(bound), replica.latest_epoch())),
        EARLIEST | EARLIEST_LOCAL => {
            let start = replica.log_start_offset();
            return Ok(Listed::at(start, replica.epoch_for_offset(start)));
        }
        LATEST_TIERED | EARLIEST_PENDING_UPLOAD => return Ok(Listed::NONE),
        MAX_TIMESTAMP => replica.offset_of_max_timestamp(bound)?,
        timestamp => replica.offset_for_timestamp(TimestampMs(timestamp), bound)?,
    };
    Ok(found.map_or(Listed::NONE, |found| Listed {
        timestamp: found.timestamp.0,
        offset: found.offset.0,
        leader_epoch: found.leader_epoch.map_or(-1, |epoch| epoch.0),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_timestamps_need_their_version() {
        for (timestamp, from) in
            [(-1, 1), (-2, 1), (-3, 7), (-4, 8), (-5, 9), (-6, 11), (0, 1), (i64::MAX, 1)]
        {
            for version in 1..=11 {
                let expected = if version >= from { Ok(()) } else { Err(ResponseError::UnsupportedVersion) };
                assert_eq!(
                    check_timestamp(timestamp, version),
                    expected,
                    "timestamp {timestamp} version {version}"
                );
            }
        }
        assert_eq!(check_timestamp(-7, 11), Err(ResponseError::UnsupportedVersion));
    }
}
