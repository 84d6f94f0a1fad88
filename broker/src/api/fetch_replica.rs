//! Fetch of a follower (replica id 0 and above), by topic ids (versions 13 to 18).
//!
//! v15: the follower's broker epoch (KIP-903). v17: its log directory. v18: its high watermark; -1 here, because a session
//! remembers what was told.
//!
//! What the follower holds, by the offsets that it names, goes to the leader's machine with the first look at a partition.
//! A fetch costs what it names and what moved; see `replica::follower_sessions`. Records are answered at once. A high watermark
//! that moved waits [`HIGH_WATERMARK_LINGER`] for records to go with: under load it always does, and costs nothing.
//!
//! Throttled partitions (`leader.replication.throttled.replicas`) of followers that are not in sync give no more records than the
//! leader's quota has room for; the rest is looked at when there is room again. What goes of them to followers in sync counts,
//! but is not held back.
//!
//! Different from Kafka: a fetch without a session, or by topic names (before version 13), is refused with
//! UNSUPPORTED_VERSION: only brokers of a cluster follow, and those of this one have both. OFFSET_OUT_OF_RANGE and
//! OFFSET_MOVED_TO_TIERED_STORAGE tell the log start, for which Kafka's followers ask by ListOffsets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use ottla_batch::{LeaderEpoch, Offset};
use ottla_raft::{BrokerEpoch, BrokerId, TopicId};
use ottla_storage::log::{self, FirstBatch};
use tokio::time::Instant;

use super::fetch_response::{Body, Found, answer};
use super::{Close, Part, Reply, RequestContext, Started, table};
use crate::error_map;
use crate::replica::follower_sessions::{FollowerId, FollowerSession, FollowerWants, Slot, Woken};
use crate::replica::in_sync::FollowerFetch;
use crate::replica::quota::{Quota, Room};
use crate::replica::sessions::TopicKey;
use crate::replica::{Isolation, ReadBound, ReadError, ReadRequest, Served};

const TOPIC_ID_FROM_VERSION: i16 = 13;
const REPLICA_STATE_FROM_VERSION: i16 = 15;

/// How long a high watermark waits for records to travel with.
const HIGH_WATERMARK_LINGER: Duration = Duration::from_millis(10);

struct Limits {
    bytes_max: usize,
    bytes_min: usize,
    wait: Duration,
}

/// Stage one takes the request into its session. The wait does not keep the connection's next request from starting, which ends it.
pub(super) fn start(cx: RequestContext, request: FetchRequest, replica_id: i32) -> Result<Started, Close> {
    let replicas = &cx.broker.replicas;
    let epoch = request.session_epoch;
    if cx.api_version < TOPIC_ID_FROM_VERSION || epoch < 0 {
        return refuse(&cx, ResponseError::UnsupportedVersion);
    }
    let cluster_id = cx.broker.metadata.image().cluster_id.clone();
    if request.cluster_id.as_ref().is_some_and(|given| given.as_str() != &*cluster_id.0) {
        return refuse(&cx, ResponseError::InconsistentClusterId);
    }
    let follower = FollowerId {
        broker: BrokerId(replica_id),
        broker_epoch: Some(BrokerEpoch(request.replica_state.replica_epoch))
            .filter(|epoch| cx.api_version >= REPLICA_STATE_FROM_VERSION && epoch.0 >= 0),
    };
    let bytes_max = usize::try_from(request.max_bytes).unwrap_or(0);
    let limits = Limits {
        bytes_max: bytes_max.min(cx.broker.config.replication.fetch_bytes_max),
        bytes_min: usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max),
        wait: Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)),
    };
    let mut wants = Vec::new();
    for topic in request.topics {
        let id = TopicId(topic.topic_id);
        wants.extend(topic.partitions.into_iter().map(|partition| FollowerWants {
            topic: id,
            partition: partition.partition,
            end: Offset(partition.fetch_offset),
            log_start: Offset(partition.log_start_offset),
            bytes_max: usize::try_from(partition.partition_max_bytes).unwrap_or(0),
            leader_epoch: LeaderEpoch(partition.current_leader_epoch),
            last_fetched_epoch: LeaderEpoch(partition.last_fetched_epoch),
        }));
    }
    let mut forgotten = Vec::new();
    for topic in request.forgotten_topics_data {
        forgotten.extend(topic.partitions.into_iter().map(|partition| (TopicId(topic.topic_id), partition)));
    }
    let begun = replicas.follower_sessions().begin(
        follower,
        request.session_id,
        epoch,
        wants,
        forgotten,
        Instant::now(),
        |topic, partition| replicas.get_by_id(topic, partition),
    );
    match begun {
        Ok(session) => Ok(Started::Pipelined(Box::pin(handle(cx, session, epoch, limits)))),
        Err(error) => refuse(&cx, error_map::session(&error)),
    }
}

