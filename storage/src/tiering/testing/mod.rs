//! The contract of an object store as tests that any store must pass, for the tests of whoever has one. They panic where it does not.
//!
//! `place` is what all keys of a test begin with, so that many share a bucket; nothing lies there before.

mod promises;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use super::store::{ByteRange, Condition, Content, ObjectStore, PAGE_KEYS_MAX, Page, Piece, StoreError};
use crate::disk::{Disk, OpenMode};

pub use promises::{Broken, keeps_its_promises, one_wins_in_the_end};

const WHOLE: ByteRange = ByteRange::Whole { bytes_max: 1000 };

/// All of it, but for what needs several stores or faults.
pub async fn keeps_the_contract(store: &dyn ObjectStore, place: &str) {
    objects_are_put_replaced_and_read_in_ranges(store, &format!("{place}ranges/")).await;
    what_must_be_absent_is_not_replaced(store, &format!("{place}absent/")).await;
    lists_are_in_the_order_of_keys(store, &format!("{place}lists/")).await;
    lists_come_in_pages(store, &format!("{place}pages/")).await;
    what_is_deleted_is_gone_and_may_be_deleted_again(store, &format!("{place}deleted/")).await;
    what_is_no_key_is_refused(store).await;
}

pub async fn put(
    store: &dyn ObjectStore,
    key: &str,
    content: &str,
    condition: Condition,
) -> Result<(), StoreError> {
    store.put(key, Content::from(Bytes::copy_from_slice(content.as_bytes())), condition).await
}

/// `len` bytes of a file, as the log hands over those of a segment.
pub fn push_file(content: &mut Content, path: &Path, position: u64, len: u64) -> io::Result<()> {
    let file = Disk::real().open(path, OpenMode::Existing)?;
    content.push_file(Arc::new(file), position, len);
    Ok(())
}

