//! OffsetCommit v10 and OffsetFetch v10: topics by id instead of by name (KIP-848). kafka-protocol knows their responses
//! but decodes the requests only to v9, and keeps its decoders of single fields to itself, so these two are read here.
//!
//! Nothing is reserved by a claimed length: vectors grow with the elements that are there, and net caps the frame.

use bytes::{Buf, Bytes};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, OffsetFetchRequest};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{Close, guard};

const FIRST_WITH_TOPIC_IDS: i16 = 10;

pub fn decode_offset_commit(body: Bytes, version: i16) -> Result<OffsetCommitRequest, Close> {
    if version < FIRST_WITH_TOPIC_IDS {
        return guard::decode(body, version);
    }
    let mut reader = Reader(body);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(reader.string()?))
        .with_generation_id_or_member_epoch(reader.i32()?)
        .with_member_id(reader.string()?)
        .with_group_instance_id(reader.nullable_string()?)
        .with_topics(reader.array(|reader| {
            let topic = OffsetCommitRequestTopic::default()
                .with_topic_id(reader.uuid()?)
                .with_partitions(reader.array(Reader::committed)?);
            reader.skip_tags()?;
            Ok(topic)
        })?);
    reader.skip_tags()?;
    Ok(request)
}

pub fn decode_offset_fetch(body: Bytes, version: i16) -> Result<OffsetFetchRequest, Close> {
    if version < FIRST_WITH_TOPIC_IDS {
        return guard::decode(body, version);
    }
    let mut reader = Reader(body);
    let request = OffsetFetchRequest::default()
        .with_groups(reader.array(|reader| {
            let group = OffsetFetchRequestGroup::default()
                .with_group_id(GroupId(reader.string()?))
                .with_member_id(reader.nullable_string()?)
                .with_member_epoch(reader.i32()?)
                .with_topics(reader.nullable_array(|reader| {
                    let topic = OffsetFetchRequestTopics::default()
                        .with_topic_id(reader.uuid()?)
                        .with_partition_indexes(reader.array(Reader::i32)?);
                    reader.skip_tags()?;
                    Ok(topic)
                })?);
            reader.skip_tags()?;
            Ok(group)
        })?)
        .with_require_stable(reader.bool()?);
    reader.skip_tags()?;
    Ok(request)
}

/// Reads the flexible encoding from a frame.
struct Reader(Bytes);

fn malformed(what: &str) -> Close {
    Close::new(format!("malformed request body: {what}"))
}

impl Reader {
    fn take(&mut self, size: usize) -> Result<Bytes, Close> {
        if size > self.0.len() {
            return Err(malformed("it ends early"));
        }
        Ok(self.0.split_to(size))
    }

    fn i32(&mut self) -> Result<i32, Close> {
        self.0.try_get_i32().map_err(|_| malformed("it ends early"))
    }

    fn i64(&mut self) -> Result<i64, Close> {
        self.0.try_get_i64().map_err(|_| malformed("it ends early"))
    }

    fn bool(&mut self) -> Result<bool, Close> {
        self.0.try_get_u8().map(|byte| byte != 0).map_err(|_| malformed("it ends early"))
    }

    fn uuid(&mut self) -> Result<Uuid, Close> {
        Uuid::from_slice(&self.take(16)?).map_err(|_| malformed("a topic id"))
    }

    fn varint(&mut self) -> Result<usize, Close> {
        let mut value = 0_u64;
        for shift in (0..35).step_by(7) {
            let byte = self.0.try_get_u8().map_err(|_| malformed("it ends early"))?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map(|value| value as usize).map_err(|_| malformed("a length"));
            }
        }
        Err(malformed("a length"))
    }

    fn nullable_string(&mut self) -> Result<Option<StrBytes>, Close> {
        let Some(size) = self.varint()?.checked_sub(1) else { return Ok(None) };
        let bytes = self.take(size)?;
        StrBytes::try_from(bytes).map(Some).map_err(|_| malformed("a string is not UTF-8"))
    }

    fn string(&mut self) -> Result<StrBytes, Close> {
        self.nullable_string()?.ok_or_else(|| malformed("a string is null"))
    }

    fn nullable_array<T>(
        &mut self,
        element: impl Fn(&mut Reader) -> Result<T, Close>,
    ) -> Result<Option<Vec<T>>, Close> {
        let Some(count) = self.varint()?.checked_sub(1) else { return Ok(None) };
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(element(self)?);
        }
        Ok(Some(elements))
    }

    fn array<T>(&mut self, element: impl Fn(&mut Reader) -> Result<T, Close>) -> Result<Vec<T>, Close> {
        self.nullable_array(element)?.ok_or_else(|| malformed("an array is null"))
    }

    fn committed(&mut self) -> Result<OffsetCommitRequestPartition, Close> {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(self.i32()?)
            .with_committed_offset(self.i64()?)
            .with_committed_leader_epoch(self.i32()?)
            .with_committed_metadata(self.nullable_string()?);
        self.skip_tags()?;
        Ok(partition)
    }

    fn skip_tags(&mut self) -> Result<(), Close> {
        for _ in 0..self.varint()? {
            self.varint()?;
            let size = self.varint()?;
            self.take(size)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = [7; 16];

    #[test]
    fn an_offset_commit_names_its_topics_by_id() {
        let mut body = vec![2, b'g', 0, 0, 0, 3, 2, b'm', 0, 2];
        body.extend(ID);
        body.extend([2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 42, 0, 0, 0, 1, 2, b'x', 0, 0, 0]);
        let request = decode_offset_commit(body.clone().into(), 10).unwrap();
        assert_eq!((&*request.group_id.0, request.generation_id_or_member_epoch), ("g", 3));
        assert_eq!((&*request.member_id, request.group_instance_id.as_ref()), ("m", None));
        assert_eq!(request.topics[0].topic_id.as_bytes(), &ID);
        let partition = &request.topics[0].partitions[0];
        assert_eq!((partition.partition_index, partition.committed_offset), (5, 42));
        assert_eq!(partition.committed_metadata.as_deref(), Some("x"));
        for cut in 0..body.len() {
            assert!(decode_offset_commit(body[..cut].to_vec().into(), 10).is_err(), "{cut}");
        }
    }

    #[test]
    fn an_offset_fetch_names_its_topics_by_id_or_asks_for_all() {
        let mut body = vec![3, 2, b'g', 0, 0xff, 0xff, 0xff, 0xff, 2];
        body.extend(ID);
        body.extend([3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
        body.extend([2, b'h', 2, b'm', 0, 0, 0, 4, 0, 0, 1, 0]);
        let request = decode_offset_fetch(body.into(), 10).unwrap();
        assert!(request.require_stable);
        let topics = request.groups[0].topics.as_ref().unwrap();
        assert_eq!((topics[0].topic_id.as_bytes(), &topics[0].partition_indexes[..]), (&ID, &[0, 1][..]));
        assert_eq!((request.groups[1].topics.as_ref(), request.groups[1].member_epoch), (None, 4));
    }
}
