//! Fetch: API key 1, versions 4 to 18.
//!
//! v4: isolation level, aborted transactions. v5: log start offset. v7: sessions (KIP-227). v9: leader epoch (KIP-320).
//! v10: zstd. v11: rack (KIP-392). v12: flexible, diverging epochs (KIP-595). v13: topic ids (KIP-516). v15: replica state
//! (KIP-903). v16: endpoints of current leaders (KIP-951). v17: directory id. v18: the follower's high watermark.
//!
//! A fetch that finds too little registers with each of its partitions and is woken by the append (or sync) that moves
//! one of them; it looks again only at what moved. Records are not copied: they leave as pieces of segment files, unless they
//! are few, when one read and one write are cheaper than a system call per piece.
//!
//! Different from Kafka: fetches of followers are answered with NOT_LEADER_OR_FOLLOWER, as Kafka answers those of a broker that
//! holds no replica; partitions have one replica here.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ProducerId};
use kafka_protocol::protocol::Encodable;
use ottla_batch::{Codec, CompressionPolicy, LeaderEpoch, Offset};
use ottla_raft::TopicId;
use ottla_storage::log::{FirstBatch, LogSlice};
use tokio::time::Instant;

use super::current_leader::CurrentLeaders;
use super::splice::{LengthPrefix, SpliceBuf, placeholder};
use super::{Close, Part, Reply, RequestContext, Started, table};
use crate::clock;
use crate::error_map;
use crate::replica::sessions::{Answer, FetchKind, SessionRequest, Told, TopicKey, WantedPartition};
use crate::replica::waiters::FetchWait;
use crate::replica::{Isolation, Read, ReadBound, ReadRequest, Replica};

const SESSIONS_FROM_VERSION: i16 = 7;
const ZSTD_FROM_VERSION: i16 = 10;
const FLEXIBLE_FROM_VERSION: i16 = 12;
const TOPIC_ID_FROM_VERSION: i16 = 13;
const REPLICA_STATE_FROM_VERSION: i16 = 15;
const ENDPOINTS_FROM_VERSION: i16 = 16;

/// Up to this many bytes of records in a response are read into it: a read costs less than a `sendfile` of its own, and one
/// write then carries everything.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Encoded size of a partition without records and aborted transactions, rounded up: spares the encoder its growing.
const PARTITION_BYTES_EXPECTED: usize = 96;

/// A partition of this fetch with its replica, or why there is none.
struct Target {
    wanted: WantedPartition,
    replica: Result<Arc<Replica>, ResponseError>,
}

/// What one partition is answered with.
enum Found {
    Read(Read),
    Refused(ResponseError),
}

impl Found {
    fn bytes(&self) -> usize {
        match self {
            Found::Read(read) => read.slice.as_ref().map_or(0, |slice| slice.len),
            Found::Refused(_) => 0,
        }
    }

    /// Kafka answers at once with errors and divergence, whatever the minimum of bytes.
    fn is_urgent(&self) -> bool {
        match self {
            Found::Read(read) => read.diverging.is_some(),
            Found::Refused(_) => true,
        }
    }
}

/// The limits of one fetch.
struct Limits {
    bytes_max: usize,
    bytes_min: usize,
    wait: Duration,
    bound: ReadBound,
}

pub fn start(cx: RequestContext, request: FetchRequest) -> Result<Started, Close> {
    Ok(Started::Serial(Box::pin(handle(cx, request))))
}

