//! DeleteTopics (key 20, versions 1 to 6).
//!
//! v3: TOPIC_DELETION_DISABLED when `delete.topic.enable` is false (before: INVALID_REQUEST). v5: messages with errors.
//! v6: topics by name or id (KIP-516).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::TopicId;
use ottla_raft::requests::{DeleteTopics, TopicReference};

use super::{Close, RequestContext, auto_create, create_topics};
use crate::error_map;

pub async fn handle(cx: RequestContext, request: DeleteTopicsRequest) -> Result<DeleteTopicsResponse, Close> {
    let mut references = Vec::new();
    let mut results = Vec::new();
    if cx.api_version < 6 {
        references.extend(request.topic_names.iter().map(|name| TopicReference::Name(name.to_string())));
    } else {
        for topic in &request.topics {
            match &topic.name {
                Some(name) if topic.topic_id.is_nil() => {
                    references.push(TopicReference::Name(name.to_string()))
                }
                None if !topic.topic_id.is_nil() => {
                    references.push(TopicReference::Id(TopicId(topic.topic_id)))
                }
                name => results.push(
                    DeletableTopicResult::default()
                        .with_name(name.clone())
                        .with_topic_id(topic.topic_id)
                        .with_error_code(ResponseError::InvalidRequest.code())
                        .with_error_message(Some(StrBytes::from_static_str(
                            "a topic is named by its name or by its id",
                        ))),
                ),
            }
        }
    }
    if !cx.broker.config.topic_defaults.delete_enable {
        let error = if cx.api_version < 3 {
            ResponseError::InvalidRequest
        } else {
            ResponseError::TopicDeletionDisabled
        };
        results.extend(
            references
                .iter()
                .map(|reference| failed(reference, error, "delete.topic.enable is false".into())),
        );
        return Ok(DeleteTopicsResponse::default().with_responses(results));
    }
    let submitted = cx.broker.metadata.submit(DeleteTopics { topics: references.clone() });
    match tokio::time::timeout(create_topics::timeout(request.timeout_ms), submitted).await {
        Ok(Ok(decided)) => {
            results.extend(decided.into_iter().map(|topic| {
                match topic.result {
                    Ok((name, id)) => DeletableTopicResult::default()
                        .with_name(Some(TopicName(StrBytes::from_string(name.to_string()))))
                        .with_topic_id(id.0)
                        .with_error_message(None),
                    Err(error) => {
                        failed(&topic.reference, error_map::delete_topic(&error), error.to_string())
                    }
                }
            }));
            auto_create::await_applied(&cx.broker, create_topics::timeout(request.timeout_ms)).await;
        }
        Ok(Err(error)) => {
            let code = error_map::submit(&error);
            results.extend(references.iter().map(|reference| failed(reference, code, error.to_string())));
        }
        Err(_) => results.extend(references.iter().map(|reference| {
            failed(reference, ResponseError::RequestTimedOut, "the controller did not answer in time".into())
        })),
    }
    Ok(DeleteTopicsResponse::default().with_responses(results))
}

fn failed(reference: &TopicReference, error: ResponseError, message: String) -> DeletableTopicResult {
    let result = DeletableTopicResult::default()
        .with_error_code(error.code())
        .with_error_message(Some(StrBytes::from_string(message)));
    match reference {
        TopicReference::Name(name) => result.with_name(Some(TopicName(StrBytes::from_string(name.clone())))),
        TopicReference::Id(id) => result.with_name(None).with_topic_id(id.0),
    }
}
