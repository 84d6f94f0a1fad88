//! Every refusal of every request, the records of the accepted ones, and the properties that hold for all of them.

macro_rules! assert_refused {
    ($result:expr, $variant:pat, $text:expr) => {{
        let result = $result;
        assert!(matches!(result, Err($variant)), "{result:?}");
        let text = result.unwrap_err().to_string();
        assert!(text.contains($text), "`{text}` does not say `{}`", $text);
    }};
}

mod brokers;
mod committed_data;
mod configs;
mod features_and_ids;
mod replication;
mod sequences;
mod tier;
mod topics;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::metadata::features;
use crate::metadata::ids::*;
use crate::metadata::image::Partition;
use crate::metadata::records::*;
use crate::quorum::encoding::{decode as decode_stored, encode};
use crate::requests::*;

/// A cluster under decision: what the controller does, without a quorum.
struct Cluster {
    image: Image,
    log: Vec<(Position, Vec<Record>)>,
    live: BTreeSet<BrokerId>,
    settings: StaticSettings,
    applied: BTreeMap<BrokerId, u64>,
    check: Option<ConfigCheck>,
}

impl Cluster {
    fn empty() -> Cluster {
        Cluster {
            image: Image::empty(ClusterId("test".into())),
            log: Vec::new(),
            live: BTreeSet::new(),
            settings: StaticSettings::default(),
            applied: BTreeMap::new(),
            check: None,
        }
    }

    /// Brokers 1..=count, registered and unfenced.
    fn of(count: i32) -> Cluster {
        let mut cluster = Cluster::empty();
        for id in 1..=count {
            cluster.add_broker(id, None);
        }
        cluster
    }

    /// As `of`, with eligible leader replicas.
    fn with_elr(count: i32) -> Cluster {
        let mut cluster = Cluster::of(count);
        let update =
            FeatureUpdate { name: features::ELR_VERSION.into(), level: 1, kind: FeatureUpdateType::Upgrade };
        cluster.submit(UpdateFeatures { updates: vec![update], validate_only: false }).unwrap();
        cluster
    }

    fn add_broker(&mut self, id: i32, rack: Option<&str>) -> BrokerEpoch {
        let epoch = self.submit(registration(id, id as u128, rack)).unwrap();
        let state = self.submit(heartbeat(id, epoch)).unwrap();
        assert!(state.is_caught_up && !state.is_fenced);
        epoch
    }

    fn fence(&mut self, id: i32) {
        let epoch = self.image.broker(BrokerId(id)).unwrap().epoch;
        let request = BrokerHeartbeat { want_fence: true, ..heartbeat(id, epoch) };
        assert!(self.submit(request).unwrap().is_fenced);
    }

    fn unfence(&mut self, id: i32) {
        let epoch = self.image.broker(BrokerId(id)).unwrap().epoch;
        assert!(!self.submit(heartbeat(id, epoch)).unwrap().is_fenced);
    }

    /// Every active broker is heard of once more: then who could lead does.
    fn settle(&mut self) {
        let brokers: Vec<_> = self.image.brokers.values().cloned().collect();
        for broker in brokers.into_iter().filter(|broker| broker.is_active()) {
            self.submit(heartbeat(broker.id.0, broker.epoch)).unwrap();
        }
        check_leaders(&self.image);
    }

    fn next(&self) -> Position {
        Position { offset: self.image.last_offset + 1, epoch: 1 }
    }

