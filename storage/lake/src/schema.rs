//! The columns of a table: which Iceberg field each is, where its values come from, what it can hold.
//!
//! A schema is kept as JSON in a property of its table ([`TableSchema::to_property`]), because Iceberg's own does not say which
//! member of the JSON a column stands for. It only grows: a column is never removed, renamed or given another type, so all
//! files ever written stay valid, and whoever reads an older one sees null in what came later.
//!
//! One member of a value may own several columns. A value goes to the first of them that holds it without loss: `price` (long),
//! then `price_double`, then `price_str`, which takes anything as text.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema as ArrowSchema, TimeUnit};
use iceberg::spec::{
    ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, Type,
};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use serde::{Deserialize, Serialize};

use crate::infer::{Seen, Shape};
use crate::json::{Kind, Reader};
use crate::names::{snake_case, unused};

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
    /// Names that columns of others have, on any level.
    #[serde(skip)]
    foreign_names: HashSet<String>,
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
        let mut schema = TableSchema {
            version: VERSION,
            columns: Vec::new(),
            last_field_id: 0,
            foreign_names: HashSet::new(),
        };
        schema.add_kafka_columns();
        schema
    }

    /// Of the table beside it, for what cannot be in a row of the first.
    pub fn of_quarantine() -> TableSchema {
        TableSchema::of_records().for_quarantine()
    }

    /// With the columns of a quarantine that it does not have.
    pub fn for_quarantine(mut self) -> TableSchema {
        if self.of_source(&Source::Reason).is_none() {
            self.add(Source::Reason, "reason", ColumnType::String);
        }
        self.add_raw_columns();
        self
    }

    /// With the ids that Iceberg gives to a new table: those of one level, then those within each of its columns. Catalogs that make
    /// metadata themselves give them anew, in this order, and files are to have the same.
    fn add_kafka_columns(&mut self) {
        self.add(Source::Partition, "kafka_partition", ColumnType::Int);
        self.add(Source::Offset, "kafka_offset", ColumnType::Long);
        self.add(Source::Timestamp, "kafka_timestamp", ColumnType::Timestamp);
        self.add(Source::Key, "kafka_key", ColumnType::String);
        self.add(Source::KeyBytes, "kafka_key_raw", ColumnType::Binary);
        let (headers_id, headers_bytes_id) = (self.next_id(), self.next_id());
        for (id, name, source, column_type) in [
            (headers_id, "kafka_headers", Source::Headers, self.map_type()),
            (headers_bytes_id, "kafka_headers_raw", Source::HeadersBytes, self.headers_bytes_type()),
        ] {
            self.columns.push(Column { id, name: name.to_owned(), source, column_type });
        }
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

    pub(crate) fn add(&mut self, source: Source, name: &str, column_type: ColumnType) {
        let name = unused(name.to_owned(), |name| self.is_used(name));
        let id = self.next_id();
        self.columns.push(Column { id, name, source, column_type });
    }

    fn is_used(&self, name: &str) -> bool {
        self.foreign_names.contains(name) || self.columns.iter().any(|column| column.name == name)
    }

    fn next_id(&mut self) -> i32 {
        self.last_field_id += 1;
        self.last_field_id
    }

    /// Adds columns for the members of these values that have none. What is no JSON object tells nothing.
    pub fn learn<'a>(&mut self, values: impl IntoIterator<Item = &'a [u8]>) {
        let mut reader = Reader::default();
        let mut seen = Seen::default();
        for value in values {
            if let Ok(value) = reader.read(value)
                && value.kind() == Kind::Object
            {
                seen.add_members(&value, 0);
            }
        }
        for (member, shape) in seen.member_shapes() {
            let source = Source::Member(member.clone());
            if self.of_source(&source).is_none() && self.leaves() + shape.leaves() <= COLUMNS_MAX {
                self.add_member(&member, &shape, "");
            }
        }
    }

    /// `suffix` says what kind of column of the member it is, when the member has one already.
    pub(crate) fn add_member(&mut self, member: &str, shape: &Shape, suffix: &str) {
        let mut last_field_id = self.last_field_id;
        let column = column_of(member, shape, suffix, &mut last_field_id, &|name| self.is_used(name));
        self.last_field_id = last_field_id;
        self.columns.push(column);
    }

    /// Columns of the file.
    pub(crate) fn leaves(&self) -> usize {
        self.columns.iter().map(|column| column.column_type.leaves()).sum()
    }

    pub(crate) fn with_columns(&self, columns: Vec<Column>, last_field_id: i32) -> TableSchema {
        TableSchema { columns, last_field_id, foreign_names: self.foreign_names.clone(), ..*self }
    }

    pub(crate) fn foreign_names(&self) -> &HashSet<String> {
        &self.foreign_names
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    pub(crate) fn of_source(&self, source: &Source) -> Option<&Column> {
        self.columns.iter().find(|column| column.source == *source)
    }

    pub(crate) fn position(&self, source: &Source) -> Option<usize> {
        self.columns.iter().position(|column| column.source == *source)
    }

    /// The highest field id that was given away. Ids of columns that others added are not given away again once they were
    /// [kept clear of](TableSchema::keep_clear_of).
    pub fn last_field_id(&self) -> i32 {
        self.last_field_id
    }

    /// The table's own schema may have columns that somebody else added (`ALTER TABLE`): their ids and names are not for ours.
    pub fn keep_clear_of(&mut self, table: &Schema, last_column_id: i32) {
        self.last_field_id = self.last_field_id.max(last_column_id).max(table.highest_field_id());
        let mut own_ids = HashSet::new();
        for column in &self.columns {
            column.add_ids(&mut own_ids);
        }
        for (id, path) in table.field_id_to_name_map() {
            if !own_ids.contains(id) {
                self.foreign_names.insert(path.rsplit('.').next().unwrap_or(path).to_owned());
            }
        }
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
        schema.check()?;
        Ok(schema)
    }

    fn check(&self) -> Result<(), SchemaError> {
        let kafka = TableSchema::of_records();
        let has_kafka = kafka.columns.iter().all(|column| {
            self.of_source(&column.source).is_some_and(|own| own.column_type.is_like(&column.column_type))
        });
        if !has_kafka {
            return Err(SchemaError::Unsound("columns of Kafka's are missing".to_owned()));
        }
        check_columns(&self.columns, self.last_field_id, &mut HashSet::new()).map_err(SchemaError::Unsound)
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

    fn add_ids(&self, ids: &mut HashSet<i32>) {
        ids.insert(self.id);
        self.column_type.add_ids(ids);
    }
}

/// Ids and names once each, on every level.
fn check_columns(columns: &[Column], last_field_id: i32, ids: &mut HashSet<i32>) -> Result<(), String> {
    let mut names = HashSet::new();
    if columns.is_empty() {
        return Err("a struct without fields".to_owned());
    }
    for column in columns {
        if !names.insert(&column.name) {
            return Err(format!("two columns {}", column.name));
        }
        let mut own_ids = HashSet::new();
        own_ids.insert(column.id);
        let mut column_type = &column.column_type;
        while let ColumnType::List(element) = column_type {
            own_ids.insert(element.id);
            column_type = &element.element_type;
        }
        match column_type {
            ColumnType::Struct(fields) => check_columns(fields, last_field_id, ids)?,
            ColumnType::Map { key_id, value_id } => own_ids.extend([*key_id, *value_id]),
            _ => {}
        }
        if !own_ids.iter().all(|id| (1..=last_field_id).contains(id) && ids.insert(*id)) {
            return Err(format!("ids of column {} twice, or above {last_field_id}", column.name));
        }
    }
    Ok(())
}

/// With fresh ids, and names that are not used around it.
pub(crate) fn column_of(
    member: &str,
    shape: &Shape,
    suffix: &str,
    last_field_id: &mut i32,
    is_used: &dyn Fn(&str) -> bool,
) -> Column {
    *last_field_id += 1;
    let id = *last_field_id;
    let name = unused(snake_case(member) + suffix, is_used);
    let source = Source::Member(member.to_owned());
    Column { id, name, source, column_type: type_of(shape, last_field_id) }
}

fn type_of(shape: &Shape, last_field_id: &mut i32) -> ColumnType {
    match shape {
        Shape::Boolean => ColumnType::Boolean,
        Shape::Long => ColumnType::Long,
        Shape::Double => ColumnType::Double,
        Shape::Date => ColumnType::Date,
        Shape::Timestamp => ColumnType::Timestamp,
        Shape::String => ColumnType::String,
        Shape::Struct(members) => {
            let mut columns: Vec<Column> = Vec::with_capacity(members.len());
            for (member, shape) in members {
                let is_used = |name: &str| columns.iter().any(|column| column.name == name);
                let column = column_of(member, shape, "", last_field_id, &is_used);
                columns.push(column);
            }
            ColumnType::Struct(columns)
        }
        Shape::List(element) => {
            *last_field_id += 1;
            let id = *last_field_id;
            ColumnType::List(Box::new(Element { id, element_type: type_of(element, last_field_id) }))
        }
    }
}

impl ColumnType {
    /// Columns of the file.
    pub(crate) fn leaves(&self) -> usize {
        match self {
            ColumnType::Struct(columns) => columns.iter().map(|column| column.column_type.leaves()).sum(),
            ColumnType::List(element) => element.element_type.leaves(),
            ColumnType::Map { .. } => 2,
            _ => 1,
        }
    }

    /// The same but for ids and what may have been added.
    fn is_like(&self, other: &ColumnType) -> bool {
        match (self, other) {
            (ColumnType::Struct(own), ColumnType::Struct(other)) => {
                own.len() == other.len()
                    && own.iter().zip(other).all(|(a, b)| a.column_type.is_like(&b.column_type))
            }
            (ColumnType::List(own), ColumnType::List(other)) => own.element_type.is_like(&other.element_type),
            (ColumnType::Map { .. }, ColumnType::Map { .. }) => true,
            (own, other) => own == other,
        }
    }

    fn add_ids(&self, ids: &mut HashSet<i32>) {
        match self {
            ColumnType::Struct(columns) => columns.iter().for_each(|column| column.add_ids(ids)),
            ColumnType::List(element) => {
                ids.insert(element.id);
                element.element_type.add_ids(ids);
            }
            ColumnType::Map { key_id, value_id } => ids.extend([*key_id, *value_id]),
            _ => {}
        }
    }
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
