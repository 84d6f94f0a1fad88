//! `ottla groups`.

use std::process::ExitCode;

use super::ConnectArgs;

#[derive(Debug, clap::Args)]
pub struct GroupsArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
}

pub async fn run(_args: GroupsArgs) -> ExitCode {
    eprintln!("ottla: this build has no client yet");
    ExitCode::FAILURE
}
