//! `ottla consume`.

use super::ConnectArgs;
use super::outcome::CliError;

#[derive(Debug, clap::Args)]
pub struct ConsumeArgs {
    #[command(flatten)]
    pub connect: ConnectArgs,
}

pub(super) async fn run(_args: ConsumeArgs) -> Result<(), CliError> {
    Err(CliError::Failed("this build has no client yet".to_owned()))
}
