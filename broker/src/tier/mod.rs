//! The remote tier: committed segments of tiered topics in an object store.
//!
//! - [`Tier`]: the store, its reader, and the manifests that say what of a partition is there.
//! - [`manifests`]: those manifests, loaded once for all who wait.
//!
//! The truth about a partition's tier is its manifest in the store (`ottla_storage::tiering::manifest`). The metadata names the
//! newest one and where it ends ([`ottla_raft::TierPosition`]), so that every replica knows which to load, and what may go from its disk.

pub mod manifests;

use std::sync::Arc;

use ottla_raft::TopicId;
use ottla_storage::tiering::Spawn;
use ottla_storage::tiering::manifest::{Manifest, ManifestError};
use ottla_storage::tiering::reader::{ReaderConfig, RemoteReader};
use ottla_storage::tiering::store::ObjectStore;

use manifests::Manifests;

/// The tier of this cluster, as this node reaches it.
pub struct Tier {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    reader: RemoteReader,
    manifests: Manifests,
}

impl Tier {
    /// `prefix`: of all keys of this cluster, empty or with a slash at its end. Needs a tokio runtime.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str, reader: ReaderConfig) -> Arc<Tier> {
        let spawn: Spawn = Arc::new(|task| drop(tokio::spawn(task)));
        Arc::new(Tier {
            reader: RemoteReader::new(Arc::clone(&store), prefix, spawn, reader),
            manifests: Manifests::default(),
            prefix: prefix.to_owned(),
            store,
        })
    }

    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn reader(&self) -> &RemoteReader {
        &self.reader
    }

    /// The manifest of a partition, at least as new as `number` (from the image); None if it never had one. Cached, one load for many
    /// waiters.
    pub async fn manifest(
        &self,
        topic: TopicId,
        partition: i32,
        number: u64,
    ) -> Result<Option<Arc<Manifest>>, ManifestError> {
        self.manifests.get(&*self.store, &self.prefix, topic, partition, number).await
    }
    /// This node wrote a manifest.
    pub async fn on_committed(&self, manifest: Arc<Manifest>) {
        self.manifests.put(manifest).await;
    }

    /// The topic is deleted.
    pub fn forget(&self, topic: TopicId) {
        self.manifests.forget(topic);
    }
}
