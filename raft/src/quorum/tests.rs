//! The quorum as a whole: openraft's own storage suite on both stores, sled against its model, starts, restarts, crashes.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use openraft::StorageError;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, RaftLogReader};
use proptest::prelude::*;
use tempfile::TempDir;
use uuid::Uuid;

use super::cluster_tests::registration;
use super::controller::WAITING_REQUESTS_MAX;
use super::encoding::{DecodeError, StoredEntry, StoredLogId, StoredPayload, StoredVote, decode, encode};
use super::log_store::LogStore;
use super::start::{ENTRIES_KEPT, ENTRIES_PER_SNAPSHOT, PURGE_STEP};
use super::state_machine::StateMachine;
use super::store::{Cell, Write};
use super::store_memory::MemoryStore;
use super::store_sled::SledStore;
use super::types::{Change, Entry, Member, MetadataRaft, Vote, log_id};
use super::*;
use crate::metadata::decide::ITEMS_PER_REQUEST_MAX;
use crate::metadata::features;
use crate::metadata::ids::{ClusterId, TopicId};
use crate::metadata::records::{ConfigResource, Record};
use crate::requests::*;

// ---- openraft's suite

struct SledBuilder;
struct MemoryBuilder;

fn parts(store: Arc<dyn Store>) -> (LogStore, StateMachine) {
    let cluster = ClusterId("suite".into());
    let published = Arc::new(Published::new(Image::empty(cluster.clone())));
    (LogStore::open(store.clone(), None).unwrap(), StateMachine::new(cluster, published, store))
}

impl StoreBuilder<MetadataRaft, LogStore, StateMachine, TempDir> for SledBuilder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<MetadataRaft>> {
        let directory = tempfile::tempdir().unwrap();
        let (log, machine) = parts(Arc::new(SledStore::open(directory.path()).unwrap()));
        Ok((directory, log, machine))
    }
}

