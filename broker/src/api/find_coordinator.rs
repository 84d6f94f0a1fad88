//! FindCoordinator: API key 10, versions 0 to 6.
//!
//! v1: key types, error message. v2: throttling before the answer. v3: flexible. v4: several keys (KIP-699). v5: new errors for
//! transactions (KIP-890). v6: share groups (key type 2, KIP-932).
//!
//! The first request creates `__consumer_offsets`; where Kafka answers COORDINATOR_NOT_AVAILABLE until it is there, the
//! answer here waits for it. There is no coordinator of transactions or share groups: such a request is answered with
//! INVALID_REQUEST and a sentence, which a Java producer takes as final, while a retriable error would keep it
//! retrying until its timeout.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::{Image, Partition};

use super::group_values::str_bytes;
use super::{Close, RequestContext, pending_elections};
use crate::error_map;
use crate::group::OFFSETS_TOPIC;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;

const FIRST_BATCHED_VERSION: i16 = 4;

/// Where a coordinator is, or why it is not known.
struct Found {
    node_id: i32,
    host: StrBytes,
    port: i32,
}

struct Refused {
    error: ResponseError,
    message: String,
}

pub async fn handle(
    cx: RequestContext,
    request: FindCoordinatorRequest,
) -> Result<FindCoordinatorResponse, Close> {
    let ready = prepare(&cx, request.key_type).await;
    if ready.is_ok() {
        let keys = || request.coordinator_keys.iter().chain([&request.key]);
        let coordinates = |image: &Image, id| {
            keys().any(|key| partition_of(image, key).is_some_and(|partition| partition.leader == Some(id)))
        };
        pending_elections::await_them(&cx, coordinates).await;
    }
    let find = |key: &StrBytes| match &ready {
        Ok(()) => find_group(&cx, key),
        Err(Refused { error, message }) => Err(Refused { error: *error, message: message.clone() }),
    };
    let mut response = FindCoordinatorResponse::default();
    if cx.api_version >= FIRST_BATCHED_VERSION {
        response.coordinators =
            request.coordinator_keys.iter().map(|key| coordinator(key, find(key))).collect();
        return Ok(response);
    }
    let one = coordinator(&request.key, find(&request.key));
    response.error_code = one.error_code;
    if cx.api_version >= 1 {
        response.error_message = one.error_message;
    }
    response.node_id = one.node_id;
    response.host = one.host;
    response.port = one.port;
    Ok(response)
}

fn coordinator(key: &StrBytes, result: Result<Found, Refused>) -> Coordinator {
    let coordinator = Coordinator::default().with_key(key.clone());
    match result {
        Ok(Found { node_id, host, port }) => {
            coordinator.with_node_id(BrokerId(node_id)).with_host(host).with_port(port)
        }
        Err(Refused { error, message }) => coordinator
            .with_node_id(BrokerId(-1))
            .with_port(-1)
            .with_error_code(error.code())
            .with_error_message(Some(StrBytes::from_string(message))),
    }
}

async fn prepare(cx: &RequestContext, key_type: i8) -> Result<(), Refused> {
    let refused =
        |message: &str| Refused { error: ResponseError::InvalidRequest, message: message.to_owned() };
    match key_type {
        GROUP => {
            let ensured = cx.broker.groups.ensure_topic(&cx.broker.metadata, &cx.broker.config);
            ensured.await.map_err(|error| Refused {
                error: error_map::group(error),
                message: format!("{OFFSETS_TOPIC} is not available yet"),
            })?;
            // A client's next request comes at once, often to this very broker.
            cx.broker.groups.await_followed(cx.broker.metadata.image().last_offset).await;
            Ok(())
        }
        TRANSACTION => Err(refused("this cluster does not support transactions yet")),
        SHARE => Err(refused("this cluster does not support share groups yet")),
        other => Err(refused(&format!("there is no coordinator of key type {other}"))),
    }
}

fn partition_of<'a>(image: &'a Image, group_id: &str) -> Option<&'a Partition> {
    let topic = image.topic_by_name(OFFSETS_TOPIC)?;
    let partitions = i32::try_from(topic.partitions.len()).ok()?;
    topic.partition(crate::group::partition_for(group_id, partitions)).map(|partition| &**partition)
}

fn find_group(cx: &RequestContext, group_id: &str) -> Result<Found, Refused> {
    let unavailable = |message: &str| Refused {
        error: ResponseError::CoordinatorNotAvailable,
        message: message.to_owned(),
    };
    let image = cx.broker.metadata.image();
    let partition =
        partition_of(&image, group_id).ok_or_else(|| unavailable("the group's partition does not exist"))?;
    let broker = partition
        .leader
        .and_then(|leader| image.broker(leader))
        .filter(|broker| !broker.fenced)
        .ok_or_else(|| unavailable("the group's partition has no leader"))?;
    let endpoint = broker
        .endpoint(&cx.connection.listener)
        .ok_or_else(|| unavailable("the coordinator has no address on this listener"))?;
    Ok(Found { node_id: broker.id.0, host: str_bytes(&endpoint.host), port: i32::from(endpoint.port) })
}