    fn decide(&self, request: impl Into<Request>) -> Decision {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&self.image.last_offset.to_le_bytes());
        let context = Context {
            next: self.next(),
            seed,
            live_brokers: &self.live,
            topic_defaults: TopicDefaults { partitions: 3, replication_factor: 1 },
            static_settings: self.settings,
            applied_offsets: &self.applied,
            config_check: self.check.as_ref(),
        };
        decide(&request.into(), &self.image, &context)
    }

    fn submit<R: Submit>(&mut self, request: R) -> R::Response {
        let request: Request = as_sent(&request.into());
        loop {
            let decision = self.decide(request.clone());
            let mut ahead = decision.ahead;
            if !decision.records.is_empty() {
                let next = self.next();
                self.image.replay_entry(&decision.records, next);
                ahead.last_offset = next.offset;
                ahead.last_epoch = next.epoch;
                self.log.push((next, decision.records));
            }
            assert_eq!(self.image, ahead, "the image ahead is the image that replay gives");
            check_image(&self.image);
            if let Some(response) = decision.response {
                return R::response(as_sent(&response)).unwrap();
            }
        }
    }

    fn create(&mut self, topic: NewTopic) -> Result<CreatedTopic, CreateTopicError> {
        self.submit(CreateTopics { topics: vec![topic], validate_only: false }).remove(0).result
    }

    fn epoch(&self, id: i32) -> BrokerEpoch {
        self.image.broker(BrokerId(id)).map_or(BrokerEpoch(0), |broker| broker.epoch)
    }

    fn partition(&self, topic: &str) -> Partition {
        Partition::clone(self.image.partition(topic, 0).unwrap())
    }

    /// What the leader of partition 0 would ask.
    fn proposal(&self, topic: &str, isr: &[i32]) -> AlterPartition {
        let state = self.partition(topic);
        let broker = state.leader.unwrap();
        let item = AlterPartitionItem {
            topic: self.image.topic_by_name(topic).unwrap().id,
            partition: 0,
            leader_epoch: state.leader_epoch,
            partition_epoch: state.partition_epoch,
            isr: isr.iter().map(|id| (BrokerId(*id), self.epoch(*id))).collect(),
            recovered: true,
        };
        AlterPartition { broker, broker_epoch: self.epoch(broker.0), partitions: vec![item] }
    }

    fn alter_isr(&mut self, topic: &str, isr: &[i32]) -> Result<Partition, AlterPartitionError> {
        let request = self.proposal(topic, isr);
        self.submit(request).unwrap().remove(0).result
    }

    fn leader(&self, topic: &str, partition: i32) -> (Option<i32>, i32) {
        let state = self.image.partition(topic, partition).unwrap();
        (state.leader.map(|id| id.0), state.leader_epoch.0)
    }
}

/// As another node gets it.
fn as_sent<T: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug>(message: &T) -> T {
    let arrived: T = decode_stored(&encode(message).unwrap()).unwrap();
    assert_eq!(format!("{message:?}"), format!("{arrived:?}"));
    arrived
}

/// What must hold of every image.
fn check_image(image: &Image) {
    assert_eq!(image.topics.len(), image.topic_names.len());
    let mut partitions = 0;
    for topic in image.topics.values() {
        assert_eq!(image.topic_names.get(&topic.name), Some(&topic.id));
        assert!(!topic.partitions.is_empty(), "{} has no partition", topic.name);
        partitions += topic.partitions.len();
        for state in &topic.partitions {
            check_partition(image, state);
        }
    }
    assert_eq!(image.partition_count, partitions);
    let leaderless = image.topics.values().flat_map(|topic| {
        let without = (0..).zip(&topic.partitions).filter(|(_, state)| state.leader.is_none());
        without.map(|(partition, _)| (topic.id, partition))
    });
    assert!(image.leaderless.iter().copied().eq(leaderless), "the index of partitions without leader");
    for (topic, partition) in image.tier_positions.keys() {
        let known = image.topic_by_id(*topic).and_then(|topic| topic.partition(*partition));
        assert!(known.is_some(), "the tier of a partition that is not there");
    }
    assert!(image.tiers_to_delete.keys().all(|topic| image.topic_by_id(*topic).is_none()));
    let at = Position { offset: image.last_offset, epoch: image.last_epoch };
    let again = Image::from_records(image.cluster_id.clone(), &image.to_records(), at, image.features_epoch);
    assert_eq!(*image, again, "a snapshot gives the same image");
}

