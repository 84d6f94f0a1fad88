//! What this process may open, and how much of it goes to whom.
//!
//! The soft limit of open files is raised to the hard one at the start. Logs get a share, which `Disk` keeps by closing what was
//! not used lately, and clients the rest: a flood of connections must not keep an append from opening its segment, so one
//! connection too many is refused before the kernel has to.

use ottla_storage::disk::OPEN_FILES_MAX;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Listeners, connections between nodes, the metadata's store, epoll and the like.
const RESERVED: usize = 192;
/// With fewer a node could be asked for more files in one request than it may open.
const LIMIT_MIN: usize = 512;
/// From here on everybody gets all that they may ask for by default, and 10,000 connections besides.
const LIMIT_ADVISED: usize = 16_384;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open {limit} files (ulimit -n), and at least {LIMIT_MIN} are needed; raise the hard limit, best to {LIMIT_ADVISED} or \
     more (LimitNOFILE= of systemd, nofile in limits.conf)"
)]
pub struct TooFewOpenFiles {
    limit: usize,
}

/// Shares of the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    pub logs: usize,
    pub clients: usize,
}

impl OpenFiles {
    /// Raises the limit of this process as far as it may be raised, and shares it out.
    pub fn claim() -> Result<OpenFiles, TooFewOpenFiles> {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: maximum, maximum };
        let limit = match setrlimit(Resource::Nofile, raised) {
            Ok(()) => maximum,
            Err(_) => current,
        };
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let shares = OpenFiles::share(limit)?;
        if limit < LIMIT_ADVISED {
            tracing::warn!(
                limit,
                logs = shares.logs,
                clients = shares.clients,
                "this process may open few files (ulimit -n): so many for logs, so many connections of clients; advised are {LIMIT_ADVISED}"
            );
        }
        Ok(shares)
    }

    fn share(limit: usize) -> Result<OpenFiles, TooFewOpenFiles> {
        if limit < LIMIT_MIN {
            return Err(TooFewOpenFiles { limit });
        }
        let logs = OPEN_FILES_MAX.min((limit - RESERVED) / 2);
        Ok(OpenFiles { logs, clients: limit - RESERVED - logs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_exceed_the_limit() {
        for limit in [LIMIT_MIN, 1_024, 4_096, LIMIT_ADVISED, 1 << 20] {
            let shares = OpenFiles::share(limit).unwrap();
            assert_eq!(shares.logs + shares.clients + RESERVED, limit);
            assert!(shares.logs >= 160 && shares.clients >= 160, "{limit}: {shares:?}");
        }
        assert_eq!(OpenFiles::share(LIMIT_ADVISED).unwrap().logs, OPEN_FILES_MAX);
        assert!(OpenFiles::share(usize::MAX).is_ok(), "no limit at all");
        let message = OpenFiles::share(256).unwrap_err().to_string();
        assert!(message.contains("256 files (ulimit -n), and at least 512"), "{message}");
    }
}
