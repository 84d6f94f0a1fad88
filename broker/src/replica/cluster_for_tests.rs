//! Brokers that replicate among each other in one process, for tests: real logs and handlers, one metadata for all, and links that
//! carry encoded requests and answers where there would be sockets.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use kafka_protocol::messages::{FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse};
use kafka_protocol::protocol::{Decodable, Encodable, Request};
use ottla_batch::{
    AppendOrigin, BatchBuilder, BatchOptions, CheckedBatches, LeaderEpoch, Offset, Record, TimestampMs,
    check_produced,
};
use ottla_clients::error::ClientError;
use ottla_raft::requests::{
    AlterPartitionReassignments, BrokerHeartbeat, ConfigOperation, CreateTopics, IncrementalAlterConfigs,
    NewTopic, ReassignmentItem, RegisterBroker,
};
use ottla_raft::{BrokerEpoch, BrokerId, ConfigResource, Metadata, Partition, features};
use ottla_storage::disk::Disk;
use ottla_storage::logdir::LogDir;
use ottla_storage::tiering::store::ObjectStore;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::links::{Answer, FETCH_VERSION, LIST_OFFSETS_VERSION, LeaderLink, LeaderLinks};
use super::tier_tests::TestStore;
use super::*;
use crate::api::{Part, Reply, RequestContext, Started, in_test, table};
use crate::config::NodeConfig;
use crate::group::{GroupCoordinator, ReplicasLog};
use crate::metrics::Metrics;
use crate::node::{self, Broker, Node};
use crate::tier::Tier;

pub const TOPIC: &str = "topic";
/// Of waits that end in a moment.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Who can reach whom.
#[derive(Default)]
struct Net {
    brokers: Mutex<HashMap<String, Arc<Broker>>>,
    /// (from, to)
    cut: Mutex<HashSet<(i32, i32)>>,
}

struct Links {
    net: Arc<Net>,
    from: i32,
}

struct Link {
    net: Arc<Net>,
    from: i32,
    to: i32,
    broker: Arc<Broker>,
}

fn lost(address: &str) -> ClientError {
    ClientError::Disconnected { address: address.to_owned(), reason: "cut".to_owned() }
}

impl LeaderLinks for Links {
    fn connect(&self, address: String) -> BoxFuture<'_, Result<Arc<dyn LeaderLink>, ClientError>> {
        let broker = self.net.brokers.lock().get(&address).cloned();
        async move {
            let broker = broker.ok_or_else(|| lost(&address))?;
            let link =
                Link { net: Arc::clone(&self.net), from: self.from, to: broker.config.node_id, broker };
            match link.is_cut() {
                true => Err(lost(&address)),
                false => Ok(Arc::new(link) as Arc<dyn LeaderLink>),
            }
        }
        .boxed()
    }
}

fn joined(reply: Reply) -> Bytes {
    let mut joined = BytesMut::new();
    for part in reply.parts {
        match part {
            Part::Bytes(bytes) => joined.extend_from_slice(&bytes),
            Part::Slice(slice) => joined.extend_from_slice(&slice.read().unwrap()),
        }
    }
    joined.freeze()
}

impl Link {
    fn is_cut(&self) -> bool {
        self.net.cut.lock().contains(&(self.from, self.to))
    }
}

impl LeaderLink for Link {
    fn list_offsets(
        &self,
        request: ListOffsetsRequest,
    ) -> BoxFuture<'_, Result<ListOffsetsResponse, ClientError>> {
        async move {
            if self.is_cut() {
                return Err(lost("cut"));
            }
            let cx = RequestContext::in_test(&self.broker, LIST_OFFSETS_VERSION, None);
            Ok(in_test::call(cx, &request).await)
        }
        .boxed()
    }

    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Answer, ClientError>> {
        async move {
            if self.is_cut() {
                return Err(lost("cut"));
            }
            let cx = RequestContext::in_test(&self.broker, FETCH_VERSION, None);
            let mut body = BytesMut::new();
            request.encode(&mut body, FETCH_VERSION).unwrap();
            let started = table::row(FetchRequest::KEY).unwrap().start(cx, body.freeze()).unwrap();
            let (Started::Serial(answer) | Started::Pipelined(answer)) = started else { panic!("no answer") };
            // As on a socket, the answer is made whether or not the follower looks at it now.
            let answer = tokio::spawn(answer);
            let (net, ends) = (Arc::clone(&self.net), (self.from, self.to));
            let answer = async move {
                let mut answer = answer;
                let reply = loop {
                    tokio::select! {
                        reply = &mut answer => break reply.unwrap().unwrap(),
                        () = tokio::time::sleep(Duration::from_millis(5)) => {}
                    }
                    if net.cut.lock().contains(&ends) {
                        answer.abort();
                        return Err(lost("cut"));
                    }
                };
                if net.cut.lock().contains(&ends) {
                    return Err(lost("cut"));
                }
                Ok(FetchResponse::decode(&mut joined(reply), FETCH_VERSION).unwrap())
            };
            Ok(answer.boxed())
        }
        .boxed()
    }
}

