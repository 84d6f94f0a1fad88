//! Fetched batches to files of a table. All of it computes and waits for nobody; the committer runs it beside the runtime's
//! workers.

use std::mem;

use ottla_batch::Record;
use ottla_clients::consumer::fetcher::{FetchConfig, decode_records};
use ottla_lake::convert::{ConvertError, Converted, Converter, Mode, Options};
use ottla_lake::record::Record as Row;
use ottla_lake::schema::{Source, TableSchema};

use super::reading::Fetched;

/// How many records decide about the first columns of a table.
pub const SAMPLE_RECORDS: usize = 1_000;

#[derive(Debug, thiserror::Error)]
pub enum ConversionError {
    /// What a leader sent is not what was appended, or no longer: it is asked for again.
    #[error("partition {partition}, batches from offset {position} on: {reason}")]
    Batches { partition: i32, position: i64, reason: String },
    #[error(transparent)]
    Convert(#[from] ConvertError),
}

/// Records on their way into one or more files.
pub struct Conversion {
    stage: Stage,
    options: Options,
    /// Of the oldest record in it, if that has one.
    oldest_timestamp_ms: Option<i64>,
    records: u64,
}

enum Stage {
    /// A new table: its columns come from the first records.
    Sampling {
        schema: TableSchema,
        records: Vec<(i32, Vec<Record>)>,
        count: usize,
        bytes: usize,
    },
    Converting(Box<Converter>),
}

impl Conversion {
    /// `schema`: of the table as far as it is known; `last_field_id`: the highest in a file that may be in the table already.
    pub fn new(schema: TableSchema, last_field_id: i32, options: Options) -> Conversion {
        let has_members = schema.columns().iter().any(|column| matches!(column.source, Source::Member(_)));
        let stage = match options.mode {
            Mode::Infer if !has_members => {
                Stage::Sampling { schema, records: Vec::new(), count: 0, bytes: 0 }
            }
            Mode::Infer | Mode::Fixed | Mode::Raw => {
                Stage::Converting(Box::new(Converter::new(schema, last_field_id, options.clone())))
            }
        };
        Conversion { stage, options, oldest_timestamp_ms: None, records: 0 }
    }

    pub fn is_sampling(&self) -> bool {
        matches!(self.stage, Stage::Sampling { .. })
    }

    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    pub fn records(&self) -> u64 {
        self.records
    }

    pub fn oldest_timestamp_ms(&self) -> Option<i64> {
        self.oldest_timestamp_ms
    }

    /// Wants to be finished before more comes.
    pub fn is_full(&self) -> bool {
        match &self.stage {
            Stage::Sampling { bytes, .. } => *bytes >= self.options.bytes_max,
            Stage::Converting(converter) => converter.is_full(),
        }
    }

    pub fn push(&mut self, fetched: &Fetched) -> Result<(), ConversionError> {
        let decoded =
            decode_records(&fetched.batches, fetched.position, &fetched.aborted, &FetchConfig::default());
        let decoded = decoded.map_err(|reason| ConversionError::Batches {
            partition: fetched.partition,
            position: fetched.position,
            reason,
        })?;
        self.records += decoded.records.len() as u64;
        let timestamps = decoded.records.iter().map(|record| record.timestamp.0).filter(|ms| *ms >= 0);
        self.oldest_timestamp_ms = timestamps.chain(self.oldest_timestamp_ms).min();
        match &mut self.stage {
            Stage::Sampling { records, count, bytes, .. } => {
                *count += decoded.records.len();
                *bytes += decoded.records.iter().map(size_of).sum::<usize>();
                records.push((fetched.partition, decoded.records));
                if *count >= SAMPLE_RECORDS {
                    self.end_sampling();
                }
            }
            Stage::Converting(converter) => push_all(converter, fetched.partition, &decoded.records),
        }
        Ok(())
    }

    /// Takes what there is for the sample.
    pub fn end_sampling(&mut self) {
        let Stage::Sampling { schema, records, .. } = &mut self.stage else { return };
        let (mut schema, records) = (mem::replace(schema, TableSchema::of_records()), mem::take(records));
        let values =
            records.iter().flat_map(|(_, records)| records).filter_map(|record| record.value.as_deref());
        let last_field_id = schema.last_field_id();
        schema.learn(values.take(SAMPLE_RECORDS));
        let mut converter = Converter::new(schema, last_field_id, self.options.clone());
        for (partition, records) in &records {
            push_all(&mut converter, *partition, records);
        }
        self.stage = Stage::Converting(Box::new(converter));
    }

    pub fn finish(mut self) -> Result<Converted, ConversionError> {
        self.end_sampling();
        match self.stage {
            Stage::Converting(converter) => Ok(converter.finish()?),
            Stage::Sampling { .. } => unreachable!("sampling has just ended"),
        }
    }
}

/// As good as no record is larger than this says.
fn size_of(record: &Record) -> usize {
    let of = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    64 + of(&record.key) + of(&record.value)
}

fn push_all(converter: &mut Converter, partition: i32, records: &[Record]) {
    let mut names = Vec::new();
    for record in records {
        names.clear();
        // Kafka demands that names of headers are UTF-8, but no broker checks it.
        names.extend(record.headers.iter().map(|header| String::from_utf8_lossy(&header.key)));
        let values = record.headers.iter().map(|header| header.value.as_deref());
        let headers: Vec<(&str, Option<&[u8]>)> = names.iter().map(|name| &**name).zip(values).collect();
        converter.push(&Row {
            partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        });
    }
}
