//! Columns in the making: one tree that says what the columns are and holds their values until they become Arrow arrays.
//!
//! A column that a record says nothing about costs nothing: it is filled up with nulls when its next value comes, or at the end.
//! What was appended of a value that a column does not hold after all is cut off again.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::types::{Date32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, ListArray, MapArray, PrimitiveArray,
    StringArray, StructArray,
};
use arrow_buffer::{
    ArrowNativeType, BooleanBufferBuilder, Buffer, NullBuffer, NullBufferBuilder, OffsetBuffer, ScalarBuffer,
};
use arrow_schema::{DataType, Fields as ArrowFields};

use crate::json::{Kind, Value};
use crate::scalar;
use crate::schema::{Column, ColumnType, Element, Source};

/// Rows that a column makes room for when its first value comes.
const ROWS_GUESS: usize = 1024;

pub struct Field {
    pub id: i32,
    pub name: String,
    pub source: Source,
    pub values: Values,
}

impl Field {
    pub fn new(column: &Column) -> Field {
        Field {
            id: column.id,
            name: column.name.clone(),
            source: column.source.clone(),
            values: Values::new(&column.column_type),
        }
    }

    pub fn column(&self) -> Column {
        Column {
            id: self.id,
            name: self.name.clone(),
            source: self.source.clone(),
            column_type: self.values.column_type(),
        }
    }
}

/// The columns of the table or of a struct, found by the members that they stand for.
#[derive(Default)]
pub struct Fields {
    pub list: Vec<Field>,
    pub members: Vec<Member>,
    by_name: HashMap<String, usize>,
    /// The member after the one that was found last: records mostly have theirs in one order.
    next: usize,
}

pub struct Member {
    pub name: String,
    /// In the order in which a value is offered to them.
    pub columns: Vec<usize>,
}

impl Fields {
    pub fn new(columns: &[Column]) -> Fields {
        let mut fields = Fields::default();
        columns.iter().for_each(|column| fields.push(Field::new(column)));
        fields
    }

    pub fn push(&mut self, field: Field) {
        if let Source::Member(name) = &field.source {
            let at = *self.by_name.entry(name.clone()).or_insert_with(|| {
                self.members.push(Member { name: name.clone(), columns: Vec::new() });
                self.members.len() - 1
            });
            // A column that takes any text is offered a value last.
            let columns = &mut self.members[at].columns;
            let is_text_last = columns.len() > 1
                && matches!(self.list[columns[columns.len() - 1]].values, Values::String(_))
                && !matches!(field.values, Values::String(_));
            columns.insert(columns.len() - usize::from(is_text_last), self.list.len());
        }
        self.list.push(field);
    }

    pub fn find(&mut self, name: &str) -> Option<usize> {
        let at = match self.members.get(self.next) {
            Some(member) if member.name == name => self.next,
            _ => *self.by_name.get(name)?,
        };
        self.next = at + 1;
        Some(at)
    }

    pub fn begin_object(&mut self) {
        self.next = 0;
    }

    pub fn columns(&self) -> Vec<Column> {
        self.list.iter().map(Field::column).collect()
    }

    fn truncate(&mut self, len: usize) {
        self.list.iter_mut().for_each(|field| field.values.truncate(len));
    }

    pub fn finish(self, len: usize, types: &ArrowFields) -> Vec<ArrayRef> {
        self.list.into_iter().zip(types).map(|(field, of)| field.values.finish(len, of.data_type())).collect()
    }
}

pub enum Values {
    Boolean { values: BooleanBufferBuilder, valid: NullBufferBuilder },
    Int(Flat<i32>),
    Long(Flat<i64>),
    Double(Flat<f64>),
    Date(Flat<i32>),
    Timestamp(Flat<i64>),
    String(Bytes),
    Binary(Bytes),
    Struct(Structs),
    List(Lists),
    Map(Maps),
}

pub struct Flat<T> {
    values: Vec<T>,
    valid: NullBufferBuilder,
}

pub struct Bytes {
    bytes: Vec<u8>,
    /// Where each value ends.
    ends: Vec<i32>,
    valid: NullBufferBuilder,
}

pub struct Structs {
    pub fields: Fields,
    valid: NullBufferBuilder,
}

