//! What a leader decides: which offset is committed, and who is in sync. Values in, actions out; no clock, lock or socket.
//!
//! A follower says by the offset of its fetches how far it holds the log. Under [`Durability::Fsync`] everybody's word,
//! the leader's own included, counts what is on stable storage; under [`Durability::Memory`] what was appended.
//!
//! The in-sync set belongs to the controller. The leader proposes another one (a member that lags leaves, a follower that
//! caught up joins), and until it learns the outcome it reckons with the larger of the two ([`InSyncSet::maximal`],
//! KIP-497): a member that the controller may have let in already must hold what is called committed, and one that
//! it may not have put out yet could still be elected.
//!
//! Invariants: `high_watermark <= local_end`, and it never falls while this value lives; when it moves, everybody in the
//! maximal set has reached it, and the in-sync set is not smaller than `min.insync.replicas` (KIP-966).

use std::time::Duration;

use ottla_batch::{Offset, planted};
use ottla_raft::{BrokerEpoch, BrokerId, PartitionEpoch};
use tokio::time::Instant;

/// When an offset counts as held by a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// On stable storage (the default).
    Fsync,
    /// In the page cache, as Kafka does.
    Memory,
}

/// What a leader has to do after an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use]
pub struct Actions {
    /// The high watermark moved here: publish it, wake those who wait for it.
    pub advanced: Option<Offset>,
    /// The local log has unsynced bytes that the high watermark waits for.
    pub sync: bool,
    /// There is a new [`InSyncSet::proposal`] for the controller.
    pub propose: bool,
}

impl Actions {
    pub fn and(self, other: Actions) -> Actions {
        Actions {
            advanced: other.advanced.or(self.advanced),
            sync: self.sync || other.sync,
            propose: self.propose || other.propose,
        }
    }
}

/// The partition as the controller's record has it, as far as its leader cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    pub partition_epoch: PartitionEpoch,
    /// All replicas but this one.
    pub others: Vec<BrokerId>,
    /// Members of the in-sync set but this one.
    pub in_sync_others: Vec<BrokerId>,
    /// The leader comes from an unclean election and has not said yet that it recovered.
    pub is_recovering: bool,
}

/// What one fetch of a follower says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerFetch {
    pub broker: BrokerId,
    /// Of the follower's registration; `None` from a follower too old to say (before Fetch v15).
    pub broker_epoch: Option<BrokerEpoch>,
    /// It holds everything below.
    pub end: Offset,
    pub log_start: Offset,
}

/// Why a fetch is not one of a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAFollower {
    #[error("broker {0} holds no replica of the partition")]
    NoReplica(BrokerId),
    #[error("broker {broker} fetches with epoch {given}, it is registered with {current}")]
    StaleBrokerEpoch { broker: BrokerId, given: BrokerEpoch, current: BrokerEpoch },
}

/// A follower as the leader knows it from its fetches.
#[derive(Debug, Clone, Copy)]
pub struct ReadingFollower {
    pub broker: BrokerId,
    /// It holds everything from `log_start` to `end`.
    pub log_start: Offset,
    pub end: Offset,
    pub caught_up_at: Option<Instant>,
}

/// What the controller is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Of the state that the proposal starts from.
    pub partition_epoch: PartitionEpoch,
    /// The others that shall be in sync, with the epochs of their fetches (-1 where none came yet).
    pub in_sync_others: Vec<(BrokerId, BrokerEpoch)>,
}

/// What became of a proposal that was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProposalOutcome {
    /// It was refused for what it says, and nothing has changed.
    Refused,
    /// Somebody else changed the partition, or it is not known what happened: the next image tells.
    AwaitImage,
}

/// A follower whose change was refused is not proposed again before; its registration has to change first.
const RETRY_AFTER: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Follower {
    broker: BrokerId,
    /// `None` before its first fetch in this leader's epoch.
    end: Option<Offset>,
    log_start: Option<Offset>,
    /// As its last fetch said.
    fetch_epoch: Option<BrokerEpoch>,
    /// Its registration, if it is neither fenced nor shutting down.
    active_epoch: Option<BrokerEpoch>,
    /// When it was last known to hold everything that was there.
    caught_up_at: Option<Instant>,
    fetched_at: Option<Instant>,
    /// The leader's end at `fetched_at`.
    end_at_fetch: Offset,
    /// When an append first left it behind since it had everything.
    overtaken_at: Option<Instant>,
    /// Out of sync, but about to join: the high watermark waits for it, or under steady load it never would reach it.
    is_joining: bool,
}

impl Follower {
    fn new(broker: BrokerId) -> Follower {
        Follower {
            broker,
            end: None,
            log_start: None,
            fetch_epoch: None,
            active_epoch: None,
            caught_up_at: None,
            fetched_at: None,
            end_at_fetch: Offset(0),
            overtaken_at: None,
            is_joining: false,
        }
    }

