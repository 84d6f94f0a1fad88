//! How bytes get into a bucket: in one request or in parts, read while they are sent.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use bytes::Bytes;
use ottla_aws::access::http_client;
use ottla_aws::s3::{self, Integrity, S3Store};
use ottla_batch::TimestampMs;
use ottla_storage::tiering::directory::Beside;
use ottla_storage::tiering::store::{ByteRange, Condition, Content, ObjectStore, StoreError};
use ottla_storage::tiering::testing::push_file;
use serde_json::json;

use crate::server::{PART_BYTES, Server, access, open};

const PART: usize = PART_BYTES as usize;
const MIB: usize = 1 << 20;
const EVER: TimestampMs = TimestampMs(i64::MAX);

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at / 7 + at % 251) as u8 ^ seed).collect()
}

/// Of three parts.
fn content(seed: u8) -> (Content, Vec<u8>) {
    content_of(2 * PART + 11, seed)
}

/// Memory, a file and memory again; and the same in one piece.
fn content_of(len: usize, seed: u8) -> (Content, Vec<u8>) {
    let whole = pattern(len, seed);
    let in_file = len.min(100)..len - len / 5;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"before").unwrap();
    file.write_all(&whole[in_file.clone()]).unwrap();
    file.flush().unwrap();
    let mut content = Content::default();
    content.push_bytes(Bytes::copy_from_slice(&whole[..in_file.start]));
    push_file(&mut content, file.path(), 6, in_file.len() as u64).unwrap();
    content.push_bytes(Bytes::copy_from_slice(&whole[in_file.end..]));
    (content, whole)
}

