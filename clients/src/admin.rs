//! Administration: topics, configurations, groups and offsets.
//!
//! Each function asks for many things at once where the protocol can, and answers per item, as the broker does: one
//! unknown topic does not hide what became of the others.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest,
    DeleteTopicsRequest, DescribeConfigsRequest, DescribeGroupsRequest, IncrementalAlterConfigsRequest,
    ListGroupsRequest, ListOffsetsRequest, OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::{Request, StrBytes};

use crate::cluster::{AutoCreate, Cluster};
use crate::connection::Connection;
use crate::error::ClientError;
use crate::wire::{ErrorCode, said, text};

pub type TopicPartition = (String, i32);

/// What became of one item of a request.
pub type ItemResult<T> = (String, Result<T, ClientError>);

#[derive(Debug, Clone, Default)]
pub struct NewTopic {
    pub name: String,
    /// None: the broker's `num.partitions`.
    pub partitions: Option<i32>,
    /// None: the broker's `default.replication.factor`.
    pub replication_factor: Option<i16>,
    pub configs: Vec<(String, String)>,
}

/// As the broker tells since version 5 of the API; None from older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreatedTopic {
    pub partitions: Option<i32>,
    pub replication_factor: Option<i16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResourceType {
    Topic,
    Broker,
}

impl ResourceType {
    fn code(self) -> i8 {
        match self {
            ResourceType::Topic => 2,
            ResourceType::Broker => 4,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    pub name: String,
    /// None where it is sensitive or has no value.
    pub value: Option<String>,
    pub source: ConfigSource,
    pub read_only: bool,
    pub sensitive: bool,
    pub documentation: Option<String>,
}

/// Where a value comes from, in Kafka's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    DynamicTopic,
    DynamicBroker,
    DynamicDefaultBroker,
    StaticBroker,
    Default,
    Other(i8),
}

impl ConfigSource {
    fn of(code: i8) -> ConfigSource {
        match code {
            1 => ConfigSource::DynamicTopic,
            2 => ConfigSource::DynamicBroker,
            3 => ConfigSource::DynamicDefaultBroker,
            4 => ConfigSource::StaticBroker,
            5 => ConfigSource::Default,
            other => ConfigSource::Other(other),
        }
    }

    /// Whether someone set it, rather than the program's default being in force.
    pub fn is_set(self) -> bool {
        self != ConfigSource::Default
    }

