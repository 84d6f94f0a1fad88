//! Joining small files: their rows are read file by file and written as one.
//!
//! In memory are one of the small files, and one row group of the joined one. The joined file itself grows on disk until it is
//! stored.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use arrow_array::{
    Array, ArrayRef, ListArray, MapArray, RecordBatch, RecordBatchOptions, StructArray, new_null_array,
};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, SchemaRef, TimeUnit};
use iceberg::spec::{Literal, Struct};
use ottla_storage::batch::TimestampMs;
use ottla_storage::tiering::spool::Spool;
use ottla_storage::tiering::store::{ByteRange, Condition};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::ArrowWriter;
use parquet::errors::ParquetError;

use super::files::{Described, date, new_id};
use super::maintain::{Scratch, Surveyed};
use super::replace::Replaced;
use super::{StagedFile, Table, TableError};
use crate::data_file::ColumnMetrics;
use crate::parquet_file;

/// As it grows in memory before it is written.
const ROW_GROUP_BYTES: usize = 64 << 20;
pub(super) const BATCH_ROWS: usize = 4096;
/// Files that were joined are read more often than written.
const ZSTD_LEVEL: i32 = 3;

impl Table {
    /// Makes one file of these, which are of one day.
    pub(super) async fn compact(
        &mut self,
        group: &[Surveyed],
        scratch: &Scratch,
        now: TimestampMs,
    ) -> Result<Replaced, TableError> {
        let joined = self.join(group, scratch, now).await?;
        let old: HashSet<String> = group.iter().map(|file| file.location.clone()).collect();
        self.replace(&old, &[joined], now).await
    }

    async fn join(
        &self,
        group: &[Surveyed],
        scratch: &Scratch,
        now: TimestampMs,
    ) -> Result<StagedFile, TableError> {
        let schema = self.own_schema()?;
        let arrow = schema.to_arrow();
        let failed = |error: ParquetError| self.at.malformed("a joined file", error);
        let _held = scratch.in_use.lock().await;
        let spool = Spool::create(&scratch.disk, &scratch.path);
        let mut spool =
            spool.map_err(|error| self.at.malformed(&scratch.path.display().to_string(), error))?;
        let options = parquet_file::options(schema.columns(), ZSTD_LEVEL).map_err(failed)?;
        let mut writer =
            ArrowWriter::try_new_with_options(&mut spool, arrow.clone(), options).map_err(failed)?;
        let mut rows = 0;
        for file in group {
            rows += self.copy_rows(file, &arrow, &mut writer).await?;
        }
        let metadata = writer.close().map_err(failed)?;
        let metrics = parquet_file::metrics_of(schema.columns(), &metadata);
        self.stage_joined(group, &spool, rows, metrics, now).await
    }

