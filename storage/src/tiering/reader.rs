//! Reads tiered segments: finds the batch of an offset by the indexes of its object, fetches pieces of fixed size and reads
//! ahead, also into the segment that comes next, and checks every batch before it is handed out.
//!
//! What it asks the store for goes on when whoever asked has gone away: a reader that gives up after a while and comes again
//! finds what it began.

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use ottla_batch::{BatchHeader, HEADER_LEN, LeaderEpoch, Offset, TimestampMs};
use uuid::Uuid;

use super::cache::{Cache, CacheCounts, Kept, Spawn};
use super::disk_cache::{DiskCache, DiskCacheCounts};
use super::key::SegmentKey;
use super::object::{Damaged, FOOTER_BYTES, Footer, Indexes, Section};
use super::store::{ByteRange, ObjectStore, StoreError};
use crate::log::producer_state::ProducerState;
use crate::log::transaction_index::{AbortedTxn, ENTRY_LEN};
use crate::log::{AbortedTransaction, TimestampedOffset};

#[derive(Debug, Clone, Copy)]
pub struct ReaderConfig {
    /// What one request brings, from a multiple of it in the object on; the last one brings what is left as well, if that is less.
    pub chunk_bytes: NonZeroUsize,
    /// Of chunks in memory, those on their way included.
    pub cache_bytes_max: usize,
    /// Of the footers and indexes of objects in memory.
    pub heads_bytes_max: usize,
    /// Of the end of an object, asked for first: footer and mostly indexes.
    pub tail_bytes: usize,
}

impl Default for ReaderConfig {
    fn default() -> ReaderConfig {
        ReaderConfig {
            chunk_bytes: NonZeroUsize::new(8 << 20).unwrap_or(NonZeroUsize::MIN),
            cache_bytes_max: 128 << 20,
            heads_bytes_max: 32 << 20,
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
    /// Offset after the last of them; the limit when nothing is left below it.
    pub next_offset: Offset,
    /// What comes after them in the segment is in memory, or on its way there: time to think of the next one.
    pub nears_end: bool,
}

/// A piece of an object: position and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ChunkId {
    pub(super) key: SegmentKey,
    pub(super) position: u64,
    pub(super) len: usize,
}

impl Kept for Bytes {
    fn size_in_bytes(&self) -> usize {
        self.len()
    }
}

/// What is kept of an object.
struct Head {
    footer: Footer,
    indexes: Indexes,
    aborted: Vec<AbortedTxn>,
    /// Where the first transaction begins that is open at the end of the segment.
    first_undecided: Option<Offset>,
}

impl Kept for Arc<Head> {
    fn size_in_bytes(&self) -> usize {
        size_of::<Head>() + self.indexes.bytes() + self.aborted.len() * size_of::<AbortedTxn>()
    }
}

/// The store, for fetches that outlive those who asked.
struct Source {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    tail_bytes: usize,
    /// Asked before the store.
    disk_cache: Option<DiskCache>,
}

pub struct RemoteReader {
    config: ReaderConfig,
    source: Arc<Source>,
    chunks: Cache<ChunkId, Bytes>,
    heads: Cache<SegmentKey, Arc<Head>>,
}

impl RemoteReader {
    /// `prefix`: of all keys of this cluster, empty or with a slash at its end.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        prefix: &str,
        spawn: Spawn,
        config: ReaderConfig,
        disk_cache: Option<DiskCache>,
    ) -> RemoteReader {
        RemoteReader {
            config,
            source: Arc::new(Source {
                store,
                prefix: prefix.to_owned(),
                tail_bytes: config.tail_bytes.max(FOOTER_BYTES),
                disk_cache,
            }),
            chunks: Cache::new(spawn.clone(), config.cache_bytes_max),
            heads: Cache::new(spawn, config.heads_bytes_max),
        }
    }

    /// Of the batches; footers and indexes are not counted.
    pub fn counts(&self) -> CacheCounts {
        self.chunks.counts()
    }

    /// Of the footers and indexes.
    pub fn head_counts(&self) -> CacheCounts {
        self.heads.counts()
    }

