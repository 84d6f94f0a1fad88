//! What nodes say to each other: an envelope that tells who speaks to whom, around one call or its answer.
//!
//! Encoded as what is stored is (`encoding`): fields have names, unknown ones are skipped and new ones have defaults, so
//! neighbouring releases understand each other. A call that a release does not know is refused by name.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::encoding::{StoredLogId, StoredVote};
use super::{QuorumInfo, QuorumRole, SubmitError, VoterChangeError};
use crate::metadata::ids::{BrokerId, ClusterId};
use crate::requests::{Request, Response};

/// Raised when a call changes its meaning; a node refuses what is older than it can still read.
pub const RPC_VERSION: u16 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    pub version: u16,
    /// `None` before the sender has heard of its cluster's first controller.
    pub cluster_id: Option<ClusterId>,
    pub from: u64,
    pub from_directory: Uuid,
    /// `None` while only an address is known.
    #[serde(default)]
    pub to: Option<u64>,
    /// The directory that the sender takes the receiver's data to lie in. A receiver with another one has lost that data, so
    /// nothing that it would say counts.
    #[serde(default)]
    pub to_directory: Option<Uuid>,
    pub body: T,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Call {
    /// Who are you, and what do you know of the cluster and of me? Answered in every state.
    Probe(Probe),
    /// I follow the log from here, or I moved: write me into the membership. To the active controller.
    Join(Join),
    Append(Append),
    PreVote(Ballot),
    Vote(Ballot),
    Snapshot(SnapshotPiece),
    TransferLeader(TransferLeader),
    Submit(Request),
    /// What must be applied to know everything that is committed now? To the active controller.
    CatchUp,
    AddVoter(VoterKey),
    RemoveVoter(VoterKey),
    /// Of the key only the id counts.
    UnregisterController(VoterKey),
    Describe,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Probe(Probed),
    Join(Result<(), JoinRefused>),
    Append(Appended),
    Ballot(BallotAnswer),
    Snapshot(SnapshotAnswer),
    TransferLeader(Result<(), String>),
    Submit(Result<Submitted, SubmitError>),
    CatchUp(Result<u64, SubmitError>),
    ChangeVoters(Result<(), VoterChangeError>),
    Describe(Result<QuorumInfo, SubmitError>),
}

/// Why a call was not looked at. Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Denied {
    #[error("it belongs to cluster {0}")]
    OtherCluster(ClusterId),
    #[error("it is node {0}")]
    OtherNode(u64),
    #[error("its metadata directory is {0}, not the one that the quorum knows")]
    OtherDirectory(Uuid),
    #[error("it is not ready: {0}")]
    NotReady(String),
    #[error("it speaks version {speaks} of the protocol between nodes and not {asked}")]
    Version { speaks: u16, asked: u16 },
}

pub type Reply = Result<Answer, Denied>;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// The asker's `controller.quorum.voters`.
    pub voters: Vec<(BrokerId, String)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probed {
    /// The answering process. Nil from a release that did not say.
    #[serde(default)]
    pub process: Uuid,
    pub role: QuorumRole,
    pub state: ProbedState,
    /// Whether its cluster has a name, that is, has been founded.
    pub is_named: bool,
    /// The answerer's `controller.quorum.voters`.
    pub voters: Vec<(BrokerId, String)>,
    /// Id and address of the active controller, if one is known.
    pub leader: Option<(u64, String)>,
    /// The asker, if the answerer's membership has it.
    pub you: Option<ProbedMember>,
    /// What the asker has said to the answerer, as far as that remembers.
    pub promised: Promised,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbedState {
    /// It holds nothing.
    Empty,
    /// It holds a membership; the cluster may have no name yet.
    Member,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbedMember {
    /// Empty from a release that did not say.
    #[serde(default)]
    pub address: String,
    pub directory_id: Uuid,
    pub is_voter: bool,
}

/// What a node acknowledged durably; if its disk knows less, it is an old copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    /// The newest epoch in which it voted.
    pub epoch: u64,
    /// The last entry that it acknowledged to this leader.
    pub last: Option<StoredLogId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Join {
    pub address: String,
    /// Nil from a release that did not say.
    #[serde(default)]
    pub process: Uuid,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefused {
    #[error("it is not the active controller")]
    NotController { leader: Option<(u64, String)> },
    /// The asker must not start.
    #[error("{0}")]
    Never(String),
    /// Asking again may help.
    #[error("{0}")]
    NotNow(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Append {
    pub vote: StoredVote,
    pub previous: Option<StoredLogId>,
    /// Each a `StoredEntry` as it is stored.
    pub entries: Vec<Bytes>,
    pub committed: Option<StoredLogId>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Appended {
    /// The whole call.
    Success,
    Conflict,
    HigherVote(StoredVote),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ballot {
    pub vote: StoredVote,
    pub last: Option<StoredLogId>,
    pub leadership_transfer: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct BallotAnswer {
    pub vote: StoredVote,
    pub granted: bool,
    pub last: Option<StoredLogId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotPiece {
    pub vote: StoredVote,
    /// Of all pieces together.
    pub length: u64,
    pub crc: u32,
    pub offset: u64,
    pub bytes: Bytes,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum SnapshotAnswer {
    /// The next piece, please.
    More,
    /// This piece does not follow what is here: begin again.
    Restart,
    Installed(StoredVote),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TransferLeader {
    pub vote: StoredVote,
    pub to: u64,
    pub last: Option<StoredLogId>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submitted {
    pub response: Response,
    /// An image up to this offset shows what was done.
    pub visible_at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VoterKey {
    pub id: BrokerId,
    pub directory_id: Uuid,
    /// Empty where it does not matter.
    pub address: String,
}
