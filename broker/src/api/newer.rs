//! Response versions newer than kafka-protocol's schemas: everything is as in the last version it knows, but for one
//! field at the end of each array element, right before the element's tagged fields.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{DeleteGroupsResponse, DescribeLogDirsResponse};
use kafka_protocol::protocol::Encodable;

use super::{Close, table};

/// DescribeLogDirs v5 (KIP-1066) adds IsCordoned to each directory; none is ever cordoned here.
pub fn encode_describe_log_dirs(response: &DescribeLogDirsResponse, version: i16) -> Result<Bytes, Close> {
    if version < 5 {
        return table::encode(response, version);
    }
    let mut buffer = BytesMut::new();
    buffer.put_i32(response.throttle_time_ms);
    buffer.put_i16(response.error_code);
    put_unsigned_varint(&mut buffer, response.results.len() + 1);
    for result in &response.results {
        put_extended(&mut buffer, result, 4, |buffer| buffer.put_u8(0))?;
    }
    buffer.put_u8(0);
    Ok(buffer.freeze())
}

/// DeleteGroups v3 (Kafka 4.4) adds a message to each group's error.
pub fn encode_delete_groups(response: &DeleteGroupsResponse, version: i16) -> Result<Bytes, Close> {
    if version < 3 {
        return table::encode(response, version);
    }
    let mut buffer = BytesMut::new();
    buffer.put_i32(response.throttle_time_ms);
    put_unsigned_varint(&mut buffer, response.results.len() + 1);
    for result in &response.results {
        put_extended(&mut buffer, result, 2, |buffer| {
            match ResponseError::try_from_code(result.error_code) {
                None => buffer.put_u8(0),
                Some(error) => {
                    let message = error.to_string();
                    put_unsigned_varint(buffer, message.len() + 1);
                    buffer.put_slice(message.as_bytes());
                }
            }
        })?;
    }
    buffer.put_u8(0);
    Ok(buffer.freeze())
}

/// Encodes an element as `version` and adds a field before its (empty) tagged fields.
fn put_extended(
    buffer: &mut BytesMut,
    element: &impl Encodable,
    version: i16,
    put_field: impl FnOnce(&mut BytesMut),
) -> Result<(), Close> {
    element
        .encode(buffer, version)
        .map_err(|error| Close::new(format!("the response cannot be encoded: {error:#}")))?;
    let tagged_fields = buffer.split_off(buffer.len() - 1);
    assert_eq!(&tagged_fields[..], [0], "an element of a response carries tagged fields");
    put_field(buffer);
    buffer.put_u8(0);
    Ok(())
}

fn put_unsigned_varint(buffer: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        buffer.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::GroupId;
    use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
    use kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult;
    use kafka_protocol::protocol::StrBytes;

    #[test]
    fn the_new_field_stands_at_the_end_of_each_element() {
        let mut response = DescribeLogDirsResponse::default();
        response.results.push(
            DescribeLogDirsResult::default()
                .with_log_dir(StrBytes::from_static_str("/d"))
                .with_total_bytes(1)
                .with_usable_bytes(2),
        );
        let v5 = encode_describe_log_dirs(&response, 5).unwrap();
        let v4 = encode_describe_log_dirs(&response, 4).unwrap();
        // The element's tagged fields and the body's are the last two bytes of version 4.
        let mut expected = v4[..v4.len() - 2].to_vec();
        expected.extend([0, 0, 0]);
        assert_eq!(v5, expected);

        let mut response = DeleteGroupsResponse::default();
        let group = DeletableGroupResult::default().with_group_id(GroupId(StrBytes::from_static_str("g")));
        response.results.push(group.clone());
        response.results.push(group.with_error_code(ResponseError::GroupIdNotFound.code()));
        let v3 = encode_delete_groups(&response, 3).unwrap();
        let message = ResponseError::GroupIdNotFound.to_string();
        let mut expected = vec![0, 0, 0, 0, 3];
        expected.extend([2, b'g', 0, 0, 0, 0]);
        expected.extend([2, b'g', 0, 69, message.len() as u8 + 1]);
        expected.extend(message.as_bytes());
        expected.extend([0, 0]);
        assert_eq!(v3, expected);
    }
}