    /// None without one.
    pub fn disk_counts(&self) -> Option<DiskCacheCounts> {
        self.source.disk_cache.as_ref().map(DiskCache::counts)
    }

    /// The topic is deleted: nothing of it stays on the disk.
    pub fn forget_topic(&self, topic_id: Uuid) {
        if let Some(disk_cache) = &self.source.disk_cache {
            disk_cache.forget_topic(topic_id);
        }
    }

    pub async fn footer(&self, key: &SegmentKey) -> Result<Footer, RemoteReadError> {
        Ok(self.head(key).await?.footer.clone())
    }

    /// The first record in `[from, limit)` that is not older than `timestamp`. `decompressed_bytes_max`: of one batch.
    pub async fn offset_for_timestamp(
        &self,
        key: &SegmentKey,
        timestamp: TimestampMs,
        from: Offset,
        limit: Offset,
        decompressed_bytes_max: usize,
    ) -> Result<Option<TimestampedOffset>, RemoteReadError> {
        let mut next = self.head(key).await?.indexes.offset_before(timestamp).max(from);
        while next < limit {
            let read = self.read(key, next, limit, self.config.chunk_bytes.get()).await?;
            let mut rest = read.bytes;
            while !rest.is_empty() {
                let damaged = |what: String| self.source.damaged(key, &Damaged::new(what));
                let header = BatchHeader::parse(&rest).map_err(|error| damaged(error.to_string()))?;
                let batch = rest.split_to(header.size_in_bytes());
                if header.max_timestamp < timestamp {
                    continue;
                }
                let records = ottla_batch::records(&batch, decompressed_bytes_max);
                for record in records.map_err(|error| damaged(error.to_string()))? {
                    let record = record.map_err(|error| damaged(error.to_string()))?;
                    if record.timestamp >= timestamp && record.offset >= from && record.offset < limit {
                        let epoch = header.leader_epoch;
                        return Ok(Some(TimestampedOffset {
                            timestamp: record.timestamp,
                            offset: record.offset,
                            leader_epoch: (epoch > LeaderEpoch::NONE).then_some(epoch),
                        }));
                    }
                }
            }
            next = read.next_offset;
        }
        Ok(None)
    }

