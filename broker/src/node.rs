//! One running node: what handlers may reach (`Broker`), and the order in which its parts start and stop.

use std::sync::Arc;

/// Everything a request handler may use. One per process, shared by all connections.
pub struct Broker {
    pub config: Arc<crate::config::NodeConfig>,
    pub metadata: ottla_raft::Metadata,
    pub replicas: Arc<crate::replica::ReplicaManager>,
    pub groups: Arc<crate::group::GroupCoordinator>,
    pub metrics: Arc<crate::metrics::Metrics>,
}

/// The feature levels this node understands.
pub fn supported_features() -> std::collections::BTreeMap<String, ottla_raft::FeatureRange> {
    std::collections::BTreeMap::new()
}
