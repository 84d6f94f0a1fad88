//! `ottla lake`: the tables that topics are.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use ottla_clients::admin::{self, OffsetSpec, ResourceType};
use ottla_clients::cli::ConnectArgs;
use ottla_clients::cli::outcome::{CliError, finish};
use ottla_clients::cli::table::Table as Printed;
use ottla_clients::cli::topics::kafka_id;
use ottla_clients::cluster::{Cluster, Topic};
use ottla_clients::consumer::fetcher::{FetchConfig, Fetcher, Isolation};
use ottla_lake::table::{Facts, Origin, TableAt, TableError};

use super::import::{ImportArgs, import};
use super::place;
use crate::clock;
use crate::config::parse_override;
use crate::lake::Tables;

/// For the first record that a table does not have: it may have gone by retention.
const FIRST_RECORD_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(super) struct LakeArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Set a configuration key; wins over what the broker says of its store. May be given many times
    #[arg(long = "override", global = true, value_name = "KEY=VALUE", value_parser = parse_override)]
    overrides: Vec<(String, String)>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show how large tables are, how far they are behind their topics, and what went to their quarantine
    Status {
        /// Default: every topic with a table
        #[arg(value_name = "TOPIC")]
        topics: Vec<String>,
        /// One JSON object for each table
        #[arg(long)]
        json: bool,
    },
    /// Bring files of JSON or CSV into a topic, each document once
    Import(ImportArgs),
    /// Run SQL on tables, by an engine within this program
    Query(QueryArgs),
}

#[derive(Debug, clap::Args)]
pub struct QueryArgs {
    /// A SELECT on tables by their names, such as 'SELECT count(*) FROM stocks'; SHOW TABLES and DESCRIBE stocks say what there is
    pub sql: String,
    /// How rows are printed. csv: names first. json: one object for each row
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// What sorting, grouping and joining may hold in memory. Beyond it temporary files are used, or the query is given up
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(16..))]
    pub memory: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Csv,
    Json,
}

/// Prints its own errors.
pub(super) async fn run(args: LakeArgs) -> ExitCode {
    finish("lake", act(args).await)
}

async fn act(args: LakeArgs) -> Result<(), CliError> {
    let LakeArgs { connect, overrides, action } = args;
    match action {
        Action::Status { topics, json } => {
            let (cluster, tables) = open(&connect, &overrides).await?;
            status(&cluster, &tables, &topics, json).await
        }
        Action::Import(args) => {
            let timeout = Duration::from_secs(connect.timeout);
            import(&connect.cluster().await?, &overrides, timeout, &args).await
        }
        #[cfg(feature = "query")]
        Action::Query(args) => {
            let (cluster, tables) = open(&connect, &overrides).await?;
            let with_tables = with_tables(&cluster, &tables, &[]).await?.into_iter();
            let all = with_tables.flat_map(|(_, at)| [at.quarantine(), at]).collect();
            super::query::query(&args, tables.database(), all).await
        }
        #[cfg(not(feature = "query"))]
        Action::Query(_) => Err(CliError::Usage(
            "this build has no engine for SQL; `cargo build --profile query --features query` makes one that has"
                .to_owned(),
        )),
    }
}

async fn open(connect: &ConnectArgs, overrides: &[(String, String)]) -> Result<(Cluster, Tables), CliError> {
    let cluster = connect.cluster().await?;
    let config = place::config(&cluster, overrides).await?;
    let store = place::open(&config).await?;
    Ok((cluster, Tables::open(&config, &store).await))
}

/// What is known of one topic's table.
struct Status {
    topic: String,
    table: ottla_lake::catalog::TableName,
    /// None: it is not made yet.
    facts: Option<Facts>,
    quarantined: u64,
    lag_records: u64,
    /// How old the oldest record is that is not in the table. None when there is none, or it can't be read.
    lag_seconds: Option<f64>,
}

async fn status(
    cluster: &Cluster,
    tables: &Tables,
    wanted: &[String],
    is_json: bool,
) -> Result<(), CliError> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut printed = Printed::new(&[
        "TOPIC",
        "TABLE",
        "ROWS",
        "FILES",
        "BYTES",
        "SNAPSHOTS",
        "CHANGED",
        "LAG",
        "LAG-SECONDS",
        "QUARANTINED",
    ]);
    let topics = with_tables(cluster, tables, wanted).await?;
    if topics.is_empty() {
        eprintln!("no topic has ottla.lake.enable=true");
    }
    for (topic, at) in &topics {
        let status = status_of(cluster, topic, at).await?;
        if is_json {
            writeln!(out, "{}", status.to_json())?;
        } else {
            printed.row(status.to_row());
        }
    }
    if !is_json && !topics.is_empty() {
        printed.write(&mut out)?;
    }
    out.flush()?;
    Ok(())
}

/// Those that are wanted, or all; with the names of their tables.
async fn with_tables(
    cluster: &Cluster,
    tables: &Tables,
    wanted: &[String],
) -> Result<Vec<(Topic, TableAt)>, CliError> {
    let mut found = Vec::new();
    let topics = cluster.topics().await?;
    if let Some(missing) = wanted.iter().find(|name| !topics.iter().any(|topic| topic.name == **name)) {
        return Err(CliError::Failed(format!("topic {missing}: there is none")));
    }
    for topic in topics {
        let is_wanted = if wanted.is_empty() { !topic.internal } else { wanted.contains(&topic.name) };
        if !is_wanted {
            continue;
        }
        let entries = admin::describe_configs(cluster, ResourceType::Topic, &topic.name, false).await?;
        let value = |name: &str| entries.iter().find(|entry| entry.name == name)?.value.clone();
        if value("ottla.lake.enable").as_deref() != Some("true") {
            if !wanted.is_empty() {
                return Err(CliError::Failed(format!("topic {}: ottla.lake.enable is not true", topic.name)));
            }
            continue;
        }
        let named = value("ottla.lake.table").filter(|name| !name.is_empty());
        let table = named.unwrap_or_else(|| crate::config::lake_table_name(&topic.name));
        found.push((topic, tables.at(&table)));
    }
    Ok(found)
}

