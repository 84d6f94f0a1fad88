//! The cluster as a client sees it: which brokers there are, who leads what, and connections to them.
//!
//! Metadata is cached as an immutable snapshot per topic and thrown away when a broker's answer shows that it is old.
//! Every retry ends at a deadline, with a pause that doubles between `RETRY_PAUSE` and `RETRY_PAUSE_MAX`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest, MetadataResponse};
use kafka_protocol::protocol::Request;
use tokio::time::Instant;

use crate::connection::Connection;
use crate::error::ClientError;
use crate::wire::{ErrorCode, said, text};

const RETRY_PAUSE: Duration = Duration::from_millis(20);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long an unknown topic may take to appear where brokers may create it; they do not say whether they do.
const AUTO_CREATE_PATIENCE: Duration = Duration::from_secs(5);
/// How old a topic's metadata may get before it is asked for again, as Java's `metadata.max.age.ms`.
const METADATA_AGE_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// `host:port`, tried in turn; a missing port means 9092.
    pub bootstrap: Vec<String>,
    pub client_id: String,
    pub connect_timeout: Duration,
    /// How long one request may take on the wire.
    pub request_timeout: Duration,
    /// How long an operation is tried again before its last error is reported.
    pub operation_timeout: Duration,
}

impl Default for ClusterConfig {
    fn default() -> ClusterConfig {
        ClusterConfig {
            bootstrap: vec!["127.0.0.1:9092".to_owned()],
            client_id: "ottla".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    pub id: i32,
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    pub index: i32,
    /// None while there is no leader.
    pub leader: Option<i32>,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
    pub offline: Vec<i32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    pub name: String,
    pub id: uuid::Uuid,
    pub internal: bool,
    /// Ordered by index, which starts at 0 and has no holes.
    pub partitions: Vec<Partition>,
}

impl Topic {
    pub fn partition(&self, index: i32) -> Option<&Partition> {
        usize::try_from(index).ok().and_then(|i| self.partitions.get(i))
    }
}

/// Whether asking for an unknown topic may bring it into being (`auto.create.topics.enable`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutoCreate {
    Allowed,
    Never,
}

/// A handle; clones share connections and metadata.
#[derive(Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClusterConfig,
    cache: Mutex<Cache>,
    /// One slot per broker, so that connecting to a dead one does not hold up the others.
    connections: Mutex<HashMap<(i32, Purpose), Slot>>,
    bootstrap: Slot,
}

/// Brokers answer the requests of one connection one after the other, and a JoinGroup or a long-polling Fetch may take
/// long: so what belongs to groups has a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Purpose {
    Data,
    Groups,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

#[derive(Default)]
struct Cache {
    cluster_id: Option<String>,
    controller: Option<i32>,
    brokers: HashMap<i32, Broker>,
    topics: HashMap<String, (Arc<Topic>, Instant)>,
    /// What was told last of each topic; `forget_topic` leaves it.
    newest: HashMap<String, Arc<Topic>>,
    coordinators: HashMap<String, i32>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that can panic midway through a change runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts down an operation's time and paces its retries.
pub struct Retry {
    deadline: Instant,
    pause: Duration,
}

impl Retry {
    pub fn within(limit: Duration) -> Retry {
        Retry { deadline: Instant::now() + limit, pause: RETRY_PAUSE }
    }

    /// Waits before the next attempt, or hands the error back if there is no time for one or it would not help.
    pub async fn pause_after(&mut self, error: ClientError) -> Result<(), ClientError> {
        if !error.is_retriable() || Instant::now() + self.pause >= self.deadline {
            return Err(error);
        }
        tracing::debug!(%error, "trying again");
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(RETRY_PAUSE_MAX);
        Ok(())
    }
}

impl Cluster {
    /// Connects to the first broker that answers. Does not try again: a person who mistyped an address wants to know.
    pub async fn connect(mut config: ClusterConfig) -> Result<Cluster, ClientError> {
        for address in &mut config.bootstrap {
            *address = with_port(address)?;
        }
        let inner = Inner {
            config,
            cache: Mutex::default(),
            connections: Mutex::default(),
            bootstrap: Slot::default(),
        };
        let cluster = Cluster { inner: Arc::new(inner) };
        cluster.refresh_brokers().await?;
        Ok(cluster)
    }

