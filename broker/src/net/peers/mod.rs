//! How nodes speak to each other: the sockets under `ottla_raft::Transport`, and the serving side of them.
//!
//! A peer's frame is Kafka's: length, API key 10000 (which no Kafka API has and ApiVersions does not name), version,
//! correlation id, no client id, then the message, of which nothing is known here. The answer: length, correlation id, a byte
//! that is 0 for an answer and 1 for a refusal, then the answer or the refusal's text. The first frame of a connection
//! says whether a peer or a client is on the other side; it stays so.
//!
//! Answers may overtake each other: a request that waits for the quorum does not hold up the heartbeats behind it. Everything a
//! peer could grow is bounded: the frame, the requests under way and their bytes, what waits to be written. When a bound is reached the socket
//! is no longer read, or the caller waits within its own limit.

mod link;
mod serve;
#[cfg(test)]
mod tests;

pub use serve::serve;

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ottla_raft::{Lane, PEER_MESSAGE_BYTES_MAX, Transport, TransportError};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::socket::{SocketOptions, Stream};
use link::Link;

/// Of the frames between nodes.
pub const API_KEY: i16 = 10_000;
pub const VERSION: i16 = 0;
/// API key, version, correlation id and the absent client id.
const REQUEST_HEADER_BYTES: usize = 10;
/// The largest frame, without its length.
pub const FRAME_BYTES_MAX: usize = PEER_MESSAGE_BYTES_MAX + REQUEST_HEADER_BYTES;

const ANSWERED: u8 = 0;
const REFUSED: u8 = 1;

/// A connection that is not made by then is given up, whatever time the caller has.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Calls within this time after a failed attempt to connect share its outcome.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// What was sent and is not acknowledged by the other machine for so long ends the connection: after a cut, a new one is there
/// sooner than the old one's retransmissions, which come ever more seldom.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(3);
/// A call that gave up takes its connection along only if nothing at all came over it for so long.
const SILENCE_MIN: Duration = Duration::from_secs(1);
/// Addresses remembered; peers come and go, and their addresses with them.
const ADDRESSES_MAX: usize = 1024;

/// The way to the other nodes: one connection for each address and lane, opened when it is first needed.
pub struct Peers {
    options: SocketOptions,
    places: Mutex<HashMap<(String, Lane), Arc<Place>>>,
}

/// Where the connection to one address, for one lane, is or will be.
#[derive(Default)]
struct Place {
    state: AsyncMutex<PlaceState>,
}

#[derive(Default)]
struct PlaceState {
    link: Option<Arc<Link>>,
    failed: Option<(Instant, TransportError)>,
}

impl Peers {
    pub fn new() -> Peers {
        let options =
            SocketOptions { unacknowledged_max: Some(UNACKNOWLEDGED_MAX), ..SocketOptions::default() };
        Peers { options, places: Mutex::default() }
    }

    fn place(&self, address: &str, lane: Lane) -> Arc<Place> {
        let mut places = self.places.lock();
        if places.len() >= ADDRESSES_MAX {
            places.retain(|_, place| Arc::strong_count(place) > 1 || place.is_in_use());
        }
        Arc::clone(places.entry((address.to_owned(), lane)).or_default())
    }

    /// The open connection, or a new one.
    async fn link(&self, address: &str, lane: Lane, limit: Duration) -> Result<Arc<Link>, TransportError> {
        let place = self.place(address, lane);
        let mut state = place.state.lock().await;
        if let Some(link) = state.link.take_if(|link| link.is_closed()) {
            tracing::debug!(address, ?lane, reason = link.closed_because(), "the connection to a peer ended");
        }
        if let Some(link) = &state.link {
            return Ok(Arc::clone(link));
        }
        if let Some((when, error)) = &state.failed
            && when.elapsed() < RECONNECT_PAUSE
        {
            return Err(error.clone());
        }
        let limit = limit.min(CONNECT_MAX);
        let opened = match tokio::time::timeout(limit, Stream::connect(address)).await {
            Ok(Ok(stream)) => stream.configure(self.options).map(|()| stream).map_err(|e| cannot_connect(&e)),
            Ok(Err(error)) => Err(cannot_connect(&error)),
            Err(_) => {
                Err(TransportError::Unreachable(format!("no connection within {} ms", limit.as_millis())))
            }
        };
        match opened {
            Ok(stream) => {
                let link = Link::start(stream);
                state.failed = None;
                state.link = Some(Arc::clone(&link));
                Ok(link)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}

impl Default for Peers {
    fn default() -> Peers {
        Peers::new()
    }
}

impl Place {
    fn is_in_use(&self) -> bool {
        self.state.try_lock().is_ok_and(|state| state.link.as_ref().is_some_and(|link| !link.is_closed()))
    }
}

fn cannot_connect(error: &io::Error) -> TransportError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => TransportError::Refused,
        _ => TransportError::Unreachable(error.to_string()),
    }
}

impl Transport for Peers {
    fn call<'a>(
        &'a self,
        address: &'a str,
        lane: Lane,
        request: Bytes,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send + 'a>> {
        Box::pin(async move {
            if request.len() > PEER_MESSAGE_BYTES_MAX {
                return Err(TransportError::Unreachable(format!(
                    "a message of {} bytes is larger than {PEER_MESSAGE_BYTES_MAX}",
                    request.len()
                )));
            }
            let deadline = Instant::now() + limit;
            // Another call may be connecting: that is waited for within the same limit.
            let link = match tokio::time::timeout_at(deadline, self.link(address, lane, limit)).await {
                Ok(link) => link?,
                Err(_) => {
                    return Err(TransportError::Unreachable(format!(
                        "no connection within {} ms",
                        limit.as_millis()
                    )));
                }
            };
            let waiting = Waiting { link: &link, since: Instant::now() };
            let called = tokio::time::timeout_at(deadline, link.call(request)).await;
            waiting.end();
            called.unwrap_or_else(|_| {
                link.close_if_silent_for(limit.max(SILENCE_MIN));
                Err(TransportError::TimedOut(limit))
            })
        })
    }
}

/// A call under way. A caller that loses patience before the limit must not leave a dead connection to the next call either.
struct Waiting<'a> {
    link: &'a Link,
    since: Instant,
}

impl Waiting<'_> {
    fn end(self) {
        std::mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let waited = self.since.elapsed();
        if waited >= SILENCE_MIN {
            self.link.close_if_silent_for(waited);
        }
    }
}
