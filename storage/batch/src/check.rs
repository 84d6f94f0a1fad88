//! What may enter a log: `check_produced` for a leader (everything Kafka's LogValidator asks of format 2), and
//! `check_replicated` for a follower (framing and CRC: the leader has checked the rest).
//!
//! An uncompressed batch costs one pass of the CRC and one walk over the borders of its records; a compressed one is
//! decompressed as a stream in constant memory. Only what the policy changes is written anew: the header where
//! the timestamp type or the largest timestamp differ (which costs a second CRC), the payload where the topic asks for
//! another compression.
//!
//! Stricter than Kafka, on purpose: offset deltas that do not count 0, 1, 2, ... are refused (Kafka renumbers them in
//! compressed batches and stores them as they are in others), a producer that claims LogAppendTime is refused on every topic,
//! and so are bytes after the last whole batch (Kafka cuts them off).

use bytes::Bytes;

use crate::codec::{Codec, Decoder, Encoder, is_output_full};
use crate::crc::{crc32c, crc32c_of_two};
use crate::error::{BatchError, RecordError, RecordFault};
use crate::header::{BatchHeader, CRC_COVERS_FROM, HEADER_LEN, LOG_OVERHEAD, TimestampType};
use crate::quantity::{LeaderEpoch, NO_TIMESTAMP, Offset, TimestampMs};
use crate::record::{Cursor, RecordIter};
use crate::stream::{RecordFacts, RecordStream, StreamError};

/// How many rejected records an error lists; the response to a hostile batch must not outgrow it.
const RECORD_ERRORS_MAX: usize = 1000;

/// What the topic makes of the producer's compression (`compression.type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressionPolicy {
    /// Stored as it came.
    Producer,
    /// Stored with this codec and level; a batch that came with the codec is left alone, whatever its level.
    Fixed(Codec, i32),
}

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendOrigin {
    Client,
    /// The broker's own coordinators: they may write control batches, and number no sequences.
    Coordinator,
}

/// The topic's and broker's rules for appended batches.
#[derive(Clone, Copy, Debug)]
pub struct AppendPolicy {
    pub origin: AppendOrigin,
    /// Batches in one call; Kafka allows one per partition of a Produce request.
    pub batches_max: usize,
    /// `max.message.bytes`: the size of a batch, as it came and as it would be stored.
    pub batch_bytes_max: usize,
    /// `message.timestamp.type`
    pub timestamp_type: TimestampType,
    pub compression: CompressionPolicy,
    /// `message.timestamp.before.max.ms`
    pub timestamp_before_ms_max: i64,
    /// `message.timestamp.after.max.ms`
    pub timestamp_after_ms_max: i64,
    /// The topic is compacted.
    pub keys_required: bool,
    /// Bounds the work, and with it the time, that one compressed batch can ask for. Kafka has no such bound.
    pub decompressed_bytes_max: usize,
    pub now: TimestampMs,
}

impl AppendPolicy {
    /// Kafka's defaults, for a client.
    pub fn new(now: TimestampMs) -> AppendPolicy {
        AppendPolicy {
            origin: AppendOrigin::Client,
            batches_max: 1,
            batch_bytes_max: 1_048_588,
            timestamp_type: TimestampType::CreateTime,
            compression: CompressionPolicy::Producer,
            timestamp_before_ms_max: i64::MAX,
            timestamp_after_ms_max: 3_600_000,
            keys_required: false,
            decompressed_bytes_max: 256 * 1024 * 1024,
            now,
        }
    }
}

/// A batch that may be appended.
#[derive(Clone, Debug)]
pub struct CheckedBatch {
    header: BatchHeader,
    /// What follows the header; a slice of what came unless it was compressed anew.
    payload: Bytes,
    offset_delta_of_max_timestamp: Option<i32>,
}