    pub fn config(&self) -> &ClusterConfig {
        &self.inner.config
    }

    pub fn retry(&self) -> Retry {
        Retry::within(self.inner.config.operation_timeout)
    }

    pub fn cluster_id(&self) -> Option<String> {
        locked(&self.inner.cache).cluster_id.clone()
    }

    pub fn controller_id(&self) -> Option<i32> {
        locked(&self.inner.cache).controller
    }

    /// The brokers as of the last metadata, ordered by id.
    pub fn brokers(&self) -> Vec<Broker> {
        let mut brokers: Vec<Broker> = locked(&self.inner.cache).brokers.values().cloned().collect();
        brokers.sort_by_key(|b| b.id);
        brokers
    }

    /// Asks who the brokers are, without asking about topics.
    pub async fn refresh_brokers(&self) -> Result<(), ClientError> {
        let request = MetadataRequest::default().with_topics(Some(Vec::new()));
        let connection = self.any().await?;
        let response = connection.send(&request).await?;
        self.learn_brokers(&response);
        Ok(())
    }

    fn learn_brokers(&self, response: &MetadataResponse) {
        let mut cache = locked(&self.inner.cache);
        cache.brokers = response
            .brokers
            .iter()
            .map(|b| {
                let broker = Broker {
                    id: b.node_id.0,
                    host: b.host.to_string(),
                    port: b.port,
                    rack: b.rack.as_ref().map(|r| r.to_string()),
                };
                (broker.id, broker)
            })
            .collect();
        cache.controller = Some(response.controller_id.0).filter(|id| *id >= 0);
        if let Some(id) = &response.cluster_id {
            cache.cluster_id = Some(id.to_string());
        }
    }

    async fn open(&self, address: &str) -> Result<Connection, ClientError> {
        let config = &self.inner.config;
        Connection::open(address, &config.client_id, config.connect_timeout, config.request_timeout).await
    }

    /// A connection to whichever broker can be reached.
    pub async fn any(&self) -> Result<Arc<Connection>, ClientError> {
        let mut slot = self.inner.bootstrap.lock().await;
        if let Some(open) = slot.as_ref().filter(|c| !c.is_closed()) {
            return Ok(open.clone());
        }
        let mut failures = Vec::new();
        let mut other = None;
        let known: Vec<String> = self.brokers().iter().map(|b| join_address(&b.host, b.port)).collect();
        let mut tried: Vec<&String> = Vec::new();
        for address in self.inner.config.bootstrap.iter().chain(&known) {
            if tried.contains(&address) {
                continue;
            }
            tried.push(address);
            match self.open(address).await {
                Ok(connection) => return Ok(slot.insert(Arc::new(connection)).clone()),
                Err(ClientError::NoBroker { failures: new }) => failures.extend(new),
                Err(error) => other = Some(error),
            }
        }
        // An address that answered, but not as Kafka does, says more than one that did not answer.
        Err(other.unwrap_or(ClientError::NoBroker { failures }))
    }

    /// A connection to one broker, as its advertised listener says.
    pub async fn broker(&self, id: i32) -> Result<Arc<Connection>, ClientError> {
        self.connection(id, Purpose::Data).await
    }

    async fn connection(&self, id: i32, purpose: Purpose) -> Result<Arc<Connection>, ClientError> {
        let slot = locked(&self.inner.connections).entry((id, purpose)).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(open) = slot.as_ref().filter(|c| !c.is_closed()) {
            return Ok(open.clone());
        }
        let address =
            locked(&self.inner.cache).brokers.get(&id).map(|b| join_address(&b.host, b.port)).ok_or_else(
                || ClientError::refused(format!("broker {id}"), ErrorCode::LEADER_NOT_AVAILABLE),
            )?;
        match self.open(&address).await {
            Ok(connection) => Ok(slot.insert(Arc::new(connection)).clone()),
            Err(error) => {
                // The broker may have come back elsewhere.
                if let Err(error) = self.refresh_brokers().await {
                    tracing::debug!(%error, "no fresh metadata");
                }
                Err(error)
            }
        }
    }

