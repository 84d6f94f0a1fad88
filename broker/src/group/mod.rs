//! The group coordinator: consumer groups and committed offsets, kept in `__consumer_offsets`.

use std::sync::Arc;

use ottla_batch::LeaderEpoch;

mod offsets_log;
pub mod records;
mod requests;
pub mod state;
mod subscription;

pub use offsets_log::{AppendError, OffsetsLog, ReadBatches, ReadError};
pub use requests::*;

use crate::config::GroupConfig;

/// The internal topic with offsets and groups.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Coordinates the groups whose `__consumer_offsets` partition this broker leads.
pub struct GroupCoordinator {}

impl GroupCoordinator {
    pub fn new(_config: GroupConfig, _log: Arc<dyn OffsetsLog>) -> Arc<GroupCoordinator> {
        Arc::new(GroupCoordinator {})
    }

    /// Follows the metadata (leadership, deleted topics) and drives timers until `shutdown`. One task per node.
    pub async fn run(self: Arc<Self>, _metadata: ottla_raft::Metadata, _broker: ottla_raft::BrokerId) {}

    /// This broker leads the partition from `leader_epoch` on: reads it, then answers for its groups.
    pub fn become_leader(self: &Arc<Self>, _partition: i32, _leader_epoch: LeaderEpoch) {}

    /// This broker leads the partition no longer: parked requests are answered, the state is dropped.
    pub fn become_follower(&self, _partition: i32) {}

    /// Answers all parked requests with NOT_COORDINATOR and ends `run`.
    pub fn shutdown(&self) {}
}
