//! Where the remote tier is.

use super::*;

const URL: &str = "ottla.tier.url";
const ENDPOINT: &str = "ottla.tier.s3.endpoint";
/// Of the tier of a node that is all of its cluster, below its first log directory. No partition's directory is called so.
const DIRECTORY: &str = "remote";

impl Loader {
    pub(super) fn tier(
        &mut self,
        node_id: i32,
        quorum: &QuorumConfig,
        log_dirs: &[PathBuf],
    ) -> Option<TierConfig> {
        let place = match self.text(URL).filter(|url| !url.is_empty()) {
            Some(url) => match TierPlace::parse(&url) {
                Ok(TierPlace::Bucket { .. }) if !cfg!(feature = "s3") => {
                    self.refuse(URL, "file:///directory: this build of Ottla has no S3");
                    return None;
                }
                Ok(place) => place,
                Err(expected) => {
                    self.refuse(URL, expected);
                    return None;
                }
            },
            None if !self.flag("remote.log.storage.system.enable") => return None,
            None if quorum.is_alone(BrokerId(node_id)) => {
                TierPlace::Directory(log_dirs.first()?.join(DIRECTORY))
            }
            None => {
                self.refuse(
                    URL,
                    "to be set where remote.log.storage.system.enable is true and the cluster has other nodes: \
                     s3://bucket/prefix, or file:///directory if all nodes share it",
                );
                return None;
            }
        };
        let endpoint = self.text(ENDPOINT).filter(|url| !url.is_empty());
        if let Some(url) = &endpoint {
            let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            if host.is_none_or(str::is_empty) {
                self.refuse(ENDPOINT, "http://host:port or https://host:port");
            }
        }
        let s3 = S3Settings {
            path_style: match self.value("ottla.tier.s3.path.style") {
                Some(Value::Boolean(path_style)) => path_style,
                _ => endpoint.is_some(),
            },
            endpoint,
            region: self.text("ottla.tier.s3.region"),
            role_arn: self.text("ottla.tier.s3.role.arn"),
            role_external_id: self.text("ottla.tier.s3.role.external.id"),
            sse_kms_key_id: self.text("ottla.tier.s3.sse.kms.key.id"),
            connect_timeout: self.duration("ottla.tier.s3.connect.timeout.ms"),
            request_timeout: self.duration("ottla.tier.s3.request.timeout.ms"),
            retries: self.integer("ottla.tier.s3.retries") as u32,
        };
        Some(TierConfig { place, s3 })
    }
}
