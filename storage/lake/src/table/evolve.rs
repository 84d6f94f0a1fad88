//! The columns of a table's next state: what the table has, whoever made it so, and behind it the columns that are new in ours.
//! Others may have added columns, renamed ours or made their types wider; files name columns by id, so all of that stays.

use std::collections::HashSet;
use std::sync::Arc;

use iceberg::spec::{ListType, NestedField, NestedFieldRef, Schema, StructType, TableMetadata, Type};

use crate::schema::{Column, ColumnType, TableSchema};

pub enum Evolution {
    /// Ours are those that the table has.
    None,
    Grown(Box<Schema>),
    /// Ours do not follow from the table's as they are now.
    Diverged,
}

/// `kept`: what the table says of our columns, `wanted`: ours of now.
pub fn evolve(
    kept: &TableSchema,
    wanted: &TableSchema,
    metadata: &TableMetadata,
) -> Result<Evolution, iceberg::Error> {
    let table = metadata.current_schema();
    if kept.columns() == wanted.columns() {
        return Ok(Evolution::None);
    }
    if !extends(wanted.columns(), kept.columns()) {
        return Ok(Evolution::Diverged);
    }
    let mut known = HashSet::new();
    collect_ids(kept.columns(), &mut known);
    let mut added = HashSet::new();
    collect_ids(wanted.columns(), &mut added);
    added.retain(|id| !known.contains(id));
    // Somebody else has given these ids to other columns meanwhile, perhaps dropped again.
    if added.iter().any(|id| *id <= metadata.last_column_id()) {
        return Ok(Evolution::Diverged);
    }
    let ours = match wanted.to_iceberg() {
        Ok(schema) => schema,
        Err(crate::schema::SchemaError::Iceberg(error)) => return Err(error),
        Err(error) => return Err(iceberg::Error::new(iceberg::ErrorKind::DataInvalid, error.to_string())),
    };
    let fields = merged(table.as_struct().fields(), ours.as_struct().fields(), &added);
    // It has columns that no schema of the table ever had, so it is none of them.
    let schema_id = metadata.schemas_iter().map(|schema| schema.schema_id()).max().unwrap_or(0) + 1;
    let grown = Schema::builder()
        .with_schema_id(schema_id)
        .with_fields(fields)
        .with_identifier_field_ids(table.identifier_field_ids())
        .build()?;
    Ok(Evolution::Grown(Box::new(grown)))
}

/// Whether all of `older` is there unchanged, at any depth.
fn extends(columns: &[Column], older: &[Column]) -> bool {
    older.iter().all(|older| {
        columns.iter().find(|column| column.id == older.id).is_some_and(|column| {
            column.name == older.name
                && column.source == older.source
                && type_extends(&column.column_type, &older.column_type)
        })
    })
}

fn type_extends(column_type: &ColumnType, older: &ColumnType) -> bool {
    match (column_type, older) {
        (ColumnType::Struct(columns), ColumnType::Struct(older)) => extends(columns, older),
        (ColumnType::List(element), ColumnType::List(older)) => {
            element.id == older.id && type_extends(&element.element_type, &older.element_type)
        }
        (column_type, older) => column_type == older,
    }
}

fn collect_ids(columns: &[Column], ids: &mut HashSet<i32>) {
    for column in columns {
        ids.insert(column.id);
        collect_type_ids(&column.column_type, ids);
    }
}

fn collect_type_ids(column_type: &ColumnType, ids: &mut HashSet<i32>) {
    match column_type {
        ColumnType::Struct(columns) => collect_ids(columns, ids),
        ColumnType::List(element) => {
            ids.insert(element.id);
            collect_type_ids(&element.element_type, ids);
        }
        ColumnType::Map { key_id, value_id } => ids.extend([*key_id, *value_id]),
        ColumnType::Boolean
        | ColumnType::Int
        | ColumnType::Long
        | ColumnType::Double
        | ColumnType::Date
        | ColumnType::Timestamp
        | ColumnType::String
        | ColumnType::Binary => {}
    }
}

/// The fields of `table`, with those of `ours` that are in `added` behind them, at any depth. A field of ours that was
/// dropped from the table stays dropped.
fn merged(table: &[NestedFieldRef], ours: &[NestedFieldRef], added: &HashSet<i32>) -> Vec<NestedFieldRef> {
    let kept = table.iter().map(|field| match ours.iter().find(|ours| ours.id == field.id) {
        Some(ours) => Arc::new(NestedField {
            field_type: Box::new(merged_type(&field.field_type, &ours.field_type, added)),
            ..(**field).clone()
        }),
        None => field.clone(),
    });
    kept.chain(ours.iter().filter(|ours| added.contains(&ours.id)).cloned()).collect()
}

fn merged_type(table: &Type, ours: &Type, added: &HashSet<i32>) -> Type {
    match (table, ours) {
        (Type::Struct(table), Type::Struct(ours)) => {
            Type::Struct(StructType::new(merged(table.fields(), ours.fields(), added)))
        }
        (Type::List(table), Type::List(ours)) => {
            let element = NestedField {
                field_type: Box::new(merged_type(
                    &table.element_field.field_type,
                    &ours.element_field.field_type,
                    added,
                )),
                ..(*table.element_field).clone()
            };
            Type::List(ListType::new(Arc::new(element)))
        }
        (table, _) => table.clone(),
    }
}