impl StoreBuilder<MetadataRaft, LogStore, StateMachine, ()> for MemoryBuilder {
    async fn build(&self) -> Result<((), LogStore, StateMachine), StorageError<MetadataRaft>> {
        let (log, machine) = parts(Arc::new(MemoryStore::new()));
        Ok(((), log, machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_storage_suite_on_memory() {
    Suite::test_all(MemoryBuilder).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_storage_suite_on_sled() {
    Suite::test_all(SledBuilder).await.unwrap();
}

// ---- sled against its model

#[derive(Clone, Debug)]
enum Operation {
    /// Entries of these sizes at the end.
    Append(Vec<usize>),
    /// Keeps this share of the entries, in percent.
    Truncate(u64),
    Purge(u64),
    SetCell(Cell, Option<u8>),
    Snapshot(usize),
    Reopen,
}

fn operation() -> impl Strategy<Value = Operation> {
    let size = prop_oneof![4 => 0..200usize, 2 => 4_000..4_200usize, 1 => 4_200..150_000usize];
    let cell = prop::sample::select(Cell::ALL.to_vec());
    prop_oneof![
        5 => proptest::collection::vec(size, 1..12).prop_map(Operation::Append),
        1 => (0..100u64).prop_map(Operation::Truncate),
        2 => (0..100u64).prop_map(Operation::Purge),
        2 => (cell, any::<Option<u8>>()).prop_map(|(cell, value)| Operation::SetCell(cell, value)),
        1 => (0..50_000usize).prop_map(Operation::Snapshot),
        2 => Just(Operation::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// After every step, and after every reopening, both stores show the same.
    #[test]
    fn sled_does_what_the_model_does(operations in proptest::collection::vec(operation(), 1..40)) {
        let directory = tempfile::tempdir().unwrap();
        let model = MemoryStore::new();
        let mut sled = SledStore::open(directory.path()).unwrap();
        let mut number = 0usize;
        for operation in operations {
            let bounds = model.bounds().unwrap();
            let writes = match operation {
                Operation::Append(sizes) => {
                    let first = bounds.map_or(number as u64, |(_, last)| last + 1);
                    let entry = |(index, size): (u64, usize)| {
                        let bytes = (0..size).map(|at| (at * 31 + number + index as usize) as u8).collect();
                        Write::Entry { index, bytes }
                    };
                    (first..).zip(sizes).map(entry).collect()
                }
                Operation::Truncate(percent) => {
                    let Some((first, last)) = bounds else { continue };
                    vec![Write::Truncate { start: first + (last + 1 - first) * percent / 100 }]
                }
                Operation::Purge(percent) => {
                    let Some((first, last)) = bounds else { continue };
                    vec![Write::Purge { end: first + (last + 1 - first) * percent / 100 }]
                }
                Operation::SetCell(cell, value) => {
                    vec![Write::Cell { cell, bytes: value.map(|value| vec![value; usize::from(value)]) }]
                }
                Operation::Snapshot(size) => {
                    let bytes = vec![number as u8; size];
                    model.save_snapshot(&bytes).unwrap();
                    sled.save_snapshot(&bytes).unwrap();
                    vec![]
                }
                Operation::Reopen => {
                    sled.sync().unwrap();
                    sled.close();
                    drop(sled);
                    sled = SledStore::open(directory.path()).unwrap();
                    vec![]
                }
            };
            model.write(&writes).unwrap();
            sled.write(&writes).unwrap();
            number += 1;
            prop_assert_eq!(model.bounds().unwrap(), sled.bounds().unwrap());
            prop_assert!(model.entries(0..u64::MAX).unwrap() == sled.entries(0..u64::MAX).unwrap());
            for cell in Cell::ALL {
                prop_assert_eq!(model.cell(cell).unwrap(), sled.cell(cell).unwrap());
            }
            prop_assert_eq!(model.snapshot().unwrap(), sled.snapshot().unwrap());
        }
    }
}

#[test]
fn a_closed_store_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path()).unwrap();
    store.close();
    assert!(store.write(&[]).is_err() && store.sync().is_err() && store.save_snapshot(b"x").is_err());
}

#[test]
fn room_for_a_snapshot_is_used_by_the_next_one_whatever_its_size() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path()).unwrap();
    for (reserved, size) in [(1_000, 10), (10, 5_000), (100_000, 0)] {
        store.reserve_snapshot(reserved).unwrap();
        store.save_snapshot(&vec![7; size]).unwrap();
        assert_eq!(store.snapshot().unwrap(), Some(vec![7; size]));
    }
    assert!(store.reserve_snapshot(1 << 60).is_err(), "no disk has so much");
    assert!(!directory.path().join("snapshot.tmp").exists());
}

#[test]
fn the_torn_end_of_an_append_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path()).unwrap();
    store.write(&[Write::Entry { index: 0, bytes: vec![1; 10] }]).unwrap();
    store.close();
    // What a crash leaves of an entry of several chunks: the later chunks come first.
    let database = sled::open(directory.path().join("store")).unwrap();
    let entries = database.open_tree("entries").unwrap();
    for chunk in 1u32..4 {
        let key = [1u64.to_be_bytes().as_slice(), chunk.to_be_bytes().as_slice()].concat();
        entries.insert(key, vec![7; 100]).unwrap();
    }
    drop(entries);
    drop(database);
    let store = SledStore::open(directory.path()).unwrap();
    assert_eq!(store.bounds().unwrap(), Some((0, 0)));
    assert_eq!(store.entries(0..9).unwrap(), vec![(0, vec![1; 10])]);
}

/// sled believes a snapshot that it did not finish, and refuses one that is empty or torn as corruption.
#[test]
fn a_crash_or_a_full_disk_while_the_store_opens_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    for (round, content) in [&b""[..], b"torn", &[0; 100]].into_iter().enumerate() {
        let store = SledStore::open(directory.path()).unwrap();
        store.write(&[Write::Entry { index: round as u64, bytes: vec![1; 10] }]).unwrap();
        store.sync().unwrap();
        store.close();
        fs::write(directory.path().join("store/snap.FFFFFFFFFFFFFFFF.generating"), content).unwrap();
        let store = SledStore::open(directory.path()).unwrap();
        assert_eq!(store.bounds().unwrap(), Some((0, round as u64)));
        store.close();
    }
}

