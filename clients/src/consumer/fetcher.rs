//! Reading partitions: one fetch in flight per leader, records decoded from their batches.
//!
//! While the caller works on what it got, the next fetch is already on its way; no more than one answer per leader waits.
//! Positions move when an answer is decoded. An answer for a position that has changed since it was asked (a seek, a
//! rebalance) is thrown away.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{AbortedTransaction, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use ottla_batch::{BatchHeader, Record, RecordIter};
use tokio::time::Instant;

use crate::admin::{OffsetSpec, TopicPartition, list_offsets};
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::wire::{ErrorCode, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Everything up to the high watermark.
    ReadUncommitted,
    /// Not what belongs to open or aborted transactions.
    ReadCommitted,
}

#[derive(Debug, Clone)]
pub struct FetchConfig {
    /// How long a broker waits for `min_bytes`.
    pub max_wait: Duration,
    pub min_bytes: i32,
    pub max_bytes: i32,
    pub partition_bytes_max: i32,
    pub isolation: Isolation,
    pub check_crc: bool,
    /// Of one batch.
    pub decompressed_bytes_max: usize,
    /// Where to go on when the log no longer has the position: None is an error.
    pub on_out_of_range: Option<OffsetSpec>,
}

impl Default for FetchConfig {
    fn default() -> FetchConfig {
        FetchConfig {
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 16 << 20,
            partition_bytes_max: 1 << 20,
            isolation: Isolation::ReadUncommitted,
            check_crc: true,
            decompressed_bytes_max: 128 << 20,
            on_out_of_range: Some(OffsetSpec::Earliest),
        }
    }
}

/// Some records of one partition, in order.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub partition: TopicPartition,
    pub records: Vec<Record>,
    /// Where reading goes on: past what was fetched, which may be more than the last record (control batches, compaction).
    pub next_offset: i64,
    pub high_watermark: i64,
    /// Of the batches on the wire.
    pub bytes: usize,
}

pub struct Fetcher {
    cluster: Cluster,
    config: FetchConfig,
    positions: BTreeMap<TopicPartition, i64>,
    busy: HashSet<i32>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    ready: VecDeque<Fetched>,
    pause_until: Option<Instant>,
    /// Since when nothing but errors that may pass has come.
    failing_since: Option<Instant>,
}

struct Answer {
    leader: i32,
    asked: BTreeMap<TopicPartition, i64>,
    result: Result<FetchResponse, ClientError>,
}

const RETRY_PAUSE: Duration = Duration::from_millis(100);

impl Fetcher {
    pub fn new(cluster: Cluster, config: FetchConfig) -> Fetcher {
        Fetcher {
            cluster,
            config,
            positions: BTreeMap::new(),
            busy: HashSet::new(),
            answers: FuturesUnordered::new(),
            ready: VecDeque::new(),
            pause_until: None,
            failing_since: None,
        }
    }

    /// Reads exactly these partitions from now on. What was fetched of others, or at other positions, is dropped.
    pub fn assign(&mut self, positions: BTreeMap<TopicPartition, i64>) {
        // What was fetched but not handed out is fetched again where its partition stays: positions are the caller's.
        self.ready.clear();
        self.positions = positions;
        self.failing_since = None;
    }

    /// The offset of the next record to be fetched, of each partition. Records before it may still wait in `next`.
    pub fn positions(&self) -> &BTreeMap<TopicPartition, i64> {
        &self.positions
    }

    /// Stops reading a partition.
    pub fn remove(&mut self, partition: &TopicPartition) {
        self.positions.remove(partition);
        self.ready.retain(|fetched| &fetched.partition != partition);
    }

