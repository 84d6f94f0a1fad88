//! `ottla configs`.

use std::process::ExitCode;

use super::ConnectArgs;

#[derive(Debug, clap::Args)]
pub struct ConfigsArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
}

pub async fn run(_args: ConfigsArgs) -> ExitCode {
    eprintln!("ottla: this build has no client yet");
    ExitCode::FAILURE
}