    /// Sends to any broker, trying again while that may help and there is time.
    pub async fn send_any<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        let mut retry = self.retry();
        loop {
            let attempt = async { self.any().await?.send(request).await };
            match attempt.await {
                Ok(response) => return Ok(response),
                Err(error) => retry.pause_after(error).await?,
            }
        }
    }

    /// A connection to the controller, or in a KRaft cluster to the broker that forwards to it.
    pub async fn controller(&self) -> Result<Arc<Connection>, ClientError> {
        match self.controller_id() {
            Some(id) => self.broker(id).await,
            None => self.any().await,
        }
    }

    /// A topic's partitions and leaders; cached. Waits through the moments in which a new topic has no leader.
    pub async fn topic(&self, name: &str, create: AutoCreate) -> Result<Arc<Topic>, ClientError> {
        if let Some(topic) = self.cached_topic(name) {
            return Ok(topic);
        }
        let mut retry = self.retry();
        let patience = if create == AutoCreate::Allowed { AUTO_CREATE_PATIENCE } else { Duration::ZERO };
        let until = Instant::now() + patience;
        loop {
            match self.ask_topic(name, create).await {
                Ok(topic) => return Ok(topic),
                // Kafka calls this retriable as the topic may be about to appear. If nothing creates it, it won't.
                Err(error)
                    if error.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
                        && Instant::now() >= until =>
                {
                    return Err(error);
                }
                Err(error) => retry.pause_after(error).await?,
            }
        }
    }

    pub fn cached_topic(&self, name: &str) -> Option<Arc<Topic>> {
        let cache = locked(&self.inner.cache);
        let (topic, since) = cache.topics.get(name)?;
        (since.elapsed() < METADATA_AGE_MAX).then(|| topic.clone())
    }

