//! What a leader accepts, what it rewrites, and each way to be refused.

mod support;

use bytes::Bytes;
use ottla_batch::*;
use support::*;

fn policy() -> AppendPolicy {
    AppendPolicy::new(NOW)
}

fn refused(records: impl Into<Bytes>, policy: &AppendPolicy) -> BatchError {
    check_produced(records.into(), policy).expect_err("must be refused")
}

fn accepted(records: impl Into<Bytes>, policy: &AppendPolicy) -> CheckedBatch {
    let checked = check_produced(records.into(), policy).unwrap();
    assert_eq!(checked.len(), 1);
    checked.as_slice()[0].clone()
}

/// The batch as it would be stored; its CRC must hold.
fn stored(checked: &CheckedBatch) -> Bytes {
    let mut bytes = checked.header_bytes(Offset(0), LeaderEpoch(-1)).to_vec();
    bytes.extend_from_slice(checked.payload());
    let bytes = Bytes::from(bytes);
    checked.header().check_crc(&bytes).unwrap();
    assert_eq!(checked.header().size_in_bytes(), bytes.len());
    assert_eq!(checked.size_in_bytes(), bytes.len());
    bytes
}

fn read(batch: &Bytes) -> Vec<Record> {
    records(batch, 1 << 24).unwrap().collect::<Result<_, _>>().unwrap()
}

macro_rules! assert_refused {
    ($records:expr, $policy:expr, $pattern:pat $(if $guard:expr)?) => {
        let error = refused($records, &$policy);
        assert!(matches!(error, $pattern $(if $guard)?), "{error:?}");
    };
}

// ---- framing and CRC -------------------------------------------------------------------------

#[test]
fn nothing_at_all() {
    assert_refused!(Bytes::new(), policy(), BatchError::NoBatch);
}

#[test]
fn cut_off_at_every_byte() {
    for codec in Codec::ALL {
        let batch = sample(codec);
        for length in 1..batch.len() {
            let error = refused(batch.slice(..length), &policy());
            assert!(matches!(error, BatchError::Truncated { .. }), "{codec}, {length} bytes: {error:?}");
        }
    }
}

#[test]
fn lengths_that_hold_no_header() {
    for length in [i32::MIN, -1, 0, 13, 14, 48] {
        let mut batch = sample(Codec::None).to_vec();
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        assert_refused!(batch, policy(), BatchError::BatchTooSmall { batch_length } if batch_length == length);
    }
    let mut batch = sample(Codec::None).to_vec();
    batch[8..12].copy_from_slice(&i32::MAX.to_be_bytes());
    assert_refused!(batch, policy(), BatchError::Truncated { .. });
}

#[test]
fn every_flipped_bit_under_the_crc() {
    let batch = sample(Codec::None);
    for byte in 17..batch.len() {
        for bit in 0..8 {
            let mut flipped = batch.to_vec();
            flipped[byte] ^= 1 << bit;
            assert_refused!(flipped, policy(), BatchError::CrcMismatch { .. });
        }
    }
}

#[test]
fn other_formats() {
    for (magic, is_old) in [(0, true), (1, true), (3, false), (-1, false)] {
        let mut batch = sample(Codec::None).to_vec();
        batch[16] = magic as u8;
        match refused(batch.clone(), &policy()) {
            BatchError::OldMagic { magic: found } => assert!(is_old && found == magic),
            BatchError::UnknownMagic { magic: found } => assert!(!is_old && found == magic),
            error => panic!("{error:?}"),
        }
        assert!(check_replicated(batch.into()).is_err());
    }
}

#[test]
fn codecs_that_do_not_exist() {
    for unknown in 5..8 {
        let batch = with_header(&sample(Codec::None), |header| header.attributes |= unknown);
        assert_refused!(batch.clone(), policy(), BatchError::UnknownCodec { id } if id == unknown as u8);
        assert!(matches!(records(&batch, 1 << 20), Err(BatchError::UnknownCodec { .. })));
    }
}

// ---- the batch as a whole --------------------------------------------------------------------

