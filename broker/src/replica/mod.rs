//! The partitions this broker holds: appending as their leader, reading within their bounds, and saying what is committed.
//!
//! - [`Replica`]: one partition. Appends and reads go through it, never to the log directly.
//! - [`ReplicaManager`]: all of them; follows the metadata image.
//! - [`in_sync`]: the leader's machine: what is committed, and who is in sync. `isr_changes` carries its proposals to the
//!   controller. [`follower_sessions`]: the fetches of followers, by what moved.
//! - `fetcher`: follows a leader: `fetch_plan` (what to ask next) -> [`links`] -> `following` (check, append, cut) -> one sync for
//!   all that came -> the next fetch, which says so to the leader.
//! - `log_dirs`: directories that fail, and what they remember; `placement`: where
//!   replicas lie; `moves`: replicas that go from one to another. [`waiters`]: who waits, and how they are woken.
//!   [`group_commit`]: one fdatasync for all that arrived meanwhile. [`maintenance`]: retention, compaction, checkpoints.
//!   [`sessions`]: fetch sessions (KIP-227). [`quota`]: throttles of replication (KIP-73). [`selector`]: readers of followers
//!   (KIP-392). `leadership`: whether this broker still leads.
//!
//! Invariants: `log_start <= last_stable <= high_watermark <= end`; the high watermark never falls while the process lives;
//! nobody is told that an offset is committed before the in-sync set holds it. Lock order: a replica's log before its
//! waiters; no two logs at once; nothing waits for a disk sync while it holds a log, but for the last moment of a move between log
//! directories.

mod append;
mod bootstrap;
#[cfg(test)]
mod cluster_for_tests;
mod counters;
mod deletion;
mod directory;
mod fetch_plan;
mod fetcher;
pub mod follower_sessions;
mod following;
pub mod group_commit;
pub mod in_sync;
mod isr_changes;
mod leadership;
pub mod links;
mod log_dirs;
#[cfg(test)]
mod log_dirs_tests;
mod maintenance;
mod manager;
mod moves;
#[cfg(test)]
mod moves_tests;
mod partition;
mod placement;
mod producer_ids;
pub mod quota;
mod read;
#[cfg(test)]
mod replication_tests;
pub mod selector;
pub mod sessions;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod throttle_tests;
#[cfg(test)]
pub(crate) mod tier_tests;
mod tiered;
pub mod waiters;

pub use append::{AppendError, AppendRequest, Committed, NotCommitted, RequiredAcks};
pub use deletion::DeletionWait;
pub use directory::TopicReplicas;
pub use group_commit::{Fatal, OnFatal};
pub use in_sync::Durability;
pub use log_dirs::{FailedDir, UnusableDir};
pub use manager::{LookupError, ReplicaManager, ReplicaOptions, StartError};
pub use moves::{AlterLogDirError, FutureReplica};
pub use partition::{LeaderError, Replica, TopicSettings, TopicSettingsOf};
pub use producer_ids::ProducerIdError;
pub use quota::Throttled;
pub use read::{Isolation, Read, ReadBound, ReadError, ReadRequest, Served};
pub(crate) use tiered::SealedSegmentError;

/// Kafka's own topics: clients read them, only coordinators write them.
pub fn is_internal_topic(name: &str) -> bool {
    matches!(name, "__consumer_offsets" | "__transaction_state" | "__share_group_state")
}
