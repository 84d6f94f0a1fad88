//! How a node starts and finds its quorum.
//!
//! A node that holds nothing first asks around (`Probe`). A configured voter founds a cluster together with a majority of the
//! configured voters if all of that majority hold nothing: each writes the same first membership, and from there on it is an
//! ordinary election (`office` has the rest). If anybody holds a membership, the node joins through the active controller
//! instead, and so does every observer. A node that holds something takes part again, unless a peer remembers more of what it
//! acknowledged than its own disk does. The start returns when the image has everything that was committed at that time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use openraft::async_runtime::WatchReceiver as _;
use openraft::{Config, SnapshotPolicy};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::config::{MetadataConfig, QuorumRole};
use super::controller::{Controller, WAITING_REQUESTS_MAX};
use super::directory::{DIRECTORY_NAME, Home};
use super::doubt;
use super::encoding::{StoredLogId, StoredSnapshot, decode};
use super::links::{CallError, Links, Peer};
use super::log_store::{LogStore, OpenLogError};
use super::membership::is_other_process;
use super::messages::{Answer, Call, Denied, Join, JoinRefused, Probe, Probed, ProbedState};
use super::network::Network;
use super::room::Room;
use super::server::Server;
use super::state_machine::{Published, StateMachine};
use super::store::Store;
use super::store_memory::MemoryStore;
use super::store_sled::{OpenStoreError, SledStore};
use super::transport::Lane;
use super::types::{Member, MetadataRaft, Raft};
use super::{Metadata, Running, StartError};
use crate::metadata::ids::{BrokerId, ClusterId};
use crate::metadata::image::Image;
use crate::random;

/// Per cent of `election_timeout`. After a leader has fallen silent, a voter waits until the leader's lease is over, which openraft
/// sets to the greatest election timeout, and then for an election timeout of its own: with these from 150 to 200 per cent in all. So
/// much that a busy machine deposes nobody; the end of a process is found out otherwise (`doubt`).
const ELECTION_TIMEOUT_PERCENT: std::ops::Range<u32> = 50..100;
const HEARTBEAT_INTERVAL_PERCENT: u32 = 10;
/// A leader without a quorum is quiet this long between probes; openraft asks for at least lease + election timeout.
const QUORUM_LOSS_PROBE_PERCENT: u32 = 210;
/// Entries between snapshots: bounds the log and the time that a restart replays. A simulated minute has few of them.
pub(super) const ENTRIES_PER_SNAPSHOT: u64 = if cfg!(ottla_sim) { 30 } else { 5_000 };
/// Entries kept behind a snapshot for nodes that lag a little.
pub(super) const ENTRIES_KEPT: u64 = if cfg!(ottla_sim) { 3 } else { 100 };
/// The log is purged in steps of so many entries.
pub(super) const PURGE_STEP: u64 = if cfg!(ottla_sim) { 5 } else { 500 };

/// A peer that does not answer a probe in this time is taken for absent, for now.
const PROBE_LIMIT: Duration = Duration::from_millis(500);
/// Between looks at whether this node is ready.
const READY_PAUSE: Duration = Duration::from_millis(5);
/// Between rounds of asking around.
const PROBE_PAUSE: Duration = Duration::from_millis(200);
/// Those who could found a cluster wait so long for the rest: a voter that is there from the start can take part without
/// being written into the membership first.
const FOUNDING_GRACE: Duration = Duration::from_secs(1);
const JOIN_LIMIT: Duration = Duration::from_secs(10);
const CATCH_UP_LIMIT: Duration = Duration::from_secs(2);
/// Between lines that say what a start waits for.
const PROGRESS: Duration = Duration::from_secs(5);
/// A node that follows nobody for so long looks for its quorum again.
const LOST_AFTER: Duration = Duration::from_secs(3);

impl Metadata {
    /// Opens the store, finds the quorum, and returns once an active controller is known and this node's image has everything
    /// that was committed then. Waits for that as long as it takes, and says what for. Needs a tokio runtime with time.
    pub async fn start(config: MetadataConfig) -> Result<Metadata, StartError> {
        check_config(&config)?;
        if let Some(seed) = config.seed {
            random::seed_this_thread(seed);
        }
        let home = Home::open(&config.log_dir, config.cluster_id.as_ref(), config.node_id)?;
        let path = home.path().to_path_buf();
        let store = SledStore::open(&path).map_err(|error| match error {
            OpenStoreError::Corrupt(reason) => StartError::Corrupt { path: path.clone(), reason },
            OpenStoreError::Io(source) => StartError::Io { path: path.clone(), source },
        })?;
        Metadata::start_on(config, Arc::new(store), home).await
    }

