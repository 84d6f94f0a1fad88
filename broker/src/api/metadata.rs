//! Metadata (key 3, versions 0 to 13): brokers and topics, with auto-creation.
//!
//! v1: null asks for all topics, an empty list for none (v0: an empty list for all); controller, racks, internal topics.
//! v2: cluster id. v4: the client says whether missing topics may be created. v5: offline replicas. v7: leader epochs.
//! v8 to v10: authorized operations of the cluster. v10: topic ids in the answer (KIP-516). v12: topics by id.
//! v13: an error for the whole answer (KIP-1102), which a single cluster never gives.
//!
//! Unlike Kafka, a topic that was just created is waited for and answered with its real leader, so that a first produce
//! does not begin with LEADER_NOT_AVAILABLE and a pause; so is the next leader where the one so far just died.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId as WireBrokerId, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::metadata::decide::check_topic_name;
use ottla_raft::{BrokerId, Image, Partition, Topic, TopicId};
use uuid::Uuid;

use super::{Close, RequestContext, authorized_operations, auto_create, pending_elections, topic_listing};

pub async fn handle(cx: RequestContext, request: MetadataRequest) -> Result<MetadataResponse, Close> {
    let version = cx.api_version;
    let wanted = Wanted::of(&request, version);
    let mut refused = BTreeMap::new();
    let may_create =
        (version < 4 || request.allow_auto_topic_creation) && cx.broker.config.topic_defaults.auto_create;
    if may_create && let Wanted::Some { names, .. } = &wanted {
        let image = cx.broker.metadata.image();
        let missing = names
            .iter()
            .filter(|name| image.topic_by_name(name).is_none() && check_topic_name(name).is_ok())
            .map(|name| name.to_string())
            .collect::<Vec<_>>();
        if !missing.is_empty() {
            refused = auto_create::create_missing(&cx.broker, missing).await;
        }
    }

    let asked_at = cx.broker.metadata.image();
    let names =
        |image: &Image, id| wanted.names_leader(image, id) || cx.broker.metadata.controller_id() == Some(id);
    pending_elections::await_them(&cx, names).await;
    let image = cx.broker.metadata.image();
    let answer = Answer { image: &image, listener: &cx.connection.listener, version, request: &request };
    let topics = match &wanted {
        Wanted::All => image.topics_by_name().map(|topic| answer.topic(topic)).collect(),
        Wanted::Some { names, ids, malformed } => {
            let mut topics: Vec<_> = ids.iter().map(|id| answer.by_id(*id)).collect();
            topics.extend(names.iter().map(|name| answer.by_name(name, refused.get(&**name).copied())));
            topics.extend(malformed.iter().cloned());
            topics
        }
    };
    // COMPAT: librdkafka drops a broker that is not named any more, and with it the partitions that the same answer moves away
    // from there, until it looks again a second later. So a client hears of the brokers too that were there when it asked.
    let was_alive = |id| asked_at.broker(id).is_some_and(|broker| !broker.fenced);
    let named = image.brokers.values().filter(|broker| !broker.fenced || was_alive(broker.id));
    let brokers = named
        .filter_map(|broker| Some((broker, broker.endpoint(&cx.connection.listener)?)))
        .map(|(broker, endpoint)| {
            MetadataResponseBroker::default()
                .with_node_id(WireBrokerId(broker.id.0))
                .with_host(StrBytes::from_string(endpoint.host.to_string()))
                .with_port(endpoint.port.into())
                .with_rack(broker.rack.as_deref().map(|rack| StrBytes::from_string(rack.to_owned())))
        })
        .collect();
    let asked_for_cluster = request.include_cluster_authorized_operations && (8..=10).contains(&version);
    Ok(MetadataResponse::default()
        .with_brokers(brokers)
        .with_cluster_id(Some(StrBytes::from_string(image.cluster_id.to_string())))
        .with_controller_id(controller(&cx, &image))
        .with_topics(topics)
        .with_cluster_authorized_operations(authorized_operations::of_cluster(asked_for_cluster)))
}

/// Where clients send what the controller decides. COMPAT: it has to be a broker that they see.
pub(super) fn controller(cx: &RequestContext, image: &Image) -> WireBrokerId {
    let reachable = |id| topic_listing::is_reachable(image, &cx.connection.listener, id);
    let leader = cx.broker.metadata.quorum().leader.filter(|id| reachable(*id));
    let any =
        || topic_listing::alive_brokers(image, &cx.connection.listener).next().map(|(broker, _)| broker.id);
    leader.or_else(any).map_or(WireBrokerId(-1), |id| WireBrokerId(id.0))
}

/// The topics that a request asks for, each once: repeating a name must not multiply the answer.
enum Wanted {
    All,
    Some { names: BTreeSet<StrBytes>, ids: BTreeSet<Uuid>, malformed: Vec<MetadataResponseTopic> },
}

