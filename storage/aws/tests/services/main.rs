//! Amazon's services against a server on this machine: a bucket keeps the contract of all stores, and what only a bucket has; Glue keeps
//! that of a catalog; both under faults.

mod faults;
#[cfg(feature = "glue")]
mod glue;
mod refusals;
mod server;
mod uploads;

use std::sync::Arc;

use ottla_aws::s3::Integrity;
use ottla_storage::tiering::store::{Condition, ObjectStore};
use ottla_storage::tiering::testing::{keeps_the_contract, one_wins, put, text};
use server::{Server, open};

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_keeps_the_contract() {
    let Some(server) = Server::start() else { return };
    keeps_the_contract(&server.store().await, "plain/").await;
    let mut config = server.config();
    config.integrity = Integrity::Crc32c;
    config.sse_kms_key_id = Some("arn:aws:kms:us-east-1:123456789012:key/1".to_owned());
    keeps_the_contract(&open(config).await, "checked/and/encrypted/").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_put_what_must_be_absent_one_wins() {
    let Some(server) = Server::start() else { return };
    let mut stores: Vec<Arc<dyn ObjectStore>> = Vec::new();
    for _ in 0..4 {
        stores.push(Arc::new(server.store().await));
    }
    one_wins(&stores, "m/", 20, 32).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_counted() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    keeps_the_contract(&store, "").await;
    let before = store.counts();
    assert_eq!(before.errors, 0, "{before:?}");
    put(&store, "c", "content", Condition::None).await.unwrap();
    text(&store, "c").await.unwrap();
    store.list("c", None).await.unwrap();
    store.delete(&["c".to_owned()]).await.unwrap();
    let after = store.counts();
    assert_eq!(
        (after.puts, after.gets, after.lists, after.deletes, after.errors),
        (before.puts + 1, before.gets + 1, before.lists + 1, before.deletes + 1, 0)
    );
    assert_eq!((after.bytes_put, after.bytes_got), (before.bytes_put + 7, before.bytes_got + 7));
}
