//! Requests about who replicates and who leads: in-sync sets, reassignments, log directories, elections.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::metadata::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch, TopicId};
use crate::metadata::records::PartitionState;

/// The epoch that a broker named is not the one of its registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum BrokerEpochError {
    /// BROKER_ID_NOT_REGISTERED
    #[error("no broker {0} is registered")]
    NotRegistered(BrokerId),
    /// STALE_BROKER_EPOCH
    #[error("broker {id} has epoch {current}, not {given}")]
    Stale { id: BrokerId, current: BrokerEpoch, given: BrokerEpoch },
}

/// A leader asks for other in-sync sets (KIP-497, KIP-841, KIP-903).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlterPartition {
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub partitions: Vec<AlterPartitionItem>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlterPartitionItem {
    pub topic: TopicId,
    pub partition: i32,
    pub leader_epoch: LeaderEpoch,
    /// Of the state that the leader started from.
    pub partition_epoch: PartitionEpoch,
    /// Each member with the broker epoch that its fetches carried; an epoch of -1 is not compared.
    pub isr: Vec<(BrokerId, BrokerEpoch)>,
    /// False while a leader out of an unclean election has not finished recovering.
    pub recovered: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlterPartitionResult {
    pub topic: TopicId,
    pub partition: i32,
    /// The partition as it is from now on.
    pub result: Result<PartitionState, AlterPartitionError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AlterPartitionError {
    /// UNKNOWN_TOPIC_ID
    #[error("there is no topic with this id")]
    UnknownTopicId,
    /// UNKNOWN_TOPIC_OR_PARTITION
    #[error("there is no such partition")]
    UnknownPartition,
    /// NOT_CONTROLLER: the leader knows of an epoch that this controller does not.
    #[error("the leader is ahead of this controller")]
    NotController,
    /// FENCED_LEADER_EPOCH
    #[error("the leader epoch is {current}, not {given}")]
    FencedLeaderEpoch { current: LeaderEpoch, given: LeaderEpoch },
    /// INVALID_UPDATE_VERSION: the in-sync set changed meanwhile.
    #[error("the partition epoch is {current}, not {given}")]
    InvalidUpdateVersion { current: PartitionEpoch, given: PartitionEpoch },
    /// INELIGIBLE_REPLICA
    #[error("{0}")]
    IneligibleReplica(String),
    /// INVALID_REQUEST
    #[error("{0}")]
    InvalidRequest(String),
    /// NEW_LEADER_ELECTED: the change was made, and ended a reassignment that took the asker's leadership.
    #[error("the reassignment is complete, and the partition has another leader")]
    NewLeaderElected(Option<BrokerId>),
    /// OPERATION_NOT_ATTEMPTED: the request has more partitions than one entry takes; ask for the rest again.
    #[error("the request is too large")]
    NotAttempted,
}

/// KIP-455.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AlterPartitionReassignments {
    pub items: Vec<ReassignmentItem>,
    /// KIP-860.
    pub allow_replication_factor_change: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReassignmentItem {
    pub topic: String,
    pub partition: i32,
    /// In order of preference; `None` cancels the reassignment that is under way.
    pub replicas: Option<Vec<BrokerId>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReassignmentResult {
    pub topic: String,
    pub partition: i32,
    pub result: Result<(), ReassignmentError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ReassignmentError {
    /// UNKNOWN_TOPIC_OR_PARTITION
    #[error("there is no such partition")]
    UnknownTopicOrPartition,
    /// INVALID_REPLICA_ASSIGNMENT
    #[error("{0}")]
    InvalidReplicaAssignment(String),
    /// INVALID_REPLICATION_FACTOR
    #[error("{0}")]
    InvalidReplicationFactor(String),
    /// NO_REASSIGNMENT_IN_PROGRESS
    #[error("the partition is not being reassigned")]
    NoReassignmentInProgress,
    /// POLICY_VIOLATION: the request would write more than one request may.
    #[error("{0}")]
    LimitReached(String),
}

/// A broker says in which log directory its replicas lie (KIP-858).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AssignReplicasToDirs {
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// (topic, partition, directory)
    pub assignments: Vec<(TopicId, i32, Uuid)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignReplicaResult {
    pub topic: TopicId,
    pub partition: i32,
    pub result: Result<(), AssignReplicaError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AssignReplicaError {
    /// UNKNOWN_TOPIC_ID
    #[error("there is no topic with this id")]
    UnknownTopicId,
    /// UNKNOWN_TOPIC_OR_PARTITION
    #[error("there is no such partition")]
    UnknownPartition,
    /// NOT_LEADER_OR_FOLLOWER
    #[error("broker {0} is no replica of this partition")]
    NotAReplica(BrokerId),
    /// OPERATION_NOT_ATTEMPTED: the request has more partitions than one entry takes; ask for the rest again.
    #[error("the request is too large")]
    NotAttempted,
}

/// What the active controller asks itself now and then: back to the preferred leaders (`auto.leader.rebalance.enable`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BalanceLeaders {}

/// What the active controller asks itself now and then: leaders for partitions that have none, where that is allowed at
/// the price of data (`unclean.leader.election.enable`) or has become possible without.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ElectUnclean {}

/// Nobody waits to hear more of what the controller asks itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpkeepDone;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ElectLeaders {
    pub election: ElectionType,
    /// `None` asks for every partition; then ELECTION_NOT_NEEDED answers are left out, as in Kafka.
    pub partitions: Option<Vec<(String, i32)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ElectionType {
    Preferred,
    Unclean,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectLeaderResult {
    pub topic: String,
    pub partition: i32,
    pub result: Result<(), ElectLeaderError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ElectLeaderError {
    /// UNKNOWN_TOPIC_OR_PARTITION
    #[error("{0}")]
    UnknownTopicOrPartition(String),
    /// ELECTION_NOT_NEEDED
    #[error("the partition has that leader already")]
    NotNeeded,
    /// PREFERRED_LEADER_NOT_AVAILABLE
    #[error("the preferred leader is not available")]
    PreferredLeaderNotAvailable,
    /// ELIGIBLE_LEADERS_NOT_AVAILABLE
    #[error("no eligible replica is available")]
    EligibleLeadersNotAvailable,
    /// INVALID_REQUEST
    #[error("{0}")]
    InvalidRequest(String),
    /// POLICY_VIOLATION: the request would write more than one request may; ask for the rest again.
    #[error("{0}")]
    LimitReached(String),
}
