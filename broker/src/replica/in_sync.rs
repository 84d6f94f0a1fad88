//! Which offset is committed: the part of a leader that decides. Values in, actions out; no clock, lock or socket.
//!
//! Invariants: `high_watermark <= local_end`, and it never falls while this value lives; it is the least offset that every
//! member of the in-sync set has reached. "Reached" for the local log means synced under [`Durability::Fsync`] and
//! appended under [`Durability::Memory`]; a follower reports by its fetches, and what it reports follows the same rule.

use ottla_batch::Offset;

/// When an offset counts as held by a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// On stable storage (the default).
    Fsync,
    /// In the page cache, as Kafka does.
    Memory,
}

/// What a leader has to do after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The high watermark moved here: publish it, wake those who wait for it.
    AdvanceHighWatermark(Offset),
    /// The local log has unsynced bytes that the high watermark waits for.
    Sync,
}

/// How far one in-sync follower is known to hold the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Follower {
    broker: i32,
    end: Offset,
}

/// The in-sync set of one leader, in one leader epoch.
#[derive(Debug)]
pub struct InSyncSet {
    durability: Durability,
    local_end: Offset,
    local_synced: Offset,
    /// Members of the in-sync set other than this broker.
    followers: Vec<Follower>,
    high_watermark: Offset,
}

impl InSyncSet {
    /// A leader whose log ends at `end`, of which everything below `synced` is on stable storage. `high_watermark` is what this
    /// replica already showed to clients.
    pub fn new(durability: Durability, end: Offset, synced: Offset, high_watermark: Offset) -> InSyncSet {
        assert!(synced <= end, "synced {synced} must not lie past the end {end}");
        let high_watermark = high_watermark.min(end);
        InSyncSet { durability, local_end: end, local_synced: synced, followers: Vec::new(), high_watermark }
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// Members, this broker included.
    pub fn members_count(&self) -> usize {
        self.followers.len() + 1
    }

    /// The log was appended up to `end`.
    pub fn on_appended(&mut self, end: Offset) -> Option<Action> {
        assert!(
            end >= self.local_end,
            "an append must not move the end back from {} to {end}",
            self.local_end
        );
        self.local_end = end;
        match self.durability {
            Durability::Fsync if self.local_synced < end => Some(Action::Sync),
            Durability::Fsync | Durability::Memory => self.advance(),
        }
    }

    /// Everything below `end` is on stable storage.
    pub fn on_synced(&mut self, end: Offset) -> Option<Action> {
        self.local_synced = self.local_synced.max(end);
        self.advance()
    }

    /// Follower `broker`, a member, holds everything below `end`.
    pub fn on_follower_at(&mut self, broker: i32, end: Offset) -> Option<Action> {
        let follower = self.followers.iter_mut().find(|f| f.broker == broker)?;
        follower.end = follower.end.max(end);
        self.advance()
    }

    /// The controller changed the in-sync set. A new member counts from the high watermark: it was let in because it had
    /// reached it.
    pub fn on_in_sync_set(&mut self, others: &[i32]) -> Option<Action> {
        self.followers.retain(|f| others.contains(&f.broker));
        for broker in others {
            if !self.followers.iter().any(|f| f.broker == *broker) {
                self.followers.push(Follower { broker: *broker, end: self.high_watermark });
            }
        }
        self.advance()
    }

    /// The rule changed.
    pub fn on_durability(&mut self, durability: Durability) -> Option<Action> {
        self.durability = durability;
        self.on_appended(self.local_end)
    }

    fn local(&self) -> Offset {
        match self.durability {
            Durability::Fsync => self.local_synced.min(self.local_end),
            Durability::Memory => self.local_end,
        }
    }

    fn advance(&mut self) -> Option<Action> {
        let least = self.followers.iter().map(|f| f.end).fold(self.local(), Offset::min);
        if least <= self.high_watermark {
            return None;
        }
        self.high_watermark = least;
        Some(Action::AdvanceHighWatermark(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn under_fsync_an_append_commits_nothing_before_the_sync() {
        let mut set = InSyncSet::new(Durability::Fsync, Offset(0), Offset(0), Offset(0));
        assert_eq!(set.on_appended(Offset(5)), Some(Action::Sync));
        assert_eq!(set.high_watermark(), Offset(0));
        assert_eq!(set.on_synced(Offset(3)), Some(Action::AdvanceHighWatermark(Offset(3))));
        assert_eq!(set.on_synced(Offset(2)), None);
        assert_eq!(set.on_synced(Offset(5)), Some(Action::AdvanceHighWatermark(Offset(5))));
    }

    #[test]
    fn under_memory_an_append_commits_at_once() {
        let mut set = InSyncSet::new(Durability::Memory, Offset(0), Offset(0), Offset(0));
        assert_eq!(set.on_appended(Offset(5)), Some(Action::AdvanceHighWatermark(Offset(5))));
    }

    #[test]
    fn the_slowest_member_holds_the_high_watermark_until_it_leaves() {
        let mut set = InSyncSet::new(Durability::Memory, Offset(0), Offset(0), Offset(0));
        assert_eq!(set.on_in_sync_set(&[2, 3]), None);
        assert_eq!(set.on_appended(Offset(10)), None);
        assert_eq!(set.on_follower_at(2, Offset(10)), None);
        assert_eq!(set.on_follower_at(9, Offset(10)), None, "not a member");
        assert_eq!(set.on_follower_at(3, Offset(4)), Some(Action::AdvanceHighWatermark(Offset(4))));
        assert_eq!(set.on_in_sync_set(&[2]), Some(Action::AdvanceHighWatermark(Offset(10))));
    }

    #[derive(Debug, Clone)]
    enum Event {
        Append(i64),
        Sync(i64),
        Follower(i32, i64),
        Members(Vec<i32>),
        Durability(Durability),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0..20i64).prop_map(Event::Append),
            (0..200i64).prop_map(Event::Sync),
            (2..5i32, 0..200i64).prop_map(|(b, o)| Event::Follower(b, o)),
            prop::collection::vec(2..5i32, 0..3).prop_map(Event::Members),
            prop_oneof![Just(Durability::Fsync), Just(Durability::Memory)].prop_map(Event::Durability),
        ]
    }

    proptest! {
        #[test]
        fn the_high_watermark_never_falls_and_never_passes_the_end(events in prop::collection::vec(event(), 0..60)) {
            let mut set = InSyncSet::new(Durability::Fsync, Offset(0), Offset(0), Offset(0));
            let mut end = 0;
            let mut before = set.high_watermark();
            for event in events {
                match event {
                    Event::Append(count) => {
                        end += count;
                        set.on_appended(Offset(end));
                    }
                    Event::Sync(at) => {
                        set.on_synced(Offset(at.min(end)));
                    }
                    Event::Follower(broker, at) => {
                        set.on_follower_at(broker, Offset(at.min(end)));
                    }
                    Event::Members(others) => {
                        set.on_in_sync_set(&others);
                    }
                    Event::Durability(durability) => {
                        set.on_durability(durability);
                    }
                }
                prop_assert!(set.high_watermark() >= before);
                prop_assert!(set.high_watermark() <= Offset(end));
                before = set.high_watermark();
            }
        }
    }
}
