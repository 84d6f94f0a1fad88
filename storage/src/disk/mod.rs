//! The only door to the file system. Everything else in this crate names files by path through a [`Disk`].
//!
//! Two kinds stand behind it: the real one, and a simulated one in memory that loses what was not synced, tears writes,
//! fails and fills up on demand. The production code cannot tell which one it runs on.
//!
//! Open files are few: a [`FileHandle`] is a name that opens its file when it is first used; the disk keeps at most
//! `open_files_max` of them open and closes those not used lately. A file that holds unsynced writes is kept open (see
//! `handles.rs` for why), so that a failed writeback cannot be missed.

mod handles;
mod real;
mod simulated;

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use handles::FileHandle;
pub use simulated::{Fault, SimulatedDisk};

/// Default bound of files kept open; the limit of a process is often 20,000 and sockets need theirs.
pub const OPEN_FILES_MAX: usize = 4_096;

#[derive(Clone)]
pub struct Disk {
    inner: Arc<Inner>,
}

struct Inner {
    backend: Backend,
    handles: handles::Handles,
}

enum Backend {
    Real,
    Simulated(SimulatedDisk),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
}

/// Bytes of the file system that holds a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    /// What an unprivileged process may still take.
    pub usable_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenMode {
    /// Fails with NotFound when the file is missing.
    Existing,
    /// Creates the file when it is missing; keeps what it holds.
    Create,
}

/// Held for as long as this process owns a log directory; dropping it gives the lock back.
pub struct Lock {
    _repr: LockRepr,
}

#[allow(dead_code)] // The fields act by being dropped.
enum LockRepr {
    Real(std::fs::File),
    Simulated(simulated::SimulatedLock),
}

/// An open file. Positions are explicit, so one file serves any number of readers beside its one writer.
pub struct File {
    repr: FileRepr,
}

enum FileRepr {
    Real(real::RealFile),
    Simulated(simulated::SimulatedFile),
}

/// What an error says of its device, found among its causes: that the device or its file system is gone or can't be relied on, so
/// that nothing on it will work before it is repaired. None if only this one operation was refused.
pub fn device_failure<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e io::Error> {
    use rustix::io::Errno;
    // A read-only file system is what ext4 makes of one that it found damaged (errors=remount-ro).
    const FAILURES: [Errno; 7] =
        [Errno::IO, Errno::ROFS, Errno::NXIO, Errno::NODEV, Errno::STALE, Errno::UCLEAN, Errno::NOTCONN];
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Errno::from_io_error(io).filter(|errno| FAILURES.contains(errno)).map(|_| io);
        }
        cause = error.source();
    }
    None
}

impl Disk {
    pub fn real() -> Disk {
        Disk::new(Backend::Real, OPEN_FILES_MAX)
    }

    pub fn real_with(open_files_max: usize) -> Disk {
        Disk::new(Backend::Real, open_files_max)
    }

    pub fn simulated(disk: &SimulatedDisk) -> Disk {
        Disk::new(Backend::Simulated(disk.clone()), OPEN_FILES_MAX)
    }

    pub fn simulated_with(disk: &SimulatedDisk, open_files_max: usize) -> Disk {
        Disk::new(Backend::Simulated(disk.clone()), open_files_max)
    }

    fn new(backend: Backend, open_files_max: usize) -> Disk {
        Disk { inner: Arc::new(Inner { backend, handles: handles::Handles::new(open_files_max) }) }
    }

    /// A name for a file that opens when it is used. Nothing happens on the disk yet.
    pub fn handle(&self, path: impl Into<PathBuf>) -> FileHandle {
        FileHandle::new(self.clone(), path.into())
    }

    /// How many files handles keep open right now.
    pub fn open_files(&self) -> usize {
        self.inner.handles.open_files()
    }

    pub(crate) fn open(&self, path: &Path, mode: OpenMode) -> io::Result<File> {
        let repr = match &self.inner.backend {
            Backend::Real => FileRepr::Real(real::RealFile::open(path, mode)?),
            Backend::Simulated(disk) => FileRepr::Simulated(disk.open(path, mode)?),
        };
        Ok(File { repr })
    }

