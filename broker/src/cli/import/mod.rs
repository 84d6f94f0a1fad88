//! `ottla lake import`: files of JSON or CSV into a topic, each document as a record, once however often it is killed and run again.
//!
//! Documents are sent in the order of the files. Every [`STEP`] of them, all that was sent is waited for, and then a file on this
//! machine says how far that was ([`progress`]) and where the partitions ended. Each record has a header that names its file and
//! its number there; so what a killed run had sent after that is found behind these ends, and not sent again.
//!
//! - [`source`]: files on disk or in a bucket.
//! - [`document`]: their documents ([`json`], [`csv`]), and the records these become.

mod csv;
mod document;
mod json;
mod progress;
mod source;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use ottla_batch::{Codec, Header};
use ottla_clients::admin::{self, OffsetSpec, ResourceType};
use ottla_clients::cli::outcome::CliError;
use ottla_clients::cli::topics::{count, kafka_id};
use ottla_clients::cluster::{AutoCreate, Cluster, Topic};
use ottla_clients::consumer::fetcher::{FetchConfig, Fetcher};
use ottla_clients::producer::{Delivery, Producer, ProducerConfig};
use ottla_storage::disk::Disk;

use crate::clock;
use document::{Documents, Format, Malformed, Members};
use progress::{Cursor, Progress, ProgressFile};
use source::{File, Source};

/// `<file>#<number of the document there>`.
const ORIGIN_HEADER: &str = "ottla-import";
/// Documents between two looks at how far it is.
const STEP: usize = 10_000;
/// Files whose beginning is read ahead: many files of one document each are many requests to a bucket.
const FILES_AHEAD: usize = 32;
/// What is told of one by one.
const MALFORMED_TOLD_MAX: u64 = 5;
/// A killed run's last request may be on its way into the log yet.
const SETTLING: Duration = Duration::from_secs(1);
const LINGER: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// Has to be there; with ottla.lake.enable=true its table gets the rows as well
    topic: String,
    /// Files, directories, or s3://bucket/prefix: objects of JSON (one after the other, on lines, or in an array), or CSV with a line
    /// of names; also compressed by gzip. Names that begin with _ or . are left out
    #[arg(required = true, value_name = "PATH")]
    sources: Vec<String>,
    /// What is in the files. Default: as their names end, .json, .jsonl, .ndjson or .csv, perhaps with .gz
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The member (the column) whose value becomes the record's key. Default: no key
    #[arg(long, value_name = "MEMBER")]
    key: Option<String>,
    /// The member whose value becomes the record's time: 2026-11-20T08:30:00Z, 2026-11-20, or milliseconds since 1970. Default: now
    #[arg(long, value_name = "MEMBER")]
    timestamp: Option<String>,
    /// What stands between the cells of CSV
    #[arg(long, value_name = "CHARACTER", default_value = ",", value_parser = parse_delimiter)]
    delimiter: u8,
    /// Every cell of CSV is text, also one that looks like a number
    #[arg(long)]
    text: bool,
    /// Leave out what is malformed, and count it. Default: end there
    #[arg(long)]
    skip_errors: bool,
    /// The file that says how far it is, so that it can be killed and run again. Default: ottla-import-TOPIC.json
    #[arg(long, value_name = "PATH")]
    progress: Option<PathBuf>,
    /// Print nothing when all went well
    #[arg(long, short = 'q')]
    quiet: bool,
}

fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text {
        "\\t" => Ok(b'\t'),
        _ if text.len() == 1 && !["\"", "\n", "\r"].contains(&text) => Ok(text.as_bytes()[0]),
        _ => Err("expected one character of ASCII, or \\t".to_owned()),
    }
}

/// How long a partition keeps what has a time of its own.
struct Retention {
    ms: i64,
    now: i64,
}

struct Import<'a> {
    args: &'a ImportArgs,
    producer: Producer,
    retention: Option<Retention>,
    file: ProgressFile,
    progress: Progress,
    /// Of records that an earlier run wrote after it last said how far it was.
    written: HashSet<String>,
    /// Since the last step, with the document that each is of.
    deliveries: Vec<(String, Delivery)>,
    /// Where the next document begins that no step has taken in.
    source: String,
    cursor: Cursor,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    sent: usize,
    found: usize,
    malformed: u64,
    files: usize,
}

