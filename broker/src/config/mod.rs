//! The configuration of a node: the table of keys, server.properties, and what is in force for node, topics and groups.
//!
//! [`NodeConfig`] is what the process was started with. It holds the values that stay as they are while the process
//! runs as plain fields; what can change at run time is read through [`NodeConfig::dynamic`], each time it is
//! needed. Nothing outside this module parses a configuration value.

pub mod alter;
pub mod effective;
mod lake;
mod load;
mod properties;
mod reference;
mod remote;
pub mod table;
#[cfg(test)]
mod tests;
mod tier;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use ottla_raft::quorum::ConfigCheck;
use ottla_raft::{BrokerId, ClusterId, Image, Metadata, StaticSettings};
use table::{Effect, Scope};

pub use lake::{
    LakeCatalog, LakeConfig, LakeSchema, LakeTopic, table_name as lake_table_name, table_of as lake_table_of,
};
pub use tier::{S3Settings, TierConfig, TierPlace};

use crate::replica::TopicSettingsOf;
use crate::replica::selector::ReplicaSelector;

/// The configuration this node was started with, and the dynamic part of it that is in force now.
#[derive(Debug)]
pub struct NodeConfig {
    pub node_id: i32,
    pub roles: Roles,
    /// `ottla.cluster.id`; absent, a new cluster makes one on an empty directory.
    pub cluster_id: Option<String>,
    pub rack: Option<String>,
    /// All listeners, the controller's among them.
    pub listeners: Vec<Listener>,
    /// What clients are told, one entry for each listener of brokers (controller listeners are not advertised).
    pub advertised_listeners: Vec<Endpoint>,
    pub controller_listener_names: Vec<String>,
    /// Where other nodes reach this node's controller; `None` without a listener for controllers.
    pub controller_endpoint: Option<Endpoint>,
    /// Empty on a node that is only a controller.
    pub inter_broker_listener_name: String,
    pub quorum: QuorumConfig,
    pub liveness: LivenessConfig,
    /// Never empty.
    pub log_dirs: Vec<PathBuf>,
    /// Where the metadata quorum keeps its log.
    pub metadata_log_dir: PathBuf,
    pub tier_read: TierReadConfig,
    /// `ottla.tier.*`: the object store of the remote tier and of tables. `None` without `ottla.tier.url`, but for a node that is
    /// all of its cluster and has `remote.log.storage.system.enable`.
    pub tier: Option<TierConfig>,
    pub tier_write: TierWriteConfig,
    pub lake: LakeConfig,
    /// `host:port` of the endpoint for metrics and health; `None` when it is switched off (empty value).
    pub metrics_listener: Option<String>,
    pub network: NetworkConfig,
    pub replication: ReplicationConfig,
    pub group: GroupConfig,
    pub topic_defaults: TopicDefaults,
    /// `max.request.partition.size.limit`
    pub describe_partitions_max: usize,
    dynamic: ArcSwap<DynamicConfig>,
    /// What was set in the file and on the command line, by key: the static configuration.
    set: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub broker: bool,
    pub controller: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityProtocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

/// How the metadata quorum is found, and how it elects.
#[derive(Debug, Clone)]
pub struct QuorumConfig {
    /// `controller.quorum.voters`: the first voters and where they are reached. Empty for a quorum that is found by
    /// `bootstrap_servers`, and for a node that is all of its cluster.
    pub voters: Vec<(BrokerId, String)>,
    /// `controller.quorum.bootstrap.servers`
    pub bootstrap_servers: Vec<String>,
    /// `controller.quorum.auto.join.enable`
    pub auto_join: bool,
    /// `controller.quorum.election.timeout.ms`
    pub election_timeout: Duration,
}

impl QuorumConfig {
    /// Whether no other node is named: then this one is all of its quorum.
    pub fn is_alone(&self, node_id: BrokerId) -> bool {
        self.bootstrap_servers.is_empty() && self.voters.iter().all(|(id, _)| *id == node_id)
    }
}

/// How brokers and the controller know of each other that they live.
#[derive(Debug, Clone)]
pub struct LivenessConfig {
    /// `broker.heartbeat.interval.ms`
    pub heartbeat_interval: Duration,
    /// `broker.session.timeout.ms`
    pub session_timeout: Duration,
    /// `initial.broker.registration.timeout.ms`
    pub registration_timeout: Duration,
    /// `controlled.shutdown.enable`
    pub controlled_shutdown: bool,
    /// `ottla.controlled.shutdown.max.ms`
    pub controlled_shutdown_max: Duration,
    /// `log.dir.failure.timeout.ms`
    pub log_dir_failure_timeout: Duration,
}

/// One entry of `listeners`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Upper case, as Kafka normalises it.
    pub name: String,
    pub protocol: SecurityProtocol,
    /// Empty: all interfaces.
    pub host: String,
    /// 0: any free port.
    pub port: u16,
}

