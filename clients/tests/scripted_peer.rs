//! The client against a peer that misbehaves on purpose: what no healthy broker can be made to do.
//!
//! The peer answers ApiVersions, Metadata and InitProducerId as a broker with one topic of one partition would; a script
//! decides about everything else, request by request.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, InitProducerIdResponse, MetadataRequest, MetadataResponse, ProduceRequest,
    ProduceResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use ottla_batch::{BatchHeader, RecordIter};
use ottla_clients::cluster::{AutoCreate, Cluster, ClusterConfig};
use ottla_clients::error::ClientError;
use ottla_clients::producer::{Acks, Delivery, Producer, ProducerConfig, ProducerRecord};
use ottla_clients::wire::ErrorCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

enum Reply {
    /// The body of an answer, after its header.
    Body(BytesMut),
    /// Bytes as they are, without frame or header.
    Raw(Vec<u8>),
    Close,
    Nothing,
    /// From now on the peer takes nothing more, and keeps the connection.
    Stall,
    /// As an ordinary broker would.
    Default,
}

type Script = Arc<dyn Fn(ApiKey, i16, Bytes) -> Reply + Send + Sync>;

struct Peer {
    port: u16,
    script: Script,
    next_producer_id: Arc<AtomicI64>,
}

async fn start_peer(script: impl Fn(ApiKey, i16, Bytes) -> Reply + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let peer =
        Arc::new(Peer { port, script: Arc::new(script), next_producer_id: Arc::new(AtomicI64::new(1000)) });
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let peer = peer.clone();
            tokio::spawn(async move { serve(&peer, socket).await });
        }
    });
    format!("127.0.0.1:{port}")
}

/// Ends when the client does, or when the script says so.
async fn serve(peer: &Peer, mut socket: TcpStream) -> Option<()> {
    loop {
        let length = socket.read_i32().await.ok()?;
        let mut frame = vec![0; length as usize];
        socket.read_exact(&mut frame).await.ok()?;
        let mut frame = Bytes::from(frame);
        let key = ApiKey::try_from(i16::from_be_bytes([frame[0], frame[1]])).ok()?;
        let version = i16::from_be_bytes([frame[2], frame[3]]);
        let header = RequestHeader::decode(&mut frame, key.request_header_version(version)).ok()?;
        let mut reply = (peer.script)(key, version, frame.clone());
        if let Reply::Default = reply {
            reply = Reply::Body(peer.default_answer(key, version, frame)?);
        }
        match reply {
            Reply::Close => return None,
            Reply::Nothing | Reply::Default => {}
            Reply::Stall => std::future::pending().await,
            Reply::Raw(bytes) => socket.write_all(&bytes).await.ok()?,
            Reply::Body(body) => {
                let mut out = BytesMut::new();
                ResponseHeader::default()
                    .with_correlation_id(header.correlation_id)
                    .encode(&mut out, key.response_header_version(version))
                    .ok()?;
                out.extend_from_slice(&body);
                socket.write_i32(out.len() as i32).await.ok()?;
                socket.write_all(&out).await.ok()?;
            }
        }
    }
}

fn encoded<M: Encodable>(message: &M, version: i16) -> BytesMut {
    let mut bytes = BytesMut::new();
    message.encode(&mut bytes, version).unwrap();
    bytes
}

fn versions() -> ApiVersionsResponse {
    let offer = |key: ApiKey, max: i16| {
        ApiVersion::default().with_api_key(key as i16).with_min_version(0).with_max_version(max)
    };
    ApiVersionsResponse::default().with_api_keys(vec![
        offer(ApiKey::Produce, 11),
        offer(ApiKey::Metadata, 12),
        offer(ApiKey::ApiVersions, 3),
        offer(ApiKey::InitProducerId, 4),
    ])
}

impl Peer {
    fn default_answer(&self, key: ApiKey, version: i16, mut body: Bytes) -> Option<BytesMut> {
        Some(match key {
            ApiKey::ApiVersions => encoded(&versions(), version),
            ApiKey::Metadata => {
                let request = MetadataRequest::decode(&mut body, version).ok()?;
                let topics = request.topics.unwrap_or_default().into_iter().map(|t| {
                    let known = t.name.as_ref().is_some_and(|n| n.as_str() == "t");
                    let partition = MetadataResponsePartition::default().with_leader_id(1.into());
                    MetadataResponseTopic::default()
                        .with_name(t.name)
                        .with_error_code(if known { 0 } else { ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.0 })
                        .with_partitions(if known { vec![partition] } else { vec![] })
                });
                let broker = MetadataResponseBroker::default()
                    .with_node_id(1.into())
                    .with_host(StrBytes::from_static_str("127.0.0.1"))
                    .with_port(i32::from(self.port));
                let response =
                    MetadataResponse::default().with_brokers(vec![broker]).with_topics(topics.collect());
                encoded(&response, version)
            }
            ApiKey::InitProducerId => {
                let id = self.next_producer_id.fetch_add(1, Ordering::SeqCst);
                encoded(&InitProducerIdResponse::default().with_producer_id(id.into()), version)
            }
            _ => return None,
        })
    }
}

