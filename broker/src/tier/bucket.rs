//! A bucket as the object store of this node.

use std::time::Duration;

use ottla_aws::access::Access;
use ottla_aws::s3::{Integrity, PART_BYTES, S3Config, S3Store};
use ottla_batch::TimestampMs;

use crate::config::{S3Settings, TierConfig};
use crate::{clock, threads};

const ASK_AGAIN_MIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_MAX: Duration = Duration::from_secs(60);
/// No upload takes so long. Other brokers' may be under way below the same prefix.
const STALE_UPLOAD_MS: i64 = 24 * 60 * 60 * 1000;

pub(super) async fn open(config: &TierConfig, bucket: &str) -> S3Store {
    let s3 = &config.s3;
    let s3 = S3Config {
        bucket: bucket.to_owned(),
        integrity: Integrity::at(s3.endpoint.as_deref()),
        part_bytes: PART_BYTES,
        endpoint: s3.endpoint.clone(),
        path_style: s3.path_style,
        sse_kms_key_id: s3.sse_kms_key_id.clone(),
        access: access(s3),
    };
    S3Store::open(s3, threads::beside()).await
}

/// How this node reaches Amazon's services, or others of their kind.
pub(crate) fn access(s3: &S3Settings) -> Access {
    Access {
        region: s3.region.clone(),
        credentials: None,
        role_arn: s3.role_arn.clone(),
        role_external_id: s3.role_external_id.clone(),
        connect_timeout: s3.connect_timeout,
        request_timeout: s3.request_timeout,
        retries: s3.retries,
    }
}

/// Asks until the bucket answers, says what keeps it from that, and clears away what writers left that died.
pub(super) async fn reach(store: S3Store, prefix: String) {
    let mut pause = ASK_AGAIN_MIN;
    let mut told = String::new();
    while let Err(error) = store.check(&format!("{prefix}tier/")).await {
        let reason = error.to_string();
        if reason != told {
            tracing::warn!(
                reason,
                "the bucket of ottla.tier.url cannot be used now; what needs it waits, and it is asked again"
            );
            told = reason;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(ASK_AGAIN_MAX);
    }
    if !told.is_empty() {
        tracing::info!("the bucket of ottla.tier.url can be used now");
    }
    let before = TimestampMs(clock::now().0 - STALE_UPLOAD_MS);
    match store.abort_stale_uploads(&prefix, before).await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, "uploads to the bucket that came to no end were given up"),
        Err(error) => tracing::warn!(%error, "old uploads to the bucket could not be looked for"),
    }
}
