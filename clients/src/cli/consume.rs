//! `ottla consume`: the records of a topic, as text or JSON lines.
//!
//! Without --follow it ends at what was the end of the topic when it began. What is committed for a group has been
//! written to standard output and flushed.

use std::collections::BTreeMap;
use std::io::{self, Write};

use ottla_batch::Record;

use super::ConnectArgs;
use super::moment::{POSITION_HELP, Position, format_ms};
use super::outcome::CliError;
use super::produce::{Format, parse_separator};
use super::record_json::RecordJson;
use crate::admin::{self, OffsetSpec, TopicPartition};
use crate::cluster::Cluster;
use crate::consumer::assignor::Assignor;
use crate::consumer::fetcher::{FetchConfig, Fetched, Fetcher, Isolation};
use crate::consumer::group::{Event, GroupConfig, GroupConsumer};
use crate::error::ClientError;
use crate::wire::ErrorCode;

#[derive(Debug, clap::Args)]
pub struct ConsumeArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    pub topic: String,
    #[arg(
        long,
        value_name = "POSITION",
        default_value = "beginning",
        help = format!("Where to start: {POSITION_HELP}. With a group: where nothing is committed yet")
    )]
    pub from: Position,
    /// Only this partition; may be given many times. Default: all
    #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(0..), conflicts_with = "group")]
    pub partition: Vec<i32>,
    /// Read as a member of this group, from its committed offsets, and commit what was printed
    #[arg(long, short = 'g')]
    pub group: Option<String>,
    /// The group's assignor
    #[arg(long, value_enum, default_value_t = AssignorArg::CooperativeSticky, requires = "group")]
    pub assignor: AssignorArg,
    /// Stop after so many records
    #[arg(long, short = 'n', value_name = "RECORDS")]
    pub max: Option<u64>,
    /// Go on at the end and wait for new records, until interrupted
    #[arg(long, short = 'f')]
    pub follow: bool,
    /// text: values, one per line. json: an object per line with topic, partition, offset, timestamp, key, value, headers
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
    /// With text: print the key and this before the value. \t is a tab
    #[arg(long, short = 'k', value_name = "TEXT", value_parser = parse_separator)]
    pub key_separator: Option<String>,
    /// With text: print partition, offset and time before each record
    #[arg(long, short = 'm')]
    pub meta: bool,
    /// Leave out what belongs to open or aborted transactions
    #[arg(long)]
    pub committed_only: bool,
    /// Do not print a summary on standard error
    #[arg(long, short = 'q')]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AssignorArg {
    Range,
    CooperativeSticky,
}

impl ConsumeArgs {
    fn fetch_config(&self) -> FetchConfig {
        FetchConfig {
            isolation: if self.committed_only {
                Isolation::ReadCommitted
            } else {
                Isolation::ReadUncommitted
            },
            ..FetchConfig::default()
        }
    }
}

/// Writes records and counts them.
struct Printer<'a> {
    args: &'a ConsumeArgs,
    out: io::BufWriter<io::Stdout>,
    printed: u64,
}

impl Printer<'_> {
    fn is_done(&self) -> bool {
        self.args.max.is_some_and(|max| self.printed >= max)
    }

    /// Prints until --max is reached or `until` (exclusive); says at which offset it stopped.
    fn print(&mut self, fetched: &Fetched, until: Option<i64>) -> io::Result<i64> {
        for record in &fetched.records {
            if self.is_done() || until.is_some_and(|until| record.offset.0 >= until) {
                self.out.flush()?;
                return Ok(record.offset.0);
            }
            self.print_one(&fetched.partition, record)?;
            self.printed += 1;
        }
        // Every answer is flushed: someone may be watching.
        self.out.flush()?;
        Ok(fetched.next_offset)
    }

    fn print_one(&mut self, partition: &TopicPartition, record: &Record) -> io::Result<()> {
        let out = &mut self.out;
        if self.args.format == Format::Json {
            let line = RecordJson { topic: &partition.0, partition: partition.1, record };
            serde_json::to_writer(&mut *out, &line)?;
            return out.write_all(b"\n");
        }
        if self.args.meta {
            write!(out, "{}:{} {} ", partition.1, record.offset, format_ms(record.timestamp.0))?;
        }
        if let Some(separator) = &self.args.key_separator {
            out.write_all(record.key.as_deref().unwrap_or_default())?;
            out.write_all(separator.as_bytes())?;
        }
        out.write_all(record.value.as_deref().unwrap_or_default())?;
        out.write_all(b"\n")
    }
}

pub(super) async fn run(args: ConsumeArgs) -> Result<(), CliError> {
    let cluster = args.connect.cluster().await?;
    let mut printer =
        Printer { args: &args, out: io::BufWriter::with_capacity(64 << 10, io::stdout()), printed: 0 };
    let result = match &args.group {
        Some(group) => consume_group(&cluster, &args, group, &mut printer).await,
        None => consume_partitions(&cluster, &args, &mut printer).await,
    };
    let flushed = printer.out.flush();
    result?;
    flushed?;
    if !args.quiet {
        eprintln!("{} from {}", super::topics::count(printer.printed as usize, "record"), args.topic);
    }
    Ok(())
}

fn spec_of(position: Position) -> OffsetSpec {
    match position {
        Position::End => OffsetSpec::Latest,
        Position::Timestamp(ms) => OffsetSpec::Timestamp(ms),
        Position::Beginning | Position::Offset(_) => OffsetSpec::Earliest,
    }
}

