//! ListOffsets: API key 2, versions 1 to 11.
//!
//! v2: isolation level. v4: leader epochs (KIP-320). v5: OFFSET_NOT_AVAILABLE (KIP-207). v6: flexible. v7: -3, the record of
//! the largest timestamp (KIP-734). v8: -4, the earliest local offset (KIP-405). v9: -5, the latest tiered (KIP-1005). v10: a
//! timeout for remote lookups (KIP-1075). v11: -6, the earliest not yet uploaded (KIP-1023), in v10's shape.
//!
//! For a topic without remote storage -4 is the log start, and -5 and -6 answer that there is no such offset, as in Kafka.
//!
//! A time whose answer may lie in the tier alone is looked for there, up to the request's timeout or
//! `remote.list.offsets.request.timeout.ms`: REQUEST_TIMED_OUT after it. The partitions of a request are looked for side by side.
//!
//! Different from Kafka: -3 looks in the tier too.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use ottla_batch::{LeaderEpoch, Offset, TimestampMs};

use super::{Close, RequestContext, fetch_tier};
use crate::error_map;
use crate::replica::{Isolation, ReadBound, Replica};
use crate::tier::read::TierReadError;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

const LEADER_EPOCH_FROM_VERSION: i16 = 4;
const OFFSET_NOT_AVAILABLE_FROM_VERSION: i16 = 5;
const TIMEOUT_FROM_VERSION: i16 = 10;

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

/// Why no offset was found.
#[derive(Debug, thiserror::Error)]
enum LookUpError {
    #[error(transparent)]
    Log(#[from] ottla_storage::log::ReadError),
    #[error(transparent)]
    Tier(#[from] TierReadError),
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
    let timeout = match u64::try_from(request.timeout_ms) {
        Ok(timeout_ms) if cx.api_version >= TIMEOUT_FROM_VERSION && timeout_ms > 0 => {
            Duration::from_millis(timeout_ms)
        }
        _ => cx.broker.config.dynamic().remote_list_offsets_timeout,
    };
    let (cx, twice) = (&cx, &twice);
    let listed = request.topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(move |partition| async move {
            match twice.contains(&(topic.name.clone(), partition.partition_index)) {
                true => Err(ResponseError::InvalidRequest),
                false => list(cx, &topic.name, partition, bound, timeout).await,
            }
        })
    });
    let mut listed = join_all(listed).await.into_iter();
    let mut response = ListOffsetsResponse::default();
    for topic in &request.topics {
        let mut answered = ListOffsetsTopicResponse::default().with_name(topic.name.clone());
        for (partition, listed) in topic.partitions.iter().zip(&mut listed) {
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

async fn list(
    cx: &RequestContext,
    topic: &str,
    partition: &ListOffsetsPartition,
    bound: ReadBound,
    timeout: Duration,
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
    let is_known =
        matches!(partition.timestamp, EARLIEST | EARLIEST_LOCAL | LATEST_TIERED | EARLIEST_PENDING_UPLOAD);
    if !is_known && bound != ReadBound::LogEnd && !replica.knows_its_bounds() {
        return Err(match cx.api_version >= OFFSET_NOT_AVAILABLE_FROM_VERSION {
            true => ResponseError::OffsetNotAvailable,
            false => ResponseError::LeaderNotAvailable,
        });
    }
    let looked_up = tokio::time::timeout(timeout, look_up(cx, &replica, partition.timestamp, bound)).await;
    looked_up.map_err(|_| ResponseError::RequestTimedOut)?.map_err(|error| {
        tracing::error!(topic, partition = partition.partition_index, %error, "offset lookup failed");
        match error {
            LookUpError::Log(error) => error_map::log_read(&error),
            LookUpError::Tier(error) => error_map::tier_read(&error),
        }
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

async fn look_up(
    cx: &RequestContext,
    replica: &Arc<Replica>,
    timestamp: i64,
    bound: ReadBound,
) -> Result<Listed, LookUpError> {
    let at = |offset| Ok(Listed::at(offset, replica.epoch_for_offset(offset)));
    let (log_start, local_start) = (replica.log_start_offset(), replica.local_start_offset());
    let in_tier = (log_start < local_start).then(|| fetch_tier::place(cx, replica, log_start));
    let tier = || cx.broker.tier.as_ref().ok_or(TierReadError::NoTier);
    let found = match timestamp {
        LATEST => return Ok(Listed::at(replica.bound(bound), replica.latest_epoch())),
        EARLIEST => return at(log_start),
        EARLIEST_LOCAL => return at(local_start),
        LATEST_TIERED => {
            return match tier_end(cx, replica) {
                Some(end) => at(end.plus(-1)),
                None => Ok(Listed::NONE),
            };
        }
        EARLIEST_PENDING_UPLOAD if !replica.settings().log.remote_storage => return Ok(Listed::NONE),
        EARLIEST_PENDING_UPLOAD => {
            return at(tier_end(cx, replica).map_or(log_start, |end| end.max(log_start)));
        }
        MAX_TIMESTAMP => {
            let local = replica.offset_of_max_timestamp(bound)?;
            let largest = local.map(|found| found.timestamp);
            match in_tier {
                Some(place) => {
                    let bytes_max = replica.settings().log.decompressed_bytes_max;
                    tier()?.offset_of_max_timestamp(&place, largest, bytes_max).await?.or(local)
                }
                None => local,
            }
        }
        timestamp => {
            let timestamp = TimestampMs(timestamp);
            let tiered = match in_tier {
                Some(place) => {
                    let bytes_max = replica.settings().log.decompressed_bytes_max;
                    tier()?.offset_for_timestamp(&place, timestamp, bytes_max).await?
                }
                None => None,
            };
            match tiered {
                Some(found) => Some(found),
                None => replica.offset_for_timestamp(timestamp, bound)?,
            }
        }
    };
    Ok(found.map_or(Listed::NONE, |found| Listed {
        timestamp: found.timestamp.0,
        offset: found.offset.0,
        leader_epoch: found.leader_epoch.map_or(-1, |epoch| epoch.0),
    }))
}

/// Where the tier of a partition ends, if anything is there.
fn tier_end(cx: &RequestContext, replica: &Replica) -> Option<Offset> {
    if !replica.settings().log.remote_storage {
        return None;
    }
    let position = cx.broker.metadata.image().tier_position(replica.topic_id(), replica.partition())?;
    Some(Offset(position.end_offset)).filter(|end| *end > Offset(0))
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
