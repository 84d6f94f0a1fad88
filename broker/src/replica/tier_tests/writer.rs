//! Leaders that copy their segments to the tier, and what happens to these when leaders change, die, or delete.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ottla_raft::requests::{DeleteTopics, TopicReference};
use ottla_raft::{ConfigResource, TierPosition};

use tokio::time::Instant;

use super::*;
use crate::clock;
use crate::metrics::Metrics;
use crate::tier::writer::TierWriter;

/// Two or three batches fill a segment.
const TIERED: &[(&str, &str)] =
    &[("internal.segment.bytes", "400"), ("remote.storage.enable", "true"), ("retention.ms", "-1")];

/// The leaders' work on the tier, of all brokers of a cluster.
struct Writers(BTreeMap<i32, (TierWriter, Arc<Metrics>)>);

impl Writers {
    fn start(cluster: &Cluster) -> Writers {
        let mut writers = Writers(BTreeMap::new());
        cluster.brokers.keys().for_each(|id| writers.start_one(cluster, *id));
        writers
    }

    fn start_one(&mut self, cluster: &Cluster, id: i32) {
        let broker = &cluster.brokers[&id].broker;
        let (tier, replicas) = (broker.tier.clone().unwrap(), Arc::clone(&broker.replicas));
        let groups = Arc::clone(&broker.groups);
        let metrics = Metrics::new();
        let writer = TierWriter::start(tier, replicas, groups, Arc::clone(&broker.config), &metrics);
        self.0.insert(id, (writer, metrics));
    }

    /// As if the process had been killed, as far as the tier can tell.
    async fn stop(&mut self, id: i32) {
        self.0.remove(&id).unwrap().0.stop().await;
    }

    /// A metric of one of them.
    fn metric(&self, id: i32, name: &str) -> f64 {
        let text = self.0[&id].1.encode().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("ottla_tier_{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    async fn stop_all(&mut self) {
        for id in self.0.keys().copied().collect::<Vec<_>>() {
            self.stop(id).await;
        }
    }
}

impl Cluster {
    async fn start_writing(ids: &[i32], configs: &[(&str, &str)]) -> (Cluster, Writers) {
        let cluster = Cluster::start_tiered(ids).await;
        cluster.create(ids, &[TIERED, configs].concat()).await;
        let writers = Writers::start(&cluster);
        (cluster, writers)
    }

    fn position(&self) -> Option<TierPosition> {
        let image = self.node.broker().metadata.image();
        image.tier_position(image.topic_by_name(TOPIC)?.id, 0)
    }

    /// Everything that is sealed and committed is in the tier, and the metadata knows it.
    async fn await_tiered(&self) -> Offset {
        eventually("all sealed segments in the tier", || {
            let position = self.position().filter(|position| !position.is_doubtful)?;
            let leader = self.leader();
            let epoch = self.partition().leader_epoch;
            let end = Offset(position.end_offset);
            let is_all = leader.past_tier(end).sealed_segments == 0 && leader.high_watermark() >= end;
            (is_all && position.leader_epoch <= epoch).then_some(end)
        })
        .await
    }

    async fn manifest(&self) -> Manifest {
        let topic = self.leader().topic_id().0;
        let store = self.store.as_ref().unwrap();
        manifest::load(&**store, "cluster/", topic, 0).await.unwrap().unwrap()
    }

    /// Keys of all segments in the store, whoever names them.
    async fn objects(&self) -> BTreeSet<String> {
        let page = self.store.as_ref().unwrap().directory.list("cluster/tier/", None).await.unwrap();
        page.objects.into_iter().map(|object| object.key).filter(|key| key.ends_with(".seg")).collect()
    }

    /// What the newest manifest names.
    async fn named(&self) -> BTreeSet<String> {
        let manifest = self.manifest().await;
        manifest.segments().iter().map(|segment| format!("cluster/{}", manifest.key_of(segment))).collect()
    }

