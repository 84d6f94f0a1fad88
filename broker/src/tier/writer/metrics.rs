//! What the work of leaders costs and how far it lags, under `ottla_tier_`. After Kafka's RemoteCopy* and RemoteDelete*.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;

use crate::metrics::Metrics;

/// Handles, registered once.
pub(crate) struct WriteMetrics {
    pub(super) copied_bytes: Counter,
    pub(super) copied_segments: Counter,
    pub(super) copy_failures: Counter,
    pub(super) manifests: Counter,
    pub(super) manifest_conflicts: Counter,
    pub(super) deleted_objects: Counter,
    pub(super) delete_failures: Counter,
    lag_bytes: Gauge,
    lag_segments: Gauge,
    led_bytes: Gauge,
    led_segments: Gauge,
    failing: Gauge,
}

/// Of one partition.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Lag {
    /// Sealed and not in the tier yet.
    pub bytes: u64,
    pub segments: u64,
    pub tiered_bytes: u64,
    pub tiered_segments: u64,
    pub is_failing: bool,
}

impl WriteMetrics {
    pub(super) fn register(metrics: &Metrics) -> WriteMetrics {
        let write = WriteMetrics {
            copied_bytes: Counter::default(),
            copied_segments: Counter::default(),
            copy_failures: Counter::default(),
            manifests: Counter::default(),
            manifest_conflicts: Counter::default(),
            deleted_objects: Counter::default(),
            delete_failures: Counter::default(),
            lag_bytes: Gauge::default(),
            lag_segments: Gauge::default(),
            led_bytes: Gauge::default(),
            led_segments: Gauge::default(),
            failing: Gauge::default(),
        };
        metrics.register(|registry| {
            let help = "Bytes of objects that were copied to the tier";
            registry.register_with_unit("tier_copied", help, Unit::Bytes, write.copied_bytes.clone());
            let help = "Segments that were copied to the tier";
            registry.register("tier_copied_segments", help, write.copied_segments.clone());
            let help = "Turns of partitions' work on the tier that failed and are tried again";
            registry.register("tier_copy_failures", help, write.copy_failures.clone());
            let help = "Manifests that were written";
            registry.register("tier_manifests", help, write.manifests.clone());
            let help = "Manifests that another leader had written before";
            registry.register("tier_manifest_conflicts", help, write.manifest_conflicts.clone());
            let help = "Objects that were deleted from the tier";
            registry.register("tier_deleted_objects", help, write.deleted_objects.clone());
            let help = "Deletions of objects that failed and are tried again";
            registry.register("tier_delete_failures", help, write.delete_failures.clone());
            let help = "Bytes of sealed segments led here that are not in the tier yet";
            registry.register_with_unit("tier_copy_lag", help, Unit::Bytes, write.lag_bytes.clone());
            let help = "Sealed segments led here that are not in the tier yet";
            registry.register("tier_copy_lag_segments", help, write.lag_segments.clone());
            let help = "Bytes in the tier of partitions led here";
            registry.register_with_unit("tier_size", help, Unit::Bytes, write.led_bytes.clone());
            let help = "Segments in the tier of partitions led here";
            registry.register("tier_segments", help, write.led_segments.clone());
            let help = "Partitions led here whose work on the tier failed the last time";
            registry.register("tier_failing_partitions", help, write.failing.clone());
        });
        write
    }

    /// All partitions that are led here, as of their last turns.
    pub(super) fn on_look(&self, lags: impl Iterator<Item = Lag>) {
        let mut sum = Lag::default();
        let mut failing = 0;
        for lag in lags {
            sum.bytes += lag.bytes;
            sum.segments += lag.segments;
            sum.tiered_bytes += lag.tiered_bytes;
            sum.tiered_segments += lag.tiered_segments;
            failing += i64::from(lag.is_failing);
        }
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.lag_bytes.set(gauge(sum.bytes));
        self.lag_segments.set(gauge(sum.segments));
        self.led_bytes.set(gauge(sum.tiered_bytes));
        self.led_segments.set(gauge(sum.tiered_segments));
        self.failing.set(failing);
    }
}
