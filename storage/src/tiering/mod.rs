//! Committed segments in an object store.
//!
//! - [`store`]: what is asked of an object store, whichever it is.
//! - [`directory`]: the embedded one, a local directory with the layout of a bucket.
//! - [`object`]: the object that holds one segment, and how a reader finds its way in it.
//! - [`reader`]: reads such objects, with a cache in memory that all readers share.
//! - [`disk_cache`]: what of them is kept on a local disk.
//! - [`manifest`]: what of a partition is there.
//! - [`cluster`]: what of the cluster is there besides.
//! - [`groups`]: how far consumer groups have read.
//! - [`numbered`]: how these three are kept.
//! - [`key`]: the names of these objects.
//! - [`spool`]: a file for an object in the making.
//! - `testing` (with the feature of this name): what a store must keep to, as tests.
//!
//! Nothing here decides what is uploaded or deleted, and nothing makes threads or tasks: what blocks is handed to the caller's
//! [`directory::Beside`], what goes on by itself to [`Spawn`].

mod cache;
pub mod cluster;
pub mod directory;
pub mod disk_cache;
pub mod groups;
pub mod key;
pub mod manifest;
pub mod numbered;
pub mod object;
pub mod reader;
pub mod spool;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use cache::{CacheCounts, Spawn};

#[cfg(test)]
mod tests;
