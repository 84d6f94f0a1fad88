//! A reader: reads partitions from their start and never goes back.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use ottla_clients::consumer::fetcher::{FetchConfig, Fetched, Fetcher};
use ottla_clients::wire::ErrorCode;

use super::WorkTopic;
use crate::check::{Event, RecordId, TopicPartition};
use crate::payload;
use crate::world::World;

/// The ids of what was fetched; tells the world of what nobody wrote.
pub fn ids(world: &World, fetched: &Fetched) -> Vec<(i64, RecordId)> {
    let mut records = Vec::new();
    for record in &fetched.records {
        let value = record.value.as_deref().unwrap_or_default();
        match payload::decode(value) {
            Some(id) => records.push((record.offset.0, id)),
            None => world.tell(Event::Corrupt {
                partition: fetched.partition.clone(),
                offset: record.offset.0,
                found: format!("{} bytes: {:02x?}", value.len(), &value[..value.len().min(16)]),
            }),
        }
    }
    records
}

pub fn fetch_config() -> FetchConfig {
    FetchConfig { on_out_of_range: None, ..FetchConfig::default() }
}

/// An error of reading where every offset asked for had been handed out before.
pub fn note(world: &World, who: &str, error: &ottla_clients::error::ClientError) {
    if error.code() == Some(ErrorCode::OFFSET_OUT_OF_RANGE) {
        world.object("reads are gap-free", format!("{who}: {error}"));
    }
    tracing::debug!(who, %error, "fetch failed");
}

pub async fn run(world: Rc<World>, number: u32, topics: Vec<WorkTopic>) {
    let reader = format!("reader-{number}");
    let cluster = world.connect(&reader).await;
    let mut positions: BTreeMap<TopicPartition, i64> =
        topics.iter().flat_map(WorkTopic::partitions).map(|partition| (partition, 0)).collect();
    while world.working.get() {
        let mut fetcher = Fetcher::new(cluster.clone(), fetch_config());
        fetcher.assign(positions.clone());
        while world.working.get() {
            match tokio::time::timeout(Duration::from_secs(2), fetcher.next()).await {
                Err(_) => {}
                Ok(Ok(fetched)) => {
                    let records = ids(&world, &fetched);
                    world.read.set(world.read.get() + records.len() as u64);
                    positions.insert(fetched.partition.clone(), fetched.next_offset);
                    world.tell(Event::Read {
                        reader: reader.clone(),
                        partition: fetched.partition,
                        records,
                        high_watermark: fetched.high_watermark,
                    });
                }
                Ok(Err(error)) => {
                    note(&world, &reader, &error);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                    break;
                }
            }
        }
    }
}
