//! The facts of the metadata log, one variant per kind, and the values they carry.
//!
//! Stored: encoded with field names (quorum/encoding.rs), so a field may be added with a default and an unknown field
//! is skipped, while an unknown kind is an error. A field's meaning never changes; a new meaning is a new field or
//! kind, and its use waits for the feature level that says every node knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ids::{BrokerEpoch, BrokerId, ClusterId, LeaderEpoch, PartitionEpoch, TopicId};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The first controller of a cluster gives it its id; never changes.
    ClusterNamed {
        id: ClusterId,
    },
    /// A broker (re)registered. It is fenced until a `BrokerChange` says otherwise. Replaces any earlier registration.
    BrokerRegistered {
        id: BrokerId,
        epoch: BrokerEpoch,
        #[serde(default = "Uuid::nil")]
        incarnation: Uuid,
        endpoints: Vec<Endpoint>,
        #[serde(default)]
        rack: Option<Arc<str>>,
        #[serde(default)]
        features: BTreeMap<String, FeatureRange>,
        #[serde(default)]
        log_dirs: Vec<Uuid>,
        #[serde(default)]
        fenced: bool,
        #[serde(default)]
        in_controlled_shutdown: bool,
        /// Only in snapshots: see `Broker::shut_down_offset`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shut_down_offset: Option<u64>,
    },
    BrokerUnregistered {
        id: BrokerId,
        epoch: BrokerEpoch,
    },
    /// Only what is `Some` changes.
    BrokerChanged {
        id: BrokerId,
        epoch: BrokerEpoch,
        #[serde(default)]
        fenced: Option<bool>,
        #[serde(default)]
        in_controlled_shutdown: Option<bool>,
        /// The directories that are left (KIP-858).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log_dirs: Option<Vec<Uuid>>,
    },
    TopicCreated {
        name: Arc<str>,
        id: TopicId,
    },
    /// Also removes the topic's partitions and its configs.
    TopicDeleted {
        id: TopicId,
    },
    /// A new partition, complete.
    PartitionCreated {
        topic: TopicId,
        partition: i32,
        state: PartitionState,
    },
    PartitionChanged(PartitionChange),
    /// `None` removes the key.
    ConfigSet {
        resource: ConfigResource,
        key: Arc<str>,
        value: Option<Arc<str>>,
    },
    /// Level 0 removes the feature.
    FeatureLevelSet {
        name: Arc<str>,
        level: i16,
    },
    /// Ids below `next` are given away.
    ProducerIdsAllocated {
        broker: BrokerId,
        epoch: BrokerEpoch,
        next: i64,
    },
    /// How far a partition's tier reaches. Replaces what was said before.
    TierReported {
        topic: TopicId,
        partition: i32,
        manifest: u64,
        end_offset: i64,
        leader_epoch: LeaderEpoch,
        /// Only in snapshots: see `TierPosition::is_doubtful`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_doubtful: bool,
    },
    /// A topic that is being deleted has objects in the tier, which somebody has to delete.
    TierLeft {
        topic: TopicId,
        name: Arc<str>,
        partitions: i32,
    },
    /// Those objects are gone.
    TierDeleted {
        topic: TopicId,
    },
}

/// Only what is `Some` changes; the partition epoch rises by one, the leader epoch by one if `leader` is `Some` and names
/// another leader, or if `leader_epoch_bump` says so. What is `None` is not written: a failing broker makes as many of
/// these as it has partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionChange {
    pub topic: TopicId,
    pub partition: i32,
    /// Replicas that stay keep their directories, new ones have none yet, unless `directories` says more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Vec<BrokerId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isr: Option<Vec<BrokerId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<LeaderChange>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leader_epoch_bump: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adding_replicas: Option<Vec<BrokerId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removing_replicas: Option<Vec<BrokerId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elr: Option<Vec<BrokerId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_known_elr: Option<Vec<BrokerId>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_recovering: Option<bool>,
    /// In the order of the replicas as this change leaves them; empty for none assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directories: Option<Vec<Uuid>>,
}