    /// Those that ended in this segment and touch `[from, upto)`. Whether later segments may hold more: transactions that begin
    /// before `upto` are still open at its end.
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
        Ok((found.collect(), head.first_undecided.is_some_and(|first| first < upto)))
    }

    /// The bytes of a section, as they are needed rarely: epochs and producers, when a follower begins behind them.
    pub async fn section(&self, key: &SegmentKey, section: Section) -> Result<Bytes, RemoteReadError> {
        let head = self.head(key).await?;
        let range = head.footer.range(section);
        let bytes = match range.is_empty() {
            true => Bytes::new(),
            false => self.source.fetch(key, range.start, (range.end - range.start) as usize).await?,
        };
        head.footer.check(section, &bytes).map_err(|damaged| self.source.damaged(key, &damaged))?;
        Ok(bytes)
    }

    /// It will be read soon, from its first batch on.
    pub fn expect(&self, key: &SegmentKey) {
        let key = *key;
        match self.heads.peek(&key) {
            Some(head) => self.expect_batches(&key, &head),
            None if self.heads.knows(&key) => {}
            None => {
                let (heads, source) = (self.heads.clone(), self.source.clone());
                // The batches follow with the next word of whoever expects it.
                heads.read_ahead(key, source.tail_bytes, || fetch_head(source.clone(), key).boxed());
            }
        }
    }

    fn expect_batches(&self, key: &SegmentKey, head: &Head) {
        let end = head.footer.range(Section::Batches).end;
        if end > 0 {
            self.read_ahead_at(key, 0, end);
        }
    }

    /// From the batch that holds `from` on: at least that one, then as many as `bytes_max`, `limit` and the piece that was fetched
    /// allow. Batches from `limit` on are not read.
    pub async fn read(
        &self,
        key: &SegmentKey,
        from: Offset,
        limit: Offset,
        bytes_max: usize,
    ) -> Result<RemoteBatches, RemoteReadError> {
        let head = self.head(key).await?;
        let end = head.footer.range(Section::Batches).end;
        let mut at = head.indexes.position(from);
        // To the batch that holds the offset; the index leads to one that is some kilobytes before it.
        let (mut chunk, mut chunk_at) = (Bytes::new(), at);
        let first = loop {
            if at >= end {
                return Ok(RemoteBatches { bytes: Bytes::new(), next_offset: limit, nears_end: true });
            }
            if at >= chunk_at + chunk.len() as u64 {
                (chunk, chunk_at) = self.chunk_of(key, at, end).await?;
            }
            let header = self.header(key, at, end, &chunk, chunk_at).await?;
            if header.base_offset >= limit {
                return Ok(RemoteBatches { bytes: Bytes::new(), next_offset: limit, nears_end: true });
            }
            if header.last_offset() >= from {
                break header;
            }
            at += header.size_in_bytes() as u64;
        };
        let nears_end = self.read_ahead(key, at, end);
        let within = (at - chunk_at) as usize;
        if within + first.size_in_bytes() > chunk.len() {
            let bytes = self.across(key, at, first.size_in_bytes(), end).await?;
            self.check(key, &first, &bytes, at, end)?;
            let nears_end = nears_end || at + bytes.len() as u64 == end;
            return Ok(RemoteBatches { bytes, next_offset: first.next_offset(), nears_end });
        }
        let (mut taken, mut next_offset) = (0, from);
        let rest = chunk.slice(within..);
        while rest.len() - taken >= HEADER_LEN && at + (taken as u64) < end {
            let header = BatchHeader::parse(&rest[taken..]);
            let header =
                header.map_err(|error| self.source.damaged(key, &Damaged::new(error.to_string())))?;
            let size = header.size_in_bytes();
            let Some(batch) = rest.get(taken..taken + size) else { break };
            if taken > 0 && (taken + size > bytes_max || header.base_offset >= limit) {
                break;
            }
            self.check(key, &header, batch, at + taken as u64, end)?;
            taken += size;
            next_offset = header.next_offset();
        }
        let nears_end = nears_end || at + taken as u64 == end;
        Ok(RemoteBatches { bytes: rest.slice(..taken), next_offset, nears_end })
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
                let id = self.chunk_id(key, position, end);
                self.chunks.forget(&id);
                if let Some(disk_cache) = &self.source.disk_cache {
                    disk_cache.forget(&id);
                }
            }
            self.source.damaged(key, &Damaged::new(format!("at position {at}: {what}")))
        })
    }

    /// The piece that holds `position` of a section that ends at `end`. A request costs the same however little it brings, so
    /// what is left at the end comes with the last whole piece.
    fn chunk_id(&self, key: &SegmentKey, position: u64, end: u64) -> ChunkId {
        let chunk_bytes = self.config.chunk_bytes.get() as u64;
        let last = (end / chunk_bytes).saturating_sub(1);
        let index = (position / chunk_bytes).min(last);
        let start = index * chunk_bytes;
        let len = if index == last { end - start } else { chunk_bytes };
        ChunkId { key: *key, position: start, len: len as usize }
    }

    async fn chunk_of(
        &self,
        key: &SegmentKey,
        position: u64,
        end: u64,
    ) -> Result<(Bytes, u64), RemoteReadError> {
        let id = self.chunk_id(key, position, end);
        let chunk = self.chunks.get(id, id.len, || fetch_chunk(self.source.clone(), id).boxed());
        Ok((chunk.await?, id.position))
    }

    /// Whoever reads the second half of a piece will soon want the next one. Whether there is none.
    fn read_ahead(&self, key: &SegmentKey, position: u64, end: u64) -> bool {
        let id = self.chunk_id(key, position, end);
        let next = id.position + id.len as u64;
        if position - id.position < id.len as u64 / 2 {
            return false;
        }
        if next < end {
            self.read_ahead_at(key, next, end);
        }
        next >= end
    }

    fn read_ahead_at(&self, key: &SegmentKey, position: u64, end: u64) {
        let id = self.chunk_id(key, position, end);
        self.chunks.read_ahead(id, id.len, || fetch_chunk(self.source.clone(), id).boxed());
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
                return Err(self.source.damaged(key, &Damaged::new(format!("no batch at position {at}"))));
            }
            None => {
                across = self.across(key, at, HEADER_LEN, end).await?;
                &across[..]
            }
        };
        let header = BatchHeader::parse(bytes);
        let header = header
            .map_err(|error| self.source.damaged(key, &Damaged::new(format!("at position {at}: {error}"))))?;
        match at + header.size_in_bytes() as u64 > end {
            true => Err(self
                .source
                .damaged(key, &Damaged::new(format!("the batch at position {at} does not end in it")))),
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

    async fn head(&self, key: &SegmentKey) -> Result<Arc<Head>, RemoteReadError> {
        let bytes_expected = self.source.tail_bytes;
        self.heads.get(*key, bytes_expected, || fetch_head(self.source.clone(), *key).boxed()).await
    }
}

