use proptest::prelude::*;

use super::*;

const LAG_MAX: Duration = Duration::from_secs(30);
const EPOCH: BrokerEpoch = BrokerEpoch(7);

fn ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().map(|id| BrokerId(*id)).collect()
}

fn membership(epoch: i32, others: &[i32], in_sync: &[i32]) -> Membership {
    Membership {
        partition_epoch: PartitionEpoch(epoch),
        others: ids(others),
        in_sync_others: ids(in_sync),
        is_recovering: false,
    }
}

fn fetch(broker: i32, end: i64) -> FollowerFetch {
    FollowerFetch {
        broker: BrokerId(broker),
        broker_epoch: Some(EPOCH),
        end: Offset(end),
        log_start: Offset(0),
    }
}

/// A leader of an empty log with followers 2 and 3, `in_sync` of them in sync.
fn leader(durability: Durability, in_sync: &[i32]) -> (InSyncSet, Instant) {
    let now = Instant::now();
    let mut set = InSyncSet::new(durability, 1, Offset(0), Offset(0), Offset(0));
    let _ = set.on_membership(membership(0, &[2, 3], in_sync), now);
    let _ = set.on_brokers(|_| Some(EPOCH));
    (set, now)
}

fn advanced(actions: Actions) -> Option<i64> {
    actions.advanced.map(|offset| offset.0)
}

#[test]
fn under_fsync_an_append_commits_nothing_before_the_sync() {
    let (mut set, now) = leader(Durability::Fsync, &[]);
    assert!(set.on_appended(Offset(5), now).sync);
    assert_eq!(set.high_watermark(), Offset(0));
    assert_eq!(advanced(set.on_synced(Offset(3))), Some(3));
    assert_eq!(advanced(set.on_synced(Offset(2))), None);
    assert_eq!(advanced(set.on_synced(Offset(5))), Some(5));
}

#[test]
fn under_memory_an_append_commits_at_once() {
    let (mut set, now) = leader(Durability::Memory, &[]);
    assert_eq!(advanced(set.on_appended(Offset(5), now)), Some(5));
}

#[test]
fn the_slowest_member_holds_the_high_watermark_until_it_leaves() {
    let (mut set, now) = leader(Durability::Memory, &[2, 3]);
    assert_eq!(advanced(set.on_appended(Offset(10), now)), None);
    assert_eq!(advanced(set.on_follower_fetch(&fetch(2, 10), now, LAG_MAX)), None);
    assert_eq!(advanced(set.on_follower_fetch(&fetch(9, 10), now, LAG_MAX)), None, "no replica");
    assert_eq!(advanced(set.on_follower_fetch(&fetch(3, 4), now, LAG_MAX)), Some(4));
    assert_eq!(advanced(set.on_membership(membership(1, &[2, 3], &[2]), now)), Some(10));
}

#[test]
fn a_member_that_never_fetched_holds_the_high_watermark() {
    let now = Instant::now();
    let mut set = InSyncSet::new(Durability::Memory, 1, Offset(10), Offset(10), Offset(4));
    let _ = set.on_membership(membership(0, &[2], &[2]), now);
    assert_eq!(advanced(set.on_appended(Offset(12), now)), None);
    assert_eq!(set.high_watermark(), Offset(4));
}

#[test]
fn a_member_leaves_when_it_lagged_for_too_long() {
    let (mut set, now) = leader(Durability::Memory, &[2, 3]);
    let _ = set.on_appended(Offset(10), now);
    let _ = set.on_follower_fetch(&fetch(2, 10), now, LAG_MAX);
    let _ = set.on_follower_fetch(&fetch(3, 4), now, LAG_MAX);
    let at = now + LAG_MAX;
    assert!(!set.on_tick(at, LAG_MAX, |_| Some(now)).propose);
    let at = at + Duration::from_millis(1);
    assert!(set.on_tick(at, LAG_MAX, |_| Some(at)).propose);
    let proposal = set.proposal().unwrap();
    assert_eq!(
        proposal.in_sync_others,
        [(BrokerId(2), EPOCH)],
        "whoever has everything stays, however long ago"
    );
    assert_eq!(set.high_watermark(), Offset(4), "until the controller agrees the larger set counts");
    assert!(!set.on_tick(at, LAG_MAX, |_| Some(at)).propose, "one proposal at a time");
}

