//! The metadata directory: one process at a time, and one cluster and node for ever.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::StartError;
use super::store_memory::MemoryStore;
use super::store_sled::{sync_directory, write_file_durably};
use crate::metadata::ids::{BrokerId, ClusterId};
use crate::random;

/// As Kafka names the directory of its metadata log.
pub const DIRECTORY_NAME: &str = "__cluster_metadata-0";
const IDENTITY_FILE: &str = "identity.json";
const IDENTITY_FORMAT: u32 = 1;

/// Whose metadata it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    format: u32,
    /// `None` until this node has heard of the cluster's first controller.
    cluster_id: Option<ClusterId>,
    node_id: BrokerId,
    /// Tells this directory from any other that the node may have had or get. Nil in directories of a release that did not
    /// have it.
    #[serde(default = "Uuid::nil")]
    directory_id: Uuid,
}

impl Identity {
    fn new(node_id: BrokerId) -> Identity {
        Identity { format: IDENTITY_FORMAT, cluster_id: None, node_id, directory_id: random::uuid() }
    }

    fn check(&self, path: &Path, expected: Option<&ClusterId>, node_id: BrokerId) -> Result<(), StartError> {
        let path = path.to_path_buf();
        if let (Some(found), Some(expected)) = (&self.cluster_id, expected)
            && found != expected
        {
            return Err(StartError::OtherCluster { path, found: found.clone(), expected: expected.clone() });
        }
        if self.node_id != node_id {
            return Err(StartError::OtherNode { path, found: self.node_id, expected: node_id });
        }
        Ok(())
    }
}

/// Where a node's metadata lies: a directory that is this process's alone, or a store in memory.
pub struct Home {
    path: PathBuf,
    identity: Identity,
    keep: Keep,
}

enum Keep {
    /// The lock: the kernel lets go of it when the process ends, however it ends.
    Directory {
        _lock: File,
    },
    Memory(Arc<MemoryStore>),
}

impl Home {
    pub fn open(log_dir: &Path, expected: Option<&ClusterId>, node_id: BrokerId) -> Result<Home, StartError> {
        let path = log_dir.join(DIRECTORY_NAME);
        let io_error = |source: io::Error| StartError::Io { path: path.clone(), source };
        std::fs::create_dir_all(&path).map_err(io_error)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(".lock"))
            .map_err(io_error)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StartError::Locked { path }),
            Err(error) => return Err(io_error(error.into())),
        }
        let identity = match read_identity(&path)? {
            Some(mut identity) => {
                identity.check(&path, expected, node_id)?;
                if identity.directory_id.is_nil() {
                    identity.directory_id = random::uuid();
                    write_identity(&path, &identity)?;
                }
                identity
            }
            None => {
                if path.join("store").exists() {
                    return Err(StartError::Corrupt {
                        path,
                        reason: format!("there is a store, but no {IDENTITY_FILE} that says whose"),
                    });
                }
                let identity = Identity::new(node_id);
                // ORDER: durable before the store is made, so that no store is ever without an owner.
                write_identity(&path, &identity)?;
                sync_directory(log_dir)
                    .and_then(|()| sync_directory(&log_dir.canonicalize()?.join("..")))
                    .map_err(io_error)?;
                identity
            }
        };
        Ok(Home { path, identity, keep: Keep::Directory { _lock: lock } })
    }

    pub fn in_memory(
        store: Arc<MemoryStore>,
        expected: Option<&ClusterId>,
        node_id: BrokerId,
    ) -> Result<Home, StartError> {
        let path = PathBuf::from("(memory)");
        let identity = store.identity().unwrap_or_else(|| Identity::new(node_id));
        identity.check(&path, expected, node_id)?;
        store.save_identity(identity.clone());
        Ok(Home { path, identity, keep: Keep::Memory(store) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn cluster_id(&self) -> Option<&ClusterId> {
        self.identity.cluster_id.as_ref()
    }

    pub fn directory_id(&self) -> Uuid {
        self.identity.directory_id
    }

    /// From now on this is the metadata of that cluster. Durable when it returns.
    pub fn name_cluster(&mut self, id: &ClusterId) -> Result<(), StartError> {
        if self.identity.cluster_id.as_ref() == Some(id) {
            return Ok(());
        }
        self.identity.cluster_id = Some(id.clone());
        match &self.keep {
            Keep::Directory { .. } => write_identity(&self.path, &self.identity),
            Keep::Memory(store) => {
                store.save_identity(self.identity.clone());
                Ok(())
            }
        }
    }
}

fn write_identity(path: &Path, identity: &Identity) -> Result<(), StartError> {
    let io_error = |source: io::Error| StartError::Io { path: path.to_path_buf(), source };
    let json = serde_json::to_vec_pretty(identity).map_err(|error| io_error(error.into()))?;
    write_file_durably(path, IDENTITY_FILE, &json).map_err(io_error)
}

fn read_identity(path: &Path) -> Result<Option<Identity>, StartError> {
    let corrupt = |reason: String| StartError::Corrupt { path: path.to_path_buf(), reason };
    let bytes = match std::fs::read(path.join(IDENTITY_FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StartError::Io { path: path.to_path_buf(), source }),
    };
    let identity: Identity =
        serde_json::from_slice(&bytes).map_err(|error| corrupt(format!("{IDENTITY_FILE}: {error}")))?;
    if identity.format != IDENTITY_FORMAT {
        return Err(corrupt(format!(
            "{IDENTITY_FILE} is of format {}, not {IDENTITY_FORMAT}",
            identity.format
        )));
    }
    Ok(Some(identity))
}
