//! Names of files that open on use, and the bound on how many of them are open at once.
//!
//! Which to close is decided by a clock (second chance): a use only sets a bit in its own handle, so the hot path
//! touches nothing shared; the list is walked only when a file is opened and the bound is reached.
//!
//! A file with unsynced writes is *pinned*: the kernel reports a failed writeback to the files that are open when it
//! happens. Closing such a file and syncing a new descriptor later could miss the error and acknowledge lost data. Only
//! when nothing else is left to close, a pinned file is synced first and then closed; if that sync fails, its handle is
//! poisoned and every later use fails.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::{Disk, File, OpenMode};

pub(super) struct Handles {
    open_files_max: usize,
    open: AtomicUsize,
    clock: Mutex<VecDeque<Weak<Slot>>>,
}

struct Slot {
    disk: Disk,
    state: Mutex<State>,
    /// Set by each use, cleared by the clock's hand.
    used: AtomicBool,
    /// Unsynced writes.
    pinned: AtomicBool,
    /// In the clock's list (changed under its lock).
    listed: AtomicBool,
}

struct State {
    path: PathBuf,
    file: Option<Arc<File>>,
    /// Why the file can never be used again.
    poisoned: Option<String>,
}

/// A file by name, open only while it is in use. Clones are the same handle.
#[derive(Clone)]
pub struct FileHandle {
    slot: Arc<Slot>,
}

impl Handles {
    pub(super) fn new(open_files_max: usize) -> Handles {
        Handles {
            open_files_max: open_files_max.max(1),
            open: AtomicUsize::new(0),
            clock: Mutex::new(VecDeque::new()),
        }
    }