#[test]
fn contact_counts_only_until_a_follower_was_overtaken() {
    let (mut set, start) = leader(Durability::Memory, &[2, 3]);
    let _ = set.on_appended(Offset(10), start);
    let _ = set.on_follower_fetch(&fetch(2, 10), start, LAG_MAX);
    let _ = set.on_follower_fetch(&fetch(3, 10), start, LAG_MAX);
    // An hour without appends, in which 2 fetched other partitions and 3 was gone.
    let later = start + Duration::from_secs(3600);
    let contact = |id| if id == BrokerId(2) { Some(later) } else { Some(start) };
    assert!(!set.on_tick(later, LAG_MAX, contact).propose, "both have everything");
    let _ = set.on_appended(Offset(11), later);
    let at = later + Duration::from_millis(1);
    assert!(set.on_tick(at, LAG_MAX, contact).propose);
    assert_eq!(set.proposal().unwrap().in_sync_others, [(BrokerId(2), EPOCH)]);
    // Contact after it was overtaken does not help: it fetches, but not this partition.
    let _ = set.on_membership(membership(1, &[2, 3], &[2]), at);
    let much_later = later + LAG_MAX + Duration::from_millis(1);
    assert!(set.on_tick(much_later, LAG_MAX, |_| Some(much_later)).propose);
    assert_eq!(set.proposal().unwrap().in_sync_others, []);
}

#[test]
fn a_follower_that_always_has_what_was_there_a_fetch_ago_stays() {
    let (mut set, start) = leader(Durability::Memory, &[2, 3]);
    let mut now = start;
    for round in 1..200 {
        now += Duration::from_secs(1);
        let _ = set.on_appended(Offset(10 * round), now);
        let _ = set.on_follower_fetch(&fetch(2, 10 * (round - 1)), now, LAG_MAX);
        let _ = set.on_follower_fetch(&fetch(3, 10 * round), now, LAG_MAX);
        assert!(!set.on_tick(now, LAG_MAX, |_| Some(now)).propose, "round {round}");
    }
}

#[test]
fn a_follower_joins_at_the_high_watermark_and_not_below_the_epochs_start() {
    let now = Instant::now();
    // The log of the new leader ends at 10, of which it knows 4 to be committed.
    let mut set = InSyncSet::new(Durability::Memory, 1, Offset(10), Offset(10), Offset(4));
    let _ = set.on_membership(membership(0, &[2, 3], &[2]), now);
    let _ = set.on_brokers(|_| Some(EPOCH));
    assert!(!set.on_follower_fetch(&fetch(3, 4), now, LAG_MAX).propose, "below the epoch's start");
    assert!(set.on_follower_fetch(&fetch(3, 10), now, LAG_MAX).propose);
    let proposal = set.proposal().unwrap();
    assert_eq!(proposal.in_sync_others, [(BrokerId(2), BrokerEpoch(-1)), (BrokerId(3), EPOCH)]);
}

#[test]
fn a_follower_that_has_nothing_to_fetch_joins_without_another_fetch() {
    let (mut set, now) = leader(Durability::Fsync, &[]);
    // The proposal of 2 is under way when 3 comes, and afterwards 3 has no reason to come again.
    assert!(set.on_follower_fetch(&fetch(2, 0), now, LAG_MAX).propose);
    assert!(!set.on_follower_fetch(&fetch(3, 0), now, LAG_MAX).propose);
    assert!(set.on_membership(membership(1, &[2, 3], &[2]), now).propose);
    let proposed = set.proposal().expect("the other one").in_sync_others;
    assert_eq!(proposed, [(BrokerId(2), EPOCH), (BrokerId(3), EPOCH)]);

    // Its fetch came before the news of its registration.
    let (mut set, now) = leader(Durability::Fsync, &[2]);
    let _ = set.on_brokers(|id| (id.0 == 2).then_some(EPOCH));
    assert!(!set.on_follower_fetch(&fetch(3, 0), now, LAG_MAX).propose);
    assert!(set.on_brokers(|_| Some(EPOCH)).propose);

    // It was refused, for the controller did not know it yet.
    let _ = set.on_proposal_failed(PartitionEpoch(0), ProposalOutcome::Refused, now);
    assert!(!set.on_tick(now, LAG_MAX, |_| Some(now)).propose, "not at once");
    let later = now + RETRY_AFTER;
    assert!(set.on_tick(later, LAG_MAX, |_| Some(later)).propose);
}