async fn assert_there(store: &S3Store, key: &str, whole: &[u8]) {
    let piece = store.get(key, ByteRange::Whole { bytes_max: usize::MAX }).await.unwrap();
    assert!(piece.bytes == whole, "{key} is not what was put");
    if whole.len() > PART + 5 {
        let middle = store.get(key, ByteRange::From { position: PART_BYTES - 5, len: 10 }).await.unwrap();
        assert_eq!(&middle.bytes[..], &whole[PART - 5..PART + 5]);
    }
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
        .http_client(http_client())
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

async fn with(server: &Server, integrity: Integrity) -> S3Store {
    let mut config = server.config();
    config.integrity = integrity;
    open(config).await
}

const INTEGRITIES: [Integrity; 2] = [Integrity::Crc32c, Integrity::Signature];

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_all_sizes_are_put_as_they_are() {
    let Some(server) = Server::start() else { return };
    for integrity in INTEGRITIES {
        let store = with(&server, integrity).await;
        for (len, requests) in [
            (0, 1),
            (1, 1),
            (512 << 10, 1),
            ((512 << 10) + 1, 1),
            (PART, 1),
            (PART + 1, 1 + 2 + 1),
            (2 * PART, 1 + 2 + 1),
            (3 * PART + 7, 1 + 4 + 1),
        ] {
            let before = store.counts();
            let (content, whole) = content_of(len, len as u8);
            let key = format!("{integrity:?}/{len}");
            store.put(&key, content, Condition::Absent).await.unwrap();
            let after = store.counts();
            assert_eq!(after.puts - before.puts, requests, "{len} bytes");
            assert_eq!(after.bytes_put - before.bytes_put, len as u64);
            assert_eq!(after.errors, 0);
            assert_there(&store, &key, &whole).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_is_put_in_parts() {
    let Some(server) = Server::start() else { return };
    for integrity in INTEGRITIES {
        let store = with(&server, integrity).await;
        let key = format!("large/{integrity:?}");
        let (content, whole) = content(1);
        store.put(&key, content, Condition::Absent).await.unwrap();
        assert_there(&store, &key, &whole).await;
        let (other, changed) = self::content(2);
        let second = store.put(&key, other.clone(), Condition::Absent).await;
        assert!(matches!(second, Err(StoreError::Exists(_))), "{second:?}");
        assert_there(&store, &key, &whole).await;
        until_none_is_unfinished(&server).await;
        store.put(&key, other, Condition::None).await.unwrap();
        assert_there(&store, &key, &changed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_as_large_as_the_broker_has_them() {
    let Some(server) = Server::start() else { return };
    let mut config = server.config();
    config.part_bytes = s3::PART_BYTES;
    let store = open(config).await;
    let (content, whole) = content_of(s3::PART_BYTES as usize + 1, 3);
    store.put("a", content, Condition::None).await.unwrap();
    assert_there(&store, "a", &whole).await;
    assert_eq!(store.counts().puts, 1 + 2 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_in_the_middle_is_begun_again() {
    let Some(server) = Server::start() else { return };
    for integrity in INTEGRITIES {
        let store = with(&server, integrity).await;
        for (index, rules) in [
            // Of a part, and of an object in one piece.
            json!([{"kind": "stop", "method": "PUT", "path": "partNumber=2", "bytes": PART / 2, "times": 2}]),
            json!([{"kind": "stop", "method": "PUT", "path": "whole", "bytes": PART / 2, "times": 2}]),
            json!([{"kind": "stop", "method": "PUT", "bytes": 0, "times": 2}]),
            json!([{"kind": "stop", "method": "PUT", "bytes": PART / 3, "status": 503, "times": 3}]),
            json!([{"kind": "stop", "method": "PUT", "bytes": PART / 3, "status": 500, "code": "InternalError", "times": 3}]),
        ]
        .into_iter()
        .enumerate()
        {
            for (name, len) in [("whole", PART), ("parts", 2 * PART + 9)] {
                server.faults(rules.clone());
                let key = format!("{integrity:?}/{index}/{name}");
                let (content, whole) = content_of(len, index as u8);
                let errors = store.counts().errors;
                store.put(&key, content, Condition::Absent).await.unwrap_or_else(|error| panic!("{rules}: {error}"));
                let [came_true] = server.came_true()[..] else { panic!("one rule") };
                assert_eq!(store.counts().errors - errors, came_true, "{rules}: {name}");
                assert!(came_true > 0 || rules.to_string().contains("path"), "{rules}");
                server.faults(json!([]));
                assert_there(&store, &key, &whole).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_what_its_checksum_says_is_refused() {
    let Some(server) = Server::start() else { return };
    // By the server that the other tests believe.
    let client = client(&server).await;
    let put = client.put_object().bucket(&server.bucket).key("a").body(Bytes::from_static(b"content").into());
    let refused = put.checksum_crc32_c("AAAAAA==").send().await.unwrap_err();
    assert_eq!(refused.into_service_error().meta().code(), Some("BadDigest"));
    assert!(server.store().await.list("", None).await.unwrap().objects.is_empty());
    // On its way, it comes as it was sent when it is sent again.
    for code in ["BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"] {
        let store = server.store().await;
        server.faults(json!([{"kind": "refuse", "status": 400, "code": code, "method": "PUT", "times": 1}]));
        let (content, whole) = content_of(1000, 1);
        store.put(code, content, Condition::Absent).await.unwrap();
        assert_there(&store, code, &whole).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_takes_nothing_more_is_given_up_and_asked_again() {
    let Some(server) = Server::start() else { return };
    let mut config = server.config();
    config.access.request_timeout = Duration::from_secs(1);
    let store = open(config).await;
    server.faults(json!([{"kind": "stop", "method": "PUT", "bytes": PART / 3, "seconds": 3, "times": 1}]));
    let (content, whole) = content(4);
    store.put("a", content, Condition::Absent).await.unwrap();
    assert_eq!(server.came_true(), [1]);
    assert!(store.counts().errors > 0);
    assert_there(&store, "a", &whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_sent_is_never_stored() {
    let Some(server) = Server::start() else { return };
    type Change = (fn(&File), &'static str);
    let changes: [Change; 4] = [
        (|file| file.write_all_at(b"changed", 0).unwrap(), "changed while it was sent"),
        (|file| file.write_all_at(b"changed", PART_BYTES - 7).unwrap(), "changed while it was sent"),
        (|file| file.set_len(PART_BYTES / 2).unwrap(), "unexpected end of file"),
        (|file| file.set_len(0).unwrap(), "unexpected end of file"),
    ];
    for integrity in INTEGRITIES {
        for (len, (change, told)) in
            [PART, 3 * PART].into_iter().flat_map(|len| changes.map(|change| (len, change)))
        {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&pattern(len, 1)).unwrap();
            let mut content = Content::default();
            push_file(&mut content, file.path(), 0, len as u64).unwrap();
            let reads = AtomicUsize::new(0);
            // First the part is read for its checksum, then to be sent.
            let beside: Beside = Arc::new(move |read| {
                if reads.fetch_add(1, Ordering::SeqCst) == 1 {
                    change(file.as_file());
                }
                read();
            });
            let mut config = server.config();
            config.integrity = integrity;
            let store = S3Store::open(config, beside).await;
            let failed = store.put("a", content, Condition::None).await.unwrap_err();
            assert!(matches!(failed, StoreError::Content { .. }), "{failed:?}");
            assert!(failed.to_string().contains(told), "{failed}");
            until_none_is_unfinished(&server).await;
            assert!(store.list("", None).await.unwrap().objects.is_empty());
        }
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
            let (content, whole) = content_of(2 * PART + MIB, index as u8);
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
    file.as_file().set_len(PART_BYTES + 9).unwrap();
    let mut shorter = Content::default();
    push_file(&mut shorter, file.path(), 0, 3 * PART_BYTES).unwrap();
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
