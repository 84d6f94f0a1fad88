//! OffsetForLeaderEpoch: API key 23, versions 2 to 4.
//!
//! v2: the client's own leader epoch, for fencing (KIP-320). v3: replica id. v4: flexible.
//!
//! Where the asked epoch, or the largest one before it, ends in this leader's log: consumers find out by it whether what they
//! read was truncated. An epoch that the log does not know is answered with -1 and -1.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use kafka_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};
use ottla_batch::LeaderEpoch;
use ottla_storage::log::EpochEnd;

use super::{Close, RequestContext};
use crate::error_map;

pub async fn handle(
    cx: RequestContext,
    request: OffsetForLeaderEpochRequest,
) -> Result<OffsetForLeaderEpochResponse, Close> {
    let mut response = OffsetForLeaderEpochResponse::default();
    for topic in request.topics {
        let mut answered = OffsetForLeaderTopicResult::default().with_topic(topic.topic.clone());
        for partition in &topic.partitions {
            let end = EpochEndOffset::default().with_partition(partition.partition);
            answered.partitions.push(match epoch_end(&cx, &topic.topic, partition) {
                Ok(Some(found)) => {
                    end.with_leader_epoch(found.leader_epoch.0).with_end_offset(found.end_offset.0)
                }
                Ok(None) => end.with_leader_epoch(-1).with_end_offset(-1),
                Err(error) => end.with_error_code(error.code()).with_leader_epoch(-1).with_end_offset(-1),
            });
        }
        response.topics.push(answered);
    }
    Ok(response)
}

fn epoch_end(
    cx: &RequestContext,
    topic: &str,
    partition: &OffsetForLeaderPartition,
) -> Result<Option<EpochEnd>, ResponseError> {
    let replica =
        cx.broker.replicas.find(topic, partition.partition).map_err(|error| error_map::lookup(&error))?;
    replica
        .check_leader(LeaderEpoch(partition.current_leader_epoch))
        .map_err(|error| error_map::leader(&error))?;
    Ok(replica.end_offset_for_epoch(LeaderEpoch(partition.leader_epoch)))
}
