//! An object store that is a directory: an object is a file, its key the path below the directory. Several processes may
//! use one directory, also over a network file system that knows `renameat2`.
//!
//! A put writes to a file of its own below `.uploads`, syncs it, and renames it: readers see all of an object or nothing, and
//! a crash leaves nothing but a file there, which the next start of the same writer removes.
//! Directories are never removed, so that a put cannot lose the one it renames into.

use std::collections::HashSet;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::channel::oneshot;
use parking_lot::Mutex;

use super::store::{
    Answer, ByteRange, Condition, Content, Listed, ObjectStore, PAGE_KEYS_MAX, Page, Piece, RequestCounters,
    RequestCounts, RequestKind, StoreError, check_key,
};
use crate::disk::{Disk, OpenMode};

const UPLOADS: &str = ".uploads";
const COPY_BYTES: usize = 1 << 20;

/// Runs work that waits for disks, beside whoever asks.
pub type Beside = Arc<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

#[derive(Clone)]
pub struct DirectoryStore {
    shared: Arc<Shared>,
    beside: Beside,
}

struct Shared {
    disk: Disk,
    root: PathBuf,
    /// Where this writer's unfinished objects are.
    uploads: PathBuf,
    uploads_count: AtomicU64,
    /// Directories whose names are on stable storage.
    durable: Mutex<HashSet<PathBuf>>,
    counters: RequestCounters,
}

impl DirectoryStore {
    /// `writer`: unlike that of anybody else who writes to this directory, and the same again after a restart; a part of a
    /// file name. Waits for the disk.
    pub fn open(disk: &Disk, root: &Path, writer: &str, beside: Beside) -> io::Result<DirectoryStore> {
        let uploads = root.join(UPLOADS).join(writer);
        disk.remove_dir_all(&uploads)?;
        disk.create_dir_all(&uploads)?;
        let shared = Shared {
            disk: disk.clone(),
            root: root.to_owned(),
            uploads,
            uploads_count: AtomicU64::new(0),
            durable: Mutex::new(HashSet::new()),
            counters: RequestCounters::default(),
        };
        Ok(DirectoryStore { shared: Arc::new(shared), beside })
    }

    fn run<'a, T: Send + 'static>(
        &'a self,
        kind: RequestKind,
        work: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<'a, T> {
        let (answer, answered) = oneshot::channel();
        let shared = self.shared.clone();
        let work = Box::new(move || {
            shared.counters.asked(kind);
            let outcome = work(&shared);
            if let Err(StoreError::Refused(_) | StoreError::Unavailable(_)) = &outcome {
                shared.counters.failed();
            }
            // Whoever asked may have gone away.
            let _ = answer.send(outcome);
        });
        Box::pin(async move {
            (self.beside)(work);
            answered
                .await
                .unwrap_or_else(|_| Err(StoreError::Unavailable("the store is stopping".to_owned())))
        })
    }
}

impl ObjectStore for DirectoryStore {
    fn put<'a>(&'a self, key: &'a str, content: Content, condition: Condition) -> Answer<'a, ()> {
        let key = key.to_owned();
        self.run(RequestKind::Put, move |shared| shared.put(&key, &content, condition))
    }

    fn get<'a>(&'a self, key: &'a str, range: ByteRange) -> Answer<'a, Piece> {
        let key = key.to_owned();
        self.run(RequestKind::Get, move |shared| shared.get(&key, range))
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.run(RequestKind::List, move |shared| shared.list(&prefix, after.as_deref()))
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        let keys = keys.to_vec();
        self.run(RequestKind::Delete, move |shared| shared.delete(&keys))
    }

    fn counts(&self) -> RequestCounts {
        self.shared.counters.counts()
    }
}

impl Shared {
    fn put(&self, key: &str, content: &Content, condition: Condition) -> Result<(), StoreError> {
        check_key(key)?;
        let number = self.uploads_count.fetch_add(1, Ordering::Relaxed);
        let upload = self.uploads.join(number.to_string());
        let stored = self.write(&upload, key, content).and_then(|()| self.give_name(&upload, key, condition));
        if stored.is_err() {
            // What stays of it goes at the next start.
            let _ = self.disk.remove_file(&upload);
        }
        stored
    }

    fn write(&self, upload: &Path, key: &str, content: &Content) -> Result<(), StoreError> {
        let unavailable = |error| self.unavailable(upload, error);
        let file = self.disk.open(upload, OpenMode::Create).map_err(unavailable)?;
        let mut written = 0;
        while written < content.len() {
            let len = (content.len() - written).min(COPY_BYTES as u64) as usize;
            let piece = content
                .read(written, len)
                .map_err(|source| StoreError::Content { key: key.to_owned(), source })?;
            file.write_all_at(&mut [IoSlice::new(&piece)], written).map_err(unavailable)?;
            written += len as u64;
        }
        self.counters.put(written);
        // ORDER: content before the name. A name that is durable before its content is an empty object after a crash.
        file.sync_data().map_err(unavailable)
    }

