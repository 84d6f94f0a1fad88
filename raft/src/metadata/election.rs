//! How one partition changes: a pure choice over its state, what is asked for, and which brokers may lead.
//!
//! The order is Kafka's: a reassignment whose replicas are all in sync is completed, then the eligible leader replicas
//! (KIP-966) follow from the new in-sync set, then a leader is elected, and what the election does to both is kept.
//!
//! Invariants: a leader is in the in-sync set. Without eligible leader replicas the in-sync set is never emptied: its last
//! member stays listed, so that only it can come back without loss. With them it may be, and its last members are eligible
//! instead. An unclean choice happens only where the caller allows it, or for the last leader when all that is known to be
//! complete is gone, and it says so.

use uuid::Uuid;

use super::ids::{BrokerId, TopicId};
use super::records::{LeaderChange, PartitionChange, PartitionState};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// Keep the leader while it may lead.
    Online,
    /// Move to the first replica if it may lead.
    Preferred,
    /// As `Online`, and if nobody in sync is left, any living replica.
    Unclean,
}

/// What a partition is to become; what is `None` stays.
#[derive(Clone, Debug)]
pub struct Proposal {
    pub election: Election,
    pub isr: Option<Vec<BrokerId>>,
    pub assignment: Option<Assignment>,
    /// A replica that may have lost what it had acknowledged: it is not eligible any more.
    pub unclean_shutdown: Option<BrokerId>,
    pub leader_recovering: Option<bool>,
    pub directory: Option<(BrokerId, Uuid)>,
}

#[derive(Clone, Debug)]
pub struct Assignment {
    pub replicas: Vec<BrokerId>,
    pub adding: Vec<BrokerId>,
    pub removing: Vec<BrokerId>,
}

impl Proposal {
    pub fn new(election: Election) -> Proposal {
        Proposal {
            election,
            isr: None,
            assignment: None,
            unclean_shutdown: None,
            leader_recovering: None,
            directory: None,
        }
    }
}

/// What the choice depends on besides the partition.
pub struct Rules<'a> {
    /// Eligible leader replicas are switched on.
    pub elr: bool,
    /// `min.insync.replicas` of the topic, not yet bounded by the number of replicas.
    pub min_isr: usize,
    /// Which replicas are alive, not leaving, and on a directory that did not fail.
    pub may_lead: &'a dyn Fn(BrokerId) -> bool,
    /// Where a new replica of a broker will lie; nil if that is the broker's choice.
    pub default_directory: &'a dyn Fn(BrokerId) -> Uuid,
}

/// The partition as it is to become.
struct Target {
    replicas: Vec<BrokerId>,
    adding: Vec<BrokerId>,
    removing: Vec<BrokerId>,
    isr: Vec<BrokerId>,
    elr: Vec<BrokerId>,
    last_known_elr: Vec<BrokerId>,
    leader: Option<BrokerId>,
    leader_recovering: bool,
}

/// The change that makes of `state` what is proposed, with a leader; `None` if that is what it is.
pub fn decide_partition_change(
    topic: TopicId,
    partition: i32,
    state: &PartitionState,
    proposal: &Proposal,
    rules: &Rules<'_>,
) -> Option<PartitionChange> {
    let mut target = Target::new(state, proposal);
    target.complete_reassignment();
    if target.isr.is_empty() && !rules.elr {
        let is_replica = |id: &BrokerId| target.replicas.contains(id);
        target.isr = state.isr.iter().copied().filter(is_replica).collect();
    }
    target.update_elr(state, proposal.unclean_shutdown, rules);
    target.elect(state, proposal.election, rules);
    if target.isr.is_empty() && !rules.elr {
        // A cancelled reassignment whose old replicas are all dead and none in sync; the caller accepted the loss.
        target.isr.extend(target.replicas.first());
    }
    target.update_last_leader(state, rules);
    let directories = directories(state, &target.replicas, proposal.directory, rules);
    target.change_from(topic, partition, state, directories)
}

impl Target {
    fn new(state: &PartitionState, proposal: &Proposal) -> Target {
        let (replicas, adding, removing) = match &proposal.assignment {
            Some(assignment) => {
                (assignment.replicas.clone(), assignment.adding.clone(), assignment.removing.clone())
            }
            None => (state.replicas.to_vec(), state.adding_replicas.clone(), state.removing_replicas.clone()),
        };
        Target {
            replicas,
            adding,
            removing,
            isr: proposal.isr.clone().unwrap_or_else(|| state.isr.to_vec()),
            elr: state.elr.clone(),
            last_known_elr: state.last_known_elr.clone(),
            leader: state.leader,
            leader_recovering: proposal.leader_recovering.unwrap_or(state.leader_recovering),
        }
    }

