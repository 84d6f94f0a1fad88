//! A topic's Iceberg table (format version 2): data files, manifests and metadata in the object store, the name of the current
//! metadata in the catalog.
//!
//! Exactly once: the table itself says up to which offset of each partition its rows go, in a property
//! ([`Table::next_offsets`]) that changes with the rows in one swap of the catalog. A commit ([`Table::append`]) starts from the
//! table as it is now, and whatever goes wrong is followed by another look at the table and never by a blind repetition.
//!
//! - `files`: names of files, and putting data files where no table names them yet.
//! - `manifests`: Iceberg's lists of files, read and written.
//! - `commit`: the next state of the table and its swap; `append` and `replace` are the two kinds of change.
//! - `evolve`: the columns of the next state.
//! - `adopt`: a topic that goes on in another cluster.
//! - `read` (with the feature `query`): rows back from data files.
//! - `maintain`: what keeps a table quick and small; `compact` joins files, `sweep` deletes what no snapshot has.
//! - `hive`: columns as catalogs show them; `facts`: what the table amounts to.

mod adopt;
mod append;
mod commit;
mod compact;
mod evolve;
mod facts;
mod files;
mod hive;
mod maintain;
mod manifests;
#[cfg(feature = "query")]
mod read;
mod replace;
mod sweep;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use iceberg::spec::{FormatVersion, MAIN_BRANCH, PartitionSpec, SnapshotReference, TableMetadata, Transform};
use ottla_storage::batch::{Offset, TimestampMs};
use ottla_storage::tiering::store::StoreError;

use crate::catalog::{Catalog, CatalogError, Entry, NewMetadata, Stored, TableName};
use crate::schema::{SchemaError, Source, TableSchema};
use crate::warehouse::Warehouse;

pub use append::{Advance, Append, Appended};
pub use facts::Facts;
pub use files::StagedFile;
pub use maintain::{Limits, Maintained, Scratch};
#[cfg(feature = "query")]
pub use read::DataFiles;

/// Of the table property that keeps [`TableSchema`].
const SCHEMA_PROPERTY: &str = "ottla.schema";
/// Followed by cluster and topic: what each partition's next offset is, as JSON. In the summary of a snapshot, those
/// that the snapshot moved.
const OFFSETS_PROPERTY: &str = "ottla.offsets.";
/// Files with an earlier time in their name that were in no snapshot may have been deleted.
const SWEPT_PROPERTY: &str = "ottla.swept-before-ms";

/// States of the table before the current one whose metadata is kept.
const PREVIOUS_METADATA_MAX: usize = 100;
const PREVIOUS_METADATA_PROPERTY: &str = "write.metadata.previous-versions-max";

/// Which topic rows come from. A topic that is made anew under its old name is another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub cluster_id: String,
    pub topic_id: String,
}

impl Origin {
    fn property(&self) -> String {
        format!("{OFFSETS_PROPERTY}{}.{}", self.cluster_id, self.topic_id)
    }
}

/// By partition.
pub type NextOffsets = BTreeMap<i32, Offset>;

/// How a new table's files are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitioning {
    None,
    /// By the day of `kafka_timestamp`.
    Day,
}

/// A table's name and what it takes to get at it.
#[derive(Clone)]
pub struct TableAt {
    pub warehouse: Arc<Warehouse>,
    pub catalog: Arc<dyn Catalog>,
    pub name: TableName,
}

/// A table as it was when it was last loaded or changed.
#[derive(Clone)]
pub struct Table {
    at: TableAt,
    metadata_location: String,
    metadata: Arc<TableMetadata>,
    /// Those that branches and tags name.
    named_snapshots: Arc<HashSet<i64>>,
}

#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Somebody else has added records or columns since the work began: what was made is not to be added. Begin again from what the
    /// table says now.
    #[error("table {0} is not as it was when this work began")]
    Moved(TableName),
    #[error("table {table}: {source}")]
    Store { table: TableName, source: StoreError },
    #[error("table {table}: {source}")]
    Catalog { table: TableName, source: CatalogError },
    #[error("table {table}: {location}: {source}")]
    Malformed { table: TableName, location: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("table {table}: {source}")]
    Schema { table: TableName, source: Box<SchemaError> },
    /// Somebody has to look at the table.
    #[error("table {table}: {reason}")]
    Unfit { table: TableName, reason: String },
}

