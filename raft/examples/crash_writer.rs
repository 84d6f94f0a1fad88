//! The process that crash tests kill: writes to a metadata store and prints what was acknowledged, one line each, or
//! checks that a store still has all of it. Driven by `tests/crash/power_cut.sh` and by `tests/kill_reopen.rs`.
//!
//!   crash_writer log <dir> <seed>       appends, truncates, purges, votes on the Raft log's store until it fails or dies
//!   crash_writer log-unsynced <dir> <seed>   the same with syncs that do nothing: a check that does not notice is broken
//!   crash_writer node <dir> <seed>      runs a whole node and creates and deletes topics
//!   crash_writer check-log <dir> <acknowledged>...    verifies; the files hold what earlier `log` runs printed
//!   crash_writer check-node <dir> <acknowledged>...
//!   crash_writer cut <mount point>      shuts the file system down: what was not synced is gone
//!
//! A line that is printed is a promise: it is written after the store's acknowledgement and flushed at once. What is
//! about to be taken back is announced before (`truncating`, `deleting`), since a crash leaves open whether it happened.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{
    EntryPayload, RaftLogReader, RaftSnapshotBuilder, entry::RaftEntry, storage::RaftStateMachine,
};
use ottla_raft::metadata::records::Record;
use ottla_raft::quorum::encoding::{StoredLogId, StoredSnapshot, decode};
use ottla_raft::quorum::log_store::LogStore;
use ottla_raft::quorum::state_machine::{Published, StateMachine};
use ottla_raft::quorum::store::{Cell, Store, Write};
use ottla_raft::quorum::store_sled::SledStore;
use ottla_raft::quorum::types::{Change, Entry, MetadataRaft, Vote, log_id};
use ottla_raft::requests::{CreateTopics, DeleteTopics, NewTopic, RegisterBroker, TopicReference};
use ottla_raft::{BrokerId, ClusterId, ConfigResource, Endpoint, Image, Metadata, MetadataConfig, TopicId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = match arguments.as_slice() {
        ["log", directory, seed] => runtime.block_on(write_log(Path::new(directory), seed, Syncs::Real)),
        ["log-unsynced", directory, seed] => {
            runtime.block_on(write_log(Path::new(directory), seed, Syncs::None))
        }
        ["node", directory, seed] => runtime.block_on(write_node(Path::new(directory), seed)),
        ["check-log", directory, files @ ..] => runtime.block_on(check_log(Path::new(directory), files)),
        ["check-node", directory, files @ ..] => runtime.block_on(check_node(Path::new(directory), files)),
        ["cut", mount_point] => cut(Path::new(mount_point)),
        _ => {
            eprintln!("usage: see the head of crash_writer.rs");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crash_writer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn acknowledge(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    // Nobody to promise to any more: the driver is gone.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(3);
    }
}

/// FS_IOC_SHUTDOWN without flushing the journal (EXT4_GOING_FLAGS_NOLOGFLUSH): the exact state of a power cut.
fn cut(mount_point: &Path) -> anyhow::Result<()> {
    const FS_IOC_SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
    const NO_LOG_FLUSH: u32 = 2;
    let directory = std::fs::File::open(mount_point)?;
    // SAFETY: the request reads one u32 through the pointer, which is what `Setter` passes.
    unsafe {
        let request = rustix::ioctl::Setter::<FS_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH);
        rustix::ioctl::ioctl(&directory, request)?;
    }
    Ok(())
}

// ---- the Raft log's store

struct Opened {
    store: Arc<dyn Store>,
    log: LogStore,
    machine: StateMachine,
    snapshot: Option<StoredLogId>,
}

#[derive(Clone, Copy)]
enum Syncs {
    Real,
    None,
}

/// A store that lies about syncs.
struct Unsynced(SledStore);

impl Store for Unsynced {
    fn entries(&self, range: std::ops::Range<u64>) -> std::io::Result<Vec<(u64, Vec<u8>)>> {
        self.0.entries(range)
    }
    fn bounds(&self) -> std::io::Result<Option<(u64, u64)>> {
        self.0.bounds()
    }
    fn cell(&self, cell: Cell) -> std::io::Result<Option<Vec<u8>>> {
        self.0.cell(cell)
    }
    fn write(&self, writes: &[Write]) -> std::io::Result<()> {
        self.0.write(writes)
    }
    fn reserve(&self, bytes: u64) -> std::io::Result<()> {
        self.0.reserve(bytes)
    }
    fn reserve_snapshot(&self, bytes: u64) -> std::io::Result<()> {
        self.0.reserve_snapshot(bytes)
    }
    fn sync(&self) -> std::io::Result<()> {
        Ok(())
    }
    fn sync_blocks(&self) -> bool {
        true
    }
    fn save_snapshot(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.save_snapshot(bytes)
    }
    fn snapshot(&self) -> std::io::Result<Option<Vec<u8>>> {
        self.0.snapshot()
    }
    fn close(&self) {
        self.0.close();
    }
}

fn open_log(directory: &Path, syncs: Syncs) -> anyhow::Result<Opened> {
    std::fs::create_dir_all(directory)?;
    let store = SledStore::open(directory).context("opening the store")?;
    let store: Arc<dyn Store> = match syncs {
        Syncs::Real => Arc::new(store),
        Syncs::None => Arc::new(Unsynced(store)),
    };
    let snapshot = match store.snapshot().context("reading the snapshot")? {
        Some(bytes) => decode::<StoredSnapshot>(&bytes).context("decoding the snapshot")?.last,
        None => None,
    };
    let log = LogStore::open(store.clone(), snapshot).context("opening the log")?;
    let cluster = ClusterId("crash".into());
    let published = Arc::new(Published::new(Image::empty(cluster.clone())));
    Ok(Opened { store: store.clone(), log, machine: StateMachine::new(cluster, published, store), snapshot })
}

/// What entry `offset` of `epoch` contains, so that the checker knows it without being told.
fn content(epoch: u64, offset: u64) -> Vec<Record> {
    let mut random = StdRng::seed_from_u64(epoch << 32 ^ offset);
    // Mostly small, sometimes many chunks, rarely more than a segment of sled.
    let bytes = match random.random_range(0..100) {
        0..70 => random.random_range(0..400),
        70..95 => random.random_range(400..20_000),
        95..99 => random.random_range(20_000..200_000),
        _ => random.random_range(200_000..900_000),
    };
    let value: String = (0..bytes).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
    vec![Record::ConfigSet {
        resource: ConfigResource::topic("t"),
        key: format!("{epoch}-{offset}").into(),
        value: Some(value.into()),
    }]
}

async fn write_log(directory: &Path, seed: &str, syncs: Syncs) -> anyhow::Result<()> {
    let Opened { store: _store, mut log, mut machine, snapshot } = open_log(directory, syncs)?;
    let mut random = StdRng::seed_from_u64(seed.parse()?);
    let state = log.get_log_state().await?;
    let mut purged = state.last_purged_log_id.map(|id| id.index);
    let mut last = state.last_log_id;
    let mut epoch = log.read_vote().await?.map_or(0, |vote| vote.leader_id().term);
    let mut next_purge = snapshot.map_or(0, |snapshot| snapshot.offset);
    epoch += 1;
    log.save_vote(&Vote::new_committed(epoch, 1)).await?;
    acknowledge(format_args!("vote {epoch}"));
    loop {
        match random.random_range(0..100) {
            0..2 => {
                epoch += 1;
                log.save_vote(&Vote::new(epoch, 1)).await?;
                acknowledge(format_args!("vote {epoch}"));
            }
            2..4 => {
                // Like a follower that learns of another leader's log.
                let Some(end) = last.as_ref() else { continue };
                let least = purged.map_or(0, |purged| purged + 1).max(next_purge + 1);
                let keep = end.index.saturating_sub(random.random_range(1..20));
                if keep <= least {
                    continue;
                }
                let Some(kept) = log.try_get_log_entries(keep..keep + 1).await?.pop() else {
                    bail!("entry {keep} cannot be read")
                };
                acknowledge(format_args!("truncating {keep}"));
                log.truncate_after(Some(kept.log_id)).await?;
                last = Some(kept.log_id);
                epoch += 1;
                log.save_vote(&Vote::new_committed(epoch, 1)).await?;
                acknowledge(format_args!("vote {epoch}"));
            }
            4..6 => {
                let Some(end) = last else { continue };
                if end.index < next_purge + 100 {
                    continue;
                }
                // The image is of no interest here; the snapshot only has to reach as far as the purge.
                let meta_end = log.try_get_log_entries(end.index..end.index + 1).await?.pop();
                let Some(meta_end) = meta_end else { bail!("entry {} cannot be read", end.index) };
                snapshot_to(&mut machine, meta_end.log_id).await?;
                acknowledge(format_args!("snapshot {}", end.index));
                let upto = end.index - 50;
                next_purge = end.index;
                let Some(edge) = log.try_get_log_entries(upto..upto + 1).await?.pop() else {
                    bail!("entry {upto} cannot be read")
                };
                acknowledge(format_args!("purging {upto}"));
                log.purge(edge.log_id).await?;
                purged = Some(upto);
                acknowledge(format_args!("purged {upto}"));
            }
            _ => {
                let first = last.as_ref().map_or(0, |end| end.index + 1);
                let count = random.random_range(1..8);
                let entries: Vec<Entry> = (first..first + count)
                    .map(|offset| {
                        let change = Change { decided_in: epoch, records: content(epoch, offset) };
                        Entry::new(log_id(epoch, offset), EntryPayload::Normal(change))
                    })
                    .collect();
                let (done, flushed) = MetadataRaft::oneshot();
                log.append(entries, IOFlushed::signal(done)).await?;
                flushed.await.context("the append was given up")??;
                last = Some(log_id(epoch, first + count - 1));
                acknowledge(format_args!("appended {epoch} {first} {}", first + count - 1));
            }
        }
    }
}

async fn snapshot_to(
    machine: &mut StateMachine,
    end: ottla_raft::quorum::types::LogId,
) -> anyhow::Result<()> {
    let blank: Entry = Entry::new(end, EntryPayload::Blank);
    machine.apply(futures::stream::iter([Ok((blank, None))])).await?;
    let mut builder = machine.try_create_snapshot_builder(true).await.context("no snapshot builder")?;
    builder.build_snapshot().await?;
    Ok(())
}

async fn check_log(directory: &Path, files: &[&str]) -> anyhow::Result<()> {
    let mut promised: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut vote, mut snapshot, mut purged, mut purging) = (0, 0, None, None);
    let mut acknowledged = 0u64;
    for line in lines(files)? {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["vote", epoch] => vote = epoch.parse()?,
            ["snapshot", offset] => snapshot = offset.parse()?,
            ["purging", offset] => purging = Some(offset.parse::<u64>()?),
            ["purged", offset] => purged = Some(offset.parse::<u64>()?),
            ["truncating", keep] => {
                promised.split_off(&(keep.parse::<u64>()? + 1));
            }
            ["appended", epoch, first, last] => {
                for offset in first.parse::<u64>()?..=last.parse()? {
                    promised.insert(offset, epoch.parse()?);
                    acknowledged += 1;
                }
            }
            _ => bail!("cannot read the line `{line}`"),
        }
    }
    let opened = open_log(directory, Syncs::Real)?;
    let mut log = opened.log;
    let found_vote = log.read_vote().await?.map_or(0, |vote| vote.leader_id().term);
    ensure!(found_vote >= vote, "the vote of epoch {vote} was acknowledged, epoch {found_vote} is there");
    let found_snapshot = opened.snapshot.map_or(0, |snapshot| snapshot.offset);
    ensure!(found_snapshot >= snapshot, "the snapshot to {snapshot} is gone, {found_snapshot} is there");
    let state = log.get_log_state().await?;
    let found_purged = state.last_purged_log_id.map(|id| id.index);
    ensure!(found_purged >= purged, "purged to {purged:?} was acknowledged, {found_purged:?} is there");
    ensure!(found_purged <= purging.max(purged), "{found_purged:?} is purged, {purging:?} was asked for");
    let begin = found_purged.map_or(0, |purged| purged + 1);
    promised = promised.split_off(&begin);

    let end = state.last_log_id.map_or(0, |id| id.index + 1).max(begin);
    let mut next = begin;
    while next < end {
        let piece = log.try_get_log_entries(next..(next + 64).min(end)).await?;
        ensure!(!piece.is_empty(), "entry {next} is missing before {end}");
        for entry in piece {
            ensure!(entry.log_id.index == next, "entry {next} is missing before {end}");
            let epoch = entry.log_id.leader_id.term;
            let EntryPayload::Normal(change) = &entry.payload else {
                bail!("entry {next} is something else")
            };
            ensure!(change.records == content(epoch, next), "entry {next} of epoch {epoch} is changed");
            if let Some(promise) = promised.remove(&next) {
                // A truncation that was announced may be undone by the crash, but then it is not followed by appends.
                ensure!(promise == epoch, "entry {next} was acknowledged in epoch {promise}, is of {epoch}");
            }
            next += 1;
        }
    }
    ensure!(
        promised.is_empty(),
        "{} acknowledged entries are missing, from {:?}; the log is {begin}..{end}",
        promised.len(),
        promised.first_key_value()
    );
    println!("log {begin}..{end}, {acknowledged} entries were acknowledged, none is missing");
    opened.store.close();
    Ok(())
}

