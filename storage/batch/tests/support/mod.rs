//! What the tests of this crate share: making batches, and breaking them with a CRC that still fits.
#![allow(dead_code)] // each test binary uses its part

use bytes::Bytes;
use ottla_batch::{
    BatchBuilder, BatchHeader, BatchOptions, Codec, HEADER_LEN, Header, LOG_OVERHEAD, ProducerEpoch,
    ProducerId, Sequence, TimestampMs, crc32c,
};

pub const NOW: TimestampMs = TimestampMs(1_700_000_000_000);

pub fn options(codec: Codec) -> BatchOptions {
    BatchOptions {
        codec,
        producer_id: ProducerId(4711),
        producer_epoch: ProducerEpoch(3),
        base_sequence: Sequence(7),
        ..BatchOptions::default()
    }
}

/// Three records with keys, one without a value, one with headers that repeat a key.
pub fn builder(options: BatchOptions) -> BatchBuilder {
    let mut builder = BatchBuilder::new(options);
    let headers = [
        Header { key: Bytes::from_static(b"trace"), value: Some(Bytes::from_static(b"a")) },
        Header { key: Bytes::from_static(b"trace"), value: Some(Bytes::from_static(b"b")) },
        Header { key: Bytes::from_static(b"none"), value: None },
    ];
    builder.push(NOW, Some(b"first"), Some(&[b'x'; 300]), &headers).unwrap();
    builder.push(TimestampMs(NOW.0 + 5), Some(b"second"), None, &[]).unwrap();
    builder.push(TimestampMs(NOW.0 - 5), Some(b""), Some(b""), &[]).unwrap();
    builder
}

pub fn sample(codec: Codec) -> Bytes {
    builder(options(codec)).build().unwrap()
}

/// Sets length and CRC to what the bytes are.
pub fn seal(batch: &mut [u8]) {
    let length = (batch.len() - LOG_OVERHEAD) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// `batch` with its header changed and sealed again.
pub fn with_header(batch: &[u8], change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut header = BatchHeader::parse(batch).unwrap();
    change(&mut header);
    let mut bytes = batch.to_vec();
    bytes[..HEADER_LEN].copy_from_slice(&header.encode());
    seal(&mut bytes);
    bytes.into()
}

/// `batch` with another payload (as it is to be stored) and sealed again.
pub fn with_payload(batch: &[u8], payload: &[u8]) -> Bytes {
    let mut bytes = batch[..HEADER_LEN].to_vec();
    bytes.extend_from_slice(payload);
    seal(&mut bytes);
    bytes.into()
}
