//! Deleting what no snapshot has: files of commits that failed, files that were replaced and whose last snapshot has expired, old
//! states of the table. Only files of ours, which say in their names when they were made.
//!
//! A file that was staged a moment ago is in no snapshot either. So a time is set first, in a property of the table: no
//! [append](Table::append) and no replace accepts files that are older, whoever makes it and however long it slept. What is older,
//! and in no snapshot of the state with that property, can then never come into the table.

use std::collections::{HashMap, HashSet};

use futures::FutureExt;
use futures::stream::{self, StreamExt, TryStreamExt};
use iceberg::spec::{Manifest, ManifestFile};
use ottla_storage::batch::TimestampMs;
use ottla_storage::tiering::store::PAGE_KEYS_MAX;
use uuid::Uuid;

use super::files::{id_of, time_of};
use super::maintain::Limits;
use super::{PREVIOUS_METADATA_MAX, SWEPT_PROPERTY, Table, TableError, number_in};

const READS_MAX: usize = 8;

impl Table {
    pub(super) fn is_sweep_due(&self, limits: &Limits, now: TimestampMs) -> bool {
        if self.metadata().current_snapshot().is_none() {
            return false;
        }
        let swept: Option<i64> = self.properties().get(SWEPT_PROPERTY).and_then(|text| text.parse().ok());
        swept.is_none_or(|before| now.0 - limits.orphan_ms - before >= limits.sweep_every_ms)
    }

    /// How many objects were deleted.
    pub async fn sweep(&mut self, limits: &Limits, now: TimestampMs) -> Result<usize, TableError> {
        let before = TimestampMs(now.0 - limits.orphan_ms);
        self.close_to_older_files(before, now).await?;
        let reachable = self.reachable().await?;
        let folder = self.metadata().location().to_owned();
        let Some(folder) = self.at.warehouse.key(&folder) else { return Ok(0) };
        let (mut after, mut swept) = (None::<String>, 0);
        let prefix = format!("{folder}/");
        loop {
            let listed = self.at.warehouse.store().list(&prefix, after.as_deref()).await;
            let page = listed.map_err(|error| self.at.of_store(error))?;
            let dead: Vec<String> = page
                .objects
                .iter()
                .filter(|object| self.is_dead(&object.key, before, &reachable))
                .map(|object| object.key.clone())
                .collect();
            for keys in dead.chunks(PAGE_KEYS_MAX) {
                let deleted = self.at.warehouse.store().delete(keys).await;
                deleted.map_err(|error| self.at.of_store(error))?;
            }
            swept += dead.len();
            match page.objects.last() {
                Some(last) if page.is_cut => after = Some(last.key.clone()),
                _ => return Ok(swept),
            }
        }
    }

    async fn close_to_older_files(
        &mut self,
        before: TimestampMs,
        now: TimestampMs,
    ) -> Result<(), TableError> {
        self.set_property(now, |table| {
            let is_closed = |text: &String| text.parse().is_ok_and(|closed: i64| closed >= before.0);
            let is_closed = table.properties().get(SWEPT_PROPERTY).is_some_and(is_closed);
            Ok((!is_closed).then(|| (SWEPT_PROPERTY.to_owned(), before.0.to_string())))
        })
        .await
    }

    /// The ids of all files of ours that some snapshot has. What is in memory is 16 bytes for each, and a few manifests.
    async fn reachable(&self) -> Result<HashSet<Uuid>, TableError> {
        let mut reachable = HashSet::new();
        let mut manifests: HashMap<String, ManifestFile> = HashMap::new();
        let lists: Vec<String> =
            self.metadata().snapshots().map(|snapshot| snapshot.manifest_list().to_owned()).collect();
        reachable.extend(lists.iter().filter_map(|list| id_of(list)));
        let mut read =
            stream::iter(lists.iter().map(|list| self.at.read_list(list).boxed()).collect::<Vec<_>>())
                .buffer_unordered(READS_MAX);
        while let Some(list) = read.try_next().await? {
            manifests.extend(list.into_iter().map(|manifest| (manifest.manifest_path.clone(), manifest)));
        }
        reachable.extend(manifests.keys().filter_map(|path| id_of(path)));
        let mut read =
            stream::iter(manifests.keys().map(|path| self.ids_in(path).boxed()).collect::<Vec<_>>())
                .buffer_unordered(READS_MAX);
        while let Some(ids) = read.try_next().await? {
            reachable.extend(ids);
        }
        let states = self.metadata().metadata_log().iter().map(|log| log.metadata_file.as_str());
        reachable.extend(states.chain([self.metadata_location()]).filter_map(id_of));
        Ok(reachable)
    }

    async fn ids_in(&self, manifest: &str) -> Result<Vec<Uuid>, TableError> {
        let bytes = self.at.warehouse.read(manifest).await.map_err(|error| self.at.of_store(error))?;
        let parsed = Manifest::parse_avro(&bytes).map_err(|error| self.at.malformed(manifest, error))?;
        let live = parsed.entries().iter().filter(|entry| entry.is_alive());
        Ok(live.filter_map(|entry| id_of(entry.file_path())).collect())
    }

    fn is_dead(&self, key: &str, before: TimestampMs, reachable: &HashSet<Uuid>) -> bool {
        match id_of(key) {
            Some(id) => time_of(id).0 < before.0 && !reachable.contains(&id),
            None => self.is_old_state(key),
        }
    }

    /// A state without an id is named by its number alone. One that the table no longer lists is about to be deleted, or was
    /// forgotten.
    fn is_old_state(&self, key: &str) -> bool {
        let name = key.rsplit('/').next().unwrap_or_default();
        let is_state = name.strip_prefix('v').and_then(|name| name.strip_suffix(".metadata.json"));
        let is_state =
            is_state.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()));
        let kept = 2 * PREVIOUS_METADATA_MAX as u64;
        is_state && number_in(key) + kept < number_in(self.metadata_location())
    }
}