pub struct Lists {
    element_id: i32,
    pub element: Box<Values>,
    ends: Vec<i32>,
    valid: NullBufferBuilder,
}

pub struct Maps {
    key_id: i32,
    value_id: i32,
    keys: Bytes,
    values: Bytes,
    ends: Vec<i32>,
    valid: NullBufferBuilder,
}

impl<T: ArrowNativeType> Flat<T> {
    fn new() -> Flat<T> {
        Flat { values: Vec::new(), valid: NullBufferBuilder::new(ROWS_GUESS) }
    }

    pub fn push(&mut self, value: T) {
        self.values.push(value);
        self.valid.append_non_null();
    }

    fn finish<A: ArrowPrimitiveType<Native = T>>(self) -> PrimitiveArray<A> {
        PrimitiveArray::new(ScalarBuffer::from(self.values), self.valid.build())
    }
}

impl Bytes {
    fn new() -> Bytes {
        Bytes { bytes: Vec::new(), ends: Vec::new(), valid: NullBufferBuilder::new(ROWS_GUESS) }
    }

    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(end_of(self.bytes.len()));
        self.valid.append_non_null();
    }

    pub fn pad_to(&mut self, len: usize) {
        pad(&mut self.valid, len);
        self.ends.resize(len, end_of(self.bytes.len()));
    }

    fn truncate(&mut self, len: usize) {
        cut(&mut self.valid, len);
        self.ends.truncate(len);
        self.bytes.truncate(self.ends.last().map_or(0, |&end| end as usize));
    }

    fn finish(self) -> (OffsetBuffer<i32>, Buffer, Option<NullBuffer>) {
        (offsets(self.ends), Buffer::from_vec(self.bytes), self.valid.build())
    }

    fn finish_strings(self) -> StringArray {
        let (offsets, bytes, valid) = self.finish();
        // SAFETY: each value came as a &str, so each is UTF-8 from its border on.
        unsafe { StringArray::new_unchecked(offsets, bytes, valid) }
    }
}

/// Offsets in Arrow have 32 bits. The converter takes no more bytes than that into one file.
fn end_of(len: usize) -> i32 {
    i32::try_from(len).expect("a file is finished before a column has 2 GiB")
}

fn offsets(ends: Vec<i32>) -> OffsetBuffer<i32> {
    let mut offsets = Vec::with_capacity(ends.len() + 1);
    offsets.push(0);
    offsets.extend(ends);
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}

fn pad(valid: &mut NullBufferBuilder, len: usize) {
    if let Some(missing) = len.checked_sub(valid.len()).filter(|missing| *missing > 0) {
        valid.append_n_nulls(missing);
    }
}

fn cut(valid: &mut NullBufferBuilder, len: usize) {
    if valid.len() > len {
        valid.truncate(len);
    }
}

impl Values {
    pub fn new(column_type: &ColumnType) -> Values {
        match column_type {
            ColumnType::Boolean => Values::Boolean {
                values: BooleanBufferBuilder::new(0),
                valid: NullBufferBuilder::new(ROWS_GUESS),
            },
            ColumnType::Int => Values::Int(Flat::new()),
            ColumnType::Long => Values::Long(Flat::new()),
            ColumnType::Double => Values::Double(Flat::new()),
            ColumnType::Date => Values::Date(Flat::new()),
            ColumnType::Timestamp => Values::Timestamp(Flat::new()),
            ColumnType::String => Values::String(Bytes::new()),
            ColumnType::Binary => Values::Binary(Bytes::new()),
            ColumnType::Struct(columns) => Values::Struct(Structs {
                fields: Fields::new(columns),
                valid: NullBufferBuilder::new(ROWS_GUESS),
            }),
            ColumnType::List(element) => Values::List(Lists {
                element_id: element.id,
                element: Box::new(Values::new(&element.element_type)),
                ends: Vec::new(),
                valid: NullBufferBuilder::new(ROWS_GUESS),
            }),
            ColumnType::Map { key_id, value_id } => Values::Map(Maps {
                key_id: *key_id,
                value_id: *value_id,
                keys: Bytes::new(),
                values: Bytes::new(),
                ends: Vec::new(),
                valid: NullBufferBuilder::new(ROWS_GUESS),
            }),
        }
    }

