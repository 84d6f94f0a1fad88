//! What an answer says that is not the wanted one: whether the request may have been carried out, whether to try again, and one
//! sentence for people.

use ottla_lake::catalog::CatalogError;
use serde::Deserialize;

use crate::http::Answer;

/// Of what a server says, as much is told.
const MESSAGE_CHARS_MAX: usize = 500;

/// Why a try failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The catalog said no, and will again.
    Refused(String),
    /// Nothing was done: it was not reached, or is busy.
    NotDone(String),
    /// Nobody knows whether it was done: no answer, or one of a service in trouble.
    Unknown(String),
    /// The token is not or no longer good; nothing was done.
    Unauthorized(String),
}

impl Failure {
    /// For whoever does not ask again.
    pub fn into_error(self) -> CatalogError {
        match self {
            Failure::Refused(told) | Failure::Unauthorized(told) => CatalogError::Refused(told),
            Failure::NotDone(told) => CatalogError::Unavailable(told),
            Failure::Unknown(told) => CatalogError::Unknown(told),
        }
    }
}

/// Of the API: `{"error": {"message", "type", "code"}}`; of OAuth: `{"error", "error_description"}`.
#[derive(Deserialize)]
struct Said {
    error: Option<Told>,
    error_description: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Told {
    OfCatalog {
        message: Option<String>,
        #[serde(rename = "type")]
        kind: Option<String>,
    },
    OfOauth(String),
}

/// Judges an answer that the caller has no meaning of its own for.
pub fn judge(answer: &Answer, target: &str) -> Failure {
    let text = format!("{target}: {}", text(answer));
    match answer.status {
        200..300 => Failure::Unknown(format!("{target}: an answer that makes no sense")),
        401 | 419 => Failure::Unauthorized(text),
        403 => Failure::Refused(format!("{text} (not allowed with these credentials)")),
        429 => Failure::NotDone(text),
        // Of a commit the API says that its state is then unknown; 503 may be of a proxy that gave up waiting.
        408 | 500.. => Failure::Unknown(text),
        _ => Failure::Refused(text),
    }
}

/// What the server said: status, kind of error and message.
fn text(answer: &Answer) -> String {
    let said: Option<Said> = serde_json::from_slice(&answer.body).ok();
    let (kind, message) = match said {
        Some(Said { error: Some(Told::OfCatalog { message, kind }), .. }) => (kind, message),
        Some(Said { error: Some(Told::OfOauth(kind)), error_description }) => (Some(kind), error_description),
        Some(Said { error: None, .. }) | None => (None, None),
    };
    let mut text = format!("HTTP status {}", answer.status);
    for part in [kind, message].into_iter().flatten().filter(|part| !part.is_empty()) {
        text.push_str(": ");
        let shown = part.chars().map(|character| if character.is_control() { ' ' } else { character });
        text.extend(shown.take(MESSAGE_CHARS_MAX));
    }
    text
}