async fn handle(cx: RequestContext, request: FetchRequest) -> Result<Reply, Close> {
    let version = cx.api_version;
    let replica_id = match version < REPLICA_STATE_FROM_VERSION {
        true => request.replica_id.0,
        false => request.replica_state.replica_id.0,
    };
    let isolation = match request.isolation_level {
        1 => Isolation::ReadCommitted,
        _ => Isolation::ReadUncommitted,
    };
    let bytes_max =
        usize::try_from(request.max_bytes).unwrap_or(0).min(cx.broker.config.replication.fetch_bytes_max);
    let limits = Limits {
        bytes_max,
        bytes_min: usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max),
        wait: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)),
        bound: isolation.into(),
    };
    let uses_ids = version >= TOPIC_ID_FROM_VERSION;
    let session_request = session_request(request, version, uses_ids);
    let (kind, wanted) = match cx.broker.replicas.sessions().begin(session_request, clock::now()) {
        Ok(begun) => begun,
        Err(error) => {
            let response = FetchResponse::default().with_error_code(error_map::session(&error).code());
            let encoded = table::encode(&response, version)?;
            return Ok(Reply { parts: vec![Part::Bytes(encoded)] });
        }
    };
    let targets: Vec<Target> =
        wanted.into_iter().map(|wanted| target(&cx, wanted, replica_id, version)).collect();
    let mut found = read_all(&targets, &limits);
    if !is_enough(&targets, &found, &limits) && !limits.wait.is_zero() {
        wait_for_more(&targets, &found, &limits).await;
        found = read_all(&targets, &limits);
    }
    respond(&cx, kind, targets, found, isolation)
}

fn session_request(request: FetchRequest, version: i16, uses_ids: bool) -> SessionRequest {
    let key = |name, id| if uses_ids { TopicKey::Id(id) } else { TopicKey::Name(name) };
    let mut partitions = Vec::with_capacity(request.topics.iter().map(|topic| topic.partitions.len()).sum());
    for topic in request.topics {
        let topic_key = key(topic.topic, topic.topic_id);
        partitions.extend(topic.partitions.into_iter().map(|partition| WantedPartition {
            topic: topic_key.clone(),
            partition: partition.partition,
            fetch_offset: Offset(partition.fetch_offset),
            bytes_max: partition.partition_max_bytes,
            leader_epoch: LeaderEpoch(partition.current_leader_epoch),
            last_fetched_epoch: LeaderEpoch(partition.last_fetched_epoch),
        }));
    }
    let mut forgotten = Vec::new();
    for topic in request.forgotten_topics_data {
        let topic_key = key(topic.topic, topic.topic_id);
        forgotten.extend(topic.partitions.into_iter().map(|partition| (topic_key.clone(), partition)));
    }
    let (id, epoch) = match version >= SESSIONS_FROM_VERSION {
        true => (request.session_id, request.session_epoch),
        // Before sessions, each fetch is complete in itself: what the final epoch means.
        false => (0, -1),
    };
    SessionRequest { id, epoch, uses_ids, partitions, forgotten }
}

fn target(cx: &RequestContext, wanted: WantedPartition, replica_id: i32, version: i16) -> Target {
    let replicas = &cx.broker.replicas;
    let found = match &wanted.topic {
        TopicKey::Name(name) => replicas.find(name, wanted.partition),
        TopicKey::Id(id) => replicas.find_by_id(TopicId(*id), wanted.partition),
    };
    let replica = found.map_err(|error| error_map::lookup(&error)).and_then(|replica| {
        if replica_id >= 0 {
            return Err(ResponseError::NotLeaderOrFollower);
        }
        let stores_zstd = matches!(replica.settings().compression, CompressionPolicy::Fixed(Codec::Zstd, _));
        if version < ZSTD_FROM_VERSION && stores_zstd {
            return Err(ResponseError::UnsupportedCompressionType);
        }
        Ok(replica)
    });
    Target { wanted, replica }
}

/// Reads every partition within the limits, in the order in which they are served.
fn read_all(targets: &[Target], limits: &Limits) -> Vec<Found> {
    let mut bytes_left = limits.bytes_max;
    // The first batch of the first partition that has one comes whole, or a consumer with a small buffer never moves on.
    let mut first_batch = FirstBatch::Whole;
    let mut found = Vec::with_capacity(targets.len());
    for Target { wanted, replica } in targets {
        let replica = match replica {
            Ok(replica) => replica,
            Err(error) => {
                found.push(Found::Refused(*error));
                continue;
            }
        };
        let request = ReadRequest {
            from: wanted.fetch_offset,
            bound: limits.bound,
            bytes_max: usize::try_from(wanted.bytes_max).unwrap_or(0).min(bytes_left),
            first_batch,
            leader_epoch: wanted.leader_epoch,
            last_fetched_epoch: wanted.last_fetched_epoch,
        };
        let partition = match replica.read(&request) {
            Ok(read) => Found::Read(read),
            Err(error) => {
                let code = error_map::read(&error);
                if code == ResponseError::KafkaStorageError || code == ResponseError::CorruptMessage {
                    tracing::error!(topic = %replica.topic(), partition = replica.partition(), %error, "fetch failed");
                }
                Found::Refused(code)
            }
        };
        let bytes = partition.bytes();
        if bytes > 0 {
            first_batch = FirstBatch::MayBeCut;
            bytes_left = bytes_left.saturating_sub(bytes);
        }
        found.push(partition);
    }
    found
}

