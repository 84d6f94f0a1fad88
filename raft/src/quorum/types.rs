//! openraft's type parameters, and what one entry of the metadata log carries.

use std::fmt;

use openraft::impls::leader_id_std;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::runtime::MetadataRuntime;
use crate::metadata::records::Record;

openraft::declare_raft_types!(
    /// One leader per Raft epoch (`leader_id_std`), as Kafka's clients expect of a leader epoch.
    pub MetadataRaft:
        D = Change,
        R = Applied,
        NodeId = u64,
        Node = Member,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = MetadataRuntime,
);

/// A voter or observer, as the membership in the log has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Where its peers reach it.
    pub address: String,
    /// Of the metadata directory that counts for this id; nil for a voter of the first membership that was not heard of yet.
    pub directory_id: Uuid,
}

pub type Raft = openraft::Raft<MetadataRaft, super::state_machine::StateMachine>;
pub type LogId = openraft::alias::LogIdOf<MetadataRaft>;
pub type Entry = openraft::alias::EntryOf<MetadataRaft>;
pub type Vote = openraft::alias::VoteOf<MetadataRaft>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<MetadataRaft>;
pub type Membership = openraft::Membership<u64, Member>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<MetadataRaft>;
pub type Snapshot = openraft::alias::SnapshotOf<MetadataRaft, bytes::Bytes>;

/// The records of the requests that were decided together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The Raft epoch of the controller that decided. Its image may be outdated in any later epoch, so the entry is void
    /// unless it was appended in this one.
    pub decided_in: u64,
    pub records: Vec<Record>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} record(s) decided in epoch {}", self.records.len(), self.decided_in)
    }
}

/// What applying an entry tells the controller that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// False if the entry was void.
    pub accepted: bool,
}

pub fn log_id(epoch: u64, offset: u64) -> LogId {
    LogId::new(epoch.into(), offset)
}
