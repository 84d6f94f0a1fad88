//! The long part of a compaction: reading the dirty segments for the newest offset of each key, and writing all cleanable
//! segments anew without what is superseded. Runs without the log's lock, on files that nobody else writes.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use ottla_batch::{
    BatchBuilder, BatchHeader, BatchOptions, BuildError, ControlKind, Offset, Record, TimestampMs,
    TimestampType,
};

use super::key_map::KeyMap;
use super::transactions::Transactions;
use super::{Compacted, CompactionPlan, Group, Source, remove_files};
use crate::log::CompactError;
use crate::log::offset_index;
use crate::log::producer_state::LastRecord;
use crate::log::segment::{CLEANED_SUFFIX, Located, SEGMENT_BYTES_MAX, Segment, SegmentFiles};

/// Written in pieces of this size.
const WRITE_BYTES: usize = 1 << 20;

impl CompactionPlan {
    /// Writes the new segments and syncs them. `go_on` is asked between batches; false abandons.
    pub fn rewrite(self, now: TimestampMs, go_on: &dyn Fn() -> bool) -> Result<Compacted, CompactError> {
        let mut groups = Vec::new();
        let rewritten = self.rewrite_groups(now, go_on, &mut groups);
        if rewritten.is_err() {
            groups.iter().for_each(|group: &Group| remove_files(&group.cleaned.files));
        }
        let (cleaner_offset, bytes_before, bytes_after) = rewritten?;
        Ok(Compacted { groups, cleaner_offset, bytes_before, bytes_after, generation: self.generation })
    }

    fn rewrite_groups(
        &self,
        now: TimestampMs,
        go_on: &dyn Fn() -> bool,
        groups: &mut Vec<Group>,
    ) -> Result<(Offset, u64, u64), CompactError> {
        let (keys, mapped_end_offset) = self.map_keys(go_on)?;
        let mut round = Round {
            plan: self,
            keys,
            mapped_end_offset,
            transactions: Transactions::new(self.aborted_transactions()?),
            now,
            go_on,
        };
        let cleaned = self.sources.partition_point(|source| source.files.base_offset < mapped_end_offset);
        let mut rest = &self.sources[..cleaned];
        let (mut bytes_before, mut bytes_after) = (0, 0);
        while !rest.is_empty() {
            let (sources, after) = rest.split_at(self.group_len(rest)?);
            rest = after;
            let files =
                SegmentFiles::new(&self.disk, &self.dir, sources[0].files.base_offset, CLEANED_SUFFIX);
            let replaced: Vec<_> = sources.iter().map(|source| source.files.base_offset).collect();
            groups.push(Group { cleaned: Segment::new(files, 0, now), replaced });
            let last = groups.len() - 1;
            let cleaned = &mut groups[last].cleaned;
            let is_changed = round.rewrite_group(sources, cleaned)?;
            bytes_before += sources.iter().map(|source| source.size).sum::<u64>();
            bytes_after += cleaned.size;
            // One segment that lost nothing stays as it is.
            if !is_changed && sources.len() == 1 {
                remove_files(&cleaned.files);
                groups.pop();
            }
        }
        Ok((mapped_end_offset, bytes_before, bytes_after))
    }

    /// How many of the sources together make one segment of at most the configured size.
    fn group_len(&self, sources: &[Source]) -> Result<usize, CompactError> {
        let bytes_max = u64::from(self.config.segment_bytes).min(SEGMENT_BYTES_MAX);
        let (mut bytes, mut index_bytes) = (0, 0);
        for (index, source) in sources.iter().enumerate() {
            bytes += source.size;
            let used = source.files.offset_index.size_in_bytes();
            index_bytes += used.map_err(|source_error| CompactError::Io {
                path: source.files.offset_index.file().path(),
                source: source_error,
            })?;
            let span = source.end_offset.0 - sources[0].files.base_offset.0;
            let fits = bytes <= bytes_max
                && index_bytes + offset_index::ENTRY_LEN as u64 <= u64::from(self.config.segment_index_bytes)
                && span <= i64::from(i32::MAX);
            if !fits && index > 0 {
                return Ok(index);
            }
        }
        Ok(sources.len())
    }