impl TableError {
    /// The same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            TableError::Store { source, .. } => matches!(source, StoreError::Unavailable(_)),
            TableError::Catalog { source, .. } => !matches!(source, CatalogError::Refused(_)),
            TableError::Moved(_)
            | TableError::Malformed { .. }
            | TableError::Schema { .. }
            | TableError::Unfit { .. } => false,
        }
    }
}

impl TableAt {
    /// The table's quarantine: a table of its own beside it.
    pub fn quarantine(&self) -> TableAt {
        let name = TableName {
            database: self.name.database.clone(),
            table: format!("{}__quarantine", self.name.table),
        };
        TableAt { name, ..self.clone() }
    }

    pub async fn load(&self) -> Result<Option<Table>, TableError> {
        Ok(self.load_fresh(None).await?.map(|(table, _)| table))
    }

    /// With the catalog's entry, which a swap needs. `known`: a state whose metadata need not be read again.
    async fn load_fresh(&self, known: Option<&Table>) -> Result<Option<(Table, Entry)>, TableError> {
        let Some(entry) = self.catalog.load(&self.name).await.map_err(|error| self.of_catalog(error))? else {
            return Ok(None);
        };
        let location = &entry.metadata_location;
        let table = match (known.filter(|known| known.metadata_location == *location), &entry.metadata) {
            (Some(known), _) => known.clone(),
            (None, Some(json)) => self.state(location, json)?,
            (None, None) => {
                let json = self.warehouse.read(location).await.map_err(|error| self.of_store(error))?;
                self.state(location, &json)?
            }
        };
        Ok(Some((table, entry)))
    }

    /// What the metadata at that location says.
    fn state(&self, location: &str, bytes: &[u8]) -> Result<Table, TableError> {
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return Err(self.unfit(format!("{location} is compressed, which Ottla neither writes nor reads")));
        }
        let metadata: TableMetadata =
            serde_json::from_slice(bytes).map_err(|error| self.malformed(location, error))?;
        if metadata.format_version() != FormatVersion::V2 {
            let version = metadata.format_version();
            return Err(
                self.unfit(format!("it is of Iceberg's format version {version}; Ottla writes version 2"))
            );
        }
        // The crate keeps branches and tags to itself.
        #[derive(serde::Deserialize)]
        struct WithReferences {
            #[serde(default)]
            refs: HashMap<String, SnapshotReference>,
        }
        let WithReferences { refs } =
            serde_json::from_slice(bytes).map_err(|error| self.malformed(location, error))?;
        let named = refs.into_iter().filter(|(name, _)| name != MAIN_BRANCH);
        if self.warehouse.key(metadata.location()).is_none() {
            return Err(self.unfit(format!(
                "its catalog has put it at {}, which is not in {}, the store of tables",
                metadata.location(),
                self.warehouse.location("")
            )));
        }
        let table = Table {
            at: self.clone(),
            metadata_location: location.to_owned(),
            metadata: Arc::new(metadata),
            named_snapshots: Arc::new(named.map(|(_, reference)| reference.snapshot_id).collect()),
        };
        table.check_ids()?;
        Ok(table)
    }

    /// A table of records, which has the columns of every record; [appending](Table::append) brings others. [`CatalogError::Conflict`]
    /// if there is one already.
    pub async fn create(&self, partitioning: Partitioning, now: TimestampMs) -> Result<Table, TableError> {
        let location = self.warehouse.table_location(&self.name);
        let metadata = self.first_metadata(&location, partitioning, now)?;
        let new = self.new_metadata(&metadata, None, now);
        let created = self.catalog.create(&self.name, &new).await;
        let Stored { metadata_location, made } = created.map_err(|error| self.of_catalog(error))?;
        match made {
            Some(json) => self.state(&metadata_location, &json),
            None => Ok(Table {
                at: self.clone(),
                metadata_location,
                metadata: Arc::new(metadata),
                named_snapshots: Arc::default(),
            }),
        }
    }

    /// iceberg's builder would give the columns new ids; those in the files are given by our schema.
    fn first_metadata(
        &self,
        location: &str,
        partitioning: Partitioning,
        now: TimestampMs,
    ) -> Result<TableMetadata, TableError> {
        let schema = TableSchema::of_records();
        let iceberg = schema.to_iceberg().map_err(|source| self.of_schema(source))?;
        let timestamp = schema.columns().iter().find(|column| column.source == Source::Timestamp);
        let fields = match (partitioning, timestamp) {
            (Partitioning::Day, Some(column)) => serde_json::json!([{
                "source-id": column.id, "field-id": 1000, "name": "kafka_timestamp_day", "transform": "day",
            }]),
            (Partitioning::None, _) | (Partitioning::Day, None) => serde_json::json!([]),
        };
        let json = serde_json::json!({
            "format-version": 2,
            "table-uuid": uuid::Uuid::new_v4(),
            "location": location,
            "last-sequence-number": 0,
            "last-updated-ms": now.0,
            "last-column-id": schema.last_field_id(),
            "current-schema-id": 0,
            "schemas": [iceberg],
            "default-spec-id": 0,
            "partition-specs": [{"spec-id": 0, "fields": fields}],
            "last-partition-id": 1000,
            "default-sort-order-id": 0,
            "sort-orders": [{"order-id": 0, "fields": []}],
            "properties": {
                SCHEMA_PROPERTY: schema.to_property(),
                commit::SNAPSHOT_AGE_PROPERTY: commit::SNAPSHOT_AGE_MS.to_string(),
                "write.parquet.compression-codec": "zstd",
                "write.metadata.delete-after-commit.enabled": "true",
                PREVIOUS_METADATA_PROPERTY: PREVIOUS_METADATA_MAX.to_string(),
            },
        });
        serde_json::from_value(json).map_err(|error| self.malformed(location, error))
    }

    /// `replaced`: where the state before is, if there is one.
    fn new_metadata(
        &self,
        metadata: &TableMetadata,
        replaced: Option<&str>,
        now: TimestampMs,
    ) -> NewMetadata {
        NewMetadata {
            location: metadata.location().to_owned(),
            number: replaced.map_or(0, |location| number_in(location) + 1),
            id: files::new_id(now),
            json: serde_json::to_vec(metadata).expect("metadata of a table is JSON").into(),
            columns: hive::columns(metadata.current_schema()),
            updates: Vec::new(),
            requirements: Vec::new(),
        }
    }

    fn of_store(&self, source: StoreError) -> TableError {
        TableError::Store { table: self.name.clone(), source }
    }

    fn of_catalog(&self, source: CatalogError) -> TableError {
        TableError::Catalog { table: self.name.clone(), source }
    }

    fn of_schema(&self, source: SchemaError) -> TableError {
        TableError::Schema { table: self.name.clone(), source: Box::new(source) }
    }

    fn malformed(
        &self,
        location: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> TableError {
        TableError::Malformed {
            table: self.name.clone(),
            location: location.to_owned(),
            source: source.into(),
        }
    }

    fn unfit(&self, reason: String) -> TableError {
        TableError::Unfit { table: self.name.clone(), reason }
    }
}

