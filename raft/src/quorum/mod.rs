//! The Raft quorum under the metadata: openraft on a durable store, the controller that decides, and the handle that
//! the rest of the process holds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use crate::metadata::ids::{BrokerId, ClusterId};
use crate::metadata::image::{Configs, Image};
use crate::metadata::records::ConfigResource;
use crate::requests::Submit;

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
    /// Where other controllers reach this one, e.g. `127.0.0.1:9093`; kept in the Raft membership.
    pub controller_address: String,
    /// For topics created without counts (`num.partitions`, `default.replication.factor`).
    pub topic_defaults: TopicDefaults,
    /// Static broker settings that elections need where no dynamic config says otherwise.
    pub unclean_leader_election: bool,
    pub config_check: Option<ConfigCheck>,
}

impl MetadataConfig {
    pub fn new(node_id: BrokerId, log_dir: impl Into<PathBuf>) -> MetadataConfig {
        MetadataConfig {
            node_id,
            log_dir: log_dir.into(),
            cluster_id: None,
            controller_address: String::new(),
            topic_defaults: TopicDefaults::default(),
            unclean_leader_election: false,
            config_check: None,
        }
    }
}

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

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// The metadata is shut down, or a write of it failed.
    #[error("the metadata is stopped: {0}")]
    Stopped(String),
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
    /// The addresses of the voters.
    pub addresses: BTreeMap<BrokerId, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoterInfo {
    pub id: BrokerId,
    /// Exclusive; -1 if not known here.
    pub log_end_offset: i64,
    /// Milliseconds since the voter last acknowledged; 0 for the leader itself, `None` if not known here.
    pub silent_ms: Option<u64>,
}

pub type ObserverInfo = VoterInfo;

/// The handle to the metadata; clones share one node.
#[derive(Clone)]
pub struct Metadata {
    image: Arc<arc_swap::ArcSwap<Image>>,
    changes: tokio::sync::watch::Receiver<u64>,
}

impl Metadata {
    /// Opens the store, joins the quorum, and returns once this node leads or follows; needs a tokio runtime.
    pub async fn start(config: MetadataConfig) -> Result<Metadata, StartError> {
        Err(StartError::Quorum(format!("not built yet for {}", config.log_dir.display())))
    }

    /// The newest applied image. Cheap; take it once per request so that one answer shows one state.
    pub fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }

    /// Carries the offset of the newest applied image; changes after `image` does.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.changes.clone()
    }

    /// Asks the active controller; returns after the change is committed and visible in `image` on this node.
    pub async fn submit<R: Submit>(&self, request: R) -> Result<R::Response, SubmitError> {
        let _ = request.into();
        Err(SubmitError::NotController { leader: None })
    }

    pub fn is_controller(&self) -> bool {
        false
    }

    pub fn quorum(&self) -> QuorumInfo {
        QuorumInfo {
            leader: None,
            leader_epoch: 0,
            high_watermark: 0,
            voters: Vec::new(),
            observers: Vec::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// Resolves when the metadata stopped by itself (a failed write, a broken store), with the reason; never otherwise.
    pub async fn stopped(&self) -> String {
        std::future::pending().await
    }

    /// Stops the node and syncs the store; waiting requests are answered `Stopped`.
    pub async fn shutdown(&self) {}
}
