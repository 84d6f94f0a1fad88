//! Topics as Iceberg tables: the records of committed segments as Parquet files that any Iceberg engine queries with SQL.
//!
//! - [`record`]: a record as it comes from the log.
//! - [`schema`]: the columns of a table, where their values come from, and how they grow.
//! - [`convert`]: records to rows, and what fits no row to the quarantine.
//! - [`json_schema`]: the columns that a JSON Schema asks for.
//! - [`data_file`]: a finished Parquet file, with what Iceberg wants to know about it.
//! - [`catalog`]: which metadata a table has, and a swap that has one winner.
//! - [`file_catalog`]: the one that needs no service.
//! - [`table`]: a topic's table, and the rows that come into it exactly once.
//! - [`warehouse`]: where tables lie.
//! - `query` (with the feature of that name): SQL on tables.

pub mod catalog;
mod column;
pub mod convert;
pub mod data_file;
pub mod file_catalog;
mod grow;
mod infer;
mod json;
pub mod json_schema;
mod names;
mod parquet_file;
#[cfg(feature = "query")]
pub mod query;
pub mod record;
mod rows;
mod scalar;
pub mod schema;
pub mod table;
pub mod warehouse;
