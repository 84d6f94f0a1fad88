//! What AlterConfigs and IncrementalAlterConfigs share: which resources there are, the check of each before anything is
//! submitted, and the answers.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::protocol::StrBytes;
use ottla_raft::metadata::decide::check_topic_name;
use ottla_raft::metadata::image::Configs;
use ottla_raft::requests::{AlterConfigsResult, ConfigOperation, Submit};
use ottla_raft::{ConfigResource, ConfigResourceType, Image, SubmitError};

use super::{ListenerRole, RequestContext, auto_create, create_topics};
use crate::config::NodeConfig;
use crate::config::alter::{self, Refusal};
use crate::config::table::list_items;
use crate::error_map;

/// Kafka's numbers of resource types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResourceType {
    Topic,
    Broker,
    BrokerLogger,
    ClientMetrics,
    Group,
}

impl ResourceType {
    pub const ALL: [ResourceType; 5] = [
        ResourceType::Topic,
        ResourceType::Broker,
        ResourceType::BrokerLogger,
        ResourceType::ClientMetrics,
        ResourceType::Group,
    ];

    pub fn number(self) -> i8 {
        match self {
            ResourceType::Topic => 2,
            ResourceType::Broker => 4,
            ResourceType::BrokerLogger => 8,
            ResourceType::ClientMetrics => 16,
            ResourceType::Group => 32,
        }
    }

    pub fn of(number: i8) -> Result<ResourceType, Refusal> {
        let found = ResourceType::ALL.into_iter().find(|known| known.number() == number);
        found.ok_or_else(|| Refusal::InvalidRequest(format!("resource type {number} is not known")))
    }
}

pub fn no_loggers() -> Refusal {
    Refusal::InvalidRequest("levels of loggers are chosen at start and cannot be changed".into())
}

/// Only the broker itself knows what it was started with, and what it can become.
pub fn check_own_id(node: &NodeConfig, name: &str) -> Result<(), Refusal> {
    match name.parse::<i32>() {
        Ok(id) if id == node.node_id => Ok(()),
        Ok(id) => Err(Refusal::InvalidRequest(format!(
            "Unexpected broker id, expected {} or empty string, but received {id}",
            node.node_id
        ))),
        Err(_) => Err(Refusal::InvalidRequest(format!("Broker id must be an integer, but it is: {name}"))),
    }
}

/// The resource that a change is about.
pub fn resource(cx: &RequestContext, kind: i8, name: &StrBytes) -> Result<ConfigResource, Refusal> {
    let no_default =
        |what: &str| Refusal::InvalidRequest(format!("Default {what} resources are not allowed."));
    let kind = match ResourceType::of(kind)? {
        ResourceType::Topic if name.is_empty() => return Err(no_default("topic")),
        ResourceType::Topic => {
            check_topic_name(name).map_err(Refusal::InvalidTopicName)?;
            ConfigResourceType::Topic
        }
        // As in Kafka, a broker takes its own changes only, as it checks them; controllers take those of all.
        ResourceType::Broker if !name.is_empty() && cx.connection.role == ListenerRole::Broker => {
            check_own_id(&cx.broker.config, name)?;
            ConfigResourceType::Broker
        }
        ResourceType::Broker if !name.is_empty() && name.parse::<u32>().is_err() => {
            return Err(Refusal::InvalidRequest(format!("Broker id must be an integer, but it is: {name}")));
        }
        ResourceType::Broker => ConfigResourceType::Broker,
        ResourceType::BrokerLogger => return Err(no_loggers()),
        ResourceType::ClientMetrics => ConfigResourceType::ClientMetrics,
        ResourceType::Group if name.is_empty() => return Err(no_default("group")),
        ResourceType::Group => ConfigResourceType::Group,
    };
    // A broker's id has one spelling, or `01` would be another resource than `1`.
    let name = match (kind, name.parse::<u32>()) {
        (ConfigResourceType::Broker, Ok(id)) => id.to_string(),
        _ => name.to_string(),
    };
    Ok(ConfigResource { kind, name: name.into() })
}

/// Checks the configuration that a resource would have. Kinds of resources that exist only by being mentioned pass;
/// topics must exist.
pub fn check(
    cx: &RequestContext,
    image: &Image,
    resource: &ConfigResource,
    after: &Configs,
) -> Result<(), Refusal> {
    if resource.kind == ConfigResourceType::Topic && image.topic_by_name(&resource.name).is_none() {
        return Err(Refusal::UnknownTopic(resource.name.to_string()));
    }
    alter::check(&cx.broker.config, image, resource, after)
}

