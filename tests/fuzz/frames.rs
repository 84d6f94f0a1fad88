//! What a hostile client can do to the decoders: valid messages of every API and version come through the guard
//! unchanged; random and mutated frames never panic and never take memory out of proportion to their size.
//!
//! `OTTLA_FUZZ_SECONDS` makes the mutation run longer; `OTTLA_FUZZ_SEED` repeats one.

mod counting_allocator;

use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::buf::ByteBuf;
use kafka_protocol::protocol::{Encodable, Request};
use ottla_broker::api::{api_versions, guard, produce_frame, table};
use ottla_broker::net::Purpose;
use ottla_broker::net::frame::{FrameReader, Taken};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use counting_allocator::peak_of;

/// Tests that measure memory must not run beside others.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A source of random but valid messages: a decoder that reads from it finds small arrays, short strings and any numbers.
struct Dream<'a>(&'a mut StdRng);

impl Buf for Dream<'_> {
    fn remaining(&self) -> usize {
        1 << 20
    }

    fn chunk(&self) -> &[u8] {
        &[7; 64]
    }

    fn advance(&mut self, _: usize) {}

    fn try_get_u8(&mut self) -> Result<u8, bytes::TryGetError> {
        Ok(self.0.random_range(0..4))
    }

    fn try_get_i16(&mut self) -> Result<i16, bytes::TryGetError> {
        Ok(self.0.random_range(-1..8))
    }

    fn try_get_i32(&mut self) -> Result<i32, bytes::TryGetError> {
        Ok(self.0.random_range(-1..4))
    }

    fn try_get_i64(&mut self) -> Result<i64, bytes::TryGetError> {
        Ok(self.0.random())
    }
}

impl ByteBuf for Dream<'_> {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        Bytes::from(vec![b'p'; range.len()])
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        Bytes::from(vec![b'a' + self.0.random_range(0..26u8); size])
    }
}

fn dream<Q: Request>(random: &mut StdRng, version: i16) -> Option<Bytes> {
    for _ in 0..300 {
        let Ok(message) = Q::decode(&mut Dream(random), version) else { continue };
        let mut bytes = BytesMut::new();
        if message.encode(&mut bytes, version).is_ok() {
            return Some(bytes.freeze());
        }
    }
    None
}

/// Calls a generic function once for each request type that goes through the guard.
macro_rules! for_each_request {
    ($run:ident $arguments:tt) => {
        for_each_request!(@each $run $arguments
            FetchRequest ListOffsetsRequest MetadataRequest OffsetCommitRequest OffsetFetchRequest
            FindCoordinatorRequest JoinGroupRequest HeartbeatRequest LeaveGroupRequest SyncGroupRequest
            DescribeGroupsRequest ListGroupsRequest ApiVersionsRequest CreateTopicsRequest DeleteTopicsRequest
            DeleteRecordsRequest InitProducerIdRequest OffsetForLeaderEpochRequest DescribeConfigsRequest
            AlterConfigsRequest DescribeLogDirsRequest CreatePartitionsRequest DeleteGroupsRequest ElectLeadersRequest
            IncrementalAlterConfigsRequest ListPartitionReassignmentsRequest OffsetDeleteRequest DescribeQuorumRequest
            UpdateFeaturesRequest DescribeClusterRequest DescribeProducersRequest ListConfigResourcesRequest
            DescribeTopicPartitionsRequest)
    };
    (@each $run:ident $arguments:tt $($request:ident)*) => {
        $($run::<$request> $arguments;)*
    };
}

