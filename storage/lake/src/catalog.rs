//! What is asked of a catalog: what state a table is in, and to put another in its place if nobody else did meanwhile. Nothing else
//! makes a commit: data files, manifests and metadata that no catalog names are not in the table.
//!
//! There are two kinds. One keeps the location of a metadata file, which is finished when it is handed over ([`NewMetadata::json`]).
//! The other makes the file itself, from what is to change ([`NewMetadata::updates`]), if what was said of the state before
//! still holds ([`NewMetadata::requirements`]); what it made may say more than was asked for, so it hands it back. A
//! change is made for both alike: which of them it meets does not show in it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use iceberg::{TableRequirement, TableUpdate};

pub type CatalogAnswer<'a, T> = Pin<Box<dyn Future<Output = Result<T, CatalogError>> + Send + 'a>>;

/// Every call may be dropped at any time; a create or swap that was dropped may still have happened, or happen later.
pub trait Catalog: Send + Sync + 'static {
    /// The table as it is now; `None` if there is none of that name.
    fn load<'a>(&'a self, table: &'a TableName) -> CatalogAnswer<'a, Option<Entry>>;

    /// Stores the first metadata and enters the table; [`CatalogError::Conflict`] if one is there. Makes the database too if
    /// it is not there.
    fn create<'a>(&'a self, table: &'a TableName, metadata: &'a NewMetadata) -> CatalogAnswer<'a, Stored>;

    /// Stores the metadata and makes it the table's if the table is still as `expected`, else [`CatalogError::Conflict`]. What the
    /// entry of the table holds beside what follows from the metadata stays: other programs put it there.
    fn swap<'a>(
        &'a self,
        table: &'a TableName,
        expected: &'a Entry,
        metadata: &'a NewMetadata,
    ) -> CatalogAnswer<'a, Stored>;
}

/// Names of both are of lower-case letters, digits and underscores: Glue knows no others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableName {
    pub database: String,
    pub table: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where the metadata is, with scheme and bucket: `s3://bucket/prefix/lake/db/table/metadata/...`.
    pub metadata_location: String,
    /// What the catalog compares in a swap: Glue's VersionId, the number in a file's name. It means nothing to others.
    pub version: String,
    /// The metadata itself, from a catalog that has it at hand. None: it is read from its location.
    pub metadata: Option<Bytes>,
}

/// What became of a state that was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub metadata_location: String,
    /// From a catalog that makes metadata itself, and deletes what is old of it. None: it is what was handed over.
    pub made: Option<Bytes>,
}

/// A state of a table that a catalog is to store.
#[derive(Debug, Clone)]
pub struct NewMetadata {
    /// Of the table, with scheme and bucket, no slash at its end.
    pub location: String,
    /// How many states the table had before. Two committers may come with the same number.
    pub number: u64,
    /// Unlike any other's, with the time in it (version 7).
    pub id: uuid::Uuid,
    /// The file: Iceberg's table metadata.
    pub json: Bytes,
    /// Those of the current schema, for catalogs that show them.
    pub columns: Vec<HiveColumn>,
    /// What makes this state of the one before. None in a table's first.
    pub updates: Vec<TableUpdate>,
    /// What holds of the state before, and of no other state that this change could lose something of: see
    /// [`requirements`](crate::table).
    pub requirements: Vec<TableRequirement>,
}

impl NewMetadata {
    /// Where the file goes, for a catalog that keeps a location and not the file: no two states have the same one. What became of no
    /// state is found by this name and deleted.
    pub fn unique_location(&self) -> String {
        format!("{}/metadata/{:05}-{}.metadata.json", self.location, self.number, self.id.simple())
    }
}

/// A column as Hive and Glue describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HiveColumn {
    pub name: String,
    /// `bigint`, `struct<a:int,b:string>`, ...
    pub hive_type: String,
    pub field_id: i32,
    pub is_optional: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The table is not, or no longer, as was expected. This call changed nothing.
    #[error("table {0} was changed by somebody else")]
    Conflict(TableName),
    /// No answer, or one that says nothing: nobody knows whether the change happened, or will.
    #[error("{0}")]
    Unknown(String),
    /// Not allowed, no such catalog, not an Iceberg table: trying again does not help before somebody has changed something.
    #[error("{0}")]
    Refused(String),
    /// Away or throttled, and nothing was changed by this call: try again later.
    #[error("{0}")]
    Unavailable(String),
}