impl PartitionChange {
    /// Changes nothing yet.
    pub fn of(topic: TopicId, partition: i32) -> PartitionChange {
        PartitionChange {
            topic,
            partition,
            replicas: None,
            isr: None,
            leader: None,
            leader_epoch_bump: false,
            adding_replicas: None,
            removing_replicas: None,
            elr: None,
            last_known_elr: None,
            leader_recovering: None,
            directories: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaderChange {
    To(BrokerId),
    /// No replica is eligible; the partition is offline.
    None,
}

/// Everything the log knows of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// In order of preference: the first is the preferred leader. Never empty.
    pub replicas: Arc<[BrokerId]>,
    /// Subset of `replicas`. Empty only where eligible leader replicas are switched on.
    pub isr: Arc<[BrokerId]>,
    /// In `isr`, or `None` while no eligible replica is alive.
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// Outside `isr`, but known to hold everything up to the high watermark (KIP-966): those that left the in-sync set
    /// while it was smaller than `min.insync.replicas`, for a leader moves its high watermark only while it is not.
    #[serde(default)]
    pub elr: Vec<BrokerId>,
    /// The last leader, while `isr` is empty: who takes over when no eligible replica is left either.
    #[serde(default)]
    pub last_known_elr: Vec<BrokerId>,
    #[serde(default)]
    pub adding_replicas: Vec<BrokerId>,
    #[serde(default)]
    pub removing_replicas: Vec<BrokerId>,
    /// The leader came from an unclean election and has not finished recovering.
    #[serde(default)]
    pub leader_recovering: bool,
    /// The log directory of each replica, in the order of `replicas`; nil where it is not assigned yet. Empty if none is.
    #[serde(default)]
    pub directories: Vec<Uuid>,
}

impl PartitionState {
    /// Nil if the broker is no replica or did not say yet.
    pub fn directory(&self, id: BrokerId) -> Uuid {
        let place = self.replicas.iter().position(|replica| *replica == id);
        place.and_then(|place| self.directories.get(place)).copied().unwrap_or(Uuid::nil())
    }

    pub fn is_reassigning(&self) -> bool {
        !self.adding_replicas.is_empty() || !self.removing_replicas.is_empty()
    }
}

/// Where one listener of a broker is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The listener's name, e.g. `PLAINTEXT`.
    pub name: Arc<str>,
    pub host: Arc<str>,
    pub port: u16,
    /// Kafka's security protocol id: 0 PLAINTEXT, 1 SSL, 2 SASL_PLAINTEXT, 3 SASL_SSL.
    pub security_protocol: i16,
}

/// The levels of a feature that a node supports, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureRange {
    pub min: i16,
    pub max: i16,
}

/// Kafka's config resource types, as far as metadata stores them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConfigResourceType {
    Topic,
    Broker,
    ClientMetrics,
    Group,
}

/// A thing that has configs. A broker's name is its id in decimal, or empty for the cluster-wide default.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConfigResource {
    pub kind: ConfigResourceType,
    pub name: Arc<str>,
}

impl ConfigResource {
    pub fn topic(name: impl Into<Arc<str>>) -> ConfigResource {
        ConfigResource { kind: ConfigResourceType::Topic, name: name.into() }
    }

    pub fn broker(id: BrokerId) -> ConfigResource {
        ConfigResource { kind: ConfigResourceType::Broker, name: id.to_string().into() }
    }

    /// The dynamic default of all brokers.
    pub fn all_brokers() -> ConfigResource {
        ConfigResource { kind: ConfigResourceType::Broker, name: "".into() }
    }

    pub fn group(name: impl Into<Arc<str>>) -> ConfigResource {
        ConfigResource { kind: ConfigResourceType::Group, name: name.into() }
    }
}
