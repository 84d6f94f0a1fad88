//! What may be asked of the controller, and its answers; one request struct per operation, typed by [`Submit`].
//!
//! Per-item refusals are one enum per operation, each variant with the sentence for a person; the broker maps them to
//! Kafka's codes. What Kafka's broker front checks by itself (authorisation, names of internal topics, the values of
//! config keys) is the caller's.

mod replication;
mod tier;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::metadata::ids::{BrokerEpoch, BrokerId, TopicId};
use crate::metadata::records::{ConfigResource, Endpoint, FeatureRange};

pub use replication::*;
pub use tier::*;

/// A request that `Metadata::submit` takes, with the type of its answer.
pub trait Submit: Into<Request> + Send {
    type Response: Send;
    /// `None` only if the controller answered another request's kind, which is a broken invariant.
    fn response(response: Response) -> Option<Self::Response>;
}

macro_rules! requests {
    ($($name:ident => $response:ty),+ $(,)?) => {
        #[derive(Clone, Debug, Serialize, Deserialize)]
        pub enum Request { $($name($name)),+ }

        #[derive(Clone, Debug, Serialize, Deserialize)]
        pub enum Response { $($name($response)),+ }

        $(
            impl From<$name> for Request {
                fn from(request: $name) -> Request { Request::$name(request) }
            }

            impl Submit for $name {
                type Response = $response;
                fn response(response: Response) -> Option<$response> {
                    match response { Response::$name(response) => Some(response), _ => None }
                }
            }
        )+
    };
}

requests! {
    RegisterBroker => Result<BrokerEpoch, RegisterBrokerError>,
    BrokerHeartbeat => Result<BrokerHeartbeatState, BrokerEpochError>,
    UnregisterBroker => Result<(), UnregisterBrokerError>,
    CreateTopics => Vec<CreateTopicResult>,
    DeleteTopics => Vec<DeleteTopicResult>,
    CreatePartitions => Vec<CreatePartitionsResult>,
    IncrementalAlterConfigs => Vec<AlterConfigsResult>,
    AlterConfigs => Vec<AlterConfigsResult>,
    AllocateProducerIds => Result<ProducerIdBlock, AllocateProducerIdsError>,
    UpdateFeatures => Result<Vec<UpdateFeatureResult>, UpdateFeaturesError>,
    ElectLeaders => Vec<ElectLeaderResult>,
    AlterPartition => Result<Vec<AlterPartitionResult>, BrokerEpochError>,
    AlterPartitionReassignments => Vec<ReassignmentResult>,
    AssignReplicasToDirs => Result<Vec<AssignReplicaResult>, BrokerEpochError>,
    ReportTier => Result<Vec<ReportTierResult>, BrokerEpochError>,
    ReportTierDeleted => Result<(), BrokerEpochError>,
    RestoreTopics => Result<Vec<CreateTopicResult>, BrokerEpochError>,
    BalanceLeaders => UpkeepDone,
    ElectUnclean => UpkeepDone,
}

impl Request {
    /// How many things are asked for; what work and answer grow with.
    pub fn item_count(&self) -> usize {
        match self {
            Request::RegisterBroker(_)
            | Request::BrokerHeartbeat(_)
            | Request::UnregisterBroker(_)
            | Request::AllocateProducerIds(_)
            | Request::BalanceLeaders(_)
            | Request::ElectUnclean(_) => 1,
            Request::CreateTopics(request) => request
                .topics
                .iter()
                .map(|topic| 1 + topic.configs.len() + replicas(topic.assignments.iter().map(|(_, ids)| ids)))
                .sum(),
            Request::DeleteTopics(request) => request.topics.len(),
            Request::CreatePartitions(request) => {
                request.topics.iter().map(|topic| 1 + replicas(topic.assignments.iter().flatten())).sum()
            }
            Request::IncrementalAlterConfigs(request) => {
                request.resources.iter().map(|(_, operations)| 1 + operations.len()).sum()
            }
            Request::AlterConfigs(request) => {
                request.resources.iter().map(|(_, entries)| 1 + entries.len()).sum()
            }
            Request::UpdateFeatures(request) => request.updates.len(),
            Request::ElectLeaders(request) => request.partitions.as_ref().map_or(1, Vec::len),
            Request::AlterPartition(request) => {
                request.partitions.iter().map(|partition| 1 + partition.isr.len()).sum()
            }
            Request::AlterPartitionReassignments(request) => {
                request.items.len() + replicas(request.items.iter().filter_map(|item| item.replicas.as_ref()))
            }
            Request::AssignReplicasToDirs(request) => request.assignments.len(),
            Request::ReportTier(request) => request.items.len(),
            Request::ReportTierDeleted(request) => request.topics.len(),
            Request::RestoreTopics(request) => {
                request.topics.iter().map(|topic| 1 + topic.configs.len() + 2 * topic.partitions.len()).sum()
            }
        }
    }

