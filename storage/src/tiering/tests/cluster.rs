use std::collections::BTreeMap;

use uuid::Uuid;

use super::{now, store};
use crate::tiering::cluster::{ClusterState, TopicState, commit, load};
use crate::tiering::numbered::NumberedError;
use crate::tiering::store::{Condition, StoreError};
use crate::tiering::testing::{keys, put};

fn state(number: u64) -> ClusterState {
    let configs = BTreeMap::from([("remote.storage.enable".to_owned(), "true".to_owned())]);
    let topic =
        TopicState { name: "prices".to_owned(), id: Uuid::from_u128(1 << 100), partitions: 3, configs };
    ClusterState { number, cluster_id: "c".to_owned(), metadata_offset: 17, topics: vec![topic] }
}

#[test]
fn golden_state() {
    let golden = r#"{"format":1,"number":7,"cluster_id":"c","metadata_offset":17,"topics":[{"name":"prices","id":"AAAAEAAAAAAAAAAAAAAAAA","partitions":3,"configs":{"remote.storage.enable":"true"}}]}"#;
    assert_eq!(String::from_utf8(state(7).encode().unwrap()).unwrap(), golden);
    assert_eq!(ClusterState::decode(golden.as_bytes()).unwrap(), state(7));
    for damaged in [
        "",
        "{}",
        &golden.replace("\"format\":1", "\"format\":2"),
        &golden.replace(":3", ":0"),
        &golden.replace(":3", ":1000001"),
    ] {
        assert!(ClusterState::decode(damaged.as_bytes()).is_err(), "{damaged}");
    }
}

#[test]
fn the_newest_state_is_found_and_a_number_has_one_writer() {
    let store = store();
    assert_eq!(now(load(&store, "p/")).unwrap(), None);
    for number in 1..=5 {
        now(commit(&store, "p/", &state(number))).unwrap();
        assert_eq!(now(load(&store, "p/")).unwrap(), Some(state(number)));
    }
    assert!(matches!(now(commit(&store, "p/", &state(5))), Err(StoreError::Exists(_))));
    assert_eq!(now(keys(&store, "p/tier/v1/cluster/", None)).len(), 3, "old ones are removed");
    now(put(&store, "p/tier/v1/cluster/0000000006.json", "{", Condition::None)).unwrap();
    let told = now(load(&store, "p/")).unwrap_err();
    assert!(matches!(&told, NumberedError::Damaged { key, .. } if key.ends_with("6.json")), "{told}");
}
