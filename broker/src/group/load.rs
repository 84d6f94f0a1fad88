//! Reading a partition of `__consumer_offsets` from its start to its end into a machine.
//!
//! All of the log is read, for what the last leader appended may have been acknowledged although this broker's high
//! watermark does not cover it yet. Nothing is answered from it before all of it is committed, or an answer might be taken
//! back by the next election.

use bytes::Bytes;
use ottla_batch::{BatchError, BatchHeader, LeaderEpoch, Offset, planted};

use super::machine::Machine;
use super::records::{self, Parsed, Record};
use super::{OffsetsLog, ReadError};

/// What one batch may decompress to. The coordinator's own are below `max.message.bytes`.
const DECOMPRESSED_BYTES_MAX: usize = 128 << 20;

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the batch at offset {offset}: {source}")]
    Batch { offset: Offset, source: BatchError },
}

/// What was read, for the log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    pub records: u64,
    /// Records of groups of other kinds, or of a kind that is not known.
    pub skipped: u64,
    /// Records that could not be read.
    pub broken: u64,
    pub end_offset: i64,
}

pub async fn load(
    log: &dyn OffsetsLog,
    partition: i32,
    leader_epoch: LeaderEpoch,
    bytes_max: usize,
    machine: &mut Machine,
) -> Result<Loaded, LoadError> {
    let mut loaded = Loaded::default();
    let mut next = Offset(0);
    loop {
        let read = log.read(partition, leader_epoch, next, bytes_max).await?;
        if next < read.log_start_offset {
            next = read.log_start_offset;
            continue;
        }
        loaded.end_offset = read.end_offset.0;
        if next >= read.end_offset || read.batches.is_empty() {
            // Only the coordinator appends, and not while it is loading: this end stays the end.
            log.committed(partition, leader_epoch, read.end_offset).await?;
            return Ok(loaded);
        }
        next = replay_batches(read.batches, next, machine, &mut loaded)?;
        // A large partition must not keep a worker from everything else.
        tokio::task::yield_now().await;
    }
}

fn replay_batches(
    mut batches: Bytes,
    from: Offset,
    machine: &mut Machine,
    loaded: &mut Loaded,
) -> Result<Offset, LoadError> {
    let mut next = from;
    while !batches.is_empty() {
        let failed = |source| LoadError::Batch { offset: next, source };
        let header = match BatchHeader::parse(&batches) {
            Ok(header) if batches.len() >= header.size_in_bytes() => header,
            // The size limit of the read cut the last batch: the next read starts with it.
            Ok(_) | Err(BatchError::Truncated { .. }) if next > from => break,
            Ok(header) => {
                let needed = header.size_in_bytes();
                return Err(failed(BatchError::Truncated { needed, available: batches.len() }));
            }
            Err(error) => return Err(failed(error)),
        };
        let size = header.size_in_bytes();
        header.check_crc(&batches).map_err(failed)?;
        if !header.is_control() {
            for record in ottla_batch::records(&batches, DECOMPRESSED_BYTES_MAX).map_err(failed)? {
                let record = record.map_err(failed)?;
                if record.offset >= from {
                    replay_record(&record, machine, loaded);
                }
            }
        }
        assert!(header.next_offset() > next, "batches go forward: {} after {next}", header.next_offset());
        next = header.next_offset();
        batches = batches.slice(size..);
    }
    Ok(next)
}

fn replay_record(record: &ottla_batch::Record, machine: &mut Machine, loaded: &mut Loaded) {
    match records::parse(record.key.as_deref(), record.value.as_deref()) {
        Ok(Parsed::Record(Record::Offset { .. })) if planted!("coordinator-forgets-commits") => {}
        Ok(Parsed::Record(parsed)) => {
            loaded.records += 1;
            machine.replay(parsed);
        }
        Ok(Parsed::UnknownKey(_)) => loaded.skipped += 1,
        Err(error) => {
            // One record that nobody can read must not keep all other groups of the partition from working.
            loaded.broken += 1;
            tracing::error!(offset = record.offset.0, %error, "a record of __consumer_offsets is left out");
        }
    }
}
