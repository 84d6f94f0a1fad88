//! JoinGroup: who may be in the next generation.

use super::*;
use crate::group::{JoinGroup, MemberIdRule, MemberIdSuffix, StaticRejoin};

impl Draft<'_> {
    /// The caller has checked the group id and the session timeout, and found or made the group.
    pub fn join(&mut self, token: Token, request: &JoinGroup, suffix: MemberIdSuffix) {
        if self.group.state == GroupState::Dead {
            // The deletion is on its way to the log; the client tries again and finds a new group.
            return self.refuse_join(token, GroupError::CoordinatorNotAvailable, request.member_id.clone());
        }
        if !self.accepts(&request.member_id) {
            self.remove_member(&request.member_id, GroupError::GroupMaxSizeReached);
            // It may have been the last that the others waited for.
            self.maybe_complete_join();
            return self.refuse_join(token, GroupError::GroupMaxSizeReached, empty_id());
        }
        if !self.group.supports(&request.protocol_type, &request.protocols) {
            return self.refuse_join(token, GroupError::InconsistentGroupProtocol, request.member_id.clone());
        }
        if request.member_id.is_empty() {
            self.join_without_id(token, request, suffix);
        } else if self.group.pending_members.contains(&request.member_id) && request.instance_id.is_none() {
            self.add_member(token, request, request.member_id.clone());
        } else {
            self.rejoin(token, request);
        }
    }

    /// While members gather, those that wait count, so that a group above a lowered `group.max.size` sheds the members
    /// that come last.
    fn accepts(&self, member_id: &str) -> bool {
        let group = &self.group;
        match group.state {
            GroupState::Empty | GroupState::Dead => true,
            GroupState::PreparingRebalance => {
                group.member(member_id).is_some_and(|member| member.awaiting_join.is_some())
                    || group.awaiting_join < self.rules.members_max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                group.member(member_id).is_some() || group.members.len() < self.rules.members_max
            }
        }
    }

    fn join_without_id(&mut self, token: Token, request: &JoinGroup, suffix: MemberIdSuffix) {
        let prefix = request.instance_id.as_ref().unwrap_or(&request.client_id);
        let member_id: MemberId = format!("{prefix}-{}", suffix.0).into();
        if let Some(instance_id) = &request.instance_id {
            match self.group.static_members.get(instance_id).cloned() {
                Some(old) => self.replace_static_member(token, request, &old, member_id),
                None => self.add_member(token, request, member_id),
            }
            return;
        }
        match request.member_id_rule {
            MemberIdRule::Assign => self.add_member(token, request, member_id),
            MemberIdRule::Require if self.group.pending_members.len() >= PENDING_MEMBERS_MAX => {
                self.refuse_join(token, GroupError::GroupMaxSizeReached, empty_id());
            }
            MemberIdRule::Require => {
                self.group.pending_members.insert(member_id.clone());
                let session_ms = u64::try_from(request.session_timeout_ms).unwrap_or(0);
                self.arm(TimerKind::Session(member_id.clone()), session_ms);
                self.refuse_join(token, GroupError::MemberIdRequired, member_id);
            }
        }
    }

    fn rejoin(&mut self, token: Token, request: &JoinGroup) {
        let member_id = &request.member_id;
        if let Err(error) = check_member(&self.group, member_id, request.instance_id.as_deref()) {
            return self.refuse_join(token, error, member_id.clone());
        }
        let unchanged =
            self.group.member(member_id).is_some_and(|member| member.protocols == request.protocols);
        let is_leader = self.group.is_leader(member_id);
        match self.group.state {
            GroupState::PreparingRebalance => self.update_member(token, request),
            // The answer to its join may have been lost: it gets that of the running generation again.
            GroupState::CompletingRebalance if unchanged => self.answer_current(token, member_id),
            GroupState::CompletingRebalance => self.update_member(token, request),
            // A leader that joins again asks for a rebalance, for instance because a topic has grown.
            GroupState::Stable if unchanged && !is_leader => self.answer_current(token, member_id),
            GroupState::Stable => self.update_member(token, request),
            GroupState::Empty | GroupState::Dead => {
                self.refuse_join(token, GroupError::UnknownMemberId, member_id.clone());
            }
        }
    }

    fn answer_current(&mut self, token: Token, member_id: &MemberId) {
        let leader = self.group.leader.clone().unwrap_or_else(empty_id);
        let mut joined = self.joined(member_id, leader);
        if self.group.is_leader(member_id) {
            joined.members = self.group.joined_members();
        }
        self.answer_join(token, Ok(joined));
    }

    fn add_member(&mut self, token: Token, request: &JoinGroup, member_id: MemberId) {
        if self.group.state == GroupState::PreparingRebalance && self.group.previous == GroupState::Empty {
            self.group.new_member_added = true;
        }
        if self.group.members.is_empty() {
            self.group.protocol_type = Some(request.protocol_type.clone());
        }
        self.group.insert(Member {
            id: member_id.clone(),
            instance_id: request.instance_id.clone(),
            client_id: request.client_id.clone(),
            client_host: request.client_host.clone(),
            rebalance_timeout_ms: request.rebalance_timeout_ms,
            session_timeout_ms: request.session_timeout_ms,
            protocols: request.protocols.clone(),
            assignment: Default::default(),
            is_new: true,
            awaiting_join: Some(token),
            awaiting_sync: None,
        });
        self.arm(TimerKind::Session(member_id), NEW_MEMBER_JOIN_TIMEOUT_MS);
        self.rebalance_or_complete_join();
    }

    fn update_member(&mut self, token: Token, request: &JoinGroup) {
        self.take_over_terms(&request.member_id, request);
        self.park_join(&request.member_id, token);
        self.rebalance_or_complete_join();
    }

    fn take_over_terms(&mut self, member_id: &MemberId, request: &JoinGroup) {
        self.group.set_protocols(member_id, request.protocols.clone());
        if let Some(member) = self.group.member_mut(member_id) {
            member.rebalance_timeout_ms = request.rebalance_timeout_ms;
            member.session_timeout_ms = request.session_timeout_ms;
        }
    }

    fn park_join(&mut self, member_id: &MemberId, token: Token) {
        if let Some(before) = self.group.park_join(member_id, Some(token)) {
            // The client asked again; nobody reads the answer to the first.
            self.refuse_join(before, GroupError::RebalanceInProgress, member_id.clone());
        }
    }

    /// A static member came back without its id: it takes the place of its predecessor, whose requests are fenced from
    /// now on. A stable group whose protocol stays the same need not rebalance for it.
    fn replace_static_member(&mut self, token: Token, request: &JoinGroup, old: &MemberId, new: MemberId) {
        let leader_before = self.group.leader.clone().unwrap_or_else(empty_id);
        let Some(predecessor) = self.group.remove(old) else {
            panic!("group {}: static member {old} is not a member", self.id);
        };
        self.answer_removed(&predecessor, GroupError::FencedInstanceId);
        self.group.insert(Member {
            id: new.clone(),
            client_id: request.client_id.clone(),
            client_host: request.client_host.clone(),
            awaiting_join: None,
            awaiting_sync: None,
            ..Member::clone(&predecessor)
        });
        if *leader_before == **old {
            self.group.leader = Some(new.clone());
        }
        self.take_over_terms(&new, request);
        self.renew_session(&new);
        match self.group.state {
            GroupState::Stable if Some(self.group.select_protocol()) == self.group.protocol_name => {
                self.answer_static_rejoin(token, request, new, leader_before);
            }
            GroupState::Stable | GroupState::CompletingRebalance => {
                // While the generation completes, the leader may be assigning to the old id: the new one would be left
                // without partitions.
                self.park_join(&new, token);
                self.prepare_rebalance();
            }
            GroupState::PreparingRebalance => {
                self.park_join(&new, token);
                self.maybe_complete_join();
            }
            GroupState::Empty | GroupState::Dead => {
                panic!("group {}: {} has static member {old}", self.id, self.group.state.name());
            }
        }
    }

    fn answer_static_rejoin(
        &mut self,
        token: Token,
        request: &JoinGroup,
        member_id: MemberId,
        leader_before: MemberId,
    ) {
        // What it subscribes to may differ, and deletion of offsets looks at that.
        self.group.subscribed_topics = self.group.compute_subscribed_topics();
        let joined = match request.static_rejoin {
            StaticRejoin::AsFollower => self.joined(&member_id, leader_before),
            StaticRejoin::SkipAssignment => {
                let leader = self.group.leader.clone().unwrap_or_else(empty_id);
                let is_leader = self.group.is_leader(&member_id);
                let members = if is_leader { self.group.joined_members() } else { Vec::new() };
                Joined { skip_assignment: is_leader, members, ..self.joined(&member_id, leader) }
            }
        };
        let value = self.group.to_value(|member| member.assignment.clone());
        let record = Record::Group { group_id: self.id.clone(), value: Some(value) };
        self.write(vec![record], vec![(token, Answer::Join(Ok(joined)))], Then::Nothing);
    }
}
