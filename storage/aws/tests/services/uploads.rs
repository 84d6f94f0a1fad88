//! Objects that are put in parts.

use std::io::Write;
use std::time::Duration;

use aws_sdk_s3::Client;
use bytes::Bytes;
use ottla_aws::s3::S3Store;
use ottla_batch::TimestampMs;
use ottla_storage::tiering::store::{ByteRange, Condition, Content, ObjectStore, StoreError};
use ottla_storage::tiering::testing::push_file;
use serde_json::json;

use crate::server::{Server, access, open};

const MIB: usize = 1 << 20;
const EVER: TimestampMs = TimestampMs(i64::MAX);

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at % 251) as u8 ^ seed).collect()
}

/// Memory, a file and memory again, of more than two parts; and the same in one piece.
fn content(seed: u8) -> (Content, Vec<u8>) {
    content_of(34 * MIB + 11, seed)
}

fn content_of(len: usize, seed: u8) -> (Content, Vec<u8>) {
    let whole = pattern(len, seed);
    let in_file = 100..len - 4 * MIB;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"before").unwrap();
    file.write_all(&whole[in_file.clone()]).unwrap();
    file.flush().unwrap();
    let mut content = Content::default();
    content.push_bytes(Bytes::copy_from_slice(&whole[..100]));
    push_file(&mut content, file.path(), 6, in_file.len() as u64).unwrap();
    content.push_bytes(Bytes::copy_from_slice(&whole[in_file.end..]));
    (content, whole)
}

async fn assert_there(store: &S3Store, key: &str, whole: &[u8]) {
    let piece = store.get(key, ByteRange::Whole { bytes_max: usize::MAX }).await.unwrap();
    assert!(piece.bytes == whole, "{key} is not what was put");
    let middle = store.get(key, ByteRange::From { position: 16 * MIB as u64 - 5, len: 10 }).await.unwrap();
    assert_eq!(&middle.bytes[..], &whole[16 * MIB - 5..16 * MIB + 5]);
}

/// Uploads that were begun and neither completed nor given up.
async fn unfinished(server: &Server) -> usize {
    let listed = client(server).await.list_multipart_uploads().bucket(&server.bucket).send().await.unwrap();
    listed.uploads().len()
}

async fn until_none_is_unfinished(server: &Server) {
    for _ in 0..200 {
        if unfinished(server).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("an upload was not given up");
}

async fn client(server: &Server) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .credentials_provider(access().credentials.unwrap())
        .region(aws_sdk_s3::config::Region::new("us-east-1"))
        .endpoint_url(server.url)
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_is_put_in_parts() {
    let Some(server) = Server::start() else { return };
    for checksums in [false, true] {
        let mut config = server.config();
        config.checksums = checksums;
        let store = open(config).await;
        let key = format!("large/{checksums}");
        let (content, whole) = content(1);
        store.put(&key, content, Condition::Absent).await.unwrap();
        assert_there(&store, &key, &whole).await;
        let counts = store.counts();
        assert_eq!(counts.puts, 1 + 3 + 1, "begun, three parts, completed");
        assert_eq!(counts.bytes_put, whole.len() as u64);
        let (other, _) = self::content(2);
        let second = store.put(&key, other.clone(), Condition::Absent).await;
        assert!(matches!(second, Err(StoreError::Exists(_))), "{second:?}");
        assert_there(&store, &key, &whole).await;
        until_none_is_unfinished(&server).await;
        store.put(&key, other, Condition::None).await.unwrap();
        assert_there(&store, &key, &pattern(34 * MIB + 11, 2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_upload_any_answer_may_be_lost() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    let complete = "uploadId=[^&]+$";
    let no_such_upload = json!({"kind": "refuse", "status": 404, "code": "NoSuchUpload", "method": "POST", "path": complete, "times": 1});
    for (index, rules) in [
        json!([{"kind": "lose", "every": 2, "times": 2}]),
        json!([{"kind": "lose", "method": "POST", "path": "[?&]uploads", "times": 1}]),
        json!([{"kind": "fail", "method": "PUT", "times": 2}]),
        json!([{"kind": "lose", "method": "POST", "path": complete, "times": 1}]),
        json!([{"kind": "fail", "method": "POST", "path": complete, "times": 1}]),
        // As S3 answers the second time.
        json!([{"kind": "lose", "method": "POST", "path": complete, "times": 1}, no_such_upload]),
    ]
    .into_iter()
    .enumerate()
    {
        for condition in [Condition::None, Condition::Absent] {
            server.faults(rules.clone());
            let key = format!("{index}/{condition:?}");
            let (content, whole) = content_of(33 * MIB, index as u8);
            store.put(&key, content, condition).await.unwrap_or_else(|error| panic!("{rules}: {error}"));
            assert!(server.came_true().iter().all(|times| *times > 0), "{rules}: {:?}", server.came_true());
            server.faults(json!([]));
            assert_there(&store, &key, &whole).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_comes_to_no_end_is_given_up() {
    let Some(server) = Server::start() else { return };
    let mut config = server.config();
    config.access.retries = 0;
    let store = open(config).await;
    // The service, what is read, and whoever asked.
    server.faults(json!([{"kind": "refuse", "method": "PUT", "path": "partNumber=2"}]));
    let failed = store.put("a", content(0).0, Condition::None).await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    until_none_is_unfinished(&server).await;
    server.faults(json!([{"kind": "refuse", "status": 409, "method": "POST", "path": "uploadId=", "code": "ConditionalRequestConflict"}]));
    let failed = store.put("a", content(0).0, Condition::Absent).await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    server.faults(json!([]));
    until_none_is_unfinished(&server).await;

    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(20 * MIB as u64).unwrap();
    let mut shorter = Content::default();
    push_file(&mut shorter, file.path(), 0, 40 * MIB as u64).unwrap();
    let failed = store.put("a", shorter, Condition::None).await;
    assert!(matches!(failed, Err(StoreError::Content { .. })), "{failed:?}");
    until_none_is_unfinished(&server).await;

    server.faults(json!([{"kind": "slow", "seconds": 1, "path": "partNumber="}]));
    let begun = tokio::spawn({
        let store = store.clone();
        async move { store.put("a", content(0).0, Condition::None).await }
    });
    while unfinished(&server).await == 0 {
        assert!(!begun.is_finished());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begun.abort();
    until_none_is_unfinished(&server).await;
    assert!(store.list("", None).await.unwrap().objects.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dead_writers_left_is_given_up() {
    let Some(server) = Server::start() else { return };
    let client = client(&server).await;
    for key in ["ours/1", "ours/2", "others/1"] {
        client.create_multipart_upload().bucket(&server.bucket).key(key).send().await.unwrap();
    }
    let store = server.store().await;
    assert_eq!(store.abort_stale_uploads("ours/", TimestampMs(0)).await.unwrap(), 0, "none is so old");
    assert_eq!(store.abort_stale_uploads("ours/", EVER).await.unwrap(), 2);
    assert_eq!(unfinished(&server).await, 1);
}
