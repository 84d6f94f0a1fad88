//! From text to [`NodeConfig`]: every value is checked against the table, then the values against each other. Nothing
//! stops at the first problem: an operator sees all of them at once.

mod cluster;
mod lake;
mod tier;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::effective::BrokerValues;
use super::table::{self, Effect, Key, Scope, Value};
use super::*;

/// The configuration of a start without a file.
const DEFAULT_FILE: &str = include_str!("../../../config/server.properties");

pub(super) fn load(path: Option<&Path>, overrides: &[(String, String)]) -> Result<NodeConfig, ConfigError> {
    let from_file = match path {
        None => properties::parse(DEFAULT_FILE.as_bytes()),
        Some(path) => {
            std::fs::read(path).map_err(|error| error.to_string()).and_then(|bytes| properties::parse(&bytes))
        }
    };
    let problem = |expected: String| Problem {
        key: "server.properties".into(),
        value: path.map_or_else(String::new, |path| path.display().to_string()),
        expected,
    };
    let entries = from_file
        .map_err(|error| ConfigError { problems: vec![problem(format!("a readable file ({error})"))] })?;
    let mut set = BTreeMap::new();
    for (key, value) in entries.into_iter().chain(overrides.iter().cloned()) {
        set.insert(key, value.trim().to_owned());
    }
    Loader { set, problems: Vec::new() }.finish()
}

struct Loader {
    /// What was set, by key.
    set: BTreeMap<String, String>,
    problems: Vec<Problem>,
}

