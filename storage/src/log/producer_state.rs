//! What the log knows of its producers: the last five batches of each (a retry of one of them is answered, not appended
//! again), their epochs, and the transactions that are open or whose end is not yet replicated.
//!
//! Built from the batches alone, so every replica has the same. Saved as `<offset>.snapshot` at rolls and at a clean close,
//! in Kafka's format (version 1): i16 version, u32 CRC-32C of what follows, then an array of rows. Kafka writes one row per
//! producer, its last batch; here each of up to five batches has a row, the newest last. Kafka's readers take the last
//! row of a producer, so they understand the file, and duplicates are still recognised five deep after a restart.

use std::collections::{BTreeMap, HashMap};

use ottla_batch::{
    AppendOrigin, BatchHeader, ControlKind, EndTxnMarker, NO_SEQUENCE, Offset, ProducerEpoch, ProducerId,
    Sequence, TimestampMs, crc32c, planted,
};

use super::transaction_index::AbortedTxn;
use super::{ActiveProducer, AppendError};
use crate::fields::Fields;

/// Kafka's clients have at most five requests in flight.
pub(crate) const BATCHES_MAX: usize = 5;
const SNAPSHOT_VERSION: i16 = 1;
const SNAPSHOT_HEADER_LEN: usize = 2 + 4;
const ROW_LEN: usize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8;
const NO_COORDINATOR_EPOCH: i32 = -1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BatchMetadata {
    last_sequence: Sequence,
    last_offset: Offset,
    offset_delta: i32,
    timestamp: TimestampMs,
}

impl BatchMetadata {
    /// Sequences wrap from `i32::MAX` to 0.
    fn first_sequence(&self) -> Sequence {
        let first = i64::from(self.last_sequence.0) - i64::from(self.offset_delta);
        Sequence(if first < 0 { first + i64::from(i32::MAX) + 1 } else { first } as i32)
    }

    fn base_offset(&self) -> Offset {
        Offset(self.last_offset.0 - i64::from(self.offset_delta))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    coordinator_epoch: i32,
    last_timestamp: TimestampMs,
    /// The first `batches_len`, oldest first; all of `epoch`.
    batches: [BatchMetadata; BATCHES_MAX],
    batches_len: u8,
    txn_first_offset: Option<Offset>,
}

impl Producer {
    fn new() -> Producer {
        let none = BatchMetadata {
            last_sequence: NO_SEQUENCE,
            last_offset: Offset(-1),
            offset_delta: 0,
            timestamp: TimestampMs(-1),
        };
        Producer {
            epoch: ProducerEpoch::NONE,
            coordinator_epoch: NO_COORDINATOR_EPOCH,
            last_timestamp: TimestampMs(-1),
            batches: [none; BATCHES_MAX],
            batches_len: 0,
            txn_first_offset: None,
        }
    }

    fn batches(&self) -> &[BatchMetadata] {
        &self.batches[..usize::from(self.batches_len)]
    }

    fn last_sequence(&self) -> Sequence {
        self.batches().last().map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }

    fn set_epoch(&mut self, epoch: ProducerEpoch) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches_len = 0;
        }
    }

    fn push(&mut self, batch: BatchMetadata) {
        let batches_max = if planted!("duplicates-known-two-deep") { 2 } else { BATCHES_MAX };
        if usize::from(self.batches_len) == batches_max {
            self.batches[..batches_max].rotate_left(1);
        } else {
            self.batches_len += 1;
        }
        self.batches[usize::from(self.batches_len) - 1] = batch;
    }
}

/// A batch that the log holds already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Duplicate {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub timestamp: TimestampMs,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct ProducerState {
    producers: HashMap<ProducerId, Producer>,
    /// Open transactions by their first offset.
    ongoing: BTreeMap<Offset, ProducerId>,
    /// Marker offset to first offset of transactions whose marker may lie above the high watermark.
    unreplicated: BTreeMap<Offset, Offset>,
}

impl ProducerState {
    pub(crate) fn id_max(&self) -> Option<ProducerId> {
        self.producers.keys().max_by_key(|id| id.0).copied()
    }

    pub(crate) fn clear(&mut self) {
        *self = ProducerState::default();
    }

