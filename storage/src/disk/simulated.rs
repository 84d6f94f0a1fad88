//! A disk in memory that behaves as badly as a real one is allowed to.
//!
//! - Writes and length changes of a file are durable after its `sync_data`, names in a directory after its `sync_dir`,
//!   independently of each other. At a crash every unsynced write is kept, lost or torn by its own coin (so a later one
//!   may survive an earlier one, and holes read as zeros); of a directory's unsynced changes a prefix survives, as on a
//!   journalling file system.
//! - Each operation that changes something has a number; a fault can be set for any of them.
//! - A sync can take time: nothing here waits, but whoever waits for syncs asks how long (`Disk::sync_time`).
//! - A capacity makes it full: a write that does not fit writes what fits and then fails, as ENOSPC does.
//! - What lies below a path can be a device that failed: everything that touches it gets EIO until it is repaired.
//! - Files opened before a crash fail afterwards: a destructor that writes cannot make a crash look clean.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{DirEntry, OpenMode, Space};

type InodeId = u64;
const ROOT: InodeId = 0;

#[derive(Clone)]
pub struct SimulatedDisk {
    state: Arc<Mutex<State>>,
}

/// What happens from an operation's number on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process dies: this operation happens in part (a write) or not at all, all later ones fail.
    /// Call [`SimulatedDisk::crash`] to see what survives.
    Crash,
    /// Only this operation fails, a write after half of its bytes.
    Once(io::ErrorKind),
    /// This one and all after it fail.
    Always(io::ErrorKind),
}

/// How often the disk was asked, by kind; for tests that count system calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub opens: u64,
    pub reads: u64,
    pub writes: u64,
    pub syncs: u64,
    pub dir_syncs: u64,
    pub set_lens: u64,
}

struct State {
    inodes: HashMap<InodeId, Inode>,
    next_inode: InodeId,
    /// Handles of earlier generations are dead.
    generation: u64,
    locked: HashMap<InodeId, u64>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    capacity: Option<u64>,
    /// Where a device failed.
    broken: Option<PathBuf>,
    /// Shortest and longest time of a sync, and where the next one is drawn from.
    sync_time: Option<(Duration, Duration, Coin)>,
    counts: Counts,
}

enum Inode {
    File(FileNode),
    Dir(DirNode),
}

#[derive(Default)]
struct FileNode {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<FileChange>,
}

enum FileChange {
    Write { position: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Default)]
struct DirNode {
    current: BTreeMap<String, InodeId>,
    durable: BTreeMap<String, InodeId>,
    unsynced: Vec<DirChange>,
}

#[derive(Clone)]
enum DirChange {
    Set(String, InodeId),
    Remove(String),
    Rename { from: String, to: String, inode: InodeId },
}

pub(super) struct SimulatedFile {
    disk: SimulatedDisk,
    inode: InodeId,
    path: PathBuf,
    generation: u64,
}

pub(super) struct SimulatedLock {
    disk: SimulatedDisk,
    inode: InodeId,
    generation: u64,
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        let mut state = self.disk.state.lock();
        if state.locked.get(&self.inode) == Some(&self.generation) {
            state.locked.remove(&self.inode);
        }
    }
}

/// SplitMix64: the simulator needs only a seedable coin, the same on every machine.
struct Coin(u64);

impl Coin {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `bound` inclusive.
    fn upto(&mut self, bound: usize) -> usize {
        (self.next() % (bound as u64 + 1)) as usize
    }
}

impl Default for SimulatedDisk {
    fn default() -> SimulatedDisk {
        SimulatedDisk::new()
    }
}

