//! Reads all partitions of a topic from their leaders, as a consumer of committed records does: a Fetch of each leader at a time,
//! positions that move when an answer comes.
//!
//! Topics are named by their ids, so that a topic that is made anew under the old name is not taken for the old one.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{AbortedTransaction, PartitionData};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse, ListOffsetsRequest};
use kafka_protocol::protocol::StrBytes;
use ottla_batch::{BatchHeader, HEADER_LEN};
use ottla_clients::connection::Connection;
use ottla_clients::error::ClientError;
use ottla_raft::{BrokerId, Metadata, TopicId};
use tokio::time::Instant;

use crate::config::NodeConfig;
use crate::replica::links::FETCH_VERSION;

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a leader may wait for records, and how much longer its answer may take: records in the tier are fetched from afar.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// For which a leader waits, no longer than that. A table has seconds; answering it as often as producers append would cost these.
const BYTES_MIN: i32 = 1 << 20;
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Of one answer, and of one partition in it.
const BYTES_MAX: i32 = 8 << 20;
const PARTITION_BYTES_MAX: i32 = 1 << 20;
/// After an answer that brought nothing but an error.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Before a log that ends below the table's offset is looked at again.
const BEHIND_PAUSE: Duration = Duration::from_secs(5);

/// Whole batches of one partition.
#[derive(Debug)]
pub struct Fetched {
    pub partition: i32,
    /// Where they were asked for: the first batch may begin before it.
    pub position: i64,
    /// Behind the last batch.
    pub next_offset: i64,
    pub batches: Bytes,
    pub aborted: Vec<AbortedTransaction>,
}

pub struct Reading {
    config: Arc<NodeConfig>,
    metadata: Metadata,
    topic: TopicId,
    name: StrBytes,
    positions: BTreeMap<i32, i64>,
    /// As the leaders said last: where committed records end.
    ends: BTreeMap<i32, i64>,
    connections: HashMap<BrokerId, Arc<Connection>>,
    busy: HashSet<BrokerId>,
    answers: FuturesUnordered<BoxFuture<'static, (BrokerId, Answer)>>,
    ready: VecDeque<Fetched>,
    /// Leaders and partitions that are not asked before then.
    leader_pauses: HashMap<BrokerId, Instant>,
    partition_pauses: HashMap<i32, Instant>,
    /// Partitions of which something was read, or is in the table.
    begun: HashSet<i32>,
    /// Records of those that were gone before they were read.
    gap: u64,
}

type Answer = Result<(Arc<Connection>, FetchResponse), ClientError>;

impl Reading {
    /// `positions`: where to go on, by partition; from the first record where there is none.
    pub fn new(
        config: Arc<NodeConfig>,
        metadata: Metadata,
        topic: TopicId,
        name: &str,
        positions: BTreeMap<i32, i64>,
    ) -> Reading {
        Reading {
            config,
            metadata,
            topic,
            name: StrBytes::from_string(name.to_owned()),
            begun: positions.keys().copied().collect(),
            positions,
            ends: BTreeMap::new(),
            connections: HashMap::new(),
            busy: HashSet::new(),
            answers: FuturesUnordered::new(),
            ready: VecDeque::new(),
            leader_pauses: HashMap::new(),
            partition_pauses: HashMap::new(),
            gap: 0,
        }
    }

    /// Where committed records end, as far as leaders said it.
    pub fn ends(&self) -> &BTreeMap<i32, i64> {
        &self.ends
    }

    /// How many offsets were skipped since the last call because retention was quicker.
    pub fn take_gap(&mut self) -> u64 {
        std::mem::take(&mut self.gap)
    }

