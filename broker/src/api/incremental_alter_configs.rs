//! IncrementalAlterConfigs (key 44, versions 0 and 1, KIP-339): set, delete, append to and subtract from single keys. The
//! versions differ in form only. A resource is changed whole or not at all.

use std::collections::BTreeSet;

use kafka_protocol::messages::incremental_alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use ottla_raft::requests::{ConfigOperation, IncrementalAlterConfigs};
use ottla_raft::{ConfigResource, ConfigResourceType, Image};

use super::alteration::{self, Asked};
use super::{Close, RequestContext};
use crate::config::alter::Refusal;
use crate::config::effective;
use crate::config::table::{self, Kind, Scope};

pub async fn handle(
    cx: RequestContext,
    request: IncrementalAlterConfigsRequest,
) -> Result<IncrementalAlterConfigsResponse, Close> {
    let image = cx.broker.metadata.image();
    let asked = request.resources.iter().map(|asked| Asked {
        kind: asked.resource_type,
        name: asked.resource_name.clone(),
        change: prepare(&cx, &image, asked),
    });
    let (asked, validate_only) = (asked.collect(), request.validate_only);
    let outcomes = alteration::alter(&cx, asked, validate_only, |resources| IncrementalAlterConfigs {
        resources,
        validate_only,
    })
    .await;
    let responses = outcomes
        .into_iter()
        .map(|outcome| {
            AlterConfigsResourceResponse::default()
                .with_error_code(outcome.code())
                .with_error_message(outcome.message())
                .with_resource_type(outcome.kind)
                .with_resource_name(outcome.name)
        })
        .collect();
    Ok(IncrementalAlterConfigsResponse::default().with_responses(responses))
}

type Prepared = (ConfigResource, Vec<(String, ConfigOperation)>);

fn prepare(cx: &RequestContext, image: &Image, asked: &AlterConfigsResource) -> Result<Prepared, Refusal> {
    let resource = alteration::resource(cx, asked.resource_type, &asked.resource_name)?;
    let scope = match resource.kind {
        ConfigResourceType::Topic => Scope::Topic,
        ConfigResourceType::Broker => Scope::Broker,
        ConfigResourceType::ClientMetrics => Scope::ClientMetrics,
        ConfigResourceType::Group => Scope::Group,
    };
    let mut keys = BTreeSet::new();
    let mut operations = Vec::with_capacity(asked.configs.len());
    for config in &asked.configs {
        let name = config.name.to_string();
        if !keys.insert(name.clone()) {
            return Err(Refusal::InvalidRequest("Error due to duplicate config keys".into()));
        }
        let value = || {
            let value = config.value.as_ref().map(ToString::to_string);
            value.ok_or_else(|| Refusal::InvalidRequest(format!("Null value not supported for : {name}")))
        };
        let operation = match config.config_operation {
            0 => ConfigOperation::Set(value()?),
            1 => ConfigOperation::Delete,
            2 | 3 if table::find(scope, &name).is_none_or(|key| key.kind != Kind::List) => {
                let verb = if config.config_operation == 2 { "APPEND" } else { "SUBTRACT" };
                let message = format!("Can't {verb} to key {name} because its type is not LIST.");
                return Err(Refusal::InvalidConfig(message));
            }
            2 => ConfigOperation::Append { items: value()?, default: default_list(cx, image, scope, &name) },
            3 => {
                ConfigOperation::Subtract { items: value()?, default: default_list(cx, image, scope, &name) }
            }
            other => {
                return Err(Refusal::InvalidRequest(format!("operation {other} on configs is not known")));
            }
        };
        operations.push((name, operation));
    }
    let current = image.configs_of(&resource).cloned().unwrap_or_default();
    alteration::check(cx, image, &resource, &alteration::after(&current, &operations))?;
    Ok((resource, operations))
}

/// What a list is for a resource that has none of its own.
fn default_list(cx: &RequestContext, image: &Image, scope: Scope, name: &str) -> Option<String> {
    effective::inherited(&cx.broker.config, image, table::find(scope, name)?)
}