pub async fn import(
    cluster: &Cluster,
    overrides: &[(String, String)],
    timeout: Duration,
    args: &ImportArgs,
) -> Result<(), CliError> {
    let topic = cluster.topic(&args.topic, AutoCreate::Never).await?;
    let retention = match args.timestamp {
        Some(_) => retention(cluster, &args.topic).await?,
        None => None,
    };
    let mut sources = Vec::new();
    for text in &args.sources {
        sources.push(Source::open(text, cluster, overrides).await?);
    }
    let path = args.progress.clone();
    let path = path.unwrap_or_else(|| PathBuf::from(format!("ottla-import-{}.json", args.topic)));
    let cluster_id = cluster.cluster_id().unwrap_or_default();
    let new = Progress::new(cluster_id, args.topic.clone(), kafka_id(topic.id));
    let (file, mut progress) = ProgressFile::open(&Disk::real(), &path, new)?;
    let written = if progress.running.is_empty() {
        progress.ends = ends(cluster, &topic).await?;
        HashSet::new()
    } else {
        let is_given = |location: &String| sources.iter().any(|source| source.location == *location);
        if let Some(missing) = progress.running.iter().find(|location| !is_given(location)) {
            return Err(CliError::Failed(format!(
                "an earlier run came to no end, and it was to import {missing} too: run it again with the same paths first"
            )));
        }
        if !args.quiet {
            eprintln!("an earlier run came to no end: reading what it had written");
        }
        let mut written = written_since(cluster, &topic, &progress.ends).await?;
        written.retain(|origin| progress.is_ahead(origin, &sources));
        written
    };
    progress.running = sources.iter().map(|source| source.location.clone()).collect();
    file.write(&progress)?;
    let config = ProducerConfig {
        codec: Codec::Zstd,
        linger: LINGER,
        delivery_timeout: timeout,
        create: AutoCreate::Never,
        ..ProducerConfig::default()
    };
    let mut import = Import {
        args,
        producer: Producer::new(cluster.clone(), config),
        retention,
        file,
        progress,
        written,
        deliveries: Vec::new(),
        source: String::new(),
        cursor: Cursor::default(),
        counts: Counts::default(),
    };
    let outcome = import.all(&sources).await;
    if let Err(error @ CliError::Delivery(_)) = outcome {
        // Nobody knows which of the last records are in the log: the next run looks.
        return Err(error);
    }
    // What came before another error is done.
    import.step(true).await?;
    outcome?;
    if !args.quiet {
        import.counts.tell(&args.topic);
    }
    Ok(())
}

