//! What is sent, what each answer is taken for, and who is let in: against a server that answers as it is told. A real catalog
//! is asked in tests/lake/test_rest_catalog.py.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ottla_lake::catalog::{Catalog, CatalogError, Entry, NewMetadata, TableName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Auth, ClientCredentials, RestCatalog, RestConfig};

const LOCATION: &str = "s3://bucket/lake/kafka/prices/metadata/00001-a.metadata.json";

/// One of the answers that the server has ready.
enum Ready {
    Json(u16, Value),
    /// As it is.
    Text(u16, String),
    /// The request is read, and nothing said.
    HangUp,
    /// So much of the answer is said, which is longer.
    Cut(String),
}

#[derive(Debug, Clone, PartialEq)]
struct Asked {
    /// `GET /path?query`
    line: String,
    authorization: Option<String>,
    body: String,
}

struct Server {
    url: String,
    ready: Mutex<VecDeque<Ready>>,
    asked: Mutex<Vec<Asked>>,
}

impl Server {
    async fn start(ready: Vec<Ready>) -> Arc<Server> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Arc::new(Server { url, ready: Mutex::new(ready.into()), asked: Mutex::default() });
        let served = server.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                served.clone().serve(connection).await;
            }
        });
        server
    }

    /// One request of each connection.
    async fn serve(self: Arc<Server>, mut connection: TcpStream) {
        let mut text = Vec::new();
        let (head, mut body) = loop {
            let mut piece = [0; 4096];
            let count = connection.read(&mut piece).await.unwrap();
            if count == 0 {
                return;
            }
            text.extend_from_slice(&piece[..count]);
            if let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") {
                break (String::from_utf8(text[..end].to_vec()).unwrap(), text[end + 4..].to_vec());
            }
        };
        let header = |name: &str| {
            let lines = head.lines().skip(1).filter_map(|line| line.split_once(": "));
            lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
        };
        let length: usize = header("content-length").map_or(0, |length| length.parse().unwrap());
        while body.len() < length {
            let mut piece = [0; 4096];
            let count = connection.read(&mut piece).await.unwrap();
            body.extend_from_slice(&piece[..count]);
        }
        self.asked.lock().unwrap().push(Asked {
            line: head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned(),
            authorization: header("authorization"),
            body: String::from_utf8(body).unwrap(),
        });
        let ready = self.ready.lock().unwrap().pop_front().expect("an answer is ready");
        let (status, body, length) = match ready {
            Ready::Json(status, body) => (status, body.to_string(), None),
            Ready::Text(status, body) => (status, body, None),
            Ready::Cut(body) => (200, body, Some(1_000_000)),
            Ready::HangUp => return,
        };
        let length = length.unwrap_or(body.len());
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        let _ = connection.write_all(format!("{head}{body}").as_bytes()).await;
    }

    fn config(&self) -> RestConfig {
        RestConfig {
            uri: format!("{}/catalog/", self.url),
            warehouse: None,
            auth: Auth::None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(20),
            retries: 2,
        }
    }

    fn open(&self) -> RestCatalog {
        RestCatalog::open(&self.config()).unwrap()
    }

    fn asked(&self) -> Vec<Asked> {
        assert!(self.ready.lock().unwrap().is_empty(), "all that was ready was asked for");
        self.asked.lock().unwrap().clone()
    }

    fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }
}

fn table() -> TableName {
    TableName { database: "kafka".to_owned(), table: "prices".to_owned() }
}

fn entry() -> Entry {
    Entry { metadata_location: LOCATION.to_owned(), version: LOCATION.to_owned(), metadata: None }
}

fn metadata() -> NewMetadata {
    let json = json!({
        "schemas": [{"type": "struct", "schema-id": 0, "fields": []}],
        "partition-specs": [{"spec-id": 0, "fields": []}],
        "properties": {"ottla.schema": "{}"},
    });
    NewMetadata {
        location: "s3://bucket/lake/kafka/prices".to_owned(),
        number: 1,
        id: uuid::Uuid::new_v4(),
        json: json.to_string().into(),
        columns: Vec::new(),
        updates: serde_json::from_value(json!([{"action": "set-properties", "updates": {"a": "b"}}]))
            .unwrap(),
        requirements: serde_json::from_value(json!([
            {"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": 7},
            {"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": null},
        ]))
        .unwrap(),
    }
}

