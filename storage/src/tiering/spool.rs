//! A file that is written front to back and then becomes an object: for objects too large to be made in memory.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::store::Content;
use crate::disk::{Disk, File, OpenMode};

/// The file is removed when this is dropped; a crash leaves it, and the next spool of that path begins it anew.
pub struct Spool {
    disk: Disk,
    path: PathBuf,
    file: Arc<File>,
    len: u64,
}

impl Spool {
    pub fn create(disk: &Disk, path: &Path) -> io::Result<Spool> {
        if let Some(directory) = path.parent() {
            disk.create_dir_all(directory)?;
        }
        let file = disk.open(path, OpenMode::Create)?;
        file.set_len(0)?;
        Ok(Spool { disk: disk.clone(), path: path.to_owned(), file: Arc::new(file), len: 0 })
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// What was written. Nothing more may be.
    pub fn content(&self) -> Content {
        let mut content = Content::default();
        content.push_file(self.file.clone(), 0, self.len);
        content
    }
}

impl io::Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(&mut [IoSlice::new(bytes)], self.len)?;
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What stays is begun anew by the next one.
        let _ = self.disk.remove_file(&self.path);
    }
}
