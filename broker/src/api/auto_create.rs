//! Topics that come to be because somebody needs them: those that clients ask for (`auto.create.topics.enable`), and
//! `__consumer_offsets`.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::ResponseError;
use ottla_raft::requests::{CreateTopicError, CreateTopics, NewTopic};

use super::topic_listing;
use crate::error_map;
use crate::group::OFFSETS_TOPIC;
use crate::node::Broker;

/// How long a change waits to be in force on this broker before it is answered all the same.
const APPLY_LIMIT: Duration = Duration::from_secs(5);
/// Topics that one Metadata request creates. A client that asks for more asks again: it tries until all are there.
const TOPICS_MAX: usize = 200;

/// Waits until this broker's replicas follow the newest image, so that what was just decided can be used at once.
pub async fn await_applied(broker: &Broker, limit: Duration) {
    let wanted = broker.metadata.image().last_offset;
    let mut applied = broker.replicas.applied();
    // Either way the caller answers: a client meets a retriable error if it comes too early.
    let _ = tokio::time::timeout(limit.min(APPLY_LIMIT), applied.wait_for(|offset| *offset >= wanted)).await;
}

/// Creates topics with the defaults. Returns those that could not be created, with what a client is told.
pub async fn create_missing(broker: &Broker, names: Vec<String>) -> BTreeMap<String, ResponseError> {
    let mut refused = BTreeMap::new();
    let mut topics = Vec::new();
    for name in names {
        if topics.len() >= TOPICS_MAX {
            refused.insert(name, ResponseError::LeaderNotAvailable);
        } else if name == OFFSETS_TOPIC {
            if broker.groups.ensure_topic(&broker.metadata, &broker.config).await.is_err() {
                refused.insert(name, ResponseError::LeaderNotAvailable);
            }
        } else if topic_listing::is_internal(&name) {
            // Its records would need their own configuration, which only its coordinator knows.
            refused.insert(name, ResponseError::UnknownTopicOrPartition);
        } else {
            topics.push(NewTopic {
                name,
                partitions: broker.config.topic_defaults.partitions,
                replication_factor: broker.config.topic_defaults.replication_factor,
                assignments: Vec::new(),
                configs: Vec::new(),
            });
        }
    }
    let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
    let submitted = match topics.is_empty() {
        true => Ok(Vec::new()),
        false => broker.metadata.submit(CreateTopics { topics, validate_only: false }).await,
    };
    match submitted {
        Ok(results) => {
            for created in results {
                match created.result {
                    // Another client was first.
                    Ok(_) | Err(CreateTopicError::AlreadyExists(_)) => {}
                    Err(error) => {
                        tracing::info!(topic = %created.name, %error, "a topic that a client asked for was not created");
                        refused.insert(created.name, error_map::create_topic(&error));
                    }
                }
            }
        }
        Err(error) => {
            tracing::warn!(%error, "topics that clients asked for were not created");
            // COMPAT: the code that makes every client ask again.
            refused.extend(names.into_iter().map(|name| (name, ResponseError::LeaderNotAvailable)));
        }
    }
    await_applied(broker, APPLY_LIMIT).await;
    refused
}
