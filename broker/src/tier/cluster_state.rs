//! Keeps what a new cluster would have to know of this one in the store: topics, ids and configs
//! (`ottla_storage::tiering::cluster`). One broker writes it, the living one with the lowest id; while two believe that they are the
//! one, a number has one winner and the other reads what is there.

use std::sync::Arc;
use std::time::Duration;

use ottla_raft::{BrokerId, ConfigResource, Image, Metadata};
use ottla_storage::tiering::cluster::{self, ClusterState, TopicState};
use ottla_storage::tiering::numbered::NumberedError;
use ottla_storage::tiering::store::StoreError;
use tokio::time::sleep;

use super::Tier;

/// Many topics created one after the other are written once.
const SETTLE: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_secs(15);

/// Topics that Kafka itself makes, and that say nothing without their records, are not among them.
pub(super) fn topics_of(image: &Image) -> Vec<TopicState> {
    let topics = image.topics_by_name().filter(|topic| !is_internal(&topic.name));
    topics
        .map(|topic| {
            let configs = image.configs_of(&ConfigResource::topic(topic.name.clone()));
            let configs = configs.into_iter().flatten();
            TopicState {
                name: topic.name.to_string(),
                id: topic.id.0,
                partitions: topic.partitions.len() as i32,
                configs: configs.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            }
        })
        .collect()
}

pub(super) fn is_internal(topic: &str) -> bool {
    topic.starts_with("__")
}

/// Runs until the node stops.
pub async fn run(tier: Arc<Tier>, metadata: Metadata, local: BrokerId) {
    let mut changes = metadata.changes();
    let mut newest = None;
    let mut told = String::new();
    loop {
        changes.borrow_and_update();
        let image = metadata.image();
        let writer = image.brokers.values().find(|broker| broker.is_active()).map(|broker| broker.id);
        if writer == Some(local) {
            match write(&tier, &image, &mut newest).await {
                Ok(()) => told.clear(),
                Err(error) => {
                    newest = None;
                    let reason = error.to_string();
                    if reason != told {
                        tracing::warn!(reason, "what the cluster could be restored from is not up to date");
                        told = reason;
                    }
                    sleep(RETRY).await;
                    continue;
                }
            }
        } else {
            newest = None;
        }
        if changes.changed().await.is_err() {
            return;
        }
        sleep(SETTLE).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    State(#[from] NumberedError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the place of ottla.tier.url holds the tier of cluster {0}: this cluster needs a place of its own, or `ottla tier restore` \
         makes it take the place of that one"
    )]
    Foreign(String),
}

async fn write(tier: &Tier, image: &Image, newest: &mut Option<ClusterState>) -> Result<(), WriteError> {
    let topics = topics_of(image);
    if newest.is_none() {
        *newest = cluster::load(&**tier.store(), tier.prefix()).await?;
    }
    let number = match newest {
        Some(known) if *known.cluster_id != *image.cluster_id.to_string() => {
            return Err(WriteError::Foreign(known.cluster_id.clone()));
        }
        Some(known) if known.topics == topics => return Ok(()),
        // Somebody is ahead of this broker, which will hear of it.
        Some(known) if known.metadata_offset > image.last_offset => return Ok(()),
        Some(known) => known.number + 1,
        None if topics.is_empty() => return Ok(()),
        None => 1,
    };
    let next = ClusterState {
        number,
        cluster_id: image.cluster_id.to_string(),
        metadata_offset: image.last_offset,
        topics,
    };
    cluster::commit(&**tier.store(), tier.prefix(), &next).await?;
    *newest = Some(next);
    Ok(())
}

/// This cluster is the one whose tier it is, from now on.
pub(super) async fn take_over(tier: &Tier, image: &Image, known: &ClusterState) -> Result<(), StoreError> {
    let next = ClusterState {
        number: known.number + 1,
        cluster_id: image.cluster_id.to_string(),
        metadata_offset: image.last_offset,
        topics: topics_of(image),
    };
    cluster::commit(&**tier.store(), tier.prefix(), &next).await
}
