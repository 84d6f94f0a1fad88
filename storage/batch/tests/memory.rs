//! Memory under hostile batches, measured: an allocator that counts what Rust code takes, and the resident set for
//! zstd, which allocates in C. One test function, because both measures are of the whole process.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use ottla_batch::*;
use support::*;

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

// SAFETY: forwards to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's contract is the one of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes live at once during `work` above what was live before, and the number of allocations.
fn measure<T>(work: impl FnOnce() -> T) -> (T, usize, u64) {
    let before = LIVE.load(Ordering::Relaxed);
    let calls = CALLS.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let result = work();
    (result, PEAK.load(Ordering::Relaxed) - before, CALLS.load(Ordering::Relaxed) - calls)
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

const MIB: usize = 1 << 20;

/// One record whose value is `size` zeros, compressed.
fn bomb(codec: Codec, size: usize) -> Bytes {
    let mut builder = BatchBuilder::new(BatchOptions { codec, ..BatchOptions::default() });
    builder.push(NOW, None, Some(&vec![0; size]), &[]).unwrap();
    builder.build().unwrap()
}

#[test]
fn memory_follows_what_arrived() {
    let policy = AppendPolicy::new(NOW);

    // The hot path: nothing per record, whatever their number.
    check_produced(sample(Codec::None), &policy).unwrap(); // what the CRC sets up once
    let mut allocations = Vec::new();
    for count in [1, 10, 1000] {
        let mut builder = BatchBuilder::new(options(Codec::None));
        for _ in 0..count {
            builder.push(NOW, Some(b"key"), Some(&[1; 100]), &[]).unwrap();
        }
        let batch = builder.build().unwrap();
        let (checked, peak, calls) = measure({
            let batch = batch.clone(); // as in a frame, it is shared before
            || check_produced(batch, &policy).unwrap()
        });
        assert_eq!(checked.len(), 1);
        assert!(peak < 1024, "{count} records took {peak} bytes");
        allocations.push(calls);
    }
    assert_eq!(allocations, [1, 1, 1], "the list of batches, and nothing per record");

    // Bombs: refused at the bound or walked to the end, in constant memory. The snappy one is limited by its
    // format (22 to 1), the others are some 64 MiB in 64 to 300 KiB and less.
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let size = if codec == Codec::Snappy { 16 * MIB } else { 64 * MIB };
        let batch = bomb(codec, size);
        let (walked, peak, _) = measure(|| check_produced(batch.clone(), &policy).is_ok());
        assert!(walked, "{codec}");
        assert!(peak < MIB, "{codec}: walking {size} bytes took {peak}");
        let tight = AppendPolicy { decompressed_bytes_max: MIB, ..policy };
        let (error, peak, _) = measure(|| check_produced(batch.clone(), &tight).unwrap_err());
        assert!(matches!(error, BatchError::DecompressedTooLarge { .. }), "{codec}: {error:?}");
        assert!(peak < MIB, "{codec}: refusing took {peak}");
        // Reading them all at once takes what the bound says, and the vector's doubling.
        let (error, peak, _) = measure(|| records(&batch, MIB).err());
        assert!(matches!(error, Some(BatchError::DecompressedTooLarge { .. })), "{codec}: {error:?}");
        assert!(peak < 4 * MIB, "{codec}: iterating took {peak}");
        // Recompressing a bomb into no compression stops at the size of a batch.
        let plain = AppendPolicy { compression: CompressionPolicy::Fixed(Codec::None, 0), ..policy };
        let (error, peak, _) = measure(|| check_produced(batch.clone(), &plain).unwrap_err());
        assert!(matches!(error, BatchError::BatchTooLarge { .. }), "{codec}: {error:?}");
        assert!(peak < 4 * MIB, "{codec}: recompressing took {peak}");
    }

    // Claims: counts and lengths that the bytes do not back.
    let claims = [
        with_header(&sample(Codec::None), |header| {
            header.records_count = i32::MAX;
            header.last_offset_delta = i32::MAX - 1;
        }),
        with_payload(&sample(Codec::None), &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0]),
        // One record of 6 fields that claims i32::MAX headers.
        with_payload(&sample(Codec::None), &[20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f]),
        with_payload(&sample(Codec::Snappy), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
    ];
    for batch in &claims {
        let (result, peak, _) = measure(|| {
            let refused = check_produced(batch.clone(), &policy).is_err();
            refused && records(batch, usize::MAX).map_or(true, |mut records| records.any(|r| r.is_err()))
        });
        assert!(result);
        assert!(peak < 64 * 1024, "a claim took {peak} bytes");
    }

    // The smallest frames of the largest blocks. LZ4 with 4 MiB blocks and one byte in them:
    let checksum = (twox_hash::XxHash32::oneshot(0, &[0x60, 0x70]) >> 8) as u8;
    let lz4 = [0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, checksum, 2, 0, 0, 0, 0x10, b'x', 0, 0, 0, 0];
    let (output, peak, _) = measure(|| decompress(Codec::Lz4, &lz4, usize::MAX).unwrap());
    assert_eq!(output, b"x");
    assert!(peak < 4096, "{peak}");
    // zstd with a window of 128 MiB (descriptor 17 << 3) and one raw block of one byte: its memory is C's.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x09, 0x00, 0x00, b'x'];
    assert_eq!(decompress(Codec::Zstd, &frame, 10).unwrap(), b"x");
    let before = resident_bytes();
    for _ in 0..20 {
        assert_eq!(decompress(Codec::Zstd, &frame, 10).unwrap(), b"x");
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 4 * MIB, "the resident set grew by {grown} bytes");
    // One more, 256 MiB, is refused before anything is mapped.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 18 << 3, 0x09, 0x00, 0x00, b'x'];
    assert!(matches!(decompress(Codec::Zstd, &frame, 10), Err(DecompressError::Malformed(_))));
}
