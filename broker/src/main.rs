//! The `ottla` binary: `start` runs a node, the other subcommands are the client's.
//!
//! Exit codes of `start`: 0 after a controlled shutdown, 2 for wrong usage or configuration, 3 when the node cannot start
//! (a taken port, a directory of another node), 70 for an unexpected end, 74 when it stopped itself to protect data
//! (a failed fsync).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use ottla_broker::config::{NodeConfig, parse_override};
use ottla_broker::node;
use ottla_broker::tier::command::TierArgs;
use tracing_subscriber::EnvFilter;

/// Frames of up to a mebibyte are taken and given back on every request.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// See the tables that topics are
    #[cfg(feature = "lake")]
    Lake(ottla_broker::cli::lake::LakeArgs),
    #[command(flatten)]
    Client(ottla_clients::cli::Command),
}

#[derive(Debug, clap::Args)]
struct StartArgs {
    /// Configuration in the format and with the keys of Kafka's server.properties
    #[arg(value_name = "SERVER.PROPERTIES")]
    properties: Option<PathBuf>,
    /// Set a configuration key; wins over the file. May be given many times
    #[arg(long = "override", value_name = "KEY=VALUE", value_parser = parse_override)]
    overrides: Vec<(String, String)>,
    /// How log lines look; what is logged is chosen by OTTLA_LOG (for example `info,ottla_broker::net=debug`)
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

const EXIT_CONFIG: u8 = 2;
const EXIT_START: u8 = 3;
const EXIT_UNEXPECTED: u8 = 70;
const EXIT_PROTECTED: u8 = 74;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Start(args) => start(args),
        #[cfg(feature = "lake")]
        Command::Lake(args) => run(ottla_broker::cli::lake::run(args)),
        Command::Tier(args) => run(args.run()),
        Command::Client(command) => run(command.run()),
    }
}

fn run(command: impl Future<Output = ExitCode>) -> ExitCode {
    match runtime() {
        Ok(runtime) => {
            log_to_stderr(LogFormat::Text, LOGGED_BY_A_COMMAND);
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

/// openraft says as an error what it also answers to whoever called it: at a clean end, that it has ended. The callers judge.
const LOGGED_BY_A_NODE: &str = "info,openraft=error,openraft::raft::raft_inner=off,sled=warn";
/// `ottla tier restore` is a node for a moment.
const LOGGED_BY_A_COMMAND: &str = "warn,openraft=error,openraft::raft::raft_inner=off,sled=warn";

fn start(args: StartArgs) -> ExitCode {
    log_to_stderr(args.log_format, LOGGED_BY_A_NODE);
    let config = match NodeConfig::load(args.properties.as_deref(), &args.overrides) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("ottla: the configuration is refused:\n{error}");
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    for note in config.start_notes() {
        tracing::warn!("{note}");
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ottla: cannot start threads: {error}");
            return ExitCode::from(EXIT_START);
        }
    };
    runtime.block_on(async {
        let node = match node::start(config).await {
            Ok(node) => node,
            Err(error) => {
                eprintln!("ottla: {error}");
                return ExitCode::from(EXIT_START);
            }
        };
        print!("{}", node.banner());
        let code = match node.until_told_to_stop().await {
            node::Stop::Signal(signal) => {
                tracing::info!("{signal}: shutting down");
                ExitCode::SUCCESS
            }
            node::Stop::MetadataFailed(reason) => {
                tracing::error!(%reason, "the metadata failed: stopping at once, to protect data");
                std::process::exit(i32::from(EXIT_PROTECTED));
            }
            node::Stop::Failed(reason) => {
                tracing::error!(%reason, "this node cannot go on");
                ExitCode::from(EXIT_UNEXPECTED)
            }
        };
        node.shutdown().await;
        code
    })
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