    /// As `start`, on a store in memory: for tests and simulated clusters. The store outlives the node, so that another
    /// start on it is a restart.
    pub async fn start_in_memory(
        config: MetadataConfig,
        store: Arc<MemoryStore>,
    ) -> Result<Metadata, StartError> {
        check_config(&config)?;
        if let Some(seed) = config.seed {
            random::seed_this_thread(seed);
        }
        let home = Home::in_memory(store.clone(), config.cluster_id.as_ref(), config.node_id)?;
        Metadata::start_on(config, store, home).await
    }

    async fn start_on(
        config: MetadataConfig,
        store: Arc<dyn Store>,
        home: Home,
    ) -> Result<Metadata, StartError> {
        let id = to_id(config.node_id)?;
        let path = home.path();
        let snapshot_end = check_snapshot(&*store, home.cluster_id(), path)?;
        let log = LogStore::open(store.clone(), snapshot_end).map_err(|error| match error {
            OpenLogError::Corrupt(reason) => StartError::Corrupt { path: path.to_path_buf(), reason },
            OpenLogError::Io(source) => StartError::Io { path: path.to_path_buf(), source },
        })?;
        let cluster_id = home.cluster_id().cloned().unwrap_or_else(ClusterId::unknown);
        let published = Arc::new(Published::new(Image::empty(cluster_id.clone())));
        let state_machine = StateMachine::new(cluster_id, published.clone(), store.clone());
        let links = Links::new(
            id,
            home.directory_id(),
            config.transport.clone(),
            home.cluster_id().cloned().or_else(|| config.cluster_id.clone()),
            published.clone(),
        );
        let raft_config = raft_config(config.election_timeout).map_err(quorum_error)?;
        let room = Room::new(store.clone());
        let network = Network { links: links.clone(), room: room.clone() };
        let raft =
            Raft::new(id, Arc::new(raft_config), network, log, state_machine).await.map_err(quorum_error)?;
        links.set_raft(raft.clone());
        let server = Server::new(links.clone(), raft.clone(), room.clone(), &config);
        config.peers.attach(server.clone());

        let (requests, waiting) = mpsc::channel(WAITING_REQUESTS_MAX);
        let (stop, stopped) = oneshot::channel();
        let controller =
            Controller::new(raft.clone(), published.clone(), room.clone(), links.clone(), config.clone());
        let controller = tokio::spawn(controller.run(waiting, stopped));
        let tending = tokio::spawn(tend(raft.clone(), links.clone(), config.clone()));
        let heartbeat_interval = config.election_timeout * HEARTBEAT_INTERVAL_PERCENT / 100;
        let doubting = tokio::spawn(doubt::clear_up(raft.clone(), links.clone(), heartbeat_interval));
        let running = Arc::new(Mutex::new(None));
        let metadata = Metadata {
            node_id: config.node_id,
            raft,
            published,
            links,
            room,
            requests,
            membership_change: Arc::default(),
            barriers: Arc::default(),
            running: running.clone(),
        };
        *running.lock() = Some(Running {
            store,
            peers: config.peers.clone(),
            stop,
            controller,
            _tending: tending,
            _doubting: doubting,
            _home: home,
        });
        match metadata.find_quorum(&config, &server).await {
            Ok(()) => Ok(metadata),
            Err(error) => {
                metadata.shutdown().await;
                Err(error)
            }
        }
    }

    async fn find_quorum(&self, config: &MetadataConfig, server: &Server) -> Result<(), StartError> {
        let mut search = Search::new(&self.raft, &self.links, config);
        if self.raft.is_initialized().await.map_err(quorum_error)? {
            search.check_role()?;
            search.check_promises().await?;
        } else {
            search.found_or_join().await?;
        }
        allow_elections(&self.raft, &self.links);
        server.take_part();
        server.answer_for(self.clone());
        if is_sole_voter(&self.raft, self.links.node_id) {
            // Nobody else could have been elected meanwhile: waiting for a timeout would only cost time.
            self.raft.trigger().elect(false).await.map_err(quorum_error)?;
        }
        search.catch_up(self).await?;
        search.compare_with_membership();
        let cluster_id = self.image().cluster_id.clone();
        if let Some(running) = &mut *self.running.lock() {
            running._home.name_cluster(&cluster_id)?;
        }
        Ok(())
    }
}

