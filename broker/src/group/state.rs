//! The state of one group: its members and how far its rebalance is. A value: cloning shares what does not change.
//!
//! `decide` reads a group and edits a clone of it; only `replay` puts the result in place. Invariants:
//! - `awaiting_join` counts the members with a parked JoinGroup;
//! - `support` counts, for each protocol name, the members that know it;
//! - `static_members` names exactly the members with an instance id;
//! - `leader` is a member whenever there are members.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

use super::records::{GroupValue, MemberValue};
use super::{GroupState, InstanceId, JoinedMember, MemberId, Protocol};

/// Names a parked request; the runtime knows whom it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Kafka's name of the protocol type whose subscriptions the broker may read.
const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

#[derive(Clone, Debug)]
pub struct Group {
    pub state: GroupState,
    /// The state before `state`: a rebalance that began in Empty waits for more members (KIP-134).
    pub previous: GroupState,
    /// When `state` was entered, wall clock in milliseconds; absent for groups loaded from old records.
    pub state_since_ms: Option<i64>,
    pub generation: i32,
    pub protocol_type: Option<Arc<str>>,
    pub protocol_name: Option<Arc<str>>,
    pub leader: Option<MemberId>,
    pub members: OrdMap<MemberId, Arc<Member>>,
    pub static_members: OrdMap<InstanceId, MemberId>,
    /// Ids given out (KIP-394) whose owners have not joined with them yet.
    pub pending_members: OrdSet<MemberId>,
    /// Members of this generation whose SyncGroup has not arrived.
    pub pending_sync: OrdSet<MemberId>,
    pub support: OrdMap<Arc<str>, usize>,
    pub awaiting_join: usize,
    /// A member came while the first rebalance waits; the wait may be extended.
    pub new_member_added: bool,
    /// How much longer the first rebalance may be extended after the running wait.
    pub initial_wait: InitialWait,
    /// The topics that members subscribe to; `None` if the broker cannot tell.
    pub subscribed_topics: Option<Arc<BTreeSet<Arc<str>>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InitialWait {
    pub delay_ms: u64,
    pub remaining_ms: u64,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub protocols: Vec<Protocol>,
    pub assignment: Bytes,
    /// It has never seen a generation; its session timeout does not run yet.
    pub is_new: bool,
    pub awaiting_join: Option<Token>,
    pub awaiting_sync: Option<Token>,
}

impl Member {
    pub fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|known| &*known.name == protocol)
            .map(|known| known.metadata.clone())
            .unwrap_or_default()
    }
}

impl Group {
    pub fn new(now_ms: i64) -> Group {
        Group {
            state: GroupState::Empty,
            previous: GroupState::Empty,
            state_since_ms: Some(now_ms),
            generation: 0,
            protocol_type: None,
            protocol_name: None,
            leader: None,
            members: OrdMap::new(),
            static_members: OrdMap::new(),
            pending_members: OrdSet::new(),
            pending_sync: OrdSet::new(),
            support: OrdMap::new(),
            awaiting_join: 0,
            new_member_added: false,
            initial_wait: InitialWait::default(),
            subscribed_topics: None,
        }
    }

    /// The group that a record describes: stable with its members, or empty.
    pub fn from_value(value: GroupValue) -> Group {
        let state = if value.members.is_empty() { GroupState::Empty } else { GroupState::Stable };
        let mut group = Group::new(0);
        group.state = state;
        group.previous = state;
        group.state_since_ms = value.state_since_ms;
        group.generation = value.generation;
        // An empty type stands for a group of committed offsets only, which has none.
        group.protocol_type = Some(value.protocol_type).filter(|name| !name.is_empty());
        group.protocol_name = value.protocol;
        for member in value.members {
            let protocol = group.protocol_name.clone().unwrap_or_else(|| "".into());
            group.insert(Member {
                id: member.member_id,
                instance_id: member.instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                session_timeout_ms: member.session_timeout_ms,
                protocols: vec![Protocol { name: protocol, metadata: member.subscription }],
                assignment: member.assignment,
                is_new: false,
                awaiting_join: None,
                awaiting_sync: None,
            });
        }
        if let Some(leader) = value.leader.filter(|leader| group.members.contains_key(leader)) {
            group.leader = Some(leader);
        }
        group.subscribed_topics = group.compute_subscribed_topics();
        group
    }

