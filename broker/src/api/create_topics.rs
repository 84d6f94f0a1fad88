//! CreateTopics (key 19, versions 2 to 7).
//!
//! v4: -1 for partitions and replicas takes the broker's default (KIP-464; older clients are given it as well).
//! v5: the answer has counts and configuration (KIP-525). v7: topic ids in the answer (KIP-516).
//!
//! Unlike Kafka's, the answer waits until this broker serves the new partitions, so that they can be used at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::metadata::image::Configs;
use ottla_raft::requests::{CreateTopics, CreatedTopic, NewTopic};
use ottla_raft::{BrokerId, Image};

use super::{Close, RequestContext, auto_create};
use crate::config::alter;
use crate::config::effective::TopicValues;
use crate::error_map;

/// A request is given at least this long, whatever it says: one sync of the metadata log takes its time.
pub(super) const TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// For requests that carry no limit of their own.
pub(super) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

pub(super) fn timeout(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)).max(TIMEOUT_MIN)
}

pub async fn handle(cx: RequestContext, request: CreateTopicsRequest) -> Result<CreateTopicsResponse, Close> {
    let image = cx.broker.metadata.image();
    let mut refused = BTreeMap::new();
    let mut asked: BTreeMap<String, Configs> = BTreeMap::new();
    let mut topics = Vec::new();
    for topic in &request.topics {
        match new_topic(&cx, &image, topic) {
            Ok((new, configs)) => {
                asked.insert(new.name.clone(), configs);
                topics.push(new);
            }
            Err(reason) => {
                refused.insert(topic.name.to_string(), reason);
            }
        }
    }
    // A name that is refused once must not be created by its second mention.
    topics.retain(|topic| !refused.contains_key(&topic.name));

    let mut results: Vec<CreatableTopicResult> = refused
        .into_iter()
        .map(|(name, reason)| failed(name, ResponseError::InvalidConfig, reason))
        .collect();
    let names: Vec<String> = topics.iter().map(|topic| topic.name.clone()).collect();
    let submitted = cx.broker.metadata.submit(CreateTopics { topics, validate_only: request.validate_only });
    match tokio::time::timeout(timeout(request.timeout_ms), submitted).await {
        Ok(Ok(decided)) => {
            for topic in decided {
                results.push(match topic.result {
                    Ok(created) => {
                        let own = asked.remove(&topic.name).unwrap_or_default();
                        answered(&cx, &image, topic.name, &created, &own)
                    }
                    Err(error) => failed(topic.name, error_map::create_topic(&error), error.to_string()),
                });
            }
            if !request.validate_only {
                auto_create::await_applied(&cx.broker, timeout(request.timeout_ms)).await;
            }
        }
        Ok(Err(error)) => {
            let code = error_map::submit(&error);
            results.extend(names.into_iter().map(|name| failed(name, code, error.to_string())));
        }
        Err(_) => results.extend(names.into_iter().map(|name| {
            failed(name, ResponseError::RequestTimedOut, "the controller did not answer in time".into())
        })),
    }
    Ok(CreateTopicsResponse::default().with_topics(results))
}

/// What goes to the controller, with the configuration as a map; the error is about that.
fn new_topic(
    cx: &RequestContext,
    image: &Image,
    topic: &CreatableTopic,
) -> Result<(NewTopic, Configs), String> {
    let mut configs = Vec::with_capacity(topic.configs.len());
    for config in &topic.configs {
        let Some(value) = &config.value else {
            return Err(format!("Null value not supported for topic configs: {}", config.name));
        };
        configs.push((config.name.to_string(), value.to_string()));
    }
    let own: Configs =
        configs.iter().map(|(name, value)| (Arc::<str>::from(&**name), Arc::<str>::from(&**value))).collect();
    alter::check_topic(&cx.broker.config, image, None, &own)?;
    let assignments = topic.assignments.iter().map(|assignment| {
        (assignment.partition_index, assignment.broker_ids.iter().map(|id| BrokerId(id.0)).collect())
    });
    let new = NewTopic {
        name: topic.name.to_string(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: assignments.collect(),
        configs,
    };
    Ok((new, own))
}

fn failed(name: String, error: ResponseError, message: String) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(TopicName(StrBytes::from_string(name)))
        .with_error_code(error.code())
        .with_error_message(Some(StrBytes::from_string(message)))
}

fn answered(
    cx: &RequestContext,
    image: &Image,
    name: String,
    created: &CreatedTopic,
    own: &Configs,
) -> CreatableTopicResult {
    let configs = if cx.api_version < 5 {
        Vec::new()
    } else {
        let entries = TopicValues::with(&cx.broker.config, image, own).entries();
        entries
            .into_iter()
            .map(|entry| {
                CreatableTopicConfigs::default()
                    .with_name(StrBytes::from_string(entry.name))
                    .with_value(entry.value.map(StrBytes::from_string))
                    .with_read_only(entry.is_read_only)
                    .with_config_source(entry.source as i8)
                    .with_is_sensitive(entry.is_sensitive)
            })
            .collect()
    };
    CreatableTopicResult::default()
        .with_name(TopicName(StrBytes::from_string(name)))
        .with_topic_id(created.id.0)
        .with_error_message(None)
        .with_num_partitions(created.partitions)
        .with_replication_factor(created.replication_factor)
        .with_configs(Some(configs))
}
