//! One connection to one broker.
//!
//! Two tasks own the halves of the socket: the writer takes encoded requests from a bounded queue and coalesces those
//! that wait, the reader matches answers to requests. Kafka answers in order, so the correlation id is checked, not
//! looked up: one that does not match means that the stream can't be trusted any more, and the connection ends.
//! When a connection ends, every request that waits on it is told why. There is no reconnecting here: `Cluster` opens
//! another one.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use crate::error::ClientError;
use crate::socket::{OwnedReadHalf, OwnedWriteHalf, TcpStream};
use crate::wire::{self, ErrorCode, FRAME_BYTES_MAX, text};

/// Requests waiting for the writer; a full queue makes senders wait.
const QUEUE_LENGTH_MAX: usize = 64;
/// How much is gathered into one write.
const WRITE_BYTES_MAX: usize = 1 << 20;

pub struct Connection {
    address: String,
    client_id: String,
    queue: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
    /// By API key: the least and greatest version the broker offers.
    versions: HashMap<i16, (i16, i16)>,
    request_timeout: Duration,
}

struct Shared {
    state: Mutex<State>,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Requests that were given to the socket and have an answer to come, oldest first.
    pending: VecDeque<(i32, oneshot::Sender<Result<Bytes, String>>)>,
    /// Why the connection ended; set once.
    closed_because: Option<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, reason: &str) {
        let mut state = self.state();
        self.closed.store(true, Ordering::Release);
        let reason = state.closed_because.get_or_insert_with(|| reason.to_owned()).clone();
        for (_, waiter) in state.pending.drain(..) {
            // Nobody listens any more where the request was given up.
            let _ = waiter.send(Err(reason.clone()));
        }
    }
}

/// A request on its way to the socket. The correlation id is given by the writer, so ids follow the order on the wire.
struct Outgoing {
    frame: BytesMut,
    answer: Option<oneshot::Sender<Result<Bytes, String>>>,
}

/// An answer that is still to come.
pub struct Pending<R: Request> {
    address: String,
    version: i16,
    timeout: Duration,
    answer: oneshot::Receiver<Result<Bytes, String>>,
    marker: std::marker::PhantomData<fn() -> R>,
}

impl<R: Request> Pending<R> {
    /// Waits for the answer, no longer than the request's timeout from now.
    pub async fn wait(self) -> Result<R::Response, ClientError> {
        let disconnected =
            |reason: String| ClientError::Disconnected { address: self.address.clone(), reason };
        let frame = match tokio::time::timeout(self.timeout, self.answer).await {
            Err(_) => {
                return Err(ClientError::TimedOut {
                    what: format!("{} to {}", api_name(R::KEY), self.address),
                    after: self.timeout,
                });
            }
            Ok(Err(_)) => return Err(disconnected("the connection was dropped".to_owned())),
            Ok(Ok(Err(reason))) => return Err(disconnected(reason)),
            Ok(Ok(Ok(frame))) => frame,
        };
        decode_response::<R>(frame, self.version).map_err(|detail| ClientError::Malformed {
            address: self.address.clone(),
            api: api_name(R::KEY),
            detail,
        })
    }
}

fn decode_response<R: Request>(mut frame: Bytes, version: i16) -> Result<R::Response, String> {
    // The response header: correlation id, and in flexible versions tagged fields.
    ResponseHeader::decode(&mut frame, <R::Response as HeaderVersion>::header_version(version))
        .map_err(|e| e.to_string())?;
    wire::decode::<R::Response>(&frame, version)
}

impl Connection {
    /// Connects and asks for the versions that the broker offers.
    pub async fn open(
        address: &str,
        client_id: &str,
        connect_timeout: Duration,
        request_timeout: Duration,
    ) -> Result<Connection, ClientError> {
        let failed = |error: io::Error| ClientError::NoBroker { failures: vec![(address.to_owned(), error)] };
        let socket = match tokio::time::timeout(connect_timeout, TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => {
                let waited = format!("no answer within {} s", connect_timeout.as_secs());
                return Err(failed(io::Error::new(io::ErrorKind::TimedOut, waited)));
            }
        };
        socket.set_nodelay(true).map_err(failed)?;
        let (read_half, write_half) = socket.into_split();
        let (queue, requests) = mpsc::channel(QUEUE_LENGTH_MAX);
        let shared = Arc::new(Shared { state: Mutex::default(), closed: AtomicBool::new(false) });
        let writer = tokio::spawn(write_requests(write_half, requests, shared.clone(), request_timeout));
        tokio::spawn(read_responses(read_half, shared.clone(), writer.abort_handle()));
        let mut connection = Connection {
            address: address.to_owned(),
            client_id: client_id.to_owned(),
            queue,
            shared,
            versions: HashMap::new(),
            request_timeout,
        };
        connection.versions = connection.ask_versions().await?;
        Ok(connection)
    }

