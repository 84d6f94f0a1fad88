//! The response of a fetch in the making, of consumers and followers. Records are not copied: they leave as pieces of segment
//! files, or of memory if they come from the tier, unless they are few, when one read and one write are cheaper than a system call
//! per piece.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, FetchableTopicResponse, LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use kafka_protocol::messages::{BrokerId, FetchResponse, ProducerId};
use kafka_protocol::protocol::Encodable;
use ottla_raft::TopicId;
use ottla_storage::log::LogSlice;

use super::current_leader::CurrentLeaders;
use super::splice::{LengthPrefix, SpliceBuf, placeholder};
use super::{Close, Part, Reply, RequestContext, table};
use crate::replica::sessions::{Answer, Told, TopicKey};
use crate::replica::{Isolation, Read, Replica};

const FLEXIBLE_FROM_VERSION: i16 = 12;
const ENDPOINTS_FROM_VERSION: i16 = 16;

/// Up to this many bytes of records in a response are read into it: a read costs less than a `sendfile` of its own, and one
/// write then carries everything.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// Encoded size of a partition without records and aborted transactions, rounded up: spares the encoder its growing.
const PARTITION_BYTES_EXPECTED: usize = 96;

/// What one partition is answered with.
pub(super) enum Found {
    Read(Read),
    /// As a read, with records from the tier.
    Tiered {
        read: Read,
        /// Empty while they are on their way.
        records: Bytes,
    },
    /// The tier gives no answer now.
    Failed(ResponseError),
    Refused(ResponseError),
    /// A consumer is told to read from another replica (KIP-392).
    Elsewhere(Elsewhere),
    /// Of a follower whose offset this log does not have, or only in the tier: it is told where the log begins.
    NotHere {
        error: ResponseError,
        log_start_offset: i64,
    },
}

/// Where a consumer should read, and what this leader tells of the partition all the same.
pub(super) struct Elsewhere {
    broker: ottla_raft::BrokerId,
    told: Told,
    last_stable_offset: i64,
}

impl Elsewhere {
    pub(super) fn new(broker: ottla_raft::BrokerId, leader: &Replica) -> Elsewhere {
        let told =
            Told { high_watermark: leader.high_watermark().0, log_start_offset: leader.log_start_offset().0 };
        Elsewhere { broker, told, last_stable_offset: leader.last_stable_offset().0 }
    }
}

impl Found {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Found::Read(read) => read.slice.as_ref().map_or(0, |slice| slice.len),
            Found::Tiered { records, .. } => records.len(),
            Found::Failed(_) | Found::Refused(_) | Found::Elsewhere(_) | Found::NotHere { .. } => 0,
        }
    }

    /// Kafka answers at once with errors, divergence and other replicas, whatever the minimum of bytes.
    pub(super) fn is_urgent(&self) -> bool {
        match self {
            Found::Read(read) => read.diverging.is_some(),
            Found::Tiered { .. } | Found::Failed(_) => false,
            Found::Refused(_) | Found::Elsewhere(_) | Found::NotHere { .. } => true,
        }
    }
}

pub(super) fn answer(found: &Found) -> Answer {
    match found {
        Found::Read(read) | Found::Tiered { read, .. } => Answer {
            told: Told { high_watermark: read.high_watermark.0, log_start_offset: read.log_start_offset.0 },
            has_records: found.bytes() > 0,
            is_error: false,
            is_notice: read.diverging.is_some(),
        },
        Found::Elsewhere(elsewhere) => {
            Answer { told: elsewhere.told, has_records: false, is_error: false, is_notice: true }
        }
        Found::Failed(_) | Found::Refused(_) | Found::NotHere { .. } => Answer {
            told: Told { high_watermark: -1, log_start_offset: -1 },
            has_records: false,
            is_error: true,
            is_notice: false,
        },
    }
}

/// A response in the making.
pub(super) struct Body<'a> {
    cx: &'a RequestContext,
    response: FetchResponse,
    /// Records of the partitions pushed so far that have any: (topic, partition) in the response, and where they lie.
    records: Vec<((usize, usize), Records)>,
    leaders: Option<CurrentLeaders>,
    bytes_expected: usize,
    reader: Reader,
}

/// Records of a partition on their way out.
enum Records {
    InFile(LogSlice),
    InMemory(Bytes),
}

impl Records {
    fn len(&self) -> usize {
        match self {
            Records::InFile(slice) => slice.len,
            Records::InMemory(bytes) => bytes.len(),
        }
    }

    fn read(self) -> std::io::Result<Bytes> {
        match self {
            Records::InFile(slice) => slice.read(),
            Records::InMemory(bytes) => Ok(bytes),
        }
    }
}

impl From<Records> for Part {
    fn from(records: Records) -> Part {
        match records {
            Records::InFile(slice) => Part::Slice(slice),
            Records::InMemory(bytes) => Part::Bytes(bytes),
        }
    }
}

/// Whose fetch it is, for the counters.
#[derive(Clone, Copy)]
enum Reader {
    Client,
    Follower,
}

