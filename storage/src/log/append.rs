//! Appending. As leader: offsets and the leader epoch are assigned, the producers' sequences checked. As follower: what
//! the leader sent is taken as it is.
//!
//! Cost of an append that does not roll: one `pwritev` of (patched header, payload), no copy of the payload, no
//! allocation for up to eight batches. Everything that can fail comes before that write or is undone with it: after an
//! error the log is as it was, and a disk that was full is simply tried again by the next append.

use std::io::{self, IoSlice};

use ottla_batch::{
    AppendOrigin, BatchHeader, CheckedBatch, CheckedBatches, EndTxnMarker, HEADER_LEN, LeaderEpoch, Offset,
    TimestampMs, TimestampType,
};

use super::roll::Incoming;
use super::segment::SEGMENT_BYTES_MAX;
use super::{AppendError, Appended, Log};

/// Batches whose headers are patched on the stack; produce requests have one.
const BATCHES_ON_STACK: usize = 8;
/// A control record is a few dozen bytes.
const CONTROL_BYTES_MAX: usize = 64 << 10;

impl Log {
    /// Assigns offsets and `leader_epoch`, checks producer sequences, and appends.
    pub fn append_as_leader(
        &mut self,
        batches: &CheckedBatches,
        leader_epoch: LeaderEpoch,
        origin: AppendOrigin,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        self.latch.check()?;
        let size = batches.size_in_bytes();
        if size as u64 > u64::from(self.config.segment_bytes).min(SEGMENT_BYTES_MAX) {
            return Err(AppendError::LargerThanSegment {
                bytes: size,
                segment_bytes: self.config.segment_bytes,
            });
        }
        // Recovery takes batches of an older epoch behind a newer one for a truncation that was undone, and cuts them.
        if let Some(latest) = self.epochs.latest().filter(|latest| leader_epoch < *latest) {
            let offset = self.end_offset;
            return Err(AppendError::LeaderEpochWentBack { offset, found: leader_epoch, latest });
        }
        let mut previous = None;
        for batch in batches {
            let header = batch.header();
            if header.has_producer_id() {
                if let Some(duplicate) = self.producers.check(header, previous, origin, self.end_offset)? {
                    return Ok(Appended {
                        base_offset: duplicate.base_offset,
                        last_offset: duplicate.last_offset,
                        log_append_time: append_time(header, duplicate.timestamp),
                        log_start_offset: self.log_start_offset,
                        duplicate: true,
                    });
                }
                if let Some(marker) = end_txn_marker(batch)? {
                    self.producers.check_marker(header.producer_id, &marker)?;
                }
            }
            previous = Some(header);
        }
        let base_offset = self.end_offset;
        let assigned = Assigned { batches: batches.as_slice(), first: Some((base_offset, leader_epoch)) };
        if assigned.clone().any(|(_, header)| header.next_offset().0 == i64::MAX) {
            return Err(AppendError::OffsetsUsedUp);
        }
        self.append(assigned, size as u64, now)?;
        Ok(Appended {
            base_offset,
            last_offset: Offset(self.end_offset.0 - 1),
            log_append_time: previous.and_then(|header| append_time(header, header.max_timestamp)),
            log_start_offset: self.log_start_offset,
            duplicate: false,
        })
    }

