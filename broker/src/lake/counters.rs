//! What the tables count, under `ottla_lake_`, by topic.

use std::sync::atomic::AtomicU64;

use ottla_lake::data_file::DataFile;
use ottla_lake::table::Maintained;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;

use super::Assignment;
use crate::metrics::Metrics;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Label {
    topic: String,
    table: String,
}

/// Handles, registered once.
#[derive(Default)]
pub struct Counters {
    lag_records: Family<Label, Gauge>,
    lag_seconds: Family<Label, Gauge<f64, AtomicU64>>,
    rows: Family<Label, Counter>,
    files: Family<Label, Counter>,
    bytes: Family<Label, Counter>,
    commits: Family<Label, Counter>,
    conflicts: Family<Label, Counter>,
    errors: Family<Label, Counter>,
    quarantined: Family<Label, Counter>,
    gaps: Family<Label, Counter>,
    joined: Family<Label, Counter>,
    expired: Family<Label, Counter>,
}

impl Counters {
    pub fn register(metrics: &Metrics) -> Counters {
        let counters = Counters::default();
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("lake");
            let help = "Committed records that are not in the topic's table yet";
            registry.register("lag_records", help, counters.lag_records.clone());
            let help = "How late the topic's table is: the age of the oldest record that was read and is not in it yet, or \
                        how long the table has been waiting for the store or the catalog";
            registry.register_with_unit("lag", help, Unit::Seconds, counters.lag_seconds.clone());
            registry.register("rows", "Rows stored for tables", counters.rows.clone());
            registry.register("files", "Data files stored for tables", counters.files.clone());
            let help = "Bytes of data files stored for tables";
            registry.register_with_unit("stored", help, Unit::Bytes, counters.bytes.clone());
            registry.register("commits", "Commits of tables", counters.commits.clone());
            let help =
                "Commits that began anew because somebody else had changed the table, or an answer was lost";
            registry.register("commit_conflicts", help, counters.conflicts.clone());
            let help = "Failed attempts: store or catalog away, a table that is not fit; nothing is lost";
            registry.register("errors", help, counters.errors.clone());
            let help = "Records that went to the quarantine table";
            registry.register("quarantined", help, counters.quarantined.clone());
            let help = "Offsets that retention removed before they were in the table";
            registry.register("gap_records", help, counters.gaps.clone());
            registry.register(
                "joined_files",
                "Small data files that became parts of larger ones",
                counters.joined.clone(),
            );
            registry.register(
                "expired_rows",
                "Rows removed by ottla.lake.retention.ms",
                counters.expired.clone(),
            );
        });
        counters
    }

    pub fn of(&self, assignment: &Assignment) -> TableCounters {
        let label = label(assignment);
        TableCounters {
            lag_records: self.lag_records.get_or_create(&label).clone(),
            lag_seconds: self.lag_seconds.get_or_create(&label).clone(),
            rows: self.rows.get_or_create(&label).clone(),
            files: self.files.get_or_create(&label).clone(),
            bytes: self.bytes.get_or_create(&label).clone(),
            commits: self.commits.get_or_create(&label).clone(),
            conflicts: self.conflicts.get_or_create(&label).clone(),
            errors: self.errors.get_or_create(&label).clone(),
            quarantined: self.quarantined.get_or_create(&label).clone(),
            gaps: self.gaps.get_or_create(&label).clone(),
            joined: self.joined.get_or_create(&label).clone(),
            expired: self.expired.get_or_create(&label).clone(),
        }
    }

    /// Another broker says from now on how far the table is behind.
    pub fn forget(&self, assignment: &Assignment) {
        let label = label(assignment);
        self.lag_records.remove(&label);
        self.lag_seconds.remove(&label);
    }
}

fn label(assignment: &Assignment) -> Label {
    Label { topic: assignment.topic.to_string(), table: assignment.table.table.clone() }
}

/// Of one topic.
#[derive(Clone)]
pub struct TableCounters {
    lag_records: Gauge,
    lag_seconds: Gauge<f64, AtomicU64>,
    rows: Counter,
    files: Counter,
    bytes: Counter,
    commits: Counter,
    conflicts: Counter,
    errors: Counter,
    quarantined: Counter,
    gaps: Counter,
    joined: Counter,
    expired: Counter,
}

impl TableCounters {
    pub fn on_file(&self, file: &DataFile, is_quarantine: bool) {
        if is_quarantine {
            self.quarantined.inc_by(file.rows);
            return;
        }
        self.rows.inc_by(file.rows);
        self.files.inc();
        self.bytes.inc_by(file.bytes.len() as u64);
    }

    pub fn on_commit(&self, retries: u32) {
        self.commits.inc();
        self.conflicts.inc_by(retries.into());
    }

    pub fn on_error(&self) {
        self.errors.inc();
    }

    pub fn on_maintained(&self, done: &Maintained) {
        self.joined.inc_by(done.joined_files as u64);
        self.expired.inc_by(done.removed_rows);
    }

    pub fn on_gap(&self, records: u64) {
        self.gaps.inc_by(records);
    }

    pub fn on_lag(&self, records: u64, age_ms: Option<i64>) {
        self.lag_records.set(i64::try_from(records).unwrap_or(i64::MAX));
        self.lag_seconds.set(age_ms.map_or(0.0, |age| age.max(0) as f64 / 1000.0));
    }
}