/// An address, and who answers there or why nobody does.
type ProbedAt = (String, Result<((u64, Uuid), Probed), CallError>);

/// A node that looks for its quorum.
struct Search<'a> {
    raft: &'a Raft,
    links: &'a Links,
    config: &'a MetadataConfig,
    /// When what it waits for was said last.
    said: Instant,
}

impl<'a> Search<'a> {
    fn new(raft: &'a Raft, links: &'a Links, config: &'a MetadataConfig) -> Search<'a> {
        Search { raft, links, config, said: Instant::now() }
    }

    /// The addresses at which peers may be, without this node's own.
    fn addresses(&self) -> BTreeSet<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let members = metrics.membership_config.membership().nodes();
        let members =
            members.filter(|(id, _)| **id != self.links.node_id).map(|(_, node)| node.address.clone());
        let voters = self.config.voters.iter().filter(|(id, _)| *id != self.config.node_id);
        let voters = voters.map(|(_, address)| address.clone());
        members
            .chain(voters)
            .chain(self.config.bootstrap_servers.iter().cloned())
            .filter(|address| *address != self.config.peer_address && !address.is_empty())
            .collect()
    }

    async fn probe(&self, address: String) -> ProbedAt {
        let probe = Call::Probe(Probe { voters: self.config.voters.clone() });
        let called = self.links.call_from(&Peer::at(&address), Lane::Submit, probe, PROBE_LIMIT).await;
        let probed = match called {
            Ok((from, Answer::Probe(probed))) => Ok((from, probed)),
            Ok(_) => Err(CallError::WrongAnswer("it answers another call".into())),
            Err(error) => Err(error),
        };
        (address, probed)
    }

    async fn probe_all(&self) -> Vec<ProbedAt> {
        join_all(self.addresses().into_iter().map(|address| self.probe(address))).await
    }

