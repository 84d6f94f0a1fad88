//! `ottla perf`: how fast a cluster takes and gives records.
//!
//! A line each second with what happened in it, and a summary at the end: on standard output, as it is the result.
//! A record's latency runs from when it was due to be sent, not from when the buffer had room for it; so with
//! --throughput a stall counts for every record that it delayed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::ConnectArgs;
use super::moment::now_ms;
use super::outcome::CliError;
use super::produce::ProducerArgs;
use crate::admin::{self, NewTopic, OffsetSpec, TopicPartition};
use crate::cluster::{AutoCreate, Cluster};
use crate::consumer::fetcher::{FetchConfig, Fetched, Fetcher};
use crate::consumer::group::{Event, GroupConfig, GroupConsumer};
use crate::producer::{Delivery, Producer, ProducerRecord};
use crate::wire::ErrorCode;

const MB: f64 = 1_000_000.0;
/// Latencies are kept in microseconds up to an hour, to three digits.
const LATENCY_US_MAX: u64 = 3_600_000_000;
const DELIVERIES_MAX: usize = 1 << 20;
/// Payloads are cut at changing places from a block of noise this much longer than they are.
const NOISE_BYTES: usize = 64 << 10;

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct PerfArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Send records and measure until each is acknowledged
    Produce {
        topic: String,
        #[arg(long, short = 'n', default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
        records: u64,
        /// Bytes of a value
        #[arg(long, short = 's', value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(0..=64 << 20))]
        record_size: u64,
        /// Records per second. Default: as many as possible
        #[arg(long, short = 't', value_name = "RECORDS", value_parser = clap::value_parser!(u64).range(1..))]
        throughput: Option<u64>,
        /// Create the topic with so many partitions, if it does not exist
        #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        #[command(flatten)]
        tuning: ProducerArgs,
    },
    /// Read records and measure how many arrive
    Consume {
        topic: String,
        /// Stop after so many. Default: what the topic has
        #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
        records: Option<u64>,
        /// Read as a member of this group
        #[arg(long, short = 'g')]
        group: Option<String>,
        /// Also measure the time from a record's timestamp to its arrival, starting at the end of the topic. Needs --records
        #[arg(long, requires = "records")]
        latency: bool,
        /// Seconds without a record after which no more are waited for
        #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
        idle: u64,
    },
}

pub(super) async fn run(args: PerfArgs) -> Result<(), CliError> {
    let cluster = args.connect.cluster().await?;
    match args.action {
        Action::Produce { topic, records, record_size, throughput, partitions, tuning } => {
            if let Some(partitions) = partitions {
                ensure_topic(&cluster, &topic, partitions).await?;
            }
            cluster.topic(&topic, AutoCreate::Allowed).await?;
            let mut config = tuning.config();
            config.delivery_timeout = Duration::from_secs(args.connect.timeout.max(30));
            config.buffer_bytes_max = (64 << 20).max(record_size as usize * 4);
            let load = Load { topic, records, record_size: record_size as usize, throughput };
            produce(Producer::new(cluster, config), load).await
        }
        Action::Consume { topic, records, group, latency, idle } => {
            let load = ReadLoad { records, latency, idle: Duration::from_secs(idle) };
            consume(&cluster, &topic, group, load).await
        }
    }
}