    /// Whether a leader may append a batch with this header after `end_offset`. `previous` is the batch before it in the same append.
    pub(crate) fn check(
        &self,
        header: &BatchHeader,
        previous: Option<&BatchHeader>,
        origin: AppendOrigin,
        end_offset: Offset,
    ) -> Result<Option<Duplicate>, AppendError> {
        let producer_id = header.producer_id;
        let Some(producer) = self.producers.get(&producer_id) else {
            // Nothing is known (a new producer, or its records are long deleted): any sequence begins it.
            return match previous.filter(|previous| previous.producer_id == producer_id) {
                Some(previous) => check_sequence(header, previous.last_sequence(), end_offset).map(|()| None),
                None => Ok(None),
            };
        };
        if !header.is_control() && origin == AppendOrigin::Client && header.producer_epoch == producer.epoch {
            let same = |batch: &&BatchMetadata| {
                batch.first_sequence() == header.base_sequence
                    && batch.last_sequence == header.last_sequence()
            };
            if let Some(batch) = producer.batches().iter().find(same) {
                return Ok(Some(Duplicate {
                    base_offset: batch.base_offset(),
                    last_offset: batch.last_offset,
                    timestamp: batch.timestamp,
                }));
            }
        }
        if header.producer_epoch < producer.epoch {
            return Err(AppendError::InvalidProducerEpoch {
                producer_id,
                found: header.producer_epoch,
                current: producer.epoch,
            });
        }
        if header.is_control() {
            return Ok(None);
        }
        if producer.txn_first_offset.is_some() && !header.is_transactional() {
            return Err(AppendError::InvalidTxnState { producer_id });
        }
        if origin == AppendOrigin::Coordinator {
            return Ok(None);
        }
        let last_sequence = match previous.filter(|previous| previous.producer_id == producer_id) {
            Some(previous) if previous.producer_epoch == header.producer_epoch => previous.last_sequence(),
            _ if producer.epoch == header.producer_epoch => producer.last_sequence(),
            // A new epoch begins at 0.
            _ => NO_SEQUENCE,
        };
        check_sequence(header, last_sequence, end_offset).map(|()| None)
    }

    /// A leader's marker must not come from a transaction coordinator that was replaced.
    pub(crate) fn check_marker(
        &self,
        producer_id: ProducerId,
        marker: &EndTxnMarker,
    ) -> Result<(), AppendError> {
        match self.producers.get(&producer_id) {
            Some(producer) if producer.coordinator_epoch > marker.coordinator_epoch => {
                Err(AppendError::TransactionCoordinatorFenced {
                    producer_id,
                    found: marker.coordinator_epoch,
                    current: producer.coordinator_epoch,
                })
            }
            _ => Ok(()),
        }
    }

    /// A data batch of a producer is in the log.
    pub(crate) fn on_data_batch(&mut self, header: &BatchHeader) {
        let producer = self.producers.entry(header.producer_id).or_insert_with(Producer::new);
        producer.set_epoch(header.producer_epoch);
        producer.push(BatchMetadata {
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            offset_delta: header.last_offset_delta,
            timestamp: header.max_timestamp,
        });
        producer.last_timestamp = header.max_timestamp;
        if header.is_transactional() && producer.txn_first_offset.is_none() {
            producer.txn_first_offset = Some(header.base_offset);
            self.ongoing.insert(header.base_offset, header.producer_id);
        }
    }

    /// A transaction marker is in the log. Some: it aborted something, which belongs into the transaction index.
    pub(crate) fn on_marker(&mut self, header: &BatchHeader, marker: &EndTxnMarker) -> Option<AbortedTxn> {
        let producer = self.producers.entry(header.producer_id).or_insert_with(Producer::new);
        producer.set_epoch(header.producer_epoch);
        producer.coordinator_epoch = marker.coordinator_epoch;
        producer.last_timestamp = header.max_timestamp;
        let first_offset = producer.txn_first_offset.take()?;
        self.ongoing.remove(&first_offset);
        let last_offset = header.last_offset();
        self.unreplicated.insert(last_offset, first_offset);
        // Up to where everything is decided once this marker is: what a reader below it need not look beyond.
        let last_stable_offset =
            self.ongoing.first_key_value().map_or(last_offset.plus(1), |(first, _)| *first);
        (marker.kind == ControlKind::Abort).then_some(AbortedTxn {
            producer_id: header.producer_id,
            first_offset,
            last_offset,
            last_stable_offset,
        })
    }

    /// Where the first transaction begins that is open.
    pub(crate) fn first_undecided_offset(&self) -> Option<Offset> {
        self.ongoing.first_key_value().map(|(first, _)| *first)
    }

