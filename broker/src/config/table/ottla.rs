//! What only Ottla has.

use super::Check::*;
use super::Default::*;
use super::Effect::*;
use super::Kind::*;
use super::Unit::*;
use super::Update::*;
use super::{Key, key, topic};

#[rustfmt::skip] // One key is one row.
pub(super) const KEYS: &[Key] = &[
    key("ottla.durability", String, Is("fsync"), OneOf(&["fsync", "memory"]), ClusterWide, Used,
        "What an acknowledgement with acks=all means: `fsync`, records are on stable storage; `memory`, in the page cache, as in Kafka."),
    key("ottla.metrics.listener", String, Is("127.0.0.1:9644"), Any, ReadOnly, Used,
        "Where metrics (/metrics) and health (/health/live, /health/ready) are served, `host:port`; empty: nowhere."),
    key("ottla.controlled.shutdown.max.ms", Long, Is("30000"), AtLeast(0), ReadOnly, Used,
        "How long a broker that is told to stop waits for others to take over what it leads."),
    key("ottla.cluster.id", String, Null, Any, ReadOnly, Used,
        "Id of the cluster that empty directories join; a new one is made when it is not set."),
    topic("ottla.durability", String, Is("fsync"), OneOf(&["fsync", "memory"]), Used,
        &[("ottla.durability", Same)],
        "What an acknowledgement with acks=all means: `fsync`, records are on stable storage; `memory`, in the page cache, as in Kafka."),
];
