//! What the catalog of tables is asked for, and what became of it.

use std::sync::Arc;

use ottla_lake::catalog::{Catalog, CatalogAnswer, CatalogError, Entry, NewMetadata, Stored, TableName};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::metrics::Metrics;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    request: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Failure {
    error: &'static str,
}

/// A catalog whose requests are counted, each once with its tries.
pub struct Counted {
    catalog: Arc<dyn Catalog>,
    requests: Family<Request, Counter>,
    errors: Family<Failure, Counter>,
}

impl Counted {
    pub fn new(catalog: Arc<dyn Catalog>, metrics: &Metrics) -> Counted {
        let (requests, errors) = (Family::default(), Family::default());
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("lake_catalog");
            let help = "Requests to the catalog of tables";
            registry.register("requests", help, Family::clone(&requests));
            let help = "Requests to the catalog of tables that were not done, or of which nobody knows";
            registry.register("errors", help, Family::clone(&errors));
        });
        Counted { catalog, requests, errors }
    }

    fn counted<'a, T: 'a>(
        &'a self,
        request: &'static str,
        answer: CatalogAnswer<'a, T>,
    ) -> CatalogAnswer<'a, T> {
        self.requests.get_or_create(&Request { request }).inc();
        Box::pin(async move {
            let answered = answer.await;
            if let Err(error) = &answered {
                let error = match error {
                    CatalogError::Conflict(_) => "conflict",
                    CatalogError::Unknown(_) => "unknown",
                    CatalogError::Refused(_) => "refused",
                    CatalogError::Unavailable(_) => "unavailable",
                };
                self.errors.get_or_create(&Failure { error }).inc();
            }
            answered
        })
    }
}

impl Catalog for Counted {
    fn load<'a>(&'a self, table: &'a TableName) -> CatalogAnswer<'a, Option<Entry>> {
        self.counted("load", self.catalog.load(table))
    }

    fn create<'a>(&'a self, table: &'a TableName, metadata: &'a NewMetadata) -> CatalogAnswer<'a, Stored> {
        self.counted("create", self.catalog.create(table, metadata))
    }

    fn swap<'a>(
        &'a self,
        table: &'a TableName,
        expected: &'a Entry,
        metadata: &'a NewMetadata,
    ) -> CatalogAnswer<'a, Stored> {
        self.counted("swap", self.catalog.swap(table, expected, metadata))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has no tables, and lets nobody make one.
    struct Closed;

    impl Catalog for Closed {
        fn load<'a>(&'a self, _: &'a TableName) -> CatalogAnswer<'a, Option<Entry>> {
            Box::pin(async { Ok(None) })
        }

        fn create<'a>(&'a self, _: &'a TableName, _: &'a NewMetadata) -> CatalogAnswer<'a, Stored> {
            Box::pin(async { Err(CatalogError::Refused("closed".to_owned())) })
        }

        fn swap<'a>(
            &'a self,
            table: &'a TableName,
            _: &'a Entry,
            _: &'a NewMetadata,
        ) -> CatalogAnswer<'a, Stored> {
            Box::pin(async { Err(CatalogError::Conflict(table.clone())) })
        }
    }

    #[tokio::test]
    async fn requests_and_errors_are_told_by_their_kind() {
        let metrics = Metrics::new();
        let catalog = Counted::new(Arc::new(Closed), &metrics);
        let table = TableName { database: "db".to_owned(), table: "t".to_owned() };
        let entry = Entry { metadata_location: String::new(), version: String::new(), metadata: None };
        let metadata = NewMetadata {
            location: String::new(),
            number: 0,
            id: uuid::Uuid::nil(),
            json: bytes::Bytes::new(),
            columns: Vec::new(),
            updates: Vec::new(),
            requirements: Vec::new(),
        };
        assert_eq!(catalog.load(&table).await.unwrap(), None);
        catalog.create(&table, &metadata).await.unwrap_err();
        for _ in 0..2 {
            catalog.swap(&table, &entry, &metadata).await.unwrap_err();
        }
        let text = metrics.encode().unwrap();
        for line in [
            "ottla_lake_catalog_requests_total{request=\"load\"} 1",
            "ottla_lake_catalog_requests_total{request=\"create\"} 1",
            "ottla_lake_catalog_requests_total{request=\"swap\"} 2",
            "ottla_lake_catalog_errors_total{error=\"refused\"} 1",
            "ottla_lake_catalog_errors_total{error=\"conflict\"} 2",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is missing in\n{text}");
        }
    }
}
