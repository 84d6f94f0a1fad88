//! All groups of one partition of `__consumer_offsets`, as a pure machine: requests, timers and what became of writes go
//! in; answers, one write per step and timers come out. It knows no clock, lock or log.
//!
//! What the log must hold first (offsets, assignments, deletions) changes here only through `replay`, in the order of
//! the log. So what any reader sees is durable, and equals what another broker would load.
//!
//! Turns: [`Machine::delete`], [`Machine::delete_offsets`] and [`Machine::expire`] decide by the offsets that are
//! there. The caller runs them when no earlier write is under way and appends their write at once; otherwise an offset
//! that is on its way to the log would survive its group.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::decide::{self, Answer, Draft, Effects, Now, Rules, Then, TimerKind, Write};
use super::records::{CommittedOffset, Record};
use super::state::{Group, Token};
use super::timers::Timers;
use super::*;

/// The groups of one shard. A client that names ever new groups reaches this and is told COORDINATOR_NOT_AVAILABLE.
pub const GROUPS_MAX: usize = 200_000;

/// The tombstones of one write when offsets expire or topics are deleted; more follow in further writes.
const TOMBSTONES_PER_WRITE_MAX: usize = 1_000;

pub struct Machine {
    pub(super) rules: Rules,
    pub(super) groups: BTreeMap<GroupId, Entry>,
    pub(super) timers: Timers,
    pub(super) phase: Phase,
    /// Counts the changes of committed offsets.
    pub(super) offsets_version: u64,
}

/// While loading, each record of a group replaces the group; afterwards it confirms what the group already is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Loading,
    Live,
}

#[derive(Debug)]
pub struct Entry {
    pub group: Group,
    pub offsets: BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>,
}

impl Entry {
    pub(super) fn new(now_ms: i64) -> Entry {
        Entry { group: Group::new(now_ms), offsets: BTreeMap::new() }
    }

    /// A group that was named but never came to be.
    pub(super) fn is_unused(&self) -> bool {
        self.group.is_unused() && self.offsets.is_empty()
    }
}

impl Machine {
    /// An empty machine that takes the records of the log.
    pub fn new(rules: Rules) -> Machine {
        Machine {
            rules,
            groups: BTreeMap::new(),
            timers: Timers::default(),
            phase: Phase::Loading,
            offsets_version: 0,
        }
    }

    /// The log has been read to its end: sessions start to run.
    pub fn finish_loading(&mut self, now: Now) -> Vec<Effects> {
        assert_eq!(self.phase, Phase::Loading, "a machine is loaded once");
        self.phase = Phase::Live;
        let loaded: Vec<GroupId> = self.groups.keys().cloned().collect();
        let mut effects = Vec::new();
        for group_id in loaded {
            effects.push(self.edit(&group_id, now, |draft| draft.on_loaded()).1);
        }
        effects
    }

    /// A number that another state of the committed offsets has not.
    pub fn offsets_version(&self) -> u64 {
        self.offsets_version
    }

    /// All that is committed, as records.
    pub fn committed_offsets(&self) -> impl Iterator<Item = Record> {
        self.groups.iter().flat_map(|(group_id, entry)| {
            entry.offsets.iter().flat_map(move |(topic, partitions)| {
                partitions.iter().map(move |(partition, committed)| Record::Offset {
                    group_id: group_id.clone(),
                    topic: topic.clone(),
                    partition: *partition,
                    value: Some(committed.clone()),
                })
            })
        })
    }

    fn group(&self, group_id: &str) -> Option<&Group> {
        self.entry(group_id).map(|entry| &entry.group)
    }

    fn entry(&self, group_id: &str) -> Option<&Entry> {
        self.groups.get(group_id).filter(|entry| !entry.is_unused())
    }

