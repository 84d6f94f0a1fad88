//! What reads of the tier cost, under `ottla_tier_`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Unit;

use super::Tier;
use crate::metrics::Metrics;

/// Counted where it happens; what the caches count is asked when the metrics are.
pub(super) struct ReadMetrics {
    waiting: Gauge,
    answered_bytes: Counter,
    failures: Counter,
    request_seconds: Histogram,
    request_failures: Counter,
    fetched_bytes: Counter,
}

/// A partition that waits for the tier, until it is dropped.
pub(super) struct Waiting<'a>(&'a Gauge);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl ReadMetrics {
    pub(super) fn register(metrics: &Metrics) -> Arc<ReadMetrics> {
        let read = ReadMetrics {
            waiting: Gauge::default(),
            answered_bytes: Counter::default(),
            failures: Counter::default(),
            // 1 ms to about 65 s.
            request_seconds: Histogram::new(exponential_buckets(0.001, 4.0, 9)),
            request_failures: Counter::default(),
            fetched_bytes: Counter::default(),
        };
        metrics.register(|registry| {
            let help = "Partitions of fetches that wait for the tier now";
            registry.register("tier_reads_waiting", help, read.waiting.clone());
            let help = "Bytes of records from the tier sent to clients";
            registry.register_with_unit("tier_read", help, Unit::Bytes, read.answered_bytes.clone());
            let help =
                "Reads of partitions that the tier gave no answer to, by which clients were told an error";
            registry.register("tier_read_failures", help, read.failures.clone());
            let help = "Time of one request to the object store for reading";
            let seconds = read.request_seconds.clone();
            registry.register_with_unit("tier_get_duration", help, Unit::Seconds, seconds);
            let help = "Requests to the object store for reading that failed";
            registry.register("tier_get_failures", help, read.request_failures.clone());
            let help = "Bytes that came from the object store for reading";
            registry.register_with_unit("tier_get", help, Unit::Bytes, read.fetched_bytes.clone());
        });
        Arc::new(read)
    }

    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.waiting.inc();
        Waiting(&self.waiting)
    }

    pub(super) fn on_read(&self, bytes: usize) {
        self.answered_bytes.inc_by(bytes as u64);
    }

    pub(super) fn on_failure(&self) {
        self.failures.inc();
    }

    pub(super) fn on_request(&self, took: Duration, bytes: usize, is_ok: bool) {
        self.request_seconds.observe(took.as_secs_f64());
        self.fetched_bytes.inc_by(bytes as u64);
        if !is_ok {
            self.request_failures.inc();
        }
    }
}

/// What the caches of a tier hold and count.
#[derive(Debug)]
pub(super) struct Caches(pub Weak<Tier>);

impl Collector for Caches {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(tier) = self.0.upgrade() else { return Ok(()) };
        for (cache, counts) in [("batches", tier.reader().counts()), ("indexes", tier.reader().head_counts())]
        {
            let mut counter = |name: &str, help: &str, value: u64| {
                let counter = ConstCounter::new(value);
                let name = format!("tier_cache_{cache}_{name}");
                counter.encode(encoder.encode_descriptor(&name, help, None, counter.metric_type())?)
            };
            counter("hits", "Reads that found what they wanted in memory, or on its way there", counts.hits)?;
            counter("misses", "Reads that found neither", counts.misses)?;
            let held = ConstGauge::new(i64::try_from(counts.held_bytes).unwrap_or(i64::MAX));
            let name = format!("tier_cache_{cache}_held");
            let help = "Bytes in memory, those on their way there included";
            held.encode(encoder.encode_descriptor(&name, help, Some(&Unit::Bytes), held.metric_type())?)?;
        }
        if let Some(counts) = tier.reader().disk_counts() {
            let mut counter = |name: &str, help: &str, value: u64| {
                let counter = ConstCounter::new(value);
                let name = format!("tier_cache_disk_{name}");
                counter.encode(encoder.encode_descriptor(&name, help, None, counter.metric_type())?)
            };
            counter("hits", "Pieces that were not in memory, but on the disk", counts.hits)?;
            counter("misses", "Pieces that the object store was asked for", counts.misses)?;
            let help = "Files of pieces that could not be written, or were not read as they had been written";
            counter("failures", help, counts.failures)?;
            let held = ConstGauge::new(i64::try_from(counts.held_bytes).unwrap_or(i64::MAX));
            let help = "Bytes on the disk, those being written included";
            let name = "tier_cache_disk_held";
            held.encode(encoder.encode_descriptor(name, help, Some(&Unit::Bytes), held.metric_type())?)?;
        }
        let answers = ConstGauge::new(i64::try_from(tier.budget().answers_bytes()).unwrap_or(i64::MAX));
        let help = "Bytes of answers from the tier that clients have not taken yet";
        let encoder = encoder.encode_descriptor(
            "tier_answers_held",
            help,
            Some(&Unit::Bytes),
            answers.metric_type(),
        )?;
        answers.encode(encoder)
    }
}
