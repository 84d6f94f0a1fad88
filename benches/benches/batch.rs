//! Record batches: what a leader pays to check one, next to its floor (the CRC alone), and what reading costs.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ottla_batch::{
    AppendPolicy, BatchBuilder, BatchOptions, Codec, CompressionPolicy, HEADER_LEN, RecordRefs, TimestampMs,
    TimestampType, check_produced, check_replicated, crc32c, records,
};

const NOW: TimestampMs = TimestampMs(1_700_000_000_000);
/// 16 KiB of values each: the default `batch.size` of a producer.
const SHAPES: [(&str, usize, usize); 2] = [("1KiB_x16", 1024, 16), ("100B_x160", 100, 160)];

/// Values that compress about as JSON does.
fn batch(codec: Codec, value_bytes: usize, count: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { codec, ..BatchOptions::default() });
    for index in 0..count {
        let row: String = (0..)
            .map(|column| format!("\"field{}\":{},", column, (index * 7919 + column * 104_729) % 100_000))
            .scan(0, |len, part| {
                *len += part.len();
                (*len < value_bytes + 32).then_some(part)
            })
            .collect();
        let value = &row.as_bytes()[..value_bytes.min(row.len())];
        builder.push(NOW, Some(format!("key-{index}").as_bytes()), Some(value), &[]).expect("small");
    }
    builder.build().expect("small")
}

fn check(c: &mut Criterion) {
    let policy = AppendPolicy::new(NOW);
    let append_time = AppendPolicy { timestamp_type: TimestampType::LogAppendTime, ..policy };
    for (shape, value_bytes, count) in SHAPES {
        let plain = batch(Codec::None, value_bytes, count);
        let mut group = c.benchmark_group(format!("check/{shape}"));
        group.throughput(Throughput::Bytes(plain.len() as u64));
        group.bench_function("crc_alone", |b| b.iter(|| crc32c(black_box(&plain[21..]))));
        group.bench_function("plain", |b| b.iter(|| check_produced(black_box(plain.clone()), &policy)));
        group.bench_function("plain_log_append_time", |b| {
            b.iter(|| check_produced(black_box(plain.clone()), &append_time));
        });
        group.bench_function("replicated", |b| b.iter(|| check_replicated(black_box(plain.clone()))));
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let compressed = batch(codec, value_bytes, count);
            group.bench_with_input(BenchmarkId::new("compressed", codec), &compressed, |b, batch| {
                b.iter(|| check_produced(black_box(batch.clone()), &policy));
            });
            let compression = CompressionPolicy::Fixed(codec, codec.default_level());
            let recompressing = AppendPolicy { compression, ..policy };
            if codec == Codec::Zstd {
                // As a Java producer writes it: the size is not known to the encoder, the window is 2 MiB.
                let gzipped = batch(Codec::Gzip, value_bytes, count);
                let checked = check_produced(gzipped, &recompressing).expect("valid");
                let one = &checked.as_slice()[0];
                let header = one.header_bytes(one.header().base_offset, one.header().leader_epoch);
                let streamed = Bytes::from([&header[..], one.payload()].concat());
                group.bench_function("compressed/zstd_with_2MiB_window", |b| {
                    b.iter(|| check_produced(black_box(streamed.clone()), &policy));
                });
            }
            group.bench_with_input(BenchmarkId::new("recompressed_to", codec), &plain, |b, batch| {
                b.iter(|| check_produced(black_box(batch.clone()), &recompressing));
            });
        }
        group.finish();
    }
}

fn read(c: &mut Criterion) {
    for (shape, value_bytes, count) in SHAPES {
        let plain = batch(Codec::None, value_bytes, count);
        let mut group = c.benchmark_group(format!("read/{shape}"));
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function("refs", |b| {
            b.iter(|| {
                RecordRefs::new(black_box(&plain[HEADER_LEN..]), count as i32)
                    .map(|record| record.expect("valid").value.map_or(0, <[u8]>::len))
                    .sum::<usize>()
            });
        });
        group.bench_function("owned", |b| {
            b.iter(|| records(black_box(&plain), usize::MAX).expect("valid").map(Result::unwrap).count());
        });
        group.finish();
    }
}

fn build(c: &mut Criterion) {
    for (shape, value_bytes, count) in SHAPES {
        let value = vec![b'x'; value_bytes];
        let mut group = c.benchmark_group(format!("build/{shape}"));
        group.throughput(Throughput::Bytes((value_bytes * count) as u64));
        group.bench_function("plain", |b| {
            b.iter(|| {
                let mut builder = BatchBuilder::new(BatchOptions::default());
                for _ in 0..count {
                    builder.push(NOW, None, Some(black_box(&value)), &[]).expect("small");
                }
                builder.build().expect("small")
            });
        });
        group.finish();
    }
}

criterion_group!(benches, check, read, build);
criterion_main!(benches);
