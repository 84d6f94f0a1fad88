//! What keeps a table quick to read and no larger than it must be: small files joined, rows past their time removed, files that
//! no snapshot has any more deleted. The committer of the table calls [`Table::maintain`] between its commits.
//!
//! Snapshots expire with any change of the table (`commit`), which costs nothing of its own.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures::lock::Mutex;
use iceberg::spec::{DataFileFormat, Literal, PrimitiveLiteral};
use ottla_storage::batch::TimestampMs;
use ottla_storage::disk::Disk;

use super::files::{id_of, time_of};
use super::manifests::{LiveFile, is_of_deletes};
use super::replace::Replaced;
use super::{Table, TableError};
use crate::schema::Source;

const DAY_MS: i64 = 86_400_000;
const MIB: u64 = 1 << 20;

/// What maintenance goes by. The default is what a table in service wants.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Of files that compaction makes.
    pub joined_bytes: u64,
    /// Files below this are joined, ...
    pub small_bytes: u64,
    /// ... when a day has so many, ...
    pub small_files: usize,
    /// ... or when its last file is so old, and the day is over.
    pub quiet_ms: i64,
    /// Rows are removed when all of their file, or all of their day, are older.
    pub retention_ms: Option<i64>,
    /// Files that are in no snapshot are deleted when they are so old, ...
    pub orphan_ms: i64,
    /// ... and looked for so often.
    pub sweep_every_ms: i64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            joined_bytes: 256 * MIB,
            small_bytes: 64 * MIB,
            small_files: 16,
            quiet_ms: 3_600_000,
            retention_ms: None,
            orphan_ms: DAY_MS,
            sweep_every_ms: 6 * 3_600_000,
        }
    }
}

/// Where a file in the making lies. Clones are of the same place, which one compaction at a time has to itself: also one that goes on
/// although nobody waits for it any more.
#[derive(Debug, Clone)]
pub struct Scratch {
    pub(super) disk: Disk,
    pub(super) path: PathBuf,
    pub(super) in_use: Arc<Mutex<()>>,
}

