//! CreatePartitions (key 37, versions 0 to 3): more partitions for a topic, never fewer. The versions differ in form only.
//!
//! Unlike Kafka's, the answer waits until this broker serves the new partitions.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::BrokerId;
use ottla_raft::requests::{CreatePartitions, NewPartitions};

use super::{Close, RequestContext, auto_create, create_topics};
use crate::error_map;

pub async fn handle(
    cx: RequestContext,
    request: CreatePartitionsRequest,
) -> Result<CreatePartitionsResponse, Close> {
    let topics: Vec<NewPartitions> = request
        .topics
        .iter()
        .map(|topic| NewPartitions {
            name: topic.name.to_string(),
            count: topic.count,
            assignments: topic.assignments.as_ref().map(|assignments| {
                let replicas = |ids: &Vec<kafka_protocol::messages::BrokerId>| {
                    ids.iter().map(|id| BrokerId(id.0)).collect()
                };
                assignments.iter().map(|assignment| replicas(&assignment.broker_ids)).collect()
            }),
        })
        .collect();
    let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
    let timeout = create_topics::timeout(request.timeout_ms);
    let submitted =
        cx.broker.metadata.submit(CreatePartitions { topics, validate_only: request.validate_only });
    let results = match tokio::time::timeout(timeout, submitted).await {
        Ok(Ok(decided)) => {
            if !request.validate_only {
                auto_create::await_applied(&cx.broker, timeout).await;
            }
            let answer = |topic: ottla_raft::requests::CreatePartitionsResult| match topic.result {
                Ok(()) => result(topic.name, None),
                Err(error) => {
                    result(topic.name, Some((error_map::create_partitions(&error), error.to_string())))
                }
            };
            decided.into_iter().map(answer).collect()
        }
        Ok(Err(error)) => {
            let failure = (error_map::submit(&error), error.to_string());
            names.into_iter().map(|name| result(name, Some(failure.clone()))).collect()
        }
        Err(_) => {
            let failure =
                (ResponseError::RequestTimedOut, "the controller did not answer in time".to_owned());
            names.into_iter().map(|name| result(name, Some(failure.clone()))).collect()
        }
    };
    Ok(CreatePartitionsResponse::default().with_results(results))
}

fn result(name: String, failure: Option<(ResponseError, String)>) -> CreatePartitionsTopicResult {
    let result = CreatePartitionsTopicResult::default().with_name(TopicName(StrBytes::from_string(name)));
    match failure {
        None => result.with_error_message(None),
        Some((error, message)) => {
            result.with_error_code(error.code()).with_error_message(Some(StrBytes::from_string(message)))
        }
    }
}
