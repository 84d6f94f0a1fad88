//! What becomes of records, rule by rule.

use std::collections::BTreeMap;

use iceberg::spec::Datum;
use ottla_lake::convert::{Converted, Converter, Mode, Options, Quarantine};
use ottla_lake::data_file::DataFile;
use ottla_lake::json_schema::JsonSchema;
use ottla_lake::record::Record;
use ottla_lake::schema::{COLUMNS_MAX, ColumnType, Source, TableSchema};
use ottla_storage::batch::{Offset, TimestampMs};

use support::{Cell, read};

mod support;

const DAY_MS: i64 = 86_400_000;

fn options(mode: Mode) -> Options {
    Options { mode, is_by_day: true, zstd_level: 1, bytes_max: 1 << 26, quarantine: Quarantine::default() }
}

fn record(offset: i64, value: Option<&[u8]>) -> Record<'_> {
    Record { partition: 0, offset: Offset(offset), timestamp: TimestampMs(0), key: None, value, headers: &[] }
}

fn convert_in(mode: Mode, schema: TableSchema, values: &[&str]) -> Converted {
    let committed = schema.last_field_id();
    let mut converter = Converter::new(schema, committed, options(mode));
    for (offset, value) in (0..).zip(values) {
        converter.push(&record(offset, Some(value.as_bytes())));
    }
    converter.finish().unwrap()
}

/// Into a new table.
fn convert(values: &[&str]) -> Converted {
    convert_in(Mode::Infer, TableSchema::of_records(), values)
}

fn column(schema: &TableSchema, files: &[DataFile], name: &str) -> Vec<Cell> {
    let at = schema.columns().iter().position(|column| column.name == name);
    let at = at.unwrap_or_else(|| panic!("no column {name} in {:?}", names(schema)));
    files.iter().flat_map(|file| read(file, schema)).map(|row| row[at].clone()).collect()
}

fn of(converted: &Converted, name: &str) -> Vec<Cell> {
    column(&converted.schema, &converted.files, name)
}

fn refused(converted: &Converted, name: &str) -> Vec<Cell> {
    column(&TableSchema::of_quarantine(), &converted.quarantine, name)
}

