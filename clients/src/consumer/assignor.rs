//! How a group's leader divides partitions among members: `range` and `cooperative-sticky`, as Java clients do, so that
//! members of both kinds can be in one group.
//!
//! Pure functions of the members' subscriptions and the topics' partition counts; every order is by name, so the same
//! input gives the same assignment on every leader.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as AssignedTopic;
use kafka_protocol::messages::consumer_protocol_subscription::TopicPartition as OwnedTopic;
use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription};
use kafka_protocol::protocol::Encodable;

use crate::admin::TopicPartition;
use crate::wire::text;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Assignor {
    Range,
    CooperativeSticky,
}

impl Assignor {
    /// The name in JoinGroup; members of one group agree on it.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::CooperativeSticky => "cooperative-sticky",
        }
    }

    pub fn from_name(name: &str) -> Option<Assignor> {
        [Assignor::Range, Assignor::CooperativeSticky].into_iter().find(|a| a.name() == name)
    }

    pub fn assign(self, members: &Subscriptions, partitions: &BTreeMap<String, i32>) -> Assignment {
        match self {
            Assignor::Range => range(members, partitions),
            Assignor::CooperativeSticky => cooperative_sticky(members, partitions),
        }
    }
}

/// What one member wants and has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subscription {
    pub topics: BTreeSet<String>,
    pub owned: BTreeSet<TopicPartition>,
    /// The generation in which it got what it owns; -1 when it never had any.
    pub generation: i32,
    pub instance_id: Option<String>,
}

/// By member id.
pub type Subscriptions = BTreeMap<String, Subscription>;
/// By member id; every member has an entry.
pub type Assignment = BTreeMap<String, BTreeSet<TopicPartition>>;

/// Members in the order in which the range assignor counts them: static ones by instance id before the others.
fn range_order<'a>(members: &'a Subscriptions, topic: &str) -> Vec<&'a String> {
    let mut order: Vec<(&String, &Subscription)> =
        members.iter().filter(|(_, s)| s.topics.contains(topic)).collect();
    order.sort_by(|(a_id, a), (b_id, b)| match (&a.instance_id, &b.instance_id) {
        (Some(x), Some(y)) => x.cmp(y),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => a_id.cmp(b_id),
    });
    order.into_iter().map(|(id, _)| id).collect()
}

fn range(members: &Subscriptions, partitions: &BTreeMap<String, i32>) -> Assignment {
    let mut assignment: Assignment = members.keys().map(|id| (id.clone(), BTreeSet::new())).collect();
    for (topic, count) in partitions {
        let order = range_order(members, topic);
        if order.is_empty() {
            continue;
        }
        let each = *count as usize / order.len();
        let extra = *count as usize % order.len();
        let mut next = 0i32;
        for (at, member) in order.into_iter().enumerate() {
            let share = each + usize::from(at < extra);
            let set = assignment.entry(member.clone()).or_default();
            for _ in 0..share {
                set.insert((topic.clone(), next));
                next += 1;
            }
        }
    }
    assignment
}

/// Keeps what members have as far as balance allows, then hands out the rest to whoever has least.
///
/// A partition that has to move is given to nobody in this round: its owner must stop first. It learns from its
/// assignment that it lost the partition, joins again, and the next round hands it out (KIP-429).
fn cooperative_sticky(members: &Subscriptions, partitions: &BTreeMap<String, i32>) -> Assignment {
    let owners = current_owners(members, partitions);
    let mut target = balanced(members, partitions, &owners);
    for (member, set) in &mut target {
        set.retain(|partition| owners.get(partition).is_none_or(|owner| owner == member));
    }
    target
}

/// Who owns what, as far as it still exists and is subscribed to. Where two members claim the same partition the later
/// generation is right; two claims of one generation are both void, as nobody can know which is stale.
fn current_owners(
    members: &Subscriptions,
    partitions: &BTreeMap<String, i32>,
) -> BTreeMap<TopicPartition, String> {
    let mut claims: BTreeMap<TopicPartition, (i32, Option<&String>)> = BTreeMap::new();
    for (member, subscription) in members {
        for partition in &subscription.owned {
            let exists = partitions.get(&partition.0).is_some_and(|count| (0..*count).contains(&partition.1));
            if !exists || !subscription.topics.contains(&partition.0) {
                continue;
            }
            let claim = (subscription.generation, Some(member));
            claims
                .entry(partition.clone())
                .and_modify(|held| {
                    if held.0 < claim.0 {
                        *held = claim;
                    } else if held.0 == claim.0 {
                        held.1 = None;
                    }
                })
                .or_insert(claim);
        }
    }
    claims.into_iter().filter_map(|(partition, (_, member))| Some((partition, member?.clone()))).collect()
}

