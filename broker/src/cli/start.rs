//! `ottla start`: a node, until it is told to stop.
//!
//! Exit codes: 0 after a controlled shutdown, 2 for wrong usage or configuration, 3 when the node cannot start
//! (a taken port, a directory of another node), 70 for an unexpected end, 74 when it stopped itself to protect data
//! (a failed fsync).

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;

use super::{EXIT_UNEXPECTED, log_to_stderr, runtime};
use crate::config::{NodeConfig, parse_override};
use crate::node;

#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
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
pub(super) enum LogFormat {
    Text,
    Json,
}

const EXIT_CONFIG: u8 = 2;
const EXIT_START: u8 = 3;
const EXIT_PROTECTED: u8 = 74;

/// openraft says as an error what it also answers to whoever called it: at a clean end, that it has ended. The callers judge.
pub(super) const LOGGED_BY_A_NODE: &str = "info,openraft=error,openraft::raft::raft_inner=off,sled=warn";

pub(super) fn start(args: StartArgs) -> ExitCode {
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