    /// Says what is waited for, now and then.
    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.said.elapsed() >= PROGRESS {
            self.said = Instant::now();
            tracing::info!("waiting: {}", what());
        }
    }

    /// Alone by configuration: nobody is to be asked.
    fn is_founder_alone(&self) -> bool {
        let only_own = |address: &String| *address == self.config.peer_address;
        self.config.role == QuorumRole::Voter
            && match self.config.voters.as_slice() {
                [] => self.config.bootstrap_servers.iter().all(only_own),
                [(id, _)] => *id == self.config.node_id,
                _ => false,
            }
    }

    async fn found_or_join(&mut self) -> Result<(), StartError> {
        if self.is_founder_alone() {
            if self.config.holds_partitions {
                return Err(StartError::Vanished { path: self.metadata_path() });
            }
            let own =
                Member { address: self.config.peer_address.clone(), directory_id: self.links.directory_id };
            let voters = BTreeMap::from([(self.links.node_id, own)]);
            return self.raft.initialize(voters).await.map_err(quorum_error);
        }
        // Founding anew would mean that what lies on this node is of no topic any more.
        let is_founder = self.config.role == QuorumRole::Voter
            && !self.config.holds_partitions
            && self.config.voters.iter().any(|(id, _)| *id == self.config.node_id);
        let mut complete_since: Option<Instant> = None;
        loop {
            let probed = self.probe_all().await;
            self.check_cluster(&probed)?;
            let holds = |answer: &Probed| answer.state == ProbedState::Member && answer.leader.is_some();
            let answers = probed.iter().filter_map(|(_, answer)| answer.as_ref().ok());
            let leaders: Vec<String> = answers
                .clone()
                .filter(|(_, answer)| holds(answer))
                .filter_map(|(_, answer)| answer.leader.as_ref().map(|(_, address)| address.clone()))
                .collect();
            if let Some(address) = leaders.first()
                && self.join(address).await?
            {
                return Ok(());
            }
            if is_founder {
                let founders = self.founders(&probed)?;
                let all = self.config.voters.len();
                // Whoever is founding already counts: it waits for this node.
                if founders.len() > all / 2 && leaders.is_empty() {
                    let since = *complete_since.get_or_insert_with(Instant::now);
                    if founders.len() == all || since.elapsed() >= FOUNDING_GRACE {
                        return self.found().await;
                    }
                } else {
                    complete_since = None;
                }
            }
            self.say(|| describe(&probed, is_founder));
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }

    /// The configured voters that are founding this cluster, this node included. Refuses if they cannot be enough, because too
    /// many are configured otherwise.
    fn founders(&self, probed: &[ProbedAt]) -> Result<BTreeSet<u64>, StartError> {
        let mine: BTreeSet<_> = self.config.voters.iter().cloned().collect();
        let mut founders = BTreeSet::from([self.links.node_id]);
        let mut others = Vec::new();
        for ((id, _), answer) in probed.iter().filter_map(|(_, answer)| answer.as_ref().ok()) {
            if !self.config.voters.iter().any(|(voter, _)| u64::try_from(voter.0) == Ok(*id)) {
                continue;
            }
            if answer.voters.iter().cloned().collect::<BTreeSet<_>>() != mine {
                others.push((*id, answer.voters.clone()));
            } else if !answer.is_named {
                founders.insert(*id);
            }
        }
        let needed = self.config.voters.len() / 2 + 1;
        if self.config.voters.len() - others.len() < needed
            && let Some((id, voters)) = others.pop()
        {
            return Err(StartError::VotersDisagree {
                mine: write_voters(&self.config.voters),
                peer: BrokerId(i32::try_from(id).unwrap_or(-1)),
                theirs: write_voters(&voters),
            });
        }
        for (id, voters) in others {
            let theirs = write_voters(&voters);
            tracing::warn!(node = id, %theirs, "a configured voter has other controller.quorum.voters and is not counted");
        }
        Ok(founders)
    }

    /// Writes the first membership, the same on every founder.
    async fn found(&self) -> Result<(), StartError> {
        let mut voters = BTreeMap::new();
        for (id, address) in &self.config.voters {
            let member = Member { address: address.clone(), directory_id: Uuid::nil() };
            voters.insert(to_id(*id)?, member);
        }
        self.raft.initialize(voters).await.map_err(quorum_error)
    }

    /// Asks the controller at `address` to be written into the membership. False if asking again may help.
    async fn join(&mut self, address: &str) -> Result<bool, StartError> {
        let join = Join { address: self.config.peer_address.clone(), process: self.links.process };
        let call = Call::Join(join);
        match self.links.call(&Peer::at(address), Lane::Submit, call, JOIN_LIMIT).await {
            Ok(Answer::Join(Ok(()))) => Ok(true),
            Ok(Answer::Join(Err(JoinRefused::Never(reason)))) => Err(StartError::NotAdmitted(reason)),
            Ok(Answer::Join(Err(refused))) => {
                self.say(|| format!("the controller at {address} does not admit this node yet: {refused}"));
                Ok(false)
            }
            Ok(_) => Ok(false),
            Err(error) => {
                self.say(|| format!("the controller at {address}: {error}"));
                Ok(false)
            }
        }
    }

    /// Refuses to take part with less than this node once acknowledged: what it lost may have counted.
    async fn check_promises(&self) -> Result<(), StartError> {
        let (epoch, last) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.vote.leader_id().term, metrics.last_log_index)
        };
        let probed = self.probe_all().await;
        self.check_cluster(&probed)?;
        self.check_copied(&probed).await?;
        for (_, answer) in probed {
            let Ok(((peer, _), Probed { promised, .. })) = answer else { continue };
            let acknowledged = promised.last.map(|last| last.offset);
            let (remembered, held) = match acknowledged {
                Some(offset) if last.is_none_or(|last| last < offset) => {
                    let held = last.map_or("is empty".to_owned(), |last| format!("ends at offset {last}"));
                    (format!("acknowledged offset {offset}"), held)
                }
                _ if promised.epoch > epoch => {
                    (format!("voted in epoch {}", promised.epoch), format!("knows of none after {epoch}"))
                }
                _ => continue,
            };
            return Err(StartError::OldCopy {
                node: self.config.node_id,
                path: self.metadata_path(),
                peer: BrokerId(i32::try_from(peer).unwrap_or(-1)),
                remembered,
                held,
                is_voter: self.own_membership().is_some_and(|(_, is_voter)| is_voter),
            });
        }
        Ok(())
    }

    /// Refuses to be a second process that goes by the same directory: both would vote, and each only for itself. Nobody can tell
    /// them apart but by asking where this node is known to be.
    async fn check_copied(&self, probed: &[ProbedAt]) -> Result<(), StartError> {
        let told = probed
            .iter()
            .filter_map(|(_, answer)| Some(answer.as_ref().ok()?.1.you.as_ref()?.address.clone()));
        let known = self.own_membership().map(|(member, _)| member.address);
        // Its own address too: with the same `controller.quorum.voters` that is the other process's.
        let own = [self.config.peer_address.clone()];
        let addresses: BTreeSet<String> = told.chain(known).chain(own).filter(|at| !at.is_empty()).collect();
        for (address, answer) in join_all(addresses.into_iter().map(|address| self.probe(address))).await {
            let Ok((who, answer)) = answer else { continue };
            if who == (self.links.node_id, self.links.directory_id)
                && is_other_process(answer.process, self.links.process)
            {
                return Err(StartError::Copied {
                    node: self.config.node_id,
                    address,
                    path: self.metadata_path(),
                });
            }
        }
        Ok(())
    }

    /// What the newest membership that this node has says of it, and whether it votes.
    fn own_membership(&self) -> Option<(Member, bool)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let member = membership.get_node(&self.links.node_id)?.clone();
        Some((member, membership.voter_ids().any(|id| id == self.links.node_id)))
    }

    fn metadata_path(&self) -> PathBuf {
        self.config.log_dir.join(DIRECTORY_NAME)
    }

    /// What is configured here is another cluster than what lies on this disk: alone, this node would go on as a cluster of its
    /// own, which nobody means.
    fn check_cluster(&self, probed: &[ProbedAt]) -> Result<(), StartError> {
        if probed.iter().any(|(_, answer)| answer.is_ok()) {
            return Ok(());
        }
        let other = probed.iter().find_map(|(address, answer)| match answer {
            Err(CallError::Denied(Denied::OtherCluster(theirs))) => Some((address.clone(), theirs.clone())),
            _ => None,
        });
        match (other, self.links.cluster_id()) {
            (Some((address, theirs)), Some(mine)) => {
                Err(StartError::PeersOfOtherCluster { mine, address, theirs })
            }
            _ => Ok(()),
        }
    }

    /// A voter votes whatever its configuration says, so that must say so.
    fn check_role(&self) -> Result<(), StartError> {
        let is_voter = self.own_membership().is_some_and(|(_, is_voter)| is_voter);
        if is_voter && self.config.role == QuorumRole::Observer {
            return Err(StartError::InvalidConfig(format!(
                "process.roles: node {} is a voter of the metadata quorum, so controller must be among its roles; to make it only \
                 a broker, remove it from the voters first (kafka-metadata-quorum remove-controller)",
                self.links.node_id
            )));
        }
        Ok(())
    }

    /// The membership in the log counts; the configuration is only what it began with. Says where the two differ.
    fn compare_with_membership(&self) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        if self.config.role == QuorumRole::Voter && !membership.voter_ids().any(|id| id == self.links.node_id)
        {
            tracing::info!(
                "this controller has no vote; kafka-metadata-quorum add-controller makes it a voter"
            );
        }
        let mut stored: Vec<(BrokerId, String)> = membership
            .voter_ids()
            .filter_map(|id| Some((i32::try_from(id).ok()?, membership.get_node(&id)?)))
            .map(|(id, member)| (BrokerId(id), member.address.clone()))
            .collect();
        let mut configured = self.config.voters.clone();
        stored.sort();
        configured.sort();
        if !configured.is_empty() && stored != configured {
            tracing::warn!(
                stored = write_voters(&stored),
                configured = write_voters(&configured),
                "controller.quorum.voters differs from the voters in the metadata log, which count: the list is only for the first \
                 start, later changes go by kafka-metadata-quorum add-controller and remove-controller"
            );
        }
    }

    /// Waits until this node's image has all that is committed now, whoever leads.
    async fn catch_up(&mut self, metadata: &Metadata) -> Result<(), StartError> {
        let metrics = self.raft.metrics();
        let mut has_joined = false;
        let mut unled_since = Instant::now();
        loop {
            let now = metrics.borrow_watched().clone();
            if let Err(fatal) = &now.running_state {
                return Err(quorum_error(fatal));
            }
            let target = match metadata.leader() {
                Some((id, _)) if id == self.links.node_id => metadata.committed_now().await.ok(),
                Some((_, peer)) if !has_joined => {
                    has_joined = self.join(&peer.address).await?;
                    if has_joined {
                        continue;
                    }
                    // Not at once again: what refuses may refuse without taking any time.
                    None
                }
                Some((_, peer)) => {
                    match self.links.call(&peer, Lane::Submit, Call::CatchUp, CATCH_UP_LIMIT).await {
                        Ok(Answer::CatchUp(Ok(offset))) => Some(offset),
                        _ => None,
                    }
                }
                None => None,
            };
            if now.current_leader.is_some() {
                unled_since = Instant::now();
            } else if unled_since.elapsed() >= LOST_AFTER {
                // Perhaps the quorum has moved, or taken this node out.
                has_joined |= rejoin(self).await?;
                unled_since = Instant::now();
            }
            if let Some(target) = target
                && self.links.is_named()
                && applied(self.raft) >= Some(target)
            {
                return Ok(());
            }
            self.say(|| match (now.current_leader, target) {
                (None, _) => format!("no active controller is known; {}", self_and_voters(&now)),
                (Some(leader), None) => format!("the controller {leader} does not answer"),
                (Some(_), Some(target)) => {
                    format!("metadata up to offset {target}, this node is at {:?}", applied(self.raft))
                }
            });
            // Not the next change of the metrics: asking openraft makes one.
            tokio::time::sleep(READY_PAUSE).await;
        }
    }
}