    fn column_type(&self) -> ColumnType {
        match self {
            Values::Boolean { .. } => ColumnType::Boolean,
            Values::Int(_) => ColumnType::Int,
            Values::Long(_) => ColumnType::Long,
            Values::Double(_) => ColumnType::Double,
            Values::Date(_) => ColumnType::Date,
            Values::Timestamp(_) => ColumnType::Timestamp,
            Values::String(_) => ColumnType::String,
            Values::Binary(_) => ColumnType::Binary,
            Values::Struct(structs) => ColumnType::Struct(structs.fields.columns()),
            Values::List(lists) => ColumnType::List(Box::new(Element {
                id: lists.element_id,
                element_type: lists.element.column_type(),
            })),
            Values::Map(maps) => ColumnType::Map { key_id: maps.key_id, value_id: maps.value_id },
        }
    }

    fn valid(&mut self) -> &mut NullBufferBuilder {
        match self {
            Values::Boolean { valid, .. } => valid,
            Values::Int(flat) | Values::Date(flat) => &mut flat.valid,
            Values::Long(flat) | Values::Timestamp(flat) => &mut flat.valid,
            Values::Double(flat) => &mut flat.valid,
            Values::String(bytes) | Values::Binary(bytes) => &mut bytes.valid,
            Values::Struct(structs) => &mut structs.valid,
            Values::List(lists) => &mut lists.valid,
            Values::Map(maps) => &mut maps.valid,
        }
    }

    pub fn len(&mut self) -> usize {
        self.valid().len()
    }

    /// Nulls for the rows before `len` that said nothing.
    pub fn pad_to(&mut self, len: usize) {
        if self.len() >= len {
            return;
        }
        pad(self.valid(), len);
        match self {
            Values::Boolean { values, .. } => values.resize(len),
            Values::Int(flat) | Values::Date(flat) => flat.values.resize(len, 0),
            Values::Long(flat) | Values::Timestamp(flat) => flat.values.resize(len, 0),
            Values::Double(flat) => flat.values.resize(len, 0.0),
            Values::String(bytes) | Values::Binary(bytes) => bytes.pad_to(len),
            // Its fields are filled up when they have a value, or at the end.
            Values::Struct(_) => {}
            Values::List(lists) => {
                let end = lists.ends.last().copied().unwrap_or(0);
                lists.ends.resize(len, end);
            }
            Values::Map(maps) => {
                let end = maps.ends.last().copied().unwrap_or(0);
                maps.ends.resize(len, end);
            }
        }
    }

    pub fn truncate(&mut self, len: usize) {
        if self.len() < len {
            return;
        }
        cut(self.valid(), len);
        match self {
            Values::Boolean { values, .. } => values.truncate(len),
            Values::Int(flat) | Values::Date(flat) => flat.values.truncate(len),
            Values::Long(flat) | Values::Timestamp(flat) => flat.values.truncate(len),
            Values::Double(flat) => flat.values.truncate(len),
            Values::String(bytes) | Values::Binary(bytes) => bytes.truncate(len),
            Values::Struct(structs) => structs.fields.truncate(len),
            Values::List(lists) => {
                lists.ends.truncate(len);
                lists.element.truncate(lists.ends.last().map_or(0, |&end| end as usize));
            }
            Values::Map(maps) => {
                maps.ends.truncate(len);
                let entries = maps.ends.last().map_or(0, |&end| end as usize);
                maps.keys.truncate(entries);
                maps.values.truncate(entries);
            }
        }
    }

    /// The next value, if it is one that this column holds without loss. Not for structs and lists.
    pub fn push_scalar(&mut self, value: &Value) -> bool {
        match self {
            Values::Boolean { values, valid } => {
                let Kind::Boolean(boolean) = value.kind() else { return false };
                values.append(boolean);
                valid.append_non_null();
                true
            }
            Values::Long(flat) => scalar::long(value).map(|long| flat.push(long)).is_some(),
            Values::Double(flat) => scalar::double(value).map(|double| flat.push(double)).is_some(),
            Values::Date(flat) => string(value, scalar::date).map(|day| flat.push(day)).is_some(),
            Values::Timestamp(flat) => {
                string(value, scalar::timestamp).map(|micros| flat.push(micros)).is_some()
            }
            Values::String(bytes) => {
                bytes.push(value.content().as_bytes());
                true
            }
            Values::Int(_) | Values::Binary(_) | Values::Struct(_) | Values::List(_) | Values::Map(_) => {
                false
            }
        }
    }

