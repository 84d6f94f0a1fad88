//! Kafka's variable-length integers: zig-zag, seven bits a byte, least significant first.

use crate::error::RecordFlaw;

/// The most bytes that an `i32` takes.
pub(crate) const VARINT_LEN_MAX: usize = 5;
/// The most bytes that an `i64` takes.
pub(crate) const VARLONG_LEN_MAX: usize = 10;

fn zig_zag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Bytes that `put` writes for `value`; an `i32` widened to `i64` has the same encoding.
pub(crate) fn len(value: i64) -> usize {
    let significant = 64 - (zig_zag(value) | 1).leading_zeros() as usize;
    significant.div_ceil(7)
}

pub(crate) fn put(buffer: &mut Vec<u8>, value: i64) {
    let mut rest = zig_zag(value);
    while rest >= 0x80 {
        buffer.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    buffer.push(rest as u8);
}

/// Reads an `i32` byte by byte. As in Kafka, bits that do not fit into the last byte are dropped, a sixth byte is an error.
pub(crate) fn read_i32<E: From<RecordFlaw>>(mut next: impl FnMut() -> Result<u8, E>) -> Result<i32, E> {
    let mut raw = 0u32;
    for index in 0..VARINT_LEN_MAX {
        let byte = next()?;
        raw |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((raw >> 1) as i32 ^ -((raw & 1) as i32));
        }
    }
    Err(RecordFlaw::Varint.into())
}

/// Reads an `i64`; see `read_i32`.
pub(crate) fn read_i64<E: From<RecordFlaw>>(mut next: impl FnMut() -> Result<u8, E>) -> Result<i64, E> {
    let mut raw = 0u64;
    for index in 0..VARLONG_LEN_MAX {
        let byte = next()?;
        raw |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((raw >> 1) as i64 ^ -((raw & 1) as i64));
        }
    }
    Err(RecordFlaw::Varint.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> (Result<i32, RecordFlaw>, Result<i64, RecordFlaw>) {
        let mut narrow = bytes.iter().copied();
        let mut wide = bytes.iter().copied();
        (read_i32(|| narrow.next().ok_or(RecordFlaw::Ends)), read_i64(|| wide.next().ok_or(RecordFlaw::Ends)))
    }

    #[test]
    fn known_encodings() {
        // From the protocol buffers documentation of zig-zag, which Kafka's protocol page refers to.
        for (value, bytes) in [
            (0i64, &[0u8][..]),
            (-1, &[1]),
            (1, &[2]),
            (-2, &[3]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::from(i32::MIN), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(read(bytes), (Ok(value as i32), Ok(value)));
        }
    }

    #[test]
    fn too_long_and_cut_off() {
        assert_eq!(read(&[0x80; 5]).0, Err(RecordFlaw::Varint));
        assert_eq!(read(&[0x80; 10]).1, Err(RecordFlaw::Varint));
        assert_eq!(read(&[0x80; 4]), (Err(RecordFlaw::Ends), Err(RecordFlaw::Ends)));
    }

    proptest! {
        #[test]
        fn roundtrip(value in any::<i64>(), shift in 0u32..64) {
            let value = value >> shift;
            let mut out = Vec::new();
            put(&mut out, value);
            prop_assert_eq!(out.len(), len(value));
            prop_assert_eq!(read(&out).1, Ok(value));
            if let Ok(narrow) = i32::try_from(value) {
                prop_assert_eq!(read(&out).0, Ok(narrow));
            }
        }
    }
}
