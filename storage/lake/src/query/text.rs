//! Rows as text.

use arrow_array::{Array, RecordBatch};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::ArrowError;
use datafusion::arrow::json::WriterBuilder;
use datafusion::arrow::json::writer::LineDelimited;

use super::QueryError;

/// Rows of an answer.
pub struct Rows {
    batch: RecordBatch,
}

impl Rows {
    pub(super) fn new(batch: RecordBatch) -> Rows {
        Rows { batch }
    }

    /// Row by row, each value as text: None is SQL's null, times are RFC 3339, lists and structs look like `[1, 2]` and
    /// `{rank: 1}`.
    pub fn cells(&self) -> Result<Vec<Vec<Option<String>>>, QueryError> {
        let options = FormatOptions::default();
        let columns = self.batch.columns();
        let texts = columns.iter().map(|column| ArrayFormatter::try_new(column, &options));
        let texts: Vec<_> = texts.collect::<Result<_, _>>().map_err(failed)?;
        let cell = |column: usize, row: usize| match columns[column].is_null(row) {
            true => Ok(None),
            false => texts[column].value(row).try_to_string().map(Some),
        };
        let row = |row: usize| (0..columns.len()).map(|column| cell(column, row)).collect();
        (0..self.batch.num_rows()).map(row).collect::<Result<_, _>>().map_err(failed)
    }

    /// One JSON object for each row, with a line's end behind it.
    pub fn json_lines(&self) -> Result<Vec<u8>, QueryError> {
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
        writer.write(&self.batch).and_then(|()| writer.finish()).map_err(failed)?;
        Ok(writer.into_inner())
    }
}

fn failed(error: ArrowError) -> QueryError {
    QueryError(error.to_string())
}
