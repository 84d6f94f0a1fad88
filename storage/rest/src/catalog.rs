//! Tables in the catalog. It makes their metadata itself: a commit is a list of updates and of what must hold of the table before
//! them, which the server checks and does in one step.
//!
//! Nothing that may have been carried out is asked for twice: whoever commits reads the table again and compares.

use std::time::Duration;

use bytes::Bytes;
use ottla_lake::catalog::{Catalog, CatalogAnswer, CatalogError, Entry, NewMetadata, Stored, TableName};
use reqwest::header::{ACCEPT, AUTHORIZATION};
use reqwest::{RequestBuilder, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::auth::{Auth, Tokens};
use crate::failure::{Failure, judge};
use crate::http::{Answer, Http};

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestConfig {
    /// Of the service, without `/v1`.
    pub uri: String,
    /// Which of its catalogs, for a service that has several.
    pub warehouse: Option<String>,
    pub auth: Auth,
    pub connect_timeout: Duration,
    /// Of one try, with all that is sent and received.
    pub request_timeout: Duration,
    /// Of a request that may be repeated, after the first try.
    pub retries: u32,
}

pub struct RestCatalog {
    http: Http,
    tokens: Tokens,
    base: Url,
    warehouse: Option<String>,
    retries: u32,
    /// Between `/v1/` and what is asked for, by the service's own word.
    prefix: OnceCell<String>,
}

/// What a request may have done when it got no answer that says so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It only reads, or twice is as good as once.
    Repeatable,
    /// It is not made a second time unless it was certainly not done.
    Once,
}

/// What the service says of itself.
#[derive(Deserialize)]
struct Settings {
    #[serde(default)]
    defaults: serde_json::Map<String, Value>,
    #[serde(default)]
    overrides: serde_json::Map<String, Value>,
}

/// A table, as it is answered by a load, a creation and a commit.
#[derive(Deserialize)]
struct TableAnswer {
    #[serde(rename = "metadata-location")]
    metadata_location: Option<String>,
    metadata: Value,
}

/// The part of the first metadata that a creation says.
#[derive(Deserialize)]
struct First {
    schemas: Vec<Value>,
    #[serde(rename = "partition-specs")]
    partition_specs: Vec<Value>,
    properties: serde_json::Map<String, Value>,
}

#[derive(Serialize)]
struct Commit<'a, R, U> {
    requirements: &'a [R],
    updates: &'a [U],
}

impl RestCatalog {
    /// Does not ask the service. The error is a sentence for whoever configured it.
    pub fn open(config: &RestConfig) -> Result<RestCatalog, String> {
        // What is joined to it goes behind its last slash.
        let with_slash = format!("{}/", config.uri.trim_end_matches('/'));
        let base: Url = with_slash.parse().map_err(|error| format!("{} is no URL: {error}", config.uri))?;
        if !["http", "https"].contains(&base.scheme()) || !base.has_host() {
            return Err(format!("{} is no URL of a service: http://host:port or https://host", config.uri));
        }
        let own_tokens = base.join("v1/oauth/tokens").map_err(|error| error.to_string())?;
        Ok(RestCatalog {
            http: Http::new(config.connect_timeout, config.request_timeout)?,
            tokens: Tokens::new(config.auth.clone(), own_tokens)?,
            base,
            warehouse: config.warehouse.clone(),
            retries: config.retries,
            prefix: OnceCell::new(),
        })
    }

    fn url(&self, path: &str) -> Result<Url, Failure> {
        let joined = self.base.join(path);
        joined.map_err(|error| Failure::Refused(format!("{}{path} is no URL: {error}", self.base)))
    }

    /// `path`: what comes behind the prefix.
    async fn url_of(&self, path: &str) -> Result<Url, CatalogError> {
        let prefix = self.prefix.get_or_try_init(|| self.ask_prefix()).await?;
        let slash = if prefix.is_empty() { "" } else { "/" };
        self.url(&format!("v1/{prefix}{slash}{path}")).map_err(Failure::into_error)
    }

