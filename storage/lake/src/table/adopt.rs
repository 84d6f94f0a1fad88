//! A topic that goes on in another cluster: one that was made anew from the remote tier has its topics' ids and records, and tables
//! that have those records as rows already.

use std::collections::BTreeMap;

use ottla_storage::batch::{Offset, TimestampMs};

use super::append::offsets_json;
use super::{Origin, Table, TableError};

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
        self.set_property(now, |table| {
            if !table.next_offsets(to)?.is_empty() {
                return Ok(None);
            }
            let known = table.next_offsets(from)?.into_iter();
            let next: BTreeMap<i32, Offset> = known
                .filter_map(|(partition, next)| Some((partition, next.min(*ends.get(&partition)?))))
                .collect();
            Ok((!next.is_empty()).then(|| (to.property(), offsets_json(&next))))
        })
        .await
    }
}