    /// Runs a decision on a draft of a group (a new one, if there is none) and puts the draft in place.
    fn edit<R>(
        &mut self,
        group_id: &GroupId,
        now: Now,
        decide: impl FnOnce(&mut Draft<'_>) -> R,
    ) -> (R, Effects) {
        let group = match self.groups.get(group_id) {
            Some(entry) => entry.group.clone(),
            None => Group::new(now.wall_ms),
        };
        let mut draft = Draft::new(group_id, group, now, &self.rules);
        let result = decide(&mut draft);
        let Draft { group, effects, .. } = draft;
        (result, self.install(group_id, group, effects, now))
    }

    pub fn join(&mut self, now: Now, token: Token, request: &JoinGroup, suffix: MemberIdSuffix) -> Effects {
        let refuse = |error| {
            let refused = JoinRefused { error, member_id: request.member_id.clone() };
            Effects::answer(token, Answer::Join(Err(refused)))
        };
        if request.group_id.is_empty() {
            return refuse(GroupError::InvalidGroupId);
        }
        let bounds = self.rules.session_timeout_ms_min..=self.rules.session_timeout_ms_max;
        if !bounds.contains(&request.session_timeout_ms) {
            return refuse(GroupError::InvalidSessionTimeout);
        }
        if !self.groups.contains_key(&request.group_id) {
            if !request.member_id.is_empty() {
                return refuse(GroupError::UnknownMemberId);
            }
            if self.groups.len() >= GROUPS_MAX {
                return refuse(GroupError::CoordinatorNotAvailable);
            }
        }
        self.edit(&request.group_id, now, |draft| draft.join(token, request, suffix)).1
    }

    pub fn sync(&mut self, now: Now, token: Token, request: SyncGroup) -> Effects {
        if let Err(error) = self.check_group(&request.group_id) {
            return Effects::answer(token, Answer::Sync(Err(error)));
        }
        let group_id = request.group_id.clone();
        self.edit(&group_id, now, |draft| draft.sync(token, request)).1
    }

    pub fn heartbeat(&mut self, now: Now, request: &Heartbeat) -> (Result<(), GroupError>, Effects) {
        if let Err(error) = self.check_group(&request.group_id) {
            return (Err(error), Effects::default());
        }
        self.edit(&request.group_id, now, |draft| draft.heartbeat(request))
    }

    pub fn leave(
        &mut self,
        now: Now,
        request: &LeaveGroup,
    ) -> (Result<Vec<LeftMember>, GroupError>, Effects) {
        match self.check_group(&request.group_id) {
            Ok(()) => self.edit(&request.group_id, now, |draft| draft.leave(&request.members)),
            // COMPAT: the members are unknown, not the request refused; a batch names each of them.
            Err(GroupError::UnknownMemberId) => {
                let left = |leaving: &LeavingMember| LeftMember {
                    member_id: leaving.member_id.clone(),
                    instance_id: leaving.instance_id.clone(),
                    result: Err(GroupError::UnknownMemberId),
                };
                (Ok(request.members.iter().map(left).collect()), Effects::default())
            }
            Err(error) => (Err(error), Effects::default()),
        }
    }

    fn check_group(&self, group_id: &str) -> Result<(), GroupError> {
        if group_id.is_empty() {
            return Err(GroupError::InvalidGroupId);
        }
        if self.group(group_id).is_none() {
            return Err(GroupError::UnknownMemberId);
        }
        Ok(())
    }

    /// The answer leaves with the write. COMPAT: an empty group id is a group like any other here and in `fetch`.
    pub fn commit(&mut self, now: Now, token: Token, request: &CommitOffsets) -> Effects {
        let refuse = |error| Effects::answer(token, Answer::Partitions(Err(error)));
        if !self.groups.contains_key(&request.group_id) && self.groups.len() >= GROUPS_MAX {
            return refuse(GroupError::CoordinatorNotAvailable);
        }
        let (records, results) =
            match decide::decide_commit(self.group(&request.group_id), request, now, &self.rules) {
                Ok(decided) => decided,
                Err(error) => return refuse(error),
            };
        // A commit shows that the member lives. While the generation completes commits are refused anyway.
        let mut effects = match self.group(&request.group_id) {
            Some(group) if group.member(&request.member_id).is_some() => {
                self.edit(&request.group_id, now, |draft| draft.renew_session(&request.member_id)).1
            }
            _ => Effects::default(),
        };
        let answer = (token, Answer::Partitions(Ok(results)));
        if records.is_empty() {
            effects.answers.push(answer);
        } else {
            let group_id = request.group_id.clone();
            effects.write = Some(Write { group_id, records, answers: vec![answer], then: Then::Nothing });
        }
        effects
    }

    pub fn fetch(&self, request: &FetchOffsets) -> Result<FetchedOffsets, GroupError> {
        let entry = self.entry(&request.group_id);
        if entry.is_some_and(|entry| entry.group.state == GroupState::Dead) {
            return Err(GroupError::GroupIdNotFound);
        }
        let fetched = |partition: i32, committed: Option<&CommittedOffset>| match committed {
            Some(committed) => FetchedOffset {
                partition,
                offset: committed.offset,
                leader_epoch: committed.leader_epoch,
                metadata: committed.metadata.clone(),
            },
            None => FetchedOffset { partition, offset: -1, leader_epoch: -1, metadata: "".into() },
        };
        let topics = match &request.topics {
            Some(topics) => topics
                .iter()
                .map(|(topic, partitions)| {
                    let known = entry.and_then(|entry| entry.offsets.get(topic));
                    let of =
                        |partition: &i32| fetched(*partition, known.and_then(|known| known.get(partition)));
                    (topic.clone(), partitions.iter().map(of).collect())
                })
                .collect(),
            None => entry
                .into_iter()
                .flat_map(|entry| &entry.offsets)
                .map(|(topic, partitions)| {
                    let of = |(partition, committed): (&i32, &CommittedOffset)| {
                        fetched(*partition, Some(committed))
                    };
                    (topic.clone(), partitions.iter().map(of).collect())
                })
                .collect(),
        };
        Ok(FetchedOffsets { topics })
    }

    pub fn describe(&self, group_id: &str) -> Result<DescribedGroup, GroupError> {
        let group = self.group(group_id).ok_or(GroupError::GroupIdNotFound)?;
        let protocol_name = group.protocol_name.clone().filter(|_| group.state == GroupState::Stable);
        let members = group
            .members
            .values()
            .map(|member| DescribedMember {
                member_id: member.id.clone(),
                instance_id: member.instance_id.clone(),
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                metadata: protocol_name.as_deref().map(|name| member.metadata(name)).unwrap_or_default(),
                assignment: protocol_name.as_ref().map(|_| member.assignment.clone()).unwrap_or_default(),
            })
            .collect();
        Ok(DescribedGroup {
            state: group.state,
            protocol_type: group.protocol_type.clone().unwrap_or_else(|| "".into()),
            protocol_name: protocol_name.unwrap_or_else(|| "".into()),
            members,
        })
    }

    pub fn list(&self) -> Vec<ListedGroup> {
        self.groups
            .iter()
            .filter(|(_, entry)| !entry.is_unused())
            .map(|(group_id, entry)| ListedGroup {
                group_id: group_id.clone(),
                protocol_type: entry.group.protocol_type.clone().unwrap_or_else(|| "".into()),
                state: entry.group.state,
            })
            .collect()
    }

    /// Needs its turn (see the head of this file).
    pub fn delete(&mut self, now: Now, token: Token, group_id: &GroupId) -> Effects {
        let refuse = |error| Effects::answer(token, Answer::Done(Err(error)));
        let Some(entry) = self.entry(group_id) else { return refuse(GroupError::GroupIdNotFound) };
        match entry.group.state {
            GroupState::Dead => return refuse(GroupError::GroupIdNotFound),
            GroupState::Empty => {}
            GroupState::PreparingRebalance | GroupState::CompletingRebalance | GroupState::Stable => {
                return refuse(GroupError::NonEmptyGroup);
            }
        }
        let mut records = all_tombstones(group_id, entry);
        records.push(Record::Group { group_id: group_id.clone(), value: None });
        self.bury(now, group_id, records, vec![(token, Answer::Done(Ok(())))])
    }

    /// Marks a group dead until its tombstone is durable: whoever joins meanwhile must come again.
    fn bury(
        &mut self,
        now: Now,
        group_id: &GroupId,
        records: Vec<Record>,
        answers: Vec<(Token, Answer)>,
    ) -> Effects {
        let mut effects =
            self.edit(group_id, now, |draft| draft.group.enter(GroupState::Dead, now.wall_ms)).1;
        effects.write = Some(Write { group_id: group_id.clone(), records, answers, then: Then::Deletion });
        effects
    }

    /// Needs its turn (see the head of this file).
    pub fn delete_offsets(&mut self, token: Token, request: &DeleteOffsets) -> Effects {
        let Some(entry) = self.entry(&request.group_id) else {
            return Effects::answer(token, Answer::Partitions(Err(GroupError::GroupIdNotFound)));
        };
        match decide::decide_delete_offsets(&entry.group, &entry.offsets, request) {
            Err(error) => Effects::answer(token, Answer::Partitions(Err(error))),
            Ok((records, results)) => {
                let answers = vec![(token, Answer::Partitions(Ok(results)))];
                if records.is_empty() {
                    return Effects { answers, ..Effects::default() };
                }
                let group_id = request.group_id.clone();
                Effects::write(Write { group_id, records, answers, then: Then::Nothing })
            }
        }
    }

    /// The groups that may have something to expire.
    pub fn expiry_candidates(&self, now: Now) -> Vec<GroupId> {
        self.groups
            .iter()
            .filter(|(group_id, entry)| {
                entry.group.state != GroupState::Dead
                    && (entry.offsets.is_empty() && entry.group.state == GroupState::Empty
                        || !decide::decide_expiry(group_id, &entry.group, &entry.offsets, now, &self.rules)
                            .is_empty())
            })
            .map(|(group_id, _)| group_id.clone())
            .collect()
    }

    /// Needs its turn. Writes the tombstones of expired offsets, and of the group when none is left and nobody is in it.
    /// Call again until it writes nothing.
    pub fn expire(&mut self, now: Now, group_id: &GroupId) -> Effects {
        let Some(entry) = self.groups.get(group_id) else { return Effects::default() };
        if entry.group.state == GroupState::Dead {
            return Effects::default();
        }
        let mut records = decide::decide_expiry(group_id, &entry.group, &entry.offsets, now, &self.rules);
        let offsets: usize = entry.offsets.values().map(BTreeMap::len).sum();
        let is_last = records.len() == offsets && records.len() <= TOMBSTONES_PER_WRITE_MAX;
        if is_last
            && !entry.is_unused()
            && let Some(tombstone) = decide::expired_group(group_id, &entry.group)
        {
            records.push(tombstone);
            return self.bury(now, group_id, records, Vec::new());
        }
        records.truncate(TOMBSTONES_PER_WRITE_MAX);
        write_tombstones(group_id, records)
    }

    /// The groups that have offsets of a topic.
    pub fn groups_with_offsets_of(&self, topic: &str) -> Vec<GroupId> {
        let has = |entry: &Entry| entry.offsets.contains_key(topic);
        self.groups.iter().filter(|(_, entry)| has(entry)).map(|(group_id, _)| group_id.clone()).collect()
    }

    /// Needs its turn. Forgets the offsets of a deleted topic, as a topic made later with its name starts anew. Call
    /// again until it writes nothing.
    pub fn forget_topic(&mut self, group_id: &GroupId, topic: &Arc<str>) -> Effects {
        let Some(partitions) = self.groups.get(group_id).and_then(|entry| entry.offsets.get(topic)) else {
            return Effects::default();
        };
        let tombstones = partitions.keys().map(|partition| decide::tombstone(group_id, topic, *partition));
        write_tombstones(group_id, tombstones.take(TOMBSTONES_PER_WRITE_MAX).collect())
    }

    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.timers.next_deadline_ms()
    }