/// An answer to a Produce to `t-0`.
fn produced(version: i16, code: i16, base_offset: i64) -> Reply {
    let part = PartitionProduceResponse::default().with_error_code(code).with_base_offset(base_offset);
    let topic = TopicProduceResponse::default()
        .with_name(StrBytes::from_static_str("t").into())
        .with_partition_responses(vec![part]);
    Reply::Body(encoded(&ProduceResponse::default().with_responses(vec![topic]), version))
}

/// What one Produce request carried: producer id, base sequence, values.
type Attempt = (i64, i32, Vec<String>);

fn attempt(version: i16, mut body: Bytes) -> Attempt {
    let request = ProduceRequest::decode(&mut body, version).unwrap();
    let records = request.topic_data[0].partition_data[0].records.clone().unwrap();
    let header = BatchHeader::parse(&records).unwrap();
    assert_eq!(ottla_batch::crc32c(&records[21..]), header.crc, "a batch that any broker accepts");
    let (id, sequence) = (header.producer_id.0, header.base_sequence.0);
    let payload = records.slice(ottla_batch::HEADER_LEN..);
    let values = RecordIter::new(header, payload, 1 << 20)
        .unwrap()
        .map(|r| String::from_utf8(r.unwrap().value.unwrap().to_vec()).unwrap())
        .collect();
    (id, sequence, values)
}

fn config(address: &str) -> ClusterConfig {
    ClusterConfig {
        bootstrap: vec![address.to_owned()],
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
        operation_timeout: Duration::from_secs(5),
        ..ClusterConfig::default()
    }
}

/// What must end ends within this, however busy the machine is.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it must not hang")
}

async fn connect_error(script: impl Fn(ApiKey, i16, Bytes) -> Reply + Send + Sync + 'static) -> ClientError {
    let address = start_peer(script).await;
    let mut config = config(&address);
    config.request_timeout = Duration::from_millis(300);
    soon(Cluster::connect(config)).await.err().expect("the peer is no broker")
}

#[tokio::test]
async fn a_refused_connection_names_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = soon(Cluster::connect(config(&address))).await.err().unwrap();
    assert_eq!(error.to_string(), format!("could not connect to {address} (connection refused)"));
}

#[tokio::test]
async fn peers_that_are_no_brokers_are_told_apart() {
    let error = connect_error(|_, _, _| Reply::Close).await;
    assert!(matches!(error, ClientError::Disconnected { .. }), "{error}");
    let error = connect_error(|_, _, _| Reply::Nothing).await;
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
    let error = connect_error(|_, _, _| Reply::Raw(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())).await;
    assert!(error.to_string().contains("not a Kafka answer"), "{error}");
    // A length of 2 GiB, a negative one, and one without room for a correlation id.
    for length in [i32::MAX, -1, 3] {
        let error = connect_error(move |_, _, _| Reply::Raw(length.to_be_bytes().to_vec())).await;
        assert!(error.to_string().contains("not a Kafka answer"), "{error}");
    }
    // A frame whose correlation id is of no request.
    let error = connect_error(|_, _, _| Reply::Raw(vec![0, 0, 0, 8, 0, 0, 0, 99, 0, 0, 0, 0])).await;
    assert!(error.to_string().contains("out of order"), "{error}");
    // An array length that the frame can't hold, in the answer to ApiVersions 3.
    let error =
        connect_error(|_, _, _| Reply::Body(BytesMut::from(&[0u8, 0, 0xff, 0xff, 0xff, 0xff, 0x0f][..])))
            .await;
    assert!(matches!(error, ClientError::Malformed { .. }), "{error}");
}

#[tokio::test]
async fn old_brokers_are_asked_again_for_their_versions() {
    let address = start_peer(|key, version, _| match (key, version) {
        (ApiKey::ApiVersions, 3) => {
            Reply::Body(encoded(&versions().with_error_code(ErrorCode::UNSUPPORTED_VERSION.0), 0))
        }
        _ => Reply::Default,
    })
    .await;
    let cluster = soon(Cluster::connect(config(&address))).await.unwrap();
    assert_eq!(cluster.brokers().len(), 1);
}

