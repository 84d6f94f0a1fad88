//! The table of APIs: key, versions offered, handler. ApiVersions answers from it, `net` dispatches by it, and
//! docs/compatibility.md is checked against it.

use std::future::Future;
use std::ops::RangeInclusive;

use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, Request};

use super::*;

type Start = Box<dyn Fn(RequestContext, Bytes) -> Result<Started, Close> + Send + Sync>;

/// One API.
pub struct Row {
    pub key: i16,
    /// Versions offered; a request of another version is answered with UNSUPPORTED_VERSION.
    pub versions: RangeInclusive<i16>,
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
        Row {
            key: Q::KEY,
            versions,
            start: Box::new(move |cx, mut body| {
                let version = cx.api_version;
                let request = Q::decode(&mut body, version).map_err(|e| Close::new(format!("{e:#}")))?;
                let answer = handle(cx, request);
                Ok(Started::Serial(Box::pin(async move {
                    let response = answer.await?;
                    let mut encoded = bytes::BytesMut::new();
                    response.encode(&mut encoded, version).map_err(|e| Close::new(format!("{e:#}")))?;
                    Ok(Reply { parts: vec![Part::Bytes(encoded.freeze())] })
                })))
            }),
        }
    }

    /// Runs the first stage of a request.
    pub fn start(&self, cx: RequestContext, body: Bytes) -> Result<Started, Close> {
        (self.start)(cx, body)
    }
}

/// All rows, by API key.
pub fn rows() -> Vec<Row> {
    vec![
        Row::serial::<ProduceRequest, _, _>(3..=13, produce::handle),
        Row::serial::<FetchRequest, _, _>(4..=18, fetch::handle),
        Row::serial::<ListOffsetsRequest, _, _>(1..=11, list_offsets::handle),
        Row::serial::<MetadataRequest, _, _>(0..=13, metadata::handle),
        Row::serial::<OffsetCommitRequest, _, _>(2..=10, offset_commit::handle),
        Row::serial::<OffsetFetchRequest, _, _>(1..=10, offset_fetch::handle),
        Row::serial::<FindCoordinatorRequest, _, _>(0..=6, find_coordinator::handle),
        Row::serial::<JoinGroupRequest, _, _>(0..=9, join_group::handle),
        Row::serial::<HeartbeatRequest, _, _>(0..=4, heartbeat::handle),
        Row::serial::<LeaveGroupRequest, _, _>(0..=5, leave_group::handle),
        Row::serial::<SyncGroupRequest, _, _>(0..=5, sync_group::handle),
        Row::serial::<DescribeGroupsRequest, _, _>(0..=6, describe_groups::handle),
        Row::serial::<ListGroupsRequest, _, _>(0..=5, list_groups::handle),
        Row::serial::<ApiVersionsRequest, _, _>(0..=5, api_versions::handle),
        Row::serial::<CreateTopicsRequest, _, _>(2..=7, create_topics::handle),
        Row::serial::<DeleteTopicsRequest, _, _>(1..=6, delete_topics::handle),
        Row::serial::<DeleteRecordsRequest, _, _>(0..=2, delete_records::handle),
        Row::serial::<InitProducerIdRequest, _, _>(0..=5, init_producer_id::handle),
        Row::serial::<OffsetForLeaderEpochRequest, _, _>(2..=4, offset_for_leader_epoch::handle),
        Row::serial::<DescribeConfigsRequest, _, _>(1..=4, describe_configs::handle),
        Row::serial::<AlterConfigsRequest, _, _>(0..=2, alter_configs::handle),
        Row::serial::<DescribeLogDirsRequest, _, _>(1..=5, describe_log_dirs::handle),
        Row::serial::<CreatePartitionsRequest, _, _>(0..=3, create_partitions::handle),
        Row::serial::<DeleteGroupsRequest, _, _>(0..=3, delete_groups::handle),
        Row::serial::<ElectLeadersRequest, _, _>(0..=2, elect_leaders::handle),
        Row::serial::<IncrementalAlterConfigsRequest, _, _>(0..=1, incremental_alter_configs::handle),
        Row::serial::<ListPartitionReassignmentsRequest, _, _>(0..=0, list_partition_reassignments::handle),
        Row::serial::<OffsetDeleteRequest, _, _>(0..=0, offset_delete::handle),
        Row::serial::<DescribeQuorumRequest, _, _>(0..=2, describe_quorum::handle),
        Row::serial::<UpdateFeaturesRequest, _, _>(0..=2, update_features::handle),
        Row::serial::<DescribeClusterRequest, _, _>(0..=2, describe_cluster::handle),
        Row::serial::<DescribeProducersRequest, _, _>(0..=0, describe_producers::handle),
        Row::serial::<ListConfigResourcesRequest, _, _>(0..=1, list_config_resources::handle),
        Row::serial::<DescribeTopicPartitionsRequest, _, _>(0..=0, describe_topic_partitions::handle),
    ]
}
