//! Records to rows. One record is read once and its values go straight into the columns in the making. What its value is decides:
//!
//! - a JSON object is a row, its members are the columns ([`crate::schema`] says which);
//! - a tombstone (no value) is a row with nulls in the columns of the value: that a key was deleted is data, too;
//! - everything else, and an object with a member that comes twice, is a row of the quarantine, with the reason and the whole value.
//!   Which records that are depends on nothing but them, so that a table and its quarantine agree whoever converts them again.
//!
//! Nothing is dropped: a value that no column of its member holds without loss gets a new column, or, where there can be none, the
//! member goes to `kafka_extra` as it was written. A null is as good as no member.

use std::collections::BTreeMap;

use ottla_storage::batch::Offset;

use crate::data_file::DataFile;
use crate::grow::{self, Growth};
use crate::json::{Kind, Reader};
use crate::record::Record;
use crate::rows::{DAYS_MAX, Rows};
use crate::scalar;
use crate::schema::{Source, TableSchema};

/// What a record costs beside its bytes and its columns.
const RECORD_BYTES: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Members of JSON objects are columns, new ones as they come.
    Infer,
    /// The same, but no columns come: what fits none goes to `kafka_extra`.
    Fixed,
    /// The value is a column, whatever it is.
    Raw,
}

#[derive(Debug, Clone)]
pub struct Options {
    pub mode: Mode,
    /// Else all rows go to one file.
    pub is_by_day: bool,
    pub zstd_level: i32,
    /// Of the records of one converter, as they are in memory. Below 512 MiB.
    pub bytes_max: usize,
    pub quarantine: Quarantine,
}

/// The table beside it, as it is.
#[derive(Debug, Clone)]
pub struct Quarantine {
    /// With the columns of a [quarantine](TableSchema::for_quarantine).
    pub schema: TableSchema,
    /// By partition, the offset before which it has all that belongs into it: such a record is not for a second row there.
    pub next: BTreeMap<i32, Offset>,
}

impl Default for Quarantine {
    /// One that is not there yet.
    fn default() -> Quarantine {
        Quarantine { schema: TableSchema::of_quarantine(), next: BTreeMap::new() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    #[error("the rows do not fit their columns: {0}")]
    Arrow(#[from] arrow_schema::ArrowError),
    #[error("Parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
}

/// What became of the records between two calls of [`Converter::finish`].
#[derive(Debug)]
pub struct Converted {
    /// With the columns that came.
    pub schema: TableSchema,
    pub files: Vec<DataFile>,
    /// Of the table beside it.
    pub quarantine: Vec<DataFile>,
}

pub struct Converter {
    base: TableSchema,
    options: Options,
    reader: Reader,
    rows: Rows,
    quarantine: Rows,
    growth: Growth,
    bytes: usize,
    extra: String,
}

impl Converter {
    /// `schema` is the table's as it was last committed, or what was [learned](TableSchema::learn) for a new one.
    pub fn new(schema: TableSchema, last_committed_id: i32, options: Options) -> Converter {
        let mut schema = schema;
        if options.mode == Mode::Raw {
            schema.add_raw_columns();
        }
        Converter {
            rows: Rows::new(&schema),
            quarantine: Rows::new(&options.quarantine.schema),
            growth: Growth::new(&schema, options.mode == Mode::Infer, last_committed_id),
            base: schema,
            options,
            reader: Reader::default(),
            bytes: 0,
            extra: String::new(),
        }
    }

    pub fn rows(&self) -> usize {
        self.rows.len
    }

    pub fn quarantined(&self) -> usize {
        self.quarantine.len
    }

    /// About what is in memory: the values, and a word for each column of each row.
    pub fn bytes(&self) -> usize {
        self.bytes + self.rows.len * self.growth.leaves() * size_of::<u64>()
    }

    /// No more records before [`Converter::finish`].
    pub fn is_full(&self) -> bool {
        self.bytes() >= self.options.bytes_max || self.rows.days().max(self.quarantine.days()) >= DAYS_MAX
    }

    pub fn push(&mut self, record: &Record) {
        let headers = record.headers.iter().map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len));
        self.bytes += RECORD_BYTES
            + record.key.map_or(0, <[u8]>::len)
            + record.value.map_or(0, <[u8]>::len)
            + headers.sum::<usize>();
        let micros = match record.timestamp.0 {
            -1 => None,
            millis => match scalar::micros_of_millis(millis) {
                Some(micros) => Some(micros),
                None => {
                    let reason = format!("its timestamp, {millis} ms, lies outside of the years 1 to 9999");
                    return self.push_to_quarantine(record, None, &reason);
                }
            },
        };
        if let Err(reason) = self.push_value(record.value) {
            return self.push_to_quarantine(record, micros, &reason);
        }
        self.rows.push_record(record, micros, self.options.is_by_day);
    }

    fn push_value(&mut self, value: Option<&[u8]>) -> Result<(), String> {
        let Some(value) = value else { return Ok(()) };
        if self.options.mode == Mode::Raw {
            let [text, bytes] = [Source::Value, Source::ValueBytes].map(|source| {
                self.base.position(&source).expect("the columns were added when the converter was made")
            });
            self.rows.push_text_or_bytes(text, bytes, value);
            return Ok(());
        }
        let value = self.reader.read(value).map_err(|error| error.to_string())?;
        let what = match value.kind() {
            Kind::Object => {
                self.extra.clear();
                let (fields, row) = (&mut self.rows.fields, self.rows.len);
                grow::push_members(fields, row, &value, &mut self.growth, &mut self.extra);
                if !self.extra.is_empty() {
                    let column = self.growth.extra_column(&mut self.rows.fields);
                    self.rows.push_text(column, &self.extra);
                }
                return Ok(());
            }
            Kind::Null => "null",
            Kind::Boolean(_) => "a boolean",
            Kind::Integer | Kind::Real => "a number",
            Kind::String { .. } => "a string",
            Kind::Array => "an array",
        };
        Err(format!("JSON, but {what} and not an object"))
    }

    fn push_to_quarantine(&mut self, record: &Record, micros: Option<i64>, reason: &str) {
        if self.options.quarantine.next.get(&record.partition).is_some_and(|next| record.offset < *next) {
            return;
        }
        let [of_reason, text, bytes] = [Source::Reason, Source::Value, Source::ValueBytes].map(|source| {
            self.options.quarantine.schema.position(&source).expect("the quarantine has these columns")
        });
        self.quarantine.push_text(of_reason, reason);
        if let Some(value) = record.value {
            self.quarantine.push_text_or_bytes(text, bytes, value);
        }
        self.quarantine.push_record(record, micros, self.options.is_by_day);
    }

    pub fn finish(self) -> Result<Converted, ConvertError> {
        let schema = self.base.with_columns(self.rows.fields.columns(), self.growth.last_field_id());
        Ok(Converted {
            files: self.rows.finish(&schema, &self.options)?,
            quarantine: self.quarantine.finish(&self.options.quarantine.schema, &self.options)?,
            schema,
        })
    }
}