/// The db file stays in proportion to what is in it, however much goes through.
#[test]
fn the_file_does_not_grow_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let store = SledStore::open(directory.path()).unwrap();
    let size = || fs::metadata(directory.path().join("store/db")).unwrap().len();
    let mut halfway = 0;
    for index in 0..20_000u64 {
        store.write(&[Write::Entry { index, bytes: vec![index as u8; 500] }]).unwrap();
        if index % 500 == 499 {
            store.write(&[Write::Purge { end: index - 400 }]).unwrap();
            store.sync().unwrap();
        }
        if index == 10_000 {
            halfway = size();
        }
    }
    assert!(size() <= halfway.max(8 << 20) * 3 / 2, "{halfway} bytes halfway, {} at the end", size());
}

// ---- stored forms

fn golden_entry() -> StoredEntry {
    StoredEntry {
        epoch: 3,
        offset: 7,
        payload: StoredPayload::Records {
            decided_in: 3,
            records: vec![
                Record::TopicCreated { name: "t".into(), id: TopicId(Uuid::from_u128(5)) },
                Record::ConfigSet {
                    resource: ConfigResource::topic("t"),
                    key: "k".into(),
                    value: Some("v".into()),
                },
                Record::BrokerChanged {
                    id: BrokerId(1),
                    epoch: crate::metadata::ids::BrokerEpoch(9),
                    fenced: Some(false),
                    in_controlled_shutdown: None,
                    log_dirs: None,
                },
            ],
        },
    }
}

/// The bytes on disk: a change here breaks every existing cluster.
#[test]
fn golden_bytes() {
    let bytes: String = encode(&golden_entry()).unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/quorum/golden_entry.hex")).unwrap();
    assert_eq!(bytes, text.trim());
    let bytes: Vec<u8> = (0..text.trim().len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect();
    assert_eq!(decode(&bytes), Ok(golden_entry()));
}

fn golden_tier_records() -> Vec<Record> {
    let topic = TopicId(Uuid::from_u128(5));
    let leader_epoch = crate::metadata::ids::LeaderEpoch(2);
    vec![
        Record::TierReported {
            topic,
            partition: 1,
            manifest: 7,
            end_offset: 1000,
            leader_epoch,
            is_doubtful: false,
        },
        Record::TierReported {
            topic,
            partition: 2,
            manifest: 8,
            end_offset: 9,
            leader_epoch,
            is_doubtful: true,
        },
        Record::TierLeft { topic, name: "t".into(), partitions: 3 },
        Record::TierDeleted { topic },
    ]
}

#[test]
fn golden_bytes_of_what_is_said_of_the_tier() {
    let bytes = encode(&golden_tier_records()).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, include_str!("golden_tier_records.hex").trim());
    assert_eq!(decode(&bytes), Ok(golden_tier_records()));
}

#[derive(serde::Serialize)]
enum NewerRecord {
    TopicCreated { name: String, id: Uuid, added_later: Vec<u8> },
    FromTheFuture { x: u8 },
}

#[test]
fn newer_fields_are_skipped_and_newer_kinds_are_named() {
    let newer = |record| encode(&vec![record]).unwrap();
    let known =
        newer(NewerRecord::TopicCreated { name: "t".into(), id: Uuid::nil(), added_later: vec![1, 2] });
    let record = Record::TopicCreated { name: "t".into(), id: TopicId::ZERO };
    assert_eq!(decode::<Vec<Record>>(&known), Ok(vec![record]));
    let unknown = decode::<Vec<Record>>(&newer(NewerRecord::FromTheFuture { x: 1 })).unwrap_err();
    assert!(unknown.to_string().contains("FromTheFuture"), "{unknown}");
    assert_eq!(decode::<u8>(&[9, 1]), Err(DecodeError::UnknownFormat(9)));
    assert_eq!(decode::<u8>(&[]), Err(DecodeError::Empty));
    assert!(matches!(decode::<Vec<Record>>(&[1, 0xc1]), Err(DecodeError::Malformed(_))));
}

