//! `ottla configs`: describe, set, delete, for topics and brokers.

use std::io::{BufWriter, Write};

use super::outcome::CliError;
use super::table::Table;
use super::{ConnectArgs, parse_key_value};
use crate::admin::{self, ConfigChange, ResourceType};

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct ConfigsArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
    #[command(subcommand)]
    pub action: Action,
}

/// Whose configuration.
#[derive(Debug, Clone, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Whose {
    /// Of a topic
    #[arg(long, short = 't')]
    pub topic: Option<String>,
    /// Of one broker
    #[arg(long, value_name = "ID")]
    pub broker: Option<i32>,
    /// Of all brokers: the default that each of them can override
    #[arg(long)]
    pub all_brokers: bool,
}

impl Whose {
    fn resource(&self) -> (ResourceType, String) {
        match (&self.topic, self.broker) {
            (Some(topic), _) => (ResourceType::Topic, topic.clone()),
            (None, Some(id)) => (ResourceType::Broker, id.to_string()),
            (None, None) => (ResourceType::Broker, String::new()),
        }
    }

    fn label(&self) -> String {
        match (&self.topic, self.broker) {
            (Some(topic), _) => format!("topic {topic}"),
            (None, Some(id)) => format!("broker {id}"),
            (None, None) => "all brokers".to_owned(),
        }
    }
}

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Show what is set, or with --all everything
    Describe {
        #[command(flatten)]
        whose: Whose,
        /// Also what has its default value
        #[arg(long, short = 'a')]
        all: bool,
        /// Explain each key
        #[arg(long)]
        docs: bool,
    },
    /// Set configurations
    Set {
        #[command(flatten)]
        whose: Whose,
        #[arg(required = true, value_name = "KEY=VALUE", value_parser = parse_key_value)]
        configs: Vec<(String, String)>,
    },
    /// Put configurations back to their defaults
    Delete {
        #[command(flatten)]
        whose: Whose,
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
}

pub(super) async fn run(args: ConfigsArgs) -> Result<(), CliError> {
    let cluster = args.connect.cluster().await?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    match args.action {
        Action::Describe { whose, all, docs } => {
            let (resource, name) = whose.resource();
            let mut entries = admin::describe_configs(&cluster, resource, &name, docs).await?;
            entries.retain(|e| all || e.source.is_set());
            if entries.is_empty() {
                eprintln!("{}: nothing is set (--all shows the defaults)", whose.label());
            }
            let value = |e: &admin::ConfigEntry| match (&e.value, e.sensitive) {
                (_, true) => "(hidden)".to_owned(),
                (Some(value), _) => value.clone(),
                (None, _) => "(none)".to_owned(),
            };
            if docs {
                for entry in &entries {
                    writeln!(out, "{}={}  ({})", entry.name, value(entry), entry.source.name())?;
                    if let Some(text) = &entry.documentation {
                        writeln!(out, "    {text}")?;
                    }
                }
            } else if !entries.is_empty() {
                let mut table = Table::new(&["KEY", "VALUE", "FROM", ""]);
                for entry in &entries {
                    let note = if entry.read_only { "read-only" } else { "" };
                    table.row(vec![
                        entry.name.clone(),
                        value(entry),
                        entry.source.name().to_owned(),
                        note.to_owned(),
                    ]);
                }
                table.write(&mut out)?;
            }
        }
        Action::Set { whose, configs } => {
            let (resource, name) = whose.resource();
            let changes: Vec<ConfigChange> =
                configs.iter().map(|(k, v)| ConfigChange::Set(k.clone(), v.clone())).collect();
            admin::alter_configs(&cluster, resource, &name, &changes).await?;
            for (key, value) in &configs {
                writeln!(out, "{}: {key}={value}", whose.label())?;
            }
        }
        Action::Delete { whose, keys } => {
            let (resource, name) = whose.resource();
            let changes: Vec<ConfigChange> = keys.iter().map(|k| ConfigChange::Delete(k.clone())).collect();
            admin::alter_configs(&cluster, resource, &name, &changes).await?;
            for key in &keys {
                writeln!(out, "{}: {key} back to its default", whose.label())?;
            }
        }
    }
    out.flush()?;
    Ok(())
}
