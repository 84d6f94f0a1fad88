//! The Data Catalog of AWS Glue as the catalog of tables. A table's entry names its metadata file; UpdateTable with the version that
//! was read is the swap that has one winner.
//!
//! Nothing that may have been carried out is asked for twice: whoever commits reads the table again and compares. The entry shows
//! the columns too, for people and for programs that read no Iceberg metadata; what else it holds is others' and stays.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use aws_config::Region;
use aws_sdk_glue::Client;
use aws_sdk_glue::types::{Column, DatabaseInput, StorageDescriptor, Table, TableInput};
use bytes::Bytes;
use ottla_lake::catalog::{
    Catalog, CatalogAnswer, CatalogError, Entry, HiveColumn, NewMetadata, Stored, TableName,
};
use ottla_lake::warehouse::Warehouse;
use ottla_storage::tiering::store::{Condition, Content, StoreError};

use crate::access::Access;
use crate::failure::{self, Failure, Said};

const METADATA_LOCATION: &str = "metadata_location";
const PREVIOUS_METADATA_LOCATION: &str = "previous_metadata_location";
const TABLE_TYPE: &str = "table_type";
const ICEBERG: &str = "ICEBERG";
/// As other writers of Iceberg tables say it of a column.
const FIELD_ID: &str = "iceberg.field.id";
const FIELD_OPTIONAL: &str = "iceberg.field.optional";
const FIELD_CURRENT: &str = "iceberg.field.current";

#[derive(Debug, Clone)]
pub struct GlueConfig {
    /// URL of a service other than Amazon's.
    pub endpoint: Option<String>,
    /// Of another account's catalog. None: this account's.
    pub catalog_id: Option<String>,
    pub access: Access,
}

pub struct GlueCatalog {
    client: Client,
    catalog_id: Option<String>,
    access: Access,
    warehouse: Arc<Warehouse>,
}

/// What a request may have done when it got no answer that says so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It only reads, or twice is as good as once.
    Repeatable,
    /// It is not made a second time.
    Once,
}

/// A try failed: with an answer for the caller, or in a way that decides about the next try.
enum Failed {
    With(CatalogError),
    By(Failure),
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Failed {
        Failed::By(failure)
    }
}

impl GlueCatalog {
    /// Does not ask the service. Metadata files go to the tables' folders in `warehouse`.
    pub async fn open(mut config: GlueConfig, warehouse: Arc<Warehouse>) -> GlueCatalog {
        config.access.assume_region(config.endpoint.as_deref());
        let loaded = config.access.load().await;
        let mut builder = aws_sdk_glue::config::Builder::from(&loaded);
        if let Some(endpoint) = &config.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        let client = Client::from_conf(builder.build());
        GlueCatalog { client, catalog_id: config.catalog_id, access: config.access, warehouse }
    }

    fn region(&self) -> Option<&str> {
        self.client.config().region().map(Region::as_ref)
    }

