//! `__consumer_offsets`: its name, which of its partitions holds a group, and how it comes to be.

use std::collections::BTreeSet;
use std::time::Duration;

use ottla_raft::requests::{CreateTopicError, CreateTopics, NewTopic};
use ottla_raft::{BrokerId, Metadata};

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

/// Creates the topic if it is not there, and waits until this broker knows it.
pub async fn ensure_offsets_topic(metadata: &Metadata, config: &NodeConfig) -> Result<(), GroupError> {
    let image = metadata.image();
    if image.topic_by_name(OFFSETS_TOPIC).is_some() {
        return Ok(());
    }
    let voters = metadata.quorum().voters.into_iter().map(|voter| voter.id);
    let nodes: BTreeSet<BrokerId> = image.brokers.keys().copied().chain(voters).collect();
    let topic = NewTopic {
        name: OFFSETS_TOPIC.to_owned(),
        partitions: config.group.offsets_topic_partitions,
        replication_factor: config.offsets_topic_replication_factor(nodes.len()),
        assignments: Vec::new(),
        configs: vec![
            ("cleanup.policy".to_owned(), "compact".to_owned()),
            ("compression.type".to_owned(), "producer".to_owned()),
            ("segment.bytes".to_owned(), config.group.offsets_topic_segment_bytes.to_string()),
        ],
    };
    let results = metadata.submit(CreateTopics { topics: vec![topic], validate_only: false }).await;
    match results.map(|results| results.into_iter().next().map(|created| created.result)) {
        Ok(Some(Ok(_) | Err(CreateTopicError::AlreadyExists(_)))) => {}
        Ok(Some(Err(error))) => {
            tracing::warn!(%error, "{OFFSETS_TOPIC} could not be created");
            return Err(GroupError::CoordinatorNotAvailable);
        }
        Ok(None) => return Err(GroupError::CoordinatorNotAvailable),
        Err(error) => {
            tracing::warn!(%error, "{OFFSETS_TOPIC} could not be created");
            return Err(GroupError::CoordinatorNotAvailable);
        }
    }
    let mut changes = metadata.changes();
    let known = async {
        while metadata.image().topic_by_name(OFFSETS_TOPIC).is_none() {
            if changes.changed().await.is_err() {
                return Err(GroupError::CoordinatorNotAvailable);
            }
        }
        Ok(())
    };
    tokio::time::timeout(CREATION_WAIT, known).await.unwrap_or(Err(GroupError::CoordinatorNotAvailable))
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
