//! Control records: what the broker itself writes between the records of clients, in batches of their own.
//!
//! The key is (version, type), both 16 bits; the value of the two transaction markers is (version, coordinator
//! epoch). Newer versions may only append fields, so a reader takes the front and ignores the rest.

use bytes::Bytes;

use crate::builder::{BatchBuilder, BatchOptions, BuildError};
use crate::quantity::{ProducerEpoch, ProducerId, TimestampMs};

const KEY_VERSION: i16 = 0;
const END_TXN_VERSION: i16 = 0;

/// The type of a control record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ControlKind {
    /// The producer's open transaction ends here, its records are to be skipped.
    Abort,
    /// The producer's open transaction ends here, its records count.
    Commit,
    /// A type of Kafka's Raft logs (leader change, snapshot header, ...) or of the future; not for partitions of clients.
    Other(i16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("a control record without a key")]
    NoKey,
    #[error("a control record's {part} has {len} bytes")]
    TooShort { part: &'static str, len: usize },
    #[error("a control record's {part} has version {version}")]
    Version { part: &'static str, version: i16 },
    #[error("a control record of type {found:?} where a transaction marker was expected")]
    NotEndTxn { found: ControlKind },
}

fn versioned<const N: usize>(part: &'static str, bytes: &[u8]) -> Result<[u8; N], ControlError> {
    let too_short = ControlError::TooShort { part, len: bytes.len() };
    let (version, rest) = bytes.split_first_chunk::<2>().ok_or(too_short)?;
    let version = i16::from_be_bytes(*version);
    if version < 0 {
        return Err(ControlError::Version { part, version });
    }
    rest.first_chunk::<N>().copied().ok_or(too_short)
}

impl ControlKind {
    /// The type that a control record's key names.
    pub fn parse(key: Option<&[u8]>) -> Result<ControlKind, ControlError> {
        let kind = versioned::<2>("key", key.ok_or(ControlError::NoKey)?)?;
        Ok(match i16::from_be_bytes(kind) {
            0 => ControlKind::Abort,
            1 => ControlKind::Commit,
            other => ControlKind::Other(other),
        })
    }

    /// The key of a control record of this type.
    pub fn key(self) -> [u8; 4] {
        let kind: i16 = match self {
            ControlKind::Abort => 0,
            ControlKind::Commit => 1,
            ControlKind::Other(other) => other,
        };
        let mut key = [0; 4];
        key[..2].copy_from_slice(&KEY_VERSION.to_be_bytes());
        key[2..].copy_from_slice(&kind.to_be_bytes());
        key
    }
}

/// A transaction marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTxnMarker {
    /// `Abort` or `Commit`.
    pub kind: ControlKind,
    /// Fences markers of an older transaction coordinator.
    pub coordinator_epoch: i32,
}

impl EndTxnMarker {
    pub fn parse(key: Option<&[u8]>, value: Option<&[u8]>) -> Result<EndTxnMarker, ControlError> {
        let kind = ControlKind::parse(key)?;
        if let ControlKind::Other(_) = kind {
            return Err(ControlError::NotEndTxn { found: kind });
        }
        let epoch = versioned::<4>("value", value.unwrap_or_default())?;
        Ok(EndTxnMarker { kind, coordinator_epoch: i32::from_be_bytes(epoch) })
    }

    pub fn value(&self) -> [u8; 6] {
        let mut value = [0; 6];
        value[..2].copy_from_slice(&END_TXN_VERSION.to_be_bytes());
        value[2..].copy_from_slice(&self.coordinator_epoch.to_be_bytes());
        value
    }
}

/// The batch that a partition leader appends to end a producer's transaction.
pub fn build_end_txn_marker(
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    marker: EndTxnMarker,
    now: TimestampMs,
) -> Result<Bytes, BuildError> {
    let mut builder = BatchBuilder::new(BatchOptions {
        producer_id,
        producer_epoch,
        is_transactional: true,
        is_control: true,
        ..BatchOptions::default()
    });
    builder.push(now, Some(&marker.kind.key()), Some(&marker.value()), &[])?;
    builder.build()
}