    async fn ask_topic(&self, name: &str, create: AutoCreate) -> Result<Arc<Topic>, ClientError> {
        let request = MetadataRequest::default()
            .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(text(name).into()))]))
            .with_allow_auto_topic_creation(create == AutoCreate::Allowed);
        let response = self.any().await?.send(&request).await?;
        self.learn_brokers(&response);
        let described =
            response.topics.iter().find(|t| t.name.as_ref().is_some_and(|n| n.as_str() == name)).ok_or_else(
                || ClientError::refused(format!("topic {name}"), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
            )?;
        let mut topic = read_topic(described)?;
        let mut cache = locked(&self.inner.cache);
        if let Some(newest) = cache.newest.get(name) {
            keep_newer_leaders(&mut topic, newest);
        }
        let topic = Arc::new(topic);
        cache.newest.insert(name.to_owned(), topic.clone());
        if topic.partitions.iter().all(|p| p.leader.is_none()) {
            return Err(ClientError::refused(format!("topic {name}"), ErrorCode::LEADER_NOT_AVAILABLE));
        }
        cache.topics.insert(name.to_owned(), (topic.clone(), Instant::now()));
        Ok(topic)
    }

    /// Every topic, ordered by name; fresh, not from the cache.
    pub async fn topics(&self) -> Result<Vec<Topic>, ClientError> {
        let response = self.send_any(&MetadataRequest::default().with_topics(None)).await?;
        self.learn_brokers(&response);
        let mut topics: Vec<Topic> = response.topics.iter().filter_map(|t| read_topic(t).ok()).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// A connection to the leader of a partition.
    pub async fn leader(&self, topic: &str, partition: i32) -> Result<(i32, Arc<Connection>), ClientError> {
        let described = self.topic(topic, AutoCreate::Never).await?;
        let found = described.partition(partition).ok_or_else(|| {
            ClientError::refused(format!("{topic}-{partition}"), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)
        })?;
        let Some(leader) = found.leader else {
            self.forget_topic(topic);
            return Err(ClientError::refused(
                format!("{topic}-{partition}"),
                ErrorCode::LEADER_NOT_AVAILABLE,
            ));
        };
        match self.broker(leader).await {
            Ok(connection) => Ok((leader, connection)),
            Err(error) => {
                self.forget_topic(topic);
                Err(error)
            }
        }
    }

    /// An answer showed that what the cache says of this topic is old.
    pub fn forget_topic(&self, name: &str) {
        locked(&self.inner.cache).topics.remove(name);
    }

    /// A connection to the coordinator of a group; cached until `forget_coordinator`.
    pub async fn coordinator(&self, group: &str) -> Result<Arc<Connection>, ClientError> {
        let cached = locked(&self.inner.cache).coordinators.get(group).copied();
        if let Some(id) = cached {
            match self.connection(id, Purpose::Groups).await {
                Ok(connection) => return Ok(connection),
                Err(_) => self.forget_coordinator(group),
            }
        }
        let connection = self.any().await?;
        let mut request = FindCoordinatorRequest::default().with_key_type(0);
        // Version 4 asks for many at once (KIP-699).
        if connection.version_of::<FindCoordinatorRequest>()? >= 4 {
            request.coordinator_keys = vec![text(group)];
        } else {
            request.key = text(group);
        }
        let response = connection.send(&request).await?;
        let (code, message, id, host, port) = match response.coordinators.first() {
            Some(c) => (c.error_code, c.error_message.as_ref(), c.node_id.0, c.host.to_string(), c.port),
            None => (
                response.error_code,
                response.error_message.as_ref(),
                response.node_id.0,
                response.host.to_string(),
                response.port,
            ),
        };
        ErrorCode::check(code).map_err(|code| ClientError::Refused {
            what: format!("coordinator of group {group}"),
            code,
            message: said(message).filter(|_| code.meaning().is_empty()),
        })?;
        {
            let mut cache = locked(&self.inner.cache);
            cache.brokers.entry(id).or_insert(Broker { id, host, port, rack: None });
            cache.coordinators.insert(group.to_owned(), id);
        }
        self.connection(id, Purpose::Groups).await
    }

    pub fn forget_coordinator(&self, group: &str) {
        locked(&self.inner.cache).coordinators.remove(group);
    }

    /// The version of a request that a group's coordinator gets.
    pub async fn coordinator_version<R: Request>(&self, group: &str) -> Result<i16, ClientError> {
        let mut retry = self.retry();
        loop {
            let attempt = async { self.coordinator(group).await?.version_of::<R>() };
            match attempt.await {
                Ok(version) => return Ok(version),
                Err(error) => {
                    self.forget_coordinator(group);
                    retry.pause_after(error).await?;
                }
            }
        }
    }

    /// Sends to a group's coordinator; `code_of` reads the answer's error so that a moved coordinator is found again.
    pub async fn send_coordinator<R: Request>(
        &self,
        group: &str,
        request: &R,
        code_of: impl Fn(&R::Response) -> i16,
    ) -> Result<R::Response, ClientError> {
        let mut retry = self.retry();
        loop {
            let attempt = async {
                let response = self.coordinator(group).await?.send(request).await?;
                let code = ErrorCode(code_of(&response));
                // Loading, not available, not coordinator: the answer has nothing else in it.
                if matches!(code.0, 14..=16) {
                    return Err(ClientError::refused(format!("group {group}"), code));
                }
                Ok(response)
            };
            match attempt.await {
                Ok(response) => return Ok(response),
                Err(error) => {
                    if error.code() != Some(ErrorCode::COORDINATOR_LOAD_IN_PROGRESS) {
                        self.forget_coordinator(group);
                    }
                    retry.pause_after(error).await?;
                }
            }
        }
    }
}

