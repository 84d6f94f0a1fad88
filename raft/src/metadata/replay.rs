//! `replay`: the only mutator of the image. Applies one record, on every node alike, and cannot fail: whatever could be
//! wrong with a change was refused by `decide` before it was written. A record that contradicts the image is a broken
//! invariant and stops the process's metadata. Also the reverse, `to_records`, from which snapshots are made.

use std::sync::Arc;

use imbl::{OrdMap, Vector};

use super::ids::{BrokerEpoch, BrokerId};
use super::image::{Broker, DeletedTier, Image, TierPosition, Topic};
use super::records::{ConfigResource, LeaderChange, PartitionChange, PartitionState, Record};

/// Where in the metadata log a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub offset: u64,
    /// The Raft epoch of the entry.
    pub epoch: u64,
}

impl Image {
    /// Applies all records of one entry.
    pub fn replay_entry<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>, at: Position) {
        for record in records {
            self.replay(record, at);
        }
        self.last_offset = at.offset;
        self.last_epoch = at.epoch;
    }

    /// Applies one record. Does not move `last_offset`: an entry counts only as a whole.
    pub fn replay(&mut self, record: &Record, at: Position) {
        match record {
            Record::ClusterNamed { id } => {
                assert!(
                    !self.cluster_id.is_known() || self.cluster_id == *id,
                    "offset {}: the log is of cluster {id}, this node of cluster {}",
                    at.offset,
                    self.cluster_id
                );
                self.cluster_id = id.clone();
            }
            Record::BrokerRegistered {
                id,
                epoch,
                incarnation,
                endpoints,
                rack,
                features,
                log_dirs,
                fenced,
                in_controlled_shutdown,
                shut_down_offset,
            } => {
                let broker = Broker {
                    id: *id,
                    epoch: *epoch,
                    incarnation: *incarnation,
                    endpoints: endpoints.clone(),
                    rack: rack.clone(),
                    features: features.clone(),
                    log_dirs: log_dirs.clone(),
                    fenced: *fenced,
                    in_controlled_shutdown: *in_controlled_shutdown,
                    shut_down_offset: *shut_down_offset,
                };
                self.brokers.insert(*id, Arc::new(broker));
            }
            Record::BrokerUnregistered { id, epoch } => {
                let removed = self.brokers.remove(id);
                assert!(
                    removed.as_ref().is_some_and(|broker| broker.epoch == *epoch),
                    "offset {}: broker {id} of epoch {epoch} is unregistered, the image has {removed:?}",
                    at.offset
                );
            }
            Record::BrokerChanged { id, epoch, fenced, in_controlled_shutdown, log_dirs } => {
                let Some(broker) = self.brokers.get_mut(id).filter(|broker| broker.epoch == *epoch) else {
                    panic!(
                        "offset {}: broker {id} of epoch {epoch} changes but is not in the image",
                        at.offset
                    );
                };
                let broker = Arc::make_mut(broker);
                broker.fenced = fenced.unwrap_or(broker.fenced);
                if let Some(is_leaving) = *in_controlled_shutdown {
                    broker.in_controlled_shutdown = is_leaving;
                    broker.shut_down_offset = is_leaving.then_some(at.offset);
                }
                if let Some(log_dirs) = log_dirs {
                    broker.log_dirs = log_dirs.clone();
                }
            }
            Record::TopicCreated { name, id } => {
                let topic = Topic { name: name.clone(), id: *id, partitions: Vector::new() };
                let other = self.topics.insert(*id, Arc::new(topic));
                assert!(other.is_none(), "offset {}: topic id {id} is given twice", at.offset);
                let other = self.topic_names.insert(name.clone(), *id);
                assert!(other.is_none(), "offset {}: topic name {name} is given twice", at.offset);
                if let Some(key) = collision_key(name) {
                    self.colliding_names.entry(key).or_default().insert(name.clone());
                }
            }
            Record::TopicDeleted { id } => {
                let Some(topic) = self.topics.remove(id) else {
                    panic!("offset {}: topic id {id} is deleted but is not in the image", at.offset);
                };
                self.topic_names.remove(&topic.name);
                self.configs.remove(&ConfigResource::topic(topic.name.clone()));
                self.partition_count -= topic.partitions.len();
                for partition in 0..topic.partitions.len() as i32 {
                    self.leaderless.remove(&(*id, partition));
                    self.tier_positions.remove(&(*id, partition));
                }
                if let Some(key) = collision_key(&topic.name)
                    && let Some(names) = self.colliding_names.get_mut(&key)
                {
                    names.remove(&topic.name);
                    if names.is_empty() {
                        self.colliding_names.remove(&key);
                    }
                }
            }
            Record::PartitionCreated { topic, partition, state } => {
                let Some(topic) = self.topics.get_mut(topic) else {
                    panic!("offset {}: a partition of the unknown topic id {topic} is created", at.offset);
                };
                assert_eq!(
                    usize::try_from(*partition).ok(),
                    Some(topic.partitions.len()),
                    "offset {}: partitions of {} are created out of order",
                    at.offset,
                    topic.name
                );
                Arc::make_mut(topic).partitions.push_back(Arc::new(state.clone()));
                if state.leader.is_none() {
                    self.leaderless.insert((topic.id, *partition));
                }
                self.partition_count += 1;
            }
            Record::PartitionChanged(change) => {
                let state = self.topics.get_mut(&change.topic).and_then(|topic| {
                    Arc::make_mut(topic).partitions.get_mut(usize::try_from(change.partition).ok()?)
                });
                let Some(state) = state else {
                    panic!(
                        "offset {}: partition {} of topic id {} changes but is unknown",
                        at.offset, change.partition, change.topic
                    );
                };
                let had_leader = state.leader.is_some();
                let state = Arc::make_mut(state);
                change_partition(state, change);
                match (had_leader, state.leader) {
                    (true, None) => self.leaderless.insert((change.topic, change.partition)),
                    (false, Some(_)) => self.leaderless.remove(&(change.topic, change.partition)),
                    _ => None,
                };
                if change.leader_recovering == Some(true)
                    && let Some(position) = self.tier_positions.get_mut(&(change.topic, change.partition))
                {
                    position.is_doubtful = true;
                }
            }
            Record::ConfigSet { resource, key, value } => match value {
                Some(value) => {
                    self.configs.entry(resource.clone()).or_default().insert(key.clone(), value.clone());
                }
                None => {
                    if let Some(configs) = self.configs.get_mut(resource) {
                        configs.remove(key);
                        if configs.is_empty() {
                            self.configs.remove(resource);
                        }
                    }
                }
            },
            Record::FeatureLevelSet { name, level } => {
                if *level == 0 {
                    self.features.remove(name);
                } else {
                    self.features.insert(name.clone(), *level);
                }
                self.features_epoch = at.offset;
            }
            Record::ProducerIdsAllocated { next, .. } => {
                assert!(
                    *next >= self.next_producer_id,
                    "offset {}: producer ids go back from {} to {next}",
                    at.offset,
                    self.next_producer_id
                );
                self.next_producer_id = *next;
            }
            Record::TierReported { topic, partition, manifest, end_offset, leader_epoch, is_doubtful } => {
                let known = self.topics.get(topic).and_then(|topic| topic.partition(*partition));
                assert!(
                    known.is_some(),
                    "offset {}: the tier of partition {partition} of topic id {topic} is reported but it is unknown",
                    at.offset
                );
                let position = TierPosition {
                    manifest: *manifest,
                    end_offset: *end_offset,
                    leader_epoch: *leader_epoch,
                    is_doubtful: *is_doubtful,
                };
                self.tier_positions.insert((*topic, *partition), position);
            }
            Record::TierLeft { topic, name, partitions } => {
                let left = DeletedTier { name: name.clone(), partitions: *partitions };
                self.tiers_to_delete.insert(*topic, left);
            }
            Record::TierDeleted { topic } => {
                self.tiers_to_delete.remove(topic);
            }
        }
    }

    /// Records that build this image from an empty one. What no record carries (the positions) goes beside them.
    pub fn to_records(&self) -> Vec<Record> {
        let mut records = Vec::with_capacity(16 + self.partition_count + self.topics.len());
        for (name, level) in &self.features {
            records.push(Record::FeatureLevelSet { name: name.clone(), level: *level });
        }
        for broker in self.brokers.values() {
            records.push(Record::BrokerRegistered {
                id: broker.id,
                epoch: broker.epoch,
                incarnation: broker.incarnation,
                endpoints: broker.endpoints.clone(),
                rack: broker.rack.clone(),
                features: broker.features.clone(),
                log_dirs: broker.log_dirs.clone(),
                fenced: broker.fenced,
                in_controlled_shutdown: broker.in_controlled_shutdown,
                shut_down_offset: broker.shut_down_offset,
            });
        }
        for topic in self.topics.values() {
            records.push(Record::TopicCreated { name: topic.name.clone(), id: topic.id });
            records.extend(topic.partitions.iter().enumerate().map(|(index, state)| {
                Record::PartitionCreated {
                    topic: topic.id,
                    partition: index as i32,
                    state: PartitionState::clone(state),
                }
            }));
        }
        for ((topic, partition), position) in &self.tier_positions {
            records.push(Record::TierReported {
                topic: *topic,
                partition: *partition,
                manifest: position.manifest,
                end_offset: position.end_offset,
                leader_epoch: position.leader_epoch,
                is_doubtful: position.is_doubtful,
            });
        }
        for (topic, left) in &self.tiers_to_delete {
            let (name, partitions) = (left.name.clone(), left.partitions);
            records.push(Record::TierLeft { topic: *topic, name, partitions });
        }
        for (resource, configs) in &self.configs {
            records.extend(configs.iter().map(|(key, value)| Record::ConfigSet {
                resource: resource.clone(),
                key: key.clone(),
                value: Some(value.clone()),
            }));
        }
        if self.next_producer_id != 0 {
            records.push(Record::ProducerIdsAllocated {
                broker: BrokerId(-1),
                epoch: BrokerEpoch(-1),
                next: self.next_producer_id,
            });
        }
        records
    }

    /// The image that `to_records` came from.
    pub fn from_records(
        cluster_id: super::ids::ClusterId,
        records: &[Record],
        at: Position,
        features_epoch: u64,
    ) -> Image {
        let mut image = Image::empty(cluster_id);
        image.replay_entry(records, at);
        image.features_epoch = features_epoch;
        image
    }
}

