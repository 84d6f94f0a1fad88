//! Topics as Iceberg tables: the records of committed segments as Parquet files that any Iceberg engine queries with SQL.
//!
//! - [`record`]: a record as it comes from the log.
//! - [`schema`]: the columns of a table, where their values come from, and how they grow.
//! - [`data_file`]: a finished Parquet file, with what Iceberg wants to know about it.
//! - [`catalog`]: what is asked of a catalog of tables.

pub mod catalog;
pub mod data_file;
pub mod record;
pub mod schema;
