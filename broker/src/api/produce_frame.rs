//! The body of a produce request, decoded by hand: it is the large one, its records must stay one slice of the frame,
//! and its array lengths must not decide how much memory is reserved. Versions 3 to 13, as kafka-protocol's schema has
//! them (a test holds the two together).

use bytes::{Buf, Bytes};
use kafka_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use kafka_protocol::messages::{TopicName, TransactionalId};
use kafka_protocol::protocol::StrBytes;

use super::Close;

/// Partitions one request may name: more would cost memory out of proportion to any real producer.
const PARTITIONS_MAX: usize = 1_000_000;
/// Elements reserved ahead of what has actually been read.
const RESERVE_MAX: usize = 64;

struct Reader {
    frame: Bytes,
    flexible: bool,
}

fn short() -> Close {
    Close::new("malformed produce request: it ends too early")
}

impl Reader {
    fn take(&mut self, length: usize) -> Result<Bytes, Close> {
        if length > self.frame.len() {
            return Err(short());
        }
        Ok(self.frame.split_to(length))
    }

    fn unsigned_varint(&mut self) -> Result<usize, Close> {
        let mut value = 0usize;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.frame.try_get_u8().map_err(|_| short())?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Close::new("malformed produce request: a varint of more than five bytes"))
    }

    /// Length of a string, byte field or array: none for null.
    fn length(&mut self, read_plain: impl FnOnce(&mut Bytes) -> Option<i64>) -> Result<Option<usize>, Close> {
        if self.flexible {
            return Ok(self.unsigned_varint()?.checked_sub(1));
        }
        match read_plain(&mut self.frame).ok_or_else(short)? {
            -1 => Ok(None),
            length => usize::try_from(length)
                .map(Some)
                .map_err(|_| Close::new("malformed produce request: negative length")),
        }
    }

    fn length_16(&mut self) -> Result<Option<usize>, Close> {
        self.length(|frame| frame.try_get_i16().ok().map(i64::from))
    }

    fn length_32(&mut self) -> Result<Option<usize>, Close> {
        self.length(|frame| frame.try_get_i32().ok().map(i64::from))
    }

    /// A copy: a slice would keep the frame, records and all, for as long as the answer that names the topic waits.
    fn string(&mut self) -> Result<Option<StrBytes>, Close> {
        let Some(length) = self.length_16()? else { return Ok(None) };
        let text = self.take(length)?;
        let text = std::str::from_utf8(&text)
            .map_err(|_| Close::new("malformed produce request: a string that is not UTF-8"))?;
        Ok(Some(StrBytes::from_string(text.to_owned())))
    }

    fn array_length(&mut self) -> Result<usize, Close> {
        self.length_32()?.ok_or_else(|| Close::new("malformed produce request: null array"))
    }

    fn skip_tagged_fields(&mut self) -> Result<(), Close> {
        if self.flexible {
            for _ in 0..self.unsigned_varint()? {
                self.unsigned_varint()?;
                let size = self.unsigned_varint()?;
                self.take(size)?;
            }
        }
        Ok(())
    }
}

/// Decodes a produce request of a version in 3..=13. `records` of each partition is a slice of `body`.
pub fn decode(body: Bytes, version: i16) -> Result<ProduceRequest, Close> {
    assert!((3..=13).contains(&version), "produce version {version} is not in the table's range");
    let mut reader = Reader { frame: body, flexible: version >= 9 };
    let mut request = ProduceRequest::default();
    request.transactional_id = reader.string()?.map(TransactionalId);
    request.acks = reader.frame.try_get_i16().map_err(|_| short())?;
    request.timeout_ms = reader.frame.try_get_i32().map_err(|_| short())?;
    let topics = reader.array_length()?;
    request.topic_data.reserve(topics.min(RESERVE_MAX));
    let mut partitions_total = 0;
    for _ in 0..topics {
        let mut topic = TopicProduceData::default();
        if version <= 12 {
            let name =
                reader.string()?.ok_or_else(|| Close::new("malformed produce request: null topic name"))?;
            topic.name = TopicName(name);
        } else {
            let id = reader.take(16)?;
            topic.topic_id = uuid::Uuid::from_slice(&id).map_err(|_| short())?;
        }
        let partitions = reader.array_length()?;
        topic.partition_data.reserve(partitions.min(RESERVE_MAX));
        for _ in 0..partitions {
            partitions_total += 1;
            if partitions_total > PARTITIONS_MAX {
                return Err(Close::new(format!("produce request for more than {PARTITIONS_MAX} partitions")));
            }
            let mut partition = PartitionProduceData::default();
            partition.index = reader.frame.try_get_i32().map_err(|_| short())?;
            partition.records = match reader.length_32()? {
                Some(length) => Some(reader.take(length)?),
                None => None,
            };
            reader.skip_tagged_fields()?;
            topic.partition_data.push(partition);
        }
        reader.skip_tagged_fields()?;
        request.topic_data.push(topic);
    }
    reader.skip_tagged_fields()?;
    // COMPAT: bytes after the end are ignored, as in every other request (see guard.rs).
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn who_waits_for_an_answer_keeps_nothing_of_the_frame() {
        let partition = PartitionProduceData::default().with_records(Some(Bytes::from(vec![7; 100_000])));
        let topic = TopicProduceData::default()
            .with_name(TopicName(StrBytes::from_static_str("orders")))
            .with_partition_data(vec![partition]);
        let request = ProduceRequest::default().with_acks(-1).with_topic_data(vec![topic]);
        for version in 3..=12 {
            let mut frame = bytes::BytesMut::new();
            request.encode(&mut frame, version).unwrap();
            let frame = frame.freeze();
            let mut decoded = decode(frame.clone(), version).unwrap();
            let name = decoded.topic_data[0].name.clone();
            assert!(!frame.is_unique(), "the records are a slice of it");
            decoded.topic_data.clear();
            assert_eq!(name.as_str(), "orders");
            assert!(frame.is_unique(), "version {version}: the topic's name holds it");
        }
    }
}
