//! Whether this broker still leads a partition, for answers that append nothing.
//!
//! An append finds out by itself: it is not committed without the in-sync set. A reader of committed records need not know:
//! what a leader of the past shows is old, but still there. What a coordinator answers from memory must be the newest, though, and
//! a broker that is cut off does not know that another one leads. No lease helps: a broker whose address refuses connections
//! is fenced at once, and leaderships move on request. So such an answer waits for one of two proofs, made after the question
//! came, that nobody had taken over before:
//!
//! - the image as of now, by a read barrier of the metadata, still has this broker as the leader in the same epoch; or
//! - everybody who could have been elected still followed this broker. Who leads must be in the in-sync set (as this leader
//!   reckons with it, which holds what the controller may have), or eligible by KIP-966; unclean elections promise nothing.
//!
//! The first costs a round trip and goes on when a follower is slow; the second goes on without a controller.

use std::time::Duration;

use ottla_batch::{LeaderEpoch, planted};
use ottla_raft::BrokerId;
use tokio::time::Instant;

use super::manager::ReplicaManager;
use super::partition::{LeaderError, Replica};

/// How long a proof is waited for: longer than two fetches of an idle follower take, shorter than any client's patience.
const PROOF_MAX: Duration = Duration::from_secs(2);

impl ReplicaManager {
    /// Ready when it is certain that no other broker had begun to lead the partition in a later epoch when this was called.
    pub async fn confirm_leader(
        &self,
        replica: &Replica,
        leader_epoch: LeaderEpoch,
    ) -> Result<(), LeaderError> {
        let asked = Instant::now();
        replica.check_leader(leader_epoch)?;
        let successors = self.successors(replica)?;
        if successors.is_empty() || planted!("coordinator-asks-nobody") {
            return Ok(());
        }
        let key = (replica.topic_id(), replica.partition());
        let by_image = async {
            if self.metadata().read_barrier(PROOF_MAX).await.is_err() {
                std::future::pending::<()>().await;
            }
            let image = self.metadata().image();
            let state = image.topic_by_id(key.0).and_then(|topic| topic.partition(key.1));
            let leads = state.is_some_and(|state| {
                state.leader == Some(self.local()) && state.leader_epoch.0 == leader_epoch.0
            });
            if leads { Ok(()) } else { Err(LeaderError::NotLeader) }
        };
        let by_followers = self.follower_sessions().followed_since(&successors, key, leader_epoch, asked);
        tokio::select! {
            biased;
            confirmed = by_image => confirmed,
            () = by_followers => Ok(()),
            () = tokio::time::sleep(PROOF_MAX) => {
                tracing::debug!(
                    topic = %replica.topic(), partition = key.1,
                    "neither the controller nor the followers say that this broker still leads"
                );
                Err(LeaderError::NotLeader)
            }
        }
    }

    /// Whom the controller could elect without losing anything.
    fn successors(&self, replica: &Replica) -> Result<Vec<BrokerId>, LeaderError> {
        // ORDER: the in-sync set first. Who leaves it may become eligible, and then the image that says so is here already.
        let mut successors: Vec<BrokerId> = {
            let state = replica.state.lock();
            state.leader.as_ref().ok_or(LeaderError::NotLeader)?.in_sync.maximal().collect()
        };
        let image = self.metadata().image();
        let topic = image.topic_by_id(replica.topic_id()).ok_or(LeaderError::Deleted)?;
        let partition = topic.partition(replica.partition()).ok_or(LeaderError::Deleted)?;
        for eligible in &partition.elr {
            if *eligible != self.local() && !successors.contains(eligible) {
                successors.push(*eligible);
            }
        }
        Ok(successors)
    }
}