#[test]
fn more_batches_than_allowed() {
    let two = [sample(Codec::None), sample(Codec::Lz4)].concat();
    assert_refused!(two.clone(), policy(), BatchError::TooManyBatches { batches_max: 1 });
    let checked = check_produced(two.clone().into(), &AppendPolicy { batches_max: 2, ..policy() }).unwrap();
    assert_eq!(checked.len(), 2);
    assert_eq!(checked.size_in_bytes(), two.len());
    assert_eq!(checked.contiguous().unwrap()[..], two[..]);
    // A torn second batch is refused with the first, so that no producer takes it for stored.
    let torn = two[..two.len() - 1].to_vec();
    assert_refused!(torn, AppendPolicy { batches_max: 2, ..policy() }, BatchError::Truncated { .. });
}

#[test]
fn larger_than_allowed() {
    let batch = sample(Codec::None);
    let exactly = AppendPolicy { batch_bytes_max: batch.len(), ..policy() };
    accepted(batch.clone(), &exactly);
    let less = AppendPolicy { batch_bytes_max: batch.len() - 1, ..policy() };
    assert_refused!(batch, less, BatchError::BatchTooLarge { .. });
}

#[test]
fn larger_than_allowed_after_recompression() {
    // Snappy makes the run of 300 bytes small; stored as it is, the batch is too large.
    let batch = sample(Codec::Snappy);
    for codec in [Codec::None, Codec::Gzip, Codec::Lz4, Codec::Zstd] {
        let policy = AppendPolicy {
            batch_bytes_max: batch.len(),
            compression: CompressionPolicy::Fixed(codec, codec.default_level()),
            ..policy()
        };
        match check_produced(batch.clone(), &policy) {
            Err(BatchError::BatchTooLarge { .. }) => {}
            Ok(checked) if codec != Codec::None => assert!(checked.size_in_bytes() <= batch.len()),
            other => panic!("{codec}: {other:?}"),
        }
    }
}

#[test]
fn base_offsets_other_than_zero() {
    for base_offset in [1, -1, i64::MAX] {
        let batch = with_header(&sample(Codec::None), |header| header.base_offset = Offset(base_offset));
        assert_refused!(batch, policy(), BatchError::BaseOffsetNotZero { .. });
    }
}

#[test]
fn counts_that_do_not_fit() {
    let both = |records_count: i32, last_offset_delta: i32| {
        with_header(&sample(Codec::None), |header| {
            header.records_count = records_count;
            header.last_offset_delta = last_offset_delta;
        })
    };
    for (count, delta) in [(3, 3), (3, 1), (0, -1), (-1, -2), (0, 2), (i32::MIN, i32::MAX), (3, i32::MAX)] {
        assert_refused!(both(count, delta), policy(), BatchError::CountMismatch { .. });
    }
    // Consistent with each other, but not with the records.
    assert_refused!(both(2, 1), policy(), BatchError::TrailingBytes { records_count: 2 });
    for (count, delta) in [(4, 3), (i32::MAX, i32::MAX - 1)] {
        assert_refused!(
            both(count, delta),
            policy(),
            BatchError::MalformedRecord { index: 3, flaw: RecordFlaw::Ends }
        );
    }
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let fewer = with_header(&sample(codec), |header| {
            header.records_count = 2;
            header.last_offset_delta = 1;
        });
        assert_refused!(fewer, policy(), BatchError::TrailingBytes { .. });
        let more = with_header(&sample(codec), |header| {
            header.records_count = i32::MAX;
            header.last_offset_delta = i32::MAX - 1;
        });
        assert_refused!(more, policy(), BatchError::MalformedRecord { index: 3, flaw: RecordFlaw::Ends });
    }
}

#[test]
fn control_batches_only_from_coordinators() {
    let marker = EndTxnMarker { kind: ControlKind::Commit, coordinator_epoch: 1 };
    let batch = build_end_txn_marker(ProducerId(1), ProducerEpoch(0), marker, NOW).unwrap();
    assert_refused!(batch.clone(), policy(), BatchError::ControlBatch);
    let coordinator = AppendPolicy {
        origin: AppendOrigin::Coordinator,
        compression: CompressionPolicy::Fixed(Codec::Gzip, 6),
        ..policy()
    };
    assert_eq!(stored(&accepted(batch.clone(), &coordinator)), batch, "markers are not compressed");
}

#[test]
fn sequences() {
    let batch = |producer_id, sequence| {
        with_header(&sample(Codec::None), |header| {
            header.producer_id = ProducerId(producer_id);
            header.base_sequence = Sequence(sequence);
        })
    };
    assert_refused!(batch(0, -1), policy(), BatchError::InvalidSequence { .. });
    assert_refused!(batch(9, i32::MIN), policy(), BatchError::InvalidSequence { .. });
    accepted(batch(-1, -1), &policy());
    accepted(batch(9, i32::MAX), &policy());
}

