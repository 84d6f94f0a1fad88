//! What this node answers its peers. Checks first that the call is meant for this node, its cluster and its directory; what
//! comes from a socket is bounded by the caller's frames and by what is kept here of an unfinished snapshot.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use crc_fast::CrcAlgorithm;
use openraft::EntryPayload;
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use parking_lot::{Mutex, RwLock};

use super::encoding::{DecodeError, StoredEntry, StoredLogId, StoredSnapshot, StoredVote, decode, encode};
use super::links::Links;
use super::messages::*;
use super::room::Room;
use super::transport::{PeerRefused, Serve};
use super::types::{Entry, LogId, MetadataRaft, Raft, Snapshot, SnapshotMeta, Vote};
use super::{Metadata, MetadataConfig};

/// The largest snapshot that is taken from a peer.
const SNAPSHOT_BYTES_MAX: u64 = 2 << 30;
/// No epoch and no offset is ever so high, Kafka's end here, and openraft can count on from it.
const COUNT_MAX: u64 = i64::MAX as u64;
/// Room that the first piece of a snapshot makes at once; the rest comes as the pieces do.
const SNAPSHOT_ROOM_AT_ONCE: u64 = 4 << 20;

pub struct Server {
    links: Arc<Links>,
    raft: Raft,
    room: Arc<Room>,
    role: super::QuorumRole,
    voters: Vec<(crate::metadata::ids::BrokerId, String)>,
    /// Whether the checks of the start are over, so that this node may take part.
    takes_part: RwLock<Result<(), String>>,
    /// Answers what is for the controller.
    metadata: RwLock<Option<Metadata>>,
    incoming: Mutex<Option<Incoming>>,
}

/// A snapshot of which not all pieces are here.
struct Incoming {
    from: u64,
    vote: StoredVote,
    length: u64,
    crc: u32,
    bytes: BytesMut,
}

enum Collected {
    Part,
    Whole(Bytes),
    /// Not what follows what is here.
    Stray,
}

impl Server {
    pub fn new(links: Arc<Links>, raft: Raft, room: Arc<Room>, config: &MetadataConfig) -> Arc<Server> {
        Arc::new(Server {
            links,
            raft,
            room,
            role: config.role,
            voters: config.voters.clone(),
            takes_part: RwLock::new(Err("it is starting".into())),
            metadata: RwLock::new(None),
            incoming: Mutex::new(None),
        })
    }

    /// From now on this node votes and follows.
    pub fn take_part(&self) {
        *self.takes_part.write() = Ok(());
    }

    /// From now on this node answers for the controller too.
    pub fn answer_for(&self, metadata: Metadata) {
        *self.metadata.write() = Some(metadata);
    }

