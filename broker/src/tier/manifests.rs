//! The manifests that were read or written lately.
//!
//! A load goes on when those who asked have gone away: a fetch waits for half a second, and a slow store may take longer.

use std::collections::HashMap;
use std::sync::Arc;

use ottla_raft::TopicId;
use ottla_storage::tiering::manifest::{self, Manifest, ManifestError};
use ottla_storage::tiering::store::{ObjectStore, StoreError};
use parking_lot::Mutex;

/// Of all manifests that are kept: some 30 MB. The one that was asked for last stays, however large it is.
const SEGMENTS_KEPT_MAX: usize = 200_000;

type Partition = (TopicId, i32);
/// A manifest, and one who loads it for all.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Manifest>>>>;

#[derive(Default)]
pub(super) struct Manifests {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    entries: HashMap<Partition, Entry>,
    uses: u64,
    segments: usize,
}

#[derive(Default)]
struct Entry {
    slot: Slot,
    /// Of its manifest.
    segments: usize,
    last_use: u64,
}

impl Manifests {
    pub(super) async fn get(
        self: &Arc<Manifests>,
        store: &Arc<dyn ObjectStore>,
        prefix: &str,
        topic: TopicId,
        partition: i32,
        number: u64,
    ) -> Result<Option<Arc<Manifest>>, ManifestError> {
        let slot = self.slot((topic, partition));
        if let Ok(known) = slot.try_lock()
            && let Some(known) = known.as_ref().filter(|known| known.number >= number)
        {
            return Ok(Some(Arc::clone(known)));
        }
        let (this, store, prefix) = (Arc::clone(self), Arc::clone(store), prefix.to_owned());
        let load =
            tokio::spawn(async move { this.load(slot, &*store, &prefix, topic, partition, number).await });
        load.await.unwrap_or_else(|_| Err(StoreError::Unavailable("this node is stopping".to_owned()).into()))
    }

    async fn load(
        &self,
        slot: Slot,
        store: &dyn ObjectStore,
        prefix: &str,
        topic: TopicId,
        partition: i32,
        number: u64,
    ) -> Result<Option<Arc<Manifest>>, ManifestError> {
        let mut known = slot.lock().await;
        if let Some(known) = &*known
            && known.number >= number
        {
            return Ok(Some(Arc::clone(known)));
        }
        let loaded = manifest::load(store, prefix, topic.0, partition).await?;
        let newest = loaded.as_ref().map_or(0, |manifest| manifest.number);
        if newest < number {
            // Also a store that was put back to an older state, or another one under the same name.
            return Err(StoreError::Unavailable(format!(
                "the newest manifest of partition {partition} of topic id {topic} is {newest}, and {number} was written"
            ))
            .into());
        }
        *known = loaded.map(Arc::new);
        self.count((topic, partition), known.as_ref());
        Ok(known.clone())
    }

    /// Committed by this node. Never takes the place of a newer one.
    pub(super) async fn put(&self, manifest: Arc<Manifest>) {
        let partition = (TopicId(manifest.topic_id), manifest.partition);
        let slot = self.slot(partition);
        let mut known = slot.lock().await;
        if known.as_ref().is_none_or(|known| known.number < manifest.number) {
            *known = Some(manifest);
            self.count(partition, known.as_ref());
        }
    }

    pub(super) fn forget(&self, topic: TopicId) {
        let mut kept = self.kept.lock();
        kept.entries.retain(|(known, _), _| *known != topic);
        kept.segments = kept.entries.values().map(|entry| entry.segments).sum();
    }

    fn slot(&self, partition: Partition) -> Slot {
        let mut kept = self.kept.lock();
        kept.uses += 1;
        let last_use = kept.uses;
        let entry = kept.entries.entry(partition).or_default();
        entry.last_use = last_use;
        Arc::clone(&entry.slot)
    }

    /// What a slot holds now. Those that nobody used for longest go.
    fn count(&self, partition: Partition, manifest: Option<&Arc<Manifest>>) {
        let mut kept = self.kept.lock();
        let kept = &mut *kept;
        let Some(entry) = kept.entries.get_mut(&partition) else { return };
        // An empty one costs too.
        let segments = 1 + manifest.map_or(0, |manifest| manifest.segments().len() + manifest.unused().len());
        kept.segments = kept.segments - std::mem::replace(&mut entry.segments, segments) + segments;
        if kept.segments <= SEGMENTS_KEPT_MAX {
            return;
        }
        let mut by_use: Vec<_> = kept.entries.iter().map(|(key, entry)| (entry.last_use, *key)).collect();
        by_use.sort_unstable();
        for (_, oldest) in by_use {
            // Down to a half, so that this is not done for each.
            if kept.segments <= SEGMENTS_KEPT_MAX / 2 || oldest == partition {
                return;
            }
            kept.segments -= kept.entries.remove(&oldest).map_or(0, |entry| entry.segments);
        }
    }
}