impl Loader {
    fn finish(mut self) -> Result<NodeConfig, ConfigError> {
        self.check_each();
        let node_id = self.node_id();
        let roles = self.roles();
        let controller_listener_names: Vec<String> =
            self.list("controller.listener.names").iter().map(|name| name.to_uppercase()).collect();
        let listeners = self.listeners(&controller_listener_names);
        let advertised_listeners = self.advertised(&listeners, &controller_listener_names);
        let inter_broker_listener_name = match roles.broker {
            true => self.inter_broker(&listeners, &controller_listener_names),
            false => String::new(),
        };
        let quorum = self.quorum();
        self.check_roles(node_id, roles, &listeners, &controller_listener_names, &quorum);
        let log_dirs = self.log_dirs();
        let tier = self.tier(node_id, &quorum, &log_dirs);
        self.check_relations();

        let config = NodeConfig {
            node_id,
            roles,
            cluster_id: self.text("ottla.cluster.id").filter(|id| !id.is_empty()),
            rack: self.text("broker.rack").filter(|rack| !rack.is_empty()),
            controller_endpoint: self.controller_endpoint(&listeners, &controller_listener_names),
            listeners,
            advertised_listeners,
            controller_listener_names,
            inter_broker_listener_name,
            quorum,
            liveness: self.liveness(),
            metadata_log_dir: self
                .text("metadata.log.dir")
                .map_or_else(|| log_dirs.first().cloned().unwrap_or_default(), PathBuf::from),
            log_dirs,
            tier_read: TierReadConfig {
                cache_bytes_max: self.size("ottla.tier.read.cache.bytes"),
                disk_cache_bytes_max: self.size("ottla.tier.read.cache.disk.bytes"),
                answers_bytes_max: self.size("ottla.tier.read.answers.bytes"),
                waiting_max: self.size("remote.log.reader.max.pending.tasks"),
                quota_window: self.quota_window("remote.log.manager.fetch"),
            },
            lake: self.lake(tier.as_ref()),
            tier,
            tier_write: TierWriteConfig {
                interval: self.duration("remote.log.manager.task.interval.ms"),
                backoff: self.duration("remote.log.manager.task.retry.backoff.ms"),
                backoff_max: self.duration("remote.log.manager.task.retry.backoff.max.ms"),
                backoff_jitter: match self.value("remote.log.manager.task.retry.jitter") {
                    Some(Value::Double(share)) => share,
                    _ => 0.0,
                },
                copy_quota_window: self.quota_window("remote.log.manager.copy"),
                segment_ms_max: self.duration("ottla.tier.segment.ms.max"),
                delete_grace: self.duration("ottla.tier.delete.grace.ms"),
            },
            metrics_listener: self.metrics_listener(),
            network: NetworkConfig {
                request_bytes_max: self.size("socket.request.max.bytes"),
                listen_backlog: self.size("socket.listen.backlog.size") as u32,
                send_buffer_bytes: self.size_unless_negative("socket.send.buffer.bytes"),
                receive_buffer_bytes: self.size_unless_negative("socket.receive.buffer.bytes"),
                idle_max: self.duration_unless_negative("connections.max.idle.ms"),
            },
            replication: ReplicationConfig {
                fetch_bytes_max: self.size("fetch.max.bytes"),
                fetch_session_slots_max: self.size("max.incremental.fetch.session.cache.slots"),
                retention_check_interval: self.duration("log.retention.check.interval.ms"),
                initial_task_delay: self.duration("log.initial.task.delay.ms"),
                recovery_point_checkpoint_interval: self.duration("log.flush.offset.checkpoint.interval.ms"),
                producer_id_expiration_check_interval: self
                    .duration("producer.id.expiration.check.interval.ms"),
                cleaner_enable: self.flag("log.cleaner.enable"),
                lag_time_max: self.duration("replica.lag.time.max.ms"),
                high_watermark_checkpoint_interval: self
                    .duration("replica.high.watermark.checkpoint.interval.ms"),
                selector: match self.text("replica.selector.class") {
                    Some(class) if class.ends_with(".RackAwareReplicaSelector") => ReplicaSelector::RackAware,
                    _ => ReplicaSelector::Leader,
                },
                quota_window: self.quota_window("replication"),
                alter_log_dirs_quota_window: self.quota_window("alter.log.dirs.replication"),
                fetch: ReplicaFetchConfig {
                    partition_bytes_max: self.integer("replica.fetch.max.bytes") as i32,
                    response_bytes_max: self.integer("replica.fetch.response.max.bytes") as i32,
                    bytes_min: self.integer("replica.fetch.min.bytes") as i32,
                    wait_max_ms: self.integer("replica.fetch.wait.max.ms") as i32,
                    backoff: self.duration("replica.fetch.backoff.ms"),
                    socket_timeout: self.duration("replica.socket.timeout.ms"),
                },
            },
            group: GroupConfig {
                initial_rebalance_delay: self.duration("group.initial.rebalance.delay.ms"),
                session_timeout_min: self.duration("group.min.session.timeout.ms"),
                session_timeout_max: self.duration("group.max.session.timeout.ms"),
                size_max: self.size("group.max.size"),
                offset_metadata_bytes_max: self.size("offset.metadata.max.bytes"),
                offsets_topic_partitions: self.integer("offsets.topic.num.partitions") as i32,
                offsets_topic_replication_factor: self.integer("offsets.topic.replication.factor") as i16,
                offsets_topic_segment_bytes: self.integer("offsets.topic.segment.bytes") as i32,
                offsets_topic_compression: self.integer("offsets.topic.compression.codec") as i32,
                offsets_retention: Duration::from_secs(self.integer("offsets.retention.minutes") as u64 * 60),
                offsets_retention_check_interval: self.duration("offsets.retention.check.interval.ms"),
                offset_commit_timeout: self.duration("offsets.commit.timeout.ms"),
                load_buffer_bytes: self.size("offsets.load.buffer.size"),
            },
            topic_defaults: TopicDefaults {
                partitions: self.integer("num.partitions") as i32,
                replication_factor: self.integer("default.replication.factor") as i16,
                auto_create: self.flag("auto.create.topics.enable"),
                delete_enable: self.flag("delete.topic.enable"),
            },
            describe_partitions_max: self.size("max.request.partition.size.limit"),
            dynamic: ArcSwap::from_pointee(DynamicConfig::of(&BrokerValues::without_dynamic(&self.set))),
            set: self.set,
        };
        if self.problems.is_empty() { Ok(config) } else { Err(ConfigError { problems: self.problems }) }
    }

    fn refuse(&mut self, key: &str, expected: impl Into<String>) {
        let value = match table::find(Scope::Broker, key) {
            Some(found) if found.is_sensitive() => "[hidden]".to_owned(),
            _ => self.text(key).unwrap_or_default(),
        };
        self.problems.push(Problem { key: key.to_owned(), value, expected: expected.into() });
    }

