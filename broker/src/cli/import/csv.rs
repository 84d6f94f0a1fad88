//! Rows of a CSV file (RFC 4180) as JSON objects, whose members are named by the first row.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::document::{DOCUMENT_BYTES_MAX, Malformed};

pub struct CsvReader {
    reader: Reader,
    bytes: Vec<u8>,
    at: usize,
    /// Line ends before it.
    line_ends: u64,
    is_ended: bool,
    /// What follows cannot be told apart.
    is_lost: bool,
    /// Of the row that is being read.
    fields: Vec<u8>,
    fields_len: usize,
    ends: Vec<usize>,
    ends_len: usize,
    /// As JSON strings.
    names: Option<Vec<String>>,
    is_text: bool,
}

impl CsvReader {
    /// `is_text`: every cell is a string, whatever it looks like.
    pub fn new(delimiter: u8, is_text: bool) -> CsvReader {
        CsvReader {
            reader: ReaderBuilder::new().delimiter(delimiter).build(),
            bytes: Vec::new(),
            at: 0,
            line_ends: 0,
            is_ended: false,
            is_lost: false,
            fields: vec![0; 4 << 10],
            fields_len: 0,
            ends: vec![0; 64],
            ends_len: 0,
            names: None,
            is_text,
        }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    pub fn end(&mut self) {
        self.is_ended = true;
    }

    /// The next row as JSON, and the line of its end. None: more bytes are needed, or there are no more.
    pub fn next(&mut self) -> Option<Result<(u64, Vec<u8>), Malformed>> {
        loop {
            // Nothing to read is how the reader is told of the end.
            if self.is_lost || self.at == self.bytes.len() && !self.is_ended {
                return None;
            }
            let (result, read, written, ended) = self.reader.read_record(
                &self.bytes[self.at..],
                &mut self.fields[self.fields_len..],
                &mut self.ends[self.ends_len..],
            );
            let passed = &self.bytes[self.at..self.at + read];
            self.line_ends += passed.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.at += read;
            self.fields_len += written;
            self.ends_len += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if self.fields.len() >= DOCUMENT_BYTES_MAX => {
                    self.is_lost = true;
                    let reason = format!("a row is longer than {} MiB", DOCUMENT_BYTES_MAX >> 20);
                    return Some(Err(Malformed { line: self.line(), reason }));
                }
                ReadRecordResult::OutputFull => self.fields.resize(2 * self.fields.len(), 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::End => return None,
                ReadRecordResult::Record => {
                    let row = self.row();
                    (self.fields_len, self.ends_len) = (0, 0);
                    let line = self.line();
                    match row {
                        Ok(None) => {}
                        Ok(Some(json)) => return Some(Ok((line, json.into_bytes()))),
                        Err(reason) => {
                            // Without names.
                            self.is_lost = self.names.is_none();
                            return Some(Err(Malformed { line, reason }));
                        }
                    }
                }
            }
        }
    }

    /// In which the row ends: its own line's end may have been read, or not.
    fn line(&self) -> u64 {
        let has_ended = self.at > 0 && self.bytes[self.at - 1] == b'\n';
        self.line_ends + u64::from(!has_ended)
    }

    /// None: it was the row of the names.
    fn row(&mut self) -> Result<Option<String>, String> {
        let mut start = 0;
        let mut cells = Vec::with_capacity(self.ends_len);
        for end in &self.ends[..self.ends_len] {
            let cell = std::str::from_utf8(&self.fields[start..*end]).map_err(|error| error.to_string())?;
            cells.push(cell);
            start = *end;
        }
        let Some(names) = &self.names else {
            self.names = Some(names(&cells)?);
            return Ok(None);
        };
        if cells.len() != names.len() {
            return Err(format!("the row has {} cells, the first line {}", cells.len(), names.len()));
        }
        let mut json = String::with_capacity(2 * self.fields_len + 64);
        json.push('{');
        for (number, (name, cell)) in names.iter().zip(cells).enumerate() {
            if number > 0 {
                json.push(',');
            }
            json.push_str(name);
            json.push(':');
            if !self.is_text && is_literal(cell) {
                json.push_str(cell);
            } else if !self.is_text && cell.is_empty() {
                json.push_str("null");
            } else {
                json.push_str(&quoted(cell));
            }
        }
        json.push('}');
        Ok(Some(json))
    }
}

fn names(cells: &[&str]) -> Result<Vec<String>, String> {
    let mut names = Vec::with_capacity(cells.len());
    for (number, cell) in cells.iter().enumerate() {
        // Whoever writes an index of rows in front often gives it no name.
        let name = if cell.is_empty() { format!("column_{}", number + 1) } else { (*cell).to_owned() };
        let name = quoted(&name);
        if names.contains(&name) {
            return Err(format!("the first line has the name {name} twice"));
        }
        names.push(name);
    }
    Ok(names)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What JSON writes the same way: a number that a reader of JSON takes, `true`, `false`. `007` and `+1` are none.
fn is_literal(cell: &str) -> bool {
    let (Some(first), Some(last)) = (cell.bytes().next(), cell.bytes().last()) else { return false };
    if first == b'-' || first.is_ascii_digit() {
        return last.is_ascii_digit() && serde_json::from_str::<serde_json::Number>(cell).is_ok();
    }
    matches!(cell, "true" | "false")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::import::document::{Format, read_in_pieces};

    fn read(text: &[u8], is_text: bool) -> Vec<String> {
        read_in_pieces(Format::Csv, is_text, text, &[1, 4, 5])
    }

    #[test]
    fn rows_are_objects() {
        assert_eq!(
            read(b"Index,Adj Close,Volume\nHSI,1.50,7\r\n\"N,\"\"Y\"\"\nA\",,\n", false),
            [
                r#"2 {"Index":"HSI","Adj Close":1.50,"Volume":7}"#,
                r#"4 {"Index":"N,\"Y\"\nA","Adj Close":null,"Volume":null}"#
            ]
        );
        assert_eq!(read(b",a\n0,x", false), [r#"2 {"column_1":0,"a":"x"}"#]);
        assert_eq!(read(b"", false), Vec::<String>::new());
        assert_eq!(read(b"a,b\n", false), Vec::<String>::new());
    }

    #[test]
    fn only_what_is_the_same_in_json_is_a_number() {
        for number in ["0", "-1", "1.50", "1e5", "12345678901234567890123", "true", "false"] {
            assert!(is_literal(number), "{number}");
        }
        for text in ["", "007", "+1", " 1", "1 ", "1e999", "NaN", "1,5", "0x1", "-", "True", "1."] {
            assert!(!is_literal(text), "{text}");
        }
        assert_eq!(read(b"a,b\n1,\n", true), [r#"2 {"a":"1","b":""}"#]);
    }

    #[test]
    fn a_row_that_fits_no_names_is_told() {
        assert_eq!(
            read(b"a,b\n1\n2,3\n4,5,6\n", false),
            [
                "!2 the row has 1 cells, the first line 2",
                r#"3 {"a":2,"b":3}"#,
                "!4 the row has 3 cells, the first line 2"
            ]
        );
        assert_eq!(read(b"a,a\n1,2\n", false), ["!1 the first line has the name \"a\" twice"]);
        assert_eq!(read(b"a\n\xff\n2\n", false).len(), 2);
    }
}
