//! Compaction, retention and sweeping, on real Parquet.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use futures::executor::block_on;
use ottla_storage::batch::{LeaderEpoch, Offset, TimestampMs};
use ottla_storage::disk::{Disk, SimulatedDisk};
use ottla_storage::tiering::store::ObjectStore;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::support::*;
use crate::catalog::TableName;
use crate::convert::{Converter, Mode, Options, Quarantine};
use crate::record::Record;
use crate::table::{Advance, Append, Limits, Maintained, Partitioning, Scratch, Table, TableAt, TableError};

const DAY_MS: i64 = 86_400_000;

fn scratch() -> Scratch {
    Scratch::new(Disk::simulated(&SimulatedDisk::new()), Path::new("/scratch/joined").to_owned())
}

/// Offsets `first..end` of partition 0 as rows of that time, each with an id, and with a price from 50 on.
async fn append_json(table: &mut Table, first: i64, end: i64, time: TimestampMs, now: TimestampMs) {
    let options = Options {
        mode: Mode::Infer,
        is_by_day: true,
        zstd_level: 1,
        bytes_max: 1 << 20,
        quarantine: Quarantine::default(),
    };
    let mut converter = Converter::new(table.schema().unwrap(), table.metadata().last_column_id(), options);
    for offset in first..end {
        let value = match offset < 50 {
            true => format!(r#"{{"id":{offset},"of":{{"name":"n{offset}"}}}}"#),
            false => {
                format!(
                    r#"{{"id":{offset},"price":{offset}.5,"of":{{"name":"n{offset}","kind":"k"}},"list":[{offset}]}}"#
                )
            }
        };
        converter.push(&Record {
            partition: 0,
            offset: Offset(offset),
            timestamp: time,
            key: Some(b"key"),
            value: Some(value.as_bytes()),
            headers: &[],
        });
    }
    let converted = converter.finish().unwrap();
    let mut files = Vec::new();
    for file in converted.files {
        files.push(table.stage(file, LeaderEpoch(0), now).await.unwrap());
    }
    let from = (first > 0).then_some(Offset(first));
    let advance = BTreeMap::from([(0, Advance { from, to: Offset(end) })]);
    let append = Append { origin: &origin(), advance: &advance, schema: &converted.schema, files: &files };
    table.append(&append, now).await.unwrap();
}

#[derive(Debug, PartialEq)]
struct Row {
    offset: i64,
    id: Option<i64>,
    price: Option<f64>,
    name: Option<String>,
    kind: Option<String>,
    list: Option<Vec<i64>>,
}

/// All rows in the order of their offsets, whatever columns their files have.
async fn read_rows(table: &Table) -> Vec<Row> {
    let mut rows = Vec::new();
    for manifest in table.manifests().await.unwrap() {
        for live in table.at().read_live(&manifest).await.unwrap() {
            let bytes = table.at().warehouse.read(live.file.file_path()).await.unwrap();
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options)
                .unwrap()
                .build()
                .unwrap();
            reader.for_each(|batch| rows.extend(rows_in(&batch.unwrap())));
        }
    }
    rows.sort_by_key(|row| row.offset);
    rows
}

fn rows_in(batch: &RecordBatch) -> Vec<Row> {
    let long = |name: &str| batch.column_by_name(name).map(|column| column.as_primitive::<Int64Type>());
    let double = |name: &str| batch.column_by_name(name).map(|column| column.as_primitive::<Float64Type>());
    let of = batch.column_by_name("of").map(|of| of.as_struct());
    let text = |name: &str| of.and_then(|of| of.column_by_name(name)).map(|column| column.as_string::<i32>());
    let list = batch.column_by_name("list").map(|list| list.as_list::<i32>());
    let partition = batch.column_by_name("kafka_partition").unwrap().as_primitive::<Int32Type>();
    assert!(partition.values().iter().all(|partition| *partition == 0));
    (0..batch.num_rows())
        .map(|row| Row {
            offset: long("kafka_offset").unwrap().value(row),
            id: long("id").filter(|ids| ids.is_valid(row)).map(|ids| ids.value(row)),
            price: double("price").filter(|prices| prices.is_valid(row)).map(|prices| prices.value(row)),
            name: text("name").filter(|names| names.is_valid(row)).map(|names| names.value(row).to_owned()),
            kind: text("kind").filter(|kinds| kinds.is_valid(row)).map(|kinds| kinds.value(row).to_owned()),
            list: list
                .filter(|lists| lists.is_valid(row))
                .map(|lists| lists.value(row).as_primitive::<Int64Type>().values().to_vec()),
        })
        .collect()
}

fn expected(end: i64) -> Vec<Row> {
    (0..end)
        .map(|offset| Row {
            offset,
            id: Some(offset),
            name: Some(format!("n{offset}")),
            price: (offset >= 50).then_some(offset as f64 + 0.5),
            kind: (offset >= 50).then(|| "k".to_owned()),
            list: (offset >= 50).then(|| vec![offset]),
        })
        .collect()
}

