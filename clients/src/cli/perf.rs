//! `ottla perf`.

use super::ConnectArgs;
use super::outcome::CliError;

#[derive(Debug, clap::Args)]
pub struct PerfArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
}

pub(super) async fn run(_args: PerfArgs) -> Result<(), CliError> {
    Err(CliError::Failed("this build has no client yet".to_owned()))
}
