//! Where documents are: a file, a directory or what is below a prefix of a bucket. Files come in the order of their names' bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ottla_clients::cli::outcome::CliError;
use ottla_clients::cluster::Cluster;
use ottla_storage::disk::Disk;
use ottla_storage::tiering::store::{ByteRange, ObjectStore, StoreError};

use crate::cli::place;
use crate::threads;

/// Read at a time.
pub const PIECE_BYTES: usize = 1 << 20;

pub struct Source {
    /// As an absolute path or URL, without a slash at its end.
    pub location: String,
    /// What stands before a file's name to make its location.
    base: String,
    place: Place,
}

enum Place {
    File { disk: Disk, path: PathBuf },
    Directory { disk: Disk, path: PathBuf },
    Bucket { store: Arc<dyn ObjectStore>, prefix: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub name: String,
    pub bytes: u64,
}

impl Source {
    /// `overrides`: of the broker's configuration, which says how buckets are reached.
    pub async fn open(
        text: &str,
        cluster: &Cluster,
        overrides: &[(String, String)],
    ) -> Result<Source, CliError> {
        let Some(rest) = text.strip_prefix("s3://") else {
            let path = text.strip_prefix("file://").unwrap_or(text);
            return Source::on_disk(Disk::real(), Path::new(path));
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let mut overrides = overrides.to_vec();
        overrides.push(("ottla.tier.url".to_owned(), format!("s3://{bucket}")));
        let store = place::open(&place::config(cluster, &overrides).await?).await?.store;
        Ok(Source {
            location: text.trim_end_matches('/').to_owned(),
            base: format!("s3://{bucket}/"),
            place: Place::Bucket { store, prefix: key.to_owned() },
        })
    }

    fn on_disk(disk: Disk, path: &Path) -> Result<Source, CliError> {
        let failed =
            |error: std::io::Error| CliError::Failed(format!("{}: {}", path.display(), plainly(&error)));
        let absolute = std::path::absolute(path).map_err(failed)?;
        let text = absolute.to_str();
        let text = text.ok_or_else(|| CliError::Usage(format!("{}: no UTF-8", path.display())))?;
        let location = text.trim_end_matches('/').to_owned();
        if disk.read_dir(&absolute).is_ok() {
            let place = Place::Directory { disk, path: absolute };
            return Ok(Source { base: format!("{location}/"), location, place });
        }
        disk.file_len(&absolute).map_err(failed)?;
        let base = location.rsplit_once('/').map_or(String::new(), |(parent, _)| format!("{parent}/"));
        Ok(Source { location, base, place: Place::File { disk, path: absolute } })
    }

    /// Of a file of this source.
    pub fn location_of(&self, file: &File) -> String {
        format!("{}{}", self.base, file.name)
    }

    /// The name of the file there, if it is one of this source.
    pub fn name_of<'l>(&self, location: &'l str) -> Option<&'l str> {
        let rest = location.strip_prefix(&self.location)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| &location[self.base.len()..])
    }

    /// Files that come after that name, and the name after which there may be more.
    pub async fn after(&self, after: &str) -> Result<(Vec<File>, Option<String>), CliError> {
        let (mut files, more) = match &self.place {
            Place::File { disk, path } => {
                let name = self.location[self.base.len()..].to_owned();
                let bytes = disk.file_len(path).map_err(|error| self.failed(&plainly(&error)))?;
                (vec![File { name, bytes }], None)
            }
            Place::Directory { disk, path } => {
                let (disk, path) = (disk.clone(), path.clone());
                let walked = threads::blocking(move || {
                    let mut files = Vec::new();
                    walk(&disk, &path, "", &mut files).map(|()| files)
                });
                let walked = walked.await.map_err(|error| self.failed(&error))?;
                (walked.map_err(|error| self.failed(&plainly(&error)))?, None)
            }
            Place::Bucket { store, prefix } => {
                let listed = store.list(prefix, Some(after)).await.map_err(|error| self.failed(&error))?;
                if listed.foreign > 0 {
                    return Err(self.failed(
                        &"it has objects with spaces, letters beyond ASCII, or parts that are empty or begin with a \
                          dot in their names, which Ottla does not read",
                    ));
                }
                let last = listed.objects.last().filter(|_| listed.is_cut);
                let more = last.map(|object| object.key.clone());
                let is_below = |key: &str| {
                    let rest = key.strip_prefix(prefix.as_str());
                    rest.is_some_and(|rest| rest.is_empty() || prefix.is_empty() || is_divided(prefix, rest))
                };
                let objects = listed.objects.into_iter().filter(|object| is_below(&object.key));
                let is_data = |key: &str| is_data(key[prefix.len()..].trim_start_matches('/'));
                let objects = objects.filter(|object| object.key == *prefix || is_data(&object.key));
                let files = objects.map(|object| File { name: object.key, bytes: object.bytes });
                (files.collect(), more)
            }
        };
        files.retain(|file| file.name.as_str() > after && file.bytes > 0);
        Ok((files, more))
    }

    /// From that position on, as much as a piece may have.
    pub async fn read(&self, file: &File, position: u64) -> Result<Bytes, CliError> {
        let failed =
            |what: &dyn std::fmt::Display| CliError::Failed(format!("{}: {what}", self.location_of(file)));
        let wanted = (file.bytes - position).min(PIECE_BYTES as u64) as usize;
        let bytes = match &self.place {
            Place::Bucket { store, .. } => {
                let piece = store.get(&file.name, ByteRange::From { position, len: wanted }).await;
                let piece = piece.map_err(|error: StoreError| failed(&error))?;
                if piece.object_bytes == file.bytes { piece.bytes } else { Bytes::new() }
            }
            Place::File { disk, .. } | Place::Directory { disk, .. } => {
                let handle = disk.handle(self.location_of(file));
                let read = threads::blocking(move || {
                    let mut buffer = vec![0; wanted];
                    let read = handle.open()?.read_full_at(&mut buffer, position)?;
                    buffer.truncate(read);
                    Ok::<_, std::io::Error>(Bytes::from(buffer))
                });
                read.await.map_err(|error| failed(&error))?.map_err(|error| failed(&plainly(&error)))?
            }
        };
        if bytes.len() < wanted {
            return Err(failed(&"it was changed while it was read"));
        }
        Ok(bytes)
    }

    fn failed(&self, what: &dyn std::fmt::Display) -> CliError {
        CliError::Failed(format!("{}: {what}", self.location))
    }
}