fn lines(files: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
        // A line without its end was on its way when the writer was killed: no promise yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        lines.extend(whole.lines().map(str::to_owned));
    }
    Ok(lines)
}

// ---- a whole node

async fn start(directory: &Path) -> anyhow::Result<Metadata> {
    std::fs::create_dir_all(directory)?;
    Ok(Metadata::start(MetadataConfig::new(BrokerId(1), directory)).await?)
}

async fn write_node(directory: &Path, seed: &str) -> anyhow::Result<()> {
    let metadata = start(directory).await?;
    acknowledge(format_args!("cluster {}", metadata.image().cluster_id));
    let registration = RegisterBroker {
        id: BrokerId(1),
        incarnation: uuid::Uuid::new_v4(),
        endpoints: vec![Endpoint {
            name: "PLAINTEXT".into(),
            host: "localhost".into(),
            port: 9092,
            security_protocol: 0,
        }],
        rack: None,
        features: ottla_raft::metadata::features::supported(),
        log_dirs: vec![],
        previous_epoch: None,
    };
    let epoch = metadata.submit(registration).await??;
    let heartbeat = ottla_raft::requests::BrokerHeartbeat {
        id: BrokerId(1),
        epoch,
        metadata_offset: metadata.image().last_offset,
        want_fence: false,
        want_shut_down: false,
        offline_log_dirs: Vec::new(),
    };
    ensure!(!metadata.submit(heartbeat).await??.is_fenced, "the broker stays fenced");
    acknowledge(format_args!("epoch {epoch}"));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4u64 {
        let metadata = metadata.clone();
        let seed: u64 = seed.parse()?;
        writers.spawn(async move {
            let mut random = StdRng::seed_from_u64(seed * 16 + writer);
            for number in 0u64.. {
                let name = format!("topic-{seed}-{writer}-{number}");
                let topic = NewTopic {
                    name: name.clone(),
                    partitions: random.random_range(1..40),
                    replication_factor: 1,
                    assignments: vec![],
                    configs: vec![("retention.ms".into(), number.to_string())],
                };
                let request = CreateTopics { topics: vec![topic], validate_only: false };
                let created = metadata.submit(request).await?.remove(0).result?;
                acknowledge(format_args!("created {name} {} {}", created.id, created.partitions));
                if random.random_bool(0.8) {
                    acknowledge(format_args!("deleting {name}"));
                    let request = DeleteTopics { topics: vec![TopicReference::Name(name.clone())] };
                    metadata.submit(request).await?.remove(0).result?;
                    acknowledge(format_args!("deleted {name}"));
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    Ok(())
}

async fn check_node(directory: &Path, files: &[&str]) -> anyhow::Result<()> {
    let metadata = start(directory).await?;
    let image = metadata.image();
    let mut topics: BTreeMap<String, Option<(TopicId, usize)>> = BTreeMap::new();
    let mut acknowledged = 0;
    for line in lines(files)? {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["cluster", id] => ensure!(*id == &*image.cluster_id.0, "the cluster id {id} is gone"),
            ["epoch", epoch] => {
                let epoch: i64 = epoch.parse()?;
                let known = image.broker(BrokerId(1)).map(|broker| broker.epoch.0);
                ensure!(known >= Some(epoch), "broker epoch {epoch} is gone, {known:?} is there");
            }
            ["created", name, id, partitions] => {
                topics.insert((*name).into(), Some((id.parse()?, partitions.parse()?)));
                acknowledged += 1;
            }
            // Gone or not, until it is acknowledged.
            ["deleting", name] => {
                topics.remove(*name);
            }
            ["deleted", name] => {
                topics.insert((*name).into(), None);
                acknowledged += 1;
            }
            _ => bail!("cannot read the line `{line}`"),
        }
    }
    for (name, promised) in &topics {
        let found = image.topic_by_name(name).map(|topic| (topic.id, topic.partitions.len()));
        ensure!(found == *promised, "topic {name}: acknowledged {promised:?}, found {found:?}");
    }
    println!("{acknowledged} creations and deletions were acknowledged, all are there");
    metadata.shutdown().await;
    Ok(())
}
