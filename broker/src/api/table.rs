//! The table of APIs: key, versions offered, listeners, decoder, handler. ApiVersions answers from it, `net` dispatches by it, and
//! docs/compatibility.md is checked against it.

use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, HeaderVersion, Message, Request};

use super::*;

type Start = Box<dyn Fn(RequestContext, Bytes) -> Result<Started, Close> + Send + Sync>;

/// The header version that goes with an API version.
type HeaderOf = fn(i16) -> i16;

/// One API.
pub struct Row {
    pub key: i16,
    /// Versions offered. A request of another version closes its connection, as Kafka does; ApiVersions alone answers it.
    pub versions: RangeInclusive<i16>,
    /// Whether the listeners of controllers serve it too, as those of brokers do.
    on_controllers: bool,
    request_header_version: HeaderOf,
    response_header_version: HeaderOf,
    start: Start,
}

impl Row {
    /// An API whose requests are answered one after the other.
    fn serial<Q, F, Fut>(versions: RangeInclusive<i16>, handle: F) -> Row
    where
        Q: Request + Send + 'static,
        Q::Response: Send,
        F: Fn(RequestContext, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Q::Response, Close>> + Send + 'static,
    {
        Row::serial_encoded(versions, handle, encode::<Q::Response>)
    }

    /// Like `serial`, for a response with versions that kafka-protocol cannot encode. Where a request's newest versions
    /// have the shape of the last one kafka-protocol knows, it is decoded as that.
    fn serial_encoded<Q, F, Fut>(
        versions: RangeInclusive<i16>,
        handle: F,
        encode: fn(&Q::Response, i16) -> Result<Bytes, Close>,
    ) -> Row
    where
        Q: Request + Send + 'static,
        Q::Response: Send,
        F: Fn(RequestContext, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Q::Response, Close>> + Send + 'static,
    {
        let decode = |body, version: i16| guard::decode::<Q>(body, version.min(Q::VERSIONS.max));
        Row::serial_coded(versions, decode, handle, encode)
    }

    /// Like `serial`, with a decoder and an encoder of its own.
    fn serial_coded<Q, F, Fut>(
        versions: RangeInclusive<i16>,
        decode: fn(Bytes, i16) -> Result<Q, Close>,
        handle: F,
        encode: fn(&Q::Response, i16) -> Result<Bytes, Close>,
    ) -> Row
    where
        Q: Request + Send + 'static,
        Q::Response: Send,
        F: Fn(RequestContext, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Q::Response, Close>> + Send + 'static,
    {
        Row {
            key: Q::KEY,
            versions,
            on_controllers: false,
            request_header_version: Q::header_version,
            response_header_version: Q::Response::header_version,
            start: Box::new(move |cx, body| {
                let version = cx.api_version;
                let request = decode(body, version)?;
                let answer = handle(cx, request);
                Ok(Started::Serial(Box::pin(async move {
                    let encoded = encode(&answer.await?, version)?;
                    Ok(Reply { parts: vec![Part::Bytes(encoded)] })
                })))
            }),
        }
    }

    /// An API with a decoder and stages of its own.
    fn staged<Q>(
        key: ApiKey,
        versions: RangeInclusive<i16>,
        decode: fn(Bytes, i16) -> Result<Q, Close>,
        start: fn(RequestContext, Q) -> Result<Started, Close>,
    ) -> Row
    where
        Q: 'static,
    {
        let (request_header_version, response_header_version): (HeaderOf, HeaderOf) = match key {
            ApiKey::Produce => (ProduceRequest::header_version, ProduceResponse::header_version),
            ApiKey::Fetch => (FetchRequest::header_version, FetchResponse::header_version),
            ApiKey::ApiVersions => (ApiVersionsRequest::header_version, ApiVersionsResponse::header_version),
            other => panic!("{other:?} has no stages of its own"),
        };
        Row {
            key: key as i16,
            versions,
            on_controllers: false,
            request_header_version,
            response_header_version,
            start: Box::new(move |cx, body| {
                let version = cx.api_version;
                start(cx, decode(body, version)?)
            }),
        }
    }

    pub fn is_served_on(&self, role: ListenerRole) -> bool {
        match role {
            ListenerRole::Broker => true,
            ListenerRole::Controller => self.on_controllers,
        }
    }

    /// Runs the first stage of a request.
    pub fn start(&self, cx: RequestContext, body: Bytes) -> Result<Started, Close> {
        (self.start)(cx, body)
    }

    /// Whether the request header ends with tagged fields (header version 2).
    pub fn request_header_is_flexible(&self, version: i16) -> bool {
        (self.request_header_version)(version) >= 2
    }

    /// Whether the response header ends with tagged fields (header version 1; never for ApiVersions, KIP-511).
    pub fn response_header_is_flexible(&self, version: i16) -> bool {
        (self.response_header_version)(version) >= 1
    }
}

/// Encodes a response into one buffer of its exact size. Versions newer than kafka-protocol's last have that one's shape.
pub fn encode<R: Encodable + Message>(response: &R, version: i16) -> Result<Bytes, Close> {
    let version = version.min(R::VERSIONS.max);
    let failed = |error| Close::new(format!("the response cannot be encoded: {error:#}"));
    let mut buffer = BytesMut::with_capacity(response.compute_size(version).map_err(failed)?);
    response.encode(&mut buffer, version).map_err(failed)?;
    Ok(buffer.freeze())
}

/// All rows.
pub fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(build)
}

/// The row of an API key that came from the wire.
pub fn row(key: i16) -> Option<&'static Row> {
    static INDEX: OnceLock<Vec<Option<&'static Row>>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let size = rows().iter().map(|row| row.key as usize + 1).max().unwrap_or(0);
        let mut index = Vec::new();
        index.resize_with(size, || None);
        for row in rows() {
            let slot: &mut Option<&'static Row> = &mut index[row.key as usize];
            assert!(slot.is_none(), "two rows for API key {}", row.key);
            *slot = Some(row);
        }
        index
    });
    index.get(usize::try_from(key).ok()?).copied().flatten()
}

