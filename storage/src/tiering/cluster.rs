//! What of a cluster is in the store besides its partitions' tiers: its topics, with ids and configs, so that a new cluster can take
//! its place. `tier/v1/cluster/<number>.json` holds all of it as of that number and is never changed, only followed by the next; of two
//! writers of a number one is told.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::manifest::topic_id;
use super::object::Damaged;
use super::store::{ByteRange, Condition, Content, ObjectStore, StoreError};

const PREFIX: &str = "tier/v1/cluster/";
const FORMAT: u32 = 1;
/// 100,000 topics with some configs.
const BYTES_MAX: usize = 64 << 20;
/// How many stay, for those that are just reading them and for a look back.
const KEPT: u64 = 3;
/// Of reading the newest while newer ones come.
const LOAD_ATTEMPTS: usize = 10;

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

#[derive(Debug, thiserror::Error)]
pub enum ClusterStateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("object {key}: {what}")]
    Damaged { key: String, what: String },
}

impl ClusterState {
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Written { format: FORMAT, state: self })
    }

    pub fn decode(bytes: &[u8]) -> Result<ClusterState, Damaged> {
        let malformed = |error: serde_json::Error| Damaged::new(format!("no state of a cluster: {error}"));
        // First, since nothing is known of the fields of another format.
        let Format { format } = serde_json::from_slice(bytes).map_err(malformed)?;
        if format != FORMAT {
            return Err(Damaged::new(format!("it has format {format}, and {FORMAT} is known here")));
        }
        let Written { state, .. }: Written<ClusterState> =
            serde_json::from_slice(bytes).map_err(malformed)?;
        let is_whole = state.number > 0 && state.topics.iter().all(|topic| topic.partitions > 0);
        if is_whole { Ok(state) } else { Err(Damaged::new("a topic without partitions")) }
    }
}

fn name(prefix: &str, number: u64) -> String {
    format!("{prefix}{PREFIX}{number:010}.json")
}

/// The newest; None if there never was one. `prefix`: of all keys of the cluster, empty or with a slash at its end.
pub async fn load(store: &dyn ObjectStore, prefix: &str) -> Result<Option<ClusterState>, ClusterStateError> {
    for _ in 0..LOAD_ATTEMPTS {
        let mut newest: Option<String> = None;
        loop {
            let page = store.list(&format!("{prefix}{PREFIX}"), newest.as_deref()).await?;
            newest = page.objects.into_iter().next_back().map(|object| object.key).or(newest);
            if !page.is_cut {
                break;
            }
        }
        let Some(key) = newest else { return Ok(None) };
        let piece = match store.get(&key, ByteRange::Whole { bytes_max: BYTES_MAX }).await {
            Ok(piece) => piece,
            // Newer ones came since, and it went.
            Err(StoreError::NotFound(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        let damaged = |what: String| ClusterStateError::Damaged { key: key.clone(), what };
        let state = ClusterState::decode(&piece.bytes).map_err(|error| damaged(error.to_string()))?;
        return match name(prefix, state.number) == key {
            true => Ok(Some(state)),
            false => Err(damaged("it is not what its key says".to_owned())),
        };
    }
    let told = format!("{prefix}{PREFIX} changes faster than it can be read");
    Err(StoreError::Unavailable(told).into())
}

/// Writes the next state; [`StoreError::Exists`] if somebody else wrote this number. Then removes one that is too old to be of use.
pub async fn commit(store: &dyn ObjectStore, prefix: &str, state: &ClusterState) -> Result<(), StoreError> {
    let key = name(prefix, state.number);
    let encoded =
        state.encode().map_err(|error| StoreError::Content { key: key.clone(), source: error.into() })?;
    store.put(&key, Content::from(Bytes::from(encoded)), Condition::Absent).await?;
    if let Some(old) = state.number.checked_sub(KEPT).filter(|old| *old > 0) {
        // One that stays costs its bytes, and is older than the newest all the same.
        let _ = store.delete(&[name(prefix, old)]).await;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// As it lies in the store.
#[derive(Serialize, Deserialize)]
struct Written<S> {
    format: u32,
    #[serde(flatten)]
    state: S,
}