fn is_enough(targets: &[Target], found: &[Found], limits: &Limits) -> bool {
    targets.is_empty()
        || found.iter().any(Found::is_urgent)
        || found.iter().map(Found::bytes).sum::<usize>() >= limits.bytes_min
}

/// Takes a fetch's registrations back, however it ends.
struct Registered<'a> {
    wait: Arc<FetchWait>,
    targets: &'a [Target],
}

impl Registered<'_> {
    fn register(&self, index: usize) {
        if let Ok(replica) = &self.targets[index].replica {
            replica.waiters().register_fetch(&self.wait, index as u32);
        }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        for target in self.targets {
            if let Ok(replica) = &target.replica {
                replica.waiters().deregister_fetch(&self.wait);
            }
        }
    }
}

/// Returns when there is enough to answer, or the client's patience ends.
async fn wait_for_more(targets: &[Target], found: &[Found], limits: &Limits) {
    let deadline = Instant::now() + limits.wait;
    let registered = Registered { wait: FetchWait::new(), targets };
    let mut available: Vec<usize> = found.iter().map(Found::bytes).collect();
    let mut total: usize = available.iter().sum();
    let mut moved: Vec<u32> = (0..targets.len() as u32).collect();
    loop {
        for index in moved {
            let index = index as usize;
            // ORDER: registered before the look, so that what moves in between is either seen here or wakes us.
            registered.register(index);
            match available_bytes(&targets[index], limits) {
                Some(bytes) => {
                    total = total - available[index] + bytes;
                    available[index] = bytes;
                }
                // An error, which the caller will read again and answer.
                None => return,
            }
        }
        if total >= limits.bytes_min {
            return;
        }
        match tokio::time::timeout_at(deadline, registered.wait.news()).await {
            Ok(news) => moved = news,
            Err(_) => return,
        }
    }
}

/// How much a partition could answer now; none if it answers with an error.
fn available_bytes(target: &Target, limits: &Limits) -> Option<usize> {
    let replica = target.replica.as_ref().ok()?;
    let wanted = &target.wanted;
    replica.check_leader(wanted.leader_epoch).ok()?;
    if wanted.fetch_offset >= replica.bound(limits.bound) {
        // A log that was cut below the reader answers with an error.
        return (wanted.fetch_offset <= replica.end_offset()).then_some(0);
    }
    if limits.bytes_min <= 1 {
        return Some(1);
    }
    let request = ReadRequest {
        from: wanted.fetch_offset,
        bound: limits.bound,
        bytes_max: usize::try_from(wanted.bytes_max).unwrap_or(0),
        first_batch: FirstBatch::Whole,
        leader_epoch: wanted.leader_epoch,
        last_fetched_epoch: LeaderEpoch::NONE,
    };
    replica.read(&request).ok().map(|read| read.slice.map_or(0, |slice| slice.len))
}

