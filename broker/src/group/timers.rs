//! The timers of one shard, as values: which is due at `now`, and when the next one is. Nothing here sleeps.

use std::collections::{BTreeMap, BTreeSet};

use super::GroupId;
use super::decide::TimerKind;

/// At most one timer per group and kind.
#[derive(Debug, Default)]
pub struct Timers {
    deadlines: BTreeMap<GroupId, BTreeMap<TimerKind, u64>>,
    due: BTreeSet<(u64, GroupId, TimerKind)>,
}

impl Timers {
    pub fn arm(&mut self, group_id: &GroupId, kind: TimerKind, deadline_ms: u64) {
        let of_group = self.deadlines.entry(group_id.clone()).or_default();
        if let Some(before) = of_group.insert(kind.clone(), deadline_ms) {
            self.due.remove(&(before, group_id.clone(), kind.clone()));
        }
        self.due.insert((deadline_ms, group_id.clone(), kind));
    }

    pub fn cancel(&mut self, group_id: &GroupId, kind: &TimerKind) {
        let Some(of_group) = self.deadlines.get_mut(group_id) else { return };
        if let Some(before) = of_group.remove(kind) {
            self.due.remove(&(before, group_id.clone(), kind.clone()));
        }
        if of_group.is_empty() {
            self.deadlines.remove(group_id);
        }
    }

    pub fn cancel_all(&mut self, group_id: &GroupId) {
        for (kind, deadline_ms) in self.deadlines.remove(group_id).unwrap_or_default() {
            self.due.remove(&(deadline_ms, group_id.clone(), kind));
        }
    }

    /// Takes the earliest timer whose deadline has come.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<(GroupId, TimerKind)> {
        let (deadline_ms, group_id, kind) = self.due.first()?.clone();
        if deadline_ms > now_ms {
            return None;
        }
        self.cancel(&group_id, &kind);
        Some((group_id, kind))
    }

    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.due.first().map(|(deadline_ms, ..)| *deadline_ms)
    }
}
