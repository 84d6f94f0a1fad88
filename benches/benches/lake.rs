//! JSON records to Parquet files: how many bytes of JSON one core converts in a second. `OTTLA_STOCK_CSV` names a file of the
//! stock-market job; without it, rows like those are made up.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ottla_batch::{Offset, TimestampMs};
use ottla_lake::convert::{Converter, Mode, Options, Quarantine};
use ottla_lake::record::Record;
use ottla_lake::schema::TableSchema;

/// Some 20 MB.
const ROUNDS: i64 = 20;

/// As clients/examples/producer.py sends them.
fn stock_rows() -> Vec<String> {
    let csv = match std::env::var("OTTLA_STOCK_CSV") {
        Ok(path) => std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")),
        Err(_) => {
            let row = |day: i32| {
                let open = f64::from((2500.0 + f64::from(day * 7919 % 10_007) / 100.0) as f32);
                let (month, of_month) = (day / 28 % 12 + 1, day % 28 + 1);
                format!(
                    "HSI,{}-{month:02}-{of_month:02},{open:.6},{open:.6},{open:.6},{open:.6},{open:.6},{}.0,{:?}\n",
                    1987 + day / 336,
                    day * 104_729 % 40_000 * 100,
                    open * 0.13
                )
            };
            "Index,Date,Open,High,Low,Close,Adj Close,Volume,CloseUSD\n".to_owned()
                + &(0..5_281).map(row).collect::<String>()
        }
    };
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().expect("a header").split(',').collect();
    let member = |(name, value): (&&str, &str)| match value.parse::<f64>() {
        Ok(number) => format!("\"{name}\": {number:?}"),
        Err(_) => format!("\"{name}\": \"{value}\""),
    };
    lines
        .map(|line| {
            let members: Vec<String> = names.iter().zip(line.split(',')).map(member).collect();
            format!("{{{}}}", members.join(", "))
        })
        .collect()
}

fn convert(rows: &[String], zstd_level: i32) -> usize {
    let mut schema = TableSchema::of_records();
    schema.learn(rows.iter().take(1000).map(|row| row.as_bytes()));
    let options = Options {
        mode: Mode::Infer,
        is_by_day: true,
        zstd_level,
        bytes_max: 1 << 28,
        quarantine: Quarantine::default(),
    };
    let mut converter = Converter::new(schema, 0, options);
    let mut offset = 0;
    for _ in 0..ROUNDS {
        for row in rows {
            converter.push(&Record {
                partition: 0,
                offset: Offset(offset),
                timestamp: TimestampMs(1_700_000_000_000 + offset / 10),
                key: Some(&row.as_bytes()[11..14]),
                value: Some(row.as_bytes()),
                headers: &[],
            });
            offset += 1;
        }
    }
    let converted = converter.finish().expect("rows fit");
    converted.files.iter().map(|file| file.bytes.len()).sum()
}

fn json_to_parquet(criterion: &mut Criterion) {
    let rows = stock_rows();
    let bytes = rows.iter().map(String::len).sum::<usize>() as u64 * ROUNDS as u64;
    let mut group = criterion.benchmark_group("json-to-parquet");
    group.throughput(Throughput::Bytes(bytes)).sample_size(10);
    for zstd_level in [1, 3] {
        println!("zstd {zstd_level}: {} bytes of Parquet for {bytes} of JSON", convert(&rows, zstd_level));
        group.bench_function(format!("zstd {zstd_level}"), |bencher| {
            bencher.iter(|| convert(black_box(&rows), zstd_level));
        });
    }
    group.finish();
}

criterion_group!(benches, json_to_parquet);
criterion_main!(benches);