#[test]
fn votes_and_voters_survive_their_stored_form() {
    for vote in [Vote::new(3, 1), Vote::new_committed(4, 2)] {
        assert_eq!(Vote::from(StoredVote::from(&vote)), vote);
    }
    let member = |address: &str, directory_id| Member { address: address.into(), directory_id };
    let nodes = BTreeMap::from([(1, member("a:1", Uuid::nil())), (2, member("b:2", Uuid::from_u128(7)))]);
    let voters = types::Membership::new(vec![[1].into(), [1, 2].into()], nodes).unwrap();
    assert_eq!(encoding::StoredVoters::from(&voters).to_membership(), Ok(voters));
}

// ---- the log

async fn append(log: &mut LogStore, entries: Vec<Entry>) -> std::io::Result<()> {
    let (done, flushed) = MetadataRaft::oneshot();
    log.append(entries, IOFlushed::signal(done)).await?;
    flushed.await.unwrap()
}

fn blank(epoch: u64, offset: u64) -> Entry {
    Entry::new(log_id(epoch, offset), EntryPayload::Blank)
}

#[tokio::test]
async fn nothing_is_acknowledged_that_a_crash_takes() {
    let store = Arc::new(MemoryStore::new());
    let (mut log, _) = parts(store.clone());
    append(&mut log, vec![blank(1, 0), blank(1, 1)]).await.unwrap();
    log.save_vote(&Vote::new_committed(2, 1)).await.unwrap();
    store.write(&[Write::Entry { index: 2, bytes: vec![] }]).unwrap();
    store.crash();
    let (mut log, _) = parts(store);
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 1)));
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(2, 1)));
}

#[tokio::test]
async fn the_first_failed_write_is_the_last() {
    let store = Arc::new(MemoryStore::new());
    let (mut log, _) = parts(store.clone());
    append(&mut log, vec![blank(1, 0)]).await.unwrap();
    store.fail_writes();
    assert!(append(&mut log, vec![blank(1, 1)]).await.is_err());
    // The disk works again, but what it holds is not known.
    store.crash();
    let error = append(&mut log, vec![blank(1, 1)]).await.unwrap_err();
    assert!(error.to_string().contains("failed before"), "{error}");
    assert!(log.save_vote(&Vote::new(2, 1)).await.is_err());
}

#[test]
fn broken_logs_are_refused() {
    let entry = |offset: u64| Write::Entry {
        index: offset,
        bytes: encode(&StoredEntry { epoch: 1, offset, payload: StoredPayload::Blank }).unwrap(),
    };
    let purged = |offset| Write::Cell {
        cell: Cell::Purged,
        bytes: Some(encode(&StoredLogId { epoch: 1, offset }).unwrap()),
    };
    let refused = |writes: &[Write], snapshot: Option<u64>, text: &str| {
        let store = Arc::new(MemoryStore::new());
        store.write(writes).unwrap();
        let snapshot = snapshot.map(|offset| StoredLogId { epoch: 1, offset });
        let error = LogStore::open(store, snapshot).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(text), "`{error}` does not say `{text}`");
    };
    refused(&[entry(0), entry(2)], None, "no entry 1, but has 2");
    refused(&[entry(1)], None, "should begin at offset 0 and begins at 1");
    refused(&[purged(4), entry(6)], Some(5), "should begin at offset 5 and begins at 6");
    refused(&[purged(4), entry(5)], Some(3), "no snapshot reaches that far");
    refused(&[purged(4), entry(5)], None, "no snapshot reaches that far");
    refused(&[Write::Cell { cell: Cell::Purged, bytes: Some(vec![9]) }], None, "format 9");
    refused(&[Write::Entry { index: 0, bytes: vec![2, 0] }], None, "entry 0: it is stored in format 2");
    let Write::Entry { bytes, .. } = entry(7) else { unreachable!() };
    refused(&[Write::Entry { index: 0, bytes }], None, "entry 0 says it is entry 7");

    // A purge that a crash interrupted is finished.
    let store = Arc::new(MemoryStore::new());
    store.write(&[purged(1), entry(1), entry(2)]).unwrap();
    LogStore::open(store.clone(), Some(StoredLogId { epoch: 1, offset: 2 })).unwrap();
    assert_eq!(store.bounds().unwrap(), Some((2, 2)));
}

