mod cluster;
mod directory;
mod disk_cache;
mod groups;
mod key;
mod manifest;
mod reader;
mod store;

use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;

use super::directory::DirectoryStore;
use crate::disk::{Disk, SimulatedDisk};

/// On a disk in memory, where the work is done at once.
fn store() -> DirectoryStore {
    let disk = Disk::simulated(&SimulatedDisk::new());
    disk.create_dir_all(Path::new("/b")).unwrap();
    DirectoryStore::open(&disk, Path::new("/b"), "1", Arc::new(|work| work())).unwrap()
}

fn now<T>(answer: impl Future<Output = T>) -> T {
    answer.now_or_never().expect("the work is done at once")
}
