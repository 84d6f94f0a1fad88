//! Which replica a consumer reads from (KIP-392): the leader tells a consumer that names its rack of a replica in that rack. The
//! consumer goes there with its next fetch, and comes back to the leader when that fails or its memory of it ends.

use ottla_batch::Offset;
use ottla_raft::{BrokerId, Image};

use super::in_sync::InSyncSet;
use super::partition::Replica;

/// `replica.selector.class`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaSelector {
    /// Every consumer reads from the leader.
    Leader,
    /// From a replica in its rack, if there is one.
    RackAware,
}

/// Brokers that a consumer in `rack` is better served by than by `local`, as far as it can reach them. Empty when `local` is in that
/// rack itself.
pub fn brokers_nearer_than(local: BrokerId, image: &Image, rack: &str, listener: &str) -> Vec<BrokerId> {
    let in_rack = image.brokers.values().filter(|broker| broker.rack.as_deref() == Some(rack));
    let near: Vec<BrokerId> = in_rack
        .filter(|broker| broker.id == local || (!broker.fenced && broker.endpoint(listener).is_some()))
        .map(|broker| broker.id)
        .collect();
    if near.contains(&local) { Vec::new() } else { near }
}

impl InSyncSet {
    /// The follower that knows most of those in `near` that are in sync and hold `from`. One that is not in sync might stay behind for
    /// ever, and its readers with it.
    fn reader_of(&self, from: Offset, near: &[BrokerId]) -> Option<BrokerId> {
        let followers = self.reading_followers().filter(|follower| near.contains(&follower.broker));
        let holds = followers.filter(|follower| follower.log_start <= from && from <= follower.end);
        let best = holds.max_by_key(|follower| (follower.end, follower.caught_up_at, follower.broker));
        best.map(|follower| follower.broker)
    }
}

impl Replica {
    /// Which of the brokers in `near` a consumer should go to for what begins at `from`; none if this broker does not lead.
    pub fn reader_of(&self, from: Offset, near: &[BrokerId]) -> Option<BrokerId> {
        self.state.lock().leader.as_ref()?.in_sync.reader_of(from, near)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ottla_raft::{BrokerEpoch, PartitionEpoch};
    use tokio::time::Instant;

    use super::*;
    use crate::replica::in_sync::{Durability, FollowerFetch, Membership};

    const LAG_MAX: Duration = Duration::from_secs(10);

    /// Broker 1 leads with an end of 10, 2 to 5 follow, of which 5 is not in sync. `fetches`: who has fetched, from where, and since
    /// when it has the log.
    fn set(now: Instant, fetches: &[(i32, i64, i64)]) -> InSyncSet {
        let mut set = InSyncSet::new(Durability::Memory, 1, Offset(10), Offset(10), Offset(0));
        let membership = Membership {
            partition_epoch: PartitionEpoch(1),
            others: [2, 3, 4, 5].map(BrokerId).to_vec(),
            in_sync_others: [2, 3, 4].map(BrokerId).to_vec(),
            is_recovering: false,
        };
        let _ = set.on_membership(membership, now);
        for (second, (broker, end, log_start)) in (1..).zip(fetches) {
            let fetch = FollowerFetch {
                broker: BrokerId(*broker),
                broker_epoch: Some(BrokerEpoch(1)),
                end: Offset(*end),
                log_start: Offset(*log_start),
            };
            let _ = set.on_follower_fetch(&fetch, now + Duration::from_secs(second), LAG_MAX);
        }
        set
    }

    fn reader(set: &InSyncSet, from: i64, near: &[i32]) -> Option<i32> {
        let near: Vec<BrokerId> = near.iter().copied().map(BrokerId).collect();
        set.reader_of(Offset(from), &near).map(|id| id.0)
    }

    #[test]
    fn a_reader_goes_to_who_is_near_in_sync_and_holds_its_offset() {
        let set = set(Instant::now(), &[(2, 8, 0), (3, 10, 5), (5, 10, 0)]);
        assert_eq!(reader(&set, 6, &[2]), Some(2));
        assert_eq!(reader(&set, 8, &[2]), Some(2), "its next record will come there");
        assert_eq!(reader(&set, 9, &[2]), None);
        assert_eq!(reader(&set, 4, &[3]), None, "deleted there");
        assert_eq!(reader(&set, 6, &[5]), None, "not in sync");
        assert_eq!(reader(&set, 6, &[4]), None, "it has not fetched from this leader");
        assert_eq!(reader(&set, 6, &[]), None);
    }

    #[test]
    fn of_several_the_one_that_knows_most_then_the_one_that_knows_it_best() {
        let now = Instant::now();
        assert_eq!(reader(&set(now, &[(2, 8, 0), (3, 10, 0)]), 6, &[2, 3]), Some(3));
        assert_eq!(reader(&set(now, &[(3, 10, 0), (2, 10, 0)]), 6, &[2, 3]), Some(2), "caught up later");
        assert_eq!(reader(&set(now, &[(3, 10, 0), (2, 8, 0)]), 6, &[2, 3]), Some(3));
    }
}
