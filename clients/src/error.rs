//! What can go wrong between a client and a cluster, told so that a person knows where to look.

use std::io;
use std::time::Duration;

use crate::wire::ErrorCode;

/// Why a request did not get an answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No broker of the bootstrap list could be reached; each address with its own reason.
    #[error("could not connect to {}", list_failures(.failures))]
    NoBroker { failures: Vec<(String, io::Error)> },
    #[error("lost the connection to {address}: {reason}")]
    Disconnected { address: String, reason: String },
    #[error("{what}: no answer within {} s", .after.as_secs())]
    TimedOut { what: String, after: Duration },
    /// The peer is not a Kafka broker, or one that is broken.
    #[error("{address} sent an answer to {api} that cannot be read: {detail}")]
    Malformed { address: String, api: &'static str, detail: String },
    #[error("{address} does not support {api} (no version in common)")]
    Unsupported { address: String, api: &'static str },
    /// The broker answered with an error.
    #[error("{what}: {}", describe(.code, .message))]
    Refused { what: String, code: ErrorCode, message: Option<String> },
    /// The request itself can't be encoded or makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl ClientError {
    pub fn refused(what: impl Into<String>, code: ErrorCode) -> ClientError {
        ClientError::Refused { what: what.into(), code, message: None }
    }

    /// Whether trying again, perhaps elsewhere, may help.
    pub fn is_retriable(&self) -> bool {
        match self {
            ClientError::NoBroker { .. } | ClientError::Disconnected { .. } => true,
            ClientError::Refused { code, .. } => code.is_retriable(),
            ClientError::TimedOut { .. }
            | ClientError::Malformed { .. }
            | ClientError::Unsupported { .. }
            | ClientError::Invalid(_) => false,
        }
    }

    /// The broker's error code, if it was the broker that refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

fn list_failures(failures: &[(String, io::Error)]) -> String {
    let texts: Vec<String> =
        failures.iter().map(|(address, error)| format!("{address} ({})", plain_io_error(error))).collect();
    if texts.is_empty() { "any broker".to_owned() } else { texts.join(", ") }
}

/// The message of an I/O error without the "(os error 111)" that only programmers read.
pub fn plain_io_error(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "input/output error".to_owned(),
    }
}

fn describe(code: &ErrorCode, message: &Option<String>) -> String {
    match message {
        Some(message) => format!("{} ({})", message.trim_end_matches('.'), code.name()),
        None => code.to_string(),
    }
}