    fn aborted_transactions(&self) -> Result<Vec<crate::log::transaction_index::AbortedTxn>, CompactError> {
        let mut aborted = Vec::new();
        for files in &self.all_files {
            let index = &files.transaction_index;
            let entries = index.entries();
            aborted.extend(entries.map_err(|source| CompactError::Io { path: index.file().path(), source })?);
        }
        Ok(aborted)
    }

    /// The newest offset of each key from the first dirty offset on, as far as memory goes; and how far that is.
    fn map_keys(&self, go_on: &dyn Fn() -> bool) -> Result<(KeyMap, Offset), CompactError> {
        let mut keys = KeyMap::new(self.config.dedupe_buffer_bytes);
        let mut transactions = Transactions::new(self.aborted_transactions()?);
        let mut mapped_end_offset = self.first_dirty_offset;
        for source in self.sources.iter().filter(|source| source.end_offset > self.first_dirty_offset) {
            let start = match source.files.locate(self.first_dirty_offset, source.size)? {
                Some(batch) => batch.position,
                None => continue,
            };
            let mut scan = source.files.scan(start, source.size)?;
            while let Some(batch) = scan.next()? {
                self.check_go_on(go_on)?;
                let header = &batch.header;
                if header.is_control() {
                    let bytes = self.read(source, &batch)?;
                    let kind = self.control_kind(source, &batch, &bytes)?;
                    transactions.on_control_batch(header, kind);
                } else if !transactions.on_data_batch(header) {
                    let bytes = self.read(source, &batch)?;
                    for record in self.records(source, &batch, &bytes)? {
                        let Some(key) = &record.key else { continue };
                        if record.offset >= self.log_start_offset && !keys.insert(key, record.offset) {
                            // No room for this key. What was mapped of this batch does no harm: those records are in
                            // the log. At least one batch always fits (see KeyMap), else nothing would ever be cleaned.
                            if mapped_end_offset == self.first_dirty_offset {
                                return Err(CompactError::Abandoned(
                                    "one batch has more keys than the dedupe buffer holds",
                                ));
                            }
                            return Ok((keys, mapped_end_offset));
                        }
                    }
                }
                mapped_end_offset = header.next_offset();
            }
            mapped_end_offset = source.end_offset;
        }
        Ok((keys, mapped_end_offset))
    }

    fn check_go_on(&self, go_on: &dyn Fn() -> bool) -> Result<(), CompactError> {
        self.latch.check()?;
        if go_on() { Ok(()) } else { Err(CompactError::Abandoned("asked to stop")) }
    }

    fn read(&self, source: &Source, batch: &Located) -> Result<Bytes, CompactError> {
        let bytes = source.files.read_batch(batch.position, &batch.header)?;
        // What is copied here would otherwise lose the last proof that it is what was produced.
        batch.header.check_crc(&bytes).map_err(|error| corrupt(source, batch, &error))?;
        Ok(bytes)
    }

    fn records(&self, source: &Source, batch: &Located, bytes: &Bytes) -> Result<Vec<Record>, CompactError> {
        ottla_batch::records(bytes, self.config.decompressed_bytes_max)
            .and_then(|records| records.collect())
            .map_err(|error| corrupt(source, batch, &error))
    }

    fn control_kind(
        &self,
        source: &Source,
        batch: &Located,
        bytes: &Bytes,
    ) -> Result<Option<ControlKind>, CompactError> {
        let records = self.records(source, batch, bytes)?;
        match records.first() {
            None => Ok(None),
            Some(record) => match ControlKind::parse(record.key.as_deref()) {
                Ok(kind) => Ok(Some(kind)),
                Err(error) => Err(corrupt(source, batch, &error)),
            },
        }
    }
}

fn corrupt(source: &Source, batch: &Located, error: &dyn std::fmt::Display) -> CompactError {
    CompactError::Corrupt {
        path: source.files.log.path(),
        position: batch.position,
        what: format!("batch at offset {}: {error}", batch.header.base_offset),
    }
}