    /// Every value that was set, by itself. What does not pass is dropped, so that later reads find the default.
    fn check_each(&mut self) {
        let mut refused = Vec::new();
        for (name, text) in &self.set {
            let expected = match table::find(Scope::Broker, name) {
                Some(key) => match key.parse(text) {
                    Err(_) => key.expected(),
                    Ok(_) if is_missing_function(key, text) => format!(
                        "not to be set, for Ottla does not have this yet and ignoring it would be unsafe ({})",
                        key.doc.trim_end_matches('.')
                    ),
                    Ok(_) => continue,
                },
                None if name.starts_with("zookeeper.") => {
                    "not to be set: Ottla keeps the cluster's metadata itself and needs no ZooKeeper; remove the key"
                        .to_owned()
                }
                None if name.starts_with("ottla.") => "a key of Ottla; see docs/configuration.md".to_owned(),
                None => continue,
            };
            refused.push((name.clone(), expected));
        }
        for (name, expected) in refused {
            self.refuse(&name, expected);
            self.set.remove(&name);
        }
    }

    fn node_id(&mut self) -> i32 {
        let (node, broker) = (self.set.get("node.id").cloned(), self.set.get("broker.id").cloned());
        match (node, broker) {
            (Some(node), Some(broker)) if node != broker => {
                self.refuse("broker.id", format!("the same as node.id ({node}), or not set"));
            }
            // COMPAT: Kafka shows both with the same value, whichever was set.
            (Some(node), None) => {
                self.set.insert("broker.id".into(), node);
            }
            (None, Some(broker)) if broker == "-1" => {
                self.refuse("broker.id", "an id of at least 0: ids are not generated");
            }
            (None, Some(broker)) => {
                self.set.insert("node.id".into(), broker);
            }
            _ => {}
        }
        self.integer("node.id") as i32
    }

    fn listeners(&mut self, controllers: &[String]) -> Vec<Listener> {
        let protocols = self.protocols(controllers);
        let mut names = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        let mut listeners = Vec::new();
        for item in self.list("listeners") {
            match parse_endpoint(&item, &protocols) {
                Err(expected) => self.refuse("listeners", expected),
                Ok(endpoint) => {
                    if endpoint.protocol != SecurityProtocol::Plaintext {
                        self.refuse(
                            "listeners",
                            format!(
                                "PLAINTEXT for listener {}: other security protocols are not there yet",
                                endpoint.listener
                            ),
                        );
                    }
                    if !names.insert(endpoint.listener.clone()) {
                        self.refuse(
                            "listeners",
                            format!("one entry for each name, {} occurs twice", endpoint.listener),
                        );
                    }
                    if endpoint.port != 0 && !addresses.insert((endpoint.host.clone(), endpoint.port)) {
                        self.refuse(
                            "listeners",
                            format!("one entry for each port, {} occurs twice", endpoint.port),
                        );
                    }
                    listeners.push(Listener {
                        name: endpoint.listener,
                        protocol: endpoint.protocol,
                        host: endpoint.host,
                        port: endpoint.port,
                    });
                }
            }
        }
        listeners
    }

    /// Security protocol by listener name. A controller's listener is PLAINTEXT unless the map is set, as in Kafka.
    fn protocols(&mut self, controllers: &[String]) -> BTreeMap<String, SecurityProtocol> {
        const KEY: &str = "listener.security.protocol.map";
        let mut protocols = BTreeMap::new();
        let text = self.text(KEY).unwrap_or_default();
        for item in table::list_items(&text) {
            match item
                .rsplit_once(':')
                .and_then(|(name, protocol)| Some((name, protocol_of(protocol.trim())?)))
            {
                Some((name, protocol)) => {
                    protocols.insert(name.trim().to_uppercase(), protocol);
                }
                None => self.refuse(
                    KEY,
                    format!(
                        "NAME:PROTOCOL, not `{item}`; protocols are PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"
                    ),
                ),
            }
        }
        if !self.set.contains_key(KEY) {
            for name in controllers {
                protocols.entry(name.clone()).or_insert(SecurityProtocol::Plaintext);
            }
        }
        protocols
    }