    pub fn name(self) -> &'static str {
        match self {
            ConfigSource::DynamicTopic => "topic",
            ConfigSource::DynamicBroker => "broker",
            ConfigSource::DynamicDefaultBroker => "all brokers",
            ConfigSource::StaticBroker => "server.properties",
            ConfigSource::Default => "default",
            ConfigSource::Other(_) => "other",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    Set(String, String),
    Delete(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    pub id: String,
    pub protocol_type: String,
    /// Empty from brokers before version 4 of the API.
    pub state: String,
    /// Empty from brokers before version 5 of the API.
    pub group_type: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedGroup {
    pub id: String,
    pub state: String,
    pub protocol_type: String,
    pub assignor: String,
    pub members: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub host: String,
    pub assignment: Vec<TopicPartition>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedOffset {
    pub offset: i64,
    pub leader_epoch: i32,
}

/// Which offset of a partition is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OffsetSpec {
    /// The log start.
    Earliest,
    /// The high watermark: the offset of the next record.
    Latest,
    /// The first record at this time or later, in milliseconds since 1970.
    Timestamp(i64),
}

impl OffsetSpec {
    fn wire(self) -> i64 {
        match self {
            OffsetSpec::Latest => -1,
            OffsetSpec::Earliest => -2,
            OffsetSpec::Timestamp(ms) => ms,
        }
    }
}

fn item_error(what: String, code: i16, message: Option<&StrBytes>) -> Result<(), ClientError> {
    // The broker's own sentence says which value was wrong; ours says it shorter where there is no value to name.
    ErrorCode::check(code).map_err(|code| {
        let informative = matches!(code.0, 37 | 38 | 39 | 40 | 42 | 44) || code.meaning().is_empty();
        ClientError::Refused { what, code, message: said(message).filter(|_| informative) }
    })
}

/// Sends to the controller until it is one.
async fn send_controller<R: Request>(
    cluster: &Cluster,
    request: &R,
    codes: impl Fn(&R::Response) -> Vec<i16>,
) -> Result<R::Response, ClientError> {
    let mut retry = cluster.retry();
    loop {
        let attempt = async {
            let response = cluster.controller().await?.send(request).await?;
            if codes(&response).contains(&ErrorCode::NOT_CONTROLLER.0) {
                return Err(ClientError::refused("controller", ErrorCode::NOT_CONTROLLER));
            }
            Ok(response)
        };
        match attempt.await {
            Ok(response) => return Ok(response),
            Err(error) => {
                retry.pause_after(error).await?;
                cluster.refresh_brokers().await?;
            }
        }
    }
}

fn timeout_ms(cluster: &Cluster) -> i32 {
    i32::try_from(cluster.config().operation_timeout.as_millis()).unwrap_or(i32::MAX)
}

pub async fn create_topics(
    cluster: &Cluster,
    topics: &[NewTopic],
) -> Result<Vec<ItemResult<CreatedTopic>>, ClientError> {
    let wanted = topics
        .iter()
        .map(|t| {
            CreatableTopic::default()
                .with_name(text(&t.name).into())
                .with_num_partitions(t.partitions.unwrap_or(-1))
                .with_replication_factor(t.replication_factor.unwrap_or(-1))
                .with_configs(
                    t.configs
                        .iter()
                        .map(|(name, value)| {
                            CreatableTopicConfig::default()
                                .with_name(text(name))
                                .with_value(Some(text(value)))
                        })
                        .collect(),
                )
        })
        .collect();
    let request = CreateTopicsRequest::default().with_topics(wanted).with_timeout_ms(timeout_ms(cluster));
    let response =
        send_controller(cluster, &request, |r| r.topics.iter().map(|t| t.error_code).collect()).await?;
    let results = response.topics.iter().map(|t| {
        let name = t.name.to_string();
        let created = CreatedTopic {
            partitions: Some(t.num_partitions).filter(|n| *n > 0),
            replication_factor: Some(t.replication_factor).filter(|n| *n > 0),
        };
        let result = item_error(format!("topic {name}"), t.error_code, t.error_message.as_ref());
        (name, result.map(|()| created))
    });
    Ok(results.collect())
}

pub async fn delete_topics(cluster: &Cluster, names: &[String]) -> Result<Vec<ItemResult<()>>, ClientError> {
    let by_state = cluster.controller().await?.version_of::<DeleteTopicsRequest>()? >= 6;
    let mut request = DeleteTopicsRequest::default().with_timeout_ms(timeout_ms(cluster));
    if by_state {
        request.topics =
            names.iter().map(|n| DeleteTopicState::default().with_name(Some(text(n).into()))).collect();
    } else {
        request.topic_names = names.iter().map(|n| text(n).into()).collect();
    }
    let response =
        send_controller(cluster, &request, |r| r.responses.iter().map(|t| t.error_code).collect()).await?;
    for name in names {
        cluster.forget_topic(name);
    }
    let results = response.responses.iter().map(|t| {
        let name = t.name.as_ref().map(|n| n.to_string()).unwrap_or_default();
        let result = item_error(format!("topic {name}"), t.error_code, t.error_message.as_ref());
        (name, result)
    });
    Ok(results.collect())
}

/// Raises a topic's number of partitions to `count`.
pub async fn create_partitions(cluster: &Cluster, name: &str, count: i32) -> Result<(), ClientError> {
    let request = CreatePartitionsRequest::default().with_timeout_ms(timeout_ms(cluster)).with_topics(vec![
        CreatePartitionsTopic::default()
            .with_name(text(name).into())
            .with_count(count)
            .with_assignments(None),
    ]);
    let response =
        send_controller(cluster, &request, |r| r.results.iter().map(|t| t.error_code).collect()).await?;
    cluster.forget_topic(name);
    match response.results.first() {
        Some(t) => item_error(format!("topic {name}"), t.error_code, t.error_message.as_ref()),
        None => Err(ClientError::Invalid(format!("topic {name}: the broker's answer is empty"))),
    }
}

/// A resource's connection: a broker answers for itself, any of them for topics and for all brokers.
async fn resource_connection(
    cluster: &Cluster,
    resource: ResourceType,
    name: &str,
) -> Result<std::sync::Arc<Connection>, ClientError> {
    match (resource, name) {
        (ResourceType::Topic, _) | (ResourceType::Broker, "") => cluster.any().await,
        (ResourceType::Broker, id) => {
            let id = id
                .parse()
                .map_err(|_| ClientError::Invalid(format!("not a broker id: {id:?} (expected a number)")))?;
            if !cluster.brokers().iter().any(|b| b.id == id) {
                return Err(ClientError::refused(format!("broker {id}"), ErrorCode::BROKER_NOT_AVAILABLE));
            }
            cluster.broker(id).await
        }
    }
}

fn resource_label(resource: ResourceType, name: &str) -> String {
    match (resource, name) {
        (ResourceType::Topic, name) => format!("topic {name}"),
        (ResourceType::Broker, "") => "all brokers".to_owned(),
        (ResourceType::Broker, id) => format!("broker {id}"),
    }
}

/// The configuration of one resource, ordered by name. An empty broker name means the default of all brokers.
pub async fn describe_configs(
    cluster: &Cluster,
    resource: ResourceType,
    name: &str,
    documentation: bool,
) -> Result<Vec<ConfigEntry>, ClientError> {
    let request =
        DescribeConfigsRequest::default().with_include_documentation(documentation).with_resources(vec![
            DescribeConfigsResource::default()
                .with_resource_type(resource.code())
                .with_resource_name(text(name))
                .with_configuration_keys(None),
        ]);
    let response = resource_connection(cluster, resource, name).await?.send(&request).await?;
    let label = resource_label(resource, name);
    let result = response
        .results
        .first()
        .ok_or_else(|| ClientError::Invalid(format!("{label}: the broker's answer is empty")))?;
    item_error(label, result.error_code, result.error_message.as_ref())?;
    let mut entries: Vec<ConfigEntry> = result
        .configs
        .iter()
        .map(|c| ConfigEntry {
            name: c.name.to_string(),
            value: c.value.as_ref().map(|v| v.to_string()),
            source: ConfigSource::of(c.config_source),
            read_only: c.read_only,
            sensitive: c.is_sensitive,
            documentation: said(c.documentation.as_ref()),
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Changes the named keys and leaves the others as they are (KIP-339).
pub async fn alter_configs(
    cluster: &Cluster,
    resource: ResourceType,
    name: &str,
    changes: &[ConfigChange],
) -> Result<(), ClientError> {
    let configs = changes
        .iter()
        .map(|change| match change {
            ConfigChange::Set(key, value) => AlterableConfig::default()
                .with_name(text(key))
                .with_config_operation(0)
                .with_value(Some(text(value))),
            ConfigChange::Delete(key) => {
                AlterableConfig::default().with_name(text(key)).with_config_operation(1).with_value(None)
            }
        })
        .collect();
    let request = IncrementalAlterConfigsRequest::default().with_resources(vec![
        AlterConfigsResource::default()
            .with_resource_type(resource.code())
            .with_resource_name(text(name))
            .with_configs(configs),
    ]);
    let response = resource_connection(cluster, resource, name).await?.send(&request).await?;
    let label = resource_label(resource, name);
    match response.responses.first() {
        Some(r) => item_error(label, r.error_code, r.error_message.as_ref()),
        None => Err(ClientError::Invalid(format!("{label}: the broker's answer is empty"))),
    }
}

/// The groups of all brokers, ordered by id.
pub async fn list_groups(cluster: &Cluster) -> Result<Vec<ListedGroup>, ClientError> {
    let mut groups = BTreeMap::new();
    for broker in cluster.brokers() {
        let mut retry = cluster.retry();
        let response = loop {
            let attempt = async {
                let response = cluster.broker(broker.id).await?.send(&ListGroupsRequest::default()).await?;
                ErrorCode::check(response.error_code)
                    .map_err(|code| ClientError::refused(format!("groups of broker {}", broker.id), code))?;
                Ok(response)
            };
            match attempt.await {
                Ok(response) => break response,
                Err(error) => retry.pause_after(error).await?,
            }
        };
        for group in &response.groups {
            let id = group.group_id.0.to_string();
            let listed = ListedGroup {
                id: id.clone(),
                protocol_type: group.protocol_type.to_string(),
                state: group.group_state.to_string(),
                group_type: group.group_type.to_string(),
            };
            groups.insert(id, listed);
        }
    }
    Ok(groups.into_values().collect())
}

/// One group: its state and members. A group that is not there is an error, whatever the broker's version says.
pub async fn describe_group(cluster: &Cluster, group: &str) -> Result<DescribedGroup, ClientError> {
    let request = DescribeGroupsRequest::default().with_groups(vec![text(group).into()]);
    let response =
        cluster.send_coordinator(group, &request, |r| r.groups.first().map_or(0, |g| g.error_code)).await?;
    let label = format!("group {group}");
    let described = response
        .groups
        .first()
        .ok_or_else(|| ClientError::Invalid(format!("{label}: the broker's answer is empty")))?;
    item_error(label.clone(), described.error_code, None)?;
    if described.group_state.as_str() == "Dead" {
        return Err(ClientError::refused(label, ErrorCode::GROUP_ID_NOT_FOUND));
    }
    let members = described
        .members
        .iter()
        .map(|m| Member {
            id: m.member_id.to_string(),
            instance_id: m.group_instance_id.as_ref().map(|i| i.to_string()),
            client_id: m.client_id.to_string(),
            host: m.client_host.trim_start_matches('/').to_owned(),
            assignment: read_assignment(&m.member_assignment).unwrap_or_default(),
        })
        .collect();
    Ok(DescribedGroup {
        id: group.to_owned(),
        state: described.group_state.to_string(),
        protocol_type: described.protocol_type.to_string(),
        assignor: described.protocol_data.to_string(),
        members,
    })
}

/// Reads a member's assignment as the consumer protocol writes it: a version, then the message.
pub(crate) fn read_assignment(bytes: &Bytes) -> Option<Vec<TopicPartition>> {
    let version = i16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
    // Versions only append fields, so an unknown one reads as the newest known.
    let assignment: ConsumerProtocolAssignment =
        crate::wire::decode(&bytes.slice(2..), version.clamp(0, 3)).ok()?;
    let mut partitions: Vec<TopicPartition> = assignment
        .assigned_partitions
        .iter()
        .flat_map(|t| t.partitions.iter().map(|p| (t.topic.to_string(), *p)))
        .collect();
    partitions.sort();
    Some(partitions)
}

pub async fn delete_groups(cluster: &Cluster, groups: &[String]) -> Result<Vec<ItemResult<()>>, ClientError> {
    let mut results = Vec::new();
    for group in groups {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![text(group).into()]);
        let response = cluster
            .send_coordinator(group, &request, |r| r.results.first().map_or(0, |g| g.error_code))
            .await?;
        let result = match response.results.first() {
            Some(r) => item_error(format!("group {group}"), r.error_code, None),
            None => Err(ClientError::Invalid(format!("group {group}: the broker's answer is empty"))),
        };
        results.push((group.clone(), result));
    }
    Ok(results)
}

/// The committed offsets of a group: of the named partitions, or of all that have one.
pub async fn committed(
    cluster: &Cluster,
    group: &str,
    partitions: Option<&[TopicPartition]>,
) -> Result<BTreeMap<TopicPartition, CommittedOffset>, ClientError> {
    let by_topic = partitions.map(group_by_topic);
    let many = cluster.coordinator_version::<OffsetFetchRequest>(group).await? >= 8;
    let request = if many {
        let topics = by_topic.map(|topics| {
            topics
                .into_iter()
                .map(|(name, indexes)| {
                    OffsetFetchRequestTopics::default()
                        .with_name(text(name).into())
                        .with_partition_indexes(indexes)
                })
                .collect()
        });
        OffsetFetchRequest::default()
            .with_groups(vec![
                OffsetFetchRequestGroup::default().with_group_id(text(group).into()).with_topics(topics),
            ])
            .with_require_stable(true)
    } else {
        let topics = by_topic.map(|topics| {
            topics
                .into_iter()
                .map(|(name, indexes)| {
                    OffsetFetchRequestTopic::default()
                        .with_name(text(name).into())
                        .with_partition_indexes(indexes)
                })
                .collect()
        });
        OffsetFetchRequest::default().with_group_id(text(group).into()).with_topics(topics)
    };
    let response = cluster
        .send_coordinator(group, &request, |r| r.groups.first().map_or(r.error_code, |g| g.error_code))
        .await?;
    let label = || format!("offsets of group {group}");
    let mut rows = Vec::new();
    if let Some(answer) = response.groups.first() {
        item_error(label(), answer.error_code, None)?;
        for topic in &answer.topics {
            for p in &topic.partitions {
                let key = (topic.name.to_string(), p.partition_index);
                rows.push((key, p.committed_offset, p.committed_leader_epoch, p.error_code));
            }
        }
    } else {
        item_error(label(), response.error_code, None)?;
        for topic in &response.topics {
            for p in &topic.partitions {
                let key = (topic.name.to_string(), p.partition_index);
                rows.push((key, p.committed_offset, p.committed_leader_epoch, p.error_code));
            }
        }
    }
    let mut offsets = BTreeMap::new();
    for (key, offset, leader_epoch, code) in rows {
        item_error(format!("{} of {}-{}", label(), key.0, key.1), code, None)?;
        // -1: nothing is committed.
        if offset >= 0 {
            offsets.insert(key, CommittedOffset { offset, leader_epoch });
        }
    }
    Ok(offsets)
}

/// Who commits: nobody of the group (only allowed while it is empty), or a member in its generation.
#[derive(Debug, Clone, Default)]
pub struct Committer {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub generation: Option<i32>,
}

/// Commits offsets: for each partition that of the next record to read.
pub async fn commit(
    cluster: &Cluster,
    group: &str,
    committer: &Committer,
    offsets: &BTreeMap<TopicPartition, i64>,
) -> Result<(), ClientError> {
    if offsets.is_empty() {
        return Ok(());
    }
    let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
    for ((topic, partition), offset) in offsets {
        topics.entry(topic).or_default().push(
            OffsetCommitRequestPartition::default()
                .with_partition_index(*partition)
                .with_committed_offset(*offset)
                .with_committed_metadata(Some(StrBytes::new())),
        );
    }
    let version = cluster.coordinator_version::<OffsetCommitRequest>(group).await?;
    let mut request = OffsetCommitRequest::default()
        .with_group_id(text(group).into())
        .with_generation_id_or_member_epoch(committer.generation.unwrap_or(-1))
        .with_member_id(text(&committer.member_id))
        .with_topics(
            topics
                .into_iter()
                .map(|(name, partitions)| {
                    OffsetCommitRequestTopic::default()
                        .with_name(text(name).into())
                        .with_partitions(partitions)
                })
                .collect(),
        );
    if version >= 7 {
        request.group_instance_id = committer.instance_id.as_deref().map(text);
    }
    let first_error = |r: &kafka_protocol::messages::OffsetCommitResponse| {
        r.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).find(|code| *code != 0).unwrap_or(0)
    };
    let response = cluster.send_coordinator(group, &request, first_error).await?;
    for topic in &response.topics {
        for p in &topic.partitions {
            let label = format!("offset of {}-{} for group {group}", topic.name.as_str(), p.partition_index);
            item_error(label, p.error_code, None)?;
        }
    }
    Ok(())
}

fn group_by_topic(partitions: &[TopicPartition]) -> BTreeMap<&str, Vec<i32>> {
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        by_topic.entry(topic).or_default().push(*partition);
    }
    by_topic
}

/// Offsets by position or time. A partition without a record at or after the time asked for gets None.
pub async fn list_offsets(
    cluster: &Cluster,
    wanted: &[(TopicPartition, OffsetSpec)],
) -> Result<HashMap<TopicPartition, Option<i64>>, ClientError> {
    let mut found = HashMap::new();
    let mut left: Vec<(TopicPartition, OffsetSpec)> = wanted.to_vec();
    let mut retry = cluster.retry();
    while !left.is_empty() {
        match list_offsets_once(cluster, &left, &mut found).await {
            Ok(()) => {}
            Err(error) => retry.pause_after(error).await?,
        }
        left.retain(|(partition, _)| !found.contains_key(partition));
    }
    Ok(found)
}

/// One round over the leaders; what failed in a way that may pass is not in `found`, and the error says why.
async fn list_offsets_once(
    cluster: &Cluster,
    wanted: &[(TopicPartition, OffsetSpec)],
    found: &mut HashMap<TopicPartition, Option<i64>>,
) -> Result<(), ClientError> {
    let mut by_leader: BTreeMap<i32, BTreeMap<&str, Vec<ListOffsetsPartition>>> = BTreeMap::new();
    for ((topic, partition), spec) in wanted {
        let (leader, _) = cluster.leader(topic, *partition).await?;
        by_leader.entry(leader).or_default().entry(topic).or_default().push(
            ListOffsetsPartition::default()
                .with_partition_index(*partition)
                .with_current_leader_epoch(-1)
                .with_timestamp(spec.wire()),
        );
    }
    for (leader, topics) in by_leader {
        let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(
            topics
                .into_iter()
                .map(|(name, partitions)| {
                    ListOffsetsTopic::default().with_name(text(name).into()).with_partitions(partitions)
                })
                .collect(),
        );
        let response = match cluster.broker(leader).await?.send(&request).await {
            Ok(response) => response,
            Err(error) => {
                for ((topic, _), _) in wanted {
                    cluster.forget_topic(topic);
                }
                return Err(error);
            }
        };
        for topic in &response.topics {
            let name = topic.name.to_string();
            for p in &topic.partitions {
                let code = ErrorCode(p.error_code);
                if code.is_error() {
                    if code.is_stale_metadata() {
                        cluster.forget_topic(&name);
                    }
                    return Err(ClientError::refused(format!("{name}-{}", p.partition_index), code));
                }
                found.insert((name.clone(), p.partition_index), Some(p.offset).filter(|o| *o >= 0));
            }
        }
    }
    Ok(())
}

/// Every partition of a topic.
pub async fn partitions_of(cluster: &Cluster, topic: &str) -> Result<Vec<TopicPartition>, ClientError> {
    let described = cluster.topic(topic, AutoCreate::Never).await?;
    Ok(described.partitions.iter().map(|p| (topic.to_owned(), p.index)).collect())
}
