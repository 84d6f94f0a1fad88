//! Partitions of which a part is in the tier alone: fetches, offsets, and followers that begin behind it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{FetchRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_batch::{
    AppendOrigin, BatchBuilder, BatchHeader, BatchOptions, ControlKind, EndTxnMarker, LeaderEpoch, Offset,
    ProducerEpoch, ProducerId, Record, Sequence, TimestampMs, build_end_txn_marker, check_produced,
};
use ottla_raft::BrokerId;
use ottla_raft::requests::{ReportTier, ReportTierItem};
use ottla_storage::disk::Disk;
use ottla_storage::tiering::directory::DirectoryStore;
use ottla_storage::tiering::key::SegmentKey;
use ottla_storage::tiering::manifest::{self, Manifest, TieredSegment, Writer};
use ottla_storage::tiering::store::{
    Answer, ByteRange, Condition, Content, ObjectStore, Page, Piece, StoreError,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::cluster_for_tests::*;
use super::*;

mod followers;
mod writer;

/// A directory that waits and fails as it is told.
pub(crate) struct TestStore {
    directory: DirectoryStore,
    /// A get takes a permit and gives it back.
    open: Semaphore,
    is_away: AtomicBool,
    gets: Mutex<Vec<String>>,
    /// Of so many puts the answer of one is lost; 0: of none.
    lost_of: AtomicUsize,
    counts: StoreCounts,
}

/// What happened since the start.
#[derive(Default)]
struct StoreCounts {
    puts: AtomicUsize,
    lost_answers: AtomicUsize,
    /// Puts that found something there.
    conflicts: AtomicUsize,
    /// Requests while it was away.
    refused: AtomicUsize,
}

const PERMITS: u32 = 1_000;

impl TestStore {
    pub(crate) fn open(dir: &Path) -> TestStore {
        let beside = Arc::new(|work: Box<dyn FnOnce() + Send>| drop(tokio::task::spawn_blocking(work)));
        TestStore {
            directory: DirectoryStore::open(&Disk::real(), dir, "test", beside).unwrap(),
            open: Semaphore::new(PERMITS as usize),
            is_away: AtomicBool::default(),
            gets: Mutex::default(),
            lost_of: AtomicUsize::default(),
            counts: StoreCounts::default(),
        }
    }

    /// Gets wait until what this answers is dropped.
    async fn close(&self) -> tokio::sync::SemaphorePermit<'_> {
        self.open.acquire_many(PERMITS).await.unwrap()
    }

    fn go_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    fn check_there(&self) -> Result<(), StoreError> {
        if !self.is_away.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.counts.refused.fetch_add(1, Ordering::SeqCst);
        Err(StoreError::Unavailable("away".to_owned()))
    }
}

impl ObjectStore for TestStore {
    fn put<'a>(&'a self, key: &'a str, content: Content, condition: Condition) -> Answer<'a, ()> {
        async move {
            self.check_there()?;
            let number = self.counts.puts.fetch_add(1, Ordering::SeqCst) + 1;
            let put = self.directory.put(key, content, condition).await;
            if matches!(put, Err(StoreError::Exists(_))) {
                self.counts.conflicts.fetch_add(1, Ordering::SeqCst);
            }
            if number.checked_rem(self.lost_of.load(Ordering::SeqCst)) == Some(0) {
                self.counts.lost_answers.fetch_add(1, Ordering::SeqCst);
                return Err(StoreError::Unavailable("the answer was lost".to_owned()));
            }
            put
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a str, range: ByteRange) -> Answer<'a, Piece> {
        async move {
            self.gets.lock().push(key.to_owned());
            let _open = self.open.acquire().await.unwrap();
            self.check_there()?;
            self.directory.get(key, range).await
        }
        .boxed()
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        self.directory.list(prefix, after)
    }

    fn delete<'a>(&'a self, keys: &'a [String]) -> Answer<'a, ()> {
        async move {
            self.check_there()?;
            self.directory.delete(keys).await
        }
        .boxed()
    }
}

