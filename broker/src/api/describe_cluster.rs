//! DescribeCluster (key 60, versions 0 to 2, KIP-700): the nodes of the cluster and where they are reached.
//!
//! v1: the endpoint type (KIP-919): a listener of brokers tells of brokers only, one of controllers of controllers, which
//! are the voters of the quorum. v2: fenced brokers on request (KIP-1073).

use kafka_protocol::ResponseError;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::{BrokerId as WireBrokerId, DescribeClusterRequest, DescribeClusterResponse};
use kafka_protocol::protocol::StrBytes;
use ottla_raft::{Image, QuorumInfo, VoterInfo};

use super::{Close, ListenerRole, RequestContext, authorized_operations, metadata};

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
    let (nodes, controller_id) = match (request.endpoint_type, cx.connection.role) {
        (BROKERS, ListenerRole::Broker) => {
            let include_fenced = cx.api_version >= 2 && request.include_fenced_brokers;
            (brokers(&image, &cx.connection.listener, include_fenced), metadata::controller(&cx, &image))
        }
        (CONTROLLERS, ListenerRole::Controller) => {
            let quorum = cx.broker.metadata.quorum();
            (controllers(&quorum), WireBrokerId(quorum.leader.map_or(-1, |id| id.0)))
        }
        (BROKERS | CONTROLLERS, role) => {
            let (here, there) = match role {
                ListenerRole::Broker => ("brokers", "controllers"),
                ListenerRole::Controller => ("controllers", "brokers"),
            };
            let message = format!("this is a listener of {here}; ask one of {there} about {there}");
            return refused(ResponseError::MismatchedEndpointType, message);
        }
        (other, _) => {
            return refused(
                ResponseError::UnsupportedEndpointType,
                format!("endpoint type {other} is not known"),
            );
        }
    };
    Ok(DescribeClusterResponse::default()
        .with_error_message(None)
        .with_endpoint_type(request.endpoint_type)
        .with_cluster_id(StrBytes::from_string(image.cluster_id.to_string()))
        .with_controller_id(controller_id)
        .with_brokers(nodes)
        .with_cluster_authorized_operations(authorized_operations::of_cluster(
            request.include_cluster_authorized_operations,
        )))
}

fn brokers(image: &Image, listener: &str, include_fenced: bool) -> Vec<DescribeClusterBroker> {
    image
        .brokers
        .values()
        .filter(|broker| !broker.fenced || include_fenced)
        .filter_map(|broker| {
            let endpoint = broker.endpoint(listener)?;
            Some(
                DescribeClusterBroker::default()
                    .with_broker_id(WireBrokerId(broker.id.0))
                    .with_host(StrBytes::from_string(endpoint.host.to_string()))
                    .with_port(endpoint.port.into())
                    .with_rack(broker.rack.as_deref().map(|rack| StrBytes::from_string(rack.to_owned())))
                    .with_is_fenced(broker.fenced),
            )
        })
        .collect()
}

fn controllers(quorum: &QuorumInfo) -> Vec<DescribeClusterBroker> {
    let controller = |voter: &VoterInfo| {
        let (host, port) = split_address(quorum.addresses.get(&voter.id)?)?;
        let node = DescribeClusterBroker::default().with_broker_id(WireBrokerId(voter.id.0));
        Some(node.with_host(StrBytes::from_string(host.to_owned())).with_port(port.into()).with_rack(None))
    };
    quorum.voters.iter().filter_map(controller).collect()
}

/// `host:port`, the host of an IPv6 address without its brackets.
pub(super) fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host, port.parse().ok()?))
}
