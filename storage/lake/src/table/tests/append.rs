use std::collections::BTreeMap;

use futures::executor::block_on;
use ottla_storage::batch::{Offset, TimestampMs};
use ottla_storage::tiering::store::{ByteRange, Condition, Content, ObjectStore};

use super::support::*;
use crate::catalog::CatalogError;
use crate::schema::TableSchema;
use crate::table::{Append, OFFSETS_PROPERTY, Origin, Partitioning, Table, TableError};

#[test]
fn rows_and_offsets_come_into_the_table_together() {
    block_on(async {
        let store = FaultyStore::new(0);
        let at = table_at(&store);
        assert!(at.load().await.unwrap().is_none());
        let mut table = created(&at, Partitioning::Day).await;
        assert_eq!(table.partitioning().unwrap(), Partitioning::Day);
        assert_eq!(table.next_offsets(&origin()).unwrap(), BTreeMap::new());
        append_range(&mut table, 0, 10).await.unwrap();
        append_range(&mut table, 10, 25).await.unwrap();
        assert_eq!(rows(&at).await, all_rows(0, 25));
        let loaded = at.load().await.unwrap().unwrap();
        assert_eq!(loaded.next_offsets(&origin()).unwrap(), BTreeMap::from([(0, Offset(25))]));
        assert_eq!(loaded.origins().unwrap(), vec![(origin(), BTreeMap::from([(0, Offset(25))]))]);
        let summary = &loaded.metadata().current_snapshot().unwrap().summary().additional_properties;
        assert_eq!(summary["total-records"], "25");
        assert_eq!(summary["added-records"], "15");
        assert_eq!(summary["total-data-files"], "2");
        assert_eq!(summary[&origin().property()], r#"{"0":25}"#);
    });
}

#[test]
fn another_topic_begins_at_its_own_start() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::None).await;
        append_range(&mut table, 0, 10).await.unwrap();
        let mut other = origin();
        other.topic_id = "made-anew".to_owned();
        assert_eq!(table.next_offsets(&other).unwrap(), BTreeMap::new());
    });
}

#[test]
fn a_restored_topic_goes_on_where_its_records_do() {
    for seed in 0..20 {
        block_on(async {
            let store = FaultyStore::new(seed);
            let at = table_at(&store);
            let mut table = created(&at, Partitioning::Day).await;
            append_range(&mut table, 0, 25).await.unwrap();
            let to = Origin { cluster_id: "another".to_owned(), ..origin() };
            // Of a partition without rows nothing is known.
            let ends = BTreeMap::from([(0, Offset(20)), (1, Offset(7))]);
            store.set_odds(Odds { fails: 0.2, loses_answer: 0.2, happens_late: 0.0 });
            while let Err(error) = table.adopt(&origin(), &to, &ends, NOW).await {
                assert!(error.is_passing(), "{error}");
            }
            store.set_odds(Odds::NONE);
            assert_eq!(table.next_offsets(&to).unwrap(), BTreeMap::from([(0, Offset(20))]));
            assert_eq!(table.next_offsets(&origin()).unwrap(), BTreeMap::from([(0, Offset(25))]));
            // The records 20 to 25 are others now.
            let schema = table.schema().unwrap();
            let staged = stage(&table, file(0, 20, 30, Some(20_000))).await.unwrap();
            let advance = advance(0, Some(20), 30);
            let append = Append { origin: &to, advance: &advance, schema: &schema, files: &[staged] };
            table.append(&append, NOW).await.unwrap();
            assert_eq!(rows(&at).await.len(), 35);
            // A restore that is run again changes nothing.
            table.adopt(&origin(), &to, &ends, NOW).await.unwrap();
            assert_eq!(table.next_offsets(&to).unwrap(), BTreeMap::from([(0, Offset(30))]));
        });
    }
}

#[test]
fn what_the_table_has_is_not_added_again() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        append_range(&mut table, 0, 10).await.unwrap();
        // A committer that does not know: with the same end, with an earlier one.
        append_range(&mut table, 0, 10).await.unwrap();
        append_range(&mut table, 0, 5).await.unwrap();
        // One that would go further, from where the table is no longer.
        let beyond = append_range(&mut table, 0, 11).await;
        assert!(matches!(beyond, Err(TableError::Moved(_))), "{beyond:?}");
        let gap = append_range(&mut table, 11, 12).await;
        assert!(matches!(gap, Err(TableError::Moved(_))), "{gap:?}");
        assert_eq!(rows(&at).await, all_rows(0, 10));
    });
}

