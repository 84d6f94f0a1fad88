//! One connection: reads requests, starts them, writes the answers in the order of the requests.
//!
//! Kafka's brokers take one request of a connection at a time. Here a request may start as soon as every earlier one is
//! answered or has only its wait left (a produce whose batches are appended), so what one client sees keeps its order
//! while a wait for disks or replicas does not stop the next append.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use tokio::sync::watch;
use tokio::time::Instant;

use super::frame::{FrameReader, Request, Taken};
use super::server::Phase;
use super::socket::Stream;
use super::turns::Turns;
use super::writer::{Outbox, reply_of};
use crate::api::table::Row;
use crate::api::{Close, Connection, Reply, RequestContext, Started, api_versions};
use crate::metrics::Metrics;
use crate::node::Broker;

/// Requests started and not yet answered. A client that sends more waits in its own socket.
const IN_FLIGHT_MAX: usize = 128;
/// Answers collected before they are written although more are ready.
const WRITE_BATCH_BYTES: usize = 1 << 20;
/// How often an idle connection looks at its clock and gives back memory.
const TICK: Duration = Duration::from_secs(5);

/// An answer under way.
struct Pending {
    answer: BoxFuture<'static, Result<Reply, Close>>,
    serial: bool,
    head: Head,
}

/// What the frame of an answer needs.
struct Head {
    row: &'static Row,
    version: i16,
    correlation_id: i32,
    received: Instant,
}

struct Answered {
    reply: Result<Reply, Close>,
    serial: bool,
    head: Head,
}

impl Future for Pending {
    type Output = Answered;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answered> {
        let reply = std::task::ready!(self.answer.as_mut().poll(cx));
        let this = &*self;
        let head = Head { ..this.head };
        Poll::Ready(Answered { reply, serial: this.serial, head })
    }
}

/// Runs a client's connection to its end; `frames` holds what was read of it. `Err` carries the reason when it was this
/// side that closed it.
pub async fn run(
    stream: Stream,
    frames: FrameReader,
    connection: Arc<Connection>,
    broker: Arc<Broker>,
    mut phase: watch::Receiver<Phase>,
) -> Result<(), Close> {
    let idle_max = broker.config.network.idle_max;
    let mut task = Task {
        frames,
        outbox: Outbox::default(),
        in_flight: FuturesOrdered::new(),
        turns: Turns::default(),
        serial: 0,
        metrics: broker.metrics.clone(),
        connection,
        broker: broker.clone(),
        stream,
    };
    let mut active = Instant::now();
    let tick = tokio::time::sleep(TICK);
    tokio::pin!(tick);
    let mut stopping = false;
    loop {
        if !stopping {
            task.start_requests()?;
        }
        task.collect_ready().await?;
        if !task.outbox.is_empty() {
            let bytes = task.outbox.bytes();
            if write(&mut task.outbox, &task.stream).await.is_err() {
                return Ok(());
            }
            task.metrics.bytes_out.inc_by(bytes as u64);
            active = Instant::now();
            continue;
        }
        if stopping && task.in_flight.is_empty() {
            return Ok(());
        }
        tokio::select! {
            biased;
            Some(answered) = task.in_flight.next(), if !task.in_flight.is_empty() => {
                task.put(answered)?;
            }
            // Reading goes on while answers are awaited: the next requests are there when they may start, and a client
            // that went away is noticed, which drops its waiting fetch.
            read = task.stream.readable(), if !stopping && task.wants_more() => {
                if read.is_err() || !task.read() {
                    return Ok(());
                }
                active = Instant::now();
            }
            _ = phase.wait_for(|phase| *phase >= Phase::Draining), if !stopping => stopping = true,
            () = &mut tick => {
                let silent = active.elapsed();
                if task.in_flight.is_empty() && idle_max.is_some_and(|max| silent >= max) {
                    tracing::debug!(peer = %task.connection.peer, "idle connection closed (connections.max.idle.ms)");
                    return Ok(());
                }
                if silent >= TICK {
                    task.frames.release();
                }
                tick.as_mut().reset(Instant::now() + TICK);
            }
        }
    }
}

