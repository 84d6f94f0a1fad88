//! SQL on tables, with DataFusion: for whoever has a table and no other engine.
//!
//! - [`Engine`]: the tables by their names, each loaded when a query names it.
//! - [`Answer`]: the rows, as they come: nothing waits for the last one but what the query itself must sort or group.
//! - `scan`: the files of a table, of which those are left out that cannot hold what is asked for.
//! - `text`: rows as text.

mod scan;
mod text;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, SchemaProvider, TableProvider};
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::context::{SQLOptions, SessionConfig, SessionContext};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::TableType;
use futures::TryStreamExt;

use crate::table::TableAt;
use scan::Scanned;
pub use text::Rows;

const CATALOG: &str = "ottla";
/// Tables that are named when somebody asks for one that is not there.
const NAMES_TOLD_MAX: usize = 20;

/// A sentence for whoever asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct QueryError(String);

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> QueryError {
        QueryError(match error.find_root() {
            // One of ours, on its way through the engine.
            DataFusionError::External(source) => source.to_string(),
            root => root.strip_backtrace(),
        })
    }
}

pub struct Engine {
    session: SessionContext,
}

impl Engine {
    /// Tables are known by their names, with or without that of their database in front. `memory_max`: of what the engine holds
    /// to sort, group and join; beyond it the engine uses the directory for temporary files, or gives up.
    pub fn new(database: &str, tables: Vec<TableAt>, memory_max: usize) -> Result<Engine, QueryError> {
        let config = SessionConfig::new()
            .with_create_default_catalog_and_schema(false)
            .with_default_catalog_and_schema(CATALOG, database)
            .with_information_schema(true);
        let runtime = RuntimeEnvBuilder::new().with_memory_limit(memory_max, 1.0).build_arc()?;
        let session = SessionContext::new_with_config_rt(config, runtime);
        let tables = tables.into_iter().map(|at| (at.name.table.clone(), at)).collect();
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema(database, Arc::new(Database { tables }))?;
        session.register_catalog(CATALOG, Arc::new(catalog));
        Ok(Engine { session })
    }

    /// What changes something is refused: only the brokers write.
    pub async fn ask(&self, sql: &str) -> Result<Answer, QueryError> {
        let reading =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let planned = self.session.sql_with_options(sql, reading).await?;
        Ok(Answer { batches: planned.execute_stream().await? })
    }
}

pub struct Answer {
    batches: SendableRecordBatchStream,
}

impl Answer {
    pub fn columns(&self) -> Vec<String> {
        self.batches.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The next few thousand at most; None after the last.
    pub async fn next(&mut self) -> Result<Option<Rows>, QueryError> {
        Ok(self.batches.try_next().await?.map(Rows::new))
    }
}

struct Database {
    tables: BTreeMap<String, TableAt>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.tables.keys()).finish()
    }
}

impl Database {
    async fn scanned(&self, name: &str) -> Result<Scanned, QueryError> {
        let Some(at) = self.tables.get(name) else {
            let known: Vec<&str> = self.tables.keys().take(NAMES_TOLD_MAX).map(String::as_str).collect();
            let more = if known.len() < self.tables.len() { " and others" } else { "" };
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") + more };
            return Err(QueryError(format!("there is no table {name}; there are: {known}")));
        };
        let failed = |error: crate::table::TableError| QueryError(error.to_string());
        let Some(table) = at.load().await.map_err(failed)? else {
            return Err(QueryError(format!(
                "table {} is made with its first row, and has none yet",
                at.name
            )));
        };
        Ok(Scanned::new(table.data_files().await.map_err(failed)?))
    }
}

#[async_trait]
impl SchemaProvider for Database {
    fn table_names(&self) -> Vec<String> {
        self.tables.keys().cloned().collect()
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }

    /// Known without a look at the table.
    async fn table_type(&self, name: &str) -> Result<Option<TableType>, DataFusionError> {
        Ok(self.tables.get(name).map(|_| TableType::Base))
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        match self.scanned(name).await {
            Ok(table) => Ok(Some(Arc::new(table))),
            Err(error) => Err(DataFusionError::External(Box::new(error))),
        }
    }
}

#[cfg(test)]
mod tests;
