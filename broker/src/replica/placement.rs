//! In which log directory a replica lies, or will: what was found at the start, what the controller knows, what somebody asked for.
//!
//! Directories are renamed only on the word of an image that was read in full: one whose topic id the image does not know is set
//! aside as `-stray`, never deleted; one whose id can't be read is left where it is.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use ottla_batch::Offset;
use ottla_raft::{Image, TopicId};
use ottla_storage::logdir::{LogDir, PartitionDir};
use uuid::Uuid;

use super::manager::ReplicaManager;

/// What lay on the disks at start and was not opened yet, by topic and partition.
pub(super) type OnDisk = HashMap<(String, i32), Vec<Found>>;

/// What a directory holds: partitions, copies that are to become some, and high watermarks.
pub(super) type Surveyed = (Vec<PartitionDir>, Vec<PartitionDir>, BTreeMap<(String, i32), Offset>);

pub(super) fn survey(log_dir: &LogDir) -> io::Result<Surveyed> {
    Ok((log_dir.partitions()?, log_dir.futures()?, log_dir.read_high_watermarks()?))
}

#[derive(Clone)]
pub(super) struct Found {
    pub dir: usize,
    pub topic_id: Option<Uuid>,
    pub path: PathBuf,
}

impl ReplicaManager {
    /// Where an assigned partition lies, or will. `None` if it lies, or may lie, where this broker can't read it: an empty replica in
    /// its place could lose what it acknowledged. `is_new`: it was assigned to this broker just now.
    pub(super) fn dir_for(
        &self,
        on_disk: &mut OnDisk,
        topic: &ottla_raft::Topic,
        partition: i32,
        is_new: bool,
    ) -> Option<usize> {
        let assigned = topic.partition(partition).map_or(Uuid::nil(), |state| state.directory(self.local()));
        let assigned = self.online_dirs().find(|index| self.dirs[*index].log_dir.directory_id() == assigned);
        let found = on_disk.remove(&(topic.name.to_string(), partition)).unwrap_or_default();
        let dir = match &found[..] {
            [] if is_new || assigned.is_some() || !self.has_offline_dirs() => {
                let preferred = self.moves.take_preferred(&topic.name, partition);
                let preferred = preferred.filter(|index| self.online_dirs().any(|online| online == *index));
                let emptiest = || {
                    self.online_dirs().min_by_key(|index| self.dirs[*index].replicas.load(Ordering::Relaxed))
                };
                preferred.or(assigned).or_else(emptiest)
            }
            [] => {
                tracing::warn!(topic = %topic.name, partition, "the replica is in a log directory that can't be used");
                None
            }
            [one] => Some(one.dir),
            several => self.choose(several, assigned),
        }?;
        if found.iter().any(|found| found.dir == dir && found.topic_id.is_none()) {
            tracing::warn!(
                path = %self.dirs[dir].log_dir.partition_path(&topic.name, partition).display(),
                "partition.metadata is missing or unreadable; the directory is taken as what its name says"
            );
        }
        self.dirs[dir].replicas.fetch_add(1, Ordering::Relaxed);
        Some(dir)
    }

    /// Which of several directories of one partition is the replica: a move between log directories that was cut off by a crash leaves
    /// two, and the controller knew where it went before. The others are set aside.
    fn choose(&self, several: &[Found], assigned: Option<usize>) -> Option<usize> {
        let Some(chosen) = several.iter().find(|found| Some(found.dir) == assigned) else {
            for found in several {
                tracing::error!(
                    path = %found.path.display(),
                    "a partition lies in several log directories, none of which the controller knows as its place; none is used"
                );
            }
            return None;
        };
        several.iter().filter(|found| found.dir != chosen.dir).for_each(|found| self.set_aside(found));
        Some(chosen.dir)
    }

    fn online_dirs(&self) -> impl Iterator<Item = usize> {
        let dirs = self.dirs.iter().enumerate();
        dirs.filter(|(_, dir)| dir.log_dir.offline().is_none()).map(|(index, _)| index)
    }

    pub(super) fn has_offline_dirs(&self) -> bool {
        !self.unusable_dirs().is_empty() || self.dirs.iter().any(|dir| dir.log_dir.offline().is_some())
    }

    /// Renames directories whose topic id the image does not have. Those without a readable id stay.
    pub(super) fn set_strays_aside(&self, on_disk: &mut OnDisk, image: &Image) {
        on_disk.retain(|(_, partition), places| {
            places.retain(|found| {
                let Some(found_id) = found.topic_id else { return true };
                let state =
                    image.topic_by_id(TopicId(found_id)).and_then(|topic| topic.partition(*partition));
                let is_ours = state.is_some_and(|state| state.replicas.contains(&self.local()));
                if !is_ours {
                    self.set_aside(found);
                }
                is_ours
            });
            !places.is_empty()
        });
    }

    /// Nothing is deleted that this process did not create a better copy of.
    fn set_aside(&self, found: &Found) {
        self.set_path_aside(found.dir, &found.path);
    }

    pub(super) fn set_path_aside(&self, dir: usize, path: &Path) {
        match self.dirs[dir].log_dir.set_aside(path) {
            Ok(aside) => tracing::warn!(
                path = %aside.display(),
                "the metadata knows no such partition here; its directory was set aside and can be removed"
            ),
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "a stray directory can't be set aside");
            }
        }
    }
}
