//! How nodes come and go: who follows the log, who votes, and where they are reached. Only the active controller changes
//! that, one change at a time; every change is an entry of the log.
//!
//! An id stands for one metadata directory. A node that comes with another one is somebody else: an observer's place it may
//! take when the former is dead, a voter's never, because what that had acknowledged would be forgotten with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use tokio::time::Instant;
use uuid::Uuid;

use super::links::{Links, Peer};
use super::messages::{Answer, Call, Join, JoinRefused, Probe, ProbedState, VoterKey};
use super::transport::Lane;
use super::types::{Member, Membership, Raft};
use super::{Metadata, QuorumRole, SubmitError, VoterChangeError};
use crate::metadata::ids::BrokerId;

/// How long a change of the membership may take to be committed.
const CHANGE_MAX: Duration = Duration::from_secs(10);
/// Between tries of a change that another one is in the way of.
const CHANGE_RETRY: Duration = Duration::from_millis(20);
/// How long a node that joins waits for another change to end.
const JOIN_TURN_MAX: Duration = Duration::from_secs(5);
const PROBE_LIMIT: Duration = Duration::from_millis(500);
/// A node that was reached so lately may be alive yet.
const ALIVE: Duration = Duration::from_secs(1);
/// How long a new voter may take to catch up.
const CATCH_UP_MAX: Duration = Duration::from_secs(30);
/// A node this close behind is given the vote; it has the rest before its first answer counts.
const CATCH_UP_LAG: u64 = 100;
/// A change of the voters that another node forwards: the catching up and two entries.
const FORWARD_MAX: Duration = Duration::from_secs(60);

/// Commits one change of the membership, after those that are under way.
pub(super) async fn change_members(
    raft: &Raft,
    change: ChangeMembers<u64, Member>,
) -> Result<(), SubmitError> {
    let deadline = Instant::now() + CHANGE_MAX;
    loop {
        let changed = tokio::time::timeout_at(deadline, raft.change_membership(change.clone(), true)).await;
        let error = match changed {
            Err(_) => return Err(SubmitError::OutcomeUnknown),
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
        };
        match error {
            RaftError::Fatal(fatal) => return Err(SubmitError::Stopped(fatal.to_string())),
            // Right after an election openraft may send a leader's own changes elsewhere until its lease is settled.
            RaftError::APIError(ClientWriteError::ForwardToLeader(_))
                if raft.is_leader() && Instant::now() + CHANGE_RETRY < deadline =>
            {
                tokio::time::sleep(CHANGE_RETRY).await;
            }
            RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
                return Err(SubmitError::NotController { leader: None });
            }
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
                return Err(SubmitError::OutcomeUnknown);
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
            )) if Instant::now() + CHANGE_RETRY < deadline => tokio::time::sleep(CHANGE_RETRY).await,
            RaftError::APIError(other) => return Err(SubmitError::Refused(other.to_string())),
        }
    }
}

