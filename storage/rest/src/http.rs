//! One request and its answer.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::HeaderValue;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Url};
use rustls::{ClientConfig, RootCertStore};

use crate::failure::Failure;

/// Of an answer: metadata of a table at most. It is in memory as a whole.
const BODY_BYTES_MAX: usize = 256 << 20;
/// Of an answer that tells of an error.
const ERROR_BYTES_MAX: usize = 64 << 10;

pub struct Http {
    client: Client,
    /// Of one try, with all that is sent and received.
    request_timeout: Duration,
}

pub struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Http {
    /// Trusts whom the machine trusts. The error is a sentence.
    pub fn new(connect_timeout: Duration, request_timeout: Duration) -> Result<Http, String> {
        let mut roots = RootCertStore::empty();
        // One that is not understood is one less to trust, and a catalog without TLS needs none.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .connect_timeout(connect_timeout)
            .timeout(request_timeout)
            .use_preconfigured_tls(tls)
            // A token is for whom it was given to, and a commit is sent once.
            .redirect(Policy::none())
            .user_agent(concat!("ottla/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| told(&error))?;
        Ok(Http { client, request_timeout })
    }

    pub fn get(&self, url: Url) -> RequestBuilder {
        self.client.get(url)
    }

    pub fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url)
    }

    pub async fn send(&self, request: RequestBuilder, target: &str) -> Result<Answer, Failure> {
        let failed = |error: reqwest::Error| self.failed(target, error.without_url());
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let is_success = response.status().is_success();
        let bytes_max = if is_success { BODY_BYTES_MAX } else { ERROR_BYTES_MAX };
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > bytes_max {
                if is_success {
                    return Err(Failure::Unknown(format!(
                        "{target}: an answer of more than {bytes_max} bytes"
                    )));
                }
                break;
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, body: body.freeze() })
    }

    fn failed(&self, target: &str, error: reqwest::Error) -> Failure {
        if error.is_connect() {
            return Failure::NotDone(format!("{target}: {}", told(&error)));
        }
        if error.is_timeout() {
            let limit = self.request_timeout.as_millis();
            return Failure::Unknown(format!("{target}: no answer within {limit} ms"));
        }
        match error.is_builder() {
            true => Failure::Refused(format!("{target}: {}", told(&error))),
            false => Failure::Unknown(format!("{target}: {}", told(&error))),
        }
    }
}

/// A header that no log shows.
pub fn secret_header(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// An error with what is behind it.
fn told(error: &(dyn Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut at = error.source();
    while let Some(error) = at {
        let next = error.to_string();
        if !told.ends_with(&next) {
            told = format!("{told}: {next}");
        }
        at = error.source();
    }
    told
}
