//! Amazon's services behind the traits of storage and lake: S3 as an object store, Glue as a catalog of tables.
//!
//! What is stored, and when, others decide. The SDK's own retries are off: what a request that was not answered may have done is known
//! here only, and each try is counted.

pub mod access;
mod failure;
#[cfg(feature = "glue")]
pub mod glue;
pub mod s3;