    async fn reply(&self, envelope: Envelope<Call>) -> Reply {
        self.check(&envelope)?;
        match &envelope.body {
            Call::Append(call) => check_counts(Some(call.vote), [call.previous, call.committed])?,
            Call::PreVote(ballot) | Call::Vote(ballot) => check_counts(Some(ballot.vote), [ballot.last])?,
            Call::Snapshot(piece) => check_counts(Some(piece.vote), [])?,
            Call::TransferLeader(call) => check_counts(Some(call.vote), [call.last])?,
            Call::Probe(_)
            | Call::Submit(_)
            | Call::Join(_)
            | Call::CatchUp
            | Call::AddVoter(_)
            | Call::RemoveVoter(_)
            | Call::UnregisterController(_)
            | Call::Describe => {}
        }
        let from = (envelope.from, envelope.from_directory);
        match envelope.body {
            Call::Probe(_) => Ok(Answer::Probe(self.probed(from.0).await)),
            Call::Append(call) => {
                self.check_takes_part()?;
                self.append(call).await.map(Answer::Append)
            }
            Call::PreVote(ballot) => {
                self.check_takes_part()?;
                self.room.for_vote().await.map_err(no_room)?;
                let response = self.raft.pre_vote(to_request(&ballot)).await;
                response.map(|response| Answer::Ballot(to_answer(&response))).map_err(stopped)
            }
            Call::Vote(ballot) => {
                self.check_takes_part()?;
                self.room.for_vote().await.map_err(no_room)?;
                let response = self.raft.vote(to_request(&ballot)).await;
                response.map(|response| Answer::Ballot(to_answer(&response))).map_err(stopped)
            }
            Call::Snapshot(piece) => {
                self.check_takes_part()?;
                self.snapshot(from.0, piece).await.map(Answer::Snapshot)
            }
            Call::TransferLeader(call) => {
                self.check_takes_part()?;
                self.room.for_vote().await.map_err(no_room)?;
                let request =
                    TransferLeaderRequest::new(call.vote.into(), call.to, call.last.map(Into::into));
                let answered = self.raft.handle_transfer_leader(request).await.map_err(stopped)?;
                Ok(Answer::TransferLeader(answered.map_err(|error| error.to_string())))
            }
            Call::Submit(request) => Ok(Answer::Submit(self.metadata()?.submit_of_peer(from, request).await)),
            Call::Join(join) => Ok(Answer::Join(self.metadata()?.join_of_peer(from, join).await)),
            Call::CatchUp => Ok(Answer::CatchUp(self.metadata()?.committed_now().await)),
            Call::AddVoter(key) => Ok(Answer::ChangeVoters(self.metadata()?.add_voter_here(&key).await)),
            Call::RemoveVoter(key) => {
                Ok(Answer::ChangeVoters(self.metadata()?.remove_voter_here(&key).await))
            }
            Call::UnregisterController(key) => {
                Ok(Answer::ChangeVoters(self.metadata()?.unregister_controller_here(&key).await))
            }
            Call::Describe => Ok(Answer::Describe(self.metadata()?.describe_here().await)),
        }
    }

    fn check(&self, envelope: &Envelope<Call>) -> Result<(), Denied> {
        if envelope.version != RPC_VERSION {
            return Err(Denied::Version { speaks: RPC_VERSION, asked: envelope.version });
        }
        if envelope.to.is_some_and(|to| to != self.links.node_id) {
            return Err(Denied::OtherNode(self.links.node_id));
        }
        let mine = self.links.cluster_id();
        if let (Some(mine), Some(theirs)) = (&mine, &envelope.cluster_id)
            && mine != theirs
        {
            return Err(Denied::OtherCluster(mine.clone()));
        }
        if envelope.to_directory.is_some_and(|to| to != self.links.directory_id) {
            return Err(Denied::OtherDirectory(self.links.directory_id));
        }
        // Who does not know the cluster's name yet cannot know who its members are: only those who found it together may
        // speak so to each other.
        let speaks_of_log = matches!(
            envelope.body,
            Call::Append(_) | Call::PreVote(_) | Call::Vote(_) | Call::Snapshot(_) | Call::TransferLeader(_)
        );
        if speaks_of_log && envelope.to_directory.is_none() && self.links.is_named() {
            return Err(Denied::OtherDirectory(self.links.directory_id));
        }
        Ok(())
    }

    fn check_takes_part(&self) -> Result<(), Denied> {
        self.takes_part.read().clone().map_err(Denied::NotReady)
    }

    fn metadata(&self) -> Result<Metadata, Denied> {
        let metadata = self.metadata.read().clone();
        metadata.ok_or_else(|| Denied::NotReady("it is starting".into()))
    }

