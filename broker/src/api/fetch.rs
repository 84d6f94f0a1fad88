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
//! Where `replica.selector.class` says so, the leader does not serve a consumer that has a replica in its own rack, but tells it to go
//! there.
//!
//! What lies in the tier alone is in `fetch_tier`, fetches of followers in `fetch_replica`, the response of all in `fetch_response`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use ottla_batch::{Codec, CompressionPolicy, LeaderEpoch, Offset};
use ottla_raft::{BrokerId, TopicId};
use ottla_storage::log::FirstBatch;
use tokio::time::Instant;

use super::fetch_response::{Body, Elsewhere, Found, answer};
use super::fetch_tier::TierReads;
use super::{Close, Part, Reply, RequestContext, Started, fetch_replica, table};
use crate::clock;
use crate::error_map;
use crate::replica::selector::{ReplicaSelector, brokers_nearer_than};
use crate::replica::sessions::{Answer, FetchKind, SessionRequest, TopicKey, WantedPartition};
use crate::replica::waiters::FetchWait;
use crate::replica::{Isolation, Read, ReadBound, ReadRequest, Replica, Served};

/// `replica_id` of a consumer.
const CONSUMER: i32 = -1;

const SESSIONS_FROM_VERSION: i16 = 7;
const ZSTD_FROM_VERSION: i16 = 10;
const RACK_FROM_VERSION: i16 = 11;
const TOPIC_ID_FROM_VERSION: i16 = 13;
const REPLICA_STATE_FROM_VERSION: i16 = 15;

/// A partition of this fetch with its replica, or why there is none.
struct Target {
    wanted: WantedPartition,
    replica: Result<Arc<Replica>, ResponseError>,
}

/// The limits of one fetch.
struct Limits {
    bytes_max: usize,
    bytes_min: usize,
    wait: Duration,
    bound: ReadBound,
    served: Served,
    /// Brokers in the client's rack, if this one is not.
    nearer: Vec<BrokerId>,
}

pub fn start(cx: RequestContext, request: FetchRequest) -> Result<Started, Close> {
    let replica_id = match cx.api_version < REPLICA_STATE_FROM_VERSION {
        true => request.replica_id.0,
        false => request.replica_state.replica_id.0,
    };
    match replica_id {
        0.. => fetch_replica::start(cx, request, replica_id),
        _ => Ok(Started::Serial(Box::pin(handle(cx, request, replica_id)))),
    }
}

async fn handle(cx: RequestContext, request: FetchRequest, replica_id: i32) -> Result<Reply, Close> {
    let version = cx.api_version;
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
        // Kafka's tools look at what replicas hold with the replica id -2.
        bound: if replica_id == CONSUMER { isolation.into() } else { ReadBound::LogEnd },
        served: match version >= RACK_FROM_VERSION && replica_id == CONSUMER {
            true => Served::ByAnyReplica,
            false => Served::ByLeader,
        },
        nearer: if replica_id == CONSUMER { nearer(&cx, &request.rack_id) } else { Vec::new() },
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
    let targets: Vec<Target> = wanted.into_iter().map(|wanted| target(&cx, wanted, version)).collect();
    let mut tier = TierReads::new(&cx, limits.bound);
    let mut found = read_all(&targets, &limits, &mut tier);
    if tier.take_ready() {
        found = read_all(&targets, &limits, &mut tier);
    }
    let tier_wait = cx.broker.config.dynamic().remote_fetch_wait_max;
    let may_wait = !limits.wait.is_zero() || tier.is_pending();
    if may_wait && !is_enough(&targets, &found, &limits) {
        wait_for_more(&targets, &found, &limits, &mut tier, tier_wait).await;
        found = read_all(&targets, &limits, &mut tier);
    }
    drop(tier);
    respond(&cx, kind, targets, found, isolation)
}

