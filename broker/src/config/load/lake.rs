//! Where tables are entered.

use super::*;

const CATALOG: &str = "ottla.lake.catalog";

impl Loader {
    pub(super) fn lake(&mut self, tier: Option<&TierConfig>) -> LakeConfig {
        let is_in_amazons_bucket = tier
            .is_some_and(|tier| matches!(tier.place, TierPlace::Bucket { .. }) && tier.s3.endpoint.is_none());
        let named = self.text(CATALOG);
        let is_glue = match named.as_deref() {
            Some(name) => name == "glue",
            None => is_in_amazons_bucket && cfg!(feature = "glue"),
        };
        let catalog = match tier.filter(|_| is_glue) {
            #[cfg(feature = "glue")]
            Some(tier) => LakeCatalog::Glue {
                endpoint: self.text("ottla.lake.glue.endpoint"),
                catalog_id: self.text("ottla.lake.glue.catalog.id"),
                s3: Box::new(tier.s3.clone()),
            },
            #[cfg(not(feature = "glue"))]
            Some(_) => {
                self.refuse(CATALOG, "none: this build of Ottla has no Glue");
                LakeCatalog::None
            }
            None => LakeCatalog::None,
        };
        LakeConfig { database: self.text("ottla.lake.database").unwrap_or_default(), catalog }
    }
}
