//! Listeners, connections and frames: the only code that knows sockets.
//!
//! One task per connection does everything for it: reads frames, runs the first stage of each request, waits for the
//! answers and writes them in the order of the requests. A request costs no hop between tasks.

mod connection;
pub mod frame;
pub mod socket;
mod writer;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{Connection, ListenerRole};
use crate::config::Listener;
use crate::node::Broker;
use socket::SocketOptions;

/// A listener that holds its port but does not accept yet: ports are taken before anything else starts, so that a taken
/// one is reported before any data is touched.
pub struct Bound {
    pub listener: Listener,
    pub address: SocketAddr,
    socket: socket::Listener,
}

#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("listener {listener}: cannot resolve host `{host}`: {source}")]
    Resolve { listener: String, host: String, source: io::Error },
    #[error(
        "listener {listener}: {address} is already in use; stop the process that uses it or choose another port in `listeners`"
    )]
    Taken { listener: String, address: SocketAddr },
    #[error("listener {listener}: cannot listen on {address}: {source}")]
    Listen { listener: String, address: SocketAddr, source: io::Error },
}

/// Takes the port of a listener. Must run inside a tokio runtime.
pub async fn bind(listener: &Listener, backlog: u32) -> Result<Bound, BindError> {
    let name = || listener.name.clone();
    let host = if listener.host.is_empty() { "0.0.0.0" } else { &listener.host };
    let resolve = |source| BindError::Resolve { listener: name(), host: host.to_string(), source };
    let address = socket::Listener::resolve(host, listener.port).await.map_err(resolve)?;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::Taken { listener: name(), address },
        _ => BindError::Listen { listener: name(), address, source },
    };
    let socket = socket::Listener::bind(address, backlog).await.map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;
    Ok(Bound { listener: listener.clone(), address, socket })
}

/// The connections of all listeners, counted against `max.connections` and its relatives.
#[derive(Default)]
struct Census {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// A place in the census, given back when the connection ends.
struct Seat {
    census: Arc<Mutex<Census>>,
    address: IpAddr,
}

impl Seat {
    fn take(census: &Arc<Mutex<Census>>, broker: &Broker, address: IpAddr) -> Result<Seat, String> {
        let limits = broker.config.dynamic();
        let mut counts = census.lock();
        if counts.total >= limits.connections_max {
            return Err(format!("max.connections ({}) is reached", limits.connections_max));
        }
        let of_address = counts.by_address.get(&address).copied().unwrap_or(0);
        let limit = limits.connections_per_ip_overrides.get(&address).copied();
        let limit = limit.unwrap_or(limits.connections_per_ip_max);
        if of_address >= limit {
            return Err(format!("max.connections.per.ip ({limit}) is reached for {address}"));
        }
        counts.total += 1;
        counts.by_address.insert(address, of_address + 1);
        Ok(Seat { census: census.clone(), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.census.lock();
        counts.total -= 1;
        if let Some(of_address) = counts.by_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

/// Serves all listeners until `stop` turns true, then lets running requests end and returns.
pub async fn serve(bound: Vec<Bound>, broker: Arc<Broker>, stop: watch::Receiver<bool>) {
    let census = Arc::new(Mutex::new(Census::default()));
    let mut accepting = JoinSet::new();
    for listener in bound {
        accepting.spawn(accept(listener, broker.clone(), census.clone(), stop.clone()));
    }
    while accepting.join_next().await.is_some() {}
}

/// How long connections may take to answer what they have started once the node stops.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

async fn accept(
    bound: Bound,
    broker: Arc<Broker>,
    census: Arc<Mutex<Census>>,
    mut stop: watch::Receiver<bool>,
) {
    static CONNECTION_IDS: AtomicU64 = AtomicU64::new(1);
    let listener = bound.listener.name.clone();
    let role = match broker.config.controller_listener_names.contains(&listener) {
        true => ListenerRole::Controller,
        false => ListenerRole::Broker,
    };
    let options = SocketOptions {
        send_buffer_bytes: broker.config.network.send_buffer_bytes,
        receive_buffer_bytes: broker.config.network.receive_buffer_bytes,
    };
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
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
        let seat = match Seat::take(&census, &broker, peer.ip()) {
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
            role,
            local: stream.local_addr().unwrap_or(bound.address),
            software: Mutex::new(None),
        });
        let (broker, stop) = (broker.clone(), stop.clone());
        connections.spawn(async move {
            let _seat = seat;
            broker.metrics.connections.inc();
            let closed = connection::run(stream, connection.clone(), broker.clone(), stop).await;
            broker.metrics.connections.dec();
            if let Err(reason) = closed {
                tracing::info!(listener = %connection.listener, peer = %connection.peer, %reason, "connection closed");
            }
        });
    }
    drop(bound);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    // Those that did not end hold the broker: nobody may go on with it while the logs are closed.
    connections.shutdown().await;
}
