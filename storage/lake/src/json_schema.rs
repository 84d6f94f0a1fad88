//! The columns that a JSON Schema asks for. It is read as a description of types: what else it demands of values (bounds, required
//! members, patterns) is the producers' matter, and a value that doesn't fit its column is kept in `kafka_extra`.

use serde_json::{Map, Value};

use crate::infer::Shape;
use crate::schema::{COLUMNS_MAX, ColumnType, DEPTH_MAX, Source, TableSchema};

/// References that lead to references.
const REFERENCES_MAX: usize = 32;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonSchemaError {
    #[error("not JSON: {0}")]
    Json(String),
    #[error("a JSON Schema for a table has \"type\": \"object\" and \"properties\" that are not empty")]
    NoObject,
    #[error("{at}: {what}")]
    Unsupported { at: String, what: String },
    #[error("{0} columns, of at most {COLUMNS_MAX}")]
    Columns(usize),
}

/// The members that a table of this JSON Schema has, in its order of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonSchema {
    members: Vec<(String, Shape)>,
}

impl JsonSchema {
    pub fn parse(text: &str) -> Result<JsonSchema, JsonSchemaError> {
        let root: Value =
            serde_json::from_str(text).map_err(|error| JsonSchemaError::Json(error.to_string()))?;
        let reading = Reading { root: &root };
        let Shape::Struct(members) = reading.shape(&root, "#", 0, 0)? else {
            return Err(JsonSchemaError::NoObject);
        };
        let leaves = members.iter().map(|(_, shape)| shape.leaves()).sum();
        if leaves > COLUMNS_MAX {
            return Err(JsonSchemaError::Columns(leaves));
        }
        Ok(JsonSchema { members })
    }

    /// Adds the columns that the table doesn't have yet. A member that changed its type gets another column beside the old one.
    pub fn add_to(&self, schema: &mut TableSchema) {
        for (member, shape) in &self.members {
            let source = Source::Member(member.clone());
            let of_member: Vec<_> =
                schema.columns().iter().filter(|column| column.source == source).collect();
            if of_member.iter().any(|column| is_of(&column.column_type, shape)) {
                continue;
            }
            let suffix = match shape {
                _ if of_member.is_empty() => "",
                Shape::Boolean => "_bool",
                Shape::Long => "_long",
                Shape::Double => "_double",
                Shape::Date => "_date",
                Shape::Timestamp => "_timestamp",
                Shape::String => "_str",
                Shape::Struct(_) => "_struct",
                Shape::List(_) => "_list",
            };
            schema.add_member(member, shape, suffix);
        }
    }
}

/// All that the shape has is there.
fn is_of(column_type: &ColumnType, shape: &Shape) -> bool {
    match (column_type, shape) {
        (ColumnType::Boolean, Shape::Boolean)
        | (ColumnType::Long, Shape::Long)
        | (ColumnType::Double, Shape::Double)
        | (ColumnType::Date, Shape::Date)
        | (ColumnType::Timestamp, Shape::Timestamp)
        | (ColumnType::String, Shape::String) => true,
        (ColumnType::List(element), Shape::List(shape)) => is_of(&element.element_type, shape),
        (ColumnType::Struct(columns), Shape::Struct(members)) => members.iter().all(|(member, shape)| {
            let source = Source::Member(member.clone());
            columns.iter().any(|column| column.source == source && is_of(&column.column_type, shape))
        }),
        _ => false,
    }
}

struct Reading<'a> {
    root: &'a Value,
}

impl Reading<'_> {
    /// `depth` structs and lists are around it.
    fn shape(
        &self,
        schema: &Value,
        at: &str,
        depth: usize,
        references: usize,
    ) -> Result<Shape, JsonSchemaError> {
        let unsupported = |what: String| JsonSchemaError::Unsupported { at: at.to_owned(), what };
        let schema = match schema {
            Value::Object(schema) => schema,
            // Anything goes: text.
            Value::Bool(true) => return Ok(Shape::String),
            _ => return Err(unsupported("a schema is an object".to_owned())),
        };
        if let Some(reference) = schema.get("$ref") {
            let reference = reference.as_str().unwrap_or_default();
            let target = reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            let Some(target) = target.filter(|_| references < REFERENCES_MAX) else {
                return Err(unsupported(format!(
                    "$ref {reference:?}: only references within the schema, no loops"
                )));
            };
            return self.shape(target, reference, depth, references + 1);
        }
        // The root is no column itself: its members have nothing around them.
        let is_deep = depth > DEPTH_MAX;
        Ok(match type_of(schema).map_err(unsupported)? {
            Some("boolean") => Shape::Boolean,
            Some("integer") => Shape::Long,
            Some("number") => Shape::Double,
            Some("string") => match schema.get("format").and_then(Value::as_str) {
                Some("date") => Shape::Date,
                Some("date-time") => Shape::Timestamp,
                _ => Shape::String,
            },
            Some("object") if !is_deep => match schema.get("properties") {
                Some(Value::Object(properties)) if !properties.is_empty() => {
                    let mut members = Vec::with_capacity(properties.len());
                    for (name, property) in properties {
                        let at = format!("{at}/properties/{name}");
                        members.push((name.clone(), self.shape(property, &at, depth + 1, references)?));
                    }
                    Shape::Struct(members)
                }
                None | Some(Value::Object(_)) => Shape::String,
                Some(_) => return Err(unsupported("properties are an object".to_owned())),
            },
            Some("array") if !is_deep => match schema.get("items") {
                Some(items) => {
                    Shape::List(Box::new(self.shape(items, &format!("{at}/items"), depth + 1, references)?))
                }
                None => Shape::String,
            },
            Some("object" | "array" | "null") | None => Shape::String,
            Some(other) => return Err(unsupported(format!("no such type: {other:?}"))),
        })
    }
}

