//! The command line of the `ottla` binary: `start` runs a node, the subcommands here need more than the client (the object store and
//! what lies in it), the others are the client's.
//!
//! It is part of the library, and the binary's `main` is a line: async code is compiled where it is first polled, which is here,
//! once, for the binary and for the tests.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use start::{LOGGED_BY_A_NODE, LogFormat, StartArgs};
use tier::TierArgs;

#[cfg(feature = "lake")]
mod import;
#[cfg(feature = "lake")]
mod lake;
#[cfg(feature = "lake")]
mod place;
#[cfg(feature = "query")]
mod query;
mod start;
mod tier;

/// A Kafka-compatible event broker in one binary.
#[derive(Debug, Parser)]
#[command(name = "ottla", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a node: broker and controller in one, data under ./data, clients on 127.0.0.1:9092, unless configured
    /// otherwise
    Start(StartArgs),
    /// Show and check what is in the remote tier; make a new cluster from it
    Tier(TierArgs),
    /// See the tables that topics are, ask them in SQL; bring files into topics
    #[cfg(feature = "lake")]
    Lake(lake::LakeArgs),
    #[command(flatten)]
    Client(ottla_clients::cli::Command),
}

const EXIT_UNEXPECTED: u8 = 70;

const LOGGED_BY_A_COMMAND: &str = "warn";

/// Parses the arguments of the process, and does what they say to its end.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Start(args) => start::start(args),
        #[cfg(feature = "lake")]
        Command::Lake(args) => run(LOGGED_BY_A_COMMAND, lake::run(args)),
        // A node for a moment: what it waits for, and how far it is, must be seen.
        Command::Tier(args) if args.is_restore() => run(LOGGED_BY_A_NODE, args.run()),
        Command::Tier(args) => run(LOGGED_BY_A_COMMAND, args.run()),
        Command::Client(command) => run(LOGGED_BY_A_COMMAND, command.run()),
    }
}

fn run(logged: &str, command: impl Future<Output = ExitCode>) -> ExitCode {
    match runtime() {
        Ok(runtime) => {
            log_to_stderr(LogFormat::Text, logged);
            runtime.block_on(command)
        }
        Err(error) => {
            eprintln!("ottla: cannot start threads: {error}");
            ExitCode::from(EXIT_UNEXPECTED)
        }
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("ottla-worker").build()
}

/// Log lines go to standard error; standard output carries only the banner, or what a client subcommand is asked for.
/// `OTTLA_LOG` says what is logged, instead of `default`.
fn log_to_stderr(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_env("OTTLA_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_target(false).with_ansi(colours).init();
        }
        LogFormat::Json => builder.json().init(),
    }
}
