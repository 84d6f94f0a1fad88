//! Pieces on a local disk that fills up, fails and changes what it holds, read through the reader that they are for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ottla_batch::{BatchHeader, Offset};
use parking_lot::Mutex;
use uuid::Uuid;

use super::reader::{END, SMALL, Tier, tier_with};
use crate::disk::{Disk, Fault, OpenMode, SimulatedDisk};
use crate::tiering::directory::Beside;
use crate::tiering::disk_cache::{DiskCache, DiskCacheCounts};
use crate::tiering::reader::{ReaderConfig, RemoteReadError};

const DIRECTORY: &str = "/cache";
/// Nothing stays in memory but footers and indexes.
const NO_MEMORY: ReaderConfig =
    ReaderConfig { cache_bytes_max: 1, heads_bytes_max: 1 << 20, tail_bytes: 64 << 10, ..SMALL };

/// Work is done at once.
fn at_once() -> Beside {
    Arc::new(|work| work())
}

/// Work that waits.
type Later = Arc<Mutex<Vec<Box<dyn FnOnce() + Send>>>>;

fn do_it(later: &Later) {
    let work = std::mem::take(&mut *later.lock());
    work.into_iter().for_each(|work| work());
}

fn tier_on(disk: &SimulatedDisk, bytes_max: u64) -> Tier {
    tier_beside(disk, bytes_max, at_once())
}

fn tier_beside(disk: &SimulatedDisk, bytes_max: u64, beside: Beside) -> Tier {
    let disk = Disk::simulated(disk);
    let cache = DiskCache::open(&disk, Path::new(DIRECTORY), bytes_max, beside).unwrap();
    tier_with(NO_MEMORY, Some(cache))
}

fn files(disk: &SimulatedDisk) -> Vec<PathBuf> {
    let entries = Disk::simulated(disk).read_dir(Path::new(DIRECTORY)).unwrap();
    entries.into_iter().map(|entry| Path::new(DIRECTORY).join(entry.name)).collect()
}

impl Tier {
    fn on_disk(&self) -> DiskCacheCounts {
        self.reader.disk_counts().unwrap()
    }

