//! Sending records: batches per partition, several requests in flight per broker, and exactly one copy of each record in
//! the log where idempotence is on.
//!
//! `Producer::send` encodes a record straight into the open batch of its partition. One task, the sender, takes ready
//! batches, groups them by leader and submits requests. Invariants:
//! - The batches of a partition leave in the order in which they were filled. A batch that failed in a way that may pass
//!   goes back to the front, and its partition sends nothing else until every request in flight has been answered; so
//!   order holds also through retries.
//! - With idempotence a batch keeps its producer id and sequence from its first attempt on. When a batch is lost for good,
//!   the sequence has a hole: a new producer id is taken, but only after every batch that was sent under the old one
//!   has its answer, as numbering them anew could write them twice.
//! - Memory is bounded by `buffer_bytes_max`: `send` waits for room.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse};
use ottla_batch::{
    BatchBuilder, BatchOptions, Codec, Header, ProducerEpoch, ProducerId, Sequence, TimestampMs,
};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cluster::{AutoCreate, Cluster, Topic};
use crate::error::ClientError;
use crate::partitioner::{Sticky, partition_of_key};
use crate::wire::{ErrorCode, said, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// The broker does not answer.
    None,
    /// The leader has the records.
    Leader,
    /// Every in-sync replica has them.
    All,
}

