//! As whom a catalog is asked: nobody, the holder of a token, or a client that gets its tokens for its credentials (OAuth 2, RFC 6749,
//! section 4.4).

use std::fmt;
use std::time::Duration;

use reqwest::header::HeaderValue;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::failure::{Failure, judge};
use crate::http::{Http, secret_header};

/// A token that ends so soon is replaced before it is used, ...
const RENEWED_BEFORE: Duration = Duration::from_secs(60);
/// ... but not one that lives hardly longer than that.
const RENEWED_BEFORE_MAX: f64 = 0.25;

#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    None,
    /// Sent as it is, for ever.
    Token(String),
    Credentials(ClientCredentials),
}

#[derive(Clone, PartialEq, Eq)]
pub struct ClientCredentials {
    pub client_id: Option<String>,
    pub client_secret: String,
    /// Where tokens are given. None: the catalog's own `v1/oauth/tokens`.
    pub server_uri: Option<String>,
    pub scope: String,
}

// Without what is secret.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::None => f.write_str("None"),
            Auth::Token(_) => f.write_str("Token"),
            Auth::Credentials(credentials) => write!(f, "{credentials:?}"),
        }
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ClientCredentials { client_id, client_secret: _, server_uri, scope } = self;
        f.debug_struct("ClientCredentials")
            .field("client_id", client_id)
            .field("server_uri", server_uri)
            .field("scope", scope)
            .finish_non_exhaustive()
    }
}

/// The token of now.
pub struct Tokens {
    auth: Auth,
    /// Where tokens are given.
    url: Option<reqwest::Url>,
    given: Mutex<Option<Given>>,
}

struct Given {
    header: HeaderValue,
    renew_at: Option<Instant>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<u64>,
}

impl Tokens {
    /// `own_url`: the catalog's own place for tokens. The error is a sentence.
    pub fn new(auth: Auth, own_url: reqwest::Url) -> Result<Tokens, String> {
        let url = match &auth {
            Auth::Credentials(ClientCredentials { server_uri: Some(uri), .. }) => {
                Some(uri.parse().map_err(|error| format!("{uri} is no URL: {error}"))?)
            }
            Auth::Credentials(_) => Some(own_url),
            Auth::None | Auth::Token(_) => None,
        };
        Ok(Tokens { auth, url, given: Mutex::new(None) })
    }

    /// The header of a request. None: there is to be none.
    pub async fn header(&self, http: &Http) -> Result<Option<HeaderValue>, Failure> {
        match &self.auth {
            Auth::None => Ok(None),
            Auth::Token(token) => bearer(token).map(Some),
            Auth::Credentials(credentials) => {
                // Whoever comes meanwhile waits for the same token.
                let mut given = self.given.lock().await;
                if let Some(given) = &*given
                    && given.renew_at.is_none_or(|at| Instant::now() < at)
                {
                    return Ok(Some(given.header.clone()));
                }
                let fresh = self.ask(http, credentials).await?;
                let header = fresh.header.clone();
                *given = Some(fresh);
                Ok(Some(header))
            }
        }
    }

    /// The catalog did not take it. False: there is no other.
    pub async fn reject(&self, header: Option<&HeaderValue>) -> bool {
        if !matches!(self.auth, Auth::Credentials(_)) {
            return false;
        }
        let mut given = self.given.lock().await;
        // Unless somebody else has seen that before, and has another already.
        if given.as_ref().is_some_and(|given| Some(&given.header) == header) {
            *given = None;
        }
        true
    }

    async fn ask(&self, http: &Http, credentials: &ClientCredentials) -> Result<Given, Failure> {
        let url = self.url.clone().expect("credentials have a place where they are good for tokens");
        let target = format!("tokens of {}", url.host_str().unwrap_or_default());
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_secret", &credentials.client_secret),
            ("scope", &credentials.scope),
        ];
        if let Some(client_id) = &credentials.client_id {
            form.push(("client_id", client_id));
        }
        let answer = match http.send(http.post(url).form(&form), &target).await {
            // Whether one more token was given or not is nothing to anybody.
            Err(Failure::Unknown(told)) => return Err(Failure::NotDone(told)),
            answer => answer?,
        };
        if !answer.is_success() {
            return Err(match judge(&answer, &target) {
                Failure::Unauthorized(told) => Failure::Refused(told),
                Failure::Unknown(told) => Failure::NotDone(told),
                failure => failure,
            });
        }
        let Ok(TokenAnswer { access_token, expires_in }) = serde_json::from_slice(&answer.body) else {
            return Err(Failure::Refused(format!("{target}: an answer without a token")));
        };
        let renew_at = expires_in.map(|seconds| {
            let life = Duration::from_secs(seconds.min(u64::from(u32::MAX)));
            Instant::now() + (life - RENEWED_BEFORE.min(life.mul_f64(RENEWED_BEFORE_MAX)))
        });
        Ok(Given { header: bearer(&access_token)?, renew_at })
    }
}

fn bearer(token: &str) -> Result<HeaderValue, Failure> {
    let header = secret_header(&format!("Bearer {token}"));
    header.ok_or_else(|| Failure::Refused("the token has characters that no header can have".to_owned()))
}
