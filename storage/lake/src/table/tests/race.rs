//! Committers that race, stores that lie: every row is in the table exactly once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use futures::executor::block_on;
use iceberg::TableUpdate;
use ottla_storage::batch::{LeaderEpoch, Offset};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::making_catalog::MakingCatalog;
use super::support::*;
use crate::catalog::CatalogError;
use crate::data_file::{ColumnMetrics, DataFile, OffsetRange};
use crate::table::replace::Replaced;
use crate::table::{Advance, Append, Partitioning, Table, TableAt, TableError};

const PARTITIONS: i32 = 3;
const END: i64 = 60;

/// Tries until it works: what a committer does whose errors pass.
async fn insisted<T>(mut call: impl AsyncFnMut() -> Result<T, TableError>) -> Result<T, TableError> {
    for _ in 0..10_000 {
        match call().await {
            Err(error) if error.is_passing() => {}
            other => return other,
        }
    }
    panic!("it never worked")
}

async fn opened(at: &TableAt) -> Table {
    loop {
        if let Some(table) = insisted(async || at.load().await).await.unwrap() {
            return table;
        }
        let created = at.create(Partitioning::Day, NOW).await;
        match created {
            Ok(table) => return table,
            Err(TableError::Catalog { source: CatalogError::Refused(message), .. }) => panic!("{message}"),
            // Somebody else made it, or nobody knows.
            Err(_) => {}
        }
    }
}