const SMALL_SEGMENTS: &[(&str, &str)] =
    &[("internal.segment.bytes", "400"), ("remote.storage.enable", "true")];

impl Cluster {
    /// What is sealed and committed of a partition goes to the tier, and from the disk of its leader.
    async fn tier(&self, partition: i32) -> Offset {
        let image = self.node.broker().metadata.image();
        let state = image.partition(TOPIC, partition).unwrap();
        let leader = state.leader.unwrap();
        let broker = &self.brokers[&leader.0].broker;
        let (tier, replica) = (broker.tier.as_ref().unwrap(), broker.replicas.get(TOPIC, partition).unwrap());
        let writer = Writer { broker: leader.0, leader_epoch: LeaderEpoch(state.leader_epoch.0), nonce: 1 };
        let position = image.tier_position(replica.topic_id(), partition);
        let before = match position {
            Some(position) => tier.manifest(replica.topic_id(), partition, position.manifest).await.unwrap(),
            None => None,
        };
        let mut manifest = match before {
            Some(before) => before.next(writer),
            None => Manifest::first(TOPIC, replica.topic_id().0, partition, writer, Offset(0)),
        };
        sync(&replica);
        loop {
            let from = manifest.end_offset().unwrap_or_default();
            let sealed = replica.state.lock().log.sealed_segment(from, replica.last_stable_offset()).unwrap();
            let Some(sealed) = sealed else { break };
            let (base_offset, end_offset) = (sealed.base_offset, sealed.end_offset);
            let key = SegmentKey {
                topic_id: replica.topic_id().0,
                partition,
                base_offset,
                end_offset,
                leader_epoch: writer.leader_epoch,
                suffix: 0,
            };
            let content = sealed.into_object(&key).unwrap();
            let bytes = content.len();
            tier.store().put(&format!("cluster/{key}"), content, Condition::Absent).await.unwrap();
            let max_timestamp = tier.reader().footer(&key).await.unwrap().max_timestamp;
            let segment = TieredSegment {
                base_offset,
                end_offset,
                valid_to: end_offset,
                leader_epoch: writer.leader_epoch,
                suffix: 0,
                bytes,
                max_timestamp,
                epochs: vec![],
            };
            manifest.add(segment, TimestampMs(0)).unwrap();
        }
        let end = manifest.end_offset().unwrap();
        manifest::commit(&**tier.store(), "cluster/", &manifest).await.unwrap();
        let item = ReportTierItem {
            topic: replica.topic_id(),
            partition,
            leader_epoch: state.leader_epoch,
            manifest: manifest.number,
            end_offset: end.0,
        };
        tier.on_committed(Arc::new(manifest)).await;
        let broker_epoch = self.node.broker().metadata.image().broker(leader).unwrap().epoch;
        let report = ReportTier { broker: leader, broker_epoch, items: vec![item] };
        let reported = self.node.broker().metadata.submit(report).await.unwrap().unwrap();
        assert_eq!(reported[0].result, Ok(()));
        drop_local(&replica, end);
        end
    }

    async fn fetch(&self, id: i32, request: FetchRequest) -> Vec<PartitionData> {
        let mut response = self.call(id, 12, &request).await;
        assert_eq!(response.error_code, 0);
        response.responses.remove(0).partitions
    }

    /// All that a consumer gets from `from` on, in one partition.
    async fn consume(&self, id: i32, from: Offset) -> Vec<Bytes> {
        let end = self.brokers[&id].broker.replicas.get(TOPIC, 0).unwrap().high_watermark();
        let (mut batches, mut next) = (Vec::new(), from);
        while next < end {
            let data = self.fetch(id, fetch_of(&[(0, next)], 0)).await.remove(0);
            assert_eq!(data.error_code, 0, "at {next}");
            assert_eq!((data.high_watermark, data.log_start_offset), (end.0, 0), "at {next}");
            let came = whole_batches(data.records.unwrap());
            if let Some(last) = came.last() {
                next = BatchHeader::parse(last).unwrap().next_offset();
            }
            batches.extend(came);
        }
        batches
    }

