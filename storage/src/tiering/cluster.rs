//! What of a cluster is in the store besides its partitions' tiers: its topics, with ids and configs, so that a new cluster can take
//! its place. `tier/v1/cluster/<number>.json` holds all of it as of that number and is never changed, only followed by the next; of two
//! writers of a number one is told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::manifest::topic_id;
use super::numbered::{self, Numbered, NumberedError, PARTITIONS_MAX};
use super::object::Damaged;
use super::store::{ObjectStore, StoreError};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// From 1 on.
    pub number: u64,
    pub cluster_id: String,
    /// Of the last change of the metadata that is in it.
    pub metadata_offset: u64,
    /// In the order of their names.
    pub topics: Vec<TopicState>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicState {
    pub name: String,
    #[serde(with = "topic_id")]
    pub id: Uuid,
    pub partitions: i32,
    pub configs: BTreeMap<String, String>,
}

impl ClusterState {
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        numbered::encode(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<ClusterState, Damaged> {
        numbered::decode(bytes)
    }
}

impl Numbered for ClusterState {
    const FORMAT: u32 = 1;
    /// 100,000 topics with some configs.
    const BYTES_MAX: usize = 64 << 20;
    const WHAT: &'static str = "state of a cluster";

    fn number(&self) -> u64 {
        self.number
    }

    fn check(&self) -> Result<(), Damaged> {
        let is_one = |topic: &TopicState| (1..=PARTITIONS_MAX).contains(&topic.partitions);
        let is_whole = self.topics.iter().all(is_one);
        if is_whole { Ok(()) } else { Err(Damaged::new("a number of partitions that cannot be")) }
    }
}

fn folder(prefix: &str) -> String {
    format!("{prefix}tier/v1/cluster/")
}

/// The newest; None if there never was one. `prefix`: of all keys of the cluster, empty or with a slash at its end.
pub async fn load(store: &dyn ObjectStore, prefix: &str) -> Result<Option<ClusterState>, NumberedError> {
    numbered::load(store, &folder(prefix)).await
}

/// Writes the next state; [`StoreError::Exists`] if somebody else wrote this number. Then removes one that is too old to be of use.
pub async fn commit(store: &dyn ObjectStore, prefix: &str, state: &ClusterState) -> Result<(), StoreError> {
    numbered::claim(store, &folder(prefix), state).await?;
    numbered::remove_old(store, &folder(prefix), state.number).await;
    Ok(())
}
