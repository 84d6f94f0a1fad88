//! Columns as Hive and Glue describe them. Only catalogs and people read this; engines read the metadata.

use iceberg::spec::{NestedField, PrimitiveType, Schema, Type};

use crate::catalog::HiveColumn;

pub fn columns(schema: &Schema) -> Vec<HiveColumn> {
    let fields = schema.as_struct().fields().iter();
    fields
        .map(|field| HiveColumn {
            name: field.name.clone(),
            hive_type: hive_type(&field.field_type),
            field_id: field.id,
            is_optional: !field.required,
        })
        .collect()
}

fn hive_type(iceberg: &Type) -> String {
    let member = |field: &NestedField| format!("{}:{}", field.name, hive_type(&field.field_type));
    match iceberg {
        Type::Primitive(primitive) => of_primitive(primitive),
        Type::Struct(of) => {
            let members: Vec<String> = of.fields().iter().map(|field| member(field)).collect();
            format!("struct<{}>", members.join(","))
        }
        Type::List(list) => format!("array<{}>", hive_type(&list.element_field.field_type)),
        Type::Map(map) => {
            format!(
                "map<{},{}>",
                hive_type(&map.key_field.field_type),
                hive_type(&map.value_field.field_type)
            )
        }
    }
}

fn of_primitive(primitive: &PrimitiveType) -> String {
    let name = match primitive {
        PrimitiveType::Boolean => "boolean",
        PrimitiveType::Int => "int",
        PrimitiveType::Long => "bigint",
        PrimitiveType::Float => "float",
        PrimitiveType::Double => "double",
        PrimitiveType::Decimal { precision, scale } => return format!("decimal({precision},{scale})"),
        PrimitiveType::Date => "date",
        PrimitiveType::Timestamp
        | PrimitiveType::Timestamptz
        | PrimitiveType::TimestampNs
        | PrimitiveType::TimestamptzNs => "timestamp",
        PrimitiveType::Time | PrimitiveType::String | PrimitiveType::Uuid => "string",
        PrimitiveType::Fixed(_) | PrimitiveType::Binary => "binary",
    };
    name.to_owned()
}
