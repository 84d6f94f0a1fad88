//! What Metadata and DescribeTopicPartitions say about topics and brokers, from one image and for the listener that the
//! client came through.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::BrokerId as WireBrokerId;
use ottla_raft::{Broker, BrokerId, Endpoint, Image, Partition};

use crate::group::OFFSETS_TOPIC;

/// The topics of Kafka's own coordinators; clients hide them from people.
const INTERNAL_TOPICS: [&str; 3] = [OFFSETS_TOPIC, "__transaction_state", "__share_group_state"];

pub fn is_internal(topic: &str) -> bool {
    INTERNAL_TOPICS.contains(&topic)
}

pub fn wire_ids(brokers: &[BrokerId]) -> Vec<WireBrokerId> {
    brokers.iter().map(|id| WireBrokerId(id.0)).collect()
}

/// Brokers that clients of a listener can be sent to, in the order of their ids.
pub fn alive_brokers<'a>(
    image: &'a Image,
    listener: &'a str,
) -> impl Iterator<Item = (&'a Broker, &'a Endpoint)> {
    image
        .brokers
        .values()
        .filter(|broker| !broker.fenced)
        .filter_map(move |broker| Some((&**broker, broker.endpoint(listener)?)))
}

pub fn is_reachable(image: &Image, listener: &str, id: BrokerId) -> bool {
    image.broker(id).is_some_and(|broker| !broker.fenced && broker.endpoint(listener).is_some())
}

/// Who leads, for clients of a listener; -1 with the reason if they cannot reach anybody.
pub fn leader(
    image: &Image,
    listener: &str,
    partition: &Partition,
    knows_listener_not_found: bool,
) -> Result<WireBrokerId, ResponseError> {
    let alive = |id: &BrokerId| image.broker(*id).is_some_and(|broker| !broker.fenced);
    match partition.leader.filter(alive) {
        Some(id) if is_reachable(image, listener, id) => Ok(WireBrokerId(id.0)),
        Some(_) if knows_listener_not_found => Err(ResponseError::ListenerNotFound),
        Some(_) | None => Err(ResponseError::LeaderNotAvailable),
    }
}

/// Replicas whose broker is away, or whose log directory is.
pub fn offline_replicas(image: &Image, listener: &str, partition: &Partition) -> Vec<WireBrokerId> {
    let has_directory = |index: usize, id: BrokerId| {
        let directory = partition.directories.get(index).copied().unwrap_or_default();
        image.broker(id).is_some_and(|broker| broker.has_directory(directory))
    };
    let replicas = partition.replicas.iter().copied().enumerate();
    let offline =
        replicas.filter(|(index, id)| !is_reachable(image, listener, *id) || !has_directory(*index, *id));
    offline.map(|(_, id)| WireBrokerId(id.0)).collect()
}

pub const NO_LEADER: WireBrokerId = WireBrokerId(-1);
