//! Whole quorums in one process, under paused time: nodes over an in-memory transport whose links can be cut.

mod failover;
mod fencing;
mod forming;
mod full_disks;
mod refusals;
mod voters;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use bytes::Bytes;
use futures::future::join_all;

use super::encoding::{StoredEntry, StoredLogId, StoredPayload, StoredVote};
use super::links::CallError;
use super::messages::{Append, Ballot, Call, Denied, SnapshotPiece, TransferLeader};
use super::store::Cell;
use super::store_memory::MemoryStore;
use super::*;
use crate::metadata::features;
use crate::metadata::ids::BrokerEpoch;
use crate::metadata::records::Endpoint;
use crate::requests::*;

/// Addresses are `node-<id>`, or whatever a test listens at.
#[derive(Default)]
struct Wires {
    listening: Mutex<BTreeMap<String, PeerService>>,
    /// From, to.
    cut: Mutex<BTreeSet<(String, String)>>,
    /// From, to: as by a host without a process at the port.
    refused: Mutex<BTreeSet<(String, String)>>,
    /// Calls served by these get no answer.
    mute: Mutex<BTreeSet<String>>,
}

struct Wire {
    wires: Arc<Wires>,
    from: String,
}

/// One way over a network that is not there.
const HOP: Duration = Duration::from_millis(1);

impl Transport for Wire {
    fn call<'a>(
        &'a self,
        address: &'a str,
        _lane: Lane,
        request: Bytes,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send + 'a>> {
        let there = (self.from.clone(), address.to_owned());
        let back = (address.to_owned(), self.from.clone());
        Box::pin(async move {
            let called = async {
                tokio::time::sleep(HOP).await;
                if self.wires.cut.lock().contains(&there) {
                    std::future::pending::<()>().await;
                }
                let service = self.wires.listening.lock().get(address).cloned();
                let service = service.filter(|_| !self.wires.refused.lock().contains(&there));
                let Some(service) = service else { return Err(TransportError::Refused) };
                // On a task of its own, as a server's: who hangs up does not stop it.
                let served = tokio::spawn(async move { service.handle(request).await });
                let answered = served.await.map_err(|error| TransportError::Closed(error.to_string()))?;
                tokio::time::sleep(HOP).await;
                if self.wires.cut.lock().contains(&back) || self.wires.mute.lock().contains(address) {
                    std::future::pending::<()>().await;
                }
                answered.map_err(|refused| TransportError::Rejected(refused.0))
            };
            tokio::time::timeout(limit, called).await.unwrap_or(Err(TransportError::TimedOut(limit)))
        })
    }
}

impl Wires {
    fn cut(&self, from: &str, to: &str) {
        self.cut.lock().insert((from.into(), to.into()));
    }

    fn refuse(&self, from: &str, to: &str) {
        self.refused.lock().insert((from.into(), to.into()));
    }

    /// Both ways, with everybody.
    fn isolate(&self, node: &str, others: impl IntoIterator<Item = i32>) {
        for other in others {
            self.cut(node, &address(other));
            self.cut(&address(other), node);
        }
    }

    fn heal(&self) {
        self.cut.lock().clear();
        self.mute.lock().clear();
    }
}

fn address(id: i32) -> String {
    format!("node-{id}")
}

struct TestCluster {
    wires: Arc<Wires>,
    voters: Vec<(BrokerId, String)>,
    stores: BTreeMap<i32, Arc<MemoryStore>>,
    nodes: BTreeMap<i32, Metadata>,
}