impl SimulatedDisk {
    pub fn new() -> SimulatedDisk {
        let state = State {
            inodes: HashMap::from([(ROOT, Inode::Dir(DirNode::default()))]),
            next_inode: ROOT + 1,
            generation: 0,
            locked: HashMap::new(),
            operations: 0,
            fault: None,
            capacity: None,
            broken: None,
            sync_time: None,
            counts: Counts::default(),
        };
        SimulatedDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// The machine loses power: what was not synced is lost, kept or torn as `seed` says. Every open file is dead, a
    /// set fault is gone, and the disk is usable again at once.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state.lock();
        let mut coin = Coin(seed);
        state.generation += 1;
        state.locked.clear();
        state.fault = None;
        // In the order of the inodes: one seed is one outcome.
        let mut ids: Vec<_> = state.inodes.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            match state.inodes.get_mut(&id) {
                Some(Inode::File(file)) => file.crash(&mut coin),
                Some(Inode::Dir(dir)) => dir.crash(&mut coin),
                None => {}
            }
        }
        state.forget_unreachable();
    }

    /// The process dies but the machine does not (kill -9): all writes stay, files and locks of the process are gone.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.locked.clear();
        state.fault = None;
    }

    /// Number of changing operations so far; the next one has this number.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    pub fn set_fault(&self, at_operation: u64, fault: Fault) {
        self.state.lock().fault = Some((at_operation, fault));
    }

    /// Whether a fault that ends everything was reached.
    pub fn is_crashed(&self) -> bool {
        let state = self.state.lock();
        matches!(state.fault, Some((at, Fault::Crash)) if state.operations > at)
    }

    pub fn clear_fault(&self) {
        self.state.lock().fault = None;
    }

    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state.lock().capacity = bytes;
    }

    /// From now on each sync takes a time between these two, drawn from `seed`.
    pub fn set_sync_time(&self, min: Duration, max: Duration, seed: u64) {
        self.state.lock().sync_time = Some((min, max, Coin(seed)));
    }

    pub(super) fn sync_time(&self) -> Option<Duration> {
        let mut state = self.state.lock();
        let (min, max, coin) = state.sync_time.as_mut()?;
        let spread = max.saturating_sub(*min).as_micros() as usize;
        Some(*min + Duration::from_micros(coin.upto(spread) as u64))
    }

    /// The device below `path` fails, or works again.
    pub fn set_broken(&self, path: Option<&Path>) {
        self.state.lock().broken = path.map(Path::to_owned);
    }

    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used()
    }

    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    pub(super) fn open(&self, path: &Path, mode: OpenMode) -> io::Result<SimulatedFile> {
        let mut state = self.state.lock();
        state.counts.opens += 1;
        let generation = state.generation;
        state.check_device(path)?;
        let (parent, name) = state.parent_of(path)?;
        let inode = match state.dir(parent)?.current.get(&name) {
            Some(inode) => *inode,
            None if mode == OpenMode::Existing => return Err(io::ErrorKind::NotFound.into()),
            None => {
                state.begin_change()?;
                if state.capacity.is_some_and(|capacity| state.used() >= capacity) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let inode = state.add(Inode::File(FileNode::default()));
                state.dir_mut(parent)?.apply(DirChange::Set(name, inode));
                inode
            }
        };
        state.file(inode)?;
        Ok(SimulatedFile { disk: self.clone(), inode, path: path.to_owned(), generation })
    }

    pub(super) fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check_device(path)?;
        let mut at = ROOT;
        for name in names(path) {
            at = match state.dir(at)?.current.get(name) {
                Some(inode) => *inode,
                None => {
                    state.begin_change()?;
                    let inode = state.add(Inode::Dir(DirNode::default()));
                    state.dir_mut(at)?.apply(DirChange::Set(name.to_owned(), inode));
                    inode
                }
            };
            state.dir(at)?;
        }
        Ok(())
    }

    pub(super) fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.state.lock();
        state.check_device(path)?;
        let dir = state.dir(state.find(path)?)?;
        Ok(dir
            .current
            .iter()
            .map(|(name, inode)| DirEntry {
                name: name.clone(),
                is_dir: matches!(state.inodes.get(inode), Some(Inode::Dir(_))),
            })
            .collect())
    }

    pub(super) fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state.lock();
        state.check_device(path)?;
        match state.find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn file_len(&self, path: &Path) -> io::Result<u64> {
        let state = self.state.lock();
        state.check_device(path)?;
        Ok(state.file(state.find(path)?)?.current.len() as u64)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check_device(from)?;
        state.check_device(to)?;
        let (from_dir, from_name) = state.parent_of(from)?;
        let (to_dir, to_name) = state.parent_of(to)?;
        let inode =
            *state.dir(from_dir)?.current.get(&from_name).ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        state.begin_change()?;
        if from_dir == to_dir {
            state.dir_mut(from_dir)?.apply(DirChange::Rename { from: from_name, to: to_name, inode });
        } else {
            state.dir_mut(to_dir)?.apply(DirChange::Set(to_name, inode));
            state.dir_mut(from_dir)?.apply(DirChange::Remove(from_name));
        }
        Ok(())
    }

    pub(super) fn rename_to_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        // Nobody comes in between: a simulation has one thread.
        if self.exists(to)? { Err(io::ErrorKind::AlreadyExists.into()) } else { self.rename(from, to) }
    }

    pub(super) fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.check_device(path)?;
        let (dir, name) = state.parent_of(path)?;
        if !state.dir(dir)?.current.contains_key(&name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.begin_change()?;
        state.dir_mut(dir)?.apply(DirChange::Remove(name));
        Ok(())
    }

    pub(super) fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let names: Vec<_> = self.read_dir(path)?;
        for entry in names {
            let path = path.join(entry.name);
            if entry.is_dir { self.remove_dir_all(&path)? } else { self.remove_file(&path)? }
        }
        self.remove_file(path)
    }

    pub(super) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.counts.dir_syncs += 1;
        state.check_device(path)?;
        let inode = state.find(path)?;
        state.dir(inode)?;
        state.begin_change()?;
        let dir = state.dir_mut(inode)?;
        dir.durable = dir.current.clone();
        dir.unsynced.clear();
        Ok(())
    }

    pub(super) fn lock(&self, path: &Path) -> io::Result<Option<SimulatedLock>> {
        let inode = self.open(path, OpenMode::Create)?.inode;
        let mut state = self.state.lock();
        if state.locked.contains_key(&inode) {
            return Ok(None);
        }
        let generation = state.generation;
        state.locked.insert(inode, generation);
        Ok(Some(SimulatedLock { disk: self.clone(), inode, generation }))
    }

    pub(super) fn space(&self, path: &Path) -> io::Result<Space> {
        let state = self.state.lock();
        state.check_device(path)?;
        let total_bytes = state.capacity.unwrap_or(1 << 40);
        Ok(Space { total_bytes, usable_bytes: total_bytes.saturating_sub(state.used()) })
    }
}

