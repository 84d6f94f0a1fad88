//! What is in a file, one JSON object after the other, and the record that becomes of each.

use std::io::Write;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use ottla_batch::TimestampMs;
use ottla_clients::cli::moment;
use ottla_clients::producer::ProducerRecord;
use serde_json::{Map, Value};

use super::csv::CsvReader;
use super::json::JsonReader;

/// A longer document is an error; brokers accept a MiB by default.
pub const DOCUMENT_BYTES_MAX: usize = 32 << 20;
/// What is decompressed at a time: at most a thousand times as much comes of it.
const COMPRESSED_BYTES: usize = 4 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];

#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    pub line: u64,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Json,
    Csv,
}

impl Format {
    /// As the name of a file says it.
    pub fn of_name(name: &str) -> Option<Format> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "json" | "jsonl" | "ndjson" => Some(Format::Json),
            "csv" => Some(Format::Csv),
            _ => None,
        }
    }
}

/// The documents of one file, from its bytes in order.
pub struct Documents {
    reader: Reader,
    /// Of a file that is compressed.
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
}

enum Reader {
    Json(JsonReader),
    Csv(Box<CsvReader>),
}

impl Documents {
    /// `first`: how the file begins.
    pub fn new(format: Format, delimiter: u8, is_text: bool, first: &[u8]) -> Documents {
        let reader = match format {
            Format::Json => Reader::Json(JsonReader::default()),
            Format::Csv => Reader::Csv(Box::new(CsvReader::new(delimiter, is_text))),
        };
        let gzip = first.starts_with(&GZIP).then(|| MultiGzDecoder::new(Vec::new()));
        Documents { reader, gzip }
    }

    /// Takes some of the bytes and says how many; call [`Documents::next`] until there are no more before the next.
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let Some(gzip) = &mut self.gzip else {
            self.reader.push(bytes);
            return Ok(bytes.len());
        };
        let taken = bytes.len().min(COMPRESSED_BYTES);
        let failed = |error: std::io::Error| format!("it is compressed by gzip, but not soundly: {error}");
        gzip.write_all(&bytes[..taken]).map_err(failed)?;
        self.reader.push(&std::mem::take(gzip.get_mut()));
        Ok(taken)
    }

    /// There are no more bytes.
    pub fn end(&mut self) -> Result<(), String> {
        if let Some(gzip) = &mut self.gzip {
            gzip.try_finish().map_err(|_| "it is compressed by gzip, and ends too early".to_owned())?;
            self.reader.push(&std::mem::take(gzip.get_mut()));
        }
        self.reader.end();
        Ok(())
    }

    /// With its line.
    pub fn next(&mut self) -> Option<Result<(u64, Vec<u8>), Malformed>> {
        match &mut self.reader {
            Reader::Json(reader) => reader.next(),
            Reader::Csv(reader) => reader.next(),
        }
    }

    /// After the last: what is wrong with how the file ends.
    pub fn rest(&self) -> Option<Malformed> {
        match &self.reader {
            Reader::Json(reader) => reader.rest(),
            Reader::Csv(_) => None,
        }
    }
}

impl Reader {
    fn push(&mut self, bytes: &[u8]) {
        match self {
            Reader::Json(reader) => reader.push(bytes),
            Reader::Csv(reader) => reader.push(bytes),
        }
    }

    fn end(&mut self) {
        match self {
            Reader::Json(reader) => reader.end(),
            Reader::Csv(reader) => reader.end(),
        }
    }
}

/// What of a document's members becomes key and time of its record.
pub struct Members<'a> {
    pub key: Option<&'a str>,
    pub timestamp: Option<&'a str>,
}

impl Members<'_> {
    pub fn record(&self, document: Vec<u8>) -> Result<ProducerRecord, String> {
        let mut record = ProducerRecord::default();
        if self.key.is_some() || self.timestamp.is_some() {
            let object: Map<String, Value> =
                serde_json::from_slice(&document).map_err(|error| error.to_string())?;
            let member = |name: &str| object.get(name).ok_or_else(|| format!("it has no member {name:?}"));
            if let Some(name) = self.key {
                record.key = Some(key(name, member(name)?)?);
            }
            if let Some(name) = self.timestamp {
                record.timestamp = Some(timestamp(name, member(name)?)?);
            }
        }
        record.value = Some(document.into());
        Ok(record)
    }
}

fn key(name: &str, value: &Value) -> Result<Bytes, String> {
    match value {
        Value::String(text) => Ok(text.clone().into()),
        Value::Number(number) if !number.is_f64() => Ok(number.to_string().into()),
        Value::Bool(value) => Ok(value.to_string().into()),
        Value::Number(_) | Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(format!("its member {name:?} is no key: {value} is neither text nor an integer"))
        }
    }
}

