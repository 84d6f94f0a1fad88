//! Members of an object into their columns, and the columns that come with them.

use std::collections::HashSet;

use crate::column::{Field, Fields, Values};
use crate::infer::{Seen, Shape};
use crate::json::{Kind, Value};
use crate::scalar;
use crate::schema::{COLUMNS_MAX, Source, TableSchema, column_of};

const EXTRA: &str = "kafka_extra";

/// What a new column needs.
pub struct Growth {
    is_open: bool,
    last_field_id: i32,
    /// Columns up to it are in the table already, and keep their types.
    last_committed_id: i32,
    leaves: usize,
    /// Names of columns that others added to the table.
    foreign_names: HashSet<String>,
    /// Something of the member at hand found no column.
    is_unplaced: bool,
}

impl Growth {
    pub fn new(schema: &TableSchema, is_open: bool, last_committed_id: i32) -> Growth {
        Growth {
            is_open,
            last_field_id: schema.last_field_id(),
            last_committed_id,
            leaves: schema.leaves(),
            foreign_names: schema.foreign_names().clone(),
            is_unplaced: false,
        }
    }

    pub fn leaves(&self) -> usize {
        self.leaves
    }

    pub fn last_field_id(&self) -> i32 {
        self.last_field_id
    }

    /// The column of members that have none. It comes with the first of them, whatever else may come no more.
    pub fn extra_column(&mut self, fields: &mut Fields) -> usize {
        fields.list.iter().position(|field| field.source == Source::Extra).unwrap_or_else(|| {
            self.add(fields, EXTRA, &Shape::String, "", Some(Source::Extra));
            fields.list.len() - 1
        })
    }

    /// `source`, if it isn't the member.
    fn add(
        &mut self,
        fields: &mut Fields,
        member: &str,
        shape: &Shape,
        suffix: &str,
        source: Option<Source>,
    ) {
        let is_used = |name: &str| {
            self.foreign_names.contains(name) || fields.list.iter().any(|field| field.name == name)
        };
        let mut column = column_of(member, shape, suffix, &mut self.last_field_id, &is_used);
        column.source = source.unwrap_or(column.source);
        self.leaves += shape.leaves();
        fields.push(Field::new(&column));
    }
}

/// All members of the value of a row. Those that found no column, or not for all that is in them, are in `extra` as an object; it
/// stays empty when there are none.
pub fn push_members(
    fields: &mut Fields,
    row: usize,
    object: &Value,
    growth: &mut Growth,
    extra: &mut String,
) {
    fields.begin_object();
    for (name, value) in object.members() {
        growth.is_unplaced = false;
        push_member(fields, row, &name, &value, 0, growth);
        if growth.is_unplaced {
            extra.push(if extra.is_empty() { '{' } else { ',' });
            extra.push_str(name.text());
            extra.push(':');
            extra.push_str(value.text());
        }
    }
    if !extra.is_empty() {
        extra.push('}');
    }
}

/// `depth` structs and lists are around the object.
fn push_member(
    fields: &mut Fields,
    row: usize,
    name: &Value,
    value: &Value,
    depth: usize,
    growth: &mut Growth,
) {
    if value.kind() == Kind::Null {
        return;
    }
    let name = name.content();
    if let Some(at) = fields.find(&name) {
        let wants_double =
            growth.is_open && growth.leaves < COLUMNS_MAX && is_double_among_longs(fields, at, value);
        for nth in 0..fields.members[at].columns.len() {
            let column = fields.members[at].columns[nth];
            if nth > 0 && wants_double {
                break;
            }
            if push_at(fields, column, row, value, depth, growth) {
                return;
            }
        }
    }
    push_with_growth(fields, row, &name, value, depth, growth)
}

/// For a value that no column of its member holds. At most two columns come of it: one of the value's own kind, and one that holds
/// any text, if the first one holds only part of it (a list of numbers and texts).
fn push_with_growth(
    fields: &mut Fields,
    row: usize,
    name: &str,
    value: &Value,
    depth: usize,
    growth: &mut Growth,
) {
    while growth.is_open {
        let (shape, suffix) = match fields.find(name).filter(|at| !fields.members[*at].columns.is_empty()) {
            None => {
                let mut seen = Seen::default();
                seen.add(value, depth);
                match seen.shape() {
                    Some(shape) => (shape, ""),
                    // `{}`, `[]`: it will say what it is when there is something in it.
                    None => break,
                }
            }
            Some(at) if is_double_among_longs(fields, at, value) => {
                let first = fields.members[at].columns[0];
                let field = &mut fields.list[first];
                // Iceberg widens no long to a double, so only a column that is in no file yet can become one.
                if field.id > growth.last_committed_id && field.values.widen() {
                    push_at(fields, first, row, value, depth, growth);
                    return;
                }
                (Shape::Double, "_double")
            }
            Some(_) => (Shape::String, "_str"),
        };
        if growth.leaves + shape.leaves() > COLUMNS_MAX {
            break;
        }
        growth.add(fields, name, &shape, suffix, None);
        if push_at(fields, fields.list.len() - 1, row, value, depth, growth) {
            return;
        }
    }
    growth.is_unplaced = true;
}

/// A number for which there ought to be a column of doubles, beside the one of longs.
fn is_double_among_longs(fields: &Fields, at: usize, value: &Value) -> bool {
    let columns = &fields.members[at].columns;
    let is =
        |nth: usize, of: fn(&Values) -> bool| columns.get(nth).is_some_and(|at| of(&fields.list[*at].values));
    is(0, |values| matches!(values, Values::Long(_)))
        && !is(1, |values| matches!(values, Values::Double(_)))
        && scalar::long(value).is_none()
        && scalar::double(value).is_some()
}

/// False if the column doesn't hold the value; it is then as before.
fn push_at(
    fields: &mut Fields,
    column: usize,
    row: usize,
    value: &Value,
    depth: usize,
    growth: &mut Growth,
) -> bool {
    let values = &mut fields.list[column].values;
    values.pad_to(row);
    let was_unplaced = growth.is_unplaced;
    let is_held = push_value(values, value, depth, growth);
    if !is_held {
        values.truncate(row);
        growth.is_unplaced = was_unplaced;
    }
    is_held
}

fn push_value(values: &mut Values, value: &Value, depth: usize, growth: &mut Growth) -> bool {
    match values {
        Values::Struct(structs) => {
            if value.kind() != Kind::Object {
                return false;
            }
            let row = structs.len();
            structs.fields.begin_object();
            for (name, value) in value.members() {
                push_member(&mut structs.fields, row, &name, &value, depth + 1, growth);
            }
            structs.end();
            true
        }
        Values::List(lists) => {
            if value.kind() != Kind::Array {
                return false;
            }
            let mut end = lists.start();
            for element in value.elements() {
                if element.kind() != Kind::Null {
                    lists.element.pad_to(end);
                    if !push_value(&mut lists.element, &element, depth + 1, growth) {
                        return false;
                    }
                }
                end += 1;
            }
            lists.end(end);
            true
        }
        scalars => scalars.push_scalar(value),
    }
}