    /// When all replicas that are to stay are in sync, the others go (KIP-455).
    fn complete_reassignment(&mut self) {
        if self.adding.is_empty() && self.removing.is_empty() {
            return;
        }
        let stays = |id: &BrokerId| !self.removing.contains(id);
        let replicas: Vec<BrokerId> = self.replicas.iter().copied().filter(stays).collect();
        let isr: Vec<BrokerId> = self.isr.iter().copied().filter(stays).collect();
        if !replicas.is_empty() && replicas.iter().all(|id| isr.contains(id)) {
            self.replicas = replicas;
            self.isr = isr;
            self.adding.clear();
            self.removing.clear();
        }
    }

    fn update_elr(&mut self, state: &PartitionState, unclean_shutdown: Option<BrokerId>, rules: &Rules<'_>) {
        for id in &*state.isr {
            if !self.elr.contains(id) {
                self.elr.push(*id);
            }
        }
        self.elr.retain(|id| {
            !self.isr.contains(id) && self.replicas.contains(id) && Some(*id) != unclean_shutdown
        });
        self.bound_elr(rules);
    }

    /// Where enough are in sync the high watermark moves, and who is not in sync falls behind it.
    fn bound_elr(&mut self, rules: &Rules<'_>) {
        if !rules.elr || self.isr.len() >= rules.min_isr.min(self.replicas.len()) {
            self.elr.clear();
        }
    }

    fn elect(&mut self, state: &PartitionState, election: Election, rules: &Rules<'_>) {
        let listed = if self.isr.is_empty() { &self.elr } else { &self.isr };
        let eligible = |id: &BrokerId| listed.contains(id) && (rules.may_lead)(*id);
        let preferred = self.replicas.first().copied().filter(eligible);
        let current = state.leader.filter(eligible);
        let first = || self.replicas.iter().copied().find(eligible);
        let clean = match election {
            Election::Preferred => preferred.or(current).or_else(first),
            Election::Online | Election::Unclean => current.or_else(first),
        };
        if clean.is_some() {
            self.leader = clean;
            if let Some(leader) = clean.filter(|_| self.isr.is_empty()) {
                self.isr = vec![leader];
                self.elr.retain(|id| *id != leader);
                // Unlike Kafka, which keeps the others eligible: the leader alone may be enough, if the minimum was lowered
                // while nobody was in sync.
                self.bound_elr(rules);
            }
            return;
        }
        let last_leader = || match *state.last_known_elr {
            [last] if rules.elr && self.isr.is_empty() && self.elr.is_empty() => Some(last),
            _ => None,
        };
        let alive = |id: &BrokerId| (rules.may_lead)(*id);
        let unclean = last_leader().filter(|id| self.replicas.contains(id) && alive(id)).or_else(|| {
            let anyone = || self.replicas.iter().copied().find(alive);
            (election == Election::Unclean).then(anyone).flatten()
        });
        self.leader = unclean;
        if let Some(leader) = unclean {
            // Whatever the others have beyond the new leader's log is void from here on.
            self.isr = vec![leader];
            self.elr.clear();
            self.leader_recovering = true;
        }
    }

    fn update_last_leader(&mut self, state: &PartitionState, rules: &Rules<'_>) {
        if !rules.elr || self.leader.is_some() {
            self.last_known_elr.clear();
        } else if self.isr.is_empty() && !state.isr.is_empty() {
            // Who was in sync last, if the partition had lost its leader before.
            self.last_known_elr = state.leader.or(state.isr.last().copied()).into_iter().collect();
        }
    }

    fn change_from(
        self,
        topic: TopicId,
        partition: i32,
        state: &PartitionState,
        directories: Vec<Uuid>,
    ) -> Option<PartitionChange> {
        fn differs(now: Vec<BrokerId>, before: &[BrokerId]) -> Option<Vec<BrokerId>> {
            (*now != *before).then_some(now)
        }
        let leader = (self.leader != state.leader).then_some(match self.leader {
            Some(id) => LeaderChange::To(id),
            None => LeaderChange::None,
        });
        // A follower that is no replica any more must notice, and so must those that fetch from it.
        let is_cut = !state.replicas.iter().all(|id| self.replicas.contains(id));
        let change = PartitionChange {
            topic,
            partition,
            isr: differs(self.isr, &state.isr),
            leader_epoch_bump: leader.is_none() && is_cut,
            leader,
            adding_replicas: differs(self.adding, &state.adding_replicas),
            removing_replicas: differs(self.removing, &state.removing_replicas),
            elr: differs(self.elr, &state.elr),
            last_known_elr: differs(self.last_known_elr, &state.last_known_elr),
            leader_recovering: (self.leader_recovering != state.leader_recovering)
                .then_some(self.leader_recovering),
            directories: (directories != state.directories).then_some(directories),
            replicas: differs(self.replicas, &state.replicas),
        };
        (change != PartitionChange::of(topic, partition)).then_some(change)
    }
}