/// A controller and some brokers.
pub struct Cluster {
    pub node: Node,
    net: Arc<Net>,
    pub brokers: BTreeMap<i32, Member>,
    /// Of the tier of all brokers, if they have one.
    pub store: Option<Arc<TestStore>>,
    _dir: tempfile::TempDir,
}

pub struct Member {
    pub broker: Arc<Broker>,
    heart: Arc<Heart>,
}

/// Keeps a broker alive for the controller.
struct Heart {
    id: BrokerId,
    epoch: BrokerEpoch,
    metadata: Metadata,
    wants_fence: AtomicBool,
}

impl Heart {
    async fn beat(&self) -> bool {
        let beat = BrokerHeartbeat {
            id: self.id,
            epoch: self.epoch,
            metadata_offset: self.metadata.image().last_offset,
            want_fence: self.wants_fence.load(Ordering::SeqCst),
            want_shut_down: false,
            offline_log_dirs: vec![],
        };
        self.metadata.submit(beat).await.is_ok_and(|beaten| beaten.is_ok())
    }
}

impl Cluster {
    pub async fn start(ids: &[i32]) -> Cluster {
        Cluster::start_with(ids, &[], |_| None).await
    }

    /// Brokers with a tier in a directory that all of them reach.
    pub async fn start_tiered(ids: &[i32]) -> Cluster {
        Cluster::start_tiered_with(ids, &[]).await
    }

    pub async fn start_tiered_with(ids: &[i32], overrides: &[(&str, &str)]) -> Cluster {
        let tiered = [
            ("remote.log.storage.system.enable", "true"),
            ("remote.log.manager.task.interval.ms", "10"),
            ("remote.log.manager.task.retry.backoff.ms", "10"),
            ("remote.log.manager.task.retry.backoff.max.ms", "50"),
            ("ottla.tier.delete.grace.ms", "0"),
        ];
        let store = |dir: &std::path::Path| Some(Arc::new(TestStore::open(&dir.join("tier"))));
        Cluster::start_with(ids, &[&tiered, overrides].concat(), store).await
    }