impl State {
    fn check_device(&self, path: &Path) -> io::Result<()> {
        match &self.broken {
            Some(broken) if path.starts_with(broken) => Err(rustix::io::Errno::IO.into()),
            _ => Ok(()),
        }
    }

    /// Of files that have a name: a file gives its room back when it is removed.
    fn used(&self) -> u64 {
        let dirs = self.inodes.values().filter_map(|inode| match inode {
            Inode::Dir(dir) => Some(dir),
            Inode::File(_) => None,
        });
        let named = dirs.flat_map(|dir| dir.current.values()).filter_map(|id| self.inodes.get(id));
        let len = |inode: &Inode| match inode {
            Inode::File(file) => file.current.len() as u64,
            Inode::Dir(_) => 0,
        };
        named.map(len).sum()
    }

    /// Counts a changing operation and answers whether it fails.
    fn begin_change(&mut self) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some((at, Fault::Crash)) if number >= at => Err(io::Error::other("simulated crash")),
            Some((at, Fault::Once(kind))) if number == at => Err(kind.into()),
            Some((at, Fault::Always(kind))) if number >= at => Err(kind.into()),
            _ => Ok(()),
        }
    }

    /// Whether the operation that just failed is the one at which the fault began: only that one leaves half a write.
    fn is_first_failure(&self) -> bool {
        self.fault.is_some_and(|(at, _)| self.operations == at + 1)
    }

    fn add(&mut self, inode: Inode) -> InodeId {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, inode);
        id
    }

    fn find(&self, path: &Path) -> io::Result<InodeId> {
        let mut at = ROOT;
        for name in names(path) {
            at = *self.dir(at)?.current.get(name).ok_or(io::Error::from(io::ErrorKind::NotFound))?;
        }
        Ok(at)
    }

    fn parent_of(&self, path: &Path) -> io::Result<(InodeId, String)> {
        let name = path.file_name().and_then(OsStr::to_str).ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.find(path.parent().unwrap_or(Path::new("/")))?, name.to_owned()))
    }

    fn dir(&self, inode: InodeId) -> io::Result<&DirNode> {
        match self.inodes.get(&inode) {
            Some(Inode::Dir(dir)) => Ok(dir),
            Some(Inode::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn dir_mut(&mut self, inode: InodeId) -> io::Result<&mut DirNode> {
        match self.inodes.get_mut(&inode) {
            Some(Inode::Dir(dir)) => Ok(dir),
            Some(Inode::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn file(&self, inode: InodeId) -> io::Result<&FileNode> {
        match self.inodes.get(&inode) {
            Some(Inode::File(file)) => Ok(file),
            Some(Inode::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn file_mut(&mut self, inode: InodeId) -> io::Result<&mut FileNode> {
        match self.inodes.get_mut(&inode) {
            Some(Inode::File(file)) => Ok(file),
            Some(Inode::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// After a crash nobody holds files without a name.
    fn forget_unreachable(&mut self) {
        let mut reachable = vec![ROOT];
        let mut next = 0;
        while next < reachable.len() {
            if let Some(Inode::Dir(dir)) = self.inodes.get(&reachable[next]) {
                reachable.extend(dir.current.values());
            }
            next += 1;
        }
        let reachable: std::collections::HashSet<_> = reachable.into_iter().collect();
        self.inodes.retain(|id, _| reachable.contains(id));
    }
}

impl FileNode {
    fn crash(&mut self, coin: &mut Coin) {
        let mut content = std::mem::take(&mut self.durable);
        for change in self.unsynced.drain(..) {
            match (change, coin.upto(3)) {
                (_, 0) => {}
                (FileChange::SetLen(len), _) => content.resize(len, 0),
                (FileChange::Write { position, bytes }, 1) => {
                    let kept = coin.upto(bytes.len());
                    write_into(&mut content, position, &bytes[..kept]);
                }
                (FileChange::Write { position, bytes }, _) => write_into(&mut content, position, &bytes),
            }
        }
        self.durable = content;
        self.current = self.durable.clone();
    }
}

impl DirNode {
    fn apply(&mut self, change: DirChange) {
        apply(&mut self.current, &change);
        self.unsynced.push(change);
    }

    fn crash(&mut self, coin: &mut Coin) {
        let kept = coin.upto(self.unsynced.len());
        for change in self.unsynced.drain(..).take(kept) {
            apply(&mut self.durable, &change);
        }
        self.current = self.durable.clone();
    }
}

fn apply(entries: &mut BTreeMap<String, InodeId>, change: &DirChange) {
    match change {
        DirChange::Set(name, inode) => {
            entries.insert(name.clone(), *inode);
        }
        DirChange::Remove(name) => {
            entries.remove(name);
        }
        DirChange::Rename { from, to, inode } => {
            entries.remove(from);
            entries.insert(to.clone(), *inode);
        }
    }
}

fn write_into(content: &mut Vec<u8>, position: usize, bytes: &[u8]) {
    if content.len() < position + bytes.len() {
        content.resize(position + bytes.len(), 0);
    }
    content[position..position + bytes.len()].copy_from_slice(bytes);
}

fn names(path: &Path) -> impl Iterator<Item = &str> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => name.to_str(),
        _ => None,
    })
}

impl SimulatedFile {
    fn check_alive(&self, state: &State) -> io::Result<()> {
        if self.generation != state.generation {
            return Err(io::Error::other("this file was opened before a simulated crash"));
        }
        state.check_device(&self.path)
    }

    pub(super) fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.disk.state.lock();
        self.check_alive(&state)?;
        state.counts.reads += 1;
        let content = &state.file(self.inode)?.current;
        let start = (position as usize).min(content.len());
        let count = buffer.len().min(content.len() - start);
        buffer[..count].copy_from_slice(&content[start..start + count]);
        Ok(count)
    }

    pub(super) fn write_at(&self, slices: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        let mut state = self.disk.state.lock();
        self.check_alive(&state)?;
        state.counts.writes += 1;
        let mut bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let position = position as usize;
        let outcome = state.begin_change();
        if outcome.is_err() {
            bytes.truncate(if state.is_first_failure() { bytes.len() / 2 } else { 0 });
        }
        let mut full = false;
        if let Some(capacity) = state.capacity {
            let len = state.file(self.inode)?.current.len();
            let free = capacity.saturating_sub(state.used()) as usize;
            let fits = (len + free).saturating_sub(position);
            full = fits < bytes.len();
            bytes.truncate(fits);
        }
        let written = bytes.len();
        if written > 0 {
            let file = state.file_mut(self.inode)?;
            write_into(&mut file.current, position, &bytes);
            file.unsynced.push(FileChange::Write { position, bytes });
        }
        outcome?;
        if full && written == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(written)
    }

    pub(super) fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        self.check_alive(&state)?;
        state.counts.syncs += 1;
        state.begin_change()?;
        let file = state.file_mut(self.inode)?;
        for change in file.unsynced.drain(..) {
            match change {
                FileChange::Write { position, bytes } => write_into(&mut file.durable, position, &bytes),
                FileChange::SetLen(len) => file.durable.resize(len, 0),
            }
        }
        Ok(())
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        self.check_alive(&state)?;
        state.counts.set_lens += 1;
        state.begin_change()?;
        let file = state.file_mut(self.inode)?;
        file.current.resize(len as usize, 0);
        file.unsynced.push(FileChange::SetLen(len as usize));
        Ok(())
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        let state = self.disk.state.lock();
        self.check_alive(&state)?;
        Ok(state.file(self.inode)?.current.len() as u64)
    }
}
