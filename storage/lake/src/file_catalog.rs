//! The catalog that needs no service: a table's states are files `metadata/v<n>.metadata.json` in its own folder, the
//! highest number is the table. Readers that know of no catalog (DuckDB's `iceberg_scan`, PyIceberg's `StaticTable`) begin at
//! `metadata/version-hint.text`.
//!
//! A number is claimed by a conditional put, which has one winner however many committers try. Old states are deleted after a
//! while, and their numbers could then be claimed again by a committer that slept: it finds the higher numbers after its put,
//! and nobody else ever looks at its file, because the table is the highest number there is and not what the hint says.

use std::sync::Arc;

use bytes::Bytes;
use ottla_storage::tiering::store::{Condition, Content, StoreError};

use crate::catalog::{Catalog, CatalogAnswer, CatalogError, Entry, NewMetadata, Stored, TableName};
use crate::warehouse::Warehouse;

pub const HINT: &str = "version-hint.text";

pub struct FileCatalog {
    warehouse: Arc<Warehouse>,
}

impl FileCatalog {
    pub fn new(warehouse: Arc<Warehouse>) -> FileCatalog {
        FileCatalog { warehouse }
    }

    /// The highest number, 0 when there is none.
    async fn newest(&self, table: &TableName) -> Result<u64, CatalogError> {
        let folder = self.warehouse.table_location(table);
        let key = self.warehouse.key(&folder).expect("a location of this warehouse");
        let prefix = format!("{key}/metadata/v");
        let (mut newest, mut after) = (0, None::<String>);
        loop {
            let page =
                self.warehouse.store().list(&prefix, after.as_deref()).await.map_err(before_any_change)?;
            for object in &page.objects {
                newest = newest.max(number_of(&object.key[prefix.len()..]).unwrap_or(0));
            }
            match page.objects.last() {
                Some(last) if page.is_cut => after = Some(last.key.clone()),
                _ => return Ok(newest),
            }
        }
    }

    async fn claim(
        &self,
        table: &TableName,
        number: u64,
        metadata: &NewMetadata,
    ) -> Result<Stored, CatalogError> {
        let folder = self.warehouse.table_location(table);
        if metadata.location != folder {
            let message = format!("table {table} lies in {folder}, not in {}", metadata.location);
            return Err(CatalogError::Refused(message));
        }
        let location = location_of(&folder, number);
        match self.warehouse.write(&location, metadata.json.clone().into(), Condition::Absent).await {
            Ok(()) => {}
            Err(StoreError::Exists(_)) => return Err(CatalogError::Conflict(table.clone())),
            Err(error) => return Err(while_changing(error)),
        }
        let (hint_location, mut hint) = (format!("{folder}/metadata/{HINT}"), number);
        loop {
            // ORDER: the hint first, then the look at what there is. Whoever wrote the last hint then looked later than anybody who
            // wrote one before, so that the hint that stays is the highest number.
            let content = Content::from(Bytes::from(hint.to_string()));
            if let Err(error) = self.warehouse.write(&hint_location, content, Condition::None).await {
                // The table has changed all the same. The next change writes a hint again.
                tracing::warn!(%table, %error, "readers without catalog see an older state of the table");
                return Ok(Stored { metadata_location: location, made: None });
            }
            match self.newest(table).await {
                Ok(newest) if newest > hint => hint = newest,
                Ok(_) if hint == number => return Ok(Stored { metadata_location: location, made: None }),
                // Perhaps because somebody changed the table right after, perhaps because the number had been used and deleted.
                Ok(newest) => {
                    let message = format!("state {number} of table {table} was overtaken by {newest}");
                    return Err(CatalogError::Unknown(message));
                }
                Err(error) => return Err(CatalogError::Unknown(error.to_string())),
            }
        }
    }
}

impl Catalog for FileCatalog {
    fn load<'a>(&'a self, table: &'a TableName) -> CatalogAnswer<'a, Option<Entry>> {
        Box::pin(async move {
            let number = self.newest(table).await?;
            let folder = self.warehouse.table_location(table);
            Ok((number > 0).then(|| Entry {
                metadata_location: location_of(&folder, number),
                version: number.to_string(),
                metadata: None,
            }))
        })
    }

    fn create<'a>(&'a self, table: &'a TableName, metadata: &'a NewMetadata) -> CatalogAnswer<'a, Stored> {
        Box::pin(async move {
            match self.newest(table).await? {
                0 => self.claim(table, 1, metadata).await,
                _ => Err(CatalogError::Conflict(table.clone())),
            }
        })
    }

    fn swap<'a>(
        &'a self,
        table: &'a TableName,
        expected: &'a Entry,
        metadata: &'a NewMetadata,
    ) -> CatalogAnswer<'a, Stored> {
        Box::pin(async move {
            let number: u64 = expected.version.parse().expect("an entry of this catalog");
            self.claim(table, number + 1, metadata).await
        })
    }
}

fn location_of(folder: &str, number: u64) -> String {
    format!("{folder}/metadata/v{number}.metadata.json")
}

/// Of the name of a file of metadata, without its `v`. None for files that are not of this catalog.
fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".metadata.json")?;
    (!digits.starts_with('0')).then(|| digits.parse().ok())?
}

fn before_any_change(error: StoreError) -> CatalogError {
    match error {
        StoreError::Unavailable(message) => CatalogError::Unavailable(message),
        error => CatalogError::Refused(error.to_string()),
    }
}

fn while_changing(error: StoreError) -> CatalogError {
    match error {
        StoreError::Unavailable(message) => CatalogError::Unknown(message),
        error => CatalogError::Refused(error.to_string()),
    }
}
