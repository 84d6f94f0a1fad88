//! Creates and deletes topics. Also a check: what the controller said it did stays done, whoever is the controller next.

use std::rc::Rc;
use std::time::Duration;

use ottla_clients::admin::{self, NewTopic};
use ottla_clients::cluster::Cluster;
use ottla_clients::error::ClientError;
use ottla_clients::wire::ErrorCode;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::world::World;

const TOPIC_ALREADY_EXISTS: ErrorCode = ErrorCode(36);

/// What an answer says about whether the topic is there now.
fn exists_after_create(outcome: &Result<(), ClientError>) -> Option<bool> {
    match outcome {
        Ok(()) => Some(true),
        Err(error) if error.code() == Some(TOPIC_ALREADY_EXISTS) => Some(true),
        Err(_) => None,
    }
}

async fn create(
    cluster: &Cluster,
    name: &str,
    partitions: i32,
    replication_factor: i16,
) -> Result<(), ClientError> {
    let topic = NewTopic {
        name: name.to_owned(),
        partitions: Some(partitions),
        replication_factor: Some(replication_factor),
        configs: Vec::new(),
    };
    let mut results = admin::create_topics(cluster, &[topic]).await?;
    match results.pop() {
        Some((_, result)) => result.map(drop),
        None => Err(ClientError::Invalid("an empty answer".to_owned())),
    }
}

async fn delete(cluster: &Cluster, name: &str) -> Result<(), ClientError> {
    let mut results = admin::delete_topics(cluster, &[name.to_owned()]).await?;
    match results.pop() {
        Some((_, result)) => result,
        None => Err(ClientError::Invalid("an empty answer".to_owned())),
    }
}

pub async fn run(world: Rc<World>, number: u32, replication_factor: i16, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let cluster = world.connect(&format!("topics-{number}")).await;
    let mut count = 0;
    while world.working.get() {
        count += 1;
        let name = format!("churn-{number}-{count}");
        let outcome = create(&cluster, &name, random.random_range(1..=4), replication_factor).await;
        tracing::debug!(name, ?outcome, "created");
        if exists_after_create(&outcome) == Some(true) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
            let again = create(&cluster, &name, 1, replication_factor).await;
            if again.is_ok() {
                world.object("metadata is linearizable", format!("{name} was created twice"));
            }
            let deleted = delete(&cluster, &name).await;
            tracing::debug!(name, ?deleted, "deleted");
            if deleted.is_ok() {
                let again = delete(&cluster, &name).await;
                if again.is_ok() {
                    world.object("metadata is linearizable", format!("{name} was deleted twice"));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(200..2_000))).await;
    }
}

/// Creates what the others work on; goes on until it is there.
pub async fn create_work_topics(world: &World, topics: &[super::WorkTopic]) {
    let cluster = world.connect("setup").await;
    for topic in topics {
        loop {
            let wanted = NewTopic {
                name: topic.name.clone(),
                partitions: Some(topic.partitions),
                replication_factor: Some(topic.replication_factor),
                configs: topic.configs.clone(),
            };
            let outcome = match admin::create_topics(&cluster, &[wanted]).await {
                Ok(mut results) => results.pop().map_or(Ok(()), |(_, result)| result.map(drop)),
                Err(error) => Err(error),
            };
            if exists_after_create(&outcome) == Some(true) {
                break;
            }
            tracing::debug!(topic = topic.name, ?outcome, "not created yet");
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}