/// None for what may be of several types, or of any.
fn type_of(schema: &Map<String, Value>) -> Result<Option<&str>, String> {
    match schema.get("type") {
        None => Ok(None),
        Some(Value::String(of)) => Ok(Some(of)),
        Some(Value::Array(several)) => {
            let mut types = several.iter().filter(|of| of.as_str() != Some("null"));
            match (types.next().map(Value::as_str), types.next()) {
                (Some(None), _) => Err("type is a string or a list of them".to_owned()),
                (Some(only), None) => Ok(only),
                _ => Ok(None),
            }
        }
        Some(_) => Err("type is a string or a list of them".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> TableSchema {
        let mut schema = TableSchema::of_records();
        JsonSchema::parse(text).unwrap().add_to(&mut schema);
        schema
    }

    fn types(schema: &TableSchema) -> Vec<(&str, &ColumnType)> {
        let is_of_value = |source: &Source| matches!(source, Source::Member(_));
        let columns = schema.columns().iter().filter(|column| is_of_value(&column.source));
        columns.map(|column| (column.name.as_str(), &column.column_type)).collect()
    }

    #[test]
    fn types_of_a_schema() {
        let schema = of(r##"{
            "type": "object",
            "required": ["Index"],
            "properties": {
                "Adj Close": {"type": ["null", "number"]},
                "Index": {"type": "string", "maxLength": 9},
                "any": {},
                "at": {"type": "string", "format": "date-time"},
                "day": {"type": "string", "format": "date"},
                "either": {"type": ["string", "integer"]},
                "free": {"type": "object"},
                "list": {"type": "array", "items": {"$ref": "#/$defs/count"}},
                "nested": {"type": "object", "properties": {"ok": {"type": "boolean"}}}
            },
            "$defs": {"count": {"type": "integer"}}
        }"##);
        let types = types(&schema);
        let names: Vec<&str> = types.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["adj_close", "index", "any", "at", "day", "either", "free", "list", "nested"]);
        let of = |name| types.iter().find(|(known, _)| *known == name).unwrap().1;
        assert_eq!(*of("adj_close"), ColumnType::Double);
        assert_eq!(*of("at"), ColumnType::Timestamp);
        assert_eq!(*of("day"), ColumnType::Date);
        for text in ["index", "any", "either", "free"] {
            assert_eq!(*of(text), ColumnType::String, "{text}");
        }
        assert!(is_of(of("list"), &Shape::List(Shape::Long.into())));
        assert!(is_of(of("nested"), &Shape::Struct(vec![("ok".to_owned(), Shape::Boolean)])));
    }

    #[test]
    fn a_changed_schema_adds_columns_and_changes_none() {
        let mut schema = of(r#"{"type": "object", "properties": {"a": {"type": "integer"}}}"#);
        let before = schema.columns().to_vec();
        let changed =
            r#"{"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "boolean"}}}"#;
        JsonSchema::parse(changed).unwrap().add_to(&mut schema);
        assert_eq!(schema.columns()[..before.len()], before);
        let again = schema.clone();
        JsonSchema::parse(changed).unwrap().add_to(&mut schema);
        assert_eq!(schema, again);
        assert_eq!(types(&schema).iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["a", "a_str", "b"]);
    }

    #[test]
    fn what_is_no_schema_of_a_table_is_refused() {
        let refused = |text: &str| JsonSchema::parse(text).unwrap_err().to_string();
        assert!(refused("{").starts_with("not JSON"));
        for text in [
            "{}",
            r#"{"type": "string"}"#,
            r#"{"type": "object"}"#,
            r#"{"type": "object", "properties": {}}"#,
        ] {
            assert!(refused(text).contains("\"type\": \"object\""), "{text}");
        }
        assert!(refused("[]").contains("a schema is an object"));
        let member = |text: &str| refused(&format!(r#"{{"type": "object", "properties": {{"a": {text}}}}}"#));
        assert_eq!(member(r#"{"type": "strin"}"#), "#/properties/a: no such type: \"strin\"");
        assert!(member(r#"{"type": 5}"#).contains("type is a string"));
        assert!(member(r##"{"$ref": "#/properties/a"}"##).contains("no loops"));
        assert!(member(r#"{"$ref": "https://example.org/s"}"#).contains("within the schema"));
        let many: Vec<String> = (0..1001).map(|n| format!(r#""m{n}": {{"type": "integer"}}"#)).collect();
        let many = refused(&format!(r#"{{"type": "object", "properties": {{{}}}}}"#, many.join(",")));
        assert_eq!(many, "1001 columns, of at most 1000");
    }
}