    pub(super) fn open_files(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes an opened handle under the clock and closes others until the bound holds again.
    fn admit(&self, slot: &Arc<Slot>) {
        let mut clock = self.clock.lock();
        self.open.fetch_add(1, Ordering::Relaxed);
        if !slot.listed.swap(true, Ordering::Relaxed) {
            clock.push_back(Arc::downgrade(slot));
        }
        // Handles that are gone leave their entry behind until the hand passes or the list has grown too long.
        if clock.len() > 2 * self.open_files_max {
            clock.retain(|entry| entry.strong_count() > 0);
        }
        // Two rounds: the first may only clear bits. What is pinned in both is left for the last resort below.
        let mut steps = 2 * clock.len();
        let mut pinned_victim = None;
        while self.open_files() > self.open_files_max && steps > 0 {
            steps -= 1;
            let Some(entry) = clock.pop_front() else { break };
            let Some(victim) = entry.upgrade() else { continue };
            if Arc::ptr_eq(&victim, slot) || victim.used.swap(false, Ordering::Relaxed) {
                clock.push_back(entry);
                continue;
            }
            // A handle whose state is locked is in use at this moment.
            let Some(mut state) = victim.state.try_lock() else {
                clock.push_back(entry);
                continue;
            };
            // Pinning happens under that lock, so nothing slips in between.
            if victim.pinned.load(Ordering::Acquire) {
                drop(state);
                pinned_victim = Some(victim);
                clock.push_back(entry);
                continue;
            }
            victim.listed.store(false, Ordering::Relaxed);
            self.close(&mut state);
        }
        drop(clock);
        if self.open_files() > self.open_files_max
            && let Some(victim) = pinned_victim
        {
            victim.sync_and_close();
        }
    }

    fn close(&self, state: &mut State) {
        if state.file.take().is_some() {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Slot {
    fn handles(&self) -> &Handles {
        &self.disk.inner.handles
    }

    fn sync_and_close(&self) {
        let Some(mut state) = self.state.try_lock() else { return };
        if let Some(file) = state.file.as_ref() {
            match file.sync_data() {
                Ok(()) => self.pinned.store(false, Ordering::Release),
                Err(error) => state.poisoned = Some(format!("sync before closing failed: {error}")),
            }
        }
        self.handles().close(&mut state);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let handles = &self.disk.inner.handles;
        handles.close(self.state.get_mut());
    }
}

impl FileHandle {
    pub(super) fn new(disk: Disk, path: PathBuf) -> FileHandle {
        let state = Mutex::new(State { path, file: None, poisoned: None });
        FileHandle {
            slot: Arc::new(Slot {
                disk,
                state,
                used: AtomicBool::new(false),
                pinned: AtomicBool::new(false),
                listed: AtomicBool::new(false),
            }),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.slot.state.lock().path.clone()
    }

    /// The open file; it stays open for as long as the result is held, whatever the clock does meanwhile.
    pub fn open(&self) -> io::Result<Arc<File>> {
        self.open_as(OpenMode::Existing, false)
    }

    pub(crate) fn open_or_create(&self) -> io::Result<Arc<File>> {
        self.open_as(OpenMode::Create, false)
    }

    /// Opens for writes that `synced` will follow; until then the file stays open.
    pub(crate) fn open_to_write(&self) -> io::Result<Arc<File>> {
        self.open_as(OpenMode::Create, true)
    }

    fn open_as(&self, mode: OpenMode, pin: bool) -> io::Result<Arc<File>> {
        let slot = &self.slot;
        let mut state = slot.state.lock();
        if let Some(reason) = &state.poisoned {
            return Err(io::Error::other(reason.clone()));
        }
        if pin {
            slot.pinned.store(true, Ordering::Release);
        }
        slot.used.store(true, Ordering::Relaxed);
        if let Some(file) = &state.file {
            return Ok(file.clone());
        }
        let file = Arc::new(slot.disk.open(&state.path, mode)?);
        state.file = Some(file.clone());
        drop(state);
        slot.handles().admit(slot);
        Ok(file)
    }

    /// All writes up to now are on stable storage: the clock may close the file again. The caller makes sure that no
    /// write came between the sync and this call.
    pub(crate) fn unpin(&self) {
        self.slot.pinned.store(false, Ordering::Release);
    }

    /// No use of this file will succeed any more (its sync failed).
    pub(crate) fn poison(&self, reason: &str) {
        let mut state = self.slot.state.lock();
        state.poisoned.get_or_insert_with(|| reason.to_owned());
    }

    /// Closes the file unless it is pinned; the next use opens it again.
    pub(crate) fn close(&self) {
        let mut state = self.slot.state.lock();
        if !self.slot.pinned.load(Ordering::Acquire) {
            self.slot.handles().close(&mut state);
        }
    }

    /// Renames the file on disk and, when that worked, this name of it. Readers that hold it open are not disturbed.
    pub(crate) fn rename(&self, to: &Path) -> io::Result<()> {
        let mut state = self.slot.state.lock();
        self.slot.disk.rename(&state.path, to)?;
        state.path = to.to_owned();
        Ok(())
    }

    /// The file was moved by a rename of its directory.
    pub(crate) fn moved_to(&self, to: PathBuf) {
        self.slot.state.lock().path = to;
    }

    /// Removes the file from the disk; whoever holds it open can go on reading.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let mut state = self.slot.state.lock();
        self.slot.pinned.store(false, Ordering::Release);
        self.slot.handles().close(&mut state);
        self.slot.disk.remove_file(&state.path)
    }
}

impl std::fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileHandle({})", self.path().display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimulatedDisk;
    use std::io::IoSlice;

    fn names(disk: &Disk, count: usize) -> Vec<FileHandle> {
        (0..count).map(|n| disk.handle(format!("/d/{n}"))).collect()
    }

    #[test]
    fn no_more_files_stay_open_than_the_bound() {
        let simulated = SimulatedDisk::new();
        let disk = Disk::simulated_with(&simulated, 8);
        disk.create_dir_all(Path::new("/d")).unwrap();
        let handles = names(&disk, 100);
        for handle in handles.iter().chain(&handles) {
            handle.open_or_create().unwrap();
            assert!(disk.open_files() <= 8, "{} open", disk.open_files());
        }
        assert_eq!(disk.open_files(), 8);
        drop(handles);
        assert_eq!(disk.open_files(), 0);
    }

    #[test]
    fn a_closed_handle_opens_again_and_counts_once() {
        let simulated = SimulatedDisk::new();
        let disk = Disk::simulated_with(&simulated, 4);
        disk.create_dir_all(Path::new("/d")).unwrap();
        let handle = disk.handle("/d/a");
        for _ in 0..50 {
            handle.open_or_create().unwrap();
            assert_eq!(disk.open_files(), 1);
            handle.close();
            assert_eq!(disk.open_files(), 0);
        }
        // Dead entries of the clock must not push others out forever, nor grow without bound.
        let others = names(&disk, 3);
        for other in &others {
            other.open_or_create().unwrap();
        }
        assert_eq!(disk.open_files(), 3);
        assert!(disk.inner.handles.clock.lock().len() <= 4);
        for _ in 0..50 {
            disk.handle("/d/gone").open_or_create().unwrap();
        }
        assert!(disk.inner.handles.clock.lock().len() <= 9);
    }

    #[test]
    fn a_file_with_unsynced_writes_is_synced_before_it_is_closed() {
        let simulated = SimulatedDisk::new();
        let disk = Disk::simulated_with(&simulated, 2);
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let handles = names(&disk, 5);
        for handle in &handles {
            let file = handle.open_to_write().unwrap();
            file.write_all_at(&mut [IoSlice::new(b"data")], 0).unwrap();
        }
        disk.sync_dir(Path::new("/d")).unwrap();
        assert!(disk.open_files() <= 3, "{} open", disk.open_files());
        let closed: Vec<_> = handles.iter().filter(|h| h.slot.state.lock().file.is_none()).collect();
        assert!(!closed.is_empty());
        simulated.crash(1);
        let disk = Disk::simulated(&simulated);
        for handle in closed {
            assert_eq!(disk.read(&handle.path(), 10).unwrap(), b"data");
        }
    }
}