fn change_partition(state: &mut PartitionState, change: &PartitionChange) {
    let PartitionChange {
        topic: _,
        partition: _,
        replicas,
        isr,
        leader,
        leader_epoch_bump,
        adding_replicas,
        removing_replicas,
        elr,
        last_known_elr,
        leader_recovering,
        directories,
    } = change;
    if let Some(replicas) = replicas {
        if !state.directories.is_empty() {
            state.directories = replicas.iter().map(|id| state.directory(*id)).collect();
        }
        state.replicas = replicas.as_slice().into();
    }
    if let Some(directories) = directories {
        state.directories = directories.clone();
    }
    if let Some(isr) = isr {
        state.isr = isr.as_slice().into();
    }
    let leader = match leader {
        Some(LeaderChange::To(id)) => Some(*id),
        Some(LeaderChange::None) => None,
        None => state.leader,
    };
    if leader != state.leader || *leader_epoch_bump {
        state.leader = leader;
        state.leader_epoch = state.leader_epoch.next();
    }
    if let Some(adding) = adding_replicas {
        state.adding_replicas = adding.clone();
    }
    if let Some(removing) = removing_replicas {
        state.removing_replicas = removing.clone();
    }
    if let Some(elr) = elr {
        state.elr = elr.clone();
    }
    if let Some(last_known_elr) = last_known_elr {
        state.last_known_elr = last_known_elr.clone();
    }
    if let Some(recovering) = leader_recovering {
        state.leader_recovering = *recovering;
    }
    state.partition_epoch = state.partition_epoch.next();
}

/// Topic names that differ only in `.` against `_` name the same metrics in Kafka's clients and tools.
pub(crate) fn collision_key(name: &str) -> Option<Arc<str>> {
    name.contains(['.', '_']).then(|| name.replace('.', "_").into())
}

/// Type of `Image::configs` values, for callers that build one.
pub(crate) fn configs_from<'a>(
    entries: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> OrdMap<Arc<str>, Arc<str>> {
    entries.into_iter().map(|(key, value)| (Arc::from(key), Arc::from(value))).collect()
}