    /// Alive, not leaving, and the same process that fetched: one that restarted may have lost what it fetched (KIP-903).
    fn is_eligible(&self) -> bool {
        match (self.active_epoch, self.fetch_epoch) {
            (Some(active), Some(fetched)) => active == fetched,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// `contact`: when it last fetched anything from this broker. What it has in full it need not fetch again, so until it was
    /// overtaken every contact counts.
    fn has_caught_up(&self, end: Offset, now: Instant, lag_max: Duration, contact: Option<Instant>) -> bool {
        if self.end == Some(end) {
            return true;
        }
        let by_contact = self.overtaken_at.and_then(|overtaken| Some(overtaken.min(contact?)));
        self.caught_up_at.max(by_contact).is_some_and(|at| now.saturating_duration_since(at) <= lag_max)
    }
}

/// A change of the in-sync set that the controller has not answered yet.
#[derive(Debug)]
struct Pending {
    in_sync_others: Vec<BrokerId>,
}

/// The in-sync set of one leader, in one leader epoch.
#[derive(Debug)]
pub struct InSyncSet {
    durability: Durability,
    /// `min.insync.replicas`
    min_in_sync: usize,
    local_end: Offset,
    local_synced: Offset,
    /// Where the leader's epoch begins: who has not reached it may lack records of earlier leaders.
    epoch_start: Offset,
    high_watermark: Offset,
    membership: Membership,
    followers: Vec<Follower>,
    pending: Option<Pending>,
    refused_at: Option<Instant>,
}

impl InSyncSet {
    /// A leader that begins with a log that ends at `end`, of which everything below `synced` is on stable storage.
    /// `high_watermark` is what this replica already showed to clients.
    pub fn new(
        durability: Durability,
        min_in_sync: usize,
        end: Offset,
        synced: Offset,
        high_watermark: Offset,
    ) -> InSyncSet {
        assert!(synced <= end, "synced {synced} must not lie past the end {end}");
        InSyncSet {
            durability,
            min_in_sync,
            local_end: end,
            local_synced: synced,
            epoch_start: end,
            high_watermark: high_watermark.min(end),
            membership: Membership {
                partition_epoch: PartitionEpoch(-1),
                others: Vec::new(),
                in_sync_others: Vec::new(),
                is_recovering: false,
            },
            followers: Vec::new(),
            pending: None,
            refused_at: None,
        }
    }

    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    pub fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    /// Whether the controller has another broker in the in-sync set.
    pub fn is_member(&self, broker: BrokerId) -> bool {
        self.membership.in_sync_others.contains(&broker)
    }

    /// Members as the controller has them, this broker included.
    pub fn members_count(&self) -> usize {
        self.membership.in_sync_others.len() + 1
    }

    /// Members that the high watermark waits for, this broker included.
    pub fn maximal_count(&self) -> usize {
        self.maximal().count() + 1
    }

    /// All replicas, this one included.
    pub fn replicas_count(&self) -> usize {
        self.membership.others.len() + 1
    }

    /// `min.insync.replicas`, as far as the partition has replicas.
    pub fn min_in_sync(&self) -> usize {
        if planted!("min-insync-ignored") {
            return 1;
        }
        self.min_in_sync.min(self.replicas_count())
    }

    /// The other members of the larger of the committed and the proposed set.
    pub fn maximal(&self) -> impl Iterator<Item = BrokerId> + '_ {
        let committed = match self.pending {
            Some(_) if planted!("isr-changes-before-the-controller-says-so") => &[][..],
            _ => &self.membership.in_sync_others[..],
        };
        let proposed = self.pending.iter().flat_map(|pending| &pending.in_sync_others);
        committed.iter().chain(proposed.filter(|id| !committed.contains(id))).copied()
    }

    /// The followers in sync that a consumer could read from.
    pub fn reading_followers(&self) -> impl Iterator<Item = ReadingFollower> + '_ {
        let members = self.followers.iter().filter(|follower| self.is_member(follower.broker));
        members.filter_map(|follower| {
            Some(ReadingFollower {
                broker: follower.broker,
                end: follower.end?,
                log_start: follower.log_start?,
                caught_up_at: follower.caught_up_at,
            })
        })
    }

    /// The least log start of this replica and those on live brokers: nobody who could serve it has anything below. -1 while one of
    /// them has not fetched from this leader.
    pub fn low_watermark(&self, local: Offset) -> Offset {
        let live = self.followers.iter().filter(|follower| follower.active_epoch.is_some());
        live.map(|follower| follower.log_start.unwrap_or(Offset(-1))).fold(local, Offset::min)
    }

