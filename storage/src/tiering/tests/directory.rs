//! The contract of an object store, on a directory of either kind of disk; and crashes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt;

use crate::disk::{Disk, Fault, SimulatedDisk};
use crate::tiering::directory::{Beside, DirectoryStore};
use crate::tiering::store::{Answer, ByteRange, Condition, Content, ObjectStore, Page, Piece, StoreError};
use crate::tiering::testing::{keeps_its_promises, keeps_the_contract, one_wins, one_wins_in_the_end};

fn at_once() -> Beside {
    Arc::new(|work| work())
}

fn answered<T>(answer: Answer<'_, T>) -> Result<T, StoreError> {
    answer.now_or_never().expect("the work is done at once")
}

fn simulated() -> (SimulatedDisk, DirectoryStore) {
    let simulated = SimulatedDisk::new();
    let disk = Disk::simulated(&simulated);
    disk.create_dir_all(Path::new("/bucket")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let store = DirectoryStore::open(&disk, Path::new("/bucket"), "1", at_once()).unwrap();
    (simulated, store)
}

fn put(store: &DirectoryStore, key: &str, content: &str, condition: Condition) -> Result<(), StoreError> {
    answered(store.put(key, Content::from(Bytes::copy_from_slice(content.as_bytes())), condition))
}

fn get(store: &DirectoryStore, key: &str, range: ByteRange) -> Result<Piece, StoreError> {
    answered(store.get(key, range))
}

const WHOLE: ByteRange = ByteRange::Whole { bytes_max: 100 };

fn text(store: &DirectoryStore, key: &str) -> Option<String> {
    match get(store, key, WHOLE) {
        Ok(piece) => Some(String::from_utf8(piece.bytes.to_vec()).unwrap()),
        Err(StoreError::NotFound(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_directory_keeps_the_contract_on_both_kinds_of_disk() {
    let (_, store) = simulated();
    keeps_the_contract(&store, "").now_or_never().expect("the work is done at once");
    let directory = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(&Disk::real(), directory.path(), "1", at_once()).unwrap();
    keeps_the_contract(&store, "below/it/").now_or_never().expect("the work is done at once");
}

#[tokio::test]
async fn of_many_who_put_what_must_be_absent_one_wins() {
    let directory = tempfile::tempdir().unwrap();
    let on_threads: Beside = Arc::new(|work| drop(std::thread::spawn(work)));
    let stores: Vec<Arc<dyn ObjectStore>> = (0..4)
        .map(|writer: i32| {
            let disk = Disk::real();
            let store =
                DirectoryStore::open(&disk, directory.path(), &writer.to_string(), on_threads.clone());
            Arc::new(store.unwrap()) as Arc<dyn ObjectStore>
        })
        .collect();
    one_wins(&stores, "m/", 20, 8).await;
    one_wins_in_the_end(&stores, "n/", 20, 8).await.unwrap();
    let numbers = || rand::random();
    keeps_its_promises(&*stores[0], "p/", 500, numbers).await.unwrap();
}

/// A store with one fault, in each third call that it can have it in.
struct Faulty {
    store: DirectoryStore,
    fault: Planted,
    calls: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    /// A put is answered and not done.
    Forgets,
    /// A put that must not replace anything does.
    Replaces,
    /// What it put itself it takes for another's.
    TakesItsOwnForAnothers,
    /// A delete is answered and not done.
    Keeps,
}

impl ObjectStore for Faulty {
    fn put<'a>(&'a self, key: &'a str, content: Content, condition: Condition) -> Answer<'a, ()> {
        let is_faulty = self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(3);
        match self.fault {
            Planted::Forgets if is_faulty => Box::pin(async { Ok(()) }),
            Planted::Replaces if is_faulty => self.store.put(key, content, Condition::None),
            Planted::TakesItsOwnForAnothers if is_faulty && condition == Condition::Absent => {
                Box::pin(async move {
                    self.store.put(key, content, condition).await?;
                    Err(StoreError::Exists(key.to_owned()))
                })
            }
            _ => self.store.put(key, content, condition),
        }
    }

    fn get<'a>(&'a self, key: &'a str, range: ByteRange) -> Answer<'a, Piece> {
        self.store.get(key, range)
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        self.store.list(prefix, after)
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        match self.fault == Planted::Keeps && self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            true => Box::pin(async { Ok(()) }),
            false => self.store.delete(keys),
        }
    }
}

#[test]
fn a_store_that_breaks_a_promise_is_caught() {
    for fault in [Planted::Forgets, Planted::Replaces, Planted::TakesItsOwnForAnothers, Planted::Keeps] {
        let faulty = || Faulty { store: simulated().1, fault, calls: AtomicU64::new(0) };
        let mut numbers = 0_u64;
        let numbers = || {
            numbers = numbers.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            numbers >> 33
        };
        let kept = keeps_its_promises(&faulty(), "p/", 500, numbers).now_or_never().expect("done at once");
        assert!(kept.is_err(), "{fault:?}");
        if fault != Planted::Keeps {
            let stores: [Arc<dyn ObjectStore>; 1] = [Arc::new(faulty())];
            let kept = one_wins_in_the_end(&stores, "n/", 10, 4).now_or_never().expect("done at once");
            assert!(kept.is_err(), "{fault:?}");
        }
    }
}

#[test]
fn a_full_disk_leaves_the_old_object() {
    let (simulated, store) = simulated();
    put(&store, "a", "old", Condition::None).unwrap();
    simulated.set_capacity(Some(simulated.used_bytes()));
    let full = put(&store, "a", "new and longer", Condition::None);
    assert!(matches!(full, Err(StoreError::Unavailable(_))), "{full:?}");
    assert_eq!(text(&store, "a").as_deref(), Some("old"));
    simulated.set_capacity(None);
    put(&store, "a", "new and longer", Condition::None).unwrap();
}

#[test]
fn a_put_that_was_answered_survives_a_crash_and_another_is_whole_or_not_there() {
    for seed in 0..200 {
        let (simulated, store) = simulated();
        put(&store, "t/v1/a/0/1.seg", "answered", Condition::Absent).unwrap();
        // The crash comes at any step of the second put.
        simulated.set_fault(simulated.operations() + seed % 10, Fault::Crash);
        let answered = put(&store, "t/v1/b/0/2.seg", "later", Condition::None).is_ok();
        simulated.crash(seed);
        let disk = Disk::simulated(&simulated);
        let store = DirectoryStore::open(&disk, Path::new("/bucket"), "1", at_once()).unwrap();
        assert_eq!(text(&store, "t/v1/a/0/1.seg").as_deref(), Some("answered"), "seed {seed}");
        let later = text(&store, "t/v1/b/0/2.seg");
        assert!(
            later.as_deref() == Some("later") || (later.is_none() && !answered),
            "seed {seed}: {later:?}"
        );
        assert_eq!(disk.read_dir(Path::new("/bucket/.uploads/1")).unwrap(), []);
    }
}
