//! `__consumer_offsets`: its name, which of its partitions holds a group, and how it comes to be.

use std::collections::BTreeSet;
use std::time::Duration;

use ottla_raft::requests::{CreateTopicError, CreateTopics, NewTopic};
use ottla_raft::{BrokerId, Metadata};

use tokio::time::Instant;

use super::GroupError;
use crate::config::NodeConfig;

/// The internal topic with offsets and groups.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// How long a request waits for the topic it has just created to be in this broker's image.
const CREATION_WAIT: Duration = Duration::from_secs(5);

/// The partition of a group, as Kafka computes it: Java's hash of the string, made positive its way.
pub fn partition_for(group_id: &str, partitions: i32) -> i32 {
    let hash =
        group_id.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    // Kafka's abs turns the one value that has no positive counterpart into 0.
    let positive = if hash == i32::MIN { 0 } else { hash.abs() };
    positive % partitions.max(1)
}

/// After an attempt to create the topic that failed, everybody who asks is refused for so long: clients ask again many
/// times a second.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(200);

/// Sees to it that the topic is there. One attempt at a time, whoever asks.
#[derive(Debug, Default)]
pub struct OffsetsTopic {
    failed: tokio::sync::Mutex<Option<Failed>>,
}

#[derive(Debug)]
struct Failed {
    at: Instant,
    why: String,
}

impl OffsetsTopic {
    /// Creates the topic if it is not there, and waits until this broker knows it. `now` is the caller's.
    pub async fn ensure(
        &self,
        metadata: &Metadata,
        config: &NodeConfig,
        now: Instant,
    ) -> Result<(), GroupError> {
        let exists = || metadata.image().topic_by_name(OFFSETS_TOPIC).is_some();
        if exists() {
            return Ok(());
        }
        let mut failed = self.failed.lock().await;
        if exists() {
            return Ok(());
        }
        if failed.as_ref().is_some_and(|failed| now < failed.at + ATTEMPT_PAUSE) {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let Err(why) = create(metadata, config).await else {
            *failed = None;
            return Ok(());
        };
        if failed.as_ref().is_none_or(|failed| failed.why != why) {
            tracing::warn!(%why, "{OFFSETS_TOPIC} cannot be created, so there are no groups; clients keep asking");
        }
        *failed = Some(Failed { at: now, why });
        Err(GroupError::CoordinatorNotAvailable)
    }
}

/// What the topic has of its own, on this cluster.
pub fn topic_configs(config: &NodeConfig) -> Vec<(String, String)> {
    vec![
        ("cleanup.policy".to_owned(), "compact".to_owned()),
        ("compression.type".to_owned(), "producer".to_owned()),
        ("segment.bytes".to_owned(), config.group.offsets_topic_segment_bytes.to_string()),
    ]
}

async fn create(metadata: &Metadata, config: &NodeConfig) -> Result<(), String> {
    let image = metadata.image();
    let voters = metadata.quorum().voters.into_iter().map(|voter| voter.id);
    let nodes: BTreeSet<BrokerId> = image.brokers.keys().copied().chain(voters).collect();
    let topic = NewTopic {
        name: OFFSETS_TOPIC.to_owned(),
        partitions: config.group.offsets_topic_partitions,
        replication_factor: config.offsets_topic_replication_factor(nodes.len()),
        assignments: Vec::new(),
        configs: topic_configs(config),
    };
    let submitted = metadata.submit(CreateTopics { topics: vec![topic], validate_only: false });
    let results = submitted.await.map_err(|error| error.to_string())?;
    match results.into_iter().next().map(|created| created.result) {
        // Another broker was first.
        Some(Ok(_) | Err(CreateTopicError::AlreadyExists(_))) => {}
        Some(Err(error)) => return Err(error.to_string()),
        None => return Err("the controller gave no answer".to_owned()),
    }
    let mut changes = metadata.changes();
    let known = async {
        while metadata.image().topic_by_name(OFFSETS_TOPIC).is_none() {
            changes.changed().await.map_err(|_| "the metadata is stopped".to_owned())?;
        }
        Ok(())
    };
    let late = |_| Err("it was created, but is not known here yet".to_owned());
    tokio::time::timeout(CREATION_WAIT, known).await.unwrap_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::partition_for;

    #[test]
    fn groups_live_where_kafka_puts_them() {
        // Java: Math.abs("...".hashCode()) % 50.
        assert_eq!(partition_for("", 50), 0);
        assert_eq!(partition_for("a", 50), 97 % 50);
        assert_eq!(partition_for("test-group", 50), 12);
        assert_eq!(partition_for("console-consumer-12345", 50), 6);
        // "polygenelubricants" is the word whose hash is Integer.MIN_VALUE.
        assert_eq!(partition_for("polygenelubricants", 50), 0);
        // Two UTF-16 units: hash 0xD83D * 31 + 0xDE00.
        assert_eq!(partition_for("\u{1F600}", 50), (0xD83D * 31 + 0xDE00) % 50);
    }
}