    /// Appends what a leader sent, as it is. Gaps between batches are compaction's and are kept.
    pub fn append_as_follower(
        &mut self,
        batches: &CheckedBatches,
        now: TimestampMs,
    ) -> Result<Appended, AppendError> {
        self.latch.check()?;
        let mut end_offset = self.end_offset;
        let mut latest_epoch = self.epochs.latest();
        for batch in batches {
            let header = batch.header();
            let found = header.base_offset;
            if found < end_offset || header.last_offset_delta < 0 || header.next_offset().0 == i64::MAX {
                return Err(AppendError::UnexpectedOffset { found, end_offset });
            }
            if let Some(latest) = latest_epoch.filter(|latest| header.leader_epoch < *latest) {
                let found = header.leader_epoch;
                return Err(AppendError::LeaderEpochWentBack { offset: header.base_offset, found, latest });
            }
            latest_epoch =
                Some(header.leader_epoch).filter(|epoch| *epoch > LeaderEpoch::NONE).or(latest_epoch);
            end_offset = header.next_offset();
        }
        let first_offset =
            batches.as_slice().first().map_or(self.end_offset, |first| first.header().base_offset);
        // A fetch may bring more than a segment may hold: it is cut at batches.
        let bytes_max = u64::from(self.config.segment_bytes).min(SEGMENT_BYTES_MAX);
        let mut rest = batches.as_slice();
        while let Some(first) = rest.first() {
            let mut size = 0;
            let fits = |batch: &&CheckedBatch| {
                size += batch.size_in_bytes() as u64;
                size <= bytes_max
                    && batch.header().last_offset().0 - first.header().base_offset.0 <= i64::from(i32::MAX)
            };
            // One batch always goes, even if the leader's segments were larger when it took it.
            let count = rest.iter().take_while(fits).count().max(1);
            let (group, after) = rest.split_at(count);
            let size = group.iter().map(|batch| batch.size_in_bytes() as u64).sum();
            self.append(Assigned { batches: group, first: None }, size, now)?;
            rest = after;
        }
        Ok(Appended {
            base_offset: first_offset,
            last_offset: Offset(self.end_offset.0 - 1),
            log_append_time: None,
            log_start_offset: self.log_start_offset,
            duplicate: false,
        })
    }

    fn append(&mut self, batches: Assigned<'_>, size: u64, now: TimestampMs) -> Result<(), AppendError> {
        let Some(last) = batches.clone().last() else {
            return Ok(());
        };
        let incoming = Incoming {
            last_offset: last.1.last_offset(),
            size,
            max_timestamp: batches.clone().map(|(_, header)| header.max_timestamp).max().unwrap_or(now),
            now,
        };
        let prepared = self.should_roll(&incoming).and_then(|roll| match roll {
            true => self.roll(incoming.last_offset, now),
            false => Ok(()),
        });
        prepared.map_err(|error| self.append_error(error))?;
        self.write(&batches)?;
        self.commit(batches)
    }

    fn write(&mut self, batches: &Assigned<'_>) -> Result<(), AppendError> {
        let active = self.active();
        let position = active.size;
        let written = active.files.log.open_to_write().and_then(|file| {
            match batches.batches.len() {
                // The payload is copied here for the first time, by the kernel into its page cache.
                count @ ..=BATCHES_ON_STACK => {
                    let mut headers = [[0; HEADER_LEN]; BATCHES_ON_STACK];
                    let mut slices = [IoSlice::new(&[]); 2 * BATCHES_ON_STACK];
                    file.write_all_at(fill(batches, &mut headers, &mut slices[..2 * count]), position)
                }
                count => {
                    let mut headers = vec![[0; HEADER_LEN]; count];
                    let mut slices = vec![IoSlice::new(&[]); 2 * count];
                    file.write_all_at(fill(batches, &mut headers, &mut slices), position)
                }
            }
        });
        let Err(error) = written else { return Ok(()) };
        self.undo_write(position)?;
        Err(self.append_error(error))
    }

    /// Cuts off what a failed append may have left. Readers never saw it: they stop at the segment's size.
    fn undo_write(&self, position: u64) -> Result<(), AppendError> {
        let cut = self.active().files.log.open().and_then(|file| match file.len()? > position {
            true => file.set_len(position),
            false => Ok(()),
        });
        match cut {
            Ok(()) => Ok(()),
            Err(error) => Err(self.take_offline("undoing a failed append", &error).into()),
        }
    }

    /// The batches are in the file: everything that follows from them.
    fn commit(&mut self, batches: Assigned<'_>) -> Result<(), AppendError> {
        let before = self.end_offset;
        let outcome = self.try_commit(batches);
        let Err(error) = outcome else { return Ok(()) };
        // Rare: an index or a transaction's abort could not be noted. The batches go again, and with them what was
        // derived from them.
        match self.truncate_end(before) {
            Ok(()) => Err(self.append_error(error)),
            Err(undo) => Err(self.take_offline("undoing a failed append", &undo).into()),
        }
    }