    async fn list(&self, id: i32, timestamp: i64) -> (i16, i64, i32) {
        let partition = ListOffsetsPartition::default()
            .with_partition_index(0)
            .with_timestamp(timestamp)
            .with_current_leader_epoch(-1);
        let topic = ListOffsetsTopic::default().with_name(topic()).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
        let response = self.call(id, 11, &request).await;
        let answer = &response.topics[0].partitions[0];
        (answer.error_code, answer.offset, answer.leader_epoch)
    }
}

fn topic() -> TopicName {
    TopicName(StrBytes::from_static_str(TOPIC))
}

fn sync(replica: &Replica) {
    let mut state = replica.state.lock();
    let synced = state.log.begin_sync().run().unwrap();
    state.log.on_synced(synced);
}

/// Removes what the tier has too, but for the active segment.
fn drop_local(replica: &Replica, tier_end: Offset) {
    let mut state = replica.state.lock();
    let mut config = ottla_storage::log::LogConfig::clone(state.log.config());
    let kept = Arc::new(config.clone());
    config.local_retention_bytes = Some(0);
    state.log.update_config(Arc::new(config));
    let deleted =
        state.log.delete_old_segments(TimestampMs(0), replica.high_watermark(), Some(tier_end)).unwrap();
    state.log.update_config(kept);
    deleted.run().unwrap();
    assert_eq!(state.log.local_start_offset(), tier_end);
    assert_eq!(state.log.log_start_offset(), Offset(0));
}

