//! Logs whose files were damaged, opened by the real recovery code on a simulated disk.
//!
//! Each round builds a log of random content (all codecs, idempotent producers, transactions, compaction, leader
//! epochs), leaves it (closed or killed), damages some of its files, and opens it. Whatever was done to the files:
//! - no panic, and neither memory nor disk operations out of proportion to the files;
//! - no offset is handed out again that a batch which can still be read has;
//! - what is appended and synced afterwards is there, unchanged, after the next open (if the log was whole again).
//!
//! And where only files were damaged that can be derived from others (indexes, snapshots, checkpoints but the log start),
//! the log opens and every batch is there.
//!
//! Deterministic: one seed gives one round. Short by default; `OTTLA_FUZZ_SECONDS=600 OTTLA_FUZZ_SEED=7 cargo test
//! -p ottla-storage --test fuzz` is a long run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_storage::batch::*;
use ottla_storage::checkpoints::Checkpoints;
use ottla_storage::disk::{Disk, SimulatedDisk};
use ottla_storage::log::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

#[path = "../../tests/fuzz/counting_allocator.rs"]
mod counting_allocator;

const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
const ROOT: &str = "/data";
const DIR: &str = "/data/topic-0";
const LOG_START_FILE: &str = "log-start-offset-checkpoint";
const DECOMPRESSED_MAX: usize = 1 << 18;
const NO_LIMIT: Offset = Offset(i64::MAX);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Path to content: all there is on a disk.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A log as it was left, and what was in it.
struct World {
    config: LogConfig,
    files: Files,
    shutdown: LastShutdown,
    /// As a consumer reads them, from the log start on.
    batches: Vec<Bytes>,
    log_start_offset: Offset,
    end_offset: Offset,
    leader_epoch: LeaderEpoch,
    /// The last batch of an idempotent producer, and where the log has it.
    retry: Option<(Bytes, Offset)>,
}

fn open(
    simulated: &SimulatedDisk,
    world: &World,
    shutdown: LastShutdown,
) -> Result<(Log, Arc<Checkpoints>), OpenError> {
    open_with(simulated, &world.config, shutdown)
}

fn open_with(
    simulated: &SimulatedDisk,
    config: &LogConfig,
    last_shutdown: LastShutdown,
) -> Result<(Log, Arc<Checkpoints>), OpenError> {
    let disk = Disk::simulated(simulated);
    let root = Path::new(ROOT);
    let io_error = |source| OpenError::Io { path: root.to_owned(), source };
    disk.create_dir_all(root).map_err(io_error)?;
    disk.sync_dir(Path::new("/")).map_err(io_error)?;
    let checkpoints = Arc::new(Checkpoints::open(disk.clone(), root).map_err(io_error)?);
    let log = Log::open(OpenLog {
        disk,
        dir: DIR.into(),
        partition: ("topic".to_owned(), 0),
        checkpoints: checkpoints.clone(),
        config: Arc::new(config.clone()),
        topic_id: None,
        last_shutdown,
        now: NOW,
        jitter_seed: 0,
    })?;
    Ok((log, checkpoints))
}

fn sync(log: &mut Log) {
    let synced = log.begin_sync().run().expect("the simulated disk syncs");
    log.on_synced(synced);
}

fn plain_batch(random: &mut StdRng, options: BatchOptions) -> Bytes {
    let codec = Codec::ALL[random.random_range(0..Codec::ALL.len())];
    let mut builder = BatchBuilder::new(BatchOptions { codec, ..options });
    for _ in 0..random.random_range(1..5) {
        let key = [b'a' + random.random_range(0..8u8)];
        let value = vec![random.random::<u8>(); random.random_range(0..80)];
        let time = TimestampMs(NOW.0 + random.random_range(0..1000));
        builder.push(time, Some(&key), random.random_bool(0.9).then_some(&value[..]), &[]).unwrap();
    }
    builder.build().unwrap()
}

