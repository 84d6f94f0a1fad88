//! The end of a simulation, after all faults healed: every partition takes a record again within a bound, and everything is
//! read once more.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ottla_clients::admin::{self, OffsetSpec};
use ottla_clients::cluster::{AutoCreate, Cluster};
use ottla_clients::consumer::fetcher::Fetcher;
use ottla_clients::producer::{Producer, ProducerConfig, ProducerRecord};

use super::WorkTopic;
use super::reader::{fetch_config, ids, note};
use crate::check::{Event, TopicPartition};
use crate::payload;
use crate::world::World;

/// The number of the producer that writes one record to each partition at the end.
const LAST_PRODUCER: u32 = 1_000_000;

/// From the end of all faults until every partition has taken a record with acks=all.
pub const PRODUCE_AGAIN_MAX: Duration = Duration::from_secs(20);
/// From then until all of it was read.
const READ_AGAIN_MAX: Duration = Duration::from_secs(30);

const LIVENESS: &str = "produce and fetch work again after the faults healed";

pub async fn produce_again(world: &Rc<World>, topics: &[WorkTopic]) {
    let partitions: Vec<TopicPartition> = topics.iter().flat_map(WorkTopic::partitions).collect();
    let waiting = std::cell::RefCell::new(partitions.clone());
    let produce = async {
        let cluster = world.connect("last-producer").await;
        let config = ProducerConfig {
            delivery_timeout: Duration::from_secs(6),
            create: AutoCreate::Never,
            ..ProducerConfig::default()
        };
        let producer = Producer::new(cluster, config);
        let mut number = 0;
        let mut under_way = Vec::new();
        while !waiting.borrow().is_empty() {
            for partition in waiting.borrow().clone() {
                let id = payload::id(LAST_PRODUCER, number, true);
                number += 1;
                let record = ProducerRecord {
                    partition: Some(partition.1),
                    value: Some(payload::encode(id)),
                    ..ProducerRecord::default()
                };
                match producer.send(&partition.0, record).await {
                    Ok(delivery) => under_way.push((partition, id, delivery)),
                    Err(error) => tracing::debug!(%error, "not sent"),
                }
            }
            for (partition, id, delivery) in under_way.drain(..) {
                match delivery.wait().await {
                    Ok(delivered) => {
                        if let Some(offset) = delivered.offset {
                            let acks = crate::check::Acks::All;
                            let producer = LAST_PRODUCER;
                            world.tell(Event::Acked {
                                producer,
                                partition: partition.clone(),
                                offset,
                                id,
                                acks,
                            });
                        }
                        waiting.borrow_mut().retain(|other| *other != partition);
                    }
                    Err(error) => tracing::debug!(?partition, %error, "not acknowledged"),
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        producer.close().await;
    };
    if tokio::time::timeout(PRODUCE_AGAIN_MAX, produce).await.is_err() {
        let text =
            format!("{:?} take no record {PRODUCE_AGAIN_MAX:?} after the last fault", waiting.borrow());
        world.object(LIVENESS, text);
    }
}

/// Reads every partition from its start to the end that it has now.
pub async fn read_everything(world: &Rc<World>, topics: &[WorkTopic]) {
    let partitions: Vec<TopicPartition> = topics.iter().flat_map(WorkTopic::partitions).collect();
    let mut left = BTreeMap::new();
    let read = read_to_the_end(world, partitions, &mut left);
    if tokio::time::timeout(READ_AGAIN_MAX, read).await.is_err() {
        world.object(LIVENESS, format!("not read to the end within {READ_AGAIN_MAX:?}: {left:?}"));
    }
}

async fn ends(cluster: &Cluster, partitions: &[TopicPartition]) -> BTreeMap<TopicPartition, i64> {
    let wanted: Vec<_> = partitions.iter().map(|partition| (partition.clone(), OffsetSpec::Latest)).collect();
    loop {
        match admin::list_offsets(cluster, &wanted).await {
            Ok(ends) if ends.len() == partitions.len() => {
                return ends.into_iter().map(|(partition, end)| (partition, end.unwrap_or(0))).collect();
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "ends not known"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn read_to_the_end(
    world: &Rc<World>,
    partitions: Vec<TopicPartition>,
    left: &mut BTreeMap<TopicPartition, i64>,
) {
    let cluster = world.connect("last-reader").await;
    *left = ends(&cluster, &partitions).await;
    let mut positions: BTreeMap<TopicPartition, i64> =
        partitions.iter().map(|partition| (partition.clone(), 0)).collect();
    let mut found: BTreeMap<TopicPartition, Vec<_>> =
        partitions.into_iter().map(|partition| (partition, Vec::new())).collect();
    loop {
        left.retain(|partition, end| positions[partition] < *end);
        if left.is_empty() {
            break;
        }
        let mut fetcher = Fetcher::new(cluster.clone(), fetch_config());
        fetcher.assign(
            positions.iter().filter(|(p, _)| left.contains_key(*p)).map(|(p, o)| (p.clone(), *o)).collect(),
        );
        while !left.is_empty() {
            match tokio::time::timeout(Duration::from_secs(5), fetcher.next()).await {
                Ok(Ok(fetched)) => {
                    let records = ids(world, &fetched);
                    positions.insert(fetched.partition.clone(), fetched.next_offset);
                    found.entry(fetched.partition).or_default().extend(records);
                    left.retain(|partition, end| positions[partition] < *end);
                }
                Ok(Err(error)) => {
                    note(world, "the last reader", &error);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    break;
                }
                Err(_) => break,
            }
        }
    }
    for (partition, records) in found {
        world.tell(Event::Final { partition, records });
    }
}