fn no_settings() -> Ready {
    Ready::Json(200, json!({"defaults": {}, "overrides": {}}))
}

fn a_table() -> Ready {
    Ready::Json(
        200,
        json!({"metadata-location": LOCATION, "metadata": {"format-version": 2}, "config": {"a": "b"}}),
    )
}

fn error(status: u16, kind: &str) -> Ready {
    Ready::Json(status, json!({"error": {"message": "No.", "type": kind, "code": status}}))
}

#[tokio::test]
async fn a_table_is_loaded_from_where_the_catalog_says() {
    let prefix =
        json!({"defaults": {"prefix": "no"}, "overrides": {"prefix": "main%7Cours"}, "endpoints": []});
    let server =
        Server::start(vec![Ready::Json(200, prefix), a_table(), error(404, "NoSuchTableException")]).await;
    let mut config = server.config();
    config.warehouse = Some("s3://ours/a b".to_owned());
    let catalog = RestCatalog::open(&config).unwrap();
    let entry = catalog.load(&table()).await.unwrap().unwrap();
    assert_eq!((entry.metadata_location.as_str(), entry.version.as_str()), (LOCATION, LOCATION));
    assert_eq!(entry.metadata, Some(Bytes::from_static(b"{\"format-version\":2}")));
    assert_eq!(catalog.load(&table()).await.unwrap(), None);
    let of_table = "GET /catalog/v1/main%7Cours/namespaces/kafka/tables/prices";
    assert_eq!(
        server.lines(),
        ["GET /catalog/v1/config?warehouse=s3%3A%2F%2Fours%2Fa+b", of_table, of_table]
    );
}