    async fn copy_rows(
        &self,
        file: &Surveyed,
        arrow: &SchemaRef,
        writer: &mut ArrowWriter<&mut Spool>,
    ) -> Result<u64, TableError> {
        let malformed = |error: ParquetError| self.at.malformed(&file.location, error);
        let Some(key) = self.at.warehouse.key(&file.location) else {
            return Err(self.at.malformed(&file.location, "it lies in another store"));
        };
        // As large as the manifest says: a few MiB at most, else it would not be joined.
        let whole = ByteRange::Whole { bytes_max: file.bytes as usize };
        let piece = self.at.warehouse.store().get(key, whole).await;
        let bytes = piece.map_err(|error| self.at.of_store(error))?.bytes;
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let reader =
            ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options).map_err(malformed)?;
        let mut rows = 0;
        for batch in reader.with_batch_size(BATCH_ROWS).build().map_err(malformed)? {
            let conformed = batch.and_then(|batch| conform(&batch, arrow));
            let batch = conformed.map_err(|error| malformed(error.into()))?;
            rows += batch.num_rows() as u64;
            writer.write(&batch).map_err(malformed)?;
            if writer.in_progress_size() >= ROW_GROUP_BYTES {
                writer.flush().map_err(malformed)?;
            }
        }
        if rows != file.rows {
            let found = format!("it has {rows} rows, its manifest says {}", file.rows);
            return Err(self.at.malformed(&file.location, found));
        }
        Ok(rows)
    }

    async fn stage_joined(
        &self,
        group: &[Surveyed],
        spool: &Spool,
        rows: u64,
        metrics: ColumnMetrics,
        now: TimestampMs,
    ) -> Result<StagedFile, TableError> {
        let first = &group[0];
        let spec = self.spec_of(first.spec_id, &first.location)?;
        let id = new_id(now);
        let folder = first.day.map_or_else(String::new, |day| format!("dt={}/", date(day)));
        let location = format!(
            "{}/data/{folder}joined{}-{}.parquet",
            self.metadata().location(),
            group.len(),
            id.simple()
        );
        let partition = match spec.is_unpartitioned() {
            true => Struct::empty(),
            false => Struct::from_iter([first.day.map(Literal::date)]),
        };
        let described = Described { spec_id: spec.spec_id(), partition, rows, bytes: spool.len(), metrics };
        let file = self.described(described, &location)?;
        let put = self.at.warehouse.write(&location, spool.content(), Condition::None).await;
        put.map_err(|error| self.at.of_store(error))?;
        Ok(StagedFile { file, id, spec_id: spec.spec_id() })
    }
}

/// The batch with the columns of `schema`: found by their field ids, null where the file was written before they came.
pub(super) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns =
        conform_fields(batch.schema().fields(), batch.columns(), schema.fields(), batch.num_rows())?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}

pub(super) fn field_id(field: &Field) -> Option<&str> {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY).map(String::as_str)
}

fn conform_fields(
    from: &Fields,
    columns: &[ArrayRef],
    to: &Fields,
    rows: usize,
) -> Result<Vec<ArrayRef>, ArrowError> {
    let found = |to: &FieldRef| from.iter().position(|from| field_id(from) == field_id(to));
    to.iter()
        .map(|to| match found(to) {
            Some(position) => conform_array(&columns[position], to.data_type()),
            None => Ok(new_null_array(to.data_type(), rows)),
        })
        .collect()
}

fn conform_array(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    match (array.data_type(), to) {
        (from, to) if from == to => Ok(array.clone()),
        (DataType::Struct(from), DataType::Struct(to)) => {
            Ok(Arc::new(conform_struct(array.as_struct(), from, to)?))
        }
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let values = conform_array(list.values(), element.data_type())?;
            let (offsets, nulls) = (list.offsets().clone(), list.nulls().cloned());
            Ok(Arc::new(ListArray::try_new(element.clone(), offsets, values, nulls)?))
        }
        (DataType::Map(..), DataType::Map(entry, is_sorted)) => {
            let map = array.as_map();
            let (DataType::Struct(from), DataType::Struct(to)) =
                (map.entries().data_type(), entry.data_type())
            else {
                return Err(ArrowError::SchemaError("a map without entries".to_owned()));
            };
            let entries = conform_struct(map.entries(), from, to)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(entry.clone(), offsets, entries, nulls, *is_sorted)?))
        }
        // Instants both: the time zone, which Parquet calls UTC, is one to show them in.
        (
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)),
            DataType::Timestamp(TimeUnit::Microsecond, Some(zone)),
        ) => {
            let instants = array.as_primitive::<TimestampMicrosecondType>().clone();
            Ok(Arc::new(instants.with_timezone(zone.clone())))
        }
        (from, to) => Err(ArrowError::SchemaError(format!("a column of {from}, which is {to} in the table"))),
    }
}

fn conform_struct(array: &StructArray, from: &Fields, to: &Fields) -> Result<StructArray, ArrowError> {
    let columns = conform_fields(from, array.columns(), to, array.len())?;
    StructArray::try_new_with_length(to.clone(), columns, array.nulls().cloned(), array.len())
}