    async fn asked<T, F>(
        &self,
        effect: Effect,
        target: &str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, CatalogError>
    where
        F: Future<Output = Result<T, Failed>>,
    {
        let mut retry = 0;
        loop {
            let limit = self.access.request_timeout;
            let failure = match tokio::time::timeout(limit, attempt()).await {
                Ok(Ok(answered)) => return Ok(answered),
                Ok(Err(Failed::With(error))) => return Err(error),
                Ok(Err(Failed::By(failure))) => failure,
                Err(_) => failure::too_late(target, limit),
            };
            let told = match failure {
                Failure::Refused(told) => return Err(CatalogError::Refused(told)),
                Failure::Unknown(told) if effect == Effect::Once => return Err(CatalogError::Unknown(told)),
                Failure::Unknown(told) | Failure::NotDone(told) => told,
            };
            if retry == self.access.retries {
                return Err(CatalogError::Unavailable(told));
            }
            retry += 1;
            tokio::time::sleep(Access::pause(retry)).await;
        }
    }

    async fn table(&self, name: &TableName) -> Result<Option<Table>, CatalogError> {
        let target = target(name);
        let attempt = async || {
            let get = self
                .client
                .get_table()
                .set_catalog_id(self.catalog_id.clone())
                .database_name(&name.database)
                .name(&name.table);
            match get.send().await {
                Ok(got) => Ok(got.table),
                Err(error) if Said::by(&error).code == "EntityNotFoundException" => Ok(None),
                Err(error) => Err(failure::judge(&error, &target, self.region()).into()),
            }
        };
        self.asked(Effect::Repeatable, &target, attempt).await
    }

    async fn make_database(&self, database: &str) -> Result<(), CatalogError> {
        let target = format!("Glue database {database}");
        let input = DatabaseInput::builder().name(database).build();
        let input = input.map_err(|error| CatalogError::Refused(format!("{target}: {error}")))?;
        let attempt = async || {
            let create = self
                .client
                .create_database()
                .set_catalog_id(self.catalog_id.clone())
                .database_input(input.clone());
            match create.send().await {
                Ok(_) => Ok(()),
                Err(error) if Said::by(&error).code == "AlreadyExistsException" => Ok(()),
                Err(error) => Err(failure::judge(&error, &target, self.region()).into()),
            }
        };
        self.asked(Effect::Repeatable, &target, attempt).await
    }

    /// False: its database is not there.
    async fn enter(&self, name: &TableName, input: &TableInput) -> Result<bool, CatalogError> {
        let target = target(name);
        let attempt = async || {
            let create = self
                .client
                .create_table()
                .set_catalog_id(self.catalog_id.clone())
                .database_name(&name.database)
                .table_input(input.clone());
            let Err(error) = create.send().await else { return Ok(true) };
            match Said::by(&error).code.as_str() {
                "EntityNotFoundException" => Ok(false),
                "AlreadyExistsException" => Err(Failed::With(CatalogError::Conflict(name.clone()))),
                _ => Err(failure::judge(&error, &target, self.region()).into()),
            }
        };
        self.asked(Effect::Once, &target, attempt).await
    }

    async fn update(&self, name: &TableName, version: &str, input: &TableInput) -> Result<(), CatalogError> {
        let target = target(name);
        let attempt = async || {
            let update = self
                .client
                .update_table()
                .set_catalog_id(self.catalog_id.clone())
                .database_name(&name.database)
                .table_input(input.clone())
                .version_id(version)
                // Each version kept would count against a quota of the account, and Iceberg keeps its own history.
                .skip_archive(true);
            let Err(error) = update.send().await else { return Ok(()) };
            match Said::by(&error).code.as_str() {
                "ConcurrentModificationException" | "EntityNotFoundException" => {
                    Err(Failed::With(CatalogError::Conflict(name.clone())))
                }
                _ => Err(failure::judge(&error, &target, self.region()).into()),
            }
        };
        self.asked(Effect::Once, &target, attempt).await
    }

    /// Under a name that nobody else has: until the catalog names it, it is nobody's.
    async fn write(&self, metadata: &NewMetadata) -> Result<String, CatalogError> {
        let location = metadata.unique_location();
        let content = Content::from(Bytes::clone(&metadata.json));
        match self.warehouse.write(&location, content, Condition::None).await {
            Ok(()) => Ok(location),
            Err(StoreError::Unavailable(told)) => Err(CatalogError::Unavailable(told)),
            Err(error) => Err(CatalogError::Refused(error.to_string())),
        }
    }
}

impl Catalog for GlueCatalog {
    fn load<'a>(&'a self, table: &'a TableName) -> CatalogAnswer<'a, Option<Entry>> {
        Box::pin(async move {
            let Some(found) = self.table(table).await? else { return Ok(None) };
            entry(table, &found).map(Some)
        })
    }

    fn create<'a>(&'a self, table: &'a TableName, metadata: &'a NewMetadata) -> CatalogAnswer<'a, Stored> {
        Box::pin(async move {
            if self.table(table).await?.is_some() {
                return Err(CatalogError::Conflict(table.clone()));
            }
            let location = self.write(metadata).await?;
            let input = new_input(table, metadata, &location)?;
            if !self.enter(table, &input).await? {
                self.make_database(&table.database).await?;
                if !self.enter(table, &input).await? {
                    let told = format!("{}: its database is gone as soon as it is made", target(table));
                    return Err(CatalogError::Refused(told));
                }
            }
            Ok(Stored { metadata_location: location, made: None })
        })
    }

    fn swap<'a>(
        &'a self,
        table: &'a TableName,
        expected: &'a Entry,
        metadata: &'a NewMetadata,
    ) -> CatalogAnswer<'a, Stored> {
        Box::pin(async move {
            let found = self.table(table).await?.ok_or_else(|| CatalogError::Conflict(table.clone()))?;
            if entry(table, &found)? != *expected {
                return Err(CatalogError::Conflict(table.clone()));
            }
            let location = self.write(metadata).await?;
            let input = changed_input(table, found, metadata, &location)?;
            self.update(table, &expected.version, &input).await?;
            Ok(Stored { metadata_location: location, made: None })
        })
    }
}