    /// The next records of any partition; waits as long as there are none. Can be cancelled without loss.
    pub async fn next(&mut self) -> Result<Fetched, ClientError> {
        loop {
            if self.ready.len() <= self.positions.len() / 2 {
                self.start_fetches().await?;
            }
            if let Some(fetched) = self.ready.pop_front() {
                return Ok(fetched);
            }
            let wake_at = self.pause_until;
            let timer = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(answer) = self.answers.next() => self.on_answer(answer).await?,
                () = timer => self.pause_until = None,
            }
        }
    }

    async fn start_fetches(&mut self) -> Result<(), ClientError> {
        if self.pause_until.is_some_and(|until| until > Instant::now()) {
            return Ok(());
        }
        self.pause_until = None;
        let waiting: BTreeSet<&TopicPartition> = self.ready.iter().map(|f| &f.partition).collect();
        let mut by_leader: BTreeMap<i32, BTreeMap<TopicPartition, i64>> = BTreeMap::new();
        for (partition, offset) in &self.positions {
            if waiting.contains(partition) {
                continue;
            }
            match self.cluster.leader(&partition.0, partition.1).await {
                Ok((leader, _)) => {
                    by_leader.entry(leader).or_default().insert(partition.clone(), *offset);
                }
                Err(error) => {
                    let failing = &mut self.failing_since;
                    note_failure(failing, self.cluster.config().operation_timeout, error)?;
                    self.pause_until = Some(Instant::now() + RETRY_PAUSE);
                }
            }
        }
        for (leader, asked) in by_leader {
            if self.busy.contains(&leader) {
                continue;
            }
            let request = self.request(&asked);
            let connection = match self.cluster.broker(leader).await {
                Ok(connection) => connection,
                Err(error) => {
                    self.on_failure(asked.keys(), error)?;
                    continue;
                }
            };
            let timeout = self.cluster.config().request_timeout + self.config.max_wait;
            let pending = match connection.submit(&request, timeout).await {
                Ok(pending) => pending,
                Err(error) => {
                    self.on_failure(asked.keys(), error)?;
                    continue;
                }
            };
            self.busy.insert(leader);
            self.answers.push(Box::pin(async move {
                let result = pending.wait().await;
                Answer { leader, asked, result }
            }));
        }
        Ok(())
    }

    fn request(&self, asked: &BTreeMap<TopicPartition, i64>) -> FetchRequest {
        let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
        for ((topic, partition), offset) in asked {
            // A broker that leads in an older epoch only refuses then, instead of answering from its past.
            let described = self.cluster.cached_topic(topic);
            let leader_epoch =
                described.and_then(|topic| topic.partition(*partition).map(|p| p.leader_epoch));
            topics.entry(topic).or_default().push(
                FetchPartition::default()
                    .with_partition(*partition)
                    .with_current_leader_epoch(leader_epoch.unwrap_or(-1))
                    .with_fetch_offset(*offset)
                    .with_log_start_offset(-1)
                    .with_partition_max_bytes(self.config.partition_bytes_max),
            );
        }
        FetchRequest::default()
            .with_replica_id((-1).into())
            .with_max_wait_ms(i32::try_from(self.config.max_wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(self.config.min_bytes)
            .with_max_bytes(self.config.max_bytes)
            .with_isolation_level(match self.config.isolation {
                Isolation::ReadUncommitted => 0,
                Isolation::ReadCommitted => 1,
            })
            // No session: every request says all it wants.
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(
                topics
                    .into_iter()
                    .map(|(name, partitions)| {
                        FetchTopic::default().with_topic(text(name).into()).with_partitions(partitions)
                    })
                    .collect(),
            )
    }

    async fn on_answer(&mut self, answer: Answer) -> Result<(), ClientError> {
        self.busy.remove(&answer.leader);
        let response = match answer.result {
            Ok(response) => response,
            Err(error) => return self.on_failure(answer.asked.keys(), error),
        };
        if let Err(code) = ErrorCode::check(response.error_code) {
            let error = ClientError::refused(format!("fetch from broker {}", answer.leader), code);
            return self.on_failure(answer.asked.keys(), error);
        }
        for topic in &response.responses {
            for part in &topic.partitions {
                let partition = (topic.topic.to_string(), part.partition_index);
                let current = self.positions.get(&partition).copied();
                if current.is_none() || answer.asked.get(&partition).copied() != current {
                    continue;
                }
                let position = current.unwrap_or_default();
                self.on_partition(partition, position, part).await?;
            }
        }
        Ok(())
    }

    async fn on_partition(
        &mut self,
        partition: TopicPartition,
        position: i64,
        part: &PartitionData,
    ) -> Result<(), ClientError> {
        let code = ErrorCode(part.error_code);
        if code == ErrorCode::OFFSET_OUT_OF_RANGE {
            return self.on_out_of_range(partition, position).await;
        }
        if code.is_error() {
            let error = ClientError::refused(format!("{}-{}", partition.0, partition.1), code);
            return self.on_failure([&partition].into_iter(), error);
        }
        self.failing_since = None;
        let Some(bytes) = part.records.as_ref().filter(|b| !b.is_empty()) else {
            return Ok(());
        };
        let aborted = part.aborted_transactions.as_deref().unwrap_or_default();
        let decoded = decode_records(bytes, position, aborted, &self.config).map_err(|detail| {
            ClientError::Malformed {
                address: format!("the leader of {}-{}", partition.0, partition.1),
                api: "Fetch",
                detail,
            }
        })?;
        if decoded.next_offset == position {
            return Ok(());
        }
        self.positions.insert(partition.clone(), decoded.next_offset);
        self.ready.push_back(Fetched {
            partition,
            records: decoded.records,
            next_offset: decoded.next_offset,
            high_watermark: part.high_watermark,
            bytes: decoded.bytes,
        });
        Ok(())
    }

    async fn on_out_of_range(&mut self, partition: TopicPartition, position: i64) -> Result<(), ClientError> {
        let label = format!("{}-{} at offset {position}", partition.0, partition.1);
        let Some(spec) = self.config.on_out_of_range else {
            return Err(ClientError::refused(label, ErrorCode::OFFSET_OUT_OF_RANGE));
        };
        let found = list_offsets(&self.cluster, &[(partition.clone(), spec)]).await?;
        let offset = found.get(&partition).copied().flatten().unwrap_or(0);
        tracing::warn!("{label}: the log does not have it; going on at {offset}");
        self.positions.insert(partition, offset);
        Ok(())
    }

    fn on_failure<'a>(
        &mut self,
        partitions: impl Iterator<Item = &'a TopicPartition>,
        error: ClientError,
    ) -> Result<(), ClientError> {
        for (topic, _) in partitions {
            self.cluster.forget_topic(topic);
        }
        self.pause_until = Some(Instant::now() + RETRY_PAUSE);
        note_failure(&mut self.failing_since, self.cluster.config().operation_timeout, error)
    }
}