impl Scratch {
    pub fn new(disk: Disk, path: PathBuf) -> Scratch {
        Scratch { disk, path, in_use: Arc::default() }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Maintained {
    pub removed_files: usize,
    pub removed_rows: u64,
    /// Small files that became one.
    pub joined_files: usize,
    pub joined_bytes: u64,
    /// Of a compaction whose files were changed by somebody else meanwhile.
    pub overtaken: bool,
    /// Objects that belonged to no snapshot.
    pub swept: usize,
    /// There is more to join: call again soon.
    pub has_more: bool,
}

/// As much of a live file as maintenance needs.
#[derive(Debug, Clone)]
pub(super) struct Surveyed {
    pub location: String,
    pub bytes: u64,
    pub rows: u64,
    pub spec_id: i32,
    pub day: Option<i32>,
    pub latest: Option<TimestampMs>,
    /// Partition and offset of its first rows: the order of files in a joined one.
    order: (Option<i64>, Option<i64>),
    /// Of the files that this crate made and can read again.
    id: Option<uuid::Uuid>,
}

struct Survey {
    files: Vec<Surveyed>,
    /// Somebody deletes single rows, by files that name data files and rows in them.
    has_deletes: bool,
}

impl Table {
    /// Does what is due: at most one compaction of a day. Its work between two answers of the store may take seconds: it is
    /// not for threads that serve clients.
    pub async fn maintain(
        &mut self,
        limits: &Limits,
        scratch: &Scratch,
        now: TimestampMs,
    ) -> Result<Maintained, TableError> {
        self.refresh().await?;
        let mut done = Maintained::default();
        let mut survey = self.survey().await?;
        if let Some(retention_ms) = limits.retention_ms {
            let expired: Vec<Surveyed> =
                survey.files.iter().filter(|file| file.is_older(retention_ms, now)).cloned().collect();
            if !expired.is_empty() {
                let old: HashSet<String> = expired.iter().map(|file| file.location.clone()).collect();
                self.remove(&old, now).await?;
                done.removed_files = expired.len();
                done.removed_rows = expired.iter().map(|file| file.rows).sum();
                survey.files.retain(|file| !old.contains(&file.location));
            }
        }
        if !survey.has_deletes {
            let mut groups = groups(survey.files, limits, now).into_iter();
            if let Some(group) = groups.next() {
                done.joined_files = group.len();
                done.joined_bytes = group.iter().map(|file| file.bytes).sum();
                done.has_more = groups.next().is_some();
                done.overtaken = self.compact(&group, scratch, now).await? == Replaced::Overtaken;
            }
        }
        if self.is_sweep_due(limits, now) {
            done.swept = self.sweep(limits, now).await?;
        }
        Ok(done)
    }

    async fn survey(&self) -> Result<Survey, TableError> {
        let schema = self.own_schema()?;
        let id_of_source = |source: Source| {
            schema.columns().iter().find(|column| column.source == source).map_or(-1, |column| column.id)
        };
        let ids = [Source::Timestamp, Source::Partition, Source::Offset].map(id_of_source);
        let mut survey = Survey { files: Vec::new(), has_deletes: false };
        // One at a time: what is in memory is one manifest and a few words for each file.
        for manifest in self.manifests().await? {
            if is_of_deletes(&manifest) {
                survey.has_deletes = true;
                continue;
            }
            let live = self.at.read_live(&manifest).await?;
            survey.files.extend(live.into_iter().map(|live| surveyed(live, manifest.partition_spec_id, ids)));
        }
        Ok(survey)
    }
}

fn surveyed(live: LiveFile, spec_id: i32, [timestamp, partition, offset]: [i32; 3]) -> Surveyed {
    let file = live.file;
    let long = |bound: Option<&iceberg::spec::Datum>| match bound?.literal() {
        PrimitiveLiteral::Int(value) => Some(i64::from(*value)),
        PrimitiveLiteral::Long(value) => Some(*value),
        _ => None,
    };
    let day = match file.partition().fields() {
        [Some(Literal::Primitive(PrimitiveLiteral::Int(day)))] => Some(*day),
        _ => None,
    };
    let latest = long(file.upper_bounds().get(&timestamp)).map(|micros| TimestampMs(micros.div_euclid(1000)));
    let order = (long(file.lower_bounds().get(&partition)), long(file.lower_bounds().get(&offset)));
    let is_parquet = file.file_format() == DataFileFormat::Parquet;
    Surveyed {
        id: id_of(file.file_path()).filter(|_| is_parquet),
        location: file.file_path().to_owned(),
        bytes: file.file_size_in_bytes(),
        rows: file.record_count(),
        spec_id,
        day,
        latest,
        order,
    }
}

impl Surveyed {
    fn is_older(&self, retention_ms: i64, now: TimestampMs) -> bool {
        let end = match (self.day, self.latest) {
            (Some(day), _) => (i64::from(day) + 1) * DAY_MS,
            (None, Some(latest)) => latest.0,
            (None, None) => return false,
        };
        end < now.0.saturating_sub(retention_ms)
    }
}

/// Files that are to become one, of one day each.
fn groups(files: Vec<Surveyed>, limits: &Limits, now: TimestampMs) -> Vec<Vec<Surveyed>> {
    let mut days: HashMap<(i32, Option<i32>), Vec<Surveyed>> = HashMap::new();
    for file in files {
        if file.id.is_some() && file.bytes < limits.small_bytes {
            days.entry((file.spec_id, file.day)).or_default().push(file);
        }
    }
    let today = now.0.div_euclid(DAY_MS);
    let mut groups = Vec::new();
    for ((_, day), mut small) in days {
        let newest = small.iter().filter_map(|file| file.id).map(|id| time_of(id).0).max().unwrap_or(now.0);
        let is_over = day.is_some_and(|day| i64::from(day) < today) && newest < now.0 - limits.quiet_ms;
        if small.len() < if is_over { 2 } else { limits.small_files } {
            continue;
        }
        small.sort_by(|a, b| a.order.cmp(&b.order).then_with(|| a.location.cmp(&b.location)));
        let mut group: Vec<Surveyed> = Vec::new();
        let mut bytes = 0;
        for file in small {
            if bytes + file.bytes > limits.joined_bytes && !group.is_empty() {
                groups.push(std::mem::take(&mut group));
                bytes = 0;
            }
            bytes += file.bytes;
            group.push(file);
        }
        groups.push(group);
    }
    groups.retain(|group| group.len() > 1);
    // What has most files first: those cost readers most.
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(day: i32, mib: u64, named_ms: i64) -> Surveyed {
        let id = super::super::files::new_id(TimestampMs(named_ms));
        Surveyed {
            location: format!("file:///b/{}.parquet", id.simple()),
            bytes: mib * MIB,
            rows: 1,
            spec_id: 0,
            day: Some(day),
            latest: None,
            order: (Some(0), Some(named_ms)),
            id: Some(id),
        }
    }

    fn sizes(files: Vec<Surveyed>, now_ms: i64) -> Vec<Vec<u64>> {
        let groups = groups(files, &Limits::default(), TimestampMs(now_ms));
        groups.iter().map(|group| group.iter().map(|file| file.bytes / MIB).collect()).collect()
    }

    const NOON: i64 = 20_000 * DAY_MS + DAY_MS / 2;

    #[test]
    fn a_day_is_compacted_when_it_has_many_small_files() {
        let files = |count: i64| (0..count).map(|index| file(20_000, 1, NOON + index)).collect();
        assert!(sizes(files(15), NOON).is_empty());
        assert_eq!(sizes(files(16), NOON), [vec![1; 16]]);
    }

    #[test]
    fn a_day_that_is_over_is_compacted_when_it_is_quiet() {
        let files = |age: i64| vec![file(19_999, 1, NOON - age - 5), file(19_999, 2, NOON - age)];
        assert!(sizes(files(60_000), NOON).is_empty(), "records of that day may still come");
        assert_eq!(sizes(files(3_600_001), NOON), [vec![1, 2]]);
        assert!(sizes(vec![file(19_999, 1, 0)], NOON).is_empty(), "there is nothing to join");
    }

    #[test]
    fn joined_files_have_a_bound_and_large_ones_stay() {
        let mut files: Vec<Surveyed> = (0..16).map(|index| file(20_000, 40, NOON + index)).collect();
        files.push(file(20_000, 64, NOON));
        files.push(file(20_000, 300, NOON));
        assert_eq!(sizes(files, NOON), [vec![40; 6], vec![40; 6], vec![40; 4]]);
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let mut files: Vec<Surveyed> = (0..16).map(|index| file(20_000, 1, NOON + index)).collect();
        files[3].id = None;
        assert!(sizes(files, NOON).is_empty());
    }

    #[test]
    fn days_go_as_a_whole() {
        let of_day = file(100, 1, 0);
        let after = |ms: i64| TimestampMs(101 * DAY_MS + ms);
        assert!(!of_day.is_older(5, after(5)));
        assert!(of_day.is_older(5, after(6)));
        let undivided = Surveyed { day: None, latest: Some(TimestampMs(1000)), ..of_day.clone() };
        assert!(!undivided.is_older(5, TimestampMs(1005)) && undivided.is_older(5, TimestampMs(1006)));
        let unknown = Surveyed { day: None, latest: None, ..of_day };
        assert!(!unknown.is_older(0, TimestampMs(i64::MAX)));
    }
}
