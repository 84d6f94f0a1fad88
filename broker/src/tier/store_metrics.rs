//! What the object store of `ottla.tier.url` is asked for, by the tier and the tables together: what it is paid for, where it costs
//! money.

use std::sync::Arc;

use ottla_storage::tiering::store::ObjectStore;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;

use crate::metrics::Metrics;

struct StoreRequests(Arc<dyn ObjectStore>);

pub fn register(store: &Arc<dyn ObjectStore>, metrics: &Metrics) {
    let requests = StoreRequests(Arc::clone(store));
    metrics.register(|registry| registry.register_collector(Box::new(requests)));
}

impl std::fmt::Debug for StoreRequests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreRequests")
    }
}

impl Collector for StoreRequests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.0.counts();
        let help = "Requests to the object store of the tier and the tables, tries that failed included";
        let mut requests =
            encoder.encode_descriptor("tier_store_requests", help, None, MetricType::Counter)?;
        for (kind, count) in
            [("get", counts.gets), ("put", counts.puts), ("list", counts.lists), ("delete", counts.deletes)]
        {
            ConstCounter::new(count).encode(requests.encode_family(&[("request", kind)])?)?;
        }
        let mut counter = |name: &str, help: &str, unit: Option<&Unit>, value: u64| {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, unit, MetricType::Counter)?)
        };
        let help = "Requests to the object store that were not answered as they should be";
        counter("tier_store_errors", help, None, counts.errors)?;
        let help = "Bytes that the object store sent";
        counter("tier_store_received", help, Some(&Unit::Bytes), counts.bytes_got)?;
        counter("tier_store_sent", "Bytes sent to the object store", Some(&Unit::Bytes), counts.bytes_put)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use ottla_storage::disk::Disk;
    use ottla_storage::tiering::directory::DirectoryStore;
    use ottla_storage::tiering::store::{ByteRange, Condition, Content};

    use super::*;
    use crate::threads;

    #[tokio::test]
    async fn requests_are_told_by_their_kind() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(&Disk::real(), dir.path(), "test", threads::beside()).unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(store);
        let metrics = Metrics::new();
        register(&store, &metrics);
        let content = Content::from(Bytes::from_static(b"content"));
        store.put("key", content, Condition::None).await.unwrap();
        for _ in 0..2 {
            store.get("key", ByteRange::Suffix { len: 100 }).await.unwrap();
        }
        let text = metrics.encode().unwrap();
        for line in [
            "ottla_tier_store_requests_total{request=\"get\"} 2",
            "ottla_tier_store_requests_total{request=\"put\"} 1",
            "ottla_tier_store_requests_total{request=\"list\"} 0",
            "ottla_tier_store_errors_total 0",
            "ottla_tier_store_received_bytes_total 14",
            "ottla_tier_store_sent_bytes_total 7",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