// ---- the state machine

async fn apply(machine: &mut StateMachine, entry: Entry) -> std::io::Result<()> {
    machine.apply(futures::stream::iter([Ok((entry, None))])).await
}

fn created(decided_in: u64, at: openraft::alias::LogIdOf<MetadataRaft>, id: u128) -> Entry {
    let name = format!("topic-{id}").into();
    let records = vec![Record::TopicCreated { name, id: TopicId(Uuid::from_u128(id)) }];
    Entry::new(at, EntryPayload::Normal(Change { decided_in, records }))
}

#[tokio::test]
async fn an_entry_of_another_epoch_is_void() {
    let (_, mut machine) = parts(Arc::new(MemoryStore::new()));
    apply(&mut machine, created(1, log_id(1, 1), 11)).await.unwrap();
    apply(&mut machine, created(1, log_id(2, 2), 12)).await.unwrap();
    apply(&mut machine, created(2, log_id(2, 3), 13)).await.unwrap();
    let names: Vec<String> =
        machine.published_image().topic_names.keys().map(|name| name.to_string()).collect();
    assert_eq!(names, ["topic-11", "topic-13"]);
    assert_eq!(machine.applied_state().await.unwrap().0, Some(log_id(2, 3)), "void, but applied");
}

#[tokio::test]
async fn a_record_that_contradicts_the_image_stops_instead_of_spreading() {
    let (_, mut machine) = parts(Arc::new(MemoryStore::new()));
    apply(&mut machine, created(1, log_id(1, 1), 11)).await.unwrap();
    let error = apply(&mut machine, created(1, log_id(1, 2), 11)).await.unwrap_err();
    assert!(error.to_string().contains("given twice"), "{error}");
    assert_eq!(machine.published_image().last_offset, 1);
}

// ---- a whole node

fn config(directory: &TempDir) -> MetadataConfig {
    MetadataConfig::new(BrokerId(1), directory.path())
}

async fn register(metadata: &Metadata) -> crate::metadata::ids::BrokerEpoch {
    let epoch = metadata.submit(registration(1)).await.unwrap().unwrap();
    let heartbeat = BrokerHeartbeat {
        id: BrokerId(1),
        epoch,
        metadata_offset: metadata.image().last_offset,
        want_fence: false,
        want_shut_down: false,
        offline_log_dirs: Vec::new(),
    };
    assert!(!metadata.submit(heartbeat).await.unwrap().unwrap().is_fenced);
    epoch
}

fn topic(name: &str) -> CreateTopics {
    let topic = NewTopic {
        name: name.into(),
        partitions: 2,
        replication_factor: 1,
        assignments: vec![],
        configs: vec![("retention.ms".into(), "1".into())],
    };
    CreateTopics { topics: vec![topic], validate_only: false }
}

async fn create(metadata: &Metadata, name: &str) -> TopicId {
    metadata.submit(topic(name)).await.unwrap().remove(0).result.unwrap().id
}

