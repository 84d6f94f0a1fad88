//! The remote tier: committed segments of tiered topics in an object store.
//!
//! - [`Tier`]: the store, its reader, and the manifests that say what of a partition is there.
//! - [`read`]: what fetches and lookups of offsets ask of it.
//! - [`manifests`]: those manifests, loaded once for all who wait.
//! - [`open`]: the object store that the configuration names; [`store_metrics`]: what it is asked for.
//! - [`cluster_state`], [`group_offsets`], [`restore`]: what a new cluster can be made of there, and how.
//!
//! The truth about a partition's tier is its manifest in the store (`ottla_storage::tiering::manifest`). The metadata names the
//! newest one and where it ends ([`ottla_raft::TierPosition`]), so that every replica knows which to load, and what may go from its disk.

#[cfg(feature = "s3")]
pub(crate) mod bucket;
pub mod cluster_state;
mod group_offsets;
pub mod manifests;
pub mod open;
pub mod read;
mod read_metrics;
mod read_store;
pub mod restore;
pub mod store_metrics;
pub mod writer;

use std::sync::Arc;

use ottla_raft::TopicId;
use ottla_storage::disk::Disk;
use ottla_storage::tiering::Spawn;
use ottla_storage::tiering::disk_cache::DiskCache;
use ottla_storage::tiering::manifest::{Manifest, ManifestError};
use ottla_storage::tiering::reader::{ReaderConfig, RemoteReader};
use ottla_storage::tiering::store::ObjectStore;

use manifests::Manifests;
use read::{Budget, Failures};
use read_metrics::{Caches, ReadMetrics};
use read_store::ReadStore;

use crate::config::NodeConfig;
use crate::metrics::Metrics;
use crate::threads;

/// Of the disk cache, in the first of `log.dirs`.
const DISK_CACHE: &str = "ottla-tier-cache";

/// The tier of this cluster, as this node reaches it.
pub struct Tier {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    reader: RemoteReader,
    manifests: Arc<Manifests>,
    budget: Budget,
    failures: Failures,
    read_metrics: Arc<ReadMetrics>,
}

impl Tier {
    /// `prefix`: of all keys of this cluster, empty or with a slash at its end. `disk`: of the log directories. Needs a tokio runtime.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        config: &Arc<NodeConfig>,
        metrics: &Metrics,
        disk: &Disk,
    ) -> Arc<Tier> {
        let spawn: Spawn = Arc::new(|task| drop(tokio::spawn(task)));
        let read_metrics = ReadMetrics::register(metrics);
        let read_store = ReadStore::new(Arc::clone(&store), config, Arc::clone(&read_metrics));
        let limits = &config.tier_read;
        let reader = ReaderConfig {
            cache_bytes_max: limits.cache_bytes_max,
            heads_bytes_max: limits.cache_bytes_max / 4,
            ..ReaderConfig::default()
        };
        let tier = Arc::new(Tier {
            reader: RemoteReader::new(Arc::new(read_store), prefix, spawn, reader, disk_cache(config, disk)),
            manifests: Arc::default(),
            budget: Budget::new(limits.waiting_max, limits.answers_bytes_max),
            failures: Failures::default(),
            read_metrics,
            prefix: prefix.to_owned(),
            store,
        });
        let caches = Caches(Arc::downgrade(&tier));
        metrics.register(|registry| registry.register_collector(Box::new(caches)));
        tier
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

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn read_metrics(&self) -> &ReadMetrics {
        &self.read_metrics
    }

    /// The manifest of a partition, at least as new as `number` (from the image); None if it never had one. Cached, one load for many
    /// waiters.
    pub async fn manifest(
        &self,
        topic: TopicId,
        partition: i32,
        number: u64,
    ) -> Result<Option<Arc<Manifest>>, ManifestError> {
        self.manifests.get(&self.store, &self.prefix, topic, partition, number).await
    }

    /// This node wrote a manifest.
    pub async fn on_committed(&self, manifest: Arc<Manifest>) {
        self.manifests.put(manifest).await;
    }

    /// The topic is deleted.
    pub fn forget(&self, topic: TopicId) {
        self.manifests.forget(topic);
        self.reader.forget_topic(topic.0);
    }
}

/// None: it is switched off, or cannot be used, which is no reason not to read.
fn disk_cache(config: &NodeConfig, disk: &Disk) -> Option<DiskCache> {
    let directory = config.log_dirs.first()?.join(DISK_CACHE);
    let opened = match config.tier_read.disk_cache_bytes_max {
        0 => disk.remove_dir_all(&directory).map(|()| None),
        bytes_max => DiskCache::open(disk, &directory, bytes_max as u64, threads::beside()).map(Some),
    };
    opened.unwrap_or_else(|error| {
        let directory = directory.display();
        tracing::warn!(%directory, %error, "reads of the remote tier go without a disk cache");
        None
    })
}
