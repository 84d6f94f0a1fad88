//! `decide`: a request against an image gives records and an answer. Reads only: no clock, no random source, no lock.
//!
//! The controller calls it for each waiting request, on an image that already has the records of the requests before,
//! and drops everything if the records do not become part of the log. A refused request, or a refused item of one, has
//! no records. One file per request.

mod allocate_producer_ids;
mod alter_configs;
mod alter_partition;
mod alter_partition_reassignments;
mod assign_replicas_to_dirs;
mod balance_leaders;
mod broker_heartbeat;
mod create_partitions;
mod create_topics;
mod delete_topics;
mod elect_leaders;
mod elect_unclean;
mod partitions;
mod register_broker;
mod report_tier;
mod restore_topics;
mod update_features;

pub use create_topics::check_topic_name;
pub(crate) use update_features::min_isr_records;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::ids::BrokerId;
use super::image::Image;
use super::placement::{Candidate, Placer};
use super::records::Record;
use super::replay::Position;
use crate::quorum::{ConfigCheck, TopicDefaults};
use crate::requests::{Request, Response};

/// Kafka's bound on what one request may write; keeps an entry of the log of a size that every node can take.
pub const RECORDS_PER_REQUEST_MAX: usize = 10_000;
/// Partitions of the whole cluster.
pub const PARTITIONS_MAX: usize = 1_000_000;
/// The longest string that Kafka's own protocol carries.
pub const CONFIG_VALUE_BYTES_MAX: usize = 32_767;
/// Keys of one resource.
pub const CONFIG_KEYS_MAX: usize = 1_000;
/// Resources other than topics with configs of their own: any name is accepted for groups and client metrics.
pub const CONFIG_RESOURCES_MAX: usize = 100_000;
/// Items of one request, whatever it is; the caller's frame limit comes first for all but tiny items.
pub const ITEMS_PER_REQUEST_MAX: usize = 100_000;

/// Changes of partitions that one step of a request writes; the rest of a request of the cluster's own making (a broker
/// is fenced, say) follows in further entries. Keeps an entry small enough to be replicated between two heartbeats.
pub const CHANGES_PER_STEP_MAX: usize = 2_000;

/// Everything that `decide` may know besides the request and the image.
pub struct Context<'a> {
    /// Where the records will lie if they are written.
    pub next: Position,
    /// Fresh random bits: ids and placement come from them.
    pub seed: [u8; 32],
    /// Brokers that were heard of lately, so that another process with the same id must not take their place.
    pub live_brokers: &'a BTreeSet<BrokerId>,
    pub topic_defaults: TopicDefaults,
    pub static_settings: StaticSettings,
    /// What each broker said in its last heartbeat that it has applied.
    pub applied_offsets: &'a BTreeMap<BrokerId, u64>,
    pub config_check: Option<&'a ConfigCheck>,
}

/// The broker settings of this controller that decide where no dynamic config does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticSettings {
    /// `unclean.leader.election.enable`
    pub unclean_leader_election: bool,
    /// `min.insync.replicas`
    pub min_insync_replicas: i32,
    /// `ottla.durability` is `memory`: what was acknowledged may be lost with the machine.
    pub acknowledges_unsynced: bool,
}

impl Default for StaticSettings {
    fn default() -> StaticSettings {
        StaticSettings {
            unclean_leader_election: false,
            min_insync_replicas: 1,
            acknowledges_unsynced: false,
        }
    }
}

/// What came of a request.
#[derive(Debug)]
pub struct Decision {
    pub records: Vec<Record>,
    /// The image as the records make it, ahead of the log.
    pub ahead: Image,
    /// `None`: the records are one step of many. Once they are written the same request is decided again, and does what is
    /// left to do. The image after each step is sound, so a request whose other steps never come does no harm.
    pub response: Option<Response>,
}

