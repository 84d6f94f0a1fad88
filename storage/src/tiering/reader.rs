//! Reads tiered segments: finds the batch of an offset by the indexes of its object, fetches pieces of fixed size and reads
//! ahead, checks every batch before it is handed out.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::lock::Mutex as AsyncMutex;
use ottla_batch::{BatchHeader, HEADER_LEN, Offset, TimestampMs};
use parking_lot::Mutex;

use super::cache::{CacheCounts, ChunkCache, ChunkId, Spawn};
use super::key::SegmentKey;
use super::object::{Damaged, FOOTER_BYTES, Footer, Indexes, Section};
use super::store::{ByteRange, ObjectStore, StoreError};
use crate::log::AbortedTransaction;
use crate::log::transaction_index::{AbortedTxn, ENTRY_LEN};

#[derive(Debug, Clone, Copy)]
pub struct ReaderConfig {
    /// What one request brings, and what lies at multiples of it in the object.
    pub chunk_bytes: NonZeroUsize,
    /// Of chunks in memory, those on their way included.
    pub cache_bytes_max: usize,
    /// Objects whose footer and indexes are kept.
    pub heads_max: usize,
    /// Of the end of an object, asked for first: footer and mostly indexes.
    pub tail_bytes: usize,
}

impl Default for ReaderConfig {
    fn default() -> ReaderConfig {
        ReaderConfig {
            chunk_bytes: NonZeroUsize::new(8 << 20).unwrap_or(NonZeroUsize::MIN),
            cache_bytes_max: 128 << 20,
            heads_max: 256,
            tail_bytes: 256 << 10,
        }
    }
}

/// Why a tiered segment could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteReadError {
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    #[error("object {key}: {what}")]
    Damaged { key: String, what: String },
}

/// Whole batches, the first of which holds the offset that was asked for or is the first one after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteBatches {
    pub bytes: Bytes,
    /// Offset after the last of them; the end of the segment when nothing is left in it.
    pub next_offset: Offset,
}

/// What is kept of an object.
struct Head {
    footer: Footer,
    indexes: Indexes,
    aborted: Vec<AbortedTxn>,
}

/// A head, and one who fetches it for all.
type Slot = Arc<AsyncMutex<Option<Arc<Head>>>>;

pub struct RemoteReader {
    config: ReaderConfig,
    chunks: ChunkCache,
    /// The most recently used last.
    heads: Mutex<VecDeque<(SegmentKey, Slot)>>,
}