#[tokio::test]
async fn an_unknown_topic_is_reported_at_once() {
    let address = start_peer(|_, _, _| Reply::Default).await;
    let cluster = soon(Cluster::connect(config(&address))).await.unwrap();
    let error = soon(cluster.topic("nope", AutoCreate::Never)).await.err().unwrap();
    assert_eq!(error.code(), Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION));
    assert_eq!(error.to_string(), "topic nope: no such topic or partition (UNKNOWN_TOPIC_OR_PARTITION)");
}

/// Runs a producer with a batch per record against a script that sees each attempt.
async fn producer_against(
    config_change: impl Fn(&mut ProducerConfig),
    script: impl Fn(usize, &Attempt) -> (Option<(i16, i64)>, bool) + Send + Sync + 'static,
) -> (Producer, Arc<Mutex<Vec<Attempt>>>) {
    let attempts: Arc<Mutex<Vec<Attempt>>> = Arc::default();
    let seen = attempts.clone();
    let address = start_peer(move |key, version, body| {
        if key != ApiKey::Produce {
            return Reply::Default;
        }
        let attempt = attempt(version, body);
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(attempt.clone());
            seen.len() - 1
        };
        match script(number, &attempt) {
            (_, true) => Reply::Close,
            (Some((code, offset)), false) => produced(version, code, offset),
            (None, false) => Reply::Nothing,
        }
    })
    .await;
    let cluster = soon(Cluster::connect(config(&address))).await.unwrap();
    // A batch is full with its first record.
    let mut config = ProducerConfig { batch_bytes_max: 1, ..ProducerConfig::default() };
    config_change(&mut config);
    (Producer::new(cluster, config), attempts)
}

async fn send(producer: &Producer, value: &str) -> Delivery {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    soon(producer.send("t", ProducerRecord { value, ..ProducerRecord::default() })).await.unwrap()
}

#[tokio::test]
async fn a_batch_is_sent_again_with_its_sequence_and_order_holds() {
    // The first attempt is refused for the moment; what was in flight behind it is then out of order, as a broker says.
    let accepted = Mutex::new(0);
    let (producer, attempts) = producer_against(
        |_| {},
        move |number, (_, sequence, _)| {
            let mut accepted = accepted.lock().unwrap();
            if number == 0 {
                return (Some((ErrorCode::NOT_LEADER_OR_FOLLOWER.0, -1)), false);
            }
            if *sequence != *accepted {
                return (Some((ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER.0, -1)), false);
            }
            *accepted += 1;
            (Some((0, i64::from(*sequence))), false)
        },
    )
    .await;
    let mut deliveries = Vec::new();
    for value in ["a", "b", "c", "d"] {
        deliveries.push(send(&producer, value).await);
    }
    for (at, delivery) in deliveries.iter().enumerate() {
        assert_eq!(soon(delivery.wait()).await.unwrap().offset, Some(at as i64));
    }
    let attempts = attempts.lock().unwrap();
    for (_, sequence, values) in attempts.iter() {
        assert_eq!(
            values,
            &[["a", "b", "c", "d"][*sequence as usize]],
            "a sequence names one record for ever"
        );
    }
    assert!(attempts.iter().all(|(id, _, _)| *id == 1000));
}

#[tokio::test]
async fn a_lost_answer_does_not_write_twice() {
    let (producer, attempts) = producer_against(
        |_| {},
        |number, _| match number {
            0 => (None, true),
            _ => (Some((ErrorCode::DUPLICATE_SEQUENCE_NUMBER.0, -1)), false),
        },
    )
    .await;
    let delivery = send(&producer, "a").await;
    assert_eq!(soon(delivery.wait()).await.unwrap().offset, None, "written, where is not known");
    let attempts = attempts.lock().unwrap();
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0], attempts[1], "the same batch, byte for byte in what counts");
}

#[tokio::test]
async fn a_refused_batch_does_not_block_those_after_it() {
    let (producer, attempts) = producer_against(
        |_| {},
        |_, (_, sequence, values)| {
            if values[0] == "large" {
                return (Some((ErrorCode::MESSAGE_TOO_LARGE.0, -1)), false);
            }
            (Some((0, i64::from(*sequence))), false)
        },
    )
    .await;
    let large = send(&producer, "large").await;
    let error = soon(large.wait()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::MESSAGE_TOO_LARGE));
    let after = send(&producer, "after").await;
    soon(after.wait()).await.unwrap();
    let attempts = attempts.lock().unwrap();
    assert_eq!((attempts[0].0, attempts[0].1), (1000, 0));
    assert_eq!(
        (attempts[1].0, attempts[1].1),
        (1001, 0),
        "a hole in the sequence asks for a new producer id"
    );
}