    pub fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        match &self.inner.backend {
            Backend::Real => std::fs::create_dir_all(path),
            Backend::Simulated(disk) => disk.create_dir_all(path),
        }
    }

    /// The entries of a directory in the order of their names.
    pub fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = match &self.inner.backend {
            Backend::Real => real::read_dir(path)?,
            Backend::Simulated(disk) => disk.read_dir(path)?,
        };
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub fn exists(&self, path: &Path) -> io::Result<bool> {
        match &self.inner.backend {
            Backend::Real => path.try_exists(),
            Backend::Simulated(disk) => disk.exists(path),
        }
    }

    pub fn file_len(&self, path: &Path) -> io::Result<u64> {
        match &self.inner.backend {
            Backend::Real => Ok(std::fs::metadata(path)?.len()),
            Backend::Simulated(disk) => disk.file_len(path),
        }
    }

    /// A whole small file (checkpoints, snapshots, properties), refused when larger than `bytes_max`.
    pub fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Existing)?;
        let len = file.len()?;
        if len > bytes_max {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{len} bytes are more than the {bytes_max} such a file can hold"),
            ));
        }
        let mut buffer = vec![0; len as usize];
        file.read_exact_at(&mut buffer, 0)?;
        Ok(buffer)
    }

    /// Replaces a whole small file so that after any crash either the old or the new content is there, and after
    /// return the new one is.
    pub fn write_durably(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let file = self.open(&temporary, OpenMode::Create)?;
        // A leftover of an earlier crash may be longer than what is written now.
        file.set_len(0)?;
        file.write_all_at(&mut [IoSlice::new(content)], 0)?;
        // ORDER: content before the name. A rename that is durable before its content leaves an empty file at a crash.
        file.sync_data()?;
        drop(file);
        self.rename(&temporary, path)?;
        self.sync_parent(path)
    }

    /// Renames, replacing `to`. Durable only after `sync_parent`.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match &self.inner.backend {
            Backend::Real => std::fs::rename(from, to),
            Backend::Simulated(disk) => disk.rename(from, to),
        }
    }

    /// As `rename`, but AlreadyExists when `to` is there, however many try at once.
    pub fn rename_to_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        match &self.inner.backend {
            Backend::Real => real::rename_to_new(from, to),
            Backend::Simulated(disk) => disk.rename_to_new(from, to),
        }
    }

    /// A file that is not there counts as removed.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        let removed = match &self.inner.backend {
            Backend::Real => std::fs::remove_file(path),
            Backend::Simulated(disk) => disk.remove_file(path),
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    pub fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let removed = match &self.inner.backend {
            Backend::Real => std::fs::remove_dir_all(path),
            Backend::Simulated(disk) => disk.remove_dir_all(path),
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Makes the names in a directory durable: new files, renames, removals.
    pub fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match &self.inner.backend {
            Backend::Real => real::sync_dir(path),
            Backend::Simulated(disk) => disk.sync_dir(path),
        }
    }

    pub fn sync_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
            _ => self.sync_dir(Path::new(".")),
        }
    }

    /// An exclusive lock on a file, created when missing. None: another process (or another holder here) has it.
    pub fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        Ok(match &self.inner.backend {
            Backend::Real => real::lock(path)?.map(|file| Lock { _repr: LockRepr::Real(file) }),
            Backend::Simulated(disk) => {
                disk.lock(path)?.map(|lock| Lock { _repr: LockRepr::Simulated(lock) })
            }
        })
    }

    /// How long the next sync is to take beyond what it really takes: a slow simulated disk. Whoever syncs waits so long
    /// first.
    pub fn sync_time(&self) -> Option<Duration> {
        match &self.inner.backend {
            Backend::Real => None,
            Backend::Simulated(disk) => disk.sync_time(),
        }
    }

    pub fn space(&self, path: &Path) -> io::Result<Space> {
        match &self.inner.backend {
            Backend::Real => real::space(path),
            Backend::Simulated(disk) => disk.space(path),
        }
    }
}

impl File {
    /// One read; fewer bytes than asked only at the end of the file or when interrupted.
    pub fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        match &self.repr {
            FileRepr::Real(file) => file.read_at(buffer, position),
            FileRepr::Simulated(file) => file.read_at(buffer, position),
        }
    }

    /// Fills as much of the buffer as the file has.
    pub fn read_full_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    pub fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        if self.read_full_at(buffer, position)? == buffer.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// Writes all of the slices one after the other from `position`, normally with one system call. After an error any
    /// prefix may be there: the caller restores the length.
    pub(crate) fn write_all_at(&self, slices: &mut [IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut rest = slices;
        let mut position = position;
        // An empty slice in front would make a finished write look like a full disk.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let written = match &self.repr {
                FileRepr::Real(file) => file.write_at(rest, position),
                FileRepr::Simulated(file) => file.write_at(rest, position),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    position += count as u64;
                    IoSlice::advance_slices(&mut rest, count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Content and length on stable storage (fdatasync). Never called again on a file after it failed once.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        match &self.repr {
            FileRepr::Real(file) => file.sync_data(),
            FileRepr::Simulated(file) => file.sync_data(),
        }
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        match &self.repr {
            FileRepr::Real(file) => file.set_len(len),
            FileRepr::Simulated(file) => file.set_len(len),
        }
    }

    pub fn len(&self) -> io::Result<u64> {
        match &self.repr {
            FileRepr::Real(file) => file.len(),
            FileRepr::Simulated(file) => file.len(),
        }
    }

    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// For `sendfile`. None on a simulated disk, where the bytes must be read.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.repr {
            FileRepr::Real(file) => Some(file.as_fd()),
            FileRepr::Simulated(_) => None,
        }
    }
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.repr {
            FileRepr::Real(_) => "File(real)",
            FileRepr::Simulated(_) => "File(simulated)",
        })
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.inner.backend {
            Backend::Real => "Disk(real)",
            Backend::Simulated(_) => "Disk(simulated)",
        })
    }
}
