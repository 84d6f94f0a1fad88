//! DescribeConfigs (key 32, versions 1 to 4).
//!
//! v1: sources and synonyms (KIP-226). v3: types and documentation (KIP-569). Resources: topics, this broker (or, with an
//! empty name, what was set for all brokers), groups (KIP-848), client metrics (KIP-714). Levels of loggers are refused:
//! they are chosen at start.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::Image;
use ottla_raft::metadata::decide::check_topic_name;

use super::alteration::{self, ResourceType};
use super::{Close, RequestContext};
use crate::config::NodeConfig;
use crate::config::alter::Refusal;
use crate::config::effective::{self, Entry};
use crate::config::table::{Kind, list_items};
use crate::error_map;

/// A resource costs a few bytes to ask for and some 30 KB to answer, so the answer as a whole has a bound. Enough for all
/// topics of a node with 10,000 of them.
const ENTRIES_MAX: usize = 400_000;

pub async fn handle(
    cx: RequestContext,
    request: DescribeConfigsRequest,
) -> Result<DescribeConfigsResponse, Close> {
    let image = cx.broker.metadata.image();
    let mut left = ENTRIES_MAX;
    let mut results = Vec::with_capacity(request.resources.len());
    for resource in &request.resources {
        let described =
            if left == 0 { Err(too_many()) } else { describe(&cx.broker.config, &image, resource) };
        let described = described.and_then(|entries| match left.checked_sub(entries.len()) {
            Some(rest) => {
                left = rest;
                Ok(entries)
            }
            None => {
                left = 0;
                Err(too_many())
            }
        });
        let result = DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone());
        results.push(match described {
            Ok(entries) => result
                .with_error_message(None)
                .with_configs(entries.into_iter().map(|entry| shown(entry, &request)).collect()),
            Err(refusal) => result
                .with_error_code(error_map::config_refusal(&refusal).code())
                .with_error_message(Some(StrBytes::from_string(refusal.to_string()))),
        });
        // A long request leaves room for others.
        tokio::task::yield_now().await;
    }
    Ok(DescribeConfigsResponse::default().with_results(results))
}

fn too_many() -> Refusal {
    Refusal::InvalidRequest("too many resources in one request; ask for fewer at a time".into())
}

fn describe(
    node: &NodeConfig,
    image: &Image,
    resource: &DescribeConfigsResource,
) -> Result<Vec<Entry>, Refusal> {
    let name = &*resource.resource_name;
    let mut entries = match ResourceType::of(resource.resource_type)? {
        ResourceType::Topic => {
            check_topic_name(name).map_err(Refusal::InvalidTopicName)?;
            if image.topic_by_name(name).is_none() {
                return Err(Refusal::UnknownTopic(name.to_owned()));
            }
            effective::topic_entries(node, image, name)
        }
        ResourceType::Broker if name.is_empty() => effective::broker_default_entries(image),
        ResourceType::Broker => {
            alteration::check_own_id(node, name)?;
            effective::broker_entries(node, image)
        }
        ResourceType::BrokerLogger => {
            alteration::check_own_id(node, name)?;
            return Err(alteration::no_loggers());
        }
        ResourceType::ClientMetrics | ResourceType::Group if name.is_empty() => {
            return Err(Refusal::InvalidRequest("the name of the resource must not be empty".into()));
        }
        ResourceType::ClientMetrics => effective::client_metrics_entries(node, image, name),
        ResourceType::Group => effective::group_entries(node, image, name),
    };
    if let Some(keys) = resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty()) {
        let keys: std::collections::HashSet<&str> = keys.iter().map(|key| &**key).collect();
        entries.retain(|entry| keys.contains(entry.name.as_str()));
    }
    Ok(entries)
}

fn shown(entry: Entry, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let kind = entry.key.map(|key| key.kind);
    let mut result = DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_string(entry.name))
        .with_value(entry.value.map(|value| StrBytes::from_string(normalised(value, kind))))
        .with_read_only(entry.is_read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(entry.is_sensitive)
        .with_config_type(type_number(kind))
        .with_documentation(None);
    if request.include_synonyms {
        let synonyms = entry.synonyms.into_iter().map(|synonym| {
            DescribeConfigsSynonym::default()
                .with_name(StrBytes::from_string(synonym.name))
                .with_value(synonym.value.map(StrBytes::from_string))
                .with_source(synonym.source as i8)
        });
        result = result.with_synonyms(synonyms.collect());
    }
    if request.include_documentation {
        result = result.with_documentation(entry.key.map(|key| StrBytes::from_static_str(key.doc)));
    }
    result
}

/// COMPAT: Kafka shows the value that it read, not the text that was written.
fn normalised(value: String, kind: Option<Kind>) -> String {
    match kind {
        Some(Kind::List) => list_items(&value).collect::<Vec<_>>().join(","),
        Some(Kind::Boolean) => value.to_lowercase(),
        _ => value,
    }
}

/// Numbers of KIP-569.
fn type_number(kind: Option<Kind>) -> i8 {
    match kind {
        None => 0,
        Some(Kind::Boolean) => 1,
        Some(Kind::String) => 2,
        Some(Kind::Int) => 3,
        Some(Kind::Short) => 4,
        Some(Kind::Long) => 5,
        Some(Kind::Double) => 6,
        Some(Kind::List) => 7,
        Some(Kind::Class) => 8,
        Some(Kind::Password) => 9,
    }
}