/// Takes an observer out of the membership; leaves voters alone.
pub(super) async fn drop_observer(raft: Raft, links: Arc<Links>, id: u64) {
    if id == links.node_id || !effective(&raft).learner_ids().any(|learner| learner == id) {
        return;
    }
    match change_members(&raft, ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await {
        Ok(()) => links.forget(id),
        Err(error) => {
            tracing::warn!(node = id, %error, "an observer could not be taken out of the membership")
        }
    }
}

/// The newest membership, committed or not.
fn effective(raft: &Raft) -> Membership {
    raft.metrics().borrow_watched().membership_config.membership().clone()
}

fn is_voter(membership: &Membership, id: u64) -> bool {
    membership.voter_ids().any(|voter| voter == id)
}

impl Metadata {
    /// A node says where it is, on every start and while it has no leader.
    pub(super) async fn join_of_peer(
        &self,
        (id, directory_id): (u64, Uuid),
        join: Join,
    ) -> Result<(), JoinRefused> {
        // Without a name nobody can tell this cluster's nodes from another's.
        if !self.is_controller() || !self.links.is_named() {
            let leader = self.leader().filter(|(leader, _)| *leader != self.links.node_id);
            let leader = leader.map(|(leader, peer)| (leader, peer.address));
            return Err(JoinRefused::NotController { leader });
        }
        let turn = tokio::time::timeout(JOIN_TURN_MAX, self.membership_change.lock()).await;
        let Ok(_turn) = turn else {
            return Err(JoinRefused::NotNow("the membership is being changed".into()));
        };
        let membership = effective(&self.raft);
        let joined = Member { address: join.address, directory_id };
        if membership.get_node(&id) == Some(&joined) {
            return Ok(());
        }
        self.room.for_upkeep().await.map_err(|error| JoinRefused::NotNow(error.to_string()))?;
        let add = |joined| ChangeMembers::AddNodes(BTreeMap::from([(id, joined)]));
        let changed = match membership.get_node(&id) {
            Some(known) if self.is_copied(id, known, (directory_id, join.process)).await => {
                return Err(JoinRefused::Never(format!(
                    "another node runs with node.id {id}, at {}, on the same metadata directory {}: one of the two is a copy",
                    known.address,
                    kafka_uuid(directory_id)
                )));
            }
            Some(known) if known.directory_id == directory_id || known.directory_id.is_nil() => {
                let set = ChangeMembers::SetNodes(BTreeMap::from([(id, joined)]));
                change_members(&self.raft, set).await
            }
            Some(known) if is_voter(&membership, id) => {
                return Err(JoinRefused::Never(format!(
                    "voter {id} is known at {} with the metadata directory {}, and this one is {}: either two \
                     nodes have node.id {id}, or the directory of this one is lost. What a voter had acknowledged counts, so \
                     a new directory cannot take its place: remove the voter (kafka-metadata-quorum remove-controller \
                     --controller-id {id} --controller-directory-id {}), start this node, and add it again",
                    known.address,
                    kafka_uuid(known.directory_id),
                    kafka_uuid(directory_id),
                    kafka_uuid(known.directory_id),
                )));
            }
            Some(known) if self.lives_elsewhere(id, known).await => {
                return Err(JoinRefused::Never(format!(
                    "another node runs with node.id {id}, at {} with the metadata directory {}",
                    known.address,
                    kafka_uuid(known.directory_id)
                )));
            }
            Some(_) if self.links.contact(id).reached.is_some_and(|reached| reached.elapsed() < ALIVE) => {
                return Err(JoinRefused::NotNow(format!("node {id} was there a moment ago")));
            }
            Some(_) => {
                // Taken out first: what the former had of the log, this one does not have.
                let remove = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
                match change_members(&self.raft, remove).await {
                    Ok(()) => {
                        self.links.forget(id);
                        change_members(&self.raft, add(joined)).await
                    }
                    Err(error) => Err(error),
                }
            }
            None => change_members(&self.raft, add(joined)).await,
        };
        changed.map_err(|error| JoinRefused::NotNow(error.to_string()))
    }

    /// Whether a process still runs on the directory that is known for this id.
    async fn lives_elsewhere(&self, id: u64, known: &Member) -> bool {
        let probe = Call::Probe(Probe { voters: Vec::new() });
        self.links.call(&Peer::member(id, known), Lane::Submit, probe, PROBE_LIMIT).await.is_ok()
    }

    /// Whether the directory of one that joins is also that of another process, where the membership has this id. One that moved,
    /// or is reached by several addresses, is not.
    async fn is_copied(&self, id: u64, known: &Member, (directory_id, process): (Uuid, Uuid)) -> bool {
        if known.directory_id != directory_id {
            return false;
        }
        let probe = Call::Probe(Probe { voters: Vec::new() });
        match self.links.call(&Peer::member(id, known), Lane::Submit, probe, PROBE_LIMIT).await {
            Ok(Answer::Probe(probed)) => is_other_process(probed.process, process),
            _ => false,
        }
    }

    /// Makes a node that follows the log a voter (AddRaftVoter), on whichever node this is asked. Returns when the new set is
    /// in force, which includes that the node has caught up.
    pub async fn add_voter(
        &self,
        id: BrokerId,
        directory_id: Uuid,
        address: &str,
    ) -> Result<(), VoterChangeError> {
        let key = VoterKey { id, directory_id, address: address.to_owned() };
        if self.is_controller() {
            return self.add_voter_here(&key).await;
        }
        self.forward_change(Call::AddVoter(key)).await
    }

    /// Takes a voter out of the set (RemoveRaftVoter), on whichever node this is asked; it goes on as an observer.
    pub async fn remove_voter(&self, id: BrokerId, directory_id: Uuid) -> Result<(), VoterChangeError> {
        let key = VoterKey { id, directory_id, address: String::new() };
        if self.is_controller() {
            return self.remove_voter_here(&key).await;
        }
        self.forward_change(Call::RemoveVoter(key)).await
    }

    /// Forgets a controller that does not vote (UnregisterController), on whichever node this is asked. One that still runs joins
    /// again by itself.
    pub async fn unregister_controller(&self, id: BrokerId) -> Result<(), VoterChangeError> {
        let key = VoterKey { id, directory_id: Uuid::nil(), address: String::new() };
        if self.is_controller() {
            return self.unregister_controller_here(&key).await;
        }
        self.forward_change(Call::UnregisterController(key)).await
    }

    async fn forward_change(&self, call: Call) -> Result<(), VoterChangeError> {
        let Some((_, peer)) = self.leader() else {
            return Err(SubmitError::NotController { leader: None }.into());
        };
        match self.links.call(&peer, Lane::Submit, call, FORWARD_MAX).await {
            Ok(Answer::ChangeVoters(answer)) => answer,
            Ok(_) => Err(SubmitError::OutcomeUnknown.into()),
            Err(error) if error.nothing_done() => Err(self.not_controller().into()),
            Err(error) => Err(VoterChangeError::TimedOut(error.to_string())),
        }
    }

    pub(super) async fn add_voter_here(&self, key: &VoterKey) -> Result<(), VoterChangeError> {
        let _turn = self.turn_of_voter_change()?;
        let id = voter_id(key)?;
        self.room.for_upkeep().await.map_err(|error| SubmitError::NoRoom(error.to_string()))?;
        if key.directory_id.is_nil() {
            return Err(VoterChangeError::InvalidRequest("a voter needs a directory id".into()));
        }
        let membership = effective(&self.raft);
        if is_voter(&membership, id) {
            return Err(VoterChangeError::DuplicateVoter(key.id));
        }
        let member = match membership.get_node(&id) {
            Some(member) => member.clone(),
            None => Member { address: key.address.clone(), directory_id: key.directory_id },
        };
        if member.directory_id != key.directory_id {
            return Err(VoterChangeError::InvalidRequest(format!(
                "node {id} follows the log with the metadata directory {}, not {}",
                kafka_uuid(member.directory_id),
                kafka_uuid(key.directory_id)
            )));
        }
        self.check_candidate(id, &member).await?;
        if membership.get_node(&id).is_none() {
            let add = ChangeMembers::AddNodes(BTreeMap::from([(id, member)]));
            change_members(&self.raft, add).await.map_err(to_voter_error)?;
        }
        self.await_caught_up(id).await?;
        let promote = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        change_members(&self.raft, promote).await.map_err(to_voter_error)?;
        tracing::info!(node = id, "a node was added to the voters");
        Ok(())
    }

    pub(super) async fn remove_voter_here(&self, key: &VoterKey) -> Result<(), VoterChangeError> {
        let _turn = self.turn_of_voter_change()?;
        let id = voter_id(key)?;
        self.room.for_upkeep().await.map_err(|error| SubmitError::NoRoom(error.to_string()))?;
        let membership = effective(&self.raft);
        let member = membership.get_node(&id).filter(|_| is_voter(&membership, id));
        let Some(member) = member else {
            return Err(VoterChangeError::VoterNotFound(format!("node {id} is not a voter")));
        };
        if member.directory_id != key.directory_id {
            return Err(VoterChangeError::VoterNotFound(format!(
                "voter {id} has the metadata directory {}, not {}",
                kafka_uuid(member.directory_id),
                kafka_uuid(key.directory_id)
            )));
        }
        if membership.voter_ids().count() == 1 {
            return Err(VoterChangeError::InvalidRequest(format!("node {id} is the only voter")));
        }
        let remove = ChangeMembers::RemoveVoters(BTreeSet::from([id]));
        change_members(&self.raft, remove).await.map_err(to_voter_error)?;
        tracing::info!(node = id, "a node was taken out of the voters");
        Ok(())
    }

    pub(super) async fn unregister_controller_here(&self, key: &VoterKey) -> Result<(), VoterChangeError> {
        let _turn = self.turn_of_voter_change()?;
        let id = voter_id(key)?;
        self.room.for_upkeep().await.map_err(|error| SubmitError::NoRoom(error.to_string()))?;
        let membership = effective(&self.raft);
        if is_voter(&membership, id) {
            return Err(VoterChangeError::InvalidRequest(format!(
                "node {id} is a voter, and has to be taken out of the voters first"
            )));
        }
        // Brokers follow the log too, and go by UnregisterBroker.
        if membership.get_node(&id).is_none() || self.image().broker(key.id).is_some() {
            return Err(VoterChangeError::VoterNotFound(format!(
                "node {id} is not registered as a controller"
            )));
        }
        let remove = ChangeMembers::RemoveNodes(BTreeSet::from([id]));
        change_members(&self.raft, remove).await.map_err(to_voter_error)?;
        self.links.forget(id);
        tracing::info!(node = id, "a controller that does not vote was taken out of the membership");
        Ok(())
    }

    /// As Kafka, which answers REQUEST_TIMED_OUT while another change is pending.
    fn turn_of_voter_change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, VoterChangeError> {
        if !self.is_controller() {
            return Err(self.not_controller().into());
        }
        self.membership_change
            .try_lock()
            .map_err(|_| VoterChangeError::TimedOut("another change of the membership is in progress".into()))
    }

    /// Whether a node that shall vote is there, is what it is said to be, and may be a controller.
    async fn check_candidate(&self, id: u64, member: &Member) -> Result<(), VoterChangeError> {
        if id == self.links.node_id {
            return Ok(());
        }
        let probe = Call::Probe(Probe { voters: Vec::new() });
        match self.links.call(&Peer::member(id, member), Lane::Submit, probe, PROBE_LIMIT).await {
            Ok(Answer::Probe(probed)) if probed.role != QuorumRole::Voter => {
                Err(VoterChangeError::InvalidRequest(format!("node {id} is no controller (process.roles)")))
            }
            // It must have been told of this quorum by its own configuration: else it might be founding another.
            Ok(Answer::Probe(probed)) if probed.state == ProbedState::Empty && probed.voters.len() > 1 => {
                Err(VoterChangeError::InvalidRequest(format!("node {id} waits for a quorum of its own")))
            }
            Ok(Answer::Probe(_)) => Ok(()),
            Ok(_) => Err(VoterChangeError::InvalidRequest(format!("at {} is no node", member.address))),
            Err(error) => {
                let text = format!("node {id} at {}: {error}", member.address);
                Err(if error.nothing_done() {
                    VoterChangeError::InvalidRequest(text)
                } else {
                    VoterChangeError::TimedOut(text)
                })
            }
        }
    }

    async fn await_caught_up(&self, id: u64) -> Result<(), VoterChangeError> {
        let mut metrics = self.raft.metrics();
        let caught_up = async {
            loop {
                {
                    let now = metrics.borrow_watched();
                    if !now.state.is_leader() {
                        // Looks at the metrics too: to hold them twice blocks this thread for good when they change in between.
                        drop(now);
                        return Err(self.not_controller().into());
                    }
                    let matched =
                        now.replication.as_ref().and_then(|peers| peers.get(&id).cloned().flatten());
                    let last = now.last_log_index.unwrap_or(0);
                    if matched.is_some_and(|matched| matched.index + CATCH_UP_LAG >= last) {
                        return Ok(());
                    }
                }
                if metrics.changed().await.is_err() {
                    return Err(SubmitError::Stopped("the quorum ended".into()).into());
                }
            }
        };
        tokio::time::timeout(CATCH_UP_MAX, caught_up).await.unwrap_or_else(|_| {
            Err(VoterChangeError::TimedOut(format!("node {id} does not catch up within {CATCH_UP_MAX:?}")))
        })
    }
}

/// Of those that say which process they are.
pub(super) fn is_other_process(one: Uuid, other: Uuid) -> bool {
    !one.is_nil() && !other.is_nil() && one != other
}

fn voter_id(key: &VoterKey) -> Result<u64, VoterChangeError> {
    u64::try_from(key.id.0)
        .map_err(|_| VoterChangeError::InvalidRequest(format!("{} is no node's id", key.id)))
}

fn to_voter_error(error: SubmitError) -> VoterChangeError {
    match error {
        SubmitError::OutcomeUnknown => {
            VoterChangeError::TimedOut("the change was not committed in time; it may be yet".into())
        }
        SubmitError::Refused(text) => VoterChangeError::InvalidRequest(text),
        other => VoterChangeError::Submit(other),
    }
}

/// A directory id as Kafka's tools print and take it.
fn kafka_uuid(id: Uuid) -> String {
    crate::metadata::ids::base64_url(id.as_bytes())
}
