//! A log on a simulated disk, and batches to fill it with.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ottla_batch::{
    AppendOrigin, AppendPolicy, BatchBuilder, BatchOptions, CheckedBatches, ControlKind, EndTxnMarker,
    LeaderEpoch, Offset, ProducerEpoch, ProducerId, Record, Sequence, TimestampMs, build_end_txn_marker,
    check_produced, check_replicated,
};

use crate::checkpoints::Checkpoints;
use crate::disk::{Disk, SimulatedDisk};
use crate::log::*;

pub const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
pub const EPOCH: LeaderEpoch = LeaderEpoch(0);

pub struct TestLog {
    pub simulated: SimulatedDisk,
    pub disk: Disk,
    pub checkpoints: Arc<Checkpoints>,
    pub config: LogConfig,
    pub log: Log,
}

/// Small segments and indexes, so that a few batches reach every border.
pub fn small_config() -> LogConfig {
    LogConfig { segment_bytes: 1000, index_interval_bytes: 100, ..LogConfig::default() }
}

pub fn open(
    disk: &Disk,
    config: &LogConfig,
    last_shutdown: LastShutdown,
) -> Result<(Log, Arc<Checkpoints>), OpenError> {
    let root = Path::new("/data");
    let io_error = |source| OpenError::Io { path: root.to_owned(), source };
    disk.create_dir_all(root).map_err(io_error)?;
    disk.sync_dir(Path::new("/")).map_err(io_error)?;
    let checkpoints = Arc::new(Checkpoints::open(disk.clone(), root).map_err(io_error)?);
    let log = Log::open(OpenLog {
        disk: disk.clone(),
        dir: root.join("topic-0"),
        partition: ("topic".to_owned(), 0),
        checkpoints: checkpoints.clone(),
        config: Arc::new(config.clone()),
        topic_id: None,
        last_shutdown,
        now: NOW,
        jitter_seed: 0,
    })?;
    Ok((log, checkpoints))
}

impl TestLog {
    pub fn new(config: LogConfig) -> TestLog {
        let simulated = SimulatedDisk::new();
        let disk = Disk::simulated(&simulated);
        let (log, checkpoints) = open(&disk, &config, LastShutdown::Unclean).unwrap();
        TestLog { simulated, disk, checkpoints, config, log }
    }

    pub fn reopen(&mut self, last_shutdown: LastShutdown) {
        self.disk = Disk::simulated(&self.simulated);
        (self.log, self.checkpoints) = open(&self.disk, &self.config, last_shutdown).unwrap();
    }

    pub fn crash(&mut self, seed: u64) {
        self.simulated.crash(seed);
        self.reopen(LastShutdown::Unclean);
    }

    pub fn append(&mut self, batch: &Bytes) -> Result<Appended, AppendError> {
        self.append_in(batch, EPOCH)
    }

    pub fn append_in(&mut self, batch: &Bytes, epoch: LeaderEpoch) -> Result<Appended, AppendError> {
        self.log.append_as_leader(&checked(batch), epoch, AppendOrigin::Client, NOW)
    }

    pub fn append_marker(&mut self, producer_id: i64, kind: ControlKind) -> Appended {
        let marker = EndTxnMarker { kind, coordinator_epoch: 0 };
        let batch = build_end_txn_marker(ProducerId(producer_id), ProducerEpoch(0), marker, NOW).unwrap();
        let policy = AppendPolicy { origin: AppendOrigin::Coordinator, ..AppendPolicy::new(NOW) };
        let batch = check_produced(batch, &policy).unwrap();
        self.log.append_as_leader(&batch, EPOCH, AppendOrigin::Coordinator, NOW).unwrap()
    }

    pub fn sync(&mut self) {
        let synced = self.log.begin_sync().run().unwrap();
        self.log.on_synced(synced);
        assert_eq!(self.log.synced_end_offset(), self.log.end_offset());
    }

    /// (offset, key, value) of all records from `from` on, read in small pieces as a consumer does.
    pub fn records_from(&self, from: Offset) -> Vec<(i64, Bytes, Bytes)> {
        all_records(&self.log, from)
            .into_iter()
            .map(|record| (record.offset.0, record.key.unwrap_or_default(), record.value.unwrap_or_default()))
            .collect()
    }
}

pub fn all_records(log: &Log, from: Offset) -> Vec<Record> {
    let mut records = Vec::new();
    let mut next = from;
    while next < log.end_offset() {
        let slice = log.read(next, Offset(i64::MAX), 300, FirstBatch::Whole).unwrap();
        if slice.is_empty() {
            break;
        }
        let mut bytes = slice.read().unwrap();
        while let Ok(header) = ottla_batch::BatchHeader::parse(&bytes) {
            if header.size_in_bytes() > bytes.len() {
                break;
            }
            let batch = bytes.split_to(header.size_in_bytes());
            header.check_crc(&batch).unwrap();
            let iter = ottla_batch::records(&batch, 1 << 20).unwrap();
            records.extend(iter.map(|record| record.unwrap()).filter(|record| record.offset >= next));
            next = header.next_offset();
        }
    }
    records
}

pub fn checked(batch: &Bytes) -> CheckedBatches {
    check_produced(batch.clone(), &AppendPolicy::new(NOW)).unwrap()
}

pub fn replicated(batches: &[Bytes]) -> CheckedBatches {
    check_replicated(batches.concat().into()).unwrap()
}

/// (key, value, timestamp)
pub type Row<'a> = (&'a [u8], Option<&'a [u8]>, i64);

/// A batch of records.
pub fn batch_with(options: BatchOptions, records: &[Row<'_>]) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for (key, value, timestamp) in records {
        builder.push(TimestampMs(*timestamp), Some(key), *value, &[]).unwrap();
    }
    builder.build().unwrap()
}

/// `count` records of 20 bytes and the time `NOW`.
pub fn batch(count: usize) -> Bytes {
    batch_at(count, NOW.0)
}

pub fn batch_at(count: usize, timestamp: i64) -> Bytes {
    let records: Vec<Row<'_>> =
        (0..count).map(|_| (&b"key"[..], Some(&b"01234567890123456789"[..]), timestamp)).collect();
    batch_with(BatchOptions::default(), &records)
}

pub fn idempotent(producer_id: i64, epoch: i16, sequence: i32, count: usize) -> Bytes {
    let options = BatchOptions {
        producer_id: ProducerId(producer_id),
        producer_epoch: ProducerEpoch(epoch),
        base_sequence: Sequence(sequence),
        ..BatchOptions::default()
    };
    let records: Vec<Row<'_>> = (0..count).map(|_| (&b"k"[..], Some(&b"v"[..]), NOW.0)).collect();
    batch_with(options, &records)
}

pub fn transactional(producer_id: i64, sequence: i32, count: usize) -> Bytes {
    let options = BatchOptions {
        producer_id: ProducerId(producer_id),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(sequence),
        is_transactional: true,
        ..BatchOptions::default()
    };
    let records: Vec<Row<'_>> = (0..count).map(|_| (&b"k"[..], Some(&b"v"[..]), NOW.0)).collect();
    batch_with(options, &records)
}
