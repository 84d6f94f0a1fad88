//! `ottla produce`: lines of standard input or a file become records.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_batch::{Codec, Header};
use tokio::sync::mpsc;

use super::outcome::CliError;
use super::{ConnectArgs, parse_key_value, record_json};
use crate::cluster::AutoCreate;
use crate::error::ClientError;
use crate::producer::{Acks, Delivery, Producer, ProducerConfig, ProducerRecord};

/// A longer line is an error; brokers accept a MiB by default.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Lines read ahead of the producer.
const LINES_AHEAD_MAX: usize = 1024;
/// Records whose fate has not been looked at.
const DELIVERIES_MAX: usize = 65_536;
/// Failed records that are told of one by one.
const FAILURES_TOLD_MAX: usize = 5;

#[derive(Debug, clap::Args)]
pub struct ProduceArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    pub topic: String,
    /// Read this file instead of standard input
    #[arg(long, short = 'f', value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// text: a line is a value. json: a line is an object with key, value, headers, partition, timestamp
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// What stands between key and value of a line; a line without it has no key. \t is a tab
    #[arg(long, short = 'k', value_name = "TEXT", value_parser = parse_separator)]
    pub key_separator: Option<String>,
    /// A header for every record; may be given many times
    #[arg(long, short = 'H', value_name = "KEY=VALUE", value_parser = parse_key_value)]
    pub header: Vec<(String, String)>,
    /// Every record to this partition. Default: by the key as Java's producer does
    #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    #[command(flatten)]
    pub tuning: ProducerArgs,
    /// Do not create a topic that does not exist, even if the brokers would
    #[arg(long)]
    pub no_create: bool,
    /// Print nothing when all went well
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

/// What `produce` and `perf produce` have in common.
#[derive(Debug, Clone, clap::Args)]
pub struct ProducerArgs {
    /// all: acknowledged by every in-sync replica, and written exactly once. 1: by the leader. 0: not at all
    #[arg(long, value_enum, default_value_t = AcksArg::All)]
    pub acks: AcksArg,
    #[arg(long, short = 'c', value_enum, default_value_t = Compression::None)]
    pub compression: Compression,
    /// How long a batch waits for more records
    #[arg(long, value_name = "MS", default_value_t = 5)]
    pub linger_ms: u64,
    /// Batches are closed at this size, before compression
    #[arg(long, value_name = "BYTES", default_value_t = 131_072, value_parser = clap::value_parser!(u64).range(1..=64 << 20))]
    pub batch_size: u64,
}

