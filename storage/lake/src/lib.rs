//! Topics as Iceberg tables: the records of committed segments as Parquet files that any Iceberg engine queries with SQL.
