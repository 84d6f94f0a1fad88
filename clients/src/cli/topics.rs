//! `ottla topics`: create, list, describe, alter, delete.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use super::outcome::{CliError, tell_failures};
use super::table::Table;
use super::{ConnectArgs, parse_key_value};
use crate::admin::{self, ConfigChange, NewTopic, OffsetSpec, ResourceType};
use crate::cluster::{Cluster, Topic};
use crate::error::ClientError;
use crate::wire::ErrorCode;

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct TopicsArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Create topics
    Create {
        #[arg(required = true, value_name = "TOPIC")]
        topics: Vec<String>,
        /// Default: the broker's num.partitions
        #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// Default: the broker's default.replication.factor
        #[arg(long, short = 'r', value_parser = clap::value_parser!(i16).range(1..))]
        replication_factor: Option<i16>,
        /// A configuration of the topic; may be given many times
        #[arg(long, short = 'c', value_name = "KEY=VALUE", value_parser = parse_key_value)]
        config: Vec<(String, String)>,
        /// Succeed where the topic exists already
        #[arg(long)]
        if_not_exists: bool,
    },
    /// List topics
    List {
        /// Also Kafka's internal topics, such as __consumer_offsets
        #[arg(long)]
        internal: bool,
        /// Only the names, one per line
        #[arg(long, short = 'q')]
        names: bool,
    },
    /// Show partitions, leaders, replicas, offsets, and the configuration that differs from the default
    Describe {
        /// Default: every topic that is not internal
        #[arg(value_name = "TOPIC")]
        topics: Vec<String>,
    },
    /// Add partitions, set or delete configurations
    Alter {
        topic: String,
        /// The new number of partitions; can only grow
        #[arg(long, short = 'p', value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// A configuration to set; may be given many times
        #[arg(long, short = 'c', value_name = "KEY=VALUE", value_parser = parse_key_value)]
        config: Vec<(String, String)>,
        /// A configuration to put back to its default; may be given many times
        #[arg(long, value_name = "KEY")]
        delete_config: Vec<String>,
    },
    /// Delete topics and their records
    Delete {
        #[arg(required = true, value_name = "TOPIC")]
        topics: Vec<String>,
        /// Succeed where there is no such topic
        #[arg(long)]
        if_exists: bool,
    },
}

pub(super) async fn run(args: TopicsArgs) -> Result<(), CliError> {
    let cluster = args.connect.cluster().await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    match args.action {
        Action::Create { topics, partitions, replication_factor, config, if_not_exists } => {
            let wanted: Vec<NewTopic> = topics
                .into_iter()
                .map(|name| NewTopic { name, partitions, replication_factor, configs: config.clone() })
                .collect();
            create(&cluster, &wanted, if_not_exists, &mut out).await?;
        }
        Action::List { internal, names } => list(&cluster, internal, names, &mut out).await?,
        Action::Describe { topics } => describe(&cluster, &topics, &mut out).await?,
        Action::Alter { topic, partitions, config, delete_config } => {
            alter(&cluster, &topic, partitions, config, delete_config, &mut out).await?;
        }
        Action::Delete { topics, if_exists } => delete(&cluster, &topics, if_exists, &mut out).await?,
    }
    out.flush()?;
    Ok(())
}

async fn create(
    cluster: &Cluster,
    topics: &[NewTopic],
    if_not_exists: bool,
    out: &mut impl Write,
) -> Result<(), CliError> {
    /// TOPIC_ALREADY_EXISTS
    const EXISTS: ErrorCode = ErrorCode(36);
    let mut results = admin::create_topics(cluster, topics).await?;
    for (name, result) in &results {
        match result {
            Ok(created) => {
                write!(out, "created topic {name}")?;
                if let (Some(partitions), Some(factor)) = (created.partitions, created.replication_factor) {
                    write!(
                        out,
                        ": {}, replication factor {factor}",
                        count(partitions as usize, "partition")
                    )?;
                }
                writeln!(out)?;
            }
            Err(error) if if_not_exists && error.code() == Some(EXISTS) => {
                writeln!(out, "topic {name} exists already")?;
            }
            Err(_) => {}
        }
    }
    out.flush()?;
    if if_not_exists {
        results.retain(|(_, r)| !r.as_ref().is_err_and(|e| e.code() == Some(EXISTS)));
    }
    tell_failures("topics", &results)
}

async fn list(cluster: &Cluster, internal: bool, names: bool, out: &mut impl Write) -> Result<(), CliError> {
    let mut topics = cluster.topics().await?;
    topics.retain(|t| internal || !t.internal);
    if names {
        for topic in &topics {
            writeln!(out, "{}", topic.name)?;
        }
        return Ok(());
    }
    if topics.is_empty() {
        eprintln!("no topics");
        return Ok(());
    }
    let mut table = Table::new(&["TOPIC", "PARTITIONS", "REPLICAS"]);
    for topic in &topics {
        let replicas = topic.partitions.first().map_or(0, |p| p.replicas.len());
        table.row(vec![topic.name.clone(), topic.partitions.len().to_string(), replicas.to_string()]);
    }
    table.write(out)?;
    Ok(())
}