/// A fetch without a session that waits for one byte as long as the tier allows.
fn fetch_of(partitions: &[(i32, Offset)], isolation: i8) -> FetchRequest {
    let partitions = partitions.iter().map(|(partition, offset)| {
        FetchPartition::default()
            .with_partition(*partition)
            .with_fetch_offset(offset.0)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_partition_max_bytes(1 << 20)
    });
    let topic = FetchTopic::default().with_topic(topic()).with_partitions(partitions.collect());
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(20)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_isolation_level(isolation)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

fn whole_batches(mut records: Bytes) -> Vec<Bytes> {
    let mut batches = Vec::new();
    while let Ok(header) = BatchHeader::parse(&records) {
        if header.size_in_bytes() > records.len() {
            break;
        }
        batches.push(records.split_to(header.size_in_bytes()));
    }
    batches
}

/// All batches of a replica that has all of them on its disk.
fn all_batches(replica: &Replica) -> Vec<Bytes> {
    whole_batches(contents(replica).into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_gets_the_bytes_that_were_produced_wherever_they_lie() {
    let cluster = Cluster::start_tiered(&[2, 3]).await;
    cluster.create(&[2, 3], SMALL_SEGMENTS).await;
    let leader = cluster.leader();
    produce(&leader, 0..40).await;
    cluster.await_equal(&[2, 3]).await;
    let all = all_batches(&leader);
    let id = cluster.partition().leader.unwrap().0;
    let end = cluster.tier(0).await;
    assert!(end > Offset(20) && leader.local_start_offset() == end);
    assert_eq!(cluster.consume(id, Offset(0)).await, all);
    assert_eq!(cluster.consume(id, Offset(13)).await, all[13..]);
    // And again, from memory.
    let gets = cluster.store.as_ref().unwrap().gets.lock().len();
    assert_eq!(cluster.consume(id, Offset(0)).await, all);
    assert_eq!(cluster.store.as_ref().unwrap().gets.lock().len(), gets);
    // A follower serves too (KIP-392), and has the rest on its own disk.
    let follower = 5 - id;
    drop_local(&cluster.replica(follower), end);
    assert_eq!(cluster.consume(follower, Offset(0)).await, all);
    produce(&leader, 40..60).await;
    cluster.await_equal_ends(&[2, 3]).await;
    cluster.tier(0).await;
    assert_eq!(cluster.consume(id, Offset(0)).await.len(), 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_tier_keeps_nobody_waiting() {
    let cluster = Cluster::start_tiered(&[2]).await;
    cluster.create_partitions(&[&[2], &[2]], SMALL_SEGMENTS).await;
    let broker = &cluster.brokers[&2].broker;
    for partition in 0..2 {
        let replica = eventually("a replica", || broker.replicas.get(TOPIC, partition)).await;
        produce(&replica, 0..20).await;
    }
    let end = cluster.tier(0).await;
    let store = cluster.store.as_ref().unwrap();
    let closed = store.close().await;
    // Also the manifest is asked for once, however short all of these wait.
    broker.tier.as_ref().unwrap().forget(cluster.replica(2).topic_id());
    store.gets.lock().clear();
    // What is here is answered at once, and what is not comes later, without an error.
    let mut both = fetch_of(&[(0, Offset(0)), (1, Offset(0))], 0);
    both.max_wait_ms = 600_000;
    let found = cluster.fetch(2, both.clone()).await;
    assert_eq!((found[0].error_code, found[0].high_watermark, found[0].log_start_offset), (0, 20, 0));
    assert_eq!(found[0].records.as_ref().map(Bytes::len), Some(0));
    assert!(!found[1].records.as_ref().unwrap().is_empty());
    // The tier alone: the answer comes when the wait for it ends.
    let mut alone = fetch_of(&[(0, Offset(0))], 0);
    alone.max_wait_ms = 600_000;
    let found = cluster.fetch(2, alone.clone()).await;
    assert_eq!((found[0].error_code, found[0].records.as_ref().map(Bytes::len)), (0, Some(0)));
    // New records end the wait of a fetch that has the tier in it.
    cluster.set_wait(600_000).await;
    let tail = broker.replicas.get(TOPIC, 1).unwrap();
    let waiting = cluster.fetch(2, fetch_of(&[(0, Offset(0)), (1, Offset(20))], 0));
    let (found, ()) = futures::join!(waiting, produce(&tail, 20..21));
    assert!(!found[1].records.as_ref().unwrap().is_empty());
    // So does the store. It was asked for the head of the object once, by all of these.
    let waiting = cluster.fetch(2, alone);
    let (found, ()) = futures::join!(waiting, async move { drop(closed) });
    assert!(!found[0].records.as_ref().unwrap().is_empty());
    let gets = |part: &str| store.gets.lock().iter().filter(|key| key.contains(part)).count();
    assert_eq!((gets("/0/manifest/"), gets("/0/00000000000000000000-")), (1, 1));
    assert_eq!(cluster.consume(2, Offset(0)).await.len(), 20);
    assert!(end > Offset(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_an_error_on_which_clients_ask_again() {
    let cluster = Cluster::start_tiered(&[2]).await;
    cluster.create(&[2], SMALL_SEGMENTS).await;
    let leader = cluster.leader();
    produce(&leader, 0..20).await;
    let all = all_batches(&leader);
    let end = cluster.tier(0).await;
    let store = cluster.store.as_ref().unwrap();
    store.go_away(true);
    for from in [0, end.0 - 1] {
        let found = cluster.fetch(2, fetch_of(&[(0, Offset(from))], 0)).await;
        assert_eq!(found[0].error_code, ResponseError::KafkaStorageError.code());
    }
    // What is on the disk is read as ever.
    assert_eq!(cluster.consume(2, end).await, all[end.0 as usize..]);
    store.go_away(false);
    assert_eq!(cluster.consume(2, Offset(0)).await, all);
    let out = cluster.fetch(2, fetch_of(&[(0, Offset(21))], 0)).await;
    assert_eq!(out[0].error_code, ResponseError::OffsetOutOfRange.code());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_is_damaged_or_gone_is_an_error_of_its_offsets_alone() {
    let cluster = Cluster::start_tiered(&[2]).await;
    cluster.create(&[2], SMALL_SEGMENTS).await;
    let leader = cluster.leader();
    produce(&leader, 0..30).await;
    cluster.tier(0).await;
    let tier = cluster.brokers[&2].broker.tier.as_ref().unwrap();
    let manifest = tier.manifest(leader.topic_id(), 0, 1).await.unwrap().unwrap();
    let segments = manifest.segments();
    assert!(segments.len() > 3);
    let name = |index: usize| format!("cluster/{}", manifest.key_of(&segments[index]));
    tier.store().delete(&[name(1)]).await.unwrap();
    let object = tier.store().get(&name(2), ByteRange::Whole { bytes_max: 1 << 20 }).await.unwrap().bytes;
    let mut damaged = BytesMut::from(&object[..]);
    damaged[70] ^= 1;
    tier.store().put(&name(2), Content::from(damaged.freeze()), Condition::None).await.unwrap();
    for (index, segment) in segments.iter().enumerate() {
        let found = cluster.fetch(2, fetch_of(&[(0, segment.base_offset)], 0)).await;
        let expected = match index {
            1 | 2 => ResponseError::KafkaStorageError.code(),
            _ => 0,
        };
        assert_eq!(found[0].error_code, expected, "segment {index}");
    }
    tier.store().put(&name(2), Content::from(object), Condition::None).await.unwrap();
    let found = cluster.fetch(2, fetch_of(&[(0, segments[2].base_offset)], 0)).await;
    assert_eq!(found[0].error_code, 0, "it is asked for again");
}

fn transactional(replica: &Arc<Replica>, producer: i64, sequence: i32) {
    let options = BatchOptions {
        producer_id: ProducerId(producer),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(sequence),
        is_transactional: true,
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    builder.push(TimestampMs(1), None, Some(b"of a transaction"), &[]).unwrap();
    let policy = replica.settings().append_policy(TimestampMs(1));
    let batches = check_produced(builder.build().unwrap(), &policy).unwrap();
    append_checked(replica, &batches, AppendOrigin::Client);
}

fn append_checked(replica: &Arc<Replica>, batches: &ottla_batch::CheckedBatches, origin: AppendOrigin) {
    let request =
        AppendRequest { batches, origin, acks: RequiredAcks::Leader, leader_epoch: LeaderEpoch::NONE };
    drop(replica.append(&request).unwrap());
}

fn abort(replica: &Arc<Replica>, producer: i64) {
    let marker = EndTxnMarker { kind: ControlKind::Abort, coordinator_epoch: 0 };
    let batch = build_end_txn_marker(ProducerId(producer), ProducerEpoch(0), marker, TimestampMs(1)).unwrap();
    let policy = ottla_batch::AppendPolicy {
        origin: AppendOrigin::Coordinator,
        ..replica.settings().append_policy(TimestampMs(1))
    };
    append_checked(replica, &check_produced(batch, &policy).unwrap(), AppendOrigin::Coordinator);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aborted_transactions_are_told_wherever_their_markers_lie() {
    let cluster = Cluster::start_tiered(&[2]).await;
    cluster.create(&[2], SMALL_SEGMENTS).await;
    let leader = cluster.leader();
    // One that ends in a later segment, one that ends on the local disk, in both cases after other records.
    produce(&leader, 0..3).await;
    transactional(&leader, 7, 0);
    let first = leader.end_offset().plus(-1);
    produce(&leader, 4..14).await;
    abort(&leader, 7);
    produce(&leader, 15..25).await;
    sync(&leader);
    eventually("committed", || (leader.high_watermark() == leader.end_offset()).then_some(())).await;
    let end = cluster.tier(0).await;
    assert!(end > Offset(15), "{end}");
    let of = |from| cluster.fetch(2, fetch_of(&[(0, from)], 1));
    let aborted = |data: &PartitionData| -> Vec<(i64, i64)> {
        let all = data.aborted_transactions.iter().flatten();
        all.map(|aborted| (aborted.producer_id.0, aborted.first_offset)).collect()
    };
    let found = of(Offset(0)).await;
    let last = whole_batches(found[0].records.clone().unwrap()).pop().unwrap();
    assert!(
        BatchHeader::parse(&last).unwrap().next_offset() < Offset(14),
        "the marker lies in a later segment"
    );
    assert_eq!(aborted(&found[0]), [(7, first.0)]);
    let found = of(Offset(15)).await;
    assert_eq!(aborted(&found[0]), [], "after the marker");
    let uncommitted = cluster.fetch(2, fetch_of(&[(0, Offset(0))], 0)).await;
    assert_eq!(uncommitted[0].aborted_transactions, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_of_a_tiered_partition_as_kafka_names_them() {
    let cluster = Cluster::start_tiered(&[2]).await;
    cluster.create(&[2], SMALL_SEGMENTS).await;
    let leader = cluster.leader();
    for n in 0..30i64 {
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let record = Record {
            offset: Offset(0),
            timestamp: TimestampMs(1_000 + 10 * n),
            key: None,
            value: Some(Bytes::from_static(b"0123456789012345678901234567890123456789")),
            headers: Vec::new(),
        };
        builder.push_record(&record).unwrap();
        let policy = replica_policy(&leader);
        append_checked(
            &leader,
            &check_produced(builder.build().unwrap(), &policy).unwrap(),
            AppendOrigin::Client,
        );
    }
    sync(&leader);
    eventually("committed", || (leader.high_watermark() == Offset(30)).then_some(())).await;
    assert_eq!((cluster.list(2, -5).await.1, cluster.list(2, -6).await.1), (-1, 0), "nothing is there yet");
    let end = cluster.tier(0).await;
    assert!(end > Offset(10) && end < Offset(30));
    let epoch = cluster.partition().leader_epoch.0;
    assert_eq!(cluster.list(2, -2).await, (0, 0, epoch));
    assert_eq!(cluster.list(2, -1).await, (0, 30, epoch));
    assert_eq!(cluster.list(2, -4).await, (0, end.0, epoch));
    assert_eq!(cluster.list(2, -5).await, (0, end.0 - 1, epoch));
    assert_eq!(cluster.list(2, -6).await, (0, end.0, epoch));
    for n in 0..30 {
        assert_eq!(cluster.list(2, 1_000 + 10 * n).await, (0, n, epoch));
        assert_eq!(cluster.list(2, 995 + 10 * n).await, (0, n, epoch));
    }
    assert_eq!(cluster.list(2, 2_000).await, (0, -1, -1));
    assert_eq!(cluster.list(2, -3).await, (0, 29, epoch));
    // A store that does not answer ends neither the others' nor the connection's patience.
    let store = cluster.store.as_ref().unwrap();
    store.go_away(true);
    cluster.brokers[&2].broker.tier.as_ref().unwrap().forget(leader.topic_id());
    assert_eq!(cluster.list(2, 1_000).await.0, ResponseError::KafkaStorageError.code());
    store.go_away(false);
    let closed = store.close().await;
    assert_eq!(cluster.list(2, 1_000).await.0, ResponseError::RequestTimedOut.code());
    assert_eq!(cluster.list(2, -4).await, (0, end.0, epoch));
    drop(closed);
    eventually_async("the answer", || async { cluster.list(2, 1_000).await == (0, 0, epoch) }).await;
}

fn replica_policy(replica: &Replica) -> ottla_batch::AppendPolicy {
    ottla_batch::AppendPolicy {
        timestamp_before_ms_max: i64::MAX,
        ..replica.settings().append_policy(TimestampMs(2_000))
    }
}

async fn eventually_async<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !look().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
    }
}

impl Cluster {
    async fn set_wait(&self, millis: u32) {
        let key = "remote.fetch.max.wait.ms";
        self.set_config(ottla_raft::ConfigResource::all_brokers(), key, &millis.to_string()).await;
    }

    async fn await_equal_ends(&self, ids: &[i32]) {
        eventually("equal ends", || {
            let end = self.leader().end_offset();
            ids.iter().all(|id| self.replica(*id).high_watermark() == end).then_some(())
        })
        .await;
    }
}