    /// The first offset that read_committed must not pass, given what is replicated.
    pub(crate) fn first_unstable_offset(&self, high_watermark: Offset) -> Option<Offset> {
        let undecided = self.first_undecided_offset();
        // Only what the high watermark has not reached yet, however many older ones have not been forgotten.
        let unreplicated = self.unreplicated.range(high_watermark..).map(|(_, first)| *first).min();
        match (undecided, unreplicated) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Forgets finished transactions whose markers are replicated.
    pub(crate) fn on_high_watermark(&mut self, high_watermark: Offset) {
        self.unreplicated = self.unreplicated.split_off(&high_watermark);
    }

    fn is_expired(producer: &Producer, now: TimestampMs, expiration_ms: i64) -> bool {
        producer.txn_first_offset.is_none()
            && now.0.saturating_sub(producer.last_timestamp.0) >= expiration_ms
    }

    pub(crate) fn expire(&mut self, now: TimestampMs, expiration_ms: i64) {
        self.producers.retain(|_, producer| !ProducerState::is_expired(producer, now, expiration_ms));
        if self.producers.is_empty() {
            self.producers.shrink_to_fit();
        }
    }

    /// In the order of their ids.
    pub(crate) fn active(&self, now: TimestampMs, expiration_ms: i64) -> Vec<ActiveProducer> {
        let mut active: Vec<_> = self
            .producers
            .iter()
            .filter(|(_, producer)| !ProducerState::is_expired(producer, now, expiration_ms))
            .map(|(producer_id, producer)| ActiveProducer {
                producer_id: *producer_id,
                producer_epoch: producer.epoch,
                last_sequence: producer.last_sequence(),
                last_timestamp: producer.last_timestamp,
                coordinator_epoch: producer.coordinator_epoch,
                current_txn_start_offset: producer.txn_first_offset,
            })
            .collect();
        active.sort_unstable_by_key(|producer| producer.producer_id);
        active
    }

    /// For compaction: what must stay of each producer so that it can go on (see `LastRecord`).
    pub(crate) fn last_records(&self) -> HashMap<ProducerId, LastRecord> {
        let last = |producer: &Producer| match producer.batches().last() {
            Some(batch) => LastRecord::Data { last_offset: batch.last_offset },
            None => LastRecord::Marker { epoch: producer.epoch },
        };
        self.producers.iter().map(|(id, producer)| (*id, last(producer))).collect()
    }

    pub(crate) fn encode_snapshot(&self) -> Vec<u8> {
        let mut ids: Vec<_> = self.producers.keys().copied().collect();
        ids.sort_unstable();
        let mut rows = Vec::new();
        let mut rows_count: i32 = 0;
        for id in ids {
            let producer = &self.producers[&id];
            let nothing = BatchMetadata {
                last_sequence: NO_SEQUENCE,
                last_offset: Offset(-1),
                offset_delta: 0,
                timestamp: producer.last_timestamp,
            };
            let batches = if producer.batches().is_empty() { &[nothing][..] } else { producer.batches() };
            for (index, batch) in batches.iter().enumerate() {
                let is_newest = index + 1 == batches.len();
                let timestamp = if is_newest { producer.last_timestamp } else { batch.timestamp };
                rows.extend_from_slice(&id.0.to_be_bytes());
                rows.extend_from_slice(&producer.epoch.0.to_be_bytes());
                rows.extend_from_slice(&batch.last_sequence.0.to_be_bytes());
                rows.extend_from_slice(&batch.last_offset.0.to_be_bytes());
                rows.extend_from_slice(&batch.offset_delta.to_be_bytes());
                rows.extend_from_slice(&timestamp.0.to_be_bytes());
                rows.extend_from_slice(&producer.coordinator_epoch.to_be_bytes());
                rows.extend_from_slice(&producer.txn_first_offset.unwrap_or(Offset(-1)).0.to_be_bytes());
                rows_count += 1;
            }
        }
        let mut snapshot = vec![0; SNAPSHOT_HEADER_LEN];
        snapshot.extend_from_slice(&rows_count.to_be_bytes());
        snapshot.append(&mut rows);
        let crc = crc32c(&snapshot[SNAPSHOT_HEADER_LEN..]);
        snapshot[..2].copy_from_slice(&SNAPSHOT_VERSION.to_be_bytes());
        snapshot[2..6].copy_from_slice(&crc.to_be_bytes());
        snapshot
    }

    /// None: not a whole snapshot of a version that is known.
    pub(crate) fn decode_snapshot(bytes: &[u8]) -> Option<ProducerState> {
        let (version, rest) = bytes.split_first_chunk::<2>()?;
        let (crc, body) = rest.split_first_chunk::<4>()?;
        if i16::from_be_bytes(*version) != SNAPSHOT_VERSION || u32::from_be_bytes(*crc) != crc32c(body) {
            return None;
        }
        let (rows_count, rows) = body.split_first_chunk::<4>()?;
        let (rows, torn) = rows.as_chunks::<ROW_LEN>();
        if !torn.is_empty() || usize::try_from(i32::from_be_bytes(*rows_count)).ok()? != rows.len() {
            return None;
        }
        let mut state = ProducerState::default();
        let rows = if planted!("snapshot-forgets-producers") { &[] } else { rows };
        for row in rows {
            let mut fields = Fields::new(row.as_slice());
            let producer_id = ProducerId(i64::from_be_bytes(fields.take()));
            let epoch = ProducerEpoch(i16::from_be_bytes(fields.take()));
            let last_sequence = Sequence(i32::from_be_bytes(fields.take()));
            let last_offset = Offset(i64::from_be_bytes(fields.take()));
            let offset_delta = i32::from_be_bytes(fields.take());
            let timestamp = TimestampMs(i64::from_be_bytes(fields.take()));
            let coordinator_epoch = i32::from_be_bytes(fields.take());
            let txn_first_offset = Offset(i64::from_be_bytes(fields.take()));
            let producer = state.producers.entry(producer_id).or_insert_with(Producer::new);
            producer.set_epoch(epoch);
            producer.coordinator_epoch = coordinator_epoch;
            producer.last_timestamp = timestamp;
            if last_offset >= Offset(0) {
                producer.push(BatchMetadata { last_sequence, last_offset, offset_delta, timestamp });
            }
            if txn_first_offset >= Offset(0) {
                producer.txn_first_offset = Some(txn_first_offset);
                state.ongoing.insert(txn_first_offset, producer_id);
            }
        }
        Some(state)
    }
}

/// What compaction must keep of a producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastRecord {
    /// The batch that ends at this offset: it has the last sequence.
    Data { last_offset: Offset },
    /// A marker of this epoch: it is all that fences older ones.
    Marker { epoch: ProducerEpoch },
}

