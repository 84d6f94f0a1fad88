//! What records hold: a number that tells who wrote them, and bytes that follow from it, so that a reader can tell a record
//! from anything else.

use bytes::{BufMut, Bytes, BytesMut};

use crate::check::RecordId;

/// `number` counts the records that the producer sent to one partition, or to all.
pub fn id(producer: u32, number: u32, idempotent: bool) -> RecordId {
    u64::from(idempotent) << 63 | u64::from(producer) << 32 | u64::from(number)
}

pub fn is_idempotent(id: RecordId) -> bool {
    id >> 63 == 1
}

pub fn producer(id: RecordId) -> u32 {
    (id >> 32) as u32 & 0x7fff_ffff
}

pub fn number(id: RecordId) -> u32 {
    id as u32
}

/// Mostly short, now and then some pages.
fn filling(id: RecordId) -> impl Iterator<Item = u8> {
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let length = if state >> 58 == 0 { 6_000 } else { (state >> 40) as usize % 120 };
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
}

pub fn encode(id: RecordId) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u64(id);
    bytes.extend(filling(id));
    bytes.freeze()
}

/// `None` for what `encode` did not make.
pub fn decode(bytes: &[u8]) -> Option<RecordId> {
    let (head, rest) = bytes.split_first_chunk::<8>()?;
    let id = u64::from_be_bytes(*head);
    rest.iter().copied().eq(filling(id)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_encoded_decodes() {
        for number in 0..1_000 {
            let written = encode(id(3, number, true));
            assert_eq!(decode(&written), Some(id(3, number, true)));
            let mut flipped = written.to_vec();
            let at = number as usize % flipped.len();
            flipped[at] ^= 4;
            assert_eq!(decode(&flipped).filter(|_| flipped.len() > 8), None, "{number}");
            assert_eq!(decode(&written[..written.len() - 1]).filter(|_| written.len() > 9), None);
        }
        let of = id(7, 9, false);
        assert_eq!((producer(of), number(of), is_idempotent(of)), (7, 9, false));
    }
}
