//! A service in trouble.

use std::sync::Arc;
use std::time::Duration;

use ottla_aws::s3::S3Store;
use ottla_storage::tiering::store::{ByteRange, Condition, ObjectStore, StoreError};
use ottla_storage::tiering::testing::{keeps_its_promises, one_wins_in_the_end, put, text};
use serde_json::json;

use crate::server::{Server, open};

async fn with(server: &Server, change: impl FnOnce(&mut ottla_aws::access::Access)) -> S3Store {
    let mut config = server.config();
    change(&mut config.access);
    open(config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_whose_answer_was_lost_is_known_again() {
    let Some(server) = Server::start() else { return };
    let store = with(&server, |access| access.request_timeout = Duration::from_millis(500)).await;
    for kind in ["lose", "fail", "cut", "late"] {
        let key = format!("{kind}/1.json");
        server.faults(json!([{"kind": kind, "method": "PUT", "times": 1}]));
        put(&store, &key, "mine", Condition::Absent).await.unwrap();
        assert_eq!(server.came_true(), [1], "{kind}");
        assert_eq!(text(&store, &key).await.unwrap().as_deref(), Some("mine"));
        let second = put(&store, &key, "again", Condition::Absent).await;
        assert!(matches!(second, Err(StoreError::Exists(_))), "{second:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_object_is_not_taken_for_the_one_whose_answer_was_lost() {
    let Some(server) = Server::start() else { return };
    let (store, other) = (server.store().await, server.store().await);
    put(&other, "1.json", "another's", Condition::Absent).await.unwrap();
    server.faults(json!([{"kind": "drop", "method": "PUT", "times": 1}]));
    let mine = put(&store, "1.json", "mine", Condition::Absent).await;
    assert!(matches!(mine, Err(StoreError::Exists(_))), "{mine:?}");
    // While nobody can look whose it is, nobody knows.
    server.faults(json!([
        {"kind": "drop", "method": "PUT", "times": 1}, {"kind": "refuse", "method": "HEAD", "status": 403}
    ]));
    let mine = put(&store, "1.json", "mine", Condition::Absent).await;
    assert!(matches!(mine, Err(StoreError::Unavailable(_))), "{mine:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_another_try_a_lost_answer_is_unknown() {
    let Some(server) = Server::start() else { return };
    let store = with(&server, |access| access.retries = 0).await;
    server.faults(json!([{"kind": "lose", "method": "PUT"}]));
    let lost = put(&store, "1.json", "mine", Condition::Absent).await;
    assert!(matches!(lost, Err(StoreError::Unavailable(_))), "{lost:?}");
    server.faults(json!([]));
    assert_eq!(text(&store, "1.json").await.unwrap().as_deref(), Some("mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_service_is_asked_again() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    let conflict = json!({"kind": "refuse", "status": 409, "code": "ConditionalRequestConflict", "times": 1});
    server.faults(json!([{"kind": "refuse", "times": 2}, conflict]));
    put(&store, "a", "content", Condition::Absent).await.unwrap();
    assert_eq!(server.came_true(), [2, 1]);
    server.faults(json!([{"kind": "refuse", "status": 500, "code": "InternalError", "times": 1}]));
    store.list("", None).await.unwrap();
    server.faults(json!([{"kind": "drop", "times": 1}]));
    store.delete(&["b".to_owned()]).await.unwrap();
    let counts = store.counts();
    assert_eq!((counts.puts, counts.lists, counts.deletes, counts.errors), (4, 2, 2, 5), "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_early_is_asked_for_again() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    put(&store, "a", "0123456789", Condition::None).await.unwrap();
    server.faults(json!([{"kind": "cut", "times": 2}]));
    assert_eq!(text(&store, "a").await.unwrap().as_deref(), Some("0123456789"));
    assert_eq!(server.came_true(), [2]);
    server.faults(json!([{"kind": "cut", "times": 1}]));
    let piece = store.get("a", ByteRange::From { position: 2, len: 5 }).await.unwrap();
    assert_eq!((&piece.bytes[..], piece.position), (&b"23456"[..], 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_unavailable_and_passes() {
    let Some(server) = Server::start() else { return };
    let store = with(&server, |access| access.retries = 1).await;
    put(&store, "a", "content", Condition::None).await.unwrap();
    server.faults(json!([{"kind": "drop"}]));
    for outcome in [
        put(&store, "b", "content", Condition::None).await,
        put(&store, "c", "content", Condition::Absent).await,
        text(&store, "a").await.map(|_| ()),
        store.list("", None).await.map(|_| ()),
        store.delete(&["a".to_owned()]).await,
    ] {
        let told = outcome.unwrap_err();
        assert!(matches!(told, StoreError::Unavailable(_)), "{told:?}");
        assert!(told.to_string().starts_with(&format!("s3://{}/", server.bucket)), "{told}");
    }
    server.faults(json!([]));
    assert_eq!(text(&store, "a").await.unwrap().as_deref(), Some("content"));
    assert_eq!(text(&store, "b").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_answers_are_waited_for_up_to_the_limit() {
    let Some(server) = Server::start() else { return };
    let patient = server.store().await;
    server.faults(json!([{"kind": "slow", "seconds": 0.5}]));
    put(&patient, "a", "content", Condition::None).await.unwrap();
    let hasty = with(&server, |access| {
        access.request_timeout = Duration::from_millis(100);
        access.retries = 1;
    });
    let told = text(&hasty.await, "a").await.unwrap_err();
    assert!(matches!(&told, StoreError::Unavailable(told) if told.contains("within 100 ms")), "{told}");
}

/// Every kind of fault at once, in numbers that have nothing in common, so that they fall on different requests each time.
fn all_faults() -> serde_json::Value {
    json!([
        {"kind": "lose", "every": 7},
        {"kind": "fail", "every": 11},
        {"kind": "drop", "every": 13},
        {"kind": "refuse", "every": 17},
        {"kind": "cut", "every": 5},
        {"kind": "refuse", "every": 23, "status": 500, "code": "InternalError"}
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_are_kept_through_all_faults() {
    let Some(server) = Server::start() else { return };
    for retries in [0, 2] {
        let store = with(&server, |access| access.retries = retries).await;
        server.faults(all_faults());
        let place = format!("with/{retries}/");
        keeps_its_promises(&store, &place, 400, rand::random).await.unwrap();
        assert!(server.came_true().iter().all(|times| *times > 3), "{:?}", server.came_true());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_wins_through_all_faults() {
    let Some(server) = Server::start() else { return };
    for retries in [0, 2] {
        let mut stores: Vec<Arc<dyn ObjectStore>> = Vec::new();
        for _ in 0..3 {
            stores.push(Arc::new(with(&server, |access| access.retries = retries).await));
        }
        server.faults(all_faults());
        let rounds = async {
            // The list at the end is asked for by a store that tries again.
            stores.insert(0, Arc::new(with(&server, |access| access.retries = 20).await));
            one_wins_in_the_end(&stores, &format!("with/{retries}/"), 10, 16).await
        };
        rounds.await.unwrap();
        assert!(server.came_true().iter().all(|times| *times > 3), "{:?}", server.came_true());
    }
}
