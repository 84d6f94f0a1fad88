//! Puts a file into a bucket, so many times: what benches/tier/upload.py measures.
//!
//!     s3_upload ENDPOINT FILE TIMES crc32c|signature

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use ottla_aws::access::Access;
use ottla_aws::s3::{Integrity, PART_BYTES, S3Config, S3Store};
use ottla_storage::tiering::store::{Condition, Content, ObjectStore};
use ottla_storage::tiering::testing::push_file;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, endpoint, file, times, integrity] = &arguments[..] else {
        panic!("see the head of this program")
    };
    let credentials = Credentials::new("key", "secret", None, None, "bench");
    let access = Access {
        region: None,
        credentials: Some(SharedCredentialsProvider::new(credentials)),
        role_arn: None,
        role_external_id: None,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(60),
        retries: 0,
    };
    let config = S3Config {
        bucket: "bench".to_owned(),
        endpoint: Some(endpoint.clone()),
        path_style: true,
        sse_kms_key_id: None,
        integrity: match integrity.as_str() {
            "crc32c" => Integrity::Crc32c,
            "signature" => Integrity::Signature,
            other => panic!("{other}: see the head of this program"),
        },
        part_bytes: PART_BYTES,
        access,
    };
    let store = S3Store::open(config, Arc::new(|work| drop(tokio::task::spawn_blocking(work)))).await;
    let bytes = std::fs::metadata(file).expect("the file is there").len();
    for number in 0..times.parse().expect("a number") {
        let mut content = Content::default();
        push_file(&mut content, Path::new(file), 0, bytes).expect("the file can be opened");
        store.put(&format!("object-{number}"), content, Condition::None).await.expect("stored");
    }
    println!("{}", store.counts().puts);
}
