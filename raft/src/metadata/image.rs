//! The image: the sum of all applied records, immutable and cheap to clone (persistent maps share what did not change).
//!
//! Only `replay` makes a new one. Readers take it through `Metadata::image()` and may keep it as long as they like.
//! Invariants: `topics` and `topic_names` name the same topics; a partition's place in its topic's vector is its id;
//! every map is ordered, so that iteration is the same on every node.

use std::sync::Arc;

use imbl::{OrdMap, OrdSet, Vector};
use uuid::Uuid;

use super::ids::{BrokerEpoch, BrokerId, ClusterId, LeaderEpoch, TopicId};
use super::records::{ConfigResource, Endpoint, FeatureRange, PartitionState};

/// A partition as the image holds it; see the fields of the record.
pub type Partition = PartitionState;

pub type Configs = OrdMap<Arc<str>, Arc<str>>;

#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    pub cluster_id: ClusterId,
    /// The metadata log offset up to and including which records are in this image; 0 before the first.
    pub last_offset: u64,
    /// The Raft epoch of the entry at `last_offset`.
    pub last_epoch: u64,
    pub brokers: OrdMap<BrokerId, Arc<Broker>>,
    pub topics: OrdMap<TopicId, Arc<Topic>>,
    pub topic_names: OrdMap<Arc<str>, TopicId>,
    /// Names with `.` or `_`, by the name with each `.` turned into `_`: such names collide in metric names.
    pub(crate) colliding_names: OrdMap<Arc<str>, OrdSet<Arc<str>>>,
    /// Dynamic configs only: what was set by request, without defaults.
    pub configs: OrdMap<ConfigResource, Configs>,
    /// Finalized feature levels; a level of 0 is absence.
    pub features: OrdMap<Arc<str>, i16>,
    /// The log offset of the last change of `features` (FinalizedFeaturesEpoch of ApiVersions).
    pub features_epoch: u64,
    /// The first producer id not yet given to any broker.
    pub next_producer_id: i64,
    /// The partitions without a leader, so that a returning broker need not look at all.
    pub(crate) leaderless: OrdSet<(TopicId, i32)>,
    /// What of a partition lies in the tier, as its leader said last. None: nothing was ever there.
    pub(crate) tier_positions: OrdMap<(TopicId, i32), TierPosition>,
    /// Topics that are deleted, and whose objects in the tier have to go.
    pub tiers_to_delete: OrdMap<TopicId, DeletedTier>,
    /// Sum of all topics' partitions.
    pub partition_count: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Broker {
    pub id: BrokerId,
    pub epoch: BrokerEpoch,
    /// Changes with each start of the process; a registration with another one while this broker is alive is refused.
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<Arc<str>>,
    pub features: std::collections::BTreeMap<String, FeatureRange>,
    pub log_dirs: Vec<Uuid>,
    /// Not alive, or not caught up yet: leads nothing, and clients do not see it.
    pub fenced: bool,
    pub in_controlled_shutdown: bool,
    /// Where the controlled shutdown was decided: who has applied the log up to here knows the leaders that follow.
    pub shut_down_offset: Option<u64>,
}

impl Broker {
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| &*endpoint.name == listener)
    }

    /// May lead partitions and be placed in new in-sync sets.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }

    /// Whether what lies in the directory is there: it is not known where it lies, or the directory did not fail. A broker
    /// that names no directories at all has none that could fail by itself.
    pub fn has_directory(&self, directory: Uuid) -> bool {
        directory.is_nil() || self.log_dirs.is_empty() || self.log_dirs.contains(&directory)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    pub name: Arc<str>,
    pub id: TopicId,
    /// Indexed by partition id.
    pub partitions: Vector<Arc<Partition>>,
}

impl Topic {
    pub fn partition(&self, partition: i32) -> Option<&Arc<Partition>> {
        usize::try_from(partition).ok().and_then(|index| self.partitions.get(index))
    }
}