    /// Whether the request keeps the cluster alive or may free space, as opposed to making it larger: a disk that is
    /// nearly full still takes it.
    pub fn is_upkeep(&self) -> bool {
        match self {
            Request::RegisterBroker(_)
            | Request::BrokerHeartbeat(_)
            | Request::UnregisterBroker(_)
            | Request::DeleteTopics(_)
            | Request::IncrementalAlterConfigs(_)
            | Request::AlterConfigs(_)
            | Request::ElectLeaders(_)
            | Request::AlterPartition(_)
            | Request::AlterPartitionReassignments(_)
            | Request::AssignReplicasToDirs(_)
            // Local disks get no room before the tier is known.
            | Request::ReportTier(_)
            | Request::ReportTierDeleted(_)
            | Request::BalanceLeaders(_)
            | Request::ElectUnclean(_) => true,
            Request::CreateTopics(_)
            | Request::RestoreTopics(_)
            | Request::CreatePartitions(_)
            | Request::AllocateProducerIds(_)
            | Request::UpdateFeatures(_) => false,
        }
    }

    /// Whether the request may be asked again when it is not known if it was done: doing it twice changes nothing that
    /// doing it once did not, undoes nothing that somebody else did in between, and the second answer serves the asker.
    /// The others would see their own first attempt (`AlreadyExists`), or overwrite a later change.
    pub fn is_repeatable(&self) -> bool {
        match self {
            // Its own registration again gives the same process a newer epoch.
            Request::RegisterBroker(_)
            | Request::BrokerHeartbeat(_)
            // The block of the first attempt is lost, no id is given twice.
            | Request::AllocateProducerIds(_)
            // Fenced by the partition epoch: the second attempt is refused, and the leader looks at the image.
            | Request::AlterPartition(_)
            // Fenced by the broker epoch, and only that broker asks it.
            | Request::AssignReplicasToDirs(_)
            // Fenced by the leader epoch, and an older manifest than the known one is passed over.
            | Request::ReportTier(_)
            // The topic's id is never given again.
            | Request::ReportTierDeleted(_)
            // By id: what is there is left as it is.
            | Request::RestoreTopics(_)
            | Request::BalanceLeaders(_)
            | Request::ElectUnclean(_) => true,
            Request::UnregisterBroker(_)
            | Request::CreateTopics(_)
            | Request::DeleteTopics(_)
            | Request::CreatePartitions(_)
            | Request::IncrementalAlterConfigs(_)
            | Request::AlterConfigs(_)
            | Request::UpdateFeatures(_)
            | Request::ElectLeaders(_)
            | Request::AlterPartitionReassignments(_) => false,
        }
    }
}

fn replicas<'a>(assignments: impl Iterator<Item = &'a Vec<BrokerId>>) -> usize {
    assignments.map(|replicas| 1 + replicas.len()).sum()
}

