//! `ottla groups`: list, describe (lag), members, reset-offsets, delete.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufWriter, Write};

use super::ConnectArgs;
use super::moment::{POSITION_HELP, Position};
use super::outcome::{CliError, tell_failures};
use super::table::Table;
use crate::admin::{self, Committer, DescribedGroup, OffsetSpec, TopicPartition};
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::wire::ErrorCode;

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct GroupsArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List groups
    List {
        /// Only the names, one per line
        #[arg(long, short = 'q')]
        names: bool,
    },
    /// Show a group's committed offsets and how far they lag behind
    Describe {
        #[arg(required = true, value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// Show a group's members and what each of them reads
    Members { group: String },
    /// Set a group's offsets; shows what would change, and does it with --execute. The group must be empty
    ResetOffsets {
        group: String,
        /// A topic, or some of its partitions; may be given many times. Default: all with a committed offset
        #[arg(long = "topic", short = 't', value_name = "TOPIC[:0,1,2]", value_parser = parse_topic_partitions)]
        topics: Vec<TopicPartitions>,
        #[command(flatten)]
        to: Target,
        /// Do it
        #[arg(long)]
        execute: bool,
    },
    /// Delete groups and their committed offsets. They must be empty
    Delete {
        #[arg(required = true, value_name = "GROUP")]
        groups: Vec<String>,
    },
}

/// Where offsets are set to.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Target {
    #[arg(long, value_name = "POSITION", help = format!("To {POSITION_HELP}"))]
    pub to: Option<Position>,
    /// Forward by so many records, or back if negative
    #[arg(long, value_name = "RECORDS", allow_hyphen_values = true)]
    pub shift_by: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPartitions {
    pub topic: String,
    /// None: all of them.
    pub partitions: Option<Vec<i32>>,
}

fn parse_topic_partitions(text: &str) -> Result<TopicPartitions, String> {
    let Some((topic, list)) = text.split_once(':') else {
        return Ok(TopicPartitions { topic: text.to_owned(), partitions: None });
    };
    let partitions = list
        .split(',')
        .map(|p| p.trim().parse::<i32>().ok().filter(|p| *p >= 0))
        .collect::<Option<Vec<i32>>>()
        .ok_or_else(|| "expected TOPIC or TOPIC:0,1,2".to_owned())?;
    Ok(TopicPartitions { topic: topic.to_owned(), partitions: Some(partitions) })
}

pub(super) async fn run(args: GroupsArgs) -> Result<(), CliError> {
    let cluster = args.connect.cluster().await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    match args.action {
        Action::List { names } => list(&cluster, names, &mut out).await?,
        Action::Describe { groups } => {
            for (at, group) in groups.iter().enumerate() {
                if at > 0 {
                    writeln!(out)?;
                }
                describe(&cluster, group, &mut out).await?;
            }
        }
        Action::Members { group } => members(&cluster, &group, &mut out).await?,
        Action::ResetOffsets { group, topics, to, execute } => {
            reset_offsets(&cluster, &group, &topics, &to, execute, &mut out).await?;
        }
        Action::Delete { groups } => {
            let results = admin::delete_groups(&cluster, &groups).await?;
            for (group, result) in &results {
                if result.is_ok() {
                    writeln!(out, "deleted group {group}")?;
                }
            }
            out.flush()?;
            tell_failures("groups", &results)?;
        }
    }
    out.flush()?;
    Ok(())
}