/// Lets an error pass that may be over soon, until it has lasted too long.
fn note_failure(
    failing_since: &mut Option<Instant>,
    patience: Duration,
    error: ClientError,
) -> Result<(), ClientError> {
    let since = *failing_since.get_or_insert_with(Instant::now);
    let unknown = error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    // A topic may be unknown to one broker for a moment, but not for long.
    let patience = if unknown { patience.min(Duration::from_secs(5)) } else { patience };
    let may_pass = error.is_retriable() || matches!(error, ClientError::TimedOut { .. });
    if !may_pass || since.elapsed() >= patience {
        return Err(error);
    }
    tracing::debug!(%error, "trying again");
    Ok(())
}

/// The records of some batches.
pub struct Decoded {
    pub records: Vec<Record>,
    pub next_offset: i64,
    /// Of the batches on the wire.
    pub bytes: usize,
}

/// Reads the whole batches of an answer; the last may be cut off. Records before `position` are left out: a fetch answers
/// with whole batches. `aborted`: as the answer has them; their records are left out.
pub fn decode_records(
    bytes: &Bytes,
    position: i64,
    aborted: &[AbortedTransaction],
    config: &FetchConfig,
) -> Result<Decoded, String> {
    let mut decoded = Decoded { records: Vec::new(), next_offset: position, bytes: 0 };
    let mut aborts: Vec<(i64, i64)> = aborted.iter().map(|a| (a.first_offset, a.producer_id.0)).collect();
    aborts.sort_unstable_by(|a, b| b.cmp(a));
    let mut aborted_producers: HashSet<i64> = HashSet::new();
    let mut rest = bytes.clone();
    while rest.len() >= ottla_batch::HEADER_LEN {
        let header = BatchHeader::parse(&rest).map_err(|e| e.to_string())?;
        let size = header.size_in_bytes();
        if rest.len() < size {
            break;
        }
        let batch = rest.split_to(size);
        // The checksum covers the batch from its attributes on.
        if config.check_crc && ottla_batch::crc32c(&batch[CRC_COVERS_FROM..]) != header.crc {
            return Err(format!("the batch at offset {} is corrupt (CRC)", header.base_offset));
        }
        decoded.bytes += size;
        let next = header.next_offset().0;
        if next <= decoded.next_offset && !decoded.records.is_empty() {
            return Err(format!("offsets go back to {}", header.base_offset));
        }
        decoded.next_offset = decoded.next_offset.max(next);
        while let Some((first, producer)) = aborts.last().copied()
            && first <= header.last_offset().0
        {
            aborted_producers.insert(producer);
            aborts.pop();
        }
        if header.is_control() {
            // The marker ends the producer's transaction, whichever way.
            aborted_producers.remove(&header.producer_id.0);
            continue;
        }
        if header.is_transactional() && aborted_producers.contains(&header.producer_id.0) {
            continue;
        }
        let payload = batch.slice(ottla_batch::HEADER_LEN..);
        let records =
            RecordIter::new(header, payload, config.decompressed_bytes_max).map_err(|e| e.to_string())?;
        for record in records {
            let record = record.map_err(|e| e.to_string())?;
            if record.offset.0 >= position {
                decoded.records.push(record);
            }
        }
    }
    if decoded.bytes == 0 {
        return Err(format!("no whole batch within {} bytes", bytes.len()));
    }
    Ok(decoded)
}