/// The controller goes on with a request until its last step is written, and then answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_of_many_partitions_is_fenced_in_several_entries() {
    let directory = tempfile::tempdir().unwrap();
    let metadata = Metadata::start(config(&directory)).await.unwrap();
    let epoch = register(&metadata).await;
    let mut request = topic("t");
    request.topics[0].partitions = 5_000;
    metadata.submit(request).await.unwrap().remove(0).result.unwrap();
    let heartbeat = |want_fence| BrokerHeartbeat {
        id: BrokerId(1),
        epoch,
        metadata_offset: u64::MAX,
        want_fence,
        want_shut_down: false,
        offline_log_dirs: Vec::new(),
    };
    let before = metadata.image().last_offset;
    let (fenced, other) = tokio::join!(metadata.submit(heartbeat(true)), metadata.submit(topic("u")));
    assert!(fenced.unwrap().unwrap().is_fenced);
    assert!(other.unwrap()[0].result.is_err(), "decided after the last step: nobody is there to lead");
    let image = metadata.image();
    assert_eq!((image.leaderless_count(), image.last_offset - before), (5_000, 3));
    assert!(!metadata.submit(heartbeat(false)).await.unwrap().unwrap().is_fenced);
    let image = metadata.image();
    assert_eq!((image.leaderless_count(), image.last_offset - before), (0, 6));
    metadata.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_keeps_its_metadata() {
    let directory = tempfile::tempdir().unwrap();
    let metadata = Metadata::start(config(&directory)).await.unwrap();
    assert!(metadata.is_controller());
    assert_eq!(metadata.image().cluster_id.0.len(), 22);
    let mut changes = metadata.changes();
    let first = register(&metadata).await;
    assert!(changes.has_changed().unwrap());
    let id = create(&metadata, "a").await;
    let image = metadata.image();
    assert_eq!(*changes.borrow_and_update(), image.last_offset);
    assert_eq!(image.topic_by_name("a").unwrap().id, id, "visible when it is answered");
    assert_eq!(image.features.get(features::METADATA_VERSION), Some(&25));
    let quorum = metadata.quorum();
    assert_eq!((quorum.leader, quorum.leader_epoch), (Some(BrokerId(1)), 1));
    assert_eq!(quorum.high_watermark, image.last_offset as i64 + 1);
    assert_eq!(quorum.voters.len(), 1);
    assert_eq!(quorum.voters[0].log_end_offset, quorum.high_watermark);
    metadata.shutdown().await;
    assert!(matches!(metadata.submit(topic("late")).await, Err(SubmitError::Stopped(_))));
    metadata.shutdown().await;

    let metadata = Metadata::start(config(&directory)).await.unwrap();
    assert_eq!(*metadata.image(), *image, "a restart replays to the same image");
    assert_eq!(metadata.quorum().leader_epoch, 2);
    assert!(register(&metadata).await > first);
    assert_eq!(metadata.image().partition("a", 0).unwrap().leader_epoch.0, 2);
    metadata.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_replaces_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let metadata = Metadata::start(config(&directory)).await.unwrap();
    let epoch = register(&metadata).await;
    create(&metadata, "a.b").await;
    for _ in 0..ENTRIES_PER_SNAPSHOT + ENTRIES_KEPT + PURGE_STEP + 10 {
        let request = AllocateProducerIds { broker: BrokerId(1), epoch };
        metadata.submit(request).await.unwrap().unwrap();
    }
    // The snapshot is built beside the writes.
    let purged = metadata.raft.wait(Some(Duration::from_secs(20)));
    purged.metrics(|metrics| metrics.purged.is_some(), "the log is purged").await.unwrap();
    let image = metadata.image();
    metadata.shutdown().await;
    drop(metadata);
    let store = SledStore::open(&directory.path().join(DIRECTORY_NAME)).unwrap();
    let (first, last) = store.bounds().unwrap().unwrap();
    assert!(first > ENTRIES_PER_SNAPSHOT - ENTRIES_KEPT - 1 && last - first < 2 * ENTRIES_PER_SNAPSHOT);
    store.close();
    let metadata = Metadata::start(config(&directory)).await.unwrap();
    assert_eq!(*metadata.image(), *image);
    let again = metadata.submit(topic("a_b")).await.unwrap().remove(0).result;
    assert!(
        matches!(again, Err(CreateTopicError::InvalidName(_))),
        "what is derived is there too: {again:?}"
    );
    metadata.shutdown().await;
}