fn append(log: &mut Log, batch: &Bytes, epoch: LeaderEpoch) -> Result<Appended, AppendError> {
    let checked = check_produced(batch.clone(), &AppendPolicy::new(NOW)).expect("a batch of the test's own");
    log.append_as_leader(&checked, epoch, AppendOrigin::Client, NOW)
}

fn build(random: &mut StdRng) -> World {
    let simulated = SimulatedDisk::new();
    let compacts = random.random_bool(0.4);
    let config = LogConfig {
        segment_bytes: random.random_range(600..4000),
        index_interval_bytes: random.random_range(50..500),
        cleanup_policy: if compacts { CleanupPolicy::Compact } else { CleanupPolicy::Delete },
        min_cleanable_dirty_ratio: 0.0,
        decompressed_bytes_max: DECOMPRESSED_MAX,
        dedupe_buffer_bytes: 1 << 16,
        retention_ms: Some(60_000),
        ..LogConfig::default()
    };
    let (mut log, mut checkpoints) = open_with(&simulated, &config, LastShutdown::Unclean).unwrap();
    let mut epoch = LeaderEpoch(random.random_range(0..3));
    // Next sequence of each producer, and whether it has a transaction open.
    let mut producers = [(0, false); 3];
    let mut retry = None;
    for _ in 0..random.random_range(5..80) {
        match random.random_range(0..20) {
            0..=6 => {
                let batch = plain_batch(random, BatchOptions::default());
                append(&mut log, &batch, epoch).unwrap();
            }
            7..=12 => {
                let producer = random.random_range(0..3);
                let (sequence, is_open) = &mut producers[producer];
                let is_transactional = producer > 0;
                let options = BatchOptions {
                    producer_id: ProducerId(1000 + producer as i64),
                    producer_epoch: ProducerEpoch(0),
                    base_sequence: Sequence(*sequence),
                    is_transactional,
                    ..BatchOptions::default()
                };
                let batch = plain_batch(random, options);
                let appended = append(&mut log, &batch, epoch).unwrap();
                *sequence += (appended.last_offset.0 - appended.base_offset.0) as i32 + 1;
                *is_open |= is_transactional;
                if !is_transactional {
                    retry = Some((batch, appended.base_offset));
                }
            }
            13..=14 => {
                let producer = random.random_range(1..3);
                if std::mem::take(&mut producers[producer].1) {
                    let kind = if random.random_bool(0.5) { ControlKind::Commit } else { ControlKind::Abort };
                    let marker = EndTxnMarker { kind, coordinator_epoch: 0 };
                    let id = ProducerId(1000 + producer as i64);
                    let batch = build_end_txn_marker(id, ProducerEpoch(0), marker, NOW).unwrap();
                    let policy = AppendPolicy { origin: AppendOrigin::Coordinator, ..AppendPolicy::new(NOW) };
                    let batch = check_produced(batch, &policy).unwrap();
                    log.append_as_leader(&batch, epoch, AppendOrigin::Coordinator, NOW).unwrap();
                }
            }
            15 => epoch = LeaderEpoch(epoch.0 + random.random_range(1..3)),
            16 => sync(&mut log),
            17 => {
                sync(&mut log);
                checkpoints.write().unwrap();
            }
            18 if random.random_bool(0.5) => {
                log.close().unwrap();
                checkpoints.write().unwrap();
                (log, checkpoints) = open_with(&simulated, &config, LastShutdown::Clean).unwrap();
            }
            18 if !compacts && random.random_bool(0.3) => {
                let upto = Offset(random.random_range(log.log_start_offset().0..=log.end_offset().0));
                let high_watermark = log.end_offset();
                log.increment_log_start_offset(upto, high_watermark).unwrap();
                log.delete_old_segments(NOW, high_watermark, None).unwrap();
                checkpoints.write().unwrap();
            }
            _ => {
                let stable = log.first_unstable_offset(log.end_offset()).unwrap_or(log.end_offset());
                if let Some(plan) = log.plan_compaction(stable, NOW) {
                    sync(&mut log);
                    let result = log.swap_compacted(plan.rewrite(NOW, &|| true).unwrap()).unwrap();
                    let partition = ("topic".to_owned(), 0);
                    checkpoints.write_cleaner_offset(&partition, Some(result.cleaner_offset)).unwrap();
                    // What was not run stays as `.deleted` files.
                    if random.random_bool(0.7) {
                        result.deleted.run().unwrap();
                    }
                }
            }
        }
    }
    let batches = read_all(&log).expect("an undamaged log is read");
    let (log_start_offset, end_offset) = (log.log_start_offset(), log.end_offset());
    let shutdown = if random.random_bool(0.5) {
        log.close().unwrap();
        checkpoints.write().unwrap();
        // Without the marker too: it is missing when another log of the directory was not closed.
        if random.random_bool(0.6) { LastShutdown::Clean } else { LastShutdown::Unclean }
    } else {
        // The log start is promised only once it is in its file.
        if log_start_offset > Offset(0) {
            checkpoints.write().unwrap();
        }
        LastShutdown::Unclean
    };
    drop(log);
    simulated.kill();
    let retry = retry.filter(|(_, at)| *at >= log_start_offset && !compacts);
    let files = files_of(&Disk::simulated(&simulated));
    World { config, files, shutdown, batches, log_start_offset, end_offset, leader_epoch: epoch, retry }
}

