//! How log entries, votes and snapshots are stored: one byte with the format's version, then MessagePack with field
//! names. Unknown fields are skipped and new fields have defaults, so neighbouring releases read each other's data; an
//! unknown format or kind of record is an error that names it. The stored types are our own, so that the data does not
//! depend on how a release of openraft spells its types.

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::types::{Change, Entry, LogId, Member, Membership, StoredMembership, Vote, log_id};
use crate::metadata::ids::ClusterId;
use crate::metadata::records::Record;

pub const FORMAT: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("it is empty")]
    Empty,
    #[error("it is stored in format {0}, this release knows format {FORMAT}")]
    UnknownFormat(u8),
    #[error("it cannot be decoded: {0}")]
    Malformed(String),
}

pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, std::io::Error> {
    let mut bytes = vec![FORMAT];
    rmp_serde::encode::write_named(&mut bytes, value).map_err(std::io::Error::other)?;
    Ok(bytes)
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.split_first() {
        None => Err(DecodeError::Empty),
        Some((&FORMAT, rest)) => {
            rmp_serde::from_slice(rest).map_err(|error| DecodeError::Malformed(error.to_string()))
        }
        Some((&other, _)) => Err(DecodeError::UnknownFormat(other)),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StoredLogId {
    pub epoch: u64,
    pub offset: u64,
}

impl From<&LogId> for StoredLogId {
    fn from(id: &LogId) -> StoredLogId {
        StoredLogId { epoch: id.leader_id.term, offset: id.index }
    }
}

impl From<StoredLogId> for LogId {
    fn from(id: StoredLogId) -> LogId {
        log_id(id.epoch, id.offset)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredEntry {
    pub epoch: u64,
    pub offset: u64,
    pub payload: StoredPayload,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum StoredPayload {
    /// A new leader's first entry.
    Blank,
    Records {
        decided_in: u64,
        records: Vec<Record>,
    },
    Voters(StoredVoters),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredVoters {
    /// One set, or two during a change (joint consensus).
    pub sets: Vec<BTreeSet<u64>>,
    /// Addresses of the voters and observers.
    pub nodes: BTreeMap<u64, String>,
    /// Their directory ids, where known.
    #[serde(default)]
    pub directories: BTreeMap<u64, Uuid>,
}

impl From<&Membership> for StoredVoters {
    fn from(membership: &Membership) -> StoredVoters {
        StoredVoters {
            sets: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.address.clone())).collect(),
            directories: membership
                .nodes()
                .filter(|(_, node)| !node.directory_id.is_nil())
                .map(|(id, node)| (*id, node.directory_id))
                .collect(),
        }
    }
}

impl StoredVoters {
    pub fn to_membership(&self) -> Result<Membership, DecodeError> {
        if self.sets.is_empty() && self.nodes.is_empty() {
            return Ok(Membership::default());
        }
        let member = |id: &u64, address: &String| Member {
            address: address.clone(),
            directory_id: self.directories.get(id).copied().unwrap_or_default(),
        };
        let nodes: BTreeMap<u64, Member> =
            self.nodes.iter().map(|(id, address)| (*id, member(id, address))).collect();
        Membership::new(self.sets.clone(), nodes).map_err(|error| DecodeError::Malformed(error.to_string()))
    }
}

impl From<&Entry> for StoredEntry {
    fn from(entry: &Entry) -> StoredEntry {
        StoredEntry {
            epoch: entry.log_id.leader_id.term,
            offset: entry.log_id.index,
            payload: match &entry.payload {
                EntryPayload::Blank => StoredPayload::Blank,
                EntryPayload::Normal(Change { decided_in, records }) => {
                    StoredPayload::Records { decided_in: *decided_in, records: records.clone() }
                }
                EntryPayload::Membership(membership) => StoredPayload::Voters(membership.into()),
            },
        }
    }
}

impl StoredEntry {
    pub fn to_entry(self) -> Result<Entry, DecodeError> {
        let payload = match self.payload {
            StoredPayload::Blank => EntryPayload::Blank,
            StoredPayload::Records { decided_in, records } => {
                EntryPayload::Normal(Change { decided_in, records })
            }
            StoredPayload::Voters(voters) => EntryPayload::Membership(voters.to_membership()?),
        };
        Ok(Entry::new(log_id(self.epoch, self.offset), payload))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredVote {
    pub epoch: u64,
    pub node: u64,
    /// A quorum granted it.
    pub committed: bool,
}

impl From<&Vote> for StoredVote {
    fn from(vote: &Vote) -> StoredVote {
        let leader = vote.leader_id();
        StoredVote { epoch: leader.term, node: leader.voted_for, committed: vote.is_committed() }
    }
}

impl From<StoredVote> for Vote {
    fn from(vote: StoredVote) -> Vote {
        if vote.committed {
            Vote::new_committed(vote.epoch, vote.node)
        } else {
            Vote::new(vote.epoch, vote.node)
        }
    }
}

/// A snapshot: the image as records, and the Raft state at its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoredSnapshot {
    pub cluster_id: ClusterId,
    pub last: Option<StoredLogId>,
    pub voters: StoredVoters,
    /// Where `voters` was written.
    pub voters_at: Option<StoredLogId>,
    /// `Image::last_offset` and `last_epoch`.
    pub image_at: StoredLogId,
    pub features_epoch: u64,
    pub records: Vec<Record>,
}

impl StoredSnapshot {
    pub fn membership(&self) -> Result<StoredMembership, DecodeError> {
        Ok(StoredMembership::new(self.voters_at.map(LogId::from), self.voters.to_membership()?))
    }
}
