//! `ottla topics`.

use std::process::ExitCode;

use super::ConnectArgs;

#[derive(Debug, clap::Args)]
pub struct TopicsArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
}

pub async fn run(_args: TopicsArgs) -> ExitCode {
    eprintln!("ottla: this build has no client yet");
    ExitCode::FAILURE
}
