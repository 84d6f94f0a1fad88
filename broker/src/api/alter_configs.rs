//! AlterConfigs (key 33, versions 0 to 2): the old way, in which what is given replaces everything that was set for a
//! resource. The versions differ in form only.

use kafka_protocol::messages::alter_configs_request::AlterConfigsResource;
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};
use ottla_raft::metadata::image::Configs;
use ottla_raft::requests::AlterConfigs;
use ottla_raft::{ConfigResource, Image};

use super::alteration::{self, Asked};
use super::{Close, RequestContext};
use crate::config::alter::Refusal;

pub async fn handle(cx: RequestContext, request: AlterConfigsRequest) -> Result<AlterConfigsResponse, Close> {
    let image = cx.broker.metadata.image();
    let asked = request.resources.iter().map(|asked| Asked {
        kind: asked.resource_type,
        name: asked.resource_name.clone(),
        change: prepare(&cx, &image, asked),
    });
    let (asked, validate_only) = (asked.collect(), request.validate_only);
    let outcomes =
        alteration::alter(&cx, asked, validate_only, |resources| AlterConfigs { resources, validate_only })
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
    Ok(AlterConfigsResponse::default().with_responses(responses))
}

fn prepare(
    cx: &RequestContext,
    image: &Image,
    asked: &AlterConfigsResource,
) -> Result<(ConfigResource, Vec<(String, String)>), Refusal> {
    let resource = alteration::resource(cx, asked.resource_type, &asked.resource_name)?;
    let mut after = Configs::new();
    let mut entries = Vec::with_capacity(asked.configs.len());
    for config in &asked.configs {
        let Some(value) = &config.value else {
            return Err(Refusal::InvalidRequest(format!("Null value not supported for : {}", config.name)));
        };
        if after.insert((*config.name).into(), (**value).into()).is_some() {
            return Err(Refusal::InvalidRequest("Error due to duplicate config keys".into()));
        }
        entries.push((config.name.to_string(), value.to_string()));
    }
    alteration::check(cx, image, &resource, &after)?;
    Ok((resource, entries))
}
