//! Brokers that replicate among each other in one process: real logs and handlers, one metadata for all, and links that carry
//! encoded requests and answers where there would be sockets.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use kafka_protocol::protocol::{Decodable, Encodable, Request};
use ottla_batch::{
    AppendOrigin, BatchBuilder, BatchOptions, CheckedBatches, LeaderEpoch, Offset, Record, TimestampMs,
    check_produced,
};
use ottla_clients::error::ClientError;
use ottla_raft::requests::{
    AlterPartitionReassignments, BrokerHeartbeat, CreateTopics, NewTopic, ReassignmentItem, RegisterBroker,
};
use ottla_raft::{BrokerEpoch, BrokerId, Metadata, Partition, features};
use ottla_storage::disk::Disk;
use ottla_storage::log::FirstBatch;
use ottla_storage::logdir::LogDir;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::links::{Answer, FETCH_VERSION, LeaderLink, LeaderLinks};
use super::*;
use crate::api::{Part, RequestContext, Started, table};
use crate::config::NodeConfig;
use crate::group::{GroupCoordinator, ReplicasLog};
use crate::metrics::Metrics;
use crate::node::{self, Broker, Node};

const TOPIC: &str = "topic";
/// Of waits that end in a moment.
const LIMIT: Duration = Duration::from_secs(60);

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

impl Link {
    fn is_cut(&self) -> bool {
        self.net.cut.lock().contains(&(self.from, self.to))
    }
}

impl LeaderLink for Link {
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
                let mut joined = BytesMut::new();
                for part in reply.parts {
                    match part {
                        Part::Bytes(bytes) => joined.extend_from_slice(&bytes),
                        Part::Slice(slice) => joined.extend_from_slice(&slice.read().unwrap()),
                    }
                }
                Ok(FetchResponse::decode(&mut joined.freeze(), FETCH_VERSION).unwrap())
            };
            Ok(answer.boxed())
        }
        .boxed()
    }
}

/// A controller and some brokers.
struct Cluster {
    node: Node,
    net: Arc<Net>,
    brokers: BTreeMap<i32, Member>,
    _dir: tempfile::TempDir,
}

