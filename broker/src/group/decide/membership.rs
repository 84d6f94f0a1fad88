//! Staying and leaving: Heartbeat, LeaveGroup, sessions that end.

use super::*;
use crate::group::{Heartbeat, LeavingMember, LeftMember};

fn check_heartbeat(group: &Group, request: &Heartbeat) -> Result<(), GroupError> {
    if group.state == GroupState::Dead {
        return Err(GroupError::CoordinatorNotAvailable);
    }
    check_member(group, &request.member_id, request.instance_id.as_deref())?;
    if request.generation != group.generation {
        return Err(GroupError::IllegalGeneration);
    }
    Ok(())
}

impl Draft<'_> {
    pub fn heartbeat(&mut self, request: &Heartbeat) -> Result<(), GroupError> {
        check_heartbeat(&self.group, request)?;
        match self.group.state {
            GroupState::Empty | GroupState::Dead => Err(GroupError::UnknownMemberId),
            // A consumer may heartbeat before it has its assignment.
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.renew_session(&request.member_id);
                Ok(())
            }
            GroupState::PreparingRebalance => {
                self.renew_session(&request.member_id);
                Err(GroupError::RebalanceInProgress)
            }
        }
    }

    pub fn leave(&mut self, members: &[LeavingMember]) -> Result<Vec<LeftMember>, GroupError> {
        if self.group.state == GroupState::Dead {
            return Err(GroupError::CoordinatorNotAvailable);
        }
        let before = self.group.members.len();
        let results = members
            .iter()
            .map(|leaving| LeftMember {
                member_id: leaving.member_id.clone(),
                instance_id: leaving.instance_id.clone(),
                result: self.leave_one(leaving),
            })
            .collect();
        if self.group.members.len() < before {
            self.after_removal();
        } else {
            // An unused id may have been all that the others still waited for.
            self.maybe_complete_join();
        }
        Ok(results)
    }

    fn leave_one(&mut self, leaving: &LeavingMember) -> Result<(), GroupError> {
        if leaving.member_id.is_empty() {
            let instance_id = leaving.instance_id.as_ref().ok_or(GroupError::UnknownMemberId)?;
            let member_id =
                self.group.static_members.get(instance_id).cloned().ok_or(GroupError::UnknownMemberId)?;
            self.remove_member(&member_id, GroupError::UnknownMemberId);
            return Ok(());
        }
        if self.group.pending_members.contains(&leaving.member_id) {
            self.group.remove(&leaving.member_id);
            self.cancel(TimerKind::Session(leaving.member_id.clone()));
            return Ok(());
        }
        check_member(&self.group, &leaving.member_id, leaving.instance_id.as_deref())?;
        self.remove_member(&leaving.member_id, GroupError::UnknownMemberId);
        Ok(())
    }

    fn after_removal(&mut self) {
        match self.group.state {
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(),
            GroupState::PreparingRebalance => self.maybe_complete_join(),
            GroupState::Empty | GroupState::Dead => {}
        }
    }

    pub fn on_session_timer(&mut self, member_id: &MemberId) {
        if self.group.pending_members.contains(member_id) {
            self.group.remove(member_id);
            return self.maybe_complete_join();
        }
        let Some(member) = self.group.member(member_id) else { return };
        // Who has a request parked here is alive as far as anyone can tell; its session starts anew with the answer. A
        // new member's time is the bound on that parking itself.
        let is_parked = member.awaiting_join.is_some() || member.awaiting_sync.is_some();
        if is_parked && !member.is_new {
            return;
        }
        self.remove_member(&member_id.clone(), GroupError::UnknownMemberId);
        self.after_removal();
    }
}

impl Draft<'_> {
    /// The group was read from the log: its members have a full session to show up. One that is larger than allowed
    /// now rebalances, which sheds the last to join.
    pub fn on_loaded(&mut self) {
        let members: Vec<MemberId> = self.group.members.keys().cloned().collect();
        for member_id in &members {
            self.renew_session(member_id);
        }
        if members.len() > self.rules.members_max {
            self.prepare_rebalance();
        }
    }
}
