//! `controller.quorum.auto.join.enable`: a controller that does not vote asks to (KIP-1186), once in the life of its process: a
//! voter that an operator removes while it runs stays removed.

use std::time::Duration;

use ottla_raft::{Metadata, SubmitError, VoterChangeError};

/// Between attempts. Right after its start the node may not have caught up, or another change may be under way.
const PAUSE: Duration = Duration::from_secs(1);

/// Ends when this node votes, or when asking again is of no use.
pub async fn run(metadata: Metadata, address: String) {
    let id = metadata.node_id();
    let votes = || metadata.quorum().voters.iter().any(|voter| voter.id == id);
    let mut last = String::new();
    while !votes() {
        let error = match metadata.add_voter(id, metadata.directory_id(), &address).await {
            Ok(()) => {
                tracing::info!("this node has joined the voters of the metadata quorum");
                return;
            }
            Err(VoterChangeError::Submit(SubmitError::Stopped(_))) => return,
            Err(error) => error.to_string(),
        };
        // Each reason is said once, however long it lasts.
        if error != last {
            tracing::warn!(error, "this node cannot join the voters of the metadata quorum yet");
            last = error;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
