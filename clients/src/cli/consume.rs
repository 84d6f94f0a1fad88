//! `ottla consume`.

use std::process::ExitCode;

use super::ConnectArgs;

#[derive(Debug, clap::Args)]
pub struct ConsumeArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
}

pub async fn run(_args: ConsumeArgs) -> ExitCode {
    eprintln!("ottla: this build has no client yet");
    ExitCode::FAILURE
}