fn read_topic(described: &MetadataResponseTopic) -> Result<Topic, ClientError> {
    let name = described.name.as_ref().map(|n| n.to_string()).unwrap_or_default();
    ErrorCode::check(described.error_code)
        .map_err(|code| ClientError::refused(format!("topic {name}"), code))?;
    let mut partitions: Vec<Partition> = described
        .partitions
        .iter()
        .map(|p| Partition {
            index: p.partition_index,
            leader: Some(p.leader_id.0).filter(|id| *id >= 0),
            leader_epoch: p.leader_epoch,
            replicas: p.replica_nodes.iter().map(|b| b.0).collect(),
            in_sync: p.isr_nodes.iter().map(|b| b.0).collect(),
            offline: p.offline_replicas.iter().map(|b| b.0).collect(),
        })
        .collect();
    partitions.sort_by_key(|p| p.index);
    let dense = partitions.iter().enumerate().all(|(at, p)| usize::try_from(p.index) == Ok(at));
    if partitions.is_empty() || !dense {
        // A topic in the making; whoever asked may ask again.
        return Err(ClientError::refused(format!("topic {name}"), ErrorCode::LEADER_NOT_AVAILABLE));
    }
    Ok(Topic { name, id: described.topic_id, internal: described.is_internal, partitions })
}

/// A broker that is cut off from the others tells of leaders that are none any more: what is known of a later epoch of the same
/// topic stands (KIP-320). Without topic ids or epochs (Kafka before 2.8) whatever came last counts.
fn keep_newer_leaders(told: &mut Topic, known: &Topic) {
    if told.id.is_nil() || told.id != known.id {
        return;
    }
    for partition in &mut told.partitions {
        if let Some(known) = known.partition(partition.index)
            && (0..known.leader_epoch).contains(&partition.leader_epoch)
        {
            *partition = known.clone();
        }
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn join_address(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Checks one address of a bootstrap list and adds Kafka's port where none is named.
fn with_port(address: &str) -> Result<String, ClientError> {
    let bad = || ClientError::Invalid(format!("not an address: {address:?} (expected host:port)"));
    let address = address.trim();
    if address.is_empty() {
        return Err(bad());
    }
    if address.ends_with(']') || !address.contains(':') {
        return Ok(format!("{address}:9092"));
    }
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    if host.contains(':') && !host.starts_with('[') {
        // A bare IPv6 address.
        return Ok(join_address(address, 9092));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 && !host.is_empty() => Ok(address.to_owned()),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_leader_epoch_tells_nothing() {
        let topic = |id: u128, epochs: [i32; 2]| Topic {
            name: "t".to_owned(),
            id: uuid::Uuid::from_u128(id),
            internal: false,
            partitions: epochs
                .iter()
                .zip(0..)
                .map(|(epoch, index)| Partition {
                    index,
                    leader: Some(*epoch),
                    leader_epoch: *epoch,
                    replicas: vec![],
                    in_sync: vec![],
                    offline: vec![],
                })
                .collect(),
        };
        let merged = |told: &Topic, known: &Topic| {
            let mut told = told.clone();
            keep_newer_leaders(&mut told, known);
            told
        };
        let known = topic(7, [3, 3]);
        assert_eq!(merged(&topic(7, [2, 4]), &known), topic(7, [3, 4]));
        assert_eq!(merged(&topic(7, [3, -1]), &known), topic(7, [3, -1]), "no epoch, no order");
        assert_eq!(merged(&topic(8, [0, 0]), &known), topic(8, [0, 0]), "created anew");
        assert_eq!(merged(&topic(0, [0, 0]), &topic(0, [3, 3])), topic(0, [0, 0]), "no ids, no sameness");
    }

    #[test]
    fn addresses_get_the_port_that_is_missing() {
        assert_eq!(with_port("kafka").unwrap(), "kafka:9092");
        assert_eq!(with_port(" kafka:1 ").unwrap(), "kafka:1");
        assert_eq!(with_port("[::1]").unwrap(), "[::1]:9092");
        assert_eq!(with_port("::1").unwrap(), "[::1]:9092");
        assert_eq!(with_port("[::1]:7").unwrap(), "[::1]:7");
        for bad in ["", ":9092", "kafka:", "kafka:x", "kafka:0", "kafka:70000"] {
            assert!(matches!(with_port(bad), Err(ClientError::Invalid(_))), "{bad}");
        }
    }
}
