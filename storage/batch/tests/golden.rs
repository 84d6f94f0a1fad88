//! Batches that others made. `<codec>.batch`, `plain.batch` and the markers were written by Apache Kafka 4.3.1's
//! `MemoryRecords` (kafka-clients), `python-*.batch` by kafka-python 3.0.12 with python-snappy, lz4 and zstandard. The
//! files in golden/ are the format; what they must hold is spelled out here.

mod support;

use bytes::Bytes;
use ottla_batch::*;

fn golden(name: &str) -> Bytes {
    let path = format!("{}/tests/golden/{name}.batch", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}")).into()
}

fn rows() -> Bytes {
    (0..12_000).map(|row| format!("row {row}\n")).collect::<String>().into()
}

fn header(key: &'static str, value: Option<&'static str>) -> Header {
    Header { key: Bytes::from_static(key.as_bytes()), value: value.map(|v| Bytes::from_static(v.as_bytes())) }
}

fn record(offset: i64, timestamp: i64, key: Option<&'static str>, value: Option<Bytes>) -> Record {
    Record {
        offset: Offset(offset),
        timestamp: TimestampMs(timestamp),
        key: key.map(|key| Bytes::from_static(key.as_bytes())),
        value,
        headers: Vec::new(),
    }
}

fn java_records() -> Vec<Record> {
    let mut first = record(0, 1_700_000_000_000, Some("key"), Some("value".into()));
    first.headers = vec![
        header("trace", Some("a")),
        header("trace", Some("b")),
        header("none", None),
        header("", Some("")),
    ];
    vec![
        first,
        record(1, 1_699_999_999_000, None, Some(Bytes::new())),
        record(2, 1_700_000_000_500, Some("tombstone"), None),
        record(3, 1_700_000_000_900, Some("rows"), Some(rows())),
    ]
}

fn read(batch: &Bytes) -> Vec<Record> {
    records(batch, 1 << 20).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Every check passes, nothing is rewritten, and the slices are those of the input.
fn assert_accepted_as_it_is(batch: &Bytes) -> CheckedBatch {
    let checked = check_produced(batch.clone(), &AppendPolicy::new(TimestampMs(1_700_000_000_000))).unwrap();
    assert_eq!(checked.contiguous(), Some(batch));
    assert_eq!(checked.len(), 1);
    let one = checked.as_slice()[0].clone();
    assert_eq!(one.payload().as_ptr(), batch[HEADER_LEN..].as_ptr(), "the payload is not copied");
    assert_eq!(check_replicated(batch.clone()).unwrap().contiguous(), Some(batch));
    one
}

#[test]
fn a_plain_batch_of_kafka() {
    let batch = golden("plain");
    let expected = BatchHeader {
        base_offset: Offset(0),
        batch_length: 113,
        leader_epoch: LeaderEpoch(-1),
        crc: 0xb607_5094,
        attributes: 0,
        last_offset_delta: 2,
        base_timestamp: TimestampMs(1_700_000_000_000),
        max_timestamp: TimestampMs(1_700_000_000_500),
        producer_id: ProducerId(4711),
        producer_epoch: ProducerEpoch(3),
        base_sequence: Sequence(i32::MAX),
        records_count: 3,
    };
    let parsed = BatchHeader::parse(&batch).unwrap();
    assert_eq!(parsed, expected);
    assert_eq!(parsed.encode()[..], batch[..HEADER_LEN]);
    assert_eq!(parsed.last_sequence(), Sequence(1), "wraps past i32::MAX");
    assert_eq!((parsed.last_offset(), parsed.next_offset()), (Offset(2), Offset(3)));
    let checked = assert_accepted_as_it_is(&batch);
    assert_eq!(checked.offset_delta_of_max_timestamp(), Some(2));
    let expected = &java_records()[..3];
    assert_eq!(read(&batch), expected);

    let mut builder = BatchBuilder::new(BatchOptions {
        producer_id: ProducerId(4711),
        producer_epoch: ProducerEpoch(3),
        base_sequence: Sequence(i32::MAX),
        ..BatchOptions::default()
    });
    for record in expected {
        builder.push_record(record).unwrap();
    }
    assert_eq!(builder.build().unwrap(), batch, "built here as Kafka builds it");
}

#[test]
fn compressed_batches_of_kafka() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let batch = golden(codec.name());
        let checked = assert_accepted_as_it_is(&batch);
        assert_eq!(checked.header().codec().unwrap(), codec);
        assert_eq!(checked.offset_delta_of_max_timestamp(), Some(3));
        assert_eq!(read(&batch), java_records(), "{codec}");
    }
}

#[test]
fn compressed_batches_of_kafka_python() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let batch = golden(&format!("python-{codec}"));
        assert_accepted_as_it_is(&batch);
        let rows = if codec == Codec::Lz4 { rows().slice(..60_000) } else { rows() };
        let mut first = record(0, 1_700_000_000_000, Some("key"), Some("value".into()));
        first.headers = vec![header("trace", Some("a")), header("trace", Some("b"))];
        let second = record(1, 1_700_000_000_900, Some("rows"), Some(rows));
        assert_eq!(read(&batch), [first, second], "{codec}");
    }
}

#[test]
fn markers_of_kafka() {
    for (name, kind) in [("commit", ControlKind::Commit), ("abort", ControlKind::Abort)] {
        let batch = golden(name);
        let marker = EndTxnMarker { kind, coordinator_epoch: 9 };
        let built =
            build_end_txn_marker(ProducerId(4711), ProducerEpoch(3), marker, TimestampMs(1_700_000_000_000));
        assert_eq!(built.unwrap(), batch);
        let header = BatchHeader::parse(&batch).unwrap();
        assert!(header.is_control() && header.is_transactional());
        let record = &read(&batch)[0];
        assert_eq!(EndTxnMarker::parse(record.key.as_deref(), record.value.as_deref()), Ok(marker));
    }
}

#[test]
fn control_records_that_are_none() {
    assert_eq!(ControlKind::parse(None), Err(ControlError::NoKey));
    assert_eq!(ControlKind::parse(Some(&[0, 0, 0])), Err(ControlError::TooShort { part: "key", len: 3 }));
    assert_eq!(
        ControlKind::parse(Some(&[0xff, 0xff, 0, 1])),
        Err(ControlError::Version { part: "key", version: -1 })
    );
    // A newer version may have more fields behind those that are known.
    assert_eq!(ControlKind::parse(Some(&[0, 9, 0, 1, 77])), Ok(ControlKind::Commit));
    let other = ControlKind::parse(Some(&[0, 0, 0, 2]));
    assert_eq!(other, Ok(ControlKind::Other(2)));
    assert_eq!(
        EndTxnMarker::parse(Some(&[0, 0, 0, 2]), None),
        Err(ControlError::NotEndTxn { found: ControlKind::Other(2) })
    );
    assert_eq!(
        EndTxnMarker::parse(Some(&ControlKind::Abort.key()), Some(&[0, 0, 0, 0, 1])),
        Err(ControlError::TooShort { part: "value", len: 5 })
    );
}
