//! Who leads a partition: a pure choice over the partition's state and which brokers may lead.
//!
//! Invariants: a leader is in the in-sync set; the in-sync set is never emptied (its last member stays listed, so that
//! only it can come back without loss); an unclean choice happens only where the caller allows it, and says so.

use super::ids::{BrokerId, TopicId};
use super::records::{LeaderChange, PartitionState, Record};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// Keep the leader while it may lead.
    Online,
    /// Move to the first replica if it may lead.
    Preferred,
    /// As `Online`, and if nobody in sync is left, any living replica.
    Unclean,
}

/// The record that moves `state` to the in-sync set `target_isr` with a leader chosen by `election`; `None` if that
/// changes nothing. `may_lead` says which brokers are alive and not leaving.
pub fn decide_partition_change(
    topic: TopicId,
    partition: i32,
    state: &PartitionState,
    target_isr: Option<Vec<BrokerId>>,
    election: Election,
    may_lead: impl Fn(BrokerId) -> bool,
) -> Option<Record> {
    let target_isr = target_isr.filter(|isr| !isr.is_empty()).unwrap_or_else(|| state.isr.to_vec());
    let eligible = |id: BrokerId| target_isr.contains(&id) && may_lead(id);
    let preferred = state.replicas.first().copied().filter(|id| eligible(*id));
    let current = state.leader.filter(|id| eligible(*id));
    let first = || state.replicas.iter().copied().find(|id| eligible(*id));
    let clean = match election {
        Election::Preferred => preferred.or(current).or_else(first),
        Election::Online | Election::Unclean => current.or_else(first),
    };
    let (leader, isr, unclean) = match (clean, election) {
        (Some(leader), _) => (Some(leader), target_isr, false),
        (None, Election::Unclean) => match state.replicas.iter().copied().find(|id| may_lead(*id)) {
            // Whatever the others have beyond the new leader's log is void from here on.
            Some(leader) => (Some(leader), vec![leader], true),
            None => (None, target_isr, false),
        },
        (None, _) => (None, target_isr, false),
    };

    let isr = (*isr != *state.isr).then_some(isr);
    let leader_change = (leader != state.leader).then_some(match leader {
        Some(id) => LeaderChange::To(id),
        None => LeaderChange::None,
    });
    if isr.is_none() && leader_change.is_none() {
        return None;
    }
    Some(Record::PartitionChanged {
        topic,
        partition,
        replicas: None,
        isr,
        leader: leader_change,
        leader_epoch_bump: false,
        adding_replicas: None,
        removing_replicas: None,
        elr: None,
        last_known_elr: None,
        leader_recovering: unclean.then_some(true),
    })
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
        decide_partition_change(TOPIC, 0, state, isr, election, |id| alive.contains(&id.0)).map(|record| {
            let Record::PartitionChanged { isr, leader, leader_recovering, .. } = record else {
                panic!("{record:?}")
            };
            let leader = leader.map(|leader| match leader {
                LeaderChange::To(id) => Some(id.0),
                LeaderChange::None => None,
            });
            (isr.map(|isr| isr.iter().map(|id| id.0).collect()), leader, leader_recovering)
        })
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
