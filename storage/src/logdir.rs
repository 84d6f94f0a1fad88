//! One directory of `log.dirs`: its lock, whose it is, how it was left, which partitions it holds, its checkpoints.
//!
//! Opened once at start by the node; replicas open their logs through it. Invariants:
//! - One process at a time (the `.lock` file).
//! - The clean-shutdown marker is gone, durably, before any log of the directory can be changed.
//! - A recovery point in the checkpoint never lies past what is on stable storage.
//!
//! Deliberately elsewhere: when to write checkpoints and which logs exist in memory (the replica manager).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ottla_batch::{Offset, TimestampMs};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::checkpoints::{self, CheckpointError, Checkpoints, TopicPartition};
use crate::disk::{Disk, Lock, Space};
use crate::log::{LastShutdown, Log, LogConfig, OpenError, OpenLog};
use crate::meta_properties::{self, MetaProperties, MetaPropertiesError};
use crate::partition_metadata::{self, PartitionMetadataError};

const LOCK_FILE: &str = ".lock";
const HIGH_WATERMARK_FILE: &str = "replication-offset-checkpoint";
const CLEAN_SHUTDOWN_FILE: &str = ".kafka_cleanshutdown";
/// Far more than the marker takes.
const MARKER_BYTES_MAX: u64 = 4 << 10;
const DELETE_SUFFIX: &str = "-delete";
const STRAY_SUFFIX: &str = "-stray";
const FUTURE_SUFFIX: &str = "-future";
/// Kafka bounds topic names at 249 characters; a name with the partition must stay a file name (255 bytes).
const FILE_NAME_BYTES_MAX: usize = 255;

#[derive(Debug, thiserror::Error)]
pub enum LogDirError {
    #[error("log directory {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("log directory {path} is in use by another process")]
    Locked { path: PathBuf },
    #[error("log directory {path} belongs to cluster {found}, this node is of cluster {expected}")]
    OtherCluster { path: PathBuf, found: String, expected: String },
    #[error("log directory {path} belongs to node {found}, this is node {expected}")]
    OtherNode { path: PathBuf, found: i32, expected: i32 },
    #[error("log directory {path}: {source}")]
    MetaProperties { path: PathBuf, source: MetaPropertiesError },
}

/// A partition found on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionDir {
    pub topic: String,
    pub partition: i32,
    /// From `partition.metadata`; None when there is none or it cannot be read (nothing is deleted because of that).
    pub topic_id: Option<Uuid>,
    pub path: PathBuf,
}

pub struct LogDir {
    disk: Disk,
    path: PathBuf,
    directory_id: Uuid,
    last_shutdown: LastShutdown,
    clean_shutdown_epoch: Option<i64>,
    offline: OnceLock<String>,
    checkpoints: Arc<Checkpoints>,
    lock: Mutex<Option<Lock>>,
}

