//! Reading topics: partitions chosen by the caller (`fetcher`), or divided among a group's members (`group`).

pub mod assignor;
pub mod fetcher;
pub mod group;
