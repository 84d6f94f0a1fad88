//! Golden bytes, written out by hand from Kafka's schemas (group-coordinator/src/main/resources/common/message).

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn offset_record(value: Option<CommittedOffset>) -> Record {
    Record::Offset { group_id: "grp".into(), topic: "orders".into(), partition: 5, value }
}

fn committed() -> CommittedOffset {
    CommittedOffset {
        offset: 42,
        leader_epoch: 7,
        metadata: "m".into(),
        commit_ms: 0x0102_0304,
        expire_ms: None,
    }
}

fn member(instance_id: Option<&str>) -> MemberValue {
    MemberValue {
        member_id: "m-1".into(),
        instance_id: instance_id.map(Into::into),
        client_id: "c".into(),
        client_host: "/h".into(),
        rebalance_timeout_ms: 300,
        session_timeout_ms: 45,
        subscription: Bytes::from_static(&[1, 2]),
        assignment: Bytes::from_static(&[3]),
    }
}

fn group(instance_id: Option<&str>, state_since_ms: Option<i64>) -> GroupValue {
    GroupValue {
        protocol_type: "consumer".into(),
        generation: 3,
        protocol: Some("range".into()),
        leader: Some("m-1".into()),
        state_since_ms,
        members: vec![member(instance_id)],
    }
}

const OFFSET_KEY: &str = "0001 0003 677270 0006 6f7264657273 00000005";
const GROUP_KEY: &str = "0002 0003 677270";

#[test]
fn offset_commit_is_written_as_key_v1_and_value_v3() {
    let record = offset_record(Some(committed()));
    assert_eq!(record.key(), hex(OFFSET_KEY));
    let value = "0003 000000000000002a 00000007 0001 6d 0000000001020304";
    assert_eq!(record.value().unwrap(), hex(value));
}

#[test]
fn offset_commit_with_an_expiry_is_written_as_value_v1() {
    let value = CommittedOffset { expire_ms: Some(9), leader_epoch: -1, ..committed() };
    let record = offset_record(Some(value));
    let bytes = hex("0001 000000000000002a 0001 6d 0000000001020304 0000000000000009");
    assert_eq!(record.value().unwrap(), bytes);
    assert_eq!(parse(Some(&hex(OFFSET_KEY)), Some(&bytes)), Ok(Parsed::Record(record)));
}

#[test]
fn offset_commits_are_read_in_every_version() {
    let body = "000000000000002a";
    for (bytes, leader_epoch) in [
        (format!("0000 {body} 0001 6d 0000000001020304"), -1),
        (format!("0002 {body} 0001 6d 0000000001020304"), -1),
        (format!("0003 {body} 00000007 0001 6d 0000000001020304"), 7),
        (format!("0004 {body} 00000007 02 6d 0000000001020304 00"), 7),
        // A tagged field that this version does not know.
        (format!("0004 {body} 00000007 02 6d 0000000001020304 01 00 02 aabb"), 7),
    ] {
        let expected = offset_record(Some(CommittedOffset { leader_epoch, ..committed() }));
        assert_eq!(
            parse(Some(&hex(OFFSET_KEY)), Some(&hex(&bytes))),
            Ok(Parsed::Record(expected)),
            "{bytes}"
        );
    }
    let v0_key = hex(&OFFSET_KEY.replacen("0001", "0000", 1));
    assert_eq!(parse(Some(&v0_key), None), Ok(Parsed::Record(offset_record(None))));
}