#[tokio::test]
async fn requests_that_wait_share_entries_and_are_bounded() {
    let store = Arc::new(MemoryStore::new());
    let metadata = Metadata::start_in_memory(MetadataConfig::new(BrokerId(1), ""), store).await.unwrap();
    register(&metadata).await;
    let before = metadata.image().last_offset;
    // On one thread the controller does not run before all have asked.
    let names: Vec<String> = (0..WAITING_REQUESTS_MAX + 100).map(|number| format!("t{number}")).collect();
    let answers = futures::future::join_all(names.iter().map(|name| metadata.submit(topic(name)))).await;
    let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(accepted.len(), WAITING_REQUESTS_MAX);
    assert!(refused.iter().all(|answer| matches!(answer, Err(SubmitError::Refused(_)))));
    assert_eq!(metadata.image().topics.len(), WAITING_REQUESTS_MAX);
    let entries = metadata.image().last_offset - before;
    assert!(entries <= 8, "{entries} entries for {WAITING_REQUESTS_MAX} requests");

    let topics = vec![TopicReference::Name("x".into()); ITEMS_PER_REQUEST_MAX + 1];
    assert!(matches!(metadata.submit(DeleteTopics { topics }).await, Err(SubmitError::Refused(_))));
    metadata.shutdown().await;
}

#[tokio::test]
async fn a_failed_disk_stops_the_metadata_and_acknowledges_nothing() {
    let store = Arc::new(MemoryStore::new());
    let start = |store| Metadata::start_in_memory(MetadataConfig::new(BrokerId(1), ""), store);
    let metadata = start(store.clone()).await.unwrap();
    register(&metadata).await;
    create(&metadata, "before").await;
    store.fail_writes();
    let answer = metadata.submit(topic("after")).await;
    assert!(matches!(answer, Err(SubmitError::Stopped(_) | SubmitError::OutcomeUnknown)), "{answer:?}");
    let reason = metadata.stopped().await;
    assert!(reason.contains("disk fails"), "{reason}");
    assert!(matches!(metadata.submit(topic("later")).await, Err(SubmitError::Stopped(_))));
    metadata.shutdown().await;
    store.crash();
    let metadata = start(store).await.unwrap();
    assert!(metadata.image().topic_by_name("before").is_some());
    metadata.shutdown().await;
}