/// Cuts the answer down to what the session needs, and encodes it.
fn respond(
    cx: &RequestContext,
    kind: FetchKind,
    targets: Vec<Target>,
    found: Vec<Found>,
    isolation: Isolation,
) -> Result<Reply, Close> {
    let answers: Vec<Answer> = found.iter().map(answer).collect();
    let (wanted, replicas): (Vec<WantedPartition>, Vec<_>) =
        targets.into_iter().map(|target| (target.wanted, target.replica)).unzip();
    drop(replicas);
    let (session_id, selected) = match &kind {
        FetchKind::Sessionless => (0, None),
        FetchKind::Full => {
            let uses_ids = cx.api_version >= TOPIC_ID_FROM_VERSION;
            let told = |index: usize| answers.get(index).filter(|answer| !answer.is_error).map(|a| a.told);
            let id = cx.broker.replicas.sessions().create(wanted.clone(), told, uses_ids, clock::now());
            (id, None)
        }
        FetchKind::Incremental(session) => (session.id, Some(session.select(&wanted, &answers))),
    };
    let mut body = Body::new(cx, session_id);
    for (index, (wanted, found)) in wanted.into_iter().zip(found).enumerate() {
        if selected.as_ref().is_none_or(|selected| selected.get(index) == Some(&true)) {
            body.push(wanted, found, isolation);
        }
    }
    body.encode()
}

fn answer(found: &Found) -> Answer {
    match found {
        Found::Read(read) => Answer {
            told: Told { high_watermark: read.high_watermark.0, log_start_offset: read.log_start_offset.0 },
            has_records: read.slice.is_some(),
            is_error: false,
            is_notice: read.diverging.is_some(),
        },
        Found::Refused(_) => Answer {
            told: Told { high_watermark: -1, log_start_offset: -1 },
            has_records: false,
            is_error: true,
            is_notice: false,
        },
    }
}

/// A response in the making.
struct Body<'a> {
    cx: &'a RequestContext,
    response: FetchResponse,
    /// Records of the partitions pushed so far that have any: (topic, partition) in the response, and where they lie.
    slices: Vec<((usize, usize), LogSlice)>,
    leaders: Option<CurrentLeaders>,
    bytes_expected: usize,
}

