//! Mutated batches against oracles that do not trust the code: no panic, and three ways to read a batch agree.
//!
//! Deterministic: one seed, printed with each failure, gives one run. Short by default; `OTTLA_FUZZ_SECONDS=600
//! OTTLA_FUZZ_SEED=7 cargo test -p ottla-batch --test fuzz` is a long one.

mod support;

use std::cell::Cell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ottla_batch::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::*;

const DECOMPRESSED_MAX: usize = 1 << 18;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Runs `target` on seeds that count up from OTTLA_FUZZ_SEED, for at least `rounds` and OTTLA_FUZZ_SECONDS.
fn fuzz(rounds: u64, target: impl Fn(&mut StdRng)) {
    let first = number("OTTLA_FUZZ_SEED", 1);
    let limit = Duration::from_secs(number("OTTLA_FUZZ_SECONDS", 0));
    let start = Instant::now();
    let mut seed = first;
    while seed < first + rounds || start.elapsed() < limit {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            target(&mut StdRng::seed_from_u64(seed));
        }));
        if outcome.is_err() {
            panic!("seed {seed} (run with OTTLA_FUZZ_SEED={seed})");
        }
        seed += 1;
    }
}

/// A payload of a few random records, valid or nearly so.
fn payload(random: &mut StdRng) -> (Vec<u8>, i32) {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let count = random.random_range(1..6);
    for _ in 0..count {
        let key = vec![7; random.random_range(0..20)];
        let value = vec![9; random.random_range(0..200)];
        let header =
            Header { key: Bytes::from_static(b"h"), value: random.random_bool(0.5).then(Bytes::new) };
        let headers = vec![header; random.random_range(0..3)];
        let time = TimestampMs(NOW.0 + random.random_range(-100..100));
        let key = random.random_bool(0.8).then_some(&key[..]);
        builder.push(time, key, random.random_bool(0.8).then_some(&value[..]), &headers).unwrap();
    }
    (builder.build().unwrap()[HEADER_LEN..].to_vec(), count)
}

