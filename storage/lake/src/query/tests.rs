use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ottla_storage::batch::{LeaderEpoch, Offset, TimestampMs};
use ottla_storage::disk::{Disk, SimulatedDisk};
use ottla_storage::tiering::directory::DirectoryStore;

use super::*;
use crate::catalog::TableName;
use crate::convert::{Converter, Mode, Options, Quarantine};
use crate::file_catalog::FileCatalog;
use crate::record::Record;
use crate::schema::TableSchema;
use crate::table::{Advance, Append, Origin, Partitioning, Table};
use crate::warehouse::Warehouse;

const DAY_MS: i64 = 86_400_000;
const NOON: i64 = 20_000 * DAY_MS + DAY_MS / 2;

fn origin() -> Origin {
    Origin { cluster_id: "cluster".to_owned(), topic_id: "topic".to_owned() }
}

fn table_at() -> TableAt {
    let disk = Disk::simulated(&SimulatedDisk::new());
    disk.create_dir_all(Path::new("/bucket")).unwrap();
    let store = DirectoryStore::open(&disk, Path::new("/bucket"), "1", Arc::new(|work| work())).unwrap();
    let warehouse = Arc::new(Warehouse::new(Arc::new(store), "file:///bucket", ""));
    let catalog = Arc::new(FileCatalog::new(warehouse.clone()));
    let name = TableName { database: "db".to_owned(), table: "stocks".to_owned() };
    TableAt { warehouse, catalog, name }
}

async fn created(at: &TableAt) -> Table {
    at.create(Partitioning::Day, TimestampMs(NOON)).await.unwrap()
}

/// The values as one commit, of partition 0 and all at one time.
async fn append(table: &mut Table, timestamp: i64, values: &[&str]) {
    let options = Options {
        mode: Mode::Infer,
        is_by_day: true,
        zstd_level: 1,
        bytes_max: 1 << 20,
        quarantine: Quarantine::default(),
    };
    let last_id = table.metadata().last_column_id();
    let mut converter = Converter::new(table.schema().unwrap(), last_id, options);
    let first = table.next_offsets(&origin()).unwrap().get(&0).copied();
    let start = first.map_or(0, |offset| offset.0);
    for (offset, value) in (start..).zip(values) {
        let headers: &[(&str, Option<&[u8]>)] = &[("source", Some(b"test"))];
        converter.push(&Record {
            partition: 0,
            offset: Offset(offset),
            timestamp: TimestampMs(timestamp),
            key: None,
            value: Some(value.as_bytes()),
            headers,
        });
    }
    let converted = converter.finish().unwrap();
    let mut files = Vec::new();
    for file in converted.files {
        files.push(table.stage(file, LeaderEpoch(0), TimestampMs(NOON)).await.unwrap());
    }
    let to = Offset(start + values.len() as i64);
    let advance = BTreeMap::from([(0, Advance { from: first, to })]);
    let append = Append { origin: &origin(), advance: &advance, schema: &converted.schema, files: &files };
    table.append(&append, TimestampMs(NOON)).await.unwrap();
}

