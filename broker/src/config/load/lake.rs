//! Where tables are entered.

use super::*;

const CATALOG: &str = "ottla.lake.catalog";

impl Loader {
    pub(super) fn lake(&mut self, tier: Option<&TierConfig>) -> LakeConfig {
        let is_in_amazons_bucket = tier
            .is_some_and(|tier| matches!(tier.place, TierPlace::Bucket { .. }) && tier.s3.endpoint.is_none());
        let named = self.text(CATALOG);
        let catalog = match (named.as_deref(), tier) {
            (Some("rest"), Some(_)) => self.rest(),
            (Some("glue"), Some(tier)) => self.glue(tier),
            (None, Some(tier)) if is_in_amazons_bucket && cfg!(feature = "glue") => self.glue(tier),
            _ => LakeCatalog::None,
        };
        LakeConfig { database: self.text("ottla.lake.database").unwrap_or_default(), catalog }
    }
    #[cfg(feature = "glue")]
    fn glue(&mut self, tier: &TierConfig) -> LakeCatalog {
        LakeCatalog::Glue {
            endpoint: self.text("ottla.lake.glue.endpoint"),
            catalog_id: self.text("ottla.lake.glue.catalog.id"),
            s3: Box::new(tier.s3.clone()),
        }
    }

    #[cfg(not(feature = "glue"))]
    fn glue(&mut self, _tier: &TierConfig) -> LakeCatalog {
        self.refuse(CATALOG, "none: this build of Ottla has no Glue");
        LakeCatalog::None
    }

    #[cfg(feature = "rest")]
    fn rest(&mut self) -> LakeCatalog {
        use ottla_rest::{Auth, ClientCredentials, RestCatalog, RestConfig};

        let Some(uri) = self.text("ottla.lake.rest.uri") else {
            self.refuse("ottla.lake.rest.uri", "to be set where ottla.lake.catalog is rest");
            return LakeCatalog::None;
        };
        let auth = match (self.text("ottla.lake.rest.token"), self.text("ottla.lake.rest.credential")) {
            (Some(_), Some(_)) => {
                self.refuse("ottla.lake.rest.token", "not to be set beside ottla.lake.rest.credential");
                return LakeCatalog::None;
            }
            (Some(token), None) => Auth::Token(token),
            (None, Some(credential)) => {
                let (client_id, client_secret) = match credential.split_once(':') {
                    Some((id, secret)) => (Some(id.to_owned()), secret.to_owned()),
                    None => (None, credential),
                };
                Auth::Credentials(ClientCredentials {
                    client_id,
                    client_secret,
                    server_uri: self.text("ottla.lake.rest.oauth2.server.uri"),
                    scope: self.text("ottla.lake.rest.scope").unwrap_or_default(),
                })
            }
            (None, None) => Auth::None,
        };
        let config = RestConfig {
            uri,
            warehouse: self.text("ottla.lake.rest.warehouse"),
            auth,
            connect_timeout: self.duration("ottla.lake.rest.connect.timeout.ms"),
            request_timeout: self.duration("ottla.lake.rest.request.timeout.ms"),
            retries: self.integer("ottla.lake.rest.retries") as u32,
        };
        // What it is not opened with now it is not later.
        if let Err(expected) = RestCatalog::open(&config) {
            self.refuse("ottla.lake.rest.uri", expected);
            return LakeCatalog::None;
        }
        LakeCatalog::Rest(Box::new(config))
    }

    #[cfg(not(feature = "rest"))]
    fn rest(&mut self) -> LakeCatalog {
        self.refuse(CATALOG, "none or glue: this build of Ottla has no REST catalog");
        LakeCatalog::None
    }
}
