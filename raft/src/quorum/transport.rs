//! How nodes speak to each other: the socket side behind a trait, the serving side as a handle that exists before the
//! metadata runs.
//!
//! What is carried is opaque here and to the implementor (`messages` has it). Whoever implements `Transport` owns
//! connections, frames and their limits; whoever receives a frame gives its bytes to `PeerService::handle` and returns
//! what that answers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;

/// The largest message either way. What a node sends is split well below; the rest is room for one very large entry.
pub const PEER_MESSAGE_BYTES_MAX: usize = 64 << 20;

/// One connection per peer and lane, so that what is slow does not hold up what must be quick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, votes and log entries.
    Raft,
    /// Requests on their way to the active controller.
    Submit,
    /// Chunks of snapshots.
    Snapshot,
}

pub trait Transport: Send + Sync + 'static {
    /// One request, one answer, within `limit` in all. Requests of one lane may be answered out of order, or one after
    /// the other.
    fn call<'a>(
        &'a self,
        address: &'a str,
        lane: Lane,
        request: Bytes,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send + 'a>>;
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The host is there and says that nobody listens at the port. Nothing was sent.
    #[error("nobody listens there")]
    Refused,
    /// No connection could be made. Nothing was sent.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The connection ended before the answer; the request may have been served.
    #[error("the connection ended: {0}")]
    Closed(String),
    /// No answer in time; the request may have been served, or still be.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// It answered, but not to us: nothing was done.
    #[error("it refuses: {0}")]
    Rejected(String),
}

impl TransportError {
    /// Whether the request certainly had no effect.
    pub fn nothing_done(&self) -> bool {
        match self {
            TransportError::Refused | TransportError::Unreachable(_) | TransportError::Rejected(_) => true,
            TransportError::Closed(_) | TransportError::TimedOut(_) => false,
        }
    }
}

/// The transport of a node without peers: a quorum of one that nobody observes.
pub struct NoPeers;

impl Transport for NoPeers {
    fn call<'a>(
        &'a self,
        _address: &'a str,
        _lane: Lane,
        _request: Bytes,
        _limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send + 'a>> {
        Box::pin(async { Err(TransportError::Unreachable("this node was started without peers".into())) })
    }
}

/// Why a request of a peer is not served. To the peer it is `TransportError::Rejected`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PeerRefused(pub String);

type Served = Pin<Box<dyn Future<Output = Result<Bytes, PeerRefused>> + Send>>;

/// Serves one request of a peer.
pub(super) trait Serve: Send + Sync + 'static {
    fn serve(self: Arc<Self>, request: Bytes) -> Served;
}

/// The receiving side. Clones share one; it exists before the metadata runs, so that nodes that start can find each
/// other, and after it stopped, when it refuses.
#[derive(Clone, Default)]
pub struct PeerService {
    serving: Arc<RwLock<Option<Arc<dyn Serve>>>>,
}

impl PeerService {
    pub fn new() -> PeerService {
        PeerService::default()
    }

    /// Serves one request as it came from a socket, however malformed. The future may be dropped at any time.
    pub async fn handle(&self, request: Bytes) -> Result<Bytes, PeerRefused> {
        let serving = self.serving.read().clone();
        match serving {
            Some(serving) => serving.serve(request).await,
            None => Err(PeerRefused("this node's metadata does not run".into())),
        }
    }

    pub(super) fn attach(&self, serving: Arc<dyn Serve>) {
        *self.serving.write() = Some(serving);
    }

    pub(super) fn detach(&self) {
        *self.serving.write() = None;
    }
}
