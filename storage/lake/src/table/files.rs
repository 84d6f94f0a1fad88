//! Names of a table's files, and the putting of data files where no snapshot names them yet.
//!
//! Every file of ours ends its name with a UUID of version 7: unlike any other, and with the time when it was named, so
//! that what became of no snapshot can be told from what is about to be in one.

use iceberg::spec::{DataContentType, DataFileBuilder, DataFileFormat, Literal, Struct};
use ottla_storage::batch::{LeaderEpoch, TimestampMs};
use ottla_storage::tiering::store::Condition;
use uuid::Uuid;

use super::{Table, TableError};
use crate::data_file::{ColumnMetrics, DataFile};

/// A data file that is stored; an [append](Table::append) makes it a part of the table.
#[derive(Debug, Clone)]
pub struct StagedFile {
    pub(super) file: iceberg::spec::DataFile,
    pub(super) id: Uuid,
    /// Of the way of dividing the table that it was written for.
    pub(super) spec_id: i32,
}

impl Table {
    /// Stores a data file. If it is not appended within a day or so it may be deleted again.
    pub async fn stage(
        &self,
        file: DataFile,
        epoch: LeaderEpoch,
        now: TimestampMs,
    ) -> Result<StagedFile, TableError> {
        let spec = self.spec_for_files()?;
        let (id, spec_id) = (new_id(now), spec.spec_id());
        let (first, last) = (&file.ranges[0], &file.ranges[file.ranges.len() - 1]);
        let records = match file.ranges.len() {
            1 => format!("{}-{}-{}", first.partition, first.first_offset.0, last.last_offset.0),
            partitions => format!("{}to{}-{partitions}", first.partition, last.partition),
        };
        let folder = match file.day {
            Some(day) if !spec.is_unpartitioned() => format!("dt={}/", date(day)),
            Some(_) | None => String::new(),
        };
        let location = format!(
            "{}/data/{folder}{records}-{}-{}.parquet",
            self.metadata().location(),
            epoch.0,
            id.simple()
        );
        let partition = match spec.is_unpartitioned() {
            true => Struct::empty(),
            false => Struct::from_iter([file.day.map(Literal::date)]),
        };
        let (rows, bytes) = (file.rows, file.bytes.len() as u64);
        let described = Described { spec_id, partition, rows, bytes, metrics: file.metrics };
        let stored = self.described(described, &location)?;
        let put = self.at.warehouse.write(&location, file.bytes.into(), Condition::None).await;
        put.map_err(|error| self.at.of_store(error))?;
        Ok(StagedFile { file: stored, id, spec_id })
    }

    pub(super) fn described(
        &self,
        of: Described,
        location: &str,
    ) -> Result<iceberg::spec::DataFile, TableError> {
        let metrics = of.metrics;
        DataFileBuilder::default()
            .content(DataContentType::Data)
            .file_path(location.to_owned())
            .file_format(DataFileFormat::Parquet)
            .partition(of.partition)
            .partition_spec_id(of.spec_id)
            .record_count(of.rows)
            .file_size_in_bytes(of.bytes)
            .column_sizes(metrics.column_sizes)
            .value_counts(metrics.value_counts)
            .null_value_counts(metrics.null_value_counts)
            .nan_value_counts(metrics.nan_value_counts)
            .lower_bounds(metrics.lower_bounds)
            .upper_bounds(metrics.upper_bounds)
            .split_offsets((!metrics.split_offsets.is_empty()).then_some(metrics.split_offsets))
            .build()
            .map_err(|error| self.at.malformed(location, error.to_string()))
    }
}

/// What a manifest says of a file of ours.
pub(super) struct Described {
    pub spec_id: i32,
    pub partition: Struct,
    pub rows: u64,
    pub bytes: u64,
    pub metrics: ColumnMetrics,
}

pub(super) fn new_id(now: TimestampMs) -> Uuid {
    let random = Uuid::new_v4();
    let random = random.as_bytes().first_chunk::<10>().expect("a UUID has 16 bytes");
    uuid::Builder::from_unix_timestamp_millis(now.0.max(0) as u64, random).into_uuid()
}

/// The id at the end of the name of a file of ours, whatever its extension.
pub(super) fn id_of(location: &str) -> Option<Uuid> {
    let name = location.rsplit('/').next()?;
    let stem = name.split('.').next()?;
    let id = Uuid::try_parse(stem.get(stem.len().checked_sub(32)?..)?).ok()?;
    (id.get_version_num() == 7).then_some(id)
}

/// When it was named.
pub(super) fn time_of(id: Uuid) -> TimestampMs {
    let bytes = id.as_bytes();
    let millis = bytes[..6].iter().fold(0i64, |millis, byte| millis << 8 | i64::from(*byte));
    TimestampMs(millis)
}

/// As `2026-11-21`.
pub(super) fn date(days: i32) -> String {
    // Days since the first of March of the year 0, so that leap days come last in a year.
    let days = i64::from(days) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (19_782, "2024-02-29"),
            (20_778, "2026-11-21"),
        ] {
            assert_eq!(date(days), text);
        }
    }

    #[test]
    fn a_name_says_when_it_was_given() {
        let id = new_id(TimestampMs(1_763_712_000_123));
        let location = format!("s3://b/lake/db/t/data/dt=2026-11-21/0-5-9-3-{}.parquet", id.simple());
        assert_eq!(id_of(&location), Some(id));
        assert_eq!(time_of(id), TimestampMs(1_763_712_000_123));
        for foreign in [
            "",
            "a.parquet",
            "ää-äääääääääääääääääääääääääääääääääääääääää.parquet",
            "20261121_121212_00012_abcde-2d34e95c-1b1f-4a3f-9b1d-0123456789ab.parquet",
        ] {
            assert_eq!(id_of(foreign), None, "{foreign}");
        }
    }
}
