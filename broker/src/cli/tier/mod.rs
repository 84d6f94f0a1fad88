//! `ottla tier`: what the tier holds, whether it is sound, and a new cluster from it.
//!
//! The store is that of a node's configuration; a running cluster is asked for what only it knows, the ends of its logs.

mod check;
mod status;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use ottla_clients::cli::ConnectArgs;
use ottla_clients::cli::outcome::{self, CliError};
use ottla_storage::disk::Disk;
use ottla_storage::tiering::key::SegmentKey;
use ottla_storage::tiering::manifest::ManifestError;
use ottla_storage::tiering::store::StoreError;
use uuid::Uuid;

use crate::config::{NodeConfig, parse_override};
use crate::node::{self, StartError};
use crate::tier::open::{TierStore, open_for_command};

#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(super) struct TierArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show what of each partition is in the tier, and how far it is behind
    Status {
        #[command(flatten)]
        node: NodeArgs,
        #[command(flatten)]
        connect: ConnectArgs,
        /// Ask no cluster: what is behind is not shown
        #[arg(long)]
        offline: bool,
    },
    /// Look for objects that nothing names, and for names without their object
    Check {
        #[command(flatten)]
        node: NodeArgs,
        /// Also read the end of each object, and compare it with its name: one request for each
        #[arg(long)]
        footers: bool,
    },
    /// Make a new cluster of this node from what a lost cluster left in the tier; `ottla start` starts it afterwards
    Restore {
        #[command(flatten)]
        node: NodeArgs,
    },
}

/// Where a node's configuration is, as `ottla start` takes it.
#[derive(Debug, clap::Args)]
struct NodeArgs {
    /// Configuration of a node of the cluster, which says where the tier is
    #[arg(value_name = "SERVER.PROPERTIES")]
    properties: Option<PathBuf>,
    /// Set a configuration key; wins over the file. May be given many times
    #[arg(long = "override", value_name = "KEY=VALUE", value_parser = parse_override)]
    overrides: Vec<(String, String)>,
}

impl TierArgs {
    pub fn is_restore(&self) -> bool {
        matches!(self.action, Action::Restore { .. })
    }

    /// Runs to the end on the current tokio runtime. Prints its own errors.
    pub(super) async fn run(self) -> ExitCode {
        let outcome = match self.action {
            Action::Status { node, connect, offline } => {
                let connect = (!offline).then_some(connect);
                status::run(&node, connect.as_ref()).await
            }
            Action::Check { node, footers } => check::run(&node, footers).await,
            Action::Restore { node } => restore(&node).await,
        };
        outcome::finish("tier", outcome)
    }
}

impl NodeArgs {
    fn config(&self) -> Result<NodeConfig, CliError> {
        NodeConfig::load(self.properties.as_deref(), &self.overrides)
            .map_err(|error| CliError::Usage(format!("the configuration is refused:\n{error}")))
    }

    async fn store(&self) -> Result<TierStore, CliError> {
        let config = self.config()?;
        let Some(tier) = &config.tier else {
            let told = "this configuration has no tier: set ottla.tier.url, or remote.log.storage.system.enable=true";
            return Err(CliError::Usage(told.to_owned()));
        };
        open_for_command(tier, &Disk::real()).await.map_err(|error| CliError::Failed(error.to_string()))
    }
}

async fn restore(node: &NodeArgs) -> Result<(), CliError> {
    let failed = |error: StartError| CliError::Failed(error.to_string());
    let (node, restored) = node::start_restored(node.config()?).await.map_err(failed)?;
    node.shutdown().await;
    let mut out = BufWriter::new(io::stdout().lock());
    writeln!(
        out,
        "restored {} topics with {} partitions and {} offsets, and how far {} groups had read; `ottla start` with this configuration \
         starts the cluster",
        restored.topics, restored.partitions, restored.offsets, restored.groups
    )?;
    Ok(out.flush()?)
}

fn failed(error: impl Into<ManifestError>) -> CliError {
    CliError::Failed(error.into().to_string())
}

/// The partitions that have something in the tier, in the order of their keys.
async fn partitions(store: &TierStore) -> Result<Vec<(Uuid, i32)>, StoreError> {
    let all = format!("{}tier/v1/", store.prefix);
    let mut found: Vec<(Uuid, i32)> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.store.list(&all, after.as_deref()).await?;
        let Some(last) = page.objects.last().map(|object| object.key.clone()) else { return Ok(found) };
        for object in &page.objects {
            let partition = object.key.strip_prefix(&store.prefix).and_then(partition_of);
            found.extend(partition.filter(|partition| found.last() != Some(partition)));
        }
        if !page.is_cut {
            return Ok(found);
        }
        // Past all that this partition has: a tilde comes after digits and letters.
        after = Some(match last.rsplit_once('/') {
            Some((directory, _)) => format!("{}/~", directory.trim_end_matches("/manifest")),
            None => last,
        });
    }
}

/// Of the key of a segment or manifest, below the operator's prefix.
fn partition_of(key: &str) -> Option<(Uuid, i32)> {
    let mut parts = key.strip_prefix("tier/v1/")?.split('/');
    let topic_id = ottla_storage::partition_metadata::decode_uuid(parts.next()?)?;
    let partition = parts.next()?.parse().ok()?;
    parts.next().map(|_| (topic_id, partition))
}

/// Of the key of a segment, below the operator's prefix.
fn segment_of(store: &TierStore, key: &str) -> Option<SegmentKey> {
    SegmentKey::parse(key.strip_prefix(&store.prefix)?)
}