async fn write(outbox: &mut Outbox, stream: &Stream) -> io::Result<()> {
    outbox.flush(stream).await.inspect_err(|error| {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            tracing::error!(%error, "a response could not be completed");
        }
    })
}

struct Task {
    stream: Stream,
    frames: FrameReader,
    outbox: Outbox,
    in_flight: FuturesOrdered<Pending>,
    turns: Turns,
    /// Requests in flight that keep later ones from starting (0 or 1).
    serial: usize,
    connection: Arc<Connection>,
    broker: Arc<Broker>,
    metrics: Arc<Metrics>,
}

impl Task {
    fn may_start(&self) -> bool {
        self.serial == 0 && self.in_flight.len() < IN_FLIGHT_MAX
    }

    /// While nothing may start, one read's worth of requests may wait here, no more.
    fn wants_more(&self) -> bool {
        self.may_start() || self.frames.buffered() == 0
    }

    /// Starts what has been read, as far as it may start.
    fn start_requests(&mut self) -> Result<(), Close> {
        while self.may_start() && self.outbox.bytes() < WRITE_BATCH_BYTES {
            match self.frames.take()? {
                Taken::Request(request) => self.start(request)?,
                Taken::UnsupportedApiVersions { correlation_id } => {
                    let role = self.connection.role;
                    // Answered in its turn only if nothing is under way; no client sends it later than first.
                    if !self.in_flight.is_empty() {
                        return Err(Close::new("ApiVersions in an unsupported version after other requests"));
                    }
                    self.outbox.push(
                        correlation_id,
                        false,
                        reply_of(api_versions::unsupported_version(role)?),
                    );
                }
                Taken::Peer { .. } => return Err(Close::new("a node's message on a client's connection")),
                Taken::Incomplete => break,
            }
        }
        Ok(())
    }

    fn start(&mut self, request: Request) -> Result<(), Close> {
        let head = Head {
            row: request.row,
            version: request.version,
            correlation_id: request.correlation_id,
            received: Instant::now(),
        };
        let cx = RequestContext {
            broker: self.broker.clone(),
            connection: self.connection.clone(),
            api_version: request.version,
            correlation_id: request.correlation_id,
            client_id: request.client_id,
            turn: self.turns.next(),
        };
        let close = |close: Close| {
            Close::new(format!("API key {} version {}: {}", head.row.key, head.version, close.reason))
        };
        let (answer, serial) = match request.row.start(cx, request.body).map_err(close)? {
            Started::Serial(answer) => (answer, true),
            Started::Pipelined(answer) => (answer, false),
            Started::Silent => {
                self.metrics.on_request(head.row.key, head.received.elapsed());
                return Ok(());
            }
        };
        self.serial += usize::from(serial);
        self.turns.on_started();
        self.in_flight.push_back(Pending { answer, serial, head });
        Ok(())
    }

    /// Puts every answer that is ready into the outbox, and starts what may start then.
    async fn collect_ready(&mut self) -> Result<(), Close> {
        while !self.in_flight.is_empty() && self.outbox.bytes() < WRITE_BATCH_BYTES {
            match futures::poll!(self.in_flight.next()) {
                Poll::Ready(Some(answered)) => self.put(answered)?,
                _ => break,
            }
        }
        Ok(())
    }

    fn put(&mut self, answered: Answered) -> Result<(), Close> {
        let Answered { reply, serial, head } = answered;
        self.serial -= usize::from(serial);
        self.turns.on_sent();
        let reply = reply.map_err(|close| {
            Close::new(format!("API key {} version {}: {}", head.row.key, head.version, close.reason))
        })?;
        self.metrics.on_request(head.row.key, head.received.elapsed());
        self.outbox.push(head.correlation_id, head.row.response_header_is_flexible(head.version), reply);
        Ok(())
    }

    /// Reads what is there; false when the client has closed the connection.
    fn read(&mut self) -> bool {
        let read = self.frames.read_from(&self.stream);
        self.metrics.bytes_in.inc_by(read.unwrap_or(0) as u64);
        read.is_some()
    }
}