async fn describe(cluster: &Cluster, names: &[String], out: &mut impl Write) -> Result<(), CliError> {
    let mut topics = cluster.topics().await?;
    let missing: Vec<(String, Result<(), ClientError>)> = names
        .iter()
        .filter(|name| !topics.iter().any(|t| &t.name == *name))
        .map(|name| {
            let error = ClientError::refused(format!("topic {name}"), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
            (name.clone(), Err(error))
        })
        .collect();
    topics.retain(|t| if names.is_empty() { !t.internal } else { names.contains(&t.name) });
    for (at, topic) in topics.iter().enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        describe_one(cluster, topic, out).await?;
    }
    out.flush()?;
    tell_failures("topics", &missing)
}

async fn describe_one(cluster: &Cluster, topic: &Topic, out: &mut impl Write) -> Result<(), CliError> {
    let configs = admin::describe_configs(cluster, ResourceType::Topic, &topic.name, false).await?;
    let set: Vec<String> = configs
        .iter()
        .filter(|c| c.source == admin::ConfigSource::DynamicTopic)
        .map(|c| format!("{}={}", c.name, c.value.as_deref().unwrap_or("(hidden)")))
        .collect();
    let factor = topic.partitions.first().map_or(0, |p| p.replicas.len());
    writeln!(out, "topic        {}", topic.name)?;
    if !topic.id.is_nil() {
        writeln!(out, "id           {}", kafka_id(topic.id))?;
    }
    writeln!(out, "partitions   {}", topic.partitions.len())?;
    writeln!(out, "replication  {factor}")?;
    if !set.is_empty() {
        writeln!(out, "configs      {}", set.join(" "))?;
    }
    let with_leader: Vec<(String, i32)> = topic
        .partitions
        .iter()
        .filter(|p| p.leader.is_some())
        .map(|p| (topic.name.clone(), p.index))
        .collect();
    let ask = |spec: OffsetSpec| with_leader.iter().map(move |p| (p.clone(), spec)).collect::<Vec<_>>();
    let starts = admin::list_offsets(cluster, &ask(OffsetSpec::Earliest)).await?;
    let ends = admin::list_offsets(cluster, &ask(OffsetSpec::Latest)).await?;
    let mut table =
        Table::new(&["PARTITION", "LEADER", "EPOCH", "REPLICAS", "IN-SYNC", "START", "END", "RECORDS"]);
    for p in &topic.partitions {
        let key = (topic.name.clone(), p.index);
        let (start, end) = (starts.get(&key).copied().flatten(), ends.get(&key).copied().flatten());
        let number = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
        table.row(vec![
            p.index.to_string(),
            p.leader.map_or("none".to_owned(), |l| l.to_string()),
            p.leader_epoch.to_string(),
            join(&p.replicas),
            join(&p.in_sync),
            number(start),
            number(end),
            number(start.zip(end).map(|(start, end)| end - start)),
        ]);
    }
    writeln!(out)?;
    table.write(out)?;
    Ok(())
}

async fn alter(
    cluster: &Cluster,
    topic: &str,
    partitions: Option<i32>,
    set: Vec<(String, String)>,
    delete: Vec<String>,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let mut changes: Vec<ConfigChange> = set.into_iter().map(|(k, v)| ConfigChange::Set(k, v)).collect();
    changes.extend(delete.into_iter().map(ConfigChange::Delete));
    if partitions.is_none() && changes.is_empty() {
        return Err(CliError::Usage(
            "nothing to change: give --partitions, --config or --delete-config".to_owned(),
        ));
    }
    if let Some(count) = partitions {
        admin::create_partitions(cluster, topic, count).await?;
        writeln!(out, "topic {topic} has {count} partitions")?;
    }
    if !changes.is_empty() {
        admin::alter_configs(cluster, ResourceType::Topic, topic, &changes).await?;
        for change in &changes {
            match change {
                ConfigChange::Set(key, value) => writeln!(out, "topic {topic}: {key}={value}")?,
                ConfigChange::Delete(key) => writeln!(out, "topic {topic}: {key} back to its default")?,
            }
        }
    }
    Ok(())
}

async fn delete(
    cluster: &Cluster,
    names: &[String],
    if_exists: bool,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let unknown = |r: &Result<(), ClientError>| {
        r.as_ref().is_err_and(|e| e.code() == Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION))
    };
    let mut results = admin::delete_topics(cluster, names).await?;
    for (name, result) in &results {
        if result.is_ok() {
            writeln!(out, "deleted topic {name}")?;
        } else if if_exists && unknown(result) {
            writeln!(out, "no topic {name}")?;
        }
    }
    out.flush()?;
    results.retain(|(_, r)| !(if_exists && unknown(r)));
    tell_failures("topics", &results)
}

fn join(ids: &[i32]) -> String {
    if ids.is_empty() {
        return "-".to_owned();
    }
    ids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// `1 partition`, `2 partitions`.
pub fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// A topic id as Kafka's tools print it: 16 bytes in URL-safe base64 without padding.
pub fn kafka_id(id: uuid::Uuid) -> String {
    let text = super::base64::encode(id.as_bytes());
    text.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// The topics of a cluster by name, for those who need partition counts.
pub(super) fn partition_counts(topics: &[Topic]) -> BTreeMap<String, i32> {
    topics.iter().map(|t| (t.name.clone(), t.partitions.len() as i32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_ids_print_as_kafkas_tools_print_them() {
        // The id of the metadata topic, known from Kafka's sources as AAAAAAAAAAAAAAAAAAAAAQ.
        assert_eq!(kafka_id(uuid::Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(kafka_id(uuid::Uuid::from_u128(u128::MAX)), "_____________________w");
    }
}