#[tokio::test]
async fn a_commit_is_requirements_and_updates() {
    let server = Server::start(vec![no_settings(), a_table()]).await;
    let stored = server.open().swap(&table(), &entry(), &metadata()).await.unwrap();
    assert_eq!(stored.metadata_location, LOCATION);
    assert_eq!(stored.made, Some(Bytes::from_static(b"{\"format-version\":2}")));
    let asked = &server.asked()[1];
    assert_eq!(asked.line, "POST /catalog/v1/namespaces/kafka/tables/prices");
    let sent: Value = serde_json::from_str(&asked.body).unwrap();
    let expected = json!({
        "requirements": [
            {"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": 7},
            // Null is said: the branch must not be there.
            {"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": null},
        ],
        "updates": [{"action": "set-properties", "updates": {"a": "b"}}],
    });
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn a_table_is_made_with_its_namespace() {
    let ready = vec![
        no_settings(),
        error(404, "NoSuchNamespaceException"),
        error(409, "AlreadyExistsException"),
        a_table(),
        error(409, "AlreadyExistsException"),
    ];
    let server = Server::start(ready).await;
    let catalog = server.open();
    assert_eq!(catalog.create(&table(), &metadata()).await.unwrap().metadata_location, LOCATION);
    let again = catalog.create(&table(), &metadata()).await;
    assert!(matches!(&again, Err(CatalogError::Conflict(name)) if *name == table()), "{again:?}");
    let create = "POST /catalog/v1/namespaces/kafka/tables";
    assert_eq!(server.lines()[1..], [create, "POST /catalog/v1/namespaces", create, create]);
    let asked = server.asked();
    assert_eq!(serde_json::from_str::<Value>(&asked[2].body).unwrap()["namespace"], json!(["kafka"]));
    let expected = json!({
        "name": "prices",
        "location": "s3://bucket/lake/kafka/prices",
        "schema": {"type": "struct", "schema-id": 0, "fields": []},
        "partition-spec": {"spec-id": 0, "fields": []},
        "stage-create": false,
        "properties": {"ottla.schema": "{}", "format-version": "2"},
    });
    assert_eq!(serde_json::from_str::<Value>(&asked[1].body).unwrap(), expected);
}

/// By the words of the API: 409 is a conflict, a commit after 500, 502 and 504 is in an unknown state.
#[tokio::test]
async fn a_commit_is_made_once_whatever_is_answered() {
    for (ready, expected) in [
        (error(409, "CommitFailedException"), "conflict"),
        (error(404, "NoSuchTableException"), "conflict"),
        (error(500, "InternalServerError"), "unknown"),
        (error(502, "BadGateway"), "unknown"),
        (error(503, "SlowDownException"), "unknown"),
        (error(504, "GatewayTimeout"), "unknown"),
        (Ready::HangUp, "unknown"),
        (Ready::Cut("{\"metadata-location\":".to_owned()), "unknown"),
        (Ready::Text(200, "<html>".to_owned()), "unknown"),
        (Ready::Text(502, "<html>".to_owned()), "unknown"),
        (error(400, "BadRequestException"), "refused"),
        (error(401, "NotAuthorizedException"), "refused"),
        (error(403, "ForbiddenException"), "refused"),
        (error(419, "AuthenticationTimeoutException"), "refused"),
        (Ready::Text(302, String::new()), "refused"),
    ] {
        let server = Server::start(vec![no_settings(), ready]).await;
        let outcome = server.open().swap(&table(), &entry(), &metadata()).await.unwrap_err();
        let kind = match &outcome {
            CatalogError::Conflict(_) => "conflict",
            CatalogError::Unknown(_) => "unknown",
            CatalogError::Refused(_) => "refused",
            CatalogError::Unavailable(_) => "unavailable",
        };
        assert_eq!(kind, expected, "{outcome}");
        assert_eq!(server.asked().len(), 2, "{outcome}");
    }
    // Not done, for certain.
    let server = Server::start(vec![no_settings(), error(429, "TooManyRequests"), a_table()]).await;
    server.open().swap(&table(), &entry(), &metadata()).await.unwrap();
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn what_only_reads_is_asked_again() {
    let ready =
        vec![Ready::HangUp, no_settings(), error(503, "SlowDown"), Ready::Cut("{".to_owned()), a_table()];
    let server = Server::start(ready).await;
    assert!(server.open().load(&table()).await.unwrap().is_some());
    assert_eq!(server.asked().len(), 5);
    let server = Server::start(vec![no_settings(), error(500, "A"), error(500, "A"), error(500, "A")]).await;
    let told = server.open().load(&table()).await.unwrap_err();
    let expected = "REST catalog's table kafka.prices: HTTP status 500: A: No.";
    assert!(matches!(&told, CatalogError::Unavailable(told) if told == expected), "{told}");
    let server = Server::start(vec![no_settings(), Ready::Text(200, "[]".to_owned())]).await;
    let told = server.open().load(&table()).await.unwrap_err();
    assert!(matches!(&told, CatalogError::Unavailable(_)), "{told}");
    let nowhere = RestConfig { uri: "http://127.0.0.1:1".to_owned(), retries: 0, ..server.config() };
    let told = RestCatalog::open(&nowhere).unwrap().swap(&table(), &entry(), &metadata()).await.unwrap_err();
    assert!(matches!(&told, CatalogError::Unavailable(_)), "{told}");
}

#[tokio::test]
async fn a_table_without_a_file_of_metadata_is_refused() {
    let answer = Ready::Json(200, json!({"metadata-location": null, "metadata": {}}));
    let server = Server::start(vec![no_settings(), answer]).await;
    let told = server.open().load(&table()).await.unwrap_err();
    assert!(matches!(&told, CatalogError::Refused(_)), "{told}");
}

#[tokio::test]
async fn a_token_is_sent_and_not_shown() {
    let server = Server::start(vec![no_settings(), error(401, "NotAuthorizedException")]).await;
    let config = RestConfig { auth: Auth::Token("geheim".to_owned()), ..server.config() };
    assert!(!format!("{config:?}").contains("geheim"));
    let told = RestCatalog::open(&config).unwrap().load(&table()).await.unwrap_err();
    assert!(matches!(&told, CatalogError::Refused(told) if !told.contains("geheim")), "{told}");
    for asked in server.asked() {
        assert_eq!(asked.authorization.as_deref(), Some("Bearer geheim"));
    }
}

fn credentials(server: &Server, server_uri: Option<&str>) -> RestConfig {
    let auth = Auth::Credentials(ClientCredentials {
        client_id: Some("ottla".to_owned()),
        client_secret: "ge:heim".to_owned(),
        server_uri: server_uri.map(|path| format!("{}{path}", server.url)),
        scope: "PRINCIPAL_ROLE:ALL".to_owned(),
    });
    RestConfig { auth, ..server.config() }
}

fn a_token(token: &str, expires_in: u64) -> Ready {
    Ready::Json(200, json!({"access_token": token, "token_type": "bearer", "expires_in": expires_in}))
}

#[tokio::test]
async fn credentials_are_good_for_a_token_that_is_renewed() {
    let ready = vec![
        a_token("one", 3600),
        no_settings(),
        a_table(),
        // It ended early. One new one is tried.
        error(419, "AuthenticationTimeoutException"),
        a_token("two", 3600),
        a_table(),
        error(401, "NotAuthorizedException"),
        a_token("three", 0),
        error(401, "NotAuthorizedException"),
        a_token("four", 0),
        a_table(),
        // It had ended when it came.
        a_token("five", 0),
        a_table(),
    ];
    let server = Server::start(ready).await;
    let config = credentials(&server, None);
    assert!(!format!("{config:?}").contains("heim"));
    let catalog = RestCatalog::open(&config).unwrap();
    catalog.load(&table()).await.unwrap();
    catalog.load(&table()).await.unwrap();
    let told = catalog.swap(&table(), &entry(), &metadata()).await.unwrap_err();
    assert!(matches!(&told, CatalogError::Refused(told) if !told.contains("heim")), "{told}");
    catalog.load(&table()).await.unwrap();
    catalog.load(&table()).await.unwrap();
    let asked = server.asked();
    assert_eq!(asked[0].line, "POST /catalog/v1/oauth/tokens");
    let form =
        "grant_type=client_credentials&client_secret=ge%3Aheim&scope=PRINCIPAL_ROLE%3AALL&client_id=ottla";
    assert_eq!(asked[0].body, form);
    let sent: Vec<Option<&str>> = asked.iter().map(|asked| asked.authorization.as_deref()).collect();
    let bearer = |token| Some(token);
    let (one, two) = (bearer("Bearer one"), bearer("Bearer two"));
    let expected = [
        None,
        one,
        one,
        one,
        None,
        two,
        two,
        None,
        bearer("Bearer three"),
        None,
        bearer("Bearer four"),
        None,
        bearer("Bearer five"),
    ];
    assert_eq!(sent, expected);
}

#[tokio::test]
async fn tokens_may_be_given_elsewhere_and_refused() {
    let refused = Ready::Json(401, json!({"error": "invalid_client", "error_description": "Unknown."}));
    let server = Server::start(vec![refused]).await;
    let catalog = RestCatalog::open(&credentials(&server, Some("/realm/token"))).unwrap();
    let told = catalog.load(&table()).await.unwrap_err();
    let expected = "tokens of 127.0.0.1: HTTP status 401: invalid_client: Unknown.";
    assert!(matches!(&told, CatalogError::Refused(told) if told == expected), "{told}");
    assert_eq!(server.lines(), ["POST /realm/token"]);
}

#[test]
fn a_catalog_has_a_url() {
    let config = |uri: &str| RestConfig {
        uri: uri.to_owned(),
        warehouse: None,
        auth: Auth::None,
        connect_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(1),
        retries: 0,
    };
    for uri in ["http://127.0.0.1:8181", "https://catalog.example.com/iceberg/"] {
        assert!(RestCatalog::open(&config(uri)).is_ok(), "{uri}");
    }
    for uri in ["", "catalog", "ftp://catalog", "localhost:8181", "http://"] {
        assert!(RestCatalog::open(&config(uri)).is_err(), "{uri}");
    }
}
