//! SyncGroup: the leader hands in the assignment, the others wait for theirs.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::group::SyncGroup;

fn check_sync(group: &Group, request: &SyncGroup) -> Result<(), GroupError> {
    if group.state == GroupState::Dead {
        return Err(GroupError::CoordinatorNotAvailable);
    }
    check_member(group, &request.member_id, request.instance_id.as_deref())?;
    if request.generation != group.generation {
        return Err(GroupError::IllegalGeneration);
    }
    let differs = |given: &Option<Arc<str>>, own: &Option<Arc<str>>| given.is_some() && given != own;
    if differs(&request.protocol_type, &group.protocol_type)
        || differs(&request.protocol_name, &group.protocol_name)
    {
        return Err(GroupError::InconsistentGroupProtocol);
    }
    Ok(())
}

impl Draft<'_> {
    pub fn sync(&mut self, token: Token, request: SyncGroup) {
        if let Err(error) = check_sync(&self.group, &request) {
            return self.answer_sync(token, Err(error));
        }
        match self.group.state {
            GroupState::Empty | GroupState::Dead => self.answer_sync(token, Err(GroupError::UnknownMemberId)),
            GroupState::PreparingRebalance => self.answer_sync(token, Err(GroupError::RebalanceInProgress)),
            GroupState::CompletingRebalance => self.park_sync(token, request),
            GroupState::Stable => {
                self.received_sync(&request.member_id);
                self.renew_session(&request.member_id);
                let synced = self.synced(&request.member_id);
                self.answer_sync(token, Ok(synced));
            }
        }
    }

    fn park_sync(&mut self, token: Token, request: SyncGroup) {
        self.received_sync(&request.member_id);
        let Some(member) = self.group.member_mut(&request.member_id) else { return };
        if let Some(before) = member.awaiting_sync.replace(token) {
            self.answer_sync(before, Err(GroupError::RebalanceInProgress));
        }
        if self.group.is_leader(&request.member_id) {
            let assignments: BTreeMap<MemberId, Bytes> = request.assignments.into_iter().collect();
            // Whom the leader forgot gets nothing, rather than what it had before.
            let mut value =
                self.group.to_value(|member| assignments.get(&member.id).cloned().unwrap_or_default());
            // The state that the group is in once this record holds.
            value.state_since_ms = Some(self.now.wall_ms);
            let record = Record::Group { group_id: self.id.clone(), value: Some(value) };
            let generation = self.group.generation;
            self.write(vec![record], Vec::new(), Then::Assignment { generation });
            self.arm(TimerKind::Assignment, self.rules.log_wait_ms_max);
        }
    }

    fn received_sync(&mut self, member_id: &MemberId) {
        self.group.pending_sync.remove(member_id);
        if self.group.pending_sync.is_empty() {
            self.cancel(TimerKind::Sync);
        }
    }

    fn synced(&self, member_id: &str) -> Synced {
        Synced {
            protocol_type: self.group.protocol_type.clone(),
            protocol_name: self.group.protocol_name.clone(),
            assignment: self
                .group
                .member(member_id)
                .map(|member| member.assignment.clone())
                .unwrap_or_default(),
        }
    }

    /// The assignment is durable and `replay` has put it in place: the members that wait get theirs.
    pub fn on_assignment_stored(&mut self, generation: i32) {
        if self.group.state != GroupState::Stable || self.group.generation != generation {
            return;
        }
        self.cancel(TimerKind::Assignment);
        let members: Vec<MemberId> = self.group.members.keys().cloned().collect();
        for member_id in members {
            let token = self.group.member_mut(&member_id).and_then(|member| member.awaiting_sync.take());
            if let Some(token) = token {
                let synced = self.synced(&member_id);
                self.answer_sync(token, Ok(synced));
                self.renew_session(&member_id);
            }
        }
    }

    /// The assignment could not be written: the generation is over before it began.
    pub fn on_assignment_lost(&mut self, generation: i32, error: GroupError) {
        if self.group.state == GroupState::CompletingRebalance && self.group.generation == generation {
            self.reset_assignments(error);
            self.prepare_rebalance();
        }
    }

    /// The log takes too long: members are told to come again rather than kept waiting. The record may still become durable, of
    /// a generation that is over then.
    pub fn on_assignment_timer(&mut self) {
        self.on_assignment_lost(self.group.generation, GroupError::CoordinatorNotAvailable);
    }
}
