//! How far an import has come: a small file, replaced as a whole after everything that it speaks of was acknowledged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ottla_clients::cli::outcome::CliError;
use ottla_storage::disk::{Disk, Lock};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;
const BYTES_MAX: u64 = 16 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    version: u32,
    pub cluster_id: String,
    pub topic: String,
    /// A topic that is made anew under its name has none of what was imported.
    pub topic_id: String,
    /// By partition: records of this import below it are those that the cursors are past.
    pub ends: BTreeMap<i32, i64>,
    /// The sources of a run that is under way, or was killed: more may have been sent since the file was written.
    pub running: Vec<String>,
    /// By what was given on the command line, as an absolute path or URL.
    pub cursors: BTreeMap<String, Cursor>,
}

/// Of one source, whose files are taken in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The last file that was begun; all before it are done.
    pub file: String,
    /// Of that file, those that are done or were left out.
    pub documents: u64,
    /// Files up to this one, itself included.
    pub files: u64,
}

impl Progress {
    pub fn new(cluster_id: String, topic: String, topic_id: String) -> Progress {
        Progress {
            version: VERSION,
            cluster_id,
            topic,
            topic_id,
            ends: BTreeMap::new(),
            running: Vec::new(),
            cursors: BTreeMap::new(),
        }
    }

    fn is_of_same_topic(&self, other: &Progress) -> bool {
        (&self.cluster_id, &self.topic, &self.topic_id) == (&other.cluster_id, &other.topic, &other.topic_id)
    }
}

/// Held by one run at a time.
pub struct ProgressFile {
    disk: Disk,
    path: PathBuf,
    _lock: Lock,
}

impl ProgressFile {
    /// What the file says, or `new` if there is none.
    pub fn open(disk: &Disk, path: &Path, new: Progress) -> Result<(ProgressFile, Progress), CliError> {
        let failed = |what: &dyn std::fmt::Display| CliError::Failed(format!("{}: {what}", path.display()));
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let Some(lock) = disk.lock(Path::new(&lock)).map_err(|error| failed(&error))? else {
            return Err(failed(&"another import goes by this file"));
        };
        let file = ProgressFile { disk: disk.clone(), path: path.to_owned(), _lock: lock };
        if !disk.exists(path).map_err(|error| failed(&error))? {
            return Ok((file, new));
        }
        let bytes = disk.read(path, BYTES_MAX).map_err(|error| failed(&error))?;
        let progress: Progress = serde_json::from_slice(&bytes)
            .map_err(|error| failed(&format!("this is not the progress of an import: {error}")))?;
        if progress.version != VERSION {
            return Err(failed(&format!("version {} is not known", progress.version)));
        }
        if !progress.is_of_same_topic(&new) {
            return Err(failed(&format!(
                "this is how far an import came into another topic ({}, id {}, of cluster {}); --progress names a file \
                 for this one",
                progress.topic, progress.topic_id, progress.cluster_id
            )));
        }
        Ok((file, progress))
    }

    /// Durable when it returns.
    pub fn write(&self, progress: &Progress) -> Result<(), CliError> {
        let json = serde_json::to_vec_pretty(progress).expect("progress is JSON");
        let written = self.disk.write_durably(&self.path, &json);
        written.map_err(|error| CliError::Failed(format!("{}: {error}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use ottla_storage::disk::SimulatedDisk;

    use super::*;

    fn new(topic_id: &str) -> Progress {
        Progress::new("cluster".to_owned(), "t".to_owned(), topic_id.to_owned())
    }

    #[test]
    fn the_next_run_begins_where_the_last_one_was() {
        let disk = Disk::simulated(&SimulatedDisk::new());
        disk.create_dir_all(Path::new("/p")).unwrap();
        let path = Path::new("/p/progress");
        let (file, mut progress) = ProgressFile::open(&disk, path, new("id")).unwrap();
        assert_eq!(progress, new("id"));
        let said = ProgressFile::open(&disk, path, new("id")).err().unwrap().to_string();
        assert!(said.contains("another import"), "{said}");
        progress.ends.insert(3, 17);
        progress.running.push("/in".to_owned());
        let cursor = Cursor { file: "a".to_owned(), documents: 5, files: 1 };
        progress.cursors.insert("/in".to_owned(), cursor);
        file.write(&progress).unwrap();
        drop(file);
        assert_eq!(ProgressFile::open(&disk, path, new("id")).unwrap().1, progress);
        let said = ProgressFile::open(&disk, path, new("other")).err().unwrap().to_string();
        assert!(said.contains("into another topic"), "{said}");
        disk.write_durably(path, b"{}").unwrap();
        let said = ProgressFile::open(&disk, path, new("id")).err().unwrap().to_string();
        assert!(said.contains("not the progress"), "{said}");
    }
}
