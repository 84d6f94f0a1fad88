//! The partitions this broker holds.

/// All replicas of this broker.
pub struct ReplicaManager {}