    /// All objects that are left are such.
    async fn await_objects(&self, what: &str, are: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !self.objects().await.iter().all(|key| are(key)) {
            assert!(Instant::now() < deadline, "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn replica_when_leading(&self, id: i32) -> Arc<Replica> {
        eventually("it leads", || Some(self.replica(id)).filter(|replica| replica.leader_epoch().is_some()))
            .await
    }

    /// Exactly what is named is there; deletions may be under way.
    async fn await_no_orphans(&self) {
        let deadline = Instant::now() + LIMIT;
        while self.objects().await != self.named().await {
            assert!(Instant::now() < deadline, "{:?} {:?}", self.objects().await, self.manifest().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One round of retention.
    fn retain(&self, id: i32) {
        let manager = &self.brokers[&id].broker.replicas;
        crate::replica::maintenance::retain(manager, &self.replica(id), clock::now());
    }

    /// Values from `from` on, as a consumer gets them.
    async fn values(&self, id: i32, from: Offset) -> Vec<String> {
        let end = self.replica(id).high_watermark();
        let (mut values, mut next) = (Vec::new(), from);
        while next < end {
            let data = self.fetch(id, fetch_of(&[(0, next)], 0)).await.remove(0);
            assert_eq!(data.error_code, 0, "at {next}");
            for batch in whole_batches(data.records.unwrap_or_default()) {
                next = BatchHeader::parse(&batch).unwrap().next_offset();
                for record in ottla_batch::records(&batch, 1 << 20).unwrap() {
                    let record = record.unwrap();
                    if record.offset >= from {
                        values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
                    }
                }
            }
        }
        values
    }

    /// How often each key is there, and its last value.
    async fn keys(&self, id: i32) -> BTreeMap<String, (usize, Option<String>)> {
        let end = self.replica(id).high_watermark();
        let (mut keys, mut next) = (BTreeMap::new(), Offset(0));
        while next < end {
            let data = self.fetch(id, fetch_of(&[(0, next)], 0)).await.remove(0);
            assert_eq!(data.error_code, 0, "at {next}");
            for batch in whole_batches(data.records.unwrap_or_default()) {
                next = BatchHeader::parse(&batch).unwrap().next_offset();
                for record in ottla_batch::records(&batch, 1 << 20).unwrap() {
                    let record = record.unwrap();
                    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                    let (count, last) = keys.entry(text(record.key.unwrap())).or_insert((0, None));
                    *count += 1;
                    *last = record.value.map(text);
                }
            }
        }
        keys
    }

    async fn assert_values(&self, id: i32, values: &[String]) {
        assert_eq!(self.values(id, Offset(0)).await, values);
    }
}

fn values(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|value| format!("value {value}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_segments_go_to_the_tier_and_then_from_the_disks() {
    let (cluster, mut writers) = Cluster::start_writing(&[2, 3], &[("local.retention.bytes", "0")]).await;
    let leader = cluster.leader();
    produce(&leader, 0..60).await;
    let end = cluster.await_tiered().await;
    assert!(end > Offset(40), "{end}");
    cluster.await_equal_ends(&[2, 3]).await;
    for id in [2, 3] {
        cluster.retain(id);
        let replica = cluster.replica(id);
        assert_eq!((replica.log_start_offset(), replica.local_start_offset()), (Offset(0), end), "{id}");
        cluster.assert_values(id, &values(0..60)).await;
    }
    cluster.await_no_orphans().await;
    // Nothing is left to do, and nothing is done.
    let number = cluster.manifest().await.number;
    writers.stop_all().await;
    assert_eq!(cluster.manifest().await.number, number);
    let writers = Writers::start(&cluster);
    produce(&leader, 60..70).await;
    cluster.await_tiered().await;
    assert!(cluster.manifest().await.number > number);
    drop(writers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_leader_goes_on_where_the_tier_ends_and_removes_what_nobody_names() {
    let (cluster, mut writers) = Cluster::start_writing(&[2, 3], &[("local.retention.bytes", "0")]).await;
    let first = cluster.partition().leader.unwrap().0;
    produce(&cluster.leader(), 0..30).await;
    cluster.await_tiered().await;
    cluster.await_equal_ends(&[2, 3]).await;
    cluster.await_in_sync(&[2, 3]).await;
    // It uploaded one more, and was killed before it could write the manifest.
    writers.stop(first).await;
    let orphan = SegmentKey {
        topic_id: cluster.leader().topic_id().0,
        partition: 0,
        base_offset: Offset(20),
        end_offset: Offset(25),
        leader_epoch: LeaderEpoch(0),
        suffix: 7,
    };
    let content = Content::from(Bytes::from_static(b"half"));
    let orphan = format!("cluster/{orphan}");
    cluster.store.as_ref().unwrap().put(&orphan, content, Condition::Absent).await.unwrap();
    cluster.beat(first, true).await;
    let second = 5 - first;
    let leader = cluster.replica_when_leading(second).await;
    produce(&leader, 30..60).await;
    let end = cluster.await_tiered().await;
    assert!(end > Offset(45), "{end}");
    cluster.await_no_orphans().await;
    cluster.retain(second);
    assert_eq!(cluster.replica(second).local_start_offset(), end);
    cluster.assert_values(second, &values(0..60)).await;
    let epochs: BTreeSet<i32> =
        cluster.manifest().await.segments().iter().map(|segment| segment.leader_epoch.0).collect();
    assert_eq!(epochs.len(), 2, "both leaders copied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_store_loses_of_its_answers_the_tier_is_whole() {
    let (cluster, mut writers) = Cluster::start_writing(&[2], &[]).await;
    let store = cluster.store.as_ref().unwrap();
    store.lost_of.store(3, Ordering::SeqCst);
    let leader = cluster.leader();
    for n in 0..10 {
        produce(&leader, n * 10..(n + 1) * 10).await;
        if n % 3 == 2 {
            // At any moment: between upload and manifest, manifest and report.
            writers.stop(2).await;
            writers.start_one(&cluster, 2);
        }
    }
    let end = cluster.await_tiered().await;
    let lost = store.counts.lost_answers.load(Ordering::SeqCst);
    assert!(lost > 5, "{lost}");
    store.lost_of.store(0, Ordering::SeqCst);
    drop_local(&leader, end);
    cluster.assert_values(2, &values(0..100)).await;
    let manifest = cluster.manifest().await;
    assert!(manifest.segments().windows(2).all(|pair| pair[0].valid_to == pair[1].base_offset));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_away_nothing_is_refused_and_nothing_leaves_the_disk() {
    let (cluster, writers) = Cluster::start_writing(&[2], &[("local.retention.bytes", "0")]).await;
    let (store, leader) = (cluster.store.as_ref().unwrap(), cluster.leader());
    produce(&leader, 0..20).await;
    let before = cluster.await_tiered().await;
    let segments = cluster.manifest().await.segments().len() as f64;
    let no_lag = || (writers.metric(2, "copy_lag_segments") == 0.0).then_some(());
    eventually("no lag is told", || no_lag().filter(|()| writers.metric(2, "segments") == segments)).await;
    assert_eq!(writers.metric(2, "copied_segments_total"), segments);
    assert!(writers.metric(2, "copied_bytes_total") > 0.0 && writers.metric(2, "manifests_total") > 0.0);
    store.go_away(true);
    produce(&leader, 20..60).await;
    let refused = || store.counts.refused.load(Ordering::SeqCst);
    let before_now = refused();
    eventually("the store is asked again and again", || (refused() > before_now + 3).then_some(())).await;
    eventually("the lag is told", || {
        (writers.metric(2, "copy_lag_segments") >= 7.0 && writers.metric(2, "failing_partitions") == 1.0)
            .then_some(())
    })
    .await;
    assert!(writers.metric(2, "copy_failures_total") > 2.0 && writers.metric(2, "copy_lag_bytes") > 1000.0);
    cluster.retain(2);
    assert_eq!((leader.log_start_offset(), leader.local_start_offset()), (Offset(0), before));
    assert_eq!(cluster.values(2, before).await, values(before.0 as usize..60));
    store.go_away(false);
    let end = cluster.await_tiered().await;
    assert!(end > Offset(45));
    eventually("no lag is told", no_lag).await;
    eventually("nothing fails", || (writers.metric(2, "failing_partitions") == 0.0).then_some(())).await;
    cluster.retain(2);
    assert_eq!(leader.local_start_offset(), end);
    cluster.assert_values(2, &values(0..60)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_of_the_whole_moves_the_log_start_and_deletes_objects() {
    let (cluster, _writers) =
        Cluster::start_writing(&[2, 3], &[("local.retention.bytes", "0"), ("retention.bytes", "100000")])
            .await;
    let leader = cluster.leader();
    produce(&leader, 0..60).await;
    cluster.await_tiered().await;
    let bytes = cluster.manifest().await.size_in_bytes();
    assert_eq!(leader.log_start_offset(), Offset(0));
    cluster.set_config(ConfigResource::topic(TOPIC), "retention.bytes", &(bytes / 2).to_string()).await;
    let start =
        eventually("the log start moves", || Some(leader.log_start_offset()).filter(|start| start.0 > 10))
            .await;
    assert!(start < Offset(50), "{start}: half is to stay");
    cluster
        .await_objects("the objects go", |key| {
            key.rsplit('/')
                .next()
                .is_some_and(|name| name[..20].parse::<i64>().is_ok_and(|base| base >= start.0))
        })
        .await;
    while !cluster.manifest().await.unused().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let manifest = cluster.manifest().await;
    assert_eq!(manifest.log_start_offset, start);
    assert!(manifest.unused().is_empty() && manifest.size_in_bytes() <= bytes / 2 + bytes / 10);
    // Followers hear of it, and nobody reads below it.
    let follower = cluster.replica(5 - cluster.partition().leader.unwrap().0);
    eventually("the follower follows", || (follower.log_start_offset() == start).then_some(())).await;
    let id = cluster.partition().leader.unwrap().0;
    assert_eq!(cluster.values(id, start).await, values(start.0 as usize..60));
    let below = cluster.fetch(id, fetch_of(&[(0, start.plus(-1))], 0)).await.remove(0);
    assert_eq!(below.error_code, ResponseError::OffsetOutOfRange.code());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_records_leave_the_tier_and_what_comes_later_goes_there() {
    let (cluster, _writers) = Cluster::start_writing(&[2], &[]).await;
    let leader = cluster.leader();
    produce(&leader, 0..40).await;
    let end = cluster.await_tiered().await;
    leader.delete_records(Offset(11)).unwrap();
    cluster.await_objects("the first ones go", |key| !key.contains("/00000000000000000000-")).await;
    assert_eq!(cluster.values(2, Offset(11)).await, values(11..40));
    // Past all that is in the tier.
    leader.delete_records(end.plus(2)).unwrap();
    cluster.await_objects("all go", |_| false).await;
    produce(&leader, 40..60).await;
    let end = cluster.await_tiered().await;
    assert!(end > Offset(50));
    cluster.await_no_orphans().await;
    let start = leader.log_start_offset();
    assert_eq!(cluster.values(2, start).await, values(start.0 as usize..60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_leaves_nothing_in_the_tier() {
    let (cluster, _writers) = Cluster::start_writing(&[2, 3], &[]).await;
    produce(&cluster.leader(), 0..40).await;
    cluster.await_tiered().await;
    let metadata = &cluster.node.broker().metadata;
    let topics = vec![TopicReference::Name(TOPIC.to_owned())];
    let deleted = metadata.submit(DeleteTopics { topics }).await.unwrap();
    assert!(deleted[0].result.is_ok());
    assert_eq!(metadata.image().tiers_to_delete.len(), 1);
    eventually("the note is gone", || metadata.image().tiers_to_delete.is_empty().then_some(())).await;
    let left = cluster.store.as_ref().unwrap().directory.list("", None).await.unwrap();
    assert!(left.objects.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_unclean_election_the_tier_is_of_the_leaders_history() {
    let unclean = [("unclean.leader.election.enable", "true"), ("local.retention.bytes", "0")];
    let (cluster, _writers) = Cluster::start_writing(&[2, 3], &unclean).await;
    let first = cluster.partition().leader.unwrap().0;
    let second = 5 - first;
    produce(&cluster.leader(), 0..10).await;
    cluster.await_equal(&[2, 3]).await;
    cluster.cut(second, true);
    produce(&cluster.leader(), 10..40).await;
    cluster.await_in_sync(&[first]).await;
    assert!(cluster.await_tiered().await > Offset(25));
    cluster.beat(first, true).await;
    let leader = cluster.replica_when_leading(second).await;
    assert_eq!(leader.end_offset(), Offset(10));
    let mut expected = values(0..10);
    for n in 0..30 {
        let value = format!("other {n}");
        append(&leader, &value, RequiredAcks::All).unwrap().await.unwrap();
        expected.push(value);
    }
    let end = cluster.await_tiered().await;
    assert!(end > Offset(25));
    cluster.retain(second);
    assert_eq!(leader.local_start_offset(), end);
    cluster.assert_values(second, &expected).await;
    cluster.await_no_orphans().await;
    // Who had more comes back, and has what the leader has.
    cluster.cut(second, false);
    cluster.beat(first, false).await;
    cluster.await_in_sync(&[first, second]).await;
    cluster.await_equal_ends(&[2, 3]).await;
    cluster.assert_values(first, &expected).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_replaced_is_kept_from_the_tier() {
    let (cluster, _writers) = Cluster::start_writing(&[2], &[]).await;
    let (leader, store) = (cluster.leader(), cluster.store.as_ref().unwrap());
    produce(&leader, 0..20).await;
    cluster.await_tiered().await;
    // One that was replaced itself wrote a manifest: this leader reads it and goes on.
    let write = async |epoch: i32| {
        let writer = Writer { broker: 9, leader_epoch: LeaderEpoch(epoch), nonce: 1 };
        loop {
            match manifest::commit(&**store, "cluster/", &cluster.manifest().await.next(writer)).await {
                Err(manifest::ManifestError::Fenced { .. }) => {}
                committed => return committed.unwrap(),
            }
        }
    };
    write(-1).await;
    produce(&leader, 20..40).await;
    let end = cluster.await_tiered().await;
    assert!(end > Offset(30));
    // One of a newer epoch ends its work; this broker has not heard of that leader yet.
    write(7).await;
    let number = cluster.manifest().await.number;
    let objects = cluster.objects().await;
    let conflicts = || store.counts.conflicts.load(Ordering::SeqCst);
    let before = conflicts();
    produce(&leader, 40..60).await;
    eventually("it tries once more", || (conflicts() > before).then_some(())).await;
    assert_eq!(cluster.manifest().await.number, number);
    assert!(cluster.objects().await.is_superset(&objects));
    assert_eq!(cluster.position().unwrap().end_offset, end.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_leaves_the_tier_takes_nothing_along() {
    let (cluster, _writers) = Cluster::start_writing(&[2], &[("local.retention.bytes", "0")]).await;
    let leader = cluster.leader();
    produce(&leader, 0..40).await;
    let end = cluster.await_tiered().await;
    cluster.retain(2);
    assert_eq!(leader.local_start_offset(), end);
    let topic = || ConfigResource::topic(TOPIC);
    cluster.set_config(topic(), "remote.log.delete.on.disable", "true").await;
    cluster.set_config(topic(), "remote.storage.enable", "false").await;
    cluster.await_objects("all go", |_| false).await;
    assert_eq!((leader.log_start_offset(), leader.local_start_offset()), (end, end));
    assert_eq!(cluster.position().unwrap().end_offset, end.0);
    assert_eq!(cluster.values(2, end).await, values(end.0 as usize..40));
    // And back again.
    cluster.set_config(topic(), "remote.storage.enable", "true").await;
    produce(&leader, 40..60).await;
    let end = cluster.await_tiered().await;
    assert!(end > Offset(50));
    cluster.retain(2);
    let start = leader.log_start_offset();
    assert_eq!(cluster.values(2, start).await, values(start.0 as usize..60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_is_not_full_goes_to_the_tier_in_time() {
    let cluster = Cluster::start_tiered_with(&[2], &[("ottla.tier.segment.ms.max", "30")]).await;
    cluster.create(&[2], &[("remote.storage.enable", "true")]).await;
    let leader = cluster.leader();
    produce(&leader, 0..5).await;
    let _writers = Writers::start(&cluster);
    eventually("what is committed is in the tier", || {
        cluster.position().filter(|position| position.end_offset == 5)
    })
    .await;
    assert_eq!(leader.end_offset(), Offset(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_copied_turn_after_turn() {
    let interval = [("remote.log.manager.task.interval.ms", "3600000")];
    let cluster = Cluster::start_tiered_with(&[2], &interval).await;
    cluster.create(&[2], TIERED).await;
    let leader = cluster.leader();
    produce(&leader, 0..400).await;
    assert!(leader.past_tier(Offset(0)).sealed_segments > 70);
    let _writers = Writers::start(&cluster);
    let end = cluster.await_tiered().await;
    assert!(end > Offset(380), "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_topic_is_compacted_behind_the_tier_which_keeps_all_it_had() {
    let cluster = Cluster::start_tiered(&[2]).await;
    let compacted = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0"),
        ("delete.retention.ms", "0"),
        ("local.retention.bytes", "0"),
    ];
    cluster.create(&[2], &[TIERED, &compacted].concat()).await;
    let leader = cluster.leader();
    for n in 0..60 {
        // The second key is deleted in the middle.
        let (key, value) = match n {
            0..20 if n % 2 == 1 => ("deleted", Some(format!("value {n}"))),
            20 => ("deleted", None),
            _ => ("kept", Some(format!("value {n}"))),
        };
        let mut builder = BatchBuilder::new(BatchOptions::default());
        let value = value.as_deref().map(str::as_bytes);
        builder.push(TimestampMs(1), Some(key.as_bytes()), value, &[]).unwrap();
        let policy = leader.settings().append_policy(TimestampMs(1));
        let batches = check_produced(builder.build().unwrap(), &policy).unwrap();
        let request = AppendRequest {
            batches: &batches,
            origin: AppendOrigin::Client,
            acks: RequiredAcks::All,
            leader_epoch: LeaderEpoch::NONE,
        };
        leader.append(&request).unwrap().1.await.unwrap();
    }
    let manager = &cluster.brokers[&2].broker.replicas;
    let compact = || crate::replica::maintenance::compact_dirtiest(manager);
    assert!(!compact(), "nothing is in the tier as it was written");
    let writers = Writers::start(&cluster);
    let end = cluster.await_tiered().await;
    let bytes = leader.past_tier(Offset(0)).bytes;
    assert!(end > Offset(50) && compact());
    assert!(leader.past_tier(Offset(0)).bytes < bytes / 2);
    // On the disk only the last of each key is left; in the tier all are.
    assert_eq!(cluster.keys(2).await["deleted"], (1, None));
    cluster.retain(2);
    assert_eq!(leader.local_start_offset(), end);
    let keys = cluster.keys(2).await;
    assert_eq!(keys["deleted"], (11, None));
    assert_eq!(keys["kept"], (49, Some("value 59".to_owned())));
    drop(writers);
}
