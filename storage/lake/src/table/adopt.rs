//! A topic that goes on in another cluster: one that was made anew from the remote tier has its topics' ids and records, and tables
//! that have those records as rows already.

use std::collections::{BTreeMap, HashMap};

use ottla_storage::batch::{Offset, TimestampMs};

use super::append::offsets_json;
use super::commit::{ATTEMPTS_MAX, Change, SwapError, new_snapshot_id};
use super::{Origin, Table, TableError};
use crate::catalog::CatalogError;

impl Table {
    /// The rows of `from` count as those of `to`, whose partitions go on at `ends`. What the table has beyond them are rows of
    /// records that were lost; others will have their offsets, and become rows too. Once done, it does nothing more.
    pub async fn adopt(
        &mut self,
        from: &Origin,
        to: &Origin,
        ends: &BTreeMap<i32, Offset>,
        now: TimestampMs,
    ) -> Result<(), TableError> {
        for _ in 0..ATTEMPTS_MAX {
            let (fresh, entry) = self.fresh().await?;
            *self = fresh;
            if !self.next_offsets(to)?.is_empty() {
                return Ok(());
            }
            let known = self.next_offsets(from)?;
            let next: BTreeMap<i32, Offset> = known
                .into_iter()
                .filter_map(|(partition, next)| Some((partition, next.min(*ends.get(&partition)?))))
                .collect();
            if next.is_empty() {
                return Ok(());
            }
            let properties = HashMap::from([(to.property(), offsets_json(&next))]);
            let change = Change { properties, schema: None, snapshot: None };
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
}