    /// The log was appended up to `end`.
    pub fn on_appended(&mut self, end: Offset, now: Instant) -> Actions {
        assert!(
            end >= self.local_end,
            "an append must not move the end back from {} to {end}",
            self.local_end
        );
        if end > self.local_end {
            for follower in &mut self.followers {
                if follower.end == Some(self.local_end) {
                    follower.overtaken_at = Some(now);
                }
            }
            self.local_end = end;
        }
        match self.durability {
            Durability::Fsync if self.local_synced < end && !planted!("ack-before-fsync") => {
                Actions { sync: true, ..Actions::default() }
            }
            Durability::Fsync | Durability::Memory => self.advance(),
        }
    }

    /// Everything below `end` is on stable storage.
    pub fn on_synced(&mut self, end: Offset) -> Actions {
        self.local_synced = self.local_synced.max(end);
        self.advance()
    }

    /// Whether a fetch comes from a follower of this partition, asked before anything is read for it.
    pub fn check_follower(&self, broker: BrokerId, epoch: Option<BrokerEpoch>) -> Result<(), NotAFollower> {
        let follower = self.followers.iter().find(|follower| follower.broker == broker);
        let follower = follower.ok_or(NotAFollower::NoReplica(broker))?;
        match (epoch, follower.active_epoch) {
            (Some(given), Some(current)) if given < current => {
                Err(NotAFollower::StaleBrokerEpoch { broker, given, current })
            }
            _ => Ok(()),
        }
    }

    /// A follower fetched from an offset that lies in this log and does not diverge from it.
    pub fn on_follower_fetch(&mut self, fetch: &FollowerFetch, now: Instant, lag_max: Duration) -> Actions {
        let (local_end, high_watermark, epoch_start) =
            (self.local_end, self.high_watermark, self.epoch_start);
        let Some(follower) = self.followers.iter_mut().find(|follower| follower.broker == fetch.broker)
        else {
            return Actions::default();
        };
        if fetch.end >= local_end {
            follower.caught_up_at = Some(now);
        } else if fetch.end >= follower.end_at_fetch && follower.fetched_at > follower.caught_up_at {
            // It has by now what was there at its previous fetch.
            follower.caught_up_at = follower.fetched_at;
        }
        follower.end = Some(fetch.end);
        follower.log_start = Some(fetch.log_start);
        follower.fetch_epoch = fetch.broker_epoch;
        follower.fetched_at = Some(now);
        follower.end_at_fetch = local_end;
        follower.overtaken_at = None;
        let is_eligible = follower.is_eligible();
        let is_member = self.membership.in_sync_others.contains(&fetch.broker);
        follower.is_joining =
            !is_member && is_eligible && follower.has_caught_up(local_end, now, lag_max, None);
        // The epoch's start counts too: below it the log of an earlier leader may differ although its end lies past this high
        // watermark.
        let has_reached = fetch.end >= high_watermark && fetch.end >= epoch_start;
        let mut propose = false;
        if !is_member && is_eligible && has_reached && self.pending.is_none() && self.may_propose_joining(now)
        {
            let mut in_sync_others = self.membership.in_sync_others.clone();
            in_sync_others.push(fetch.broker);
            self.pending = Some(Pending { in_sync_others });
            propose = true;
        }
        Actions { propose, ..self.advance() }
    }

    fn may_propose_joining(&self, now: Instant) -> bool {
        self.refused_at.is_none_or(|at| now.saturating_duration_since(at) >= RETRY_AFTER)
    }

    /// Proposes all who hold everything and are not in sync. Such a follower has nothing to fetch, so it may not be heard of
    /// again while nothing is appended: whoever could not be proposed at its fetch, because another proposal was under
    /// way or its registration was not known yet, is found here.
    fn propose_complete(&mut self) -> bool {
        if self.pending.is_some() {
            return false;
        }
        let is_complete = |follower: &&Follower| {
            !self.membership.in_sync_others.contains(&follower.broker)
                && follower.is_eligible()
                && follower.end.is_some_and(|end| end >= self.local_end)
        };
        let joining: Vec<_> =
            self.followers.iter().filter(is_complete).map(|follower| follower.broker).collect();
        if joining.is_empty() {
            return false;
        }
        let mut in_sync_others = self.membership.in_sync_others.clone();
        in_sync_others.extend(joining);
        self.pending = Some(Pending { in_sync_others });
        true
    }

