//! ListConfigResources (key 74, versions 0 and 1): names of what has a configuration.
//!
//! v0 is ListClientMetricsResources (KIP-714). v1: any types of resources, all of them when none is given (KIP-1142).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::list_config_resources_response::ConfigResource as Listed;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::{ConfigResourceType, Image};

use super::alteration::ResourceType;
use super::{Close, RequestContext};

pub async fn handle(
    cx: RequestContext,
    request: ListConfigResourcesRequest,
) -> Result<ListConfigResourcesResponse, Close> {
    let image = cx.broker.metadata.image();
    let kinds: Vec<ResourceType> = if cx.api_version == 0 {
        vec![ResourceType::ClientMetrics]
    } else if request.resource_types.is_empty() {
        ResourceType::ALL.to_vec()
    } else {
        let known = request.resource_types.iter().map(|number| ResourceType::of(*number));
        match known.collect::<Result<Vec<_>, _>>() {
            Ok(mut kinds) => {
                kinds.sort_by_key(|kind| kind.number());
                kinds.dedup();
                kinds
            }
            Err(_) => {
                return Ok(ListConfigResourcesResponse::default()
                    .with_error_code(ResponseError::UnsupportedVersion.code()));
            }
        }
    };
    let mut listed = Vec::new();
    for kind in kinds {
        listed.extend(names(&image, kind).into_iter().map(|name| {
            Listed::default()
                .with_resource_name(StrBytes::from_string(name))
                .with_resource_type(kind.number())
        }));
    }
    Ok(ListConfigResourcesResponse::default().with_config_resources(listed))
}

fn names(image: &Image, kind: ResourceType) -> Vec<String> {
    let configured = |wanted: ConfigResourceType| {
        let resources = image.configs.keys().filter(|resource| resource.kind == wanted);
        resources.map(|resource| resource.name.to_string()).collect()
    };
    match kind {
        ResourceType::Topic => image.topic_names.keys().map(|name| name.to_string()).collect(),
        ResourceType::Broker | ResourceType::BrokerLogger => {
            image.brokers.keys().map(|id| id.to_string()).collect()
        }
        ResourceType::ClientMetrics => configured(ConfigResourceType::ClientMetrics),
        ResourceType::Group => configured(ConfigResourceType::Group),
    }
}