fn build() -> Vec<Row> {
    let of_brokers = vec![
        Row::staged(ApiKey::Produce, 3..=13, produce_frame::decode, produce::start),
        Row::staged(ApiKey::Fetch, 4..=18, guard::decode::<FetchRequest>, fetch::start),
        Row::serial::<ListOffsetsRequest, _, _>(1..=11, list_offsets::handle),
        Row::serial::<MetadataRequest, _, _>(0..=13, metadata::handle),
        Row::serial_coded(2..=10, topic_id_frames::decode_offset_commit, offset_commit::handle, encode),
        Row::serial_coded(1..=10, topic_id_frames::decode_offset_fetch, offset_fetch::handle, encode),
        Row::serial::<FindCoordinatorRequest, _, _>(0..=6, find_coordinator::handle),
        Row::serial::<JoinGroupRequest, _, _>(0..=9, join_group::handle),
        Row::serial::<HeartbeatRequest, _, _>(0..=4, heartbeat::handle),
        Row::serial::<LeaveGroupRequest, _, _>(0..=5, leave_group::handle),
        Row::serial::<SyncGroupRequest, _, _>(0..=5, sync_group::handle),
        Row::serial::<DescribeGroupsRequest, _, _>(0..=6, describe_groups::handle),
        Row::serial::<ListGroupsRequest, _, _>(0..=5, list_groups::handle),
        Row::serial::<DeleteRecordsRequest, _, _>(0..=2, delete_records::handle),
        Row::serial::<InitProducerIdRequest, _, _>(0..=5, init_producer_id::handle),
        Row::serial::<OffsetForLeaderEpochRequest, _, _>(2..=4, offset_for_leader_epoch::handle),
        Row::serial::<AlterReplicaLogDirsRequest, _, _>(1..=2, alter_replica_log_dirs::handle),
        Row::serial_encoded(1..=5, describe_log_dirs::handle, newer::encode_describe_log_dirs),
        Row::serial_encoded(0..=3, delete_groups::handle, newer::encode_delete_groups),
        Row::serial::<OffsetDeleteRequest, _, _>(0..=0, offset_delete::handle),
        Row::serial::<DescribeProducersRequest, _, _>(0..=0, describe_producers::handle),
        Row::serial::<ListConfigResourcesRequest, _, _>(0..=1, list_config_resources::handle),
        Row::serial::<DescribeTopicPartitionsRequest, _, _>(0..=0, describe_topic_partitions::handle),
    ];
    // `--bootstrap-controller` of Kafka's tools (KIP-919).
    let of_controllers_too = vec![
        Row::staged(ApiKey::ApiVersions, 0..=5, api_versions::decode, api_versions::start),
        Row::serial::<CreateTopicsRequest, _, _>(2..=7, create_topics::handle),
        Row::serial::<DeleteTopicsRequest, _, _>(1..=6, delete_topics::handle),
        Row::serial::<DescribeConfigsRequest, _, _>(1..=4, describe_configs::handle),
        Row::serial::<AlterConfigsRequest, _, _>(0..=2, alter_configs::handle),
        Row::serial::<CreatePartitionsRequest, _, _>(0..=3, create_partitions::handle),
        Row::serial::<ElectLeadersRequest, _, _>(0..=2, elect_leaders::handle),
        Row::serial::<IncrementalAlterConfigsRequest, _, _>(0..=1, incremental_alter_configs::handle),
        Row::serial::<AlterPartitionReassignmentsRequest, _, _>(0..=1, alter_partition_reassignments::handle),
        Row::serial::<ListPartitionReassignmentsRequest, _, _>(0..=0, list_partition_reassignments::handle),
        Row::serial::<DescribeQuorumRequest, _, _>(0..=2, describe_quorum::handle),
        Row::serial::<UpdateFeaturesRequest, _, _>(0..=2, update_features::handle),
        Row::serial::<DescribeClusterRequest, _, _>(0..=2, describe_cluster::handle),
        Row::serial::<UnregisterBrokerRequest, _, _>(0..=0, unregister_broker::handle),
        Row {
            key: unregister_controller::KEY,
            ..Row::serial::<UnregisterBrokerRequest, _, _>(0..=0, unregister_controller::handle)
        },
        Row::serial::<AddRaftVoterRequest, _, _>(0..=0, add_raft_voter::handle),
        Row::serial::<RemoveRaftVoterRequest, _, _>(0..=0, remove_raft_voter::handle),
    ];
    let of_controllers_too = of_controllers_too.into_iter().map(|row| Row { on_controllers: true, ..row });
    of_brokers.into_iter().chain(of_controllers_too).collect()
}
