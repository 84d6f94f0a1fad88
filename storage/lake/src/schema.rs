//! The columns of a table: which Iceberg field each is, where its values come from, what it can hold.
//!
//! A schema is kept as JSON in a property of its table ([`TableSchema::to_property`]), because Iceberg's own does not say which
//! member of the JSON a column stands for. It only grows: a column is never removed, renamed or given another type, so all
//! files ever written stay valid, and whoever reads an older one sees null in what came later.
//!
//! One member of a value may own several columns. A value goes to the first of them that holds it without loss: `price` (long),
//! then `price_double`, then `price_str`, which takes anything as text.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema as ArrowSchema, TimeUnit};
use iceberg::spec::{
    ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type,
};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use serde::{Deserialize, Serialize};

/// Of the property's format.
const VERSION: u32 = 1;

/// Leaf columns of a table at most; what comes later is kept as text in `kafka_extra`.
pub const COLUMNS_MAX: usize = 1000;
/// Structs and lists within each other; what lies deeper is JSON text.
pub const DEPTH_MAX: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSchema {
    version: u32,
    /// In the order of the table.
    columns: Vec<Column>,
    /// The highest id that was given away, to columns of our own or to others.
    last_field_id: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Iceberg's field id.
    pub id: i32,
    /// Lower snake case, unique in its struct.
    pub name: String,
    pub source: Source,
    #[serde(rename = "type")]
    pub column_type: ColumnType,
}

