//! Where the remote tier is, and how an S3 bucket is reached.

use std::path::PathBuf;
use std::time::Duration;

use ottla_storage::tiering::store::check_key;

/// The object store of a node: of its remote tier, and of its tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierConfig {
    pub place: TierPlace,
    pub s3: S3Settings,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TierPlace {
    Directory(PathBuf),
    /// `prefix`: of all keys, empty or with a slash at its end.
    Bucket {
        bucket: String,
        prefix: String,
    },
}

/// `ottla.tier.s3.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Settings {
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: bool,
    pub role_arn: Option<String>,
    pub role_external_id: Option<String>,
    pub sse_kms_key_id: Option<String>,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
    pub retries: u32,
}

/// Leaves room for what comes after it in a key.
const PREFIX_BYTES_MAX: usize = 512;

impl TierPlace {
    /// From the text of `ottla.tier.url`. The error is what was expected.
    pub fn parse(url: &str) -> Result<TierPlace, &'static str> {
        if let Some(path) = url.strip_prefix("file://") {
            return match path.trim_end_matches('/') {
                "" => Err("a directory other than the root, file:///directory"),
                path if path.starts_with('/') => Ok(TierPlace::Directory(PathBuf::from(path))),
                _ => Err("an absolute path with three slashes, file:///directory"),
            };
        }
        let Some(place) = url.strip_prefix("s3://") else {
            return Err("s3://bucket/prefix or file:///directory");
        };
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let is_named = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if bucket.is_empty() || !bucket.bytes().all(is_named) {
            return Err(
                "s3://bucket/prefix with letters, digits, dots and hyphens as the name of the bucket",
            );
        }
        let prefix = prefix.trim_end_matches('/');
        if prefix.len() > PREFIX_BYTES_MAX || (!prefix.is_empty() && check_key(prefix).is_err()) {
            return Err(
                "s3://bucket/prefix with a prefix of at most 512 visible ASCII characters, whose parts between slashes \
                 are not empty and don't begin with a dot",
            );
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(TierPlace::Bucket { bucket: bucket.to_owned(), prefix })
    }
}

impl std::fmt::Display for TierPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TierPlace::Directory(path) => write!(f, "file://{}", path.display()),
            TierPlace::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}