#[tokio::test]
async fn a_full_disk_refuses_growth_and_takes_the_rest() {
    let store = Arc::new(MemoryStore::new());
    let config = MetadataConfig::new(BrokerId(1), "");
    let metadata = Metadata::start_in_memory(config, store.clone()).await.unwrap();
    register(&metadata).await;
    create(&metadata, "before").await;
    store.limit_room(Some(2 << 20));
    let refused = metadata.submit(topic("grows")).await;
    assert!(matches!(refused, Err(SubmitError::NoRoom(_))), "{refused:?}");
    // What frees space still works.
    let topics = vec![TopicReference::Name("before".into())];
    assert!(metadata.submit(DeleteTopics { topics: topics.clone() }).await.unwrap()[0].result.is_ok());
    assert!(metadata.image().topic_by_name("before").is_none());
    store.limit_room(Some(0));
    let refused = metadata.submit(DeleteTopics { topics }).await;
    assert!(matches!(refused, Err(SubmitError::NoRoom(_))), "{refused:?}");
    // It goes on by itself.
    store.limit_room(None);
    create(&metadata, "grows").await;
    metadata.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_broker_is_fenced_and_a_living_one_is_not_replaced() {
    let mut config = MetadataConfig::new(BrokerId(9), "");
    config.broker_session_timeout = Some(Duration::from_secs(9));
    let store = Arc::new(MemoryStore::new());
    let metadata = Metadata::start_in_memory(config, store).await.unwrap();
    register(&metadata).await;
    let other = metadata.submit(registration(1)).await.unwrap();
    assert_eq!(other, Err(RegisterBrokerError::Duplicate(BrokerId(1))));
    // Another broker is heard of all the time, which must not hide the silence of the first.
    let second = RegisterBroker { id: BrokerId(2), ..registration(1) };
    let epoch = metadata.submit(second).await.unwrap().unwrap();
    let begin = tokio::time::Instant::now();
    while !metadata.image().broker(BrokerId(1)).unwrap().fenced {
        assert!(begin.elapsed().as_secs() < 14, "never fenced");
        let heartbeat = BrokerHeartbeat {
            id: BrokerId(2),
            epoch,
            metadata_offset: metadata.image().last_offset,
            want_fence: false,
            want_shut_down: false,
            offline_log_dirs: Vec::new(),
        };
        metadata.submit(heartbeat).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(begin.elapsed().as_secs() >= 8, "after {:?}", begin.elapsed());
    assert!(!metadata.image().broker(BrokerId(2)).unwrap().fenced);
    metadata.submit(registration(1)).await.unwrap().unwrap();
    metadata.shutdown().await;
}

// ---- starts that are refused

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_belongs_to_one_cluster_node_and_process() {
    let directory = tempfile::tempdir().unwrap();
    let mine = MetadataConfig { cluster_id: Some(ClusterId("mine".into())), ..config(&directory) };
    let metadata = Metadata::start(mine.clone()).await.unwrap();
    assert_eq!(&*metadata.image().cluster_id.0, "mine");
    let error = Metadata::start(mine.clone()).await.err();
    assert!(matches!(error, Some(StartError::Locked { .. })), "{error:?}");
    metadata.shutdown().await;
    let other = MetadataConfig { cluster_id: Some(ClusterId("other".into())), ..mine.clone() };
    let error = Metadata::start(other).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("cluster mine") && error.contains("cluster other"), "{error}");
    let error = Metadata::start(MetadataConfig { node_id: BrokerId(2), ..mine.clone() }).await.err();
    assert!(matches!(error, Some(StartError::OtherNode { found: BrokerId(1), expected: BrokerId(2), .. })));
    let error = Metadata::start(MetadataConfig { node_id: BrokerId(-1), ..mine.clone() }).await.err();
    assert!(matches!(error, Some(StartError::InvalidConfig(_))));
    let unnamed = MetadataConfig { cluster_id: None, ..mine };
    Metadata::start(unnamed).await.unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let metadata = Metadata::start(config(&directory)).await.unwrap();
    register(&metadata).await;
    create(&metadata, "a").await;
    metadata.snapshot().await.unwrap();
    let wait = metadata.raft.wait(Some(Duration::from_secs(10)));
    wait.metrics(|metrics| metrics.snapshot.is_some(), "a snapshot").await.unwrap();
    metadata.shutdown().await;
    drop(metadata);
    let path = directory.path().join(DIRECTORY_NAME);
    let refused = async |text: &str| {
        let error = Metadata::start(config(&directory)).await.err();
        assert!(matches!(error, Some(StartError::Corrupt { .. })), "{error:?}");
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(text), "`{error}` does not say `{text}`");
    };
    let damage = |file: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let file = path.join(file);
        let good = fs::read(&file).unwrap();
        let mut bad = good.clone();
        change(&mut bad);
        fs::write(&file, bad).unwrap();
        move || fs::write(&file, good.clone()).unwrap()
    };
    let repair = damage("snapshot", &|bytes| bytes[20] ^= 1);
    refused("snapshot is damaged").await;
    repair();
    let repair = damage("snapshot", &|bytes| bytes.truncate(3));
    refused("snapshot is damaged").await;
    repair();
    let repair = damage("identity.json", &|bytes| bytes.truncate(5));
    refused("identity.json").await;
    repair();
    let repair = damage("identity.json", &|bytes| {
        *bytes =
            String::from_utf8(bytes.clone()).unwrap().replace("\"format\": 1", "\"format\": 2").into_bytes();
    });
    refused("format 2").await;
    repair();
    fs::rename(path.join("identity.json"), path.join("away")).unwrap();
    refused("no identity.json").await;
    fs::rename(path.join("away"), path.join("identity.json")).unwrap();
    Metadata::start(config(&directory)).await.unwrap().shutdown().await;
}