    /// All batches, compared with those of the log; how often the store was asked meanwhile.
    async fn read_all(&self) -> usize {
        let before = self.asked();
        let (mut next, mut all) = (Offset(0), Vec::new());
        for key in &self.keys {
            while next < key.end_offset {
                let read = self.reader.read(key, next, END, 1).await.unwrap();
                next = read.next_offset;
                all.extend_from_slice(&read.bytes);
                // What was read ahead comes in between.
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(all, self.batches.concat());
        self.asked() - before
    }
}

#[tokio::test]
async fn what_was_read_before_needs_no_request() {
    let disk = SimulatedDisk::new();
    let tier = tier_on(&disk, 1 << 20);
    let first = tier.read_all().await;
    assert!(first > 2 * tier.keys.len(), "{first}");
    let counts = tier.on_disk();
    assert_eq!(tier.read_all().await, 0);
    let again = tier.on_disk();
    assert!(again.hits > counts.hits);
    assert_eq!((again.misses, again.failures), (counts.misses, 0));
    assert_eq!(again.held_bytes, disk.used_bytes());
}

#[tokio::test]
async fn no_more_is_kept_than_allowed_and_what_was_used_last_stays() {
    let disk = SimulatedDisk::new();
    let tier = tier_on(&disk, 4_000);
    tier.read_all().await;
    assert!(tier.on_disk().held_bytes <= 4_000 && tier.on_disk().held_bytes > 2_000);
    assert_eq!(tier.on_disk().held_bytes, disk.used_bytes());
    let last = tier.keys.last().unwrap();
    let before = tier.asked();
    tier.reader.read(last, last.end_offset.plus(-1), END, 1).await.unwrap();
    assert_eq!(tier.asked(), before, "the end was read last");
    tier.reader.read(&tier.keys[0], Offset(0), END, 1).await.unwrap();
    assert!(tier.asked() > before, "the beginning is gone");
    assert_eq!(tier.on_disk().failures, 0);

    // What does not fit at all is not kept.
    let disk = SimulatedDisk::new();
    let tier = tier_on(&disk, 699);
    tier.read_all().await;
    assert_eq!((tier.on_disk().held_bytes, disk.used_bytes(), tier.on_disk().failures), (0, 0, 0));
}

#[tokio::test]
async fn what_the_disk_changed_comes_from_the_store() {
    type Change = fn(&Disk, &Path);
    let changes: [Change; 3] = [
        |disk, path| {
            let file = disk.open(path, OpenMode::Existing).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, 300).unwrap();
            file.write_all_at(&mut [io::IoSlice::new(&[byte[0] ^ 1])], 300).unwrap();
        },
        |disk, path| disk.open(path, OpenMode::Existing).unwrap().set_len(300).unwrap(),
        |disk, path| disk.remove_file(path).unwrap(),
    ];
    for change in changes {
        let disk = SimulatedDisk::new();
        let tier = tier_on(&disk, 1 << 20);
        tier.read_all().await;
        let pieces = files(&disk);
        pieces.iter().for_each(|path| change(&Disk::simulated(&disk), path));
        assert_eq!(tier.read_all().await, pieces.len(), "each is asked for once more");
        assert_eq!(tier.on_disk().failures, pieces.len() as u64);
        assert_eq!(tier.read_all().await, 0);
    }
}

#[tokio::test]
async fn a_full_or_broken_disk_keeps_nobody_from_reading() {
    let disk = SimulatedDisk::new();
    let tier = tier_on(&disk, 1 << 20);
    disk.set_fault(disk.operations(), Fault::Always(io::ErrorKind::StorageFull));
    tier.read_all().await;
    assert!(tier.on_disk().failures > 0);
    assert_eq!((tier.on_disk().held_bytes, tier.on_disk().hits), (0, 0));
    disk.clear_fault();
    tier.read_all().await;
    assert_eq!(tier.read_all().await, 0, "it is used again");
    disk.set_broken(Some(Path::new(DIRECTORY)));
    assert!(tier.read_all().await > 0);
    assert_eq!(tier.on_disk().held_bytes, 0);
}

#[tokio::test]
async fn a_tenth_of_the_disk_is_left_to_others_and_pieces_go_when_it_is_not() {
    let disk = SimulatedDisk::new();
    disk.set_capacity(Some(10_000));
    let tier = tier_on(&disk, 1 << 20);
    tier.read_all().await;
    let held = tier.on_disk().held_bytes;
    assert!(held > 5_000 && held <= 9_000, "{held}");
    assert_eq!(tier.on_disk().failures, 0);
    // Logs grow.
    let log = Disk::simulated(&disk).open(Path::new("/log"), OpenMode::Create).unwrap();
    let free = 10_000 - disk.used_bytes() as usize;
    log.write_all_at(&mut [io::IoSlice::new(&vec![1; free])], 0).unwrap();
    tier.read_all().await;
    assert!(tier.on_disk().held_bytes < held, "{:?}", tier.on_disk());
}

#[tokio::test]
async fn a_new_process_begins_with_nothing() {
    let disk = SimulatedDisk::new();
    let tier = tier_on(&disk, 1 << 20);
    tier.read_all().await;
    assert!(!files(&disk).is_empty());
    disk.crash(1);
    let again = tier_on(&disk, 1 << 20);
    assert_eq!((files(&disk), again.on_disk()), (vec![], DiskCacheCounts::default()));
    again.read_all().await;
}

#[tokio::test]
async fn damage_that_came_from_the_store_is_not_kept() {
    // Once the file is there before anybody looks at the bytes, and once it is written after.
    let later = Later::default();
    let queue = later.clone();
    for beside in [at_once(), Arc::new(move |work| queue.lock().push(work)) as Beside] {
        let disk = SimulatedDisk::new();
        let tier = tier_beside(&disk, 1 << 20, beside);
        let key = tier.keys[0];
        tier.reader.footer(&key).await.unwrap();
        *tier.store.damage.lock() = Some(70);
        let damaged = tier.reader.read(&key, Offset(0), END, 1).await.unwrap_err();
        assert!(matches!(damaged, RemoteReadError::Damaged { .. }), "{damaged}");
        do_it(&later);
        assert_eq!((tier.on_disk().held_bytes, files(&disk)), (0, vec![]));
        let read = tier.reader.read(&key, Offset(0), END, 1).await.unwrap();
        assert_eq!(BatchHeader::parse(&read.bytes).unwrap().base_offset, Offset(0));
        do_it(&later);
        assert!(tier.on_disk().held_bytes > 0);
    }
}

#[tokio::test]
async fn a_slow_disk_gets_fewer_pieces() {
    let later = Later::default();
    let queue = later.clone();
    let disk = SimulatedDisk::new();
    let tier = tier_beside(&disk, 1 << 20, Arc::new(move |work| queue.lock().push(work)));
    tier.read_all().await;
    assert_eq!(later.lock().len(), 4, "no more wait for it");
    do_it(&later);
    assert_eq!(files(&disk).len(), 4);
    assert_eq!(tier.on_disk().held_bytes, disk.used_bytes());
}

#[tokio::test]
async fn nothing_stays_of_a_topic_that_is_deleted() {
    let disk = SimulatedDisk::new();
    let tier = tier_on(&disk, 1 << 20);
    tier.read_all().await;
    let pieces = files(&disk).len();
    tier.reader.forget_topic(Uuid::from_u64_pair(3, 4));
    assert_eq!(files(&disk).len(), pieces, "another one");
    tier.reader.forget_topic(tier.keys[0].topic_id);
    assert_eq!((files(&disk), tier.on_disk().held_bytes), (vec![], 0));
    tier.read_all().await;
}