    /// Version 3 first; a broker that does not know it answers in version 0 with the versions it has.
    async fn ask_versions(&self) -> Result<HashMap<i16, (i16, i16)>, ClientError> {
        let malformed = |detail: String| ClientError::Malformed {
            address: self.address.clone(),
            api: "ApiVersions",
            detail,
        };
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text("ottla"))
            .with_client_software_version(text(env!("CARGO_PKG_VERSION")));
        let pending = self.submit_version(&request, 3, self.request_timeout).await?;
        let (address, timeout) = (pending.address, pending.timeout);
        let frame = match tokio::time::timeout(timeout, pending.answer).await {
            Ok(Ok(Ok(frame))) => frame,
            Ok(Ok(Err(reason))) => return Err(ClientError::Disconnected { address, reason }),
            Ok(Err(_)) => {
                return Err(ClientError::Disconnected {
                    address,
                    reason: "the connection was dropped".into(),
                });
            }
            Err(_) => {
                return Err(ClientError::TimedOut {
                    what: format!("ApiVersions to {address} (is it a Kafka listener without TLS?)"),
                    after: timeout,
                });
            }
        };
        let code = frame.get(4..6).map(|b| i16::from_be_bytes([b[0], b[1]]));
        let response: ApiVersionsResponse = if code == Some(ErrorCode::UNSUPPORTED_VERSION.0) {
            let older = self.submit_version(&ApiVersionsRequest::default(), 0, self.request_timeout).await?;
            older.wait().await?
        } else {
            decode_response::<ApiVersionsRequest>(frame, 3).map_err(malformed)?
        };
        ErrorCode::check(response.error_code)
            .map_err(|code| ClientError::refused(format!("ApiVersions to {}", self.address), code))?;
        Ok(response.api_keys.iter().map(|k| (k.api_key, (k.min_version, k.max_version))).collect())
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    pub fn supports(&self, key: ApiKey) -> bool {
        self.versions.contains_key(&(key as i16))
    }

    /// The newest version that both sides and this client's code know.
    pub fn version_of<R: Request>(&self) -> Result<i16, ClientError> {
        let unsupported =
            || ClientError::Unsupported { address: self.address.clone(), api: api_name(R::KEY) };
        let (least, greatest) = *self.versions.get(&R::KEY).ok_or_else(unsupported)?;
        let ours = <R as kafka_protocol::protocol::Message>::VERSIONS;
        let newest = greatest.min(ours.max).min(version_known(R::KEY));
        if newest < least.max(ours.min) { Err(unsupported()) } else { Ok(newest) }
    }