fn files_of(disk: &Disk) -> Files {
    let mut files = Files::new();
    for dir in [ROOT, DIR] {
        for entry in disk.read_dir(Path::new(dir)).unwrap().into_iter().filter(|entry| !entry.is_dir) {
            let path = Path::new(dir).join(entry.name);
            let content = disk.read(&path, u64::MAX).unwrap();
            files.insert(path, content);
        }
    }
    files
}

fn disk_of(files: &Files) -> SimulatedDisk {
    let simulated = SimulatedDisk::new();
    let disk = Disk::simulated(&simulated);
    disk.create_dir_all(Path::new(DIR)).unwrap();
    for (path, content) in files {
        disk.write_durably(path, content).unwrap();
    }
    disk.sync_dir(Path::new("/")).unwrap();
    disk.sync_dir(Path::new(ROOT)).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    simulated
}

/// Cuts a slice into its whole batches.
fn split(mut bytes: Bytes) -> Vec<Bytes> {
    let mut batches = Vec::new();
    while let Ok(header) = BatchHeader::parse(&bytes) {
        if header.size_in_bytes() > bytes.len() {
            break;
        }
        batches.push(bytes.split_to(header.size_in_bytes()));
    }
    batches
}

fn header(batch: &Bytes) -> BatchHeader {
    BatchHeader::parse(batch).expect("a whole batch")
}

/// As a consumer does, from the log start to the end.
fn read_all(log: &Log) -> Result<Vec<Bytes>, ReadError> {
    let mut batches: Vec<Bytes> = Vec::new();
    let mut next = log.log_start_offset();
    while next < log.end_offset() {
        let slice = log.read(next, NO_LIMIT, 700, FirstBatch::Whole)?;
        let found = split(slice.read().expect("a slice lies within its file"));
        batches.extend(found);
        match batches.last().map(|last| header(last).next_offset()) {
            Some(upto) if upto > next => next = upto,
            // A damaged offset would lead round in circles.
            _ => break,
        }
    }
    Ok(batches)
}