impl Source {
    /// The name in the store.
    fn name(&self, key: &SegmentKey) -> String {
        format!("{}{key}", self.prefix)
    }

    fn damaged(&self, key: &SegmentKey, damaged: &Damaged) -> RemoteReadError {
        RemoteReadError::Damaged { key: self.name(key), what: damaged.to_string() }
    }

    async fn fetch(&self, key: &SegmentKey, position: u64, len: usize) -> Result<Bytes, RemoteReadError> {
        let piece = self.store.get(&self.name(key), ByteRange::From { position, len }).await;
        let piece = piece.map_err(Arc::new)?;
        match piece.bytes.len() == len {
            true => Ok(piece.bytes),
            false => {
                Err(self.damaged(key, &Damaged::new(format!("it ends before {}", position + len as u64))))
            }
        }
    }
}

async fn fetch_chunk(source: Arc<Source>, id: ChunkId) -> Result<Bytes, RemoteReadError> {
    let Some(disk_cache) = &source.disk_cache else {
        return source.fetch(&id.key, id.position, id.len).await;
    };
    if let Some(bytes) = disk_cache.get(&id).await {
        return Ok(bytes);
    }
    let bytes = source.fetch(&id.key, id.position, id.len).await?;
    disk_cache.put(id, bytes.clone());
    Ok(bytes)
}

async fn fetch_head(source: Arc<Source>, key: SegmentKey) -> Result<Arc<Head>, RemoteReadError> {
    let damaged = |damaged: Damaged| source.damaged(&key, &damaged);
    let range = ByteRange::Suffix { len: source.tail_bytes };
    let tail = source.store.get(&source.name(&key), range).await.map_err(Arc::new)?;
    let footer = Footer::decode(&tail.bytes, tail.object_bytes).map_err(damaged)?;
    footer.check_key(&key).map_err(damaged)?;
    let from = footer.range(Section::OffsetIndex).start;
    let to = footer.range(Section::ProducerSnapshot).end;
    let (behind, behind_at) = match tail.position <= from {
        true => (tail.bytes, tail.position),
        false => (source.fetch(&key, from, (to - from) as usize).await?, from),
    };
    let section = |section| {
        let range = footer.range(section);
        behind.slice((range.start - behind_at) as usize..(range.end - behind_at) as usize)
    };
    let transactions = section(Section::TransactionIndex);
    footer.check(Section::TransactionIndex, &transactions).map_err(damaged)?;
    let aborted =
        transactions.as_chunks::<ENTRY_LEN>().0.iter().map(AbortedTxn::decode).collect::<Option<_>>();
    let aborted =
        aborted.ok_or_else(|| damaged(Damaged::new("an aborted transaction of an unknown version")))?;
    let producers = section(Section::ProducerSnapshot);
    footer.check(Section::ProducerSnapshot, &producers).map_err(damaged)?;
    let producers = ProducerState::decode_snapshot(&producers)
        .ok_or_else(|| damaged(Damaged::new("a producer snapshot of an unknown version")))?;
    // Copied, or all of the tail would be kept with them.
    let copied = |of| Bytes::copy_from_slice(&section(of));
    let indexes = Indexes::new(&footer, copied(Section::OffsetIndex), copied(Section::TimeIndex));
    let first_undecided = producers.first_undecided_offset();
    Ok(Arc::new(Head { indexes: indexes.map_err(damaged)?, footer, aborted, first_undecided }))
}