// ---- records ---------------------------------------------------------------------------------

/// One record, with the parts of its encoding as given.
fn raw_record(length: &[u8], body: &[u8]) -> Vec<u8> {
    [length, body].concat()
}

#[test]
fn malformed_records() {
    let zig_zag = |value: i32| ((value << 1) ^ (value >> 31)) as u8;
    let huge = [0xfe, 0xff, 0xff, 0xff, 0x0f]; // i32::MAX
    let whole = [0u8, 0, 0, 1, 1, 0]; // attributes, times, offset, null key, null value, no headers
    let cases: Vec<(&str, RecordFlaw, Vec<u8>)> = vec![
        ("negative length", RecordFlaw::NegativeLength, raw_record(&[1], &whole)),
        ("too short", RecordFlaw::Ends, raw_record(&[zig_zag(7)], &whole)),
        (
            "length larger than its fields",
            RecordFlaw::Length,
            raw_record(&[zig_zag(7)], &[&whole[..], &[0]].concat()),
        ),
        ("huge length", RecordFlaw::Ends, raw_record(&huge, &whole)),
        ("endless length", RecordFlaw::Varint, raw_record(&[0xff; 6], &whole)),
        ("endless time", RecordFlaw::Varint, raw_record(&[zig_zag(12)], &[&[0][..], &[0xff; 11]].concat())),
        ("negative header count", RecordFlaw::NegativeLength, raw_record(&[zig_zag(6)], &[0, 0, 0, 1, 1, 1])),
        ("null header key", RecordFlaw::NegativeLength, raw_record(&[zig_zag(8)], &[0, 0, 0, 1, 1, 2, 1, 0])),
        (
            "huge key",
            RecordFlaw::Ends,
            raw_record(&[zig_zag(10)], &[&[0, 0, 0][..], &huge, &[1, 0]].concat()),
        ),
    ];
    for (name, expected, payload) in cases {
        let one = with_header(&sample(Codec::None), |header| {
            header.records_count = 1;
            header.last_offset_delta = 0;
        });
        let batch = with_payload(&one, &payload);
        match refused(batch.clone(), &policy()) {
            BatchError::MalformedRecord { index: 0, flaw } => assert_eq!(flaw, expected, "{name}"),
            error => panic!("{name}: {error:?}"),
        }
        let read: Vec<_> = records(&batch, 1 << 20).unwrap().collect();
        assert!(matches!(read[..], [Err(BatchError::MalformedRecord { index: 0, .. })]), "{name}: {read:?}");
        // A stream can't see a record's end before it gets there: the verdict is the same, the flaw may be named otherwise.
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let one = with_header(&one, |header| header.attributes |= i16::from(codec.id()));
            let batch = with_payload(&one, &compress(codec, None, &payload).unwrap());
            assert_refused!(batch, policy(), BatchError::MalformedRecord { index: 0, .. });
        }
    }
}

#[test]
fn holes_in_the_offsets() {
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(options(codec));
        for offset in [0, 2] {
            let record = Record {
                offset: Offset(offset),
                timestamp: NOW,
                key: None,
                value: None,
                headers: Vec::new(),
            };
            builder.push_record(&record).unwrap();
        }
        let batch = builder.build().unwrap();
        assert_refused!(batch.clone(), policy(), BatchError::CountMismatch { .. });
        let hidden = with_header(&batch, |header| header.last_offset_delta = 1);
        let error = refused(hidden, &policy());
        assert!(matches!(error, BatchError::InvalidRecords { .. }), "{error:?}");
        let fault = RecordFault::OffsetDelta { found: 2, expected: 1 };
        assert_eq!(error.record_errors(), [RecordError { batch_index: 1, fault }]);
    }
}

#[test]
fn keys_are_required_where_the_topic_is_compacted() {
    let compacted = AppendPolicy { keys_required: true, ..policy() };
    for codec in Codec::ALL {
        accepted(sample(codec), &compacted); // an empty key is one
        let mut builder = builder(options(codec));
        builder.push(NOW, None, Some(b"v"), &[]).unwrap();
        builder.push(NOW, None, None, &[]).unwrap();
        let batch = builder.build().unwrap();
        accepted(batch.clone(), &policy());
        let error = refused(batch, &compacted);
        assert!(matches!(error, BatchError::InvalidRecords { .. }), "{error:?}");
        let indexes: Vec<i32> = error.record_errors().iter().map(|error| error.batch_index).collect();
        assert_eq!(indexes, [3, 4]);
        assert!(error.record_errors()[0].to_string().contains("key"));
    }
}

