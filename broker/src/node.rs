//! One running node: what handlers may reach (`Broker`), and the order in which its parts start and stop.
//!
//! A node is a broker, a controller, or both, and has the same parts in each case: a controller is assigned no replicas, and a
//! broker's metadata follows without a vote.
//!
//! Start: ports, then what peers need to find this node, then metadata, registration, log directories, the tier and replicas, groups;
//! then clients are served. Ports come first, so that a second node started by mistake is told so before it has touched any data. Stop is the
//! reverse: leaderships move to others, no more requests, groups answer what is parked, logs are synced and marked clean, the
//! metadata closes last, and with it the ear for peers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ottla_raft::quorum::store_memory::MemoryStore;
use ottla_raft::requests::RegisterBroker;
use ottla_raft::{BrokerId, Metadata, MetadataConfig, PeerService, QuorumRole, features};
use ottla_storage::disk::Disk;
use ottla_storage::logdir::LogDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::ListenerRole;
use crate::auto_join;
use crate::config::{Endpoint, Listener, NodeConfig, SecurityProtocol, host_and_port};
use crate::data_dirs::{self, DataDirsError};
use crate::group::{GroupCoordinator, ReplicasLog};
#[cfg(feature = "lake")]
use crate::lake::{Lake, Tables};
use crate::metrics::{self, Metrics};
use crate::net::peers::Peers;
use crate::net::{self, BindError, Purpose, Server};
use crate::open_files::{OpenFiles, TooFewOpenFiles};
use crate::registration::{NOT_REGISTERED, Registration, RegistrationError};
use crate::replica::links::Sockets;
use crate::replica::{Fatal, OnFatal, ReplicaManager, ReplicaOptions};
use crate::tier::restore::{RestoreError, Restored, Restorer};
use crate::tier::writer::TierWriter;
use crate::tier::{self, Tier};

