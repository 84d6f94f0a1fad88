//! Kafka's APIs: one file per API, one row of [`table`] per API.
//!
//! A handler is `pub async fn handle(cx: RequestContext, request: XRequest) -> Result<XResponse, Close>`. A Kafka error
//! is part of the response; the only `Err` of a handler closes the connection. Handlers never touch sockets: they
//! return a [`Reply`], which `net` writes in the order of the requests.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use kafka_protocol::protocol::StrBytes;

use crate::net::turns::Turn;
use crate::node::Broker;

pub mod add_raft_voter;
#[cfg(test)]
mod admin_tests;
pub mod alter_configs;
pub mod alter_partition_reassignments;
pub mod alter_replica_log_dirs;
mod alteration;
pub mod api_versions;
pub mod authorized_operations;
pub mod auto_create;
#[cfg(test)]
mod cluster_tests;
pub mod create_partitions;
pub mod create_topics;
pub mod current_leader;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_quorum;
pub mod describe_topic_partitions;
pub mod elect_leaders;
pub mod fetch;
mod fetch_replica;
mod fetch_response;
mod fetch_tier;
pub mod find_coordinator;
#[cfg(test)]
mod group_tests;
pub mod group_values;
pub mod guard;
pub mod heartbeat;
#[cfg(test)]
pub(crate) mod in_test;
pub mod incremental_alter_configs;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod metadata;
pub mod newer;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
#[cfg(test)]
mod partition_tests;
mod pending_elections;
pub mod produce;
pub mod produce_frame;
pub mod remove_raft_voter;
pub mod splice;
pub mod sync_group;
pub mod table;
pub mod topic_id_frames;
mod topic_listing;
pub mod unregister_broker;
pub mod unregister_controller;
pub mod update_features;

/// What a handler may know about the request it answers, beyond its body. Cheap to clone.
#[derive(Clone)]
pub struct RequestContext {
    pub broker: Arc<Broker>,
    pub connection: Arc<Connection>,
    pub api_version: i16,
    pub correlation_id: i32,
    /// `client.id` of the request header.
    pub client_id: Option<StrBytes>,
    /// Comes when everything that the client asked before on its connection is answered.
    pub turn: Turn,
}

#[cfg(test)]
impl RequestContext {
    /// A request that no socket brought.
    pub fn in_test(broker: &Arc<Broker>, api_version: i16, client_id: Option<StrBytes>) -> RequestContext {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let connection = Connection {
            id: 1,
            peer: address,
            listener: "PLAINTEXT".to_owned(),
            role: ListenerRole::Broker,
            local: address,
            software: parking_lot::Mutex::default(),
        };
        let broker = Arc::clone(broker);
        RequestContext {
            broker,
            connection: Arc::new(connection),
            api_version,
            correlation_id: 1,
            client_id,
            turn: Turn::default(),
        }
    }
}

/// What a listener gives access to: partitions and groups, or the controllers (`controller.listener.names`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerRole {
    Broker,
    Controller,
}

/// What stays the same for all requests of one connection.
#[derive(Debug)]
pub struct Connection {
    pub id: u64,
    pub peer: SocketAddr,
    /// Name of the listener (as in `listeners`) that accepted the connection: clients are answered with the address
    /// advertised for this one.
    pub listener: String,
    pub role: ListenerRole,
    pub local: SocketAddr,
    /// From ApiVersions v3+ (KIP-511): client software name and version.
    pub software: parking_lot::Mutex<Option<(StrBytes, StrBytes)>>,
}

/// Close the connection: the request cannot be answered. The reason goes into one log line.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Close {
    pub reason: String,
}

impl Close {
    pub fn new(reason: impl Into<String>) -> Close {
        Close { reason: reason.into() }
    }
}

/// A response on its way to the socket: the encoded body without frame length and response header.
#[derive(Default)]
pub struct Reply {
    pub parts: Vec<Part>,
}

/// A piece of a reply. File parts go to the socket without passing through this process (`sendfile`).
pub enum Part {
    Bytes(Bytes),
    Slice(ottla_storage::log::LogSlice),
}

/// What became of a request after its first stage, which runs before the connection takes its next request.
pub enum Started {
    /// The next request of this connection starts only when this one is answered.
    Serial(BoxFuture<'static, Result<Reply, Close>>),
    /// Everything whose order matters has happened; later requests may start while this one waits.
    Pipelined(BoxFuture<'static, Result<Reply, Close>>),
    /// Nothing is sent (a produce with acks=0).
    Silent,
}
