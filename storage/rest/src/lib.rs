//! An Iceberg REST catalog (the REST Catalog API of Apache Iceberg, version 1) as the catalog of tables.
//!
//! - [`RestCatalog`]: tables by that API, as `ottla_lake` asks for them.
//! - `http`: one request and its answer, both bounded; `failure`: what an answer says that is not the wanted one.
//! - `auth`: as whom the catalog is asked.

mod auth;
mod catalog;
mod failure;
mod http;

pub use auth::{Auth, ClientCredentials};
pub use catalog::{RestCatalog, RestConfig};

#[cfg(test)]
mod tests;
