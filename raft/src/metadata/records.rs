//! The facts of the metadata log, one variant per kind, and the values they carry.
//!
//! Stored: encoded with field names (quorum/encoding.rs), so a field may be added with a default and an unknown field
//! is skipped, while an unknown kind is an error. A field's meaning never changes; a new meaning is a new field or
//! kind, and its use waits for the feature level that says every node knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ids::{BrokerEpoch, BrokerId, LeaderEpoch, PartitionEpoch, TopicId};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
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
    /// Only what is `Some` changes; the partition epoch rises by one, the leader epoch by one if `leader` is `Some`
    /// and names another leader, or if `leader_epoch_bump` says so.
    PartitionChanged {
        topic: TopicId,
        partition: i32,
        #[serde(default)]
        replicas: Option<Vec<BrokerId>>,
        #[serde(default)]
        isr: Option<Vec<BrokerId>>,
        #[serde(default)]
        leader: Option<LeaderChange>,
        #[serde(default)]
        leader_epoch_bump: bool,
        #[serde(default)]
        adding_replicas: Option<Vec<BrokerId>>,
        #[serde(default)]
        removing_replicas: Option<Vec<BrokerId>>,
        #[serde(default)]
        elr: Option<Vec<BrokerId>>,
        #[serde(default)]
        last_known_elr: Option<Vec<BrokerId>>,
        #[serde(default)]
        leader_recovering: Option<bool>,
    },
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
    /// Subset of `replicas`.
    pub isr: Arc<[BrokerId]>,
    /// In `isr`, or `None` while no eligible replica is alive.
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: PartitionEpoch,
    /// Outside `isr`, but known to hold everything up to the high watermark (KIP-966).
    #[serde(default)]
    pub elr: Vec<BrokerId>,
    #[serde(default)]
    pub last_known_elr: Vec<BrokerId>,
    #[serde(default)]
    pub adding_replicas: Vec<BrokerId>,
    #[serde(default)]
    pub removing_replicas: Vec<BrokerId>,
    /// The leader came from an unclean election and has not finished recovering.
    #[serde(default)]
    pub leader_recovering: bool,
    /// The log directory of each replica, in the order of `replicas`; nil where it is not assigned yet.
    #[serde(default)]
    pub directories: Vec<Uuid>,
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
