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

pub mod moment;
pub mod outcome;
pub mod table;

mod base64;
mod record_json;

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
    pub async fn cluster(&self) -> Result<Cluster, ClientError> {
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
pub fn parse_key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::moment::Position;
    use super::*;

    #[derive(Debug, Parser)]
    struct Main {
        #[command(subcommand)]
        command: Command,
    }

    fn parse(line: &str) -> Result<Command, ErrorKind> {
        let words = std::iter::once("ottla").chain(line.split_whitespace());
        Main::try_parse_from(words).map(|main| main.command).map_err(|e| e.kind())
    }

    #[test]
    fn clap_finds_nothing_wrong_with_the_definitions() {
        use clap::CommandFactory;
        Main::command().debug_assert();
    }

    #[test]
    fn addresses_may_stand_before_or_after_the_action() {
        for line in ["topics -b a:1,b:2 list", "topics list --bootstrap-server a:1,b:2"] {
            let Ok(Command::Topics(args)) = parse(line) else { panic!("{line}") };
            assert_eq!(args.connect.bootstrap_server, ["a:1", "b:2"], "{line}");
        }
        let Ok(Command::Topics(args)) = parse("topics list") else { panic!("default") };
        assert_eq!(args.connect.bootstrap_server, ["127.0.0.1:9092"]);
    }

    #[test]
    fn a_whole_line_is_understood() {
        let line = "consume t --from 2026-01-01 -n 5 -f --format json";
        let Ok(Command::Consume(args)) = parse(line) else { panic!("{line}") };
        assert_eq!(args.from, Position::Timestamp(1_767_225_600_000));
        assert_eq!((args.max, args.follow, args.format), (Some(5), true, produce::Format::Json));
        let line = "produce t --acks 0 -c zstd -k \\t -H a=b=c";
        let Ok(Command::Produce(args)) = parse(line) else { panic!("{line}") };
        assert_eq!(args.key_separator.as_deref(), Some("\t"));
        assert_eq!(args.header, [("a".to_owned(), "b=c".to_owned())]);
        let config = args.tuning.config();
        assert_eq!((config.acks, config.codec), (crate::producer::Acks::None, ottla_batch::Codec::Zstd));
        let line = "groups reset-offsets g -t a:0,1 -t b --shift-by -10 --execute";
        let Ok(Command::Groups(args)) = parse(line) else { panic!("{line}") };
        let groups::Action::ResetOffsets { topics, to, execute, .. } = args.action else { panic!("{line}") };
        assert_eq!((topics.len(), to.shift_by, execute), (2, Some(-10), true));
    }

    #[test]
    fn mistakes_are_found_before_anything_is_sent() {
        for (line, kind) in [
            ("topics create", ErrorKind::MissingRequiredArgument),
            ("topics create t -p 0", ErrorKind::ValueValidation),
            ("topics create t -c nothing", ErrorKind::ValueValidation),
            ("topics create t -c =x", ErrorKind::ValueValidation),
            ("configs set -t a --broker 1 k=v", ErrorKind::ArgumentConflict),
            ("configs describe", ErrorKind::MissingRequiredArgument),
            ("groups reset-offsets g", ErrorKind::MissingRequiredArgument),
            ("groups reset-offsets g --to end --shift-by 1", ErrorKind::ArgumentConflict),
            ("groups reset-offsets g --to tomorrow", ErrorKind::ValueValidation),
            ("consume t -g g -p 0", ErrorKind::ArgumentConflict),
            ("consume t --from soon", ErrorKind::ValueValidation),
            ("produce t --acks 2", ErrorKind::InvalidValue),
            ("produce t -c brotli", ErrorKind::InvalidValue),
            ("perf produce t -n 0", ErrorKind::ValueValidation),
            ("perf consume t --latency", ErrorKind::MissingRequiredArgument),
            ("topics list --timeout 0", ErrorKind::ValueValidation),
        ] {
            assert_eq!(parse(line).err(), Some(kind), "{line}");
        }
    }
}