/// Everything a request handler may use. One per process, shared by all connections.
pub struct Broker {
    pub config: Arc<NodeConfig>,
    pub metadata: Metadata,
    pub replicas: Arc<ReplicaManager>,
    pub groups: Arc<GroupCoordinator>,
    /// `None` without `remote.log.storage.system.enable`.
    pub tier: Option<Arc<Tier>>,
    pub metrics: Arc<Metrics>,
    /// Where each listener really listens, by name: an advertised port 0 means this one.
    pub addresses: BTreeMap<String, SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    OpenFiles(#[from] TooFewOpenFiles),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("ottla.metrics.listener: cannot listen on {address}: {source}")]
    Metrics { address: String, source: std::io::Error },
    #[error(transparent)]
    DataDirs(#[from] DataDirsError),
    #[error(transparent)]
    Metadata(#[from] ottla_raft::StartError),
    #[error(transparent)]
    Replicas(#[from] crate::replica::StartError),
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error(transparent)]
    Tier(#[from] tier::open::TierOpenError),
}

/// A node that serves.
pub struct Node {
    broker: Arc<Broker>,
    server: Server,
    ready: Arc<AtomicBool>,
    metrics_address: Option<SocketAddr>,
    groups: JoinHandle<()>,
    /// `None` on a node that is no broker.
    registration: Option<Arc<Registration>>,
    /// `None` without a tier.
    tier_writer: Option<TierWriter>,
    /// `None` without a store for tables.
    #[cfg(feature = "lake")]
    lake: Option<Lake>,
    started_in: Duration,
}

/// How long clients may have to wait at a start until what this broker leads is opened.
const FOLLOW_MAX: Duration = Duration::from_secs(1);

/// Why a node ends.
#[derive(Debug)]
pub enum Stop {
    Signal(&'static str),
    /// The metadata log could not be written. What its disk holds is not known, so nothing may be done in its name any more,
    /// a controlled shutdown included.
    MetadataFailed(String),
    Failed(String),
}

/// What a node stands on: the machine it runs on, or a simulated one.
pub struct Environment {
    pub disk: Disk,
    /// Where a tier lies that is a directory, if not on `disk`.
    pub tier_disk: Option<Disk>,
    /// `None`: the metadata's own store, below `metadata.log.dir` on the real disk.
    pub metadata_store: Option<Arc<MemoryStore>>,
    /// How many connections of clients the machine can take, whatever the configuration allows.
    pub client_connections_max: usize,
    /// Must see to it that nothing is done in this node's name any more.
    pub on_fatal: OnFatal,
}

impl Environment {
    /// This machine.
    pub fn real() -> Result<Environment, TooFewOpenFiles> {
        let open_files = OpenFiles::claim()?;
        Ok(Environment {
            disk: Disk::real_with(open_files.logs),
            tier_disk: None,
            metadata_store: None,
            client_connections_max: open_files.clients,
            on_fatal: Arc::new(|fatal: Fatal| {
                // Nothing may be acknowledged any more: no controlled shutdown, no clean marker.
                tracing::error!("{fatal}");
                std::process::exit(fatal.exit_code());
            }),
        })
    }
}

/// Starts a node and returns when it serves clients. Needs a tokio runtime.
pub async fn start(config: NodeConfig) -> Result<Node, StartError> {
    start_with(config, Environment::real()?).await
}

/// As `start`, on whatever `environment` is.
pub async fn start_with(config: NodeConfig, environment: Environment) -> Result<Node, StartError> {
    Ok(start_as(config, environment, Origin::Directories).await?.0)
}

/// Starts the first node of a new cluster with the topics of a lost one, from the tier.
pub async fn start_restored(config: NodeConfig) -> Result<(Node, Restored), StartError> {
    start_as(config, Environment::real()?, Origin::Tier).await
}

/// Where a node finds what it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Directories,
    /// And, before it opens its logs, what a lost cluster left there.
    Tier,
}

async fn start_as(
    config: NodeConfig,
    environment: Environment,
    origin: Origin,
) -> Result<(Node, Restored), StartError> {
    let Environment { disk, tier_disk, metadata_store, client_connections_max, on_fatal } = environment;
    let begin = Instant::now();
    let config = Arc::new(config);
    let mut bound = Vec::new();
    for listener in &config.listeners {
        bound.push(net::bind(listener, purpose(&config, listener), config.network.listen_backlog).await?);
    }
    let http = match &config.metrics_listener {
        Some(address) => Some(
            metrics::http::bind(address)
                .await
                .map_err(|source| StartError::Metrics { address: address.clone(), source })?,
        ),
        None => None,
    };
    let addresses: BTreeMap<_, _> =
        bound.iter().map(|bound| (bound.listener.name.clone(), bound.address)).collect();

    let metrics = Metrics::new();
    let peers = PeerService::new();
    let server = Server::start(bound, config.clone(), metrics.clone(), peers.clone(), client_connections_max);
    let ready = Arc::new(AtomicBool::new(false));
    let metrics_address = http.as_ref().map(|(_, address)| *address);
    if let Some((socket, _)) = http {
        let mut phase = server.phase();
        let stopped = async move {
            let _ = phase.wait_for(|phase| *phase >= net::Phase::ClientsClosed).await;
        };
        tokio::spawn(metrics::http::serve(socket, metrics.clone(), ready.clone(), stopped));
    }

    let metadata = start_metadata(&config, &disk, metadata_store, &addresses, peers).await?;
    tokio::spawn(config.clone().follow(metadata.clone()));
    if config.roles.controller && config.quorum.auto_join {
        tokio::spawn(auto_join::run(metadata.clone(), peer_address(&config, &addresses)));
    }
    let cluster_id = metadata.image().cluster_id.to_string();
    let (log_dirs, unusable_dirs) = data_dirs::open(&disk, &config, &cluster_id, metadata.directory_id())?;
    let registration = match config.roles.broker {
        true => {
            let introduction = introduction(&config, &addresses, &log_dirs);
            Some(Registration::start(metadata.clone(), config.liveness.clone(), introduction).await?)
        }
        false => None,
    };

    let store = match &config.tier {
        Some(place) if config.roles.broker || config.has_remote_tier() => {
            let disk = tier_disk.as_ref().unwrap_or(&disk);
            let opened = tier::open::open(place, disk, config.node_id).await?;
            tier::store_metrics::register(&opened.store, &metrics);
            Some(opened)
        }
        _ => None,
    };
    let tier = store
        .as_ref()
        .filter(|_| config.has_remote_tier())
        .map(|opened| Tier::new(opened.store.clone(), &opened.prefix, &config, &metrics, &disk));
    let restored = match origin {
        Origin::Directories => Restored::default(),
        Origin::Tier => {
            let registration = registration.as_ref().ok_or(RestoreError::NoBroker)?;
            let restorer = Restorer {
                tier: tier.as_deref().ok_or(RestoreError::NoTier)?,
                #[cfg(feature = "lake")]
                tables: Tables::open(&config, store.as_ref().ok_or(RestoreError::NoTier)?).await,
                metadata: &metadata,
                local: BrokerId(config.node_id),
                broker_epoch: *registration.epoch().borrow(),
                log_dirs: &log_dirs,
                config: &config,
            };
            restorer.run().await?
        }
    };
    let replicas = ReplicaManager::start(ReplicaOptions {
        local: BrokerId(config.node_id),
        config: config.clone(),
        log_dirs,
        unusable_dirs,
        metadata: metadata.clone(),
        broker_epoch: match &registration {
            Some(registration) => registration.epoch(),
            None => watch::channel(NOT_REGISTERED).1,
        },
        metrics: metrics.clone(),
        topic_settings: config.topic_settings_of(),
        on_fatal,
        tier: tier.clone(),
        on_dir_failed: match registration.clone() {
            Some(registration) => Arc::new(move |failed| registration.report_offline(failed)),
            None => Arc::new(|_| {}),
        },
        links: Arc::new(Sockets {
            client_id: format!("ottla-replica-{}", config.node_id),
            timeout: config.replication.fetch.socket_timeout
                + Duration::from_millis(config.replication.fetch.wait_max_ms.max(0) as u64),
        }),
    })
    .await?;
    let groups = GroupCoordinator::new(config.group.clone(), ReplicasLog::new(replicas.clone()));
    let group_task = tokio::spawn(groups.clone().run(metadata.clone(), BrokerId(config.node_id)));
    if let Some(registration) = &registration {
        // Unfencing brings leaderships. The first requests of clients that were here before the start must not be told that
        // this is not their leader or coordinator.
        registration.serve().await;
        replicas.await_applied(metadata.image().last_offset, FOLLOW_MAX).await;
    }
    groups.await_followed(metadata.image().last_offset).await;
    let tier_writer = tier
        .clone()
        .filter(|_| config.roles.broker)
        .map(|tier| TierWriter::start(tier, replicas.clone(), groups.clone(), config.clone(), &metrics));
    let broker = Arc::new(Broker { config, metadata, replicas, groups, tier, metrics, addresses });
    server.open(broker.clone());
    #[cfg(feature = "lake")]
    let lake = match store.filter(|_| broker.config.roles.broker) {
        Some(store) => Some(
            Lake::start(broker.config.clone(), broker.metadata.clone(), &store, &disk, &broker.metrics).await,
        ),
        None => None,
    };
    ready.store(true, Ordering::Release);
    let node = Node {
        broker,
        server,
        ready,
        metrics_address,
        groups: group_task,
        registration,
        tier_writer,
        #[cfg(feature = "lake")]
        lake,
        started_in: begin.elapsed(),
    };
    Ok((node, restored))
}

/// Controllers are reached by the listeners of controllers, brokers that are nothing else by that for other brokers.
fn purpose(config: &NodeConfig, listener: &Listener) -> Purpose {
    if config.controller_listener_names.contains(&listener.name) {
        return Purpose { role: ListenerRole::Controller, serves_peers: true };
    }
    let serves_peers = !config.roles.controller && listener.name == config.inter_broker_listener_name;
    Purpose { role: ListenerRole::Broker, serves_peers }
}

/// Where other nodes reach this one: as `controller.quorum.voters` says it, or as it is advertised. Empty on a node that is
/// all of its cluster and has no listener for controllers.
fn peer_address(config: &NodeConfig, addresses: &BTreeMap<String, SocketAddr>) -> String {
    if let Some((_, address)) = config.quorum.voters.iter().find(|(id, _)| id.0 == config.node_id) {
        return address.clone();
    }
    let endpoint = match config.roles.controller {
        true => config.controller_endpoint.as_ref(),
        false => {
            let mut endpoints = config.advertised_listeners.iter();
            endpoints.find(|endpoint| endpoint.listener == config.inter_broker_listener_name)
        }
    };
    endpoint.map(|endpoint| host_and_port(&endpoint.host, real_port(endpoint, addresses))).unwrap_or_default()
}

/// An advertised port 0 means the one that the listener got.
fn real_port(endpoint: &Endpoint, addresses: &BTreeMap<String, SocketAddr>) -> u16 {
    match endpoint.port {
        0 => addresses.get(&endpoint.listener).map_or(0, SocketAddr::port),
        port => port,
    }
}

/// Starts the metadata as part of the cluster that the data on disk belongs to, if any.
async fn start_metadata(
    config: &Arc<NodeConfig>,
    disk: &Disk,
    store: Option<Arc<MemoryStore>>,
    addresses: &BTreeMap<String, SocketAddr>,
    peers: PeerService,
) -> Result<Metadata, StartError> {
    let examined = data_dirs::examine(disk, config)?;
    let expected = config.cluster_id.clone().or(examined.cluster_id);
    let mut metadata = MetadataConfig::new(BrokerId(config.node_id), &config.metadata_log_dir);
    metadata.cluster_id = expected.map(|id| ottla_raft::ClusterId(id.into()));
    metadata.topic_defaults = ottla_raft::TopicDefaults {
        partitions: config.topic_defaults.partitions,
        replication_factor: config.topic_defaults.replication_factor,
    };
    metadata.static_settings = config.static_settings();
    metadata.leader_balance_interval = config.leader_balance_interval();
    metadata.leaderless_check_interval = config.leaderless_check_interval();
    metadata.config_check = Some(config.config_check());
    metadata.role = match config.roles.controller {
        true => QuorumRole::Voter,
        false => QuorumRole::Observer,
    };
    metadata.voters = config.quorum.voters.clone();
    metadata.bootstrap_servers = config.quorum.bootstrap_servers.clone();
    metadata.election_timeout = config.quorum.election_timeout;
    metadata.holds_partitions = examined.holds_partitions;
    metadata.peer_address = peer_address(config, addresses);
    metadata.transport = Arc::new(Peers::new());
    metadata.peers = peers;
    metadata.broker_session_timeout = Some(config.liveness.session_timeout);
    Ok(match store {
        None => Metadata::start(metadata).await?,
        Some(store) => Metadata::start_in_memory(metadata, store).await?,
    })
}

/// Kafka's number of a security protocol.
fn protocol_id(protocol: SecurityProtocol) -> i16 {
    match protocol {
        SecurityProtocol::Plaintext => 0,
        SecurityProtocol::Ssl => 1,
        SecurityProtocol::SaslPlaintext => 2,
        SecurityProtocol::SaslSsl => 3,
    }
}

/// How this broker introduces itself to the controller.
fn introduction(
    config: &NodeConfig,
    addresses: &BTreeMap<String, SocketAddr>,
    log_dirs: &[LogDir],
) -> RegisterBroker {
    let endpoints = config
        .advertised_listeners
        .iter()
        .map(|endpoint| ottla_raft::Endpoint {
            name: endpoint.listener.as_str().into(),
            security_protocol: protocol_id(endpoint.protocol),
            host: endpoint.host.as_str().into(),
            port: real_port(endpoint, addresses),
        })
        .collect();
    RegisterBroker {
        id: BrokerId(config.node_id),
        incarnation: uuid::Uuid::new_v4(),
        endpoints,
        rack: config.rack.as_deref().map(Into::into),
        features: features::supported(),
        log_dirs: log_dirs.iter().map(LogDir::directory_id).collect(),
        previous_epoch: data_dirs::clean_shutdown_epoch(log_dirs),
    }
}

impl Node {
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    /// What a person wants to know first.
    pub fn banner(&self) -> String {
        let broker = &self.broker;
        let image = broker.metadata.image();
        let mut text = format!(
            "Ottla {} is ready: node {} of cluster {}, started in {} ms\n",
            env!("CARGO_PKG_VERSION"),
            broker.config.node_id,
            image.cluster_id,
            self.started_in.as_millis()
        );
        for endpoint in &broker.config.advertised_listeners {
            let port = real_port(endpoint, &broker.addresses);
            text += &format!("  clients connect to  {}:{} ({})\n", endpoint.host, port, endpoint.listener);
        }
        if let Some(address) = self.metrics_address {
            text +=
                &format!("  metrics and health  http://{address}/metrics, http://{address}/health/ready\n");
        }
        for path in &broker.config.log_dirs {
            let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            text += &format!("  data lies in        {}\n", path.display());
        }
        text
    }

    /// Returns on SIGTERM or SIGINT, or when the node cannot go on.
    pub async fn until_told_to_stop(&self) -> Stop {
        use tokio::signal::unix::{SignalKind, signal};
        let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            return Stop::Failed("signal handlers cannot be installed".to_owned());
        };
        tokio::select! {
            biased;
            _ = terminate.recv() => Stop::Signal("SIGTERM"),
            _ = interrupt.recv() => Stop::Signal("SIGINT"),
            reason = self.broker.metadata.stopped() => Stop::MetadataFailed(reason),
            reason = self.lost() => Stop::Failed(reason),
        }
    }

    async fn lost(&self) -> String {
        match &self.registration {
            Some(registration) => registration.lost().await,
            None => std::future::pending().await,
        }
    }

    /// Whether another broker could take over what this one leads.
    fn has_successors(&self) -> bool {
        let image = self.broker.metadata.image();
        image.brokers.values().any(|broker| broker.id.0 != self.broker.config.node_id && broker.is_active())
    }

    /// Controlled shutdown.
    pub async fn shutdown(self) {
        self.ready.store(false, Ordering::Release);
        // What was read for tables and not committed is read again by the next committer.
        #[cfg(feature = "lake")]
        if let Some(lake) = &self.lake {
            lake.shutdown().await;
        }
        // ORDER: where others can lead, they take over while this broker still answers, and its clients find them at once.
        // Where nobody can, what is under way is answered first: it would be refused without a leader.
        let moves_first = self.has_successors();
        if moves_first && let Some(registration) = &self.registration {
            registration.leave().await;
        }
        // Parked group requests are answered first, so that connections drain at once.
        self.broker.groups.shutdown();
        self.server.close_clients().await;
        let _ = self.groups.await;
        if !moves_first && let Some(registration) = &self.registration {
            registration.leave().await;
        }
        if let Some(writer) = self.tier_writer {
            writer.stop().await;
        }
        self.broker.replicas.shutdown().await;
        self.broker.metadata.shutdown().await;
        // Peers are answered as long as there is metadata.
        self.server.stop().await;
        tracing::info!("stopped");
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