    fn advertised(&mut self, listeners: &[Listener], controllers: &[String]) -> Vec<Endpoint> {
        const KEY: &str = "advertised.listeners";
        let mut advertised = Vec::new();
        let protocols: BTreeMap<_, _> = listeners.iter().map(|l| (l.name.clone(), l.protocol)).collect();
        let explicit = self.list(KEY);
        if explicit.is_empty() {
            for listener in listeners.iter().filter(|listener| !controllers.contains(&listener.name)) {
                if is_meta_address(&listener.host) {
                    self.refuse("listeners", format!("an address that clients can reach, as {} is not one; say in advertised.listeners what clients shall be told", listener.host));
                }
                advertised.push(Endpoint {
                    listener: listener.name.clone(),
                    protocol: listener.protocol,
                    host: host_or_own_name(&listener.host),
                    port: listener.port,
                });
            }
            return advertised;
        }
        for item in explicit {
            match parse_endpoint(&item, &protocols) {
                Err(_) if endpoint_name(&item).is_some_and(|name| !protocols.contains_key(&name)) => {
                    self.refuse(
                        KEY,
                        format!(
                            "names of `listeners` only, not {}",
                            endpoint_name(&item).unwrap_or_default()
                        ),
                    );
                }
                Err(expected) => self.refuse(KEY, expected),
                Ok(endpoint) if is_meta_address(&endpoint.host) => {
                    self.refuse(
                        KEY,
                        format!("an address that clients can reach, which {} is not", endpoint.host),
                    );
                }
                // Controllers advertise too, but not to clients: see `controller_endpoint`.
                Ok(endpoint) if controllers.contains(&endpoint.listener) => {}
                Ok(endpoint)
                    if advertised.iter().any(|other: &Endpoint| other.listener == endpoint.listener) =>
                {
                    self.refuse(KEY, format!("one entry for each name, {} occurs twice", endpoint.listener));
                }
                Ok(endpoint) => {
                    advertised.push(Endpoint { host: host_or_own_name(&endpoint.host), ..endpoint })
                }
            }
        }
        for listener in listeners.iter().filter(|listener| !controllers.contains(&listener.name)) {
            // A client that came through a listener without advertised address could not be told where to go.
            if !advertised.iter().any(|endpoint| endpoint.listener == listener.name) {
                self.refuse(KEY, format!("an entry for listener {} too", listener.name));
            }
        }
        advertised
    }

    fn inter_broker(&mut self, listeners: &[Listener], controllers: &[String]) -> String {
        const KEY: &str = "inter.broker.listener.name";
        let for_brokers = || listeners.iter().filter(|listener| !controllers.contains(&listener.name));
        if let Some(name) = self.text(KEY).map(|name| name.to_uppercase()) {
            if self.set.contains_key("security.inter.broker.protocol") {
                self.refuse(KEY, "not to be set together with security.inter.broker.protocol");
            } else if !for_brokers().any(|listener| listener.name == name) {
                self.refuse(KEY, "the name of one of the brokers' listeners");
            }
            return name;
        }
        let protocol = self.text("security.inter.broker.protocol").and_then(|name| protocol_of(&name));
        for_brokers()
            .find(|listener| Some(listener.protocol) == protocol)
            .or_else(|| for_brokers().next())
            .map(|listener| listener.name.clone())
            .unwrap_or_default()
    }

    fn log_dirs(&mut self) -> Vec<PathBuf> {
        let key = if self.list("log.dirs").is_empty() { "log.dir" } else { "log.dirs" };
        let names = self.list(key);
        if names.is_empty() {
            self.refuse(key, "at least one directory");
        }
        let mut dirs: Vec<PathBuf> = Vec::new();
        for dir in names.iter().map(PathBuf::from) {
            if dirs.contains(&dir) {
                self.refuse(key, format!("each directory once, {} occurs twice", dir.display()));
            } else {
                dirs.push(dir);
            }
        }
        dirs
    }

    fn metrics_listener(&mut self) -> Option<String> {
        const KEY: &str = "ottla.metrics.listener";
        let text = self.text(KEY).filter(|text| !text.is_empty())?;
        let is_address =
            text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !is_address {
            self.refuse(KEY, "host:port, or empty");
        }
        Some(text)
    }

    /// What holds between values, as Kafka demands it.
    fn check_relations(&mut self) {
        for key in ["log.retention.ms", "log.retention.minutes", "log.retention.hours"] {
            if self.text(key).and_then(|text| text.parse::<i64>().ok()).is_some_and(|n| n == 0 || n < -1) {
                self.refuse(key, "an integer of at least 1, or -1 for no limit");
            }
        }
        if self.integer("group.min.session.timeout.ms") > self.integer("group.max.session.timeout.ms") {
            self.refuse("group.min.session.timeout.ms", "at most group.max.session.timeout.ms");
        }
        if self.integer("log.cleaner.min.compaction.lag.ms")
            > self.integer("log.cleaner.max.compaction.lag.ms")
        {
            self.refuse("log.cleaner.min.compaction.lag.ms", "at most log.cleaner.max.compaction.lag.ms");
        }
        if self.integer("log.cleaner.threads") < 1 && self.flag("log.cleaner.enable") {
            self.refuse("log.cleaner.threads", "at least 1 while log.cleaner.enable is true");
        }
        // One key of 24 bytes for each of two threads' buffers is the least that can make progress.
        let per_thread =
            self.integer("log.cleaner.dedupe.buffer.size") / self.integer("log.cleaner.threads").max(1);
        if per_thread <= 1024 * 1024 {
            self.refuse(
                "log.cleaner.dedupe.buffer.size",
                "more than 1048576 for each of log.cleaner.threads",
            );
        }
    }

