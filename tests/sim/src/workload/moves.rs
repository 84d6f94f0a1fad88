//! Moves partitions between brokers, and leaderships back to those who are preferred, while things break (KIP-455, KIP-460).
//!
//! Moves are begun, taken back and replaced by others before they come to an end. Whatever is answered, none of it may cost a
//! record, and once nothing breaks any more every move that is not taken back comes to its end, which `run` checks.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, BrokerId, ElectLeadersRequest};
use kafka_protocol::protocol::StrBytes;
use ottla_clients::cluster::Cluster;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::WorkTopic;
use crate::check::TopicPartition;
use crate::world::World;

#[derive(Debug, Clone)]
pub struct Moving {
    pub topics: Vec<WorkTopic>,
    pub brokers: Vec<i32>,
    /// The mean time between two moves.
    pub pause: Duration,
    pub seed: u64,
}

/// Among the partitions that move, so that coordinators do too.
const OFFSETS_TOPIC: &str = "__consumer_offsets";
const OFFSETS_PARTITIONS: i32 = 3;
const TIMEOUT_MS: i32 = 10_000;

pub async fn run(world: Rc<World>, spec: Moving) {
    let mut random = StdRng::seed_from_u64(spec.seed);
    let cluster = world.connect("moves").await;
    let mut partitions: Vec<TopicPartition> = spec.topics.iter().flat_map(WorkTopic::partitions).collect();
    partitions.extend((0..OFFSETS_PARTITIONS).map(|index| (OFFSETS_TOPIC.to_owned(), index)));
    let replication_factor = spec.topics.first().map_or(1, |topic| topic.replication_factor);
    while world.working.get() {
        tokio::time::sleep(spec.pause.mul_f64(random.random_range(0.2..1.8))).await;
        let count = random.random_range(1..=partitions.len());
        let chosen: Vec<TopicPartition> = {
            partitions.shuffle(&mut random);
            partitions[..count].to_vec()
        };
        match random.random_range(0..10) {
            0..=5 => {
                let moves = chosen.into_iter().map(|partition| {
                    let mut brokers = spec.brokers.clone();
                    brokers.shuffle(&mut random);
                    // Fewer replicas are allowed, and more again.
                    let least = (replication_factor - 1).max(1);
                    let replicas = random.random_range(least..=replication_factor);
                    brokers.truncate(usize::from(replicas.unsigned_abs()));
                    (partition, Some(brokers))
                });
                alter(&cluster, moves.collect()).await;
            }
            6..=7 => alter(&cluster, chosen.into_iter().map(|partition| (partition, None)).collect()).await,
            _ => {
                let request = ElectLeadersRequest::default()
                    .with_election_type(0)
                    .with_topic_partitions(None)
                    .with_timeout_ms(TIMEOUT_MS);
                let elected = cluster.send_any(&request).await.map(|response| response.error_code);
                tracing::debug!(?elected, "preferred leaders");
            }
        }
    }
}

/// Brokers to move a partition to, or `None` to take its move back.
async fn alter(cluster: &Cluster, moves: Vec<(TopicPartition, Option<Vec<i32>>)>) {
    let mut topics: BTreeMap<&str, Vec<ReassignablePartition>> = BTreeMap::new();
    for ((topic, partition), replicas) in &moves {
        let replicas = replicas.as_ref().map(|ids| ids.iter().map(|id| BrokerId(*id)).collect());
        topics
            .entry(topic)
            .or_default()
            .push(ReassignablePartition::default().with_partition_index(*partition).with_replicas(replicas));
    }
    let topics = topics.into_iter().map(|(name, partitions)| {
        let name = StrBytes::from_string(name.to_owned());
        ReassignableTopic::default().with_name(name.into()).with_partitions(partitions)
    });
    let request = AlterPartitionReassignmentsRequest::default()
        .with_timeout_ms(TIMEOUT_MS)
        .with_topics(topics.collect());
    let answered = cluster.send_any(&request).await;
    tracing::debug!(?moves, ?answered, "moved");
}
