//! Whole quorums in one process, under paused time: nodes over an in-memory transport whose links can be cut.

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

// ---- the network

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

// ---- the nodes

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

fn registration(id: i32) -> RegisterBroker {
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

// ---- founding

#[tokio::test(start_paused = true)]
async fn three_voters_found_one_cluster() {
    let cluster = TestCluster::started(3).await;
    cluster.converge().await;
    let ids: BTreeSet<String> =
        cluster.nodes.values().map(|node| node.image().cluster_id.to_string()).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(ids.first().unwrap().len(), 22);
    let leader = cluster.leader().await;
    let quorum = cluster.node(leader).quorum();
    let directories: BTreeMap<i32, Uuid> =
        quorum.voters.iter().map(|voter| (voter.id.0, voter.directory_id)).collect();
    let held: BTreeMap<i32, Uuid> =
        cluster.nodes.iter().map(|(id, node)| (*id, node.directory_id())).collect();
    assert_eq!(directories, held);
    assert_eq!(quorum.addresses.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_request_works_on_every_node_and_is_visible_there() {
    let cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    for (id, node) in &cluster.nodes {
        create(node, &format!("by-{id}")).await;
    }
    cluster.converge().await;
    beating.values().for_each(|task| task.abort());
}

#[tokio::test(start_paused = true)]
async fn voters_that_are_configured_otherwise_are_not_counted() {
    let mut cluster = TestCluster::new(3);
    let mut wrong = cluster.config(3);
    wrong.voters = vec![(BrokerId(3), address(3)), (BrokerId(4), address(4)), (BrokerId(5), address(5))];
    let wrong = tokio::spawn(cluster.starting(wrong));
    cluster.start_all([1, 2]).await;
    let _beating = serve_as_brokers(&cluster).await;
    create(cluster.node(1), "made-by-two").await;
    wrong.abort();

    // When too few agree, everybody hears why.
    let mut cluster = TestCluster::new(3);
    let configs: Vec<MetadataConfig> = (1..=3)
        .map(|id| {
            let mut config = cluster.config(id);
            config.voters.push((BrokerId(10 + id), address(10 + id)));
            config
        })
        .collect();
    let starts: Vec<_> = configs.into_iter().map(|config| cluster.starting(config)).collect();
    for started in within(30, join_all(starts)).await {
        let error = started.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("controller.quorum.voters is 1@node-1"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_comes_later_joins_what_the_others_founded() {
    let mut cluster = TestCluster::new(3);
    cluster.start_all([1, 3]).await;
    let _beating = serve_as_brokers(&cluster).await;
    create(cluster.node(1), "before").await;
    cluster.start(2).await;
    assert!(cluster.node(2).image().topic_by_name("before").is_some(), "complete when started");
    let voters = cluster.node(cluster.leader().await).quorum().voters;
    let known = voters.iter().find(|voter| voter.id.0 == 2).unwrap();
    assert_eq!(known.directory_id, cluster.node(2).directory_id());
    // From now on it counts.
    cluster.kill(3).await;
    cluster.leader().await;
    create(cluster.node(2), "after").await;
}

// ---- failover

#[tokio::test(start_paused = true)]
async fn the_death_of_the_active_controller_is_over_in_two_seconds() {
    let mut cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    for round in 0..5 {
        let dead = cluster.leader().await;
        cluster.converge().await;
        beating[&dead].abort();
        cluster.kill(dead).await;
        let begin = tokio::time::Instant::now();
        let survivor = cluster.others(dead)[0];
        // Asked while nobody leads.
        create(cluster.node(survivor), &format!("round-{round}")).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        let others = cluster.others(dead);
        cluster.leader_other_than(Some(dead), &others).await;
        // Its broker died with it, and the new controller finds out before that one's session ends.
        eventually(5, || (!is_unfenced(&cluster, dead)).then_some(())).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        cluster.start(dead).await;
        cluster.converge().await;
        assert_eq!(cluster.node(dead).image().topics.len(), round + 1);
        cluster.converge().await;
        let id = dead;
        if beating[&id].is_finished() || round < 4 {
            let epoch = register(cluster.node(id), id).await;
            tokio::spawn(beat(cluster.node(id).clone(), id, epoch));
        }
    }
}

/// Nobody waits for a timeout when nobody listens where the leader was; who only hears nothing does.
#[tokio::test(start_paused = true)]
async fn the_end_of_the_active_controller_is_found_out_and_its_silence_waited_out() {
    let timeout = MetadataConfig::new(BrokerId(1), "").election_timeout;
    for round in 0..5 {
        let mut cluster = TestCluster::started(5).await;
        let _beating = serve_as_brokers(&cluster).await;
        let dead = cluster.leader().await;
        let others = cluster.others(dead);
        tokio::time::sleep(Duration::from_millis(17 * round)).await;
        cluster.kill(dead).await;
        let begin = tokio::time::Instant::now();
        let second = cluster.leader_other_than(Some(dead), &others).await;
        eventually(5, || (!is_unfenced(&cluster, dead)).then_some(())).await;
        assert!(begin.elapsed() < timeout * 2 / 5, "{:?}", begin.elapsed());

        // Its connections are cut, and one of its voters is told that it refuses: no majority believes that.
        let others = cluster.others(second);
        let epoch = cluster.node(second).raft.metrics().borrow_watched().current_term;
        cluster.wires.refuse(&address(others[0]), &address(second));
        cluster.node(others[0]).doubt(BrokerId(second));
        tokio::time::sleep(timeout / 2).await;
        assert_eq!(cluster.leader().await, second);
        assert_eq!(cluster.node(second).raft.metrics().borrow_watched().current_term, epoch);
        cluster.wires.isolate(&address(second), 1..=5);
        let begin = tokio::time::Instant::now();
        cluster.leader_other_than(Some(second), &others).await;
        assert!(begin.elapsed() > timeout / 2, "{:?}", begin.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_doubt_ends_when_the_peer_answers_is_fenced_or_stays_silent() {
    let mut cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    let (asked, peer) = (cluster.node(others[0]).clone(), BrokerId(others[1]));
    asked.doubt(peer);
    assert!(asked.is_doubted(peer));
    tokio::time::sleep(10 * HOP).await;
    assert!(!asked.is_doubted(peer), "it answered");

    cluster.wires.cut(&address(others[0]), &address(others[1]));
    asked.doubt(peer);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(asked.is_doubted(peer));
    tokio::time::sleep(Duration::from_millis(501)).await;
    assert!(!asked.is_doubted(peer), "nobody knows");
    cluster.wires.heal();
    // Asked now and then, so that the next doubt counts again.
    tokio::time::sleep(Duration::from_secs(2)).await;

    beating[&others[1]].abort();
    cluster.kill(others[1]).await;
    asked.doubt(peer);
    assert!(asked.is_doubted(peer));
    eventually(5, || asked.image().broker(peer).is_some_and(|broker| broker.fenced).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!asked.is_doubted(peer), "it is fenced");
}

/// A voter that wrongly takes a living leader for dead does not bring it down, alone or with a majority that hears it.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_heard_is_not_replaced_because_its_address_refuses() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let epoch = cluster.node(leader).raft.metrics().borrow_watched().current_term;
    for other in cluster.others(leader) {
        cluster.wires.refuse(&address(other), &address(leader));
        cluster.node(other).doubt(BrokerId(leader));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(cluster.leader().await, leader);
    assert_eq!(cluster.node(leader).raft.metrics().borrow_watched().current_term, epoch);
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_stops_hands_over_without_a_timeout() {
    let mut cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    let old = cluster.leader().await;
    let begin = tokio::time::Instant::now();
    beating[&old].abort();
    cluster.stop(old).await;
    let others = cluster.others(old);
    cluster.leader_other_than(Some(old), &others).await;
    create(cluster.node(others[0]), "at-once").await;
    assert!(begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_last_controller_waits_for_nobody_when_it_stops() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let last = cluster.leader().await;
    let quorum_ended = |node: &Metadata| {
        let node = node.clone();
        tokio::spawn(async move { node.quorum_ended().await })
    };
    let ended = quorum_ended(cluster.node(last));
    let others = cluster.others(last);
    cluster.kill(others[0]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!ended.is_finished(), "two of three are a quorum");
    cluster.kill(others[1]).await;
    let begin = tokio::time::Instant::now();
    within(2, ended).await.unwrap();
    cluster.stop(last).await;
    assert!(begin.elapsed() < HAND_OVER_MAX, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_makes_nothing_happen() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    cluster.wires.isolate(&address(old), 1..=3);
    let lost = tokio::spawn({
        let node = cluster.node(old).clone();
        async move { node.submit(topic("lost")).await }
    });
    let new = cluster.leader_other_than(Some(old), &others).await;
    create(cluster.node(others[0]), "kept").await;
    cluster.wires.heal();
    cluster.converge().await;
    assert_eq!(cluster.leader().await, new);
    let answer = within(60, lost).await.unwrap();
    let made = cluster.node(new).image().topic_by_name("lost").is_some();
    match answer {
        // It was tried again with the new leader, before it had any effect.
        Ok(_) => assert!(made),
        Err(SubmitError::OutcomeUnknown) => {}
        Err(error) => panic!("{error}"),
    }
    assert!(cluster.node(old).image().topic_by_name("kept").is_some());
}

#[tokio::test(start_paused = true)]
async fn who_passes_a_read_barrier_sees_everything_and_who_is_cut_off_does_not_pass() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    cluster.wires.isolate(&address(old), 1..=3);
    let new = cluster.leader_other_than(Some(old), &others).await;
    create(cluster.node(new), "topic").await;
    // It may still believe that it leads.
    let passed = cluster.node(old).read_barrier(Duration::from_secs(2)).await;
    assert!(passed.is_err() && cluster.node(old).image().topic_by_name("topic").is_none());

    for id in others {
        let passed = join_all((0..10).map(|_| cluster.node(id).read_barrier(Duration::from_secs(2)))).await;
        assert!(passed.iter().all(Result::is_ok), "{passed:?}");
        assert!(cluster.node(id).image().topic_by_name("topic").is_some());
    }
    cluster.wires.heal();
    cluster.node(old).read_barrier(Duration::from_secs(10)).await.unwrap();
    assert!(cluster.node(old).image().topic_by_name("topic").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_broker_is_fenced_is_replaced_when_it_is_cut_off() {
    let cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    let old = cluster.leader().await;
    beating[&old].abort();
    let others = cluster.others(old);
    let image = || cluster.node(others[0]).image();
    eventually(20, || image().broker(BrokerId(old))?.fenced.then_some(())).await;
    // Its silence makes the others doubt it again and again, and a fenced broker is not asked: time must go on nevertheless.
    cluster.wires.isolate(&address(old), 1..=3);
    cluster.leader_other_than(Some(old), &others).await;
}

#[tokio::test(start_paused = true)]
async fn a_minority_serves_nobody() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    for other in cluster.others(leader) {
        cluster.kill(other).await;
    }
    let answer = within(120, cluster.node(leader).submit(topic("never"))).await;
    assert!(matches!(answer, Err(SubmitError::NoController(_) | SubmitError::OutcomeUnknown)), "{answer:?}");
    cluster.start_all((1..=3).filter(|id| *id != leader)).await;
    cluster.leader().await;
    create(cluster.node(leader), "again").await;
}

#[tokio::test(start_paused = true)]
async fn all_nodes_restart_at_once() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    create(cluster.node(2), "kept").await;
    let image = cluster.node(cluster.leader().await).image();
    for id in 1..=3 {
        cluster.kill(id).await;
    }
    let begin = tokio::time::Instant::now();
    cluster.start_all(1..=3).await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    cluster.converge().await;
    let after = cluster.node(1).image();
    assert_eq!((&after.cluster_id, &after.topics), (&image.cluster_id, &image.topics));
}

// ---- observers and snapshots

#[tokio::test(start_paused = true)]
async fn an_observer_follows_forwards_and_comes_back() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    create(cluster.node(1), "before").await;
    cluster.start(7).await;
    assert!(cluster.node(7).image().topic_by_name("before").is_some(), "complete when started");
    create(cluster.node(7), "by-the-observer").await;
    assert_eq!(cluster.node(7).quorum().observers.iter().map(|node| node.id.0).collect::<Vec<_>>(), [7]);
    cluster.kill(7).await;
    create(cluster.node(1), "meanwhile").await;
    cluster.start(7).await;
    assert!(cluster.node(7).image().topic_by_name("meanwhile").is_some());
    // Observers do not vote: two of three voters are needed, whatever the observer does.
    let leader = cluster.leader().await;
    cluster.kill(leader).await;
    create(cluster.node(7), "under-another").await;
    let info = within(30, cluster.node(7).describe_quorum()).await.unwrap();
    assert_eq!(info.leader, cluster.node(7).controller_id());
    let own = info.observers.iter().find(|node| node.id.0 == 7).unwrap();
    assert!(own.log_end_offset > 0 && own.silent_ms.is_some() && own.behind_ms.is_some(), "{own:?}");
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

#[tokio::test(start_paused = true)]
async fn a_node_that_lags_gets_a_snapshot() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let behind = cluster.others(leader)[0];
    cluster.kill(behind).await;
    make_snapshot(&cluster, leader).await;
    // The one that comes back, and one that never was there.
    cluster.start(behind).await;
    cluster.start(9).await;
    cluster.converge().await;
    for id in [behind, 9] {
        let metrics = cluster.node(id).raft.metrics().borrow_watched().clone();
        assert!(metrics.snapshot.is_some(), "node {id} got its metadata by entries");
        assert_eq!(cluster.node(id).image().topics.len(), 20);
    }
    create(cluster.node(9), "after").await;
    cluster.kill(behind).await;
    cluster.start(behind).await;
    cluster.converge().await;
}

// ---- who is let in

#[tokio::test(start_paused = true)]
async fn a_voter_without_its_directory_is_refused_until_it_is_replaced() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    create(cluster.node(1), "kept").await;
    let lost = cluster.others(cluster.leader().await)[0];
    let directory = cluster.node(lost).directory_id();
    cluster.kill(lost).await;
    cluster.stores.remove(&lost);
    let config = cluster.config(lost);
    let refused = within(60, cluster.starting(config)).await.err();
    let Some(StartError::NotAdmitted(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("remove the voter") && reason.contains(&format!("node.id {lost}")), "{reason}");

    let other = *cluster.nodes.keys().next().unwrap();
    let wrong = cluster.node(other).remove_voter(BrokerId(lost), Uuid::from_u128(1)).await;
    assert!(matches!(wrong, Err(VoterChangeError::VoterNotFound(_))), "{wrong:?}");
    within(60, cluster.node(other).remove_voter(BrokerId(lost), directory)).await.unwrap();
    cluster.start(lost).await;
    let again = cluster.node(lost).directory_id();
    assert_ne!(again, directory);
    within(60, cluster.node(lost).add_voter(BrokerId(lost), again, &address(lost))).await.unwrap();
    let twice = cluster.node(other).add_voter(BrokerId(lost), again, &address(lost)).await;
    assert_eq!(twice, Err(VoterChangeError::DuplicateVoter(BrokerId(lost))));
    // It counts: one of the others may go.
    cluster.kill(other).await;
    create(cluster.node(lost), "counted").await;
    assert!(cluster.node(lost).image().topic_by_name("kept").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_controller_that_is_gone_for_good_is_forgotten() {
    let mut cluster = TestCluster::started(3).await;
    let leader = cluster.leader().await;
    let [gone, other] = cluster.others(leader)[..] else { panic!("three nodes") };
    let directory = cluster.node(gone).directory_id();
    let voting = cluster.node(other).unregister_controller(BrokerId(gone)).await;
    assert!(matches!(voting, Err(VoterChangeError::InvalidRequest(_))), "{voting:?}");
    within(60, cluster.node(other).remove_voter(BrokerId(gone), directory)).await.unwrap();
    let follows = |cluster: &TestCluster, id: i32| {
        cluster.node(leader).quorum().observers.iter().any(|observer| observer.id == BrokerId(id))
    };
    eventually(30, || follows(&cluster, gone).then_some(())).await;
    cluster.kill(gone).await;
    within(60, cluster.node(other).unregister_controller(BrokerId(gone))).await.unwrap();
    eventually(30, || (!follows(&cluster, gone)).then_some(())).await;
    let again = cluster.node(other).unregister_controller(BrokerId(gone)).await;
    assert!(matches!(again, Err(VoterChangeError::VoterNotFound(_))), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn an_old_copy_of_a_directory_is_refused() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let restored = cluster.others(leader)[0];
    let backup = cluster.store(restored).copy();
    for number in 0..5 {
        create(cluster.node(leader), &format!("topic-{number}")).await;
    }
    cluster.converge().await;
    cluster.kill(restored).await;
    cluster.stores.insert(restored, Arc::new(backup));
    let config = cluster.config(restored);
    let refused = within(60, cluster.starting(config)).await.err();
    assert!(matches!(refused, Some(StartError::OldCopy { .. })), "{refused:?}");
    create(cluster.node(leader), "goes-on").await;
}

/// As a machine that is cloned has one: everything in it is right, but it is not the only one.
#[tokio::test(start_paused = true)]
async fn a_copied_directory_is_refused_while_its_owner_lives() {
    for id in [2, 7] {
        let mut cluster = TestCluster::started(3).await;
        let _beating = serve_as_brokers(&cluster).await;
        cluster.start(7).await;
        cluster.converge().await;
        let copied = MetadataConfig {
            peer_address: "node-19".into(),
            transport: Arc::new(Wire { wires: cluster.wires.clone(), from: "node-19".into() }),
            ..cluster.config(id)
        };
        let owner = cluster.store(id);
        for config in [&copied, &MetadataConfig { peer_address: address(id), ..copied.clone() }] {
            let copy = Arc::new(owner.copy());
            let refused = within(60, Metadata::start_in_memory(config.clone(), copy)).await.err();
            let Some(error @ StartError::Copied { .. }) = refused else { panic!("{refused:?}") };
            assert!(
                error.to_string().contains(&format!("another node runs with node.id {id}, at node-{id}"))
            );
        }

        // When its owner has ended, nobody can tell it from a node that moved.
        let copy = Arc::new(owner.copy());
        cluster.kill(id).await;
        cluster.stores.insert(id, copy);
        let moved = within(60, cluster.starting(copied)).await.unwrap();
        create(&moved, "from-elsewhere").await;
        // And then it is the owner that comes second.
        cluster.stores.insert(id, owner);
        let config = cluster.config(id);
        let refused = within(60, cluster.starting(config)).await.err();
        assert!(
            matches!(refused, Some(StartError::Copied { .. })),
            "node {id}: what the quorum says counts, not the own disk: {refused:?}"
        );
        moved.shutdown().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_id_is_one_node() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    cluster.start(7).await;
    let twin = |id: i32, cluster: &TestCluster| MetadataConfig {
        peer_address: "node-19".into(),
        transport: Arc::new(Wire { wires: cluster.wires.clone(), from: "node-19".into() }),
        ..cluster.config(id)
    };
    for (id, text) in [(7, "another node runs with node.id 7"), (1, "two nodes have node.id 1")] {
        let config = MetadataConfig { voters: cluster.voters.clone(), ..twin(id, &cluster) };
        let held = cluster.stores.remove(&id);
        let refused = within(60, cluster.starting(config)).await.err();
        cluster.stores.insert(id, held.unwrap());
        let Some(StartError::NotAdmitted(reason)) = refused else { panic!("{refused:?}") };
        assert!(reason.contains(text), "{reason}");
    }
    // A node that moved keeps its place: its directory says who it is.
    cluster.kill(7).await;
    let config = twin(7, &cluster);
    let moved = within(60, cluster.starting(config)).await.unwrap();
    create(&moved, "from-elsewhere").await;
    assert_eq!(moved.quorum().addresses[&BrokerId(7)], "node-19");
    // An observer that lost its directory is taken as a new one, once the old one is gone.
    moved.shutdown().await;
    cluster.wires.listening.lock().remove("node-19");
    cluster.stores.remove(&7);
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.start(7).await;
    create(cluster.node(7), "anew").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_cluster_is_refused() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let mut config = cluster.config(7);
    config.cluster_id = Some(crate::ClusterId("another".into()));
    let refused = within(20, cluster.starting(config)).await.err();
    assert!(matches!(refused, Some(StartError::PeersOfOtherCluster { .. })), "{refused:?}");
    assert!(cluster.node(1).quorum().observers.is_empty());

    // One that was all of its own cluster, and would go on as that.
    let alone = MetadataConfig { voters: Vec::new(), ..cluster.config(8) };
    let alone = MetadataConfig { role: QuorumRole::Voter, ..alone };
    within(20, cluster.starting(alone.clone())).await.unwrap().shutdown().await;
    let voters = [cluster.voters.clone(), vec![(BrokerId(8), address(8))]].concat();
    let refused = within(20, cluster.starting(MetadataConfig { voters, ..alone })).await.err();
    assert!(matches!(refused, Some(StartError::PeersOfOtherCluster { .. })), "{refused:?}");
    let config = cluster.config(8);
    let refused = within(20, cluster.starting(config)).await.err();
    assert!(
        matches!(refused, Some(StartError::InvalidConfig(_))),
        "a voter that is to be a broker only: {refused:?}"
    );

    // One that holds another cluster's data and comes by mistake: nobody listens to it.
    let leader = cluster.leader().await;
    let alone = MetadataConfig { voters: vec![(BrokerId(1), address(1))], ..cluster.config(1) };
    let other = TestCluster::new(1);
    let alone = MetadataConfig {
        transport: Arc::new(Wire { wires: other.wires.clone(), from: address(1) }),
        ..alone
    };
    let store = Arc::new(MemoryStore::new());
    let stranger = Metadata::start_in_memory(alone, store).await.unwrap();
    let member = cluster.node(leader).links.member(leader as u64).unwrap();
    let call = stranger.links.envelope_for_test(&links::Peer::member(leader as u64, &member));
    let service = cluster.wires.listening.lock()[&address(leader)].clone();
    let reply = service.handle(call).await.unwrap();
    let reply: messages::Envelope<messages::Reply> = encoding::decode(&reply).unwrap();
    assert!(matches!(reply.body, Err(messages::Denied::OtherCluster(_))), "{:?}", reply.body);
    stranger.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn who_holds_partitions_and_no_metadata_founds_nothing() {
    let mut cluster = TestCluster::new(3);
    let alone = MetadataConfig { voters: Vec::new(), holds_partitions: true, ..cluster.config(1) };
    let refused = within(20, cluster.starting(alone)).await.err();
    assert!(matches!(refused, Some(StartError::Vanished { .. })), "{refused:?}");

    // Two of three are a majority that could found; with what they hold they wait for the third.
    let two = [1, 2].map(|id| MetadataConfig { holds_partitions: true, ..cluster.config(id) });
    let two = two.map(|config| tokio::spawn(cluster.starting(config)));
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(two.iter().all(|starting| !starting.is_finished()));
    two.iter().for_each(|starting| starting.abort());
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_refused_and_forgotten() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let service = cluster.wires.listening.lock()[&address(1)].clone();
    let whole = cluster.node(2).links.envelope_for_test(&links::Peer::at("node-1"));
    assert!(service.handle(whole.clone()).await.is_ok());
    for length in 0..whole.len() {
        assert!(service.handle(whole.slice(..length)).await.is_err(), "{length} bytes");
    }
    let mut bits = 1u32;
    for _ in 0..20_000 {
        let mut damaged = whole.to_vec();
        for _ in 0..3 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let place = (bits >> 8) as usize % damaged.len();
            damaged[place] = bits as u8;
        }
        let _ = service.handle(damaged.into()).await;
    }
    create(cluster.node(1), "alive").await;
}

/// A peer that speaks the language and lies about numbers: it is refused with a reason before anything counts on from them.
#[tokio::test(start_paused = true)]
async fn numbers_that_cannot_be_are_refused() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let liar = cluster.node(leader);
    let target = cluster.others(leader)[0];
    let member = liar.links.member(target as u64).unwrap();
    let peer = links::Peer::member(target as u64, &member);
    let vote = {
        let metrics = liar.raft.metrics();
        StoredVote::from(&metrics.borrow_watched().vote)
    };
    let id = |offset| StoredLogId { epoch: 1, offset };
    let entry = |offset| {
        let entry = StoredEntry { epoch: 1, offset, payload: StoredPayload::Blank };
        Bytes::from(encoding::encode(&entry).unwrap())
    };
    let append = |previous, offsets: &[u64], committed| {
        let entries = offsets.iter().map(|offset| entry(*offset)).collect();
        Call::Append(Append { vote, previous, entries, committed })
    };
    let piece = |length, offset, size| {
        Call::Snapshot(SnapshotPiece { vote, length, crc: 0, offset, bytes: Bytes::from(vec![0; size]) })
    };
    let ballot = |epoch, last| Ballot { vote: StoredVote { epoch, ..vote }, last, leadership_transfer: true };
    let lies = [
        append(Some(id(u64::MAX)), &[u64::MAX], None),
        append(Some(id(u64::MAX - 1)), &[u64::MAX, 0], None),
        append(Some(id(i64::MAX as u64)), &[1 << 63], None),
        append(None, &[], Some(id(u64::MAX))),
        append(None, &[1], None),
        piece(100, u64::MAX, 100),
        piece(100, u64::MAX - 99, 100),
        piece(100, 1, 100),
        piece(u64::MAX, 0, 1),
        Call::Vote(ballot(u64::MAX, None)),
        Call::PreVote(ballot(1, Some(id(u64::MAX)))),
        Call::TransferLeader(TransferLeader {
            vote: StoredVote { epoch: u64::MAX, ..vote },
            to: target as u64,
            last: None,
        }),
    ];
    for lie in lies {
        let told = format!("{lie:?}");
        let answer = liar.links.call(&peer, Lane::Raft, lie, Duration::from_secs(1)).await;
        assert!(matches!(answer, Err(CallError::Denied(Denied::NotReady(_)))), "{told}: {answer:?}");
    }
    create(cluster.node(target), "alive").await;
    assert_eq!(cluster.leader().await, leader);
}

// ---- sessions

#[tokio::test(start_paused = true)]
async fn a_broker_that_died_is_fenced_at_once_and_a_silent_one_after_its_session() {
    let mut cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let others = cluster.others(leader);
    beating[&others[0]].abort();
    let begin = tokio::time::Instant::now();
    cluster.kill(others[0]).await;
    eventually(10, || (!is_unfenced(&cluster, others[0])).then_some(())).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    // Its next process is taken at once, although nobody has told that the former one is gone.
    cluster.start(others[0]).await;
    let begin = tokio::time::Instant::now();
    let epoch = register(cluster.node(others[0]), others[0]).await;
    let beating_again = tokio::spawn(beat(cluster.node(others[0]).clone(), others[0], epoch));
    eventually(10, || is_unfenced(&cluster, others[0]).then_some(())).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());

    let begin = tokio::time::Instant::now();
    cluster.wires.isolate(&address(others[1]), 1..=3);
    eventually(10, || (!is_unfenced(&cluster, others[1])).then_some(())).await;
    let took = begin.elapsed();
    assert!((2_500..4_500).contains(&took.as_millis()), "{took:?}");
    cluster.wires.heal();
    eventually(10, || is_unfenced(&cluster, others[1]).then_some(())).await;

    // It speaks, but does not hear: what it would be given it would never know of.
    cluster.wires.cut(&address(leader), &address(others[1]));
    eventually(10, || (!is_unfenced(&cluster, others[1])).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!is_unfenced(&cluster, others[1]), "it stays fenced");
    cluster.wires.heal();
    eventually(20, || is_unfenced(&cluster, others[1]).then_some(())).await;
    beating_again.abort();
}

#[tokio::test(start_paused = true)]
async fn the_broker_of_a_controller_that_fell_silent_is_fenced_a_session_after_its_last_word() {
    let cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let old = cluster.leader().await;
    let others = cluster.others(old);
    let begin = tokio::time::Instant::now();
    cluster.wires.isolate(&address(old), 1..=3);
    let new = cluster.leader_other_than(Some(old), &others).await;
    let image_of = |id: i32| cluster.node(id).image();
    eventually(10, || image_of(new).broker(BrokerId(old)).is_some_and(|broker| broker.fenced).then_some(()))
        .await;
    let took = begin.elapsed();
    assert!((2_500..4_000).contains(&took.as_millis()), "{took:?}");
    // The old one hears nobody either, but that is not for it to judge.
    tokio::time::sleep(Duration::from_secs(5)).await;
    for id in others {
        assert!(!image_of(old).broker(BrokerId(id)).unwrap().fenced);
        assert!(!image_of(new).broker(BrokerId(id)).unwrap().fenced);
    }
}

// ---- voters come and go

#[tokio::test(start_paused = true)]
async fn a_quorum_grows_from_one_to_three_and_changes_all_its_voters_under_load() {
    let mut cluster = TestCluster::new(1);
    cluster.start(1).await;
    let _beating = serve_as_brokers(&cluster).await;
    let controller = |id: i32, cluster: &TestCluster| MetadataConfig {
        role: QuorumRole::Voter,
        voters: vec![],
        bootstrap_servers: vec![address(1), address(2), address(3), address(id)],
        ..cluster.config(id)
    };
    let load = |node: Metadata| {
        tokio::spawn(async move {
            let mut made: Vec<String> = Vec::new();
            for number in 0.. {
                let name = format!("load-{number}");
                match node.submit(topic(&name)).await {
                    Ok(answer) => {
                        answer[0].result.as_ref().unwrap_or_else(|error| panic!("{name}: {error}"));
                        made.push(name);
                    }
                    Err(SubmitError::OutcomeUnknown) => {}
                    Err(SubmitError::Stopped(_)) => return made,
                    Err(error) => panic!("{name}: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            made
        })
    };
    for id in 2..=5 {
        let config = controller(id, &cluster);
        let started = within(60, cluster.starting(config)).await.unwrap();
        cluster.nodes.insert(id, started);
    }
    let _beating_too = serve_as_brokers(&cluster).await;
    let loading = load(cluster.node(5).clone());
    for id in 2..=5 {
        let directory = cluster.node(id).directory_id();
        within(60, cluster.node(3).add_voter(BrokerId(id), directory, &address(id))).await.unwrap();
    }
    for id in [1, 2] {
        let directory = cluster.node(id).directory_id();
        within(60, async {
            while let Err(error) = cluster.node(3).remove_voter(BrokerId(id), directory).await {
                assert!(
                    matches!(error, VoterChangeError::Submit(_) | VoterChangeError::TimedOut(_)),
                    "{error}"
                );
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    }
    eventually(30, || {
        let voters: Vec<i32> = cluster.node(5).quorum().voters.iter().map(|voter| voter.id.0).collect();
        (voters == [3, 4, 5]).then_some(())
    })
    .await;
    cluster.kill(1).await;
    cluster.kill(2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    create(cluster.node(4), "at-the-end").await;
    cluster.stop(3).await;
    create(cluster.node(4), "with-two").await;
    cluster.stop(5).await;
    let made = within(60, loading).await.unwrap();
    assert!(made.len() > 50, "{}", made.len());
    for id in [3, 5] {
        let config = controller(id, &cluster);
        let started = within(60, cluster.starting(config)).await.unwrap();
        cluster.nodes.insert(id, started);
    }
    cluster.converge().await;
    let image = cluster.node(4).image();
    for name in made {
        assert!(image.topic_by_name(&name).is_some(), "{name} is lost");
    }
}

// ---- full disks

#[tokio::test(start_paused = true)]
async fn a_follower_without_room_lags_and_neither_votes_nor_stops() {
    let mut cluster = TestCluster::started(3).await;
    let beating = serve_as_brokers(&cluster).await;
    cluster.converge().await;
    let leader = cluster.leader().await;
    let full = cluster.others(leader)[0];
    cluster.stores[&full].limit_room(Some(0));
    let held = cluster.stores[&full].bounds().unwrap();
    create(cluster.node(leader), "without-it").await;
    assert_eq!(cluster.stores[&full].bounds().unwrap(), held);
    // It hears its leader and stays a part of the cluster: its broker is not fenced, and what it asks for is done.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(is_unfenced(&cluster, full));
    assert_eq!(cluster.leader().await, leader);
    let asked = cluster.node(full).submit(topic("asked-by-it"));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), asked).await.is_err(),
        "it cannot see what it asked for"
    );
    assert!(cluster.node(leader).image().topic_by_name("asked-by-it").is_some());

    // Its vote would be a write too: the rest has no majority without it, and it makes none.
    let vote = cluster.stores[&full].cell(Cell::Vote).unwrap();
    beating[&leader].abort();
    cluster.kill(leader).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(cluster.nodes.values().all(|node| !node.is_controller()));
    assert_eq!(cluster.stores[&full].cell(Cell::Vote).unwrap(), vote);

    cluster.stores[&full].limit_room(None);
    let others = cluster.others(leader);
    cluster.leader_other_than(Some(leader), &others).await;
    create(cluster.node(full), "with-it").await;
    cluster.converge().await;
    assert!(cluster.node(full).image().topic_by_name("without-it").is_some());
}

#[tokio::test(start_paused = true)]
async fn a_follower_without_room_takes_no_snapshot_until_there_is() {
    let mut cluster = TestCluster::started(3).await;
    let _beating = serve_as_brokers(&cluster).await;
    let leader = cluster.leader().await;
    let full = cluster.others(leader)[0];
    cluster.kill(full).await;
    make_snapshot(&cluster, leader).await;
    let store = cluster.store(full);
    store.limit_room(Some(0));
    let config = cluster.config(full);
    let starting = tokio::spawn(cluster.starting(config));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!starting.is_finished());
    assert_eq!(store.snapshot().unwrap(), None);
    store.limit_room(None);
    let node = within(60, starting).await.unwrap().unwrap();
    assert_eq!(node.image(), cluster.node(leader).image());
    cluster.nodes.insert(full, node);
}
