//! As whom, from where and how patiently Amazon's services are asked.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::config::SharedHttpClient;
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

/// Of the session in CloudTrail, and of a role's session.
const NAME: &str = "ottla";
/// What Amazon's services ask for where it can't be known otherwise, and what others do not look at.
const REGION_ELSEWHERE: &str = "us-east-1";
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Access {
    /// None: what the environment, the profile or the machine says.
    pub region: Option<String>,
    /// None: those that the environment, the profile or the machine gives.
    pub credentials: Option<SharedCredentialsProvider>,
    /// Assumed with these credentials.
    pub role_arn: Option<String>,
    pub role_external_id: Option<String>,
    pub connect_timeout: Duration,
    /// How long one try may stand still.
    pub request_timeout: Duration,
    /// After the first try.
    pub retries: u32,
}

impl Access {
    /// Signatures need a region, and a service other than Amazon's need not have one.
    pub(crate) fn assume_region(&mut self, endpoint: Option<&str>) {
        if !is_amazon(endpoint) && self.region.is_none() {
            self.region = Some(REGION_ELSEWHERE.to_owned());
        }
    }

    /// Asks nobody but the machine itself (files, metadata of the instance): whether the credentials are any good shows at the first request.
    pub(crate) async fn load(&self) -> SdkConfig {
        let timeouts = TimeoutConfig::builder().connect_timeout(self.connect_timeout).build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts)
            .http_client(http_client());
        if let Some(region) = &self.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(credentials) = &self.credentials {
            loader = loader.credentials_provider(credentials.clone());
        }
        let config = loader.load().await;
        let Some(role_arn) = &self.role_arn else { return without_retries(config) };
        let mut role = AssumeRoleProvider::builder(role_arn).session_name(NAME).configure(&config);
        if let Some(external_id) = &self.role_external_id {
            role = role.external_id(external_id);
        }
        let role = SharedCredentialsProvider::new(role.build().await);
        without_retries(config.into_builder().credentials_provider(role).build())
    }

    /// Before try number `retry`, which is 1 or more: doubling, and random, so that those who failed together don't come back together.
    pub(crate) fn pause(retry: u32) -> Duration {
        let longest = PAUSE_MIN.saturating_mul(1 << retry.min(16).saturating_sub(1)).min(PAUSE_MAX);
        longest.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Over TLS it trusts whom the machine trusts.
pub fn http_client() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

fn without_retries(config: SdkConfig) -> SdkConfig {
    config.into_builder().retry_config(RetryConfig::disabled()).build()
}

/// Whether it is Amazon that is asked: without an endpoint, or at one of its own, such as a VPC's.
pub fn is_amazon(endpoint: Option<&str>) -> bool {
    let Some(endpoint) = endpoint else { return true };
    let host = endpoint.split("://").last().unwrap_or_default();
    let host = host.split(['/', ':']).next().unwrap_or_default();
    [".amazonaws.com", ".amazonaws.com.cn"].iter().any(|domain| host.ends_with(domain))
}
