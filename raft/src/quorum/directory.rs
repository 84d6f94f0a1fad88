//! The metadata directory: one process at a time, and one cluster and node for ever.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::StartError;
use super::store_sled::{sync_directory, write_file_durably};
use crate::metadata::ids::{BrokerId, ClusterId, cluster_id_generate};

/// As Kafka names the directory of its metadata log.
pub const DIRECTORY_NAME: &str = "__cluster_metadata-0";
const IDENTITY_FILE: &str = "identity.json";
const IDENTITY_FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    cluster_id: ClusterId,
    node_id: BrokerId,
    /// Nil in directories of a release that did not have it.
    #[serde(default = "Uuid::nil")]
    directory_id: Uuid,
}

pub struct Directory {
    pub path: PathBuf,
    pub cluster_id: ClusterId,
    /// Tells this directory from any other that the node may have had or get.
    pub directory_id: Uuid,
    /// Held while this lives; the kernel lets go of it when the process ends, however it ends.
    _lock: File,
}

impl Directory {
    pub fn open(
        log_dir: &Path,
        cluster_id: Option<&ClusterId>,
        node_id: BrokerId,
    ) -> Result<Directory, StartError> {
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
        let write = |identity: &Identity| {
            let json = serde_json::to_vec_pretty(identity).map_err(|error| io_error(error.into()))?;
            write_file_durably(&path, IDENTITY_FILE, &json).map_err(io_error)
        };
        let identity = match read_identity(&path)? {
            Some(mut identity) => {
                if let Some(expected) = cluster_id.filter(|expected| **expected != identity.cluster_id) {
                    let expected = expected.clone();
                    return Err(StartError::OtherCluster { path, found: identity.cluster_id, expected });
                }
                if identity.node_id != node_id {
                    return Err(StartError::OtherNode { path, found: identity.node_id, expected: node_id });
                }
                if identity.directory_id.is_nil() {
                    identity.directory_id = Uuid::new_v4();
                    write(&identity)?;
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
                let cluster_id = cluster_id.cloned().unwrap_or_else(cluster_id_generate);
                let directory_id = Uuid::new_v4();
                let identity = Identity { format: IDENTITY_FORMAT, cluster_id, node_id, directory_id };
                // ORDER: durable before the store is made, so that no store is ever without an owner.
                write(&identity)?;
                sync_directory(log_dir)
                    .and_then(|()| sync_directory(&log_dir.canonicalize()?.join("..")))
                    .map_err(io_error)?;
                identity
            }
        };
        let Identity { cluster_id, directory_id, .. } = identity;
        Ok(Directory { path, cluster_id, directory_id, _lock: lock })
    }
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