/// How far a partition's tier reaches. Its truth is the manifest in the store; this tells every replica which one to look for, and
/// what may go from local disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierPosition {
    /// Number of the manifest.
    pub manifest: u64,
    /// Exclusive: everything from the log start up to here is in the tier.
    pub end_offset: i64,
    /// Of the leader that said so.
    pub leader_epoch: LeaderEpoch,
    /// A leader was elected since that may not have all of it (an unclean election): nothing may go from local disks before it
    /// has compared the tier with its log, and said so.
    pub is_doubtful: bool,
}

/// See [`Image::tiers_to_delete`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTier {
    pub name: Arc<str>,
    pub partitions: i32,
}

/// A partition that is moving (KIP-455).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionReassignment {
    pub topic: Arc<str>,
    pub partition: i32,
    pub replicas: Vec<BrokerId>,
    pub adding_replicas: Vec<BrokerId>,
    pub removing_replicas: Vec<BrokerId>,
}

impl Image {
    pub fn empty(cluster_id: ClusterId) -> Image {
        Image {
            cluster_id,
            last_offset: 0,
            last_epoch: 0,
            brokers: OrdMap::new(),
            topics: OrdMap::new(),
            topic_names: OrdMap::new(),
            colliding_names: OrdMap::new(),
            configs: OrdMap::new(),
            features: OrdMap::new(),
            features_epoch: 0,
            next_producer_id: 0,
            leaderless: OrdSet::new(),
            tier_positions: OrdMap::new(),
            tiers_to_delete: OrdMap::new(),
            partition_count: 0,
        }
    }

    pub fn topic_by_name(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topic_names.get(name).and_then(|id| self.topics.get(id))
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    pub fn partition(&self, topic: &str, partition: i32) -> Option<&Arc<Partition>> {
        self.topic_by_name(topic).and_then(|topic| topic.partition(partition))
    }

    /// Topics in the order of their names.
    pub fn topics_by_name(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topic_names.values().filter_map(|id| self.topics.get(id))
    }

    pub fn broker(&self, id: BrokerId) -> Option<&Arc<Broker>> {
        self.brokers.get(&id)
    }

    pub fn is_active(&self, id: BrokerId) -> bool {
        self.brokers.get(&id).is_some_and(|broker| broker.is_active())
    }

    /// Whether the broker is active and the directory of its replica did not fail.
    pub fn may_lead(&self, id: BrokerId, state: &Partition) -> bool {
        self.brokers
            .get(&id)
            .is_some_and(|broker| broker.is_active() && broker.has_directory(state.directory(id)))
    }

    /// How many partitions have no leader.
    pub fn leaderless_count(&self) -> usize {
        self.leaderless.len()
    }

    /// None: nothing of the partition was ever in the tier.
    pub fn tier_position(&self, topic: TopicId, partition: i32) -> Option<TierPosition> {
        self.tier_positions.get(&(topic, partition)).copied()
    }

    /// The dynamic configs of one resource; `None` if it has none.
    pub fn configs_of(&self, resource: &ConfigResource) -> Option<&Configs> {
        self.configs.get(resource)
    }

    pub fn config(&self, resource: &ConfigResource, key: &str) -> Option<&Arc<str>> {
        self.configs.get(resource).and_then(|configs| configs.get(key))
    }

    /// The partitions that are moving, in the order of topic names; `None` asks for all topics.
    pub fn reassignments<'a>(
        &'a self,
        topic: Option<&'a str>,
    ) -> impl Iterator<Item = PartitionReassignment> + 'a {
        self.topics_by_name().filter(move |known| topic.is_none_or(|name| *known.name == *name)).flat_map(
            |topic| {
                topic.partitions.iter().enumerate().filter(|(_, state)| state.is_reassigning()).map(
                    |(index, state)| PartitionReassignment {
                        topic: topic.name.clone(),
                        partition: index as i32,
                        replicas: state.replicas.to_vec(),
                        adding_replicas: state.adding_replicas.clone(),
                        removing_replicas: state.removing_replicas.clone(),
                    },
                )
            },
        )
    }
}