#[tokio::test]
async fn batches_behind_a_hole_are_failed_not_renumbered() {
    // Both are in flight when the first is refused: the second can't be accepted, and may not be sent under a new id.
    let (producer, attempts) = producer_against(
        |_| {},
        |_, (_, sequence, _)| match sequence {
            0 => (Some((ErrorCode::MESSAGE_TOO_LARGE.0, -1)), false),
            _ => (Some((ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER.0, -1)), false),
        },
    )
    .await;
    let first = send(&producer, "first").await;
    let second = send(&producer, "second").await;
    assert!(soon(first.wait()).await.is_err());
    let fate = soon(second.wait()).await;
    soon(producer.flush()).await;
    let attempts = attempts.lock().unwrap();
    let under_old_id = attempts.iter().any(|(id, _, values)| *id == 1000 && values[0] == "second");
    let under_new_id = attempts.iter().any(|(id, _, values)| *id != 1000 && values[0] == "second");
    assert!(fate.is_err() && !(under_old_id && under_new_id), "{attempts:?}");
}

#[tokio::test]
async fn a_producer_id_that_is_late_is_asked_for_again() {
    let asked = AtomicI64::new(0);
    let address = start_peer(move |key, version, body| match key {
        ApiKey::InitProducerId if asked.fetch_add(1, Ordering::SeqCst) == 0 => {
            let code = ErrorCode::COORDINATOR_LOAD_IN_PROGRESS.0;
            Reply::Body(encoded(&InitProducerIdResponse::default().with_error_code(code), version))
        }
        ApiKey::Produce => {
            assert!(body.has_remaining());
            produced(version, 0, 7)
        }
        _ => Reply::Default,
    })
    .await;
    let cluster = soon(Cluster::connect(config(&address))).await.unwrap();
    let producer = Producer::new(cluster, ProducerConfig::default());
    let delivery = send(&producer, "a").await;
    assert_eq!(soon(delivery.wait()).await.unwrap().offset, Some(7));
}

#[tokio::test]
async fn a_record_is_given_up_when_its_time_is_over() {
    let (producer, _) = producer_against(
        |config| {
            config.delivery_timeout = Duration::from_millis(400);
            config.acks = Acks::Leader;
        },
        |_, _| (Some((ErrorCode::NOT_LEADER_OR_FOLLOWER.0, -1)), false),
    )
    .await;
    let delivery = send(&producer, "a").await;
    assert!(soon(delivery.wait()).await.is_err());
    soon(producer.close()).await;
}

#[tokio::test]
async fn a_peer_that_takes_nothing_does_not_hold_up_a_producer_without_acknowledgements() {
    let address =
        start_peer(|key, _, _| if key == ApiKey::Produce { Reply::Stall } else { Reply::Default }).await;
    let config = ClusterConfig { request_timeout: Duration::from_millis(300), ..config(&address) };
    let cluster = soon(Cluster::connect(config)).await.unwrap();
    let config = ProducerConfig {
        acks: Acks::None,
        batch_bytes_max: 1,
        delivery_timeout: Duration::from_secs(2),
        ..ProducerConfig::default()
    };
    let producer = Producer::new(cluster, config);
    // More than the sockets of both sides and the queue before them hold.
    let value = "x".repeat(20_000);
    let mut deliveries = Vec::new();
    for _ in 0..1000 {
        deliveries.push(send(&producer, &value).await);
    }
    soon(producer.close()).await;
    for delivery in deliveries {
        // Without acknowledgements nobody knows what arrived; but each is known to be over.
        let _ = soon(delivery.wait()).await;
    }
}

#[tokio::test]
async fn the_buffer_is_bounded() {
    let (producer, _) = producer_against(
        |config| config.buffer_bytes_max = 4096,
        |_, (_, sequence, _)| (Some((0, i64::from(*sequence))), false),
    )
    .await;
    let value = "x".repeat(1000);
    // Sixteen times what fits: each waits for room, and all get through.
    let mut deliveries = Vec::new();
    for _ in 0..64 {
        deliveries.push(send(&producer, &value).await);
    }
    for delivery in deliveries {
        soon(delivery.wait()).await.unwrap();
    }
}

#[tokio::test]
async fn dropping_a_producer_tells_those_who_wait() {
    let (producer, attempts) =
        producer_against(|config| config.in_flight_max = 1, |_, _| (None, false)).await;
    let in_flight = send(&producer, "a").await;
    let waiting = send(&producer, "b").await;
    soon(async {
        while attempts.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(producer);
    assert!(soon(in_flight.wait()).await.is_err());
    assert!(soon(waiting.wait()).await.is_err());
}
