//! Glue as a catalog of tables.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aws_sdk_glue::Client;
use aws_sdk_glue::types::{StorageDescriptor, TableInput};
use bytes::Bytes;
use futures::future::join_all;
use ottla_aws::access::http_client;
use ottla_aws::glue::{GlueCatalog, GlueConfig};
use ottla_lake::catalog::{Catalog, CatalogError, Entry, HiveColumn, NewMetadata, TableName};
use ottla_lake::warehouse::Warehouse;
use ottla_storage::tiering::store::ObjectStore;
use serde_json::json;
use uuid::Uuid;

use crate::server::{Server, access};

struct Fixture {
    server: Server,
    warehouse: Arc<Warehouse>,
    table: TableName,
}

impl Fixture {
    async fn start() -> Option<Fixture> {
        let server = Server::start()?;
        let store: Arc<dyn ObjectStore> = Arc::new(server.store().await);
        let warehouse = Arc::new(Warehouse::new(store, &format!("s3://{}", server.bucket), "p"));
        let database = server.bucket.replace('-', "_");
        Some(Fixture { server, warehouse, table: TableName { database, table: "prices".to_owned() } })
    }

    async fn catalog(&self, retries: u32) -> GlueCatalog {
        let mut access = access();
        access.retries = retries;
        let config = GlueConfig { endpoint: Some(self.server.url.to_owned()), catalog_id: None, access };
        GlueCatalog::open(config, self.warehouse.clone()).await
    }

    /// As other programs reach it.
    async fn client(&self) -> Client {
        let config = aws_sdk_glue::Config::builder()
            .credentials_provider(access().credentials.unwrap())
            .region(aws_sdk_glue::config::Region::new("us-east-1"))
            .endpoint_url(self.server.url)
            .http_client(http_client())
            .build();
        Client::from_conf(config)
    }

    fn faults(&self, rules: serde_json::Value) {
        self.server.faults_of(&self.table.database, rules);
    }

    fn metadata(&self, number: u64, json: &str) -> NewMetadata {
        let column = |name: &str, hive_type: &str, field_id| HiveColumn {
            name: name.to_owned(),
            hive_type: hive_type.to_owned(),
            field_id,
            is_optional: field_id > 1,
        };
        NewMetadata {
            location: self.warehouse.table_location(&self.table),
            number,
            id: Uuid::new_v4(),
            json: Bytes::copy_from_slice(json.as_bytes()),
            columns: vec![
                column("kafka_offset", "bigint", 1),
                column("at", "struct<a:int,b:array<string>>", 7),
            ],
            updates: Vec::new(),
            requirements: Vec::new(),
        }
    }

    async fn create(&self, catalog: &GlueCatalog) -> Entry {
        let location = catalog.create(&self.table, &self.metadata(0, "")).await.unwrap().metadata_location;
        let entry = catalog.load(&self.table).await.unwrap().unwrap();
        assert_eq!(entry.metadata_location, location);
        entry
    }