async fn asked(at: &TableAt, sql: &str) -> Result<Vec<String>, QueryError> {
    let engine = Engine::new("db", vec![at.quarantine(), at.clone()], 64 << 20)?;
    let mut answer = engine.ask(sql).await?;
    let mut lines = Vec::new();
    while let Some(rows) = answer.next().await? {
        for row in rows.cells()? {
            let cells: Vec<String> = row.into_iter().map(|cell| cell.unwrap_or("null".to_owned())).collect();
            lines.push(cells.join(" "));
        }
    }
    Ok(lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_before_and_after_a_new_column_are_counted() {
    let at = table_at();
    let mut table = created(&at).await;
    append(&mut table, NOON, &[r#"{"Index":"HSI","Volume":10}"#, r#"{"Index":"NYA","Volume":20}"#]).await;
    let after = [r#"{"Index":"HSI","Volume":30,"Close":0.5,"Tags":["x"],"Of":{"rank":7}}"#];
    append(&mut table, NOON + DAY_MS, &after).await;
    for (sql, expected) in [
        ("SELECT count(*) FROM stocks", vec!["3"]),
        ("SELECT count(*), count(close), sum(volume) FROM db.stocks", vec!["3 1 60"]),
        (
            "SELECT \"index\", sum(volume) v FROM ottla.db.stocks GROUP BY 1 ORDER BY 1",
            vec!["HSI 40", "NYA 20"],
        ),
        ("SELECT close, volume FROM stocks ORDER BY kafka_offset", vec!["null 10", "null 20", "0.5 30"]),
        ("SELECT volume FROM stocks WHERE close IS NULL ORDER BY 1 DESC", vec!["20", "10"]),
        (
            "SELECT kafka_headers['source'], tags[1], of['rank'] FROM stocks WHERE volume = 30",
            vec!["test x 7"],
        ),
        ("SELECT round(avg(volume), 1) FROM stocks", vec!["20.0"]),
        ("SELECT kafka_timestamp FROM stocks WHERE kafka_offset = 2", vec!["2024-10-05T12:00:00Z"]),
        (
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'db'",
            vec!["stocks", "stocks__quarantine"],
        ),
    ] {
        assert_eq!(asked(&at, sql).await.unwrap(), expected, "{sql}");
    }
    let described = asked(&at, "DESCRIBE stocks").await.unwrap();
    assert!(described.contains(&"volume Int64 YES".to_owned()), "{described:?}");
    assert_eq!(asked(&at, "SHOW TABLES").await.unwrap()[0], "ottla db stocks BASE TABLE");
    let engine = Engine::new("db", vec![at], 64 << 20).unwrap();
    let mut answer =
        engine.ask("SELECT close, of, kafka_timestamp FROM stocks ORDER BY kafka_offset DESC").await.unwrap();
    assert_eq!(answer.columns(), ["close", "of", "kafka_timestamp"]);
    let json = String::from_utf8(answer.next().await.unwrap().unwrap().json_lines().unwrap()).unwrap();
    assert_eq!(
        json.lines().next(),
        Some(r#"{"close":0.5,"of":{"rank":7},"kafka_timestamp":"2024-10-05T12:00:00Z"}"#)
    );
    assert!(json.lines().nth(1).unwrap().starts_with(r#"{"close":null,"#), "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_have_what_is_asked_for_are_not_read() {
    let at = table_at();
    let mut table = created(&at).await;
    for day in 0..4 {
        let row = format!(r#"{{"id":{day},"name":"n{day}"}}"#);
        append(&mut table, NOON + day * DAY_MS, &[&row]).await;
    }
    let store = at.warehouse.store().clone();
    // Of the metadata, whatever the filter is.
    let gets_of = async |sql: &str, rows: &[&str]| {
        let before = store.counts().gets;
        assert_eq!(asked(&at, sql).await.unwrap(), rows, "{sql}");
        store.counts().gets - before
    };
    let none = gets_of("SELECT id FROM stocks WHERE id > 99", &[]).await;
    let one = gets_of("SELECT id FROM stocks WHERE id = 2", &["2"]).await - none;
    assert!(one > 0);
    let all = gets_of("SELECT id FROM stocks ORDER BY id", &["0", "1", "2", "3"]).await - none;
    assert_eq!(all, 4 * one);
    for (filter, rows, files) in [
        ("kafka_timestamp >= '2024-10-06T00:00:00Z'", &["2", "3"][..], 2),
        ("kafka_timestamp < TIMESTAMP '2024-10-05 00:00:00'", &["0"], 1),
        ("name IN ('n1', 'n3')", &["1", "3"], 2),
        ("name = 'n1' AND kafka_timestamp > '2024-10-06'", &[], 0),
        // Nothing is known of it, so that all are read.
        ("id % 2 = 1", &["1", "3"], 4),
    ] {
        let sql = format!("SELECT id FROM stocks WHERE {filter} ORDER BY id");
        assert_eq!(gets_of(&sql, rows).await - none, files * one, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_said_in_a_sentence() {
    let at = table_at();
    let refused = async |sql: &str| asked(&at, sql).await.unwrap_err().to_string();
    assert_eq!(
        refused("SELECT 1 FROM stocks").await,
        "table db.stocks is made with its first row, and has none yet"
    );
    assert_eq!(
        refused("SELECT 1 FROM nope").await,
        "there is no table nope; there are: stocks, stocks__quarantine"
    );
    let mut table = created(&at).await;
    append(&mut table, NOON, &[r#"{"id":1}"#]).await;
    for (sql, part) in [
        ("SELECT nope FROM stocks", "nope"),
        ("SELEC 1", "SELEC"),
        ("DELETE FROM stocks", "DML not supported"),
        ("DROP TABLE stocks", "DDL not supported"),
        ("COPY stocks TO '/tmp/x.csv'", "DML not supported"),
        ("SET datafusion.execution.batch_size = 1", "not supported"),
        ("SELECT 1; SELECT 2", "single SQL statement"),
        ("", ""),
    ] {
        let said = refused(sql).await;
        assert!(said.contains(part) && !said.contains("External"), "{sql}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_has_a_bound() {
    let at = table_at();
    let mut table = created(&at).await;
    let wide = "x".repeat(1000);
    let rows: Vec<String> = (0..500).map(|id| format!(r#"{{"id":{id},"text":"{id}{wide}"}}"#)).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    append(&mut table, NOON, &rows).await;
    let engine = Engine::new("db", vec![at], 64 << 10).unwrap();
    let mut answer = engine.ask("SELECT array_agg(text) FROM stocks GROUP BY id % 2").await.unwrap();
    let said = answer.next().await.err().expect("more than it may hold").to_string();
    assert!(said.contains("Resources exhausted"), "{said}");
}