// ---- brokers

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterBroker {
    pub id: BrokerId,
    /// A fresh uuid per start of the process.
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<Arc<str>>,
    pub features: BTreeMap<String, FeatureRange>,
    pub log_dirs: Vec<Uuid>,
    /// The epoch that the broker had when it last shut down cleanly; `None` if it did not, or never ran. What it had
    /// acknowledged but not synced may then be gone (KIP-966).
    #[serde(default)]
    pub previous_epoch: Option<BrokerEpoch>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum RegisterBrokerError {
    /// DUPLICATE_BROKER_REGISTRATION
    #[error("another broker is registered with id {0} and is alive")]
    Duplicate(BrokerId),
    /// UNSUPPORTED_VERSION
    #[error("{0}")]
    UnsupportedFeatures(String),
    /// INVALID_REGISTRATION
    #[error("{0}")]
    Invalid(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BrokerHeartbeat {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
    /// The metadata offset that the broker has applied.
    pub metadata_offset: u64,
    pub want_fence: bool,
    pub want_shut_down: bool,
    /// Those of its registered log directories that failed since (KIP-858).
    #[serde(default)]
    pub offline_log_dirs: Vec<Uuid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerHeartbeatState {
    /// The broker has applied its own registration.
    pub is_caught_up: bool,
    pub is_fenced: bool,
    /// A controlled shutdown may go on: the broker leads nothing more.
    pub should_shut_down: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UnregisterBroker {
    pub id: BrokerId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum UnregisterBrokerError {
    /// BROKER_ID_NOT_REGISTERED
    #[error("no broker {0} is registered")]
    NotRegistered(BrokerId),
}

// ---- topics

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreateTopics {
    pub topics: Vec<NewTopic>,
    pub validate_only: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewTopic {
    pub name: String,
    /// -1 takes the default (`TopicDefaults`); must be -1 with an assignment.
    pub partitions: i32,
    /// As `partitions`.
    pub replication_factor: i16,
    /// (partition, replicas); empty leaves the placement to the controller.
    pub assignments: Vec<(i32, Vec<BrokerId>)>,
    /// Already checked by the caller; kept in the order given. A key given twice is refused.
    pub configs: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTopicResult {
    pub name: String,
    pub result: Result<CreatedTopic, CreateTopicError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedTopic {
    /// `TopicId::ZERO` when it was only validated.
    pub id: TopicId,
    pub partitions: i32,
    pub replication_factor: i16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CreateTopicError {
    /// INVALID_TOPIC_EXCEPTION
    #[error("{0}")]
    InvalidName(String),
    /// TOPIC_ALREADY_EXISTS
    #[error("topic `{0}` exists already")]
    AlreadyExists(String),
    /// INVALID_REQUEST
    #[error("{0}")]
    InvalidRequest(String),
    /// INVALID_PARTITIONS
    #[error("{0}")]
    InvalidPartitions(String),
    /// INVALID_REPLICATION_FACTOR
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("{0}")]
    InvalidReplicaAssignment(String),
    /// INVALID_CONFIG
    #[error("{0}")]
    InvalidConfig(String),
    /// POLICY_VIOLATION: a bound of this cluster is reached.
    #[error("{0}")]
    LimitReached(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeleteTopics {
    pub topics: Vec<TopicReference>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TopicReference {
    Name(String),
    Id(TopicId),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteTopicResult {
    pub reference: TopicReference,
    /// Name and id of the deleted topic.
    pub result: Result<(Arc<str>, TopicId), DeleteTopicError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum DeleteTopicError {
    /// UNKNOWN_TOPIC_OR_PARTITION
    #[error("there is no such topic")]
    UnknownName,
    /// UNKNOWN_TOPIC_ID
    #[error("there is no topic with this id")]
    UnknownId,
    /// INVALID_REQUEST
    #[error("{0}")]
    InvalidRequest(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreatePartitions {
    pub topics: Vec<NewPartitions>,
    pub validate_only: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewPartitions {
    pub name: String,
    /// The total that the topic shall have.
    pub count: i32,
    /// Replicas of each added partition; `None` leaves the placement to the controller.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatePartitionsResult {
    pub name: String,
    pub result: Result<(), CreatePartitionsError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum CreatePartitionsError {
    /// UNKNOWN_TOPIC_OR_PARTITION
    #[error("there is no such topic")]
    UnknownTopic,
    /// INVALID_REQUEST
    #[error("{0}")]
    InvalidRequest(String),
    /// INVALID_PARTITIONS
    #[error("{0}")]
    InvalidPartitions(String),
    /// INVALID_REPLICATION_FACTOR
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("{0}")]
    InvalidReplicaAssignment(String),
    /// POLICY_VIOLATION: a bound of this cluster is reached.
    #[error("{0}")]
    LimitReached(String),
}

// ---- configs

/// KIP-339. Resources are independent of each other; within one, all operations are done or none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IncrementalAlterConfigs {
    pub resources: Vec<(ConfigResource, Vec<(String, ConfigOperation)>)>,
    pub validate_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConfigOperation {
    Set(String),
    Delete,
    /// Adds to a list the items it does not have. `default` is the list if the resource has no value of its own.
    Append {
        items: String,
        default: Option<String>,
    },
    /// Takes items from a list.
    Subtract {
        items: String,
        default: Option<String>,
    },
    /// APPEND or SUBTRACT of a key that is no list: refused as Kafka does. The caller knows the types of keys.
    OnlyForLists,
}

/// The old AlterConfigs: the given entries replace all dynamic configs of the resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlterConfigs {
    pub resources: Vec<(ConfigResource, Vec<(String, String)>)>,
    pub validate_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterConfigsResult {
    pub resource: ConfigResource,
    pub result: Result<(), AlterConfigsError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AlterConfigsError {
    /// INVALID_REQUEST
    #[error("{0}")]
    InvalidRequest(String),
    /// INVALID_CONFIG
    #[error("{0}")]
    InvalidConfig(String),
    /// UNKNOWN_TOPIC_OR_PARTITION
    #[error("there is no such topic")]
    UnknownTopic,
    /// BROKER_ID_NOT_REGISTERED
    #[error("no broker {0} is registered")]
    UnknownBroker(String),
}

// ---- the rest

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AllocateProducerIds {
    pub broker: BrokerId,
    pub epoch: BrokerEpoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerIdBlock {
    pub first: i64,
    pub count: i32,
}

/// How many producer ids one allocation gives, as in Kafka (KIP-730).
pub const PRODUCER_ID_BLOCK: i32 = 1000;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AllocateProducerIdsError {
    #[error(transparent)]
    BrokerEpoch(#[from] BrokerEpochError),
    /// UNKNOWN_SERVER_ERROR
    #[error("all producer ids are used up")]
    Exhausted,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpdateFeatures {
    pub updates: Vec<FeatureUpdate>,
    pub validate_only: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FeatureUpdate {
    pub name: String,
    /// 0 switches the feature off.
    pub level: i16,
    pub kind: FeatureUpdateType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeatureUpdateType {
    Upgrade,
    SafeDowngrade,
    UnsafeDowngrade,
    /// The request carried a number that Kafka does not define.
    Unknown(i8),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateFeatureResult {
    pub name: String,
    /// What was asked for, and is now so unless it was only to be validated.
    pub level: i16,
}

/// The request is done whole or refused whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum UpdateFeaturesError {
    /// INVALID_UPDATE_VERSION
    #[error("no feature was changed: {0}")]
    InvalidUpdateVersion(String),
    /// INVALID_REQUEST
    #[error("{0}")]
    InvalidRequest(String),
}