#[test]
fn kip_497_the_high_watermark_waits_for_the_larger_set() {
    let (mut set, now) = leader(Durability::Memory, &[]);
    assert!(set.on_follower_fetch(&fetch(2, 0), now, LAG_MAX).propose);
    assert_eq!(set.members_count(), 1);
    assert_eq!(set.maximal_count(), 2);
    assert_eq!(advanced(set.on_appended(Offset(5), now)), None, "2 may be a member already");
    assert_eq!(advanced(set.on_follower_fetch(&fetch(2, 5), now, LAG_MAX)), Some(5));
    let _ = set.on_appended(Offset(6), now);
    let waits = set.on_proposal_failed(PartitionEpoch(0), ProposalOutcome::AwaitImage, now);
    assert_eq!(advanced(waits), None);
    assert!(set.proposal().is_some(), "not known to have failed");
    let _ = set.on_brokers(|_| None);
    let refused = set.on_proposal_failed(PartitionEpoch(0), ProposalOutcome::Refused, now);
    assert_eq!(advanced(refused), Some(6));
    assert!(set.proposal().is_none());
}

#[test]
fn kip_903_a_restarted_or_fenced_follower_does_not_join() {
    let (mut set, now) = leader(Durability::Memory, &[]);
    let _ = set.on_brokers(|_| Some(BrokerEpoch(9)));
    let stale = set.check_follower(BrokerId(2), Some(EPOCH));
    assert!(matches!(stale, Err(NotAFollower::StaleBrokerEpoch { .. })), "{stale:?}");
    // The leader has not heard of the newer registration yet.
    let newer = FollowerFetch { broker_epoch: Some(BrokerEpoch(11)), ..fetch(2, 0) };
    assert_eq!(set.check_follower(BrokerId(2), newer.broker_epoch), Ok(()));
    assert!(!set.on_follower_fetch(&newer, now, LAG_MAX).propose);
    let _ = set.on_brokers(|_| None);
    assert!(!set.on_follower_fetch(&newer, now, LAG_MAX).propose, "fenced");
    assert!(set.on_brokers(|_| Some(BrokerEpoch(11))).propose, "it has everything and need not fetch again");
    assert_eq!(set.check_follower(BrokerId(4), None), Err(NotAFollower::NoReplica(BrokerId(4))));
}

#[test]
fn kip_966_nothing_is_committed_below_the_required_number_of_members() {
    let now = Instant::now();
    let mut set = InSyncSet::new(Durability::Memory, 2, Offset(0), Offset(0), Offset(0));
    let _ = set.on_membership(membership(0, &[2, 3], &[]), now);
    let _ = set.on_brokers(|_| Some(EPOCH));
    assert_eq!(advanced(set.on_appended(Offset(5), now)), None);
    let _ = set.on_follower_fetch(&fetch(2, 5), now, LAG_MAX);
    assert_eq!(set.high_watermark(), Offset(0), "proposed is not in");
    assert_eq!(advanced(set.on_membership(membership(1, &[2, 3], &[2]), now)), Some(5));
    assert_eq!(set.min_in_sync(), 2);
    let alone = InSyncSet::new(Durability::Memory, 2, Offset(0), Offset(0), Offset(0));
    assert_eq!(alone.min_in_sync(), 1, "a partition with one replica cannot ask for two");
}

#[test]
fn kip_704_an_unclean_leader_says_that_it_has_recovered() {
    let now = Instant::now();
    let mut set = InSyncSet::new(Durability::Memory, 1, Offset(0), Offset(0), Offset(0));
    let recovering = Membership { is_recovering: true, ..membership(3, &[2], &[]) };
    assert!(set.on_membership(recovering, now).propose);
    assert_eq!(set.proposal().unwrap().partition_epoch, PartitionEpoch(3));
    let _ = set.on_membership(membership(4, &[2], &[]), now);
    assert!(set.proposal().is_none());
}

#[test]
fn an_older_record_of_the_partition_changes_nothing() {
    let (mut set, now) = leader(Durability::Memory, &[2]);
    let _ = set.on_membership(membership(5, &[2, 3], &[2, 3]), now);
    let _ = set.on_membership(membership(4, &[2, 3], &[]), now);
    assert_eq!(set.members_count(), 3);
}

