//! docs/compatibility.md says of every API of Kafka which versions are offered. This test compares it with the table that
//! ApiVersions answers from, both ways: nothing is offered that the page does not say, and the page promises nothing else.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use ottla_broker::api::table;

/// The newest API of Kafka 4.4.
const LAST_KEY: i16 = 94;

struct Row {
    name: String,
    kafka: Option<RangeInclusive<i16>>,
    offered: Option<RangeInclusive<i16>>,
    state: String,
}

fn range(text: &str) -> Option<RangeInclusive<i16>> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    Some(low.trim().parse().ok()?..=high.trim().parse().ok()?)
}

fn page() -> BTreeMap<i16, Row> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md");
    let text = std::fs::read_to_string(path).expect("docs/compatibility.md");
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let Some(key) = cells.first().and_then(|cell| cell.parse().ok()) else { continue };
        assert_eq!(cells.len(), 6, "a row has six cells: {line}");
        let row = Row {
            name: cells[1].to_owned(),
            kafka: range(cells[2]),
            offered: range(cells[3]),
            state: cells[4].to_owned(),
        };
        assert!(row.kafka.is_some() || cells[2] == "removed", "which versions does Kafka know? {line}");
        assert!(row.offered.is_some() || cells[3].is_empty(), "which versions are offered? {line}");
        assert!(rows.insert(key, row).is_none(), "API {key} has two rows");
    }
    rows
}

#[test]
fn the_page_has_every_api_of_kafka() {
    assert!(page().into_keys().eq(0..=LAST_KEY));
}

#[test]
fn what_is_offered_is_what_the_page_says() {
    let page = page();
    for row in table::rows() {
        let said = page.get(&row.key).unwrap_or_else(|| panic!("the page has no API {}", row.key));
        assert_eq!(said.offered, Some(row.versions.clone()), "{} as the page and the table say", said.name);
    }
    for (key, said) in &page {
        let row = table::row(*key);
        assert_eq!(said.offered.is_some(), row.is_some(), "{} is offered in one place only", said.name);
        assert_eq!(said.state == "offered", row.is_some(), "{} has the wrong state", said.name);
    }
}

#[test]
fn nothing_is_offered_that_kafka_does_not_know() {
    for (_, row) in page() {
        let Some(offered) = row.offered else { continue };
        let kafka = row.kafka.unwrap_or_else(|| panic!("{} is gone from Kafka", row.name));
        assert!(
            kafka.contains(offered.start()) && kafka.contains(offered.end()),
            "{}: {offered:?} of {kafka:?}",
            row.name
        );
    }
}