impl<'a> Body<'a> {
    pub(super) fn new(cx: &'a RequestContext, session_id: i32) -> Body<'a> {
        Body {
            cx,
            response: FetchResponse::default().with_session_id(session_id),
            records: Vec::new(),
            leaders: None,
            bytes_expected: PARTITION_BYTES_EXPECTED,
            reader: Reader::Client,
        }
    }

    pub(super) fn for_follower(cx: &'a RequestContext, session_id: i32) -> Body<'a> {
        Body { reader: Reader::Follower, ..Body::new(cx, session_id) }
    }

    pub(super) fn push(&mut self, topic: TopicKey, partition: i32, found: Found, isolation: Isolation) {
        let mut data = PartitionData::default()
            .with_partition_index(partition)
            .with_aborted_transactions(None)
            .with_records(Some(Bytes::new()));
        let mut records = None;
        match found {
            Found::Read(mut read) => {
                records = read.slice.take().map(Records::InFile);
                self.tell(&mut data, &read, isolation);
            }
            Found::Tiered { read, records: bytes } => {
                records = (!bytes.is_empty()).then_some(Records::InMemory(bytes));
                self.tell(&mut data, &read, isolation);
            }
            Found::Elsewhere(elsewhere) => {
                data.preferred_read_replica = BrokerId(elsewhere.broker.0);
                data.high_watermark = elsewhere.told.high_watermark;
                data.log_start_offset = elsewhere.told.log_start_offset;
                data.last_stable_offset = elsewhere.last_stable_offset;
            }
            Found::NotHere { error, log_start_offset } => {
                data.error_code = error.code();
                data.high_watermark = -1;
                data.log_start_offset = log_start_offset;
            }
            Found::Failed(error) | Found::Refused(error) => {
                data.error_code = error.code();
                data.high_watermark = -1;
                if self.cx.api_version >= ENDPOINTS_FROM_VERSION
                    && CurrentLeaders::helps_with(data.error_code)
                {
                    data.current_leader = self.current_leader(&topic, partition);
                }
            }
        }
        self.bytes_expected += PARTITION_BYTES_EXPECTED;
        let topic = self.topic_of(topic);
        let partitions = &mut self.response.responses[topic].partitions;
        if let Some(records) = records {
            self.records.push(((topic, partitions.len()), records));
        }
        partitions.push(data);
    }

    /// All but the records.
    fn tell(&mut self, data: &mut PartitionData, read: &Read, isolation: Isolation) {
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
            data.diverging_epoch =
                EpochEndOffset::default().with_epoch(end.leader_epoch.0).with_end_offset(end.end_offset.0);
        }
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

    fn current_leader(&mut self, topic: &TopicKey, partition: i32) -> LeaderIdAndEpoch {
        let leaders = self.leaders.get_or_insert_with(|| CurrentLeaders::new(self.cx));
        let image = Arc::clone(leaders.image());
        let topic = match topic {
            TopicKey::Name(name) => image.topic_by_name(name),
            TopicKey::Id(id) => image.topic_by_id(TopicId(*id)),
        };
        leaders.find(topic.map(Arc::as_ref), partition).map_or_else(LeaderIdAndEpoch::default, |leader| {
            LeaderIdAndEpoch::default()
                .with_leader_id(BrokerId(leader.leader_id))
                .with_leader_epoch(leader.leader_epoch)
        })
    }

    pub(super) fn encode(mut self) -> Result<Reply, Close> {
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
        let payload: usize = self.records.iter().map(|(_, records)| records.len()).sum();
        match self.reader {
            Reader::Client => self.cx.broker.replicas.counters().on_fetched(payload),
            Reader::Follower => self.cx.broker.replicas.counters().on_replicated(payload),
        }
        if payload <= INLINE_BYTES_MAX { self.encode_inline() } else { self.encode_spliced() }
    }

    /// Records are read into the response.
    fn encode_inline(mut self) -> Result<Reply, Close> {
        for ((topic, partition), records) in std::mem::take(&mut self.records) {
            let data = &mut self.response.responses[topic].partitions[partition];
            match records.read() {
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

    /// Records stay where they are; the response says where they go.
    fn encode_spliced(mut self) -> Result<Reply, Close> {
        for ((topic, partition), _) in &self.records {
            self.response.responses[*topic].partitions[*partition].records = Some(placeholder());
        }
        let version = self.cx.api_version;
        let prefix = match version >= FLEXIBLE_FROM_VERSION {
            true => LengthPrefix::Compact,
            false => LengthPrefix::Fixed,
        };
        let lens = self.records.iter().map(|(_, records)| records.len()).collect();
        let mut buffer = SpliceBuf::new(prefix, lens, self.bytes_expected);
        self.response
            .encode(&mut buffer, version)
            .map_err(|error| Close::new(format!("the response cannot be encoded: {error:#}")))?;
        let (mut head, cuts) = buffer.finish();
        let mut parts: Vec<Part> = Vec::with_capacity(2 * cuts.len() + 1);
        let mut before = 0;
        for (cut, (_, records)) in cuts.into_iter().zip(self.records) {
            parts.push(Part::Bytes(head.split_to(cut - before)));
            parts.push(records.into());
            before = cut;
        }
        if !head.is_empty() {
            parts.push(Part::Bytes(head));
        }
        Ok(Reply { parts })
    }
}