fn seed() -> u64 {
    std::env::var("OTTLA_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1924)
}

fn versions<Q: Request>() -> std::ops::RangeInclusive<i16> {
    let row = table::row(Q::KEY).expect("the table has the API");
    *row.versions.start()..=(*row.versions.end()).min(Q::VERSIONS.max)
}

fn comes_through<Q: Request + PartialEq + std::fmt::Debug>(random: &mut StdRng, covered: &mut usize) {
    for version in versions::<Q>() {
        let mut found = 0;
        for _ in 0..40 {
            let Some(bytes) = dream::<Q>(random, version) else { continue };
            let plain = Q::decode(&mut bytes.clone(), version).expect("what was encoded decodes");
            let guarded = guard::decode::<Q>(bytes.clone(), version).unwrap_or_else(|error| {
                panic!("API {} version {version}: the guard refuses {bytes:02x?}: {error}", Q::KEY)
            });
            assert_eq!(plain, guarded, "API {} version {version}", Q::KEY);
            found += 1;
        }
        assert!(found > 0, "no valid message of API {} version {version} was found", Q::KEY);
        *covered += found;
    }
}

#[test]
fn valid_messages_of_every_api_and_version_decode_as_without_the_guard() {
    let _alone = alone();
    let mut random = StdRng::seed_from_u64(seed());
    let mut covered = 0;
    for_each_request!(comes_through(&mut random, &mut covered));
    assert!(covered > 2_000, "only {covered} messages");
}

#[test]
fn large_ordinary_numbers_pass_the_guard() {
    let _alone = alone();
    let request = CreateTopicsRequest::default().with_timeout_ms(i32::MAX);
    for version in 2..=7 {
        let mut bytes = BytesMut::new();
        request.encode(&mut bytes, version).unwrap();
        let decoded = guard::decode::<CreateTopicsRequest>(bytes.freeze(), version).unwrap();
        assert_eq!(decoded.timeout_ms, i32::MAX);
    }
}

#[test]
fn produce_decodes_as_kafka_protocol_decodes_it() {
    use kafka_protocol::protocol::Decodable;
    let _alone = alone();
    let mut random = StdRng::seed_from_u64(seed());
    for version in 3..=13 {
        let mut found = 0;
        for _ in 0..200 {
            let Some(bytes) = dream::<ProduceRequest>(&mut random, version) else { continue };
            let mut plain = ProduceRequest::decode(&mut bytes.clone(), version).unwrap();
            let mine = produce_frame::decode(bytes.clone(), version).unwrap();
            // Unknown tagged fields are skipped, not kept.
            plain.unknown_tagged_fields.clear();
            for topic in &mut plain.topic_data {
                topic.unknown_tagged_fields.clear();
                for partition in &mut topic.partition_data {
                    partition.unknown_tagged_fields.clear();
                }
            }
            assert_eq!(plain, mine, "version {version}");
            found += 1;
            for cut in 0..bytes.len() {
                assert!(
                    produce_frame::decode(bytes.slice(..cut), version).is_err(),
                    "cut at {cut} of {bytes:02x?}"
                );
            }
        }
        assert!(found > 20, "version {version}: {found} messages");
    }
}

fn decode_if<Q: Request>(key: i16, version: i16, body: &Bytes) {
    if key == Q::KEY {
        let _ = guard::decode::<Q>(body.clone(), version.min(Q::VERSIONS.max));
    }
}

/// Decodes a body of any API as its row does, without running a handler.
fn decode_any(key: i16, version: i16, body: Bytes) {
    match key {
        0 => drop(produce_frame::decode(body, version)),
        18 => drop(api_versions::decode(body, version)),
        _ => {
            for_each_request!(decode_if(key, version, &body));
        }
    }
}

fn collect_frames<Q: Request>(random: &mut StdRng, frames: &mut Vec<Vec<u8>>) {
    for version in versions::<Q>() {
        for _ in 0..3 {
            if let Some(body) = dream::<Q>(random, version) {
                frames.push(frame(Q::KEY, version, Q::header_version(version) >= 2, &body));
            }
        }
    }
}

fn frame(key: i16, version: i16, flexible: bool, body: &[u8]) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(key.to_be_bytes());
    header.extend(version.to_be_bytes());
    header.extend(7i32.to_be_bytes());
    header.extend([0, 3, b'f', b'u', b'z']);
    if flexible {
        header.push(0);
    }
    let mut frame = ((header.len() + body.len()) as i32).to_be_bytes().to_vec();
    frame.extend(header);
    frame.extend(body);
    frame
}

/// What a frame of `length` bytes may make the decoders hold: an array element is up to some 200 bytes in memory and one
/// or two on the wire, and arrays nest.
fn allowed(length: usize) -> usize {
    64 * 1024 + 400 * length
}

fn feed(frame: &[u8]) {
    let ((), peak) = peak_of(|| {
        let mut reader = FrameReader::new(100 << 20, Purpose::CLIENTS);
        reader.room().extend_from_slice(frame);
        while let Ok(Taken::Request(request)) = reader.take() {
            decode_any(request.row.key, request.version, request.body);
        }
    });
    assert!(peak <= allowed(frame.len()), "{} bytes took {peak} bytes of memory: {frame:02x?}", frame.len());
}

