//! DeleteRecords: API key 21, versions 0 to 2.
//!
//! v2: flexible.
//!
//! Moves the log start offset up to the given offset (-1: the high watermark). It is durable here before the answer: what was
//! deleted does not come back after a crash. Only for topics whose cleanup.policy deletes, and never for internal ones.
//!
//! The answer waits until all replicas on live brokers have deleted it too, so that it does not come back with another leader, and
//! tells the low watermark. After `timeout_ms` it is REQUEST_TIMED_OUT; what the leader deleted stays deleted.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_request::DeleteRecordsPartition;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use ottla_batch::{LeaderEpoch, Offset};

use super::{Close, RequestContext};
use crate::error_map;
use crate::replica::waiters::AckWait;
use crate::replica::{DeletionWait, Replica, ReplicaManager, is_internal_topic};
use crate::threads;

/// Asks for everything below the high watermark.
const UP_TO_HIGH_WATERMARK: i64 = -1;

/// A partition whose leader deleted everything below `upto`.
struct Deleted {
    replica: Arc<Replica>,
    upto: Offset,
}

pub async fn handle(
    cx: RequestContext,
    request: DeleteRecordsRequest,
) -> Result<DeleteRecordsResponse, Close> {
    let limit = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let replicas = cx.broker.replicas.clone();
    // Each partition may cost a synced checkpoint.
    let deleted = threads::blocking(move || {
        let topics = request.topics.into_iter().map(|topic| {
            let delete = |partition: DeleteRecordsPartition| {
                let index = partition.partition_index;
                (index, delete(&replicas, &topic.name, index, partition.offset))
            };
            let partitions: Vec<_> = topic.partitions.into_iter().map(delete).collect();
            (topic.name, partitions)
        });
        topics.collect::<Vec<_>>()
    });
    let deleted = deleted.await.map_err(|error| Close::new(format!("DeleteRecords failed: {error}")))?;

    let wait = AckWait::new();
    let partitions = deleted.iter().flat_map(|(_, partitions)| partitions);
    let waits: Vec<DeletionWait> = partitions
        .filter_map(|(_, deleted)| deleted.as_ref().ok())
        .map(|deleted| deleted.replica.await_low_watermark(deleted.upto, &wait))
        .collect();
    // Who is late shows below.
    let _ = tokio::time::timeout(limit, wait.settled()).await;
    drop(waits);

    let mut response = DeleteRecordsResponse::default();
    for (name, partitions) in deleted {
        let results = partitions.into_iter().map(|(index, deleted)| {
            let result = DeleteRecordsPartitionResult::default().with_partition_index(index);
            match deleted.and_then(outcome) {
                Ok((low_watermark, None)) => result.with_low_watermark(low_watermark.0),
                Ok((low_watermark, Some(error))) => {
                    result.with_low_watermark(low_watermark.0).with_error_code(error.code())
                }
                Err(error) => result.with_low_watermark(-1).with_error_code(error.code()),
            }
        });
        let topic = DeleteRecordsTopicResult::default().with_partitions(results.collect());
        response.topics.push(topic.with_name(name));
    }
    Ok(response)
}

/// The low watermark, and what to say if it is not what was asked for.
fn outcome(deleted: Deleted) -> Result<(Offset, Option<ResponseError>), ResponseError> {
    let low_watermark = deleted.replica.low_watermark().map_err(|error| error_map::leader(&error))?;
    let is_late = low_watermark < deleted.upto;
    Ok((low_watermark, is_late.then_some(ResponseError::RequestTimedOut)))
}

fn delete(
    replicas: &ReplicaManager,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Result<Deleted, ResponseError> {
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
    if upto < replica.log_start_offset() {
        return Ok(Deleted { replica, upto });
    }
    // Asked for before: perhaps by a request that is still on its way to the disk, so this one goes there too.
    if upto > replica.log_start_offset() {
        replica.delete_records(upto).map_err(|error| {
            tracing::error!(topic, partition, %error, "DeleteRecords failed");
            error_map::log_change(&error)
        })?;
    }
    replicas.log_dir_of(&replica).write_checkpoints().map_err(|error| {
        tracing::error!(topic, partition, %error, "the log start offset can't be made durable");
        ResponseError::KafkaStorageError
    })?;
    Ok(Deleted { replica, upto })
}
