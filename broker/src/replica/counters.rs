//! What the replicas count, under `ottla_`.

use ottla_batch::CheckedBatches;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Unit;

use crate::metrics::Metrics;

/// Handles, registered once.
pub struct Counters {
    produced_records: Counter,
    produced_bytes: Counter,
    fetched_bytes: Counter,
    replicated_bytes: Counter,
    pub(super) sync_seconds: Histogram,
}

impl Counters {
    pub fn register(metrics: &Metrics) -> Counters {
        let counters = Counters {
            produced_records: Counter::default(),
            produced_bytes: Counter::default(),
            fetched_bytes: Counter::default(),
            replicated_bytes: Counter::default(),
            // 50 us to about 1.6 s.
            sync_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
        };
        metrics.register(|registry| {
            registry.register(
                "produced_records",
                "Records appended for clients",
                counters.produced_records.clone(),
            );
            registry.register_with_unit(
                "produced",
                "Bytes appended for clients",
                Unit::Bytes,
                counters.produced_bytes.clone(),
            );
            registry.register_with_unit(
                "fetched",
                "Bytes of records sent to clients",
                Unit::Bytes,
                counters.fetched_bytes.clone(),
            );
            registry.register_with_unit(
                "replicated",
                "Bytes of records sent to followers",
                Unit::Bytes,
                counters.replicated_bytes.clone(),
            );
            let help = "Time of one fdatasync of a log, which serves all appends that waited for it";
            registry.register_with_unit(
                "log_sync_duration",
                help,
                Unit::Seconds,
                counters.sync_seconds.clone(),
            );
        });
        counters
    }

    pub fn on_produced(&self, batches: &CheckedBatches) {
        let records: i64 = batches.iter().map(|batch| i64::from(batch.header().records_count)).sum();
        self.produced_records.inc_by(u64::try_from(records).unwrap_or(0));
        self.produced_bytes.inc_by(batches.size_in_bytes() as u64);
    }

    pub fn on_replicated(&self, bytes: usize) {
        self.replicated_bytes.inc_by(bytes as u64);
    }

    pub fn on_fetched(&self, bytes: usize) {
        self.fetched_bytes.inc_by(bytes as u64);
    }
}
