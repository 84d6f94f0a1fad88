//! ElectLeaders (key 43, versions 0 to 2, KIP-183): preferred leaders, and since v1 unclean elections (KIP-460).
//!
//! Without partitions, all are meant, and those that need no election are left out of the answer.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::{ElectLeadersRequest, ElectLeadersResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::requests::{ElectLeaders, ElectionType};

use super::{Close, RequestContext, create_topics};
use crate::error_map;

pub async fn handle(cx: RequestContext, request: ElectLeadersRequest) -> Result<ElectLeadersResponse, Close> {
    let refused = |error: ResponseError| Ok(ElectLeadersResponse::default().with_error_code(error.code()));
    let election = match request.election_type {
        0 => ElectionType::Preferred,
        1 => ElectionType::Unclean,
        _ => return refused(ResponseError::InvalidRequest),
    };
    let partitions = request.topic_partitions.as_ref().map(|topics| {
        let of_topic = |topic: &kafka_protocol::messages::elect_leaders_request::TopicPartitions| {
            let name = topic.topic.to_string();
            topic.partitions.iter().map(move |partition| (name.clone(), *partition)).collect::<Vec<_>>()
        };
        topics.iter().flat_map(of_topic).collect()
    });
    let submitted = cx.broker.metadata.submit(ElectLeaders { election, partitions });
    let decided = match tokio::time::timeout(create_topics::timeout(request.timeout_ms), submitted).await {
        Ok(Ok(decided)) => decided,
        Ok(Err(error)) => return refused(error_map::submit(&error)),
        Err(_) => return refused(ResponseError::RequestTimedOut),
    };
    let mut topics: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
    for elected in decided {
        let result = PartitionResult::default().with_partition_id(elected.partition);
        topics.entry(elected.topic).or_default().push(match elected.result {
            Ok(()) => result.with_error_message(None),
            Err(error) => result
                .with_error_code(error_map::elect_leader(&error).code())
                .with_error_message(Some(StrBytes::from_string(error.to_string()))),
        });
    }
    let results = topics.into_iter().map(|(topic, partitions)| {
        ReplicaElectionResult::default()
            .with_topic(TopicName(StrBytes::from_string(topic)))
            .with_partition_result(partitions)
    });
    Ok(ElectLeadersResponse::default().with_replica_election_results(results.collect()))
}
