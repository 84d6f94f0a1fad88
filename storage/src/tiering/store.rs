//! What is asked of an object store: put whole objects, read ranges of them, list and delete them. Amazon S3 sets the
//! semantics: a put is atomic and visible at once, a put with [`Condition::Absent`] has one winner however many try, a list is
//! in the order of the keys' bytes and knows every put and delete that was answered before it began.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};

use crate::disk::File;

/// Keys of one page of a list at most, S3's own bound; also of one delete.
pub const PAGE_KEYS_MAX: usize = 1000;
/// S3's bound.
pub const KEY_BYTES_MAX: usize = 1024;

pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Every call may be dropped at any time; a put that was dropped may still have happened, or happen later.
pub trait ObjectStore: Send + Sync + 'static {
    /// Durable when answered. After [`StoreError::Unavailable`] nobody knows whether the object is there.
    fn put<'a>(&'a self, key: &'a str, content: Content, condition: Condition) -> Answer<'a, ()>;

    fn get<'a>(&'a self, key: &'a str, range: ByteRange) -> Answer<'a, Piece>;

    /// The keys that begin with `prefix` and come after `after`, at most [`PAGE_KEYS_MAX`] of them.
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page>;

    /// A key that is not there counts as deleted.
    fn delete<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()>;

    /// What was asked of the store behind it so far. Zeroes where nobody counts.
    fn counts(&self) -> RequestCounts {
        RequestCounts::default()
    }
}

/// Requests, tries that failed and were made again included; a large put is several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    pub gets: u64,
    pub puts: u64,
    pub lists: u64,
    pub deletes: u64,
    /// Of all of these, those that were not answered as they should be. That there is no such object, or one already, is an answer.
    pub errors: u64,
    pub bytes_got: u64,
    pub bytes_put: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    Get,
    Put,
    List,
    Delete,
}

/// Counts requests.
#[derive(Debug, Default)]
pub struct RequestCounters {
    gets: AtomicU64,
    puts: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    errors: AtomicU64,
    bytes_got: AtomicU64,
    bytes_put: AtomicU64,
}

impl RequestCounters {
    pub fn asked(&self, kind: RequestKind) {
        let counter = match kind {
            RequestKind::Get => &self.gets,
            RequestKind::Put => &self.puts,
            RequestKind::List => &self.lists,
            RequestKind::Delete => &self.deletes,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub fn got(&self, bytes: usize) {
        self.bytes_got.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn put(&self, bytes: u64) {
        self.bytes_put.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn counts(&self) -> RequestCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestCounts {
            gets: read(&self.gets),
            puts: read(&self.puts),
            lists: read(&self.lists),
            deletes: read(&self.deletes),
            errors: read(&self.errors),
            bytes_got: read(&self.bytes_got),
            bytes_put: read(&self.bytes_put),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Replaces what is there.
    None,
    /// Only if nothing is there (`If-None-Match: *`), else [`StoreError::Exists`].
    Absent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// The object, refused when it is larger.
    Whole { bytes_max: usize },
    /// Fewer bytes at the end of the object; none at all there or past it is [`StoreError::Range`].
    From { position: u64, len: usize },
    /// The last bytes: all of them when the object has fewer.
    Suffix { len: usize },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub bytes: Bytes,
    /// Where in the object they begin.
    pub position: u64,
    /// Of the whole object.
    pub object_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<Listed>,
    /// Of a bucket: others' objects among these that are left out, as their names are no keys.
    pub foreign: usize,
    /// There are more: ask again, after the last of these.
    pub is_cut: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("no object {0}")]
    NotFound(String),
    #[error("object {0} is there already")]
    Exists(String),
    #[error("object {key} has {object_bytes} bytes, not {range:?}")]
    Range { key: String, range: ByteRange, object_bytes: u64 },
    #[error(
        "{0:?} is no key: it is empty, longer than 1,024 bytes, or has a part that is empty or begins with a dot"
    )]
    Key(String),
    /// What was to be uploaded could not be read: nothing was stored.
    #[error("the content of object {key}: {source}")]
    Content { key: String, source: io::Error },
    /// Not allowed, no such bucket, a wrong region: trying again does not help before somebody has changed something.
    #[error("{0}")]
    Refused(String),
    /// Away, slow, full or throttled: try again later.
    #[error("{0}")]
    Unavailable(String),
}

/// What a put stores: pieces of files and of memory, one after the other. Files are read piece by piece while they are sent, and by some
/// stores once more before that.
#[derive(Debug, Clone, Default)]
pub struct Content {
    parts: Vec<Part>,
    len: u64,
}

#[derive(Debug, Clone)]
enum Part {
    Bytes(Bytes),
    File { file: Arc<File>, position: u64, len: u64 },
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::File { len, .. } => *len,
        }
    }
}