    /// What the log keeps of this group.
    pub fn to_value(&self, assignment: impl Fn(&Member) -> Bytes) -> GroupValue {
        let protocol = self.protocol_name.clone();
        GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_else(|| "".into()),
            generation: self.generation,
            leader: self.leader.clone(),
            state_since_ms: self.state_since_ms,
            members: self
                .members
                .values()
                .map(|member| MemberValue {
                    member_id: member.id.clone(),
                    instance_id: member.instance_id.clone(),
                    client_id: member.client_id.clone(),
                    client_host: member.client_host.clone(),
                    rebalance_timeout_ms: member.rebalance_timeout_ms,
                    session_timeout_ms: member.session_timeout_ms,
                    subscription: protocol.as_deref().map(|name| member.metadata(name)).unwrap_or_default(),
                    assignment: assignment(member),
                })
                .collect(),
            protocol,
        }
    }

    pub fn enter(&mut self, state: GroupState, now_ms: i64) {
        self.previous = self.state;
        self.state = state;
        self.state_since_ms = Some(now_ms);
    }

    pub fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub fn member(&self, member_id: &str) -> Option<&Arc<Member>> {
        self.members.get(member_id)
    }

    /// Edits a member; the caller keeps the counters right.
    pub fn member_mut(&mut self, member_id: &str) -> Option<&mut Member> {
        self.members.get_mut(member_id).map(Arc::make_mut)
    }

    /// Adds a member that is not there yet.
    pub fn insert(&mut self, member: Member) {
        assert!(!self.members.contains_key(&member.id), "member {} is added twice", member.id);
        self.leader.get_or_insert_with(|| member.id.clone());
        if let Some(instance_id) = &member.instance_id {
            self.static_members.insert(instance_id.clone(), member.id.clone());
        }
        self.count_support(&member.protocols, Count::Up);
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        self.pending_members.remove(&member.id);
        self.members.insert(member.id.clone(), Arc::new(member));
    }

    /// Takes out a member, or an id that was only given out. Parked requests of the member are the caller's to answer.
    pub fn remove(&mut self, member_id: &str) -> Option<Arc<Member>> {
        self.pending_members.remove(member_id);
        self.pending_sync.remove(member_id);
        let member = self.members.remove(member_id)?;
        self.awaiting_join -= usize::from(member.awaiting_join.is_some());
        self.count_support(&member.protocols, Count::Down);
        if let Some(instance_id) = &member.instance_id {
            self.static_members.remove(instance_id);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        Some(member)
    }

    /// Parks a member's JoinGroup (or takes it back), and returns what was parked before.
    pub fn park_join(&mut self, member_id: &str, token: Option<Token>) -> Option<Token> {
        let member = self.member_mut(member_id)?;
        let before = std::mem::replace(&mut member.awaiting_join, token);
        self.awaiting_join =
            self.awaiting_join + usize::from(token.is_some()) - usize::from(before.is_some());
        before
    }

    pub fn set_protocols(&mut self, member_id: &str, protocols: Vec<Protocol>) {
        let Some(member) = self.members.get(member_id).cloned() else { return };
        self.count_support(&member.protocols, Count::Down);
        self.count_support(&protocols, Count::Up);
        if let Some(member) = self.member_mut(member_id) {
            member.protocols = protocols;
        }
    }

    fn count_support(&mut self, protocols: &[Protocol], count: Count) {
        // A name given twice counts once, or a member could vote for two.
        let names: BTreeSet<&Arc<str>> = protocols.iter().map(|protocol| &protocol.name).collect();
        for name in names {
            let known = self.support.get(name).copied().unwrap_or(0);
            match count {
                Count::Up => self.support.insert(name.clone(), known + 1),
                Count::Down if known <= 1 => self.support.remove(name),
                Count::Down => self.support.insert(name.clone(), known - 1),
            };
        }
    }

    /// Whether a member with these protocols may be in the group.
    pub fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.members.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|protocol| self.support.get(&protocol.name) == Some(&self.members.len()))
    }

    /// The protocol with the most votes: each member votes for the first of its own that all members know. Of equal
    /// ones wins the name that sorts first (Kafka leaves it to the order of a hash map).
    pub fn select_protocol(&self) -> Arc<str> {
        let all = self.members.len();
        let mut votes: std::collections::BTreeMap<&Arc<str>, usize> = Default::default();
        for member in self.members.values() {
            let vote =
                member.protocols.iter().find(|protocol| self.support.get(&protocol.name) == Some(&all));
            if let Some(protocol) = vote {
                *votes.entry(&protocol.name).or_default() += 1;
            }
        }
        // The first of the largest: `max_by_key` alone would take the last.
        let selected = votes.iter().rev().max_by_key(|(_, count)| **count).map(|(name, _)| Arc::clone(name));
        let Some(selected) = selected else {
            panic!("a group of {all} members has no protocol that all know: joins are checked against that");
        };
        selected
    }

    pub fn has_all_joined(&self) -> bool {
        self.members.len() <= self.awaiting_join && self.pending_members.is_empty()
    }

    /// The longest rebalance timeout of the members.
    pub fn rebalance_timeout_ms(&self) -> u64 {
        let longest = self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0);
        u64::try_from(longest).unwrap_or(0)
    }

    /// What the leader needs to assign: all members and their metadata for the selected protocol.
    pub fn joined_members(&self) -> Vec<JoinedMember> {
        let protocol = self.protocol_name.as_deref().unwrap_or("");
        self.members
            .values()
            .map(|member| JoinedMember {
                member_id: member.id.clone(),
                instance_id: member.instance_id.clone(),
                metadata: member.metadata(protocol),
            })
            .collect()
    }

    /// The topics that the members consume, from their subscriptions; `None` if this is no group of consumers or one of
    /// them cannot be read.
    pub fn compute_subscribed_topics(&self) -> Option<Arc<BTreeSet<Arc<str>>>> {
        if !self.is_consumer_group() {
            return None;
        }
        if self.members.is_empty() {
            return Some(Arc::default());
        }
        let protocol = self.protocol_name.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            super::subscription::read_topics(&member.metadata(protocol), &mut topics)?;
        }
        Some(Arc::new(topics))
    }

    pub fn is_consumer_group(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    pub fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            // Not knowing means possibly subscribed.
            None => self.is_consumer_group(),
        }
    }

    /// Nobody would notice if the group were forgotten (its offsets are looked at elsewhere).
    pub fn is_unused(&self) -> bool {
        self.state == GroupState::Empty
            && self.generation == 0
            && self.members.is_empty()
            && self.pending_members.is_empty()
    }
}

enum Count {
    Up,
    Down,
}