/// One pass over all that is cleaned.
struct Round<'a> {
    plan: &'a CompactionPlan,
    keys: KeyMap,
    /// Records from here on are not in `keys` and stay.
    mapped_end_offset: Offset,
    transactions: Transactions,
    now: TimestampMs,
    go_on: &'a dyn Fn() -> bool,
}

/// What becomes of a batch.
enum Verdict {
    Copy,
    Build {
        records: Vec<Record>,
        delete_horizon: Option<TimestampMs>,
    },
    /// Only the header: the last sequence of a producer, or the end of what was cleaned.
    Empty,
    Drop,
}

impl Round<'_> {
    /// True: something was left out or changed.
    fn rewrite_group(&mut self, sources: &[Source], cleaned: &mut Segment) -> Result<bool, CompactError> {
        let files = Arc::clone(&cleaned.files);
        let io_error = |source| CompactError::Io { path: files.log.path(), source };
        let interval = self.plan.config.index_interval_bytes;
        let file = files.log.open_to_write().map_err(io_error)?;
        file.set_len(0).map_err(io_error)?;
        let mut pending = Vec::with_capacity(WRITE_BYTES);
        let mut is_changed = false;
        let end_offset = sources.last().map(|source| source.end_offset);
        for source in sources {
            let mut scan = source.files.scan(0, source.size)?;
            while let Some(batch) = scan.next()? {
                self.plan.check_go_on(self.go_on)?;
                let bytes = self.plan.read(source, &batch)?;
                let is_last = end_offset == Some(source.end_offset) && scan.is_at_end();
                let written = match self.judge(source, &batch, &bytes, is_last, cleaned)? {
                    Verdict::Copy => bytes,
                    Verdict::Build { records, delete_horizon } => {
                        build(&batch.header, &records, delete_horizon)
                            .map_err(|error| corrupt(source, &batch, &error))?
                    }
                    Verdict::Empty => {
                        build(&batch.header, &[], None).map_err(|error| corrupt(source, &batch, &error))?
                    }
                    Verdict::Drop => {
                        is_changed = true;
                        continue;
                    }
                };
                is_changed |= written.len() != batch.header.size_in_bytes();
                let header = BatchHeader::parse(&written).map_err(|error| corrupt(source, &batch, &error))?;
                is_changed |= header != batch.header;
                // Delete horizons can make a batch a little larger; positions must still fit.
                if cleaned.size + written.len() as u64 > SEGMENT_BYTES_MAX {
                    return Err(CompactError::Abandoned("the compacted segments do not fit into one"));
                }
                cleaned.on_appended(&header, interval).map_err(io_error)?;
                pending.extend_from_slice(&written);
                if pending.len() >= WRITE_BYTES {
                    flush(&file, &mut pending, cleaned.size).map_err(io_error)?;
                }
            }
        }
        flush(&file, &mut pending, cleaned.size).map_err(io_error)?;
        cleaned.forget_tail();
        finish(cleaned).map_err(io_error)?;
        Ok(is_changed)
    }

    fn judge(
        &mut self,
        source: &Source,
        batch: &Located,
        bytes: &Bytes,
        is_last_of_segment: bool,
        cleaned: &Segment,
    ) -> Result<Verdict, CompactError> {
        let header = &batch.header;
        let is_last_of_producer = header.has_producer_id()
            && match self.plan.last_records.get(&header.producer_id) {
                Some(LastRecord::Data { last_offset }) => header.last_offset() == *last_offset,
                Some(LastRecord::Marker { epoch }) => header.is_control() && header.producer_epoch == *epoch,
                None => false,
            };
        // The last batch of each new segment stays at least as a header, so that segments still end where the next one
        // begins: recovery takes anything else for a segment that lost its end. (Kafka keeps only that of the last one.)
        let keeps_header = is_last_of_producer || is_last_of_segment;
        let horizon = header.has_delete_horizon().then_some(header.base_timestamp);
        let is_past_horizon = horizon.is_some_and(|horizon| horizon <= self.now);
        let emptied = if keeps_header { Verdict::Empty } else { Verdict::Drop };
        let new_horizon = TimestampMs(self.now.0.saturating_add(self.plan.config.delete_retention_ms));

        if header.is_control() {
            let kind = self.plan.control_kind(source, batch, bytes)?;
            let marker = self.transactions.on_control_batch(header, kind);
            if let Some(aborted) = &marker.aborted {
                let index = &cleaned.files.transaction_index;
                index
                    .append(aborted)
                    .map_err(|source| CompactError::Io { path: index.file().path(), source })?;
            }
            return Ok(match (marker.is_obsolete, horizon) {
                (true, Some(_)) if is_past_horizon => emptied,
                (true, None) if kind.is_some() => Verdict::Build {
                    records: self.plan.records(source, batch, bytes)?,
                    delete_horizon: Some(new_horizon),
                },
                // Emptied by an earlier compaction for its header, which nobody needs now.
                (true, None) if !keeps_header => Verdict::Drop,
                _ => Verdict::Copy,
            });
        }
        if self.transactions.on_data_batch(header) {
            return Ok(emptied);
        }
        let records = self.plan.records(source, batch, bytes)?;
        let count = records.len();
        let stays = |record: &Record| {
            if record.offset >= self.mapped_end_offset {
                return true;
            }
            // Records without a key do not belong here (the broker refuses them); nothing could ever supersede them.
            let Some(key) = &record.key else { return false };
            let is_spent_tombstone = record.value.is_none() && is_past_horizon;
            !is_spent_tombstone && !self.keys.is_superseded(key, record.offset)
        };
        let kept: Vec<Record> = records.into_iter().filter(|record| stays(record)).collect();
        if kept.is_empty() {
            // Already empty and still wanted: as it is.
            return Ok(if count == 0 && keeps_header { Verdict::Copy } else { emptied });
        }
        let has_tombstones = kept.iter().any(|record| record.value.is_none());
        let sets_horizon = has_tombstones && horizon.is_none();
        if kept.len() == count && !sets_horizon {
            return Ok(Verdict::Copy);
        }
        let delete_horizon = if sets_horizon { Some(new_horizon) } else { horizon };
        Ok(Verdict::Build { records: kept, delete_horizon })
    }
}

