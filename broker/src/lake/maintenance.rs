//! What keeps a table fit, beside its commits: small files are joined, old rows removed, what no snapshot has is deleted. Each of
//! these is a commit of its own that gives way to those that bring rows; see `ottla_lake::table`.

use std::sync::Arc;
use std::time::Duration;

use ottla_lake::table::{Limits, Maintained, TableAt, TableError};
use tokio::runtime::Handle;
use tokio::task::JoinError;

use super::Context;
use super::counters::TableCounters;
use crate::clock;
use crate::config::LakeTopic;

/// Between two looks at a table: so many commits, ...
const LOOK_COMMITS: u32 = 10;
/// ... and not more often than that.
const LOOK_MIN: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
enum MaintenanceError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("the thread of the work ended: {0}")]
    Thread(#[from] JoinError),
}

pub struct Maintenance<'a> {
    pub context: &'a Arc<Context>,
    pub counters: &'a TableCounters,
    pub table: &'a LakeTopic,
    pub at: &'a TableAt,
}

impl Maintenance<'_> {
    /// Runs until it is dropped.
    pub async fn run(&self) {
        // Soon after the beginning too: where leaders change every few minutes, nobody would come to it.
        let mut pause = self.table.lag;
        let mut said = String::new();
        loop {
            tokio::time::sleep(pause).await;
            pause = (self.table.lag * LOOK_COMMITS).max(LOOK_MIN);
            for at in [self.at.clone(), self.at.quarantine()] {
                let name = at.name.clone();
                if let Err(error) = self.look_after(at).await {
                    self.counters.on_error();
                    let error = error.to_string();
                    if error != said {
                        tracing::warn!(table = %name, error, "a table was not looked after; that is tried again");
                        said = error;
                    }
                }
            }
        }
    }

    /// Until nothing is due any more.
    async fn look_after(&self, at: TableAt) -> Result<(), MaintenanceError> {
        let limits = Limits {
            retention_ms: self.table.retention.map(|retention| retention.as_millis() as i64),
            ..Limits::default()
        };
        loop {
            let _permit = self.context.maintaining.acquire().await.expect("nobody closes it");
            let (at, limits, scratch) = (at.clone(), limits.clone(), self.context.scratch.clone());
            // It computes for seconds between two answers of the store.
            let runtime = Handle::current();
            let work = move || {
                runtime.block_on(async {
                    match at.load().await? {
                        Some(mut table) => table.maintain(&limits, &scratch, clock::now()).await,
                        None => Ok(Maintained::default()),
                    }
                })
            };
            let done = self.context.background.run(work).await??;
            self.counters.on_maintained(&done);
            if !done.has_more {
                return Ok(());
            }
        }
    }
}