    async fn written(&self, location: &str) -> String {
        String::from_utf8(self.warehouse.read(location).await.unwrap().to_vec()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_made_and_changed() {
    let Some(fixture) = Fixture::start().await else { return };
    let (catalog, table) = (fixture.catalog(4).await, &fixture.table);
    assert_eq!(catalog.load(table).await.unwrap(), None, "not even the database is there");
    let first = fixture.create(&catalog).await;
    let again = catalog.create(table, &fixture.metadata(0, "again")).await;
    assert!(matches!(&again, Err(CatalogError::Conflict(told)) if told == table), "{again:?}");
    let location =
        catalog.swap(table, &first, &fixture.metadata(1, "second")).await.unwrap().metadata_location;
    assert_eq!(fixture.written(&location).await, "second");
    let second = catalog.load(table).await.unwrap().unwrap();
    assert_eq!(second.metadata_location, location);
    let stale = catalog.swap(table, &first, &fixture.metadata(1, "stale")).await;
    assert!(matches!(stale, Err(CatalogError::Conflict(_))), "{stale:?}");
    assert_eq!(catalog.load(table).await.unwrap().unwrap(), second);
    let other = TableName { table: "another".to_owned(), ..table.clone() };
    let gone = catalog.swap(&other, &first, &fixture.metadata(1, "of none")).await;
    assert!(matches!(gone, Err(CatalogError::Conflict(_))), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entry_shows_columns_and_keeps_what_others_wrote() {
    let Some(fixture) = Fixture::start().await else { return };
    let (catalog, client, table) = (fixture.catalog(4).await, fixture.client().await, &fixture.table);
    fixture.create(&catalog).await;
    let shown = async || {
        let got = client.get_table().database_name(&table.database).name(&table.table).send().await;
        got.unwrap().table.unwrap()
    };
    let made = shown().await;
    assert_eq!(made.table_type(), Some("EXTERNAL_TABLE"));
    assert_eq!(made.parameters().unwrap()["table_type"], "ICEBERG");
    let descriptor = made.storage_descriptor().unwrap();
    assert_eq!(descriptor.location(), Some(fixture.metadata(0, "").location.as_str()));
    let columns: Vec<_> =
        descriptor.columns().iter().map(|column| (column.name(), column.r#type())).collect();
    assert_eq!(columns, [("kafka_offset", Some("bigint")), ("at", Some("struct<a:int,b:array<string>>"))]);
    let of_field = descriptor.columns()[1].parameters().unwrap();
    assert_eq!(of_field["iceberg.field.id"], "7");
    assert_eq!(of_field["iceberg.field.optional"], "true");

    // A crawler, a person in the console.
    let mut parameters = made.parameters().unwrap().clone();
    parameters.insert("classification".to_owned(), "parquet".to_owned());
    let mut descriptor: StorageDescriptor = made.storage_descriptor().unwrap().clone();
    descriptor.columns.as_mut().unwrap()[0].comment = Some("Where it was".to_owned());
    let input = TableInput::builder()
        .name(&table.table)
        .description("Prices of shares")
        .owner("analysts")
        .retention(7)
        .table_type("EXTERNAL_TABLE")
        .set_parameters(Some(parameters))
        .storage_descriptor(descriptor)
        .build()
        .unwrap();
    client.update_table().database_name(&table.database).table_input(input).send().await.unwrap();

    let before = catalog.load(table).await.unwrap().unwrap();
    let location = catalog.swap(table, &before, &fixture.metadata(1, "")).await.unwrap().metadata_location;
    let after = shown().await;
    assert_eq!((after.description(), after.owner()), (Some("Prices of shares"), Some("analysts")));
    assert_eq!(after.retention(), 7);
    let expected: HashMap<String, String> = HashMap::from(
        [
            ("classification", "parquet"),
            ("table_type", "ICEBERG"),
            ("metadata_location", &location),
            ("previous_metadata_location", &before.metadata_location),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    assert_eq!(after.parameters(), Some(&expected));
    let columns = after.storage_descriptor().unwrap().columns();
    assert_eq!(columns[0].comment(), Some("Where it was"));
    let versions = client.get_table_versions().database_name(&table.database).table_name(&table.table);
    let versions = versions.send().await.unwrap().table_versions().len();
    assert!(versions < 3, "old versions are not kept: {versions}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_an_answer_is_unknown_and_made_once() {
    let Some(fixture) = Fixture::start().await else { return };
    let (catalog, table) = (fixture.catalog(4).await, &fixture.table);
    let mut entry = fixture.create(&catalog).await;
    for (kind, is_done) in [("lose", true), ("fail", true), ("cut", true), ("drop", false)] {
        fixture.faults(json!([{"kind": kind, "operation": "UpdateTable"}]));
        let outcome = catalog.swap(table, &entry, &fixture.metadata(1, kind)).await;
        if kind == "cut" {
            // Its answer is `{}`, of which a half is cut off or not.
            assert!(matches!(outcome, Ok(_) | Err(CatalogError::Unknown(_))), "{kind}: {outcome:?}");
        } else {
            assert!(matches!(outcome, Err(CatalogError::Unknown(_))), "{kind}: {outcome:?}");
        }
        fixture.faults(json!([]));
        let now = catalog.load(table).await.unwrap().unwrap();
        assert_eq!(now != entry, is_done, "{kind}");
        if is_done {
            assert_eq!(fixture.written(&now.metadata_location).await, kind);
        }
        entry = now;
    }
    let (other, metadata) = (TableName { table: "t2".to_owned(), ..table.clone() }, fixture.metadata(0, ""));
    fixture.faults(json!([{"kind": "lose", "operation": "CreateTable"}]));
    let outcome = catalog.create(&other, &metadata).await;
    assert!(matches!(outcome, Err(CatalogError::Unknown(_))), "{outcome:?}");
    assert!(catalog.load(&other).await.unwrap().is_some());
    // What only reads, and what was certainly not done, is asked again.
    fixture.faults(json!([
        {"kind": "lose", "operation": "GetTable", "times": 2},
        {"kind": "refuse", "status": 400, "code": "ThrottlingException", "operation": "UpdateTable", "times": 2}
    ]));
    catalog.swap(table, &entry, &fixture.metadata(2, "in the end")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_or_no_iceberg_table_is_refused() {
    let Some(fixture) = Fixture::start().await else { return };
    let (catalog, table) = (fixture.catalog(4).await, &fixture.table);
    let entry = fixture.create(&catalog).await;
    let denied = json!({"kind": "refuse", "status": 400, "code": "AccessDeniedException", "message": "No."});
    fixture.faults(json!([denied]));
    let told = catalog.load(table).await.unwrap_err();
    let expected = format!("Glue table {table}: AccessDeniedException: No.");
    assert!(matches!(&told, CatalogError::Refused(told) if *told == expected), "{told}");
    fixture.faults(json!([]));
    let plain = TableInput::builder().name("plain").build().unwrap();
    let client = fixture.client().await;
    client.create_table().database_name(&table.database).table_input(plain).send().await.unwrap();
    let plain = TableName { table: "plain".to_owned(), ..table.clone() };
    for told in [
        catalog.load(&plain).await.unwrap_err(),
        catalog.swap(&plain, &entry, &fixture.metadata(1, "")).await.unwrap_err(),
    ] {
        assert!(matches!(&told, CatalogError::Refused(told) if told.contains("no Iceberg table")), "{told}");
    }
}

/// Each state names the one it follows, so that the history can be walked: whatever was answered is in it, what conflicted is not.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_committers_none_is_lost_when_answers_are() {
    const COMMITTERS: usize = 8;
    const COMMITS: usize = 10;
    let Some(fixture) = Fixture::start().await else { return };
    let fixture = Arc::new(fixture);
    let first = fixture.create(&fixture.catalog(2).await).await;
    fixture.faults(json!([
        {"kind": "fail", "operation": "UpdateTable", "every": 3},
        {"kind": "lose", "operation": "UpdateTable", "every": 7},
        {"kind": "drop", "operation": "UpdateTable", "every": 11},
        {"kind": "refuse", "status": 400, "code": "ThrottlingException", "operation": "GetTable", "every": 13}
    ]));
    let committers = (0..COMMITTERS).map(|_| {
        let fixture = fixture.clone();
        tokio::spawn(async move {
            let catalog = fixture.catalog(20).await;
            let (mut done, mut failed) = (Vec::new(), Vec::new());
            while done.len() < COMMITS {
                let entry = catalog.load(&fixture.table).await.unwrap().unwrap();
                let metadata = fixture.metadata(1, &entry.metadata_location);
                let location = metadata.unique_location();
                match catalog.swap(&fixture.table, &entry, &metadata).await {
                    Ok(answered) => {
                        assert_eq!(answered.metadata_location, location);
                        done.push(location);
                    }
                    Err(CatalogError::Conflict(_)) => failed.push(location),
                    // Made or not: the history would show it.
                    Err(CatalogError::Unknown(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            (done, failed)
        })
    });
    let outcomes = join_all(committers).await;
    fixture.faults(json!([]));
    let mut history = HashSet::new();
    let mut at = fixture.catalog(2).await.load(&fixture.table).await.unwrap().unwrap().metadata_location;
    while at != first.metadata_location {
        let parent = fixture.written(&at).await;
        assert!(history.insert(std::mem::replace(&mut at, parent)));
    }
    for outcome in outcomes {
        let (done, failed) = outcome.unwrap();
        assert!(done.iter().all(|location| history.contains(location)), "an answered commit is lost");
        assert!(!failed.iter().any(|location| history.contains(location)), "a refused commit was made");
    }
}