#[test]
fn timestamps_out_of_bounds() {
    let bounded = AppendPolicy { timestamp_before_ms_max: 1000, timestamp_after_ms_max: 500, ..policy() };
    for codec in Codec::ALL {
        for (distance, is_fine) in [(-1000, true), (500, true), (-1001, false), (501, false)] {
            let mut builder = BatchBuilder::new(options(codec));
            builder.push(TimestampMs(NOW.0 + distance), None, None, &[]).unwrap();
            let batch = builder.build().unwrap();
            if is_fine {
                accepted(batch, &bounded);
            } else {
                let error = refused(batch.clone(), &bounded);
                assert!(matches!(error, BatchError::InvalidTimestamps { .. }), "{error:?}");
                assert_eq!(error.record_errors().len(), 1);
                // Bounds are for times of producers only.
                accepted(batch, &AppendPolicy { timestamp_type: TimestampType::LogAppendTime, ..bounded });
            }
        }
        // No timestamp is no wrong one.
        let mut builder = BatchBuilder::new(options(codec));
        builder.push(NO_TIMESTAMP, None, None, &[]).unwrap();
        assert_eq!(accepted(builder.build().unwrap(), &bounded).header().max_timestamp, NO_TIMESTAMP);
    }
}

#[test]
fn extreme_timestamps_do_not_overflow() {
    for timestamp in [i64::MIN, i64::MIN + 1, -2, 0, i64::MAX - 1, i64::MAX] {
        for (before, after) in [(0, 0), (i64::MAX, i64::MAX), (i64::MAX, 3_600_000)] {
            let mut builder = BatchBuilder::new(options(Codec::None));
            builder.push(NOW, None, None, &[]).unwrap();
            builder.push(TimestampMs(timestamp), None, None, &[]).unwrap();
            let policy =
                AppendPolicy { timestamp_before_ms_max: before, timestamp_after_ms_max: after, ..policy() };
            // Only that an answer comes out, and the right kind of it.
            match check_produced(builder.build().unwrap(), &policy) {
                Ok(_) => assert!(before == i64::MAX),
                Err(BatchError::InvalidTimestamps { .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

#[test]
fn a_time_error_outranks_others() {
    let strict = AppendPolicy { keys_required: true, timestamp_before_ms_max: 1, ..policy() };
    let mut builder = BatchBuilder::new(options(Codec::None));
    builder.push(NOW, None, None, &[]).unwrap();
    builder.push(TimestampMs(NOW.0 - 2), Some(b"k"), None, &[]).unwrap();
    let error = refused(builder.build().unwrap(), &strict);
    assert!(matches!(error, BatchError::InvalidTimestamps { .. }), "{error:?}");
    assert_eq!(error.record_errors().len(), 2);
}

#[test]
fn listed_record_errors_are_bounded() {
    let mut builder = BatchBuilder::new(options(Codec::None));
    for _ in 0..5000 {
        builder.push(NOW, None, None, &[]).unwrap();
    }
    let error = refused(builder.build().unwrap(), &AppendPolicy { keys_required: true, ..policy() });
    assert_eq!(error.record_errors().len(), 1000);
}

#[test]
fn producers_may_not_claim_the_append_time() {
    for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
        for codec in Codec::ALL {
            let claimed = BatchOptions { timestamp_type: TimestampType::LogAppendTime, ..options(codec) };
            let batch = builder(claimed).build().unwrap();
            let error = refused(batch, &AppendPolicy { timestamp_type, ..policy() });
            assert!(matches!(error, BatchError::InvalidTimestamps { .. }), "{error:?}");
        }
    }
}

// ---- what is rewritten -----------------------------------------------------------------------

#[test]
fn the_append_time_is_stamped() {
    let later = TimestampMs(NOW.0 + 1_000_000);
    let policy = AppendPolicy { timestamp_type: TimestampType::LogAppendTime, now: later, ..policy() };
    for codec in Codec::ALL {
        let batch = sample(codec);
        let checked = check_produced(batch.clone(), &policy).unwrap();
        assert!(checked.contiguous().is_none());
        let one = &checked.as_slice()[0];
        assert_eq!(one.payload().as_ptr(), batch[HEADER_LEN..].as_ptr(), "only the header is new");
        assert_eq!(one.header().timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(one.header().max_timestamp, later);
        assert_eq!(one.offset_delta_of_max_timestamp(), Some(0));
        let read = read(&stored(one));
        assert!(read.iter().all(|record| record.timestamp == later));
        assert_eq!(read.len(), 3);
    }
}

#[test]
fn a_wrong_largest_timestamp_is_corrected() {
    for codec in Codec::ALL {
        let batch = with_header(&sample(codec), |header| header.max_timestamp = TimestampMs(1));
        let checked = accepted(batch, &policy());
        assert_eq!(checked.header().max_timestamp, TimestampMs(NOW.0 + 5));
        assert_eq!(checked.offset_delta_of_max_timestamp(), Some(1));
        assert_eq!(stored(&checked), sample(codec));
    }
}

#[test]
fn the_topic_s_compression_wins() {
    let expected = read(&sample(Codec::None));
    for source in Codec::ALL {
        for target in Codec::ALL {
            for timestamp_type in [TimestampType::CreateTime, TimestampType::LogAppendTime] {
                let compression = CompressionPolicy::Fixed(target, target.default_level());
                let policy = AppendPolicy { compression, timestamp_type, ..policy() };
                let batch = sample(source);
                let checked = accepted(batch.clone(), &policy);
                assert_eq!(checked.header().codec().unwrap(), target);
                let mut found = read(&stored(&checked));
                if timestamp_type == TimestampType::LogAppendTime {
                    for (found, expected) in found.iter_mut().zip(&expected) {
                        assert_eq!(found.timestamp, NOW);
                        found.timestamp = expected.timestamp;
                    }
                }
                assert_eq!(found, expected, "{source} to {target}");
                let header = checked.header();
                assert_eq!(header.producer_id, ProducerId(4711));
                assert_eq!((header.producer_epoch, header.base_sequence), (ProducerEpoch(3), Sequence(7)));
                if source == target && timestamp_type == TimestampType::CreateTime {
                    assert_eq!(checked.payload().as_ptr(), batch[HEADER_LEN..].as_ptr(), "left alone");
                }
                // What is stored passes for what a producer could have sent.
                if timestamp_type == TimestampType::CreateTime {
                    accepted(stored(&checked), &self::policy());
                }
            }
        }
    }
}

#[test]
fn unknown_attribute_bits_survive() {
    let batch = with_header(&sample(Codec::None), |header| header.attributes |= 0x4000);
    let checked =
        accepted(batch, &AppendPolicy { compression: CompressionPolicy::Fixed(Codec::Zstd, 3), ..policy() });
    assert_eq!(checked.header().attributes, 0x4000 | 4);
    stored(&checked);
}

#[test]
fn the_leader_s_fields_lie_outside_the_crc() {
    let batch = sample(Codec::None);
    let checked = accepted(batch.clone(), &policy());
    let bytes = [&checked.header_bytes(Offset(1000), LeaderEpoch(5))[..], checked.payload()].concat();
    let replicated = check_replicated(bytes.clone().into()).unwrap();
    let header = replicated.as_slice()[0].header();
    assert_eq!((header.base_offset, header.leader_epoch), (Offset(1000), LeaderEpoch(5)));
    assert_eq!(header.last_offset(), Offset(1002));
    assert_eq!(replicated.contiguous().unwrap()[..], bytes[..]);
    let offsets: Vec<i64> =
        checked.records(Offset(1000), 1 << 20).unwrap().map(|record| record.unwrap().offset.0).collect();
    assert_eq!(offsets, [1000, 1001, 1002]);
}

// ---- followers -------------------------------------------------------------------------------

#[test]
fn a_follower_leaves_out_what_is_cut_off() {
    let one = sample(Codec::None);
    let two = [one.clone(), sample(Codec::Gzip)].concat();
    for length in 0..two.len() {
        let checked = check_replicated(two[..length].to_vec().into()).unwrap();
        let whole = usize::from(length >= one.len());
        assert_eq!(checked.len(), whole);
        assert_eq!(checked.is_empty(), whole == 0);
        assert_eq!(checked.size_in_bytes(), whole * one.len());
    }
    assert_eq!(check_replicated(two.into()).unwrap().len(), 2);
}

#[test]
fn a_follower_checks_crc_and_counts() {
    let mut flipped = sample(Codec::None).to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(check_replicated(flipped.into()), Err(BatchError::CrcMismatch { .. })));
    let negative = with_header(&sample(Codec::None), |header| header.last_offset_delta = -1);
    assert!(matches!(check_replicated(negative), Err(BatchError::CountMismatch { .. })));
    // What only a leader asks: base offset, control batches, holes.
    let compacted = with_header(&sample(Codec::None), |header| {
        header.base_offset = Offset(77);
        header.last_offset_delta = 9;
        header.attributes |= 1 << 5;
    });
    assert_eq!(check_replicated(compacted).unwrap().as_slice()[0].header().next_offset(), Offset(87));
}

// ---- builder ---------------------------------------------------------------------------------

#[test]
fn compacted_batches_keep_their_bounds() {
    let options = BatchOptions {
        base_offset: Offset(100),
        last_offset_delta: Some(9),
        delete_horizon: Some(TimestampMs(NOW.0 + 86_400_000)),
        ..options(Codec::Lz4)
    };
    let mut builder = BatchBuilder::new(options);
    let record = |offset| Record {
        offset: Offset(offset),
        timestamp: NOW,
        key: Some(Bytes::from_static(b"k")),
        value: None,
        headers: Vec::new(),
    };
    builder.push_record(&record(103)).unwrap();
    builder.push_record(&record(107)).unwrap();
    for (offset, what) in [(107, "again"), (105, "back"), (99, "before"), (100 + (1 << 31), "too far")] {
        let error = builder.push_record(&record(offset)).expect_err(what);
        assert!(matches!(error, BuildError::OffsetOrder { previous: 107, .. }), "{what}: {error:?}");
    }
    let batch = builder.build().unwrap();
    let header = BatchHeader::parse(&batch).unwrap();
    assert!(header.has_delete_horizon());
    assert_eq!(header.base_timestamp, TimestampMs(NOW.0 + 86_400_000));
    assert_eq!((header.last_offset(), header.max_timestamp), (Offset(109), NOW));
    assert_eq!(header.last_sequence(), Sequence(16));
    assert_eq!(read(&batch), [record(103), record(107)]);
}

#[test]
fn batches_without_records() {
    let none = BatchBuilder::new(options(Codec::Gzip));
    assert!(none.is_empty());
    assert!(matches!(none.build(), Err(BuildError::Empty)));
    let emptied = BatchOptions {
        base_offset: Offset(5),
        last_offset_delta: Some(4),
        max_timestamp: Some(NOW),
        ..options(Codec::Gzip)
    };
    let batch = BatchBuilder::new(emptied).build().unwrap();
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!(batch.len(), HEADER_LEN);
    assert_eq!((header.records_count, header.last_offset()), (0, Offset(9)));
    assert_eq!((header.base_timestamp, header.max_timestamp), (NO_TIMESTAMP, NOW));
    header.check_crc(&batch).unwrap();
    assert!(read(&batch).is_empty());
    assert!(matches!(records(&batch.slice(..60), 1), Err(BatchError::Truncated { .. })));
}

#[test]
fn errors_of_codecs_are_named() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let garbage = with_payload(&sample(codec), b"neither a frame nor a block of anything");
        assert_refused!(garbage.clone(), policy(), BatchError::Decompression { codec: found, .. } if found == codec);
        assert!(matches!(records(&garbage, 1 << 20), Err(BatchError::Decompression { .. })));
        let few = AppendPolicy { decompressed_bytes_max: 300, ..policy() };
        assert_refused!(sample(codec), few, BatchError::DecompressedTooLarge { decompressed_bytes_max: 300 });
        assert!(matches!(records(&sample(codec), 300), Err(BatchError::DecompressedTooLarge { .. })));
    }
}

#[test]
fn a_level_that_zstd_does_not_know_is_clamped_or_named() {
    for level in [i32::MIN, -131_073, 23, i32::MAX] {
        let policy = AppendPolicy { compression: CompressionPolicy::Fixed(Codec::Zstd, level), ..policy() };
        match check_produced(sample(Codec::None), &policy) {
            Ok(checked) => {
                stored(&checked.as_slice()[0]);
            }
            Err(BatchError::Compression { codec: Codec::Zstd, .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}