async fn list(cluster: &Cluster, names: bool, out: &mut impl Write) -> Result<(), CliError> {
    let groups = admin::list_groups(cluster).await?;
    if names {
        for group in &groups {
            writeln!(out, "{}", group.id)?;
        }
        return Ok(());
    }
    if groups.is_empty() {
        eprintln!("no groups");
        return Ok(());
    }
    let mut table = Table::new(&["GROUP", "STATE", "TYPE", "PROTOCOL"]);
    for group in groups {
        table.row(vec![
            group.id,
            or_dash(group.state),
            or_dash(group.group_type),
            or_dash(group.protocol_type),
        ]);
    }
    table.write(out)?;
    Ok(())
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

/// The high watermarks of partitions; those of deleted topics are left out.
async fn end_offsets(
    cluster: &Cluster,
    partitions: impl Iterator<Item = &TopicPartition>,
) -> Result<HashMap<TopicPartition, Option<i64>>, ClientError> {
    let counts = super::topics::partition_counts(&cluster.topics().await?);
    let wanted: Vec<(TopicPartition, OffsetSpec)> = partitions
        .filter(|(topic, index)| counts.get(topic).is_some_and(|count| index < count))
        .map(|p| (p.clone(), OffsetSpec::Latest))
        .collect();
    admin::list_offsets(cluster, &wanted).await
}

async fn describe(cluster: &Cluster, group: &str, out: &mut impl Write) -> Result<(), CliError> {
    let described = admin::describe_group(cluster, group).await?;
    let committed = admin::committed(cluster, group, None).await?;
    let mut owners: BTreeMap<TopicPartition, &admin::Member> = BTreeMap::new();
    for member in &described.members {
        for partition in &member.assignment {
            owners.insert(partition.clone(), member);
        }
    }
    let mut partitions: Vec<TopicPartition> = committed.keys().chain(owners.keys()).cloned().collect();
    partitions.sort();
    partitions.dedup();
    let ends = end_offsets(cluster, partitions.iter()).await?;
    write_heading(&described, out)?;
    if partitions.is_empty() {
        writeln!(out, "no committed offsets")?;
        return Ok(());
    }
    let mut table = Table::new(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER", "HOST"]);
    let mut total = 0;
    for partition in &partitions {
        let offset = committed.get(partition).map(|c| c.offset);
        let end = ends.get(partition).copied().flatten();
        let lag = offset.zip(end).map(|(offset, end)| (end - offset).max(0));
        total += lag.unwrap_or(0);
        let number = |n: Option<i64>| n.map_or("-".to_owned(), |n| n.to_string());
        let owner = owners.get(partition);
        table.row(vec![
            partition.0.clone(),
            partition.1.to_string(),
            number(offset),
            number(end),
            number(lag),
            owner.map_or("-".to_owned(), |m| m.id.clone()),
            owner.map_or("-".to_owned(), |m| m.host.clone()),
        ]);
    }
    writeln!(out, "lag       {total}")?;
    writeln!(out)?;
    table.write(out)?;
    Ok(())
}

fn write_heading(described: &DescribedGroup, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "group     {}", described.id)?;
    writeln!(out, "state     {}", described.state)?;
    if !described.assignor.is_empty() {
        writeln!(out, "assignor  {}", described.assignor)?;
    }
    writeln!(out, "members   {}", described.members.len())
}

async fn members(cluster: &Cluster, group: &str, out: &mut impl Write) -> Result<(), CliError> {
    let described = admin::describe_group(cluster, group).await?;
    if described.members.is_empty() {
        eprintln!("group {group} has no members (state {})", described.state);
        return Ok(());
    }
    let mut table = Table::new(&["MEMBER", "INSTANCE", "CLIENT", "HOST", "PARTITIONS"]);
    for member in &described.members {
        let mut by_topic: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (topic, partition) in &member.assignment {
            by_topic.entry(topic).or_default().push(partition.to_string());
        }
        let assigned: Vec<String> =
            by_topic.into_iter().map(|(topic, list)| format!("{topic}:{}", list.join(","))).collect();
        table.row(vec![
            member.id.clone(),
            member.instance_id.clone().unwrap_or_else(|| "-".to_owned()),
            member.client_id.clone(),
            member.host.clone(),
            or_dash(assigned.join(" ")),
        ]);
    }
    table.write(out)?;
    Ok(())
}

async fn reset_offsets(
    cluster: &Cluster,
    group: &str,
    topics: &[TopicPartitions],
    target: &Target,
    execute: bool,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let committed = admin::committed(cluster, group, None).await?;
    let mut partitions: Vec<TopicPartition> = Vec::new();
    for wanted in topics {
        let all = admin::partitions_of(cluster, &wanted.topic).await?;
        match &wanted.partitions {
            None => partitions.extend(all),
            Some(list) => {
                for index in list {
                    let partition = (wanted.topic.clone(), *index);
                    if !all.contains(&partition) {
                        let label = format!("partition {index} of topic {}", wanted.topic);
                        return Err(ClientError::refused(label, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION).into());
                    }
                    partitions.push(partition);
                }
            }
        }
    }
    if topics.is_empty() {
        partitions.extend(committed.keys().cloned());
    }
    if partitions.is_empty() {
        return Err(CliError::Failed(format!("group {group} has no committed offsets; name a --topic")));
    }
    partitions.sort();
    partitions.dedup();
    let current: BTreeMap<TopicPartition, i64> =
        committed.into_iter().map(|(partition, c)| (partition, c.offset)).collect();
    let plan = plan_reset(cluster, &partitions, &current, target).await?;
    if execute {
        admin::commit(cluster, group, &Committer::default(), &plan).await.map_err(|error| {
            // Kafka answers UNKNOWN_MEMBER_ID to a commit from outside of a group that has members.
            match error.code() {
                Some(ErrorCode::UNKNOWN_MEMBER_ID | ErrorCode::REBALANCE_IN_PROGRESS) => {
                    CliError::Failed(format!("group {group} has active members; stop them first"))
                }
                _ => error.into(),
            }
        })?;
    }
    let mut table = Table::new(&["TOPIC", "PARTITION", "FROM", "TO"]);
    for (partition, offset) in &plan {
        table.row(vec![
            partition.0.clone(),
            partition.1.to_string(),
            current.get(partition).map_or("-".to_owned(), |o| o.to_string()),
            offset.to_string(),
        ]);
    }
    table.write(out)?;
    if !execute {
        // The note belongs below the table when both go to a terminal.
        out.flush()?;
        eprintln!("nothing was changed; --execute does it");
    }
    Ok(())
}

/// New offsets, within what each partition has.
async fn plan_reset(
    cluster: &Cluster,
    partitions: &[TopicPartition],
    current: &BTreeMap<TopicPartition, i64>,
    target: &Target,
) -> Result<BTreeMap<TopicPartition, i64>, CliError> {
    let ask = |spec: OffsetSpec| partitions.iter().map(move |p| (p.clone(), spec)).collect::<Vec<_>>();
    let starts = admin::list_offsets(cluster, &ask(OffsetSpec::Earliest)).await?;
    let ends = admin::list_offsets(cluster, &ask(OffsetSpec::Latest)).await?;
    let times = match target.to {
        Some(Position::Timestamp(ms)) => {
            admin::list_offsets(cluster, &ask(OffsetSpec::Timestamp(ms))).await?
        }
        _ => HashMap::new(),
    };
    let mut plan = BTreeMap::new();
    for partition in partitions {
        let bound = |map: &HashMap<TopicPartition, Option<i64>>| map.get(partition).copied().flatten();
        let (Some(start), Some(end)) = (bound(&starts), bound(&ends)) else {
            return Err(CliError::Failed(format!("{}-{}: no offsets", partition.0, partition.1)));
        };
        let wanted = match (target.to, target.shift_by) {
            (Some(Position::Beginning), _) => start,
            (Some(Position::End), _) => end,
            (Some(Position::Offset(offset)), _) => offset,
            // No record that late: what comes next.
            (Some(Position::Timestamp(_)), _) => bound(&times).unwrap_or(end),
            (None, shift) => {
                let from = current.get(partition).ok_or_else(|| {
                    let label = format!("{}-{}", partition.0, partition.1);
                    CliError::Failed(format!("{label}: nothing is committed, so there is nothing to shift"))
                })?;
                from.saturating_add(shift.unwrap_or(0))
            }
        };
        plan.insert(partition.clone(), wanted.clamp(start, end.max(start)));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_with_partitions_are_read() {
        let read = parse_topic_partitions("orders:0,2").unwrap();
        assert_eq!(read, TopicPartitions { topic: "orders".into(), partitions: Some(vec![0, 2]) });
        assert_eq!(parse_topic_partitions("orders").unwrap().partitions, None);
        for bad in ["orders:", "orders:x", "orders:-1", "orders:1,,2"] {
            assert!(parse_topic_partitions(bad).is_err(), "{bad}");
        }
    }
}