async fn bounds(
    cluster: &Cluster,
    partitions: &[TopicPartition],
    spec: OffsetSpec,
) -> Result<BTreeMap<TopicPartition, Option<i64>>, ClientError> {
    let wanted: Vec<(TopicPartition, OffsetSpec)> = partitions.iter().map(|p| (p.clone(), spec)).collect();
    Ok(admin::list_offsets(cluster, &wanted).await?.into_iter().collect())
}

async fn consume_partitions(
    cluster: &Cluster,
    args: &ConsumeArgs,
    printer: &mut Printer<'_>,
) -> Result<(), CliError> {
    let all = admin::partitions_of(cluster, &args.topic).await?;
    let mut partitions = all.clone();
    if !args.partition.is_empty() {
        if let Some(missing) = args.partition.iter().find(|p| !all.iter().any(|(_, index)| index == *p)) {
            let label = format!("partition {missing} of topic {}", args.topic);
            return Err(ClientError::refused(label, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION).into());
        }
        partitions.retain(|(_, index)| args.partition.contains(index));
    }
    let ends = bounds(cluster, &partitions, OffsetSpec::Latest).await?;
    let end_of = |p: &TopicPartition| ends.get(p).copied().flatten().unwrap_or(0);
    let positions: BTreeMap<TopicPartition, i64> = match args.from {
        Position::Offset(offset) => partitions.iter().map(|p| (p.clone(), offset)).collect(),
        Position::End => partitions.iter().map(|p| (p.clone(), end_of(p))).collect(),
        position => bounds(cluster, &partitions, spec_of(position))
            .await?
            .into_iter()
            // Nothing that late: only what comes.
            .map(|(p, offset)| {
                let offset = offset.unwrap_or_else(|| end_of(&p));
                (p, offset)
            })
            .collect(),
    };
    let mut left: BTreeMap<TopicPartition, i64> = positions.clone();
    let mut fetcher = Fetcher::new(cluster.clone(), args.fetch_config());
    if !args.follow {
        left.retain(|partition, position| *position < end_of(partition));
    }
    fetcher.assign(left.clone());
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    while !printer.is_done() && !left.is_empty() {
        let fetched = tokio::select! {
            biased;
            _ = &mut interrupt => return Ok(()),
            fetched = fetcher.next() => fetched?,
        };
        let end = end_of(&fetched.partition);
        printer.print(&fetched, (!args.follow).then_some(end))?;
        if !args.follow && fetched.next_offset >= end {
            left.remove(&fetched.partition);
            fetcher.remove(&fetched.partition);
        }
    }
    Ok(())
}

async fn consume_group(
    cluster: &Cluster,
    args: &ConsumeArgs,
    group: &str,
    printer: &mut Printer<'_>,
) -> Result<(), CliError> {
    if let Position::Offset(_) = args.from {
        return Err(CliError::Usage(
            "--from an offset can't be combined with --group; see ottla groups reset-offsets".to_owned(),
        ));
    }
    admin::partitions_of(cluster, &args.topic).await?;
    let mut config = GroupConfig::new(group, [args.topic.clone()]);
    config.assignors = vec![match args.assignor {
        AssignorArg::Range => Assignor::Range,
        AssignorArg::CooperativeSticky => Assignor::CooperativeSticky,
    }];
    config.start = spec_of(args.from);
    config.fetch = args.fetch_config();
    let mut consumer = GroupConsumer::new(cluster.clone(), config);
    let outcome = consume_as_member(cluster, args, printer, &mut consumer).await;
    let closed = consumer.close().await;
    outcome?;
    Ok(closed?)
}

async fn consume_as_member(
    cluster: &Cluster,
    args: &ConsumeArgs,
    printer: &mut Printer<'_>,
    consumer: &mut GroupConsumer,
) -> Result<(), CliError> {
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut ends: BTreeMap<TopicPartition, Option<i64>> = BTreeMap::new();
    while !printer.is_done() {
        let event = tokio::select! {
            biased;
            _ = &mut interrupt => return Ok(()),
            event = consumer.next() => event?,
        };
        match event {
            Event::Assigned(partitions) => {
                if !args.follow {
                    let partitions: Vec<TopicPartition> = partitions.into_iter().collect();
                    ends = bounds(cluster, &partitions, OffsetSpec::Latest).await?;
                }
            }
            Event::Records(fetched) => {
                let printed = printer.print(&fetched, None);
                // What could not be written is not read: the group's next member prints it again.
                let first = fetched.records.first().map_or(fetched.next_offset, |r| r.offset.0);
                let stopped_at = *printed.as_ref().unwrap_or(&first);
                consumer.read_up_to(stopped_at);
                printed?;
                if let Some(position) = ends.get_mut(&fetched.partition)
                    && position.is_some_and(|end| stopped_at >= end)
                {
                    *position = None;
                }
            }
        }
        let reached = |partition: &TopicPartition| {
            let end = ends.get(partition).copied().flatten();
            let at = consumer.consumed().get(partition).copied().unwrap_or(0);
            end.is_none_or(|end| at >= end)
        };
        if !args.follow && consumer.assignment().iter().all(reached) {
            return Ok(());
        }
    }
    Ok(())
}
