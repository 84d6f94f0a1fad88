//! Where tables lie and which catalog they are entered in, as a broker is configured: for committers, and for commands.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_batch::Offset;
use ottla_lake::catalog::{Catalog, TableName};
use ottla_lake::table::{Origin, TableAt, TableError};
use ottla_lake::warehouse::Warehouse;

use super::catalog;
use super::catalog_metrics::Counted;
use crate::clock;
use crate::config::{NodeConfig, TierPlace};
use crate::metrics::Metrics;
use crate::tier::open::TierStore;

#[derive(Clone)]
pub struct Tables {
    warehouse: Arc<Warehouse>,
    catalog: Arc<dyn Catalog>,
    database: String,
}

impl Tables {
    pub async fn open(config: &NodeConfig, store: &TierStore) -> Tables {
        let url = match &store.place {
            TierPlace::Directory(path) => {
                // Iceberg's files name each other by absolute locations.
                let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                format!("file://{}", path.display())
            }
            TierPlace::Bucket { bucket, .. } => format!("s3://{bucket}"),
        };
        let warehouse = Arc::new(Warehouse::new(Arc::clone(&store.store), &url, &store.prefix));
        let catalog = catalog::open(config, Arc::clone(&warehouse)).await;
        Tables { warehouse, catalog, database: config.lake.database.clone() }
    }

    /// The same, with their catalog's requests in the metrics.
    pub(super) fn counted(self, metrics: &Metrics) -> Tables {
        Tables { catalog: Arc::new(Counted::new(self.catalog, metrics)), ..self }
    }

    /// Of a topic that was made anew with the records that it had in another cluster up to `ends`: its rows are not made again.
    pub async fn adopt(
        &self,
        table: &str,
        from: &Origin,
        to: &Origin,
        ends: &BTreeMap<i32, Offset>,
    ) -> Result<(), TableError> {
        let at = self.at(table);
        for at in [at.quarantine(), at] {
            if let Some(mut table) = at.load().await? {
                table.adopt(from, to, ends, clock::now()).await?;
            }
        }
        Ok(())
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    pub fn at(&self, table: &str) -> TableAt {
        let name = TableName { database: self.database.clone(), table: table.to_owned() };
        TableAt { warehouse: Arc::clone(&self.warehouse), catalog: Arc::clone(&self.catalog), name }
    }
}