impl Acks {
    fn wire(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

#[derive(Debug, Clone)]
pub struct ProducerConfig {
    pub acks: Acks,
    pub codec: Codec,
    /// Of the codec; None is its default.
    pub level: Option<i32>,
    /// How long a batch that is not full waits for more records.
    pub linger: Duration,
    /// A batch that would grow beyond this is closed. Counted before compression.
    pub batch_bytes_max: usize,
    /// Of the batches in one request; a single larger batch goes alone.
    pub request_bytes_max: usize,
    /// What all batches together may take before `send` waits.
    pub buffer_bytes_max: usize,
    /// Requests to one broker that wait for an answer; at most 5 with idempotence, as brokers remember 5 batches.
    pub in_flight_max: usize,
    /// Only with `Acks::All`.
    pub idempotent: bool,
    /// From `send` until a record is given up.
    pub delivery_timeout: Duration,
    pub create: AutoCreate,
}

impl Default for ProducerConfig {
    fn default() -> ProducerConfig {
        ProducerConfig {
            acks: Acks::All,
            codec: Codec::None,
            level: None,
            linger: Duration::from_millis(5),
            batch_bytes_max: 128 << 10,
            request_bytes_max: 1 << 20,
            buffer_bytes_max: 32 << 20,
            in_flight_max: 5,
            idempotent: true,
            delivery_timeout: Duration::from_secs(120),
            create: AutoCreate::Allowed,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct ProducerRecord {
    /// None: by the key's hash, or where there is no key wherever it batches well.
    pub partition: Option<i32>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
    /// None: now.
    pub timestamp: Option<TimestampMs>,
}

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    pub partition: i32,
    /// None without acknowledgement, or if the broker recognised a repeated batch and no longer knew its offset.
    pub offset: Option<i64>,
}

/// What becomes of a record. Can be dropped by whoever does not want to know.
#[derive(Clone)]
pub struct Delivery {
    outcome: Arc<Outcome>,
    index: u32,
}

/// The offset of a batch's first record, if it is known.
type BatchResult = Result<Option<i64>, Arc<ClientError>>;

struct Outcome {
    partition: i32,
    /// When the batch's fate was known, and the offset of its first record.
    done: OnceLock<(Instant, BatchResult)>,
    changed: Notify,
}

impl Outcome {
    fn complete(&self, result: BatchResult) {
        // A batch completes once: whoever holds it moves it here.
        let _ = self.done.set((Instant::now(), result));
        self.changed.notify_waiters();
    }
}

impl Delivery {
    pub async fn wait(&self) -> Result<Delivered, Arc<ClientError>> {
        self.wait_timed().await.1
    }

    /// Also tells when it was known, which may be before anybody waited.
    pub async fn wait_timed(&self) -> (Instant, Result<Delivered, Arc<ClientError>>) {
        loop {
            let mut changed = std::pin::pin!(self.outcome.changed.notified());
            // ORDER: listen before looking, or a completion between the two is missed.
            changed.as_mut().enable();
            if let Some((at, result)) = self.outcome.done.get() {
                let index = i64::from(self.index);
                let delivered = result.clone().map(|base| Delivered {
                    partition: self.outcome.partition,
                    offset: base.map(|base| base.saturating_add(index)),
                });
                return (*at, delivered);
            }
            changed.await;
        }
    }
}

/// A handle on the sender task; dropping it gives up what is not sent yet, `close` does not.
pub struct Producer {
    shared: Arc<Shared>,
    sender: tokio::task::JoinHandle<()>,
}

struct Shared {
    cluster: Cluster,
    config: ProducerConfig,
    state: Mutex<State>,
    /// To the sender: something may be ready.
    work: Notify,
    /// To those in `send`: memory was given back. To those in `flush`: perhaps all is done.
    progress: Notify,
}

#[derive(Default)]
struct State {
    topics: HashMap<Arc<str>, TopicQueues>,
    /// Of all batches that are not completed, in flight or not.
    buffered_bytes: usize,
    /// Batches that are not completed.
    outstanding: usize,
    /// How many are in `flush`: lingering ends.
    flushing: usize,
}

struct TopicQueues {
    described: Arc<Topic>,
    sticky: Sticky,
    partitions: Vec<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Oldest first; only the last can still take records.
    waiting: VecDeque<Batch>,
    in_flight: usize,
    /// A batch came back: one request at a time until one succeeds.
    retrying: bool,
    next_sequence: i32,
    /// A batch was lost after it got its sequence: those that were numbered after it share its fate.
    hole: Option<Arc<ClientError>>,
}

struct Batch {
    topic: Arc<str>,
    partition: i32,
    content: Content,
    records_count: u32,
    /// What it takes of the buffer.
    bytes: usize,
    created: Instant,
    full: bool,
    /// Of its first record, once sent under the present producer id.
    sequence: Option<i32>,
    outcome: Arc<Outcome>,
}

enum Content {
    Open(Box<BatchBuilder>),
    Built(Bytes),
    /// Between the two, or after the last use.
    Taken,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The builder asserts its own invariants under this lock; if one breaks, the producer must not go on with it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Producer {
    pub fn new(cluster: Cluster, mut config: ProducerConfig) -> Producer {
        if config.acks != Acks::All {
            config.idempotent = false;
        }
        if config.idempotent {
            config.in_flight_max = config.in_flight_max.min(5);
        }
        config.in_flight_max = config.in_flight_max.max(1);
        let shared = Arc::new(Shared {
            cluster,
            config,
            state: Mutex::default(),
            work: Notify::new(),
            progress: Notify::new(),
        });
        let sender = Sender {
            shared: shared.clone(),
            answers: FuturesUnordered::new(),
            in_flight: HashMap::new(),
            identity: None,
            renew_identity: false,
            pause_until: None,
        };
        Producer { sender: tokio::spawn(sender.run()), shared }
    }

    /// Puts a record into its partition's batch; waits only for metadata or for room in the buffer.
    pub async fn send(&self, topic: &str, record: ProducerRecord) -> Result<Delivery, ClientError> {
        let config = &self.shared.config;
        let record_bytes = record.key.as_ref().map_or(0, Bytes::len)
            + record.value.as_ref().map_or(0, Bytes::len)
            + record
                .headers
                .iter()
                .map(|h| h.key.len() + h.value.as_ref().map_or(0, Bytes::len) + 4)
                .sum::<usize>()
            + 24;
        loop {
            let mut progress = std::pin::pin!(self.shared.progress.notified());
            let known = {
                let mut state = self.shared.state();
                let known = state.topics.contains_key(topic);
                // A record larger than the whole buffer goes when nothing else is there.
                let room = state.buffered_bytes == 0
                    || state.buffered_bytes + record_bytes <= config.buffer_bytes_max;
                if known && room {
                    return self.push(&mut state, topic, &record, record_bytes);
                }
                // ORDER: listen before the lock is released, or the room that is made meanwhile is missed.
                progress.as_mut().enable();
                known
            };
            if known {
                progress.await;
            } else {
                let described = self.shared.cluster.topic(topic, config.create).await?;
                self.shared.state().learn(described);
            }
        }
    }

    fn push(
        &self,
        state: &mut State,
        topic: &str,
        record: &ProducerRecord,
        record_bytes: usize,
    ) -> Result<Delivery, ClientError> {
        let config = &self.shared.config;
        let Some((name, queues)) = state.topics.get_key_value(topic) else {
            return Err(ClientError::Invalid(format!("topic {topic} is not known")));
        };
        let name = name.clone();
        let count = queues.partitions.len() as i32;
        let Some(queues) = state.topics.get_mut(topic) else {
            return Err(ClientError::Invalid(format!("topic {topic} is not known")));
        };
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) if (0..count).contains(&partition) => partition,
            (Some(partition), _) => {
                return Err(ClientError::Invalid(format!(
                    "topic {topic} has partitions 0 to {}, there is no {partition}",
                    count - 1
                )));
            }
            (None, Some(key)) => partition_of_key(key, count),
            (None, None) => {
                let described = &queues.described;
                let has_leader = |p: i32| described.partition(p).is_some_and(|p| p.leader.is_some());
                queues.sticky.choose(count, record_bytes, config.batch_bytes_max, has_leader)
            }
        };
        let queue = &mut queues.partitions[partition as usize];
        let fits = |batch: &Batch| match &batch.content {
            Content::Open(builder) => {
                !batch.full && builder.uncompressed_bytes() + record_bytes <= config.batch_bytes_max
            }
            Content::Built(_) | Content::Taken => false,
        };
        let mut wake = false;
        if !queue.waiting.back().is_some_and(fits) {
            if let Some(last) = queue.waiting.back_mut() {
                last.full = true;
            }
            let options =
                BatchOptions { codec: config.codec, level: config.level, ..BatchOptions::default() };
            queue.waiting.push_back(Batch {
                topic: name,
                partition,
                content: Content::Open(Box::new(BatchBuilder::new(options))),
                records_count: 0,
                bytes: 0,
                created: Instant::now(),
                full: false,
                sequence: None,
                outcome: Arc::new(Outcome { partition, done: OnceLock::new(), changed: Notify::new() }),
            });
            state.outstanding += 1;
            wake = true;
        }
        let Some(batch) = queue.waiting.back_mut() else {
            return Err(ClientError::Invalid("no batch to add to".to_owned()));
        };
        if let Content::Open(builder) = &mut batch.content {
            let timestamp = record.timestamp.unwrap_or_else(now);
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            builder
                .push(timestamp, key, value, &record.headers)
                .map_err(|e| ClientError::Invalid(format!("record: {e}")))?;
            if builder.uncompressed_bytes() >= config.batch_bytes_max {
                batch.full = true;
                wake = true;
            }
        }
        let index = batch.records_count;
        batch.records_count += 1;
        batch.bytes += record_bytes;
        state.buffered_bytes += record_bytes;
        let outcome = batch.outcome.clone();
        if wake {
            self.shared.work.notify_one();
        }
        Ok(Delivery { outcome, index })
    }

    /// Sends what waits, and waits until all that was sent before has its answer.
    pub async fn flush(&self) {
        self.shared.state().flushing += 1;
        self.shared.work.notify_one();
        loop {
            let mut progress = std::pin::pin!(self.shared.progress.notified());
            {
                let mut state = self.shared.state();
                if state.outstanding == 0 {
                    state.flushing -= 1;
                    return;
                }
                progress.as_mut().enable();
            }
            progress.await;
        }
    }

    /// Flushes and ends.
    pub async fn close(self) {
        self.flush().await;
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.sender.abort();
        // What is in flight goes with the task.
        let mut state = self.shared.state();
        let queues = state.topics.values_mut().flat_map(|t| &mut t.partitions);
        let lost: Vec<Batch> = queues.flat_map(|q| q.waiting.drain(..)).collect();
        drop(state);
        drop(lost);
    }
}

/// Wherever a batch ends, whoever waits for it is told.
impl Drop for Batch {
    fn drop(&mut self) {
        if self.outcome.done.get().is_none() {
            let error = ClientError::Invalid("the producer was dropped".to_owned());
            self.outcome.complete(Err(Arc::new(error)));
        }
    }
}

fn now() -> TimestampMs {
    TimestampMs(i64::try_from(crate::clock::since_epoch().as_millis()).unwrap_or(i64::MAX))
}

impl State {
    /// Takes over what a topic looks like; partitions only ever get more, also if the topic was made again.
    fn learn(&mut self, described: Arc<Topic>) {
        let count = described.partitions.len();
        match self.topics.get_mut(described.name.as_str()) {
            Some(queues) => {
                if queues.partitions.len() < count {
                    queues.partitions.resize_with(count, Queue::default);
                }
                queues.described = described;
            }
            None => {
                // Different processes begin at different partitions.
                let seed = uuid::Uuid::new_v4().as_u128() as u32;
                let queues = TopicQueues {
                    sticky: Sticky::starting_at(seed, count as i32),
                    partitions: std::iter::repeat_with(Queue::default).take(count).collect(),
                    described: described.clone(),
                };
                self.topics.insert(Arc::from(described.name.as_str()), queues);
            }
        }
    }

    fn queue(&mut self, topic: &str, partition: i32) -> Option<&mut Queue> {
        self.topics.get_mut(topic)?.partitions.get_mut(usize::try_from(partition).ok()?)
    }
}

/// One answered (or failed) request.
struct Answered {
    leader: i32,
    batches: Vec<Batch>,
    result: Result<Option<ProduceResponse>, ClientError>,
}

struct Sender {
    shared: Arc<Shared>,
    answers: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Requests without an answer, by leader.
    in_flight: HashMap<i32, usize>,
    identity: Option<(ProducerId, ProducerEpoch)>,
    renew_identity: bool,
    /// After a failure: when the next attempt is made.
    pause_until: Option<Instant>,
}

/// How long a failed batch waits, as Java's `retry.backoff.ms`.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What one look at the queues found.
#[derive(Default)]
struct Ready {
    by_leader: BTreeMap<i32, Vec<Batch>>,
    /// Topics whose leaders are not known now.
    unknown: Vec<Arc<str>>,
    /// When the next batch gets ready by itself.
    next: Option<Instant>,
    /// Batches were given up, which may let others go.
    any_expired: bool,
}

async fn ask_identity(cluster: &Cluster) -> Result<(ProducerId, ProducerEpoch), ClientError> {
    let request = InitProducerIdRequest::default()
        .with_transactional_id(None)
        .with_transaction_timeout_ms(60_000)
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    let response = cluster.send_any(&request).await?;
    ErrorCode::check(response.error_code).map_err(|code| ClientError::refused("producer id", code))?;
    Ok((ProducerId(response.producer_id.0), ProducerEpoch(response.producer_epoch)))
}

impl Sender {
    async fn run(mut self) {
        loop {
            self.renew_identity_if_possible();
            let ready = self.take_ready();
            // What changes here is only seen by another look at the queues: nothing else would wake this task.
            let look_again = ready.any_expired || !ready.unknown.is_empty() || !ready.by_leader.is_empty();
            for topic in ready.unknown {
                self.find_leaders(&topic).await;
            }
            for (leader, batches) in ready.by_leader {
                self.send_to(leader, batches).await;
            }
            if look_again {
                while let Some(Some(answered)) = futures::FutureExt::now_or_never(self.answers.next()) {
                    self.on_answer(answered);
                }
                continue;
            }
            let wake_at = [ready.next, self.pause_until].into_iter().flatten().min();
            let timer = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(answered) = self.answers.next() => self.on_answer(answered),
                () = self.shared.work.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Takes every batch that may leave now. Sends at most one batch per partition in a request.
    fn take_ready(&mut self) -> Ready {
        let now = Instant::now();
        let mut ready = Ready::default();
        let mut expired = Vec::new();
        if self.pause_until.is_some_and(|until| until <= now) {
            self.pause_until = None;
        }
        let shared = self.shared.clone();
        let config = &shared.config;
        let mut state = shared.state();
        let hurry = state.flushing > 0 || state.buffered_bytes >= config.buffer_bytes_max / 2;
        let mut request_bytes: HashMap<i32, usize> = HashMap::new();
        for (topic, queues) in &mut state.topics {
            let mut known = true;
            let stale = shared.cluster.cached_topic(topic).is_none();
            for (index, queue) in queues.partitions.iter_mut().enumerate() {
                let Some(front) = queue.waiting.front() else { continue };
                if now.duration_since(front.created) >= config.delivery_timeout {
                    expired.extend(queue.waiting.pop_front());
                    continue;
                }
                if queue.retrying && (queue.in_flight > 0 || self.pause_until.is_some()) {
                    continue;
                }
                if self.renew_identity && front.sequence.is_none() {
                    continue;
                }
                let lingers_until = front.created + config.linger;
                if !front.full && !hurry && front.sequence.is_none() && lingers_until > now {
                    ready.next = Some(ready.next.map_or(lingers_until, |at| at.min(lingers_until)));
                    continue;
                }
                let leader = queues.described.partitions.get(index).and_then(|p| p.leader);
                let Some(leader) = leader.filter(|_| !stale) else {
                    known = false;
                    continue;
                };
                if self.in_flight.get(&leader).copied().unwrap_or(0) >= config.in_flight_max {
                    continue;
                }
                let taken = request_bytes.entry(leader).or_insert(0);
                if *taken > 0 && *taken + front.bytes > config.request_bytes_max {
                    continue;
                }
                *taken += front.bytes;
                if let Some(batch) = queue.waiting.pop_front() {
                    queue.in_flight += 1;
                    ready.by_leader.entry(leader).or_default().push(batch);
                }
            }
            if !known && self.pause_until.is_none() {
                ready.unknown.push(topic.clone());
            }
        }
        drop(state);
        ready.any_expired = !expired.is_empty();
        for batch in expired {
            let what = format!("record for {}-{}", batch.topic, batch.partition);
            let after = config.delivery_timeout;
            self.fail(batch, Arc::new(ClientError::TimedOut { what, after }));
        }
        ready
    }

    async fn find_leaders(&mut self, topic: &Arc<str>) {
        self.shared.cluster.forget_topic(topic);
        match self.shared.cluster.topic(topic, AutoCreate::Never).await {
            Ok(described) => {
                if described.partitions.iter().any(|p| p.leader.is_none()) {
                    self.pause_until = Some(Instant::now() + RETRY_PAUSE);
                }
                self.shared.state().learn(described);
            }
            Err(error) if error.is_retriable() && error.code().is_none_or(|c| c.0 != 3) => {
                self.pause_until = Some(Instant::now() + RETRY_PAUSE);
                tracing::debug!(%error, "no leaders yet");
            }
            Err(error) => {
                let lost: Vec<Batch> = {
                    let mut state = self.shared.state();
                    let queues = state.topics.get_mut(topic).map(|t| t.partitions.iter_mut());
                    queues.into_iter().flatten().flat_map(|q| q.waiting.drain(..)).collect()
                };
                let error = Arc::new(error);
                for batch in lost {
                    self.fail(batch, error.clone());
                }
            }
        }
    }

    async fn send_to(&mut self, leader: i32, mut batches: Vec<Batch>) {
        let config = self.shared.config.clone();
        if config.idempotent && self.identity.is_none() {
            let cluster = self.shared.cluster.clone();
            match ask_identity(&cluster).await {
                Ok(identity) => self.identity = Some(identity),
                Err(error) => return self.on_failure(batches, error),
            }
        }
        let mut topics: BTreeMap<Arc<str>, Vec<PartitionProduceData>> = BTreeMap::new();
        let mut sent = Vec::with_capacity(batches.len());
        for mut batch in batches.drain(..) {
            match self.bytes_of(&mut batch) {
                Ok(bytes) => {
                    let data =
                        PartitionProduceData::default().with_index(batch.partition).with_records(Some(bytes));
                    topics.entry(batch.topic.clone()).or_default().push(data);
                    sent.push(batch);
                }
                Err(error) => {
                    self.leave_flight(&batch);
                    self.fail(batch, Arc::new(error));
                }
            }
        }
        if sent.is_empty() {
            return;
        }
        let connection = match self.shared.cluster.broker(leader).await {
            Ok(connection) => connection,
            Err(error) => return self.on_failure(sent, error),
        };
        let timeout = self.shared.cluster.config().request_timeout;
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(config.acks.wire())
            .with_timeout_ms(i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX))
            .with_topic_data(
                topics
                    .into_iter()
                    .map(|(name, data)| {
                        TopicProduceData::default().with_name(text(&name).into()).with_partition_data(data)
                    })
                    .collect(),
            );
        if config.acks == Acks::None {
            match connection.send_unanswered(&request).await {
                Ok(()) => self.on_answer(Answered { leader, batches: sent, result: Ok(None) }),
                Err(error) => self.on_failure(sent, error),
            }
            return;
        }
        // The broker's own timer runs as long as ours: leave it time to say so.
        match connection.submit(&request, timeout + Duration::from_secs(5)).await {
            Ok(pending) => {
                *self.in_flight.entry(leader).or_default() += 1;
                let answer = async move {
                    let result = pending.wait().await.map(Some);
                    Answered { leader, batches: sent, result }
                };
                self.answers.push(Box::pin(answer));
            }
            Err(error) => self.on_failure(sent, error),
        }
    }

    /// Builds a batch at its first attempt, and gives it its place in the sequence.
    fn bytes_of(&mut self, batch: &mut Batch) -> Result<Bytes, ClientError> {
        if let Content::Built(bytes) = &batch.content {
            return Ok(bytes.clone());
        }
        let Content::Open(mut builder) = std::mem::replace(&mut batch.content, Content::Taken) else {
            return Err(ClientError::Invalid("a batch was taken twice".to_owned()));
        };
        if let Some((id, epoch)) = self.identity {
            let mut state = self.shared.state();
            if let Some(queue) = state.queue(&batch.topic, batch.partition) {
                let sequence = queue.next_sequence;
                // Sequences wrap from the largest int32 to 0.
                queue.next_sequence = sequence.wrapping_add_unsigned(batch.records_count) & i32::MAX;
                builder.set_producer(id, epoch, Sequence(sequence));
                batch.sequence = Some(sequence);
            }
        }
        let bytes = builder.build().map_err(|e| ClientError::Invalid(format!("record batch: {e}")))?;
        batch.content = Content::Built(bytes.clone());
        Ok(bytes)
    }

    /// Takes a new producer id as soon as nothing sent under the old one is undecided.
    fn renew_identity_if_possible(&mut self) {
        if !self.renew_identity || !self.answers.is_empty() {
            return;
        }
        let mut state = self.shared.state();
        let mut queues = state.topics.values().flat_map(|t| &t.partitions);
        if queues.any(|q| q.in_flight > 0 || q.waiting.iter().any(|b| b.sequence.is_some())) {
            return;
        }
        for queue in state.topics.values_mut().flat_map(|t| &mut t.partitions) {
            queue.next_sequence = 0;
            queue.retrying = false;
            queue.hole = None;
        }
        self.identity = None;
        self.renew_identity = false;
    }

    fn on_answer(&mut self, answered: Answered) {
        let Answered { leader, batches, result } = answered;
        if self.shared.config.acks != Acks::None
            && let Some(count) = self.in_flight.get_mut(&leader)
        {
            *count = count.saturating_sub(1);
        }
        let response = match result {
            Ok(Some(response)) => response,
            Ok(None) => {
                for batch in batches {
                    self.leave_flight(&batch);
                    self.complete(batch, Ok(None));
                }
                return;
            }
            Err(error) => return self.on_failure(batches, error),
        };
        for batch in batches {
            let part = response
                .responses
                .iter()
                .find(|t| t.name.as_str() == &*batch.topic)
                .and_then(|t| t.partition_responses.iter().find(|p| p.index == batch.partition));
            match part {
                Some(part) => self.on_partition_answer(batch, part),
                None => {
                    let detail = format!("{}-{} is missing", batch.topic, batch.partition);
                    let address = format!("broker {leader}");
                    let error = ClientError::Malformed { address, api: "Produce", detail };
                    self.on_failure(vec![batch], error);
                }
            }
        }
    }

    fn on_partition_answer(&mut self, batch: Batch, part: &PartitionProduceResponse) {
        let code = ErrorCode(part.error_code);
        if !code.is_error() {
            if let Some(queue) = self.shared.state().queue(&batch.topic, batch.partition) {
                queue.retrying = false;
            }
            self.leave_flight(&batch);
            return self.complete(batch, Ok(Some(part.base_offset).filter(|o| *o >= 0)));
        }
        if code == ErrorCode::DUPLICATE_SEQUENCE_NUMBER && batch.sequence.is_some() {
            // The log has it since an earlier attempt whose answer was lost.
            self.leave_flight(&batch);
            return self.complete(batch, Ok(None));
        }
        let earlier_failed =
            self.shared.state().queue(&batch.topic, batch.partition).is_some_and(|q| q.retrying);
        if code == ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER && batch.sequence.is_some() && earlier_failed {
            // Only because the batch before it was not accepted; it follows when that one is.
            return self.put_back(batch);
        }
        let message = part
            .record_errors
            .iter()
            .find_map(|e| said(e.batch_index_error_message.as_ref()))
            .or_else(|| said(part.error_message.as_ref()))
            .filter(|_| code.meaning().is_empty() || matches!(code.0, 32 | 87));
        let what = format!("{}-{}", batch.topic, batch.partition);
        self.on_failure(vec![batch], ClientError::Refused { what, code, message });
    }

    /// Batches that were taken for sending failed together: tried again if that may help, else lost.
    fn on_failure(&mut self, batches: Vec<Batch>, error: ClientError) {
        let may_pass = error.is_retriable() || matches!(error, ClientError::TimedOut { .. });
        let error = Arc::new(error);
        // Back to the front one by one: the last first, to keep their order.
        for batch in batches.into_iter().rev() {
            let expired = batch.created.elapsed() >= self.shared.config.delivery_timeout;
            if may_pass && !expired {
                tracing::debug!(%error, topic = &*batch.topic, partition = batch.partition, "trying again");
                self.shared.cluster.forget_topic(&batch.topic);
                self.pause_until = Some(Instant::now() + RETRY_PAUSE);
                self.put_back(batch);
            } else {
                self.leave_flight(&batch);
                self.fail(batch, error.clone());
            }
        }
    }

    /// Returns a batch to its queue, in front of what was filled later.
    fn put_back(&mut self, mut batch: Batch) {
        // Until it is decided what becomes of it nothing may be added.
        batch.full = true;
        let shared = self.shared.clone();
        let mut state = shared.state();
        let Some(queue) = state.queue(&batch.topic, batch.partition) else { return };
        queue.in_flight = queue.in_flight.saturating_sub(1);
        if let (Some(error), Some(_)) = (&queue.hole, batch.sequence) {
            let error = error.clone();
            drop(state);
            return self.complete(batch, Err(error));
        }
        queue.retrying = true;
        // Answers come in order, so those already put back were filled before this one.
        let at =
            queue.waiting.iter().take_while(|other| other.created <= batch.created && other.full).count();
        let at = match batch.sequence {
            Some(sequence) => {
                let earlier = |other: &&Batch| {
                    other.sequence.is_some_and(|s| sequence.wrapping_sub(s) & i32::MAX < i32::MAX / 2)
                };
                queue.waiting.iter().take_while(earlier).count()
            }
            None => at.min(queue.waiting.len()),
        };
        queue.waiting.insert(at, batch);
    }

    fn leave_flight(&self, batch: &Batch) {
        if let Some(queue) = self.shared.state().queue(&batch.topic, batch.partition) {
            queue.in_flight = queue.in_flight.saturating_sub(1);
        }
    }

    fn fail(&mut self, batch: Batch, error: Arc<ClientError>) {
        let (topic, partition, had_sequence) =
            (batch.topic.clone(), batch.partition, batch.sequence.is_some());
        self.complete(batch, Err(error.clone()));
        if !had_sequence {
            return;
        }
        // A hole in the sequence. What was sent after it for this partition can't be accepted any more.
        self.renew_identity = true;
        let followers: Vec<Batch> = {
            let mut state = self.shared.state();
            let Some(queue) = state.queue(&topic, partition) else { return };
            queue.hole = Some(error.clone());
            let sent = queue.waiting.iter().take_while(|b| b.sequence.is_some()).count();
            queue.waiting.drain(..sent).collect()
        };
        for follower in followers {
            self.complete(follower, Err(error.clone()));
        }
    }

    fn complete(&self, batch: Batch, result: BatchResult) {
        {
            let mut state = self.shared.state();
            state.buffered_bytes = state.buffered_bytes.saturating_sub(batch.bytes);
            state.outstanding = state.outstanding.saturating_sub(1);
        }
        batch.outcome.complete(result);
        self.shared.progress.notify_waiters();
    }
}
