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
            Command::Topics(args) => topics::run(args).await,
            Command::Groups(args) => groups::run(args).await,
            Command::Produce(args) => produce::run(args).await,
            Command::Consume(args) => consume::run(args).await,
            Command::Configs(args) => configs::run(args).await,
            Command::Perf(args) => perf::run(args).await,
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