/// The batches that a consumer of a damaged log gets when it asks for their offset.
fn read_what_is_there(log: &Log, world: &World) -> Vec<Bytes> {
    let first_at = |offset: Offset| {
        let slice = log.read(offset, NO_LIMIT, 4000, FirstBatch::Whole).ok()?;
        split(slice.read().ok()?).into_iter().next()
    };
    let known = world.batches.iter().map(|batch| header(batch).base_offset);
    let mut found = BTreeSet::new();
    for from in known.chain([log.log_start_offset()]) {
        let Ok(slice) = log.read(from, NO_LIMIT, 4000, FirstBatch::Whole) else { continue };
        let Ok(bytes) = slice.read() else { continue };
        found.extend(split(bytes).into_iter().filter(|batch| {
            let header = header(batch);
            // Damage may also make a batch claim offsets of others, or that nobody has.
            header.check_crc(batch).is_ok()
                && first_at(header.base_offset).as_ref() == Some(batch)
                && first_at(header.last_offset()).as_ref() == Some(batch)
        }));
    }
    found.into_iter().collect()
}

/// Every batch from the log start to the end can be read and is where it belongs. Damage to what was synced is not looked
/// for at each open, and may cut the log when it is found later.
fn is_sound(log: &Log) -> bool {
    let Ok(batches) = read_all(log) else { return false };
    let (mut next, mut epoch) = (None, LeaderEpoch::NONE);
    for batch in &batches {
        let header = header(batch);
        let follows = next.is_none_or(|next| header.base_offset >= next)
            && header.last_offset_delta >= 0
            && header.leader_epoch >= epoch;
        epoch = header.leader_epoch;
        if !follows || header.check_crc(batch).is_err() {
            return false;
        }
        next = Some(header.next_offset());
    }
    next.is_none_or(|next| next == log.end_offset())
}

fn is_derived(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let suffixes = [".index", ".timeindex", ".txnindex", ".snapshot"];
    suffixes.iter().any(|suffix| name.ends_with(suffix))
        || (name.ends_with("-checkpoint") && name != LOG_START_FILE)
}

const TELLING: [i64; 12] = [
    0,
    1,
    -1,
    2,
    i64::MAX,
    i64::MIN,
    i32::MAX as i64,
    i32::MIN as i64,
    i64::MAX - 1,
    1 << 32,
    0x7fff_ffff_0000_0000,
    61,
];

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    for (target, byte) in bytes.iter_mut().skip(at).zip(with) {
        *target = *byte;
    }
}

/// A number in the header of some batch, as no honest writer puts it there; sometimes with a CRC that holds.
fn damage_header(random: &mut StdRng, bytes: &mut [u8]) {
    let (mut starts, mut at) = (Vec::new(), 0);
    while let Some(header) = bytes.get(at..).and_then(|rest| BatchHeader::parse(rest).ok()) {
        if at + header.size_in_bytes() > bytes.len() {
            break;
        }
        starts.push((at, header));
        at += header.size_in_bytes();
    }
    if starts.is_empty() {
        return;
    }
    let (at, mut header) = starts[random.random_range(0..starts.len())];
    let value = TELLING[random.random_range(0..TELLING.len())];
    match random.random_range(0..9) {
        0 => header.base_offset = Offset(value),
        1 => header.base_offset = Offset(header.base_offset.0 + random.random_range(-20..20)),
        2 => return overwrite(bytes, at + 8, &(value as i32).to_be_bytes()),
        3 => header.leader_epoch = LeaderEpoch(value as i32),
        4 => header.last_offset_delta = value as i32,
        5 => header.records_count = value as i32,
        6 => header.max_timestamp = TimestampMs(value),
        7 => header.base_sequence = Sequence(value as i32),
        _ => header.attributes = random.random(),
    }
    let end = at + header.size_in_bytes();
    bytes[at..at + HEADER_LEN].copy_from_slice(&header.encode());
    if random.random_bool(0.5) {
        header.crc = crc32c(&bytes[at + 21..end]);
        bytes[at..at + HEADER_LEN].copy_from_slice(&header.encode());
    }
}

