//! `ottla produce`.

use std::process::ExitCode;

use super::ConnectArgs;

#[derive(Debug, clap::Args)]
pub struct ProduceArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
}

pub async fn run(_args: ProduceArgs) -> ExitCode {
    eprintln!("ottla: this build has no client yet");
    ExitCode::FAILURE
}