    /// Time passed: members that lag are proposed to leave. `contact` says when a broker last fetched anything from this one.
    pub fn on_tick(
        &mut self,
        now: Instant,
        lag_max: Duration,
        contact: impl Fn(BrokerId) -> Option<Instant>,
    ) -> Actions {
        let end = self.local_end;
        for follower in &mut self.followers {
            let contact = contact(follower.broker);
            follower.is_joining &= follower.has_caught_up(end, now, lag_max, contact);
        }
        let mut propose = false;
        if self.pending.is_none() {
            let lags = |id: &BrokerId| {
                let follower = self.followers.iter().find(|follower| follower.broker == *id);
                follower.is_none_or(|follower| !follower.has_caught_up(end, now, lag_max, contact(*id)))
            };
            let (out, stay): (Vec<_>, Vec<_>) =
                self.membership.in_sync_others.iter().copied().partition(lags);
            if !out.is_empty() {
                self.pending = Some(Pending { in_sync_others: stay });
                propose = true;
            } else if self.may_propose_joining(now) {
                propose = self.propose_complete();
            }
        }
        Actions { propose, ..self.advance() }
    }

    /// The controller's record of the partition, as it is now. Older ones than what is known are ignored.
    pub fn on_membership(&mut self, membership: Membership, now: Instant) -> Actions {
        if membership.partition_epoch <= self.membership.partition_epoch {
            return Actions::default();
        }
        self.followers.retain(|follower| membership.others.contains(&follower.broker));
        for broker in &membership.others {
            if !self.followers.iter().any(|follower| follower.broker == *broker) {
                let mut follower = Follower::new(*broker);
                // A member has its time to show that it is there.
                follower.caught_up_at = membership.in_sync_others.contains(broker).then_some(now);
                self.followers.push(follower);
            }
        }
        for follower in &mut self.followers {
            follower.is_joining &= !membership.in_sync_others.contains(&follower.broker);
        }
        self.pending = None;
        let propose = membership.is_recovering;
        if propose {
            // What an unclean election lost is lost; the leader says that it has come to terms with that (KIP-704).
            self.pending = Some(Pending { in_sync_others: membership.in_sync_others.clone() });
        }
        self.membership = membership;
        let propose = propose || self.propose_complete();
        Actions { propose, ..self.advance() }
    }

    /// Which brokers are registered, neither fenced nor shutting down, and in which epoch.
    pub fn on_brokers(&mut self, active_epoch: impl Fn(BrokerId) -> Option<BrokerEpoch>) -> Actions {
        for follower in &mut self.followers {
            follower.active_epoch = active_epoch(follower.broker);
            follower.is_joining &= follower.is_eligible();
        }
        let propose = self.propose_complete();
        Actions { propose, ..self.advance() }
    }

    /// What the controller is to be asked for now; the same again until it is settled.
    pub fn proposal(&self) -> Option<Proposal> {
        let pending = self.pending.as_ref()?;
        let epoch_of = |id: BrokerId| {
            let follower = self.followers.iter().find(|follower| follower.broker == id);
            follower.and_then(|follower| follower.fetch_epoch).unwrap_or(BrokerEpoch(-1))
        };
        Some(Proposal {
            partition_epoch: self.membership.partition_epoch,
            in_sync_others: pending.in_sync_others.iter().map(|id| (*id, epoch_of(*id))).collect(),
        })
    }

    /// A proposal that was made with this partition epoch did not come about, or may not have.
    pub fn on_proposal_failed(
        &mut self,
        partition_epoch: PartitionEpoch,
        outcome: ProposalOutcome,
        now: Instant,
    ) -> Actions {
        if partition_epoch != self.membership.partition_epoch || outcome == ProposalOutcome::AwaitImage {
            return Actions::default();
        }
        self.pending = None;
        self.refused_at = Some(now);
        self.advance()
    }

    /// The rules changed.
    pub fn on_rules(&mut self, durability: Durability, min_in_sync: usize) -> Actions {
        self.durability = durability;
        self.min_in_sync = min_in_sync;
        let sync = durability == Durability::Fsync && self.local_synced < self.local_end;
        Actions { sync, ..self.advance() }
    }

    fn local(&self) -> Offset {
        match self.durability {
            Durability::Fsync if planted!("ack-before-fsync") => self.local_end,
            Durability::Fsync => self.local_synced.min(self.local_end),
            Durability::Memory => self.local_end,
        }
    }

    fn advance(&mut self) -> Actions {
        // With fewer members than required nothing new is committed: who is elected after them need not have it (KIP-966).
        if self.members_count() < self.min_in_sync() {
            return Actions::default();
        }
        let mut least = self.local();
        for follower in &self.followers {
            let is_waited_for = self.maximal().any(|id| id == follower.broker);
            if is_waited_for {
                least = least.min(follower.end.unwrap_or(self.high_watermark));
            } else if follower.is_joining {
                least = least.min(follower.end.unwrap_or(least));
            }
        }
        if least <= self.high_watermark {
            return Actions::default();
        }
        self.high_watermark = least;
        Actions { advanced: Some(least), ..Actions::default() }
    }
}

#[cfg(test)]
#[path = "in_sync_tests.rs"]
mod tests;