pub fn decide(request: &Request, image: &Image, context: &Context<'_>) -> Decision {
    let mut draft = Draft::new(image, context);
    let response = match request {
        Request::RegisterBroker(request) => {
            Response::RegisterBroker(register_broker::decide(request, &mut draft))
        }
        Request::BrokerHeartbeat(request) => {
            Response::BrokerHeartbeat(broker_heartbeat::decide(request, &mut draft))
        }
        Request::UnregisterBroker(request) => {
            Response::UnregisterBroker(register_broker::decide_unregister(request, &mut draft))
        }
        Request::CreateTopics(request) => Response::CreateTopics(create_topics::decide(request, &mut draft)),
        Request::DeleteTopics(request) => Response::DeleteTopics(delete_topics::decide(request, &mut draft)),
        Request::CreatePartitions(request) => {
            Response::CreatePartitions(create_partitions::decide(request, &mut draft))
        }
        Request::IncrementalAlterConfigs(request) => {
            Response::IncrementalAlterConfigs(alter_configs::decide_incremental(request, &mut draft))
        }
        Request::AlterConfigs(request) => {
            Response::AlterConfigs(alter_configs::decide_replace(request, &mut draft))
        }
        Request::AllocateProducerIds(request) => {
            Response::AllocateProducerIds(allocate_producer_ids::decide(request, &mut draft))
        }
        Request::UpdateFeatures(request) => {
            Response::UpdateFeatures(update_features::decide(request, &mut draft))
        }
        Request::ElectLeaders(request) => Response::ElectLeaders(elect_leaders::decide(request, &mut draft)),
        Request::AlterPartition(request) => {
            Response::AlterPartition(alter_partition::decide(request, &mut draft))
        }
        Request::AlterPartitionReassignments(request) => {
            Response::AlterPartitionReassignments(alter_partition_reassignments::decide(request, &mut draft))
        }
        Request::BalanceLeaders(request) => {
            Response::BalanceLeaders(balance_leaders::decide(request, &mut draft))
        }
        Request::ElectUnclean(request) => Response::ElectUnclean(elect_unclean::decide(request, &mut draft)),
        Request::AssignReplicasToDirs(request) => {
            Response::AssignReplicasToDirs(assign_replicas_to_dirs::decide(request, &mut draft))
        }
        Request::ReportTier(request) => Response::ReportTier(report_tier::decide(request, &mut draft)),
        Request::ReportTierDeleted(request) => {
            Response::ReportTierDeleted(report_tier::decide_deleted(request, &mut draft))
        }
        Request::RestoreTopics(request) => {
            Response::RestoreTopics(restore_topics::decide(request, &mut draft))
        }
    };
    assert!(!draft.is_unfinished || !draft.records.is_empty(), "a step of a request that changes nothing");
    let response = (!draft.is_unfinished).then_some(response);
    Decision { records: draft.records, ahead: draft.image, response }
}

/// The records so far and the image as they make it, so that a later item of a request sees the earlier ones.
struct Draft<'a> {
    base: &'a Image,
    image: Image,
    records: Vec<Record>,
    /// Another step is needed; the response is void.
    is_unfinished: bool,
    /// Partitions changed in this step.
    step_changes: usize,
    random: StdRng,
    context: &'a Context<'a>,
}

impl<'a> Draft<'a> {
    fn new(image: &'a Image, context: &'a Context<'a>) -> Draft<'a> {
        Draft {
            base: image,
            image: image.clone(),
            records: Vec::new(),
            is_unfinished: false,
            step_changes: 0,
            random: StdRng::from_seed(context.seed),
            context,
        }
    }

    fn push(&mut self, record: Record) {
        self.image.replay(&record, self.context.next);
        self.records.push(record);
    }

    /// Takes back what was decided: the request was only to be validated.
    fn discard(&mut self) {
        self.records.clear();
        self.is_unfinished = false;
        self.image = self.base.clone();
    }

    fn room_for(&self, records: usize) -> bool {
        self.records.len() + records <= RECORDS_PER_REQUEST_MAX
    }
}

fn candidates(image: &Image) -> Vec<Candidate> {
    image
        .brokers
        .values()
        .map(|broker| Candidate { id: broker.id, rack: broker.rack.clone(), fenced: broker.fenced })
        .collect()
}

fn placer<'a>(image: &Image, random: &'a mut StdRng) -> Placer<'a, StdRng> {
    Placer::new(candidates(image), random)
}

/// What is wrong with a manual assignment of one partition's replicas, if anything. `factor` is the count that the
/// topic's other partitions have.
fn check_manual_replicas(
    image: &Image,
    partition: i32,
    replicas: &[BrokerId],
    factor: Option<usize>,
) -> Result<(), String> {
    if replicas.is_empty() {
        return Err(format!("the assignment of partition {partition} names no replica"));
    }
    let mut seen = BTreeSet::new();
    for &id in replicas {
        if id.0 < 0 {
            return Err(format!("the assignment of partition {partition} names the invalid broker id {id}"));
        }
        if !seen.insert(id) {
            return Err(format!("the assignment of partition {partition} names broker {id} more than once"));
        }
        if image.broker(id).is_none() {
            return Err(format!(
                "the assignment of partition {partition} names broker {id}, which is not registered"
            ));
        }
    }
    match factor {
        Some(factor) if factor != replicas.len() => Err(format!(
            "the assignment of partition {partition} has {} replica(s), the other partitions have {factor}",
            replicas.len()
        )),
        _ => Ok(()),
    }
}