async fn files_of(table: &Table) -> Vec<iceberg::spec::DataFile> {
    let mut files = Vec::new();
    for manifest in table.manifests().await.unwrap() {
        files.extend(table.at().read_live(&manifest).await.unwrap().into_iter().map(|live| live.file));
    }
    files
}

#[test]
fn small_files_become_one_with_the_columns_of_all() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        for first in (0..100).step_by(5) {
            append_json(&mut table, first, first + 5, NOW, NOW).await;
        }
        assert_eq!(read_rows(&table).await, expected(100));
        assert_eq!(files_of(&table).await.len(), 20);
        let schema = table.metadata().current_schema().clone();
        let done = table.maintain(&Limits::default(), &scratch(), NOW).await.unwrap();
        assert_eq!((done.joined_files, done.overtaken, done.has_more), (20, false, false));
        let files = files_of(&table).await;
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].record_count(), 100);
        let id = schema.field_by_name("id").unwrap().id;
        let price = schema.field_by_name("price").unwrap().id;
        assert_eq!(files[0].lower_bounds()[&id], iceberg::spec::Datum::long(0));
        assert_eq!(files[0].upper_bounds()[&id], iceberg::spec::Datum::long(99));
        assert_eq!(files[0].null_value_counts()[&price], 50);
        assert_eq!(read_rows(&table).await, expected(100));
        let summary = &table.metadata().current_snapshot().unwrap().summary().additional_properties;
        assert_eq!((summary["total-records"].as_str(), summary["total-data-files"].as_str()), ("100", "1"));
        let facts = table.facts().await.unwrap();
        assert_eq!((facts.rows, facts.files, facts.bytes), (100, 1, files[0].file_size_in_bytes()));
        // Of 20 commits, the compaction, and the time that is set before anything is swept.
        assert_eq!((facts.snapshots, facts.changed_at), (22, Some(NOW)));
        // Nothing is due any more, and the offsets are as they were.
        let again = table.maintain(&Limits::default(), &scratch(), NOW).await.unwrap();
        assert_eq!(again, Maintained::default());
        assert_eq!(table.next_offsets(&origin()).unwrap(), BTreeMap::from([(0, Offset(100))]));
        append_json(&mut table, 100, 105, NOW, NOW).await;
        assert_eq!(read_rows(&table).await, expected(105));
    });
}

/// A broker that leads a topic no more starts the next one's compaction while that of the first still runs.
#[test]
fn compactions_have_their_scratch_one_after_the_other() {
    for seed in 0..10 {
        block_on(async {
            let at = table_at(&FaultyStore::new(seed));
            let name = TableName { table: "other".to_owned(), ..at.name.clone() };
            let mut one = created(&at, Partitioning::Day).await;
            let mut other = created(&TableAt { name, ..at.clone() }, Partitioning::Day).await;
            for file in 0..16 {
                append_json(&mut one, 5 * file, 5 * (file + 1), NOW, NOW).await;
                append_json(&mut other, 7 * file, 7 * (file + 1), NOW, NOW).await;
            }
            let (limits, scratch) = (Limits::default(), scratch());
            let of_one = one.maintain(&limits, &scratch, NOW);
            let of_other = other.maintain(&limits, &scratch, NOW);
            let (of_one, of_other) = futures::join!(of_one, of_other);
            assert_eq!((of_one.unwrap().joined_files, of_other.unwrap().joined_files), (16, 16));
            assert_eq!(read_rows(&one).await, expected(80));
            assert_eq!(read_rows(&other).await, expected(112));
        });
    }
}

#[test]
fn a_file_that_is_not_what_the_manifest_says_is_not_joined() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        for first in (0..80).step_by(5) {
            append_json(&mut table, first, first + 5, NOW, NOW).await;
        }
        let files = files_of(&table).await;
        let (one, other) = (files[2].file_path(), files[3].file_path());
        let longer = files.iter().map(|file| file.file_size_in_bytes()).max().unwrap();
        for content in [b"not Parquet".to_vec(), vec![0; longer as usize + 1]] {
            let content = bytes::Bytes::from(content).into();
            let condition = ottla_storage::tiering::store::Condition::None;
            at.warehouse.write(one, content, condition).await.unwrap();
            let failed = table.maintain(&Limits::default(), &scratch(), NOW).await;
            assert!(
                matches!(failed, Err(TableError::Malformed { .. } | TableError::Store { .. })),
                "{failed:?}"
            );
        }
        let of_another = at.warehouse.read(other).await.unwrap().into();
        at.warehouse.write(one, of_another, ottla_storage::tiering::store::Condition::None).await.unwrap();
        assert_eq!(files_of(&table).await.len(), 16);
    });
}

