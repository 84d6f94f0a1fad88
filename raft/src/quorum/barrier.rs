//! Reads as of now: the active controller says what is committed, and this node waits until its own image shows it.
//!
//! The controller asks a majority of the voters whether it still leads before it answers; a lease would do only as long as no
//! voter ever stands before the lease of a leader that it cannot reach is over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::links::CallError;
use super::messages::{Answer, Call};
use super::submit::PAUSE;
use super::transport::Lane;
use super::{Metadata, SubmitError};

/// One question to one controller.
const ASK_MAX: Duration = Duration::from_secs(1);

/// One question is under way at a time, and the next serves all who came meanwhile.
#[derive(Default)]
pub(super) struct Barriers {
    /// Questions that were begun.
    begun: AtomicU64,
    /// The number of the newest that was answered; held by whoever asks.
    answered: Mutex<u64>,
}

impl Metadata {
    /// Returns when `image` shows everything that was committed, on whatever node, when this was called; fails when nobody could
    /// say so within `limit`.
    pub async fn read_barrier(&self, limit: Duration) -> Result<(), SubmitError> {
        tokio::time::timeout(limit, self.pass_barrier())
            .await
            .unwrap_or(Err(SubmitError::NoController(limit)))
    }

    async fn pass_barrier(&self) -> Result<(), SubmitError> {
        // Only a question that begins after this line is about now.
        let before = self.barriers.begun.load(Ordering::SeqCst);
        let mut answered = self.barriers.answered.lock().await;
        if *answered > before {
            return Ok(());
        }
        let number = self.barriers.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let offset = self.ask_what_is_committed().await?;
        // openraft says that an entry is applied after the image with it is published.
        let applied = self.raft.wait(None).applied_index_at_least(Some(offset), "a read barrier").await;
        applied.map_err(|error| SubmitError::Stopped(error.to_string()))?;
        *answered = number;
        Ok(())
    }

    async fn ask_what_is_committed(&self) -> Result<u64, SubmitError> {
        loop {
            self.check_runs()?;
            let committed = match self.leader() {
                Some((id, _)) if id == self.links.node_id => self.committed_now().await.ok(),
                Some((id, peer)) => {
                    let asking = self.links.call(&peer, Lane::Submit, Call::CatchUp, ASK_MAX);
                    let asked = tokio::select! {
                        biased;
                        asked = asking => asked,
                        () = self.leads_no_more(id) => continue,
                    };
                    match asked {
                        Ok(Answer::CatchUp(committed)) => committed.ok(),
                        Ok(_)
                        | Err(CallError::Transport(_) | CallError::Denied(_) | CallError::WrongAnswer(_)) => {
                            None
                        }
                    }
                }
                None => None,
            };
            match committed {
                Some(offset) => return Ok(offset),
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