#[test]
fn offsets_move_without_rows() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        let schema = table.schema().unwrap();
        let append = Append { origin: &origin(), advance: &advance(3, None, 7), schema: &schema, files: &[] };
        table.append(&append, NOW).await.unwrap();
        let snapshot = table.metadata().current_snapshot().expect("what a catalog can compare");
        assert_eq!(snapshot.summary().additional_properties["total-records"], "0");
        assert_eq!(rows(&at).await, []);
        assert_eq!(table.next_offsets(&origin()).unwrap(), BTreeMap::from([(3, Offset(7))]));
    });
}

#[test]
fn a_second_table_of_the_name_is_refused() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        created(&at, Partitioning::Day).await;
        let again = at.create(Partitioning::Day, NOW).await;
        let is_conflict =
            matches!(&again, Err(TableError::Catalog { source: CatalogError::Conflict(_), .. }));
        assert!(is_conflict, "{:?}", again.err());
    });
}

async fn put(table: &Table, name: &str, content: String) {
    let folder = table.metadata().location().to_owned();
    let key = format!("{folder}/metadata/{name}");
    let warehouse = &table.at().warehouse;
    warehouse.write(&key, Content::from(bytes::Bytes::from(content)), Condition::None).await.unwrap();
}

/// A change of the table by somebody else.
async fn rewrite(table: &Table, change: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::to_value(table.metadata()).unwrap();
    change(&mut json);
    let number = super::super::number_in(table.metadata_location()) + 1;
    put(table, &format!("v{number}.metadata.json"), json.to_string()).await;
}

#[test]
fn changes_by_others_stay() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        append_range(&mut table, 0, 10).await.unwrap();
        let mut foreign_id = 0;
        rewrite(&table, |json| {
            json["properties"]["comment"] = "ours too".into();
            let last = json["last-column-id"].as_i64().unwrap() + 1;
            foreign_id = last as i32;
            json["last-column-id"] = last.into();
            let mut schema = json["schemas"][0].clone();
            schema["schema-id"] = 1.into();
            schema["fields"].as_array_mut().unwrap().push(serde_json::json!(
                {"id": last, "name": "remark", "type": "string", "required": false}
            ));
            schema["fields"][1]["name"] = "the_offset".into();
            json["schemas"].as_array_mut().unwrap().push(schema);
            json["current-schema-id"] = 1.into();
        })
        .await;
        append_range(&mut table, 10, 20).await.unwrap();
        // Columns of ours are added beside theirs.
        let property = at.load().await.unwrap().unwrap().schema().unwrap().to_property();
        let mut grown: serde_json::Value = serde_json::from_str(&property).unwrap();
        let id = grown["last_field_id"].as_i64().unwrap() + 1;
        assert!(id > i64::from(foreign_id), "the ids of others are not given away");
        grown["last_field_id"] = id.into();
        let column =
            serde_json::json!({"id": id, "name": "price", "source": {"member": "price"}, "type": "double"});
        grown["columns"].as_array_mut().unwrap().push(column);
        let grown = TableSchema::from_property(&grown.to_string()).unwrap();
        let staged = stage(&table, file(0, 20, 30, Some(20_000))).await.unwrap();
        let append = Append {
            origin: &origin(),
            advance: &advance(0, Some(20), 30),
            schema: &grown,
            files: &[staged],
        };
        table.append(&append, NOW).await.unwrap();
        let table = at.load().await.unwrap().unwrap();
        assert_eq!(table.metadata().properties()["comment"], "ours too");
        let schema = table.metadata().current_schema();
        assert_eq!(schema.field_by_name("remark").unwrap().id, foreign_id);
        assert_eq!(i64::from(schema.field_by_name("price").unwrap().id), id);
        assert!(
            schema.field_by_name("the_offset").is_some() && schema.field_by_name("kafka_offset").is_none()
        );
        assert_eq!(table.schema().unwrap().columns(), grown.columns());
        assert_eq!(rows(&at).await, all_rows(0, 30));
    });
}

#[test]
fn columns_that_do_not_follow_from_the_tables_are_refused() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        let with = |name: &str| {
            let mut json: serde_json::Value =
                serde_json::from_str(&TableSchema::of_records().to_property()).unwrap();
            let id = json["last_field_id"].as_i64().unwrap() + 1;
            json["last_field_id"] = id.into();
            json["columns"].as_array_mut().unwrap().push(
                serde_json::json!({"id": id, "name": name, "source": {"member": name}, "type": "double"}),
            );
            TableSchema::from_property(&json.to_string()).unwrap()
        };
        let staged = stage(&table, file(0, 0, 5, Some(20_000))).await.unwrap();
        let append = |from, to, schema: &TableSchema| {
            (origin(), advance(0, from, to), schema.clone(), [staged.clone()])
        };
        for (from, to, schema, is_taken) in [
            (None, 5, with("price"), true),
            (Some(5), 10, with("volume"), false),
            (Some(5), 10, with("price"), true),
        ] {
            let (origin, advance, schema, files) = append(from, to, &schema);
            let append = Append { origin: &origin, advance: &advance, schema: &schema, files: &files };
            let appended = table.append(&append, NOW).await;
            assert_eq!(appended.is_ok(), is_taken, "{appended:?}");
        }
    });
}