/// Where a column's values come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Partition,
    Offset,
    Timestamp,
    /// Where it is UTF-8.
    Key,
    /// Where it is not.
    KeyBytes,
    Headers,
    /// The headers of records for which the map has no room: a name twice, or bytes that are not UTF-8.
    HeadersBytes,
    /// The member of this name of the value, or of the object around it.
    Member(String),
    /// Members that have no column, as one JSON object.
    Extra,
    /// The whole value, where it is UTF-8.
    Value,
    /// The whole value, where it is not.
    ValueBytes,
    /// Why a record is in the quarantine.
    Reason,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    Boolean,
    Int,
    Long,
    Double,
    Date,
    /// With time zone, microseconds.
    Timestamp,
    /// Strings as they are, everything else as JSON text.
    String,
    Binary,
    Struct(Vec<Column>),
    List(Box<Element>),
    /// Of strings to strings that may be null.
    Map {
        key_id: i32,
        value_id: i32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Element {
    pub id: i32,
    #[serde(rename = "type")]
    pub element_type: ColumnType,
}

#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    #[error("the table's columns are described by what is not JSON of ours: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the table's columns are described in version {0}; this one knows 1")]
    Version(u32),
    #[error("the table's columns are not sound: {0}")]
    Unsound(String),
    #[error("Iceberg does not take the columns: {0}")]
    Iceberg(#[from] iceberg::Error),
}

impl TableSchema {
    /// Of a table of records, before any value was seen.
    pub fn of_records() -> TableSchema {
        let mut schema = TableSchema { version: VERSION, columns: Vec::new(), last_field_id: 0 };
        schema.add_kafka_columns();
        schema
    }

    /// Of the table beside it, for what cannot be in a row of the first.
    pub fn of_quarantine() -> TableSchema {
        let mut schema = TableSchema::of_records();
        schema.add(Source::Reason, "reason", ColumnType::String);
        schema.add_raw_columns();
        schema
    }

    fn add_kafka_columns(&mut self) {
        self.add(Source::Partition, "kafka_partition", ColumnType::Int);
        self.add(Source::Offset, "kafka_offset", ColumnType::Long);
        self.add(Source::Timestamp, "kafka_timestamp", ColumnType::Timestamp);
        self.add(Source::Key, "kafka_key", ColumnType::String);
        self.add(Source::KeyBytes, "kafka_key_raw", ColumnType::Binary);
        let headers = self.map_type();
        self.add(Source::Headers, "kafka_headers", headers);
        let headers = self.headers_bytes_type();
        self.add(Source::HeadersBytes, "kafka_headers_raw", headers);
    }

    /// Of the schema mode `raw`, and of the quarantine. Nothing if they are there.
    pub(crate) fn add_raw_columns(&mut self) {
        for (source, name, column_type) in [
            (Source::Value, "value", ColumnType::String),
            (Source::ValueBytes, "value_raw", ColumnType::Binary),
        ] {
            if self.of_source(&source).is_none() {
                self.add(source, name, column_type);
            }
        }
    }

    fn map_type(&mut self) -> ColumnType {
        let key_id = self.next_id();
        ColumnType::Map { key_id, value_id: self.next_id() }
    }

    fn headers_bytes_type(&mut self) -> ColumnType {
        let id = self.next_id();
        let name = Column {
            id: self.next_id(),
            name: "name".to_owned(),
            source: Source::Member("name".to_owned()),
            column_type: ColumnType::String,
        };
        let value = Column {
            id: self.next_id(),
            name: "value".to_owned(),
            source: Source::Member("value".to_owned()),
            column_type: ColumnType::Binary,
        };
        ColumnType::List(Box::new(Element { id, element_type: ColumnType::Struct(vec![name, value]) }))
    }

    fn add(&mut self, source: Source, name: &str, column_type: ColumnType) {
        let id = self.next_id();
        let name = crate::schema::unused(name, |name| self.columns.iter().any(|column| column.name == name));
        self.columns.push(Column { id, name, source, column_type });
    }

    pub(crate) fn next_id(&mut self) -> i32 {
        self.last_field_id += 1;
        self.last_field_id
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    pub(crate) fn of_source(&self, source: &Source) -> Option<&Column> {
        self.columns.iter().find(|column| column.source == *source)
    }

    /// The highest field id that was given away. Ids of columns that others added are not given away again once they were
    /// [kept clear of](TableSchema::keep_clear_of).
    pub fn last_field_id(&self) -> i32 {
        self.last_field_id
    }

    /// The table's own schema may have columns that somebody else added (`ALTER TABLE`): their ids and names are not for ours.
    pub fn keep_clear_of(&mut self, table: &Schema, last_column_id: i32) {
        self.last_field_id = self.last_field_id.max(last_column_id).max(table.highest_field_id());
    }

    /// The value of the table property that keeps this.
    pub fn to_property(&self) -> String {
        serde_json::to_string(self).expect("names and numbers are JSON")
    }

    pub fn from_property(text: &str) -> Result<TableSchema, SchemaError> {
        let schema: TableSchema = serde_json::from_str(text)?;
        if schema.version != VERSION {
            return Err(SchemaError::Version(schema.version));
        }
        Ok(schema)
    }

    /// Iceberg's, with these ids: whoever makes the table must keep them, for the files have them too.
    pub fn to_iceberg(&self) -> Result<Schema, SchemaError> {
        Ok(Schema::builder().with_schema_id(0).with_fields(iceberg_fields(&self.columns)).build()?)
    }

    /// Of the files: each field has its id in its metadata.
    pub fn to_arrow(&self) -> Arc<ArrowSchema> {
        Arc::new(ArrowSchema::new(arrow_fields(&self.columns)))
    }
}

impl Column {
    /// Those of the record's place, which no row is without.
    pub fn is_required(&self) -> bool {
        matches!(self.source, Source::Partition | Source::Offset)
    }
}

/// `name`, or the first of `name_2`, `name_3`, ... that is not used.
pub(crate) fn unused(name: &str, is_used: impl Fn(&str) -> bool) -> String {
    if !is_used(name) {
        return name.to_owned();
    }
    (2u32..)
        .map(|n| format!("{name}_{n}"))
        .find(|name| !is_used(name))
        .expect("there are more numbers than columns")
}

fn iceberg_fields(columns: &[Column]) -> Vec<NestedFieldRef> {
    columns
        .iter()
        .map(|column| {
            let field = NestedField::new(
                column.id,
                &column.name,
                iceberg_type(&column.column_type),
                column.is_required(),
            );
            // Readers see which member it is, whatever became of its name.
            match &column.source {
                Source::Member(member) if *member != column.name => field.with_doc(member),
                _ => field,
            }
            .into()
        })
        .collect()
}

fn iceberg_type(column_type: &ColumnType) -> Type {
    Type::Primitive(match column_type {
        ColumnType::Boolean => PrimitiveType::Boolean,
        ColumnType::Int => PrimitiveType::Int,
        ColumnType::Long => PrimitiveType::Long,
        ColumnType::Double => PrimitiveType::Double,
        ColumnType::Date => PrimitiveType::Date,
        ColumnType::Timestamp => PrimitiveType::Timestamptz,
        ColumnType::String => PrimitiveType::String,
        ColumnType::Binary => PrimitiveType::Binary,
        ColumnType::Struct(columns) => return Type::Struct(StructType::new(iceberg_fields(columns))),
        ColumnType::List(element) => {
            let field = NestedField::list_element(element.id, iceberg_type(&element.element_type), false);
            return Type::List(ListType::new(field.into()));
        }
        ColumnType::Map { key_id, value_id } => {
            let string = || Type::Primitive(PrimitiveType::String);
            return Type::Map(MapType::optional(*key_id, string(), *value_id, string()));
        }
    })
}

fn arrow_fields(columns: &[Column]) -> Vec<Field> {
    columns
        .iter()
        .map(|column| {
            with_id(&column.name, arrow_type(&column.column_type), !column.is_required(), column.id)
        })
        .collect()
}

fn with_id(name: &str, data_type: DataType, is_nullable: bool, id: i32) -> Field {
    Field::new(name, data_type, is_nullable)
        .with_metadata(HashMap::from([(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())]))
}

fn arrow_type(column_type: &ColumnType) -> DataType {
    match column_type {
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int => DataType::Int32,
        ColumnType::Long => DataType::Int64,
        ColumnType::Double => DataType::Float64,
        ColumnType::Date => DataType::Date32,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        ColumnType::String => DataType::Utf8,
        ColumnType::Binary => DataType::Binary,
        ColumnType::Struct(columns) => DataType::Struct(arrow_fields(columns).into()),
        ColumnType::List(element) => {
            DataType::List(with_id("element", arrow_type(&element.element_type), true, element.id).into())
        }
        ColumnType::Map { key_id, value_id } => {
            let entries = vec![
                with_id("key", DataType::Utf8, false, *key_id),
                with_id("value", DataType::Utf8, true, *value_id),
            ];
            DataType::Map(Field::new("key_value", DataType::Struct(entries.into()), false).into(), false)
        }
    }
}