fn timestamp(name: &str, value: &Value) -> Result<TimestampMs, String> {
    let ms = match value {
        Value::String(text) => moment::parse_rfc3339_ms(text),
        Value::Number(number) => number.as_i64(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    ms.filter(|ms| *ms >= 0).map(TimestampMs).ok_or_else(|| {
        format!(
            "its member {name:?} is no time: {value} is neither as 2026-11-20T08:30:00Z nor milliseconds since 1970"
        )
    })
}

/// For the tests of readers: what is read, with `!line reason` for what is not; the same however the text is cut in pieces.
#[cfg(test)]
pub fn read_in_pieces(format: Format, is_text: bool, text: &[u8], pieces: &[usize]) -> Vec<String> {
    let by = |piece: usize| {
        let mut documents = Documents::new(format, b',', is_text, text);
        let told = |malformed: Malformed| format!("!{} {}", malformed.line, malformed.reason);
        let mut found = Vec::new();
        let mut take = |documents: &mut Documents| {
            while let Some(next) = documents.next() {
                found.push(next.map_or_else(told, |(line, text)| {
                    format!("{line} {}", String::from_utf8(text).unwrap())
                }));
            }
        };
        for piece in text.chunks(piece) {
            assert_eq!(documents.push(piece), Ok(piece.len()));
            take(&mut documents);
        }
        documents.end().unwrap();
        take(&mut documents);
        found.extend(documents.rest().map(told));
        found
    };
    let whole = by(text.len().max(1));
    for piece in pieces {
        assert_eq!(by(*piece), whole, "in pieces of {piece}");
    }
    whole
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn read(bytes: &[u8]) -> Result<usize, String> {
        let mut documents = Documents::new(Format::Json, b',', false, bytes);
        let (mut at, mut count) = (0, 0);
        while at < bytes.len() {
            at += documents.push(&bytes[at..])?;
            count += std::iter::from_fn(|| documents.next()).filter(Result::is_ok).count();
        }
        documents.end()?;
        Ok(count + std::iter::from_fn(|| documents.next()).filter(Result::is_ok).count())
    }

    #[test]
    fn compressed_files_are_read_member_by_member() {
        let gzipped = |lines: usize| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            (0..lines).for_each(|line| writeln!(encoder, "{{\"line\":{line}}}").unwrap());
            encoder.finish().unwrap()
        };
        let mut two = gzipped(30_000);
        assert!(two.len() > 2 * COMPRESSED_BYTES);
        two.extend(gzipped(5));
        assert_eq!(read(&two), Ok(30_005));
        assert!(read(&two[..two.len() - 9]).unwrap_err().contains("too early"));
        two[100..200].fill(0);
        assert!(read(&two).unwrap_err().contains("not soundly"));
    }

    #[test]
    fn names_say_what_is_in_a_file() {
        for (name, format) in [
            ("a.json", Some(Format::Json)),
            ("a.b.NDJSON.gz", Some(Format::Json)),
            ("a.jsonl", Some(Format::Json)),
            ("a.csv.gz", Some(Format::Csv)),
            ("a.gz", None),
            ("json", None),
            ("a.parquet", None),
        ] {
            assert_eq!(Format::of_name(name), format, "{name}");
        }
    }

    #[test]
    fn members_become_keys_and_times() {
        let members = Members { key: Some("id"), timestamp: Some("at") };
        let of = |text: &str| members.record(text.as_bytes().to_vec());
        let record = of(r#"{"id":"a","at":"2026-01-01T00:00:01Z"}"#).unwrap();
        assert_eq!(record.key.as_deref(), Some(&b"a"[..]));
        assert_eq!(record.timestamp, Some(TimestampMs(1_767_225_601_000)));
        let record = of(r#"{"id":7, "at":1000}"#).unwrap();
        assert_eq!((record.key.as_deref(), record.timestamp), (Some(&b"7"[..]), Some(TimestampMs(1000))));
        assert_eq!(record.value.as_deref(), Some(&br#"{"id":7, "at":1000}"#[..]));
        for (text, part) in [
            (r#"{"at":1}"#, "no member \"id\""),
            (r#"{"id":null,"at":1}"#, "no key"),
            (r#"{"id":1.5,"at":1}"#, "no key"),
            (r#"{"id":1,"at":"soon"}"#, "no time"),
            (r#"{"id":1,"at":-1}"#, "no time"),
        ] {
            let said = of(text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
        let plain = Members { key: None, timestamp: None }.record(b"{}".to_vec()).unwrap();
        assert_eq!((plain.key, plain.timestamp), (None, None));
    }
}
