//! How a subcommand ends: its errors, what is printed of them, and the exit code.
//!
//! 0 done, 1 the operation failed, 2 wrong usage, 3 no broker could be reached or the connection was lost, 4 no answer in
//! time. A closed pipe on standard output is the reader's wish and ends quietly with 0.

use std::io;
use std::process::ExitCode;

use crate::error::ClientError;
use crate::wire::ErrorCode;

pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const UNREACHABLE: u8 = 3;
pub const TIMED_OUT: u8 = 4;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Wrong in itself, whatever the cluster says.
    #[error("{0}")]
    Usage(String),
    /// Standard output can't be written; a closed pipe among others.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    /// Records were not written; told of when it happened.
    #[error("{0}")]
    Delivery(std::sync::Arc<ClientError>),
    #[error("{0}")]
    Failed(String),
    /// Some items failed, each was told of when it did.
    #[error("failed")]
    ToldAlready,
}

impl CliError {
    pub fn code(&self) -> u8 {
        match self {
            CliError::Usage(_) => USAGE,
            CliError::Client(error) => client_code(error),
            CliError::Delivery(error) => client_code(error),
            CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            CliError::Output(_) | CliError::Failed(_) | CliError::ToldAlready => FAILED,
        }
    }
}

fn client_code(error: &ClientError) -> u8 {
    match error {
        ClientError::Invalid(_) => USAGE,
        ClientError::NoBroker { .. } | ClientError::Disconnected { .. } => UNREACHABLE,
        ClientError::TimedOut { .. } => TIMED_OUT,
        ClientError::Refused { code: ErrorCode::REQUEST_TIMED_OUT, .. } => TIMED_OUT,
        ClientError::Refused { .. } | ClientError::Malformed { .. } | ClientError::Unsupported { .. } => {
            FAILED
        }
    }
}

/// Prints what there is to print and gives the exit code.
pub fn finish(subcommand: &str, result: Result<(), CliError>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    let code = error.code();
    if code != 0 && !matches!(error, CliError::ToldAlready | CliError::Delivery(_)) {
        eprintln!("ottla {subcommand}: {error}");
    }
    ExitCode::from(code)
}

/// Tells of each item that failed and says whether any did.
pub fn tell_failures<T>(
    subcommand: &str,
    results: &[(String, Result<T, ClientError>)],
) -> Result<(), CliError> {
    let mut failed = false;
    for (_, result) in results {
        if let Err(error) = result {
            eprintln!("ottla {subcommand}: {error}");
            failed = true;
        }
    }
    if failed { Err(CliError::ToldAlready) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_mean_something() {
        let refused = ClientError::refused("topic t", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        assert_eq!(CliError::from(refused).code(), 1);
        assert_eq!(CliError::Usage(String::new()).code(), 2);
        let failures = vec![("h:1".to_owned(), io::Error::from_raw_os_error(111))];
        let unreachable = ClientError::NoBroker { failures };
        assert_eq!(unreachable.to_string(), "could not connect to h:1 (connection refused)");
        assert_eq!(CliError::from(unreachable).code(), 3);
        let late = ClientError::TimedOut { what: "x".into(), after: std::time::Duration::from_secs(1) };
        assert_eq!(CliError::from(late).code(), 4);
        assert_eq!(CliError::from(io::Error::from(io::ErrorKind::BrokenPipe)).code(), 0);
        assert_eq!(CliError::from(io::Error::from(io::ErrorKind::StorageFull)).code(), 1);
    }
}