    fn give_name(&self, upload: &Path, key: &str, condition: Condition) -> Result<(), StoreError> {
        let path = self.root.join(key);
        let parent = path.parent().unwrap_or(&self.root);
        self.make_dir(parent).map_err(|error| self.unavailable(parent, error))?;
        let renamed = match condition {
            Condition::None => self.disk.rename(upload, &path),
            Condition::Absent => self.disk.rename_to_new(upload, &path),
        };
        match renamed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Exists(key.to_owned()));
            }
            Err(error) => return Err(self.unavailable(&path, error)),
        }
        self.disk.sync_dir(parent).map_err(|error| self.unavailable(parent, error))
    }

    /// With all directories above it, durably.
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        if self.durable.lock().contains(dir) {
            return Ok(());
        }
        self.disk.create_dir_all(dir)?;
        let mut at = dir;
        while at != self.root && !self.durable.lock().contains(at) {
            self.disk.sync_parent(at)?;
            at = at.parent().unwrap_or(&self.root);
        }
        let above = dir.ancestors().take_while(|above| above.starts_with(&self.root));
        self.durable.lock().extend(above.map(Path::to_owned));
        Ok(())
    }

    fn get(&self, key: &str, range: ByteRange) -> Result<Piece, StoreError> {
        check_key(key)?;
        let path = self.root.join(key);
        let unavailable = |error| self.unavailable(&path, error);
        let file = match self.disk.open(&path, OpenMode::Existing) {
            Ok(file) => file,
            Err(error) if is_absence(&error) => return Err(StoreError::NotFound(key.to_owned())),
            Err(error) => return Err(unavailable(error)),
        };
        let object_bytes = file.len().map_err(unavailable)?;
        let out_of_range = || StoreError::Range { key: key.to_owned(), range, object_bytes };
        let (position, len) = match range {
            ByteRange::Whole { bytes_max } if object_bytes > bytes_max as u64 => return Err(out_of_range()),
            ByteRange::Whole { .. } => (0, object_bytes),
            ByteRange::From { position, .. } if position >= object_bytes => return Err(out_of_range()),
            ByteRange::From { position, len } => (position, (object_bytes - position).min(len as u64)),
            ByteRange::Suffix { len } => {
                let len = object_bytes.min(len as u64);
                (object_bytes - len, len)
            }
        };
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, position).map_err(unavailable)?;
        self.counters.got(bytes.len());
        Ok(Piece { bytes: Bytes::from(bytes), position, object_bytes })
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page, StoreError> {
        let mut page = Page::default();
        self.list_dir("", prefix, after.unwrap_or_default(), &mut page)?;
        Ok(page)
    }

    /// Adds what is below `dir`, which is empty or ends with a slash.
    fn list_dir(&self, dir: &str, prefix: &str, after: &str, page: &mut Page) -> Result<(), StoreError> {
        let path = self.root.join(dir);
        let entries = match self.disk.read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if is_absence(&error) => return Ok(()),
            Err(error) => return Err(self.unavailable(&path, error)),
        };
        let mut names: Vec<(String, bool)> = entries
            .into_iter()
            .map(|entry| {
                (format!("{dir}{}{}", entry.name, if entry.is_dir { "/" } else { "" }), entry.is_dir)
            })
            .collect();
        // With the slash in the name, the order of the names is that of the keys below them.
        names.sort_unstable();
        for (name, is_dir) in names {
            if is_dir {
                let may_hold = name.starts_with(prefix) || prefix.starts_with(&name);
                let is_before = name.as_str() < after && !after.starts_with(&name);
                if may_hold && !is_before && check_key(&name[..name.len() - 1]).is_ok() {
                    self.list_dir(&name, prefix, after, page)?;
                }
            } else if name.starts_with(prefix) && name.as_str() > after && check_key(&name).is_ok() {
                if page.objects.len() == PAGE_KEYS_MAX {
                    page.is_cut = true;
                    return Ok(());
                }
                match self.disk.file_len(&self.root.join(&name)) {
                    Ok(bytes) => page.objects.push(Listed { key: name, bytes }),
                    // Deleted meanwhile.
                    Err(error) if is_absence(&error) => {}
                    Err(error) => return Err(self.unavailable(&path, error)),
                }
            }
            if page.is_cut {
                return Ok(());
            }
        }
        Ok(())
    }

    fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let mut parents = HashSet::new();
        for key in keys {
            let path = self.root.join(key);
            match self.disk.remove_file(&path) {
                Ok(()) => {
                    parents.extend(path.parent().map(Path::to_owned));
                }
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(self.unavailable(&path, error)),
            }
        }
        for parent in parents {
            match self.disk.sync_dir(&parent) {
                Err(error) if !is_absence(&error) => return Err(self.unavailable(&parent, error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn unavailable(&self, path: &Path, error: io::Error) -> StoreError {
        let told = format!("{}: {error}", path.display());
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::Refused(told),
            // A file system without renameat2's RENAME_NOREPLACE.
            io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported => StoreError::Refused(told),
            _ => StoreError::Unavailable(told),
        }
    }
}

/// Also where a part of the path is a file: no object can be below it.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