    /// Turns longs into doubles, if each of them is one.
    pub fn widen(&mut self) -> bool {
        let Values::Long(longs) = self else { return false };
        let doubles: Option<Vec<f64>> =
            longs.values.iter().map(|long| scalar::double_of_long(*long)).collect();
        let Some(values) = doubles else { return false };
        let valid = std::mem::replace(&mut longs.valid, NullBufferBuilder::new(0));
        *self = Values::Double(Flat { values, valid });
        true
    }

    pub fn finish(mut self, len: usize, of: &DataType) -> ArrayRef {
        self.pad_to(len);
        match self {
            Values::Boolean { mut values, valid } => {
                Arc::new(BooleanArray::new(values.finish(), valid.build()))
            }
            Values::Int(flat) => Arc::new(flat.finish::<Int32Type>()),
            Values::Long(flat) => Arc::new(flat.finish::<Int64Type>()),
            Values::Double(flat) => Arc::new(flat.finish::<Float64Type>()),
            Values::Date(flat) => Arc::new(flat.finish::<Date32Type>()),
            Values::Timestamp(flat) => {
                Arc::new(flat.finish::<TimestampMicrosecondType>().with_data_type(of.clone()))
            }
            Values::String(bytes) => Arc::new(bytes.finish_strings()),
            Values::Binary(bytes) => {
                let (offsets, bytes, valid) = bytes.finish();
                Arc::new(BinaryArray::new(offsets, bytes, valid))
            }
            Values::Struct(structs) => {
                let DataType::Struct(types) = of else {
                    unreachable!("the type is made of the same columns")
                };
                let arrays = structs.fields.finish(len, types);
                Arc::new(StructArray::new(types.clone(), arrays, structs.valid.build()))
            }
            Values::List(lists) => {
                let DataType::List(element) = of else {
                    unreachable!("the type is made of the same columns")
                };
                let elements = lists.ends.last().map_or(0, |&end| end as usize);
                let values = lists.element.finish(elements, element.data_type());
                Arc::new(ListArray::new(element.clone(), offsets(lists.ends), values, lists.valid.build()))
            }
            Values::Map(maps) => {
                let DataType::Map(entry, _) = of else {
                    unreachable!("the type is made of the same columns")
                };
                let DataType::Struct(types) = entry.data_type() else { unreachable!("entries are structs") };
                let entries: Vec<ArrayRef> =
                    vec![Arc::new(maps.keys.finish_strings()), Arc::new(maps.values.finish_strings())];
                let entries = StructArray::new(types.clone(), entries, None);
                Arc::new(MapArray::new(entry.clone(), offsets(maps.ends), entries, maps.valid.build(), false))
            }
        }
    }
}

fn string<T>(value: &Value, read: impl Fn(&str) -> Option<T>) -> Option<T> {
    match value.kind() {
        Kind::String { is_escaped: false } => read(&value.text()[1..value.text().len() - 1]),
        Kind::String { is_escaped: true } => read(&value.content()),
        _ => None,
    }
}

impl Structs {
    pub fn end(&mut self) {
        self.valid.append_non_null();
    }

    pub fn len(&self) -> usize {
        self.valid.len()
    }
}

impl Lists {
    /// Where the elements of the next list begin.
    pub fn start(&self) -> usize {
        self.ends.last().map_or(0, |&end| end as usize)
    }

    /// Its elements lie before `end`; those not appended are null.
    pub fn end(&mut self, end: usize) {
        self.ends.push(end_of(end));
        self.valid.append_non_null();
    }
}

impl Maps {
    pub fn push<'a>(&mut self, entries: impl Iterator<Item = (&'a str, Option<&'a str>)>) {
        let mut count = self.ends.last().map_or(0, |&end| end as usize);
        for (key, value) in entries {
            self.keys.push(key.as_bytes());
            count += 1;
            match value {
                Some(value) => self.values.push(value.as_bytes()),
                None => self.values.pad_to(count),
            }
        }
        self.ends.push(end_of(count));
        self.valid.append_non_null();
    }
}