#[test]
fn lost_offsets_are_not_taken_for_none() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        append_range(&mut table, 0, 10).await.unwrap();
        rewrite(&table, |json| {
            let properties = json["properties"].as_object_mut().unwrap();
            properties.retain(|name, _| !name.starts_with(OFFSETS_PROPERTY));
        })
        .await;
        let again = append_range(&mut table, 0, 10).await;
        assert!(matches!(again, Err(TableError::Unfit { .. })), "{again:?}");
        assert_eq!(rows(&at).await, all_rows(0, 10));
    });
}

#[test]
fn another_table_under_the_name_is_noticed() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        rewrite(&table, |json| json["table-uuid"] = uuid::Uuid::new_v4().to_string().into()).await;
        let appended = append_range(&mut table, 0, 10).await;
        assert!(matches!(appended, Err(TableError::Unfit { .. })), "{appended:?}");
    });
}

#[test]
fn damaged_and_foreign_metadata_are_errors() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let table = created(&at, Partitioning::Day).await;
        let version_3 = {
            let mut json = serde_json::to_value(table.metadata()).unwrap();
            json["format-version"] = 3.into();
            json["next-row-id"] = 0.into();
            json.to_string()
        };
        for (index, content) in ["", "{}", "[1", "\u{1f}", &version_3].iter().enumerate() {
            put(&table, &format!("v{}.metadata.json", index + 2), (*content).to_owned()).await;
            let error = at.load().await.err().expect("an error");
            assert!(!error.is_passing(), "{error}");
            assert!(error.to_string().contains("orders"), "{error}");
        }
    });
}

#[test]
fn small_manifests_are_merged() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        for index in 0..50 {
            append_range(&mut table, index * 2, index * 2 + 2).await.unwrap();
            let manifests = table.manifests().await.unwrap();
            assert!(manifests.len() <= 21, "{} manifests", manifests.len());
        }
        assert_eq!(rows(&at).await, all_rows(0, 100));
    });
}

#[test]
fn old_states_are_deleted_and_their_numbers_mean_nothing_then() {
    block_on(async {
        let store = FaultyStore::new(0);
        let at = table_at(&store);
        let mut table = created(&at, Partitioning::Day).await;
        let asleep = created_state(&table);
        for index in 0..120 {
            append_range(&mut table, index, index + 1).await.unwrap();
        }
        let page = store.list("ottla/lake/db/orders/metadata/v", None).await.unwrap();
        let states = page.objects.iter().filter(|object| object.key.ends_with(".metadata.json"));
        assert_eq!(states.count(), 101);
        // A committer that slept since the first state, whose number is free again.
        let (entry, metadata) = asleep;
        let swapped = at.catalog.swap(&at.name, &entry, &metadata).await;
        assert!(matches!(swapped, Err(CatalogError::Unknown(_))), "{swapped:?}");
        assert_eq!(rows(&at).await, all_rows(0, 120));
        let whole = ByteRange::Whole { bytes_max: 100 };
        let hint = store.get("ottla/lake/db/orders/metadata/version-hint.text", whole).await.unwrap();
        assert_eq!(hint.bytes, "121", "readers without catalog do not see the old state");
    });
}

fn created_state(table: &Table) -> (crate::catalog::Entry, crate::catalog::NewMetadata) {
    let entry = crate::catalog::Entry {
        metadata_location: table.metadata_location().to_owned(),
        version: "1".to_owned(),
        metadata: None,
    };
    (entry, table.at().new_metadata(table.metadata(), Some(table.metadata_location()), NOW))
}

#[test]
fn a_clock_that_goes_back_does_not_stop_commits() {
    block_on(async {
        let at = table_at(&FaultyStore::new(0));
        let mut table = created(&at, Partitioning::Day).await;
        for (first, now) in [(0, NOW), (5, TimestampMs(NOW.0 - 3_600_000)), (10, NOW)] {
            let staged = stage(&table, file(0, first, first + 5, None)).await.unwrap();
            let schema = table.schema().unwrap();
            let append = Append {
                origin: &origin(),
                advance: &advance(0, (first > 0).then_some(first), first + 5),
                schema: &schema,
                files: &[staged],
            };
            table.append(&append, now).await.unwrap();
        }
        assert_eq!(rows(&at).await, all_rows(0, 15));
    });
}
