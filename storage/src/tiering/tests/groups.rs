use uuid::Uuid;

use super::{now, store};
use crate::tiering::groups::{
    CommittedOffsets, CoordinatedPartition, GroupOffset, commit, load, load_all, newest,
};
use crate::tiering::numbered::{NumberedError, decode, encode};
use crate::tiering::store::{Condition, StoreError};
use crate::tiering::testing::{keys, put};

fn offsets(number: u64, broker: i32, leader_epoch: i32, offset: i64) -> CommittedOffsets {
    let one = GroupOffset {
        group: "g".to_owned(),
        topic: "prices".to_owned(),
        partition: 2,
        offset,
        leader_epoch: 4,
        metadata: "mine".to_owned(),
    };
    CommittedOffsets {
        number,
        broker,
        topic_id: Uuid::from_u128(1 << 100),
        partition_count: 50,
        partitions: vec![CoordinatedPartition { partition: 17, leader_epoch, offsets: vec![one] }],
    }
}

#[test]
fn golden_offsets() {
    let golden = r#"{"format":1,"number":7,"broker":3,"topic_id":"AAAAEAAAAAAAAAAAAAAAAA","partition_count":50,"partitions":[{"partition":17,"leader_epoch":5,"offsets":[{"group":"g","topic":"prices","partition":2,"offset":12,"leader_epoch":4,"metadata":"mine"}]}]}"#;
    assert_eq!(String::from_utf8(encode(&offsets(7, 3, 5, 12)).unwrap()).unwrap(), golden);
    assert_eq!(decode::<CommittedOffsets>(golden.as_bytes()).unwrap(), offsets(7, 3, 5, 12));
    for damaged in [
        "",
        "{}",
        &golden.replace("\"format\":1", "\"format\":2"),
        &golden.replace("\"number\":7", "\"number\":0"),
        &golden.replace(":17", ":50"),
        &golden.replace(":17", ":-1"),
        &golden.replace("\"leader_epoch\":5", "\"leader_epoch\":-5"),
        // Of these no log could be made, or no record.
        &golden.replace(":50", ":1000001"),
        &golden.replace("\"offset\":12", "\"offset\":-1"),
        &golden.replace("\"g\"", &format!("\"{}\"", "g".repeat(32_768))),
        &golden.replace("prices", &"t".repeat(32_768)),
        &golden.replace("mine", &"m".repeat(32_768)),
    ] {
        assert!(decode::<CommittedOffsets>(damaged.as_bytes()).is_err(), "{damaged}");
    }
}

#[test]
fn of_each_partition_the_newest_leader_counts() {
    let store = store();
    assert_eq!(now(load_all(&store, "p/")).unwrap(), []);
    for number in 1..=5 {
        now(commit(&store, "p/", &offsets(number, 3, 5, number as i64))).unwrap();
    }
    now(commit(&store, "p/", &offsets(1, 12, 6, 100))).unwrap();
    now(commit(&store, "p/", &offsets(9, 13, 4, 200))).unwrap();
    assert!(matches!(now(commit(&store, "p/", &offsets(5, 3, 5, 0))), Err(StoreError::Exists(_))));
    assert_eq!(now(keys(&store, "p/tier/v1/groups/0000000003/", None)).len(), 3, "old ones are removed");
    assert_eq!(now(load(&store, "p/", 3)).unwrap(), Some(offsets(5, 3, 5, 5)));
    let all = now(load_all(&store, "p/")).unwrap();
    assert_eq!(all.iter().map(|written| written.broker).collect::<Vec<_>>(), [3, 12, 13]);
    assert_eq!(newest(all)[&17].offsets[0].offset, 100);
    now(put(&store, "p/tier/v1/groups/0000000003/0000000006.json", "{", Condition::None)).unwrap();
    let told = now(load_all(&store, "p/")).unwrap_err();
    assert!(matches!(&told, NumberedError::Damaged { key, .. } if key.ends_with("6.json")), "{told}");
}
