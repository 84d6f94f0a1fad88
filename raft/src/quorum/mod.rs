//! The Raft quorum under the metadata: openraft on a durable store, the controller that decides, and the handle that
//! the rest of the process holds.

mod controller;
mod directory;
pub mod encoding;
pub mod log_store;
mod network;
pub mod state_machine;
pub mod store;
pub mod store_memory;
pub mod store_sled;
mod transport;
pub mod types;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::impls::BasicNode;
use openraft::{Config, Instant as _, SnapshotPolicy};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::metadata::decide::ITEMS_PER_REQUEST_MAX;
pub use crate::metadata::decide::StaticSettings;
use crate::metadata::ids::{BrokerId, ClusterId, cluster_id_generate};
use crate::metadata::image::{Configs, Image};
use crate::metadata::records::ConfigResource;
use crate::requests::{Request, Submit};

use controller::{Controller, WAITING_REQUESTS_MAX, Waiting};
use directory::Directory;
use encoding::{StoredLogId, StoredSnapshot, decode};
use log_store::{LogStore, OpenLogError};
use network::Network;
use state_machine::{Published, StateMachine};
use store::Store;
use store_sled::{OpenStoreError, SledStore};
use types::Raft;

pub use directory::DIRECTORY_NAME;
pub use transport::{
    Lane, NoPeers, PEER_MESSAGE_BYTES_MAX, PeerRefused, PeerService, Transport, TransportError,
};

/// Judges the complete dynamic configs of a resource before a change of them is written. Pure: the same input gives the same answer.
pub type ConfigCheck = Arc<dyn Fn(&ConfigResource, &Configs) -> Result<(), String> + Send + Sync>;

#[derive(Clone)]
pub struct MetadataConfig {
    /// `node.id`.
    pub node_id: BrokerId,
    /// The log directory; the metadata lies in `__cluster_metadata-0` under it.
    pub log_dir: PathBuf,
    /// `None`: whatever the directory says, and on an empty directory a new one.
    pub cluster_id: Option<ClusterId>,
    /// Whether this node votes (`process.roles` has controller) or only follows.
    pub role: QuorumRole,
    /// `controller.quorum.voters`: the first membership, the same on every node. Empty without it.
    pub voters: Vec<(BrokerId, String)>,
    /// `controller.quorum.bootstrap.servers`: where an existing quorum is looked for.
    pub bootstrap_servers: Vec<String>,
    /// Where peers reach this node, e.g. `10.0.0.1:9093`; kept in the Raft membership.
    pub peer_address: String,
    /// The way to the peers.
    pub transport: Arc<dyn Transport>,
    /// Where the peers' requests come in: the caller hands it what its sockets receive.
    pub peers: PeerService,
    /// Where random bits come from; the same seed gives the same elections, ids and placements in a simulation. `None`: the
    /// operating system.
    pub seed: Option<u64>,
    /// For topics created without counts (`num.partitions`, `default.replication.factor`).
    pub topic_defaults: TopicDefaults,
    /// Broker settings that elections need where no dynamic config says otherwise.
    pub static_settings: StaticSettings,
    /// How often leaders go back to where they are preferred (`leader.imbalance.check.interval.seconds`). `None`: they stay
    /// where they are (`auto.leader.rebalance.enable`).
    pub leader_balance_interval: Option<Duration>,
    /// How often partitions without leader are looked at (`unclean.leader.election.interval.ms`).
    pub leaderless_check_interval: Duration,
    pub config_check: Option<ConfigCheck>,
    /// A broker that sends no heartbeat for so long is fenced (`broker.session.timeout.ms`). `None`: nobody is.
    pub broker_session_timeout: Option<Duration>,
}

