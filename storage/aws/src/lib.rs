//! Amazon's services behind the traits of storage and lake: S3 as an object store, Glue as a catalog of tables.
