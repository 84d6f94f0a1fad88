//! The contract of an object store, on a directory of either kind of disk; and crashes.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use crate::disk::{Disk, Fault, SimulatedDisk};
use crate::tiering::directory::{Beside, DirectoryStore};
use crate::tiering::store::{
    Answer, ByteRange, Condition, Content, ObjectStore, PAGE_KEYS_MAX, Piece, StoreError,
};

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

fn keys(store: &DirectoryStore, prefix: &str, after: Option<&str>) -> Vec<String> {
    let page = answered(store.list(prefix, after)).unwrap();
    assert!(!page.is_cut);
    page.objects.into_iter().map(|object| object.key).collect()
}

fn on_both(test: impl Fn(&DirectoryStore)) {
    test(&simulated().1);
    let directory = tempfile::tempdir().unwrap();
    test(&DirectoryStore::open(&Disk::real(), directory.path(), "1", at_once()).unwrap());
}

#[test]
fn objects_are_put_replaced_and_read_in_ranges() {
    on_both(|store| {
        put(store, "a/b/c.seg", "0123456789", Condition::None).unwrap();
        let piece = |bytes: &'static str, position| Piece {
            bytes: Bytes::from_static(bytes.as_bytes()),
            position,
            object_bytes: 10,
        };
        let range = |range| get(store, "a/b/c.seg", range).unwrap();
        assert_eq!(range(WHOLE), piece("0123456789", 0));
        assert_eq!(range(ByteRange::From { position: 3, len: 4 }), piece("3456", 3));
        assert_eq!(range(ByteRange::From { position: 8, len: usize::MAX }), piece("89", 8));
        assert_eq!(range(ByteRange::Suffix { len: 3 }), piece("789", 7));
        assert_eq!(range(ByteRange::Suffix { len: 11 }), piece("0123456789", 0));
        for refused in [ByteRange::Whole { bytes_max: 9 }, ByteRange::From { position: 10, len: 1 }] {
            let error = get(store, "a/b/c.seg", refused).unwrap_err();
            assert!(matches!(error, StoreError::Range { object_bytes: 10, .. }), "{error}");
        }
        put(store, "a/b/c.seg", "new", Condition::None).unwrap();
        assert_eq!(text(store, "a/b/c.seg").as_deref(), Some("new"));
        put(store, "empty", "", Condition::None).unwrap();
        assert_eq!(text(store, "empty").as_deref(), Some(""));
        for missing in ["a", "a/b/d.seg", "a/b/c.seg/d"] {
            assert!(matches!(
                get(store, missing, WHOLE),
                Err(StoreError::NotFound(_)) | Err(StoreError::Unavailable(_))
            ));
        }
    });
}

#[test]
fn of_many_who_put_what_must_be_absent_one_wins() {
    on_both(|store| {
        put(store, "m/1.json", "first", Condition::Absent).unwrap();
        let second = put(store, "m/1.json", "second", Condition::Absent);
        assert!(matches!(second, Err(StoreError::Exists(key)) if key == "m/1.json"));
        assert_eq!(text(store, "m/1.json").as_deref(), Some("first"));
    });
    let directory = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let key = format!("m/{round}");
        let won: Vec<usize> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|writer| {
                    let (key, path) = (&key, directory.path());
                    scope.spawn(move || {
                        let store = DirectoryStore::open(&Disk::real(), path, &writer.to_string(), at_once())
                            .unwrap();
                        put(&store, key, &writer.to_string(), Condition::Absent).is_ok()
                    })
                })
                .collect();
            let outcomes = writers.into_iter().map(|writer| writer.join().unwrap());
            outcomes.enumerate().filter(|(_, won)| *won).map(|(writer, _)| writer).collect()
        });
        let store = DirectoryStore::open(&Disk::real(), directory.path(), "reader", at_once()).unwrap();
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(text(&store, &key), Some(won[0].to_string()));
    }
}

#[test]
fn lists_are_in_the_order_of_keys_and_come_in_pages() {
    on_both(|store| {
        // A slash comes after a minus and before a zero.
        let all = ["a-b", "a/b", "a/c/1", "a/c/2", "a0", "b/1"];
        for key in ["b/1", "a/c/2", "a0", "a/b", "a-b", "a/c/1"] {
            put(store, key, key, Condition::None).unwrap();
        }
        assert_eq!(keys(store, "", None), all);
        for (index, key) in all.iter().enumerate() {
            assert_eq!(keys(store, "", Some(key)), all[index + 1..]);
        }
        assert_eq!(keys(store, "", Some("a/")), all[1..]);
        assert_eq!(keys(store, "a/", None), all[1..4]);
        assert_eq!(keys(store, "a/c", Some("a/c/1")), ["a/c/2"]);
        assert_eq!(keys(store, "a/c/1", None), ["a/c/1"]);
        assert_eq!(keys(store, "c", None), [""; 0]);
        let sizes = answered(store.list("b/", None)).unwrap();
        assert_eq!(sizes.objects[0].bytes, 3);
    });
    let (_, store) = simulated();
    let all: Vec<String> = (0..PAGE_KEYS_MAX + 5).map(|n| format!("many/{n:05}")).collect();
    for key in &all {
        put(&store, key, "x", Condition::None).unwrap();
    }
    let first = answered(store.list("many/", None)).unwrap();
    assert!(first.is_cut);
    assert_eq!(first.objects.len(), PAGE_KEYS_MAX);
    let last = first.objects.last().unwrap().key.clone();
    assert_eq!(keys(&store, "many/", Some(&last)), all[PAGE_KEYS_MAX..]);
    let (_, store) = simulated();
    for key in &all[..PAGE_KEYS_MAX] {
        put(&store, key, "x", Condition::None).unwrap();
    }
    assert_eq!(keys(&store, "", None).len(), PAGE_KEYS_MAX, "a full page is not a cut one");
}

#[test]
fn what_is_deleted_is_gone_and_may_be_deleted_again() {
    on_both(|store| {
        for key in ["d/1", "d/2", "d/3"] {
            put(store, key, key, Condition::None).unwrap();
        }
        let gone = ["d/1".to_owned(), "d/3".to_owned(), "nothing/there".to_owned()];
        answered(store.delete(&gone)).unwrap();
        answered(store.delete(&gone)).unwrap();
        assert_eq!(keys(store, "", None), ["d/2"]);
        put(store, "d/1", "again", Condition::Absent).unwrap();
    });
}

#[test]
fn a_key_stays_below_the_directory() {
    let (_, store) = simulated();
    let long = "k".repeat(1025);
    for key in ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.b", ".uploads/1/0", "a b", "a\0", &long] {
        assert!(matches!(put(&store, key, "x", Condition::None), Err(StoreError::Key(_))), "{key:?}");
        assert!(matches!(get(&store, key, WHOLE), Err(StoreError::Key(_))), "{key:?}");
        assert!(matches!(answered(store.delete(&[key.to_owned()])), Err(StoreError::Key(_))), "{key:?}");
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
