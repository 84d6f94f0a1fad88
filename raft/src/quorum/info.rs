//! The quorum as one node sees it.

use std::collections::BTreeMap;
use std::time::Duration;

use openraft::{Instant as _, RaftMetrics};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::broker_id;
use super::links::Contact;
use super::types::MetadataRaft;
use crate::metadata::ids::BrokerId;

/// What DescribeQuorum shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumInfo {
    pub leader: Option<BrokerId>,
    /// The Raft epoch.
    pub leader_epoch: i32,
    /// Exclusive: the first offset that is not committed.
    pub high_watermark: i64,
    pub voters: Vec<VoterInfo>,
    pub observers: Vec<ObserverInfo>,
    /// Where the voters and observers are reached.
    pub addresses: BTreeMap<BrokerId, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterInfo {
    pub id: BrokerId,
    /// Of its metadata directory; nil while it is not known.
    pub directory_id: Uuid,
    /// Exclusive; -1 if not known here.
    pub log_end_offset: i64,
    /// Milliseconds since the voter last acknowledged; 0 for the leader itself, `None` if not known here.
    pub silent_ms: Option<u64>,
    /// Milliseconds since the voter last had everything that was in the leader's log; 0 for the leader itself, `None` if not
    /// known here.
    pub behind_ms: Option<u64>,
}

pub type ObserverInfo = VoterInfo;

impl QuorumInfo {
    pub(super) fn new(
        metrics: &RaftMetrics<MetadataRaft>,
        contacts: &BTreeMap<u64, Contact>,
        leader: Option<BrokerId>,
    ) -> QuorumInfo {
        let end = |last: Option<u64>| last.map_or(0, |last| i64::try_from(last + 1).unwrap_or(i64::MAX));
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let membership = metrics.membership_config.membership();
        let leads = metrics.state.is_leader();
        let member = |id: u64| {
            let is_own = id == metrics.id;
            let matched = metrics.replication.as_ref().and_then(|peers| peers.get(&id));
            let heard = metrics.heartbeat.as_ref().and_then(|peers| peers.get(&id).copied().flatten());
            let caught_up = contacts.get(&id).and_then(|contact| contact.caught_up).filter(|_| leads);
            VoterInfo {
                id: BrokerId(i32::try_from(id).unwrap_or(-1)),
                directory_id: membership.get_node(&id).map_or(Uuid::nil(), |member| member.directory_id),
                log_end_offset: match is_own {
                    true => end(metrics.last_log_index),
                    false => matched.map_or(-1, |matched| end(matched.as_ref().map(|matched| matched.index))),
                },
                silent_ms: match is_own {
                    true => Some(0),
                    false => heard.map(|heard| millis(heard.into_inner().elapsed())),
                },
                behind_ms: match is_own {
                    true => Some(0),
                    false => caught_up.map(|at| millis(at.elapsed())),
                },
            }
        };
        let committed = metrics.cluster_committed.as_ref().or(metrics.local_committed.as_ref());
        QuorumInfo {
            leader,
            leader_epoch: i32::try_from(metrics.current_term).unwrap_or(i32::MAX),
            high_watermark: end(committed.map(|committed| committed.index)),
            voters: membership.voter_ids().map(member).collect(),
            observers: membership.learner_ids().map(member).collect(),
            addresses: membership
                .nodes()
                .filter_map(|(id, node)| Some((broker_id(Some(*id))?, node.address.clone())))
                .collect(),
        }
    }
}