impl MetadataConfig {
    pub fn new(node_id: BrokerId, log_dir: impl Into<PathBuf>) -> MetadataConfig {
        MetadataConfig {
            node_id,
            log_dir: log_dir.into(),
            cluster_id: None,
            role: QuorumRole::Voter,
            voters: Vec::new(),
            bootstrap_servers: Vec::new(),
            peer_address: String::new(),
            transport: Arc::new(NoPeers),
            peers: PeerService::new(),
            seed: None,
            topic_defaults: TopicDefaults::default(),
            static_settings: StaticSettings::default(),
            leader_balance_interval: None,
            leaderless_check_interval: LEADERLESS_CHECK_INTERVAL,
            config_check: None,
            broker_session_timeout: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuorumRole {
    /// A controller: votes as soon as it is in the voters' set.
    Voter,
    /// A broker only: follows the log.
    Observer,
}

/// Kafka's `unclean.leader.election.interval.ms`.
const LEADERLESS_CHECK_INTERVAL: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicDefaults {
    pub partitions: i32,
    pub replication_factor: i16,
}

impl Default for TopicDefaults {
    fn default() -> TopicDefaults {
        TopicDefaults { partitions: 1, replication_factor: 1 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{path} holds the metadata of cluster {found}, but this node is to be part of cluster {expected}"
    )]
    OtherCluster { path: PathBuf, found: ClusterId, expected: ClusterId },
    #[error("{path} holds the metadata of node {found}, but this node's node.id is {expected}")]
    OtherNode { path: PathBuf, found: BrokerId, expected: BrokerId },
    #[error("{path} is in use by another process")]
    Locked { path: PathBuf },
    #[error("the metadata in {path} cannot be read: {reason}")]
    Corrupt { path: PathBuf, reason: String },
    #[error("cannot open the metadata in {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the metadata quorum does not start: {0}")]
    Quorum(String),
    #[error("{0}")]
    InvalidConfig(String),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SubmitError {
    /// Not the active controller; ask `leader` if known. Nothing was changed.
    #[error("this node is not the active controller")]
    NotController { leader: Option<BrokerId> },
    /// The leadership was lost while the change was on its way: it may or may not become part of the log.
    #[error("the controller lost its leadership; whether the change was made is not known")]
    OutcomeUnknown,
    /// Too many requests wait, or this one is larger than one log entry may be. Nothing was changed.
    #[error("the controller cannot take this request: {0}")]
    Refused(String),
    /// The disk of the metadata log is too full for what makes the metadata grow. Nothing was changed; it is taken again
    /// when there is room.
    #[error("the controller's disk cannot take this change: {0}")]
    NoRoom(String),
    /// The metadata is shut down, or a write of it failed.
    #[error("the metadata is stopped: {0}")]
    Stopped(String),
    /// No active controller answered in time. Nothing was changed.
    #[error("no active controller could be reached within {0:?}")]
    NoController(Duration),
}

/// Why the voters' set stays as it is, or may (`add_voter`, `remove_voter`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum VoterChangeError {
    /// DUPLICATE_VOTER
    #[error("node {0} is a voter already")]
    DuplicateVoter(BrokerId),
    /// VOTER_NOT_FOUND
    #[error("{0}")]
    VoterNotFound(String),
    /// INVALID_REQUEST
    #[error("{0}")]
    InvalidRequest(String),
    /// REQUEST_TIMED_OUT: another change is in progress, or the new voter does not catch up.
    #[error("{0}")]
    TimedOut(String),
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// What DescribeQuorum shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuorumInfo {
    pub leader: Option<BrokerId>,
    /// The Raft epoch.
    pub leader_epoch: i32,
    /// Exclusive: the first offset that is not committed.
    pub high_watermark: i64,
    pub voters: Vec<VoterInfo>,
    pub observers: Vec<ObserverInfo>,
    /// Where the voters and observers are reached.
    pub addresses: BTreeMap<BrokerId, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterInfo {
    pub id: BrokerId,
    /// Of its metadata directory; nil while it is not known.
    pub directory_id: Uuid,
    /// Exclusive; -1 if not known here.
    pub log_end_offset: i64,
    /// Milliseconds since the voter last acknowledged; 0 for the leader itself, `None` if not known here.
    pub silent_ms: Option<u64>,
    /// Milliseconds since the voter last had everything that was in the leader's log; 0 for the leader itself, `None` if not
    /// known here.
    pub behind_ms: Option<u64>,
}

pub type ObserverInfo = VoterInfo;

/// A candidate waits this long for the others; with one voter no election waits for it.
const ELECTION_TIMEOUT_MS: std::ops::Range<u64> = 1_000..2_000;
const HEARTBEAT_INTERVAL_MS: u64 = 250;
/// A leader without a quorum is quiet this long between probes; openraft asks for at least lease + election timeout.
const QUORUM_LOSS_PROBE_MS: u64 = 4_000;
/// Entries between snapshots: bounds the log and the time that a restart replays.
const ENTRIES_PER_SNAPSHOT: u64 = 5_000;
/// Entries kept behind a snapshot for voters that lag a little.
const ENTRIES_KEPT: u64 = 100;
/// The log is purged in steps of so many entries.
const PURGE_STEP: u64 = 500;
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The handle to the metadata; clones share one node. Dropping the last one does not stop it cleanly: see `shutdown`.
#[derive(Clone)]
pub struct Metadata {
    node_id: BrokerId,
    directory_id: Uuid,
    raft: Raft,
    published: Arc<Published>,
    requests: mpsc::Sender<Waiting>,
    running: Arc<Mutex<Option<Running>>>,
}

struct Running {
    store: Arc<dyn Store>,
    stop: oneshot::Sender<()>,
    controller: JoinHandle<()>,
    /// `None` for a store without a directory.
    _directory: Option<Directory>,
}

impl Metadata {
    /// Opens the store, joins the quorum, and returns once this node leads and its image is complete. Needs a tokio
    /// runtime with time.
    pub async fn start(config: MetadataConfig) -> Result<Metadata, StartError> {
        if config.node_id.0 < 0 {
            return Err(StartError::InvalidConfig(format!(
                "node.id is {}, it must not be negative",
                config.node_id
            )));
        }
        let directory = Directory::open(&config.log_dir, config.cluster_id.as_ref(), config.node_id)?;
        let path = directory.path.clone();
        let store = SledStore::open(&path).map_err(|error| match error {
            OpenStoreError::Corrupt(reason) => StartError::Corrupt { path: path.clone(), reason },
            OpenStoreError::Io(source) => StartError::Io { path: path.clone(), source },
        })?;
        let cluster_id = directory.cluster_id.clone();
        Metadata::start_on(config, Arc::new(store), cluster_id, path, Some(directory)).await
    }

    /// As `start`, on a store in memory: for tests and simulated clusters. The store outlives the node, so that another
    /// start on it is a restart.
    pub async fn start_in_memory(
        config: MetadataConfig,
        store: Arc<store_memory::MemoryStore>,
    ) -> Result<Metadata, StartError> {
        let cluster_id = config.cluster_id.clone().unwrap_or_else(cluster_id_generate);
        Metadata::start_on(config, store, cluster_id, PathBuf::from("(memory)"), None).await
    }

    async fn start_on(
        config: MetadataConfig,
        store: Arc<dyn Store>,
        cluster_id: ClusterId,
        path: PathBuf,
        directory: Option<Directory>,
    ) -> Result<Metadata, StartError> {
        let id = u64::try_from(config.node_id.0)
            .map_err(|_| StartError::InvalidConfig(format!("node.id is {}", config.node_id)))?;
        let snapshot_end = check_snapshot(&*store, &cluster_id, &path)?;
        let log = LogStore::open(store.clone(), snapshot_end).map_err(|error| match error {
            OpenLogError::Corrupt(reason) => StartError::Corrupt { path: path.clone(), reason },
            OpenLogError::Io(source) => StartError::Io { path: path.clone(), source },
        })?;
        let published = Arc::new(Published::new(Image::empty(cluster_id.clone())));
        let state_machine = StateMachine::new(cluster_id.clone(), published.clone(), store.clone());
        let raft_config = raft_config(&cluster_id).map_err(|error| StartError::Quorum(error.to_string()))?;
        let quorum_error = |error: &dyn std::fmt::Display| StartError::Quorum(error.to_string());

        let raft = Raft::new(id, Arc::new(raft_config), Network, log, state_machine)
            .await
            .map_err(|error| quorum_error(&error))?;
        if !raft.is_initialized().await.map_err(|error| quorum_error(&error))? {
            let voters = BTreeMap::from([(id, BasicNode::new(&config.peer_address))]);
            raft.initialize(voters).await.map_err(|error| quorum_error(&error))?;
        } else if raft.voter_ids().eq([id]) {
            // Nobody else could have been elected meanwhile: waiting for a timeout would only cost time.
            raft.trigger().elect(false).await.map_err(|error| quorum_error(&error))?;
        }

        let (requests, waiting) = mpsc::channel(WAITING_REQUESTS_MAX);
        let (stop, stopped) = oneshot::channel();
        let node_id = config.node_id;
        let controller = Controller::new(raft.clone(), published.clone(), store.clone(), config);
        let controller = tokio::spawn(controller.run(waiting, stopped));
        let directory_id = directory.as_ref().map_or(Uuid::nil(), |directory| directory.directory_id);
        let running = Running { store, stop, controller, _directory: directory };
        let metadata = Metadata {
            node_id,
            directory_id,
            raft,
            published,
            requests,
            running: Arc::new(Mutex::new(Some(running))),
        };
        if let Err(error) = metadata.wait_until_led().await {
            metadata.shutdown().await;
            return Err(error);
        }
        Ok(metadata)
    }

    async fn wait_until_led(&self) -> Result<(), StartError> {
        let wait = self.raft.wait(Some(START_TIMEOUT));
        let led = wait.metrics(
            |metrics| {
                metrics.running_state.is_err()
                    || (metrics.state.is_leader()
                        && metrics
                            .last_applied
                            .as_ref()
                            .is_some_and(|applied| applied.leader_id.term == metrics.current_term))
            },
            "this node leads and has applied its log",
        );
        let metrics = led.await.map_err(|error| StartError::Quorum(error.to_string()))?;
        metrics.running_state.map_err(|fatal| StartError::Quorum(fatal.to_string()))
    }

    /// The newest applied image. Cheap; take it once per request so that one answer shows one state.
    pub fn image(&self) -> Arc<Image> {
        self.published.image()
    }

    /// Carries the offset of the newest applied image; changes after `image` does.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.published.changes()
    }

    /// Asks the active controller; returns after the change is committed, durable and visible in `image` on this node.
    /// A caller that gives up does not take its request back.
    pub async fn submit<R: Submit>(&self, request: R) -> Result<R::Response, SubmitError> {
        let request: Request = request.into();
        let items = request.item_count();
        if items > ITEMS_PER_REQUEST_MAX {
            return Err(SubmitError::Refused(format!(
                "it has {items} items, {ITEMS_PER_REQUEST_MAX} are allowed"
            )));
        }
        let (answer, answered) = oneshot::channel();
        self.requests.try_send(Waiting { request, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                SubmitError::Refused(format!("{WAITING_REQUESTS_MAX} requests wait already"))
            }
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopped("it is shut down".into()),
        })?;
        let response =
            answered.await.unwrap_or_else(|_| Err(SubmitError::Stopped("it is shut down".into())))?;
        let Some(response) = R::response(response) else {
            unreachable!("the controller answers a request with its own kind of response");
        };
        Ok(response)
    }

    /// Whether this node is the active controller, as far as it knows.
    pub fn is_controller(&self) -> bool {
        self.raft.metrics().borrow_watched().state.is_leader()
    }

    pub fn node_id(&self) -> BrokerId {
        self.node_id
    }

    pub fn quorum(&self) -> QuorumInfo {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let end = |last: Option<u64>| last.map_or(0, |last| i64::try_from(last + 1).unwrap_or(i64::MAX));
        let own_id = metrics.id;
        let member =
            |id: u64| VoterInfo {
                id: BrokerId(i32::try_from(id).unwrap_or(-1)),
                log_end_offset: if id == own_id {
                    end(metrics.last_log_index)
                } else {
                    metrics
                        .replication
                        .as_ref()
                        .and_then(|peers| peers.get(&id))
                        .map_or(-1, |matched| end(matched.as_ref().map(|matched| matched.index)))
                },
                directory_id: Uuid::nil(),
                behind_ms: (id == own_id).then_some(0),
                silent_ms: if id == own_id {
                    Some(0)
                } else {
                    metrics.heartbeat.as_ref().and_then(|peers| peers.get(&id).cloned().flatten()).map(
                        |heard| u64::try_from(heard.into_inner().elapsed().as_millis()).unwrap_or(u64::MAX),
                    )
                },
            };
        let membership = metrics.membership_config.membership();
        QuorumInfo {
            leader: broker_id(metrics.current_leader),
            leader_epoch: i32::try_from(metrics.current_term).unwrap_or(i32::MAX),
            high_watermark: end(metrics
                .cluster_committed
                .as_ref()
                .or(metrics.local_committed.as_ref())
                .map(|committed| committed.index)),
            voters: membership.voter_ids().map(member).collect(),
            observers: membership.learner_ids().map(member).collect(),
            addresses: membership
                .nodes()
                .filter_map(|(id, node)| Some((broker_id(Some(*id))?, node.addr.clone())))
                .collect(),
        }
    }

    /// Makes a node that follows the log a voter (AddRaftVoter). Returns when the new set is in force, which includes that
    /// the node has caught up.
    pub async fn add_voter(
        &self,
        id: BrokerId,
        _directory_id: Uuid,
        _address: &str,
    ) -> Result<(), VoterChangeError> {
        Err(VoterChangeError::InvalidRequest(format!("node {id} cannot become a voter: there is one voter")))
    }

    /// Takes a voter out of the set (RemoveRaftVoter).
    pub async fn remove_voter(&self, id: BrokerId, _directory_id: Uuid) -> Result<(), VoterChangeError> {
        Err(VoterChangeError::InvalidRequest(format!("voter {id} cannot be removed: there is one voter")))
    }

    /// Of this node's metadata directory.
    pub fn directory_id(&self) -> Uuid {
        self.directory_id
    }

    /// Resolves when the metadata stopped by itself (a failed write, a broken log), with the reason. The process must not go
    /// on: what its disk holds is not known.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return "the quorum ended".into();
            }
        }
    }

    /// Writes a snapshot now; `Ok` means that it was asked for.
    pub async fn snapshot(&self) -> Result<(), SubmitError> {
        self.raft.trigger().snapshot().await.map_err(|fatal| SubmitError::Stopped(fatal.to_string()))
    }

    /// Stops the node, syncs the store and lets go of its directory. Requests that wait are answered `Stopped`.
    pub async fn shutdown(&self) {
        let Some(running) = self.running.lock().take() else { return };
        let _ = running.stop.send(());
        let _ = running.controller.await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "the metadata quorum did not shut down cleanly");
        }
        let store = running.store;
        let closed = store::beside(&store, |store| {
            let synced = store.sync();
            store.close();
            synced
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "the last sync of the metadata failed");
        }
    }
}

