//! Callers and a serving side over sockets of this machine.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use ottla_raft::PeerRefused;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::*;
use crate::api::ListenerRole;
use crate::net::frame::FrameReader;
use crate::net::server::Phase;
use crate::net::{Purpose, socket};

const PEERS: Purpose = Purpose { role: ListenerRole::Controller, serves_peers: true };
const LIMIT: Duration = Duration::from_secs(10);

/// Answers with what it was sent; `refuse` is refused, what begins with `hold` waits for a permit of `held`.
struct Echo {
    address: SocketAddr,
    held: Arc<Semaphore>,
    /// How many came to wait.
    holds: watch::Sender<usize>,
    connections: Arc<AtomicUsize>,
    phase: watch::Sender<Phase>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Echo {
    async fn start(port: u16) -> Echo {
        let listener = socket::Listener::bind(SocketAddr::from(([127, 0, 0, 1], port)), 50).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (held, connections) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let (phase, holds) = (watch::Sender::new(Phase::Serving), watch::Sender::new(0));
        let came = holds.clone();
        let (permits, count, phases) = (held.clone(), connections.clone(), phase.clone());
        let accepting = tokio::spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let (permits, came, phase) = (permits.clone(), came.clone(), phases.subscribe());
                serving.spawn(async move {
                    let handle = |message: Bytes| {
                        let (permits, came) = (permits.clone(), came.clone());
                        async move {
                            match &message[..] {
                                b"refuse" => return Err(PeerRefused("another cluster".into())),
                                message if message.starts_with(b"hold") => {
                                    came.send_modify(|count| *count += 1);
                                    permits.acquire().await.unwrap().forget();
                                }
                                _ => {}
                            }
                            Ok(message)
                        }
                    };
                    let frames = FrameReader::new(1 << 20, PEERS);
                    serve(stream, frames, handle, None, phase).await
                });
            }
        });
        Echo { address, held, holds, connections, phase, accepting }
    }

    /// As a process that dies: its connections and its port are gone.
    async fn kill(self) -> u16 {
        self.phase.send_replace(Phase::Stopped);
        self.accepting.abort();
        let _ = self.accepting.await;
        self.address.port()
    }
}

async fn call(peers: &Peers, echo: &Echo, message: &[u8]) -> Result<Bytes, TransportError> {
    let message = Bytes::copy_from_slice(message);
    peers.call(&echo.address.to_string(), Lane::Submit, message, LIMIT).await
}

#[tokio::test]
async fn one_connection_carries_calls_of_all_sizes_and_refusals() {
    let echo = Echo::start(0).await;
    let peers = Peers::new();
    for bytes in [0, 1, 4_000, 4_097, 3 << 20] {
        let message = vec![7; bytes];
        assert_eq!(call(&peers, &echo, &message).await.unwrap(), message);
    }
    let refused = call(&peers, &echo, b"refuse").await;
    assert_eq!(refused, Err(TransportError::Rejected("another cluster".into())));
    assert_eq!(call(&peers, &echo, b"a").await.unwrap(), "a");
    assert_eq!(echo.connections.load(Ordering::SeqCst), 1);
    let raft = peers.call(&echo.address.to_string(), Lane::Raft, Bytes::from_static(b"r"), LIMIT).await;
    assert_eq!(raft.unwrap(), "r");
    assert_eq!(echo.connections.load(Ordering::SeqCst), 2, "a lane has its own");
}

#[tokio::test]
async fn an_answer_that_takes_long_does_not_hold_up_others() {
    let echo = Echo::start(0).await;
    let peers = Arc::new(Peers::new());
    let mut held = Vec::new();
    for _ in 0..100 {
        let (peers, address) = (peers.clone(), echo.address.to_string());
        held.push(tokio::spawn(async move {
            peers.call(&address, Lane::Submit, Bytes::from_static(b"hold"), LIMIT).await
        }));
    }
    for _ in 0..10 {
        assert_eq!(call(&peers, &echo, b"quick").await.unwrap(), "quick");
    }
    assert!(held.iter().all(|held| !held.is_finished()));
    echo.held.add_permits(100);
    for held in held {
        assert_eq!(held.await.unwrap().unwrap(), "hold");
    }
    assert_eq!(echo.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_peer_that_sends_much_is_no_longer_read() {
    let echo = Echo::start(0).await;
    let peers = Arc::new(Peers::new());
    let large = Bytes::from([&b"hold"[..], &vec![7; PEER_MESSAGE_BYTES_MAX / 2]].concat());
    let held: Vec<_> = (0..2)
        .map(|_| {
            let (peers, address, message) = (peers.clone(), echo.address.to_string(), large.clone());
            tokio::spawn(async move { peers.call(&address, Lane::Submit, message, LIMIT).await })
        })
        .collect();
    echo.holds.subscribe().wait_for(|count| *count == 2).await.unwrap();
    let limit = Duration::from_millis(100);
    let behind = peers.call(&echo.address.to_string(), Lane::Submit, Bytes::from_static(b"a"), limit).await;
    assert_eq!(behind, Err(TransportError::TimedOut(limit)));
    echo.held.add_permits(2);
    for held in held {
        assert_eq!(held.await.unwrap().unwrap().len(), large.len());
    }
    assert_eq!(call(&peers, &echo, b"a").await.unwrap(), "a", "and then it is read on");
}

#[tokio::test]
async fn a_call_ends_when_its_time_is_over_and_the_connection_stays() {
    let echo = Echo::start(0).await;
    let peers = Peers::new();
    let address = echo.address.to_string();
    let limit = Duration::from_millis(50);
    let late = peers.call(&address, Lane::Submit, Bytes::from_static(b"hold"), limit).await;
    assert_eq!(late, Err(TransportError::TimedOut(limit)));
    assert_eq!(call(&peers, &echo, b"a").await.unwrap(), "a");
    assert_eq!(echo.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_peer_that_died_refuses_and_is_found_again_when_it_is_back() {
    let echo = Echo::start(0).await;
    let peers = Peers::new();
    assert_eq!(call(&peers, &echo, b"a").await.unwrap(), "a");
    let address = echo.address.to_string();
    let (waiting, killed) =
        tokio::join!(peers.call(&address, Lane::Submit, Bytes::from_static(b"hold"), LIMIT), async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            echo.kill().await
        });
    assert!(matches!(waiting, Err(TransportError::Closed(_))), "{waiting:?}");
    let refused = peers.call(&address, Lane::Submit, Bytes::new(), LIMIT).await;
    assert_eq!(refused, Err(TransportError::Refused));
    let back = Echo::start(killed).await;
    tokio::time::sleep(RECONNECT_PAUSE).await;
    assert_eq!(call(&peers, &back, b"b").await.unwrap(), "b");
}

#[tokio::test]
async fn an_address_that_is_none_is_unreachable() {
    let peers = Peers::new();
    let error = peers.call("no-such-host.invalid:9", Lane::Raft, Bytes::new(), LIMIT).await;
    assert!(matches!(error, Err(TransportError::Unreachable(_))), "{error:?}");
}

/// A peer that writes `answer` to whatever it is sent; `None`: it says nothing.
async fn scripted(answer: Option<&'static [u8]>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = answer {
                let mut request = [0; 14];
                socket.read_exact(&mut request).await.unwrap();
                socket.write_all(answer).await.unwrap();
            }
            open.push(socket);
        }
    });
    (address, connections)
}

