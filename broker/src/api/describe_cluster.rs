//! DescribeCluster (key 60, versions 0 to 2, KIP-700): the brokers and what they are called.
//!
//! v1: the endpoint type (KIP-919): a broker answers about brokers only. v2: fenced brokers on request (KIP-1073).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId as WireBrokerId, DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;

use super::{Close, RequestContext, authorized_operations, metadata};

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub async fn handle(
    cx: RequestContext,
    request: DescribeClusterRequest,
) -> Result<DescribeClusterResponse, Close> {
    let image = cx.broker.metadata.image();
    let refused = |error: ResponseError, message: String| {
        Ok(DescribeClusterResponse::default()
            .with_error_code(error.code())
            .with_error_message(Some(StrBytes::from_string(message)))
            .with_endpoint_type(request.endpoint_type))
    };
    match request.endpoint_type {
        BROKERS => {}
        CONTROLLERS => {
            return refused(
                ResponseError::MismatchedEndpointType,
                "this is an endpoint of a broker; ask a controller about controllers".into(),
            );
        }
        other => {
            return refused(
                ResponseError::UnsupportedEndpointType,
                format!("endpoint type {other} is not known"),
            );
        }
    }
    let brokers = image
        .brokers
        .values()
        .filter(|broker| !broker.fenced || (cx.api_version >= 2 && request.include_fenced_brokers))
        .filter_map(|broker| {
            let endpoint = broker.endpoint(&cx.connection.listener)?;
            Some(
                DescribeClusterBroker::default()
                    .with_broker_id(WireBrokerId(broker.id.0))
                    .with_host(StrBytes::from_string(endpoint.host.to_string()))
                    .with_port(endpoint.port.into())
                    .with_rack(broker.rack.as_deref().map(|rack| StrBytes::from_string(rack.to_owned())))
                    .with_is_fenced(broker.fenced),
            )
        })
        .collect();
    Ok(DescribeClusterResponse::default()
        .with_error_message(None)
        .with_endpoint_type(request.endpoint_type)
        .with_cluster_id(StrBytes::from_string(image.cluster_id.to_string()))
        .with_controller_id(metadata::controller(&cx, &image))
        .with_brokers(brokers)
        .with_cluster_authorized_operations(authorized_operations::of_cluster(
            request.include_cluster_authorized_operations,
        )))
}