impl Wanted {
    fn of(request: &MetadataRequest, version: i16) -> Wanted {
        let Some(topics) = &request.topics else { return Wanted::All };
        if version == 0 && topics.is_empty() {
            return Wanted::All;
        }
        let (mut names, mut ids, mut malformed) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for topic in topics {
            match &topic.name {
                Some(name) if topic.topic_id.is_nil() => {
                    names.insert(name.0.clone());
                }
                None if version >= 12 && !topic.topic_id.is_nil() => {
                    ids.insert(topic.topic_id);
                }
                // v10 and v11 have the field, but not the lookup; a topic with neither or both is nothing.
                name => {
                    let name = name.clone().or_else(|| (version < 12).then(TopicName::default));
                    malformed.push(failed(name, topic.topic_id, ResponseError::InvalidRequest));
                }
            }
        }
        Wanted::Some { names, ids, malformed }
    }

    fn names_leader(&self, image: &Image, id: BrokerId) -> bool {
        let led = |topic: &Arc<Topic>| topic.partitions.iter().any(|partition| partition.leader == Some(id));
        match self {
            Wanted::All => image.topics_by_name().any(led),
            Wanted::Some { names, ids, .. } => {
                names.iter().filter_map(|name| image.topic_by_name(name)).any(led)
                    || ids.iter().filter_map(|id| image.topic_by_id(TopicId(*id))).any(led)
            }
        }
    }
}

fn failed(name: Option<TopicName>, id: Uuid, error: ResponseError) -> MetadataResponseTopic {
    MetadataResponseTopic::default()
        .with_error_code(error.code())
        .with_is_internal(name.as_ref().is_some_and(|name| topic_listing::is_internal(name)))
        .with_name(name)
        .with_topic_id(id)
        .with_topic_authorized_operations(authorized_operations::NOT_ASKED)
}

struct Answer<'a> {
    image: &'a Image,
    listener: &'a str,
    version: i16,
    request: &'a MetadataRequest,
}

impl Answer<'_> {
    fn by_name(&self, name: &StrBytes, refused: Option<ResponseError>) -> MetadataResponseTopic {
        match self.image.topic_by_name(name) {
            Some(topic) => self.topic(topic),
            None => {
                let error = match check_topic_name(name) {
                    Err(_) => ResponseError::InvalidTopicException,
                    Ok(()) => refused.unwrap_or(ResponseError::UnknownTopicOrPartition),
                };
                failed(Some(TopicName(name.clone())), Uuid::nil(), error)
            }
        }
    }

    fn by_id(&self, id: Uuid) -> MetadataResponseTopic {
        match self.image.topic_by_id(TopicId(id)) {
            Some(topic) => self.topic(topic),
            None => failed(None, id, ResponseError::UnknownTopicId),
        }
    }

    fn topic(&self, topic: &Topic) -> MetadataResponseTopic {
        let partitions = topic.partitions.iter().enumerate();
        let asked = self.request.include_topic_authorized_operations && self.version >= 8;
        MetadataResponseTopic::default()
            .with_name(Some(TopicName(StrBytes::from_string(topic.name.to_string()))))
            .with_topic_id(topic.id.0)
            .with_is_internal(topic_listing::is_internal(&topic.name))
            .with_partitions(partitions.map(|(index, state)| self.partition(index as i32, state)).collect())
            .with_topic_authorized_operations(authorized_operations::of_topic(asked))
    }

    fn partition(&self, index: i32, state: &Partition) -> MetadataResponsePartition {
        let leader = topic_listing::leader(self.image, self.listener, state, self.version >= 6);
        let mut replicas = topic_listing::wire_ids(&state.replicas);
        let mut in_sync = topic_listing::wire_ids(&state.isr);
        let mut error = leader.err();
        if self.version == 0 {
            // COMPAT: the oldest clients look every replica up among the brokers of the answer.
            let count = replicas.len() + in_sync.len();
            let reachable = |id: &WireBrokerId| {
                topic_listing::is_reachable(self.image, self.listener, ottla_raft::BrokerId(id.0))
            };
            replicas.retain(reachable);
            in_sync.retain(reachable);
            if replicas.len() + in_sync.len() < count {
                error = error.or(Some(ResponseError::ReplicaNotAvailable));
            }
        }
        MetadataResponsePartition::default()
            .with_error_code(error.map_or(0, |error| error.code()))
            .with_partition_index(index)
            .with_leader_id(leader.unwrap_or(topic_listing::NO_LEADER))
            .with_leader_epoch(state.leader_epoch.0)
            .with_replica_nodes(replicas)
            .with_isr_nodes(in_sync)
            .with_offline_replicas(topic_listing::offline_replicas(self.image, self.listener, state))
    }
}