/// None: there is no such object.
pub async fn text(store: &dyn ObjectStore, key: &str) -> Result<Option<String>, StoreError> {
    match store.get(key, WHOLE).await {
        Ok(piece) => Ok(Some(String::from_utf8(piece.bytes.to_vec()).expect("text was put"))),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Of a page that must be the last.
pub async fn keys(store: &dyn ObjectStore, prefix: &str, after: Option<&str>) -> Vec<String> {
    let page = store.list(prefix, after).await.unwrap();
    assert!(!page.is_cut);
    page.objects.into_iter().map(|object| object.key).collect()
}

pub async fn objects_are_put_replaced_and_read_in_ranges(store: &dyn ObjectStore, place: &str) {
    let key = &format!("{place}a/b/c.seg");
    put(store, key, "0123456789", Condition::None).await.unwrap();
    let piece = |bytes: &'static str, position| Piece {
        bytes: Bytes::from_static(bytes.as_bytes()),
        position,
        object_bytes: 10,
    };
    for (range, expected) in [
        (WHOLE, piece("0123456789", 0)),
        (ByteRange::Whole { bytes_max: 10 }, piece("0123456789", 0)),
        (ByteRange::From { position: 3, len: 4 }, piece("3456", 3)),
        (ByteRange::From { position: 8, len: 5 }, piece("89", 8)),
        (ByteRange::From { position: 8, len: usize::MAX }, piece("89", 8)),
        (ByteRange::From { position: 3, len: 0 }, piece("", 3)),
        (ByteRange::Suffix { len: 3 }, piece("789", 7)),
        (ByteRange::Suffix { len: 11 }, piece("0123456789", 0)),
        (ByteRange::Suffix { len: 0 }, piece("", 10)),
    ] {
        assert_eq!(store.get(key, range).await.unwrap(), expected, "{range:?}");
    }
    for refused in [
        ByteRange::Whole { bytes_max: 9 },
        ByteRange::From { position: 10, len: 1 },
        ByteRange::From { position: 10, len: 0 },
        ByteRange::From { position: 1 << 40, len: usize::MAX },
    ] {
        let error = store.get(key, refused).await.unwrap_err();
        assert!(matches!(&error, StoreError::Range { object_bytes: 10, .. }), "{refused:?}: {error}");
    }
    put(store, key, "new", Condition::None).await.unwrap();
    assert_eq!(text(store, key).await.unwrap().as_deref(), Some("new"));
    let empty = &format!("{place}empty");
    put(store, empty, "", Condition::None).await.unwrap();
    let nothing = Piece { bytes: Bytes::new(), position: 0, object_bytes: 0 };
    for range in [WHOLE, ByteRange::Whole { bytes_max: 0 }, ByteRange::Suffix { len: 5 }] {
        assert_eq!(store.get(empty, range).await.unwrap(), nothing, "{range:?}");
    }
    let error = store.get(empty, ByteRange::From { position: 0, len: 1 }).await.unwrap_err();
    assert!(matches!(error, StoreError::Range { object_bytes: 0, .. }), "{error}");
    for missing in ["a", "a/b/d.seg", "nothing/there"] {
        for range in [WHOLE, ByteRange::From { position: 1, len: 1 }, ByteRange::Suffix { len: 1 }] {
            let error = store.get(&format!("{place}{missing}"), range).await.unwrap_err();
            // In a directory something may be there that is no object.
            assert!(
                matches!(error, StoreError::NotFound(_) | StoreError::Unavailable(_)),
                "{missing}: {error}"
            );
        }
    }
}

pub async fn what_must_be_absent_is_not_replaced(store: &dyn ObjectStore, place: &str) {
    let key = format!("{place}1.json");
    put(store, &key, "first", Condition::Absent).await.unwrap();
    let second = put(store, &key, "second", Condition::Absent).await;
    assert!(matches!(&second, Err(StoreError::Exists(told)) if *told == key), "{second:?}");
    assert_eq!(text(store, &key).await.unwrap().as_deref(), Some("first"));
}

/// Of many who put what must be absent one wins, through as many stores as there are.
pub async fn one_wins(stores: &[Arc<dyn ObjectStore>], place: &str, rounds: usize, writers: usize) {
    for round in 0..rounds {
        let key = format!("{place}{round}");
        let puts = (0..writers).map(|writer| {
            let (key, store) = (&key, &stores[writer % stores.len()]);
            async move { put(&**store, key, &writer.to_string(), Condition::Absent).await }
        });
        let mut won = Vec::new();
        for (writer, outcome) in join_all(puts).await.into_iter().enumerate() {
            match outcome {
                Ok(()) => won.push(writer),
                Err(StoreError::Exists(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(text(&*stores[0], &key).await.unwrap(), Some(won[0].to_string()));
    }
}

pub async fn lists_are_in_the_order_of_keys(store: &dyn ObjectStore, place: &str) {
    let at = |key: &str| format!("{place}{key}");
    // A slash comes after a minus and before a zero.
    let all = ["a-b", "a/b", "a/c/1", "a/c/2", "a0", "b/1"].map(at);
    for key in ["b/1", "a/c/2", "a0", "a/b", "a-b", "a/c/1"] {
        put(store, &at(key), key, Condition::None).await.unwrap();
    }
    assert_eq!(keys(store, place, None).await, all);
    for (index, key) in all.iter().enumerate() {
        assert_eq!(keys(store, place, Some(key)).await, all[index + 1..]);
    }
    assert_eq!(keys(store, place, Some(&at("a/"))).await, all[1..]);
    assert_eq!(keys(store, &at("a/"), None).await, all[1..4]);
    assert_eq!(keys(store, &at("a/c"), Some(&at("a/c/1"))).await, [at("a/c/2")]);
    assert_eq!(keys(store, &at("a/c/1"), None).await, [at("a/c/1")]);
    assert_eq!(keys(store, &at("c"), None).await, [""; 0]);
    assert_eq!(store.list(&at("b/"), None).await.unwrap().objects[0].bytes, 3);
}

async fn put_all(store: &dyn ObjectStore, keys: &[String]) {
    for keys in keys.chunks(16) {
        for outcome in join_all(keys.iter().map(|key| put(store, key, "x", Condition::None))).await {
            outcome.unwrap();
        }
    }
}

pub async fn lists_come_in_pages(store: &dyn ObjectStore, place: &str) {
    let all: Vec<String> = (0..PAGE_KEYS_MAX + 5).map(|n| format!("{place}{n:05}")).collect();
    put_all(store, &all[..PAGE_KEYS_MAX]).await;
    let full: Page = store.list(place, None).await.unwrap();
    assert!(!full.is_cut, "a full page is not a cut one");
    assert_eq!(full.objects.len(), PAGE_KEYS_MAX);
    put_all(store, &all[PAGE_KEYS_MAX..]).await;
    let first = store.list(place, None).await.unwrap();
    assert!(first.is_cut);
    assert_eq!(first, Page { is_cut: true, ..full });
    assert_eq!(keys(store, place, Some(&all[PAGE_KEYS_MAX - 1])).await, all[PAGE_KEYS_MAX..]);
    store.delete(&all[..PAGE_KEYS_MAX]).await.unwrap();
    assert_eq!(keys(store, place, None).await, all[PAGE_KEYS_MAX..]);
}

pub async fn what_is_deleted_is_gone_and_may_be_deleted_again(store: &dyn ObjectStore, place: &str) {
    let at = |key: &str| format!("{place}{key}");
    for key in ["d/1", "d/2", "d/3"] {
        put(store, &at(key), key, Condition::None).await.unwrap();
    }
    let gone = ["d/1", "d/3", "nothing/there"].map(at);
    store.delete(&gone).await.unwrap();
    store.delete(&gone).await.unwrap();
    store.delete(&[]).await.unwrap();
    assert_eq!(keys(store, place, None).await, [at("d/2")]);
    put(store, &at("d/1"), "again", Condition::Absent).await.unwrap();
}

pub async fn what_is_no_key_is_refused(store: &dyn ObjectStore) {
    let long = "k".repeat(1025);
    for key in ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.b", ".uploads/1/0", "a b", "a\0", &long] {
        let outcomes = [
            put(store, key, "x", Condition::None).await,
            store.get(key, WHOLE).await.map(|_| ()),
            store.delete(&[key.to_owned()]).await,
        ];
        for outcome in outcomes {
            assert!(matches!(outcome, Err(StoreError::Key(_))), "{key:?}: {outcome:?}");
        }
    }
}
