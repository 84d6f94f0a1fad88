//! Produce: API key 0, versions 3 to 13.
//!
//! v4: KAFKA_STORAGE_ERROR. v5: log start offset. v7: zstd (KIP-110). v8: errors of single records, a message (KIP-467).
//! v9: flexible. v10: current leader and its endpoint with NOT_LEADER_OR_FOLLOWER (KIP-951). v11, v12: transactions
//! version 2 (KIP-890). v13: topic ids (KIP-516).
//!
//! Stage one checks each batch without any lock and appends it; then the connection takes its next request while this one
//! waits for the high watermark. Payload bytes are read from the frame by the checks and by the write to the log, and
//! copied by neither.
//!
//! Different from Kafka: one request may name a partition twice, then both are appended in their order; transactional batches
//! are refused with INVALID_TXN_STATE and a message, because this broker coordinates no transactions.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::produce_request::PartitionProduceData;
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{BrokerId, ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_batch::{AppendOrigin, BatchHeader, Codec, LeaderEpoch, Offset, TimestampMs, check_produced};
use ottla_raft::TopicId;
use ottla_storage::log::Appended;

use super::current_leader::CurrentLeaders;
use super::{Close, Part, Reply, RequestContext, Started, table};
use crate::clock;
use crate::error_map;
use crate::replica::waiters::AckWait;
use crate::replica::{AppendRequest, Replica, RequiredAcks, TopicReplicas, is_internal_topic};

/// `client.id` of Kafka's own admin tools, which alone may write to internal topics.
const ADMIN_CLIENT_ID: &str = "__admin_client";
const ZSTD_FROM_VERSION: i16 = 7;
const CURRENT_LEADER_FROM_VERSION: i16 = 10;
const TOPIC_ID_FROM_VERSION: i16 = 13;

/// What became of one partition in stage one.
enum Outcome {
    Appended { appended: Appended, replica: Arc<Replica>, epoch: LeaderEpoch },
    Refused(Refusal),
}

struct Refusal {
    error: ResponseError,
    message: Option<String>,
    records: Vec<BatchIndexAndErrorMessage>,
}

impl Refusal {
    fn new(error: ResponseError) -> Refusal {
        Refusal { error, message: None, records: Vec::new() }
    }

    fn with(error: ResponseError, message: impl std::fmt::Display) -> Refusal {
        Refusal { error, message: Some(message.to_string()), records: Vec::new() }
    }
}

struct TopicOutcomes {
    name: TopicName,
    topic_id: uuid::Uuid,
    partitions: Vec<(i32, Outcome)>,
}

/// Stage one: everything up to the append.
pub fn start(cx: RequestContext, request: ProduceRequest) -> Result<Started, Close> {
    let acks = match request.acks {
        0 => Some(RequiredAcks::None),
        1 => Some(RequiredAcks::Leader),
        -1 => Some(RequiredAcks::All),
        _ => None,
    };
    let wait = AckWait::new();
    let now = clock::now();
    let mut outcomes = Vec::with_capacity(request.topic_data.len());
    for topic in request.topic_data {
        let found = if cx.api_version >= TOPIC_ID_FROM_VERSION {
            cx.broker.replicas.topic_by_id(TopicId(topic.topic_id))
        } else {
            cx.broker.replicas.topic(&topic.name)
        };
        let mut partitions = Vec::with_capacity(topic.partition_data.len());
        for data in topic.partition_data {
            let index = data.index;
            let outcome = match acks {
                None => Err(Refusal::new(ResponseError::InvalidRequiredAcks)),
                Some(acks) => {
                    let replica = match found.as_ref().and_then(|topic| topic.get(index)) {
                        Some(replica) => Ok(Arc::clone(replica)),
                        None => Err(missing(&cx, found.as_deref(), &topic.name, topic.topic_id, index)),
                    };
                    replica.and_then(|replica| append(&cx, replica, data, acks, &wait, now))
                }
            };
            partitions.push((index, outcome.unwrap_or_else(Outcome::Refused)));
        }
        outcomes.push(TopicOutcomes { name: topic.name, topic_id: topic.topic_id, partitions });
    }
    if acks == Some(RequiredAcks::None) {
        // COMPAT: without an answer the client learns of an error only by a closed connection, upon which it refreshes its
        // metadata.
        return match first_refusal(&outcomes) {
            Some(error) => Err(Close::new(format!("a produce with acks=0 failed: {error}"))),
            None => Ok(Started::Silent),
        };
    }
    if wait.is_settled() {
        let reply = respond(&cx, outcomes, acks, false)?;
        return Ok(Started::Pipelined(Box::pin(std::future::ready(Ok(reply)))));
    }
    let limit = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    Ok(Started::Pipelined(Box::pin(async move {
        let timed_out = match select(wait.settled(), std::pin::pin!(tokio::time::sleep(limit))).await {
            Either::Left(_) => false,
            Either::Right(_) => !wait.is_settled(),
        };
        respond(&cx, outcomes, acks, timed_out)
    })))
}

/// Why there is no replica, for a partition that the fast lookup did not find.
fn missing(
    cx: &RequestContext,
    topic: Option<&TopicReplicas>,
    name: &TopicName,
    topic_id: uuid::Uuid,
    partition: i32,
) -> Refusal {
    let replicas = &cx.broker.replicas;
    let found = match topic {
        Some(topic) => replicas.find_by_id(topic.id, partition),
        None if cx.api_version >= TOPIC_ID_FROM_VERSION => replicas.find_by_id(TopicId(topic_id), partition),
        None => replicas.find(name, partition),
    };
    match found {
        Err(error) => Refusal::with(error_map::lookup(&error), error),
        // It was opened between the two looks; the client tries again.
        Ok(_) => Refusal::new(ResponseError::NotLeaderOrFollower),
    }
}

fn append(
    cx: &RequestContext,
    replica: Arc<Replica>,
    data: PartitionProduceData,
    acks: RequiredAcks,
    wait: &Arc<AckWait>,
    now: TimestampMs,
) -> Result<Outcome, Refusal> {
    let is_admin = cx.client_id.as_ref().is_some_and(|id| id.as_str() == ADMIN_CLIENT_ID);
    if is_internal_topic(replica.topic()) && !is_admin {
        return Err(Refusal::with(
            ResponseError::InvalidTopicException,
            "clients may not write to internal topics",
        ));
    }
    // A cheap look at the role first, so that nothing is checked in vain.
    replica.check_leader(LeaderEpoch::NONE).map_err(|error| Refusal::new(error_map::leader(&error)))?;
    let records = data.records.unwrap_or_default();
    if cx.api_version < ZSTD_FROM_VERSION && is_zstd(&records) {
        let message = "zstd needs Produce version 7 or later";
        return Err(Refusal::with(ResponseError::UnsupportedCompressionType, message));
    }
    let policy = replica.settings().append_policy(now);
    let batches = check_produced(records, &policy).map_err(|error| {
        let records = error
            .record_errors()
            .iter()
            .map(|record| {
                BatchIndexAndErrorMessage::default()
                    .with_batch_index(record.batch_index)
                    .with_batch_index_error_message(Some(StrBytes::from_string(record.to_string())))
            })
            .collect();
        Refusal { records, ..Refusal::with(error_map::batch(&error), &error) }
    })?;
    for batch in batches.iter() {
        if batch.header().is_transactional() {
            let message = "this broker does not support transactions";
            return Err(Refusal::with(ResponseError::InvalidTxnState, message));
        }
    }
    let request = AppendRequest {
        batches: &batches,
        origin: AppendOrigin::Client,
        acks,
        leader_epoch: LeaderEpoch::NONE,
    };
    match replica.append_for(&request, wait) {
        Ok((appended, epoch)) => {
            cx.broker.replicas.counters().on_produced(&batches);
            Ok(Outcome::Appended { appended, replica, epoch })
        }
        Err(error) => Err(Refusal::with(error_map::append(&error), error)),
    }
}

/// As the producer sent it; the topic may store it otherwise.
fn is_zstd(records: &[u8]) -> bool {
    BatchHeader::parse(records).is_ok_and(|header| header.codec().is_ok_and(|codec| codec == Codec::Zstd))
}

fn first_refusal(outcomes: &[TopicOutcomes]) -> Option<ResponseError> {
    outcomes.iter().flat_map(|topic| &topic.partitions).find_map(|(_, outcome)| match outcome {
        Outcome::Refused(refusal) => Some(refusal.error),
        Outcome::Appended { .. } => None,
    })
}

fn respond(
    cx: &RequestContext,
    outcomes: Vec<TopicOutcomes>,
    acks: Option<RequiredAcks>,
    timed_out: bool,
) -> Result<Reply, Close> {
    let mut leaders: Option<CurrentLeaders> = None;
    let mut response = ProduceResponse::default();
    response.responses.reserve(outcomes.len());
    for topic in outcomes {
        let mut answered =
            TopicProduceResponse::default().with_name(topic.name).with_topic_id(topic.topic_id);
        answered.partition_responses.reserve(topic.partitions.len());
        for (index, outcome) in topic.partitions {
            let partition = PartitionProduceResponse::default().with_index(index);
            let mut partition = match outcome {
                Outcome::Appended { appended, replica, epoch } => {
                    let required = match acks {
                        Some(RequiredAcks::All) => appended.last_offset.plus(1),
                        Some(RequiredAcks::Leader | RequiredAcks::None) | None => Offset(0),
                    };
                    match replica.committed(required, epoch) {
                        Ok(()) => succeeded(partition, &appended),
                        Err(_) if timed_out => {
                            refused(partition, Refusal::new(ResponseError::RequestTimedOut))
                        }
                        Err(error) => {
                            refused(partition, Refusal::with(error_map::not_committed(&error), error))
                        }
                    }
                }
                Outcome::Refused(refusal) => refused(partition, refusal),
            };
            if cx.api_version >= CURRENT_LEADER_FROM_VERSION
                && CurrentLeaders::helps_with(partition.error_code)
            {
                let leaders = leaders.get_or_insert_with(|| CurrentLeaders::new(cx));
                partition.current_leader =
                    current_leader(cx, leaders, &answered.name, answered.topic_id, index);
            }
            answered.partition_responses.push(partition);
        }
        response.responses.push(answered);
    }
    let endpoints = leaders.into_iter().flat_map(CurrentLeaders::into_endpoints);
    response.node_endpoints = endpoints
        .map(|endpoint| {
            NodeEndpoint::default()
                .with_node_id(BrokerId(endpoint.node_id))
                .with_host(endpoint.host)
                .with_port(endpoint.port)
                .with_rack(endpoint.rack)
        })
        .collect();
    let encoded = table::encode(&response, cx.api_version)?;
    Ok(Reply { parts: vec![Part::Bytes(encoded)] })
}

fn current_leader(
    cx: &RequestContext,
    leaders: &mut CurrentLeaders,
    name: &TopicName,
    topic_id: uuid::Uuid,
    partition: i32,
) -> LeaderIdAndEpoch {
    let image = Arc::clone(leaders.image());
    let topic = if cx.api_version >= TOPIC_ID_FROM_VERSION {
        image.topic_by_id(TopicId(topic_id))
    } else {
        image.topic_by_name(name)
    };
    leaders.find(topic.map(Arc::as_ref), partition).map_or_else(LeaderIdAndEpoch::default, |leader| {
        LeaderIdAndEpoch::default()
            .with_leader_id(BrokerId(leader.leader_id))
            .with_leader_epoch(leader.leader_epoch)
    })
}

fn succeeded(partition: PartitionProduceResponse, appended: &Appended) -> PartitionProduceResponse {
    partition
        .with_base_offset(appended.base_offset.0)
        .with_log_append_time_ms(appended.log_append_time.map_or(-1, |time| time.0))
        .with_log_start_offset(appended.log_start_offset.0)
}

fn refused(partition: PartitionProduceResponse, refusal: Refusal) -> PartitionProduceResponse {
    partition
        .with_error_code(refusal.error.code())
        .with_base_offset(-1)
        .with_record_errors(refusal.records)
        .with_error_message(refusal.message.map(StrBytes::from_string))
}