impl CheckedBatch {
    /// The header as it is to be stored, but for base offset and leader epoch, which a leader assigns.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The header's bytes with what the leader assigns, to be written in front of `payload`. The CRC does not cover it.
    pub fn header_bytes(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> [u8; HEADER_LEN] {
        BatchHeader { base_offset, leader_epoch, ..self.header }.encode()
    }

    /// What follows the header.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    pub fn size_in_bytes(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// Offset delta of the first record with the largest timestamp, with LogAppendTime therefore 0. Not known (`None`) of replicated batches, whose records are not read.
    pub fn offset_delta_of_max_timestamp(&self) -> Option<i32> {
        self.offset_delta_of_max_timestamp
    }

    /// The records, with offsets from `base_offset` on.
    pub fn records(
        &self,
        base_offset: Offset,
        decompressed_bytes_max: usize,
    ) -> Result<RecordIter, BatchError> {
        let header = BatchHeader { base_offset, ..self.header };
        RecordIter::new(header, self.payload.clone(), decompressed_bytes_max)
    }
}

/// Batches that passed a check, in order.
#[derive(Clone, Debug)]
pub struct CheckedBatches {
    batches: Vec<CheckedBatch>,
    /// All of them as they came, if none was changed.
    contiguous: Option<Bytes>,
    size_in_bytes: usize,
}

impl CheckedBatches {
    fn new(batches: Vec<CheckedBatch>, contiguous: Option<Bytes>) -> CheckedBatches {
        let size_in_bytes = batches.iter().map(CheckedBatch::size_in_bytes).sum();
        CheckedBatches { batches, contiguous, size_in_bytes }
    }

    pub fn as_slice(&self) -> &[CheckedBatch] {
        &self.batches
    }

    pub fn iter(&self) -> std::slice::Iter<'_, CheckedBatch> {
        self.batches.iter()
    }

    /// Only after `check_replicated`, when not one whole batch came.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Some of them.
    pub fn select(&self, range: std::ops::Range<usize>) -> CheckedBatches {
        if range == (0..self.batches.len()) {
            return self.clone();
        }
        CheckedBatches::new(self.batches[range].to_vec(), None)
    }

    /// Bytes of all batches as they are to be stored.
    pub fn size_in_bytes(&self) -> usize {
        self.size_in_bytes
    }

    /// All batches in one slice with the base offsets and leader epochs that they came with (what a follower writes);
    /// `None` if the policy changed one.
    pub fn contiguous(&self) -> Option<&Bytes> {
        self.contiguous.as_ref()
    }
}

impl<'a> IntoIterator for &'a CheckedBatches {
    type Item = &'a CheckedBatch;
    type IntoIter = std::slice::Iter<'a, CheckedBatch>;

    fn into_iter(self) -> Self::IntoIter {
        self.batches.iter()
    }
}

/// The batch at the front of `bytes`, framing and CRC checked.
fn whole_batch(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    let size = header.size_in_bytes();
    if bytes.len() < size {
        return Err(BatchError::Truncated { needed: size, available: bytes.len() });
    }
    Ok(header)
}

impl BatchHeader {
    /// Checks the CRC. `batch` is the whole batch with this header at its front; what follows it is ignored.
    pub fn check_crc(&self, batch: &[u8]) -> Result<(), BatchError> {
        let size = self.size_in_bytes();
        let covered = batch
            .get(CRC_COVERS_FROM..size)
            .ok_or(BatchError::Truncated { needed: size, available: batch.len() })?;
        let computed = crc32c(covered);
        if computed == self.crc {
            Ok(())
        } else {
            Err(BatchError::CrcMismatch { stored: self.crc, computed })
        }
    }
}

/// Checks what a follower got from its leader. A batch that is cut off at the end (fetch responses end where their
/// size limit says) is left out.
pub fn check_replicated(records: Bytes) -> Result<CheckedBatches, BatchError> {
    let mut batches = Vec::new();
    let mut position = 0;
    loop {
        let rest = &records[position..];
        let header = match whole_batch(rest) {
            Ok(header) => header,
            Err(BatchError::Truncated { .. }) => break,
            Err(error) => return Err(error),
        };
        header.check_crc(rest)?;
        if header.last_offset_delta < 0 || header.records_count < 0 {
            return Err(count_mismatch(&header));
        }
        let end = position + header.size_in_bytes();
        let payload = records.slice(position + HEADER_LEN..end);
        batches.push(CheckedBatch { header, payload, offset_delta_of_max_timestamp: None });
        position = end;
    }
    Ok(CheckedBatches::new(batches, Some(records.slice(..position))))
}