fn check_partition(image: &Image, state: &Partition) {
    let distinct: BTreeSet<BrokerId> = state.replicas.iter().copied().collect();
    assert!(!distinct.is_empty() && distinct.len() == state.replicas.len(), "{state:?}");
    let elr_enabled = image.features.contains_key(features::ELR_VERSION);
    for (list, what) in [
        (&*state.isr, "in sync"),
        (&*state.elr, "eligible"),
        (&*state.adding_replicas, "being added"),
        (&*state.removing_replicas, "being removed"),
    ] {
        let members: BTreeSet<BrokerId> = list.iter().copied().collect();
        assert_eq!(members.len(), list.len(), "{what} twice: {state:?}");
        assert!(members.is_subset(&distinct), "{what}, but no replica: {state:?}");
    }
    assert!(!state.elr.iter().any(|id| state.isr.contains(id)), "eligible and in sync: {state:?}");
    assert!(elr_enabled || !state.isr.is_empty(), "{state:?}");
    assert!(elr_enabled || (state.elr.is_empty() && state.last_known_elr.is_empty()), "{state:?}");
    assert!(state.last_known_elr.is_empty() || state.isr.is_empty(), "{state:?}");
    assert!(state.directories.is_empty() || state.directories.len() == state.replicas.len(), "{state:?}");
    if let Some(leader) = state.leader {
        assert!(state.isr.contains(&leader), "the leader is in sync: {state:?}");
        assert!(image.may_lead(leader, state), "the leader {leader} is alive: {state:?}");
    }
}

/// What must hold when all have been heard of: who could lead does.
fn check_leaders(image: &Image) {
    for state in image.topics.values().flat_map(|topic| &topic.partitions) {
        let candidates = if state.isr.is_empty() { &*state.elr } else { &*state.isr };
        assert!(
            state.leader.is_some() || !candidates.iter().any(|id| image.may_lead(*id, state)),
            "a complete replica could lead: {state:?}"
        );
    }
}

fn directory(id: i32) -> Uuid {
    Uuid::from_u128(1000 + id as u128)
}

fn registration(id: i32, incarnation: u128, rack: Option<&str>) -> RegisterBroker {
    RegisterBroker {
        id: BrokerId(id),
        incarnation: Uuid::from_u128(incarnation),
        endpoints: vec![Endpoint {
            name: "PLAINTEXT".into(),
            host: "localhost".into(),
            port: 9092,
            security_protocol: 0,
        }],
        rack: rack.map(Into::into),
        features: features::supported(),
        log_dirs: vec![directory(id)],
        previous_epoch: None,
    }
}

fn heartbeat(id: i32, epoch: BrokerEpoch) -> BrokerHeartbeat {
    BrokerHeartbeat {
        id: BrokerId(id),
        epoch,
        metadata_offset: u64::MAX,
        want_fence: false,
        want_shut_down: false,
        offline_log_dirs: vec![],
    }
}

fn topic(name: &str, partitions: i32, factor: i16) -> NewTopic {
    NewTopic {
        name: name.into(),
        partitions,
        replication_factor: factor,
        assignments: vec![],
        configs: vec![],
    }
}

fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> NewTopic {
    NewTopic {
        assignments: assignments.iter().map(|(p, ids)| (*p, brokers(ids))).collect(),
        ..topic(name, -1, -1)
    }
}

fn brokers(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(*id)).collect()
}

fn alter(
    cluster: &mut Cluster,
    resource: ConfigResource,
    operations: Vec<(&str, ConfigOperation)>,
) -> Result<(), AlterConfigsError> {
    let operations = operations.into_iter().map(|(key, operation)| (key.to_owned(), operation)).collect();
    cluster
        .submit(IncrementalAlterConfigs { resources: vec![(resource, operations)], validate_only: false })
        .remove(0)
        .result
}

fn set(value: &str) -> ConfigOperation {
    ConfigOperation::Set(value.into())
}