#[test]
fn a_refused_follower_is_not_proposed_again_at_once() {
    let (mut set, now) = leader(Durability::Memory, &[]);
    assert!(set.on_follower_fetch(&fetch(2, 0), now, LAG_MAX).propose);
    let _ = set.on_proposal_failed(PartitionEpoch(0), ProposalOutcome::Refused, now);
    assert!(!set.on_follower_fetch(&fetch(2, 0), now, LAG_MAX).propose);
    assert!(set.on_follower_fetch(&fetch(2, 0), now + RETRY_AFTER, LAG_MAX).propose);
}

#[derive(Debug, Clone)]
enum Event {
    Append(i64),
    Sync(i64),
    Fetch(i32, i64),
    Members(Vec<i32>),
    Rules(Durability, usize),
    Tick(u64),
    Fail(ProposalOutcome),
    Fence(i32),
}

fn event() -> impl Strategy<Value = Event> {
    let durability = prop_oneof![Just(Durability::Fsync), Just(Durability::Memory)];
    let outcome = prop_oneof![Just(ProposalOutcome::Refused), Just(ProposalOutcome::AwaitImage)];
    prop_oneof![
        (0..20i64).prop_map(Event::Append),
        (0..200i64).prop_map(Event::Sync),
        (2..5i32, 0..200i64).prop_map(|(broker, end)| Event::Fetch(broker, end)),
        prop::collection::vec(2..5i32, 0..3).prop_map(Event::Members),
        (durability, 1..4usize).prop_map(|(durability, min)| Event::Rules(durability, min)),
        (0..60u64).prop_map(Event::Tick),
        outcome.prop_map(Event::Fail),
        (2..6i32).prop_map(Event::Fence),
    ]
}

proptest! {
    #[test]
    fn what_is_committed_is_held_by_all_who_could_be_elected(events in prop::collection::vec(event(), 0..80)) {
        let mut now = Instant::now();
        let mut set = InSyncSet::new(Durability::Fsync, 1, Offset(0), Offset(0), Offset(0));
        let mut epoch = 0;
        let _ = set.on_membership(membership(epoch, &[2, 3, 4], &[2]), now);
        let _ = set.on_brokers(|_| Some(EPOCH));
        let (mut end, mut synced, mut durability) = (0, 0, Durability::Fsync);
        let mut ends = std::collections::BTreeMap::new();
        let mut before = set.high_watermark();
        for event in events {
            let actions = match event {
                Event::Append(count) => {
                    end += count;
                    set.on_appended(Offset(end), now)
                }
                Event::Sync(at) => {
                    synced = synced.max(at.min(end));
                    set.on_synced(Offset(at.min(end)))
                }
                Event::Fetch(broker, at) => {
                    // A follower's word never goes back while a leader leads: it truncates before its first fetch.
                    let at = at.min(end).max(ends.get(&broker).copied().unwrap_or(0));
                    ends.insert(broker, at);
                    set.on_follower_fetch(&fetch(broker, at), now, LAG_MAX)
                }
                Event::Members(mut others) => {
                    // The controller lets in only who was proposed; anyone may be put out.
                    let allowed: Vec<i32> = set.maximal().map(|id| id.0).collect();
                    others.retain(|id| allowed.contains(id));
                    others.sort_unstable();
                    others.dedup();
                    epoch += 1;
                    set.on_membership(membership(epoch, &[2, 3, 4], &others), now)
                }
                Event::Rules(rule, min) => {
                    durability = rule;
                    set.on_rules(rule, min)
                }
                Event::Tick(seconds) => {
                    now += Duration::from_secs(seconds);
                    set.on_tick(now, LAG_MAX, |_| None)
                }
                Event::Fail(outcome) => set.on_proposal_failed(PartitionEpoch(epoch), outcome, now),
                Event::Fence(fenced) => set.on_brokers(|id| (id.0 != fenced).then_some(EPOCH)),
            };
            let high_watermark = set.high_watermark();
            prop_assert!(high_watermark >= before, "it never falls");
            prop_assert!(high_watermark <= Offset(end), "nor passes the end");
            if let Some(advanced) = actions.advanced {
                prop_assert_eq!(advanced, high_watermark);
                prop_assert!(set.members_count() >= set.min_in_sync());
                for member in set.maximal() {
                    let held = ends.get(&member.0).copied().unwrap_or(0);
                    prop_assert!(held >= advanced.0, "{:?} holds {} of {}", member, held, advanced);
                }
                if durability == Durability::Fsync {
                    prop_assert!(synced >= advanced.0);
                }
            }
            before = high_watermark;
        }
    }
}
