//! How large Parquet is beside the JSON that it came from, and beside a log of it compressed with zstd.
//!
//! `OTTLA_STOCK_CSV` names a file of the stock-market job; without it, rows like those are made up.

use std::fmt::Write;

use ottla_lake::convert::{Converter, Mode, Options, Quarantine};
use ottla_lake::record::Record;
use ottla_lake::schema::TableSchema;
use ottla_storage::batch::{BatchBuilder, BatchOptions, Codec, Offset, TimestampMs};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Records in a batch of a producer that sends as fast as it goes: 1 MiB of JSON would be some 5,000.
const BATCH_RECORDS: usize = 500;
/// As the file has.
const ROWS: usize = 5_281;

/// Key and value as clients/examples/producer.py sends them.
fn rows() -> Vec<(String, String)> {
    let csv = match std::env::var("OTTLA_STOCK_CSV") {
        Ok(path) => std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")),
        Err(_) => made_up(),
    };
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            let values: Vec<&str> = line.split(',').collect();
            let member = |(name, value): (&&str, &&str)| match value.parse::<f64>() {
                Ok(number) => format!("\"{name}\": {number:?}"),
                Err(_) => format!("\"{name}\": \"{value}\""),
            };
            let members: Vec<String> = names.iter().zip(&values).map(member).collect();
            (format!("{}{}", values[0], values[1]), format!("{{{}}}", members.join(", ")))
        })
        .collect()
}

/// A walk of prices, a day after the other. As in the file they are hundredths that went through 32 bits, printed with six decimals.
fn made_up() -> String {
    let mut random = StdRng::seed_from_u64(7);
    let mut csv = "Index,Date,Open,High,Low,Close,Adj Close,Volume,CloseUSD\n".to_owned();
    let printed = |price: f64| format!("{:.6}", f64::from(((price * 100.0).round() / 100.0) as f32));
    let mut close = 2568.3f64;
    for day in 0..ROWS {
        let open = close;
        close *= 1.0 + random.random_range(-0.02..0.02);
        let high = printed(open.max(close) * (1.0 + random.random_range(0.0..0.01)));
        let low = printed(open.min(close) * (1.0 - random.random_range(0.0..0.01)));
        let (open, close) = (printed(open), printed(close));
        let volume = random.random_range(0..40_000) * 100;
        let usd = close.parse::<f64>().unwrap() * 0.13;
        let (year, month, of_month) = (1987 + day / 336, day / 28 % 12 + 1, day % 28 + 1);
        let date = format!("{year}-{month:02}-{of_month:02}");
        writeln!(csv, "HSI,{date},{open},{high},{low},{close},{close},{volume}.0,{usd:?}").unwrap();
    }
    csv
}

#[test]
fn parquet_is_smaller_than_a_quarter_of_the_json_and_not_larger_than_the_compressed_log() {
    let rows = rows();
    let mut schema = TableSchema::of_records();
    schema.learn(rows.iter().take(1000).map(|(_, value)| value.as_bytes()));
    let options = Options {
        mode: Mode::Infer,
        is_by_day: true,
        zstd_level: 1,
        bytes_max: 1 << 28,
        quarantine: Quarantine::default(),
    };
    let mut converter = Converter::new(schema, 0, options);
    let (mut json, mut log) = (0, 0);
    for (chunk_at, chunk) in rows.chunks(BATCH_RECORDS).enumerate() {
        let batch = BatchOptions { codec: Codec::Zstd, ..BatchOptions::default() };
        let mut builder = BatchBuilder::new(batch);
        for (at, (key, value)) in chunk.iter().enumerate() {
            let offset = (chunk_at * BATCH_RECORDS + at) as i64;
            let timestamp = TimestampMs(1_700_000_000_000 + offset / 10);
            builder.push(timestamp, Some(key.as_bytes()), Some(value.as_bytes()), &[]).unwrap();
            converter.push(&Record {
                partition: (chunk_at % 6) as i32,
                offset: Offset(offset),
                timestamp,
                key: Some(key.as_bytes()),
                value: Some(value.as_bytes()),
                headers: &[],
            });
            json += value.len();
        }
        log += builder.build().unwrap().len();
    }
    let converted = converter.finish().unwrap();
    assert_eq!(converted.files.iter().map(|file| file.rows).sum::<u64>(), rows.len() as u64);
    let parquet: usize = converted.files.iter().map(|file| file.bytes.len()).sum();
    println!("JSON {json}, zstd log {log}, Parquet {parquet} bytes");
    for file in &converted.files {
        for column in converted.schema.columns() {
            println!("  {} {:?}", column.name, file.metrics.column_sizes.get(&column.id));
        }
    }
    assert!(parquet * 4 <= json, "{parquet} of {json}");
    assert!(parquet * 100 <= log * 115, "{parquet}, {log}");
}
