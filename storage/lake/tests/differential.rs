//! Any records become Parquet, are read back, and are what a slow and obvious implementation says: each value of each record is in
//! the first column of its member that can hold it, and nowhere else, or, where there is none, in `kafka_extra`.

use std::collections::HashSet;

use ottla_lake::convert::{Converter, Mode, Options, Quarantine};
use ottla_lake::data_file::DataFile;
use ottla_lake::record::Record;
use ottla_lake::schema::{Column, ColumnType, DEPTH_MAX, Source, TableSchema};
use ottla_storage::batch::{Offset, TimestampMs};
use proptest::prelude::*;

use support::{Cell, read};

mod support;

/// JSON as a person would write it down, numbers as text.
#[derive(Debug, Clone, PartialEq)]
enum Json {
    Null,
    Boolean(bool),
    Number(String),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn text(&self) -> String {
        let joined = |parts: Vec<String>| parts.join(", ");
        match self {
            Json::Null => "null".to_owned(),
            Json::Boolean(boolean) => boolean.to_string(),
            Json::Number(text) => text.clone(),
            Json::String(string) => serde_json::to_string(string).unwrap(),
            Json::Array(elements) => format!("[{}]", joined(elements.iter().map(Json::text).collect())),
            Json::Object(members) => {
                let member = |(name, value): &(String, Json)| {
                    format!("{}: {}", serde_json::to_string(name).unwrap(), value.text())
                };
                format!("{{{}}}", joined(members.iter().map(member).collect()))
            }
        }
    }

    /// What a column of text has of it.
    fn as_text(&self) -> String {
        match self {
            Json::String(string) => string.clone(),
            other => other.text(),
        }
    }

    /// Says something about its type. What doesn't, waits in `kafka_extra` until something does; that has tests of its own.
    fn is_typed(&self) -> bool {
        match self {
            Json::Null => false,
            Json::Array(elements) => elements.iter().any(Json::is_typed),
            Json::Object(members) => members.iter().any(|(_, value)| value.is_typed()),
            _ => true,
        }
    }

    fn without_untyped(self) -> Json {
        match self {
            Json::Array(elements) => Json::Array(elements.into_iter().map(Json::without_untyped).collect()),
            Json::Object(members) => {
                let members = members.into_iter().map(|(name, value)| (name, value.without_untyped()));
                Json::Object(members.filter(|(_, value)| *value == Json::Null || value.is_typed()).collect())
            }
            scalar => scalar,
        }
    }
}

/// What a column holds of a value; None if it can't without loss. The flag says that something within found no column.
fn held(column_type: &ColumnType, value: &Json) -> Option<(Cell, bool)> {
    let scalar = match (column_type, value) {
        (ColumnType::Boolean, Json::Boolean(boolean)) => Cell::Boolean(*boolean),
        (ColumnType::Long, Json::Number(text)) => match text.parse::<i64>() {
            Ok(long) => Cell::Long(long),
            Err(_) if text.contains(['.', 'e', 'E']) => {
                let real: f64 = text.parse().unwrap();
                let is_exact =
                    real.trunc() == real && real.abs() < 2f64.powi(53) && real.to_bits() != (-0f64).to_bits();
                if !is_exact || is_underflow(text) {
                    return None;
                }
                Cell::Long(real as i64)
            }
            Err(_) => return None,
        },
        (ColumnType::Double, Json::Number(text)) => {
            let real: f64 = text.parse().unwrap();
            let is_integer = !text.contains(['.', 'e', 'E']);
            let is_lost = is_integer && text != "-0" && format!("{real:.0}") != *text;
            if real.is_infinite() || is_lost || is_underflow(text) {
                return None;
            }
            Cell::Double(if text == "-0" { 0 } else { real.to_bits() })
        }
        (ColumnType::Date, Json::String(text)) => match text.as_str() {
            "2024-02-29" => Cell::Date(19_782),
            "1969-12-31" => Cell::Date(-1),
            _ => return None,
        },
        (ColumnType::Timestamp, Json::String(text)) => match text.as_str() {
            "1970-01-01T01:00:00.25+01:00" => Cell::Timestamp(250_000),
            "1969-12-31T23:59:59Z" => Cell::Timestamp(-1_000_000),
            _ => return None,
        },
        (ColumnType::String, value) => Cell::Text(value.as_text()),
        (ColumnType::Struct(columns), Json::Object(members)) => {
            let (cells, unplaced) = held_members(columns, members);
            return Some((Cell::Struct(cells), !unplaced.is_empty()));
        }
        (ColumnType::List(element), Json::Array(elements)) => {
            let mut is_unplaced = false;
            let mut cells = Vec::new();
            for value in elements {
                let (cell, flag) = match value {
                    Json::Null => (Cell::Null, false),
                    value => held(&element.element_type, value)?,
                };
                is_unplaced |= flag;
                cells.push(cell);
            }
            return Some((Cell::List(cells), is_unplaced));
        }
        _ => return None,
    };
    Some((scalar, false))
}

