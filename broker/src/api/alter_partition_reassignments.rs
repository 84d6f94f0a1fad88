//! AlterPartitionReassignments (key 45, versions 0 and 1, KIP-455): moves partitions to other brokers, or cancels such a
//! move (null replicas). The controller answers when the move has begun; ListPartitionReassignments tells how it goes.
//!
//! v1: whether the number of replicas may change (KIP-860); v0 allows it.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::alter_partition_reassignments_request::ReassignableTopic;
use kafka_protocol::messages::alter_partition_reassignments_response::{
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::BrokerId;
use ottla_raft::requests::{AlterPartitionReassignments, ReassignmentItem};

use super::{Close, RequestContext, create_topics};
use crate::error_map;

pub async fn handle(
    cx: RequestContext,
    request: AlterPartitionReassignmentsRequest,
) -> Result<AlterPartitionReassignmentsResponse, Close> {
    let allowed = cx.api_version < 1 || request.allow_replication_factor_change;
    let response = AlterPartitionReassignmentsResponse::default()
        .with_allow_replication_factor_change(allowed)
        .with_error_message(None);
    let refused = |error: ResponseError, message: String| {
        let response = response.clone().with_error_code(error.code());
        Ok(response.with_error_message(Some(StrBytes::from_string(message))))
    };
    let submitted = cx.broker.metadata.submit(AlterPartitionReassignments {
        items: request.topics.iter().flat_map(items).collect(),
        allow_replication_factor_change: allowed,
    });
    let decided = match tokio::time::timeout(create_topics::timeout(request.timeout_ms), submitted).await {
        Ok(Ok(decided)) => decided,
        Ok(Err(error)) => return refused(error_map::submit(&error), error.to_string()),
        Err(_) => {
            return refused(
                ResponseError::RequestTimedOut,
                "the controller did not answer in time".to_owned(),
            );
        }
    };
    let mut topics: BTreeMap<String, Vec<ReassignablePartitionResponse>> = BTreeMap::new();
    for decision in decided {
        let result = ReassignablePartitionResponse::default().with_partition_index(decision.partition);
        topics.entry(decision.topic).or_default().push(match decision.result {
            Ok(()) => result.with_error_message(None),
            Err(error) => result
                .with_error_code(error_map::reassignment(&error).code())
                .with_error_message(Some(StrBytes::from_string(error.to_string()))),
        });
    }
    let responses = topics.into_iter().map(|(name, partitions)| {
        ReassignableTopicResponse::default()
            .with_name(TopicName(StrBytes::from_string(name)))
            .with_partitions(partitions)
    });
    let responses = responses.collect();
    Ok(response.with_responses(responses))
}

fn items(topic: &ReassignableTopic) -> impl Iterator<Item = ReassignmentItem> {
    topic.partitions.iter().map(|partition| ReassignmentItem {
        topic: topic.name.to_string(),
        partition: partition.partition_index,
        replicas: partition
            .replicas
            .as_ref()
            .map(|replicas| replicas.iter().map(|id| BrokerId(id.0)).collect()),
    })
}
