//! Which columns values ask for. Counts what kinds of values each member has, over a sample or in one record, and takes the kind
//! that most are of; what is of another kind finds its place when it comes (see [`crate::schema`]).

use std::collections::HashMap;

use crate::json::{Kind, Value};
use crate::scalar;
use crate::schema::{COLUMNS_MAX, DEPTH_MAX};

/// A column without name and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    Boolean,
    Long,
    Double,
    Date,
    Timestamp,
    String,
    /// Not empty.
    Struct(Vec<(String, Shape)>),
    List(Box<Shape>),
}

#[derive(Debug, Default)]
pub struct Seen {
    booleans: u64,
    longs: u64,
    doubles: u64,
    /// Numbers that are neither.
    others: u64,
    dates: u64,
    timestamps: u64,
    texts: u64,
    objects: u64,
    arrays: u64,
    members: Vec<(String, Seen)>,
    by_name: HashMap<String, usize>,
    element: Option<Box<Seen>>,
}

impl Seen {
    /// `depth` structs and lists are around the value.
    pub fn add(&mut self, value: &Value, depth: usize) {
        match value.kind() {
            Kind::Null => {}
            Kind::Boolean(_) => self.booleans += 1,
            Kind::Integer if scalar::long(value).is_some() => self.longs += 1,
            Kind::Integer | Kind::Real if scalar::double(value).is_some() => self.doubles += 1,
            Kind::Integer | Kind::Real => self.others += 1,
            Kind::String { .. } => {
                let content = value.content();
                if scalar::date(&content).is_some() {
                    self.dates += 1;
                } else if scalar::timestamp(&content).is_some() {
                    self.timestamps += 1;
                } else {
                    self.texts += 1;
                }
            }
            Kind::Object | Kind::Array if depth >= DEPTH_MAX => self.texts += 1,
            Kind::Object => {
                self.objects += 1;
                self.add_members(value, depth + 1);
            }
            Kind::Array => {
                self.arrays += 1;
                let element = self.element.get_or_insert_default();
                for value in value.elements() {
                    element.add(&value, depth + 1);
                }
            }
        }
    }

    /// Those of an object, which `depth` structs and lists are around; the value of a record has none.
    pub fn add_members(&mut self, object: &Value, depth: usize) {
        for (name, value) in object.members() {
            self.add_member(&name.content(), &value, depth);
        }
    }

    fn add_member(&mut self, name: &str, value: &Value, depth: usize) {
        let at = match self.by_name.get(name) {
            Some(&at) => at,
            None if self.members.len() >= COLUMNS_MAX => return,
            None => {
                self.members.push((name.to_owned(), Seen::default()));
                self.by_name.insert(name.to_owned(), self.members.len() - 1);
                self.members.len() - 1
            }
        };
        self.members[at].1.add(value, depth);
    }

    /// None while nothing says what it is: no value, nulls, empty objects and lists.
    pub fn shape(&self) -> Option<Shape> {
        let numbers = self.longs + self.doubles + self.others;
        let strings = self.dates + self.timestamps + self.texts;
        // The last of equals wins: what may be anything is text.
        let (_, shape) = [
            (
                self.arrays,
                self.element.as_ref().and_then(|element| Some(Shape::List(element.shape()?.into()))),
            ),
            (self.objects, self.struct_shape()),
            (self.booleans, Some(Shape::Boolean)),
            (numbers, Some(self.number_shape())),
            (strings, Some(self.string_shape())),
        ]
        .into_iter()
        .filter(|(count, shape)| *count > 0 && shape.is_some())
        .max_by_key(|(count, _)| *count)?;
        shape
    }

    fn struct_shape(&self) -> Option<Shape> {
        let members = self.member_shapes();
        if members.is_empty() { None } else { Some(Shape::Struct(members)) }
    }

    /// In the order in which they first came.
    pub fn member_shapes(&self) -> Vec<(String, Shape)> {
        self.members.iter().filter_map(|(name, seen)| Some((name.clone(), seen.shape()?))).collect()
    }

    fn number_shape(&self) -> Shape {
        match (self.doubles, self.longs) {
            (0, 0) => Shape::String,
            (0, _) => Shape::Long,
            _ => Shape::Double,
        }
    }

    fn string_shape(&self) -> Shape {
        if self.dates > 0 && self.timestamps + self.texts == 0 {
            Shape::Date
        } else if self.timestamps > 0 && self.dates + self.texts == 0 {
            Shape::Timestamp
        } else {
            Shape::String
        }
    }
}

impl Shape {
    /// Columns of the file.
    pub fn leaves(&self) -> usize {
        match self {
            Shape::Struct(members) => members.iter().map(|(_, shape)| shape.leaves()).sum(),
            Shape::List(element) => element.leaves(),
            _ => 1,
        }
    }
}
