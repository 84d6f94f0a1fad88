//! Requests about what lies in the remote tier.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::metadata::ids::{BrokerEpoch, BrokerId, LeaderEpoch, TopicId};

/// A leader says how far the tiers of its partitions reach, after their manifests were written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportTier {
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub items: Vec<ReportTierItem>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportTierItem {
    pub topic: TopicId,
    pub partition: i32,
    pub leader_epoch: LeaderEpoch,
    /// Number of the manifest.
    pub manifest: u64,
    /// Exclusive.
    pub end_offset: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportTierResult {
    pub topic: TopicId,
    pub partition: i32,
    pub result: Result<(), ReportTierError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum ReportTierError {
    #[error("there is no topic with this id")]
    UnknownTopicId,
    #[error("there is no such partition")]
    UnknownPartition,
    #[error("the leader is ahead of this controller")]
    NotController,
    #[error("the leader epoch is {current}, not {given}")]
    FencedLeaderEpoch { current: LeaderEpoch, given: LeaderEpoch },
    #[error("{0}")]
    InvalidRequest(String),
    /// The request has more partitions than one entry takes; ask for the rest again.
    #[error("the request is too large")]
    NotAttempted,
}

/// The objects of deleted topics are gone from the tier. Topics that nobody waits for are passed over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportTierDeleted {
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub topics: Vec<TopicId>,
}

/// A new cluster takes the topics of one that was lost, whose tier is still there: with their ids, since the tier's objects go by them.
/// All replicas are the asker's, which has made their logs before it asks, and which leads them once it is unfenced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreTopics {
    pub broker: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// The lowest producer id that none of the restored logs knows: a new producer with one of theirs would be taken for the old.
    pub producer_ids_from: i64,
    pub topics: Vec<RestoredTopic>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredTopic {
    pub name: String,
    pub id: TopicId,
    pub configs: Vec<(String, String)>,
    pub partitions: Vec<RestoredPartition>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredPartition {
    /// At least as new as any that a leader of the lost cluster had; the new leader's is newer.
    pub leader_epoch: LeaderEpoch,
    /// Where the asker has made the log.
    pub directory: Uuid,
    /// Number of the newest manifest and where the tier ends, if there is one.
    pub tier: Option<(u64, i64)>,
}