fn target(table: &TableName) -> String {
    format!("Glue table {table}")
}

fn entry(name: &TableName, table: &Table) -> Result<Entry, CatalogError> {
    let parameter = |key: &str| table.parameters().and_then(|parameters| parameters.get(key));
    let is_iceberg = parameter(TABLE_TYPE).is_some_and(|kind| kind.eq_ignore_ascii_case(ICEBERG));
    let (true, Some(location)) = (is_iceberg, parameter(METADATA_LOCATION)) else {
        let told = format!("{} is there and is no Iceberg table: another name is to be chosen", target(name));
        return Err(CatalogError::Refused(told));
    };
    let Some(version) = table.version_id() else {
        return Err(CatalogError::Refused(format!("{}: this service numbers no versions", target(name))));
    };
    Ok(Entry { metadata_location: location.clone(), version: version.to_owned(), metadata: None })
}

fn new_input(name: &TableName, metadata: &NewMetadata, location: &str) -> Result<TableInput, CatalogError> {
    let parameters = [(TABLE_TYPE, ICEBERG), (METADATA_LOCATION, location)];
    let parameters = parameters.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let descriptor = StorageDescriptor::builder()
        .location(&metadata.location)
        .set_columns(Some(columns(name, &metadata.columns)?))
        .build();
    TableInput::builder()
        .name(&name.table)
        .table_type("EXTERNAL_TABLE")
        .set_parameters(Some(HashMap::from(parameters)))
        .storage_descriptor(descriptor)
        .build()
        .map_err(|error| refused(name, error))
}

/// What the entry was, with what follows from the new metadata.
fn changed_input(
    name: &TableName,
    table: Table,
    metadata: &NewMetadata,
    location: &str,
) -> Result<TableInput, CatalogError> {
    let mut parameters = table.parameters.unwrap_or_default();
    if let Some(previous) = parameters.insert(METADATA_LOCATION.to_owned(), location.to_owned()) {
        parameters.insert(PREVIOUS_METADATA_LOCATION.to_owned(), previous);
    }
    let mut descriptor = table.storage_descriptor.unwrap_or_else(|| StorageDescriptor::builder().build());
    descriptor.location = Some(metadata.location.clone());
    let described = descriptor.columns.take().unwrap_or_default();
    let mut columns = columns(name, &metadata.columns)?;
    for column in &mut columns {
        // People describe columns in the console.
        let known = described.iter().find(|known| known.name == column.name);
        column.comment = known.and_then(|known| known.comment.clone());
    }
    descriptor.columns = Some(columns);
    TableInput::builder()
        .name(&name.table)
        .set_description(table.description)
        .set_owner(table.owner)
        .set_last_access_time(table.last_access_time)
        .set_last_analyzed_time(table.last_analyzed_time)
        .retention(table.retention)
        .set_partition_keys(table.partition_keys)
        .set_table_type(table.table_type)
        .set_parameters(Some(parameters))
        .storage_descriptor(descriptor)
        .build()
        .map_err(|error| refused(name, error))
}

fn columns(name: &TableName, columns: &[HiveColumn]) -> Result<Vec<Column>, CatalogError> {
    let column = |column: &HiveColumn| {
        Column::builder()
            .name(&column.name)
            .r#type(&column.hive_type)
            .parameters(FIELD_ID, column.field_id.to_string())
            .parameters(FIELD_OPTIONAL, column.is_optional.to_string())
            .parameters(FIELD_CURRENT, "true")
            .build()
            .map_err(|error| refused(name, error))
    };
    columns.iter().map(column).collect()
}

fn refused(name: &TableName, error: impl std::fmt::Display) -> CatalogError {
    CatalogError::Refused(format!("{}: {error}", target(name)))
}
