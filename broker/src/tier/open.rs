//! Opens the object store of `ottla.tier.url`, which the remote tier and the tables share.
//!
//! A directory has to be there, as a log directory has; a bucket may be away, forbidden or not made yet when a node starts: that is
//! said, and asked again until it is there. Whoever uses the store meanwhile gets its errors.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ottla_storage::disk::Disk;
use ottla_storage::tiering::directory::DirectoryStore;
use ottla_storage::tiering::store::ObjectStore;

use crate::config::{TierConfig, TierPlace};
use crate::threads;

/// An object store, and where in it this cluster's objects are.
#[derive(Clone)]
pub struct TierStore {
    pub store: Arc<dyn ObjectStore>,
    /// Of all keys: empty or with a slash at its end.
    pub prefix: String,
    /// For people.
    pub place: TierPlace,
}

#[derive(Debug, thiserror::Error)]
pub enum TierOpenError {
    #[error("ottla.tier.url: cannot use {place}: {source}")]
    Directory { place: TierPlace, source: io::Error },
}

/// For a node. Needs a tokio runtime, for which the store works until the end.
pub async fn open(config: &TierConfig, disk: &Disk, node_id: i32) -> Result<TierStore, TierOpenError> {
    let opened = open_as(config, disk, User::Node(node_id)).await?;
    tracing::info!(place = %config.place, "the remote tier and tables are kept there");
    Ok(opened)
}

/// For a command beside the nodes, which is told at once what keeps it from the store.
pub async fn open_for_command(config: &TierConfig, disk: &Disk) -> Result<TierStore, TierOpenError> {
    open_as(config, disk, User::Command).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum User {
    Node(i32),
    Command,
}

impl User {
    /// As whom it writes to a directory.
    fn writer(self) -> String {
        match self {
            User::Node(id) => id.to_string(),
            User::Command => "command".to_owned(),
        }
    }
}

async fn open_as(config: &TierConfig, disk: &Disk, user: User) -> Result<TierStore, TierOpenError> {
    let (store, prefix): (Arc<dyn ObjectStore>, _) = match &config.place {
        TierPlace::Directory(path) => {
            (Arc::new(directory(config, path, disk, user.writer()).await?), String::new())
        }
        #[cfg(feature = "s3")]
        TierPlace::Bucket { bucket, prefix } => {
            let store = super::bucket::open(config, bucket).await;
            if user != User::Command {
                tokio::spawn(super::bucket::reach(store.clone(), prefix.clone()));
            }
            (Arc::new(store), prefix.clone())
        }
        #[cfg(not(feature = "s3"))]
        TierPlace::Bucket { .. } => {
            let source = io::Error::new(io::ErrorKind::Unsupported, "this build of Ottla has no S3");
            return Err(TierOpenError::Directory { place: config.place.clone(), source });
        }
    };
    Ok(TierStore { store, prefix, place: config.place.clone() })
}

async fn directory(
    config: &TierConfig,
    path: &Path,
    disk: &Disk,
    writer: String,
) -> Result<DirectoryStore, TierOpenError> {
    let (path, disk) = (path.to_owned(), disk.clone());
    let opening = threads::blocking(move || {
        disk.create_dir_all(&path)?;
        disk.sync_parent(&path)?;
        DirectoryStore::open(&disk, &path, &writer, threads::beside())
    });
    let opened = opening.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    opened.map_err(|source| TierOpenError::Directory { place: config.place.clone(), source })
}
