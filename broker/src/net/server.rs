//! Accepting: from the first moment on the listeners by which nodes reach each other, and as soon as the node serves clients on all.
//!
//! A node that starts must be reachable for its peers before it has metadata, or a cluster that starts as a whole would never come
//! up; clients that come through the same listener wait. A node that stops answers what its clients have begun, and its peers to the
//! last.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ottla_raft::PeerService;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::census::{Census, Seat};
use super::frame::{Caller, FrameReader};
use super::socket::{SocketOptions, Stream};
use super::{Bound, connection, peers};
use crate::api::{Close, Connection};
use crate::config::NodeConfig;
use crate::metrics::Metrics;
use crate::node::Broker;

/// How long connections may take to answer what they have started once the node stops.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);
/// What a client may send while it waits for the node to be ready.
const WAITING_BYTES_MAX: usize = 16 << 10;

/// How far a node is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// No new clients, and no new requests of those that are there.
    Draining,
    /// No clients; peers are answered.
    ClientsClosed,
    Stopped,
}

pub struct Server {
    shared: Arc<Shared>,
    accepting: JoinSet<()>,
}

struct Shared {
    config: Arc<NodeConfig>,
    metrics: Arc<Metrics>,
    peers: PeerService,
    /// What clients are served by, as long as they are.
    broker: watch::Sender<Option<Arc<Broker>>>,
    phase: watch::Sender<Phase>,
    /// Connections that hold the broker.
    clients: watch::Sender<usize>,
    census: Arc<Census>,
}

impl Server {
    /// Serves peers. Needs a tokio runtime.
    pub fn start(
        bound: Vec<Bound>,
        config: Arc<NodeConfig>,
        metrics: Arc<Metrics>,
        peers: PeerService,
        clients_max: usize,
    ) -> Server {
        let shared = Arc::new(Shared {
            config,
            metrics,
            peers,
            broker: watch::Sender::new(None),
            phase: watch::Sender::new(Phase::Serving),
            clients: watch::Sender::new(0),
            census: Census::new(clients_max),
        });
        let mut accepting = JoinSet::new();
        for listener in bound {
            accepting.spawn(accept(listener, Arc::clone(&shared)));
        }
        Server { shared, accepting }
    }

    /// Serves clients too.
    pub fn open(&self, broker: Arc<Broker>) {
        self.shared.broker.send_replace(Some(broker));
    }

    /// For what ends with the server: changes to later phases only.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.shared.phase.subscribe()
    }

    /// Closes the listeners of clients, lets running requests end, and closes what does not end in time. Then nobody holds the
    /// broker any more.
    pub async fn close_clients(&self) {
        self.shared.enter(Phase::Draining);
        self.shared.broker.send_replace(None);
        let mut clients = self.shared.clients.subscribe();
        let _ = tokio::time::timeout(DRAIN, clients.wait_for(|clients| *clients == 0)).await;
        self.shared.enter(Phase::ClientsClosed);
        let _ = clients.wait_for(|clients| *clients == 0).await;
    }

    /// Ends everything.
    pub async fn stop(mut self) {
        self.shared.enter(Phase::Stopped);
        while self.accepting.join_next().await.is_some() {}
    }
}

impl Drop for Server {
    /// A start that fails half-way leaves no port taken.
    fn drop(&mut self) {
        self.shared.enter(Phase::Stopped);
    }
}

impl Shared {
    fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let is_later = phase > *now;
            *now = phase.max(*now);
            is_later
        });
    }

    /// The broker, or none if the node stops before it serves clients.
    async fn await_broker(&self) -> Option<Arc<Broker>> {
        let (mut broker, mut phase) = (self.broker.subscribe(), self.phase.subscribe());
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => None,
            served = broker.wait_for(Option::is_some) => served.ok().and_then(|broker| broker.clone()),
        }
    }
}

