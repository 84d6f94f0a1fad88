//! Finds out within a moment that a process has ended, so that nobody waits for a timeout.
//!
//! A connection that ends, or an address that refuses one, is no proof: it makes a peer doubted, and a doubted peer is asked at once
//! and again until it answers or nobody listens at its address any more (`Links::REFUSALS_APART`). What comes of it:
//! - the active controller fences the broker (`sessions`);
//! - voters whose leader ended elect another one without waiting for its lease. That takes a majority of voters each of
//!   which found out for itself: a lease is given up only by the voter that granted it. A link that is cut refuses nothing, so
//!   then the ordinary timeout holds. Nothing rests on leases but peace: a leader asks a quorum before it answers;
//! - who is asked for the leader of a partition waits a little while that leader is in doubt (`Metadata::is_doubted`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Metadata;
use super::links::{Links, Peer};
use super::messages::{Call, Probe};
use super::start::may_stand;
use super::transport::Lane;
use super::types::Raft;
use crate::metadata::ids::BrokerId;

/// Between questions to a doubted peer.
const PROBE_PAUSE: Duration = Duration::from_millis(20);
/// An answer that takes longer is none, but no refusal either.
const PROBE_LIMIT: Duration = Duration::from_millis(100);
/// Who is doubted for so long without an end of it is not cleared up this way.
const DOUBT_MAX: Duration = Duration::from_secs(1);
/// Of several voters that could stand, one begins; each next one waits so much longer.
const TURN: Duration = Duration::from_millis(100);

/// The peers in doubt, and since when.
#[derive(Default)]
pub struct Doubts {
    since: Mutex<BTreeMap<u64, Instant>>,
    added: Notify,
}

impl Doubts {
    pub fn add(&self, id: u64) {
        if let Entry::Vacant(entry) = self.since.lock().entry(id) {
            entry.insert(Instant::now());
            self.added.notify_one();
        }
    }

    /// It answered, or is fenced or gone.
    pub fn end(&self, id: u64) {
        self.since.lock().remove(&id);
    }

    fn is_current(&self, id: u64) -> bool {
        self.since.lock().get(&id).is_some_and(|since| since.elapsed() < DOUBT_MAX)
    }

    fn all(&self) -> Vec<u64> {
        self.since.lock().keys().copied().collect()
    }
}

impl Metadata {
    /// The connection to another broker ended or was refused: is it still there?
    pub fn doubt(&self, id: BrokerId) {
        if let Ok(peer) = u64::try_from(id.0)
            && self.image().broker(id).is_some_and(|broker| !broker.fenced)
        {
            self.links.doubts.add(peer);
        }
    }

    /// Whether the process of a broker may have ended a moment ago. It is answered or fenced soon; a doubt that lasts counts no
    /// more.
    pub fn is_doubted(&self, id: BrokerId) -> bool {
        u64::try_from(id.0).is_ok_and(|id| self.links.doubts.is_current(id))
    }
}

impl Metadata {
    /// Resolves when so many controllers have ended that there can be no active one: waiting for it would be in vain.
    pub async fn quorum_ended(&self) {
        while !self.has_quorum_ended() {
            tokio::time::sleep(PROBE_LIMIT).await;
        }
    }

    fn has_quorum_ended(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let own = self.links.node_id;
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let left = voters.iter().filter(|id| **id == own || !self.links.contact(**id).gone).count();
        metrics.current_leader.is_none_or(|leader| leader == own) && left <= voters.len() / 2
    }
}

/// Clears doubts up, as long as openraft runs.
pub async fn clear_up(raft: Raft, links: Arc<Links>, heartbeat_interval: Duration) {
    let silence_max = heartbeat_interval * 5 / 4;
    let mut vacancy: Option<Vacancy> = None;
    while raft.metrics().borrow_watched().running_state.is_ok() {
        let began = Instant::now();
        // A voter doubts its leader when a heartbeat is missing.
        let leader = leader_of_voter(&raft, links.node_id);
        let heard = leader.and_then(|leader| links.heard_leader(leader));
        let next_word = heard.map(|heard| heard + silence_max);
        if let (Some(leader), Some(next_word)) = (leader, next_word)
            && next_word <= Instant::now()
        {
            links.doubts.add(leader);
        }
        let doubted = links.doubts.all();
        join_all(doubted.iter().map(|id| probe(&links, *id))).await;
        let ended = leader.filter(|leader| {
            // Who refuses this node alone still speaks to it.
            let heard = links.heard_leader(*leader);
            heard.is_none_or(|heard| heard.elapsed() >= silence_max) && links.has_ended(*leader, heard)
        });
        vacancy = match ended {
            Some(leader) => {
                let vacancy = vacancy.filter(|vacancy| vacancy.leader == leader);
                let vacancy = vacancy.unwrap_or_else(|| Vacancy { leader, since: Instant::now() });
                vacancy.fill(&raft, &links).await;
                Some(vacancy)
            }
            None => None,
        };
        if doubted.iter().any(|id| links.doubts.is_current(*id)) {
            tokio::time::sleep(PROBE_PAUSE).await;
            continue;
        }
        // Those whose doubt has lasted too long are asked now and then whether it is over.
        let next_word = next_word.filter(|next_word| *next_word > Instant::now());
        let next_look = next_word
            .unwrap_or_else(|| Instant::now() + if doubted.is_empty() { silence_max } else { DOUBT_MAX });
        tokio::select! {
            () = links.doubts.added.notified() => {}
            () = tokio::time::sleep_until(next_look) => {}
        }
        // A doubt may be over as soon as it is there, and be there again: the leader is doubted by its silence as a controller, and
        // as a broker it may be fenced.
        tokio::time::sleep_until(began + PROBE_PAUSE).await;
    }
}

async fn probe(links: &Links, id: u64) {
    if links.member(id).is_none() || links.is_fenced_broker(id) {
        links.doubts.end(id);
    } else {
        // What comes of it is noted by `links`.
        answers(links, id, PROBE_LIMIT).await;
    }
}

/// Whether a member answers now.
pub async fn answers(links: &Links, id: u64, limit: Duration) -> bool {
    let Some(member) = links.member(id) else { return false };
    let probe = Call::Probe(Probe { voters: Vec::new() });
    links.call(&Peer::member(id, &member), Lane::Submit, probe, limit).await.is_ok()
}

/// Whom this node follows as a voter.
fn leader_of_voter(raft: &Raft, own: u64) -> Option<u64> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let is_voter = metrics.membership_config.membership().voter_ids().any(|id| id == own);
    metrics.current_leader.filter(|leader| is_voter && *leader != own)
}

/// A leader whose process has ended.
struct Vacancy {
    leader: u64,
    since: Instant,
}

impl Vacancy {
    async fn fill(&self, raft: &Raft, links: &Links) {
        let (vote, turn) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters = metrics.membership_config.membership().voter_ids();
            let before = voters.filter(|id| *id != self.leader && *id < links.node_id).count();
            (metrics.vote, TURN * u32::try_from(before).unwrap_or(u32::MAX))
        };
        // What a leader tells its voters when it gives its office to another; here nobody is left to say it. If the vote has
        // changed meanwhile, nothing happens.
        let released = TransferLeaderRequest::new(vote, self.leader, None);
        if raft.handle_transfer_leader(released).await.is_ok()
            && self.since.elapsed() >= turn
            && may_stand(raft, links)
        {
            tracing::debug!(leader = self.leader, "the active controller's process has ended");
            // By pre-votes: voters that have not found out yet refuse, and are asked again in a moment.
            let _ = raft.trigger().elect(true).await;
        }
    }
}
