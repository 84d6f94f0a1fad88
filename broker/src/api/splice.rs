//! Encodes a response whose record fields stay where they are: the encoder writes everything but the records, and
//! notes where each of them belongs.
//!
//! `kafka-protocol` writes a records field as its length and then one `put_slice` of its bytes. A field that holds
//! [`placeholder`] is recognised there by its address; its length is taken back and the length of the next payload is
//! written instead, followed by a cut in the output. So one encoder serves copied and spliced records, and no version
//! of the message is described twice. Payloads are used up in the order in which the encoder meets the placeholders.

use bytes::buf::UninitSlice;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::buf::ByteBufMut;
use std::ops::Range;

/// Recognised by its address, which no other value shares: a `static` has one.
static PLACEHOLDER: [u8; 1] = [0];

/// Stands in a records field for the next payload given to [`SpliceBuf::new`].
pub fn placeholder() -> Bytes {
    Bytes::from_static(&PLACEHOLDER)
}

/// How the message writes the length of a byte field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthPrefix {
    /// Four bytes (versions before the flexible ones).
    Fixed,
    /// Length plus one as a varint (flexible versions).
    Compact,
}

impl LengthPrefix {
    fn write(self, buffer: &mut BytesMut, len: usize) {
        match self {
            LengthPrefix::Fixed => buffer.put_i32(len as i32),
            LengthPrefix::Compact => {
                let mut rest = len as u32 + 1;
                while rest >= 0x80 {
                    buffer.put_u8(rest as u8 | 0x80);
                    rest >>= 7;
                }
                buffer.put_u8(rest as u8);
            }
        }
    }
}

/// An output buffer with cuts.
pub struct SpliceBuf {
    buffer: BytesMut,
    prefix: LengthPrefix,
    /// Lengths of the payloads, in the order of their placeholders.
    payload_lens: Vec<usize>,
    /// Where in `buffer` each payload met so far belongs.
    cuts: Vec<usize>,
}

impl SpliceBuf {
    /// `bytes_expected` is the encoded size without payloads; a guess that is too small costs a reallocation.
    pub fn new(prefix: LengthPrefix, payload_lens: Vec<usize>, bytes_expected: usize) -> SpliceBuf {
        let cuts = Vec::with_capacity(payload_lens.len());
        SpliceBuf { buffer: BytesMut::with_capacity(bytes_expected), prefix, payload_lens, cuts }
    }

    /// The encoded bytes, and the position in them of each payload (ascending, as many as payloads).
    pub fn finish(self) -> (Bytes, Vec<usize>) {
        assert_eq!(
            self.cuts.len(),
            self.payload_lens.len(),
            "each payload must have been met once as a placeholder"
        );
        (self.buffer.freeze(), self.cuts)
    }

    fn splice(&mut self) {
        // What the encoder just wrote for a field of one byte.
        let (written, width): (&[u8], usize) = match self.prefix {
            LengthPrefix::Fixed => (&[0, 0, 0, 1], 4),
            LengthPrefix::Compact => (&[2], 1),
        };
        let at = self.buffer.len() - width;
        assert_eq!(&self.buffer[at..], written, "a placeholder must follow its own length");
        self.buffer.truncate(at);
        let len = *self.payload_lens.get(self.cuts.len()).expect("more placeholders than payloads");
        self.prefix.write(&mut self.buffer, len);
        self.cuts.push(self.buffer.len());
    }
}

// SAFETY: every method of the trait is forwarded to `BytesMut`, which keeps its contract.
unsafe impl BufMut for SpliceBuf {
    fn remaining_mut(&self) -> usize {
        self.buffer.remaining_mut()
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller's promise is the one that `BytesMut` asks for.
        unsafe { self.buffer.advance_mut(count) }
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        self.buffer.chunk_mut()
    }

    fn put_slice(&mut self, source: &[u8]) {
        if std::ptr::eq(source.as_ptr(), PLACEHOLDER.as_ptr()) && source.len() == PLACEHOLDER.len() {
            self.splice();
        } else {
            self.buffer.extend_from_slice(source);
        }
    }
}

