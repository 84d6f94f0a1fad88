//! Keeps the committed offsets of consumer groups in the store, so that `ottla tier restore` brings them back
//! (`ottla_storage::tiering::groups`). Each broker writes down what it coordinates, when something of that has changed.

use std::sync::Arc;
use std::time::Duration;

use ottla_raft::{BrokerId, Metadata};
use ottla_storage::tiering::cluster;
use ottla_storage::tiering::groups::{self, CommittedOffsets, CoordinatedPartition, GroupOffset};
use ottla_storage::tiering::numbered::NumberedError;
use tokio::time::{MissedTickBehavior, interval};

use super::Tier;
use crate::group::records::Record;
use crate::group::{GroupCoordinator, OFFSETS_TOPIC, OffsetsVersion};

pub(super) struct GroupOffsetsWriter {
    pub tier: Arc<Tier>,
    pub groups: Arc<GroupCoordinator>,
    pub metadata: Metadata,
    pub local: BrokerId,
}

/// What was written last by this process.
struct Last {
    number: u64,
    of: Vec<OffsetsVersion>,
}

impl GroupOffsetsWriter {
    /// Runs until the node stops.
    pub async fn run(self, every: Duration) {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = None;
        let mut told = String::new();
        loop {
            tick.tick().await;
            match self.write(&mut last).await {
                Ok(()) => told.clear(),
                Err(error) => {
                    // Whether it was written, the store says.
                    last = None;
                    let reason = error.to_string();
                    if reason != told {
                        tracing::warn!(
                            reason,
                            "the committed offsets that a cluster could be restored with are not up to date"
                        );
                        told = reason;
                    }
                }
            }
        }
    }

    async fn write(&self, last: &mut Option<Last>) -> Result<(), NumberedError> {
        let versions = self.groups.offsets_versions();
        if last
            .as_ref()
            .map_or(versions.iter().all(|version| version.changes == 0), |last| last.of == versions)
        {
            return Ok(());
        }
        let image = self.metadata.image();
        let Some(topic) = image.topic_by_name(OFFSETS_TOPIC) else { return Ok(()) };
        let (store, prefix) = (&**self.tier.store(), self.tier.prefix());
        let number = match last {
            Some(last) => last.number + 1,
            None => {
                // Not into what another cluster is to be restored from. This one's topics are written down first.
                let state = cluster::load(store, prefix).await?;
                if state.is_none_or(|state| state.cluster_id != image.cluster_id.to_string()) {
                    return Ok(());
                }
                groups::load(store, prefix, self.local.0).await?.map_or(1, |newest| newest.number + 1)
            }
        };
        let partitions = versions.iter().filter_map(|version| self.partition(version)).collect();
        let next = CommittedOffsets {
            number,
            broker: self.local.0,
            topic_id: topic.id.0,
            partition_count: topic.partitions.len() as i32,
            partitions,
        };
        groups::commit(store, prefix, &next).await?;
        *last = Some(Last { number, of: versions });
        Ok(())
    }

    fn partition(&self, version: &OffsetsVersion) -> Option<CoordinatedPartition> {
        let records = self.groups.committed_offsets(version)?;
        let offsets = records.into_iter().filter_map(|record| match record {
            Record::Offset { group_id, topic, partition, value: Some(committed) } => Some(GroupOffset {
                group: group_id.to_string(),
                topic: topic.to_string(),
                partition,
                offset: committed.offset,
                leader_epoch: committed.leader_epoch,
                metadata: committed.metadata.to_string(),
            }),
            Record::Offset { value: None, .. } | Record::Group { .. } => None,
        });
        Some(CoordinatedPartition {
            partition: version.partition,
            leader_epoch: version.leader_epoch.0,
            offsets: offsets.collect(),
        })
    }
}