/// Checks what a leader is asked to append, and rewrites what the topic's configuration demands.
pub fn check_produced(records: Bytes, policy: &AppendPolicy) -> Result<CheckedBatches, BatchError> {
    if records.is_empty() {
        return Err(BatchError::NoBatch);
    }
    let mut batches = Vec::with_capacity(1);
    let mut is_unchanged = true;
    let mut position = 0;
    while position < records.len() {
        if batches.len() == policy.batches_max {
            return Err(BatchError::TooManyBatches { batches_max: policy.batches_max });
        }
        let header = whole_batch(&records[position..])?;
        let batch = records.slice(position..position + header.size_in_bytes());
        position += batch.len();
        let checked = check_batch(header, batch, policy)?;
        is_unchanged &= checked.header == header;
        batches.push(checked);
    }
    Ok(CheckedBatches::new(batches, is_unchanged.then_some(records)))
}

fn check_batch(header: BatchHeader, batch: Bytes, policy: &AppendPolicy) -> Result<CheckedBatch, BatchError> {
    if header.base_offset != Offset(0) {
        return Err(BatchError::BaseOffsetNotZero { base_offset: header.base_offset.0 });
    }
    if batch.len() > policy.batch_bytes_max {
        return Err(BatchError::BatchTooLarge { size: batch.len(), batch_bytes_max: policy.batch_bytes_max });
    }
    header.check_crc(&batch)?;
    let source = header.codec()?;
    check_header(&header, policy)?;
    let target = target_compression(&header, source, policy);
    let payload = batch.slice(HEADER_LEN..);
    let mut judge = Judge::new(&header, policy);
    let recompressed = if source == Codec::None {
        judge.walk_slice(&payload)?;
        judge.check()?;
        target.map(|(codec, level)| compress_payload(codec, level, &payload, policy)).transpose()?
    } else {
        let recompressed = judge.walk_stream(source, &payload, target)?;
        judge.check()?;
        recompressed
    };
    let (max_timestamp, offset_delta_of_max_timestamp) = judge.max_timestamp();
    let mut stored = BatchHeader { max_timestamp, ..header };
    stored.set_timestamp_type(policy.timestamp_type);
    let payload = match (recompressed, target) {
        (Some(recompressed), Some((codec, _level))) => {
            let size = HEADER_LEN + recompressed.len();
            stored.set_codec(codec);
            // Not more than `batch_bytes_max`, which came from a 32-bit configuration, but that is not known here.
            stored.batch_length = i32::try_from(size - LOG_OVERHEAD)
                .map_err(|_| BatchError::BatchTooLarge { size, batch_bytes_max: policy.batch_bytes_max })?;
            Bytes::from(recompressed)
        }
        _ => payload,
    };
    if stored != header {
        stored.crc = crc32c_of_two(&stored.encode()[CRC_COVERS_FROM..], &payload);
    }
    Ok(CheckedBatch {
        header: stored,
        payload,
        offset_delta_of_max_timestamp: Some(offset_delta_of_max_timestamp),
    })
}

fn count_mismatch(header: &BatchHeader) -> BatchError {
    BatchError::CountMismatch {
        records_count: header.records_count,
        last_offset_delta: header.last_offset_delta,
    }
}

fn check_header(header: &BatchHeader, policy: &AppendPolicy) -> Result<(), BatchError> {
    // With a count of at least one and a last offset delta one below it, there is room for exactly the records.
    let is_consistent = header.records_count > 0 && header.last_offset_delta == header.records_count - 1;
    if !is_consistent {
        return Err(count_mismatch(header));
    }
    match policy.origin {
        AppendOrigin::Coordinator => Ok(()),
        AppendOrigin::Client if header.is_control() => Err(BatchError::ControlBatch),
        AppendOrigin::Client if header.has_producer_id() && header.base_sequence.0 < 0 => {
            Err(BatchError::InvalidSequence {
                producer_id: header.producer_id.0,
                base_sequence: header.base_sequence.0,
            })
        }
        AppendOrigin::Client => Ok(()),
    }
}

