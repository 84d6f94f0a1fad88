//! The Raft quorum under the metadata: openraft on a durable store, the controller that decides, the ways to the peers,
//! and the handle that the rest of the process holds.
//!
//! Controllers are voters, other brokers observers (openraft's learners). `start` is how a node finds its quorum, `submit`
//! how a request finds the active controller, `barrier` how a reader knows that it is up to date, `membership` how nodes come and go.

mod barrier;
mod config;
mod controller;
mod directory;
mod doubt;
pub mod encoding;
mod errors;
mod info;
mod links;
pub mod log_store;
mod membership;
mod messages;
mod network;
mod office;
mod room;
mod runtime;
mod server;
mod sessions;
mod start;
pub mod state_machine;
pub mod store;
pub mod store_memory;
pub mod store_sled;
mod submit;
mod transport;
pub mod types;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::metadata::ids::BrokerId;
use crate::metadata::image::Image;

use barrier::Barriers;
use controller::Waiting;
use directory::Home;
use links::Links;
use room::Room;
use state_machine::Published;
use store::Store;
use types::Raft;

pub use config::{ConfigCheck, MetadataConfig, QuorumRole, StaticSettings, TopicDefaults};
pub use directory::DIRECTORY_NAME;
pub use errors::{StartError, SubmitError, VoterChangeError};
pub use info::{ObserverInfo, QuorumInfo, VoterInfo};
pub use transport::{
    Lane, NoPeers, PEER_MESSAGE_BYTES_MAX, PeerRefused, PeerService, Transport, TransportError,
};

/// How long a leader that stops waits for another to take over.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// A voter that does not answer so soon is no heir.
const HEIR_ANSWER_MAX: Duration = Duration::from_millis(500);

/// How long a controller that stops waits for the change that it has begun.
const LAST_CHANGE_MAX: Duration = Duration::from_secs(1);

/// The handle to the metadata; clones share one node. Dropping the last one does not stop it cleanly: see `shutdown`.
#[derive(Clone)]
pub struct Metadata {
    node_id: BrokerId,
    raft: Raft,
    published: Arc<Published>,
    links: Arc<Links>,
    room: Arc<Room>,
    requests: mpsc::Sender<Waiting>,
    /// Held by whoever changes the membership: one change at a time.
    membership_change: Arc<tokio::sync::Mutex<()>>,
    barriers: Arc<Barriers>,
    running: Arc<Mutex<Option<Running>>>,
}

struct Running {
    store: Arc<dyn Store>,
    peers: PeerService,
    stop: oneshot::Sender<()>,
    controller: JoinHandle<()>,
    /// Ends by itself when openraft does.
    _tending: JoinHandle<()>,
    _doubting: JoinHandle<()>,
    _home: Home,
}

impl Metadata {
    /// The newest applied image. Cheap; take it once per request so that one answer shows one state.
    pub fn image(&self) -> Arc<Image> {
        self.published.image()
    }

    /// Carries the offset of the newest applied image; changes after `image` does.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.published.changes()
    }

    /// Whether this node is the active controller, as far as it knows.
    pub fn is_controller(&self) -> bool {
        self.raft.metrics().borrow_watched().state.is_leader()
    }

    /// The active controller, as far as this node knows.
    pub fn controller_id(&self) -> Option<BrokerId> {
        broker_id(self.raft.metrics().borrow_watched().current_leader)
    }

    pub fn node_id(&self) -> BrokerId {
        self.node_id
    }

    /// Of this node's metadata directory.
    pub fn directory_id(&self) -> Uuid {
        self.links.directory_id
    }

    /// Resolves when the metadata stopped by itself (a failed write, a broken log), with the reason. The process must not go
    /// on: what its disk holds is not known.
    pub async fn stopped(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return "the quorum ended".into();
            }
        }
    }

    /// Writes a snapshot now; `Ok` means that it was asked for.
    pub async fn snapshot(&self) -> Result<(), SubmitError> {
        self.raft.trigger().snapshot().await.map_err(|fatal| SubmitError::Stopped(fatal.to_string()))
    }

    /// Hands the leadership over, stops the node, syncs the store and lets go of its directory. Requests that wait are
    /// answered `Stopped`.
    pub async fn shutdown(&self) {
        let Some(running) = self.running.lock().take() else { return };
        self.hand_over().await;
        let _ = running.stop.send(());
        let mut controller = running.controller;
        // A controller without a quorum would wait for one; openraft's end ends that.
        let ended = tokio::time::timeout(LAST_CHANGE_MAX, &mut controller).await.is_ok();
        running.peers.detach();
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "the metadata quorum did not shut down cleanly");
        }
        if !ended {
            let _ = controller.await;
        }
        let store = running.store;
        let closed = store::beside(&store, |store| {
            let synced = store.sync();
            store.close();
            synced
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "the last sync of the metadata failed");
        }
    }

    /// Gives the leadership to the voter that is most likely to take it, so that the others need not wait for a timeout.
    async fn hand_over(&self) {
        let Some(heir) = self.heir().await else { return };
        let mut metrics = self.raft.metrics();
        if self.raft.trigger().transfer_leader(heir).await.is_err() {
            return;
        }
        let taken = async {
            loop {
                {
                    let now = metrics.borrow_watched();
                    if now.running_state.is_err() || now.current_leader.is_some_and(|leader| leader != now.id)
                    {
                        return;
                    }
                }
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(HAND_OVER_MAX, taken).await.is_err() {
            tracing::warn!(heir, "no other controller took over in time");
        }
    }

    /// The voter with the longest log among those that answer; `None` if this node does not lead or is alone.
    async fn heir(&self) -> Option<u64> {
        for id in self.heirs() {
            if doubt::answers(&self.links, id, HEIR_ANSWER_MAX).await {
                return Some(id);
            }
        }
        None
    }

    /// The other voters that may answer, the longest log first.
    fn heirs(&self) -> Vec<u64> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        if !metrics.state.is_leader() {
            return Vec::new();
        }
        let Some(replication) = metrics.replication else { return Vec::new() };
        let voters = metrics.membership_config.membership().voter_ids();
        let mut heirs: Vec<_> = voters
            .filter(|id| *id != metrics.id && !self.links.contact(*id).gone)
            .filter_map(|id| {
                let reached = self.links.contact(id).reached.map(|at| at.elapsed())?;
                let matched = replication.get(&id)?.as_ref().map(|matched| matched.index);
                (reached < HAND_OVER_MAX).then_some((matched, id))
            })
            .collect();
        heirs.sort_unstable_by(|one, other| other.cmp(one));
        heirs.into_iter().map(|(_, id)| id).collect()
    }
}

fn broker_id(id: Option<u64>) -> Option<BrokerId> {
    id.and_then(|id| i32::try_from(id).ok()).map(BrokerId)
}