    /// The next batches of any partition; waits as long as there are none. Can be cancelled without loss.
    pub async fn next(&mut self) -> Fetched {
        loop {
            if let Some(fetched) = self.ready.pop_front() {
                return fetched;
            }
            self.ask();
            let wake_at = self.leader_pauses.values().chain(self.partition_pauses.values()).min().copied();
            // New partitions and leaders are found without being told.
            let wake_at = wake_at.unwrap_or_else(|| Instant::now() + WAIT_MAX).min(Instant::now() + WAIT_MAX);
            tokio::select! {
                biased;
                Some((leader, answer)) = self.answers.next() => {
                    self.busy.remove(&leader);
                    self.on_answer(leader, answer).await;
                }
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    /// One fetch of each leader that has none under way.
    fn ask(&mut self) {
        let now = Instant::now();
        self.leader_pauses.retain(|_, until| *until > now);
        self.partition_pauses.retain(|_, until| *until > now);
        let image = self.metadata.image();
        let Some(topic) = image.topic_by_id(self.topic) else { return };
        let mut by_leader: BTreeMap<BrokerId, Vec<FetchPartition>> = BTreeMap::new();
        for (partition, state) in (0..).zip(&topic.partitions) {
            let Some(leader) = state.leader else { continue };
            let is_paused =
                self.leader_pauses.contains_key(&leader) || self.partition_pauses.contains_key(&partition);
            if is_paused || self.busy.contains(&leader) {
                continue;
            }
            let position = *self.positions.entry(partition).or_insert(0);
            by_leader.entry(leader).or_default().push(
                FetchPartition::default()
                    .with_partition(partition)
                    .with_current_leader_epoch(state.leader_epoch.0)
                    .with_fetch_offset(position)
                    .with_log_start_offset(-1)
                    .with_partition_max_bytes(PARTITION_BYTES_MAX),
            );
        }
        for (leader, partitions) in by_leader {
            let Some(address) = self.config.inter_broker_address(&image, leader) else { continue };
            let request = FetchRequest::default()
                .with_max_wait_ms(WAIT_MAX.as_millis() as i32)
                .with_min_bytes(BYTES_MIN)
                .with_max_bytes(BYTES_MAX)
                .with_isolation_level(1)
                // No session: every request says all it wants.
                .with_session_id(0)
                .with_session_epoch(-1)
                .with_topics(vec![
                    FetchTopic::default().with_topic_id(self.topic.0).with_partitions(partitions),
                ]);
            let known = self.connections.get(&leader).filter(|known| known.address() == address).cloned();
            let client_id = format!("ottla-lake-{}", self.config.node_id);
            self.busy.insert(leader);
            self.answers.push(Box::pin(async move {
                let answer = fetch(known, address, client_id, request).await;
                (leader, answer)
            }));
        }
    }

    async fn on_answer(&mut self, leader: BrokerId, answer: Answer) {
        let (connection, response) = match answer {
            Ok(answered) => answered,
            Err(error) => {
                tracing::debug!(topic = %self.name, %leader, %error, "a leader was not reached for a table");
                self.connections.remove(&leader);
                self.leader_pauses.insert(leader, Instant::now() + RETRY_PAUSE);
                return;
            }
        };
        self.connections.insert(leader, Arc::clone(&connection));
        if response.error_code != 0 {
            self.leader_pauses.insert(leader, Instant::now() + RETRY_PAUSE);
        }
        let id = self.topic.0;
        for topic in response.responses.into_iter().filter(|topic| topic.topic_id == id) {
            for data in topic.partitions {
                self.on_partition(leader, &connection, data).await;
            }
        }
    }

    async fn on_partition(&mut self, leader: BrokerId, connection: &Connection, data: PartitionData) {
        let partition = data.partition_index;
        let Some(position) = self.positions.get(&partition).copied() else { return };
        match ResponseError::try_from_code(data.error_code) {
            None => {}
            Some(ResponseError::OffsetOutOfRange) => {
                if let Err(error) = self.on_out_of_range(connection, partition, position).await {
                    tracing::debug!(topic = %self.name, partition, %error, "where a log begins was not answered");
                    self.leader_pauses.insert(leader, Instant::now() + RETRY_PAUSE);
                }
                return;
            }
            Some(error) => {
                tracing::debug!(topic = %self.name, partition, %error, "a partition was not read for its table");
                self.partition_pauses.insert(partition, Instant::now() + RETRY_PAUSE);
                return;
            }
        }
        self.ends.insert(partition, data.last_stable_offset);
        let Some(batches) = data.records.filter(|records| !records.is_empty()) else { return };
        let Some((batches, next_offset)) = whole_batches(batches) else {
            tracing::warn!(topic = %self.name, partition, position, "an answer for a table has no whole batch");
            self.partition_pauses.insert(partition, Instant::now() + RETRY_PAUSE);
            return;
        };
        let next_offset = next_offset.max(position);
        self.positions.insert(partition, next_offset);
        self.begun.insert(partition);
        let aborted = data.aborted_transactions.unwrap_or_default();
        self.ready.push_back(Fetched { partition, position, next_offset, batches, aborted });
    }

    /// Retention was quicker, or the log lost its end.
    async fn on_out_of_range(
        &mut self,
        connection: &Connection,
        partition: i32,
        position: i64,
    ) -> Result<(), ClientError> {
        const EARLIEST: i64 = -2;
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(EARLIEST);
        let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![
            ListOffsetsTopic::default().with_name(self.name.clone().into()).with_partitions(vec![asked]),
        ]);
        let response = connection.send(&request).await?;
        let found = response.topics.iter().flat_map(|topic| &topic.partitions).next();
        let Some(start) = found.filter(|found| found.error_code == 0).map(|found| found.offset) else {
            self.partition_pauses.insert(partition, Instant::now() + RETRY_PAUSE);
            return Ok(());
        };
        if start > position && !self.begun.contains(&partition) {
            // A table begins where its topic does.
            self.positions.insert(partition, start);
        } else if start > position {
            tracing::error!(
                topic = %self.name, partition, from = position, to = start,
                "records were deleted before they came into the topic's table"
            );
            self.gap += start.abs_diff(position);
            self.positions.insert(partition, start);
        } else {
            tracing::error!(
                topic = %self.name, partition, position,
                "the log ends below what the topic's table has of it: it lost records, and the table waits until it is longer"
            );
            self.partition_pauses.insert(partition, Instant::now() + BEHIND_PAUSE);
        }
        Ok(())
    }
}

async fn fetch(
    known: Option<Arc<Connection>>,
    address: String,
    client_id: String,
    request: FetchRequest,
) -> Answer {
    let connection = match known.filter(|known| !known.is_closed()) {
        Some(connection) => connection,
        None => Arc::new(Connection::open(&address, &client_id, CONNECT_MAX, WAIT_MAX + ANSWER_MAX).await?),
    };
    let response = connection.submit_in_version(&request, FETCH_VERSION).await?.wait().await?;
    Ok((connection, response))
}

/// The batches that came in full, and the offset behind them.
fn whole_batches(bytes: Bytes) -> Option<(Bytes, i64)> {
    let mut len = 0;
    let mut next_offset = None;
    while bytes.len() - len >= HEADER_LEN {
        let Ok(header) = BatchHeader::parse(&bytes[len..]) else { break };
        if header.size_in_bytes() > bytes.len() - len {
            break;
        }
        len += header.size_in_bytes();
        next_offset = Some(header.next_offset().0);
    }
    Some((bytes.slice(..len), next_offset?))
}
