//! What is left in the tier of deleted topics. The metadata names them until their objects are gone. Which broker sees to one first
//! follows from the topic's id and the brokers that are active; if it does not get there, the next one tries, and so on. Two at
//! once do no harm.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_raft::requests::ReportTierDeleted;
use ottla_raft::{BrokerId, Image, TopicId};
use ottla_storage::tiering::key;
use ottla_storage::tiering::store::StoreError;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Context;

/// A leader that has not heard of the deletion may still put an object there; so long after the first look there is a last one.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// How much later each further broker tries.
const NEXT_TRIES_AFTER: Duration = Duration::from_secs(600);

pub(super) struct Deletions {
    context: Arc<Context>,
    /// When this broker heard of them, and when it first looked.
    known: HashMap<TopicId, (Instant, Option<Instant>)>,
}

impl Deletions {
    pub(super) fn new(context: Arc<Context>) -> Deletions {
        Deletions { context, known: HashMap::new() }
    }

    pub(super) async fn run(mut self) {
        let mut tick = interval(self.context.settings().interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let replicas = Arc::clone(&self.context.replicas);
        let image = replicas.metadata().image();
        self.known.retain(|topic, _| image.tiers_to_delete.contains_key(topic));
        let mut gone = Vec::new();
        for (topic, left) in &image.tiers_to_delete {
            let (heard, begun) = self.known.entry(*topic).or_insert_with(|| (Instant::now(), None));
            let Some(rank) = rank(&image, *topic, replicas.local()) else { continue };
            if heard.elapsed() < NEXT_TRIES_AFTER * rank {
                continue;
            }
            let begun = *begun.get_or_insert_with(|| {
                tracing::info!(topic = %left.name, id = %topic, "deleting what the tier has of a deleted topic");
                self.context.tier.forget(*topic);
                Instant::now()
            });
            match self.delete(*topic).await {
                Ok(0) if begun.elapsed() >= SETTLED_AFTER.min(self.context.settings().delete_grace) => {
                    gone.push(*topic);
                }
                Ok(_) => {}
                Err(error) => {
                    self.context.metrics.delete_failures.inc();
                    tracing::warn!(topic = %left.name, id = %topic, %error, "a deleted topic is still in the tier");
                }
            }
        }
        if !gone.is_empty() {
            let request = ReportTierDeleted {
                broker: replicas.local(),
                broker_epoch: replicas.broker_epoch(),
                topics: gone,
            };
            // What was not told is found to be gone again.
            if let Err(error) = replicas.metadata().submit(request).await {
                tracing::debug!(%error, "deleted topics are told again");
            }
        }
    }

    /// Answers how many objects there were.
    async fn delete(&self, topic: TopicId) -> Result<usize, StoreError> {
        let (store, metrics) = (self.context.tier.store(), &self.context.metrics);
        let prefix = format!("{}{}", self.context.tier.prefix(), key::topic_prefix(topic.0));
        let mut deleted = 0;
        loop {
            // From the beginning each time: what was there is gone.
            let page = store.list(&prefix, None).await?;
            let keys: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
            if keys.is_empty() {
                return Ok(deleted);
            }
            store.delete(&keys).await?;
            deleted += keys.len();
            metrics.deleted_objects.inc_by(keys.len() as u64);
        }
    }
}

/// How many brokers try before this one; None for one that is not active.
fn rank(image: &Image, topic: TopicId, local: BrokerId) -> Option<u32> {
    let active: Vec<BrokerId> =
        image.brokers.values().filter(|broker| broker.is_active()).map(|broker| broker.id).collect();
    let place = active.iter().position(|id| *id == local)?;
    let first = (topic.0.as_u128() % active.len() as u128) as usize;
    u32::try_from((place + active.len() - first) % active.len()).ok()
}