fn damage_content(random: &mut StdRng, bytes: &mut Vec<u8>, is_log: bool, is_text: bool) {
    let at = if bytes.is_empty() { 0 } else { random.random_range(0..bytes.len()) };
    let end = random.random_range(at..=bytes.len());
    let garbage: Vec<u8> = (0..random.random_range(1..200)).map(|_| random.random()).collect();
    match random.random_range(0..11) {
        0..=1 if !bytes.is_empty() => bytes[at] ^= 1 << random.random_range(0..8),
        2 => bytes[at..end].fill(0),
        3 => bytes[at..end].fill(0xff),
        4 => overwrite(bytes, at, &garbage),
        5 => bytes.truncate(at),
        6 => bytes.extend_from_slice(&garbage),
        7 => bytes.extend_from_slice(&vec![0; garbage.len()]),
        8 => {
            let part = bytes[at..end].to_vec();
            bytes.extend_from_slice(&part);
        }
        _ if is_log => damage_header(random, bytes),
        _ if is_text => {
            let digits: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
            if !digits.is_empty() {
                let at = digits[random.random_range(0..digits.len())];
                bytes[at] = b'0' + random.random_range(0..10u8);
                if random.random_bool(0.3) {
                    bytes.insert(at, b"-19"[random.random_range(0..3)]);
                }
            }
        }
        _ => {
            let value = TELLING[random.random_range(0..TELLING.len())];
            overwrite(bytes, at & !3, &value.to_be_bytes()[random.random_range(0..5)..]);
        }
    }
}

/// Names that look nearly, or fully, like a log's own.
fn odd_name(random: &mut StdRng) -> String {
    let base: u64 = match random.random_range(0..5) {
        0 => random.random_range(0..300),
        1 => i64::MAX as u64 - random.random_range(0..2u64),
        2 => u64::MAX,
        3 => i32::MAX as u64 + random.random_range(0..4u64),
        _ => random.random(),
    };
    let suffixes = [
        ".log",
        ".index",
        ".timeindex",
        ".txnindex",
        ".snapshot",
        ".log.swap",
        ".log.cleaned",
        ".log.deleted",
        ".index.swap",
        ".tmp",
        "",
        ".log.log",
    ];
    let suffix = suffixes[random.random_range(0..suffixes.len())];
    match random.random_range(0..6) {
        0 => format!("{base}{suffix}"),
        1 => format!("-{base:019}{suffix}"),
        2 => suffix.to_owned() + "x",
        _ => format!("{base:020}{suffix}"),
    }
}

/// Damages some files; only derived ones if so asked. Answers what was done.
fn damage(random: &mut StdRng, files: &mut Files, derived_only: bool) -> Vec<String> {
    let mut done = Vec::new();
    for _ in 0..random.random_range(1..4) {
        let paths: Vec<_> = files.keys().filter(|path| !derived_only || is_derived(path)).cloned().collect();
        if paths.is_empty() {
            break;
        }
        let path = paths[random.random_range(0..paths.len())].clone();
        let extension = path.extension().map(|extension| extension.to_owned());
        let alike: Vec<_> = paths
            .iter()
            .filter(|other| other.extension() == extension.as_deref() && **other != path)
            .collect();
        match random.random_range(0..12) {
            0 => {
                files.remove(&path);
                done.push(format!("removed {}", path.display()));
            }
            1 if !alike.is_empty() => {
                let other = alike[random.random_range(0..alike.len())].clone();
                let (a, b) = (files[&path].clone(), files[&other].clone());
                done.push(format!("swapped {} and {}", path.display(), other.display()));
                files.insert(path, b);
                files.insert(other, a);
            }
            2 => {
                let to = Path::new(DIR).join(odd_name(random));
                if !derived_only || is_derived(&to) {
                    let content = files[&path].clone();
                    done.push(format!("copied {} to {}", path.display(), to.display()));
                    files.insert(to, content);
                }
            }
            _ => {
                let is_log = path.to_string_lossy().contains(".log");
                let is_text = path.extension().is_none();
                if let Some(content) = files.get_mut(&path) {
                    damage_content(random, content, is_log, is_text);
                }
                done.push(format!("damaged {}", path.display()));
            }
        }
    }
    done
}

