//! The client subcommands of the `ottla` binary.
//!
//! Owns argument types, output and exit codes; all work is done by the client in the rest of the crate.
//! Results go to standard output and nothing else does, so that output can be piped; notes, progress and errors go to
//! standard error. A reader that closes the pipe ends the command quietly.

use std::process::ExitCode;

pub mod configs;
pub mod consume;
pub mod groups;
pub mod perf;
pub mod produce;
pub mod topics;

mod base64;
mod moment;
mod outcome;
mod record_json;
mod table;

use std::time::Duration;

use crate::cluster::{Cluster, ClusterConfig};
use crate::error::ClientError;

/// The client subcommands; mounted by the binary with `#[command(flatten)]`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Create, list, describe, change and delete topics
    Topics(topics::TopicsArgs),
    /// List, describe and delete consumer groups; see members and lag; reset offsets
    Groups(groups::GroupsArgs),
    /// Send records from standard input or a file to a topic
    Produce(produce::ProduceArgs),
    /// Print the records of a topic
    Consume(consume::ConsumeArgs),
    /// Show, set and delete the configuration of topics and brokers
    Configs(configs::ConfigsArgs),
    /// Measure producing or consuming: throughput and latency percentiles
    Perf(perf::PerfArgs),
}

impl Command {
    /// Runs the subcommand to its end on the current tokio runtime. Prints its own errors.
    pub async fn run(self) -> ExitCode {
        match self {
            Command::Topics(args) => outcome::finish("topics", topics::run(args).await),
            Command::Groups(args) => outcome::finish("groups", groups::run(args).await),
            Command::Produce(args) => outcome::finish("produce", produce::run(args).await),
            Command::Consume(args) => outcome::finish("consume", consume::run(args).await),
            Command::Configs(args) => outcome::finish("configs", configs::run(args).await),
            Command::Perf(args) => outcome::finish("perf", perf::run(args).await),
        }
    }
}

/// How to reach the cluster; the same options on every subcommand.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectArgs {
    /// Brokers to connect to first, separated by commas; the others are found through them
    #[arg(
        long,
        short = 'b',
        global = true,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092",
        value_delimiter = ','
    )]
    pub bootstrap_server: Vec<String>,
    /// How long to try, in seconds, before giving up on an operation
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

impl ConnectArgs {
    async fn cluster(&self) -> Result<Cluster, ClientError> {
        let timeout = Duration::from_secs(self.timeout);
        let config = ClusterConfig {
            bootstrap: self.bootstrap_server.clone(),
            client_id: "ottla".to_owned(),
            connect_timeout: timeout.min(Duration::from_secs(10)),
            request_timeout: timeout,
            operation_timeout: timeout,
        };
        Cluster::connect(config).await
    }
}

/// `key=value`; the value may be empty and may have further equals signs.
fn parse_key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}