    async fn start_with(
        ids: &[i32],
        overrides: &[(&str, &str)],
        store: impl FnOnce(&std::path::Path) -> Option<Arc<TestStore>>,
    ) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        // Where the others have their tier below a prefix.
        let url = format!("file://{}", dir.path().join("tier/cluster").display());
        let of_node = [overrides, &[("ottla.tier.url", &*url)]].concat();
        let node = node::start(config(1, dir.path(), &of_node)).await.unwrap();
        let store = store(dir.path());
        let mut cluster = Cluster { node, net: Arc::default(), brokers: BTreeMap::new(), store, _dir: dir };
        for id in ids {
            cluster.add(*id, overrides).await;
        }
        cluster
    }

    async fn add(&mut self, id: i32, overrides: &[(&str, &str)]) {
        let metadata = self.node.broker().metadata.clone();
        let config = Arc::new(config(id, self._dir.path(), overrides));
        let cluster_id = metadata.image().cluster_id.to_string();
        let log_dir = LogDir::open(Disk::real(), &config.log_dirs[0], &cluster_id, id).unwrap();
        let endpoint = ottla_raft::Endpoint {
            name: "PLAINTEXT".into(),
            host: format!("broker-{id}").into(),
            port: 9092,
            security_protocol: 0,
        };
        let register = RegisterBroker {
            id: BrokerId(id),
            incarnation: uuid::Uuid::new_v4(),
            endpoints: vec![endpoint],
            rack: Some(format!("rack-{id}").into()),
            features: features::supported(),
            log_dirs: vec![log_dir.directory_id()],
            previous_epoch: None,
        };
        let epoch = metadata.submit(register).await.unwrap().unwrap();
        let metrics = Metrics::new();
        let store = self.store.clone().map(|store| store as Arc<dyn ObjectStore>);
        let tier = store.map(|store| Tier::new(store, "cluster/", &config, &metrics, &Disk::real()));
        let replicas = ReplicaManager::start(ReplicaOptions {
            unusable_dirs: Vec::new(),
            local: BrokerId(id),
            config: Arc::clone(&config),
            log_dirs: vec![log_dir],
            metadata: metadata.clone(),
            broker_epoch: watch::channel(epoch).1,
            metrics: Arc::clone(&metrics),
            topic_settings: config.topic_settings_of(),
            on_fatal: Arc::new(|fatal| panic!("{fatal}")),
            on_dir_failed: Arc::new(|_| {}),
            links: Arc::new(Links { net: Arc::clone(&self.net), from: id }),
            tier: tier.clone(),
        })
        .await
        .unwrap();
        let groups = GroupCoordinator::new(config.group.clone(), ReplicasLog::new(Arc::clone(&replicas)));
        let addresses = BTreeMap::new();
        let broker = Arc::new(Broker { config, metadata, replicas, groups, tier, metrics, addresses });
        self.net.brokers.lock().insert(format!("broker-{id}:9092"), Arc::clone(&broker));
        let metadata = self.node.broker().metadata.clone();
        let heart =
            Arc::new(Heart { id: BrokerId(id), epoch, metadata, wants_fence: AtomicBool::new(false) });
        self.brokers.insert(id, Member { broker, heart: Arc::clone(&heart) });
        self.beat(id, false).await;
        tokio::spawn(async move {
            while heart.beat().await {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
    }

    pub async fn beat(&self, id: i32, want_fence: bool) {
        let heart = &self.brokers[&id].heart;
        heart.wants_fence.store(want_fence, Ordering::SeqCst);
        assert!(heart.beat().await);
        let image = heart.metadata.image();
        assert_eq!(image.broker(BrokerId(id)).unwrap().fenced, want_fence);
    }

    /// Nothing goes between a broker and the others.
    pub fn cut(&self, id: i32, is_cut: bool) {
        let mut cut = self.net.cut.lock();
        for other in self.brokers.keys() {
            for ends in [(id, *other), (*other, id)] {
                if is_cut {
                    cut.insert(ends)
                } else {
                    cut.remove(&ends)
                };
            }
        }
    }

    /// The topic with one partition.
    pub async fn create(&self, replicas: &[i32], configs: &[(&str, &str)]) {
        self.create_partitions(&[replicas], configs).await;
        for id in replicas {
            self.replica_when_there(*id).await;
        }
    }

    pub async fn create_partitions(&self, replicas: &[&[i32]], configs: &[(&str, &str)]) {
        let of = |replicas: &[i32]| replicas.iter().map(|id| BrokerId(*id)).collect();
        let topic = NewTopic {
            name: TOPIC.to_owned(),
            partitions: -1,
            replication_factor: -1,
            assignments: (0..).zip(replicas.iter().map(|replicas| of(replicas))).collect(),
            configs: configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        let request = CreateTopics { topics: vec![topic], validate_only: false };
        let created = self.node.broker().metadata.submit(request).await.unwrap();
        assert!(created[0].result.is_ok(), "{created:?}");
    }

    /// A request to a broker, and its answer.
    pub async fn call<Q: Request>(&self, id: i32, version: i16, request: &Q) -> Q::Response {
        let cx = RequestContext::in_test(&self.brokers[&id].broker, version, None);
        in_test::call(cx, request).await
    }

    /// Lets partitions be moved to other replicas.
    pub async fn reassign(&self, partitions: std::ops::Range<i32>, replicas: &[i32]) {
        let items = partitions.map(|partition| ReassignmentItem {
            topic: TOPIC.to_owned(),
            partition,
            replicas: Some(replicas.iter().map(|id| BrokerId(*id)).collect()),
        });
        let request =
            AlterPartitionReassignments { items: items.collect(), allow_replication_factor_change: true };
        let results = self.node.broker().metadata.submit(request).await.unwrap();
        assert!(results.iter().all(|result| result.result.is_ok()), "{results:?}");
    }

    /// Sets a dynamic config, and returns when all brokers go by it.
    pub async fn set_config(&self, resource: ConfigResource, key: &str, value: &str) {
        let metadata = &self.node.broker().metadata;
        let set = vec![(key.to_owned(), ConfigOperation::Set(value.to_owned()))];
        let request = IncrementalAlterConfigs { resources: vec![(resource, set)], validate_only: false };
        let results = metadata.submit(request).await.unwrap();
        assert!(results[0].result.is_ok(), "{results:?}");
        let offset = metadata.image().last_offset;
        for member in self.brokers.values() {
            member.broker.config.apply(&metadata.image());
            assert!(member.broker.replicas.await_applied(offset, LIMIT).await);
        }
    }

    pub async fn replica_when_there(&self, id: i32) -> Arc<Replica> {
        eventually(&format!("broker {id} opens its replica"), || {
            self.brokers[&id].broker.replicas.get(TOPIC, 0)
        })
        .await
    }

    pub fn replica(&self, id: i32) -> Arc<Replica> {
        self.brokers[&id].broker.replicas.get(TOPIC, 0).unwrap()
    }

    pub fn partition(&self) -> Partition {
        let image = self.node.broker().metadata.image();
        Partition::clone(image.partition(TOPIC, 0).unwrap())
    }

    pub fn leader(&self) -> Arc<Replica> {
        self.replica(self.partition().leader.unwrap().0)
    }

    pub async fn await_in_sync(&self, expected: &[i32]) {
        let expected: HashSet<i32> = expected.iter().copied().collect();
        let deadline = Instant::now() + LIMIT;
        loop {
            let partition = self.partition();
            if partition.isr.iter().map(|id| id.0).collect::<HashSet<i32>>() == expected {
                // The leader reckons with it a moment after the image has it.
                let offset = self.node.broker().metadata.image().last_offset;
                for member in self.brokers.values() {
                    assert!(member.broker.replicas.await_applied(offset, LIMIT).await);
                }
                return;
            }
            if Instant::now() > deadline {
                let leader = self.leader();
                let machine =
                    leader.state.lock().leader.as_ref().map(|leader| format!("{:#?}", leader.in_sync));
                panic!("not in time: {expected:?} in sync\n{partition:#?}\n{}", machine.unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// All hold the same bytes up to the leader's end, and know the same to be committed.
    pub async fn await_equal(&self, ids: &[i32]) {
        eventually("equal logs", || {
            let leader = self.leader();
            let (end, bytes) = (leader.end_offset(), contents(&leader));
            ids.iter()
                .all(|id| {
                    let replica = self.replica(*id);
                    replica.end_offset() == end
                        && replica.high_watermark() == end
                        && contents(&replica) == bytes
                })
                .then_some(())
        })
        .await;
    }
}

fn config(id: i32, dir: &std::path::Path, overrides: &[(&str, &str)]) -> NodeConfig {
    let of_all = [
        ("node.id", id.to_string()),
        ("listeners", "PLAINTEXT://127.0.0.1:0".to_owned()),
        ("log.dirs", dir.join(format!("data-{id}")).display().to_string()),
        ("ottla.metrics.listener", String::new()),
        ("replica.lag.time.max.ms", "1000".to_owned()),
        ("remote.fetch.max.wait.ms", "50".to_owned()),
        ("remote.list.offsets.request.timeout.ms", "50".to_owned()),
        ("replica.selector.class", "org.apache.kafka.common.replica.RackAwareReplicaSelector".to_owned()),
    ];
    let of_all = of_all.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    let overrides = overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    NodeConfig::load(None, &of_all.chain(overrides).collect::<Vec<_>>()).unwrap()
}

pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What the log holds from its start on.
pub fn contents(replica: &Replica) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut from = replica.log_start_offset();
    while from < replica.end_offset() {
        let slice = replica.read_local(from, 1 << 20).unwrap();
        let read = slice.read().unwrap();
        let mut at = 0;
        while at < read.len() {
            let header = ottla_batch::BatchHeader::parse(&read[at..]).unwrap();
            if at + header.size_in_bytes() > read.len() {
                break;
            }
            bytes.extend_from_slice(&read[at..at + header.size_in_bytes()]);
            at += header.size_in_bytes();
            from = header.next_offset();
        }
    }
    bytes
}

pub fn batch(replica: &Replica, value: &str) -> CheckedBatches {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let record = Record {
        offset: Offset(0),
        timestamp: TimestampMs(1),
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Vec::new(),
    };
    builder.push_record(&record).unwrap();
    let policy = replica.settings().append_policy(TimestampMs(1));
    check_produced(builder.build().unwrap(), &policy).unwrap()
}

pub fn append(replica: &Arc<Replica>, value: &str, acks: RequiredAcks) -> Result<Committed, AppendError> {
    let batches = batch(replica, value);
    let request = AppendRequest {
        batches: &batches,
        origin: AppendOrigin::Client,
        acks,
        leader_epoch: LeaderEpoch::NONE,
    };
    replica.append(&request).map(|(_, committed)| committed)
}

/// Appends with acks=all and waits for it.
pub async fn produce(replica: &Arc<Replica>, values: std::ops::Range<usize>) {
    for value in values {
        let committed = append(replica, &format!("value {value}"), RequiredAcks::All).unwrap();
        tokio::time::timeout(Duration::from_secs(30), committed).await.expect("committed").unwrap();
    }
}