    // ---- typed reads: what was set, or the default of the table

    fn text(&self, key: &str) -> Option<String> {
        self.set.get(key).cloned().or_else(|| default_of(key))
    }

    fn value(&self, key: &str) -> Option<Value> {
        let text = self.text(key)?;
        table::find(Scope::Broker, key)?.parse(&text).ok()
    }

    fn list(&self, key: &str) -> Vec<String> {
        match self.value(key) {
            Some(Value::List(items)) => items,
            _ => Vec::new(),
        }
    }

    fn flag(&self, key: &str) -> bool {
        matches!(self.value(key), Some(Value::Boolean(true)))
    }

    fn integer(&self, key: &str) -> i64 {
        match self.value(key) {
            Some(Value::Integer(number)) => number,
            _ => 0,
        }
    }

    fn size(&self, key: &str) -> usize {
        self.integer(key).max(0) as usize
    }

    fn size_unless_negative(&self, key: &str) -> Option<usize> {
        usize::try_from(self.integer(key)).ok()
    }

    fn quota_window(&self, of: &str) -> QuotaWindow {
        let number =
            |name: &str| u32::try_from(self.integer(&format!("{of}.quota.window.{name}"))).unwrap_or(1);
        QuotaWindow { count: number("num"), size: Duration::from_secs(number("size.seconds").into()) }
    }

    fn duration(&self, key: &str) -> Duration {
        Duration::from_millis(self.integer(key).max(0) as u64)
    }

    fn duration_unless_negative(&self, key: &str) -> Option<Duration> {
        u64::try_from(self.integer(key)).ok().map(Duration::from_millis)
    }
}

fn default_of(key: &str) -> Option<String> {
    table::find(Scope::Broker, key).and_then(|key| key.default.text()).map(str::to_owned)
}

fn is_missing_function(key: &Key, text: &str) -> bool {
    key.effect == Effect::OnlyDefault && !text.is_empty() && key.default.text() != Some(text)
}

fn protocol_of(name: &str) -> Option<SecurityProtocol> {
    match name.to_uppercase().as_str() {
        "PLAINTEXT" => Some(SecurityProtocol::Plaintext),
        "SSL" => Some(SecurityProtocol::Ssl),
        "SASL_PLAINTEXT" => Some(SecurityProtocol::SaslPlaintext),
        "SASL_SSL" => Some(SecurityProtocol::SaslSsl),
        _ => None,
    }
}

fn endpoint_name(text: &str) -> Option<String> {
    text.split_once("://").map(|(name, _)| name.trim().to_uppercase())
}

fn parse_endpoint(text: &str, protocols: &BTreeMap<String, SecurityProtocol>) -> Result<Endpoint, String> {
    let form = || format!("NAME://host:port, not `{text}`");
    let (name, address) = text.split_once("://").ok_or_else(form)?;
    let listener = name.trim().to_uppercase();
    let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
    let port = port.trim().parse::<u16>().map_err(|_| form())?;
    let host = host.trim();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    // An address with colons must stand in brackets, or host and port cannot be told apart.
    if listener.is_empty() || (bare.contains(':') && bare.len() + 2 != host.len()) || bare.contains('/') {
        return Err(form());
    }
    let protocol = protocols.get(&listener).copied().ok_or_else(|| {
        format!("a security protocol for listener {listener} in listener.security.protocol.map")
    })?;
    Ok(Endpoint { listener, protocol, host: bare.to_owned(), port })
}

/// Addresses that mean "all interfaces" and that nobody can connect to.
fn is_meta_address(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
}

/// COMPAT: an empty host is advertised as the machine's own name, as Kafka does.
fn host_or_own_name(host: &str) -> String {
    if !host.is_empty() {
        return host.to_owned();
    }
    let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if own.is_empty() { "localhost".to_owned() } else { own }
}