struct Cost {
    peak: usize,
    reads: u64,
}

/// What `run` takes of memory at its peak, and how often it reads.
fn measure<T>(simulated: &SimulatedDisk, run: impl FnOnce() -> T) -> (T, Cost) {
    let reads = simulated.counts().reads;
    let (value, peak) = counting_allocator::peak_of(run);
    (value, Cost { peak, reads: simulated.counts().reads - reads })
}

fn assert_in_proportion(cost: &Cost, files: &Files, what: &str) {
    let bytes: usize = files.values().map(Vec::len).sum();
    // Decompression is bounded by the config, not by the file; the rest are copies of what files hold.
    let allowed = (256 << 10) + 2 * DECOMPRESSED_MAX + 16 * bytes;
    assert!(cost.peak <= allowed, "{what} took {} bytes of memory for {bytes} bytes of files", cost.peak);
    let allowed = 500 + 20 * files.len() + bytes / 4;
    assert!(cost.reads <= allowed as u64, "{what} took {} reads for {bytes} bytes of files", cost.reads);
}

/// Everything that a broker asks a log, on one that may hold anything.
fn use_all(log: &mut Log, random: &mut StdRng, world: &World) {
    let end = log.end_offset();
    for _ in 0..10 {
        let from = Offset(random.random_range(-1..world.end_offset.0 + 10));
        let limit = Offset(random.random_range(-1..world.end_offset.0 + 10));
        let _ =
            log.read(from, limit, random.random_range(0..500), FirstBatch::Whole).map(|slice| slice.read());
        let _ = log.read(from, NO_LIMIT, 1, FirstBatch::MayBeCut).map(|slice| slice.read());
        let timestamp = TimestampMs(NOW.0 + random.random_range(-10..1010));
        let _ = log.offset_for_timestamp(timestamp, end);
        let _ = log.offset_for_timestamp(timestamp, limit);
        let _ = log.offset_of_max_timestamp(limit);
        let _ = log.aborted_transactions(from, limit);
        let _ = log.end_offset_for_epoch(LeaderEpoch(random.random_range(-1..20)));
        let _ = log.epoch_for_offset(from);
        let _ = log.first_unstable_offset(limit);
    }
    let _ = log.active_producers(NOW);
    let _ = (log.size_in_bytes(), log.segments_count());
}

/// Everything is there, and found by offset and by time.
fn assert_whole(log: &Log, world: &World, damaged_times: bool) {
    assert_eq!((log.log_start_offset(), log.end_offset()), (world.log_start_offset, world.end_offset));
    let batches = read_all(log).expect("a log with all of its batches is read");
    assert_eq!(batches.len(), world.batches.len());
    assert!(batches == world.batches, "batches have changed");
    let mut known = world.batches.iter().map(header).peekable();
    for offset in world.log_start_offset.0..world.end_offset.0 {
        while known.next_if(|header| header.last_offset().0 < offset).is_some() {}
        let slice = log.read(Offset(offset), NO_LIMIT, 1, FirstBatch::Whole).expect("every offset is found");
        let found = slice.read().unwrap();
        let found = split(found).first().map(|batch| header(batch).base_offset);
        assert_eq!(found, known.peek().map(|header| header.base_offset), "at {offset}");
    }
    if damaged_times {
        return;
    }
    let mut records = Vec::new();
    for batch in &world.batches {
        for record in ottla_storage::batch::records(batch, DECOMPRESSED_MAX).unwrap() {
            records.push(record.unwrap());
        }
    }
    records.retain(|record| record.offset >= world.log_start_offset);
    for timestamp in (NOW.0 - 10..NOW.0 + 1010).step_by(93).map(TimestampMs) {
        let expected =
            records.iter().find(|record| record.timestamp >= timestamp).map(|record| record.offset);
        let found = log.offset_for_timestamp(timestamp, NO_LIMIT).expect("times are found");
        assert_eq!(found.map(|found| found.offset), expected, "at {timestamp}");
    }
}