impl Content {
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push_bytes(&mut self, bytes: Bytes) {
        self.push(Part::Bytes(bytes));
    }

    /// The file must not change there any more; it may be renamed or removed.
    pub fn push_file(&mut self, file: Arc<File>, position: u64, len: u64) {
        self.push(Part::File { file, position, len });
    }

    fn push(&mut self, part: Part) {
        self.len += part.len();
        self.parts.push(part);
    }

    /// `len` bytes from `position` on, which must be there. An error when a file has become shorter than it was.
    pub fn read(&self, position: u64, len: usize) -> io::Result<Bytes> {
        let mut pieces = self.parts_from(position);
        let mut read = BytesMut::new();
        while read.len() < len {
            let (part, from) = pieces.next().ok_or(io::ErrorKind::UnexpectedEof)?;
            let wanted = (part.len() - from).min((len - read.len()) as u64) as usize;
            match part {
                Part::Bytes(bytes) => {
                    let from = from as usize;
                    if wanted == len {
                        return Ok(bytes.slice(from..from + wanted));
                    }
                    read.extend_from_slice(&bytes[from..from + wanted]);
                }
                Part::File { file, position, .. } => {
                    let at = read.len();
                    read.resize(at + wanted, 0);
                    file.read_exact_at(&mut read[at..], position + from)?;
                }
            }
        }
        Ok(read.freeze())
    }

    /// The same piece by piece, for whoever does not keep it: what lies in files by way of `buffer`.
    pub fn visit(
        &self,
        position: u64,
        len: u64,
        buffer: &mut [u8],
        mut visitor: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let mut left = len;
        let mut parts = self.parts_from(position);
        while left > 0 {
            let (part, from) = parts.next().ok_or(io::ErrorKind::UnexpectedEof)?;
            let end = from + (part.len() - from).min(left);
            left -= end - from;
            match part {
                Part::Bytes(bytes) => visitor(&bytes[from as usize..end as usize]),
                Part::File { file, position, .. } => {
                    let mut at = from;
                    while at < end {
                        let piece_len = (end - at).min(buffer.len() as u64) as usize;
                        file.read_exact_at(&mut buffer[..piece_len], position + at)?;
                        visitor(&buffer[..piece_len]);
                        at += piece_len as u64;
                    }
                }
            }
        }
        Ok(())
    }

    /// The parts that reach beyond `position`, each with where in it that is, or its beginning.
    fn parts_from(&self, position: u64) -> impl Iterator<Item = (&Part, u64)> {
        let mut skip = position;
        self.parts.iter().filter_map(move |part| {
            let skipped = skip.min(part.len());
            skip -= skipped;
            (skipped < part.len()).then_some((part, skipped))
        })
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Content {
        let mut content = Content::default();
        content.push_bytes(bytes);
        content
    }
}

/// Parts between slashes that neither climb out of a directory nor hide in it.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    let is_well_formed = key.len() <= KEY_BYTES_MAX
        && key.split('/').all(|part| {
            !part.is_empty() && !part.starts_with('.') && part.bytes().all(|byte| byte.is_ascii_graphic())
        });
    if is_well_formed { Ok(()) } else { Err(StoreError::Key(key.to_owned())) }
}
