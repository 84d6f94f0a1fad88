//! `meta.properties` of a log directory: whose data it holds. Version 1 (KRaft): `version`, `cluster.id`, `node.id`,
//! `directory.id`. A Java properties file; keys that are not ours are kept out (Kafka rewrites it as a whole too).

use std::collections::HashMap;
use std::io;
use std::path::Path;

use uuid::Uuid;

use crate::disk::Disk;
use crate::partition_metadata::{decode_uuid, encode_uuid};

pub const FILE_NAME: &str = "meta.properties";
const FILE_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaProperties {
    pub cluster_id: String,
    pub node_id: i32,
    /// None in files of Kafka before 3.7.
    pub directory_id: Option<Uuid>,
}

#[derive(Debug, thiserror::Error)]
pub enum MetaPropertiesError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("meta.properties: {0}")]
    Malformed(String),
}

pub fn encode(meta: &MetaProperties) -> String {
    let directory_id =
        meta.directory_id.map(|id| format!("directory.id={}\n", encode_uuid(id))).unwrap_or_default();
    // The order of the keys is Kafka's: by name.
    format!("#\ncluster.id={}\n{directory_id}node.id={}\nversion=1\n", escape(&meta.cluster_id), meta.node_id)
}

pub fn decode(text: &str) -> Result<MetaProperties, MetaPropertiesError> {
    let malformed = |what: &str| MetaPropertiesError::Malformed(what.to_owned());
    let mut values = HashMap::new();
    for line in text.lines().map(str::trim_start) {
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let (key, value) = line.split_once('=').ok_or_else(|| malformed("a line without `=`"))?;
        values.insert(key.trim_end(), unescape(value.trim_start()));
    }
    match values.get("version").map(String::as_str) {
        Some("1") => {}
        Some(other) => return Err(malformed(&format!("version {other}, expected 1"))),
        None => return Err(malformed("no version")),
    }
    let cluster_id = values.get("cluster.id").filter(|id| !id.is_empty());
    let node_id = values.get("node.id").and_then(|id| id.parse().ok());
    let directory_id = match values.get("directory.id") {
        None => None,
        Some(text) => Some(decode_uuid(text).ok_or_else(|| malformed("directory.id is no UUID"))?),
    };
    Ok(MetaProperties {
        cluster_id: cluster_id.cloned().ok_or_else(|| malformed("no cluster.id"))?,
        node_id: node_id.ok_or_else(|| malformed("no node.id"))?,
        directory_id,
    })
}

/// None when there is no such file: the directory was never used.
pub fn read(disk: &Disk, log_dir: &Path) -> Result<Option<MetaProperties>, MetaPropertiesError> {
    match disk.read(&log_dir.join(FILE_NAME), FILE_BYTES_MAX) {
        Ok(bytes) => decode(&String::from_utf8_lossy(&bytes)).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub fn write(disk: &Disk, log_dir: &Path, meta: &MetaProperties) -> io::Result<()> {
    disk.write_durably(&log_dir.join(FILE_NAME), encode(meta).as_bytes())
}

/// Cluster ids are base64url in practice; what a properties file would read differently is escaped.
fn escape(value: &str) -> String {
    value
        .chars()
        .flat_map(|c| matches!(c, '\\' | '=' | ':' | '#' | '!').then_some('\\').into_iter().chain([c]))
        .collect()
}

fn unescape(value: &str) -> String {
    let mut characters = value.chars();
    let mut plain = String::new();
    while let Some(c) = characters.next() {
        plain.extend(if c == '\\' { characters.next() } else { Some(c) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> MetaProperties {
        MetaProperties {
            cluster_id: "MkU3OEVBNTcwNTJENDM2Qg".to_owned(),
            node_id: 1,
            directory_id: Some(Uuid::from_u64_pair(1, 2)),
        }
    }

    #[test]
    fn golden() {
        let text = "#\ncluster.id=MkU3OEVBNTcwNTJENDM2Qg\ndirectory.id=AAAAAAAAAAEAAAAAAAAAAg\nnode.id=1\nversion=1\n";
        assert_eq!(encode(&sample()), text);
        assert_eq!(decode(text).unwrap(), sample());
        // As Kafka's storage tool writes it: a date comment, another order.
        let kafka = "#\n#Tue Mar 05 10:00:00 UTC 2024\nnode.id=1\nversion=1\ndirectory.id=AAAAAAAAAAEAAAAAAAAAAg\ncluster.id=MkU3OEVBNTcwNTJENDM2Qg\n";
        assert_eq!(decode(kafka).unwrap(), sample());
    }

    #[test]
    fn odd_cluster_ids_come_back() {
        let meta = MetaProperties { cluster_id: "a=b\\c:#!".to_owned(), ..sample() };
        assert_eq!(decode(&encode(&meta)).unwrap(), meta);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, what) in [
            ("cluster.id=a\nnode.id=1\n", "no version"),
            ("version=0\nbroker.id=1\n", "version 0, expected 1"),
            ("version=1\nnode.id=1\n", "no cluster.id"),
            ("version=1\ncluster.id=a\nnode.id=x\n", "no node.id"),
            ("version=1\ncluster.id=a\nnode.id=1\ndirectory.id=zz\n", "directory.id is no UUID"),
        ] {
            let error = decode(text).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
