//! What helps nobody to ask again for is not asked again, and said in a sentence that names the bucket.

use std::time::{Duration, Instant};

use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::future::ProvideCredentials as Provided;
use ottla_storage::tiering::store::{Condition, ObjectStore, StoreError};
use ottla_storage::tiering::testing::{put, text};
use serde_json::json;

use crate::server::{Server, open};

fn refused(outcome: Result<(), StoreError>) -> String {
    match outcome {
        Err(StoreError::Refused(told)) => told,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_is_said_in_a_sentence() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    for (status, code, message, headers, told) in [
        (
            403,
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
            json!({}),
            ": these credentials are not known there (InvalidAccessKeyId: The AWS Access Key Id you provided does not exist in our records.)",
        ),
        (
            403,
            "AccessDenied",
            "Access Denied",
            json!({}),
            ": not allowed with these credentials (AccessDenied: Access Denied)",
        ),
        (
            404,
            "NoSuchBucket",
            "The specified bucket does not exist",
            json!({}),
            ": there is no such bucket (NoSuchBucket: The specified bucket does not exist)",
        ),
        (
            301,
            "PermanentRedirect",
            "Use another endpoint.",
            json!({"x-amz-bucket-region": "eu-west-1"}),
            ": the bucket is not in us-east-1, it is in eu-west-1 (PermanentRedirect: Use another endpoint.)",
        ),
        (
            400,
            "AuthorizationHeaderMalformed",
            "expecting 'eu-west-1'",
            json!({}),
            ": the bucket is not in us-east-1, it is in another (AuthorizationHeaderMalformed: expecting 'eu-west-1')",
        ),
        (
            403,
            "RequestTimeTooSkewed",
            "Too far.",
            json!({}),
            ": the clock of this machine is wrong (RequestTimeTooSkewed: Too far.)",
        ),
    ] {
        let rule =
            json!({"kind": "refuse", "status": status, "code": code, "message": message, "headers": headers});
        server.faults(json!([rule]));
        let told = format!("s3://{}/a/b{told}", server.bucket);
        assert_eq!(refused(put(&store, "a/b", "x", Condition::Absent).await), told);
        assert_eq!(refused(text(&store, "a/b").await.map(|_| ())), told);
        assert_eq!(server.came_true(), [2], "none was asked again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_named() {
    let Some(server) = Server::start() else { return };
    let mut config = server.config();
    config.bucket = "not-made-yet".to_owned();
    let store = open(config).await;
    let sentence = "s3://not-made-yet/a: there is no such bucket";
    for outcome in [
        put(&store, "a", "x", Condition::None).await,
        text(&store, "a").await.map(|_| ()),
        store.check("a").await,
        store.delete(&["a".to_owned()]).await,
    ] {
        let told = refused(outcome);
        assert!(told.starts_with(sentence), "{told}");
    }
}

#[derive(Debug)]
struct Nothing;

impl ProvideCredentials for Nothing {
    fn provide_credentials<'a>(&'a self) -> Provided<'a>
    where
        Self: 'a,
    {
        Provided::ready(Err(CredentialsError::not_loaded("nothing is set")))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_it_is_said_so() {
    let Some(server) = Server::start() else { return };
    let mut config = server.config();
    config.access.credentials = Some(SharedCredentialsProvider::new(Nothing));
    let told = refused(open(config).await.check("").await);
    assert!(told.contains("/: no credentials: "), "{told}");
    assert!(told.contains("nothing is set"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_not_there_is_unavailable() {
    let Some(server) = Server::start() else { return };
    let mut config = server.config();
    // Of a listener that is gone again.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    config.endpoint = Some(format!("http://{address}"));
    config.access.retries = 1;
    let begin = Instant::now();
    let told = text(&open(config).await, "a").await.unwrap_err();
    assert!(matches!(told, StoreError::Unavailable(_)), "{told}");
    assert!(told.to_string().contains("refused"), "{told}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_that_stays_is_told_of() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    let result = |errors: &str| format!("<DeleteResult>{errors}</DeleteResult>");
    let error = |key: &str, code: &str| {
        format!("<Error><Key>{key}</Key><Code>{code}</Code><Message>Why.</Message></Error>")
    };
    let keys = ["a".to_owned(), "b".to_owned()];
    let both = result(&(error("a", "InternalError") + &error("b", "AccessDenied")));
    server.faults(json!([{"kind": "refuse", "method": "POST", "status": 200, "body": both}]));
    assert_eq!(refused(store.delete(&keys).await), format!("s3://{}/b: AccessDenied: Why.", server.bucket));
    assert_eq!(server.came_true(), [1]);
    let one = result(&error("b", "InternalError"));
    server.faults(json!([{"kind": "refuse", "method": "POST", "status": 200, "body": one, "times": 2}]));
    store.delete(&keys).await.unwrap();
    assert_eq!(server.came_true(), [2], "asked again until it went");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_make_no_sense_are_errors() {
    let Some(server) = Server::start() else { return };
    let mut config = server.config();
    config.access.retries = 0;
    let store = open(config).await;
    for (status, headers, body) in [
        (206, json!({"Content-Range": "bytes 0-3/4"}), "01234"),
        (206, json!({"Content-Range": "bytes 2-4/18446744073709551615"}), "012"),
        (206, json!({"Content-Range": "bytes 1-3"}), "012"),
        (206, json!({"Content-Range": "bytes -1--1/-1"}), "012"),
        (206, json!({"Content-Range": "of any kind"}), "012"),
        (200, json!({}), "0123456789"),
    ] {
        let rule = json!({"kind": "refuse", "status": status, "headers": headers, "body": body});
        server.faults(json!([rule]));
        let range = ottla_storage::tiering::store::ByteRange::From { position: 1, len: 3 };
        let told = store.get("a", range).await.unwrap_err();
        assert!(matches!(told, StoreError::Unavailable(_)), "{rule}: {told}");
    }
    for body in ["", "<", "<Error>", "no XML at all"] {
        server.faults(json!([{"kind": "refuse", "status": 200, "body": body}]));
        if let Err(told) = store.list("", None).await {
            assert!(matches!(told, StoreError::Unavailable(_)), "{body}: {told}");
        }
    }
}