impl Import<'_> {
    async fn all(&mut self, sources: &[Source]) -> Result<(), CliError> {
        for source in sources {
            // A step in the source before has been made, or nothing of it is left.
            self.remember();
            self.source = source.location.clone();
            self.cursor = self.progress.cursors.get(&self.source).cloned().unwrap_or_default();
            self.all_of(source).await?;
        }
        Ok(())
    }

    async fn all_of(&mut self, source: &Source) -> Result<(), CliError> {
        let begun = self.cursor.clone();
        let (mut after, mut before) = (Some(String::new()), 0);
        let mut is_checked = begun.file.is_empty();
        while let Some(last) = after {
            let (mut files, more) = source.after(&last).await?;
            let all = files.len() as u64;
            files.retain(|file| file.name >= begun.file);
            before += all - files.len() as u64;
            if !is_checked && let Some(first) = files.first() {
                is_checked = true;
                before += u64::from(first.name == begun.file);
            }
            let opened = files.into_iter().map(|file| async move {
                let first = source.read(&file, 0).await;
                (file, first)
            });
            let mut opened = stream::iter(opened).buffered(FILES_AHEAD);
            while let Some((file, first)) = opened.next().await {
                self.all_in(source, &file, first?).await?;
            }
            after = more;
        }
        if before > begun.files {
            eprintln!(
                "{}: {} came since the last run whose names are before {}; they were not imported",
                source.location,
                count((before - begun.files) as usize, "file"),
                begun.file
            );
        }
        if self.cursor.files == 0 {
            return Err(CliError::Failed(format!("{}: there are no files", source.location)));
        }
        Ok(())
    }

    async fn all_in(&mut self, source: &Source, file: &File, first: bytes::Bytes) -> Result<(), CliError> {
        let location = source.location_of(file);
        let failed = |reason: String| CliError::Failed(format!("{location}: {reason}"));
        let Some(format) = self.args.format.or_else(|| Format::of_name(&file.name)) else {
            return Err(failed("its name does not say what it is; --format json or csv does".to_owned()));
        };
        let done = if file.name == self.cursor.file { self.cursor.documents } else { 0 };
        if file.name != self.cursor.file {
            let files = self.cursor.files + 1;
            self.cursor = Cursor { file: file.name.clone(), documents: 0, files };
        }
        let mut documents = Documents::new(format, self.args.delimiter, self.args.text, &first);
        let (mut number, mut position, mut piece) = (0, 0, first);
        loop {
            let is_last = position == file.bytes;
            if is_last {
                documents.end().map_err(failed)?;
            } else {
                if piece.is_empty() {
                    piece = source.read(file, position).await?;
                }
                let taken = documents.push(&piece).map_err(failed)?;
                bytes::Buf::advance(&mut piece, taken);
                position += taken as u64;
            }
            while let Some(next) = documents.next() {
                if number >= done {
                    self.one(&location, number, next).await?;
                }
                number += 1;
            }
            if is_last {
                break;
            }
        }
        if let Some(rest) = documents.rest()
            && number >= done
        {
            self.one(&location, number, Err(rest)).await?;
        }
        self.counts.files += usize::from(number > done);
        Ok(())
    }

    async fn one(
        &mut self,
        location: &str,
        number: u64,
        document: Result<(u64, Vec<u8>), Malformed>,
    ) -> Result<(), CliError> {
        let members = Members { key: self.args.key.as_deref(), timestamp: self.args.timestamp.as_deref() };
        let record = document.and_then(|(line, text)| {
            let record = members.record(text).map_err(|reason| Malformed { line, reason })?;
            Ok((line, record))
        });
        match record {
            Ok((line, mut record)) => {
                if let (Some(retention), Some(timestamp)) = (&self.retention, record.timestamp)
                    && timestamp.0 < retention.now.saturating_sub(retention.ms)
                {
                    return Err(CliError::Failed(format!(
                        "{location}: line {line}: it is older than what the topic keeps: set retention.ms=-1 there \
                         (it is {}), or leave out --timestamp",
                        retention.ms
                    )));
                }
                let origin = format!("{location}#{number}");
                if self.written.remove(&origin) {
                    self.counts.found += 1;
                } else {
                    record
                        .headers
                        .push(Header { key: ORIGIN_HEADER.into(), value: Some(origin.clone().into()) });
                    let delivery = self.producer.send(&self.args.topic, record).await?;
                    self.deliveries.push((origin, delivery));
                }
            }
            Err(Malformed { line, reason }) => {
                let told = format!("{location}: line {line}: {reason}");
                if !self.args.skip_errors {
                    return Err(CliError::Failed(told));
                }
                self.counts.malformed += 1;
                if self.counts.malformed <= MALFORMED_TOLD_MAX {
                    eprintln!("left out: {told}");
                }
            }
        }
        self.cursor.documents = number + 1;
        if self.deliveries.len() >= STEP {
            self.step(false).await?;
        }
        Ok(())
    }

    /// Waits for all that was sent, and says so in the file. `is_end`: nothing is sent after it.
    async fn step(&mut self, is_end: bool) -> Result<(), CliError> {
        self.producer.flush().await;
        let mut ends = self.progress.ends.clone();
        for (origin, delivery) in self.deliveries.drain(..) {
            let delivered = delivery.wait().await.map_err(|error| {
                eprintln!("not written: {origin}: {error}");
                CliError::Delivery(error)
            })?;
            self.counts.sent += 1;
            if let Some(offset) = delivered.offset {
                let end = ends.entry(delivered.partition).or_default();
                *end = (*end).max(offset + 1);
            }
        }
        // What an earlier run wrote is known by being behind the ends.
        if self.written.is_empty() {
            self.progress.ends = ends;
        }
        self.remember();
        if is_end {
            self.progress.running.clear();
        }
        self.file.write(&self.progress)
    }

    fn remember(&mut self) {
        if self.cursor.files > 0 {
            self.progress.cursors.insert(self.source.clone(), self.cursor.clone());
        }
    }
}