    /// Handles the earliest timer that is due; `None` if none is.
    pub fn on_timer(&mut self, now: Now) -> Option<Effects> {
        let (group_id, kind) = self.timers.pop_due(now.ms)?;
        if !self.groups.contains_key(&group_id) {
            return Some(Effects::default());
        }
        let decide = |draft: &mut Draft<'_>| match &kind {
            TimerKind::Rebalance => draft.on_rebalance_timer(),
            TimerKind::Sync => draft.on_sync_timer(),
            TimerKind::Assignment => draft.on_assignment_timer(),
            TimerKind::Session(member_id) => draft.on_session_timer(member_id),
        };
        Some(self.edit(&group_id, now, decide).1)
    }

    /// The records of a write are durable. Called in the order of the log.
    pub fn on_stored(&mut self, now: Now, write: Write) -> Effects {
        let Write { group_id, records, answers, then } = write;
        for record in records {
            self.replay(record);
        }
        let mut effects = match then {
            Then::Nothing | Then::Deletion => Effects::default(),
            Then::Assignment { generation } => {
                self.edit(&group_id, now, |draft| draft.on_assignment_stored(generation)).1
            }
        };
        effects.answers.extend(answers);
        effects
    }

    /// The records of a write could not be written.
    pub fn on_lost(&mut self, now: Now, write: Write, error: GroupError) -> Effects {
        let Write { group_id, answers, then, .. } = write;
        let mut effects = match then {
            Then::Nothing => Effects::default(),
            Then::Assignment { generation } => {
                self.edit(&group_id, now, |draft| draft.on_assignment_lost(generation, error)).1
            }
            Then::Deletion => {
                self.edit(&group_id, now, |draft| draft.group.enter(GroupState::Empty, now.wall_ms)).1
            }
        };
        effects.answers.extend(answers.into_iter().map(|(token, answer)| (token, refused(answer, error))));
        effects
    }
}