#[test]
fn rows_past_their_time_are_removed_by_whole_days() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        for (index, days_ago) in [3, 2, 1, 0].into_iter().enumerate() {
            let first = index as i64 * 10;
            append_json(&mut table, first, first + 10, TimestampMs(NOW.0 - days_ago * DAY_MS), NOW).await;
        }
        let limits = Limits { retention_ms: Some(DAY_MS), ..Limits::default() };
        let done = table.maintain(&limits, &scratch(), NOW).await.unwrap();
        assert_eq!((done.removed_files, done.removed_rows), (2, 20));
        let offsets: Vec<i64> = read_rows(&table).await.iter().map(|row| row.offset).collect();
        assert_eq!(offsets, (20..40).collect::<Vec<_>>());
        let summary = &table.metadata().current_snapshot().unwrap().summary().additional_properties;
        assert_eq!(summary["total-records"], "20");
        let again = table.maintain(&limits, &scratch(), NOW).await.unwrap();
        assert_eq!(again.removed_files, 0);
    });
}

async fn objects(store: &FaultyStore) -> HashSet<String> {
    let page = store.list("ottla/", None).await.unwrap();
    assert!(!page.is_cut);
    page.objects.into_iter().map(|object| object.key).collect()
}

#[test]
fn what_no_snapshot_has_is_deleted_when_it_is_old() {
    block_on(async {
        let store = FaultyStore::new(0);
        let at = table_at(&store);
        let mut table = created(&at, Partitioning::Day).await;
        for first in (0..100).step_by(5) {
            append_json(&mut table, first, first + 5, NOW, NOW).await;
        }
        let orphan = stage(&table, file(0, 100, 101, Some(20_000))).await.unwrap();
        table.maintain(&Limits::default(), &scratch(), NOW).await.unwrap();
        let foreign = "ottla/lake/db/orders/data/20251121_073412_00007_abcde-4c1f.parquet";
        at.warehouse
            .store()
            .put(
                foreign,
                bytes::Bytes::from_static(b"x").into(),
                ottla_storage::tiering::store::Condition::None,
            )
            .await
            .unwrap();
        let all = objects(&store).await;
        // The snapshots before the compaction are still there, and the orphan is young.
        let later = |hours: i64| TimestampMs(NOW.0 + hours * 3_600_000);
        let done = table.maintain(&Limits::default(), &scratch(), later(7)).await.unwrap();
        assert_eq!(done.swept, 0);
        let orphan_key = at.warehouse.key(orphan.file.file_path()).unwrap().to_owned();
        assert!(objects(&store).await.contains(&orphan_key));
        // Snapshots expire with the next change.
        append_json(&mut table, 100, 105, later(26), later(26)).await;
        let done = table.maintain(&Limits::default(), &scratch(), later(26)).await.unwrap();
        assert!(done.swept >= 55, "{done:?}");
        let left = objects(&store).await;
        assert!(!left.contains(&orphan_key) && left.contains(foreign));
        let data = left.iter().filter(|key| key.ends_with(".parquet") && *key != foreign);
        assert_eq!(data.count(), 2, "the joined file and the one that came after it");
        assert!(left.len() < all.len());
        assert_eq!(read_rows(&table).await, expected(105));
        let snapshots = table.metadata().snapshots().len();
        // That of a day ago, the one that took its place, and what this day brought: rows, and the time of the sweep.
        assert_eq!(snapshots, 4);
        // Whoever staged the orphan and slept since cannot bring it into the table.
        let schema = table.schema().unwrap();
        let append = Append {
            origin: &origin(),
            advance: &advance(0, Some(105), 106),
            schema: &schema,
            files: &[orphan],
        };
        let late = table.append(&append, later(26)).await;
        assert!(matches!(late, Err(TableError::Moved(_))), "{late:?}");
        assert_eq!(read_rows(&table).await, expected(105));
    });
}

#[test]
fn every_snapshot_there_is_stays_readable() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        let mut now = NOW;
        for first in (0..400).step_by(5) {
            append_json(&mut table, first, first + 5, NOW, now).await;
            now = TimestampMs(now.0 + 3_600_000);
            if first % 50 == 0 {
                table.maintain(&Limits::default(), &scratch(), now).await.unwrap();
            }
        }
        let snapshots: Vec<_> = table.metadata().snapshots().cloned().collect();
        assert!((20..40).contains(&snapshots.len()), "{} snapshots in a day", snapshots.len());
        for snapshot in snapshots {
            for manifest in at.read_list(snapshot.manifest_list()).await.unwrap() {
                for live in at.read_live(&manifest).await.unwrap() {
                    at.warehouse.read(live.file.file_path()).await.unwrap();
                }
            }
        }
        assert_eq!(read_rows(&table).await, expected(400));
    });
}

#[test]
fn a_commit_costs_five_puts() {
    block_on(async {
        let store = FaultyStore::new(0);
        let at = table_at(&store);
        let mut table = created(&at, Partitioning::Day).await;
        let before = store.puts();
        append_json(&mut table, 0, 5, NOW, NOW).await;
        // Data, manifest, list of manifests, metadata, hint.
        assert_eq!(store.puts() - before, 5);
    });
}
