//! A node with two log directories, one of which fails: on a simulated disk and a metadata store in memory, both of which
//! survive the node.

use std::path::Path;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse};
use ottla_raft::BrokerId;
use ottla_raft::quorum::store_memory::MemoryStore;
use ottla_raft::requests::{CreateTopics, NewTopic};
use ottla_storage::disk::{Disk, SimulatedDisk};
use parking_lot::Mutex;

use super::cluster_for_tests::{append, contents, eventually, produce};
use super::*;
use crate::api::{RequestContext, in_test};
use crate::config::NodeConfig;
use crate::node::{self, Broker, Environment, Node};

pub(super) const TOPIC: &str = "topic";
pub(super) const DIRS: [&str; 2] = ["/a/data", "/b/data"];

/// A machine with two disks and the node on it.
pub(super) struct Machine {
    pub disk: SimulatedDisk,
    store: Arc<MemoryStore>,
    node: Option<Node>,
    /// Why the process would have ended.
    pub fatal: Arc<Mutex<Option<Fatal>>>,
}

impl Machine {
    pub async fn start() -> Machine {
        let mut machine =
            Machine { disk: SimulatedDisk::new(), store: Arc::default(), node: None, fatal: Arc::default() };
        machine.spawn().await.unwrap();
        machine
    }

    pub async fn spawn(&mut self) -> Result<(), node::StartError> {
        let overrides = [
            ("node.id", "1"),
            ("listeners", "PLAINTEXT://127.0.0.1:0"),
            ("log.dirs", &DIRS.join(",")),
            ("ottla.metrics.listener", ""),
        ];
        let overrides = overrides.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let fatal = Arc::clone(&self.fatal);
        let environment = Environment {
            disk: Disk::simulated(&self.disk),
            tier_disk: None,
            metadata_store: Some(Arc::clone(&self.store)),
            client_connections_max: usize::MAX,
            on_fatal: Arc::new(move |reason| *fatal.lock() = Some(reason)),
        };
        self.node = Some(node::start_with(NodeConfig::load(None, &overrides).unwrap(), environment).await?);
        Ok(())
    }

    /// A controlled shutdown.
    pub async fn stop(&mut self) {
        self.node.take().unwrap().shutdown().await;
    }

    pub fn broker(&self) -> &Arc<Broker> {
        self.node.as_ref().unwrap().broker()
    }

    pub fn break_dir(&self, dir: usize) {
        self.disk.set_broken(Some(Path::new(DIRS[dir]).parent().unwrap()));
    }

    pub async fn create(&self, partitions: i32) {
        let topic = NewTopic {
            name: TOPIC.to_owned(),
            partitions,
            replication_factor: 1,
            assignments: vec![],
            configs: vec![],
        };
        let request = CreateTopics { topics: vec![topic], validate_only: false };
        let created = self.broker().metadata.submit(request).await.unwrap();
        assert!(created[0].result.is_ok(), "{created:?}");
        for partition in 0..partitions {
            self.leader(partition).await;
        }
    }

    pub fn replica(&self, partition: i32) -> Arc<Replica> {
        self.broker().replicas.get(TOPIC, partition).unwrap()
    }

    /// The replica of a partition that this node leads, of which the controller knows the directory.
    pub async fn leader(&self, partition: i32) -> Arc<Replica> {
        eventually("the partition is led", || {
            let replica = self.broker().replicas.get(TOPIC, partition)?;
            let image = self.broker().metadata.image();
            let knows = !image.partition(TOPIC, partition)?.directory(BrokerId(1)).is_nil();
            (knows && replica.leader_epoch().is_some()).then_some(replica)
        })
        .await
    }

    /// In which directory a partition lies.
    pub fn dir_of(&self, partition: i32) -> usize {
        let replicas = &self.broker().replicas;
        let path = replicas.log_dir_of(&self.replica(partition)).path();
        DIRS.iter().position(|dir| path == Path::new(dir)).unwrap()
    }

    /// A partition that lies in a directory.
    pub fn partition_in(&self, dir: usize, partitions: i32) -> i32 {
        (0..partitions).find(|partition| self.dir_of(*partition) == dir).unwrap()
    }

