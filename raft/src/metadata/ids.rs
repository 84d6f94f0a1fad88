//! The newtypes of metadata quantities, and Kafka's base64 spelling of uuids.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A broker's `node.id`; never negative in the image. -1 means "none" on the wire and is an `Option` here.
    BrokerId(i32)
);
number!(
    /// Given to a broker at its registration; a later registration has a greater one. An offset of the metadata log.
    BrokerEpoch(i64)
);
number!(
    /// Raised with every change of a partition's leader; what clients and followers are fenced by.
    LeaderEpoch(i32)
);
number!(
    /// Raised with every change of a partition's record, the leader's included.
    PartitionEpoch(i32)
);

impl LeaderEpoch {
    pub fn next(self) -> LeaderEpoch {
        LeaderEpoch(self.0.saturating_add(1))
    }
}

impl PartitionEpoch {
    pub fn next(self) -> PartitionEpoch {
        PartitionEpoch(self.0.saturating_add(1))
    }
}

/// A topic's identity (KIP-516). A topic deleted and created again by the same name has another one.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub Uuid);

/// The uuid that Kafka gives its own metadata topic; no topic may have it.
pub const METADATA_TOPIC_ID: TopicId = TopicId(Uuid::from_u128(1));

impl TopicId {
    /// The zero uuid: "no id" on the wire.
    pub const ZERO: TopicId = TopicId(Uuid::nil());

    /// True for the uuids that Kafka keeps for itself or that its tools could mistake for an option.
    pub fn is_reserved(self) -> bool {
        self == TopicId::ZERO || self == METADATA_TOPIC_ID
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base64_url(self.0.as_bytes()))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TopicId {
    type Err = NotAUuid;

    fn from_str(text: &str) -> Result<TopicId, NotAUuid> {
        uuid_from_base64_url(text).map(TopicId).ok_or_else(|| NotAUuid(text.chars().take(64).collect()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a uuid in Kafka's base64 form (22 characters of A-Z a-z 0-9 - _)")]
pub struct NotAUuid(pub String);

/// What tells clusters apart: 22 characters when generated; an operator may supply any non-empty text of up to 64.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Arc<str>);

impl ClusterId {
    /// Of an image before the first controller has named the cluster; nobody outside of this crate sees it.
    pub(crate) fn unknown() -> ClusterId {
        ClusterId("".into())
    }

    pub(crate) fn is_known(&self) -> bool {
        !self.0.is_empty()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A new cluster id, as `kafka-storage random-uuid` prints it.
pub fn cluster_id_generate() -> ClusterId {
    loop {
        let text = base64_url(crate::random::uuid().as_bytes());
        // Kafka's tools would take a leading dash for an option.
        if !text.starts_with('-') {
            return ClusterId(text.into());
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64 for URLs without padding (RFC 4648 section 5).
pub fn base64_url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = u32::from(chunk[0]) << 16
            | u32::from(chunk.get(1).copied().unwrap_or(0)) << 8
            | u32::from(chunk.get(2).copied().unwrap_or(0));
        for position in 0..=chunk.len() {
            text.push(ALPHABET[(word >> (18 - 6 * position) & 63) as usize] as char);
        }
    }
    text
}

fn uuid_from_base64_url(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut value: u128 = 0;
    for (position, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|&known| known == byte)? as u128;
        if position < 21 {
            value = value << 6 | digit;
        } else {
            // 22 digits carry 132 bits: the last four are padding and must be zero.
            if digit & 15 != 0 {
                return None;
            }
            value = value << 2 | digit >> 4;
        }
    }
    Some(Uuid::from_u128(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_uuids_are_kafkas() {
        // Kafka's Uuid.ONE_UUID and ZERO_UUID as its toString prints them.
        assert_eq!(METADATA_TOPIC_ID.to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(TopicId::ZERO.to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        for _ in 0..100 {
            let id = TopicId(Uuid::new_v4());
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert!("AAAAAAAAAAAAAAAAAAAAAB".parse::<TopicId>().is_err(), "non-zero padding bits");
        assert!("AAAA".parse::<TopicId>().is_err());
        assert!("AAAAAAAAAAAAAAAAAAAAA!".parse::<TopicId>().is_err());
        assert_eq!(cluster_id_generate().0.len(), 22);
    }
}