/// Length, leader epoch, magic and the checksum itself come before.
const CRC_COVERS_FROM: usize = 21;

#[cfg(test)]
mod tests {
    use ottla_batch::{
        BatchBuilder, BatchOptions, Codec, Offset, ProducerEpoch, ProducerId, Sequence, TimestampMs,
    };

    use super::*;

    fn batch(base: i64, values: &[&str], options: BatchOptions) -> Bytes {
        let mut builder = BatchBuilder::new(BatchOptions { base_offset: Offset(base), ..options });
        for value in values {
            builder.push(TimestampMs(1), None, Some(value.as_bytes()), &[]).unwrap();
        }
        builder.build().unwrap()
    }

    fn concat(parts: &[Bytes]) -> Bytes {
        parts.concat().into()
    }

    fn values(decoded: &Decoded) -> Vec<&str> {
        decoded.records.iter().map(|r| std::str::from_utf8(r.value.as_deref().unwrap()).unwrap()).collect()
    }

    #[test]
    fn whole_batches_are_read_and_the_cut_one_is_left() {
        for codec in Codec::ALL {
            let options = BatchOptions { codec, ..BatchOptions::default() };
            let second = batch(3, &["d", "e"], options);
            let bytes = concat(&[batch(0, &["a", "b", "c"], options), second.slice(..second.len() - 1)]);
            let decoded = decode_records(&bytes, 1, &[], &FetchConfig::default()).unwrap();
            assert_eq!(values(&decoded), ["b", "c"], "{codec}");
            assert_eq!(decoded.next_offset, 3);
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed() {
        let mut bytes = batch(0, &["payload"], BatchOptions::default()).to_vec();
        let last = bytes.len() - 3;
        bytes[last] ^= 1;
        let error = decode_records(&bytes.into(), 0, &[], &FetchConfig::default()).err().unwrap();
        assert!(error.contains("corrupt"), "{error}");
    }

    #[test]
    fn an_answer_without_a_whole_batch_is_an_error_not_a_loop() {
        let whole = batch(0, &["payload"], BatchOptions::default());
        for length in 1..whole.len() {
            assert!(
                decode_records(&whole.slice(..length), 0, &[], &FetchConfig::default()).is_err(),
                "{length}"
            );
        }
    }

    #[test]
    fn aborted_transactions_are_left_out() {
        let transactional = |producer: i64| BatchOptions {
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(0),
            base_sequence: Sequence(0),
            is_transactional: true,
            ..BatchOptions::default()
        };
        let marker = |base: i64, producer: i64| {
            let options =
                BatchOptions { is_control: true, base_sequence: Sequence(-1), ..transactional(producer) };
            batch(base, &["marker"], options)
        };
        let bytes = concat(&[
            batch(0, &["aborted"], transactional(7)),
            batch(1, &["kept"], transactional(8)),
            marker(2, 7),
            batch(3, &["later"], transactional(7)),
            marker(4, 8),
            marker(5, 7),
        ]);
        let aborted = [AbortedTransaction::default().with_producer_id(7.into()).with_first_offset(0)];
        let decoded = decode_records(&bytes, 0, &aborted, &FetchConfig::default()).unwrap();
        assert_eq!(values(&decoded), ["kept", "later"]);
        assert_eq!(decoded.next_offset, 6);
    }
}