/// `rest` of a key does not go on with a name that `prefix` breaks off.
fn is_divided(prefix: &str, rest: &str) -> bool {
    prefix.ends_with('/') || rest.starts_with('/')
}

/// As crawlers see it: what begins with an underscore or a dot says something about data.
fn is_data(name: &str) -> bool {
    !name.split('/').any(|part| part.starts_with(['_', '.']))
}

fn walk(disk: &Disk, path: &Path, below: &str, files: &mut Vec<File>) -> std::io::Result<()> {
    let entries = disk.read_dir(path)?;
    let mut entries: Vec<_> = entries.into_iter().filter(|entry| is_data(&entry.name)).collect();
    // With the slash, the order of the names is that of the files below them.
    let sorted = |entry: &ottla_storage::disk::DirEntry| {
        if entry.is_dir { format!("{}/", entry.name) } else { entry.name.clone() }
    };
    entries.sort_by_cached_key(sorted);
    for entry in entries {
        let (path, name) = (path.join(&entry.name), format!("{below}{}", entry.name));
        if entry.is_dir {
            walk(disk, &path, &format!("{name}/"), files)?;
        } else {
            files.push(File { name, bytes: disk.file_len(&path)? });
        }
    }
    Ok(())
}

fn plainly(error: &std::io::Error) -> String {
    ottla_clients::error::plain_io_error(error)
}

#[cfg(test)]
mod tests {
    use ottla_storage::disk::SimulatedDisk;
    use ottla_storage::tiering::directory::DirectoryStore;
    use ottla_storage::tiering::store::Condition;

    use super::*;

    async fn names(source: &Source, after: &str) -> Vec<String> {
        let (files, more) = source.after(after).await.unwrap();
        assert_eq!(more, None);
        files.into_iter().map(|file| file.name).collect()
    }

    #[tokio::test]
    async fn files_of_a_directory_come_in_the_order_of_their_names() {
        let disk = Disk::simulated(&SimulatedDisk::new());
        disk.create_dir_all(Path::new("/in/a")).unwrap();
        disk.create_dir_all(Path::new("/in/_log")).unwrap();
        for name in ["a.json", "a/b.json", "a/_SUCCESS", "_log/x.json", ".hidden", "b.csv"] {
            disk.write_durably(&Path::new("/in").join(name), b"{}").unwrap();
        }
        disk.write_durably(Path::new("/in/empty.json"), b"").unwrap();
        let source = Source::on_disk(disk.clone(), Path::new("/in/")).unwrap();
        assert_eq!(source.location, "/in");
        assert_eq!(names(&source, "").await, ["a.json", "a/b.json", "b.csv"]);
        assert_eq!(names(&source, "a.json").await, ["a/b.json", "b.csv"]);
        assert_eq!(names(&source, "b.csv").await, Vec::<String>::new());
        let file = File { name: "a/b.json".to_owned(), bytes: 2 };
        assert_eq!(source.location_of(&file), "/in/a/b.json");
        assert_eq!(&source.read(&file, 0).await.unwrap()[..], b"{}");
        let longer = File { bytes: 3, ..file };
        let said = source.read(&longer, 0).await.unwrap_err().to_string();
        assert!(said.contains("changed"), "{said}");
        let one = Source::on_disk(disk.clone(), Path::new("/in/_log/x.json")).unwrap();
        let (files, _) = one.after("").await.unwrap();
        assert_eq!(one.location_of(&files[0]), "/in/_log/x.json");
        assert!(Source::on_disk(disk, Path::new("/nowhere")).is_err());
    }

    #[tokio::test]
    async fn a_prefix_is_a_folder_or_one_object() {
        let disk = Disk::simulated(&SimulatedDisk::new());
        disk.create_dir_all(Path::new("/b")).unwrap();
        let store = DirectoryStore::open(&disk, Path::new("/b"), "1", Arc::new(|work| work())).unwrap();
        for key in ["in/a.json", "in/b/c.json", "in/_tmp/d.json", "inside/e.json", "in.json"] {
            store.put(key, Bytes::from_static(b"{}").into(), Condition::None).await.unwrap();
        }
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        for (prefix, expected) in [
            ("in", &["in/a.json", "in/b/c.json"][..]),
            ("in/", &["in/a.json", "in/b/c.json"]),
            ("in.json", &["in.json"]),
            ("in/_tmp", &["in/_tmp/d.json"]),
            ("", &["in.json", "in/a.json", "in/b/c.json", "inside/e.json"]),
        ] {
            let place = Place::Bucket { store: store.clone(), prefix: prefix.to_owned() };
            let source = Source { location: "s3://b/in".to_owned(), base: "s3://b/".to_owned(), place };
            assert_eq!(names(&source, "").await, expected, "{prefix}");
        }
    }
}
