//! Small states that are written whole, as JSON, each under the next number in a folder of its own, and never changed: the highest
//! number is the state of now. A number is claimed with [`Condition::Absent`], so of two writers of one number one is told.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::object::Damaged;
use super::store::{ByteRange, Condition, Content, ObjectStore, StoreError};

/// How many stay, for those that are just reading them and for a look back.
const KEPT: u64 = 3;
/// Of a topic, and of a whole cluster: more than that is damage, and nobody makes room for it.
pub(super) const PARTITIONS_MAX: i32 = 1_000_000;
/// Of reading the newest while newer ones come.
const LOAD_ATTEMPTS: usize = 10;

/// Maps whose keys are numbers do not survive: a state is flattened into its object.
pub(super) trait Numbered: Serialize + DeserializeOwned {
    const FORMAT: u32;
    const BYTES_MAX: usize;
    /// In a sentence: "no manifest: ...".
    const WHAT: &'static str;

    /// From 1 on.
    fn number(&self) -> u64;

    /// Whether it can be, beyond its form.
    fn check(&self) -> Result<(), Damaged>;
}

#[derive(Debug, thiserror::Error)]
pub enum NumberedError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("object {key}: {what}")]
    Damaged { key: String, what: String },
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

pub(super) fn encode<S: Numbered>(state: &S) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Written { format: S::FORMAT, state })
}

pub(super) fn decode<S: Numbered>(bytes: &[u8]) -> Result<S, Damaged> {
    let malformed = |error: serde_json::Error| Damaged::new(format!("no {}: {error}", S::WHAT));
    // First, since nothing is known of the fields of another format.
    let Format { format } = serde_json::from_slice(bytes).map_err(malformed)?;
    if format != S::FORMAT {
        return Err(Damaged::new(format!("it has format {format}, and {} is known here", S::FORMAT)));
    }
    let Written { state, .. }: Written<S> = serde_json::from_slice(bytes).map_err(malformed)?;
    if state.number() == 0 {
        return Err(Damaged::new("it has no number"));
    }
    state.check().map(|()| state)
}

fn key(folder: &str, number: u64) -> String {
    format!("{folder}{number:010}.json")
}

/// None if there never was one. `folder` ends with a slash.
pub(super) async fn load<S: Numbered>(
    store: &dyn ObjectStore,
    folder: &str,
) -> Result<Option<S>, NumberedError> {
    for _ in 0..LOAD_ATTEMPTS {
        let mut newest: Option<String> = None;
        loop {
            let page = store.list(folder, newest.as_deref()).await?;
            newest = page.objects.into_iter().next_back().map(|object| object.key).or(newest);
            if !page.is_cut {
                break;
            }
        }
        let Some(newest) = newest else { return Ok(None) };
        match read::<S>(store, &newest).await {
            // Newer ones came since, and it went.
            Err(NumberedError::Store(StoreError::NotFound(_))) => {}
            Ok(state) if key(folder, state.number()) == newest => return Ok(Some(state)),
            Ok(_) => {
                let what = "it is not what its key says".to_owned();
                return Err(NumberedError::Damaged { key: newest, what });
            }
            Err(error) => return Err(error),
        }
    }
    Err(StoreError::Unavailable(format!("{folder} changes faster than it can be read")).into())
}

async fn read<S: Numbered>(store: &dyn ObjectStore, key: &str) -> Result<S, NumberedError> {
    let piece = store.get(key, ByteRange::Whole { bytes_max: S::BYTES_MAX }).await?;
    decode(&piece.bytes)
        .map_err(|damaged| NumberedError::Damaged { key: key.to_owned(), what: damaged.to_string() })
}

/// What is under a number that somebody has claimed.
pub(super) async fn claimed<S: Numbered>(
    store: &dyn ObjectStore,
    folder: &str,
    number: u64,
) -> Result<S, NumberedError> {
    read(store, &key(folder, number)).await
}

/// [`StoreError::Exists`] if the number is claimed. After other errors nobody knows whether it now is.
pub(super) async fn claim<S: Numbered>(
    store: &dyn ObjectStore,
    folder: &str,
    state: &S,
) -> Result<(), StoreError> {
    let key = key(folder, state.number());
    let content = |error: serde_json::Error| StoreError::Content { key: key.clone(), source: error.into() };
    let encoded = encode(state).map_err(content)?;
    if encoded.len() > S::BYTES_MAX {
        let told = format!("a {} of {} bytes is more than {} hold", S::WHAT, encoded.len(), S::BYTES_MAX);
        return Err(StoreError::Content { key, source: std::io::Error::other(told) });
    }
    store.put(&key, Content::from(Bytes::from(encoded)), Condition::Absent).await
}

/// What is too old to be of use, now that there is `newest`. One that stays costs its bytes, and is older than the newest all the same.
pub(super) async fn remove_old(store: &dyn ObjectStore, folder: &str, newest: u64) {
    if let Some(old) = newest.checked_sub(KEPT).filter(|old| *old > 0) {
        let _ = store.delete(&[key(folder, old)]).await;
    }
}