/// The batch with fewer records (or none), everything else as it was.
fn build(
    header: &BatchHeader,
    records: &[Record],
    delete_horizon: Option<TimestampMs>,
) -> Result<Bytes, BuildError> {
    let keeps_max_timestamp = records.is_empty() || header.timestamp_type() == TimestampType::LogAppendTime;
    let mut builder = BatchBuilder::new(BatchOptions {
        base_offset: header.base_offset,
        leader_epoch: header.leader_epoch,
        // The codec was used to read the records; a batch without records needs none.
        codec: header.codec().unwrap_or(ottla_batch::Codec::None),
        level: None,
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        is_transactional: header.is_transactional(),
        is_control: header.is_control(),
        timestamp_type: header.timestamp_type(),
        max_timestamp: keeps_max_timestamp.then_some(header.max_timestamp),
        last_offset_delta: Some(header.last_offset_delta),
        delete_horizon,
    });
    for record in records {
        builder.push_record(record)?;
    }
    builder.build()
}

fn flush(file: &crate::disk::File, pending: &mut Vec<u8>, end: u64) -> io::Result<()> {
    if !pending.is_empty() {
        file.write_all_at(&mut [IoSlice::new(pending)], end - pending.len() as u64)?;
        pending.clear();
    }
    Ok(())
}

/// ORDER: content on stable storage before any rename makes it part of the log.
fn finish(cleaned: &mut Segment) -> io::Result<()> {
    let files = &cleaned.files;
    cleaned.seal_time_index()?;
    files.flush_indexes()?;
    files.log.open()?.sync_data()?;
    for (index, unsynced) in [
        (files.offset_index.file(), files.offset_index.take_unsynced()),
        (files.time_index.file(), files.time_index.take_unsynced()),
        (files.transaction_index.file(), files.transaction_index.take_unsynced()),
    ] {
        if unsynced {
            index.open()?.sync_data()?;
        }
    }
    files.log.unpin();
    cleaned.unsynced = false;
    Ok(())
}
