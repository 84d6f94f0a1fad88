//! The configuration keys, server.properties, and the effective configuration of node, topics and groups.

/// The effective configuration of this node.
pub struct NodeConfig {}