    pub async fn describe(&self) -> Vec<DescribeLogDirsResult> {
        let cx = RequestContext::in_test(self.broker(), 4, None);
        let response: DescribeLogDirsResponse =
            in_test::call(cx, &DescribeLogDirsRequest::default().with_topics(None)).await;
        let mut results = response.results;
        results.sort_by_key(|result| result.log_dir.to_string());
        results
    }

    pub fn is_led(&self, partition: i32) -> bool {
        self.broker().metadata.image().partition(TOPIC, partition).unwrap().leader.is_some()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_fails_and_the_other_goes_on() {
    let mut machine = Machine::start().await;
    machine.create(4).await;
    for partition in 0..4 {
        produce(&machine.replica(partition), 0..10).await;
    }
    let (kept, lost) = (machine.partition_in(0, 4), machine.partition_in(1, 4));
    let (kept_bytes, lost_bytes) = (contents(&machine.replica(kept)), contents(&machine.replica(lost)));

    machine.break_dir(1);
    let replica = machine.replica(lost);
    assert!(append(&replica, "refused", RequiredAcks::All).is_err());
    eventually("the replica is offline", || replica.is_offline().then_some(())).await;
    eventually("the controller knows", || (!machine.is_led(lost)).then_some(())).await;
    produce(&machine.replica(kept), 10..20).await;
    assert!(machine.is_led(kept));
    assert!(machine.fatal.lock().is_none(), "the process goes on");
    let described = machine.describe().await;
    let codes: Vec<_> = described.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [0, ResponseError::KafkaStorageError.code()]);
    assert_eq!(described[0].topics.iter().map(|topic| topic.partitions.len()).sum::<usize>(), 2);
    machine.stop().await;

    // Started with the directory still failed: the rest is served, and nothing is put in the place of what can't be read.
    machine.spawn().await.unwrap();
    let kept_now = contents(machine.leader(kept).await.as_ref());
    assert!(kept_now.starts_with(&kept_bytes) && kept_now.len() > kept_bytes.len());
    let missing = machine.broker().replicas.find(TOPIC, lost).unwrap_err();
    assert_eq!(missing, LookupError::Failed);
    assert!(!machine.is_led(lost));
    let codes: Vec<_> = machine.describe().await.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [0, ResponseError::KafkaStorageError.code()]);
    // What is created now goes where there is a disk.
    machine.stop().await;

    machine.disk.set_broken(None);
    machine.spawn().await.unwrap();
    assert_eq!(contents(machine.leader(lost).await.as_ref()), lost_bytes);
    produce(&machine.replica(lost), 10..20).await;
    machine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_or_a_checkpoint_finds_the_failure_too() {
    for by_read in [true, false] {
        let mut machine = Machine::start().await;
        machine.create(2).await;
        let lost = machine.partition_in(1, 2);
        let replica = machine.replica(lost);
        produce(&replica, 0..3).await;
        replica.state.lock().log.release_idle().unwrap();
        machine.break_dir(1);
        match by_read {
            true => assert!(
                replica
                    .read(&ReadRequest {
                        from: ottla_batch::Offset(0),
                        bound: ReadBound::HighWatermark,
                        bytes_max: 1 << 20,
                        first_batch: ottla_storage::log::FirstBatch::Whole,
                        leader_epoch: ottla_batch::LeaderEpoch::NONE,
                        last_fetched_epoch: ottla_batch::LeaderEpoch::NONE,
                        served: Served::ByLeader,
                    })
                    .is_err()
            ),
            false => machine.broker().replicas.write_high_watermarks(),
        }
        assert!(replica.is_offline(), "by read: {by_read}");
        machine.disk.set_broken(None);
        machine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_any_directory_the_process_ends() {
    let mut machine = Machine::start().await;
    machine.create(2).await;
    machine.disk.set_broken(Some(Path::new("/")));
    for partition in 0..2 {
        assert!(append(&machine.replica(partition), "refused", RequiredAcks::All).is_err());
    }
    let fatal = machine.fatal.lock().clone().unwrap();
    assert!(fatal.to_string().contains("no log directory is left"), "{fatal}");
    machine.disk.set_broken(None);
    machine.stop().await;

    machine.disk.set_broken(Some(Path::new("/")));
    let refused = machine.spawn().await.unwrap_err().to_string();
    assert!(refused.contains("none of the log directories can be used"), "{refused}");
    assert!(DIRS.iter().all(|dir| refused.contains(dir)), "{refused}");
}