impl<'a> Body<'a> {
    fn new(cx: &'a RequestContext, session_id: i32) -> Body<'a> {
        Body {
            cx,
            response: FetchResponse::default().with_session_id(session_id),
            slices: Vec::new(),
            leaders: None,
            bytes_expected: PARTITION_BYTES_EXPECTED,
        }
    }

    fn push(&mut self, wanted: WantedPartition, found: Found, isolation: Isolation) {
        let mut data = PartitionData::default()
            .with_partition_index(wanted.partition)
            .with_aborted_transactions(None)
            .with_records(Some(Bytes::new()));
        let mut slice = None;
        match found {
            Found::Read(read) => {
                data.high_watermark = read.high_watermark.0;
                data.last_stable_offset = read.last_stable_offset.0;
                data.log_start_offset = read.log_start_offset.0;
                if isolation == Isolation::ReadCommitted {
                    let aborted = read.aborted.iter().map(|transaction| {
                        AbortedTransaction::default()
                            .with_producer_id(ProducerId(transaction.producer_id.0))
                            .with_first_offset(transaction.first_offset.0)
                    });
                    data.aborted_transactions = Some(aborted.collect());
                    self.bytes_expected += 20 * read.aborted.len();
                }
                if let Some(end) = read.diverging {
                    data.diverging_epoch = EpochEndOffset::default()
                        .with_epoch(end.leader_epoch.0)
                        .with_end_offset(end.end_offset.0);
                }
                slice = read.slice;
            }
            Found::Refused(error) => {
                data.error_code = error.code();
                data.high_watermark = -1;
                if self.cx.api_version >= ENDPOINTS_FROM_VERSION
                    && CurrentLeaders::helps_with(data.error_code)
                {
                    data.current_leader = self.current_leader(&wanted);
                }
            }
        }
        self.bytes_expected += PARTITION_BYTES_EXPECTED;
        let topic = self.topic_of(wanted.topic);
        let partitions = &mut self.response.responses[topic].partitions;
        if let Some(slice) = slice {
            self.slices.push(((topic, partitions.len()), slice));
        }
        partitions.push(data);
    }

    /// The place of a topic in the response: neighbours of one topic share it, as in Kafka's answers.
    fn topic_of(&mut self, key: TopicKey) -> usize {
        let responses = &mut self.response.responses;
        let is_last = responses.last().is_some_and(|last| match &key {
            TopicKey::Name(name) => last.topic == *name,
            TopicKey::Id(id) => last.topic_id == *id,
        });
        if !is_last {
            responses.push(match key {
                TopicKey::Name(name) => {
                    self.bytes_expected += name.len();
                    FetchableTopicResponse::default().with_topic(name)
                }
                TopicKey::Id(id) => FetchableTopicResponse::default().with_topic_id(id),
            });
            self.bytes_expected += 32;
        }
        responses.len() - 1
    }

    fn current_leader(&mut self, wanted: &WantedPartition) -> LeaderIdAndEpoch {
        let leaders = self.leaders.get_or_insert_with(|| CurrentLeaders::new(self.cx));
        let image = Arc::clone(leaders.image());
        let topic = match &wanted.topic {
            TopicKey::Name(name) => image.topic_by_name(name),
            TopicKey::Id(id) => image.topic_by_id(TopicId(*id)),
        };
        leaders.find(topic.map(Arc::as_ref), wanted.partition).map_or_else(
            LeaderIdAndEpoch::default,
            |leader| {
                LeaderIdAndEpoch::default()
                    .with_leader_id(BrokerId(leader.leader_id))
                    .with_leader_epoch(leader.leader_epoch)
            },
        )
    }

    fn encode(mut self) -> Result<Reply, Close> {
        if let Some(leaders) = self.leaders.take() {
            self.response.node_endpoints = leaders
                .into_endpoints()
                .map(|endpoint| {
                    NodeEndpoint::default()
                        .with_node_id(BrokerId(endpoint.node_id))
                        .with_host(endpoint.host)
                        .with_port(endpoint.port)
                        .with_rack(endpoint.rack)
                })
                .collect();
        }
        let payload: usize = self.slices.iter().map(|(_, slice)| slice.len).sum();
        self.cx.broker.replicas.counters().on_fetched(payload);
        if payload <= INLINE_BYTES_MAX { self.encode_inline() } else { self.encode_spliced() }
    }

    /// Records are read into the response.
    fn encode_inline(mut self) -> Result<Reply, Close> {
        for ((topic, partition), slice) in std::mem::take(&mut self.slices) {
            let data = &mut self.response.responses[topic].partitions[partition];
            match slice.read() {
                Ok(records) => data.records = Some(records),
                Err(error) => {
                    tracing::error!(%error, "reading records for a fetch failed");
                    *data = PartitionData::default()
                        .with_partition_index(data.partition_index)
                        .with_error_code(ResponseError::KafkaStorageError.code())
                        .with_high_watermark(-1)
                        .with_aborted_transactions(None)
                        .with_records(Some(Bytes::new()));
                }
            }
        }
        let encoded = table::encode(&self.response, self.cx.api_version)?;
        Ok(Reply { parts: vec![Part::Bytes(encoded)] })
    }

    /// Records stay in their files; the response says where they go.
    fn encode_spliced(mut self) -> Result<Reply, Close> {
        for ((topic, partition), _) in &self.slices {
            self.response.responses[*topic].partitions[*partition].records = Some(placeholder());
        }
        let version = self.cx.api_version;
        let prefix = match version >= FLEXIBLE_FROM_VERSION {
            true => LengthPrefix::Compact,
            false => LengthPrefix::Fixed,
        };
        let lens = self.slices.iter().map(|(_, slice)| slice.len).collect();
        let mut buffer = SpliceBuf::new(prefix, lens, self.bytes_expected);
        self.response
            .encode(&mut buffer, version)
            .map_err(|error| Close::new(format!("the response cannot be encoded: {error:#}")))?;
        let (mut head, cuts) = buffer.finish();
        let mut parts = Vec::with_capacity(2 * cuts.len() + 1);
        let mut before = 0;
        for (cut, (_, slice)) in cuts.into_iter().zip(self.slices) {
            parts.push(Part::Bytes(head.split_to(cut - before)));
            parts.push(Part::Slice(slice));
            before = cut;
        }
        if !head.is_empty() {
            parts.push(Part::Bytes(head));
        }
        Ok(Reply { parts })
    }
}