fn overwrite(frame: &mut [u8], at: usize, with: &[u8]) {
    for (target, byte) in frame[at..].iter_mut().zip(with) {
        *target = *byte;
    }
}

fn mutate(random: &mut StdRng, frame: &mut Vec<u8>) {
    for _ in 0..random.random_range(1..6) {
        if frame.len() < 5 {
            return;
        }
        let at = random.random_range(4..frame.len());
        match random.random_range(0..7) {
            0 => frame[at] = random.random(),
            1 => frame[at] ^= 1 << random.random_range(0..8),
            2 => frame[at] = 0xff,
            3 => frame.truncate(at),
            4 => frame.insert(at, random.random()),
            5 => overwrite(frame, at, &[0x7f, 0xff, 0xff, 0xff]),
            _ => overwrite(frame, at, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        }
    }
    if frame.len() >= 4 && random.random_range(0..20) != 0 {
        let length = (frame.len() as i32 - 4).to_be_bytes();
        frame[..4].copy_from_slice(&length);
    }
}

#[test]
fn mutated_frames_neither_panic_nor_take_memory() {
    let _alone = alone();
    let seconds = std::env::var("OTTLA_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut random = StdRng::seed_from_u64(seed());
    let mut frames = Vec::new();
    for_each_request!(collect_frames(&mut random, &mut frames));
    collect_frames::<ProduceRequest>(&mut random, &mut frames);
    for frame in &frames {
        feed(frame);
    }
    let begin = Instant::now();
    let mut rounds = 0u64;
    while rounds < 200_000 || begin.elapsed() < Duration::from_secs(seconds) {
        let mut frame = frames[random.random_range(0..frames.len())].clone();
        mutate(&mut random, &mut frame);
        feed(&frame);
        rounds += 1;
    }
}

#[test]
fn claimed_lengths_cost_nothing() {
    let _alone = alone();
    // Metadata v1 (plain) and v9 (compact) that claim two billion topics.
    feed(&frame(3, 1, false, &[0x7f, 0xff, 0xff, 0xff]));
    feed(&frame(3, 9, true, &[0xff, 0xff, 0xff, 0xff, 0x0f]));
    // A boolean with its high bit set in front of a length must not hide the length.
    feed(&frame(3, 9, true, &[0x01, 0x80, 0x80, 0x80, 0x80, 0x80, 0x0f]));
    feed(&frame(3, 9, true, &[0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]));
    // Produce that claims two billion topics, and a frame that claims 99 MiB.
    feed(&frame(0, 3, false, &[0xff, 0xff, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff]));
    let mut long = frame(0, 3, false, &[0xff, 0xff]);
    long[..4].copy_from_slice(&(99i32 << 20).to_be_bytes());
    let (taken, peak) = peak_of(|| {
        let mut reader = FrameReader::new(100 << 20, Purpose::CLIENTS);
        reader.room().extend_from_slice(&long);
        let taken = matches!(reader.take(), Ok(Taken::Incomplete));
        reader.room();
        taken
    });
    assert!(taken);
    assert!(peak <= 2 << 20, "a claimed frame length reserved {peak} bytes");
}

#[test]
fn frames_out_of_bounds_close_the_connection() {
    let _alone = alone();
    let refused = |bytes: &[u8]| {
        let mut reader = FrameReader::new(1 << 20, Purpose::CLIENTS);
        reader.room().extend_from_slice(bytes);
        reader.take().err().map(|close| close.reason)
    };
    let reason = refused(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    assert!(reason.contains("socket.request.max.bytes"), "{reason}");
    assert!(refused(&[0xff, 0xff, 0xff, 0xff]).unwrap().contains("-1 bytes"));
    assert!(refused(&[0, 0, 0, 3]).unwrap().contains("3 bytes"));
    assert!(refused(&frame(99, 0, false, &[])).unwrap().contains("unknown API key 99"));
    assert!(refused(&frame(-1, 0, false, &[])).unwrap().contains("unknown API key -1"));
    assert!(refused(&frame(3, 99, false, &[])).unwrap().contains("version 99 is not offered"));
    assert!(refused(&frame(18, 0, false, &[])).is_none());
    let mut reader = FrameReader::new(1 << 20, Purpose::CLIENTS);
    reader.room().extend_from_slice(&frame(18, 77, true, &[]));
    assert!(matches!(reader.take(), Ok(Taken::UnsupportedApiVersions { correlation_id: 7 })));
}
