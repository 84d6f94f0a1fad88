//! What a node must know to run its metadata.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::transport::{NoPeers, PeerService, Transport};
pub use crate::metadata::decide::StaticSettings;
use crate::metadata::ids::{BrokerId, ClusterId};
use crate::metadata::image::Configs;
use crate::metadata::records::ConfigResource;

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
    /// How long voters hold to a silent active controller, before their election timeout of half to the whole of it
    /// (`controller.quorum.election.timeout.ms`).
    pub election_timeout: Duration,
    /// Whether partitions lie on this node. Then there was metadata that says whose they are, and this node finds it again or
    /// does not start: it founds no cluster.
    pub holds_partitions: bool,
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
            election_timeout: Duration::from_secs(1),
            holds_partitions: false,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