fn check_sequence(header: &BatchHeader, last: Sequence, end_offset: Offset) -> Result<(), AppendError> {
    let expected = if last == NO_SEQUENCE { Sequence(0) } else { last.plus(1) };
    if header.base_sequence == expected {
        return Ok(());
    }
    Err(AppendError::OutOfOrderSequence {
        producer_id: header.producer_id,
        end_offset,
        found: header.base_sequence,
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_batch::LeaderEpoch;

    fn header(producer_id: i64, base_offset: i64, base_sequence: i32, count: i32) -> BatchHeader {
        BatchHeader {
            base_offset: Offset(base_offset),
            batch_length: 100,
            leader_epoch: LeaderEpoch(0),
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: TimestampMs(5),
            max_timestamp: TimestampMs(base_offset + 1000),
            producer_id: ProducerId(producer_id),
            producer_epoch: ProducerEpoch(2),
            base_sequence: Sequence(base_sequence),
            records_count: count,
        }
    }

    #[test]
    fn golden_snapshot() {
        let mut state = ProducerState::default();
        let mut transactional = header(0x0102, 3, 7, 2);
        transactional.attributes = 1 << 4;
        state.on_data_batch(&transactional);
        let mut golden = vec![0, 1];
        let mut body = vec![0, 0, 0, 1];
        body.extend_from_slice(&0x0102i64.to_be_bytes()); // producer id
        body.extend_from_slice(&2i16.to_be_bytes()); // epoch
        body.extend_from_slice(&8i32.to_be_bytes()); // last sequence
        body.extend_from_slice(&4i64.to_be_bytes()); // last offset
        body.extend_from_slice(&1i32.to_be_bytes()); // offset delta
        body.extend_from_slice(&1003i64.to_be_bytes()); // timestamp
        body.extend_from_slice(&(-1i32).to_be_bytes()); // coordinator epoch
        body.extend_from_slice(&3i64.to_be_bytes()); // first offset of the open transaction
        golden.extend_from_slice(&crc32c(&body).to_be_bytes());
        golden.extend_from_slice(&body);
        assert_eq!(state.encode_snapshot(), golden);
        assert_eq!(ProducerState::decode_snapshot(&golden), Some(state));
        assert_eq!(ProducerState::default().encode_snapshot()[6..], [0, 0, 0, 0]);
    }

    #[test]
    fn snapshots_keep_five_batches_and_markers_only() {
        let mut state = ProducerState::default();
        for n in 0..7 {
            state.on_data_batch(&header(1, n * 3, n as i32 * 3, 3));
        }
        let marker = EndTxnMarker { kind: ControlKind::Commit, coordinator_epoch: 4 };
        assert_eq!(state.on_marker(&header(2, 30, -1, 1), &marker), None, "there was no transaction");
        let again = ProducerState::decode_snapshot(&state.encode_snapshot()).unwrap();
        assert_eq!(again, state);
        assert_eq!(again.producers[&ProducerId(1)].batches().len(), 5);
        assert_eq!(again.last_records()[&ProducerId(2)], LastRecord::Marker { epoch: ProducerEpoch(2) });
    }

    #[test]
    fn damaged_snapshots_are_refused() {
        let mut state = ProducerState::default();
        state.on_data_batch(&header(1, 0, 0, 3));
        let whole = state.encode_snapshot();
        for end in 0..whole.len() {
            assert_eq!(ProducerState::decode_snapshot(&whole[..end]), None);
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert_eq!(ProducerState::decode_snapshot(&flipped), None);
        }
    }
}
