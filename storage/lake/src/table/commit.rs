//! The next state of a table, and its swap with the one it was made from.

use std::collections::HashMap;

use iceberg::TableRequirement;
use iceberg::spec::{
    MAIN_BRANCH, ManifestFile, MetadataLog, Operation, Schema, SchemaRef, Snapshot, Summary,
    TableMetadataBuildResult,
};
use ottla_storage::batch::TimestampMs;
use uuid::Uuid;

use super::files::new_id;
use super::manifests::{has_live_files, is_of_deletes};
use super::{Table, TableError};
use crate::catalog::{CatalogError, Entry, Stored};

/// Manifests smaller than this are merged, ...
const MANIFEST_BYTES_GOOD: i64 = 4 << 20;
/// ... when there are so many of them, ...
const SMALL_MANIFESTS_MAX: usize = 20;
/// ... but no more than this at a time, for they are in memory then.
const MERGED_BYTES_MAX: i64 = 8 << 20;

/// How long a snapshot stays after the next one came, where the table's property does not say it.
pub const SNAPSHOT_AGE_MS: i64 = 86_400_000;
pub const SNAPSHOT_AGE_PROPERTY: &str = "history.expire.max-snapshot-age-ms";
/// Each is some 700 bytes of metadata, which is written with every commit.
const SNAPSHOTS_MAX: usize = 1500;

/// How often a change is made anew in one call because somebody else was quicker.
pub const ATTEMPTS_MAX: u32 = 10;

/// What is to be different in the next state.
pub struct Change {
    pub properties: HashMap<String, String>,
    /// With an id that no schema of the table has.
    pub schema: Option<Schema>,
    /// Without files if only properties change: see [`Table::requirements`].
    pub snapshot: NewSnapshot,
}

pub struct NewSnapshot {
    pub operation: Operation,
    /// All of the table's.
    pub manifests: Vec<ManifestFile>,
    pub tally: Tally,
    /// Beside what follows from the rest.
    pub summary: HashMap<String, String>,
}

/// What a snapshot adds and removes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub added_files: u64,
    pub added_rows: u64,
    pub added_bytes: u64,
    pub removed_files: u64,
    pub removed_rows: u64,
    pub removed_bytes: u64,
}

impl Tally {
    pub fn add(&mut self, file: &iceberg::spec::DataFile) {
        self.added_files += 1;
        self.added_rows += file.record_count();
        self.added_bytes += file.file_size_in_bytes();
    }

    pub fn remove(&mut self, file: &iceberg::spec::DataFile) {
        self.removed_files += 1;
        self.removed_rows += file.record_count();
        self.removed_bytes += file.file_size_in_bytes();
    }

    /// As engines expect it. The totals go on from those of the snapshot before, as long as all who wrote said some.
    fn summary(&self, before: Option<&Snapshot>) -> HashMap<String, String> {
        let mut summary = HashMap::new();
        let rows = [
            (
                "added-data-files",
                "deleted-data-files",
                "total-data-files",
                self.added_files,
                self.removed_files,
            ),
            ("added-records", "deleted-records", "total-records", self.added_rows, self.removed_rows),
            (
                "added-files-size",
                "removed-files-size",
                "total-files-size",
                self.added_bytes,
                self.removed_bytes,
            ),
        ];
        for (added_name, removed_name, total_name, added, removed) in rows {
            for (name, count) in [(added_name, added), (removed_name, removed)] {
                if count > 0 {
                    summary.insert(name.to_owned(), count.to_string());
                }
            }
            let total = match before {
                None => Some(0),
                Some(before) => {
                    before.summary().additional_properties.get(total_name).and_then(|text| text.parse().ok())
                }
            };
            if let Some(total) = total {
                let total = (total + added).saturating_sub(removed);
                summary.insert(total_name.to_owned(), total.to_string());
            }
        }
        summary
    }
}

/// Why the table is still as it was, or may be.
pub enum SwapError {
    /// Somebody else was quicker, or nobody knows: look at the table again.
    LookAgain,
    Failed(TableError),
}

impl From<TableError> for SwapError {
    fn from(error: TableError) -> SwapError {
        SwapError::Failed(error)
    }
}

impl Table {
    /// The location of a new file of metadata.
    pub(super) fn metadata_file(&self, name: &str, id: Uuid) -> String {
        format!("{}/metadata/{name}-{}.avro", self.metadata().location(), id.simple())
    }

    /// The manifests of the current snapshot that still say something.
    pub(super) async fn manifests(&self) -> Result<Vec<ManifestFile>, TableError> {
        match self.metadata().current_snapshot() {
            None => Ok(Vec::new()),
            Some(snapshot) => {
                let mut manifests = self.at.read_list(snapshot.manifest_list()).await?;
                manifests.retain(has_live_files);
                Ok(manifests)
            }
        }
    }

