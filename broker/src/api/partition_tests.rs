//! The partition APIs against a running node in a temporary directory: requests go in encoded, through their rows in the
//! table, and answers come back joined from their parts, as a socket would carry them.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ReplicaState};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{fetch_response, list_offsets_response, *};
use kafka_protocol::protocol::{Decodable, Request, StrBytes};
use ottla_batch::{
    BatchBuilder, BatchOptions, Offset, ProducerEpoch, ProducerId as BatchProducerId, Record, Sequence,
    TimestampMs,
};
use ottla_raft::TopicId;
use ottla_raft::requests::{CreateTopics, NewTopic};

use super::*;
use crate::config::NodeConfig;
use crate::node::{self, Node};

/// A node in a directory of its own.
struct Bench {
    node: Node,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn start(overrides: &[(&str, &str)]) -> Bench {
        Bench::start_on(tempfile::tempdir().unwrap(), overrides).await
    }

    /// Stops in a controlled way; the directory stays.
    async fn stop(self) -> tempfile::TempDir {
        self.node.shutdown().await;
        self.dir
    }

    async fn start_on(dir: tempfile::TempDir, overrides: &[(&str, &str)]) -> Bench {
        let mut all: Vec<(String, String)> = vec![
            ("listeners".into(), "PLAINTEXT://127.0.0.1:0".into()),
            ("log.dirs".into(), dir.path().join("data").display().to_string()),
            ("ottla.metrics.listener".into(), String::new()),
        ];
        all.extend(overrides.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let config = NodeConfig::load(None, &all).unwrap();
        Bench { node: node::start(config).await.unwrap(), dir }
    }

    async fn topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> TopicId {
        let topic = NewTopic {
            name: name.to_owned(),
            partitions,
            replication_factor: 1,
            assignments: Vec::new(),
            configs: configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        };
        let broker = self.node.broker();
        let results =
            broker.metadata.submit(CreateTopics { topics: vec![topic], validate_only: false }).await.unwrap();
        let id = results[0].result.as_ref().unwrap().id;
        for partition in 0..partitions {
            let limit = Duration::from_secs(10);
            broker.replicas.await_local(name, partition, limit).await.expect("the partition did not open");
        }
        id
    }

    fn start_request<Q: Request>(&self, version: i16, request: &Q) -> Result<Started, Close> {
        let mut body = BytesMut::new();
        // Versions that kafka-protocol does not know have the shape of its last one.
        request.encode(&mut body, version.min(Q::VERSIONS.max)).unwrap();
        let cx = RequestContext::in_test(self.node.broker(), version, None);
        table::row(Q::KEY).unwrap().start(cx, body.freeze())
    }

    async fn call<Q: Request>(&self, version: i16, request: &Q) -> Q::Response {
        let reply = match self.start_request(version, request).unwrap() {
            Started::Serial(answer) | Started::Pipelined(answer) => answer.await.unwrap(),
            Started::Silent => panic!("no answer"),
        };
        decode::<Q>(version, reply)
    }

    async fn produce(
        &self,
        version: i16,
        topic: (&str, TopicId),
        records: Bytes,
    ) -> PartitionProduceResponse {
        let response = self.call(version, &produce_request(version, -1, topic, 0, records)).await;
        response.responses[0].partition_responses[0].clone()
    }
}

fn decode<Q: Request>(version: i16, reply: Reply) -> Q::Response {
    let mut joined = BytesMut::new();
    for part in reply.parts {
        match part {
            Part::Bytes(bytes) => joined.extend_from_slice(&bytes),
            Part::Slice(slice) => joined.extend_from_slice(&slice.read().unwrap()),
        }
    }
    let mut joined = joined.freeze();
    let response = Q::Response::decode(&mut joined, version.min(Q::VERSIONS.max)).unwrap();
    assert!(joined.is_empty(), "{} bytes after the response", joined.len());
    response
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn batch_of(values: &[Bytes], options: BatchOptions) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    for (index, value) in values.iter().enumerate() {
        let record = Record {
            offset: Offset(index as i64),
            timestamp: TimestampMs(base_ms() + index as i64),
            key: Some(Bytes::from_static(b"key")),
            value: Some(value.clone()),
            headers: Vec::new(),
        };
        builder.push_record(&record).unwrap();
    }
    builder.build().unwrap()
}

fn batch(value: impl Into<Bytes>) -> Bytes {
    batch_of(&[value.into()], BatchOptions::default())
}

fn produce_request(
    version: i16,
    acks: i16,
    topic: (&str, TopicId),
    partition: i32,
    records: Bytes,
) -> ProduceRequest {
    let mut data = TopicProduceData::default().with_partition_data(vec![
        PartitionProduceData::default().with_index(partition).with_records(Some(records)),
    ]);
    if version >= 13 {
        data.topic_id = topic.1.0;
    } else {
        data.name = name(topic.0);
    }
    ProduceRequest::default().with_acks(acks).with_timeout_ms(10_000).with_topic_data(vec![data])
}

fn fetch_request(version: i16, topic: (&str, TopicId), wanted: &[(i32, i64)]) -> FetchRequest {
    let partitions = wanted.iter().map(|(partition, offset)| {
        FetchPartition::default()
            .with_partition(*partition)
            .with_fetch_offset(*offset)
            .with_partition_max_bytes(1 << 20)
    });
    let mut data = FetchTopic::default().with_partitions(partitions.collect());
    if version >= 13 {
        data.topic_id = topic.1.0;
    } else {
        data.topic = name(topic.0);
    }
    let topics = if wanted.is_empty() { vec![] } else { vec![data] };
    FetchRequest::default().with_max_bytes(1 << 20).with_topics(topics)
}

fn partitions(response: &FetchResponse) -> Vec<&fetch_response::PartitionData> {
    response.responses.iter().flat_map(|topic| &topic.partitions).collect()
}

fn values(records: &Bytes) -> Vec<Bytes> {
    let mut rest = records.clone();
    let mut values = Vec::new();
    while !rest.is_empty() {
        let header = ottla_batch::BatchHeader::parse(&rest).unwrap();
        let one = rest.split_to(header.size_in_bytes());
        for record in ottla_batch::records(&one, 1 << 20).unwrap() {
            values.push(record.unwrap().value.unwrap());
        }
    }
    values
}

const NONE: i16 = 0;

/// Of the first record of each batch: now, so that nothing expires.
fn base_ms() -> i64 {
    static BASE_MS: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *BASE_MS.get_or_init(|| crate::clock::now().0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_of_produce_and_fetch_carries_the_records() {
    let bench = Bench::start(&[]).await;
    let topic = ("small", bench.topic("small", 1, &[]).await);
    let mut expected = Vec::new();
    for version in 3..=13 {
        let value = Bytes::from(format!("written by version {version}"));
        let answer = bench.produce(version, topic, batch(value.clone())).await;
        assert_eq!(
            (answer.error_code, answer.base_offset),
            (NONE, expected.len() as i64),
            "version {version}"
        );
        expected.push(value);
    }
    let large = ("large", bench.topic("large", 1, &[]).await);
    // Enough for three pieces that are not read into the response.
    let big: Vec<Bytes> = (0..3u8).map(|index| Bytes::from(vec![index; 30_000])).collect();
    for value in &big {
        assert_eq!(bench.produce(9, large, batch(value.clone())).await.error_code, NONE);
    }
    for version in 4..=18 {
        for (topic, expected) in [(topic, &expected), (large, &big)] {
            let response = bench.call(version, &fetch_request(version, topic, &[(0, 0)])).await;
            let partitions = partitions(&response);
            assert_eq!((response.error_code, partitions.len()), (NONE, 1), "version {version}");
            assert_eq!(partitions[0].error_code, NONE);
            assert_eq!(partitions[0].high_watermark, expected.len() as i64);
            assert_eq!(partitions[0].last_stable_offset, expected.len() as i64);
            assert_eq!(values(partitions[0].records.as_ref().unwrap()), **expected, "version {version}");
        }
    }
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn produce_refuses_what_kafka_refuses() {
    let bench = Bench::start(&[("message.max.bytes", "2000")]).await;
    let topic = ("topic", bench.topic("topic", 1, &[]).await);
    let code = |answer: PartitionProduceResponse| ResponseError::try_from_code(answer.error_code).unwrap();

    let response = bench.call(9, &produce_request(9, 2, topic, 0, batch("v"))).await;
    assert_eq!(
        code(response.responses[0].partition_responses[0].clone()),
        ResponseError::InvalidRequiredAcks
    );
    let unknown = ("nobody", TopicId(uuid::Uuid::from_u128(99)));
    assert_eq!(code(bench.produce(12, unknown, batch("v")).await), ResponseError::UnknownTopicOrPartition);
    assert_eq!(code(bench.produce(13, unknown, batch("v")).await), ResponseError::UnknownTopicId);
    for version in [12, 13] {
        let response = bench.call(version, &produce_request(version, -1, topic, 7, batch("v"))).await;
        let answer = response.responses[0].partition_responses[0].clone();
        assert_eq!(code(answer), ResponseError::UnknownTopicOrPartition);
    }
    let mut corrupt = BytesMut::from(&batch("value")[..]);
    let last = corrupt.len() - 1;
    corrupt[last] ^= 1;
    assert_eq!(code(bench.produce(9, topic, corrupt.freeze()).await), ResponseError::CorruptMessage);
    let large = batch(vec![0; 5000]);
    assert_eq!(code(bench.produce(9, topic, large).await), ResponseError::MessageTooLarge);
    assert_eq!(code(bench.produce(9, topic, Bytes::new()).await), ResponseError::InvalidRecord);
    let transactional = BatchOptions {
        producer_id: BatchProducerId(5),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence(0),
        is_transactional: true,
        ..BatchOptions::default()
    };
    let answer = bench.produce(9, topic, batch_of(&[Bytes::from_static(b"v")], transactional)).await;
    assert!(answer.error_message.as_ref().is_some_and(|message| message.contains("transactions")));
    assert_eq!(code(answer), ResponseError::InvalidTxnState);

    // Without acks nothing is answered, and an error closes the connection.
    assert!(matches!(
        bench.start_request(9, &produce_request(9, 0, topic, 0, batch("silent"))),
        Ok(Started::Silent)
    ));
    assert!(bench.start_request(9, &produce_request(9, 0, unknown, 0, batch("v"))).is_err());
    let end = bench.produce(9, topic, batch("after")).await.base_offset;
    assert_eq!(end, 1, "only the silent one was appended before");
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_topics_name_the_records_without_keys() {
    let bench = Bench::start(&[]).await;
    let topic = ("compacted", bench.topic("compacted", 1, &[("cleanup.policy", "compact")]).await);
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for (index, key) in [Some(Bytes::from_static(b"key")), None].into_iter().enumerate() {
        let record = Record {
            offset: Offset(index as i64),
            timestamp: TimestampMs(1),
            key,
            value: Some(Bytes::from_static(b"v")),
            headers: Vec::new(),
        };
        builder.push_record(&record).unwrap();
    }
    let answer = bench.produce(8, topic, builder.build().unwrap()).await;
    assert_eq!(answer.error_code, ResponseError::InvalidRecord.code());
    let indices: Vec<i32> = answer.record_errors.iter().map(|error| error.batch_index).collect();
    assert_eq!(indices, [1]);
    // DeleteRecords needs a policy that deletes.
    let request = delete_records_request("compacted", 0);
    let response = bench.call(2, &request).await;
    assert_eq!(response.topics[0].partitions[0].error_code, ResponseError::PolicyViolation.code());
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_ends_with_the_append() {
    for durability in ["fsync", "memory"] {
        let bench = Bench::start(&[("ottla.durability", durability)]).await;
        let topic = ("topic", bench.topic("topic", 2, &[]).await);
        let request = fetch_request(12, topic, &[(0, 0), (1, 0)]).with_min_bytes(1).with_max_wait_ms(60_000);
        let Started::Serial(poll) = bench.start_request(12, &request).unwrap() else { panic!("not serial") };
        let mut poll = tokio::spawn(poll);
        let early = tokio::time::timeout(Duration::from_millis(100), &mut poll).await;
        assert!(early.is_err(), "answered without data");
        let begin = Instant::now();
        let response = bench.call(9, &produce_request(9, -1, topic, 1, batch("news"))).await;
        assert_eq!(response.responses[0].partition_responses[0].error_code, NONE);
        let reply = poll.await.unwrap().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(10), "woken by a timer");
        let response = decode::<FetchRequest>(12, reply);
        let found = partitions(&response);
        assert_eq!(values(found[1].records.as_ref().unwrap()), [Bytes::from_static(b"news")]);
        assert!(found[0].records.as_ref().unwrap().is_empty());
        for partition in 0..2 {
            let replica = bench.node.broker().replicas.get("topic", partition).unwrap();
            assert_eq!(replica.waiters().fetches_waiting(), 0, "a registration was left behind");
        }
        bench.node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_or_timed_out_poll_leaves_no_registration() {
    let bench = Bench::start(&[]).await;
    let topic = ("topic", bench.topic("topic", 1, &[]).await);
    let replica = bench.node.broker().replicas.get("topic", 0).unwrap();
    let request = fetch_request(12, topic, &[(0, 0)]).with_min_bytes(1).with_max_wait_ms(60_000);
    let Started::Serial(poll) = bench.start_request(12, &request).unwrap() else { panic!("not serial") };
    assert!(tokio::time::timeout(Duration::from_millis(50), poll).await.is_err());
    assert_eq!(replica.waiters().fetches_waiting(), 0);

    let response = bench.call(12, &request.with_max_wait_ms(50)).await;
    assert!(partitions(&response)[0].records.as_ref().unwrap().is_empty());
    assert_eq!(replica.waiters().fetches_waiting(), 0);
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn min_bytes_counts_across_partitions() {
    let bench = Bench::start(&[("ottla.durability", "memory")]).await;
    let topic = ("topic", bench.topic("topic", 2, &[]).await);
    let one = batch(vec![1; 600]);
    let request = fetch_request(12, topic, &[(0, 0), (1, 0)])
        .with_min_bytes(one.len() as i32 + 1)
        .with_max_wait_ms(60_000);
    let Started::Serial(poll) = bench.start_request(12, &request).unwrap() else { panic!("not serial") };
    let mut poll = tokio::spawn(poll);
    bench.call(9, &produce_request(9, -1, topic, 0, one.clone())).await;
    let early = tokio::time::timeout(Duration::from_millis(100), &mut poll).await;
    assert!(early.is_err(), "one batch is not enough");
    bench.call(9, &produce_request(9, -1, topic, 1, one.clone())).await;
    let response = decode::<FetchRequest>(12, poll.await.unwrap().unwrap());
    let sizes: Vec<usize> = partitions(&response).iter().map(|p| p.records.as_ref().unwrap().len()).collect();
    assert_eq!(sizes, [one.len(), one.len()]);
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byte_limits_let_the_first_batch_through_and_cut_the_rest() {
    let bench = Bench::start(&[("ottla.durability", "memory")]).await;
    let topic = ("topic", bench.topic("topic", 2, &[]).await);
    let one = batch(vec![1; 600]);
    for partition in [0, 1] {
        bench.call(9, &produce_request(9, -1, topic, partition, one.clone())).await;
    }
    let response = bench.call(12, &fetch_request(12, topic, &[(1, 0), (0, 0)]).with_max_bytes(1)).await;
    let found = partitions(&response);
    assert_eq!(found[0].records.as_ref().unwrap().len(), one.len(), "the first batch comes whole");
    assert!(found[1].records.as_ref().unwrap().is_empty());
    assert_eq!(found[1].high_watermark, 1);
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_answers_with_what_changed() {
    let bench = Bench::start(&[("ottla.durability", "memory")]).await;
    let topic = ("topic", bench.topic("topic", 3, &[]).await);
    for version in [7, 12, 13, 18] {
        let full = fetch_request(version, topic, &[(0, 0), (1, 0), (2, 0)]).with_session_epoch(0);
        let response = bench.call(version, &full).await;
        assert_ne!(response.session_id, 0);
        assert_eq!(partitions(&response).len(), 3);
        let incremental = |epoch| {
            fetch_request(version, topic, &[]).with_session_id(response.session_id).with_session_epoch(epoch)
        };
        let nothing = bench.call(version, &incremental(1)).await;
        assert!(
            nothing.responses.iter().all(|topic| topic.partitions.iter().all(|p| p.partition_index == 1))
        );

        let end = bench.node.broker().replicas.get("topic", 1).unwrap().end_offset().0;
        bench.call(9, &produce_request(9, -1, topic, 1, batch("v"))).await;
        let news = bench.call(version, &incremental(2)).await;
        let found = partitions(&news);
        assert_eq!(found.iter().map(|p| p.partition_index).collect::<Vec<_>>(), [1], "version {version}");
        assert_eq!(found[0].high_watermark, end + 1);

        let again = bench.call(version, &incremental(2)).await;
        assert_eq!(again.error_code, ResponseError::InvalidFetchSessionEpoch.code());
        let gone = fetch_request(version, topic, &[]).with_session_id(1).with_session_epoch(1);
        let answer = bench.call(version, &gone).await.error_code;
        assert_eq!(answer, ResponseError::FetchSessionIdNotFound.code());
    }
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetch_refuses_what_kafka_refuses() {
    let bench = Bench::start(&[]).await;
    let topic = ("topic", bench.topic("topic", 1, &[]).await);
    bench.produce(9, topic, batch("v")).await;
    let wait = |request: FetchRequest| request.with_max_wait_ms(60_000).with_min_bytes(1);
    let code =
        |response: &FetchResponse| ResponseError::try_from_code(partitions(response)[0].error_code).unwrap();

    let response = bench.call(12, &wait(fetch_request(12, topic, &[(0, 5)]))).await;
    assert_eq!(code(&response), ResponseError::OffsetOutOfRange);
    assert_eq!(partitions(&response)[0].high_watermark, -1);
    let response = bench.call(12, &wait(fetch_request(12, topic, &[(9, 0)]))).await;
    assert_eq!(code(&response), ResponseError::UnknownTopicOrPartition);
    let unknown = ("nobody", TopicId(uuid::Uuid::from_u128(99)));
    let response = bench.call(13, &wait(fetch_request(13, unknown, &[(0, 0)]))).await;
    assert_eq!(code(&response), ResponseError::UnknownTopicId);
    let mut fenced = wait(fetch_request(12, topic, &[(0, 1)]));
    fenced.topics[0].partitions[0].current_leader_epoch = 1000;
    assert_eq!(code(&bench.call(12, &fenced).await), ResponseError::UnknownLeaderEpoch);
    // Followers fetch within sessions and by topic ids; broker 77 holds no replica.
    let follower = wait(fetch_request(12, topic, &[(0, 0)])).with_replica_id(BrokerId(77));
    let response = bench.call(12, &follower).await;
    assert_eq!(response.error_code, ResponseError::UnsupportedVersion.code());
    let state = ReplicaState::default().with_replica_id(BrokerId(77)).with_replica_epoch(1);
    let follower = wait(fetch_request(17, topic, &[(0, 0)])).with_replica_state(state).with_session_epoch(0);
    assert_eq!(code(&bench.call(17, &follower).await), ResponseError::NotLeaderOrFollower);
    let epoch = bench.node.broker().replicas.get("topic", 0).unwrap().leader_epoch().unwrap().0;
    let mut diverged = wait(fetch_request(12, topic, &[(0, 1)]));
    diverged.topics[0].partitions[0].last_fetched_epoch = epoch;
    diverged.topics[0].partitions[0].fetch_offset = 50;
    let response = bench.call(12, &diverged).await;
    assert_eq!(partitions(&response)[0].diverging_epoch.end_offset, 1);
    assert_eq!(partitions(&response)[0].diverging_epoch.epoch, epoch);
    bench.node.shutdown().await;
}

fn list_offsets_request(topic: &str, timestamp: i64) -> ListOffsetsRequest {
    ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![
        ListOffsetsTopic::default()
            .with_name(name(topic))
            .with_partitions(vec![ListOffsetsPartition::default().with_timestamp(timestamp)]),
    ])
}

fn delete_records_request(topic: &str, offset: i64) -> DeleteRecordsRequest {
    DeleteRecordsRequest::default().with_topics(vec![
        DeleteRecordsTopic::default()
            .with_name(name(topic))
            .with_partitions(vec![DeleteRecordsPartition::default().with_offset(offset)]),
    ])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_are_listed_looked_up_and_deleted() {
    let bench = Bench::start(&[]).await;
    let topic = ("topic", bench.topic("topic", 1, &[]).await);
    for _ in 0..3 {
        // Timestamps base_ms and base_ms + 1 in each batch.
        let records =
            batch_of(&[Bytes::from_static(b"a"), Bytes::from_static(b"b")], BatchOptions::default());
        bench.produce(9, topic, records).await;
    }
    let listed =
        async |version: i16, timestamp: i64| -> list_offsets_response::ListOffsetsPartitionResponse {
            let response = bench.call(version, &list_offsets_request("topic", timestamp)).await;
            response.topics[0].partitions[0].clone()
        };
    for version in 1..=11 {
        assert_eq!(listed(version, -1).await.offset, 6, "version {version}");
        assert_eq!(listed(version, -2).await.offset, 0);
        let found = listed(version, base_ms() + 1).await;
        assert_eq!((found.offset, found.timestamp), (1, base_ms() + 1));
        assert_eq!(listed(version, base_ms() + 2).await.offset, -1, "later than all");
    }
    let found = listed(7, -3).await;
    assert_eq!((found.offset, found.timestamp), (1, base_ms() + 1));
    assert_eq!(listed(6, -3).await.error_code, ResponseError::UnsupportedVersion.code());
    assert_eq!(listed(8, -4).await.offset, 0);
    assert_eq!((listed(9, -5).await.offset, listed(9, -5).await.error_code), (-1, NONE));

    let epoch = listed(4, -1).await.leader_epoch;
    let request = OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![
        OffsetForLeaderTopic::default().with_topic(name("topic")).with_partitions(vec![
            OffsetForLeaderPartition::default().with_current_leader_epoch(epoch).with_leader_epoch(epoch),
            OffsetForLeaderPartition::default().with_current_leader_epoch(epoch + 1).with_leader_epoch(epoch),
            OffsetForLeaderPartition::default().with_current_leader_epoch(-1).with_leader_epoch(epoch + 5),
        ]),
    ]);
    for version in 2..=4 {
        let response = bench.call(version, &request).await;
        let ends: Vec<(i16, i32, i64)> = response.topics[0]
            .partitions
            .iter()
            .map(|p| (p.error_code, p.leader_epoch, p.end_offset))
            .collect();
        assert_eq!(
            ends,
            [(NONE, epoch, 6), (ResponseError::UnknownLeaderEpoch.code(), -1, -1), (NONE, -1, -1)]
        );
    }

    let deleted = async |offset: i64| {
        let response = bench.call(2, &delete_records_request("topic", offset)).await;
        let partition = &response.topics[0].partitions[0];
        (partition.error_code, partition.low_watermark)
    };
    assert_eq!(deleted(4).await, (NONE, 4));
    assert_eq!(deleted(2).await, (NONE, 4), "the start never goes back");
    assert_eq!(deleted(7).await, (ResponseError::OffsetOutOfRange.code(), -1));
    assert_eq!(deleted(-2).await, (ResponseError::OffsetOutOfRange.code(), -1));
    assert_eq!(listed(1, -2).await.offset, 4);
    assert_eq!(deleted(-1).await, (NONE, 6));
    assert_eq!(listed(1, -2).await.offset, 6);
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotent_producers_get_ids_and_their_retries_are_recognised() {
    let bench = Bench::start(&[]).await;
    let topic = ("topic", bench.topic("topic", 1, &[]).await);
    let mut ids = Vec::new();
    for version in 0..=5 {
        let response =
            bench.call(version, &InitProducerIdRequest::default().with_transactional_id(None)).await;
        assert_eq!((response.error_code, response.producer_epoch), (NONE, 0), "version {version}");
        ids.push(response.producer_id.0);
    }
    let given = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), given, "an id was given twice");
    let transactional = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(StrBytes::from_static_str("tx"))))
        .with_transaction_timeout_ms(1000);
    assert_eq!(bench.call(5, &transactional).await.error_code, ResponseError::UnsupportedVersion.code());
    let half = InitProducerIdRequest::default().with_transactional_id(None).with_producer_id(ProducerId(4));
    assert_eq!(bench.call(5, &half).await.error_code, ResponseError::InvalidRequest.code());

    let numbered = |sequence| {
        let options = BatchOptions {
            producer_id: BatchProducerId(ids[0]),
            producer_epoch: ProducerEpoch(0),
            base_sequence: Sequence(sequence),
            ..BatchOptions::default()
        };
        batch_of(&[Bytes::from_static(b"v")], options)
    };
    assert_eq!(bench.produce(9, topic, numbered(0)).await.base_offset, 0);
    assert_eq!(bench.produce(9, topic, numbered(1)).await.base_offset, 1);
    let retried = bench.produce(9, topic, numbered(0)).await;
    assert_eq!(
        (retried.error_code, retried.base_offset),
        (NONE, 0),
        "a retry is answered like the first try"
    );
    let hole = bench.produce(9, topic, numbered(5)).await;
    assert_eq!(hole.error_code, ResponseError::OutOfOrderSequenceNumber.code());
    let request = DescribeProducersRequest::default()
        .with_topics(vec![TopicRequest::default().with_name(name("topic")).with_partition_indexes(vec![0])]);
    let response = bench.call(0, &request).await;
    let producers = &response.topics[0].partitions[0].active_producers;
    assert_eq!(
        producers.iter().map(|p| (p.producer_id.0, p.last_sequence)).collect::<Vec<_>>(),
        [(ids[0], 1)]
    );
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_dirs_are_described() {
    let bench = Bench::start(&[]).await;
    let topic = ("topic", bench.topic("topic", 2, &[]).await);
    let records = batch("value");
    bench.produce(9, topic, records.clone()).await;
    for version in 1..=4 {
        let response = bench.call(version, &DescribeLogDirsRequest::default().with_topics(None)).await;
        assert_eq!(response.results.len(), 1);
        let result = &response.results[0];
        assert_eq!(result.error_code, NONE);
        let sizes: Vec<(i32, i64)> =
            result.topics[0].partitions.iter().map(|p| (p.partition_index, p.partition_size)).collect();
        assert_eq!(sizes, [(0, records.len() as i64), (1, 0)]);
        assert_eq!(result.total_bytes > 0, version >= 4);
    }
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_topic_leaves_no_trace_for_one_of_the_same_name() {
    use ottla_raft::requests::{DeleteTopics, TopicReference};
    let bench = Bench::start(&[("ottla.durability", "memory")]).await;
    let old = ("topic", bench.topic("topic", 1, &[]).await);
    bench.produce(9, old, batch("old")).await;
    bench.call(2, &delete_records_request("topic", -1)).await;
    let request = fetch_request(13, old, &[(0, 1)]).with_min_bytes(1).with_max_wait_ms(60_000);
    let Started::Serial(poll) = bench.start_request(13, &request).unwrap() else { panic!("not serial") };
    let poll = tokio::spawn(poll);
    let delete = DeleteTopics { topics: vec![TopicReference::Name("topic".into())] };
    bench.node.broker().metadata.submit(delete).await.unwrap();
    let response = decode::<FetchRequest>(13, poll.await.unwrap().unwrap());
    assert_ne!(partitions(&response)[0].error_code, NONE, "a poll of a deleted topic ends with an error");

    let new = ("topic", bench.topic("topic", 1, &[]).await);
    assert_ne!(new.1, old.1);
    assert_eq!(bench.produce(13, new, batch("new")).await.base_offset, 0);
    assert_eq!(bench.produce(13, old, batch("old")).await.error_code, ResponseError::UnknownTopicId.code());
    bench.node.shutdown().await;
}

/// Waits until `condition` holds; upkeep runs in its own time.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const UPKEEP_AT_ONCE: [(&str, &str); 4] = [
    ("log.initial.task.delay.ms", "0"),
    ("log.retention.check.interval.ms", "1"),
    ("log.cleaner.backoff.ms", "50"),
    ("ottla.durability", "memory"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_takes_what_is_old_and_then_its_files() {
    let bench = Bench::start(&UPKEEP_AT_ONCE).await;
    let configs =
        [("retention.ms", "100"), ("internal.segment.bytes", "1000"), ("file.delete.delay.ms", "1")];
    let topic = ("old", bench.topic("old", 1, &configs).await);
    for _ in 0..10 {
        assert_eq!(bench.produce(9, topic, batch(vec![7; 400])).await.error_code, NONE);
    }
    let replica = bench.node.broker().replicas.get("old", 0).unwrap();
    eventually("the log start offset moves to the end", || replica.log_start_offset() == Offset(10)).await;
    assert_eq!(replica.high_watermark(), Offset(10));
    let partition = bench.dir.path().join("data/old-0");
    let logs = || {
        let names = std::fs::read_dir(&partition).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains(".log")).count()
    };
    eventually("the files of deleted segments go", || logs() == 1).await;
    assert_eq!(bench.produce(9, topic, batch("next")).await.base_offset, 10);
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_topic_config_is_in_force_without_a_restart() {
    use ottla_raft::ConfigResource;
    use ottla_raft::requests::{ConfigOperation, IncrementalAlterConfigs};
    let bench = Bench::start(&[]).await;
    let topic = ("topic", bench.topic("topic", 1, &[]).await);
    assert_eq!(bench.produce(9, topic, batch(vec![1; 5000])).await.error_code, NONE);
    let operations = vec![("max.message.bytes".to_owned(), ConfigOperation::Set("1000".to_owned()))];
    let request = IncrementalAlterConfigs {
        resources: vec![(ConfigResource::topic("topic"), operations)],
        validate_only: false,
    };
    bench.node.broker().metadata.submit(request).await.unwrap();
    let offset = bench.node.broker().metadata.image().last_offset;
    assert!(bench.node.broker().replicas.await_applied(offset, Duration::from_secs(10)).await);
    let answer = bench.produce(9, topic, batch(vec![1; 5000])).await;
    assert_eq!(answer.error_code, ResponseError::MessageTooLarge.code());
    bench.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_brings_back_everything_and_sets_strays_aside() {
    let bench = Bench::start(&[]).await;
    let topic = ("topic", bench.topic("topic", 12, &[]).await);
    for partition in 0..12 {
        for _ in 0..=partition {
            bench.call(9, &produce_request(9, -1, topic, partition, batch("kept"))).await;
        }
    }
    bench.call(2, &delete_records_request("topic", 1)).await;
    let dir = bench.stop().await;
    let data = dir.path().join("data");
    assert!(data.join(".kafka_cleanshutdown").exists());

    // A partition of a topic that the metadata does not know, and a directory that does not say whose it is.
    let stray = data.join("stray-0");
    std::fs::create_dir(&stray).unwrap();
    std::fs::write(stray.join("partition.metadata"), "version: 0\ntopic_id: AAAAAAAAAAEAAAAAAAAAAg").unwrap();
    let unknown = data.join("unknown-0");
    std::fs::create_dir(&unknown).unwrap();

    let bench = Bench::start_on(dir, &[]).await;
    for partition in 0..12 {
        let replica = bench.node.broker().replicas.get("topic", partition).unwrap();
        assert_eq!(replica.end_offset(), Offset(i64::from(partition) + 1));
        assert_eq!(replica.high_watermark(), replica.end_offset());
        assert_eq!(replica.log_start_offset(), Offset(i64::from(partition == 0)), "DeleteRecords lasts");
    }
    let data = bench.dir.path().join("data");
    assert!(!data.join("stray-0").exists());
    let aside = std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().file_name());
    let aside = aside.filter(|name| {
        let name = name.to_string_lossy();
        name.starts_with("stray-0.") && name.ends_with("-stray")
    });
    assert_eq!(aside.count(), 1);
    assert!(data.join("unknown-0").exists(), "nothing is touched because its metadata can't be read");
    assert_eq!(bench.produce(9, topic, batch("more")).await.base_offset, 1);
    bench.node.shutdown().await;
}
