//! The features whose levels this build understands, and the levels that a new cluster starts with (KIP-584).
//!
//! A feature is listed only when its semantics are built: clients act on what they see here. `metadata.version` names
//! what clients may expect of the controller; 25 is Kafka's 4.0-IV3, whose promises to clients are kept, while the
//! levels above it promise coordinators that are not here. `eligible.leader.replicas.version` is at 1 in a new cluster, as
//! in Kafka since 4.1; a cluster that was made before it existed switches it on with kafka-features.

use std::collections::BTreeMap;

use super::records::FeatureRange;

pub const METADATA_VERSION: &str = "metadata.version";
/// Level 1 switches eligible leader replicas on (KIP-966).
pub const ELR_VERSION: &str = "eligible.leader.replicas.version";

/// Kafka's 3.3-IV3, the least that its own 4.x can run.
const METADATA_VERSION_MIN: i16 = 7;
/// Kafka's 4.0-IV3.
const METADATA_VERSION_MAX: i16 = 25;

/// The levels of `metadata.version` whose step up changed the stored metadata of Kafka: no downgrade may cross one.
const METADATA_CHANGED_AT: [i16; 7] = [8, 11, 13, 14, 15, 17, 23];

/// What this build supports; a node states it when it registers.
pub fn supported() -> BTreeMap<String, FeatureRange> {
    BTreeMap::from([
        (METADATA_VERSION.to_owned(), FeatureRange { min: METADATA_VERSION_MIN, max: METADATA_VERSION_MAX }),
        (ELR_VERSION.to_owned(), FeatureRange { min: 0, max: 1 }),
    ])
}

/// The levels of a new cluster: all at their highest, as Kafka 4.1 has them.
pub fn initial() -> BTreeMap<String, i16> {
    supported().into_iter().map(|(name, range)| (name, range.max)).collect()
}

/// Whether a downgrade between these levels of `metadata.version` would lose stored facts.
pub(crate) fn metadata_changed_between(lower: i16, upper: i16) -> bool {
    METADATA_CHANGED_AT.iter().any(|level| lower < *level && *level <= upper)
}