impl Progress {
    /// Whether that document is one that a run over these sources has still to come to.
    fn is_ahead(&self, origin: &str, sources: &[Source]) -> bool {
        let Some((location, number)) = origin.rsplit_once('#') else { return false };
        let Ok(number) = number.parse::<u64>() else { return false };
        sources.iter().any(|source| {
            let Some(name) = source.name_of(location) else { return false };
            let Some(cursor) = self.cursors.get(&source.location) else { return true };
            (name, number) >= (cursor.file.as_str(), cursor.documents)
        })
    }
}

impl Counts {
    fn tell(&self, topic: &str) {
        let mut told = format!("{} of {} to {topic}", count(self.sent, "record"), count(self.files, "file"));
        if self.found > 0 {
            told.push_str(&format!("; {} had been written by an earlier run", self.found));
        }
        if self.malformed > 0 {
            told.push_str(&format!("; {} malformed, left out", self.malformed));
        }
        eprintln!("{told}");
    }
}

/// None: the topic keeps everything.
async fn retention(cluster: &Cluster, topic: &str) -> Result<Option<Retention>, CliError> {
    let entries = admin::describe_configs(cluster, ResourceType::Topic, topic, false).await?;
    let value = |name: &str| entries.iter().find(|entry| entry.name == name)?.value.as_deref();
    let deletes = value("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
    let ms = value("retention.ms").and_then(|ms| ms.parse().ok()).filter(|ms: &i64| *ms >= 0);
    Ok(ms.filter(|_| deletes).map(|ms| Retention { ms, now: clock::now().0 }))
}

async fn ends(cluster: &Cluster, topic: &Topic) -> Result<BTreeMap<i32, i64>, CliError> {
    let wanted: Vec<_> = topic
        .partitions
        .iter()
        .map(|partition| ((topic.name.clone(), partition.index), OffsetSpec::Latest))
        .collect();
    let ends = admin::list_offsets(cluster, &wanted).await?;
    Ok(ends.into_iter().map(|((_, partition), end)| (partition, end.unwrap_or(0))).collect())
}

/// The origins of records behind those offsets.
async fn written_since(
    cluster: &Cluster,
    topic: &Topic,
    since: &BTreeMap<i32, i64>,
) -> Result<HashSet<String>, CliError> {
    let mut written = HashSet::new();
    tokio::time::sleep(SETTLING).await;
    let ends = ends(cluster, topic).await?;
    let mut fetcher = Fetcher::new(cluster.clone(), FetchConfig::default());
    let from = |partition: &i32| since.get(partition).copied().unwrap_or(0);
    let mut left: BTreeMap<_, _> = ends
        .iter()
        .filter(|(partition, end)| from(partition) < **end)
        .map(|(partition, end)| ((topic.name.clone(), *partition), *end))
        .collect();
    fetcher.assign(left.keys().map(|key| (key.clone(), from(&key.1))).collect());
    while !left.is_empty() {
        let fetched = fetcher.next().await?;
        for header in fetched.records.into_iter().flat_map(|record| record.headers) {
            if header.key == ORIGIN_HEADER
                && let Some(origin) = header.value.and_then(|value| String::from_utf8(value.to_vec()).ok())
            {
                written.insert(origin);
            }
        }
        if left.get(&fetched.partition).is_some_and(|end| fetched.next_offset >= *end) {
            left.remove(&fetched.partition);
            fetcher.remove(&fetched.partition);
        }
    }
    Ok(written)
}