    /// Sends a request in the newest common version and waits for its answer.
    pub async fn send<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        self.submit(request, self.request_timeout).await?.wait().await
    }

    /// Queues a request; when this returns, its place in the order on the wire is fixed.
    pub async fn submit<R: Request>(
        &self,
        request: &R,
        timeout: Duration,
    ) -> Result<Pending<R>, ClientError> {
        self.submit_version(request, self.version_of::<R>()?, timeout).await
    }

    /// As `submit` with the request's timeout of the connection, in a version that the caller knows the peer to have: brokers
    /// among themselves speak newer ones than this client understands in full.
    pub async fn submit_in_version<R: Request>(
        &self,
        request: &R,
        version: i16,
    ) -> Result<Pending<R>, ClientError> {
        let greatest = self.versions.get(&R::KEY).map(|(_, greatest)| *greatest);
        if greatest.is_none_or(|greatest| greatest < version) {
            return Err(ClientError::Unsupported { address: self.address.clone(), api: api_name(R::KEY) });
        }
        self.submit_version(request, version, self.request_timeout).await
    }

    async fn submit_version<R: Request>(
        &self,
        request: &R,
        version: i16,
        timeout: Duration,
    ) -> Result<Pending<R>, ClientError> {
        let frame = self.encode(request, version)?;
        let (sender, answer) = oneshot::channel();
        self.enqueue(Outgoing { frame, answer: Some(sender) }).await?;
        let address = self.address.clone();
        Ok(Pending { address, version, timeout, answer, marker: std::marker::PhantomData })
    }

    /// Sends a request that the broker does not answer: Produce with acks=0.
    pub async fn send_unanswered<R: Request>(&self, request: &R) -> Result<(), ClientError> {
        let frame = self.encode(request, self.version_of::<R>()?)?;
        self.enqueue(Outgoing { frame, answer: None }).await
    }

    async fn enqueue(&self, outgoing: Outgoing) -> Result<(), ClientError> {
        self.queue.send(outgoing).await.map_err(|_| ClientError::Disconnected {
            address: self.address.clone(),
            reason: self
                .shared
                .state()
                .closed_because
                .clone()
                .unwrap_or_else(|| "the connection was dropped".to_owned()),
        })
    }

    fn encode<R: Request>(&self, request: &R, version: i16) -> Result<BytesMut, ClientError> {
        let invalid = |e: anyhow::Error| ClientError::Invalid(format!("{}: {e}", api_name(R::KEY)));
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_client_id(Some(text(&self.client_id)));
        let header_version = R::header_version(version);
        let size = header.compute_size(header_version).map_err(invalid)?
            + request.compute_size(version).map_err(invalid)?;
        let length = i32::try_from(size)
            .map_err(|_| ClientError::Invalid(format!("{}: a request of {size} bytes", api_name(R::KEY))))?;
        let mut frame = BytesMut::with_capacity(4 + size);
        frame.extend_from_slice(&length.to_be_bytes());
        header.encode(&mut frame, header_version).map_err(invalid)?;
        request.encode(&mut frame, version).map_err(invalid)?;
        Ok(frame)
    }
}

/// The newest version whose meaning this client handles; later ones identify topics by id only.
fn version_known(api_key: i16) -> i16 {
    match ApiKey::try_from(api_key) {
        Ok(ApiKey::Produce | ApiKey::Fetch) => 12,
        Ok(ApiKey::OffsetCommit | ApiKey::OffsetFetch) => 9,
        Ok(ApiKey::InitProducerId) => 5,
        _ => i16::MAX,
    }
}

pub(crate) fn api_name(api_key: i16) -> &'static str {
    match ApiKey::try_from(api_key) {
        Ok(ApiKey::Produce) => "Produce",
        Ok(ApiKey::Fetch) => "Fetch",
        Ok(ApiKey::ListOffsets) => "ListOffsets",
        Ok(ApiKey::Metadata) => "Metadata",
        Ok(ApiKey::OffsetCommit) => "OffsetCommit",
        Ok(ApiKey::OffsetFetch) => "OffsetFetch",
        Ok(ApiKey::FindCoordinator) => "FindCoordinator",
        Ok(ApiKey::JoinGroup) => "JoinGroup",
        Ok(ApiKey::Heartbeat) => "Heartbeat",
        Ok(ApiKey::LeaveGroup) => "LeaveGroup",
        Ok(ApiKey::SyncGroup) => "SyncGroup",
        Ok(ApiKey::DescribeGroups) => "DescribeGroups",
        Ok(ApiKey::ListGroups) => "ListGroups",
        Ok(ApiKey::ApiVersions) => "ApiVersions",
        Ok(ApiKey::CreateTopics) => "CreateTopics",
        Ok(ApiKey::DeleteTopics) => "DeleteTopics",
        Ok(ApiKey::DeleteRecords) => "DeleteRecords",
        Ok(ApiKey::InitProducerId) => "InitProducerId",
        Ok(ApiKey::DescribeConfigs) => "DescribeConfigs",
        Ok(ApiKey::IncrementalAlterConfigs) => "IncrementalAlterConfigs",
        Ok(ApiKey::CreatePartitions) => "CreatePartitions",
        Ok(ApiKey::DeleteGroups) => "DeleteGroups",
        Ok(ApiKey::DescribeCluster) => "DescribeCluster",
        Ok(ApiKey::OffsetDelete) => "OffsetDelete",
        _ => "a request",
    }
}

