//! The way to the other controllers. There is none yet: a quorum has one voter, and every peer is unreachable, which is
//! also what openraft is told, so that a misconfigured second voter stalls the quorum instead of splitting it.

use std::future::Future;

use bytes::Bytes;
use openraft::AnyError;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::types::{MetadataRaft, Snapshot, Vote};

pub struct Network;

pub struct Peer {
    target: u64,
    address: String,
}

impl Peer {
    fn unreachable(&self) -> Unreachable<MetadataRaft> {
        Unreachable::new(&AnyError::error(format!(
            "controller {} at {}: connections between controllers are not built",
            self.target, self.address
        )))
    }
}

impl RaftNetworkFactory<MetadataRaft> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        Peer { target, address: node.addr.clone() }
    }
}

impl RaftNetworkV2<MetadataRaft> for Peer {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<MetadataRaft>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<MetadataRaft>, RPCError<MetadataRaft>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<MetadataRaft>,
        _option: RPCOption,
    ) -> Result<VoteResponse<MetadataRaft>, RPCError<MetadataRaft>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    /// Without this openraft takes a peer that it cannot ask for one that agrees.
    async fn pre_vote(
        &mut self,
        _rpc: VoteRequest<MetadataRaft>,
        _option: RPCOption,
    ) -> Result<VoteResponse<MetadataRaft>, RPCError<MetadataRaft>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot,
        _cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<MetadataRaft>, StreamingError<MetadataRaft>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }

    async fn transfer_leader(
        &mut self,
        _request: TransferLeaderRequest<MetadataRaft>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<MetadataRaft>, RPCError<MetadataRaft>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }
}