    /// Many small manifests become one: each costs every reader a request.
    pub(super) async fn merge_small(
        &self,
        manifests: &mut Vec<ManifestFile>,
        snapshot_id: i64,
        schema: &SchemaRef,
        now: TimestampMs,
    ) -> Result<(), TableError> {
        let mut by_spec: HashMap<i32, Vec<&ManifestFile>> = HashMap::new();
        for manifest in &*manifests {
            let is_ours_to_write = manifest.key_metadata.is_none() && !is_of_deletes(manifest);
            // Those of this very snapshot have no sequence number yet.
            let is_old = manifest.added_snapshot_id != snapshot_id;
            if is_ours_to_write && is_old && manifest.manifest_length < MANIFEST_BYTES_GOOD {
                by_spec.entry(manifest.partition_spec_id).or_default().push(manifest);
            }
        }
        let mut merged = Vec::new();
        for (spec_id, mut small) in by_spec {
            let Some(spec) = self.metadata().partition_spec_by_id(spec_id) else { continue };
            if small.len() < SMALL_MANIFESTS_MAX {
                continue;
            }
            let mut bytes = 0;
            small.retain(|manifest| {
                bytes += manifest.manifest_length;
                bytes <= MERGED_BYTES_MAX
            });
            let live = self.at.read_live_of(&small).await?;
            let location = self.metadata_file("manifest", new_id(now));
            let manifest = self
                .at
                .write_manifest(&location, snapshot_id, schema.clone(), spec, |writer| {
                    live.into_iter().try_for_each(|file| file.write_existing(writer))
                })
                .await?;
            let paths: Vec<String> = small.iter().map(|manifest| manifest.manifest_path.clone()).collect();
            merged.push((manifest, paths));
        }
        for (manifest, paths) in merged {
            manifests.retain(|manifest| !paths.contains(&manifest.manifest_path));
            manifests.push(manifest);
        }
        Ok(())
    }

    /// Changes nothing but the property that `wanted` says of the table as it is at that moment. None: it is as it should be.
    pub(super) async fn set_property(
        &mut self,
        now: TimestampMs,
        wanted: impl Fn(&Table) -> Result<Option<(String, String)>, TableError>,
    ) -> Result<(), TableError> {
        for _ in 0..ATTEMPTS_MAX {
            let (fresh, entry) = self.fresh().await?;
            *self = fresh;
            let Some(property) = wanted(self)? else { return Ok(()) };
            let snapshot = NewSnapshot {
                operation: Operation::Append,
                manifests: self.manifests().await?,
                tally: Tally::default(),
                summary: HashMap::new(),
            };
            let change = Change { properties: HashMap::from([property]), schema: None, snapshot };
            match self.change(&entry, new_snapshot_id(), change, now).await {
                Ok(next) => {
                    *self = next;
                    return Ok(());
                }
                Err(SwapError::LookAgain) => {}
                Err(SwapError::Failed(error)) => return Err(error),
            }
        }
        Err(self.at.of_catalog(CatalogError::Conflict(self.at.name.clone())))
    }

    /// Makes the next state of this one, which is fresh and has `entry` in the catalog, and swaps.
    pub(super) async fn change(
        &self,
        entry: &Entry,
        snapshot_id: i64,
        change: Change,
        now: TimestampMs,
    ) -> Result<Table, SwapError> {
        let TableMetadataBuildResult { metadata, changes, expired_metadata_logs } =
            self.next_state(snapshot_id, change, now).await?;
        let mut new = self.at.new_metadata(&metadata, Some(&self.metadata_location), now);
        (new.updates, new.requirements) = (changes, self.requirements());
        match self.at.catalog.swap(&self.at.name, entry, &new).await {
            Ok(Stored { metadata_location, made: Some(json) }) => {
                Ok(self.at.state(&metadata_location, &json)?)
            }
            Ok(Stored { metadata_location, made: None }) => {
                self.delete_metadata(&expired_metadata_logs).await;
                Ok(Table {
                    at: self.at.clone(),
                    metadata_location,
                    metadata: metadata.into(),
                    named_snapshots: self.named_snapshots.clone(),
                })
            }
            Err(CatalogError::Conflict(_)) => Err(SwapError::LookAgain),
            Err(error @ CatalogError::Unknown(_)) => {
                tracing::debug!(table = %self.at.name, %error, "a change of the table was not answered");
                Err(SwapError::LookAgain)
            }
            Err(error) => Err(SwapError::Failed(self.at.of_catalog(error))),
        }
    }