async fn write_requests(
    mut socket: OwnedWriteHalf,
    mut requests: mpsc::Receiver<Outgoing>,
    shared: Arc<Shared>,
    stall_max: Duration,
) {
    let mut correlation_id = 0i32;
    let mut gathered = BytesMut::new();
    while let Some(first) = requests.recv().await {
        let mut next = Some(first);
        let mut large = None;
        while let Some(mut outgoing) = next.take() {
            // After the length (4 bytes), the API key and version (2 each).
            outgoing.frame[8..12].copy_from_slice(&correlation_id.to_be_bytes());
            if let Some(answer) = outgoing.answer {
                let mut state = shared.state();
                // ORDER: an answer can't arrive before its request is in the list, as the write comes after.
                match &state.closed_because {
                    Some(reason) => {
                        let _ = answer.send(Err(reason.clone()));
                        return;
                    }
                    None => state.pending.push_back((correlation_id, answer)),
                }
            }
            correlation_id = correlation_id.wrapping_add(1);
            if gathered.is_empty() {
                // The common case of one waiting request: written as it is, without a copy.
                gathered = outgoing.frame;
            } else if outgoing.frame.len() <= WRITE_BYTES_MAX / 4 {
                gathered.extend_from_slice(&outgoing.frame);
            } else {
                large = Some(outgoing.frame);
                break;
            }
            if gathered.len() < WRITE_BYTES_MAX {
                next = requests.try_recv().ok();
            }
        }
        let mut written = write_all(&mut socket, &gathered, stall_max).await;
        gathered.clear();
        if let (Ok(()), Some(large)) = (&written, large) {
            written = write_all(&mut socket, &large, stall_max).await;
        }
        if gathered.capacity() > WRITE_BYTES_MAX {
            gathered = BytesMut::new();
        }
        if let Err(error) = written {
            shared.close(&crate::error::plain_io_error(&error));
            return;
        }
    }
    // Every handle is gone: the reader ends when the broker has closed its side.
    let _ = socket.shutdown().await;
}

/// Fails when not a byte is taken for as long as a request may last: nobody else would end the wait of those whose requests
/// are queued behind, and what is not answered (acks=0) has no other limit.
async fn write_all(socket: &mut OwnedWriteHalf, mut bytes: &[u8], stall_max: Duration) -> io::Result<()> {
    while !bytes.is_empty() {
        match tokio::time::timeout(stall_max, socket.write(bytes)).await {
            Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(Ok(count)) => bytes = &bytes[count..],
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let stalled = format!("the broker took no bytes for {} s", stall_max.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, stalled));
            }
        }
    }
    Ok(())
}

async fn read_responses(mut socket: OwnedReadHalf, shared: Arc<Shared>, writer: tokio::task::AbortHandle) {
    let reason = loop {
        match read_response(&mut socket, &shared).await {
            Ok(()) => {}
            Err(reason) => break reason,
        }
    };
    shared.close(&reason);
    // Drops the queue, so that senders learn of the end at once.
    writer.abort();
}

async fn read_response(socket: &mut OwnedReadHalf, shared: &Shared) -> Result<(), String> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => "the broker closed the connection".to_owned(),
        _ => crate::error::plain_io_error(&error),
    };
    let mut prefix = [0u8; 4];
    socket.read_exact(&mut prefix).await.map_err(unreadable)?;
    let length = i32::from_be_bytes(prefix);
    let length = usize::try_from(length)
        .ok()
        .filter(|length| (4..=FRAME_BYTES_MAX).contains(length))
        .ok_or_else(|| format!("not a Kafka answer (a frame of {length} bytes)"))?;
    // Memory follows what arrives, not what the prefix claims.
    let mut frame = BytesMut::with_capacity(length.min(1 << 20));
    while frame.len() < length {
        let left = length - frame.len();
        if frame.capacity() == frame.len() {
            frame.reserve(left.min(frame.len()));
        }
        let mut limited = bytes::BufMut::limit(&mut frame, left);
        let count = socket.read_buf(&mut limited).await.map_err(unreadable)?;
        if count == 0 {
            return Err("the broker closed the connection".to_owned());
        }
    }
    let correlation_id = i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
    let waiter = {
        let mut state = shared.state();
        match state.pending.front() {
            Some((expected, _)) if *expected == correlation_id => state.pending.pop_front(),
            Some((expected, _)) => {
                return Err(format!("an answer out of order (id {correlation_id}, expected {expected})"));
            }
            None => return Err(format!("an answer that nobody asked for (id {correlation_id})")),
        }
    };
    if let Some((_, waiter)) = waiter {
        // The request may have been given up meanwhile.
        let _ = waiter.send(Ok(frame.freeze()));
    }
    Ok(())
}