impl Table {
    pub fn at(&self) -> &TableAt {
        &self.at
    }

    pub fn metadata(&self) -> &TableMetadata {
        &self.metadata
    }

    pub fn metadata_location(&self) -> &str {
        &self.metadata_location
    }

    /// Looks at the catalog; what this object says is then the table's state of now.
    pub async fn refresh(&mut self) -> Result<(), TableError> {
        let (table, _) = self.fresh().await?;
        *self = table;
        Ok(())
    }

    async fn fresh(&self) -> Result<(Table, Entry), TableError> {
        let fresh = self.at.load_fresh(Some(self)).await?;
        let (table, entry) =
            fresh.ok_or_else(|| self.at.unfit("it is no longer in the catalog".to_owned()))?;
        if table.metadata.uuid() != self.metadata.uuid() {
            return Err(self.at.unfit("another table has taken its name".to_owned()));
        }
        Ok((table, entry))
    }

    /// The columns of ours, to convert the next records with.
    pub fn schema(&self) -> Result<TableSchema, TableError> {
        let mut schema = self.own_schema()?;
        schema.keep_clear_of(self.metadata.current_schema(), self.metadata.last_column_id());
        Ok(schema)
    }

    fn own_schema(&self) -> Result<TableSchema, TableError> {
        let property = self.metadata.properties().get(SCHEMA_PROPERTY);
        let property = property.ok_or_else(|| {
            self.at.unfit(format!("it has no property {SCHEMA_PROPERTY}: it was not made by Ottla"))
        })?;
        TableSchema::from_property(property).map_err(|source| self.at.of_schema(source))
    }

