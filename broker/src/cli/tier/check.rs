//! `ottla tier check`: each object has a name in its partition's manifest, and each name its object.
//!
//! Objects are listed before the manifest is read: what it names later was perhaps not there yet, but what it does not name and was
//! there is either on its way, or left behind. By an older leader than the one that wrote the manifest it can no longer be on its way.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use ottla_clients::cli::outcome::CliError;
use ottla_storage::tiering::key::SegmentKey;
use ottla_storage::tiering::manifest;
use ottla_storage::tiering::reader::{ReaderConfig, RemoteReader};
use uuid::Uuid;

use super::{NodeArgs, failed, partition_of, segment_of};
use crate::tier::open::TierStore;

/// What a check found, and how much was looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub partitions: usize,
    pub objects: usize,
    pub bytes: u64,
    /// Sentences: what is named and not there, or not as it should be. Records are lost.
    pub gaps: Vec<String>,
    /// Keys that nothing names, and that nobody will: they cost money.
    pub orphans: Vec<String>,
    /// Keys that nothing names yet.
    pub pending: Vec<String>,
}

pub(super) async fn run(node: &NodeArgs, footers: bool) -> Result<(), CliError> {
    let store = node.store().await?;
    let found = check(&store, footers).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    for gap in &found.gaps {
        writeln!(out, "gap: {gap}")?;
    }
    for key in &found.orphans {
        writeln!(out, "orphan: {key}")?;
    }
    for key in &found.pending {
        writeln!(out, "not named yet: {key}")?;
    }
    writeln!(
        out,
        "{} objects with {} bytes in {} partitions; {} gaps, {} orphans, {} not named yet",
        found.objects,
        found.bytes,
        found.partitions,
        found.gaps.len(),
        found.orphans.len(),
        found.pending.len()
    )?;
    out.flush()?;
    match found.gaps.is_empty() {
        true => Ok(()),
        false => Err(CliError::Failed(format!("{} gaps", found.gaps.len()))),
    }
}

pub(super) async fn check(store: &TierStore, footers: bool) -> Result<Found, CliError> {
    let mut found = Found::default();
    let reader = RemoteReader::new(
        Arc::clone(&store.store),
        &store.prefix,
        Arc::new(|task| drop(tokio::spawn(task))),
        ReaderConfig::default(),
        None,
    );
    let all = format!("{}tier/v1/", store.prefix);
    let mut after: Option<String> = None;
    // Of one partition at a time: keys come in their order.
    let mut listed: BTreeMap<(Uuid, i32), HashMap<SegmentKey, u64>> = BTreeMap::new();
    loop {
        let page = store.store.list(&all, after.as_deref()).await.map_err(failed)?;
        for object in &page.objects {
            let Some(partition) = object.key.strip_prefix(&store.prefix).and_then(partition_of) else {
                continue;
            };
            let objects = listed.entry(partition).or_default();
            if let Some(key) = segment_of(store, &object.key) {
                found.objects += 1;
                found.bytes += object.bytes;
                objects.insert(key, object.bytes);
            }
        }
        after = page.objects.last().map(|object| object.key.clone()).or(after);
        let last = after.as_deref().and_then(|key| key.strip_prefix(&store.prefix)).and_then(partition_of);
        let is_whole = |partition: &(Uuid, i32)| !page.is_cut || Some(*partition) != last;
        let whole: Vec<_> = listed.keys().copied().filter(is_whole).collect();
        for partition in whole {
            let objects = listed.remove(&partition).unwrap_or_default();
            check_partition(store, &reader, footers, partition, &objects, &mut found).await?;
        }
        if !page.is_cut {
            return Ok(found);
        }
    }
}

async fn check_partition(
    store: &TierStore,
    reader: &RemoteReader,
    footers: bool,
    (topic, partition): (Uuid, i32),
    objects: &HashMap<SegmentKey, u64>,
    found: &mut Found,
) -> Result<(), CliError> {
    found.partitions += 1;
    let mut unnamed: Vec<SegmentKey> = objects.keys().copied().collect();
    let manifest = match manifest::load(&*store.store, &store.prefix, topic, partition).await {
        Ok(manifest) => manifest,
        Err(error @ manifest::ManifestError::Damaged { .. }) => {
            found.gaps.push(error.to_string());
            return Ok(());
        }
        Err(error) => return Err(failed(error)),
    };
    if let Some(manifest) = &manifest {
        let name = format!("{}-{partition}", manifest.topic);
        for segment in manifest.segments() {
            let key = manifest.key_of(segment);
            let bytes = match objects.get(&key) {
                Some(bytes) => Some(*bytes),
                None => listed_since(store, &key).await?,
            };
            let range = format!("{name} from {} to {}", segment.base_offset, segment.valid_to);
            match bytes {
                None => found.gaps.push(format!("{range}: object {}{key} is not there", store.prefix)),
                Some(bytes) if bytes != segment.bytes => found.gaps.push(format!(
                    "{range}: object {}{key} has {bytes} bytes, not {}",
                    store.prefix, segment.bytes
                )),
                Some(_) if footers => {
                    if let Err(error) = reader.footer(&key).await {
                        found.gaps.push(format!("{range}: {error}"));
                    }
                }
                Some(_) => {}
            }
        }
        let is_named = |key: &SegmentKey| {
            manifest.segments().iter().any(|segment| manifest.key_of(segment) == *key)
                || manifest.unused().iter().any(|unused| manifest.key_of(&unused.segment) == *key)
        };
        unnamed.retain(|key| !is_named(key));
    }
    unnamed.sort_by_key(|key| (key.base_offset, key.end_offset, key.suffix));
    for key in unnamed {
        let is_left =
            manifest.as_ref().is_some_and(|manifest| key.leader_epoch < manifest.writer.leader_epoch);
        let list = if is_left { &mut found.orphans } else { &mut found.pending };
        list.push(format!("{}{key}", store.prefix));
    }
    Ok(())
}

/// One that was uploaded after the list was read.
async fn listed_since(store: &TierStore, key: &SegmentKey) -> Result<Option<u64>, CliError> {
    let key = format!("{}{key}", store.prefix);
    let page = store.store.list(&key, None).await.map_err(failed)?;
    Ok(page.objects.into_iter().find(|object| object.key == key).map(|object| object.bytes))
}
