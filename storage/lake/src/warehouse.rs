//! Where tables lie: the object store, and how its keys become the absolute locations that Iceberg's files name.

use std::sync::Arc;

use bytes::Bytes;
use ottla_storage::tiering::store::{ByteRange, Condition, Content, ObjectStore, StoreError};

use crate::catalog::TableName;

/// Of a file of metadata, manifests or lists of them. Larger ones are refused: they are read whole.
const METADATA_BYTES_MAX: usize = 256 << 20;

#[derive(Clone)]
pub struct Warehouse {
    store: Arc<dyn ObjectStore>,
    /// Of the store's empty key, without a slash at its end: `s3://bucket`, `file:///directory`.
    url: String,
    /// Of all keys, empty or without slashes at its ends.
    prefix: String,
}

impl Warehouse {
    /// `url`: the location of the store's empty key; `prefix`: that of the keys of whatever Ottla keeps there.
    pub fn new(store: Arc<dyn ObjectStore>, url: &str, prefix: &str) -> Warehouse {
        let (url, prefix) = (url.trim_end_matches('/').to_owned(), prefix.trim_matches('/').to_owned());
        Warehouse { store, url, prefix }
    }

    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Where a new table lies.
    pub fn table_location(&self, table: &TableName) -> String {
        let key = format!("lake/{}/{}", table.database, table.table);
        match self.prefix.as_str() {
            "" => self.location(&key),
            prefix => self.location(&format!("{prefix}/{key}")),
        }
    }

    pub fn location(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }

    /// The key of what lies there, if it lies in this store. Hadoop's names for S3 are understood.
    pub fn key<'l>(&self, location: &'l str) -> Option<&'l str> {
        let of_url = |url: &str| location.strip_prefix(url)?.strip_prefix('/');
        of_url(&self.url).or_else(|| {
            let bucket = self.url.strip_prefix("s3://")?;
            ["s3a", "s3n"].iter().find_map(|scheme| of_url(&format!("{scheme}://{bucket}")))
        })
    }

    fn key_or_refuse<'l>(&self, location: &'l str) -> Result<&'l str, StoreError> {
        self.key(location).ok_or_else(|| {
            StoreError::Refused(format!("{location} is not in {}, the store of this table", self.url))
        })
    }

    /// A whole file of metadata.
    pub async fn read(&self, location: &str) -> Result<Bytes, StoreError> {
        let key = self.key_or_refuse(location)?;
        Ok(self.store.get(key, ByteRange::Whole { bytes_max: METADATA_BYTES_MAX }).await?.bytes)
    }

    pub async fn write(
        &self,
        location: &str,
        content: Content,
        condition: Condition,
    ) -> Result<(), StoreError> {
        self.store.put(self.key_or_refuse(location)?, content, condition).await
    }
}
