//! openraft's calls to its peers, over `Links`.
//!
//! What is long is cut: log entries into calls of about a mebibyte, snapshots into pieces. A voter whose directory is not
//! known takes part only until the cluster has its name: what it acknowledges later could be lost with its directory, and
//! nobody would notice (`founding`).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use openraft::AnyError;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::encoding::{StoredEntry, StoredLogId, StoredVote, encode};
use super::links::{CallError, Links, Peer};
use super::messages::{
    Answer, Append, Appended, Ballot, BallotAnswer, Call, SnapshotAnswer, SnapshotPiece, TransferLeader,
};
use super::room::Room;
use super::transport::{Lane, TransportError};
use super::types::{LogId, Member, MetadataRaft, Snapshot, Vote};

/// Entries of one call; a single larger one goes alone.
const APPEND_BYTES: usize = 1 << 20;
/// A call with entries waits for the peer's disk; openraft's own limit is that of a heartbeat.
const APPEND_LIMIT: Duration = Duration::from_secs(1);
const SNAPSHOT_PIECE_BYTES: usize = 512 << 10;
const SNAPSHOT_PIECE_LIMIT: Duration = Duration::from_secs(2);
/// The last piece waits until the snapshot is on the peer's disk and its image is built. A simulated network does not repeat what
/// it loses, nor end the connection; and its snapshots are small.
const SNAPSHOT_INSTALL_LIMIT: Duration = Duration::from_secs(if cfg!(ottla_sim) { 4 } else { 30 });
/// Tries of one snapshot that a peer asks to begin anew.
const SNAPSHOT_RESTARTS_MAX: u32 = 3;
/// Between tries of an unreachable peer.
const BACKOFF: Duration = Duration::from_millis(200);

pub struct Network {
    pub links: Arc<Links>,
    pub room: Arc<Room>,
}

/// The way to one peer.
pub struct PeerNetwork {
    links: Arc<Links>,
    room: Arc<Room>,
    id: u64,
    /// As it was when this was made; the membership may know better by now.
    member: Member,
}

impl RaftNetworkFactory<MetadataRaft> for Network {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        PeerNetwork { links: self.links.clone(), room: self.room.clone(), id: target, member: node.clone() }
    }
}

impl PeerNetwork {
    async fn call(&self, lane: Lane, call: Call, limit: Duration) -> Result<Answer, CallError> {
        let member = self.links.member(self.id).unwrap_or_else(|| self.member.clone());
        if member.directory_id.is_nil() && self.links.is_named() {
            let text = format!("voter {} has not told where its metadata lies", self.id);
            return Err(TransportError::Unreachable(text).into());
        }
        self.links.call(&Peer::member(self.id, &member), lane, call, limit).await
    }

    fn rpc_error(&self, error: CallError) -> RPCError<MetadataRaft> {
        tracing::debug!(peer = self.id, %error, "a call to a peer failed");
        match &error {
            CallError::Transport(TransportError::Closed(_) | TransportError::TimedOut(_)) => {
                RPCError::Network(NetworkError::new(&error))
            }
            _ => RPCError::Unreachable(Unreachable::new(&error)),
        }
    }

    fn unexpected(&self, answer: &Answer) -> CallError {
        CallError::WrongAnswer(format!("node {} answers another call: {answer:?}", self.id))
    }

    async fn ballot(&self, call: Call, option: RPCOption) -> Result<VoteResponse<MetadataRaft>, CallError> {
        match self.call(Lane::Raft, call, option.soft_ttl()).await? {
            Answer::Ballot(BallotAnswer { vote, granted, last }) => {
                Ok(VoteResponse::new(Vote::from(vote), last.map(LogId::from), granted))
            }
            other => Err(self.unexpected(&other)),
        }
    }