struct Member {
    broker: Arc<Broker>,
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
    async fn start(ids: &[i32]) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let node = node::start(config(1, dir.path())).await.unwrap();
        let mut cluster = Cluster { node, net: Arc::default(), brokers: BTreeMap::new(), _dir: dir };
        for id in ids {
            cluster.add(*id).await;
        }
        cluster
    }

    async fn add(&mut self, id: i32) {
        let metadata = self.node.broker().metadata.clone();
        let config = Arc::new(config(id, self._dir.path()));
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
            rack: None,
            features: features::supported(),
            log_dirs: vec![log_dir.directory_id()],
            previous_epoch: None,
        };
        let epoch = metadata.submit(register).await.unwrap().unwrap();
        let metrics = Metrics::new();
        let replicas = ReplicaManager::start(ReplicaOptions {
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
        })
        .await
        .unwrap();
        let groups = GroupCoordinator::new(config.group.clone(), ReplicasLog::new(Arc::clone(&replicas)));
        let addresses = BTreeMap::new();
        let broker = Arc::new(Broker { config, metadata, replicas, groups, metrics, addresses });
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

    async fn beat(&self, id: i32, want_fence: bool) {
        let heart = &self.brokers[&id].heart;
        heart.wants_fence.store(want_fence, Ordering::SeqCst);
        assert!(heart.beat().await);
        let image = heart.metadata.image();
        assert_eq!(image.broker(BrokerId(id)).unwrap().fenced, want_fence);
    }

    /// Nothing goes between a broker and the others.
    fn cut(&self, id: i32, is_cut: bool) {
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

    async fn create(&self, replicas: &[i32], configs: &[(&str, &str)]) {
        let topic = NewTopic {
            name: TOPIC.to_owned(),
            partitions: -1,
            replication_factor: -1,
            assignments: vec![(0, replicas.iter().map(|id| BrokerId(*id)).collect())],
            configs: configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        let request = CreateTopics { topics: vec![topic], validate_only: false };
        let created = self.node.broker().metadata.submit(request).await.unwrap();
        assert!(created[0].result.is_ok(), "{created:?}");
        for id in replicas {
            self.replica_when_there(*id).await;
        }
    }

    async fn replica_when_there(&self, id: i32) -> Arc<Replica> {
        eventually(&format!("broker {id} opens its replica"), || {
            self.brokers[&id].broker.replicas.get(TOPIC, 0)
        })
        .await
    }

    fn replica(&self, id: i32) -> Arc<Replica> {
        self.brokers[&id].broker.replicas.get(TOPIC, 0).unwrap()
    }

    fn partition(&self) -> Partition {
        let image = self.node.broker().metadata.image();
        Partition::clone(image.partition(TOPIC, 0).unwrap())
    }

    fn leader(&self) -> Arc<Replica> {
        self.replica(self.partition().leader.unwrap().0)
    }

    async fn await_in_sync(&self, expected: &[i32]) {
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
    async fn await_equal(&self, ids: &[i32]) {
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

fn config(id: i32, dir: &std::path::Path) -> NodeConfig {
    let overrides = [
        ("node.id", id.to_string()),
        ("listeners", "PLAINTEXT://127.0.0.1:0".to_owned()),
        ("log.dirs", dir.join(format!("data-{id}")).display().to_string()),
        ("ottla.metrics.listener", String::new()),
        ("replica.lag.time.max.ms", "1000".to_owned()),
    ];
    NodeConfig::load(None, &overrides.map(|(key, value)| (key.to_owned(), value))).unwrap()
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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
fn contents(replica: &Replica) -> Vec<u8> {
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

fn batch(replica: &Replica, value: &str) -> CheckedBatches {
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

fn append(replica: &Arc<Replica>, value: &str, acks: RequiredAcks) -> Result<Committed, AppendError> {
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
async fn produce(replica: &Arc<Replica>, values: std::ops::Range<usize>) {
    for value in values {
        let committed = append(replica, &format!("value {value}"), RequiredAcks::All).unwrap();
        tokio::time::timeout(Duration::from_secs(30), committed).await.expect("committed").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_is_on_all_who_are_in_sync() {
    let cluster = Cluster::start(&[2, 3, 4]).await;
    cluster.create(&[2, 3, 4], &[]).await;
    let leader = cluster.leader();
    for value in 0..50 {
        let committed = append(&leader, &format!("value {value}"), RequiredAcks::All).unwrap();
        committed.await.unwrap();
        for follower in [3, 4] {
            let synced = cluster.replica(follower).state.lock().log.synced_end_offset();
            assert!(synced > Offset(value), "broker {follower} has synced {synced} of {}", value + 1);
        }
    }
    cluster.await_equal(&[2, 3, 4]).await;
    cluster.await_in_sync(&[2, 3, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_cut_off_leaves_and_comes_back() {
    let cluster = Cluster::start(&[2, 3, 4]).await;
    cluster.create(&[2, 3, 4], &[("min.insync.replicas", "2")]).await;
    let leader = cluster.leader();
    produce(&leader, 0..5).await;
    cluster.cut(4, true);
    // Acknowledged when 4 is out, and not before.
    produce(&leader, 5..10).await;
    cluster.await_in_sync(&[2, 3]).await;
    cluster.cut(3, true);
    let committed = append(&leader, "not enough", RequiredAcks::All).unwrap();
    cluster.await_in_sync(&[2]).await;
    assert!(
        matches!(append(&leader, "refused", RequiredAcks::All), Err(AppendError::NotEnoughReplicas { .. })),
        "one is less than min.insync.replicas"
    );
    assert_eq!(leader.high_watermark(), Offset(10), "KIP-966: what one alone holds is not committed");
    cluster.cut(3, false);
    cluster.cut(4, false);
    cluster.await_in_sync(&[2, 3, 4]).await;
    assert_eq!(committed.await, Ok(()));
    cluster.await_equal(&[2, 3, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kip_101_a_leader_that_was_cut_off_loses_what_nobody_else_had_and_nothing_else() {
    let cluster = Cluster::start(&[2, 3, 4]).await;
    cluster.create(&[2, 3, 4], &[]).await;
    let old = cluster.leader();
    produce(&old, 0..10).await;
    let mut epoch = cluster.partition().leader_epoch;
    // Twice, so that the second divergence lies in an epoch that the new leader does not know (KIP-279).
    for round in 0..2usize {
        let old = cluster.leader();
        let id = cluster.partition().leader.unwrap().0;
        cluster.cut(id, true);
        for lost in 0..5 {
            let committed = append(&old, &format!("lost {round} {lost}"), RequiredAcks::All).unwrap();
            assert_eq!(committed.now_or_never(), None);
        }
        cluster.beat(id, true).await;
        let partition = cluster.partition();
        assert!(partition.leader_epoch > epoch && partition.leader != Some(BrokerId(id)));
        epoch = partition.leader_epoch;
        let new = cluster.leader();
        eventually("a new leader", || new.leader_epoch().filter(|led| led.0 == epoch.0)).await;
        let from = 10 + round * 10;
        produce(&new, from..from + 10).await;
        eventually("the old one learns of it", || old.leader_epoch().is_none().then_some(())).await;
        cluster.cut(id, false);
        cluster.beat(id, false).await;
        cluster.await_in_sync(&[2, 3, 4]).await;
        cluster.await_equal(&[2, 3, 4]).await;
        assert_eq!(cluster.leader().end_offset(), Offset(from as i64 + 10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_place_the_leader_has_deleted_starts_anew() {
    let cluster = Cluster::start(&[2, 3]).await;
    cluster.create(&[2, 3], &[("segment.bytes", "1048576")]).await;
    let leader = cluster.leader();
    produce(&leader, 0..5).await;
    cluster.cut(3, true);
    produce(&leader, 5..20).await;
    cluster.await_in_sync(&[2]).await;
    leader.delete_records(Offset(15)).unwrap();
    cluster.cut(3, false);
    cluster.await_in_sync(&[2, 3]).await;
    cluster.await_equal(&[2, 3]).await;
    assert_eq!(cluster.replica(3).log_start_offset(), Offset(15));
    // The start moves along while it follows.
    leader.delete_records(Offset(18)).unwrap();
    produce(&leader, 20..21).await;
    eventually("the log start follows", || {
        (cluster.replica(3).log_start_offset() == Offset(18)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_moves_to_other_brokers_and_leaves_nothing_behind() {
    let cluster = Cluster::start(&[2, 3, 4]).await;
    cluster.create(&[2, 3], &[("file.delete.delay.ms", "0")]).await;
    produce(&cluster.leader(), 0..20).await;
    let item = ReassignmentItem {
        topic: TOPIC.to_owned(),
        partition: 0,
        replicas: Some(vec![BrokerId(4), BrokerId(3)]),
    };
    let request = AlterPartitionReassignments { items: vec![item], allow_replication_factor_change: true };
    let results = cluster.node.broker().metadata.submit(request).await.unwrap();
    assert!(results[0].result.is_ok(), "{results:?}");
    eventually("the move is over", || {
        let partition = cluster.partition();
        (*partition.replicas == [BrokerId(4), BrokerId(3)]).then_some(())
    })
    .await;
    let gone = &cluster.brokers[&2].broker.replicas;
    eventually("no replica any more", || gone.get(TOPIC, 0).is_none().then_some(())).await;
    let path = cluster.brokers[&2].broker.config.log_dirs[0].join(format!("{TOPIC}-0"));
    eventually("no directory any more", || (!path.exists()).then_some(())).await;
    cluster.await_in_sync(&[3, 4]).await;
    produce(&cluster.leader(), 20..30).await;
    cluster.await_equal(&[3, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_may_read_from_a_follower_what_that_knows_to_be_committed() {
    let cluster = Cluster::start(&[2, 3]).await;
    cluster.create(&[2, 3], &[]).await;
    produce(&cluster.leader(), 0..10).await;
    cluster.await_equal(&[2, 3]).await;
    let follower = cluster.replica(3);
    let mut request = ReadRequest {
        from: Offset(0),
        bound: ReadBound::HighWatermark,
        bytes_max: 1 << 20,
        first_batch: FirstBatch::Whole,
        leader_epoch: LeaderEpoch::NONE,
        last_fetched_epoch: LeaderEpoch::NONE,
        served: Served::ByAnyReplica,
    };
    assert!(follower.read(&request).unwrap().slice.is_some());
    request.served = Served::ByLeader;
    assert!(matches!(follower.read(&request), Err(ReadError::Leader(LeaderError::NotLeader))));
}
