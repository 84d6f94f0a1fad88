//! Decoding of request bodies that may be hostile.
//!
//! kafka-protocol's array decoders reserve memory for whatever length the wire claims, so nothing reaches them but
//! through [`decode`]. It decodes over a view of the frame that keeps a budget of primitive reads and never answers
//! a 32-bit integer larger than what could still be there: `min(bytes left, reads left) + 1`.
//!
//! Why this is enough. Every array element takes at least one byte and one read, so an array whose claimed length was
//! cut down to that bound still runs out of bytes or of reads, and decoding fails having reserved memory for no more
//! elements than the bound. If decoding succeeds although a value was cut, that value was an ordinary integer (a
//! timeout, say), no array length was above its bound, and decoding once more with the true values is safe.
//! Lengths written as varints (flexible versions) are compared with the bytes left; there is no legitimate larger one, so
//! the frame is refused. `net` caps the frames of all APIs but Produce, which bounds what such a length can reserve.
//!
//! Produce, the one large and hot request, has a decoder of its own: [`crate::api::produce_frame`].

use bytes::{Buf, Bytes};
use kafka_protocol::protocol::Decodable;
use kafka_protocol::protocol::buf::ByteBuf;

use super::Close;

/// Primitive reads one frame may cost: bounds the elements that a frame can make us hold, as Kafka 4.4's limit of one
/// million array elements does.
const READS_MAX: usize = 1 << 20;

/// The frame as the decoders see it.
struct Guarded {
    frame: Bytes,
    reads_left: usize,
    /// Some integer was answered smaller than it is.
    cut: bool,
    /// Answer integers as they are (second pass).
    trusted: bool,
}

impl Guarded {
    fn bound(&self) -> u32 {
        (self.frame.len().min(self.reads_left) as u32).saturating_add(1)
    }

    fn spend_read(&mut self) -> Result<(), bytes::TryGetError> {
        match self.reads_left.checked_sub(1) {
            Some(left) => {
                self.reads_left = left;
                Ok(())
            }
            None => Err(exhausted()),
        }
    }
}

fn exhausted() -> bytes::TryGetError {
    bytes::TryGetError { requested: usize::MAX, available: 0 }
}

/// The value of the unsigned varint at the start of `bytes`, or none if it doesn't end within its five bytes.
fn varint_at(bytes: &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl Buf for Guarded {
    fn remaining(&self) -> usize {
        self.frame.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.frame
    }

    fn advance(&mut self, count: usize) {
        self.frame.advance(count);
    }

    fn try_copy_to_slice(&mut self, target: &mut [u8]) -> Result<(), bytes::TryGetError> {
        self.spend_read()?;
        self.frame.try_copy_to_slice(target)
    }

    fn try_get_i8(&mut self) -> Result<i8, bytes::TryGetError> {
        self.spend_read()?;
        self.frame.try_get_i8()
    }

    fn try_get_i64(&mut self) -> Result<i64, bytes::TryGetError> {
        self.spend_read()?;
        self.frame.try_get_i64()
    }

    fn try_get_f64(&mut self) -> Result<f64, bytes::TryGetError> {
        self.spend_read()?;
        self.frame.try_get_f64()
    }

    fn try_get_u16(&mut self) -> Result<u16, bytes::TryGetError> {
        self.spend_read()?;
        self.frame.try_get_u16()
    }

    fn try_get_i16(&mut self) -> Result<i16, bytes::TryGetError> {
        self.spend_read()?;
        self.frame.try_get_i16()
    }

    fn try_get_i32(&mut self) -> Result<i32, bytes::TryGetError> {
        self.spend_read()?;
        let value = self.frame.try_get_i32()?;
        let bound = self.bound();
        if !self.trusted && value > 0 && value as u32 > bound {
            self.cut = true;
            return Ok(bound as i32);
        }
        Ok(value)
    }

    fn try_get_u32(&mut self) -> Result<u32, bytes::TryGetError> {
        self.try_get_i32().map(|value| value as u32)
    }

    fn try_get_u8(&mut self) -> Result<u8, bytes::TryGetError> {
        self.spend_read()?;
        // A byte with the high bit set belongs to a varint (the only other thing read this way is a boolean, which is 0
        // or 1). What starts here is never more than the whole varint, so checking at each byte needs no state and
        // refuses nothing legitimate: no length is larger than the rest of the frame.
        if self.frame.first().is_some_and(|byte| byte & 0x80 != 0)
            && varint_at(&self.frame).is_none_or(|value| value > self.frame.len() as u64 + 1)
        {
            return Err(exhausted());
        }
        self.frame.try_get_u8()
    }
}

impl ByteBuf for Guarded {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        self.frame.slice(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.frame.split_to(size)
    }
}

/// Decodes the body of a request whose bytes nobody has checked.
pub fn decode<Q: Decodable>(body: Bytes, version: i16) -> Result<Q, Close> {
    let mut first = Guarded { frame: body.clone(), reads_left: READS_MAX, cut: false, trusted: false };
    let malformed = |error| Close::new(format!("malformed request body: {error:#}"));
    let mut request = Q::decode(&mut first, version).map_err(malformed)?;
    if first.cut {
        let mut second = Guarded { frame: body, reads_left: READS_MAX, cut: false, trusted: true };
        request = Q::decode(&mut second, version).map_err(malformed)?;
    }
    // COMPAT: bytes after the end are ignored, as Kafka does; librdkafka 2.16 sends three with Metadata v13.
    Ok(request)
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::MetadataRequest;
    use kafka_protocol::protocol::Encodable;

    use super::*;

    #[test]
    fn bytes_after_the_end_of_a_request_are_ignored() {
        let mut body = BytesMut::new();
        MetadataRequest::default().with_topics(None).encode(&mut body, 13).expect("a request of defaults");
        body.put_slice(&[0, 0, 0]);
        let request: MetadataRequest = decode(body.freeze(), 13).expect("accepted");
        assert_eq!(request.topics, None);
    }
}