    /// One call with as many entries as it takes. What the peer acknowledged, if not all.
    async fn append(
        &self,
        rpc: AppendEntriesRequest<MetadataRaft>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<MetadataRaft>, CallError> {
        let vote = StoredVote::from(&rpc.vote);
        let previous = rpc.prev_log_id.as_ref().map(StoredLogId::from);
        let all = rpc.entries.len();
        let mut entries: Vec<Bytes> = Vec::with_capacity(all);
        let mut size = 0;
        let mut last = previous;
        for entry in rpc.entries {
            let bytes = encode(&StoredEntry::from(&entry))
                .map_err(|error| CallError::WrongAnswer(error.to_string()))?;
            if size > 0 && size + bytes.len() > APPEND_BYTES {
                break;
            }
            size += bytes.len();
            last = Some(StoredLogId::from(&entry.log_id));
            entries.push(bytes.into());
        }
        let is_whole = entries.len() == all;
        let limit = if all == 0 { option.soft_ttl() } else { option.soft_ttl().max(APPEND_LIMIT) };
        let committed = rpc.leader_commit.as_ref().map(StoredLogId::from);
        let call = Call::Append(Append { vote, previous, entries, committed });
        match self.call(Lane::Raft, call, limit).await? {
            Answer::Append(Appended::Success) => {
                self.links.note_acknowledged(self.id, vote.epoch, last);
                Ok(match is_whole {
                    true => AppendEntriesResponse::Success,
                    false => AppendEntriesResponse::PartialSuccess(last.map(LogId::from)),
                })
            }
            Answer::Append(Appended::HigherVote(vote)) => {
                Ok(AppendEntriesResponse::HigherVote(Vote::from(vote)))
            }
            Answer::Append(Appended::Conflict) => {
                // It does not have what it said it has: openraft would take that for a bug of ours.
                let acknowledged = self.links.acknowledged(self.id, vote.epoch);
                if acknowledged.is_some_and(|acknowledged| previous <= Some(acknowledged)) {
                    tracing::error!(
                        node = self.id,
                        "a node has lost metadata that it had acknowledged: its directory is an old copy. It gets no more \
                         entries. Stop it, remove it from the voters, delete its metadata directory, start it and add it again"
                    );
                    let text = "it lost entries that it had acknowledged".into();
                    return Err(TransportError::Rejected(text).into());
                }
                Ok(AppendEntriesResponse::Conflict)
            }
            other => Err(self.unexpected(&other)),
        }
    }

    async fn send_snapshot(&self, vote: StoredVote, bytes: Bytes) -> Result<StoredVote, CallError> {
        let length = bytes.len() as u64;
        let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &bytes) as u32;
        let mut restarts = 0;
        let mut offset = 0;
        loop {
            let end = (offset + SNAPSHOT_PIECE_BYTES).min(bytes.len());
            let limit = if end == bytes.len() { SNAPSHOT_INSTALL_LIMIT } else { SNAPSHOT_PIECE_LIMIT };
            let piece = bytes.slice(offset..end);
            let call = SnapshotPiece { vote, length, crc, offset: offset as u64, bytes: piece };
            match self.call(Lane::Snapshot, Call::Snapshot(call), limit).await? {
                Answer::Snapshot(SnapshotAnswer::More) if end < bytes.len() => offset = end,
                Answer::Snapshot(SnapshotAnswer::Installed(vote)) => return Ok(vote),
                Answer::Snapshot(SnapshotAnswer::Restart) if restarts < SNAPSHOT_RESTARTS_MAX => {
                    restarts += 1;
                    offset = 0;
                }
                other => return Err(self.unexpected(&other)),
            }
        }
    }
}

impl RaftNetworkV2<MetadataRaft> for PeerNetwork {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<MetadataRaft>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<MetadataRaft>, RPCError<MetadataRaft>> {
        self.append(rpc, option).await.map_err(|error| self.rpc_error(error))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<MetadataRaft>,
        option: RPCOption,
    ) -> Result<VoteResponse<MetadataRaft>, RPCError<MetadataRaft>> {
        let ballot = to_ballot(&rpc);
        let response =
            self.ballot(Call::Vote(ballot), option).await.map_err(|error| self.rpc_error(error))?;
        self.links.note_voted(self.id, StoredVote::from(&response.vote).epoch);
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<MetadataRaft>,
        option: RPCOption,
    ) -> Result<VoteResponse<MetadataRaft>, RPCError<MetadataRaft>> {
        // Who finds a majority votes for itself next, and that is a write.
        self.room.for_vote().await.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
        let ballot = to_ballot(&rpc);
        self.ballot(Call::PreVote(ballot), option).await.map_err(|error| self.rpc_error(error))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<MetadataRaft>, StreamingError<MetadataRaft>> {
        let sending = self.send_snapshot(StoredVote::from(&vote), snapshot.snapshot);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = sending => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(Vote::from(vote))),
                Err(error) => Err(match self.rpc_error(error) {
                    RPCError::Network(error) => StreamingError::Network(error),
                    RPCError::Unreachable(error) => StreamingError::Unreachable(error),
                    other => StreamingError::Network(NetworkError::new(&AnyError::error(other))),
                }),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<MetadataRaft>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<MetadataRaft>, RPCError<MetadataRaft>> {
        let call = TransferLeader {
            vote: StoredVote::from(request.from_leader()),
            to: *request.to_node_id(),
            last: request.last_log_id().map(StoredLogId::from),
        };
        let answered = self.call(Lane::Raft, Call::TransferLeader(call), option.soft_ttl()).await;
        match answered.map_err(|error| self.rpc_error(error))? {
            Answer::TransferLeader(Ok(())) => Ok(Ok(())),
            Answer::TransferLeader(Err(refused)) => {
                Err(self.rpc_error(TransportError::Rejected(refused).into()))
            }
            other => Err(self.rpc_error(self.unexpected(&other))),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}

fn to_ballot(rpc: &VoteRequest<MetadataRaft>) -> Ballot {
    Ballot {
        vote: StoredVote::from(&rpc.vote),
        last: rpc.last_log_id.as_ref().map(StoredLogId::from),
        leadership_transfer: rpc.leadership_transfer,
    }
}