    async fn probed(&self, asker: u64) -> Probed {
        let is_member = self.raft.is_initialized().await.unwrap_or(true);
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let leader =
            metrics.current_leader.and_then(|id| Some((id, membership.get_node(&id)?.address.clone())));
        let you = membership.get_node(&asker).map(|member| ProbedMember {
            address: member.address.clone(),
            directory_id: member.directory_id,
            is_voter: membership.voter_ids().any(|id| id == asker),
        });
        // Only what counts in this epoch: a later leader may have had the rest taken back.
        let last = match metrics.state.is_leader() {
            true => self.links.acknowledged(asker, metrics.current_term),
            false => None,
        };
        let promised = Promised { epoch: self.links.contact(asker).promised.epoch, last };
        Probed {
            process: self.links.process,
            role: self.role,
            is_named: self.links.is_named(),
            state: if is_member { ProbedState::Member } else { ProbedState::Empty },
            voters: self.voters.clone(),
            leader,
            you,
            promised,
        }
    }

    async fn append(&self, call: Append) -> Result<Appended, Denied> {
        let mut entries: Vec<Entry> = Vec::with_capacity(call.entries.len());
        let malformed = |error: DecodeError| Denied::NotReady(format!("an entry cannot be read: {error}"));
        for bytes in &call.entries {
            let stored: StoredEntry = decode(bytes).map_err(malformed)?;
            entries.push(stored.to_entry().map_err(malformed)?);
        }
        // openraft takes it for granted that the entries are one piece.
        let first = call.previous.map_or(0, |previous| previous.offset + 1);
        for (expected, entry) in (first..).zip(&entries) {
            if entry.log_id.index != expected {
                return Err(Denied::NotReady("the entries are not one piece".into()));
            }
            check_counts(None, [Some(StoredLogId::from(&entry.log_id))])?;
            if matches!(&entry.payload, EntryPayload::Membership(membership) if membership.voter_ids().next().is_none())
            {
                return Err(Denied::NotReady("a membership without voters".into()));
            }
        }
        self.make_room(&call).await?;
        let request = AppendEntriesRequest::<MetadataRaft> {
            vote: call.vote.into(),
            prev_log_id: call.previous.map(LogId::from),
            entries,
            leader_commit: call.committed.map(LogId::from),
        };
        let response = self.raft.append_entries(request).await.map_err(stopped)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.links.note_leader(call.vote.node);
        }
        Ok(match response {
            AppendEntriesResponse::Success => Appended::Success,
            AppendEntriesResponse::Conflict => Appended::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Appended::HigherVote(StoredVote::from(&vote)),
            AppendEntriesResponse::PartialSuccess(_) => {
                return Err(Denied::NotReady("only a part was appended".into()));
            }
        })
    }

    /// A leader takes a node that has no room for one that lags. Its heartbeats need none.
    async fn make_room(&self, call: &Append) -> Result<(), Denied> {
        if !call.entries.is_empty() {
            let bytes = call.entries.iter().map(|entry| entry.len() as u64).sum();
            self.room.for_entries(bytes).await.map_err(no_room)?;
        } else if self.raft.metrics().borrow_watched().vote != call.vote.into() {
            self.room.for_vote().await.map_err(no_room)?;
        }
        Ok(())
    }

    async fn snapshot(&self, from: u64, piece: SnapshotPiece) -> Result<SnapshotAnswer, Denied> {
        let bytes = match self.collect(from, &piece)? {
            Collected::Whole(bytes) => bytes,
            Collected::Part => return Ok(SnapshotAnswer::More),
            Collected::Stray => return Ok(SnapshotAnswer::Restart),
        };
        let unreadable = |error: &dyn std::fmt::Display| Denied::NotReady(format!("the snapshot: {error}"));
        let stored: StoredSnapshot = decode(&bytes).map_err(|error| unreadable(&error))?;
        check_counts(None, [stored.last, stored.voters_at, Some(stored.image_at)])?;
        let last_membership = stored.membership().map_err(|error| unreadable(&error))?;
        let meta = SnapshotMeta { last_log_id: stored.last.map(LogId::from), last_membership };
        drop(stored);
        self.room.for_snapshot(bytes.len() as u64).await.map_err(no_room)?;
        let snapshot = Snapshot { meta, snapshot: bytes };
        let installed =
            self.raft.install_full_snapshot(piece.vote.into(), snapshot).await.map_err(stopped)?;
        Ok(SnapshotAnswer::Installed(StoredVote::from(&installed.vote)))
    }

    fn collect(&self, from: u64, piece: &SnapshotPiece) -> Result<Collected, Denied> {
        let mut incoming = self.incoming.lock();
        let end = piece.offset.checked_add(piece.bytes.len() as u64);
        if piece.length > SNAPSHOT_BYTES_MAX || end.is_none_or(|end| end > piece.length) {
            return Err(Denied::NotReady("a piece of a snapshot does not fit".into()));
        }
        if piece.offset == 0 {
            let room = piece.length.min(SNAPSHOT_ROOM_AT_ONCE) as usize;
            *incoming = Some(Incoming {
                from,
                vote: piece.vote,
                length: piece.length,
                crc: piece.crc,
                bytes: BytesMut::with_capacity(room),
            });
        }
        let follows = |held: &Incoming| {
            (held.from, held.vote, held.length, held.crc, held.bytes.len() as u64)
                == (from, piece.vote, piece.length, piece.crc, piece.offset)
        };
        let Some(held) = incoming.as_mut().filter(|held| follows(held)) else {
            *incoming = None;
            return Ok(Collected::Stray);
        };
        held.bytes.extend_from_slice(&piece.bytes);
        if (held.bytes.len() as u64) < held.length {
            return Ok(Collected::Part);
        }
        let bytes = std::mem::take(&mut held.bytes).freeze();
        *incoming = None;
        if crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &bytes) as u32 != piece.crc {
            return Ok(Collected::Stray);
        }
        Ok(Collected::Whole(bytes))
    }
}

