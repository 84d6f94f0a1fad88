use ottla_batch::{LeaderEpoch, Offset};
use uuid::Uuid;

use crate::tiering::key::{SegmentKey, partition_prefix};

const GOLDEN: &str =
    "tier/v1/AAAAAAAAAAEAAAAAAAAAAg/7/00000000000000000042-00000000000000001042-0000000003-00c0ffee.seg";

fn key() -> SegmentKey {
    SegmentKey {
        topic_id: Uuid::from_u64_pair(1, 2),
        partition: 7,
        base_offset: Offset(42),
        end_offset: Offset(1042),
        leader_epoch: LeaderEpoch(3),
        suffix: 0xc0_ffee,
    }
}

#[test]
fn golden_key() {
    assert_eq!(key().to_string(), GOLDEN);
    assert_eq!(SegmentKey::parse(GOLDEN), Some(key()));
    assert!(GOLDEN.starts_with(&partition_prefix(key().topic_id, 7)));
}

#[test]
fn what_is_not_written_so_is_no_key() {
    for (from, to) in [
        ("v1", "v2"),
        (".seg", ".parquet"),
        ("/7/", "/07/"),
        ("/7/", "/-7/"),
        ("AAg/", "AAh/"),
        ("-00c0ffee", "-0c0ffee"),
        ("00c0ffee", "00C0FFEE"),
        ("42-", "+42-"),
        ("1042-", "0042-"),
        ("-0000000003", ""),
        (".seg", "-1.seg"),
    ] {
        let other = GOLDEN.replacen(from, to, 1);
        assert_ne!(other, GOLDEN);
        assert_eq!(SegmentKey::parse(&other), None, "{other}");
    }
}
