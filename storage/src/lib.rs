//! The log of one partition on disk, and the log directories that hold such logs.
//!
//! Knows bytes, offsets, epochs and files. Knows no sockets, no cluster and no clock: `now` always enters as a value.
//! - [`disk`]: the only door to the file system, real or simulated.
//! - [`logdir`]: one directory of `log.dirs`: lock, `meta.properties`, checkpoints, the partitions found in it.
//! - [`tiering`]: committed segments in an object store.
//! - [`log`]: append, read, roll, recover, truncate, retain and compact one partition, in Kafka's file formats.
//!
//! Nothing here takes a lock that outlives a call: a [`log::Log`] belongs to its caller, who keeps it behind a mutex and
//! holds that mutex only for short work. What takes long (fsync, compaction, deleting files) is handed out as a value that
//! runs without the lock and comes back with its result.

pub mod checkpoints;
pub mod disk;
mod fields;
pub mod log;
pub mod logdir;
pub mod meta_properties;
pub mod partition_metadata;
pub mod tiering;

pub use ottla_batch as batch;