/// The compression that the payload must get, or `None` if it can stay.
fn target_compression(header: &BatchHeader, source: Codec, policy: &AppendPolicy) -> Option<(Codec, i32)> {
    match policy.compression {
        CompressionPolicy::Producer => None,
        CompressionPolicy::Fixed(codec, _level) if codec == source => None,
        // Kafka's rule: a marker is read by every broker and fetch path, compressing it gains nothing.
        CompressionPolicy::Fixed(..) if source == Codec::None && header.is_control() => None,
        CompressionPolicy::Fixed(codec, level) => Some((codec, level)),
    }
}

fn compression_error(codec: Codec, policy: &AppendPolicy, source: std::io::Error) -> BatchError {
    if is_output_full(&source) {
        // How large it would have become is not known: compression stopped at the bound.
        let batch_bytes_max = policy.batch_bytes_max;
        BatchError::BatchTooLarge { size: batch_bytes_max.saturating_add(1), batch_bytes_max }
    } else {
        BatchError::Compression { codec, source }
    }
}

fn new_encoder(
    codec: Codec,
    level: i32,
    policy: &AppendPolicy,
    source_bytes: Option<u64>,
) -> Result<Encoder, BatchError> {
    Encoder::new(codec, level, policy.batch_bytes_max.saturating_sub(HEADER_LEN), source_bytes)
        .map_err(|source| BatchError::Compression { codec, source })
}

fn compress_payload(
    codec: Codec,
    level: i32,
    payload: &[u8],
    policy: &AppendPolicy,
) -> Result<Vec<u8>, BatchError> {
    let mut encoder = new_encoder(codec, level, policy, Some(payload.len() as u64))?;
    std::io::Write::write_all(&mut encoder, payload)
        .and_then(|()| encoder.finish())
        .map_err(|source| compression_error(codec, policy, source))
}

/// Looks at one record after the other of one batch.
struct Judge<'a> {
    header: &'a BatchHeader,
    policy: &'a AppendPolicy,
    /// What a record's timestamp must lie in.
    least: i64,
    most: i64,
    max_timestamp: TimestampMs,
    offset_delta_of_max_timestamp: i32,
    errors: Vec<RecordError>,
    has_time_error: bool,
}

