//! The directories of `log.dirs` at a start: whose they are, and which of them can be used.
//!
//! A directory that can't be read or taken because of its disk is left out, and the node starts with the rest (KIP-112). One that
//! belongs to another cluster or node, or to another process, is a mistake of the operator: then nothing starts.

use std::path::PathBuf;

use ottla_raft::BrokerEpoch;
use ottla_storage::disk::Disk;
use ottla_storage::logdir::{self, LogDir, LogDirError};
use uuid::Uuid;

use crate::config::NodeConfig;
use crate::replica::UnusableDir;

#[derive(Debug, thiserror::Error)]
pub enum DataDirsError {
    #[error(transparent)]
    LogDir(#[from] LogDirError),
    #[error("{path} belongs to cluster {found}, but {other_path} to cluster {other}")]
    TwoClusters { path: PathBuf, found: String, other_path: PathBuf, other: String },
    #[error("none of the log directories can be used: {}", list(.0))]
    NoneUsable(Vec<UnusableDir>),
}

fn list(dirs: &[UnusableDir]) -> String {
    dirs.iter().map(|dir| dir.reason.as_str()).collect::<Vec<_>>().join("; ")
}

/// What the directories say before anything is taken.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Examined {
    pub cluster_id: Option<String>,
    pub holds_partitions: bool,
}

/// Looks whose the directories are. Those that can't be read say nothing; `open` finds them again.
pub fn examine(disk: &Disk, config: &NodeConfig) -> Result<Examined, DataDirsError> {
    let mut cluster: Option<(PathBuf, String)> = None;
    let mut holds_partitions = false;
    let mut unusable = Vec::new();
    for path in &config.log_dirs {
        let looked = logdir::holds_partitions(disk, path)
            .and_then(|holds| Ok((holds, logdir::read_meta_properties(disk, path)?)));
        let Some((holds, found)) = usable(looked, path, &mut unusable)? else { continue };
        holds_partitions |= holds;
        let Some(found) = found else { continue };
        if found.node_id != config.node_id {
            let (found, expected) = (found.node_id, config.node_id);
            return Err(LogDirError::OtherNode { path: path.clone(), found, expected }.into());
        }
        match &cluster {
            Some((other_path, other)) if *other != found.cluster_id => {
                return Err(DataDirsError::TwoClusters {
                    path: path.clone(),
                    found: found.cluster_id,
                    other_path: other_path.clone(),
                    other: other.clone(),
                });
            }
            _ => cluster = Some((path.clone(), found.cluster_id)),
        }
    }
    if unusable.len() == config.log_dirs.len() {
        return Err(DataDirsError::NoneUsable(unusable));
    }
    // What can't be read may hold some: then no cluster is founded anew.
    holds_partitions |= !unusable.is_empty();
    Ok(Examined { cluster_id: cluster.map(|(_, id)| id), holds_partitions })
}

/// Takes the directories, in the order of `log.dirs`, and says which can't be used. The one with the metadata, which may be one of
/// them, has the id by which the quorum knows it.
pub fn open(
    disk: &Disk,
    config: &NodeConfig,
    cluster_id: &str,
    metadata_directory: Uuid,
) -> Result<(Vec<LogDir>, Vec<UnusableDir>), DataDirsError> {
    logdir::claim_for_metadata(
        disk,
        &config.metadata_log_dir,
        cluster_id,
        config.node_id,
        metadata_directory,
    )?;
    let (mut opened, mut unusable) = (Vec::new(), Vec::new());
    for path in &config.log_dirs {
        let taken = LogDir::open(disk.clone(), path, cluster_id, config.node_id);
        opened.extend(usable(taken, path, &mut unusable)?);
    }
    if opened.is_empty() {
        return Err(DataDirsError::NoneUsable(unusable));
    }
    for dir in &unusable {
        tracing::error!(path = %dir.path.display(), reason = dir.reason, "a log directory can't be used; its replicas are offline");
    }
    Ok((opened, unusable))
}

/// Notes a directory whose disk fails, instead of failing.
fn usable<T>(
    result: Result<T, LogDirError>,
    path: &std::path::Path,
    unusable: &mut Vec<UnusableDir>,
) -> Result<Option<T>, LogDirError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error @ LogDirError::Io { .. }) => {
            unusable.push(UnusableDir { path: path.to_owned(), reason: error.to_string() });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The broker epoch under which this node last shut down cleanly: only if every log directory says so, and the same.
pub fn clean_shutdown_epoch(log_dirs: &[LogDir]) -> Option<BrokerEpoch> {
    let first = log_dirs.first()?.clean_shutdown_epoch()?;
    let is_same = log_dirs.iter().all(|dir| dir.clean_shutdown_epoch() == Some(first));
    (is_same && first >= 0).then_some(BrokerEpoch(first))
}