/// Asks around for the controller, and that one to be written into the membership again.
async fn rejoin(search: &mut Search<'_>) -> Result<bool, StartError> {
    let probed = search.probe_all().await;
    let leader = probed.iter().find_map(|(_, answer)| answer.as_ref().ok()?.1.leader.clone());
    match leader {
        Some((id, address)) if id != search.links.node_id => search.join(&address).await,
        _ => Ok(false),
    }
}

/// What goes on beside the requests as long as openraft runs: who may stand for election, who has caught up, and the search for
/// a quorum that this node has lost.
async fn tend(raft: Raft, links: Arc<Links>, config: MetadataConfig) {
    let mut metrics = raft.metrics();
    let mut led_at = Instant::now();
    loop {
        if let Ok(Err(_)) = tokio::time::timeout(LOST_AFTER, metrics.changed()).await {
            return;
        }
        let now = metrics.borrow_watched().clone();
        if now.running_state.is_err() {
            return;
        }
        allow_elections(&raft, &links);
        for (id, matched) in now.replication.iter().flatten() {
            if matched.as_ref().map(|matched| matched.index) >= now.last_log_index {
                links.note_caught_up(*id);
            }
        }
        if now.current_leader.is_some() {
            led_at = Instant::now();
        } else if led_at.elapsed() >= LOST_AFTER && links.is_named() {
            led_at = Instant::now();
            let mut search = Search::new(&raft, &links, &config);
            match rejoin(&mut search).await {
                Ok(true) => tracing::info!("this node has found its quorum again"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "this node is not admitted to its quorum any more"),
            }
        }
    }
}