fn refuse(cx: &RequestContext, error: ResponseError) -> Result<Started, Close> {
    let response = FetchResponse::default().with_error_code(error.code());
    let reply = Reply { parts: vec![Part::Bytes(table::encode(&response, cx.api_version)?)] };
    Ok(Started::Pipelined(Box::pin(std::future::ready(Ok(reply)))))
}

/// Lets the next request of the session have its turn, however this one ends.
struct Turn {
    session: Arc<FollowerSession>,
    epoch: i32,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.session.end_turn(self.epoch, Instant::now());
    }
}

async fn handle(
    cx: RequestContext,
    session: Arc<FollowerSession>,
    epoch: i32,
    limits: Limits,
) -> Result<Reply, Close> {
    let mut deadline = Instant::now() + limits.wait;
    session.turn(epoch).await;
    let turn = Turn { session: Arc::clone(&session), epoch };
    let mut look = Look::new(&cx, &session, epoch, &limits);
    loop {
        look.at_news();
        if look.is_enough() {
            break;
        }
        if look.has_answers() {
            deadline = deadline.min(Instant::now() + HIGH_WATERMARK_LINGER);
            session.defer_high_watermarks();
        }
        let until = look.has_room_at().map_or(deadline, |at| at.min(deadline));
        match tokio::time::timeout_at(until, session.woken(epoch)).await {
            Ok(Woken::Records | Woken::OnlyHighWatermarks) => {}
            Ok(Woken::Superseded) => break,
            Err(_) if until < deadline => {}
            Err(_) => {
                // What was deferred goes with this answer.
                look.at_news();
                break;
            }
        }
    }
    let reply = look.respond();
    drop(turn);
    reply
}

/// What an answer is made of.
struct Look<'a> {
    cx: &'a RequestContext,
    session: &'a FollowerSession,
    epoch: i32,
    limits: &'a Limits,
    bytes: usize,
    is_urgent: bool,
    /// By the index in the session; a later look at a partition takes the place of an earlier one.
    found: BTreeMap<u32, (Slot, Found)>,
}

impl<'a> Look<'a> {
    fn new(cx: &'a RequestContext, session: &'a FollowerSession, epoch: i32, limits: &'a Limits) -> Look<'a> {
        Look { cx, session, epoch, limits, bytes: 0, is_urgent: false, found: BTreeMap::new() }
    }

    fn has_answers(&self) -> bool {
        !self.found.is_empty()
    }

    fn is_enough(&self) -> bool {
        self.is_urgent || (self.bytes > 0 && self.bytes >= self.limits.bytes_min)
    }

    fn quota(&self) -> &'a Quota {
        &self.cx.broker.replicas.quotas().leader
    }

    /// When what is held back may go; `None` if nothing is.
    fn has_room_at(&self) -> Option<Instant> {
        if !self.session.holds_back() {
            return None;
        }
        let now = Instant::now();
        match self.quota().room(now) {
            Room::NoneUntil(at) => Some(at),
            Room::Bytes(_) | Room::Unlimited => Some(now),
        }
    }

    /// How much of a partition the leader's quota allows; `None`: it does not limit this one.
    fn room_for(&self, slot: &Slot) -> Option<usize> {
        let replica = slot.replica.as_ref().filter(|replica| replica.is_throttled_as_leader())?;
        if replica.has_in_sync(self.session.follower.broker) {
            return None;
        }
        match self.quota().room(Instant::now()) {
            Room::Unlimited => None,
            Room::Bytes(bytes) => Some(bytes),
            Room::NoneUntil(_) => Some(0),
        }
    }

