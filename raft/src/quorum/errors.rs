//! Why the metadata does not start, and why it does not do what it is asked.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::metadata::ids::{BrokerId, ClusterId};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{path} holds the metadata of cluster {found}, but this node is to be part of cluster {expected}"
    )]
    OtherCluster { path: PathBuf, found: ClusterId, expected: ClusterId },
    #[error("{path} holds the metadata of node {found}, but this node's node.id is {expected}")]
    OtherNode { path: PathBuf, found: BrokerId, expected: BrokerId },
    #[error("{path} is in use by another process")]
    Locked { path: PathBuf },
    #[error("the metadata in {path} cannot be read: {reason}")]
    Corrupt { path: PathBuf, reason: String },
    #[error("cannot open the metadata in {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the metadata quorum does not start: {0}")]
    Quorum(String),
    #[error(
        "controller.quorum.voters is {mine} here, but {theirs} on node {peer}, and too few voters agree: it must be the same on all nodes"
    )]
    VotersDisagree { mine: String, peer: BrokerId, theirs: String },
    #[error(
        "this node belongs to cluster {mine}, but at {address}, which is configured as its quorum, is cluster {theirs}: either the \
         addresses or the directories are not this node's"
    )]
    PeersOfOtherCluster { mine: ClusterId, address: String, theirs: ClusterId },
    #[error(
        "{path} has vanished, but partitions lie in the log directories: without the metadata nobody knows whose they are. Restore it \
         (is metadata.log.dir right?), or move the partitions away to begin with an empty cluster"
    )]
    Vanished { path: PathBuf },
    /// The cluster's controller does not let this node in.
    #[error("this node is not admitted to the cluster: {0}")]
    NotAdmitted(String),
    #[error(
        "another node runs with node.id {node}, at {address}, on the same metadata directory: {path} is a copy. Stop the other one \
         first if this one is to take its place, or give this one a node.id and an empty directory of its own"
    )]
    Copied { node: BrokerId, address: String, path: PathBuf },
    #[error(
        "the metadata of node {node} in {path} is an old copy: node {peer} remembers that it {remembered}, but the copy \
         {held}. {}", what_to_do(*is_voter)
    )]
    OldCopy {
        node: BrokerId,
        path: PathBuf,
        peer: BrokerId,
        remembered: String,
        held: String,
        is_voter: bool,
    },
    #[error("{0}")]
    InvalidConfig(String),
}

/// With an old copy.
fn what_to_do(is_voter: bool) -> &'static str {
    if is_voter {
        "What it lost may have counted, so it must not take part: remove it from the voters (kafka-metadata-quorum remove-controller), \
         delete that directory, start this node, and add it again"
    } else {
        "Delete that directory and start this node again: it is no voter, and is given everything anew"
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SubmitError {
    /// Not the active controller; ask `leader` if known. Nothing was changed.
    #[error("this node is not the active controller")]
    NotController { leader: Option<BrokerId> },
    /// The leadership was lost while the change was on its way: it may or may not become part of the log.
    #[error("the controller lost its leadership; whether the change was made is not known")]
    OutcomeUnknown,
    /// Too many requests wait, or this one is larger than one log entry may be. Nothing was changed.
    #[error("the controller cannot take this request: {0}")]
    Refused(String),
    /// The disk of the metadata log is too full for what makes the metadata grow. Nothing was changed; it is taken again
    /// when there is room.
    #[error("the controller's disk cannot take this change: {0}")]
    NoRoom(String),
    /// The metadata is shut down, or a write of it failed.
    #[error("the metadata is stopped: {0}")]
    Stopped(String),
    /// No active controller answered in time. Nothing was changed.
    #[error("no active controller could be reached within {0:?}")]
    NoController(Duration),
}

/// Why the voters' set stays as it is, or may (`add_voter`, `remove_voter`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum VoterChangeError {
    /// DUPLICATE_VOTER
    #[error("node {0} is a voter already")]
    DuplicateVoter(BrokerId),
    /// VOTER_NOT_FOUND
    #[error("{0}")]
    VoterNotFound(String),
    /// INVALID_REQUEST
    #[error("{0}")]
    InvalidRequest(String),
    /// REQUEST_TIMED_OUT: another change is in progress, or the new voter does not catch up.
    #[error("{0}")]
    TimedOut(String),
    #[error(transparent)]
    Submit(#[from] SubmitError),
}