/// Only a voter that the membership knows by its directory may stand: a node that reads the log from its beginning passes by
/// memberships of long ago, in which its id may have been another's.
fn allow_elections(raft: &Raft, links: &Links) {
    raft.runtime_config().elect(may_stand(raft, links));
}

pub(super) fn may_stand(raft: &Raft, links: &Links) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let membership = metrics.membership_config.membership();
    let is_voter = membership.voter_ids().any(|id| id == links.node_id);
    let is_known = membership.get_node(&links.node_id).is_some_and(|member| {
        let is_alone = membership.voter_ids().count() == 1;
        member.directory_id == links.directory_id
            || member.directory_id.is_nil() && (is_alone || !links.is_named())
    });
    is_voter && is_known
}

fn is_sole_voter(raft: &Raft, id: u64) -> bool {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let mut voters = metrics.membership_config.membership().voter_ids();
    voters.next() == Some(id) && voters.next().is_none()
}

fn applied(raft: &Raft) -> Option<u64> {
    raft.metrics().borrow_watched().last_applied.as_ref().map(|applied| applied.index)
}

/// Whom a node that holds nothing has found.
fn describe(probed: &[ProbedAt], is_founder: bool) -> String {
    let mut text = match is_founder {
        true => {
            "for a majority of controller.quorum.voters to found a cluster, or an active controller to join"
                .to_owned()
        }
        false => "for an active controller to join".to_owned(),
    };
    for (address, answer) in probed {
        text += &match answer {
            Err(error) => format!("; {address}: {error}"),
            Ok(((id, _), answer)) => match (answer.state, &answer.leader) {
                (ProbedState::Empty, _) => format!("; {address}: node {id} holds nothing yet"),
                (ProbedState::Member, None) => format!("; {address}: node {id} knows no active controller"),
                (ProbedState::Member, Some((leader, _))) => {
                    format!("; {address}: node {id} says that {leader} is the active controller")
                }
            },
        };
    }
    text
}