impl<'a> Judge<'a> {
    fn new(header: &'a BatchHeader, policy: &'a AppendPolicy) -> Judge<'a> {
        let (least, most) = match policy.timestamp_type {
            TimestampType::CreateTime => (
                policy.now.0.saturating_sub(policy.timestamp_before_ms_max),
                policy.now.0.saturating_add(policy.timestamp_after_ms_max),
            ),
            // The producer's time is not stored then.
            TimestampType::LogAppendTime => (i64::MIN, i64::MAX),
        };
        Judge {
            header,
            policy,
            least,
            most,
            max_timestamp: NO_TIMESTAMP,
            offset_delta_of_max_timestamp: -1,
            errors: Vec::new(),
            has_time_error: false,
        }
    }

    fn walk_slice(&mut self, payload: &[u8]) -> Result<(), BatchError> {
        let mut cursor = Cursor::new(payload);
        for index in 0..self.header.records_count {
            let record = cursor.record().map_err(|flaw| BatchError::MalformedRecord { index, flaw })?;
            self.on_record(
                index,
                RecordFacts {
                    timestamp_delta: record.timestamp_delta,
                    offset_delta: record.offset_delta,
                    has_key: record.key.is_some(),
                },
            );
        }
        if cursor.is_at_end() {
            Ok(())
        } else {
            Err(BatchError::TrailingBytes { records_count: self.header.records_count })
        }
    }

    /// Gives back the payload in the target compression, if there is a target.
    fn walk_stream(
        &mut self,
        codec: Codec,
        payload: &[u8],
        target: Option<(Codec, i32)>,
    ) -> Result<Option<Vec<u8>>, BatchError> {
        let decompressed_bytes_max = self.policy.decompressed_bytes_max;
        let policy = self.policy;
        let classify = |index: i32, error: StreamError| match error {
            StreamError::Flaw(flaw) => BatchError::MalformedRecord { index, flaw },
            StreamError::TooLarge => BatchError::DecompressedTooLarge { decompressed_bytes_max },
            StreamError::Decode(source) => BatchError::Decompression { codec, source },
            StreamError::Encode(source) => {
                compression_error(target.map_or(Codec::None, |(codec, _)| codec), policy, source)
            }
        };
        let decoder = Decoder::new(codec, payload, decompressed_bytes_max)
            .map_err(|source| BatchError::Decompression { codec, source })?;
        let encoder = target.map(|(codec, level)| new_encoder(codec, level, policy, None)).transpose()?;
        let mut stream = RecordStream::new(decoder, encoder, decompressed_bytes_max);
        let records_count = self.header.records_count;
        for index in 0..records_count {
            let facts = stream.record().map_err(|error| classify(index, error))?;
            self.on_record(index, facts);
        }
        if !stream.is_at_end().map_err(|error| classify(records_count, error))? {
            return Err(BatchError::TrailingBytes { records_count });
        }
        match (stream.into_encoder(), target) {
            (Some(encoder), Some((codec, _level))) => {
                encoder.finish().map(Some).map_err(|source| compression_error(codec, policy, source))
            }
            _ => Ok(None),
        }
    }

    #[inline]
    fn on_record(&mut self, index: i32, facts: RecordFacts) {
        // Hostile deltas wrap as they do for Kafka's readers, and then fail the bounds like any other time.
        let timestamp = TimestampMs(self.header.base_timestamp.0.wrapping_add(facts.timestamp_delta));
        if timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
            self.offset_delta_of_max_timestamp = facts.offset_delta;
        }
        if let Some(fault) = self.fault(index, facts, timestamp) {
            self.on_fault(index, fault);
        }
    }

    #[inline]
    fn fault(&self, index: i32, facts: RecordFacts, timestamp: TimestampMs) -> Option<RecordFault> {
        if facts.offset_delta != index {
            return Some(RecordFault::OffsetDelta { found: facts.offset_delta, expected: index });
        }
        if self.policy.keys_required && !facts.has_key {
            return Some(RecordFault::KeyMissing);
        }
        if self.header.timestamp_type() == TimestampType::LogAppendTime {
            return Some(RecordFault::LogAppendTimeSetByProducer);
        }
        let (least, most) = (self.least, self.most);
        let is_in_range = (least..=most).contains(&timestamp.0) || timestamp == NO_TIMESTAMP;
        (!is_in_range).then_some(RecordFault::TimestampOutOfRange { timestamp, least, most })
    }

    #[cold]
    fn on_fault(&mut self, index: i32, fault: RecordFault) {
        self.has_time_error |= fault.is_about_time();
        if self.errors.len() < RECORD_ERRORS_MAX {
            self.errors.push(RecordError { batch_index: index, fault });
        }
    }

    fn check(&mut self) -> Result<(), BatchError> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let records = std::mem::take(&mut self.errors);
        Err(if self.has_time_error {
            BatchError::InvalidTimestamps { records }
        } else {
            BatchError::InvalidRecords { records }
        })
    }

    /// The largest timestamp that is to be stored, and the offset delta of the first record that has it.
    fn max_timestamp(&self) -> (TimestampMs, i32) {
        match self.policy.timestamp_type {
            TimestampType::LogAppendTime => (self.policy.now, 0),
            TimestampType::CreateTime => (self.max_timestamp, self.offset_delta_of_max_timestamp.max(0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_the_compressor_are_told_from_its_bound() {
        let policy = AppendPolicy::new(TimestampMs(0));
        let failure = compression_error(Codec::Zstd, &policy, std::io::Error::other("broken"));
        assert!(matches!(failure, BatchError::Compression { codec: Codec::Zstd, .. }));
        let full =
            compress_payload(Codec::None, 0, &[0; 100], &AppendPolicy { batch_bytes_max: 99, ..policy });
        assert!(matches!(full, Err(BatchError::BatchTooLarge { batch_bytes_max: 99, .. })));
    }
}
