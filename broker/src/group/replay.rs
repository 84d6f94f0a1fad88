//! The only place that changes a [`Machine`]'s groups: a decided draft is put in place, a durable record is applied.
//! Neither can fail.
//!
//! A record is applied after it is durable and in the order of the log, both when it is loaded and when this broker
//! wrote it; so the durable part of the state is the same function of the log in both.

use super::decide::{Effects, Now, TimerChange};
use super::machine::{Entry, Machine, Phase};
use super::records::{CommittedOffset, GroupValue, Record};
use super::state::Group;
use super::{GroupId, GroupState};
use std::sync::Arc;

impl Machine {
    /// Puts a draft in place; takes the timers out of its effects.
    pub(super) fn install(
        &mut self,
        group_id: &GroupId,
        group: Group,
        mut effects: Effects,
        now: Now,
    ) -> Effects {
        for change in effects.timers.drain(..) {
            match change {
                TimerChange::Arm(kind, deadline_ms) => self.timers.arm(group_id, kind, deadline_ms),
                TimerChange::Cancel(kind) => self.timers.cancel(group_id, &kind),
            }
        }
        let entry = self.groups.entry(group_id.clone()).or_insert_with(|| Entry::new(now.wall_ms));
        entry.group = group;
        if entry.is_unused() {
            self.remove(group_id);
        }
        effects
    }

    pub fn replay(&mut self, record: Record) {
        match record {
            Record::Offset { group_id, topic, partition, value: Some(committed) } => {
                self.put_offset(group_id, topic, partition, committed);
            }
            Record::Offset { group_id, topic, partition, value: None } => {
                self.drop_offset(&group_id, &topic, partition);
            }
            Record::Group { group_id, value: None } => self.drop_group(&group_id),
            Record::Group { group_id, value: Some(value) } => match self.phase {
                Phase::Loading => {
                    let state_since_ms = value.state_since_ms.unwrap_or(0);
                    let entry = self.groups.entry(group_id).or_insert_with(|| Entry::new(state_since_ms));
                    entry.group = Group::from_value(value);
                }
                Phase::Live => self.confirm_group(&group_id, value),
            },
        }
    }

    fn put_offset(&mut self, group_id: GroupId, topic: Arc<str>, partition: i32, committed: CommittedOffset) {
        self.offsets_version += 1;
        let entry = self.groups.entry(group_id).or_insert_with(|| Entry::new(committed.commit_ms));
        entry.offsets.entry(topic).or_default().insert(partition, committed);
    }

    fn drop_offset(&mut self, group_id: &GroupId, topic: &str, partition: i32) {
        let Some(entry) = self.groups.get_mut(group_id) else { return };
        self.offsets_version += 1;
        if let Some(partitions) = entry.offsets.get_mut(topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                entry.offsets.remove(topic);
            }
        }
        if entry.is_unused() {
            self.remove(group_id);
        }
    }

    /// Offsets may follow the tombstone of their group in the log (a commit that came while it was being deleted);
    /// those that stand before it were deleted by tombstones of their own.
    fn drop_group(&mut self, group_id: &GroupId) {
        let Some(entry) = self.groups.get_mut(group_id) else { return };
        let since_ms = entry.group.state_since_ms.unwrap_or(0);
        entry.group = Group::new(since_ms);
        self.timers.cancel_all(group_id);
        if entry.is_unused() {
            self.remove(group_id);
        }
    }

    fn remove(&mut self, group_id: &GroupId) {
        self.groups.remove(group_id);
        self.timers.cancel_all(group_id);
    }

    /// This broker wrote the record. Only the assignment waited for it; members that came or went since then, or a
    /// generation that is over, make it history.
    fn confirm_group(&mut self, group_id: &GroupId, value: GroupValue) {
        let Some(entry) = self.groups.get_mut(group_id) else { return };
        let group = &mut entry.group;
        if group.state != GroupState::CompletingRebalance || group.generation != value.generation {
            return;
        }
        for assigned in value.members {
            if let Some(member) = group.member_mut(&assigned.member_id) {
                member.assignment = assigned.assignment;
            }
        }
        group.previous = group.state;
        group.state = GroupState::Stable;
        group.state_since_ms = value.state_since_ms;
    }
}
