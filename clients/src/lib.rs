//! A pure-Rust asynchronous Kafka client, and the command line built on it.
//!
//! Layers, each knowing only those above it in this list:
//! - `wire`: bounded decoding of what comes from a socket; `ErrorCode`.
//! - `connection`: one socket; requests are pipelined, answers matched by correlation id, versions negotiated.
//! - `cluster`: bootstrap, metadata cache, routing to leaders, coordinators and the controller, retries.
//! - `producer`, `consumer`, `admin`: what an application uses.
//! - `cli`: the subcommands of the `ottla` binary (`broker/src/main.rs` mounts them).
//!
//! Record batches go through `ottla_batch` only: kafka-protocol's own `Record` merges duplicate header keys.
//! This crate knows nothing of the broker: it talks to Apache Kafka as well as to Ottla.

pub mod admin;
pub mod cli;
mod clock;
pub mod cluster;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod partitioner;
pub mod producer;
mod socket;
pub mod wire;
