//! Adding rows to a table: files that are stored already, and how far they bring each partition of the topic.

use std::collections::{BTreeMap, HashMap};

use iceberg::spec::{Operation, Schema};
use ottla_storage::batch::{Offset, TimestampMs};

use super::commit::{ATTEMPTS_MAX, Change, NewSnapshot, SwapError, Tally, new_snapshot_id};
use super::evolve::{Evolution, evolve};
use super::files::time_of;
use super::{Origin, SCHEMA_PROPERTY, SWEPT_PROPERTY, StagedFile, Table, TableError};
use crate::catalog::{CatalogError, Entry};
use crate::schema::TableSchema;

/// Rows for a table. It may be appended again and again until that succeeds or is refused.
#[derive(Clone)]
pub struct Append<'a> {
    pub origin: &'a Origin,
    /// Of each partition that is brought on.
    pub advance: &'a BTreeMap<i32, Advance>,
    /// Of the files; the table's own from then on.
    pub schema: &'a TableSchema,
    pub files: &'a [StagedFile],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// What [`Table::next_offsets`] said when the work began.
    pub from: Option<Offset>,
    /// Exclusive, and more than `from`.
    pub to: Offset,
}

/// How an append came into the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// How often the table had to be looked at again.
    pub retries: u32,
}

enum Standing {
    Covered,
    Open,
    Moved,
}

impl Table {
    /// Each row of the files is in the table once when this answers `Ok`, whoever put it there. After any error that
    /// [is passing](TableError::is_passing) the same call may be made again: nothing is added twice.
    /// [`TableError::Moved`]: the table has gone on without these files, which are not added.
    pub async fn append(&mut self, append: &Append<'_>, now: TimestampMs) -> Result<Appended, TableError> {
        for (partition, advance) in append.advance {
            let from = advance.from.unwrap_or(Offset(0));
            assert!(
                from < advance.to || advance.from.is_none(),
                "partition {partition} goes back: {advance:?}"
            );
        }
        for retries in 0..ATTEMPTS_MAX {
            let (fresh, entry) = self.fresh().await?;
            *self = fresh;
            match self.standing(append)? {
                Standing::Covered => return Ok(Appended { retries }),
                Standing::Moved => return Err(TableError::Moved(self.at.name.clone())),
                Standing::Open => {}
            }
            match self.append_to_fresh(&entry, append, now).await {
                Ok(next) => {
                    *self = next;
                    return Ok(Appended { retries });
                }
                Err(SwapError::LookAgain) => {}
                Err(SwapError::Failed(error)) => return Err(error),
            }
        }
        Err(self.at.of_catalog(CatalogError::Conflict(self.at.name.clone())))
    }

    fn standing(&self, append: &Append<'_>) -> Result<Standing, TableError> {
        let next = self.next_offsets(append.origin)?;
        let mut advances = append.advance.iter();
        if advances.all(|(partition, advance)| next.get(partition).is_some_and(|next| *next >= advance.to)) {
            return Ok(Standing::Covered);
        }
        let is_where_it_began =
            append.advance.iter().all(|(partition, advance)| next.get(partition).copied() == advance.from);
        Ok(if is_where_it_began { Standing::Open } else { Standing::Moved })
    }

    async fn append_to_fresh(
        &self,
        entry: &Entry,
        append: &Append<'_>,
        now: TimestampMs,
    ) -> Result<Table, SwapError> {
        let moved = || SwapError::Failed(TableError::Moved(self.at.name.clone()));
        let grown = match self.evolution(append.schema)? {
            Evolution::None => None,
            Evolution::Grown(schema) => Some(*schema),
            Evolution::Diverged => return Err(moved()),
        };
        if append.files.iter().any(|file| !self.is_still_stored(file)) {
            return Err(moved());
        }
        let mut next = self.next_offsets(append.origin)?;
        next.extend(append.advance.iter().map(|(partition, advance)| (*partition, advance.to)));
        let mut properties =
            HashMap::from([(append.origin.property(), offsets_json(&next.into_iter().collect()))]);
        if grown.is_some() {
            properties.insert(SCHEMA_PROPERTY.to_owned(), append.schema.to_property());
        }
        let snapshot_id = new_snapshot_id();
        let snapshot = self.appending(snapshot_id, grown.as_ref(), append, now).await?;
        let change = Change { properties, schema: grown, snapshot };
        self.change(entry, snapshot_id, change, now).await
    }

    fn evolution(&self, wanted: &TableSchema) -> Result<Evolution, TableError> {
        evolve(&self.own_schema()?, wanted, self.metadata())
            .map_err(|error| self.at.malformed(&self.metadata_location, error))
    }

    /// Whether nobody may have deleted it as what became of no snapshot.
    pub(super) fn is_still_stored(&self, file: &StagedFile) -> bool {
        let swept = self.properties().get(SWEPT_PROPERTY).and_then(|text| text.parse().ok());
        swept.is_none_or(|before: i64| time_of(file.id).0 >= before)
    }

    async fn appending(
        &self,
        snapshot_id: i64,
        grown: Option<&Schema>,
        append: &Append<'_>,
        now: TimestampMs,
    ) -> Result<NewSnapshot, TableError> {
        let schema =
            grown.map_or_else(|| self.metadata().current_schema().clone(), |grown| grown.clone().into());
        let mut tally = Tally::default();
        append.files.iter().for_each(|file| tally.add(&file.file));
        let mut manifests = self.manifests().await?;
        self.merge_small(&mut manifests, snapshot_id, &schema, now).await?;
        manifests.splice(0..0, self.manifests_of(snapshot_id, &schema, append.files, now).await?);
        let advanced = append.advance.iter().map(|(partition, advance)| (*partition, advance.to)).collect();
        let summary = HashMap::from([(append.origin.property(), offsets_json(&advanced))]);
        Ok(NewSnapshot { operation: Operation::Append, manifests, tally, summary })
    }
}

pub(super) fn offsets_json(offsets: &BTreeMap<i32, Offset>) -> String {
    let numbers: BTreeMap<i32, i64> =
        offsets.iter().map(|(partition, offset)| (*partition, offset.0)).collect();
    serde_json::to_string(&numbers).expect("numbers are JSON")
}