fn round(random: &mut StdRng, outcomes: &mut Outcomes) {
    let world = build(random);
    for _ in 0..4 {
        let mut files = world.files.clone();
        let derived_only = random.random_bool(0.5);
        let done = damage(random, &mut files, derived_only);
        if std::env::var_os("OTTLA_FUZZ_VERBOSE").is_some() {
            println!(
                "{:?}, {} to {}, derived only: {derived_only}, {done:#?}\n{:#?}",
                world.shutdown,
                world.log_start_offset,
                world.end_offset,
                files
                    .iter()
                    .map(|(path, content)| (path.display().to_string(), content.len()))
                    .collect::<Vec<_>>()
            );
        }
        let simulated = disk_of(&files);
        let (opened, cost) = measure(&simulated, || open(&simulated, &world, world.shutdown));
        assert_in_proportion(&cost, &files, "opening");
        let (mut log, checkpoints) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                assert!(!derived_only, "a log whose batches are all there does not open: {error}");
                outcomes.refused += 1;
                continue;
            }
        };
        outcomes.opened += 1;
        let damaged_times = done.iter().any(|done| done.contains("timeindex"));
        let ((), cost) = measure(&simulated, || use_all(&mut log, random, &world));
        // Ten times everything, and a time lookup may scan a segment.
        assert!(
            cost.peak
                <= (256 << 10) + 2 * DECOMPRESSED_MAX + 16 * files.values().map(Vec::len).sum::<usize>()
        );
        if derived_only {
            assert_whole(&log, &world, damaged_times);
            outcomes.whole += 1;
            if let Some((batch, at)) = &world.retry
                && !done.iter().any(|done| done.contains("swapped") || done.contains("copied"))
            {
                let appended = append(&mut log, batch, world.leader_epoch).expect("a retry is answered");
                assert!(
                    appended.duplicate && appended.base_offset == *at,
                    "a retry of {at} got {appended:?}"
                );
            }
        }
        let upkeep = log.delete_old_segments(NOW, log.end_offset(), None);
        if derived_only {
            let deleted = upkeep.expect("upkeep of a log with all of its batches");
            // What DeleteRecords gave up may go at any time.
            let early =
                deleted.segments().iter().find(|(_, _, reason)| *reason != DeletionReason::LogStartOffset);
            assert!(early.is_none(), "retention took {early:?} before its time");
            assert_whole(&log, &world, damaged_times);
        }
        // Two faults at once: with the recovery point lost, what was synced is taken for what may be torn.
        let is_sound = match derived_only {
            true => true,
            false => !done.iter().any(|done| done.contains("recovery-point")) && is_sound(&log),
        };
        go_on(random, &world, &simulated, log, &checkpoints, derived_only, is_sound);
    }
}

