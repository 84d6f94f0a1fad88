//! `ottla perf`.

use std::process::ExitCode;

use super::ConnectArgs;

#[derive(Debug, clap::Args)]
pub struct PerfArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
}

pub async fn run(_args: PerfArgs) -> ExitCode {
    eprintln!("ottla: this build has no client yet");
    ExitCode::FAILURE
}
