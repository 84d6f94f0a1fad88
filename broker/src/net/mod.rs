//! Listeners, connections and frames: the only code that knows sockets. `server` accepts, `connection` serves a client,
//! `peers` is what nodes say to each other.
//!
//! One task per connection does everything for it: reads frames, runs the first stage of each request, waits for the
//! answers and writes them in the order of the requests. A request costs no hop between tasks.

mod census;
mod connection;
pub mod frame;
pub mod peers;
mod server;
pub mod socket;
pub mod turns;
mod writer;

pub use server::{Phase, Server};

use std::io;
use std::net::SocketAddr;

use crate::api::ListenerRole;
use crate::config::Listener;

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purpose {
    pub role: ListenerRole,
    /// Whether other nodes reach this one there.
    pub serves_peers: bool,
}

impl Purpose {
    pub const CLIENTS: Purpose = Purpose { role: ListenerRole::Broker, serves_peers: false };
}

/// A listener that holds its port but does not accept yet: ports are taken before anything else starts, so that a taken
/// one is reported before any data is touched.
pub struct Bound {
    pub listener: Listener,
    pub address: SocketAddr,
    purpose: Purpose,
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
pub async fn bind(listener: &Listener, purpose: Purpose, backlog: u32) -> Result<Bound, BindError> {
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
    Ok(Bound { listener: listener.clone(), address, purpose, socket })
}
