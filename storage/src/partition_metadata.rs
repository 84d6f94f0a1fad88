//! `partition.metadata`: which topic id a partition directory belongs to, so that a topic deleted and created again
//! under the same name never finds the old one's data. Format (Kafka's): `version: 0`, newline, `topic_id: <base64url>`.

use std::io;
use std::path::Path;

use uuid::Uuid;

use crate::disk::Disk;

pub const FILE_NAME: &str = "partition.metadata";
const FILE_BYTES_MAX: u64 = 4096;

#[derive(Debug, thiserror::Error)]
pub enum PartitionMetadataError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a partition.metadata file: {0}")]
    Malformed(&'static str),
}

pub fn encode(topic_id: Uuid) -> String {
    format!("version: 0\ntopic_id: {}", encode_uuid(topic_id))
}

pub fn decode(text: &str) -> Result<Uuid, PartitionMetadataError> {
    let malformed = PartitionMetadataError::Malformed;
    let mut lines = text.lines();
    let version = lines.next().and_then(|line| line.strip_prefix("version:"));
    if version.map(str::trim) != Some("0") {
        return Err(malformed("the first line is not `version: 0`"));
    }
    let topic_id = lines
        .next()
        .and_then(|line| line.strip_prefix("topic_id:"))
        .ok_or(malformed("the second line is not `topic_id: ...`"))?;
    let topic_id = decode_uuid(topic_id.trim()).ok_or(malformed("the topic id is no base64 of 16 bytes"))?;
    if topic_id.is_nil() {
        return Err(malformed("the topic id is zero"));
    }
    Ok(topic_id)
}

/// None when there is no such file.
pub fn read(disk: &Disk, partition_dir: &Path) -> Result<Option<Uuid>, PartitionMetadataError> {
    match disk.read(&partition_dir.join(FILE_NAME), FILE_BYTES_MAX) {
        Ok(bytes) => decode(&String::from_utf8_lossy(&bytes)).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub fn write(disk: &Disk, partition_dir: &Path, topic_id: Uuid) -> io::Result<()> {
    disk.write_durably(&partition_dir.join(FILE_NAME), encode(topic_id).as_bytes())
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Kafka's text form of a UUID: base64url without padding, always 22 characters.
pub fn encode_uuid(uuid: Uuid) -> String {
    let value = uuid.as_u128();
    // 128 bits are 21 characters of 6 bits and one of the last 2 bits, shifted up by 4.
    let character = |index: u32| {
        let bits = if index < 21 { value >> (122 - 6 * index) } else { value << 4 };
        char::from(ALPHABET[(bits & 63) as usize])
    };
    (0..22).map(character).collect()
}

pub fn decode_uuid(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut value: u128 = 0;
    for (index, byte) in text.bytes().enumerate() {
        let bits = ALPHABET.iter().position(|letter| *letter == byte)? as u128;
        value = if index < 21 { (value << 6) | bits } else { (value << 2) | (bits >> 4) };
    }
    Some(Uuid::from_u128(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        // Kafka's Uuid(1, 2) and METADATA_TOPIC_ID, Uuid(0, 1).
        assert_eq!(encode_uuid(Uuid::from_u64_pair(0, 1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        let id = Uuid::from_u64_pair(1, 2);
        assert_eq!(encode(id), "version: 0\ntopic_id: AAAAAAAAAAEAAAAAAAAAAg");
        assert_eq!(decode("version: 0\ntopic_id: AAAAAAAAAAEAAAAAAAAAAg\n").unwrap(), id);
    }

    #[test]
    fn uuids_come_back() {
        for seed in 0..1000u128 {
            let uuid = Uuid::from_u128(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
            assert_eq!(decode_uuid(&encode_uuid(uuid)), Some(uuid));
        }
    }

    #[test]
    fn what_is_no_metadata_is_refused() {
        let whole = encode(Uuid::from_u64_pair(1, 2));
        for end in 0..whole.len() {
            assert!(decode(&whole[..end]).is_err(), "{:?}", &whole[..end]);
        }
        assert!(decode("version: 1\ntopic_id: AAAAAAAAAAEAAAAAAAAAAg").is_err());
        assert!(decode("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA").is_err());
        assert!(decode("version: 0\ntopic_id: AAAAAAAAAAEAAAAAAAAA+g").is_err());
    }
}
