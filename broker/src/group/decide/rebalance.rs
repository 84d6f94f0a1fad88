//! How a generation comes about: members gather, the protocol is chosen, the leader is told.

use super::*;
use crate::group::state::InitialWait;

/// The least time between two looks at a group that has nobody to lead it.
const LEADERLESS_RETRY_MS_MIN: u64 = 1_000;

impl Draft<'_> {
    pub(super) fn rebalance_or_complete_join(&mut self) {
        match self.group.state {
            GroupState::Empty | GroupState::CompletingRebalance | GroupState::Stable => {
                self.prepare_rebalance()
            }
            GroupState::PreparingRebalance => self.maybe_complete_join(),
            GroupState::Dead => {}
        }
    }

    /// Members are asked to join again (their heartbeats say so).
    pub(super) fn prepare_rebalance(&mut self) {
        if self.group.state == GroupState::CompletingRebalance {
            self.reset_assignments(GroupError::RebalanceInProgress);
        }
        self.cancel(TimerKind::Sync);
        self.cancel(TimerKind::Assignment);
        let is_initial = self.group.state == GroupState::Empty;
        self.enter(GroupState::PreparingRebalance);
        if is_initial {
            // The first members of a group rarely come alone: waiting a little saves a rebalance for each (KIP-134).
            let delay_ms = self.rules.initial_rebalance_delay_ms;
            let remaining_ms = self.group.rebalance_timeout_ms().saturating_sub(delay_ms);
            self.group.initial_wait = InitialWait { delay_ms, remaining_ms };
            self.group.new_member_added = false;
            self.arm(TimerKind::Rebalance, delay_ms);
        } else if self.group.has_all_joined() {
            self.complete_join();
        } else {
            self.arm(TimerKind::Rebalance, self.group.rebalance_timeout_ms());
        }
    }

    /// The first rebalance always waits its time; a later one is complete when all have joined.
    pub(super) fn maybe_complete_join(&mut self) {
        if self.group.state == GroupState::PreparingRebalance
            && self.group.previous != GroupState::Empty
            && self.group.has_all_joined()
        {
            self.complete_join();
        }
    }

    pub fn on_rebalance_timer(&mut self) {
        if self.group.state != GroupState::PreparingRebalance {
            return;
        }
        let InitialWait { delay_ms, remaining_ms } = self.group.initial_wait;
        if self.group.previous == GroupState::Empty && self.group.new_member_added && remaining_ms != 0 {
            self.group.new_member_added = false;
            let next_ms = self.rules.initial_rebalance_delay_ms.min(remaining_ms);
            self.group.initial_wait =
                InitialWait { delay_ms: next_ms, remaining_ms: remaining_ms.saturating_sub(delay_ms) };
            self.arm(TimerKind::Rebalance, next_ms);
        } else {
            self.complete_join();
        }
    }

    fn complete_join(&mut self) {
        self.cancel(TimerKind::Rebalance);
        // A static member may be restarting: its place is kept until its session ends.
        let absent: Vec<MemberId> = self
            .group
            .members
            .values()
            .filter(|member| member.awaiting_join.is_none() && member.instance_id.is_none())
            .map(|member| member.id.clone())
            .collect();
        for member_id in absent {
            self.remove_member(&member_id, GroupError::UnknownMemberId);
        }
        if !self.group.members.is_empty() && !self.elect_joined_leader() {
            // Only absent static members are left: without a leader no generation can start. Their sessions decide.
            // (A client may set no rebalance timeout at all; that must not make this spin.)
            return self
                .arm(TimerKind::Rebalance, self.group.rebalance_timeout_ms().max(LEADERLESS_RETRY_MS_MIN));
        }
        self.group.generation = self.group.generation.wrapping_add(1).max(1);
        self.group.pending_sync.clear();
        if self.group.members.is_empty() {
            self.become_empty();
        } else {
            self.start_generation();
        }
    }

    /// The leader must be one that waits for the answer which tells it so.
    fn elect_joined_leader(&mut self) -> bool {
        let joined = |member: &Arc<Member>| member.awaiting_join.is_some();
        let leader = self.group.leader.clone().and_then(|leader| self.group.member(&leader).cloned());
        if leader.as_ref().is_some_and(joined) {
            return true;
        }
        let Some(next) = self.group.members.values().find(|member| joined(member)) else { return false };
        self.group.leader = Some(next.id.clone());
        true
    }

    fn become_empty(&mut self) {
        self.group.protocol_name = None;
        self.group.subscribed_topics = self.group.compute_subscribed_topics();
        self.enter(GroupState::Empty);
        let value = self.group.to_value(|_| Default::default());
        let record = Record::Group { group_id: self.id.clone(), value: Some(value) };
        self.write(vec![record], Vec::new(), Then::Nothing);
    }

    fn start_generation(&mut self) {
        self.group.protocol_name = Some(self.group.select_protocol());
        self.group.subscribed_topics = self.group.compute_subscribed_topics();
        self.enter(GroupState::CompletingRebalance);
        let members: Vec<MemberId> = self.group.members.keys().cloned().collect();
        for member_id in members {
            self.group.pending_sync.insert(member_id.clone());
            if let Some(token) = self.group.park_join(&member_id, None) {
                let leader = self.group.leader.clone().unwrap_or_else(empty_id);
                let mut joined = self.joined(&member_id, leader);
                if self.group.is_leader(&member_id) {
                    joined.members = self.group.joined_members();
                }
                self.answer_join(token, Ok(joined));
            }
            if let Some(member) = self.group.member_mut(&member_id) {
                member.is_new = false;
            }
            self.renew_session(&member_id);
        }
        self.arm(TimerKind::Sync, self.group.rebalance_timeout_ms());
    }

    /// Assignments of a generation that ends before they were in force; who waits for one is told why.
    pub(super) fn reset_assignments(&mut self, error: GroupError) {
        let members: Vec<MemberId> = self.group.members.keys().cloned().collect();
        for member_id in members {
            let Some(member) = self.group.member_mut(&member_id) else { continue };
            member.assignment = Default::default();
            if let Some(token) = member.awaiting_sync.take() {
                self.answer_sync(token, Err(error));
                // Its session may have ended while it waited for the answer, and that was let pass.
                self.renew_session(&member_id);
            }
        }
    }

    /// Who has not synced in time is out, and the others rebalance without it (KAFKA-10888 and KIP-389's gap).
    pub fn on_sync_timer(&mut self) {
        let rebalances = matches!(self.group.state, GroupState::CompletingRebalance | GroupState::Stable);
        if !rebalances || self.group.pending_sync.is_empty() {
            return;
        }
        let late: Vec<MemberId> = self.group.pending_sync.iter().cloned().collect();
        for member_id in late {
            self.remove_member(&member_id, GroupError::UnknownMemberId);
        }
        self.prepare_rebalance();
    }
}
