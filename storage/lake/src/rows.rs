//! The rows of one table in the making: Kafka's columns beside those of the value, and the day of each row.

use std::collections::BTreeMap;

use arrow_array::{RecordBatch, UInt32Array};

use arrow_select::take::take_record_batch;
use ottla_storage::batch::Offset;

use crate::column::{Fields, Values};
use crate::convert::{ConvertError, Options};
use crate::data_file::{DataFile, OffsetRange};
use crate::parquet_file;
use crate::record::Record;
use crate::scalar;
use crate::schema::{Column, Source, TableSchema};

/// Days in one commit, each of which is a file. Records that jump about in time by years (or somebody who wants them to) make small
/// files, not many at once.
pub const DAYS_MAX: usize = 64;

pub struct Rows {
    pub fields: Fields,
    pub len: usize,
    places: Vec<(i32, Offset)>,
    /// For each row, where in `days` its day is.
    day_of_row: Vec<u32>,
    days: Vec<Option<i32>>,
    partition: usize,
    offset: usize,
    timestamp: usize,
    key: usize,
    key_bytes: usize,
    headers: usize,
    headers_bytes: usize,
}

impl Rows {
    pub fn new(schema: &TableSchema) -> Rows {
        let at = |source: Source| schema.columns().iter().position(|column| column.source == source);
        let at = |source| at(source).expect("a schema has all columns of Kafka's");
        Rows {
            fields: Fields::new(schema.columns()),
            len: 0,
            places: Vec::new(),
            day_of_row: Vec::new(),
            days: Vec::new(),
            partition: at(Source::Partition),
            offset: at(Source::Offset),
            timestamp: at(Source::Timestamp),
            key: at(Source::Key),
            key_bytes: at(Source::KeyBytes),
            headers: at(Source::Headers),
            headers_bytes: at(Source::HeadersBytes),
        }
    }

    pub fn days(&self) -> usize {
        self.days.len()
    }

    /// Ends the row: the record's place, time, key and headers.
    pub fn push_record(&mut self, record: &Record, micros: Option<i64>, is_by_day: bool) {
        let row = self.len;
        let day = micros.filter(|_| is_by_day).map(|micros| scalar::day_of_micros(micros) as i32);
        // The last day is mostly the day.
        let day_at = self.days.iter().rposition(|known| *known == day).unwrap_or_else(|| {
            self.days.push(day);
            self.days.len() - 1
        });
        self.places.push((record.partition, record.offset));
        self.day_of_row.push(day_at as u32);
        if let Values::Int(partitions) = &mut self.fields.list[self.partition].values {
            partitions.push(record.partition);
        }
        if let Values::Long(offsets) = &mut self.fields.list[self.offset].values {
            offsets.push(record.offset.0);
        }
        if let (Some(micros), Values::Timestamp(timestamps)) = (micros, self.at(self.timestamp)) {
            timestamps.push(micros);
        }
        if let Some(key) = record.key {
            self.push_text_or_bytes(self.key, self.key_bytes, key);
        }
        if !record.headers.is_empty() {
            self.push_headers(record.headers);
        }
        self.len = row + 1;
    }

    /// A column where the next value is this row's.
    fn at(&mut self, column: usize) -> &mut Values {
        let values = &mut self.fields.list[column].values;
        values.pad_to(self.len);
        values
    }

    pub fn push_text(&mut self, column: usize, text: &str) {
        if let Values::String(texts) = self.at(column) {
            texts.push(text.as_bytes());
        }
    }

    pub fn push_text_or_bytes(&mut self, text_column: usize, bytes_column: usize, content: &[u8]) {
        match std::str::from_utf8(content) {
            Ok(text) => self.push_text(text_column, text),
            Err(_) => {
                if let Values::Binary(bytes) = self.at(bytes_column) {
                    bytes.push(content);
                }
            }
        }
    }

    fn push_headers(&mut self, headers: &[(&str, Option<&[u8]>)]) {
        let texts: Option<Vec<(&str, Option<&str>)>> = headers
            .iter()
            .map(|(name, value)| Some((*name, value.map(std::str::from_utf8).transpose().ok()?)))
            .collect();
        let texts = texts.filter(|texts| {
            let mut names: Vec<&str> = texts.iter().map(|(name, _)| *name).collect();
            names.sort_unstable();
            names.windows(2).all(|pair| pair[0] != pair[1])
        });
        if let Some(texts) = texts {
            if let Values::Map(maps) = self.at(self.headers) {
                maps.push(texts.into_iter());
            }
            return;
        }
        let Values::List(lists) = self.at(self.headers_bytes) else { return };
        let start = lists.start();
        let Values::Struct(structs) = lists.element.as_mut() else { return };
        let [names, values] = structs.fields.list.as_mut_slice() else { return };
        for (row, (name, value)) in (start..).zip(headers) {
            if let Values::String(names) = &mut names.values {
                names.push(name.as_bytes());
            }
            if let (Some(value), Values::Binary(values)) = (value, &mut values.values) {
                values.pad_to(row);
                values.push(value);
            }
        }
        headers.iter().for_each(|_| structs.end());
        lists.end(start + headers.len());
    }

    /// A file for each day.
    pub fn finish(self, schema: &TableSchema, options: &Options) -> Result<Vec<DataFile>, ConvertError> {
        if self.len == 0 {
            return Ok(Vec::new());
        }
        let arrow = schema.to_arrow();
        let arrays = self.fields.finish(self.len, arrow.fields());
        let batch = RecordBatch::try_new(arrow, arrays)?;
        if let [day] = self.days[..] {
            return Ok(vec![file_of(schema.columns(), &batch, day, self.places.iter(), options)?]);
        }
        let mut files = Vec::with_capacity(self.days.len());
        for (day_at, day) in self.days.iter().enumerate() {
            let rows = (0..self.len).filter(|row| self.day_of_row[*row] == day_at as u32);
            let taken = UInt32Array::from_iter_values(rows.clone().map(|row| row as u32));
            let part = take_record_batch(&batch, &taken)?;
            let places = rows.map(|row| &self.places[row]);
            files.push(file_of(schema.columns(), &part, *day, places, options)?);
        }
        Ok(files)
    }
}

fn file_of<'a>(
    columns: &[Column],
    batch: &RecordBatch,
    day: Option<i32>,
    places: impl Iterator<Item = &'a (i32, Offset)>,
    options: &Options,
) -> Result<DataFile, ConvertError> {
    let mut ranges: BTreeMap<i32, (Offset, Offset)> = BTreeMap::new();
    for (partition, offset) in places {
        let range = ranges.entry(*partition).or_insert((*offset, *offset));
        *range = (range.0.min(*offset), range.1.max(*offset));
    }
    let ranges = ranges
        .into_iter()
        .map(|(partition, (first_offset, last_offset))| OffsetRange { partition, first_offset, last_offset })
        .collect();
    let (bytes, metrics) = parquet_file::write(columns, batch, options.zstd_level)?;
    Ok(DataFile { bytes, day, ranges, rows: batch.num_rows() as u64, metrics })
}
