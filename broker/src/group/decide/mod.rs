//! Deciding: reads the state of a group and `now`, and returns what shall be. No clock, socket, lock or log here.
//!
//! A [`Draft`] holds a clone of the group (persistent maps: nothing is copied until it changes) and collects what the
//! decision brings with it: answers to parked requests, one write to the log, timers. `replay` puts the draft in place.
//! What the log must hold before anyone may rely on it (assignments, offsets, deletions) is not in the draft: it is in
//! the write, and `replay` applies it once it is durable.

use std::sync::Arc;

use ottla_batch::TimestampMs;

use super::records::Record;
use super::state::{Group, Member, Token};
use super::{GroupError, GroupId, GroupState, JoinRefused, Joined, MemberId, PartitionResults, Synced};

mod join;
mod membership;
mod offsets;
mod rebalance;
mod sync;

pub use offsets::{decide_commit, decide_delete_offsets, decide_expiry, expired_group, tombstone};

/// The time as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall clock, milliseconds: what is written into records.
    pub wall_ms: i64,
    /// Milliseconds of a clock that never goes back: what timers run on.
    pub ms: u64,
}

impl Now {
    pub fn timestamp(self) -> TimestampMs {
        TimestampMs(self.wall_ms)
    }
}

/// The bounds and delays in force (Kafka's `group.*` and `offset*` configs).
#[derive(Clone, Debug)]
pub struct Rules {
    pub session_timeout_ms_min: i32,
    pub session_timeout_ms_max: i32,
    pub members_max: usize,
    pub initial_rebalance_delay_ms: u64,
    pub metadata_bytes_max: usize,
    pub retention_ms: i64,
    /// `offsets.commit.timeout.ms`: how long an answer waits for the log.
    pub log_wait_ms_max: u64,
}

/// How long a member that never saw a generation may wait in a JoinGroup. Its client may have gone unnoticed, and
/// would otherwise stay in the group for as long as the rebalance lasts (Kafka's NewMemberJoinTimeoutMs).
pub const NEW_MEMBER_JOIN_TIMEOUT_MS: u64 = 5 * 60 * 1000;

/// Ids given out in one group and not used yet. Each expires after its session timeout; a client that only asks for
/// ids gets no further than this.
pub const PENDING_MEMBERS_MAX: usize = 10_000;

/// The answer to a request that was parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Join(Result<Joined, JoinRefused>),
    Sync(Result<Synced, GroupError>),
    Partitions(Result<PartitionResults, GroupError>),
    Done(Result<(), GroupError>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// The end of the wait for members to join.
    Rebalance,
    /// The end of the wait for members to sync.
    Sync,
    /// The end of the wait for the log to take the leader's assignment.
    Assignment,
    /// The session of a member, or the time an unused member id is kept.
    Session(MemberId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimerChange {
    /// Replaces the timer of this kind, if there is one. The deadline is in the time of [`Now::ms`].
    Arm(TimerKind, u64),
    Cancel(TimerKind),
}

/// Records that belong together, and what follows when they are durable or could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub group_id: GroupId,
    pub records: Vec<Record>,
    /// Leave when the records are durable.
    pub answers: Vec<(Token, Answer)>,
    pub then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    /// The records hold the assignment of this generation: its members may be told.
    Assignment {
        generation: i32,
    },
    /// The records delete the group, which was marked dead: if they could not be written it lives on.
    Deletion,
}

#[derive(Clone, Debug, Default)]
pub struct Effects {
    pub answers: Vec<(Token, Answer)>,
    pub write: Option<Write>,
    pub timers: Vec<TimerChange>,
}

impl Effects {
    pub fn answer(token: Token, answer: Answer) -> Effects {
        Effects { answers: vec![(token, answer)], ..Effects::default() }
    }

    pub fn write(write: Write) -> Effects {
        Effects { write: Some(write), ..Effects::default() }
    }
}

/// A group as it shall be, and what that brings with it.
pub struct Draft<'a> {
    pub id: &'a GroupId,
    pub group: Group,
    pub now: Now,
    pub rules: &'a Rules,
    pub effects: Effects,
}

impl<'a> Draft<'a> {
    pub fn new(id: &'a GroupId, group: Group, now: Now, rules: &'a Rules) -> Draft<'a> {
        Draft { id, group, now, rules, effects: Effects::default() }
    }

    fn arm(&mut self, kind: TimerKind, after_ms: u64) {
        self.effects.timers.push(TimerChange::Arm(kind, self.now.ms.saturating_add(after_ms)));
    }

    fn cancel(&mut self, kind: TimerKind) {
        self.effects.timers.push(TimerChange::Cancel(kind));
    }

    fn enter(&mut self, state: GroupState) {
        self.group.enter(state, self.now.wall_ms);
    }

    /// The session of a member starts anew.
    pub(super) fn renew_session(&mut self, member_id: &MemberId) {
        if let Some(member) = self.group.member(member_id) {
            let session_ms = u64::try_from(member.session_timeout_ms).unwrap_or(0);
            self.arm(TimerKind::Session(member_id.clone()), session_ms);
        }
    }

    fn answer_join(&mut self, token: Token, result: Result<Joined, JoinRefused>) {
        self.effects.answers.push((token, Answer::Join(result)));
    }

    fn refuse_join(&mut self, token: Token, error: GroupError, member_id: MemberId) {
        self.answer_join(token, Err(JoinRefused { error, member_id }));
    }

    fn answer_sync(&mut self, token: Token, result: Result<Synced, GroupError>) {
        self.effects.answers.push((token, Answer::Sync(result)));
    }

    /// Takes a member out and answers what it had parked.
    fn remove_member(&mut self, member_id: &str, error: GroupError) {
        let Some(member) = self.group.remove(member_id) else { return };
        self.answer_removed(&member, error);
    }

    fn answer_removed(&mut self, member: &Member, error: GroupError) {
        self.cancel(TimerKind::Session(member.id.clone()));
        if let Some(token) = member.awaiting_join {
            self.refuse_join(token, error, member.id.clone());
        }
        if let Some(token) = member.awaiting_sync {
            self.answer_sync(token, Err(error));
        }
    }

    fn write(&mut self, records: Vec<Record>, answers: Vec<(Token, Answer)>, then: Then) {
        assert!(self.effects.write.is_none(), "group {}: one decision writes once", self.id);
        self.effects.write = Some(Write { group_id: self.id.clone(), records, answers, then });
    }

    fn joined(&self, member_id: &MemberId, leader: MemberId) -> Joined {
        Joined {
            member_id: member_id.clone(),
            generation: self.group.generation,
            protocol_type: self.group.protocol_type.clone(),
            protocol_name: self.group.protocol_name.clone(),
            leader,
            skip_assignment: false,
            members: Vec::new(),
        }
    }
}

/// Is this who it says it is? A static member must be the last that joined with its instance id.
pub fn check_member(group: &Group, member_id: &str, instance_id: Option<&str>) -> Result<(), GroupError> {
    if let Some(instance_id) = instance_id {
        match group.static_members.get(instance_id) {
            None => return Err(GroupError::UnknownMemberId),
            Some(current) if **current != *member_id => return Err(GroupError::FencedInstanceId),
            Some(_) => {}
        }
    }
    if group.member(member_id).is_none() {
        return Err(GroupError::UnknownMemberId);
    }
    Ok(())
}

fn empty_id() -> MemberId {
    Arc::from("")
}
