//! One open connection to a peer, as its caller sees it. A task owns the socket; it ends when the socket does, when nobody called for
//! a while, or when a caller found it silent, and tells everybody who waits.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ottla_raft::{PEER_MESSAGE_BYTES_MAX, TransportError};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{ANSWERED, API_KEY, REFUSED, REQUEST_HEADER_BYTES, VERSION};
use crate::api::Part;
use crate::net::socket::Stream;
use crate::net::writer::Outbox;

/// Calls that wait for the task; more wait in their callers.
const QUEUE_LENGTH_MAX: usize = 64;
/// Requests sent and not answered.
const IN_FLIGHT_MAX: usize = 1024;
/// Bytes that wait for the socket before calls are no longer taken.
const OUTBOX_BYTES_MAX: usize = 4 << 20;
/// Read at a time.
const READ_BYTES_MIN: usize = 16 << 10;
/// Reserved at a time for an answer, whatever length it claims.
const RESERVE_BYTES_MAX: usize = 1 << 20;
/// A connection that nobody uses is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_secs(5);

struct Call {
    request: Bytes,
    answer: oneshot::Sender<Result<Bytes, TransportError>>,
}

pub(super) struct Link {
    calls: mpsc::Sender<Call>,
    shared: Arc<Shared>,
}

struct Shared {
    last_received: Mutex<Instant>,
    /// Why it ended, or shall.
    closed: watch::Sender<Option<String>>,
}

impl Link {
    pub(super) fn start(stream: Stream) -> Arc<Link> {
        let (calls, queue) = mpsc::channel(QUEUE_LENGTH_MAX);
        let shared =
            Arc::new(Shared { last_received: Mutex::new(Instant::now()), closed: watch::Sender::new(None) });
        let task = Task {
            stream,
            queue,
            shared: Arc::clone(&shared),
            pending: HashMap::new(),
            next_id: 0,
            outbox: Outbox::default(),
            received: BytesMut::new(),
        };
        tokio::spawn(task.run());
        Arc::new(Link { calls, shared })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.calls.is_closed() || self.shared.closed.borrow().is_some()
    }

    pub(super) fn closed_because(&self) -> String {
        self.shared.closed.borrow().clone().unwrap_or_default()
    }

    pub(super) async fn call(&self, request: Bytes) -> Result<Bytes, TransportError> {
        let (answer, answered) = oneshot::channel();
        if self.calls.send(Call { request, answer }).await.is_err() {
            // Nothing was sent, so that trying again is safe.
            return Err(TransportError::Unreachable(self.closed_because()));
        }
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(TransportError::Closed(self.closed_because())),
        }
    }

    /// For a caller that waited in vain: a connection on which nothing came for `silence` is not worth keeping.
    pub(super) fn close_if_silent_for(&self, silence: Duration) {
        if self.shared.last_received.lock().elapsed() >= silence {
            self.shared.close(format!("nothing came for {} ms", silence.as_millis()));
        }
    }
}

impl Shared {
    /// The first reason stays.
    fn close(&self, reason: String) {
        self.closed.send_if_modified(|closed| {
            let is_first = closed.is_none();
            if is_first {
                *closed = Some(reason);
            }
            is_first
        });
    }
}

struct Task {
    stream: Stream,
    queue: mpsc::Receiver<Call>,
    shared: Arc<Shared>,
    pending: HashMap<i32, oneshot::Sender<Result<Bytes, TransportError>>>,
    next_id: i32,
    outbox: Outbox,
    received: BytesMut,
}

impl Task {
    async fn run(mut self) {
        let reason = self.serve().await;
        self.shared.close(reason);
        let reason = self.shared.closed.borrow().clone().unwrap_or_default();
        for (_, answer) in self.pending.drain() {
            // Whoever gave up does not hear it.
            let _ = answer.send(Err(TransportError::Closed(reason.clone())));
        }
        self.queue.close();
        while let Ok(call) = self.queue.try_recv() {
            let _ = call.answer.send(Err(TransportError::Unreachable(reason.clone())));
        }
    }