    fn at_news(&mut self) {
        if self.has_room_at().is_some_and(|at| at <= Instant::now()) {
            self.session.release_held_back();
        }
        let is_limited = self.quota().is_limited();
        for (index, slot) in self.session.take_news(self.epoch) {
            let before = self.found.get(&index).map_or(0, |(_, found)| found.bytes());
            let bytes_left = self.limits.bytes_max.saturating_sub(self.bytes - before);
            let counts =
                is_limited && slot.replica.as_ref().is_some_and(|replica| replica.is_throttled_as_leader());
            if counts {
                // It is read anew, so what it took before is free again.
                self.quota().give_back(before, Instant::now());
            }
            let room = if counts { self.room_for(&slot) } else { None };
            let found = self.read(&slot, bytes_left.min(room.unwrap_or(usize::MAX)));
            if counts {
                self.quota().spend(found.bytes(), Instant::now());
            }
            if let Found::Read(read) = &found
                && read.diverging.is_none()
                && read.slice.is_none()
            {
                if self.may_have_more(&slot) {
                    if room == Some(0) {
                        self.session.hold_back(index);
                    } else if bytes_left == 0 {
                        // Counted now, served with the next request.
                        self.session.put_back(index);
                    }
                }
                if before == 0 && answer(&found).told == slot.told {
                    self.found.remove(&index);
                    continue;
                }
            }
            self.is_urgent |= found.is_urgent();
            self.bytes = self.bytes - before + found.bytes();
            self.found.insert(index, (slot, found));
        }
    }

    fn may_have_more(&self, slot: &Slot) -> bool {
        slot.replica.as_ref().is_some_and(|replica| slot.wants.end < replica.end_offset())
    }

    fn read(&self, slot: &Slot, bytes_left: usize) -> Found {
        let wants = &slot.wants;
        let Some(replica) = &slot.replica else {
            let missing = self.cx.broker.replicas.find_by_id(wants.topic, wants.partition);
            return match missing {
                // Opened since the request came: the follower comes again.
                Ok(_) => Found::Refused(ResponseError::NotLeaderOrFollower),
                Err(error) => Found::Refused(error_map::lookup(&error)),
            };
        };
        let request = ReadRequest {
            from: wants.end,
            bound: ReadBound::LogEnd,
            bytes_max: wants.bytes_max.min(bytes_left),
            // Whole while there is room at all: a batch larger than a partition's share must not be in the way for ever.
            first_batch: if bytes_left > 0 { FirstBatch::Whole } else { FirstBatch::MayBeCut },
            leader_epoch: wants.leader_epoch,
            last_fetched_epoch: wants.last_fetched_epoch,
            served: Served::ByLeader,
        };
        let fetch = FollowerFetch {
            broker: self.session.follower.broker,
            broker_epoch: self.session.follower.broker_epoch,
            end: wants.end,
            log_start: wants.log_start,
        };
        let lag_max = self.cx.broker.config.replication.lag_time_max;
        match replica.read_for_follower(&request, slot.is_new.then_some(&fetch), lag_max) {
            Ok(read) => Found::Read(read),
            Err(ReadError::Log(
                error @ (log::ReadError::OffsetOutOfRange { .. } | log::ReadError::OnlyInTier { .. }),
            )) => Found::NotHere {
                error: error_map::log_read(&error),
                log_start_offset: replica.log_start_offset().0,
            },
            Err(error) => {
                let code = error_map::follower_read(&error, wants.leader_epoch);
                if code == ResponseError::KafkaStorageError || code == ResponseError::CorruptMessage {
                    tracing::error!(topic = %replica.topic(), partition = replica.partition(), %error, "fetch of a follower failed");
                }
                Found::Refused(code)
            }
        }
    }

    fn respond(self) -> Result<Reply, Close> {
        let mut body = Body::for_follower(self.cx, self.session.id);
        for (index, (slot, found)) in self.found {
            let answer = answer(&found);
            let told = (!answer.is_error && !answer.is_notice).then_some(answer.told);
            let awaits_request = answer.has_records || told.is_none();
            self.session.on_answered(index, &slot.wants, told, awaits_request);
            let wants = slot.wants;
            body.push(TopicKey::Id(wants.topic.0), wants.partition, found, Isolation::ReadUncommitted);
        }
        body.encode()
    }
}
