//! Subcommands of the `ottla` binary that need more than the client: the object store and what lies in it. They ask a broker where
//! that is, so that the same `--bootstrap-server` is all it takes on a machine that may reach the store.

#[cfg(feature = "lake")]
pub mod lake;
#[cfg(feature = "lake")]
mod place;
