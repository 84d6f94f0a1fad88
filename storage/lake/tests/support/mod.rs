//! Reads Parquet files back into plain values.

use arrow_array::cast::AsArray;
use arrow_array::types::{Date32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, RecordBatch};
use ottla_lake::data_file::DataFile;
use ottla_lake::schema::{Column, ColumnType, TableSchema};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// A value as it lies in a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Boolean(bool),
    Long(i64),
    Double(u64),
    Date(i32),
    Timestamp(i64),
    Text(String),
    Bytes(Vec<u8>),
    Struct(Vec<Cell>),
    List(Vec<Cell>),
    Map(Vec<(String, Cell)>),
}

fn cell(array: &ArrayRef, row: usize, column_type: &ColumnType) -> Cell {
    if array.is_null(row) {
        return Cell::Null;
    }
    match column_type {
        ColumnType::Boolean => Cell::Boolean(array.as_boolean().value(row)),
        ColumnType::Int => Cell::Long(array.as_primitive::<Int32Type>().value(row).into()),
        ColumnType::Long => Cell::Long(array.as_primitive::<Int64Type>().value(row)),
        ColumnType::Double => Cell::Double(array.as_primitive::<Float64Type>().value(row).to_bits()),
        ColumnType::Date => Cell::Date(array.as_primitive::<Date32Type>().value(row)),
        ColumnType::Timestamp => Cell::Timestamp(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        ColumnType::String => Cell::Text(array.as_string::<i32>().value(row).to_owned()),
        ColumnType::Binary => Cell::Bytes(array.as_binary::<i32>().value(row).to_vec()),
        ColumnType::Struct(columns) => {
            let fields = array.as_struct().columns();
            Cell::Struct(
                columns.iter().zip(fields).map(|(of, field)| cell(field, row, &of.column_type)).collect(),
            )
        }
        ColumnType::List(element) => {
            let values = array.as_list::<i32>().value(row);
            Cell::List((0..values.len()).map(|row| cell(&values, row, &element.element_type)).collect())
        }
        ColumnType::Map { .. } => {
            let entries = array.as_map().value(row);
            let of = |column: usize, row| cell(entries.column(column), row, &ColumnType::String);
            let entry = |row| match of(0, row) {
                Cell::Text(name) => (name, of(1, row)),
                other => panic!("a key is text, not {other:?}"),
            };
            Cell::Map((0..entries.len()).map(entry).collect())
        }
    }
}

/// The rows of a file, by column.
pub fn read(file: &DataFile, schema: &TableSchema) -> Vec<Vec<Cell>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone()).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader {
        let batch: RecordBatch = batch.unwrap();
        let names: Vec<&str> = schema.columns().iter().map(|column| column.name.as_str()).collect();
        assert_eq!(
            batch.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(),
            names
        );
        for row in 0..batch.num_rows() {
            let of = |(column, array): (&Column, &ArrayRef)| cell(array, row, &column.column_type);
            rows.push(schema.columns().iter().zip(batch.columns()).map(of).collect());
        }
    }
    assert_eq!(rows.len() as u64, file.rows);
    rows
}