fn broker_id(id: Option<u64>) -> Option<BrokerId> {
    id.and_then(|id| i32::try_from(id).ok()).map(BrokerId)
}

/// Where the snapshot ends; refuses one that cannot be read or belongs elsewhere.
fn check_snapshot(
    store: &dyn Store,
    cluster_id: &ClusterId,
    path: &Path,
) -> Result<Option<StoredLogId>, StartError> {
    let corrupt = |reason: String| StartError::Corrupt { path: path.to_path_buf(), reason };
    let bytes = store.snapshot().map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => corrupt(error.to_string()),
        _ => StartError::Io { path: path.to_path_buf(), source: error },
    })?;
    let Some(bytes) = bytes else { return Ok(None) };
    let stored: StoredSnapshot = decode(&bytes).map_err(|error| corrupt(format!("the snapshot: {error}")))?;
    if stored.cluster_id != *cluster_id {
        return Err(StartError::OtherCluster {
            path: path.to_path_buf(),
            found: stored.cluster_id,
            expected: cluster_id.clone(),
        });
    }
    Ok(stored.last)
}

fn raft_config(cluster_id: &ClusterId) -> Result<Config, openraft::ConfigError> {
    Config {
        cluster_name: cluster_id.to_string(),
        election_timeout_min: ELECTION_TIMEOUT_MS.start,
        election_timeout_max: ELECTION_TIMEOUT_MS.end,
        heartbeat_interval: HEARTBEAT_INTERVAL_MS,
        heartbeat_min_interval: Some(0),
        enable_pre_vote: Some(true),
        quorum_loss_probe_interval: Some(QUORUM_LOSS_PROBE_MS),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_SNAPSHOT),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        purge_batch_size: PURGE_STEP,
        // A restarted leader goes through an election, so that its epoch says what it may have missed.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
    .validate()
}