impl TestCluster {
    fn new(voters: i32) -> TestCluster {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(std::env::var("OTTLA_TEST_LOG").unwrap_or("off".into()))
            .with_test_writer()
            .try_init();
        TestCluster {
            wires: Arc::default(),
            voters: (1..=voters).map(|id| (BrokerId(id), address(id))).collect(),
            stores: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    async fn started(voters: i32) -> TestCluster {
        let mut cluster = TestCluster::new(voters);
        cluster.start_all(1..=voters).await;
        cluster
    }

    fn config(&self, id: i32) -> MetadataConfig {
        let is_voter = self.voters.iter().any(|(voter, _)| voter.0 == id);
        MetadataConfig {
            role: if is_voter { QuorumRole::Voter } else { QuorumRole::Observer },
            voters: self.voters.clone(),
            peer_address: address(id),
            transport: Arc::new(Wire { wires: self.wires.clone(), from: address(id) }),
            peers: PeerService::new(),
            broker_session_timeout: Some(Duration::from_secs(3)),
            ..MetadataConfig::new(BrokerId(id), "")
        }
    }

    fn store(&mut self, id: i32) -> Arc<MemoryStore> {
        self.stores.entry(id).or_default().clone()
    }

    fn starting(
        &mut self,
        config: MetadataConfig,
    ) -> impl Future<Output = Result<Metadata, StartError>> + Send + use<> {
        let store = self.store(config.node_id.0);
        let wires = self.wires.clone();
        async move {
            let (address, peers) = (config.peer_address.clone(), config.peers.clone());
            wires.listening.lock().insert(address.clone(), peers);
            let started = Metadata::start_in_memory(config, store).await;
            if started.is_err() {
                wires.listening.lock().remove(&address);
            }
            started
        }
    }

    async fn start_all(&mut self, ids: impl IntoIterator<Item = i32>) {
        let starts: Vec<_> = ids
            .into_iter()
            .map(|id| {
                let config = self.config(id);
                let starting = self.starting(config);
                async move { (id, starting.await) }
            })
            .collect();
        for (id, started) in within(60, join_all(starts)).await {
            self.nodes.insert(id, started.unwrap_or_else(|error| panic!("node {id}: {error}")));
        }
    }

    async fn start(&mut self, id: i32) {
        self.start_all([id]).await;
    }

    fn node(&self, id: i32) -> &Metadata {
        &self.nodes[&id]
    }

    /// As kill -9 and a loss of power: nothing more is sent or synced.
    async fn kill(&mut self, id: i32) {
        self.wires.listening.lock().remove(&address(id));
        let before = self.wires.cut.lock().clone();
        self.wires.isolate(&address(id), 0..20);
        let node = self.nodes.remove(&id).unwrap();
        let store = self.stores[&id].crash_and_reopen(id as u64);
        self.stores.insert(id, Arc::new(store));
        node.raft.shutdown().await.unwrap();
        node.shutdown().await;
        *self.wires.cut.lock() = before;
    }

    async fn stop(&mut self, id: i32) {
        let node = self.nodes.remove(&id).unwrap();
        node.shutdown().await;
        self.wires.listening.lock().remove(&address(id));
    }

    /// Waits until all running nodes agree on one controller, other than `not`.
    async fn leader_other_than(&self, not: Option<i32>, among: &[i32]) -> i32 {
        eventually(30, || {
            let leaders: BTreeSet<Option<i32>> =
                among.iter().map(|id| self.node(*id).controller_id().map(|id| id.0)).collect();
            let leader = leaders.first().copied().flatten()?;
            let leads = self.nodes.get(&leader).is_some_and(Metadata::is_controller);
            (leaders.len() == 1 && Some(leader) != not && leads).then_some(leader)
        })
        .await
    }

    async fn leader(&self) -> i32 {
        let ids: Vec<i32> = self.nodes.keys().copied().collect();
        self.leader_other_than(None, &ids).await
    }

    fn others(&self, id: i32) -> Vec<i32> {
        self.nodes.keys().copied().filter(|other| *other != id).collect()
    }

    /// All running nodes come to the same image.
    async fn converge(&self) {
        eventually(30, || {
            let images: Vec<Arc<Image>> = self.nodes.values().map(Metadata::image).collect();
            images.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
        })
        .await;
    }
}

/// Everything in a test has a limit, in simulated seconds.
async fn within<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), future)
        .await
        .unwrap_or_else(|_| panic!("not within {seconds} s"))
}

async fn eventually<T>(seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    within(seconds, async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

fn topic(name: &str) -> CreateTopics {
    let topic = NewTopic {
        name: name.into(),
        partitions: 1,
        replication_factor: 1,
        assignments: vec![],
        configs: vec![],
    };
    CreateTopics { topics: vec![topic], validate_only: false }
}

async fn create(node: &Metadata, name: &str) {
    let answer = within(60, node.submit(topic(name))).await.unwrap();
    answer[0].result.as_ref().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(node.image().topic_by_name(name).is_some(), "visible when it is answered");
}

pub(super) fn registration(id: i32) -> RegisterBroker {
    RegisterBroker {
        id: BrokerId(id),
        incarnation: Uuid::new_v4(),
        endpoints: vec![Endpoint {
            name: "PLAINTEXT".into(),
            host: "localhost".into(),
            port: 9092,
            security_protocol: 0,
        }],
        rack: None,
        features: features::supported(),
        log_dirs: vec![],
        previous_epoch: None,
    }
}

async fn register(node: &Metadata, id: i32) -> BrokerEpoch {
    within(60, node.submit(registration(id))).await.unwrap().unwrap()
}

fn heartbeat(node: &Metadata, id: i32, epoch: BrokerEpoch) -> BrokerHeartbeat {
    BrokerHeartbeat {
        id: BrokerId(id),
        epoch,
        metadata_offset: node.image().last_offset,
        want_fence: false,
        want_shut_down: false,
        offline_log_dirs: vec![],
    }
}

/// Registers every node as a broker and keeps sending heartbeats.
async fn serve_as_brokers(cluster: &TestCluster) -> BTreeMap<i32, tokio::task::JoinHandle<()>> {
    let mut beating = BTreeMap::new();
    for (id, node) in cluster.nodes.clone() {
        let epoch = register(&node, id).await;
        beating.insert(id, tokio::spawn(beat(node, id, epoch)));
    }
    eventually(20, || cluster.nodes.keys().all(|id| is_unfenced(cluster, *id)).then_some(())).await;
    beating
}

async fn beat(node: Metadata, id: i32, epoch: BrokerEpoch) {
    loop {
        let _ = node.submit(heartbeat(&node, id, epoch)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn is_unfenced(cluster: &TestCluster, id: i32) -> bool {
    let Some(node) = cluster.nodes.values().find(|node| node.is_controller()) else { return false };
    node.image().broker(BrokerId(id)).is_some_and(|broker| !broker.fenced)
}

/// Twenty topics, and nothing before that in the leader's log.
async fn make_snapshot(cluster: &TestCluster, leader: i32) {
    for number in 0..20 {
        create(cluster.node(leader), &format!("topic-{number}")).await;
    }
    let raft = cluster.node(leader).raft.clone();
    cluster.node(leader).snapshot().await.unwrap();
    let last = raft.metrics().borrow_watched().last_log_index.unwrap();
    eventually(20, || raft.metrics().borrow_watched().snapshot.is_some().then_some(())).await;
    raft.trigger().purge_log(last).await.unwrap();
    eventually(20, || raft.metrics().borrow_watched().purged.is_some().then_some(())).await;
}