/// Adds all rows there are, as many at a time as chance has it; knows nothing but what the table says.
async fn commit_all(at: &TableAt, seed: u64, epoch: i32) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut table = opened(at).await;
    loop {
        let next = table.next_offsets(&origin()).unwrap();
        let (mut advances, mut files) = (BTreeMap::new(), Vec::new());
        for partition in 0..PARTITIONS {
            let from = next.get(&partition).copied();
            let first = from.unwrap_or(Offset(0)).0;
            let end = (first + random.random_range(0..10)).min(END);
            if end > first {
                advances.insert(partition, Advance { from, to: Offset(end) });
                files.push(file(partition, first, end, Some(20_000 + (first / 20) as i32)));
            }
        }
        if advances.is_empty() {
            if next.len() == PARTITIONS as usize && next.values().all(|offset| *offset == Offset(END)) {
                return;
            }
            continue;
        }
        let mut staged = Vec::new();
        for file in files {
            let stage = async || table.stage(file.clone(), LeaderEpoch(epoch), NOW).await;
            staged.push(insisted(stage).await.unwrap());
        }
        let schema = table.schema().unwrap();
        let append = Append { origin: &origin(), advance: &advances, schema: &schema, files: &staged };
        match insisted(async || table.append(&append, NOW).await).await {
            Ok(_) => {}
            Err(TableError::Moved(_)) => insisted(async || table.refresh().await).await.unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Joins what files there are, again and again.
async fn compact_until_complete(at: &TableAt, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut table = opened(at).await;
    loop {
        insisted(async || table.refresh().await).await.unwrap();
        let next = table.next_offsets(&origin()).unwrap();
        let is_complete =
            next.len() == PARTITIONS as usize && next.values().all(|offset| *offset == Offset(END));
        let manifests = insisted(async || table.manifests().await).await.unwrap();
        let mut files = Vec::new();
        for manifest in &manifests {
            files.extend(insisted(async || at.read_live(manifest).await).await.unwrap());
        }
        files.retain(|_| random.random_bool(0.5));
        let day = files.first().map(|file| file.file.partition().clone());
        files.retain(|file| Some(file.file.partition()) == day.as_ref());
        if files.len() > 1 {
            let old: HashSet<String> = files.iter().map(|file| file.file.file_path().to_owned()).collect();
            let mut bytes = Vec::new();
            for path in &old {
                let read = async || at.warehouse.read(path).await.map_err(|error| at.of_store(error));
                bytes.extend(insisted(read).await.unwrap());
            }
            let day = match files[0].file.partition().fields() {
                [Some(iceberg::spec::Literal::Primitive(iceberg::spec::PrimitiveLiteral::Int(day)))] => *day,
                other => panic!("{other:?}"),
            };
            let joined = DataFile {
                rows: bytes.iter().filter(|byte| **byte == b'\n').count() as u64,
                bytes: bytes.into(),
                day: Some(day),
                ranges: vec![OffsetRange { partition: 0, first_offset: Offset(0), last_offset: Offset(0) }],
                metrics: ColumnMetrics::default(),
            };
            let stage = async || table.stage(joined.clone(), LeaderEpoch(0), NOW).await;
            let staged = insisted(stage).await.unwrap();
            let replaced = insisted(async || table.replace(&old, std::slice::from_ref(&staged), NOW).await)
                .await
                .unwrap();
            assert!(matches!(replaced, Replaced::Done | Replaced::Overtaken));
        }
        if is_complete {
            return;
        }
    }
}

fn complete() -> Vec<(i32, i64)> {
    (0..PARTITIONS).flat_map(|partition| all_rows(partition, END)).collect()
}

const ROUGH: Odds = Odds { fails: 0.05, loses_answer: 0.1, happens_late: 0.05 };

async fn race(at: &TableAt, seed: u64) {
    futures::join!(
        commit_all(at, seed * 3 + 1, 1),
        commit_all(at, seed * 3 + 2, 2),
        compact_until_complete(at, seed * 3 + 3),
    );
}

fn race_in_files(seed: u64, odds: Odds) {
    block_on(async {
        let store = FaultyStore::new(seed);
        store.set_odds(odds);
        let at = table_at(&store);
        race(&at, seed).await;
        store.set_odds(Odds::NONE);
        store.settle().await;
        assert_eq!(rows(&at).await, complete(), "seed {seed}");
    });
}

fn race_in_a_catalog_that_makes_metadata(seed: u64, odds: Odds) {
    block_on(async {
        let (store, catalog) = (FaultyStore::new(seed), MakingCatalog::new(seed));
        catalog.set_odds(odds);
        let at = catalog.at(&store);
        race(&at, seed).await;
        catalog.set_odds(Odds::NONE);
        catalog.settle();
        assert_eq!(rows(&at).await, complete(), "seed {seed}");
    });
}

#[test]
fn committers_that_race_add_every_row_once() {
    (0..6).for_each(|seed| race_in_files(seed, Odds::NONE));
    (0..6).for_each(|seed| race_in_a_catalog_that_makes_metadata(seed, Odds::NONE));
}

#[test]
fn answers_that_are_lost_or_come_late_add_no_row_twice() {
    (0..25).for_each(|seed| race_in_files(seed, ROUGH));
    (0..10).for_each(|seed| race_in_a_catalog_that_makes_metadata(seed, ROUGH));
}

/// What a catalog can compare has no word for properties, and these change nothing else.
#[test]
fn of_two_who_only_move_offsets_one_is_refused() {
    for seed in 0..50 {
        block_on(async {
            let (store, catalog) = (FaultyStore::new(seed), MakingCatalog::new(seed));
            let at = catalog.at(&store);
            created(&at, Partitioning::Day).await;
            let move_to = async |end| {
                let mut table = at.load().await.unwrap().unwrap();
                let schema = table.schema().unwrap();
                let advance = advance(0, None, end);
                let append = Append { origin: &origin(), advance: &advance, schema: &schema, files: &[] };
                table.append(&append, NOW).await
            };
            let (short, long) = futures::join!(move_to(7), move_to(9));
            let next = at.load().await.unwrap().unwrap().next_offsets(&origin()).unwrap()[&0].0;
            let told = format!("seed {seed}: {short:?}, {long:?}, {next}");
            match next {
                // The longer one began from nothing, and does not go on from 7.
                7 => assert!(short.is_ok() && matches!(long, Err(TableError::Moved(_))), "{told}"),
                // The shorter one is covered.
                9 => assert!(short.is_ok() && long.is_ok(), "{told}"),
                _ => panic!("{told}"),
            }
            if short.is_ok() && long.is_ok() {
                assert_eq!(next, 9, "{told}");
            }
        });
    }
}

#[test]
fn a_catalog_that_makes_metadata_keeps_what_others_change() {
    block_on(async {
        let (store, catalog) = (FaultyStore::new(0), MakingCatalog::new(0));
        let at = catalog.at(&store);
        let mut table = created(&at, Partitioning::Day).await;
        append_range(&mut table, 0, 10).await.unwrap();
        let comment = HashMap::from([("comment".to_owned(), "ours too".to_owned())]);
        catalog.change(&at.name, vec![TableUpdate::SetProperties { updates: comment }]);
        append_range(&mut table, 10, 20).await.unwrap();
        let table = at.load().await.unwrap().unwrap();
        assert_eq!(table.metadata().properties()["comment"], "ours too");
        assert_eq!(rows(&at).await, all_rows(0, 20));
        assert!(store.puts() > 0 && table.metadata_location().contains("/metadata/00003-"), "its own files");
    });
}

/// Such a catalog may give columns ids of its own. It must be seen before there are files with others.
#[test]
fn a_new_table_with_other_ids_than_ours_is_refused() {
    block_on(async {
        let (store, catalog) = (FaultyStore::new(0), MakingCatalog::new(0));
        let at = catalog.at(&store);
        created(&at, Partitioning::None).await;
        let swapped = |property: &str| {
            let (one, other) = ("\"id\":4,\"name\":\"kafka_key\"", "\"id\":5,\"name\":\"kafka_key_raw\"");
            assert!(property.contains(one) && property.contains(other), "{property}");
            property
                .replace(one, "\"id\":5,\"name\":\"kafka_key\"")
                .replace(other, "\"id\":4,\"name\":\"kafka_key_raw\"")
        };
        let property = at.load().await.unwrap().unwrap().schema().unwrap().to_property();
        let updates = HashMap::from([("ottla.schema".to_owned(), swapped(&property))]);
        catalog.change(&at.name, vec![TableUpdate::SetProperties { updates }]);
        let error = at.load().await.err().expect("an error");
        assert!(
            matches!(&error, TableError::Unfit { reason, .. } if reason.contains("other ids")),
            "{error}"
        );
    });
}

/// The leader of an older epoch has staged its files, made its next state, and sleeps at each of its requests in turn; meanwhile
/// another adds the same rows and more.
#[test]
fn a_leader_that_slept_adds_nothing() {
    for wakes_after in 0..12 {
        block_on(async {
            let store = FaultyStore::new(7);
            let at = table_at(&store);
            let mut asleep = created(&at, Partitioning::Day).await;
            append_range(&mut asleep, 0, 5).await.unwrap();
            let staged = stage(&asleep, file(0, 5, 15, Some(20_000))).await.unwrap();
            let schema = asleep.schema().unwrap();
            let (origin, advance, files) = (origin(), advance(0, Some(5), 15), [staged]);
            let append = Append { origin: &origin, advance: &advance, schema: &schema, files: &files };
            let appending = asleep.append(&append, NOW);
            futures::pin_mut!(appending);
            let mut early = None;
            for _ in 0..wakes_after * 3 {
                if let std::task::Poll::Ready(appended) = futures::poll!(&mut appending) {
                    early = Some(appended);
                    break;
                }
            }
            let mut new = at.load().await.unwrap().unwrap();
            if early.is_none() {
                // Its swap may be under way, and then it is the first.
                if append_range(&mut new, 5, 8).await.is_ok() {
                    append_range(&mut new, 8, 20).await.unwrap();
                    let late = appending.await;
                    assert!(matches!(late, Err(TableError::Moved(_)) | Ok(_)), "{late:?}");
                } else {
                    appending.await.unwrap();
                }
            }
            let next = at.load().await.unwrap().unwrap().next_offsets(&self::origin()).unwrap()[&0].0;
            assert!(next == 15 || next == 20, "{next}");
            assert_eq!(rows(&at).await, all_rows(0, next), "wakes after {wakes_after}");
        });
    }
}

#[test]
fn a_replace_of_files_that_are_gone_changes_nothing() {
    block_on(async {
        let store: Arc<FaultyStore> = FaultyStore::new(0);
        let at = table_at(&store);
        let mut table = created(&at, Partitioning::Day).await;
        append_range(&mut table, 0, 5).await.unwrap();
        append_range(&mut table, 5, 10).await.unwrap();
        let mut paths = Vec::new();
        for manifest in table.manifests().await.unwrap() {
            for live in at.read_live(&manifest).await.unwrap() {
                paths.push(live.file.file_path().to_owned());
            }
        }
        let all: HashSet<String> = paths.iter().cloned().collect();
        let joined = stage(&table, file(0, 0, 10, Some(20_000))).await.unwrap();
        assert_eq!(table.replace(&all, &[joined], NOW).await.unwrap(), Replaced::Done);
        // The same again, by another: one of the old files is enough to see it.
        let again = stage(&table, file(0, 0, 10, Some(20_000))).await.unwrap();
        for old in [all, HashSet::from([paths[0].clone()])] {
            let replaced = table.replace(&old, std::slice::from_ref(&again), NOW).await.unwrap();
            assert_eq!(replaced, Replaced::Overtaken);
        }
        assert_eq!(rows(&at).await, all_rows(0, 10));
        let summary = &table.metadata().current_snapshot().unwrap().summary().additional_properties;
        assert_eq!(summary["total-records"], "10");
        assert_eq!(summary["total-data-files"], "1");
        assert_eq!(summary["deleted-data-files"], "2");
    });
}