async fn ensure_topic(cluster: &Cluster, topic: &str, partitions: i32) -> Result<(), CliError> {
    /// TOPIC_ALREADY_EXISTS
    const EXISTS: ErrorCode = ErrorCode(36);
    let wanted = NewTopic { name: topic.to_owned(), partitions: Some(partitions), ..NewTopic::default() };
    for (_, result) in admin::create_topics(cluster, &[wanted]).await? {
        match result {
            Err(error) if error.code() != Some(EXISTS) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// What is counted, in total and since the last line.
struct Meter {
    started: Instant,
    interval_started: Instant,
    records: u64,
    bytes: u64,
    interval_records: u64,
    interval_bytes: u64,
    latencies: Histogram<u64>,
    interval_latencies: Histogram<u64>,
}

impl Meter {
    fn start() -> Result<Meter, CliError> {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).map_err(|e| CliError::Failed(e.to_string()));
        let now = Instant::now();
        Ok(Meter {
            started: now,
            interval_started: now,
            records: 0,
            bytes: 0,
            interval_records: 0,
            interval_bytes: 0,
            latencies: histogram()?,
            interval_latencies: histogram()?,
        })
    }

    fn count(&mut self, records: u64, bytes: u64) {
        self.records += records;
        self.bytes += bytes;
        self.interval_records += records;
        self.interval_bytes += bytes;
    }

    fn latency(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX).clamp(1, LATENCY_US_MAX);
        self.latencies.saturating_record(us);
        self.interval_latencies.saturating_record(us);
    }

    fn write_line(&mut self, out: &mut impl Write) -> io::Result<()> {
        let seconds = self.interval_started.elapsed().as_secs_f64();
        let rates = rates(self.interval_records, self.interval_bytes, seconds);
        write!(out, "{:>4.0} s  {rates}", self.started.elapsed().as_secs_f64())?;
        if !self.interval_latencies.is_empty() {
            let at = |q: f64| milliseconds(self.interval_latencies.value_at_quantile(q));
            write!(out, "  p50 {} ms  p99 {} ms", at(0.5), at(0.99))?;
        }
        writeln!(out)?;
        self.interval_started = Instant::now();
        self.interval_records = 0;
        self.interval_bytes = 0;
        self.interval_latencies.reset();
        out.flush()
    }

    fn write_summary(&self, out: &mut impl Write, seconds: f64) -> io::Result<()> {
        writeln!(
            out,
            "total   {} records, {:.1} MB in {seconds:.2} s",
            self.records,
            self.bytes as f64 / MB
        )?;
        writeln!(out, "rate    {}", rates(self.records, self.bytes, seconds).trim_start())?;
        if !self.latencies.is_empty() {
            let at = |q: f64| milliseconds(self.latencies.value_at_quantile(q));
            writeln!(
                out,
                "latency p50 {} ms  p95 {} ms  p99 {} ms  p99.9 {} ms  max {} ms",
                at(0.5),
                at(0.95),
                at(0.99),
                at(0.999),
                milliseconds(self.latencies.max())
            )?;
        }
        out.flush()
    }
}

fn rates(records: u64, bytes: u64, seconds: f64) -> String {
    let seconds = seconds.max(1e-6);
    format!("{:>9.0} records/s  {:>7.1} MB/s", records as f64 / seconds, bytes as f64 / seconds / MB)
}

fn milliseconds(us: u64) -> String {
    format!("{:.2}", us as f64 / 1000.0)
}

struct Load {
    topic: String,
    records: u64,
    record_size: usize,
    throughput: Option<u64>,
}

async fn produce(producer: Producer, load: Load) -> Result<(), CliError> {
    let (deliveries, watched) = mpsc::channel(DELIVERIES_MAX);
    let size = load.record_size as u64;
    let sender = tokio::spawn(async move { send_load(producer, load, deliveries).await });
    let measured = measure_deliveries(watched, size).await;
    let sent = sender.await.map_err(|e| CliError::Failed(e.to_string()))?;
    measured?;
    sent
}

/// Keeps to the schedule. What is late is sent at once, with the time at which it was due.
async fn send_load(
    producer: Producer,
    load: Load,
    deliveries: mpsc::Sender<(Instant, Delivery)>,
) -> Result<(), CliError> {
    let noise = noise(load.record_size + NOISE_BYTES);
    let started = Instant::now();
    for number in 0..load.records {
        let due = match load.throughput {
            None => Instant::now(),
            Some(rate) => {
                let due = started + Duration::from_secs_f64(number as f64 / rate as f64);
                // Timers tick in milliseconds: those due within the next one are sent together.
                if due > Instant::now() + Duration::from_millis(1) {
                    tokio::time::sleep_until(due).await;
                }
                due.min(Instant::now())
            }
        };
        let at = (number as usize).wrapping_mul(61) % NOISE_BYTES;
        let value = noise.slice(at..at + load.record_size);
        let record = ProducerRecord { value: Some(value), ..ProducerRecord::default() };
        let delivery = producer.send(&load.topic, record).await?;
        if deliveries.send((due, delivery)).await.is_err() {
            return Ok(());
        }
    }
    producer.flush().await;
    Ok(())
}

async fn measure_deliveries(
    mut deliveries: mpsc::Receiver<(Instant, Delivery)>,
    record_bytes: u64,
) -> Result<(), CliError> {
    let mut out = io::stdout();
    let mut meter = Meter::start()?;
    let mut tick = tokio::time::interval_at(Instant::now() + Duration::from_secs(1), Duration::from_secs(1));
    let mut last = meter.started;
    let mut waiting: Option<(Instant, Delivery)> = None;
    loop {
        let (due, delivery) = match waiting.take() {
            Some(next) => next,
            None => tokio::select! {
                biased;
                _ = tick.tick() => {
                    meter.write_line(&mut out)?;
                    continue;
                }
                next = deliveries.recv() => match next {
                    Some(next) => next,
                    None => break,
                },
            },
        };
        tokio::select! {
            biased;
            (at, result) = delivery.wait_timed() => {
                result.map_err(|error| {
                    eprintln!("ottla perf: {error}");
                    CliError::Delivery(error)
                })?;
                meter.count(1, record_bytes);
                meter.latency(at.saturating_duration_since(due));
                last = last.max(at);
            }
            _ = tick.tick() => {
                meter.write_line(&mut out)?;
                waiting = Some((due, delivery));
            }
        }
    }
    let seconds = last.saturating_duration_since(meter.started).as_secs_f64();
    meter.write_summary(&mut out, seconds)?;
    Ok(())
}

/// Bytes that do not compress to nothing: letters and digits, equal in every run.
fn noise(length: usize) -> Bytes {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        LETTERS[(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 58) as usize]
    };
    (0..length).map(|_| next()).collect::<Vec<u8>>().into()
}

/// Where the records come from.
enum Source {
    Partitions(Box<Fetcher>),
    Group(Box<GroupConsumer>),
}