#[test]
fn group_metadata_is_written_as_key_v2_and_value_v3() {
    let record = Record::Group { group_id: "grp".into(), value: Some(group(Some("i"), Some(6))) };
    assert_eq!(record.key(), hex(GROUP_KEY));
    let bytes =
        hex("0003 0008 636f6e73756d6572 00000003 0005 72616e6765 0003 6d2d31 0000000000000006 00000001
        0003 6d2d31 0001 69 0001 63 0002 2f68 0000012c 0000002d 00000002 0102 00000001 03");
    assert_eq!(record.value().unwrap(), bytes);
    assert_eq!(parse(Some(&hex(GROUP_KEY)), Some(&bytes)), Ok(Parsed::Record(record)));
}

#[test]
fn group_metadata_is_read_in_every_version() {
    let head = "0008 636f6e73756d6572 00000003 0005 72616e6765 0003 6d2d31";
    let tail = "00000002 0102 00000001 03";
    let v0_member = MemberValue { rebalance_timeout_ms: 45, ..member(None) };
    let v0 = GroupValue { members: vec![v0_member], ..group(None, None) };
    for (bytes, expected) in [
        (format!("0000 {head} 00000001 0003 6d2d31 0001 63 0002 2f68 0000002d {tail}"), v0),
        (
            format!("0001 {head} 00000001 0003 6d2d31 0001 63 0002 2f68 0000012c 0000002d {tail}"),
            group(None, None),
        ),
        (
            format!(
                "0002 {head} 0000000000000006 00000001 0003 6d2d31 0001 63 0002 2f68 0000012c 0000002d {tail}"
            ),
            group(None, Some(6)),
        ),
        (
            "0004 09 636f6e73756d6572 00000003 06 72616e6765 04 6d2d31 0000000000000006 02
             04 6d2d31 00 02 63 03 2f68 0000012c 0000002d 03 0102 02 03 00 00"
                .to_owned(),
            group(None, Some(6)),
        ),
    ] {
        let expected = Record::Group { group_id: "grp".into(), value: Some(expected) };
        assert_eq!(parse(Some(&hex(GROUP_KEY)), Some(&hex(&bytes))), Ok(Parsed::Record(expected)), "{bytes}");
    }
}

#[test]
fn an_empty_group_has_null_protocol_and_leader() {
    let value = GroupValue { protocol: None, leader: None, members: vec![], ..group(None, Some(6)) };
    let record = Record::Group { group_id: "grp".into(), value: Some(value) };
    let bytes = hex("0003 0008 636f6e73756d6572 00000003 ffff ffff 0000000000000006 00000000");
    assert_eq!(record.value().unwrap(), bytes);
    assert_eq!(parse(Some(&hex(GROUP_KEY)), Some(&bytes)), Ok(Parsed::Record(record)));
}

#[test]
fn tombstones_have_no_value() {
    assert_eq!(offset_record(None).value(), None);
    assert_eq!(
        parse(Some(&hex(GROUP_KEY)), None),
        Ok(Parsed::Record(Record::Group { group_id: "grp".into(), value: None }))
    );
}

#[test]
fn unknown_key_versions_are_skipped() {
    for version in [3_i16, 14, 21, i16::MAX, -1] {
        let key = version.to_be_bytes();
        assert_eq!(parse(Some(&key), Some(b"whatever")), Ok(Parsed::UnknownKey(version)));
    }
}

#[test]
fn every_truncation_is_an_error_and_no_length_is_believed() {
    let values = [
        (OFFSET_KEY, offset_record(Some(committed())).value().unwrap()),
        (
            GROUP_KEY,
            Record::Group { group_id: "g".into(), value: Some(group(Some("i"), None)) }.value().unwrap(),
        ),
    ];
    for (key, value) in values {
        let key = hex(key);
        for cut in 0..value.len() {
            assert!(parse(Some(&key), Some(&value[..cut])).is_err(), "{cut} bytes of {value:?}");
        }
        for cut in 0..key.len() {
            assert!(parse(Some(&key[..cut]), Some(&value)).is_err());
        }
    }
    assert_eq!(parse(None, None), Err(RecordError::NoKey));
    let huge_count = hex("0003 0000 00000003 ffff ffff 0000000000000006 7fffffff");
    assert!(parse(Some(&hex(GROUP_KEY)), Some(&huge_count)).is_err());
    let bad_version = hex("0005 0000");
    assert!(matches!(
        parse(Some(&hex(GROUP_KEY)), Some(&bad_version)),
        Err(RecordError::ValueVersion { version: 5, .. })
    ));
}