/// Brokers that a consumer in `rack` should rather go to, if they hold what it wants.
fn nearer(cx: &RequestContext, rack: &str) -> Vec<BrokerId> {
    match cx.broker.config.replication.selector {
        ReplicaSelector::RackAware if !rack.is_empty() => {
            let image = cx.broker.metadata.image();
            brokers_nearer_than(cx.broker.replicas.local(), &image, rack, &cx.connection.listener)
        }
        ReplicaSelector::RackAware | ReplicaSelector::Leader => Vec::new(),
    }
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

fn target(cx: &RequestContext, wanted: WantedPartition, version: i16) -> Target {
    let replicas = &cx.broker.replicas;
    let found = match &wanted.topic {
        TopicKey::Name(name) => replicas.find(name, wanted.partition),
        TopicKey::Id(id) => replicas.find_by_id(TopicId(*id), wanted.partition),
    };
    let replica = found.map_err(|error| error_map::lookup(&error)).and_then(|replica| {
        let stores_zstd = matches!(replica.settings().compression, CompressionPolicy::Fixed(Codec::Zstd, _));
        if version < ZSTD_FROM_VERSION && stores_zstd {
            return Err(ResponseError::UnsupportedCompressionType);
        }
        Ok(replica)
    });
    Target { wanted, replica }
}

/// Reads every partition within the limits, in the order in which they are served.
fn read_all(targets: &[Target], limits: &Limits, tier: &mut TierReads<'_>) -> Vec<Found> {
    let mut bytes_left = limits.bytes_max;
    // The first batch of the first partition that has one comes whole, or a consumer with a small buffer never moves on.
    let mut first_batch = FirstBatch::Whole;
    let mut found = Vec::with_capacity(targets.len());
    for (index, Target { wanted, replica }) in targets.iter().enumerate() {
        let replica = match replica {
            Ok(replica) => replica,
            Err(error) => {
                found.push(Found::Refused(*error));
                continue;
            }
        };
        if !limits.nearer.is_empty()
            && let Some(broker) = replica.reader_of(wanted.fetch_offset, &limits.nearer)
        {
            found.push(match replica.check_leader(wanted.leader_epoch) {
                Ok(_) => Found::Elsewhere(Elsewhere::new(broker, replica)),
                Err(error) => Found::Refused(error_map::leader(&error)),
            });
            continue;
        }
        let request = ReadRequest {
            from: wanted.fetch_offset,
            bound: limits.bound,
            bytes_max: usize::try_from(wanted.bytes_max).unwrap_or(0).min(bytes_left),
            first_batch,
            leader_epoch: wanted.leader_epoch,
            last_fetched_epoch: wanted.last_fetched_epoch,
            served: limits.served,
        };
        let partition = match replica.read(&request) {
            Ok(read) if read.is_in_tier => read_tiered(replica, &request, read, tier, index),
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

/// What came from the tier, as far as it fits into the answer.
fn read_tiered(
    replica: &Arc<Replica>,
    request: &ReadRequest,
    mut read: Read,
    tier: &mut TierReads<'_>,
    index: usize,
) -> Found {
    match tier.look(index, replica, request.from, request.bytes_max) {
        None => Found::Tiered { read, records: Bytes::new() },
        Some(Err(ResponseError::KafkaStorageError)) => Found::Failed(ResponseError::KafkaStorageError),
        Some(Err(error)) => Found::Refused(*error),
        // Compaction left nothing before what is here.
        Some(Ok(tiered)) if tiered.bytes.is_empty() => {
            match replica.read(&ReadRequest { from: tiered.next_offset, ..*request }) {
                Ok(read) => Found::Read(read),
                Err(error) => Found::Refused(error_map::read(&error)),
            }
        }
        Some(Ok(tiered)) => {
            let len = match request.first_batch {
                FirstBatch::Whole => tiered.bytes.len(),
                FirstBatch::MayBeCut => tiered.bytes.len().min(request.bytes_max),
            };
            read.aborted.clone_from(&tiered.aborted);
            Found::Tiered { read, records: tiered.bytes.slice(..len) }
        }
    }
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

/// Returns when there is enough to answer, or the client's patience ends; that of a fetch that waits for the tier is `tier_wait`.
async fn wait_for_more(
    targets: &[Target],
    found: &[Found],
    limits: &Limits,
    tier: &mut TierReads<'_>,
    tier_wait: Duration,
) {
    let begun = Instant::now();
    let registered = Registered { wait: FetchWait::new(), targets };
    // What came from the tier is counted there.
    let local = |(index, found): (usize, &Found)| if tier.has(index) { 0 } else { found.bytes() };
    let mut available: Vec<usize> = found.iter().enumerate().map(local).collect();
    let mut total: usize = available.iter().sum();
    let mut moved: Vec<u32> = (0..targets.len() as u32).filter(|index| !tier.has(*index as usize)).collect();
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
        let (is_urgent, tier_bytes) = tier.came();
        if is_urgent || total + tier_bytes >= limits.bytes_min {
            return;
        }
        let wait = if tier.is_pending() { tier_wait } else { limits.wait };
        let woken = async {
            tokio::select! {
                news = registered.wait.news() => news,
                () = tier.next() => Vec::new(),
            }
        };
        match tokio::time::timeout_at(begun + wait, woken).await {
            Ok(news) => moved = news,
            Err(_) => return,
        }
    }
}

/// How much a partition could answer now; none if it answers with an error.
fn available_bytes(target: &Target, limits: &Limits) -> Option<usize> {
    let replica = target.replica.as_ref().ok()?;
    let wanted = &target.wanted;
    match limits.served {
        Served::ByLeader => replica.check_leader(wanted.leader_epoch).ok()?,
        Served::ByAnyReplica => replica.check_leader_or_follower(wanted.leader_epoch).ok()?,
    };
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
        served: limits.served,
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
            body.push(wanted.topic, wanted.partition, found, isolation);
        }
    }
    body.encode()
}