/// One entry of `advertised.listeners`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub listener: String,
    pub protocol: SecurityProtocol,
    pub host: String,
    /// 0: the port that the listener of this name really got.
    pub port: u16,
}

/// What the sockets need; read-only while the process runs.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// `socket.request.max.bytes`
    pub request_bytes_max: usize,
    /// `socket.listen.backlog.size`
    pub listen_backlog: u32,
    /// `socket.send.buffer.bytes`; `None` (-1): the system's default.
    pub send_buffer_bytes: Option<usize>,
    /// `socket.receive.buffer.bytes`; `None` (-1): the system's default.
    pub receive_buffer_bytes: Option<usize>,
    /// `connections.max.idle.ms`; `None` (negative): never.
    pub idle_max: Option<Duration>,
}

/// What logs and replicas need of the node; what a topic can override is in the log's own configuration
/// ([`NodeConfig::topic_defaults`] and the effective topic configuration).
#[derive(Debug, Clone)]
pub struct ReplicationConfig {
    /// `fetch.max.bytes`
    pub fetch_bytes_max: usize,
    /// `max.incremental.fetch.session.cache.slots`
    pub fetch_session_slots_max: usize,
    /// `log.retention.check.interval.ms`
    pub retention_check_interval: Duration,
    /// `log.initial.task.delay.ms`
    pub initial_task_delay: Duration,
    /// `log.flush.offset.checkpoint.interval.ms`
    pub recovery_point_checkpoint_interval: Duration,
    /// `producer.id.expiration.check.interval.ms`
    pub producer_id_expiration_check_interval: Duration,
    /// `log.cleaner.enable`
    pub cleaner_enable: bool,
    /// `replica.lag.time.max.ms`
    pub lag_time_max: Duration,
    /// `replica.high.watermark.checkpoint.interval.ms`
    pub high_watermark_checkpoint_interval: Duration,
    /// `replica.selector.class`
    pub selector: ReplicaSelector,
    /// `replication.quota.window.*`
    pub quota_window: QuotaWindow,
    /// `alter.log.dirs.replication.quota.window.*`
    pub alter_log_dirs_quota_window: QuotaWindow,
    pub fetch: ReplicaFetchConfig,
}

/// How leaders work on the remote tier.
#[derive(Debug, Clone)]
pub struct TierWriteConfig {
    /// `remote.log.manager.task.interval.ms`
    pub interval: Duration,
    /// `remote.log.manager.task.retry.backoff.ms`
    pub backoff: Duration,
    /// `remote.log.manager.task.retry.backoff.max.ms`
    pub backoff_max: Duration,
    /// `remote.log.manager.task.retry.jitter`
    pub backoff_jitter: f64,
    /// `remote.log.manager.copy.quota.window.*`
    pub copy_quota_window: QuotaWindow,
    /// `ottla.tier.segment.ms.max`
    pub segment_ms_max: Duration,
    /// `ottla.tier.delete.grace.ms`
    pub delete_grace: Duration,
}

/// For how long a quota keeps what was not used: `count` windows of `size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaWindow {
    pub count: u32,
    pub size: Duration,
}

/// How this broker follows leaders.
#[derive(Debug, Clone)]
pub struct ReplicaFetchConfig {
    /// `replica.fetch.max.bytes`
    pub partition_bytes_max: i32,
    /// `replica.fetch.response.max.bytes`
    pub response_bytes_max: i32,
    /// `replica.fetch.min.bytes`
    pub bytes_min: i32,
    /// `replica.fetch.wait.max.ms`
    pub wait_max_ms: i32,
    /// `replica.fetch.backoff.ms`
    pub backoff: Duration,
    /// `replica.socket.timeout.ms`
    pub socket_timeout: Duration,
}