fn is_underflow(text: &str) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap();
    text.parse::<f64>().unwrap() == 0.0 && mantissa.contains(|digit| ('1'..='9').contains(&digit))
}

/// The cells of the columns, and which members found no place.
fn held_members(columns: &[Column], members: &[(String, Json)]) -> (Vec<Cell>, Vec<(String, Json)>) {
    let mut cells = vec![Cell::Null; columns.len()];
    let mut unplaced = Vec::new();
    for (name, value) in members.iter().filter(|(_, value)| *value != Json::Null) {
        let mut of_member: Vec<usize> =
            (0..columns.len()).filter(|at| columns[*at].source == Source::Member(name.clone())).collect();
        // Of several, the one for any text is the last.
        if of_member.len() > 1 {
            of_member.sort_by_key(|at| columns[*at].column_type == ColumnType::String);
        }
        let place = of_member.iter().find_map(|at| Some((*at, held(&columns[*at].column_type, value)?)));
        match place {
            Some((at, (cell, is_unplaced))) => {
                cells[at] = cell;
                if is_unplaced {
                    unplaced.push((name.clone(), value.clone()));
                }
            }
            None => unplaced.push((name.clone(), value.clone())),
        }
    }
    (cells, unplaced)
}

fn depth_of(column_type: &ColumnType) -> usize {
    match column_type {
        ColumnType::Struct(columns) => {
            1 + columns.iter().map(|of| depth_of(&of.column_type)).max().unwrap_or(0)
        }
        ColumnType::List(element) => 1 + depth_of(&element.element_type),
        _ => 0,
    }
}

fn json() -> impl Strategy<Value = Json> {
    let number = prop_oneof![
        any::<i64>().prop_map(|long| long.to_string()),
        (-9i64..9).prop_map(|long| long.to_string()),
        any::<f64>()
            .prop_filter("JSON has finite numbers", |real| real.is_finite())
            .prop_map(|real| serde_json::to_string(&real).unwrap()),
        (-99i32..99).prop_map(|tenths| format!("{:.1}", f64::from(tenths) / 10.0)),
        prop::sample::select(vec![
            "18446744073709551616",
            "9223372036854775808",
            "9007199254740993",
            "100000000000000000000",
            "1e400",
            "-1E+400",
            "1e-400",
            "0e9",
            "-0",
            "-0.0",
            "5.0",
            "1e2",
        ])
        .prop_map(str::to_owned),
    ];
    let string = prop_oneof![
        any::<String>(),
        prop::sample::select(vec![
            "2024-02-29",
            "1969-12-31",
            "1970-01-01T01:00:00.25+01:00",
            "1969-12-31T23:59:59Z",
            "N/A"
        ])
        .prop_map(str::to_owned),
    ];
    let leaf = prop_oneof![
        1 => Just(Json::Null),
        1 => any::<bool>().prop_map(Json::Boolean),
        4 => number.prop_map(Json::Number),
        2 => string.prop_map(Json::String),
    ];
    leaf.prop_recursive(7, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            members(inner).prop_map(Json::Object)
        ]
    })
}

/// Few names, so that values of all kinds meet in one column; some that become the same column name.
fn members(value: impl Strategy<Value = Json>) -> impl Strategy<Value = Vec<(String, Json)>> {
    let name = prop::sample::select(vec!["a", "A", "b", "a_str", "a b", "kafka offset", "é\n", ""]);
    prop::collection::vec((name.prop_map(str::to_owned), value), 0..6).prop_map(|mut members| {
        let mut seen = HashSet::new();
        members.retain(|(name, _)| seen.insert(name.clone()));
        members
    })
}

