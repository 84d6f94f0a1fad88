//! DeleteRecords: API key 21, versions 0 to 2.
//!
//! v2: flexible.
//!
//! Moves the log start offset up to the given offset (-1: the high watermark). It is durable before the answer: what was
//! deleted does not come back after a crash. Only for topics whose cleanup.policy deletes, and never for internal ones.

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use ottla_batch::{LeaderEpoch, Offset};

use super::{Close, RequestContext};
use crate::error_map;
use crate::replica::{ReplicaManager, is_internal_topic};
use crate::threads;

/// Asks for everything below the high watermark.
const UP_TO_HIGH_WATERMARK: i64 = -1;

pub async fn handle(
    cx: RequestContext,
    request: DeleteRecordsRequest,
) -> Result<DeleteRecordsResponse, Close> {
    let replicas = cx.broker.replicas.clone();
    // Each partition may cost a synced checkpoint.
    let done = threads::blocking(move || {
        let mut response = DeleteRecordsResponse::default();
        for topic in request.topics {
            let mut answered = DeleteRecordsTopicResult::default().with_name(topic.name.clone());
            for partition in topic.partitions {
                let result =
                    DeleteRecordsPartitionResult::default().with_partition_index(partition.partition_index);
                let deleted = delete(&replicas, &topic.name, partition.partition_index, partition.offset);
                answered.partitions.push(match deleted {
                    Ok(low_watermark) => result.with_low_watermark(low_watermark.0),
                    Err(error) => result.with_low_watermark(-1).with_error_code(error.code()),
                });
            }
            response.topics.push(answered);
        }
        response
    });
    done.await.map_err(|error| Close::new(format!("DeleteRecords failed: {error}")))
}

fn delete(
    replicas: &ReplicaManager,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Offset, ResponseError> {
    if is_internal_topic(topic) {
        return Err(ResponseError::InvalidTopicException);
    }
    let replica = replicas.find(topic, partition).map_err(|error| error_map::lookup(&error))?;
    replica.check_leader(LeaderEpoch::NONE).map_err(|error| error_map::leader(&error))?;
    if !replica.settings().log.cleanup_policy.deletes() {
        return Err(ResponseError::PolicyViolation);
    }
    let upto = match offset {
        UP_TO_HIGH_WATERMARK => replica.high_watermark(),
        // Below the log start there is nothing to do; a negative offset is a mistake.
        0.. => Offset(offset),
        _ => return Err(ResponseError::OffsetOutOfRange),
    };
    if upto > replica.high_watermark() {
        return Err(ResponseError::OffsetOutOfRange);
    }
    let start = match replica.log_start_offset() {
        start if upto < start => return Ok(start),
        // Asked for before: perhaps by a request that is still on its way to the disk, so this one goes there too.
        start if upto == start => start,
        _ => replica.delete_records(upto).map_err(|error| {
            tracing::error!(topic, partition, %error, "DeleteRecords failed");
            error_map::log_change(&error)
        })?,
    };
    replicas.log_dir_of(&replica).write_checkpoints().map_err(|error| {
        tracing::error!(topic, partition, %error, "the log start offset can't be made durable");
        ResponseError::KafkaStorageError
    })?;
    Ok(start)
}
