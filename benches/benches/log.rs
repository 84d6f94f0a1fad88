//! The log of one partition on the real file system: append, append with sync, finding offsets, reading slices.
//! `cargo bench -p ottla-benches --bench log`; TMPDIR chooses the disk.

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ottla_batch::{
    AppendOrigin, AppendPolicy, BatchBuilder, BatchOptions, CheckedBatches, LeaderEpoch, Offset, TimestampMs,
    check_produced,
};
use ottla_storage::disk::Disk;
use ottla_storage::log::{FirstBatch, Log, LogConfig};
use ottla_storage::logdir::LogDir;

const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
const RECORDS: usize = 16;
const RECORD_BYTES: usize = 1024;

struct Setup {
    log: Log,
    // Dropped after the log.
    _log_dir: LogDir,
    _temporary: tempfile::TempDir,
}

fn setup() -> Setup {
    let temporary = tempfile::tempdir().expect("a temporary directory");
    let log_dir = LogDir::open(Disk::real(), temporary.path(), "benchmark", 1).expect("a log directory");
    // Small enough to fit into most temporary directories: old segments are deleted as the bench goes.
    let config =
        LogConfig { segment_bytes: 64 << 20, retention_bytes: Some(256 << 20), ..LogConfig::default() };
    let log = log_dir.open_log("bench", 0, None, Arc::new(config), NOW).expect("a log");
    Setup { log, _log_dir: log_dir, _temporary: temporary }
}

fn batch() -> CheckedBatches {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for _ in 0..RECORDS {
        builder.push(NOW, None, Some(&[7; RECORD_BYTES]), &[]).expect("a record fits");
    }
    let bytes: Bytes = builder.build().expect("a batch");
    check_produced(bytes, &AppendPolicy::new(NOW)).expect("a good batch")
}

fn append(log: &mut Log, batch: &CheckedBatches) {
    let appended = log.append_as_leader(batch, LeaderEpoch(0), AppendOrigin::Client, NOW);
    black_box(appended.expect("appended"));
}

fn appends(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Bytes((RECORDS * RECORD_BYTES) as u64));
    let batch = batch();
    let mut setup = setup();
    let mut count = 0u64;
    group.bench_function("16x1KiB", |bencher| {
        bencher.iter(|| {
            append(&mut setup.log, &batch);
            count += 1;
            if count.is_multiple_of(8192) {
                let end = setup.log.end_offset();
                let deleted = setup.log.delete_old_segments(NOW, end, None).expect("retention");
                deleted.run().expect("old segments removed");
            }
        });
    });
    group.bench_function("16x1KiB, synced", |bencher| {
        bencher.iter(|| {
            append(&mut setup.log, &batch);
            let synced = setup.log.begin_sync().run().expect("synced");
            setup.log.on_synced(synced);
        });
    });
    // What the same bytes cost without a log: the two above are judged by their ratio to these.
    let payload = vec![7u8; batch.size_in_bytes()];
    let raw = tempfile::tempfile().expect("a file");
    let mut position = 0u64;
    let mut write = || {
        // Segments as large as the log's, and no more of them: their pages are cold as often.
        position = if position >= 256 << 20 { 0 } else { position };
        if position == 0 {
            raw.set_len(0).expect("cut");
        }
        raw.write_all_at(&payload, position).expect("written");
        position += payload.len() as u64;
    };
    group.bench_function("16x1KiB, raw pwrite", |bencher| bencher.iter(&mut write));
    group.bench_function("16x1KiB, raw pwrite and fdatasync", |bencher| {
        bencher.iter(|| {
            write();
            raw.sync_data().expect("synced");
        });
    });
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let batch = batch();
    let mut setup = setup();
    for _ in 0..8000 {
        append(&mut setup.log, &batch);
    }
    let (log, end) = (&setup.log, setup.log.end_offset());
    let mut at = 0i64;
    // Each lookup lands elsewhere.
    let mut next = move || {
        at = (at + 7919 * RECORDS as i64 + 5) % end.0;
        Offset(at)
    };
    criterion.bench_function("read/find a random offset", |bencher| {
        bencher.iter(|| black_box(log.read(next(), end, 1 << 20, FirstBatch::Whole).expect("a slice")));
    });
    let last = Offset(end.0 - 1);
    criterion.bench_function("read/find the last offset", |bencher| {
        bencher.iter(|| black_box(log.read(last, end, 1 << 20, FirstBatch::Whole).expect("a slice")));
    });
    let mut group = criterion.benchmark_group("read");
    group.throughput(Throughput::Bytes(1 << 20));
    group.bench_function("copy a slice of 1 MiB", |bencher| {
        bencher.iter_batched(
            || log.read(Offset(0), end, 1 << 20, FirstBatch::Whole).expect("a slice"),
            |slice| black_box(slice.read().expect("bytes")),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, appends, reads);
criterion_main!(benches);