impl RemoteReader {
    /// `prefix`: of all keys of this cluster, empty or with a slash at its end.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        spawn: Spawn,
        config: ReaderConfig,
    ) -> RemoteReader {
        let chunks = ChunkCache::new(store, prefix, spawn, config.cache_bytes_max);
        RemoteReader { config, chunks, heads: Mutex::new(VecDeque::new()) }
    }

    pub fn counts(&self) -> CacheCounts {
        self.chunks.counts()
    }

    pub async fn footer(&self, key: &SegmentKey) -> Result<Footer, RemoteReadError> {
        Ok(self.head(key).await?.footer.clone())
    }

    /// An offset at or before the first record of the segment that is not older than `timestamp`.
    pub async fn offset_before(
        &self,
        key: &SegmentKey,
        timestamp: TimestampMs,
    ) -> Result<Offset, RemoteReadError> {
        Ok(self.head(key).await?.indexes.offset_before(timestamp))
    }

    /// Those that ended in this segment and touch `[from, upto)`. Whether later segments may hold more: their markers
    /// come later.
    pub async fn aborted_transactions(
        &self,
        key: &SegmentKey,
        from: Offset,
        upto: Offset,
    ) -> Result<(Vec<AbortedTransaction>, bool), RemoteReadError> {
        let head = self.head(key).await?;
        let touching =
            head.aborted.iter().filter(|aborted| aborted.last_offset >= from && aborted.first_offset < upto);
        let found = touching.map(|aborted| AbortedTransaction {
            producer_id: aborted.producer_id,
            first_offset: aborted.first_offset,
        });
        // What comes after a marker that was written when all below `upto` was decided does not touch it.
        let is_decided = head.aborted.iter().any(|aborted| aborted.last_stable_offset >= upto);
        Ok((found.collect(), !is_decided))
    }

    /// The bytes of a section, as they are needed rarely: epochs and producers, when a follower begins behind them.
    pub async fn section(&self, key: &SegmentKey, section: Section) -> Result<Bytes, RemoteReadError> {
        let head = self.head(key).await?;
        let range = head.footer.range(section);
        let bytes = match range.is_empty() {
            true => Bytes::new(),
            false => self.fetch(key, range.start, (range.end - range.start) as usize).await?,
        };
        head.footer.check(section, &bytes).map_err(|damaged| self.damaged(key, &damaged))?;
        Ok(bytes)
    }

    /// From the batch that holds `from` on: at least that one, then as many as `bytes_max` and the piece that was fetched allow.
    pub async fn read(
        &self,
        key: &SegmentKey,
        from: Offset,
        bytes_max: usize,
    ) -> Result<RemoteBatches, RemoteReadError> {
        let head = self.head(key).await?;
        let end = head.footer.range(Section::Batches).end;
        let mut at = head.indexes.position(from);
        // To the batch that holds the offset; the index leads to one that is some kilobytes before it.
        let (mut chunk, mut chunk_at) = (Bytes::new(), at);
        let first = loop {
            if at >= end {
                return Ok(RemoteBatches { bytes: Bytes::new(), next_offset: head.footer.end_offset });
            }
            if at >= chunk_at + chunk.len() as u64 {
                (chunk, chunk_at) = self.chunk_of(key, at, end).await?;
            }
            let header = self.header(key, at, end, &chunk, chunk_at).await?;
            if header.last_offset() >= from {
                break header;
            }
            at += header.size_in_bytes() as u64;
        };
        self.read_ahead(key, at, end);
        let within = (at - chunk_at) as usize;
        if within + first.size_in_bytes() > chunk.len() {
            let bytes = self.across(key, at, first.size_in_bytes(), end).await?;
            self.check(key, &first, &bytes, at, end)?;
            return Ok(RemoteBatches { bytes, next_offset: first.next_offset() });
        }
        let (mut taken, mut next_offset) = (0, from);
        let rest = chunk.slice(within..);
        while rest.len() - taken >= HEADER_LEN && at + (taken as u64) < end {
            let header = BatchHeader::parse(&rest[taken..]);
            let header = header.map_err(|error| self.damaged(key, &Damaged::new(error.to_string())))?;
            let size = header.size_in_bytes();
            let Some(batch) = rest.get(taken..taken + size) else { break };
            if taken > 0 && taken + size > bytes_max {
                break;
            }
            self.check(key, &header, batch, at + taken as u64, end)?;
            taken += size;
            next_offset = header.next_offset();
        }
        Ok(RemoteBatches { bytes: rest.slice(..taken), next_offset })
    }

    fn check(
        &self,
        key: &SegmentKey,
        header: &BatchHeader,
        batch: &[u8],
        at: u64,
        end: u64,
    ) -> Result<(), RemoteReadError> {
        let is_within = header.base_offset >= key.base_offset && header.next_offset() <= key.end_offset;
        let checked = match is_within {
            true => header.check_crc(batch).map_err(|error| error.to_string()),
            false => Err(format!("a batch at offset {} is not of this segment", header.base_offset)),
        };
        checked.map_err(|what| {
            // It may have been damaged on its way: the next reader asks again.
            // A batch may lie in many small pieces.
            for position in (at..at + batch.len() as u64)
                .step_by(self.config.chunk_bytes.get())
                .chain([at + batch.len() as u64 - 1])
            {
                self.chunks.forget(&self.chunk_id(key, position, end));
            }
            self.damaged(key, &Damaged::new(format!("at position {at}: {what}")))
        })
    }

    fn damaged(&self, key: &SegmentKey, damaged: &Damaged) -> RemoteReadError {
        RemoteReadError::Damaged { key: self.chunks.name(key), what: damaged.to_string() }
    }

    /// The piece that holds `position` of a section that ends at `end`.
    fn chunk_id(&self, key: &SegmentKey, position: u64, end: u64) -> ChunkId {
        let chunk_bytes = self.config.chunk_bytes.get() as u64;
        let start = position / chunk_bytes * chunk_bytes;
        ChunkId { key: *key, position: start, len: (end - start).min(chunk_bytes) as usize }
    }

    async fn chunk_of(
        &self,
        key: &SegmentKey,
        position: u64,
        end: u64,
    ) -> Result<(Bytes, u64), RemoteReadError> {
        let id = self.chunk_id(key, position, end);
        Ok((self.chunks.get(id).await?, id.position))
    }

    /// Whoever reads the second half of a piece will soon want the next one.
    fn read_ahead(&self, key: &SegmentKey, position: u64, end: u64) {
        let id = self.chunk_id(key, position, end);
        let next = id.position + id.len as u64;
        if next < end && position - id.position >= id.len as u64 / 2 {
            self.chunks.read_ahead(self.chunk_id(key, next, end));
        }
    }

    async fn header(
        &self,
        key: &SegmentKey,
        at: u64,
        end: u64,
        chunk: &Bytes,
        chunk_at: u64,
    ) -> Result<BatchHeader, RemoteReadError> {
        let within = (at - chunk_at) as usize;
        let across;
        let bytes = match chunk.get(within..within + HEADER_LEN) {
            Some(bytes) => bytes,
            None if at + HEADER_LEN as u64 > end => {
                return Err(self.damaged(key, &Damaged::new(format!("no batch at position {at}"))));
            }
            None => {
                across = self.across(key, at, HEADER_LEN, end).await?;
                &across[..]
            }
        };
        let header = BatchHeader::parse(bytes);
        let header =
            header.map_err(|error| self.damaged(key, &Damaged::new(format!("at position {at}: {error}"))))?;
        match at + header.size_in_bytes() as u64 > end {
            true => {
                Err(self
                    .damaged(key, &Damaged::new(format!("the batch at position {at} does not end in it"))))
            }
            false => Ok(header),
        }
    }

    /// Bytes that lie in more than one piece.
    async fn across(
        &self,
        key: &SegmentKey,
        at: u64,
        len: usize,
        end: u64,
    ) -> Result<Bytes, RemoteReadError> {
        let mut bytes = BytesMut::with_capacity(len);
        while bytes.len() < len {
            let position = at + bytes.len() as u64;
            let (chunk, chunk_at) = self.chunk_of(key, position, end).await?;
            let from = (position - chunk_at) as usize;
            let wanted = (len - bytes.len()).min(chunk.len() - from);
            bytes.extend_from_slice(&chunk[from..from + wanted]);
        }
        Ok(bytes.freeze())
    }

    async fn fetch(&self, key: &SegmentKey, position: u64, len: usize) -> Result<Bytes, RemoteReadError> {
        let piece = self.chunks.store().get(&self.chunks.name(key), ByteRange::From { position, len }).await;
        let piece = piece.map_err(Arc::new)?;
        match piece.bytes.len() == len {
            true => Ok(piece.bytes),
            false => {
                Err(self.damaged(key, &Damaged::new(format!("it ends before {}", position + len as u64))))
            }
        }
    }

    async fn head(&self, key: &SegmentKey) -> Result<Arc<Head>, RemoteReadError> {
        let slot = {
            let mut heads = self.heads.lock();
            let known =
                heads.iter().position(|(known, _)| known == key).and_then(|index| heads.remove(index));
            let slot = known.map_or_else(Slot::default, |(_, slot)| slot);
            heads.push_back((*key, slot.clone()));
            while heads.len() > self.config.heads_max {
                heads.pop_front();
            }
            slot
        };
        let mut slot = slot.lock().await;
        if let Some(head) = &*slot {
            return Ok(head.clone());
        }
        let head = Arc::new(self.fetch_head(key).await?);
        *slot = Some(head.clone());
        Ok(head)
    }

    async fn fetch_head(&self, key: &SegmentKey) -> Result<Head, RemoteReadError> {
        let damaged = |damaged: Damaged| self.damaged(key, &damaged);
        let range = ByteRange::Suffix { len: self.config.tail_bytes.max(FOOTER_BYTES) };
        let tail = self.chunks.store().get(&self.chunks.name(key), range).await.map_err(Arc::new)?;
        let footer = Footer::decode(&tail.bytes, tail.object_bytes).map_err(damaged)?;
        footer.check_key(key).map_err(damaged)?;
        let from = footer.range(Section::OffsetIndex).start;
        let to = footer.range(Section::TransactionIndex).end;
        let (behind, behind_at) = match tail.position <= from {
            true => (tail.bytes, tail.position),
            false => (self.fetch(key, from, (to - from) as usize).await?, from),
        };
        let section = |section| {
            let range = footer.range(section);
            // Copied, or all of the tail would be kept with it.
            Bytes::copy_from_slice(
                &behind[(range.start - behind_at) as usize..(range.end - behind_at) as usize],
            )
        };
        let transactions = section(Section::TransactionIndex);
        footer.check(Section::TransactionIndex, &transactions).map_err(damaged)?;
        let aborted =
            transactions.as_chunks::<ENTRY_LEN>().0.iter().map(AbortedTxn::decode).collect::<Option<_>>();
        let aborted =
            aborted.ok_or_else(|| damaged(Damaged::new("an aborted transaction of an unknown version")))?;
        let indexes = Indexes::new(&footer, section(Section::OffsetIndex), section(Section::TimeIndex));
        Ok(Head { indexes: indexes.map_err(damaged)?, footer, aborted })
    }
}