/// Without Kafka's.
fn names(schema: &TableSchema) -> Vec<&str> {
    let kafka = TableSchema::of_records().columns().len();
    schema.columns()[kafka..].iter().map(|column| column.name.as_str()).collect()
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

fn texts(of: &[&str]) -> Vec<Cell> {
    of.iter().map(|of| text(of)).collect()
}

#[test]
fn a_row_of_a_stock_exchange() {
    let value = r#"{"Index": "HSI", "Date": "1986-12-31", "Open": 2568.300049, "Adj Close": 2568.300049, "Volume": 0.0, "CloseUSD": 333.87900637}"#;
    let converted = convert(&[value]);
    assert_eq!(names(&converted.schema), ["index", "date", "open", "adj_close", "volume", "close_usd"]);
    assert_eq!(of(&converted, "index"), texts(&["HSI"]));
    assert_eq!(of(&converted, "date"), [Cell::Date(6208)]);
    assert_eq!(of(&converted, "adj_close"), [Cell::Double(2568.300049f64.to_bits())]);
    assert_eq!(of(&converted, "volume"), [Cell::Double(0)]);
    assert_eq!(of(&converted, "kafka_partition"), [Cell::Long(0)]);
    assert_eq!(of(&converted, "kafka_timestamp"), [Cell::Timestamp(0)]);
    assert!(converted.quarantine.is_empty());
}

#[test]
fn a_sample_decides_by_the_majority() {
    let mut schema = TableSchema::of_records();
    let sample: [&[u8]; 6] = [
        br#"{"price": 1, "id": "a", "when": "2024-01-01T00:00:00Z", "mixed": 1, "list": [1], "none": null, "empty": {}}"#,
        br#"{"price": 1.5, "id": 7, "when": "2024-01-01T00:00:00Z", "mixed": true, "list": [2.5], "void": []}"#,
        br#"{"price": 2, "id": "b", "when": null, "mixed": 2, "list": [], "deep": {"deep": {"deep": {"deep": {"deep": {"deep": {}}}}}}}"#,
        b"not JSON",
        b"[1]",
        b"\xff",
    ];
    schema.learn(sample);
    assert_eq!(names(&schema), ["price", "id", "when", "mixed", "list", "deep"]);
    let types: Vec<&ColumnType> = schema.columns()[7..].iter().map(|column| &column.column_type).collect();
    assert_eq!(*types[0], ColumnType::Double);
    assert_eq!(*types[1], ColumnType::String);
    assert_eq!(*types[2], ColumnType::Timestamp);
    assert_eq!(*types[3], ColumnType::Long);
    assert!(matches!(types[4], ColumnType::List(element) if element.element_type == ColumnType::Double));
    let mut innermost = types[5];
    let mut structs = 0;
    while let ColumnType::Struct(columns) = innermost {
        structs += 1;
        innermost = &columns[0].column_type;
    }
    assert_eq!((structs, innermost), (5, &ColumnType::String));

    let converted = convert_in(Mode::Infer, schema, &[r#"{"mixed": true, "id": 7}"#]);
    assert_eq!(of(&converted, "mixed_str"), texts(&["true"]));
    assert_eq!(of(&converted, "id"), texts(&["7"]));
}

#[test]
fn numbers_that_no_number_holds_are_text() {
    let values =
        ["1", "9223372036854775808", "1e400", "\"x\"", "0.5", "5.0"].map(|of| format!("{{\"n\": {of}}}"));
    let values = values.each_ref().map(String::as_str);
    // In one file, longs become doubles when the first of those comes.
    let converted = convert(&values);
    assert_eq!(names(&converted.schema), ["n", "n_str"]);
    let double = |of: f64| Cell::Double(of.to_bits());
    let null = || Cell::Null;
    let big = 9223372036854775808.0;
    assert_eq!(of(&converted, "n"), [double(1.0), double(big), null(), null(), double(0.5), double(5.0)]);
    assert_eq!(of(&converted, "n_str"), [null(), null(), text("1e400"), text("x"), null(), null()]);
    // A column that is in files already stays one of longs.
    let converted = convert_in(Mode::Infer, convert(&values[..1]).schema, &values);
    assert_eq!(names(&converted.schema), ["n", "n_double", "n_str"]);
    assert_eq!(of(&converted, "n"), [Cell::Long(1), null(), null(), null(), null(), Cell::Long(5)]);
    assert_eq!(of(&converted, "n_double"), [null(), double(big), null(), null(), double(0.5), null()]);
    assert_eq!(of(&converted, "n_str"), [null(), null(), text("1e400"), text("x"), null(), null()]);
    // Text first, then a real: it still gets a column for numbers.
    let again = convert_in(Mode::Infer, convert(&[values[0], values[3]]).schema, &[values[4], values[3]]);
    assert_eq!(names(&again.schema), ["n", "n_str", "n_double"]);
    let known = TableSchema::from_property(&again.schema.to_property()).unwrap();
    let again = convert_in(Mode::Infer, known, &[values[4], values[3]]);
    assert_eq!(of(&again, "n_double"), [double(0.5), null()]);
    assert_eq!(of(&again, "n_str"), [null(), text("x")]);
}

#[test]
fn what_says_no_type_waits_in_the_extra_column() {
    let converted = convert(&[
        r#"{"a": {}, "b": [], "c": null, "d": [null]}"#,
        r#"{"a": {"x": 1}, "b": [1], "c": 1}"#,
        r#"{"a": {}, "b": [], "c": null}"#,
    ]);
    assert_eq!(names(&converted.schema), ["kafka_extra", "a", "b", "c"]);
    assert_eq!(
        of(&converted, "kafka_extra"),
        [text(r#"{"a":{},"b":[],"d":[null]}"#), Cell::Null, Cell::Null]
    );
    assert_eq!(
        of(&converted, "a"),
        [Cell::Null, Cell::Struct(vec![Cell::Long(1)]), Cell::Struct(vec![Cell::Null])]
    );
    assert_eq!(of(&converted, "b"), [Cell::Null, Cell::List(vec![Cell::Long(1)]), Cell::List(vec![])]);
}

#[test]
fn clashes_within_structs_and_lists_stay_within() {
    let converted = convert(&[
        r#"{"s": {"a": 1}, "l": [{"a": 1}, {"b": true}]}"#,
        r#"{"s": {"a": "x", "c": 2}, "l": [{"a": "y"}, null, {}]}"#,
        r#"{"s": 5, "l": [1]}"#,
        r#"{"s": "2024-01-01", "l": {"k": [1, "a"]}}"#,
    ]);
    assert_eq!(names(&converted.schema), ["s", "l", "s_str", "l_str"]);
    let null = || Cell::Null;
    assert_eq!(
        of(&converted, "s"),
        [
            Cell::Struct(vec![Cell::Long(1), null(), null()]),
            Cell::Struct(vec![null(), text("x"), Cell::Long(2)]),
            null(),
            null()
        ]
    );
    assert_eq!(of(&converted, "s_str"), [null(), null(), text("5"), text("2024-01-01")]);
    let element = |cells: [Cell; 3]| Cell::Struct(cells.to_vec());
    assert_eq!(
        of(&converted, "l"),
        [
            Cell::List(vec![
                element([Cell::Long(1), null(), null()]),
                element([null(), Cell::Boolean(true), null()])
            ]),
            Cell::List(vec![element([null(), null(), text("y")]), null(), element([null(), null(), null()])]),
            null(),
            null()
        ]
    );
    assert_eq!(of(&converted, "l_str"), [null(), null(), text("[1]"), text(r#"{"k": [1, "a"]}"#)]);
}

#[test]
fn a_thousand_columns_and_then_the_extra_one() {
    let members: Vec<String> = (0..1500).map(|n| format!("\"m{n}\": {n}")).collect();
    let value = format!("{{{}}}", members.join(","));
    let nested = r#"{"m0": 1, "o": {"p": 1}, "m1": "text", "m1400": 5}"#;
    let converted = convert(&[&value, nested]);
    let leaves: usize = converted.schema.columns().iter().map(|column| leaves(&column.column_type)).sum();
    assert_eq!(leaves, COLUMNS_MAX + 1);
    let extra = of(&converted, "kafka_extra");
    let Cell::Text(first) = &extra[0] else { panic!("{extra:?}") };
    let first: serde_json::Map<String, serde_json::Value> = serde_json::from_str(first).unwrap();
    let in_columns = names(&converted.schema).iter().filter(|name| name.starts_with('m')).count();
    assert_eq!(first.len() + in_columns, 1500);
    assert_eq!(first["m1499"], 1499);
    assert_eq!(extra[1], text(r#"{"o":{"p": 1},"m1":"text","m1400":5}"#));
    assert_eq!(of(&converted, "m0")[1], Cell::Long(1));
    converted.schema.to_iceberg().unwrap();
}

fn leaves(column_type: &ColumnType) -> usize {
    match column_type {
        ColumnType::Struct(columns) => columns.iter().map(|column| leaves(&column.column_type)).sum(),
        ColumnType::List(element) => leaves(&element.element_type),
        ColumnType::Map { .. } => 2,
        _ => 1,
    }
}

#[test]
fn what_is_no_object_is_kept_with_its_reason() {
    let values: [&[u8]; 9] = [
        b"",
        b"nope",
        b"{\"a\": NaN}",
        b"[1]",
        b"5",
        b"{\"a\": 1, \"a\": 2}",
        b"{\"s\": {\"b\": 1, \"b\": {}}}",
        b"\xff{}",
        b"{\"a\": \"\\ud800\"}",
    ];
    let mut converter = Converter::new(TableSchema::of_records(), 0, options(Mode::Infer));
    converter.push(&record(0, Some(br#"{"a": 7, "s": {"b": 0}, "l": [1]}"#)));
    for (offset, value) in (1..).zip(values) {
        converter.push(&record(offset, Some(value)));
    }
    let deep = "[".repeat(100_000);
    converter.push(&record(10, Some(deep.as_bytes())));
    converter.push(&record(11, Some(br#"{"a": 8, "s": {"b": 1}, "l": []}"#)));
    assert_eq!((converter.rows(), converter.quarantined()), (2, 10));
    let converted = converter.finish().unwrap();
    assert_eq!(of(&converted, "a"), [Cell::Long(7), Cell::Long(8)]);
    assert_eq!(of(&converted, "s"), [0, 1].map(|b| Cell::Struct(vec![Cell::Long(b)])));
    let offsets: Vec<Cell> = (1..=10).map(Cell::Long).collect();
    assert_eq!(refused(&converted, "kafka_offset"), offsets);
    assert_eq!(
        refused(&converted, "reason"),
        texts(&[
            "not JSON: a value expected at byte 0",
            "not JSON: a value expected at byte 0",
            "not JSON: a value expected at byte 6",
            "JSON, but an array and not an object",
            "JSON, but a number and not an object",
            "member \"a\" twice in one object",
            "member \"b\" twice in one object",
            "not UTF-8 from byte 0 on",
            "half a surrogate pair at byte 7, which is no character",
            "nested deeper than 127",
        ])
    );
    let kept = refused(&converted, "value");
    assert_eq!(kept[5], text("{\"a\": 1, \"a\": 2}"));
    assert_eq!(kept[7], Cell::Null);
    assert_eq!(refused(&converted, "value_raw")[7], Cell::Bytes(b"\xff{}".to_vec()));
    assert_eq!(kept[9], text(&deep));
}

#[test]
fn what_the_quarantine_has_already_is_not_written_again() {
    let quarantine = Quarantine { next: BTreeMap::from([(0, Offset(2))]), ..Quarantine::default() };
    let mut converter =
        Converter::new(TableSchema::of_records(), 0, Options { quarantine, ..options(Mode::Infer) });
    for partition in [0, 1] {
        for offset in [1, 2] {
            converter.push(&Record { partition, ..record(offset, Some(b"nope")) });
        }
    }
    let places: Vec<Cell> = refused(&converter.finish().unwrap(), "kafka_partition");
    assert_eq!(places, [0, 1, 1].map(Cell::Long));
}

/// It may have been made when columns were numbered otherwise, or others have columns in it.
#[test]
fn a_quarantine_that_is_there_keeps_its_ids() {
    let mut kept: serde_json::Value =
        serde_json::from_str(&TableSchema::of_quarantine().to_property()).unwrap();
    let columns = kept["columns"].as_array_mut().unwrap();
    let at = |name: &str| columns.iter().position(|column| column["name"] == name).unwrap();
    let (reason, value) = (at("reason"), at("value"));
    let (id_of_reason, id_of_value) = (columns[reason]["id"].clone(), columns[value]["id"].clone());
    columns[reason]["id"] = id_of_value.clone();
    columns[value]["id"] = id_of_reason;
    let schema = TableSchema::from_property(&kept.to_string()).unwrap().for_quarantine();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&schema.to_property()).unwrap(), kept);
    let quarantine = Quarantine { schema, ..Quarantine::default() };
    let mut converter =
        Converter::new(TableSchema::of_records(), 0, Options { quarantine, ..options(Mode::Infer) });
    converter.push(&record(0, Some(b"nope")));
    converter.push(&record(1, None));
    converter.push(&record(2, Some(b"\xff")));
    let refused = converter.finish().unwrap().quarantine;
    let nulls = &refused[0].metrics.null_value_counts;
    let id = id_of_value.as_i64().unwrap() as i32;
    assert_eq!((refused[0].rows, nulls[&id]), (2, 0), "each has a reason");
}

#[test]
fn tombstones_keys_headers_and_timestamps() {
    let mut converter = Converter::new(TableSchema::of_records(), 0, options(Mode::Infer));
    converter.push(&record(0, Some(br#"{"a": 1}"#)));
    converter.push(&Record { key: Some(b"k"), timestamp: TimestampMs(-1), ..record(1, None) });
    let headers: &[(&str, Option<&[u8]>)] = &[("a", Some(b"1")), ("b", None)];
    converter.push(&Record {
        key: Some(b"\xff"),
        timestamp: TimestampMs(DAY_MS),
        headers,
        ..record(2, None)
    });
    let twice: &[(&str, Option<&[u8]>)] = &[("a", Some(b"1")), ("a", Some(b"\xff")), ("c", None)];
    converter.push(&Record { headers: twice, timestamp: TimestampMs(-DAY_MS), ..record(3, None) });
    converter.push(&Record { timestamp: TimestampMs(i64::MAX), ..record(4, Some(b"{}")) });
    let converted = converter.finish().unwrap();
    let days: Vec<Option<i32>> = converted.files.iter().map(|file| file.day).collect();
    assert_eq!(days, [Some(0), None, Some(1), Some(-1)]);
    assert_eq!(of(&converted, "a"), [Cell::Long(1), Cell::Null, Cell::Null, Cell::Null]);
    assert_eq!(of(&converted, "kafka_key"), [Cell::Null, text("k"), Cell::Null, Cell::Null]);
    assert_eq!(of(&converted, "kafka_key_raw")[2], Cell::Bytes(vec![0xff]));
    assert_eq!(of(&converted, "kafka_timestamp")[1], Cell::Null);
    let map = Cell::Map(vec![("a".to_owned(), text("1")), ("b".to_owned(), Cell::Null)]);
    assert_eq!(of(&converted, "kafka_headers"), [Cell::Null, Cell::Null, map, Cell::Null]);
    let entry = |name: &str, value: Cell| Cell::Struct(vec![text(name), value]);
    let list = Cell::List(vec![
        entry("a", Cell::Bytes(b"1".to_vec())),
        entry("a", Cell::Bytes(vec![0xff])),
        entry("c", Cell::Null),
    ]);
    assert_eq!(of(&converted, "kafka_headers_raw")[3], list);
    assert_eq!(
        refused(&converted, "reason"),
        texts(&["its timestamp, 9223372036854775807 ms, lies outside of the years 1 to 9999"])
    );
}

#[test]
fn a_commit_has_few_days() {
    let mut converter = Converter::new(TableSchema::of_records(), 0, options(Mode::Infer));
    let mut pushed = 0;
    while !converter.is_full() {
        converter.push(&Record { timestamp: TimestampMs(pushed * DAY_MS), ..record(pushed, Some(b"{}")) });
        pushed += 1;
    }
    assert_eq!(converter.finish().unwrap().files.len() as i64, pushed);
    assert!(pushed <= 64);
}

#[test]
fn sparse_columns_count_as_memory() {
    let mut converter = Converter::new(TableSchema::of_records(), 0, options(Mode::Infer));
    let members: Vec<String> = (0..900).map(|n| format!("\"m{n}\": {n}")).collect();
    converter.push(&record(0, Some(format!("{{{}}}", members.join(",")).as_bytes())));
    let before = converter.bytes();
    converter.push(&record(1, Some(b"{}")));
    assert!(converter.bytes() - before > 900 * 8);
}

#[test]
fn a_fixed_schema_gets_no_columns() {
    let mut schema = TableSchema::of_records();
    let json_schema = r#"{"type": "object", "properties": {"a": {"type": "integer"}, "s": {"type": "object", "properties": {"b": {"type": "boolean"}}}}}"#;
    JsonSchema::parse(json_schema).unwrap().add_to(&mut schema);
    let converted = convert_in(
        Mode::Fixed,
        schema,
        &[r#"{"a": 1, "s": {"b": true}}"#, r#"{"a": 1.5, "s": {"b": false, "c": 1}, "d": "x"}"#, "[]"],
    );
    assert_eq!(names(&converted.schema), ["a", "s", "kafka_extra"]);
    assert_eq!(of(&converted, "a"), [Cell::Long(1), Cell::Null]);
    assert_eq!(of(&converted, "s"), [true, false].map(|b| Cell::Struct(vec![Cell::Boolean(b)])));
    let extra = r#"{"a":1.5,"s":{"b": false, "c": 1},"d":"x"}"#;
    assert_eq!(of(&converted, "kafka_extra"), [Cell::Null, text(extra)]);
    assert_eq!(refused(&converted, "value"), texts(&["[]"]));
}

#[test]
fn raw_values_are_columns() {
    let mut converter = Converter::new(TableSchema::of_records(), 0, options(Mode::Raw));
    for (offset, value) in (0..).zip([&b"{\"a\": 1}"[..], b"plain", b"\xff\x00", b""]) {
        converter.push(&record(offset, Some(value)));
    }
    converter.push(&record(4, None));
    let converted = converter.finish().unwrap();
    assert!(converted.quarantine.is_empty());
    assert_eq!(names(&converted.schema), ["value", "value_raw"]);
    assert_eq!(
        of(&converted, "value"),
        [text("{\"a\": 1}"), text("plain"), Cell::Null, text(""), Cell::Null]
    );
    assert_eq!(of(&converted, "value_raw")[2], Cell::Bytes(vec![0xff, 0]));
}

#[test]
fn a_file_says_what_is_in_it() {
    let mut converter = Converter::new(TableSchema::of_records(), 0, options(Mode::Infer));
    for (partition, offset, value) in
        [(1, 5, "{\"n\": -3, \"s\": \"b\"}"), (1, 7, "{\"n\": 4}"), (0, 9, "{\"n\": 0, \"s\": \"a\"}")]
    {
        converter.push(&Record { partition, ..record(offset, Some(value.as_bytes())) });
    }
    let converted = converter.finish().unwrap();
    let [file] = &converted.files[..] else { panic!("one day, one file") };
    let ranges: Vec<_> = file
        .ranges
        .iter()
        .map(|range| (range.partition, range.first_offset.0, range.last_offset.0))
        .collect();
    assert_eq!(ranges, [(0, 9, 9), (1, 5, 7)]);
    assert_eq!((file.rows, file.day), (3, Some(0)));
    let id = |name: &str| converted.schema.columns().iter().find(|column| column.name == name).unwrap().id;
    let metrics = &file.metrics;
    assert_eq!(metrics.lower_bounds[&id("n")], Datum::long(-3));
    assert_eq!(metrics.upper_bounds[&id("n")], Datum::long(4));
    assert_eq!(metrics.lower_bounds[&id("s")], Datum::string("a"));
    assert_eq!(metrics.null_value_counts[&id("s")], 1);
    assert_eq!(metrics.value_counts[&id("s")], 3);
    assert_eq!(metrics.lower_bounds[&id("kafka_offset")], Datum::long(5));
    assert_eq!(metrics.lower_bounds[&id("kafka_timestamp")], Datum::timestamptz_micros(0));
    assert_eq!(metrics.split_offsets.len(), 1);
    let columns: u64 = metrics.column_sizes.values().sum();
    assert!(columns > 0 && columns < file.bytes.len() as u64);
}

#[test]
fn columns_of_others_are_left_alone() {
    let mut schema = TableSchema::of_records();
    let mut foreign = schema.clone();
    foreign.learn([&br#"{"theirs": 1, "nested": {"inner": 2}}"#[..]]);
    schema.keep_clear_of(&foreign.to_iceberg().unwrap(), foreign.last_field_id() + 3);
    let converted = convert_in(Mode::Infer, schema, &[r#"{"theirs": "x", "nested": 1, "inner": true}"#]);
    assert_eq!(names(&converted.schema), ["theirs_2", "nested_2", "inner_2"]);
    let own = converted.schema.columns().iter().filter(|column| matches!(column.source, Source::Member(_)));
    assert!(own.map(|column| column.id).all(|id| id > foreign.last_field_id() + 3));
}

#[test]
fn a_damaged_description_is_refused() {
    let good = convert(&[r#"{"a": 1, "s": {"b": [1]}}"#]).schema.to_property();
    assert!(TableSchema::from_property(&good).is_ok());
    let last = TableSchema::from_property(&good).unwrap().last_field_id();
    let damages = [
        ("\"version\":1", "\"version\":2".to_owned()),
        ("\"name\":\"a\"", "\"name\":\"kafka_offset\"".to_owned()),
        ("\"source\":\"offset\"", "\"source\":\"reason\"".to_owned()),
        (&format!("\"last_field_id\":{last}"), "\"last_field_id\":5".to_owned()),
    ];
    for (from, to) in damages {
        let damaged = good.replace(from, &to);
        assert_ne!(damaged, good);
        assert!(TableSchema::from_property(&damaged).is_err(), "{from} to {to}");
    }
    assert!(TableSchema::from_property(&good[..good.len() - 1]).is_err());
}
