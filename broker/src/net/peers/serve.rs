//! The serving side of a connection between nodes: every request is handed on (to the metadata's `PeerService`), every answer goes out
//! as soon as it is there.

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use ottla_raft::{PEER_MESSAGE_BYTES_MAX, PeerRefused};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{ANSWERED, REFUSED};
use crate::api::{Close, Part};
use crate::net::frame::{FrameReader, Taken};
use crate::net::server::Phase;
use crate::net::socket::Stream;
use crate::net::writer::Outbox;

/// Requests of one peer under way; more wait in its socket.
const IN_FLIGHT_MAX: usize = 256;
/// Bytes of these requests from which on no more are taken; so at most this and one message more are held.
const IN_FLIGHT_BYTES_MAX: usize = PEER_MESSAGE_BYTES_MAX;
/// Answers that wait for the socket before more are collected.
const OUTBOX_BYTES_MAX: usize = 4 << 20;
const TICK: Duration = Duration::from_secs(5);

/// Serves a peer to the end of its connection; `frames` holds what was read of it. `Err` carries the reason when it was
/// this side that closed it.
pub async fn serve<F>(
    stream: Stream,
    mut frames: FrameReader,
    handle: impl Fn(Bytes) -> F,
    idle_max: Option<Duration>,
    mut phase: watch::Receiver<Phase>,
) -> Result<(), Close>
where
    F: Future<Output = Result<Bytes, PeerRefused>>,
{
    let mut outbox = Outbox::default();
    let mut in_flight = FuturesUnordered::new();
    let mut in_flight_bytes = 0;
    let mut active = Instant::now();
    let tick = tokio::time::sleep(TICK);
    tokio::pin!(tick);
    loop {
        while has_room(in_flight.len(), in_flight_bytes) {
            match frames.take()? {
                Taken::Peer { correlation_id, message } => {
                    let bytes = message.len();
                    in_flight_bytes += bytes;
                    let answer = handle(message);
                    in_flight.push(async move { (correlation_id, bytes, answer.await) });
                }
                Taken::Incomplete => break,
                Taken::Request(_) | Taken::UnsupportedApiVersions { .. } => {
                    return Err(Close::new("a client's request on a connection of peers"));
                }
            }
        }
        while outbox.bytes() < OUTBOX_BYTES_MAX && !in_flight.is_empty() {
            let Poll::Ready(Some((id, bytes, answer))) = futures::poll!(in_flight.next()) else { break };
            in_flight_bytes -= bytes;
            push(&mut outbox, id, answer);
        }
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Stopped) => return Ok(()),
            written = outbox.write(&stream), if !outbox.is_empty() => {
                if written.is_err() {
                    return Ok(());
                }
                active = Instant::now();
            }
            Some((id, bytes, answer)) = in_flight.next(), if !in_flight.is_empty() && outbox.bytes() < OUTBOX_BYTES_MAX => {
                in_flight_bytes -= bytes;
                push(&mut outbox, id, answer);
            }
            read = stream.readable(), if has_room(in_flight.len(), in_flight_bytes) => {
                if read.is_err() || frames.read_from(&stream).is_none() {
                    return Ok(());
                }
                active = Instant::now();
            }
            () = &mut tick => {
                let silent = active.elapsed();
                if in_flight.is_empty() && outbox.is_empty() && idle_max.is_some_and(|max| silent >= max) {
                    return Ok(());
                }
                if silent >= TICK {
                    frames.release();
                }
                tick.as_mut().reset(Instant::now() + TICK);
            }
        }
    }
}

fn has_room(requests: usize, bytes: usize) -> bool {
    requests < IN_FLIGHT_MAX && bytes < IN_FLIGHT_BYTES_MAX
}

fn push(outbox: &mut Outbox, correlation_id: i32, answer: Result<Bytes, PeerRefused>) {
    let (outcome, body) = match answer {
        Ok(body) if body.len() <= PEER_MESSAGE_BYTES_MAX => (ANSWERED, body),
        Ok(body) => (REFUSED, Bytes::from(format!("the answer takes {} bytes, too many", body.len()))),
        Err(PeerRefused(reason)) => (REFUSED, Bytes::from(reason)),
    };
    let mut head = BytesMut::with_capacity(9);
    head.put_u32(5 + body.len() as u32);
    head.put_i32(correlation_id);
    head.put_u8(outcome);
    outbox.push_parts([Part::Bytes(head.freeze()), Part::Bytes(body)]);
}