    fn try_commit(&mut self, batches: Assigned<'_>) -> io::Result<()> {
        let interval = self.config.index_interval_bytes;
        let is_follower = batches.first.is_none();
        for (batch, header) in batches {
            // First, so that an undo finds a size and an end to cut from.
            self.end_offset = header.next_offset();
            self.active_mut().on_appended(&header, interval)?;
            self.epochs.assign(header.leader_epoch, header.base_offset);
            if !header.has_producer_id() {
                continue;
            }
            if !header.is_control() {
                self.producers.on_data_batch(&header);
                continue;
            }
            let marker = match end_txn_marker(batch) {
                Ok(Some(marker)) => marker,
                Ok(None) => continue,
                // A follower keeps what its leader has; what it cannot read it cannot act on.
                Err(error) if is_follower => {
                    tracing::warn!(dir = %self.dir.display(), offset = %header.base_offset, %error, "unreadable control batch");
                    continue;
                }
                Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
            };
            if let Some(aborted) = self.producers.on_marker(&header, &marker) {
                self.active().files.transaction_index.append(&aborted)?;
                self.names_version += 1;
            }
        }
        let files = &self.active().files;
        if files.offset_index.wants_flush() || files.time_index.wants_flush() {
            // Not needed yet: what cannot be written now waits.
            if let Err(error) = files.flush_indexes() {
                tracing::warn!(dir = %self.dir.display(), %error, "index entries wait in memory");
            }
            self.names_version += 1;
        }
        Ok(())
    }

    fn append_error(&self, source: io::Error) -> AppendError {
        let path = self.dir.clone();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero => {
                AppendError::DiskFull { path }
            }
            _ => AppendError::Io { path, source },
        }
    }
}

/// The batches of one write with the headers they are stored with.
#[derive(Clone)]
struct Assigned<'a> {
    batches: &'a [CheckedBatch],
    /// As leader: the offset and epoch that the next batch gets. As follower none: batches have theirs.
    first: Option<(Offset, LeaderEpoch)>,
}

impl<'a> Iterator for Assigned<'a> {
    type Item = (&'a CheckedBatch, BatchHeader);

    fn next(&mut self) -> Option<Self::Item> {
        let (batch, rest) = self.batches.split_first()?;
        self.batches = rest;
        let mut header = *batch.header();
        if let Some((base_offset, leader_epoch)) = self.first {
            header.base_offset = base_offset;
            header.leader_epoch = leader_epoch;
            self.first = Some((header.next_offset(), leader_epoch));
        }
        Some((batch, header))
    }
}

/// Pairs of (header, payload) for one vectored write.
fn fill<'a, 's>(
    batches: &Assigned<'a>,
    headers: &'a mut [[u8; HEADER_LEN]],
    slices: &'s mut [IoSlice<'a>],
) -> &'s mut [IoSlice<'a>] {
    let pairs = slices.chunks_exact_mut(2).zip(headers.iter_mut());
    for ((batch, header), (pair, bytes)) in batches.clone().zip(pairs) {
        *bytes = batch.header_bytes(header.base_offset, header.leader_epoch);
        pair[0] = IoSlice::new(bytes);
        pair[1] = IoSlice::new(batch.payload());
    }
    slices
}

fn append_time(header: &BatchHeader, timestamp: TimestampMs) -> Option<TimestampMs> {
    (header.timestamp_type() == TimestampType::LogAppendTime).then_some(timestamp)
}

/// None: not a control batch, or one that ends no transaction (or was emptied by compaction).
fn end_txn_marker(batch: &CheckedBatch) -> Result<Option<EndTxnMarker>, ottla_batch::BatchError> {
    if !batch.header().is_control() {
        return Ok(None);
    }
    match batch.records(batch.header().base_offset, CONTROL_BYTES_MAX)?.next() {
        None => Ok(None),
        Some(record) => {
            let record = record?;
            Ok(EndTxnMarker::parse(record.key.as_deref(), record.value.as_deref()).ok())
        }
    }
}
