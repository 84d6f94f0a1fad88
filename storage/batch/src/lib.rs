//! Kafka's record batch, format v2: views, checks, iteration, building, compression.
//!
//! Used by the log (what may be appended, and what it must know of a batch without parsing it again), by the
//! client and by the coordinators (building and reading batches). Pure: bytes and `now` in, values out; no files,
//! no clock. Invariants:
//! - Bytes from a client or a peer never panic here, and memory follows what arrived and the caller's bounds,
//!   never a length that the bytes claim.
//! - The uncompressed path copies no payload and allocates nothing per record.
//! - What `check_produced` accepts can be read by every consumer that can read Kafka's own logs.

mod builder;
mod check;
mod codec;
mod control;
mod crc;
mod error;
mod header;
mod lz4;
pub mod planted;
mod quantity;
mod record;
mod snappy;
mod stream;
mod varint;
mod zstd_stream;

pub use builder::{BatchBuilder, BatchOptions, BuildError};
pub use check::{
    AppendOrigin, AppendPolicy, CheckedBatch, CheckedBatches, CompressionPolicy, check_produced,
    check_replicated,
};
pub use codec::{Codec, DecompressError, compress, decompress};
pub use control::{ControlError, ControlKind, EndTxnMarker, build_end_txn_marker};
pub use crc::crc32c;
pub use error::{BatchError, RecordError, RecordFault, RecordFlaw};
pub use header::{BatchHeader, HEADER_LEN, LOG_OVERHEAD, MAGIC, TimestampType};
pub use quantity::{
    LeaderEpoch, NO_SEQUENCE, NO_TIMESTAMP, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs,
};
pub use record::{Header, HeaderRefs, Record, RecordIter, RecordRef, RecordRefs, records};
