//! What a store promises while its service fails: nothing that was answered is taken back, and what was not answered happened or did not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;

use super::{keys, put, text};
use crate::tiering::store::{Condition, ObjectStore, StoreError};

/// A promise that a store broke.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken(pub String);

const KEYS: u64 = 6;

/// Any steps one after the other. Errors other than Unavailable are broken promises too: the service is there, and allows everything.
/// `numbers`: anything, the same run for the same ones.
pub async fn keeps_its_promises(
    store: &dyn ObjectStore,
    place: &str,
    steps: usize,
    mut numbers: impl FnMut() -> u64,
) -> Result<(), Broken> {
    // What may be there: one of these contents, or (None) nothing.
    let mut may_be: BTreeMap<String, BTreeSet<Option<String>>> = BTreeMap::new();
    for step in 0..steps {
        let key = format!("{place}{}", numbers() % KEYS);
        let possible = may_be.entry(key.clone()).or_insert_with(|| BTreeSet::from([None]));
        let before = possible.clone();
        let broken =
            |what: String| Err(Broken(format!("step {step}, {key}: {what}; possible was {before:?}")));
        let content = format!("of step {step}");
        match numbers() % 8 {
            0 | 1 => match put(store, &key, &content, Condition::None).await {
                Ok(()) => *possible = BTreeSet::from([Some(content)]),
                Err(StoreError::Unavailable(_)) => {
                    possible.insert(Some(content));
                }
                Err(error) => return broken(format!("put: {error}")),
            },
            2 | 3 => match put(store, &key, &content, Condition::Absent).await {
                Ok(()) if possible.contains(&None) => *possible = BTreeSet::from([Some(content)]),
                Ok(()) => return broken("put although it was there".to_owned()),
                Err(StoreError::Exists(_)) => {
                    possible.remove(&None);
                    if possible.is_empty() {
                        return broken("there although it was not".to_owned());
                    }
                }
                Err(StoreError::Unavailable(_)) if possible.contains(&None) => {
                    possible.insert(Some(content));
                }
                Err(StoreError::Unavailable(_)) => {}
                Err(error) => return broken(format!("put if absent: {error}")),
            },
            4 => match store.delete(std::slice::from_ref(&key)).await {
                Ok(()) => *possible = BTreeSet::from([None]),
                Err(StoreError::Unavailable(_)) => {
                    possible.insert(None);
                }
                Err(error) => return broken(format!("delete: {error}")),
            },
            _ => match text(store, &key).await {
                Ok(found) if possible.contains(&found) => *possible = BTreeSet::from([found]),
                Ok(found) => return broken(format!("found {found:?}")),
                Err(StoreError::Unavailable(_)) => {}
                Err(error) => return broken(format!("get: {error}")),
            },
        }
    }
    Ok(())
}

/// Many writers that each try until they are answered, as whoever commits does: one of them wins, and its content is there.
pub async fn one_wins_in_the_end(
    stores: &[Arc<dyn ObjectStore>],
    place: &str,
    rounds: usize,
    writers: usize,
) -> Result<(), Broken> {
    const TRIES_MAX: usize = 200;
    for round in 0..rounds {
        let key = format!("{place}{round}");
        let puts = (0..writers).map(|writer| {
            let (key, store) = (&key, &stores[writer % stores.len()]);
            async move {
                let mut was_unknown = false;
                for _ in 0..TRIES_MAX {
                    match put(&**store, key, &writer.to_string(), Condition::Absent).await {
                        Ok(()) => return Ok((writer, true, was_unknown)),
                        Err(StoreError::Exists(_)) => return Ok((writer, false, was_unknown)),
                        Err(StoreError::Unavailable(_)) => was_unknown = true,
                        Err(error) => return Err(Broken(format!("{key}: {error}"))),
                    }
                }
                Err(Broken(format!("{key}: no answer in {TRIES_MAX} tries")))
            }
        });
        let outcomes = join_all(puts).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        let found = until_answered(&*stores[0], &key).await?;
        let won: Vec<usize> = outcomes.iter().filter(|outcome| outcome.1).map(|outcome| outcome.0).collect();
        let may_have_won = |writer: usize| outcomes[writer].1 || outcomes[writer].2;
        let is_kept = match (&won[..], found.as_deref().and_then(|found| found.parse().ok())) {
            ([winner], Some(found)) => *winner == found,
            // Told that somebody's is there, and it is their own, of a try that was not answered.
            ([], Some(found)) => may_have_won(found),
            _ => false,
        };
        if !is_kept {
            return Err(Broken(format!("{key}: {found:?} is there, and of {outcomes:?} {won:?} won")));
        }
    }
    let listed = keys(&*stores[0], place, None).await.len();
    if listed == rounds { Ok(()) } else { Err(Broken(format!("{listed} objects after {rounds} rounds"))) }
}

async fn until_answered(store: &dyn ObjectStore, key: &str) -> Result<Option<String>, Broken> {
    for _ in 0..100 {
        match text(store, key).await {
            Ok(found) => return Ok(found),
            Err(StoreError::Unavailable(_)) => {}
            Err(error) => return Err(Broken(format!("{key}: {error}"))),
        }
    }
    Err(Broken(format!("{key}: cannot be read")))
}