async fn accept(bound: Bound, shared: Arc<Shared>) {
    static CONNECTION_IDS: AtomicU64 = AtomicU64::new(1);
    let listener = bound.listener.name.clone();
    let network = &shared.config.network;
    let options = SocketOptions {
        send_buffer_bytes: network.send_buffer_bytes,
        receive_buffer_bytes: network.receive_buffer_bytes,
        ..SocketOptions::default()
    };
    // Peers are served to the last, and clients of their listener only as long as others.
    let end = if bound.purpose.serves_peers { Phase::Stopped } else { Phase::Draining };
    if !bound.purpose.serves_peers && shared.await_broker().await.is_none() {
        return;
    }
    let mut phase = shared.phase.subscribe();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= end) => break,
            Some(_) = connections.join_next() => continue,
            accepted = bound.socket.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%listener, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let seat = match bound.purpose.serves_peers {
            true => Seat::take_for_peer(&shared.census),
            false => Seat::take_for_client(&shared.census, &shared.config.dynamic(), peer.ip()),
        };
        let seat = match seat {
            Ok(seat) => seat,
            Err(reason) => {
                tracing::info!(%listener, %peer, %reason, "connection refused");
                continue;
            }
        };
        if let Err(error) = stream.configure(options) {
            tracing::debug!(%listener, %peer, %error, "connection ended while it was set up");
            continue;
        }
        let connection = Arc::new(Connection {
            id: CONNECTION_IDS.fetch_add(1, Ordering::Relaxed),
            peer,
            listener: listener.clone(),
            role: bound.purpose.role,
            local: stream.local_addr().unwrap_or(bound.address),
            software: parking_lot::Mutex::new(None),
        });
        let frames = FrameReader::new(network.request_bytes_max, bound.purpose);
        let shared = Arc::clone(&shared);
        let serves_peers = bound.purpose.serves_peers;
        connections.spawn(async move {
            let closed = match serves_peers {
                true => serve_whoever(stream, frames, &connection, &shared, seat).await,
                false => match shared.await_broker().await {
                    Some(broker) => serve_client(stream, frames, &connection, &shared, seat, broker).await,
                    None => Ok(()),
                },
            };
            if let Err(reason) = closed {
                tracing::info!(listener = %connection.listener, peer = %connection.peer, %reason, "connection closed");
            }
        });
    }
    drop(bound);
    // Those of clients end by the phases after this one.
    while connections.join_next().await.is_some() {}
}

/// Finds out by the first frame whether a node or a client is there, and serves it.
async fn serve_whoever(
    stream: Stream,
    mut frames: FrameReader,
    connection: &Arc<Connection>,
    shared: &Arc<Shared>,
    seat: Seat,
) -> Result<(), Close> {
    let (mut broker, mut phase) = (shared.broker.subscribe(), shared.phase.subscribe());
    let idle_max = shared.config.network.idle_max;
    let came = Instant::now();
    let patience = async {
        match idle_max {
            Some(max) => tokio::time::sleep_until(came + max).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(patience);
    loop {
        let caller = frames.caller();
        match caller {
            Some(Caller::Peer) => {
                let handle = |message| {
                    let service = shared.peers.clone();
                    async move { service.handle(message).await }
                };
                return peers::serve(stream, frames, handle, idle_max, phase.clone()).await;
            }
            Some(Caller::Client) => {
                let ready = broker.borrow_and_update().clone();
                if let Some(broker) = ready {
                    // From here on it counts as what it is.
                    drop(seat);
                    let limits = shared.config.dynamic();
                    let seat = Seat::take_for_client(&shared.census, &limits, connection.peer.ip());
                    let seat = seat.map_err(Close::new)?;
                    return serve_client(stream, frames, connection, shared, seat, broker).await;
                }
            }
            None => {}
        }
        let end = if caller == Some(Caller::Client) { Phase::Draining } else { Phase::Stopped };
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= end) => return Ok(()),
            () = &mut patience => return Ok(()),
            _ = broker.changed(), if caller == Some(Caller::Client) => {}
            read = stream.readable(), if frames.buffered() < WAITING_BYTES_MAX => {
                if read.is_err() || frames.read_from(&stream).is_none() {
                    return Ok(());
                }
            }
        }
    }
}

/// Counts a client that holds the broker.
struct ClientCount<'a>(&'a Shared);

impl<'a> ClientCount<'a> {
    fn add(shared: &'a Shared) -> ClientCount<'a> {
        shared.clients.send_modify(|clients| *clients += 1);
        shared.metrics.connections.inc();
        ClientCount(shared)
    }
}

impl Drop for ClientCount<'_> {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
        self.0.clients.send_modify(|clients| *clients -= 1);
    }
}

async fn serve_client(
    stream: Stream,
    frames: FrameReader,
    connection: &Arc<Connection>,
    shared: &Arc<Shared>,
    _seat: Seat,
    broker: Arc<Broker>,
) -> Result<(), Close> {
    // Dropped after the connection, which holds the broker.
    let _count = ClientCount::add(shared);
    let mut phase = shared.phase.subscribe();
    let running = connection::run(stream, frames, Arc::clone(connection), broker, shared.phase.subscribe());
    tokio::select! {
        biased;
        closed = running => closed,
        // Nobody may go on with the broker while the logs are closed.
        _ = phase.wait_for(|phase| *phase >= Phase::ClientsClosed) => Ok(()),
    }
}