impl LogDir {
    /// Takes the directory, creating it and its `meta.properties` when it is new.
    pub fn open(
        disk: Disk,
        path: impl Into<PathBuf>,
        cluster_id: &str,
        node_id: i32,
    ) -> Result<LogDir, LogDirError> {
        let path = path.into();
        let io_error = |source| LogDirError::Io { path: path.clone(), source };
        create_durably(&disk, &path).map_err(io_error)?;
        let lock = disk
            .lock(&path.join(LOCK_FILE))
            .map_err(io_error)?
            .ok_or_else(|| LogDirError::Locked { path: path.clone() })?;
        let directory_id = claim(&disk, &path, cluster_id, node_id, None)?;

        let marker = path.join(CLEAN_SHUTDOWN_FILE);
        let (last_shutdown, clean_shutdown_epoch) = match disk.read(&marker, MARKER_BYTES_MAX) {
            Ok(content) => (LastShutdown::Clean, marker_epoch(&content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (LastShutdown::Unclean, None),
            Err(error) => return Err(io_error(error)),
        };
        let checkpoints = Arc::new(Checkpoints::open(disk.clone(), &path).map_err(io_error)?);
        // ORDER: the marker goes, durably, before anything can be appended. If it came back after a crash, recovery
        // would be skipped over torn data.
        disk.remove_file(&marker).map_err(io_error)?;
        disk.sync_dir(&path).map_err(io_error)?;
        remove_deleted_partitions(&disk, &path).map_err(io_error)?;
        Ok(LogDir {
            disk,
            path,
            directory_id,
            last_shutdown,
            clean_shutdown_epoch,
            offline: OnceLock::new(),
            checkpoints,
            lock: Mutex::new(Some(lock)),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    pub fn directory_id(&self) -> Uuid {
        self.directory_id
    }

    pub fn last_shutdown(&self) -> LastShutdown {
        self.last_shutdown
    }

    /// The broker epoch of the process that shut down cleanly; `None` after an unclean shutdown.
    pub fn clean_shutdown_epoch(&self) -> Option<i64> {
        self.clean_shutdown_epoch
    }

    pub fn space(&self) -> io::Result<Space> {
        self.disk.space(&self.path)
    }

    /// What lies in the directory, in the order of the names.
    pub fn partitions(&self) -> io::Result<Vec<PartitionDir>> {
        let mut partitions = Vec::new();
        for entry in self.disk.read_dir(&self.path)? {
            if !entry.is_dir {
                continue;
            }
            let Some((topic, partition)) = parse_partition_dir(&entry.name) else { continue };
            let path = self.path.join(&entry.name);
            let topic_id = match partition_metadata::read(&self.disk, &path) {
                Ok(topic_id) => topic_id,
                Err(PartitionMetadataError::Io(error)) => return Err(error),
                Err(error @ PartitionMetadataError::Malformed(_)) => {
                    tracing::error!(path = %path.display(), %error, "partition.metadata is unreadable");
                    None
                }
            };
            partitions.push(PartitionDir { topic, partition, topic_id, path });
        }
        Ok(partitions)
    }

    /// Partitions that are being copied into this directory from another one (KIP-113).
    pub fn futures(&self) -> io::Result<Vec<PartitionDir>> {
        let mut futures = Vec::new();
        for entry in self.disk.read_dir(&self.path)? {
            let Some((topic, partition)) = parse_future_dir(&entry.name).filter(|_| entry.is_dir) else {
                continue;
            };
            let path = self.path.join(&entry.name);
            let topic_id = match partition_metadata::read(&self.disk, &path) {
                Ok(topic_id) => topic_id,
                Err(PartitionMetadataError::Io(error)) => return Err(error),
                Err(PartitionMetadataError::Malformed(_)) => None,
            };
            futures.push(PartitionDir { topic, partition, topic_id, path });
        }
        Ok(futures)
    }

    pub fn partition_path(&self, topic: &str, partition: i32) -> PathBuf {
        self.path.join(format!("{topic}-{partition}"))
    }

    /// Makes the directories that are missing, and their names durable at once. [`LogDir::open_log`] would do it one by one.
    pub fn create_partitions<'a>(
        &self,
        partitions: impl IntoIterator<Item = (&'a str, i32)>,
    ) -> io::Result<()> {
        let mut is_changed = false;
        for (topic, partition) in partitions {
            let path = self.partition_path(topic, partition);
            if !self.disk.exists(&path)? {
                self.disk.create_dir_all(&path)?;
                is_changed = true;
            }
        }
        if is_changed { self.disk.sync_dir(&self.path) } else { Ok(()) }
    }

    /// Opens the log of a partition, creating it when it is not there.
    pub fn open_log(
        &self,
        topic: &str,
        partition: i32,
        topic_id: Option<Uuid>,
        config: Arc<LogConfig>,
        now: TimestampMs,
    ) -> Result<Log, OpenError> {
        self.open_log_in(self.partition_path(topic, partition), topic, partition, topic_id, config, now)
    }

    /// Opens a log that is to take the place of the partition's log in another directory; in `found`, if a copy was begun
    /// before.
    pub fn open_future_log(
        &self,
        found: Option<PathBuf>,
        topic: &str,
        partition: i32,
        topic_id: Option<Uuid>,
        config: Arc<LogConfig>,
        now: TimestampMs,
    ) -> Result<Log, OpenError> {
        let dir = match found {
            Some(found) => found,
            None => {
                // ORDER: first. Offsets of an earlier log of this name would be taken for those of the new one.
                let forgotten = self.checkpoints.forget(&(topic.to_owned(), partition));
                forgotten.map_err(|source| OpenError::Io { path: self.path.clone(), source })?;
                self.path.join(future_dir_name(topic, partition, Uuid::new_v4()))
            }
        };
        self.open_log_in(dir, topic, partition, topic_id, config, now)
    }

    fn open_log_in(
        &self,
        dir: PathBuf,
        topic: &str,
        partition: i32,
        topic_id: Option<Uuid>,
        config: Arc<LogConfig>,
        now: TimestampMs,
    ) -> Result<Log, OpenError> {
        Log::open(OpenLog {
            disk: self.disk.clone(),
            dir,
            partition: (topic.to_owned(), partition),
            checkpoints: self.checkpoints.clone(),
            config,
            topic_id,
            last_shutdown: self.last_shutdown,
            now,
            jitter_seed: jitter_seed(topic, partition),
        })
    }

    /// Brings the recovery-point and log-start-offset files up to date with the open logs. Called now and then, after
    /// DeleteRecords (what a client deleted must not come back after a crash), and at shutdown.
    pub fn write_checkpoints(&self) -> io::Result<()> {
        self.checkpoints.write()
    }

    /// Notes how far a log is compacted (`CompactionResult::cleaner_offset`).
    pub fn write_cleaner_offset(
        &self,
        topic: &str,
        partition: i32,
        offset: Option<Offset>,
    ) -> io::Result<()> {
        self.checkpoints.write_cleaner_offset(&(topic.to_owned(), partition), offset)
    }

    /// How far partitions were known to be committed (Kafka's `replication-offset-checkpoint`). A file that can't be read is taken
    /// as none: the leader says it anew.
    pub fn read_high_watermarks(&self) -> io::Result<BTreeMap<TopicPartition, Offset>> {
        let path = self.path.join(HIGH_WATERMARK_FILE);
        match checkpoints::read(&self.disk, &path) {
            Ok(entries) => Ok(entries),
            Err(CheckpointError::Io(error)) => Err(error),
            Err(error @ CheckpointError::Malformed { .. }) => {
                tracing::error!(path = %path.display(), %error, "an unreadable checkpoint is ignored");
                Ok(BTreeMap::new())
            }
        }
    }

    pub fn write_high_watermarks(&self, entries: &BTreeMap<TopicPartition, Offset>) -> io::Result<()> {
        checkpoints::write(&self.disk, &self.path.join(HIGH_WATERMARK_FILE), entries)
    }

    /// Renames the directory of a partition that nobody opened to `<name>.<id>-stray`, for a person to look at. What is created
    /// under its name starts without the old offsets.
    pub fn set_aside(&self, path: &Path) -> io::Result<PathBuf> {
        let name = path.file_name().and_then(|name| name.to_str()).ok_or(io::ErrorKind::InvalidInput)?;
        let aside = self.path.join(renamed_partition(name, Uuid::new_v4(), STRAY_SUFFIX));
        self.disk.rename(path, &aside)?;
        self.disk.sync_dir(&self.path)?;
        if let Some((topic, partition)) = parse_partition_dir(name) {
            self.checkpoints.forget(&(topic, partition))?;
        }
        Ok(aside)
    }

    /// The last step of a controlled shutdown, after every log was closed and the checkpoints were written. Not
    /// written when anything in the directory failed: the next start then recovers.
    pub fn write_clean_shutdown_marker(&self, broker_epoch: i64) -> io::Result<()> {
        if let Some(reason) = self.offline() {
            return Err(io::Error::other(reason.to_owned()));
        }
        let content = format!("{{\"version\":0,\"brokerEpoch\":{broker_epoch}}}");
        self.disk.write_durably(&self.path.join(CLEAN_SHUTDOWN_FILE), content.as_bytes())
    }

    /// Lets another owner open the directory, whoever still holds this value. Nothing in it may be changed afterwards: the
    /// caller has closed its logs.
    pub fn release(&self) {
        *self.lock.lock() = None;
    }

    /// The first reason stays.
    pub fn mark_offline(&self, reason: impl Into<String>) {
        let _ = self.offline.set(reason.into());
    }

    pub fn offline(&self) -> Option<&str> {
        self.offline.get().map(String::as_str)
    }
}

/// The epoch in a clean-shutdown marker; older ones, and Kafka's before 3.7, are empty.
fn marker_epoch(content: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(content).ok()?;
    let (_, rest) = text.split_once("\"brokerEpoch\"")?;
    let digits: String =
        rest.trim_start_matches([':', ' ']).chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Creates the directory and makes its name durable, with those of the parents that were missing too: a power cut must not take
/// the whole directory away with everything that was synced in it.
fn create_durably(disk: &Disk, path: &Path) -> io::Result<()> {
    let mut created = Vec::new();
    for ancestor in path.ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
        if disk.exists(ancestor)? {
            break;
        }
        created.push(ancestor);
    }
    disk.create_dir_all(path)?;
    // Outermost first: a name is only reached through its parent's.
    for dir in created.iter().rev() {
        disk.sync_parent(dir)?;
    }
    Ok(())
}

/// Whose directory it is, before taking it: for a node that has to learn its cluster id from its disk.
pub fn read_meta_properties(disk: &Disk, path: &Path) -> Result<Option<MetaProperties>, LogDirError> {
    meta_properties::read(disk, path).map_err(|source| meta_error(path, source))
}

/// Whether partitions lie in the directory, whoever's it is. The metadata's own directory, which may lie beside them, is none.
pub fn holds_partitions(disk: &Disk, path: &Path) -> Result<bool, LogDirError> {
    if !disk.exists(path).map_err(|source| LogDirError::Io { path: path.to_owned(), source })? {
        return Ok(false);
    }
    let entries = disk.read_dir(path).map_err(|source| LogDirError::Io { path: path.to_owned(), source })?;
    Ok(entries.iter().filter(|entry| entry.is_dir).any(|entry| {
        parse_partition_dir(&entry.name).is_some_and(|(topic, _)| topic != "__cluster_metadata")
    }))
}

fn meta_error(path: &Path, source: MetaPropertiesError) -> LogDirError {
    match source {
        MetaPropertiesError::Io(source) => LogDirError::Io { path: path.to_owned(), source },
        source => LogDirError::MetaProperties { path: path.to_owned(), source },
    }
}

/// Gives the directory that holds the metadata the id by which the quorum knows it: `meta.properties` is where Kafka's
/// kafka-metadata-quorum reads the id of a new voter. A directory that had another one, because its metadata was lost and made
/// anew, is another one from then on.
pub fn claim_for_metadata(
    disk: &Disk,
    path: &Path,
    cluster_id: &str,
    node_id: i32,
    directory_id: Uuid,
) -> Result<(), LogDirError> {
    create_durably(disk, path).map_err(|source| LogDirError::Io { path: path.to_owned(), source })?;
    claim(disk, path, cluster_id, node_id, Some(directory_id)).map(|_| ())
}

/// Checks that the directory is this node's, or makes it so when it is nobody's. Returns its id, which is `wanted` if that is
/// given.
fn claim(
    disk: &Disk,
    path: &Path,
    cluster_id: &str,
    node_id: i32,
    wanted: Option<Uuid>,
) -> Result<Uuid, LogDirError> {
    let found = meta_properties::read(disk, path).map_err(|source| meta_error(path, source))?;
    if let Some(found) = &found {
        if found.cluster_id != cluster_id {
            return Err(LogDirError::OtherCluster {
                path: path.to_owned(),
                found: found.cluster_id.clone(),
                expected: cluster_id.to_owned(),
            });
        }
        if found.node_id != node_id {
            return Err(LogDirError::OtherNode {
                path: path.to_owned(),
                found: found.node_id,
                expected: node_id,
            });
        }
        if let Some(directory_id) = found.directory_id.filter(|id| wanted.is_none_or(|wanted| wanted == *id))
        {
            return Ok(directory_id);
        }
    }
    let directory_id = wanted.unwrap_or_else(Uuid::new_v4);
    let meta =
        MetaProperties { cluster_id: cluster_id.to_owned(), node_id, directory_id: Some(directory_id) };
    meta_properties::write(disk, path, &meta)
        .map_err(|source| LogDirError::Io { path: path.to_owned(), source })?;
    Ok(directory_id)
}

/// `<topic>-<partition>`; None for everything that is no live partition.
fn parse_partition_dir(name: &str) -> Option<(String, i32)> {
    if name.len() > FILE_NAME_BYTES_MAX || is_deleted_partition(name) {
        return None;
    }
    let (topic, partition) = name.rsplit_once('-')?;
    let partition = partition.parse::<i32>().ok().filter(|number| *number >= 0)?;
    // `a-01` would be a second directory for `a-1`.
    (!topic.is_empty() && name == format!("{topic}-{partition}")).then(|| (topic.to_owned(), partition))
}

/// `<topic>-<partition>.<32 hex digits>-delete`
fn is_deleted_partition(name: &str) -> bool {
    name.strip_suffix(DELETE_SUFFIX)
        .and_then(|name| name.rsplit_once('.'))
        .is_some_and(|(_, id)| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Where a partition directory goes when its topic is deleted.
pub(crate) fn deleted_partition_name(name: &str, id: Uuid) -> String {
    renamed_partition(name, id, DELETE_SUFFIX)
}

/// `<topic>-<partition>.<id><suffix>`. Long topic names are cut: the id alone makes it unique.
fn renamed_partition(name: &str, id: Uuid, suffix: &str) -> String {
    let suffix = format!(".{}{suffix}", id.simple());
    let mut end = name.len().min(FILE_NAME_BYTES_MAX - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", &name[..end])
}

/// `<topic>-<partition>.<32 hex digits>-future`
fn future_dir_name(topic: &str, partition: i32, id: Uuid) -> String {
    format!("{topic}-{partition}.{}{FUTURE_SUFFIX}", id.simple())
}

/// Whether the partition can be copied between log directories: the name of a copy must be a file name.
pub fn can_be_moved(topic: &str, partition: i32) -> bool {
    future_dir_name(topic, partition, Uuid::nil()).len() <= FILE_NAME_BYTES_MAX
}

fn parse_future_dir(name: &str) -> Option<(String, i32)> {
    let (name, id) = name.strip_suffix(FUTURE_SUFFIX)?.rsplit_once('.')?;
    let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| parse_partition_dir(name))?
}

fn remove_deleted_partitions(disk: &Disk, path: &Path) -> io::Result<()> {
    for entry in disk.read_dir(path)? {
        if entry.is_dir && is_deleted_partition(&entry.name) {
            disk.remove_dir_all(&path.join(entry.name))?;
        }
    }
    Ok(())
}

/// FNV-1a: only has to differ between partitions and stay the same between runs.
fn jitter_seed(topic: &str, partition: i32) -> u64 {
    let bytes = topic.bytes().chain(partition.to_be_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;

    const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";

    fn open(simulated: &SimulatedDisk) -> Result<LogDir, LogDirError> {
        LogDir::open(Disk::simulated(simulated), "/data", CLUSTER, 1)
    }

    fn open_log(dir: &LogDir, topic: &str, topic_id: Uuid) -> Log {
        dir.open_log(topic, 0, Some(topic_id), Arc::new(LogConfig::default()), TimestampMs(0)).unwrap()
    }

    #[test]
    fn one_owner_of_one_cluster_and_node() {
        let simulated = SimulatedDisk::new();
        let dir = open(&simulated).unwrap();
        let id = dir.directory_id();
        assert!(matches!(open(&simulated), Err(LogDirError::Locked { .. })));
        drop(dir);
        let other = |cluster, node| LogDir::open(Disk::simulated(&simulated), "/data", cluster, node);
        assert!(matches!(other("another", 1), Err(LogDirError::OtherCluster { .. })));
        assert!(matches!(other(CLUSTER, 2), Err(LogDirError::OtherNode { found: 1, expected: 2, .. })));
        assert_eq!(open(&simulated).unwrap().directory_id(), id, "kept");
        let disk = Disk::simulated(&simulated);
        disk.write_durably(Path::new("/data/meta.properties"), b"version=1\n").unwrap();
        assert!(matches!(open(&simulated), Err(LogDirError::MetaProperties { .. })));
    }

    #[test]
    fn the_directory_of_the_metadata_has_its_id() {
        let simulated = SimulatedDisk::new();
        let claim_as = |cluster, id| {
            claim_for_metadata(
                &Disk::simulated(&simulated),
                Path::new("/data"),
                cluster,
                1,
                Uuid::from_u128(id),
            )
        };
        claim_as(CLUSTER, 7).unwrap();
        assert_eq!(open(&simulated).unwrap().directory_id(), Uuid::from_u128(7));
        claim_as(CLUSTER, 8).unwrap();
        assert_eq!(
            open(&simulated).unwrap().directory_id(),
            Uuid::from_u128(8),
            "the metadata was made anew"
        );
        assert!(matches!(claim_as("another", 8), Err(LogDirError::OtherCluster { .. })));
    }

    #[test]
    fn a_clean_shutdown_is_believed_once() {
        let simulated = SimulatedDisk::new();
        let dir = open(&simulated).unwrap();
        assert_eq!(dir.last_shutdown(), LastShutdown::Unclean);
        dir.write_clean_shutdown_marker(5).unwrap();
        let marker = dir.disk().read(Path::new("/data/.kafka_cleanshutdown"), 100).unwrap();
        assert_eq!(marker, br#"{"version":0,"brokerEpoch":5}"#);
        drop(dir);
        assert_eq!(open(&simulated).unwrap().last_shutdown(), LastShutdown::Clean);
        for seed in 0..20 {
            simulated.crash(seed);
            assert_eq!(open(&simulated).unwrap().last_shutdown(), LastShutdown::Unclean, "seed {seed}");
        }
        let dir = open(&simulated).unwrap();
        dir.mark_offline("broken");
        dir.mark_offline("later");
        assert_eq!(dir.offline(), Some("broken"));
        assert!(dir.write_clean_shutdown_marker(5).is_err());
    }

    #[test]
    fn partitions_are_found_with_their_topic_ids_and_deleted_ones_removed() {
        let simulated = SimulatedDisk::new();
        let dir = open(&simulated).unwrap();
        let ids = [Uuid::from_u64_pair(1, 1), Uuid::from_u64_pair(1, 2)];
        open_log(&dir, "b-2", ids[1]);
        let mut log = open_log(&dir, "a.b", ids[0]);
        for name in ["no partition", "a-01", "x-0.tmp", &deleted_partition_name("gone-0", ids[0])] {
            dir.disk().create_dir_all(&dir.path().join(name)).unwrap();
        }
        let found = dir.partitions().unwrap();
        let found: Vec<_> = found.iter().map(|p| (p.topic.as_str(), p.partition, p.topic_id)).collect();
        assert_eq!(found, [("a.b", 0, Some(ids[0])), ("b-2", 0, Some(ids[1]))]);
        log.mark_deleted().unwrap();
        assert_eq!(dir.partitions().unwrap().len(), 1);
        drop(dir);
        let dir = open(&simulated).unwrap();
        let names = dir.disk().read_dir(dir.path()).unwrap();
        assert!(!names.iter().any(|entry| entry.name.ends_with("-delete")), "{names:?}");
        let long = deleted_partition_name(&format!("{}-0", "x".repeat(249)), ids[0]);
        assert!(long.len() <= FILE_NAME_BYTES_MAX && is_deleted_partition(&long));
    }
}
