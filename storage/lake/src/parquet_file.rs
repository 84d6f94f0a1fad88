//! One Arrow batch as a Parquet file in memory, and what Iceberg wants to know of its columns.

use std::collections::HashMap;

use arrow_array::RecordBatch;
use bytes::Bytes;
use iceberg::spec::Datum;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::Statistics;
use parquet::schema::types::ColumnPath;

use crate::data_file::ColumnMetrics;
use crate::schema::{Column, ColumnType, Source};

/// Bounds in a manifest are for skipping files; a prefix of a string does that.
const BOUND_BYTES_MAX: usize = 32;
/// A column with more different values than fit is written plainly. Prices of stocks are mostly unlike each other, but names,
/// dates and enumerations stay far below.
const DICTIONARY_BYTES_MAX: usize = 1 << 20;

pub fn write(
    columns: &[Column],
    batch: &RecordBatch,
    zstd_level: i32,
) -> Result<(Bytes, ColumnMetrics), ParquetError> {
    let mut bytes = Vec::new();
    let options = options(columns, zstd_level)?;
    let mut writer = ArrowWriter::try_new_with_options(&mut bytes, batch.schema(), options)?;
    writer.write(batch)?;
    let metadata = writer.close()?;
    Ok((bytes.into(), metrics_of(columns, &metadata)))
}

/// How files of such columns are written.
pub fn options(columns: &[Column], zstd_level: i32) -> Result<ArrowWriterOptions, ParquetError> {
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(zstd_level)?))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES_MAX)
        .set_statistics_truncate_length(Some(BOUND_BYTES_MAX))
        .set_column_index_truncate_length(Some(BOUND_BYTES_MAX))
        .set_created_by("ottla".to_owned());
    // They go by little steps, so a dictionary would hold each value once and save nothing.
    let is_stepwise = |column: &&Column| {
        matches!(column.source, Source::Offset | Source::Timestamp) || column.column_type == ColumnType::Date
    };
    let stepwise = columns.iter().filter(is_stepwise);
    for column in stepwise {
        let path = ColumnPath::from(column.name.as_str());
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    // The Parquet schema says all there is to say; a second description beside it could only disagree.
    Ok(ArrowWriterOptions::new().with_properties(properties.build()).with_skip_arrow_metadata(true))
}

struct Leaf<'a> {
    id: i32,
    leaf_type: &'a ColumnType,
    /// In a list or map: there may be any number of values in a row, and no bounds.
    is_repeated: bool,
}

/// In the order of the file.
fn add_leaves<'a>(id: i32, column_type: &'a ColumnType, is_repeated: bool, leaves: &mut Vec<Leaf<'a>>) {
    match column_type {
        ColumnType::Struct(columns) => {
            for column in columns {
                add_leaves(column.id, &column.column_type, is_repeated, leaves);
            }
        }
        ColumnType::List(element) => add_leaves(element.id, &element.element_type, true, leaves),
        ColumnType::Map { key_id, value_id } => {
            for id in [*key_id, *value_id] {
                leaves.push(Leaf { id, leaf_type: &ColumnType::String, is_repeated: true });
            }
        }
        leaf_type => leaves.push(Leaf { id, leaf_type, is_repeated }),
    }
}

/// What Iceberg wants to know of a finished file.
pub fn metrics_of(columns: &[Column], metadata: &ParquetMetaData) -> ColumnMetrics {
    let mut leaves = Vec::new();
    for column in columns {
        add_leaves(column.id, &column.column_type, false, &mut leaves);
    }
    let mut metrics = ColumnMetrics::default();
    for row_group in metadata.row_groups() {
        metrics.split_offsets.extend(row_group.file_offset());
        for (leaf, chunk) in leaves.iter().zip(row_group.columns()) {
            let id = leaf.id;
            *metrics.column_sizes.entry(id).or_default() += chunk.compressed_size() as u64;
            *metrics.value_counts.entry(id).or_default() += chunk.num_values() as u64;
            if *leaf.leaf_type == ColumnType::Double {
                // JSON has no NaN.
                metrics.nan_value_counts.insert(id, 0);
            }
            let Some(statistics) = chunk.statistics() else { continue };
            if let Some(nulls) = statistics.null_count_opt() {
                *metrics.null_value_counts.entry(id).or_default() += nulls;
            }
            if !leaf.is_repeated {
                let (lower, upper) = bounds_of(leaf.leaf_type, statistics);
                keep(&mut metrics.lower_bounds, id, lower, |new, old| new < old);
                keep(&mut metrics.upper_bounds, id, upper, |new, old| new > old);
            }
        }
    }
    metrics
}

fn keep(
    bounds: &mut HashMap<i32, Datum>,
    id: i32,
    bound: Option<Datum>,
    is_better: impl Fn(&Datum, &Datum) -> bool,
) {
    if let Some(bound) = bound
        && bounds.get(&id).is_none_or(|old| is_better(&bound, old))
    {
        bounds.insert(id, bound);
    }
}

fn bounds_of(leaf_type: &ColumnType, statistics: &Statistics) -> (Option<Datum>, Option<Datum>) {
    fn both<T>(
        min: Option<T>,
        max: Option<T>,
        datum: impl Fn(T) -> Option<Datum>,
    ) -> (Option<Datum>, Option<Datum>) {
        (min.and_then(&datum), max.and_then(&datum))
    }
    match (leaf_type, statistics) {
        (ColumnType::Boolean, Statistics::Boolean(of)) => {
            both(of.min_opt(), of.max_opt(), |v| Some(Datum::bool(*v)))
        }
        (ColumnType::Int, Statistics::Int32(of)) => {
            both(of.min_opt(), of.max_opt(), |v| Some(Datum::int(*v)))
        }
        (ColumnType::Date, Statistics::Int32(of)) => {
            both(of.min_opt(), of.max_opt(), |v| Some(Datum::date(*v)))
        }
        (ColumnType::Long, Statistics::Int64(of)) => {
            both(of.min_opt(), of.max_opt(), |v| Some(Datum::long(*v)))
        }
        (ColumnType::Timestamp, Statistics::Int64(of)) => {
            both(of.min_opt(), of.max_opt(), |v| Some(Datum::timestamptz_micros(*v)))
        }
        (ColumnType::Double, Statistics::Double(of)) => {
            both(of.min_opt(), of.max_opt(), |v| Some(Datum::double(*v)))
        }
        (ColumnType::String, Statistics::ByteArray(of)) => {
            both(of.min_opt(), of.max_opt(), |v| Some(Datum::string(v.as_utf8().ok()?)))
        }
        (ColumnType::Binary, Statistics::ByteArray(of)) => {
            both(of.min_opt(), of.max_opt(), |v| Some(Datum::binary(v.data().iter().copied())))
        }
        _ => (None, None),
    }
}
