//! tests/support/aws.py: S3 on this machine, with faults on demand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use ottla_aws::access::Access;
use ottla_aws::s3::{Integrity, S3Config, S3Store};

/// The least that S3 takes.
pub const PART_BYTES: u64 = 5 << 20;

/// The process, which ends when its standard input does: with this one.
struct Process {
    url: String,
    _process: Child,
}

/// A bucket of a test's own, with faults of its own, on the one server of this process.
pub struct Server {
    /// `http://host:port`
    pub url: &'static str,
    pub bucket: String,
}

/// Where tests/setup.sh has put what tests need. None, and a word about it: nowhere, and nobody said that it is there.
fn environment() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let named = std::env::var_os("OTTLA_TEST_ENV").map(PathBuf::from);
    let python = named.clone().unwrap_or_else(|| root.join(".test-env")).join("python/bin/python");
    if python.exists() {
        return Some(python);
    }
    let may_skip = named.is_none() || std::env::var("OTTLA_TEST_ALLOW_MISSING").is_ok_and(|set| set == "1");
    assert!(may_skip, "{} is not there: run tests/setup.sh", python.display());
    eprintln!("skipped: without tests/setup.sh there is no S3 on this machine");
    None
}

impl Process {
    fn start() -> Option<Process> {
        let python = environment()?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/support/aws.py");
        let mut process = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let mut url = String::new();
        BufReader::new(process.stdout.as_mut().expect("piped")).read_line(&mut url).expect("a line");
        let url = url.trim().to_owned();
        assert!(url.starts_with("http://"), "the server did not start");
        Some(Process { url, _process: process })
    }
}

impl Server {
    /// None: the test is skipped.
    pub fn start() -> Option<Server> {
        static PROCESS: LazyLock<Option<Process>> = LazyLock::new(Process::start);
        static BUCKETS: AtomicU64 = AtomicU64::new(1);
        let process = PROCESS.as_ref()?;
        let bucket = format!("ottla-test-{}", BUCKETS.fetch_add(1, Ordering::Relaxed));
        let server = Server { url: &process.url, bucket };
        server.send("PUT", &format!("/{}", server.bucket), "");
        Some(server)
    }

    /// Replaces the rules of faults, by which see the head of the script.
    pub fn faults(&self, rules: serde_json::Value) {
        self.faults_of(&self.bucket, rules);
    }

    /// Of another bucket, or of a database of Glue.
    pub fn faults_of(&self, name: &str, rules: serde_json::Value) {
        self.send("PUT", &format!("/_faults/{name}"), &rules.to_string());
    }

    /// The rules, with how often each came true.
    pub fn came_true(&self) -> Vec<u64> {
        let told: serde_json::Value =
            serde_json::from_str(&self.send("GET", &format!("/_faults/{}", self.bucket), "")).expect("JSON");
        let rules = told.as_array().expect("a list").iter();
        rules.map(|rule| rule["came_true"].as_u64().expect("a number")).collect()
    }

    fn send(&self, method: &str, path: &str, body: &str) -> String {
        let address = self.url.strip_prefix("http://").expect("a URL");
        let mut connection = TcpStream::connect(address).expect("the server is there");
        let len = body.len();
        write!(
            connection,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
        )
        .expect("sent");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    }

    pub fn config(&self) -> S3Config {
        S3Config {
            bucket: self.bucket.clone(),
            endpoint: Some(self.url.to_owned()),
            path_style: true,
            sse_kms_key_id: None,
            integrity: Integrity::at(Some(self.url)),
            part_bytes: PART_BYTES,
            access: access(),
        }
    }

    pub async fn store(&self) -> S3Store {
        open(self.config()).await
    }
}

pub fn access() -> Access {
    Access {
        region: None,
        credentials: Some(SharedCredentialsProvider::new(Credentials::new(
            "key", "secret", None, None, "test",
        ))),
        role_arn: None,
        role_external_id: None,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(30),
        retries: 4,
    }
}

pub async fn open(config: S3Config) -> S3Store {
    S3Store::open(config, Arc::new(|work| drop(tokio::task::spawn_blocking(work)))).await
}