impl Source {
    async fn next(&mut self) -> Result<Fetched, CliError> {
        match self {
            Source::Partitions(fetcher) => Ok(fetcher.next().await?),
            Source::Group(consumer) => loop {
                if let Event::Records(fetched) = consumer.next().await? {
                    return Ok(fetched);
                }
            },
        }
    }
}

struct ReadLoad {
    records: Option<u64>,
    latency: bool,
    idle: Duration,
}

async fn consume(
    cluster: &Cluster,
    topic: &str,
    group: Option<String>,
    load: ReadLoad,
) -> Result<(), CliError> {
    let partitions = admin::partitions_of(cluster, topic).await?;
    let ask = |spec: OffsetSpec| partitions.iter().map(|p| (p.clone(), spec)).collect::<Vec<_>>();
    let ends = admin::list_offsets(cluster, &ask(OffsetSpec::Latest)).await?;
    let starts = if load.latency {
        ends.clone()
    } else {
        admin::list_offsets(cluster, &ask(OffsetSpec::Earliest)).await?
    };
    let positions: BTreeMap<TopicPartition, i64> =
        starts.into_iter().map(|(p, offset)| (p, offset.unwrap_or(0))).collect();
    let end_of = |p: &TopicPartition| ends.get(p).copied().flatten().unwrap_or(0);
    let mut left: BTreeSet<TopicPartition> =
        positions.iter().filter(|(p, at)| **at < end_of(p)).map(|(p, _)| p.clone()).collect();
    let fetch = FetchConfig { max_bytes: 50 << 20, partition_bytes_max: 4 << 20, ..FetchConfig::default() };
    let mut source = match group {
        None => {
            let mut fetcher = Fetcher::new(cluster.clone(), fetch);
            fetcher.assign(positions);
            Source::Partitions(Box::new(fetcher))
        }
        Some(group) => {
            let mut config = GroupConfig::new(&group, [topic.to_owned()]);
            config.fetch = fetch;
            config.start = if load.latency { OffsetSpec::Latest } else { OffsetSpec::Earliest };
            Source::Group(Box::new(GroupConsumer::new(cluster.clone(), config)))
        }
    };
    let done = read_load(&mut source, &load, &mut left, end_of).await;
    if let Source::Group(consumer) = source {
        consumer.close().await?;
    }
    done
}

async fn read_load(
    source: &mut Source,
    load: &ReadLoad,
    left: &mut BTreeSet<TopicPartition>,
    end_of: impl Fn(&TopicPartition) -> i64,
) -> Result<(), CliError> {
    let mut out = io::stdout();
    let mut meter = Meter::start()?;
    let mut tick = tokio::time::interval_at(Instant::now() + Duration::from_secs(1), Duration::from_secs(1));
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let (mut last_came, mut is_idle) = (Instant::now(), false);
    loop {
        let finished = match load.records {
            Some(records) => meter.records >= records,
            None => left.is_empty(),
        };
        if finished {
            break;
        }
        let fetched = {
            // Polled on through the ticks: a join that is given up halfway begins anew.
            let mut next = std::pin::pin!(source.next());
            loop {
                tokio::select! {
                    biased;
                    _ = &mut interrupt => break None,
                    _ = tick.tick() => meter.write_line(&mut out)?,
                    fetched = &mut next => break Some(fetched?),
                    () = tokio::time::sleep_until(last_came + load.idle) => {
                        is_idle = true;
                        break None;
                    }
                }
            }
        };
        let Some(fetched) = fetched else { break };
        last_came = Instant::now();
        let bytes: usize = fetched
            .records
            .iter()
            .map(|r| r.key.as_ref().map_or(0, Bytes::len) + r.value.as_ref().map_or(0, Bytes::len))
            .sum();
        meter.count(fetched.records.len() as u64, bytes as u64);
        if load.latency {
            let now = now_ms();
            for record in &fetched.records {
                let ms = u64::try_from(now.saturating_sub(record.timestamp.0)).unwrap_or(0);
                meter.latency(Duration::from_millis(ms));
            }
        }
        if fetched.next_offset >= end_of(&fetched.partition) {
            left.remove(&fetched.partition);
        }
    }
    let seconds = meter.started.elapsed().as_secs_f64();
    meter.write_summary(&mut out, seconds)?;
    match is_idle {
        true => Err(CliError::Failed(format!("no record came for {} s", load.idle.as_secs()))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_reads_well() {
        let mut meter = Meter::start().unwrap();
        meter.count(1000, 1_000_000);
        for ms in 1..=1000 {
            meter.latency(Duration::from_millis(ms));
        }
        let mut out = Vec::new();
        meter.write_summary(&mut out, 2.0).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("1000 records, 1.0 MB in 2.00 s"), "{text}");
        assert!(text.contains("500 records/s") && text.contains("0.5 MB/s"), "{text}");
        assert!(text.contains("p50 500.") && text.contains("p99.9 "), "{text}");
    }

    #[test]
    fn noise_does_not_repeat() {
        let noise = noise(1000);
        assert_ne!(noise.slice(..100), noise.slice(100..200));
    }
}
