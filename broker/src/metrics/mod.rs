//! What the broker counts, as Prometheus metrics.

/// Handles of all metrics, registered once.
pub struct Metrics {}