fn mutate(random: &mut StdRng, bytes: &mut Vec<u8>) {
    const TELLING: [u8; 8] = [0x00, 0x01, 0x7f, 0x80, 0xff, 0xfe, 0x0f, 0x02];
    for _ in 0..random.random_range(0..4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..6) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = TELLING[random.random_range(0..TELLING.len())],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, TELLING[random.random_range(0..TELLING.len())]),
            4 => drop(bytes.remove(at)),
            _ => {
                let end = random.random_range(at..=bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
}

fn batch(codec: Codec, payload: &[u8], records_count: i32) -> Bytes {
    let base = with_header(&sample(Codec::None), |header| {
        header.records_count = records_count;
        header.last_offset_delta = records_count - 1;
        header.attributes = i16::from(codec.id());
        header.max_timestamp = NOW;
    });
    with_payload(&base, payload)
}

fn policy(random: &mut StdRng) -> AppendPolicy {
    let codec = Codec::ALL[random.random_range(0..Codec::ALL.len())];
    AppendPolicy {
        keys_required: random.random_bool(0.2),
        timestamp_type: if random.random_bool(0.2) {
            TimestampType::LogAppendTime
        } else {
            TimestampType::CreateTime
        },
        timestamp_before_ms_max: if random.random_bool(0.5) { i64::MAX } else { 50 },
        compression: if random.random_bool(0.7) {
            CompressionPolicy::Producer
        } else {
            CompressionPolicy::Fixed(codec, codec.default_level())
        },
        decompressed_bytes_max: DECOMPRESSED_MAX,
        ..AppendPolicy::new(NOW)
    }
}

/// What was accepted can be read completely, in order, by whoever reads the stored bytes.
fn assert_sound(checked: &CheckedBatches) {
    for batch in checked {
        let mut stored = batch.header_bytes(Offset(40), LeaderEpoch(2)).to_vec();
        stored.extend_from_slice(batch.payload());
        let stored = Bytes::from(stored);
        let again = check_replicated(stored.clone()).expect("a follower accepts what a leader stored");
        assert_eq!(again.len(), 1);
        let records: Vec<Record> = records(&stored, DECOMPRESSED_MAX)
            .expect("accepted batches can be opened")
            .collect::<Result<_, _>>()
            .expect("accepted batches can be read");
        assert_eq!(records.len(), batch.header().records_count as usize);
        let mut largest = NO_TIMESTAMP;
        let mut at = 0;
        for (index, record) in records.iter().enumerate() {
            assert_eq!(record.offset, Offset(40 + index as i64));
            if record.timestamp > largest {
                largest = record.timestamp;
                at = index as i32;
            }
        }
        assert_eq!(batch.header().max_timestamp, largest);
        assert_eq!(batch.offset_delta_of_max_timestamp(), Some(at));
    }
}

/// Accepted, or the kind of error. Flaws are not told apart: a stream sees the end of a record later than a slice.
fn verdict(result: &Result<CheckedBatches, BatchError>) -> String {
    match result {
        Ok(_) => "accepted".into(),
        Err(BatchError::MalformedRecord { index, .. }) => format!("record {index} is malformed"),
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn compressed_and_plain_batches_are_judged_alike() {
    let (accepted, refused) = (Cell::new(0u64), Cell::new(0u64));
    fuzz(3000, |random| {
        let (mut payload, mut count) = payload(random);
        mutate(random, &mut payload);
        if random.random_bool(0.1) {
            count += random.random_range(-1..2);
        }
        let policy = policy(random);
        let plain = check_produced(batch(Codec::None, &payload, count), &policy);
        let codec = Codec::ALL[random.random_range(1..Codec::ALL.len())];
        let compressed = compress(codec, None, &payload).unwrap();
        let squeezed = check_produced(batch(codec, &compressed, count), &policy);
        assert_eq!(verdict(&plain), verdict(&squeezed), "{codec}");
        let tally = if plain.is_ok() { &accepted } else { &refused };
        tally.set(tally.get() + 1);
        for checked in [plain, squeezed].into_iter().flatten() {
            assert_sound(&checked);
        }
    });
    // A generator that makes only one kind would prove little.
    let (accepted, refused) = (accepted.get(), refused.get());
    assert!(accepted * 10 > refused && refused * 10 > accepted, "{accepted} accepted, {refused} refused");
}

#[test]
fn mutated_batches_do_no_harm() {
    fuzz(4000, |random| {
        let codec = Codec::ALL[random.random_range(0..Codec::ALL.len())];
        let (plain, count) = payload(random);
        let stored = compress(codec, None, &plain).unwrap();
        let mut bytes = batch(codec, &stored, count).to_vec();
        mutate(random, &mut bytes);
        // Mostly with a CRC that holds, as a hostile client would send it.
        if random.random_bool(0.9) && bytes.len() > HEADER_LEN {
            seal(&mut bytes);
        }
        let bytes = Bytes::from(bytes);
        if let Ok(checked) = check_produced(bytes.clone(), &policy(random)) {
            assert_sound(&checked);
        }
        let _ = check_replicated(bytes.clone());
        if let Ok(records) = records(&bytes, DECOMPRESSED_MAX) {
            let refs: Vec<_> = RecordRefs::new(&records.payload().clone(), records.header().records_count)
                .map(|record| record.map(|record| record.offset_delta).map_err(|error| error.to_string()))
                .collect();
            let base = records.header().base_offset;
            let owned: Vec<_> = records
                .map(|record| record.map(|record| record.offset).map_err(|error| error.to_string()))
                .collect();
            let refs: Vec<_> =
                refs.into_iter().map(|delta| delta.map(|delta| base.plus(i64::from(delta)))).collect();
            assert_eq!(refs, owned, "both iterators see the same records and the same error");
            assert!(owned.iter().rev().skip(1).all(Result::is_ok), "an error ends the iteration");
        }
        let _ = decompress(codec, &bytes[bytes.len().min(HEADER_LEN)..], DECOMPRESSED_MAX);
    });
}

#[test]
fn the_fuzzer_reports_what_it_finds() {
    let found = std::panic::catch_unwind(|| {
        fuzz(200, |random| {
            let (plain, count) = payload(random);
            let mut bytes = batch(Codec::None, &plain, count).to_vec();
            mutate(random, &mut bytes);
            // A false oracle: mutations do break batches.
            assert!(check_produced(bytes.into(), &AppendPolicy::new(NOW)).is_ok());
        });
    });
    assert!(found.is_err());
}