    /// Files name columns by id. A catalog that makes metadata itself may have given the columns of a new table other ids than it
    /// was told; as long as no file was added, that is noticed.
    fn check_ids(&self) -> Result<(), TableError> {
        if self.metadata.last_sequence_number() > 0
            || !self.metadata.properties().contains_key(SCHEMA_PROPERTY)
        {
            return Ok(());
        }
        let own = self.own_schema()?.to_iceberg().map_err(|source| self.at.of_schema(source))?;
        let is_ours = |schema: &iceberg::spec::SchemaRef| {
            own.as_struct().fields().iter().all(|own| {
                let kept = schema.as_struct().field_by_id(own.id);
                kept.is_some_and(|kept| kept.name == own.name && kept.field_type == own.field_type)
            })
        };
        match self.metadata.schemas_iter().any(is_ours) {
            true => Ok(()),
            false => Err(self.at.unfit(
                "its catalog gave the columns other ids than it was told: rows cannot be added; drop it, and use another catalog"
                    .to_owned(),
            )),
        }
    }

    /// By partition, the offset behind the last record of the topic that is in the table or will never be.
    pub fn next_offsets(&self, origin: &Origin) -> Result<NextOffsets, TableError> {
        let name = origin.property();
        if let Some(value) = self.metadata.properties().get(&name) {
            return self.parse_offsets(&name, value);
        }
        // Taking that for "nothing yet" would add every row again.
        let is_lost = self
            .metadata
            .snapshots()
            .any(|snapshot| snapshot.summary().additional_properties.contains_key(&name));
        if is_lost {
            let reason = format!("its property {name} was removed, though snapshots have rows of that topic");
            return Err(self.at.unfit(reason));
        }
        Ok(BTreeMap::new())
    }

    /// Of each topic whose rows are in the table: cluster and topic as they stand in the property, and the next offsets.
    pub fn origins(&self) -> Result<Vec<(Origin, NextOffsets)>, TableError> {
        let mut origins = Vec::new();
        for (name, value) in self.metadata.properties() {
            let Some((cluster, topic)) =
                name.strip_prefix(OFFSETS_PROPERTY).and_then(|name| name.split_once('.'))
            else {
                continue;
            };
            let origin = Origin { cluster_id: cluster.to_owned(), topic_id: topic.to_owned() };
            origins.push((origin, self.parse_offsets(name, value)?));
        }
        Ok(origins)
    }

    fn parse_offsets(&self, name: &str, value: &str) -> Result<NextOffsets, TableError> {
        let offsets: BTreeMap<i32, i64> =
            serde_json::from_str(value).map_err(|error| self.at.malformed(name, error))?;
        Ok(offsets.into_iter().map(|(partition, offset)| (partition, Offset(offset))).collect())
    }

    /// How files of this table are to be divided.
    pub fn partitioning(&self) -> Result<Partitioning, TableError> {
        Ok(if self.spec_for_files()?.is_unpartitioned() { Partitioning::None } else { Partitioning::Day })
    }

    /// The table's own, or one that it had before, if somebody gave it one that files of ours do not fit.
    fn spec_for_files(&self) -> Result<&PartitionSpec, TableError> {
        let metadata = &self.metadata;
        let timestamp = self
            .own_schema()?
            .columns()
            .iter()
            .find(|column| column.source == Source::Timestamp)
            .map(|column| column.id);
        let fits = |spec: &&PartitionSpec| match spec.fields() {
            [] => true,
            [field] => field.transform == Transform::Day && Some(field.source_id) == timestamp,
            _ => false,
        };
        let default: &PartitionSpec = metadata.default_partition_spec();
        let mut older: Vec<&PartitionSpec> = metadata.partition_specs_iter().map(|spec| &**spec).collect();
        older.sort_by_key(|spec| std::cmp::Reverse(spec.spec_id()));
        std::iter::once(default).chain(older).find(fits).ok_or_else(|| {
            self.at.unfit("it is divided neither by day(kafka_timestamp) nor not at all".to_owned())
        })
    }

    fn properties(&self) -> &HashMap<String, String> {
        self.metadata.properties()
    }
}

/// Of a file of metadata: `v12.metadata.json` and `00012-<uuid>.metadata.json` have 12.
fn number_in(location: &str) -> u64 {
    let name = location.rsplit('/').next().unwrap_or_default();
    let name = name.strip_prefix('v').unwrap_or(name);
    let digits = name.find(|character: char| !character.is_ascii_digit()).unwrap_or(name.len());
    name[..digits].parse().unwrap_or(0)
}

#[cfg(test)]
mod tests;
