//! Reading rows back: from one data file after the other, with the columns that the table has now.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, try_join_all};
use futures::stream::{Stream, TryStreamExt};
use iceberg::spec::{DataFile, DataFileFormat};
use ottla_storage::tiering::store::{ByteRange, ObjectStore};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use super::compact::{BATCH_ROWS, conform, field_id};
use super::manifests::{has_live_files, is_of_deletes};
use super::{Table, TableAt, TableError};

/// At the end of a file, read at once: what a file of a hundred columns says of itself fits.
const FOOTER_BYTES: usize = 64 << 10;
/// Bytes between two wanted ranges that cost less than another request.
const GAP_BYTES_MAX: u64 = 1 << 20;

/// The files of one state of a table.
pub struct DataFiles {
    at: TableAt,
    schema: SchemaRef,
    files: Vec<DataFile>,
}

impl Table {
    /// Columns that others added are not among those that are read. A table with files of deletes is refused: the rows that they
    /// delete would show.
    pub async fn data_files(&self) -> Result<DataFiles, TableError> {
        let mut files = Vec::new();
        for manifest in self.manifests().await?.iter().filter(|manifest| has_live_files(manifest)) {
            if is_of_deletes(manifest) {
                let reason = "another program deleted single rows of it, by delete files, which Ottla does not \
                              read; once that program has compacted the table it can be read again";
                return Err(self.at.unfit(reason.to_owned()));
            }
            for live in self.at.read_live(manifest).await? {
                if live.file.file_format() != DataFileFormat::Parquet {
                    return Err(self.at.unfit(format!("{} is not Parquet", live.file.file_path())));
                }
                files.push(live.file);
            }
        }
        Ok(DataFiles { at: self.at.clone(), schema: self.own_schema()?.to_arrow(), files })
    }
}

impl DataFiles {
    pub fn at(&self) -> &TableAt {
        &self.at
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub fn files(&self) -> &[DataFile] {
        &self.files
    }

    /// The rows of one of the files, with these of the table's columns. In memory is a row group of them.
    pub async fn read(
        &self,
        file: &DataFile,
        columns: SchemaRef,
    ) -> Result<impl Stream<Item = Result<RecordBatch, TableError>> + use<>, TableError> {
        let (at, location) = (self.at.clone(), file.file_path().to_owned());
        let malformed = |error: ParquetError| self.at.malformed(&location, error);
        let Some(key) = at.warehouse.key(&location) else {
            return Err(at.malformed(&location, "it lies in another store"));
        };
        let reader = FileReader {
            store: at.warehouse.store().clone(),
            key: key.to_owned(),
            bytes: file.file_size_in_bytes(),
        };
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let builder =
            ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await.map_err(malformed)?;
        let wanted: HashSet<_> = columns.fields().iter().map(|field| field_id(field)).collect();
        let found = builder.schema().fields().iter().enumerate();
        let roots: Vec<usize> =
            found.filter(|(_, field)| wanted.contains(&field_id(field))).map(|(index, _)| index).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let batches = builder.with_projection(mask).with_batch_size(BATCH_ROWS).build().map_err(malformed)?;
        let of_parquet = move |error: ParquetError| at.malformed(&location, error);
        Ok(batches
            .and_then(move |batch| {
                let conformed = conform(&batch, &columns);
                async move { conformed.map_err(ParquetError::from) }
            })
            .map_err(of_parquet))
    }
}

/// An object as Parquet's reader asks for it.
struct FileReader {
    store: Arc<dyn ObjectStore>,
    key: String,
    bytes: u64,
}

impl FileReader {
    async fn fetch(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        let len = (range.end - range.start) as usize;
        let asked = ByteRange::From { position: range.start, len };
        let piece = self.store.get(&self.key, asked).await;
        let bytes = piece.map_err(|error| ParquetError::External(Box::new(error)))?.bytes;
        if bytes.len() < len {
            return Err(ParquetError::EOF("the file is shorter than its manifest says".to_owned()));
        }
        Ok(bytes)
    }
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.fetch(range).boxed()
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        let reads = joined(&ranges);
        async move {
            let read = try_join_all(reads.iter().map(|read| self.fetch(read.clone()))).await?;
            let slice = |range: &Range<u64>| {
                let at = reads.iter().position(|read| read.start <= range.start && range.end <= read.end);
                let at = at.expect("each range is in one of the reads");
                let start = (range.start - reads[at].start) as usize;
                read[at].slice(start..start + (range.end - range.start) as usize)
            };
            Ok(ranges.iter().map(slice).collect())
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let bytes = self.bytes;
        let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
        async move { Ok(Arc::new(reader.load_and_finish(self, bytes).await?)) }.boxed()
    }
}

/// Fewer ranges that hold all of these.
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end.saturating_add(GAP_BYTES_MAX) => {
                last.end = last.end.max(range.end);
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ranges_are_read_at_once() {
        let far = 10 * GAP_BYTES_MAX;
        assert_eq!(joined(&[]), []);
        assert_eq!(joined(&[5..9, 0..4, far..far + 1]), [0..9, far..far + 1]);
        assert_eq!(joined(&[0..100, 20..30, far..far + 1]), [0..100, far..far + 1]);
    }
}
