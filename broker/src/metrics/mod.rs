//! What the broker counts, as Prometheus metrics. Handles are made once; counting on the hot path is an atomic add.

pub mod http;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::ApiKey;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::api::table;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ApiLabel {
    api: String,
}

/// Request latency from the frame's arrival to its answer: 100 us to about 26 s.
fn request_seconds() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(0.0001, 4.0, 10))
}

struct ApiMetrics {
    requests: Counter,
    seconds: Histogram,
}

/// Handles of all metrics, registered once.
pub struct Metrics {
    registry: parking_lot::Mutex<Registry>,
    /// By API key.
    apis: Vec<Option<ApiMetrics>>,
    pub connections: Gauge,
    pub bytes_in: Counter,
    pub bytes_out: Counter,
    pub started: Instant,
}

impl Metrics {
    pub fn new() -> Arc<Metrics> {
        let mut registry = Registry::with_prefix("ottla");
        let connections = Gauge::default();
        registry.register("connections", "Open client connections", connections.clone());
        let bytes_in = Counter::default();
        registry.register_with_unit(
            "network_received",
            "Bytes read from clients",
            Unit::Bytes,
            bytes_in.clone(),
        );
        let bytes_out = Counter::default();
        registry.register_with_unit(
            "network_sent",
            "Bytes written to clients",
            Unit::Bytes,
            bytes_out.clone(),
        );
        let requests = Family::<ApiLabel, Counter>::default();
        registry.register("requests", "Requests answered, by API", requests.clone());
        let seconds = Family::<ApiLabel, Histogram>::new_with_constructor(request_seconds);
        let help = "Time from a request's arrival to its answer, by API";
        registry.register_with_unit("request_duration", help, Unit::Seconds, seconds.clone());
        let mut apis = Vec::new();
        for row in table::rows() {
            let name =
                ApiKey::try_from(row.key).map_or_else(|_| row.key.to_string(), |key| format!("{key:?}"));
            let label = ApiLabel { api: name };
            let index = row.key as usize;
            if apis.len() <= index {
                apis.resize_with(index + 1, || None);
            }
            apis[index] = Some(ApiMetrics {
                requests: requests.get_or_create(&label).clone(),
                seconds: seconds.get_or_create(&label).clone(),
            });
        }
        Arc::new(Metrics {
            registry: parking_lot::Mutex::new(registry),
            apis,
            connections,
            bytes_in,
            bytes_out,
            started: Instant::now(),
        })
    }

    /// Counts an answered request.
    pub fn on_request(&self, key: i16, took: Duration) {
        if let Some(Some(api)) = self.apis.get(key as usize) {
            api.requests.inc();
            api.seconds.observe(took.as_secs_f64());
        }
    }

    /// Lets another part of the broker register what it counts, under `ottla_`.
    pub fn register(&self, with: impl FnOnce(&mut Registry)) {
        with(&mut self.registry.lock());
    }

    /// All metrics in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}
