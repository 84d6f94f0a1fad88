//! What an error of the SDK says: whether the request may have been carried out, whether to try again, and one sentence for people.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// Why a try failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The service said no, and will again.
    Refused(String),
    /// Nothing was done: the service is busy.
    NotDone(String),
    /// Nobody knows whether it was done: no answer, or one of a service in trouble.
    Unknown(String),
}

/// What the service answered, where it did.
#[derive(Debug, Default, Clone)]
pub(crate) struct Said {
    pub status: u16,
    pub code: String,
    pub message: String,
    /// Where S3 has the bucket, when it says so.
    pub bucket_region: Option<String>,
}

impl Said {
    pub(crate) fn by<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Said {
        let Some(response) = error.raw_response() else { return Said::default() };
        Said {
            status: response.status().as_u16(),
            code: error.code().unwrap_or_default().to_owned(),
            message: error.message().unwrap_or_default().to_owned(),
            bucket_region: response.headers().get("x-amz-bucket-region").map(str::to_owned),
        }
    }

    /// As it is told: code, or else status, and message.
    pub(crate) fn text(&self) -> String {
        match (self.code.as_str(), self.message.as_str()) {
            ("", "") => format!("HTTP status {}", self.status),
            ("", message) => format!("HTTP status {}: {message}", self.status),
            (code, "") => code.to_owned(),
            (code, message) => format!("{code}: {message}"),
        }
    }

    fn is_credentials(&self) -> bool {
        [
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
            "InvalidToken",
            "UnrecognizedClientException",
            "InvalidSignatureException",
            "InvalidClientTokenId",
        ]
        .contains(&self.code.as_str())
    }

    fn is_wrong_region(&self) -> bool {
        [
            "PermanentRedirect",
            "TemporaryRedirect",
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
        ]
        .contains(&self.code.as_str())
            || [301, 307].contains(&self.status)
    }

    /// Passing, and nothing was done.
    fn is_busy(&self) -> bool {
        let codes = [
            "SlowDown",
            "RequestTimeout",
            "OperationAborted",
            "ConditionalRequestConflict",
            // What came was not what was sent. Whether that has changed meanwhile, the sender sees.
            "BadDigest",
            "XAmzContentSHA256Mismatch",
            "IncompleteBody",
            "ThrottlingException",
            "Throttling",
            "TooManyRequestsException",
            "ResourceNotReadyException",
            // The chain of credentials renews them.
            "ExpiredToken",
            "ExpiredTokenException",
        ];
        codes.contains(&self.code.as_str()) || self.status == 429
    }
}

/// Judges an error that the caller has no meaning of its own for. `target`: what was asked for; `region`: where.
pub(crate) fn judge<E>(error: &SdkError<E, HttpResponse>, target: &str, region: Option<&str>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    if let SdkError::ServiceError(_) = error {
        return judge_answer(&Said::by(error), target, region);
    }
    if let Some(credentials) = credentials_error(error) {
        let told = format!("{target}: no credentials: {}", chain(credentials));
        return match credentials {
            CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
                Failure::Refused(told)
            }
            _ => Failure::NotDone(told),
        };
    }
    let told = format!("{target}: {}", chain(error));
    match error {
        SdkError::ConstructionFailure(_) if region.is_none() => Failure::Refused(format!(
            "{target}: no region is set, and neither environment, profile nor machine says one"
        )),
        SdkError::ConstructionFailure(_) => Failure::Refused(told),
        _ => Failure::Unknown(told),
    }
}

pub(crate) fn judge_answer(said: &Said, target: &str, region: Option<&str>) -> Failure {
    let text = said.text();
    if said.is_busy() {
        return Failure::NotDone(format!("{target}: {text}"));
    }
    if said.status >= 500
        || ["InternalError", "InternalServiceException", "OperationTimeoutException"]
            .contains(&said.code.as_str())
    {
        return Failure::Unknown(format!("{target}: {text}"));
    }
    if (200..300).contains(&said.status) && said.code.is_empty() {
        return Failure::Unknown(format!("{target}: an answer that makes no sense"));
    }
    Failure::Refused(match said.code.as_str() {
        "NoSuchBucket" => format!("{target}: there is no such bucket ({text})"),
        "RequestTimeTooSkewed" => format!("{target}: the clock of this machine is wrong ({text})"),
        _ if said.is_credentials() => format!("{target}: these credentials are not known there ({text})"),
        _ if said.is_wrong_region() => {
            let asked = region.unwrap_or("no region");
            let there = said
                .bucket_region
                .as_ref()
                .map_or_else(|| "it is in another".to_owned(), |region| format!("it is in {region}"));
            format!("{target}: the bucket is not in {asked}, {there} ({text})")
        }
        _ if said.status == 403 => format!("{target}: not allowed with these credentials ({text})"),
        _ => format!("{target}: {text}"),
    })
}

pub(crate) fn too_late(target: &str, limit: Duration) -> Failure {
    Failure::Unknown(format!("{target}: no answer within {} ms", limit.as_millis()))
}

fn credentials_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CredentialsError> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(found) = error.downcast_ref::<CredentialsError>() {
            return Some(found);
        }
        at = error.source();
    }
    None
}

/// An error with what is behind it; the SDK's own words say little without.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
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