impl Serve for Server {
    fn serve(
        self: Arc<Self>,
        request: Bytes,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Bytes, PeerRefused>> + Send>> {
        Box::pin(async move {
            let envelope: Envelope<Call> =
                decode(&request).map_err(|error| PeerRefused(format!("the request: {error}")))?;
            drop(request);
            let (to, to_directory) = (Some(envelope.from), Some(envelope.from_directory));
            let body = self.reply(envelope).await;
            let reply = Envelope {
                version: RPC_VERSION,
                cluster_id: self.links.cluster_id(),
                from: self.links.node_id,
                from_directory: self.links.directory_id,
                to,
                to_directory,
                body,
            };
            encode(&reply).map(Bytes::from).map_err(|error| PeerRefused(error.to_string()))
        })
    }
}

/// Whether there is an epoch and an offset after these.
fn check_counts<const N: usize>(
    vote: Option<StoredVote>,
    ids: [Option<StoredLogId>; N],
) -> Result<(), Denied> {
    let ids = ids.iter().flatten();
    let counts = ids.flat_map(|id| [id.epoch, id.offset]).chain(vote.map(|vote| vote.epoch));
    match counts.max() {
        Some(count) if count > COUNT_MAX => {
            Err(Denied::NotReady(format!("{count} is no epoch and no offset")))
        }
        Some(_) | None => Ok(()),
    }
}

fn stopped(error: impl std::fmt::Display) -> Denied {
    Denied::NotReady(format!("its quorum is stopped: {error}"))
}

fn no_room(error: std::io::Error) -> Denied {
    Denied::NotReady(format!("its disk has no room: {error}"))
}

fn to_request(ballot: &Ballot) -> VoteRequest<MetadataRaft> {
    let mut request = VoteRequest::new(Vote::from(ballot.vote), ballot.last.map(LogId::from));
    request.leadership_transfer = ballot.leadership_transfer;
    request
}

fn to_answer(response: &openraft::raft::VoteResponse<MetadataRaft>) -> BallotAnswer {
    BallotAnswer {
        vote: StoredVote::from(&response.vote),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(StoredLogId::from),
    }
}
