//! A finished Parquet file of a table: its bytes, and what Iceberg's manifests say about it.

use std::collections::HashMap;

use bytes::Bytes;
use iceberg::spec::Datum;
use ottla_storage::batch::Offset;

/// Records of one day and of any number of partitions, not yet stored.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// Parquet, each column with its Iceberg field id.
    pub bytes: Bytes,
    /// Days since 1970-01-01 of `kafka_timestamp`: the value of Iceberg's `day` transform. None for records without a timestamp,
    /// and in tables that are not partitioned by day.
    pub day: Option<i32>,
    /// Which records are in it, by partition in ascending order; never empty. Gaps within are records of other days, or none.
    pub ranges: Vec<OffsetRange>,
    pub rows: u64,
    pub metrics: ColumnMetrics,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    pub partition: i32,
    pub first_offset: Offset,
    /// Inclusive.
    pub last_offset: Offset,
}

/// Of an Iceberg data file, by field id of the leaf column.
#[derive(Debug, Clone, Default)]
pub struct ColumnMetrics {
    pub column_sizes: HashMap<i32, u64>,
    pub value_counts: HashMap<i32, u64>,
    pub null_value_counts: HashMap<i32, u64>,
    pub nan_value_counts: HashMap<i32, u64>,
    /// Not of columns within lists and maps. Strings are cut to a prefix, as Iceberg allows.
    pub lower_bounds: HashMap<i32, Datum>,
    pub upper_bounds: HashMap<i32, Datum>,
    /// Where row groups begin in the file.
    pub split_offsets: Vec<i64>,
}