/// The directories of the target's replicas; empty if none is known.
fn directories(
    state: &PartitionState,
    replicas: &[BrokerId],
    assigned: Option<(BrokerId, Uuid)>,
    rules: &Rules<'_>,
) -> Vec<Uuid> {
    let directories: Vec<Uuid> = replicas
        .iter()
        .map(|id| match assigned {
            Some((broker, directory)) if broker == *id => directory,
            _ if state.replicas.contains(id) => state.directory(*id),
            _ => (rules.default_directory)(*id),
        })
        .collect();
    if directories.iter().all(Uuid::is_nil) { Vec::new() } else { directories }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::ids::{LeaderEpoch, PartitionEpoch};

    const TOPIC: TopicId = TopicId(uuid::Uuid::from_u128(9));

    fn state(replicas: &[i32], isr: &[i32], leader: Option<i32>) -> PartitionState {
        let ids = |ids: &[i32]| ids.iter().map(|id| BrokerId(*id)).collect::<Vec<_>>();
        PartitionState {
            replicas: ids(replicas).into(),
            isr: ids(isr).into(),
            leader: leader.map(BrokerId),
            leader_epoch: LeaderEpoch(0),
            partition_epoch: PartitionEpoch(0),
            elr: vec![],
            last_known_elr: vec![],
            adding_replicas: vec![],
            removing_replicas: vec![],
            leader_recovering: false,
            directories: vec![],
        }
    }

    /// (isr, leader, recovering) of the change; `None` where nothing changes.
    type Change = (Option<Vec<i32>>, Option<Option<i32>>, Option<bool>);

    fn change(
        state: &PartitionState,
        isr: Option<&[i32]>,
        election: Election,
        alive: &[i32],
    ) -> Option<Change> {
        let isr = isr.map(|isr| isr.iter().map(|id| BrokerId(*id)).collect());
        let proposal = Proposal { isr, ..Proposal::new(election) };
        decide_with(state, &proposal, alive, None).map(|change| {
            let leader = change.leader.map(|leader| match leader {
                LeaderChange::To(id) => Some(id.0),
                LeaderChange::None => None,
            });
            (change.isr.map(|isr| isr.iter().map(|id| id.0).collect()), leader, change.leader_recovering)
        })
    }

    /// `min_isr` switches eligible leader replicas on.
    fn decide_with(
        state: &PartitionState,
        proposal: &Proposal,
        alive: &[i32],
        min_isr: Option<usize>,
    ) -> Option<PartitionChange> {
        let rules = Rules {
            elr: min_isr.is_some(),
            min_isr: min_isr.unwrap_or(1),
            may_lead: &|id| alive.contains(&id.0),
            default_directory: &|_| Uuid::nil(),
        };
        decide_partition_change(TOPIC, 0, state, proposal, &rules)
    }

    #[test]
    fn a_living_leader_stays() {
        let partition = state(&[1, 2, 3], &[1, 2, 3], Some(2));
        assert_eq!(change(&partition, None, Election::Online, &[1, 2, 3]), None);
        assert_eq!(change(&partition, None, Election::Unclean, &[2]), None);
    }

    #[test]
    fn the_first_living_in_sync_replica_follows() {
        let partition = state(&[1, 2, 3], &[1, 3], Some(1));
        assert_eq!(
            change(&partition, Some(&[3]), Election::Online, &[2, 3]),
            Some((Some(vec![3]), Some(Some(3)), None))
        );
    }

    #[test]
    fn the_last_in_sync_replica_stays_listed() {
        let partition = state(&[1, 2], &[1], Some(1));
        assert_eq!(change(&partition, Some(&[]), Election::Online, &[2]), Some((None, Some(None), None)));
        let back = state(&[1, 2], &[1], None);
        assert_eq!(change(&back, None, Election::Online, &[1, 2]), Some((None, Some(Some(1)), None)));
    }

    #[test]
    fn unclean_only_when_asked() {
        let partition = state(&[1, 2], &[1], None);
        assert_eq!(change(&partition, None, Election::Online, &[2]), None);
        assert_eq!(
            change(&partition, None, Election::Unclean, &[2]),
            Some((Some(vec![2]), Some(Some(2)), Some(true)))
        );
        assert_eq!(change(&partition, None, Election::Unclean, &[]), None);
    }

    #[test]
    fn preferred() {
        let partition = state(&[1, 2], &[2, 1], Some(2));
        assert_eq!(change(&partition, None, Election::Preferred, &[1, 2]), Some((None, Some(Some(1)), None)));
        assert_eq!(change(&partition, None, Election::Preferred, &[2]), None, "the preferred one is away");
        let behind = state(&[1, 2], &[2], Some(2));
        assert_eq!(change(&behind, None, Election::Preferred, &[1, 2]), None, "and not in sync");
    }
}
