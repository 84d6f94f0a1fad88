//! The server that joins the log (`ottla-storage`), the metadata quorum (`ottla-raft`) and the wire.
//!
//! The paths to know first:
//!
//! - produce: `net` (frame) -> `api::table` (row, decode) -> `api::produce` (check, split by partition) ->
//!   `replica` (fence, append to the log) -> stage one ends, the connection takes its next request -> wait for
//!   the high watermark -> `error_map` -> response, in the order of the requests.
//! - fetch: `net` (frame) -> `api::fetch` (session, bounds) -> `replica` (read up to the high watermark) -> slices of
//!   segment files -> wait if there is too little -> header bytes and `sendfile` of the slices.
//! - replication: `replica::manager` (roles) -> `replica::fetcher` (one task for each leader) -> the leader's `api::fetch_replica`
//!   (session, fencing, divergence) -> `replica::in_sync` (high watermark, in-sync set) -> the follower's `replica::following`
//!   (check, append, cut) -> one sync for all -> the next fetch, which tells the leader.
//!
//! Rules of the house: only `net` knows sockets; `group` knows neither handlers nor sockets; only `error_map` turns
//! internal errors into Kafka's codes.

pub mod api;
mod auto_join;
pub mod cli;
pub mod clock;
pub mod config;
pub mod data_dirs;
pub mod error_map;
pub mod group;
#[cfg(feature = "lake")]
pub mod lake;
pub mod metrics;
pub mod net;
pub mod node;
mod open_files;
pub mod registration;
pub mod replica;
pub mod threads;
pub mod tier;