fn options() -> Options {
    Options {
        mode: Mode::Infer,
        is_by_day: true,
        zstd_level: 1,
        bytes_max: 1 << 26,
        quarantine: Quarantine::default(),
    }
}

fn convert(
    schema: TableSchema,
    committed: i32,
    texts: &[String],
    first_offset: i64,
) -> (TableSchema, Vec<DataFile>, Vec<DataFile>) {
    let mut converter = Converter::new(schema, committed, options());
    for (offset, text) in (first_offset..).zip(texts) {
        converter.push(&Record {
            partition: 3,
            offset: Offset(offset),
            timestamp: TimestampMs(86_400_000 * (offset % 3)),
            key: None,
            value: Some(text.as_bytes()),
            headers: &[],
        });
    }
    let converted = converter.finish().unwrap();
    (converted.schema, converted.files, converted.quarantine)
}

fn check(
    schema: &TableSchema,
    files: &[DataFile],
    quarantine: &[DataFile],
    records: &[Json],
    first_offset: i64,
) {
    let at =
        |schema: &TableSchema, name: &str| schema.columns().iter().position(|column| column.name == name);
    let offset_at = at(schema, "kafka_offset").unwrap();
    let mut rows: Vec<Vec<Cell>> = files.iter().flat_map(|file| read(file, schema)).collect();
    rows.sort_by_key(|row| match row[offset_at] {
        Cell::Long(offset) => offset,
        _ => panic!("no offset"),
    });
    let mut rows = rows.into_iter();
    for (offset, record) in (first_offset..).zip(records) {
        let Json::Object(members) = record else { panic!("records are objects here") };
        let row = rows.next().unwrap();
        let (mut expected, unplaced) = held_members(schema.columns(), members);
        expected[at(schema, "kafka_partition").unwrap()] = Cell::Long(3);
        expected[offset_at] = Cell::Long(offset);
        expected[at(schema, "kafka_timestamp").unwrap()] = Cell::Timestamp(86_400_000_000 * (offset % 3));
        if !unplaced.is_empty() {
            let extra = schema.columns().iter().position(|column| column.source == Source::Extra).unwrap();
            let Cell::Text(text) = &row[extra] else { panic!("no extra for {unplaced:?}") };
            let joined: Vec<String> = unplaced
                .iter()
                .map(|(name, value)| format!("{}:{}", serde_json::to_string(name).unwrap(), value.text()))
                .collect();
            assert_eq!(*text, format!("{{{}}}", joined.join(",")));
            expected[extra] = Cell::Text(text.clone());
        }
        assert_eq!(row, expected, "{} in {:?}", record.text(), schema.columns());
    }
    assert_eq!(rows.next(), None);
    assert!(quarantine.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn rows_are_what_the_obvious_implementation_says(
        records in prop::collection::vec(members(json()).prop_map(|members| Json::Object(members).without_untyped()), 1..30),
        more in prop::collection::vec(members(json()).prop_map(|members| Json::Object(members).without_untyped()), 0..30),
        sample in 0usize..30,
    ) {
        let texts: Vec<String> = records.iter().map(Json::text).collect();
        let mut schema = TableSchema::of_records();
        schema.learn(texts.iter().take(sample).map(|text| text.as_bytes()));
        let (schema, files, quarantine) = convert(schema, 0, &texts, 0);
        check(&schema, &files, &quarantine, &records, 0);

        // The table goes on from its property, with the types that it has by now.
        let known = TableSchema::from_property(&schema.to_property()).unwrap();
        prop_assert_eq!(&known, &schema);
        let texts: Vec<String> = more.iter().map(Json::text).collect();
        let (grown, files, quarantine) = convert(known, schema.last_field_id(), &texts, 1000);
        check(&grown, &files, &quarantine, &more, 1000);
        prop_assert_eq!(&grown.columns()[..schema.columns().len()].iter().map(|c| (c.id, &c.name)).collect::<Vec<_>>(),
            &schema.columns().iter().map(|c| (c.id, &c.name)).collect::<Vec<_>>());
        for column in grown.columns().iter().filter(|column| matches!(column.source, Source::Member(_))) {
            prop_assert!(depth_of(&column.column_type) <= DEPTH_MAX);
        }
        grown.to_iceberg().unwrap();
    }
}