/// What the group coordinator needs of the node.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`
    pub initial_rebalance_delay: Duration,
    /// `group.min.session.timeout.ms`
    pub session_timeout_min: Duration,
    /// `group.max.session.timeout.ms`
    pub session_timeout_max: Duration,
    /// `group.max.size`
    pub size_max: usize,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_bytes_max: usize,
    /// `offsets.topic.num.partitions`
    pub offsets_topic_partitions: i32,
    /// `offsets.topic.replication.factor` as it was set. Use [`NodeConfig::offsets_topic_replication_factor`].
    pub offsets_topic_replication_factor: i16,
    /// `offsets.topic.segment.bytes`
    pub offsets_topic_segment_bytes: i32,
    /// `offsets.topic.compression.codec`: the id of a compression type in a batch's attributes.
    pub offsets_topic_compression: i32,
    /// `offsets.retention.minutes`
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`
    pub offsets_retention_check_interval: Duration,
    /// `offsets.commit.timeout.ms`
    pub offset_commit_timeout: Duration,
    /// `offsets.load.buffer.size`
    pub load_buffer_bytes: usize,
}

/// What a topic gets when its creator does not say.
#[derive(Debug, Clone)]
pub struct TopicDefaults {
    /// `num.partitions`
    pub partitions: i32,
    /// `default.replication.factor`
    pub replication_factor: i16,
    /// `auto.create.topics.enable`
    pub auto_create: bool,
    /// `delete.topic.enable`
    pub delete_enable: bool,
}

/// What can change while the process runs (Kafka's dynamic broker configs).
#[derive(Debug, Clone, PartialEq)]
pub struct DynamicConfig {
    /// `max.connections`
    pub connections_max: usize,
    /// `max.connections.per.ip`
    pub connections_per_ip_max: usize,
    /// `max.connections.per.ip.overrides`
    pub connections_per_ip_overrides: BTreeMap<IpAddr, usize>,
    /// `message.max.bytes`
    pub message_bytes_max: usize,
    /// `num.replica.fetchers`
    pub replica_fetchers: usize,
    /// `log.cleaner.threads`
    pub cleaner_threads: usize,
    /// `log.cleaner.backoff.ms`
    pub cleaner_backoff: Duration,
    /// `num.recovery.threads.per.data.dir`
    pub recovery_threads_per_data_dir: usize,
    /// `leader.replication.throttled.rate`, bytes per second; `None` at Kafka's default, the largest number.
    pub leader_throttled_rate: Option<u64>,
    /// `follower.replication.throttled.rate`, likewise.
    pub follower_throttled_rate: Option<u64>,
    /// `replica.alter.log.dirs.io.max.bytes.per.second`, likewise.
    pub alter_log_dirs_rate: Option<u64>,
    /// `remote.log.manager.fetch.max.bytes.per.second`, likewise.
    pub remote_fetch_rate: Option<u64>,
    /// `remote.log.reader.threads`: requests to the object store for reading at the same time.
    pub remote_reader_threads: usize,
    /// `follower.fetch.last.tiered.offset.enable`
    pub begins_at_last_tiered: bool,
    /// `remote.fetch.max.wait.ms`
    pub remote_fetch_wait_max: Duration,
    /// `remote.list.offsets.request.timeout.ms`
    pub remote_list_offsets_timeout: Duration,
    /// `remote.log.manager.copy.max.bytes.per.second`, likewise.
    pub remote_copy_rate: Option<u64>,
    /// `remote.log.manager.copier.thread.pool.size`
    pub tier_copiers: usize,
}

/// What reads of the remote tier may take.
#[derive(Debug, Clone)]
pub struct TierReadConfig {
    /// `ottla.tier.read.cache.bytes`
    pub cache_bytes_max: usize,
    /// `ottla.tier.read.cache.disk.bytes`
    pub disk_cache_bytes_max: usize,
    /// `ottla.tier.read.answers.bytes`
    pub answers_bytes_max: usize,
    /// `remote.log.reader.max.pending.tasks`
    pub waiting_max: usize,
    /// `remote.log.manager.fetch.quota.window.*`
    pub quota_window: QuotaWindow,
}

/// Everything that is wrong with a configuration, at once.
#[derive(Debug, thiserror::Error)]
#[error("{}", .problems.iter().map(|p| p.to_string()).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

/// One thing that is wrong: key, value, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub key: String,
    pub value: String,
    pub expected: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}: {}", self.key, self.value, self.expected)
    }
}

/// An address to connect to: colons of an IPv6 address go into brackets.
pub fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An override of the command line, for [`NodeConfig::load`].
pub fn parse_override(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

impl NodeConfig {
    /// Reads server.properties and lays the overrides of the command line over it. Without a file, the node starts as
    /// config/server.properties of the source tree says.
    pub fn load(path: Option<&Path>, overrides: &[(String, String)]) -> Result<NodeConfig, ConfigError> {
        load::load(path, overrides)
    }

    /// Where brokers reach `id` for what is between brokers (fetches of followers): its endpoint for the listener of this
    /// node's `inter.broker.listener.name`. `None` while no such broker is registered.
    pub fn inter_broker_address(&self, image: &Image, id: BrokerId) -> Option<String> {
        let endpoint = image.broker(id)?.endpoint(&self.inter_broker_listener_name)?;
        Some(host_and_port(&endpoint.host, endpoint.port))
    }

    /// The dynamic configuration in force now.
    pub fn dynamic(&self) -> Arc<DynamicConfig> {
        self.dynamic.load_full()
    }

    /// Makes the dynamic configuration what the image says.
    pub fn apply(&self, image: &Image) {
        let dynamic = DynamicConfig::of(&effective::BrokerValues::new(self, image));
        if *self.dynamic.load_full() != dynamic {
            self.dynamic.store(Arc::new(dynamic));
        }
    }

    /// Follows the metadata as long as it runs.
    pub async fn follow(self: Arc<NodeConfig>, metadata: Metadata) {
        let mut changes = metadata.changes();
        loop {
            changes.borrow_and_update();
            self.apply(&metadata.image());
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// The controller's own check of dynamic configs, with the newest values of the resource, when it decides. The broker
    /// that a request came to has checked them as well, to say why in Kafka's terms.
    pub fn config_check(self: &Arc<Self>) -> ConfigCheck {
        let node = Arc::clone(self);
        // Pure, as the controller demands: what other resources say at that moment does not enter.
        let image = Image::empty(ClusterId("".into()));
        Arc::new(move |resource, configs| {
            alter::check(&node, &image, resource, configs).map_err(|refusal| refusal.to_string())
        })
    }

    /// What the controller of this node goes by where no dynamic config says otherwise.
    pub fn static_settings(&self) -> StaticSettings {
        let of_node = |key| self.set.get(key).map(|value| value.trim());
        let defaults = StaticSettings::default();
        StaticSettings {
            unclean_leader_election: of_node("unclean.leader.election.enable")
                .map_or(defaults.unclean_leader_election, |value| value.eq_ignore_ascii_case("true")),
            min_insync_replicas: of_node("min.insync.replicas")
                .and_then(|value| value.parse().ok())
                .unwrap_or(defaults.min_insync_replicas),
            acknowledges_unsynced: of_node("ottla.durability") == Some("memory"),
        }
    }

    /// `remote.log.storage.system.enable`
    pub fn has_remote_tier(&self) -> bool {
        let set = self.set.get("remote.log.storage.system.enable");
        set.is_some_and(|value| value.trim().eq_ignore_ascii_case("true"))
    }

    /// How often leaders go back to where they are preferred; `None` if they stay where they are.
    pub fn leader_balance_interval(&self) -> Option<Duration> {
        let set = |key| self.set.get(key).map(|value| value.trim());
        let is_off =
            set("auto.leader.rebalance.enable").is_some_and(|value| value.eq_ignore_ascii_case("false"));
        let seconds = set("leader.imbalance.check.interval.seconds").and_then(|value| value.parse().ok());
        (!is_off).then(|| Duration::from_secs(seconds.unwrap_or(300)))
    }

    /// `unclean.leader.election.interval.ms`
    pub fn leaderless_check_interval(&self) -> Duration {
        let set = self.set.get("unclean.leader.election.interval.ms");
        Duration::from_millis(set.and_then(|value| value.trim().parse().ok()).unwrap_or(300_000))
    }

    /// How the replica manager learns what is in force for a topic.
    pub fn topic_settings_of(self: &Arc<NodeConfig>) -> TopicSettingsOf {
        let node = Arc::clone(self);
        Arc::new(move |image, topic| effective::TopicValues::new(&node, image, topic).settings())
    }

    /// How many replicas `__consumer_offsets` gets in a cluster of so many nodes, brokers and controllers, alive or not.
    /// What was set counts. Not set, it is Kafka's three, and as in Kafka the topic (and with it every consumer group)
    /// waits until as many brokers are there: a cluster that is just starting must not get a topic that dies with its
    /// first broker. Only a node that is the whole cluster holds it alone.
    pub fn offsets_topic_replication_factor(&self, nodes: usize) -> i16 {
        let is_set = self.set.contains_key("offsets.topic.replication.factor");
        if nodes <= 1 && !is_set { 1 } else { self.group.offsets_topic_replication_factor }
    }

    /// Lines for the operator, logged once at start: keys that are known but not acted on, and names nobody knows.
    pub fn start_notes(&self) -> Vec<String> {
        let mut without_effect = Vec::new();
        let mut unknown = Vec::new();
        for (name, text) in &self.set {
            match table::find(Scope::Broker, name) {
                Some(key) if key.effect == Effect::Known && key.default.text() != Some(text) => {
                    without_effect.push(name.as_str());
                }
                Some(_) => {}
                // `listener.name.<listener>.<key>` and the prefixes of plug-ins are free names in Kafka.
                None => unknown.push(name.as_str()),
            }
        }
        let mut notes = Vec::new();
        if !without_effect.is_empty() {
            notes.push(format!("known to Kafka, without effect in Ottla: {}", without_effect.join(", ")));
        }
        if !unknown.is_empty() {
            notes.push(format!("keys that nobody knows, is their spelling right? {}", unknown.join(", ")));
        }
        notes
    }
}