impl ByteBufMut for SpliceBuf {
    fn offset(&self) -> usize {
        self.buffer.len()
    }

    fn seek(&mut self, offset: usize) {
        self.buffer.resize(offset, 0);
    }

    fn range(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.buffer[range]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, EpochEndOffset, FetchableTopicResponse, PartitionData,
    };
    use kafka_protocol::messages::{FetchResponse, TopicName};
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use uuid::Uuid;

    fn prefix(version: i16) -> LengthPrefix {
        if version >= 12 { LengthPrefix::Compact } else { LengthPrefix::Fixed }
    }

    /// A response of `sizes.len()` partitions in two topics; `records` makes the field of each.
    fn response(version: i16, sizes: &[Option<usize>], records: impl Fn(usize) -> Bytes) -> FetchResponse {
        let mut topics: Vec<FetchableTopicResponse> = Vec::new();
        for (index, size) in sizes.iter().enumerate() {
            let mut partition = PartitionData::default()
                .with_partition_index(index as i32)
                .with_high_watermark(1 << index)
                .with_records(size.map(&records));
            if index % 2 == 1 {
                partition = partition.with_aborted_transactions(Some(vec![
                    AbortedTransaction::default().with_first_offset(7),
                ]));
            }
            if version >= 12 && index % 3 == 1 {
                partition = partition
                    .with_diverging_epoch(EpochEndOffset::default().with_epoch(3).with_end_offset(9));
            }
            if index % 3 == 0 {
                let mut topic = FetchableTopicResponse::default();
                if version >= 13 {
                    topic = topic.with_topic_id(Uuid::from_u128(index as u128 + 1));
                } else {
                    topic = topic.with_topic(TopicName(StrBytes::from_string(format!("topic-{index}"))));
                }
                topics.push(topic);
            }
            if let Some(topic) = topics.last_mut() {
                topic.partitions.push(partition);
            }
        }
        FetchResponse::default().with_responses(topics)
    }

    #[test]
    fn a_spliced_response_has_the_bytes_of_the_ordinary_encoder_in_every_version() {
        // Around the places where a varint grows, and the two ways of having no records.
        let sizes = [
            Some(1),
            Some(0),
            None,
            Some(126),
            Some(127),
            Some(128),
            Some(16_383),
            Some(16_384),
            Some(100_000),
        ];
        let fill = |len: usize| Bytes::from(vec![len as u8 ^ 0x5a; len]);
        for version in 4..=18 {
            let mut whole = BytesMut::new();
            response(version, &sizes, fill).encode(&mut whole, version).unwrap();

            let payloads: Vec<Bytes> =
                sizes.iter().flatten().filter(|len| **len > 0).map(|len| fill(*len)).collect();
            let lens = payloads.iter().map(Bytes::len).collect();
            let mut spliced = SpliceBuf::new(prefix(version), lens, 0);
            let with_placeholders =
                response(version, &sizes, |len| if len == 0 { Bytes::new() } else { placeholder() });
            with_placeholders.encode(&mut spliced, version).unwrap();
            let (head, cuts) = spliced.finish();
            let mut joined = BytesMut::new();
            let mut from = 0;
            for (cut, payload) in cuts.iter().zip(&payloads) {
                joined.extend_from_slice(&head[from..*cut]);
                joined.extend_from_slice(payload);
                from = *cut;
            }
            joined.extend_from_slice(&head[from..]);
            assert!(joined == whole, "version {version} differs");
        }
    }

    #[test]
    fn a_record_of_one_zero_byte_is_not_taken_for_a_placeholder() {
        let sizes = [Some(1)];
        let mut whole = BytesMut::new();
        response(12, &sizes, |_| Bytes::from_static(&[0])).encode(&mut whole, 12).unwrap();
        let mut spliced = SpliceBuf::new(LengthPrefix::Compact, vec![], 0);
        response(12, &sizes, |_| Bytes::copy_from_slice(&[0])).encode(&mut spliced, 12).unwrap();
        assert_eq!(spliced.finish().0, whole.freeze());
    }
}
