//! Opens the catalog of `ottla.lake.catalog`.

use std::sync::Arc;

use ottla_lake::catalog::Catalog;
use ottla_lake::file_catalog::FileCatalog;
use ottla_lake::warehouse::Warehouse;

use crate::config::{LakeCatalog, NodeConfig};

pub async fn open(config: &NodeConfig, warehouse: Arc<Warehouse>) -> Arc<dyn Catalog> {
    match &config.lake.catalog {
        LakeCatalog::None => Arc::new(FileCatalog::new(warehouse)),
        #[cfg(feature = "glue")]
        LakeCatalog::Glue { endpoint, catalog_id, s3 } => {
            let glue = ottla_aws::glue::GlueConfig {
                endpoint: endpoint.clone(),
                catalog_id: catalog_id.clone(),
                access: crate::tier::bucket::access(s3),
            };
            Arc::new(ottla_aws::glue::GlueCatalog::open(glue, warehouse).await)
        }
        #[cfg(feature = "rest")]
        LakeCatalog::Rest(rest) => {
            let opened = ottla_rest::RestCatalog::open(rest);
            Arc::new(opened.expect("the configuration was checked by opening it"))
        }
    }
}