/// Appends, syncs, leaves, opens again: what was damaged takes nothing of what came after.
fn go_on(
    random: &mut StdRng,
    world: &World,
    simulated: &SimulatedDisk,
    mut log: Log,
    checkpoints: &Checkpoints,
    derived_only: bool,
    is_sound: bool,
) {
    let readable = read_what_is_there(&log, world);
    let epoch = LeaderEpoch(world.leader_epoch.0 + 1);
    let mut appended = Vec::new();
    for _ in 0..random.random_range(1..6) {
        let batch = plain_batch(random, BatchOptions::default());
        // A log at the end of all offsets takes no more.
        let at = match append(&mut log, &batch, epoch) {
            Ok(at) => at,
            Err(AppendError::OffsetsUsedUp) => return,
            // Nothing but the batches says what the epoch was, and their CRC does not cover it.
            Err(AppendError::LeaderEpochWentBack { .. }) if !derived_only => return,
            Err(error) => panic!("a log that opened takes no append: {error}"),
        };
        for old in &readable {
            let old = header(old);
            assert!(
                old.last_offset() < at.base_offset,
                "offset {} is handed out again, {} to {} is still read",
                at.base_offset,
                old.base_offset,
                old.last_offset()
            );
        }
        let mut stored = batch.to_vec();
        overwrite(&mut stored, 0, &at.base_offset.0.to_be_bytes());
        overwrite(&mut stored, 12, &epoch.0.to_be_bytes());
        appended.push((at.base_offset, Bytes::from(stored)));
    }
    let assert_there = |log: &Log| {
        if !is_sound {
            return;
        }
        for (at, batch) in &appended {
            let slice = log.read(*at, NO_LIMIT, 1, FirstBatch::Whole).expect("what was appended is read");
            assert!(slice.read().unwrap() == *batch, "the batch at {at} is another one");
        }
    };
    assert_there(&log);
    sync(&mut log);
    if random.random_bool(0.3) {
        let _ = log
            .plan_compaction(log.end_offset(), NOW)
            .map(|plan| plan.rewrite(NOW, &|| true).map(|compacted| log.swap_compacted(compacted).map(drop)));
        if log.offline().is_some() || log.config().cleanup_policy == CleanupPolicy::Compact {
            return;
        }
    }
    let shutdown = match random.random_range(0..3) {
        0 => {
            log.close().expect("a log that works closes");
            checkpoints.write().unwrap();
            LastShutdown::Clean
        }
        1 => {
            checkpoints.write().unwrap();
            LastShutdown::Unclean
        }
        _ => LastShutdown::Unclean,
    };
    let end = log.end_offset();
    drop(log);
    simulated.crash(random.random());
    if std::env::var_os("OTTLA_FUZZ_VERBOSE").is_some() {
        for (path, content) in files_of(&Disk::simulated(simulated)) {
            let (name, len) = (path.display().to_string(), content.len());
            if name.ends_with(".log") {
                let all: Vec<_> = split(content.into())
                    .iter()
                    .map(header)
                    .map(|h| (h.base_offset.0, h.last_offset_delta, h.leader_epoch.0, h.size_in_bytes()))
                    .collect();
                println!("{name} {len} {all:?}");
            } else if path.extension().is_none() {
                println!("{name} {:?}", String::from_utf8_lossy(&content));
            }
        }
    }
    let reopened = open(simulated, world, shutdown);
    if !is_sound {
        return;
    }
    let (log, _) = reopened.expect("a log that holds opens again");
    assert!(log.end_offset() >= end, "{shutdown:?}: the log ended at {end}, now at {}", log.end_offset());
    assert_there(&log);
}

#[derive(Default, Debug)]
struct Outcomes {
    opened: u64,
    whole: u64,
    refused: u64,
}

#[test]
fn damaged_logs_do_no_harm() {
    let first = number("OTTLA_FUZZ_SEED", 1);
    let limit = Duration::from_secs(number("OTTLA_FUZZ_SECONDS", 0));
    let rounds = number("OTTLA_FUZZ_ROUNDS", 150);
    let keeps_going = std::env::var_os("OTTLA_FUZZ_KEEP_GOING").is_some();
    let start = Instant::now();
    let mut outcomes = Outcomes::default();
    let mut failed = Vec::new();
    let mut seed = first;
    while seed < first + rounds || start.elapsed() < limit {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            round(&mut StdRng::seed_from_u64(seed), &mut outcomes);
        }));
        if outcome.is_err() {
            assert!(keeps_going, "seed {seed} (run with OTTLA_FUZZ_SEED={seed})");
            println!("^ seed {seed}");
            failed.push(seed);
        }
        seed += 1;
    }
    println!("{} seeds from {first} in {:?}: {outcomes:?}, failed {failed:?}", seed - first, start.elapsed());
    assert!(failed.is_empty());
}