    async fn ask_prefix(&self) -> Result<String, CatalogError> {
        let mut url = self.url("v1/config").map_err(Failure::into_error)?;
        if let Some(warehouse) = &self.warehouse {
            url.query_pairs_mut().append_pair("warehouse", warehouse);
        }
        let target = format!("REST catalog {}", self.base);
        let get = || self.http.get(url.clone());
        let answer = self.asked(Effect::Repeatable, &target, get).await?;
        let settings: Settings = read(&answer, &target)?;
        let prefix = settings.overrides.get("prefix").or_else(|| settings.defaults.get("prefix"));
        Ok(prefix.and_then(Value::as_str).unwrap_or_default().trim_matches('/').to_owned())
    }

    async fn asked(
        &self,
        effect: Effect,
        target: &str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Answer, CatalogError> {
        let (mut retry, mut has_new_token) = (0, false);
        loop {
            let failure = match self.attempt(target, request(), &mut has_new_token).await {
                Ok(answer) => return Ok(answer),
                Err(None) => continue,
                Err(Some(failure)) => failure,
            };
            let told = match failure {
                Failure::NotDone(told) => told,
                Failure::Unknown(told) if effect == Effect::Repeatable => told,
                failure => return Err(failure.into_error()),
            };
            if retry == self.retries {
                return Err(CatalogError::Unavailable(told));
            }
            retry += 1;
            tokio::time::sleep(pause(retry)).await;
        }
    }

    /// An answer that is a success, or one that says something of its own: 404 and 409. No failure: a new token is to be tried.
    async fn attempt(
        &self,
        target: &str,
        mut request: RequestBuilder,
        has_new_token: &mut bool,
    ) -> Result<Answer, Option<Failure>> {
        let header = self.tokens.header(&self.http).await.map_err(Some)?;
        if let Some(header) = &header {
            request = request.header(AUTHORIZATION, header.clone());
        }
        request = request.header(ACCEPT, "application/json");
        let answer = self.http.send(request, target).await.map_err(Some)?;
        if answer.is_success() || [404, 409].contains(&answer.status) {
            return Ok(answer);
        }
        let failure = judge(&answer, target);
        let is_expired = matches!(failure, Failure::Unauthorized(_));
        if is_expired && self.tokens.reject(header.as_ref()).await && !*has_new_token {
            *has_new_token = true;
            return Err(None);
        }
        Err(Some(failure))
    }

    async fn make_namespace(&self, database: &str) -> Result<(), CatalogError> {
        let target = format!("namespace {database}");
        let url = self.url_of("namespaces").await?;
        let body = json!({"namespace": [database], "properties": {}});
        let post = || self.http.post(url.clone()).json(&body);
        let answer = self.asked(Effect::Repeatable, &target, post).await?;
        match answer.status {
            409 => Ok(()),
            _ if answer.is_success() => Ok(()),
            _ => Err(judge(&answer, &target).into_error()),
        }
    }

    /// None: its namespace is not there.
    async fn enter(&self, table: &TableName, body: &Value) -> Result<Option<Stored>, CatalogError> {
        let target = target(table);
        let url = self.url_of(&format!("namespaces/{}/tables", table.database)).await?;
        let post = || self.http.post(url.clone()).json(body);
        let answer = self.asked(Effect::Once, &target, post).await?;
        match answer.status {
            404 => Ok(None),
            409 => Err(CatalogError::Conflict(table.clone())),
            _ => stored(&answer, &target).map(Some),
        }
    }

    async fn table_url(&self, table: &TableName) -> Result<Url, CatalogError> {
        self.url_of(&format!("namespaces/{}/tables/{}", table.database, table.table)).await
    }
}

impl Catalog for RestCatalog {
    fn load<'a>(&'a self, table: &'a TableName) -> CatalogAnswer<'a, Option<Entry>> {
        Box::pin(async move {
            let (target, url) = (target(table), self.table_url(table).await?);
            let get = || self.http.get(url.clone());
            let answer = self.asked(Effect::Repeatable, &target, get).await?;
            if answer.status == 404 {
                return Ok(None);
            }
            let (location, metadata) = state(&answer, &target).map_err(|failure| match failure {
                // What is read again later.
                Failure::Unknown(told) => CatalogError::Unavailable(told),
                failure => failure.into_error(),
            })?;
            Ok(Some(Entry {
                version: location.clone(),
                metadata_location: location,
                metadata: Some(metadata),
            }))
        })
    }