impl ProducerArgs {
    pub(super) fn config(&self) -> ProducerConfig {
        let batch_bytes_max = self.batch_size as usize;
        ProducerConfig {
            acks: match self.acks {
                AcksArg::None => Acks::None,
                AcksArg::Leader => Acks::Leader,
                AcksArg::All => Acks::All,
            },
            codec: match self.compression {
                Compression::None => Codec::None,
                Compression::Gzip => Codec::Gzip,
                Compression::Snappy => Codec::Snappy,
                Compression::Lz4 => Codec::Lz4,
                Compression::Zstd => Codec::Zstd,
            },
            linger: Duration::from_millis(self.linger_ms),
            batch_bytes_max,
            request_bytes_max: batch_bytes_max.max(1 << 20),
            ..ProducerConfig::default()
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AcksArg {
    #[value(name = "0")]
    None,
    #[value(name = "1")]
    Leader,
    #[value(name = "all", alias = "-1")]
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

pub(super) fn parse_separator(text: &str) -> Result<String, String> {
    let text = text.replace("\\t", "\t").replace("\\n", "\n").replace("\\0", "\0");
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text) }
}

pub(super) async fn run(args: ProduceArgs) -> Result<(), CliError> {
    let cluster = args.connect.cluster().await?;
    let create = if args.no_create { AutoCreate::Never } else { AutoCreate::Allowed };
    // Before the first line: a wrong topic should be told at once.
    cluster.topic(&args.topic, create).await?;
    let mut config = args.tuning.config();
    config.create = create;
    config.delivery_timeout = Duration::from_secs(args.connect.timeout);
    let mut lines = read_lines(args.file.as_deref())?;
    if args.file.is_none() && io::stdin().is_terminal() && !args.quiet {
        eprintln!("each line is a record of {}; end with Ctrl-D", args.topic);
    }
    let producer = Producer::new(cluster, config);
    let (deliveries, watched) = mpsc::channel(DELIVERIES_MAX);
    let watcher = tokio::spawn(watch_deliveries(watched));
    let sent = send_lines(&args, &producer, &mut lines, deliveries).await;
    producer.flush().await;
    let summary = watcher.await.map_err(|e| CliError::Failed(e.to_string()))?;
    sent?;
    if !args.quiet {
        eprintln!("{} to {}", super::topics::count(summary.delivered, "record"), args.topic);
    }
    match summary.first_error {
        None => Ok(()),
        Some(error) => {
            eprintln!("{} not written", super::topics::count(summary.failed, "record"));
            Err(CliError::Delivery(error))
        }
    }
}

async fn send_lines(
    args: &ProduceArgs,
    producer: &Producer,
    lines: &mut mpsc::Receiver<io::Result<Vec<u8>>>,
    deliveries: mpsc::Sender<(u64, Delivery)>,
) -> Result<(), CliError> {
    let constant: Vec<Header> = args
        .header
        .iter()
        .map(|(key, value)| Header { key: key.clone().into(), value: Some(value.clone().into()) })
        .collect();
    let mut number = 0u64;
    while let Some(line) = lines.recv().await {
        number += 1;
        let line = line.map_err(|e| CliError::Failed(format!("line {number}: {e}")))?;
        let mut record = match args.format {
            Format::Text => split_line(line, args.key_separator.as_deref()),
            Format::Json if line.iter().all(u8::is_ascii_whitespace) => continue,
            Format::Json => record_json::from_json(&line)
                .map_err(|problem| CliError::Failed(format!("line {number}: {problem}")))?,
        };
        record.headers.extend(constant.iter().cloned());
        if args.partition.is_some() {
            record.partition = args.partition;
        }
        let delivery = producer.send(&args.topic, record).await?;
        if deliveries.send((number, delivery)).await.is_err() {
            // The watcher gave up after a failure that will not pass.
            break;
        }
    }
    Ok(())
}

/// Splits at the first separator, without copying.
fn split_line(line: Vec<u8>, separator: Option<&str>) -> ProducerRecord {
    let line = Bytes::from(line);
    let at = separator.and_then(|s| line.windows(s.len()).position(|window| window == s.as_bytes()));
    let (key, value) = match (at, separator) {
        (Some(at), Some(separator)) => (Some(line.slice(..at)), line.slice(at + separator.len()..)),
        _ => (None, line),
    };
    ProducerRecord { key, value: Some(value), ..ProducerRecord::default() }
}

#[derive(Default)]
struct Summary {
    delivered: usize,
    failed: usize,
    first_error: Option<Arc<ClientError>>,
}

async fn watch_deliveries(mut deliveries: mpsc::Receiver<(u64, Delivery)>) -> Summary {
    let mut summary = Summary::default();
    while let Some((number, delivery)) = deliveries.recv().await {
        match delivery.wait().await {
            Ok(_) => summary.delivered += 1,
            Err(error) => {
                summary.failed += 1;
                if summary.failed <= FAILURES_TOLD_MAX {
                    eprintln!("ottla produce: line {number}: {error}");
                }
                summary.first_error.get_or_insert(error);
            }
        }
    }
    summary
}

/// Reads lines on a thread of its own: reading standard input can't be interrupted, and must not keep the runtime from
/// ending.
fn read_lines(path: Option<&Path>) -> Result<mpsc::Receiver<io::Result<Vec<u8>>>, CliError> {
    let input: Box<dyn Read + Send> = match path {
        None => Box::new(io::stdin()),
        Some(path) => Box::new(File::open(path).map_err(|error| {
            CliError::Failed(format!("{}: {}", path.display(), crate::error::plain_io_error(&error)))
        })?),
    };
    let (sender, lines) = mpsc::channel(LINES_AHEAD_MAX);
    std::thread::spawn(move || {
        let mut input = BufReader::with_capacity(256 << 10, input);
        loop {
            match read_line(&mut input) {
                Ok(None) => return,
                Ok(Some(line)) => {
                    if sender.blocking_send(Ok(line)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    // Nobody is left to tell if this fails.
                    let _ = sender.blocking_send(Err(error));
                    return;
                }
            }
        }
    });
    Ok(lines)
}

/// The next line without its end, None at the end of the input.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let count = input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if count == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if count as u64 == LINE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("longer than {} MiB", LINE_BYTES_MAX >> 20),
        ));
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_split_at_the_first_separator() {
        let record = split_line(b"a:b:c".to_vec(), Some(":"));
        assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b"a"[..]), Some(&b"b:c"[..])));
        let record = split_line(b"abc".to_vec(), Some(":"));
        assert_eq!((record.key, record.value.as_deref()), (None, Some(&b"abc"[..])));
        let record = split_line(b"=>".to_vec(), Some("=>"));
        assert_eq!((record.key.as_deref(), record.value.as_deref()), (Some(&b""[..]), Some(&b""[..])));
        let record = split_line(b"a:b".to_vec(), None);
        assert_eq!((record.key, record.value.as_deref()), (None, Some(&b"a:b"[..])));
    }

    #[test]
    fn lines_end_as_on_any_system() {
        let mut input: &[u8] = b"one\r\ntwo\n\nthree";
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input).unwrap() {
            lines.push(String::from_utf8(line).unwrap());
        }
        assert_eq!(lines, ["one", "two", "", "three"]);
    }
}