    /// Why it ended.
    async fn serve(&mut self) -> String {
        let mut closed = self.shared.closed.subscribe();
        let mut used = Instant::now();
        let tick = tokio::time::sleep(TICK);
        tokio::pin!(tick);
        loop {
            let takes_calls = self.outbox.bytes() < OUTBOX_BYTES_MAX && self.pending.len() < IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                _ = closed.wait_for(Option::is_some) => return "it was given up".to_owned(),
                read = self.stream.readable() => {
                    match read.and_then(|()| self.read()) {
                        Ok(true) => {}
                        Ok(false) => return "the peer closed it".to_owned(),
                        Err(error) => return error.to_string(),
                    }
                    if let Err(reason) = self.take_answers() {
                        tracing::warn!(reason, "a peer answers what cannot be understood; the connection is closed");
                        return reason;
                    }
                    used = Instant::now();
                }
                written = self.outbox.write(&self.stream), if !self.outbox.is_empty() => {
                    if let Err(error) = written {
                        return error.to_string();
                    }
                }
                call = self.queue.recv(), if takes_calls => {
                    let Some(call) = call else { return "nobody uses it any more".to_owned() };
                    self.send(call);
                    // What waits behind it goes into the same write.
                    while self.outbox.bytes() < OUTBOX_BYTES_MAX && self.pending.len() < IN_FLIGHT_MAX {
                        let Ok(call) = self.queue.try_recv() else { break };
                        self.send(call);
                    }
                    used = Instant::now();
                }
                () = &mut tick => {
                    // Callers that gave up, on a connection that is not silent.
                    self.pending.retain(|_, answer| !answer.is_closed());
                    if self.pending.is_empty() && used.elapsed() >= IDLE_MAX {
                        return "it was idle".to_owned();
                    }
                    if self.received.is_empty() {
                        self.received = BytesMut::new();
                    }
                    tick.as_mut().reset(Instant::now() + TICK);
                }
            }
        }
    }

    fn send(&mut self, call: Call) {
        if call.answer.is_closed() {
            return;
        }
        if self.pending.is_empty() {
            // Silence counts from when there is something to be heard.
            *self.shared.last_received.lock() = Instant::now();
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let mut head = BytesMut::with_capacity(4 + REQUEST_HEADER_BYTES);
        head.put_u32((REQUEST_HEADER_BYTES + call.request.len()) as u32);
        head.put_i16(API_KEY);
        head.put_i16(VERSION);
        head.put_i32(id);
        head.put_i16(-1);
        self.outbox.push_parts([Part::Bytes(head.freeze()), Part::Bytes(call.request)]);
        self.pending.insert(id, call.answer);
    }

    /// False at the end of the stream.
    fn read(&mut self) -> io::Result<bool> {
        // Room for the rest of an answer that has begun, as far as it has come already: a claimed length alone costs nothing.
        let rest = self.frame_bytes().map_or(0, |bytes| (4 + bytes).saturating_sub(self.received.len()));
        let room = rest.min(self.received.len().max(READ_BYTES_MIN)).clamp(READ_BYTES_MIN, RESERVE_BYTES_MAX);
        self.received.reserve(room);
        match self.stream.try_read_buf(&mut self.received) {
            Ok(0) => Ok(false),
            Ok(_) => {
                *self.shared.last_received.lock() = Instant::now();
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn frame_bytes(&self) -> Option<usize> {
        let length = self.received.get(..4)?.try_into().ok()?;
        Some(u32::from_be_bytes(length) as usize)
    }

    fn take_answers(&mut self) -> Result<(), String> {
        while let Some(bytes) = self.frame_bytes() {
            // Correlation id and outcome come before the answer.
            if !(5..=PEER_MESSAGE_BYTES_MAX + 5).contains(&bytes) {
                return Err(format!("an answer of {bytes} bytes"));
            }
            if self.received.len() < 4 + bytes {
                return Ok(());
            }
            self.received.advance(4);
            let mut frame = self.received.split_to(bytes).freeze();
            let id = frame.get_i32();
            let answer = match frame.get_u8() {
                ANSWERED => Ok(frame),
                REFUSED => Err(TransportError::Rejected(String::from_utf8_lossy(&frame).into_owned())),
                other => return Err(format!("an answer with outcome {other}")),
            };
            // Not there: its caller gave up.
            if let Some(waiting) = self.pending.remove(&id) {
                let _ = waiting.send(answer);
            }
        }
        Ok(())
    }
}
