//! Who leads a partition that was asked of the wrong broker, and where that broker is (KIP-951): Produce v10+ and Fetch
//! v16+ tell it with the error, which spares the client a Metadata request.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::protocol::StrBytes;
use ottla_raft::{Broker, Image, Topic};

use super::RequestContext;

/// Leader and epoch of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CurrentLeader {
    pub leader_id: i32,
    pub leader_epoch: i32,
}

/// A broker's address on the listener of the connection that asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderEndpoint {
    pub node_id: i32,
    pub host: StrBytes,
    pub port: i32,
    pub rack: Option<StrBytes>,
}

/// Collects what one response has to tell.
pub struct CurrentLeaders {
    image: Arc<Image>,
    listener: String,
    endpoints: BTreeMap<i32, LeaderEndpoint>,
}

impl CurrentLeaders {
    pub fn new(cx: &RequestContext) -> CurrentLeaders {
        CurrentLeaders {
            image: cx.broker.metadata.image(),
            listener: cx.connection.listener.clone(),
            endpoints: BTreeMap::new(),
        }
    }

    /// Whether an error is one that a client overcomes by knowing the leader.
    pub fn helps_with(error_code: i16) -> bool {
        error_code == ResponseError::NotLeaderOrFollower.code()
            || error_code == ResponseError::FencedLeaderEpoch.code()
    }

    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// The leader of a partition, whose address then is among the endpoints.
    pub fn find(&mut self, topic: Option<&Topic>, partition: i32) -> Option<CurrentLeader> {
        let state = topic?.partition(partition)?;
        let leader = state.leader?;
        // A leader that is away is named without an address: the client asks for metadata until another one leads.
        if let Some(broker) = self.image.broker(leader).filter(|broker| !broker.fenced).cloned() {
            self.add_endpoint(&broker);
        }
        Some(CurrentLeader { leader_id: leader.0, leader_epoch: state.leader_epoch.0 })
    }

    fn add_endpoint(&mut self, broker: &Broker) {
        let Some(endpoint) = broker.endpoint(&self.listener) else { return };
        self.endpoints.insert(
            broker.id.0,
            LeaderEndpoint {
                node_id: broker.id.0,
                host: StrBytes::from_string(endpoint.host.to_string()),
                port: i32::from(endpoint.port),
                rack: broker.rack.as_ref().map(|rack| StrBytes::from_string(rack.to_string())),
            },
        );
    }

    pub fn into_endpoints(self) -> impl Iterator<Item = LeaderEndpoint> {
        self.endpoints.into_values()
    }
}