#[tokio::test]
async fn nonsense_ends_the_connection_and_only_it() {
    // A length of 4 GB; one of 3 bytes; an outcome that is none.
    for answer in [&[0xff; 9][..], &[0, 0, 0, 3, 0, 0, 0, 0], &[0, 0, 0, 5, 0, 0, 0, 0, 9]] {
        let (address, _) = scripted(Some(answer)).await;
        let peers = Peers::new();
        let error = peers.call(&address.to_string(), Lane::Raft, Bytes::new(), LIMIT).await;
        assert!(matches!(error, Err(TransportError::Closed(_))), "{error:?}");
    }
    // An answer to a question that nobody asked is dropped.
    let (address, _) = scripted(Some(&[0, 0, 0, 5, 0, 0, 0, 9, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0])).await;
    assert_eq!(
        Peers::new().call(&address.to_string(), Lane::Raft, Bytes::new(), LIMIT).await,
        Ok(Bytes::new())
    );
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_replaced() {
    let (address, connections) = scripted(None).await;
    let peers = Peers::new();
    let began = Instant::now();
    // Callers of short limits do not end it before it was silent for a while.
    while connections.load(Ordering::SeqCst) < 2 {
        let limit = Duration::from_millis(100);
        let error = peers.call(&address.to_string(), Lane::Raft, Bytes::new(), limit).await;
        assert!(matches!(error, Err(TransportError::TimedOut(_) | TransportError::Closed(_))), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(30), "it is never replaced");
    }
    assert!(began.elapsed() >= SILENCE_MIN);
}

#[tokio::test]
async fn callers_that_lose_patience_do_not_keep_a_dead_connection() {
    let (address, connections) = scripted(None).await;
    let peers = Peers::new();
    let address = address.to_string();
    let began = Instant::now();
    while connections.load(Ordering::SeqCst) < 2 {
        let call = peers.call(&address, Lane::Submit, Bytes::new(), Duration::from_secs(60));
        assert!(tokio::time::timeout(SILENCE_MIN, call).await.is_err(), "nobody answers");
        assert!(began.elapsed() < Duration::from_secs(30), "it is never replaced");
    }
}

#[tokio::test]
async fn a_message_that_is_too_large_is_not_sent() {
    let echo = Echo::start(0).await;
    let peers = Peers::new();
    let message = Bytes::from(vec![0; PEER_MESSAGE_BYTES_MAX + 1]);
    let error = peers.call(&echo.address.to_string(), Lane::Raft, message, LIMIT).await;
    assert!(error.is_err_and(|error| error.nothing_done()));
    assert_eq!(echo.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_a_peer_must_not_send_closes_its_connection() {
    let echo = Echo::start(0).await;
    let hello = |length: i32, key: i16, version: i16, client_id: i16| {
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend(key.to_be_bytes());
        frame.extend(version.to_be_bytes());
        frame.extend([0, 0, 0, 1]);
        frame.extend(client_id.to_be_bytes());
        frame
    };
    for frame in [
        hello(10, API_KEY, 7, -1),
        hello(10, API_KEY, VERSION, 3),
        hello(i32::MAX, API_KEY, VERSION, -1),
        hello(-1, API_KEY, VERSION, -1),
        hello(10, 3, 0, -1),
        hello(10, 999, 0, -1),
    ] {
        let mut socket = tokio::net::TcpStream::connect(echo.address).await.unwrap();
        socket.write_all(&frame).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(LIMIT, socket.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.is_empty(), "{frame:?}: {read:?} {answer:?}");
    }
}