fn self_and_voters(metrics: &openraft::RaftMetrics<MetadataRaft>) -> String {
    let voters: Vec<String> = metrics
        .membership_config
        .membership()
        .nodes()
        .map(|(id, node)| format!("{id} at {}", node.address))
        .collect();
    format!("members: {}", voters.join(", "))
}

fn write_voters(voters: &[(BrokerId, String)]) -> String {
    let voters: Vec<String> = voters.iter().map(|(id, address)| format!("{id}@{address}")).collect();
    voters.join(",")
}

fn quorum_error(error: impl std::fmt::Display) -> StartError {
    StartError::Quorum(error.to_string())
}

fn to_id(id: BrokerId) -> Result<u64, StartError> {
    u64::try_from(id.0)
        .map_err(|_| StartError::InvalidConfig(format!("node.id is {id}, it must not be negative")))
}

fn check_config(config: &MetadataConfig) -> Result<(), StartError> {
    to_id(config.node_id)?;
    let invalid = |text: String| Err(StartError::InvalidConfig(text));
    let mut ids = BTreeSet::new();
    for (id, address) in &config.voters {
        to_id(*id)?;
        if !ids.insert(*id) {
            return invalid(format!("controller.quorum.voters names node {id} twice"));
        }
        if address.is_empty() {
            return invalid(format!("controller.quorum.voters has no address for node {id}"));
        }
    }
    let is_configured = ids.contains(&config.node_id);
    match config.role {
        QuorumRole::Voter if !ids.is_empty() && !is_configured => invalid(format!(
            "node {} is a controller, but controller.quorum.voters is {}",
            config.node_id,
            write_voters(&config.voters)
        )),
        QuorumRole::Observer if is_configured => invalid(format!(
            "controller.quorum.voters names node {}, which is no controller (process.roles)",
            config.node_id
        )),
        QuorumRole::Observer if ids.is_empty() && config.bootstrap_servers.is_empty() => invalid(
            "a node that is no controller needs controller.quorum.bootstrap.servers or controller.quorum.voters".into(),
        ),
        QuorumRole::Voter | QuorumRole::Observer => Ok(()),
    }
}

/// Where the snapshot ends; refuses one that cannot be read or belongs elsewhere.
fn check_snapshot(
    store: &dyn Store,
    cluster_id: Option<&ClusterId>,
    path: &Path,
) -> Result<Option<StoredLogId>, StartError> {
    let corrupt = |reason: String| StartError::Corrupt { path: path.to_path_buf(), reason };
    let bytes = store.snapshot().map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => corrupt(error.to_string()),
        _ => StartError::Io { path: path.to_path_buf(), source: error },
    })?;
    let Some(bytes) = bytes else { return Ok(None) };
    let stored: StoredSnapshot = decode(&bytes).map_err(|error| corrupt(format!("the snapshot: {error}")))?;
    match cluster_id {
        Some(expected) if stored.cluster_id != *expected => Err(StartError::OtherCluster {
            path: path.to_path_buf(),
            found: stored.cluster_id,
            expected: expected.clone(),
        }),
        _ => Ok(stored.last),
    }
}

fn raft_config(election_timeout: Duration) -> Result<Config, openraft::ConfigError> {
    let millis = |percent: u32| {
        u64::try_from((election_timeout * percent / 100).as_millis()).unwrap_or(u64::MAX).max(1)
    };
    Config {
        cluster_name: "metadata".into(),
        election_timeout_min: millis(ELECTION_TIMEOUT_PERCENT.start),
        election_timeout_max: millis(ELECTION_TIMEOUT_PERCENT.end),
        heartbeat_interval: millis(HEARTBEAT_INTERVAL_PERCENT),
        heartbeat_min_interval: Some(0),
        enable_pre_vote: Some(true),
        // Until the membership knows this node by its directory: `allow_elections`.
        enable_elect: false,
        quorum_loss_probe_interval: Some(millis(QUORUM_LOSS_PROBE_PERCENT)),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_SNAPSHOT),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        purge_batch_size: PURGE_STEP,
        // A restarted leader goes through an election, so that its epoch says what it may have missed.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
    .validate()
}