fn balanced(
    members: &Subscriptions,
    partitions: &BTreeMap<String, i32>,
    owners: &BTreeMap<TopicPartition, String>,
) -> Assignment {
    let mut assignment: Assignment = members.keys().map(|id| (id.clone(), BTreeSet::new())).collect();
    for (partition, owner) in owners {
        if let Some(set) = assignment.get_mut(owner) {
            set.insert(partition.clone());
        }
    }
    let eligible = |topic: &str| -> Vec<&String> {
        members.iter().filter(|(_, s)| s.topics.contains(topic)).map(|(id, _)| id).collect()
    };
    let by_topic: BTreeMap<&str, Vec<&String>> =
        partitions.keys().map(|topic| (topic.as_str(), eligible(topic))).collect();
    for (topic, count) in partitions {
        for index in 0..*count {
            let partition = (topic.clone(), index);
            if owners.contains_key(&partition) {
                continue;
            }
            let least = by_topic[topic.as_str()].iter().min_by_key(|id| assignment[id.as_str()].len());
            if let Some(member) = least {
                assignment.entry((*member).clone()).or_default().insert(partition);
            }
        }
    }
    // Each move takes from one who has at least two more than the receiver, so the sum of squares falls and it ends.
    while let Some((partition, from, to)) = find_move(&assignment, &by_topic) {
        if let Some(set) = assignment.get_mut(&from) {
            set.remove(&partition);
        }
        assignment.entry(to).or_default().insert(partition);
    }
    assignment
}

fn find_move(
    assignment: &Assignment,
    eligible: &BTreeMap<&str, Vec<&String>>,
) -> Option<(TopicPartition, String, String)> {
    let mut givers: Vec<(&String, &BTreeSet<TopicPartition>)> = assignment.iter().collect();
    givers.sort_by_key(|(id, set)| (std::cmp::Reverse(set.len()), (*id).clone()));
    for (from, set) in givers {
        for partition in set.iter().rev() {
            let receivers = eligible.get(partition.0.as_str())?;
            let to = receivers.iter().min_by_key(|id| assignment[id.as_str()].len())?;
            if assignment[to.as_str()].len() + 2 <= set.len() {
                return Some((partition.clone(), from.clone(), (*to).clone()));
            }
        }
    }
    None
}

/// The newest version of the consumer protocol that this client writes (owned partitions, generation).
const PROTOCOL_VERSION: i16 = 2;

/// A subscription as JoinGroup carries it.
pub fn encode_subscription(
    assignor: Assignor,
    subscription: &Subscription,
) -> Result<Bytes, crate::error::ClientError> {
    let mut owned: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in &subscription.owned {
        owned.entry(topic).or_default().push(*partition);
    }
    let user_data = match assignor {
        Assignor::Range => None,
        // Java's cooperative-sticky keeps the generation here as well, for clients of before version 2.
        Assignor::CooperativeSticky => Some(Bytes::copy_from_slice(&subscription.generation.to_be_bytes())),
    };
    let message = ConsumerProtocolSubscription::default()
        .with_topics(subscription.topics.iter().map(|t| text(t)).collect())
        .with_user_data(user_data)
        .with_owned_partitions(
            owned
                .into_iter()
                .map(|(topic, partitions)| {
                    OwnedTopic::default().with_topic(text(topic).into()).with_partitions(partitions)
                })
                .collect(),
        )
        .with_generation_id(subscription.generation);
    encode_versioned(&message)
}

/// Reads what another member sent; None if it can't be read.
pub fn decode_subscription(bytes: &Bytes) -> Option<Subscription> {
    let version = i16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]);
    let message: ConsumerProtocolSubscription =
        crate::wire::decode(&bytes.slice(2..), version.clamp(0, 3)).ok()?;
    let mut generation = message.generation_id;
    if version < 2 {
        let told = message.user_data.as_ref().and_then(|data| data.get(..4));
        generation = told.map_or(-1, |b| i32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    }
    Some(Subscription {
        topics: message.topics.iter().map(|t| t.to_string()).collect(),
        owned: message
            .owned_partitions
            .iter()
            .flat_map(|t| t.partitions.iter().map(|p| (t.topic.to_string(), *p)))
            .collect(),
        generation,
        instance_id: None,
    })
}