    async fn next_state(
        &self,
        snapshot_id: i64,
        change: Change,
        now: TimestampMs,
    ) -> Result<TableMetadataBuildResult, TableError> {
        let NewSnapshot { operation, manifests, tally, mut summary } = change.snapshot;
        let before = self.metadata();
        let expired = self.expired(now);
        let malformed = |error: iceberg::Error| self.at.malformed(&self.metadata_location, error);
        let mut builder = before.clone().into_builder(Some(self.metadata_location.clone()));
        builder = builder.set_properties(change.properties).map_err(malformed)?;
        let schema_id =
            change.schema.as_ref().map_or(before.current_schema_id(), |schema| schema.schema_id());
        if let Some(schema) = change.schema {
            builder = builder.add_current_schema(schema).map_err(malformed)?;
        }
        let parent = before.current_snapshot();
        summary.extend(tally.summary(parent.map(|parent| &**parent)));
        let list = self.metadata_file(&format!("snap-{snapshot_id}"), new_id(now));
        let parent_id = before.current_snapshot_id();
        let sequence_number = before.next_sequence_number();
        self.at.write_list(&list, snapshot_id, parent_id, sequence_number, manifests).await?;
        let snapshot = Snapshot::builder()
            .with_snapshot_id(snapshot_id)
            .with_parent_snapshot_id(parent_id)
            .with_sequence_number(sequence_number)
            .with_timestamp_ms(self.time_of_next(now))
            .with_manifest_list(list)
            .with_summary(Summary { operation, additional_properties: summary })
            .with_schema_id(schema_id)
            .build();
        builder = builder.set_branch_snapshot(snapshot, MAIN_BRANCH).map_err(malformed)?;
        for id in &expired {
            builder = builder.remove_statistics(*id).remove_partition_statistics(*id);
        }
        builder.remove_snapshots(&expired).build().map_err(malformed)
    }

    /// What a catalog that makes the next state itself has to check of the one before.
    ///
    /// It is the swap's comparison, said in Iceberg's words. Those have none for a table's properties, which keep the offsets, so that
    /// a change of nothing but properties could not be guarded: two of them would both be made, one of them over the other. That
    /// is why each [`Change`] has a snapshot, if need be one without files: each moves the main branch, so of all changes
    /// that were made from one state only one finds the branch where it was. What others may change meanwhile and keep (their
    /// properties, branches, tags) is nothing that a change of ours says anything about; the one exception is a
    /// tag that somebody gives, in just that moment, to a snapshot that expires.
    fn requirements(&self) -> Vec<TableRequirement> {
        let before = self.metadata();
        vec![
            TableRequirement::UuidMatch { uuid: before.uuid() },
            TableRequirement::RefSnapshotIdMatch {
                r#ref: MAIN_BRANCH.to_owned(),
                snapshot_id: before.current_snapshot_id(),
            },
            // Ids of columns are given away from here.
            TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: before.last_column_id() },
            TableRequirement::CurrentSchemaIdMatch { current_schema_id: before.current_schema_id() },
        ]
    }

    /// Clocks differ, and the states of a table are to be in order.
    fn time_of_next(&self, now: TimestampMs) -> i64 {
        now.0.max(self.metadata().last_updated_ms())
    }

    /// The snapshots that have been replaced for long enough. Not those that a branch or a tag names.
    fn expired(&self, now: TimestampMs) -> Vec<i64> {
        let metadata = self.metadata();
        let age = self.properties().get(SNAPSHOT_AGE_PROPERTY).and_then(|text| text.parse().ok());
        let before = now.0.saturating_sub(age.unwrap_or(SNAPSHOT_AGE_MS));
        let mut snapshots: Vec<_> = metadata.snapshots().collect();
        snapshots.sort_by_key(|snapshot| snapshot.sequence_number());
        let too_many = snapshots.len().saturating_sub(SNAPSHOTS_MAX);
        let pairs = snapshots.windows(2).enumerate();
        pairs
            .filter(|(index, pair)| *index < too_many || pair[1].timestamp_ms() < before)
            .map(|(_, pair)| pair[0].snapshot_id())
            .filter(|id| Some(*id) != metadata.current_snapshot_id() && !self.named_snapshots.contains(id))
            .collect()
    }

    /// Old states that the table no longer lists. One that stays costs nothing but its bytes; [sweeping](Table::sweep) finds it.
    async fn delete_metadata(&self, dropped: &[MetadataLog]) {
        let folder = format!("{}/metadata/", self.metadata().location());
        let keys: Vec<String> = dropped
            .iter()
            .filter(|log| log.metadata_file.starts_with(&folder))
            .filter_map(|log| self.at.warehouse.key(&log.metadata_file))
            .map(str::to_owned)
            .collect();
        for keys in keys.chunks(ottla_storage::tiering::store::PAGE_KEYS_MAX) {
            if let Err(error) = self.at.warehouse.store().delete(keys).await {
                tracing::debug!(table = %self.at.name, %error, "old metadata was not deleted");
            }
        }
    }
}

pub fn new_snapshot_id() -> i64 {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    ((high ^ low) >> 1) as i64
}