fn refused(answer: Answer, error: GroupError) -> Answer {
    match answer {
        Answer::Join(Ok(joined)) => Answer::Join(Err(JoinRefused { error, member_id: joined.member_id })),
        Answer::Join(Err(refused)) => Answer::Join(Err(refused)),
        Answer::Sync(_) => Answer::Sync(Err(error)),
        Answer::Partitions(_) => Answer::Partitions(Err(error)),
        Answer::Done(_) => Answer::Done(Err(error)),
    }
}

fn all_tombstones(group_id: &GroupId, entry: &Entry) -> Vec<Record> {
    let of_topic = |(topic, partitions): (&Arc<str>, &BTreeMap<i32, CommittedOffset>)| {
        let topic = topic.clone();
        let partitions: Vec<i32> = partitions.keys().copied().collect();
        partitions.into_iter().map(move |partition| decide::tombstone(group_id, &topic, partition))
    };
    entry.offsets.iter().flat_map(of_topic).collect()
}

fn write_tombstones(group_id: &GroupId, records: Vec<Record>) -> Effects {
    if records.is_empty() {
        return Effects::default();
    }
    Effects::write(Write { group_id: group_id.clone(), records, answers: Vec::new(), then: Then::Nothing })
}

#[cfg(test)]
#[path = "machine_test/mod.rs"]
mod tests;