/// One member's share as SyncGroup carries it.
pub fn encode_assignment(partitions: &BTreeSet<TopicPartition>) -> Result<Bytes, crate::error::ClientError> {
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in partitions {
        by_topic.entry(topic).or_default().push(*partition);
    }
    let message = ConsumerProtocolAssignment::default().with_assigned_partitions(
        by_topic
            .into_iter()
            .map(|(topic, partitions)| {
                AssignedTopic::default().with_topic(text(topic).into()).with_partitions(partitions)
            })
            .collect(),
    );
    encode_versioned(&message)
}

fn encode_versioned<M: Encodable>(message: &M) -> Result<Bytes, crate::error::ClientError> {
    let mut bytes = BytesMut::new();
    bytes.put_i16(PROTOCOL_VERSION);
    message
        .encode(&mut bytes, PROTOCOL_VERSION)
        .map_err(|e| crate::error::ClientError::Invalid(format!("consumer protocol: {e}")))?;
    Ok(bytes.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(topics: &[&str], owned: &[(&str, i32)], generation: i32) -> Subscription {
        Subscription {
            topics: topics.iter().map(|t| t.to_string()).collect(),
            owned: owned.iter().map(|(t, p)| (t.to_string(), *p)).collect(),
            generation,
            instance_id: None,
        }
    }

    fn group(members: &[(&str, Subscription)]) -> Subscriptions {
        members.iter().map(|(id, s)| (id.to_string(), s.clone())).collect()
    }

    fn topics(counts: &[(&str, i32)]) -> BTreeMap<String, i32> {
        counts.iter().map(|(t, n)| (t.to_string(), *n)).collect()
    }

    fn owned(assignment: &Assignment, id: &str) -> Vec<(String, i32)> {
        assignment[id].iter().cloned().collect()
    }

    fn part(topic: &str, index: i32) -> (String, i32) {
        (topic.to_owned(), index)
    }

    /// Every partition of a subscribed topic has exactly one owner, and no two members differ by more than one.
    fn assert_complete_and_balanced(assignment: &Assignment, partitions: &BTreeMap<String, i32>) {
        let mut all: Vec<&TopicPartition> = assignment.values().flatten().collect();
        all.sort();
        let expected: Vec<TopicPartition> =
            partitions.iter().flat_map(|(t, n)| (0..*n).map(move |p| (t.clone(), p))).collect();
        assert_eq!(all, expected.iter().collect::<Vec<_>>());
        let sizes: Vec<usize> = assignment.values().map(|s| s.len()).collect();
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        assert!(most - least <= 1, "{sizes:?}");
    }

    #[test]
    fn range_gives_each_topic_in_runs() {
        let members = group(&[("a", member(&["t", "u"], &[], -1)), ("b", member(&["t", "u"], &[], -1))]);
        let assignment = Assignor::Range.assign(&members, &topics(&[("t", 3), ("u", 3)]));
        assert_eq!(owned(&assignment, "a"), [part("t", 0), part("t", 1), part("u", 0), part("u", 1)]);
        assert_eq!(owned(&assignment, "b"), [part("t", 2), part("u", 2)]);
    }

    #[test]
    fn range_counts_only_subscribers_and_static_members_first() {
        let mut late = member(&["t"], &[], -1);
        late.instance_id = Some("1".to_owned());
        let members = group(&[("a", member(&["t"], &[], -1)), ("b", member(&["u"], &[], -1)), ("z", late)]);
        let assignment = Assignor::Range.assign(&members, &topics(&[("t", 3), ("u", 1)]));
        assert_eq!(owned(&assignment, "z"), [part("t", 0), part("t", 1)]);
        assert_eq!(owned(&assignment, "a"), [part("t", 2)]);
        assert_eq!(owned(&assignment, "b"), [part("u", 0)]);
    }

    #[test]
    fn range_with_more_members_than_partitions_leaves_some_idle() {
        let members = group(&[("a", member(&["t"], &[], -1)), ("b", member(&["t"], &[], -1))]);
        let assignment = Assignor::Range.assign(&members, &topics(&[("t", 1)]));
        assert_eq!(owned(&assignment, "a"), [part("t", 0)]);
        assert!(owned(&assignment, "b").is_empty());
    }

    #[test]
    fn sticky_from_nothing_is_complete_and_balanced() {
        let members = group(&[
            ("a", member(&["t", "u"], &[], -1)),
            ("b", member(&["t", "u"], &[], -1)),
            ("c", member(&["t", "u"], &[], -1)),
        ]);
        let partitions = topics(&[("t", 7), ("u", 4)]);
        assert_complete_and_balanced(&Assignor::CooperativeSticky.assign(&members, &partitions), &partitions);
    }

    #[test]
    fn sticky_moves_only_what_must_and_in_two_rounds() {
        let partitions = topics(&[("t", 6)]);
        let all: Vec<(&str, i32)> = (0..6).map(|p| ("t", p)).collect();
        let mut members = group(&[("a", member(&["t"], &all, 1)), ("b", member(&["t"], &[], -1))]);
        let first = Assignor::CooperativeSticky.assign(&members, &partitions);
        assert_eq!(owned(&first, "a").len(), 3, "the owner gives up what is too much");
        assert!(owned(&first, "b").is_empty(), "nothing moves while its owner may still read it");
        for (id, set) in &first {
            let member = members.get_mut(id).unwrap();
            member.owned = set.clone();
            member.generation = 2;
        }
        let second = Assignor::CooperativeSticky.assign(&members, &partitions);
        assert_eq!(second["a"], first["a"], "what stayed is not touched again");
        assert_complete_and_balanced(&second, &partitions);
    }

    #[test]
    fn sticky_hands_a_leavers_partitions_to_the_others_at_once() {
        let members = group(&[
            ("a", member(&["t"], &[("t", 0), ("t", 1)], 4)),
            ("b", member(&["t"], &[("t", 2), ("t", 3)], 4)),
        ]);
        let partitions = topics(&[("t", 6)]);
        let assignment = Assignor::CooperativeSticky.assign(&members, &partitions);
        assert!(assignment["a"].is_superset(&members["a"].owned));
        assert!(assignment["b"].is_superset(&members["b"].owned));
        assert_complete_and_balanced(&assignment, &partitions);
    }

    #[test]
    fn a_claim_of_an_older_generation_is_void() {
        let members =
            group(&[("a", member(&["t"], &[("t", 0)], 3)), ("b", member(&["t"], &[("t", 0), ("t", 1)], 5))]);
        let owners = current_owners(&members, &topics(&[("t", 2)]));
        assert_eq!(owners[&part("t", 0)], "b");
        let equal = group(&[("a", member(&["t"], &[("t", 0)], 5)), ("b", member(&["t"], &[("t", 0)], 5))]);
        assert!(current_owners(&equal, &topics(&[("t", 2)])).is_empty());
    }

    #[test]
    fn sticky_with_different_subscriptions_stays_within_them() {
        let members = group(&[
            ("a", member(&["t"], &[], -1)),
            ("b", member(&["t", "u"], &[], -1)),
            ("c", member(&["u"], &[], -1)),
        ]);
        let partitions = topics(&[("t", 4), ("u", 2)]);
        let assignment = Assignor::CooperativeSticky.assign(&members, &partitions);
        assert_complete_and_balanced(&assignment, &partitions);
        assert!(assignment["a"].iter().all(|(t, _)| t == "t"));
        assert!(assignment["c"].iter().all(|(t, _)| t == "u"));
    }

    #[test]
    fn topics_that_are_gone_are_not_assigned() {
        let members = group(&[("a", member(&["t", "gone"], &[("gone", 0), ("t", 9)], 2))]);
        let assignment = Assignor::CooperativeSticky.assign(&members, &topics(&[("t", 1)]));
        assert_eq!(owned(&assignment, "a"), [part("t", 0)]);
    }

    #[test]
    fn the_consumer_protocol_survives_a_round_trip() {
        let subscription = member(&["t", "u"], &[("t", 0), ("t", 2), ("u", 1)], 7);
        for assignor in [Assignor::Range, Assignor::CooperativeSticky] {
            let bytes = encode_subscription(assignor, &subscription).unwrap();
            assert_eq!(decode_subscription(&bytes).unwrap(), subscription);
        }
        let bytes = encode_assignment(&subscription.owned).unwrap();
        let read: BTreeSet<TopicPartition> =
            crate::admin::read_assignment(&bytes).unwrap().into_iter().collect();
        assert_eq!(read, subscription.owned);
        for length in 0..bytes.len() {
            // Must not panic; most prefixes are unreadable.
            let _ = crate::admin::read_assignment(&bytes.slice(..length));
        }
    }
}