    fn create<'a>(&'a self, table: &'a TableName, metadata: &'a NewMetadata) -> CatalogAnswer<'a, Stored> {
        Box::pin(async move {
            let body = creation(table, metadata)?;
            if let Some(stored) = self.enter(table, &body).await? {
                return Ok(stored);
            }
            self.make_namespace(&table.database).await?;
            let entered = self.enter(table, &body).await?;
            entered.ok_or_else(|| {
                let told = format!("{}: its namespace is gone as soon as it is made", target(table));
                CatalogError::Refused(told)
            })
        })
    }

    /// What was expected is in the requirements: they are of the state that was loaded with it.
    fn swap<'a>(
        &'a self,
        table: &'a TableName,
        _expected: &'a Entry,
        metadata: &'a NewMetadata,
    ) -> CatalogAnswer<'a, Stored> {
        Box::pin(async move {
            let (target, url) = (target(table), self.table_url(table).await?);
            let commit = Commit { requirements: &metadata.requirements, updates: &metadata.updates };
            let post = || self.http.post(url.clone()).json(&commit);
            let answer = self.asked(Effect::Once, &target, post).await?;
            match answer.status {
                404 | 409 => Err(CatalogError::Conflict(table.clone())),
                _ => stored(&answer, &target),
            }
        })
    }
}

fn target(table: &TableName) -> String {
    format!("REST catalog's table {table}")
}

/// Before try number `retry`, which is 1 or more: doubling, and random, so that those who failed together don't come back together.
fn pause(retry: u32) -> Duration {
    let longest = PAUSE_MIN.saturating_mul(1 << retry.min(16).saturating_sub(1)).min(PAUSE_MAX);
    longest.mul_f64(rand::random_range(0.5..=1.0))
}

/// The request that makes a table of the first metadata. The server gives its UUID, and ids to the columns; whether they are those
/// of the files is looked at by whoever uses what it answers.
fn creation(table: &TableName, metadata: &NewMetadata) -> Result<Value, CatalogError> {
    let first: First = serde_json::from_slice(&metadata.json)
        .map_err(|error| CatalogError::Refused(format!("{}: {error}", target(table))))?;
    let mut properties = first.properties;
    properties.insert("format-version".to_owned(), "2".into());
    Ok(json!({
        "name": table.table,
        "location": metadata.location,
        "schema": first.schemas.first(),
        "partition-spec": first.partition_specs.first(),
        "stage-create": false,
        "properties": properties,
    }))
}

fn read<'a, T: Deserialize<'a>>(answer: &'a Answer, target: &str) -> Result<T, CatalogError> {
    if !answer.is_success() {
        return Err(match judge(answer, target) {
            Failure::Unknown(told) => CatalogError::Unavailable(told),
            failure => failure.into_error(),
        });
    }
    serde_json::from_slice(&answer.body)
        .map_err(|error| CatalogError::Refused(format!("{target}: its answer is not understood: {error}")))
}

fn state(answer: &Answer, target: &str) -> Result<(String, Bytes), Failure> {
    if !answer.is_success() {
        return Err(judge(answer, target));
    }
    let Ok(TableAnswer { metadata_location, metadata }) = serde_json::from_slice(&answer.body) else {
        // Cut off, or of something that is no catalog.
        return Err(judge(answer, target));
    };
    let Some(location) = metadata_location else {
        return Err(Failure::Refused(format!(
            "{target}: the catalog says of no file that it has its metadata, as a table needs that others read"
        )));
    };
    let metadata = serde_json::to_vec(&metadata).map_err(|error| Failure::Refused(error.to_string()))?;
    Ok((location, metadata.into()))
}

/// After a change: whatever is wrong with the answer, it has happened, and the table is to be looked at again.
fn stored(answer: &Answer, target: &str) -> Result<Stored, CatalogError> {
    match state(answer, target) {
        Ok((metadata_location, metadata)) => Ok(Stored { metadata_location, made: Some(metadata) }),
        Err(failure) => Err(failure.into_error()),
    }
}
