//! Every codec in both directions: what goes in comes out, and nothing hostile does more than be refused.

mod support;

use bytes::Bytes;
use ottla_batch::*;
use proptest::prelude::*;

const COMPRESSED: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

fn any_codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(&Codec::ALL[..])
}

/// Random bytes do not compress and equal ones do: both, and their mixture.
fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..3000);
    let run = (any::<u8>(), 0usize..100_000).prop_map(|(byte, count)| vec![byte; count]);
    prop::collection::vec(prop_oneof![noise, run], 0..4).prop_map(|parts| parts.concat())
}

fn any_bytes(size: usize) -> impl Strategy<Value = Option<Bytes>> {
    prop::option::of(prop::collection::vec(any::<u8>(), 0..size).prop_map(Bytes::from))
}

fn any_record() -> impl Strategy<Value = Record> {
    let header = (any_bytes(20), any_bytes(20))
        .prop_map(|(key, value)| Header { key: key.unwrap_or_default(), value });
    (any::<i64>(), any_bytes(50), any_bytes(400), prop::collection::vec(header, 0..4)).prop_map(
        |(timestamp, key, value, headers)| Record {
            offset: Offset(0),
            timestamp: TimestampMs(timestamp),
            key,
            value,
            headers,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn payloads_roundtrip(codec in any_codec(), payload in any_payload()) {
        let levels = codec.levels().map_or(vec![None], |levels| {
            let fast = if codec == Codec::Zstd { -5 } else { *levels.start() };
            vec![None, Some(fast), Some((*levels.end()).min(19))]
        });
        for level in levels {
            let compressed = compress(codec, level, &payload).unwrap();
            prop_assert_eq!(&decompress(codec, &compressed, payload.len()).unwrap(), &payload);
            if !payload.is_empty() {
                let less = decompress(codec, &compressed, payload.len() - 1);
                let is_too_large = matches!(less, Err(DecompressError::TooLarge { .. }));
                prop_assert!(is_too_large);
            }
        }
    }

    #[test]
    fn batches_roundtrip(codec in any_codec(), records in prop::collection::vec(any_record(), 1..40)) {
        let mut builder = BatchBuilder::new(BatchOptions { codec, ..BatchOptions::default() });
        for record in &records {
            builder.push(record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers).unwrap();
        }
        let batch = builder.build().unwrap();
        let mut expected = records.clone();
        for (offset, record) in expected.iter_mut().enumerate() {
            record.offset = Offset(offset as i64);
        }
        let found: Vec<Record> = ottla_batch::records(&batch, 1 << 24).unwrap().map(Result::unwrap).collect();
        prop_assert_eq!(found, expected);

        let policy = AppendPolicy {
            timestamp_before_ms_max: i64::MAX,
            timestamp_after_ms_max: i64::MAX,
            ..AppendPolicy::new(TimestampMs(0))
        };
        let checked = check_produced(batch.clone(), &policy).unwrap();
        prop_assert_eq!(checked.as_slice()[0].header().records_count as usize, records.len());
        // The largest time of the first record that has it; times below -1 do not count, as in Kafka.
        let largest = records.iter().map(|record| record.timestamp).max().unwrap().max(NO_TIMESTAMP);
        prop_assert_eq!(checked.as_slice()[0].header().max_timestamp, largest);
    }

    #[test]
    fn headers_roundtrip(bytes in prop::collection::vec(any::<u8>(), HEADER_LEN)) {
        let mut bytes = bytes;
        bytes[16] = 2;
        bytes[8] &= 0x7f;
        bytes[9] |= 1;
        prop_assert_eq!(&BatchHeader::parse(&bytes).unwrap().encode()[..], &bytes[..]);
    }

    #[test]
    fn noise_is_refused_or_bounded(codec in any_codec(), bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        if let Ok(output) = decompress(codec, &bytes, 10_000) {
            prop_assert!(output.len() <= 10_000);
        }
    }
}

#[test]
fn streams_cut_off_at_every_byte() {
    let payload: Vec<u8> = (0..100_000u32).flat_map(|i| (i / 7).to_le_bytes()).collect();
    for codec in COMPRESSED {
        let compressed = compress(codec, None, &payload).unwrap();
        let step = (compressed.len() / 200).max(1);
        for length in (0..compressed.len()).step_by(step).chain(compressed.len() - 12..compressed.len()) {
            if let Ok(output) = decompress(codec, &compressed[..length], payload.len()) {
                // xerial snappy has no end mark: cut between blocks it is a shorter stream. The record count of the
                // batch catches that.
                assert!(codec == Codec::Snappy || length == 0, "{codec} cut at {length}");
                assert!(payload.starts_with(&output) && output.len() < payload.len());
            }
        }
    }
}

#[test]
fn garbage_after_the_stream_is_refused() {
    for codec in COMPRESSED {
        let mut compressed = compress(codec, None, b"payload").unwrap();
        compressed.extend_from_slice(b"trailing garbage");
        assert!(
            matches!(decompress(codec, &compressed, 1000), Err(DecompressError::Malformed(_))),
            "{codec}"
        );
    }
}

#[test]
fn names_and_numbers() {
    for (id, codec) in Codec::ALL.into_iter().enumerate() {
        assert_eq!(codec.id() as usize, id);
        assert_eq!(Codec::from_id(id as u8), Some(codec));
    }
    assert_eq!(Codec::from_id(5), None);
}

// ---- zstd ------------------------------------------------------------------------------------

#[test]
fn zstd_frames_follow_each_other() {
    let frames = [compress(Codec::Zstd, None, b"ab"), compress(Codec::Zstd, Some(19), b"c")];
    let stream = frames.map(Result::unwrap).concat();
    assert_eq!(decompress(Codec::Zstd, &stream, 3).unwrap(), b"abc");
}

#[test]
fn a_zstd_decoder_that_was_given_up_is_clean_again() {
    let large = compress(Codec::Zstd, None, &vec![7; 1 << 20]).unwrap();
    let small = compress(Codec::Zstd, None, b"small").unwrap();
    for _ in 0..3 {
        assert!(matches!(decompress(Codec::Zstd, &large, 100), Err(DecompressError::TooLarge { .. })));
        assert!(matches!(decompress(Codec::Zstd, &small[..9], 100), Err(DecompressError::Malformed(_))));
        assert!(matches!(decompress(Codec::Zstd, b"garbage!", 100), Err(DecompressError::Malformed(_))));
        assert_eq!(decompress(Codec::Zstd, &small, 100).unwrap(), b"small");
    }
}

// ---- snappy ----------------------------------------------------------------------------------

const XERIAL: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

fn xerial(blocks: &[&[u8]]) -> Vec<u8> {
    let mut stream = XERIAL.to_vec();
    for block in blocks {
        let compressed = snap::raw::Encoder::new().compress_vec(block).unwrap();
        stream.extend_from_slice(&(compressed.len() as i32).to_be_bytes());
        stream.extend_from_slice(&compressed);
    }
    stream
}

#[test]
fn snappy_raw_and_framed() {
    let payload = [b"abcdefgh".repeat(9000), vec![0; 70_000]].concat();
    let raw = snap::raw::Encoder::new().compress_vec(&payload).unwrap();
    assert_eq!(decompress(Codec::Snappy, &raw, payload.len()).unwrap(), payload, "librdkafka writes this");
    let one_block = xerial(&[&payload]);
    assert_eq!(decompress(Codec::Snappy, &one_block, payload.len()).unwrap(), payload);
    let with_empty_blocks = xerial(&[b"", b"ab", b"", b"c", b""]);
    assert_eq!(decompress(Codec::Snappy, &with_empty_blocks, 3).unwrap(), b"abc");
    let concatenated = [xerial(&[b"ab"]), xerial(&[b"c"])].concat();
    assert_eq!(decompress(Codec::Snappy, &concatenated, 3).unwrap(), b"abc");
    let ours = compress(Codec::Snappy, None, &payload).unwrap();
    assert!(ours.starts_with(XERIAL));
}

#[test]
fn snappy_lies() {
    let lies: [&[u8]; 8] = [
        &[0xff, 0xff, 0xff, 0xff, 0x0f],                  // raw: claims 4 GiB
        &[XERIAL, &[0xff, 0xff, 0xff, 0xff]].concat(),    // a block of -1 bytes
        &[XERIAL, &[0x7f, 0xff, 0xff, 0xff, 1]].concat(), // a block of 2 GiB
        &[XERIAL, &[0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat(), // a block that claims 4 GiB
        &[XERIAL, &[0, 0, 0]].concat(),
        &XERIAL[..15],
        &[XERIAL, &[0, 0, 0, 0]].concat(), // a block of no bytes
        b"\x82SNAPPY\0\0\0\0\0\0\0\0\x01\0\0\0\x02\x01\0", // version 0
    ];
    for lie in lies {
        assert!(
            matches!(decompress(Codec::Snappy, lie, 1 << 30), Err(DecompressError::Malformed(_))),
            "{lie:x?}"
        );
    }
}

// ---- lz4 -------------------------------------------------------------------------------------

/// A frame as the specification describes it, not made by the crate under test.
fn lz4_frame(flags: u8, block_size: u8, optional: &[u8], blocks: &[u8]) -> Vec<u8> {
    let descriptor = [&[flags, block_size], optional].concat();
    let checksum = (twox_hash::XxHash32::oneshot(0, &descriptor) >> 8) as u8;
    [&0x184D_2204u32.to_le_bytes()[..], &descriptor, &[checksum], blocks].concat()
}

fn stored_block(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32 | 1 << 31).to_le_bytes()[..], bytes].concat()
}

const END: [u8; 4] = [0; 4];

#[test]
fn lz4_frames_of_other_writers() {
    let plain = [&stored_block(b"abc")[..], &END].concat();
    let block_checksum = twox_hash::XxHash32::oneshot(0, b"abc").to_le_bytes();
    let checked = [&stored_block(b"abc")[..], &block_checksum, &END].concat();
    let with_content_checksum = [&plain[..], &[1, 2, 3, 4]].concat();
    for (name, frame) in [
        ("plain", lz4_frame(0x60, 0x40, &[], &plain)),
        ("4 MiB blocks", lz4_frame(0x60, 0x70, &[], &plain)),
        ("content size, as python-lz4", lz4_frame(0x68, 0x40, &3u64.to_le_bytes(), &plain)),
        ("block checksums", lz4_frame(0x70, 0x40, &[], &checked)),
        ("content checksum, as librdkafka", lz4_frame(0x64, 0x40, &[], &with_content_checksum)),
    ] {
        assert_eq!(decompress(Codec::Lz4, &frame, 3).unwrap(), b"abc", "{name}");
    }
}

#[test]
fn lz4_lies() {
    let plain = [&stored_block(b"abc")[..], &END].concat();
    let mut wrong_header_checksum = lz4_frame(0x60, 0x40, &[], &plain);
    wrong_header_checksum[6] ^= 1;
    let wrong_block_checksum = [&stored_block(b"abc")[..], &[0; 4], &END].concat();
    for (name, frame) in [
        ("nothing", Vec::new()),
        ("another magic", b"\x02\x21\x4c\x18".to_vec()),
        ("dependent blocks", lz4_frame(0x40, 0x40, &[], &plain)),
        ("version 2", lz4_frame(0xa0, 0x40, &[], &plain)),
        ("a dictionary", lz4_frame(0x61, 0x40, &[0; 4], &plain)),
        ("a reserved block size", lz4_frame(0x60, 0x30, &[], &plain)),
        ("header checksum", wrong_header_checksum),
        ("block checksum", lz4_frame(0x70, 0x40, &[], &wrong_block_checksum)),
        ("no end mark", lz4_frame(0x60, 0x40, &[], &stored_block(b"abc"))),
        ("a block of 2 GiB", lz4_frame(0x60, 0x70, &[], &[0xff, 0xff, 0xff, 0xff])),
        ("a block above the frame's size", lz4_frame(0x60, 0x40, &[], &stored_block(&vec![0; 65 * 1024]))),
        ("an invalid block", lz4_frame(0x60, 0x40, &[], &[2, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0])),
    ] {
        let result = decompress(Codec::Lz4, &frame, 1 << 20);
        assert!(matches!(result, Err(DecompressError::Malformed(_))), "{name}: {result:?}");
    }
}