/// What operations make of a configuration. The controller does the same to the newest one when it decides.
pub fn after(current: &Configs, operations: &[(String, ConfigOperation)]) -> Configs {
    let mut after = current.clone();
    for (key, operation) in operations {
        let list = |default: &Option<String>| {
            let text = after.get(key.as_str()).map(|text| text.to_string()).or_else(|| default.clone());
            list_items(&text.unwrap_or_default()).map(str::to_owned).collect::<Vec<_>>()
        };
        let value = match operation {
            ConfigOperation::Set(value) => Some(value.clone()),
            ConfigOperation::Delete | ConfigOperation::OnlyForLists => None,
            ConfigOperation::Append { items, default } => {
                let mut known = list(default);
                for item in list_items(items) {
                    if !known.iter().any(|other| other == item) {
                        known.push(item.to_owned());
                    }
                }
                Some(known.join(","))
            }
            ConfigOperation::Subtract { items, default } => {
                let mut known = list(default);
                known.retain(|item| !list_items(items).any(|other| other == item));
                Some(known.join(","))
            }
        };
        match value {
            Some(value) => after.insert(key.as_str().into(), value.as_str().into()),
            None => after.remove(key.as_str()),
        };
    }
    after
}

/// The answer about one resource.
pub struct Outcome {
    pub kind: i8,
    pub name: StrBytes,
    pub failure: Option<(ResponseError, String)>,
}

impl Outcome {
    fn refused(kind: i8, name: StrBytes, refusal: &Refusal) -> Outcome {
        let failure = Some((error_map::config_refusal(refusal), refusal.to_string()));
        Outcome { kind, name, failure }
    }

    pub fn code(&self) -> i16 {
        self.failure.as_ref().map_or(0, |(error, _)| error.code())
    }

    pub fn message(&self) -> Option<StrBytes> {
        self.failure.as_ref().map(|(_, message)| StrBytes::from_string(message.clone()))
    }
}

/// A resource of a request, and how it is to be changed.
pub struct Asked<C> {
    pub kind: i8,
    pub name: StrBytes,
    pub change: Result<(ConfigResource, C), Refusal>,
}

/// Has the controller make the changes that can be made, all in one `request`, and answers for every resource.
pub async fn alter<C, R>(
    cx: &RequestContext,
    asked: Vec<Asked<C>>,
    validate_only: bool,
    request: impl FnOnce(Vec<(ConfigResource, C)>) -> R,
) -> Vec<Outcome>
where
    R: Submit<Response = Vec<AlterConfigsResult>>,
{
    // Of two changes of one resource, which would count?
    let mut counts: BTreeMap<(i8, StrBytes), usize> = BTreeMap::new();
    for asked in &asked {
        *counts.entry((asked.kind, asked.name.clone())).or_default() += 1;
    }
    let (mut outcomes, mut submitted, mut resources) = (Vec::new(), Vec::new(), Vec::new());
    for Asked { kind, name, change } in asked {
        let is_repeated = counts.get(&(kind, name.clone())).is_some_and(|count| *count > 1);
        let change = if is_repeated {
            Err(Refusal::InvalidRequest("Each resource must appear at most once.".into()))
        } else {
            change
        };
        match change {
            Ok((resource, change)) => {
                submitted.push((kind, name, resource.clone()));
                resources.push((resource, change));
            }
            Err(refusal) => outcomes.push(Outcome::refused(kind, name, &refusal)),
        }
    }
    if !resources.is_empty() {
        let decided = cx.broker.metadata.submit(request(resources)).await;
        outcomes.extend(outcomes_of(cx, submitted, decided, validate_only).await);
    }
    outcomes
}

/// Turns what the controller decided into answers. After a change, waits until it is in force on this broker.
async fn outcomes_of(
    cx: &RequestContext,
    submitted: Vec<(i8, StrBytes, ConfigResource)>,
    decided: Result<Vec<AlterConfigsResult>, SubmitError>,
    validate_only: bool,
) -> Vec<Outcome> {
    match decided {
        Ok(results) => {
            if !validate_only {
                auto_create::await_applied(&cx.broker, create_topics::TIMEOUT_MIN).await;
                cx.broker.config.apply(&cx.broker.metadata.image());
            }
            let results: BTreeMap<ConfigResource, _> =
                results.into_iter().map(|result| (result.resource, result.result)).collect();
            let answer = |(kind, name, resource): (i8, StrBytes, ConfigResource)| {
                let failure = match results.get(&resource) {
                    Some(Ok(())) => None,
                    Some(Err(error)) => Some((error_map::alter_configs(error), error.to_string())),
                    None => {
                        Some((ResponseError::UnknownServerError, "the controller gave no answer".to_owned()))
                    }
                };
                Outcome { kind, name, failure }
            };
            submitted.into_iter().map(answer).collect()
        }
        Err(error) => {
            let failure = (error_map::submit(&error), error.to_string());
            submitted
                .into_iter()
                .map(|(kind, name, _)| Outcome { kind, name, failure: Some(failure.clone()) })
                .collect()
        }
    }
}
