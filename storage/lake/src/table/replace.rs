//! Taking files out of a table, and putting others in their place: compaction, retention.
//!
//! A replace says that its new files hold the rows of the old ones. That is so only as long as every old file is still live
//! when the swap happens: if somebody else has replaced one meanwhile (another compaction) or removed rows of it, its rows would be
//! there twice, or again.

use std::collections::{BTreeMap, HashMap, HashSet};

use iceberg::spec::{ManifestFile, Operation, SchemaRef};
use ottla_storage::batch::TimestampMs;

use super::commit::{ATTEMPTS_MAX, Change, NewSnapshot, SwapError, Tally, new_snapshot_id};
use super::files::new_id;
use super::manifests::is_of_deletes;
use super::{StagedFile, Table, TableError};
use crate::catalog::{CatalogError, Entry};

/// What became of a change of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    Done,
    /// Not all of the old files are in the table any more, or somebody deletes rows by files of deletes: nothing was changed.
    Overtaken,
}

impl Table {
    /// The rows of the files at `old` are in `new` from now on.
    pub(super) async fn replace(
        &mut self,
        old: &HashSet<String>,
        new: &[StagedFile],
        now: TimestampMs,
    ) -> Result<Replaced, TableError> {
        assert!(!old.is_empty() && !new.is_empty(), "a replace takes files out and puts files in");
        for _ in 0..ATTEMPTS_MAX {
            let (fresh, entry) = self.fresh().await?;
            *self = fresh;
            let manifests = self.manifests().await?;
            if manifests.iter().any(is_of_deletes) || !new.iter().all(|file| self.is_still_stored(file)) {
                return Ok(Replaced::Overtaken);
            }
            let found = self.find(&manifests, old, new).await?;
            if found.new_are_live {
                return Ok(Replaced::Done);
            }
            if found.old_count != old.len() {
                return Ok(Replaced::Overtaken);
            }
            let removal =
                Removal { manifests, affected: found.affected, old, new, operation: Operation::Replace };
            match self.remove_from_fresh(&entry, removal, now).await {
                Ok(next) => {
                    *self = next;
                    return Ok(Replaced::Done);
                }
                Err(SwapError::LookAgain) => {}
                Err(SwapError::Failed(error)) => return Err(error),
            }
        }
        Err(self.at.of_catalog(CatalogError::Conflict(self.at.name.clone())))
    }

    /// The files at `old` are no longer to be in the table, nor their rows. Those that are not, already, are no error.
    pub(super) async fn remove(&mut self, old: &HashSet<String>, now: TimestampMs) -> Result<(), TableError> {
        for _ in 0..ATTEMPTS_MAX {
            let (fresh, entry) = self.fresh().await?;
            *self = fresh;
            let manifests = self.manifests().await?;
            let found = self.find(&manifests, old, &[]).await?;
            if found.old_count == 0 {
                return Ok(());
            }
            let removal =
                Removal { manifests, affected: found.affected, old, new: &[], operation: Operation::Delete };
            match self.remove_from_fresh(&entry, removal, now).await {
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

    async fn find(
        &self,
        manifests: &[ManifestFile],
        old: &HashSet<String>,
        new: &[StagedFile],
    ) -> Result<Found, TableError> {
        let new: HashSet<&str> = new.iter().map(|file| file.file.file_path()).collect();
        let mut found = Found { affected: HashSet::new(), old_count: 0, new_are_live: false };
        // One at a time: what is in memory must not grow with the table.
        for manifest in manifests.iter().filter(|manifest| !is_of_deletes(manifest)) {
            for live in self.at.read_live(manifest).await? {
                let path = live.file.file_path();
                if old.contains(path) {
                    found.old_count += 1;
                    found.affected.insert(manifest.manifest_path.clone());
                }
                found.new_are_live |= new.contains(path);
            }
        }
        Ok(found)
    }

    async fn remove_from_fresh(
        &self,
        entry: &Entry,
        removal: Removal<'_>,
        now: TimestampMs,
    ) -> Result<Table, SwapError> {
        let Removal { manifests, affected, old, new, operation } = removal;
        let snapshot_id = new_snapshot_id();
        let schema = self.metadata().current_schema().clone();
        let mut tally = Tally::default();
        new.iter().for_each(|file| tally.add(&file.file));
        let mut next = self.manifests_of(snapshot_id, &schema, new, now).await?;
        let mut kept = Vec::new();
        for manifest in manifests {
            if affected.contains(&manifest.manifest_path) {
                next.push(self.without(&manifest, old, snapshot_id, &schema, &mut tally, now).await?);
            } else {
                kept.push(manifest);
            }
        }
        self.merge_small(&mut kept, snapshot_id, &schema, now).await?;
        next.append(&mut kept);
        let snapshot = NewSnapshot { operation, manifests: next, tally, summary: HashMap::new() };
        let change = Change { properties: HashMap::new(), schema: None, snapshot };
        self.change(entry, snapshot_id, change, now).await
    }

    async fn without(
        &self,
        manifest: &ManifestFile,
        old: &HashSet<String>,
        snapshot_id: i64,
        schema: &SchemaRef,
        tally: &mut Tally,
        now: TimestampMs,
    ) -> Result<ManifestFile, TableError> {
        let spec = self.spec_of(manifest.partition_spec_id, &manifest.manifest_path)?;
        let live = self.at.read_live(manifest).await?;
        let location = self.metadata_file("manifest", new_id(now));
        let fill = |writer: &mut iceberg::spec::ManifestWriter| {
            live.into_iter().try_for_each(|file| {
                if !old.contains(file.file.file_path()) {
                    return file.write_existing(writer);
                }
                tally.remove(&file.file);
                file.write_removed(writer)
            })
        };
        self.at.write_manifest(&location, snapshot_id, schema.clone(), spec, fill).await
    }

    pub(super) fn spec_of(
        &self,
        id: i32,
        location: &str,
    ) -> Result<&iceberg::spec::PartitionSpec, TableError> {
        let spec = self.metadata().partition_spec_by_id(id);
        spec.map(|spec| &**spec)
            .ok_or_else(|| self.at.malformed(location, format!("the table has no partition spec {id}")))
    }

    /// Manifests of files that are new: one for each way of dividing the table that they were written for.
    pub(super) async fn manifests_of(
        &self,
        snapshot_id: i64,
        schema: &SchemaRef,
        files: &[StagedFile],
        now: TimestampMs,
    ) -> Result<Vec<ManifestFile>, TableError> {
        let mut by_spec: BTreeMap<i32, Vec<&StagedFile>> = BTreeMap::new();
        for file in files {
            by_spec.entry(file.spec_id).or_default().push(file);
        }
        let mut manifests = Vec::new();
        for (spec_id, files) in by_spec {
            let location = self.metadata_file("manifest", new_id(now));
            let spec = self.spec_of(spec_id, &location)?;
            let fill = |writer: &mut iceberg::spec::ManifestWriter| {
                // -1: the sequence number is that of the snapshot, whichever it becomes.
                files.iter().try_for_each(|file| writer.add_file(file.file.clone(), -1))
            };
            manifests.push(self.at.write_manifest(&location, snapshot_id, schema.clone(), spec, fill).await?);
        }
        Ok(manifests)
    }
}

struct Found {
    /// Paths of the manifests that have old files.
    affected: HashSet<String>,
    old_count: usize,
    new_are_live: bool,
}

struct Removal<'a> {
    manifests: Vec<ManifestFile>,
    affected: HashSet<String>,
    old: &'a HashSet<String>,
    new: &'a [StagedFile],
    operation: Operation,
}