async fn status_of(cluster: &Cluster, topic: &Topic, at: &TableAt) -> Result<Status, CliError> {
    let failed = |error: TableError| CliError::Failed(error.to_string());
    let cluster_id = cluster.cluster_id().unwrap_or_default();
    let origin = Origin { cluster_id, topic_id: kafka_id(topic.id) };
    // The table before the ends of the log: what is produced meanwhile may count as lag, but no lag is less than none.
    let table = at.load().await.map_err(failed)?;
    let (facts, committed) = match &table {
        Some(table) => {
            let facts = table.facts().await.map_err(failed)?;
            (Some(facts), table.next_offsets(&origin).map_err(failed)?)
        }
        None => (None, BTreeMap::new()),
    };
    let quarantined = match at.quarantine().load().await.map_err(failed)? {
        Some(quarantine) => quarantine.facts().await.map_err(failed)?.rows,
        None => 0,
    };
    let mut behind = BTreeMap::new();
    let mut lag_records = 0;
    for (partition, first, end) in bounds(cluster, topic).await? {
        let next = committed.get(&partition).map_or(first, |offset| offset.0.max(first));
        if next < end {
            lag_records += (end - next) as u64;
            behind.insert((topic.name.clone(), partition), next);
        }
    }
    let oldest = oldest_of(cluster, behind).await?;
    Ok(Status {
        topic: topic.name.clone(),
        table: at.name.clone(),
        facts,
        quarantined,
        lag_records,
        lag_seconds: oldest.map(|timestamp| (clock::now().0 - timestamp).max(0) as f64 / 1000.0),
    })
}

/// Of each partition, its first offset and the one behind its last.
async fn bounds(cluster: &Cluster, topic: &Topic) -> Result<Vec<(i32, i64, i64)>, CliError> {
    let partitions: Vec<i32> = topic.partitions.iter().map(|partition| partition.index).collect();
    let of =
        |spec: OffsetSpec| partitions.iter().map(move |index| ((topic.name.clone(), *index), spec)).collect();
    let wanted: Vec<_> = of(OffsetSpec::Earliest);
    let first = admin::list_offsets(cluster, &wanted).await?;
    let wanted: Vec<_> = of(OffsetSpec::Latest);
    let end = admin::list_offsets(cluster, &wanted).await?;
    let bound = |of: &std::collections::HashMap<(String, i32), Option<i64>>, index: i32| {
        of.get(&(topic.name.clone(), index)).copied().flatten().unwrap_or(0)
    };
    Ok(partitions.iter().map(|index| (*index, bound(&first, *index), bound(&end, *index))).collect())
}

/// The earliest timestamp of the next committed records there are. None if none comes in time.
async fn oldest_of(
    cluster: &Cluster,
    mut behind: BTreeMap<(String, i32), i64>,
) -> Result<Option<i64>, CliError> {
    let config = FetchConfig { isolation: Isolation::ReadCommitted, ..FetchConfig::default() };
    let mut fetcher = Fetcher::new(cluster.clone(), config);
    fetcher.assign(behind.clone());
    let mut oldest = None;
    let until = tokio::time::Instant::now() + FIRST_RECORD_MAX;
    while !behind.is_empty() {
        let Ok(fetched) = tokio::time::timeout_at(until, fetcher.next()).await else { break };
        let fetched = fetched?;
        if let Some(record) = fetched.records.first() {
            let timestamp = record.timestamp.0;
            oldest = Some(oldest.map_or(timestamp, |oldest: i64| oldest.min(timestamp)));
            behind.remove(&fetched.partition);
            fetcher.remove(&fetched.partition);
        }
    }
    Ok(oldest)
}

impl Status {
    fn to_row(&self) -> Vec<String> {
        let facts = self.facts.unwrap_or_default();
        let changed = facts.changed_at.map(|at| format!("{}s ago", (clock::now().0 - at.0).max(0) / 1000));
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            self.topic.clone(),
            self.table.to_string(),
            facts.rows.to_string(),
            facts.files.to_string(),
            facts.bytes.to_string(),
            facts.snapshots.to_string(),
            or_dash(changed),
            self.lag_records.to_string(),
            or_dash(self.lag_seconds.map(|seconds| format!("{seconds:.1}"))),
            self.quarantined.to_string(),
        ]
    }

    fn to_json(&self) -> serde_json::Value {
        let facts = self.facts.unwrap_or_default();
        serde_json::json!({
            "topic": self.topic,
            "database": self.table.database,
            "table": self.table.table,
            "exists": self.facts.is_some(),
            "rows": facts.rows,
            "files": facts.files,
            "bytes": facts.bytes,
            "snapshots": facts.snapshots,
            "changed_at_ms": facts.changed_at.map(|at| at.0),
            "lag_records": self.lag_records,
            "lag_seconds": self.lag_seconds,
            "quarantined": self.quarantined,
        })
    }
}
