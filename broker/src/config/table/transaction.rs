//! Keys of transactions.

use super::Check::*;
use super::Default::*;
use super::Effect::*;
use super::Kind::*;
use super::Update::*;
use super::{Key, key};

#[rustfmt::skip] // One key is one row.
pub(super) const KEYS: &[Key] = &[
    key("transaction.max.timeout.ms", Int, Is("900000"), AtLeast(1), ReadOnly, Known,
        "Longest transaction a producer may ask for."),
    key("transaction.abort.timed.out.transaction.cleanup.interval.ms", Int, Is("10000"), AtLeast(1), ReadOnly, Known,
        "How often transactions past their time are aborted."),
    key("transaction.remove.expired.transaction.cleanup.interval.ms", Int, Is("3600000"), AtLeast(1), ReadOnly, Known,
        "How often expired transactional ids are removed."),
    key("transaction.partition.verification.enable", Boolean, Is("true"), Any, ClusterWide, Known,
        "Whether an append is checked to belong to an open transaction."),
    key("transaction.state.log.load.buffer.size", Int, Is("5242880"), AtLeast(1), ReadOnly, Known,
        "Bytes read at a time when transactions are loaded."),
    key("transaction.state.log.min.isr", Int, Is("2"), AtLeast(1), ReadOnly, Known,
        "In-sync replicas that `__transaction_state` needs."),
    key("transaction.state.log.num.partitions", Int, Is("50"), AtLeast(1), ReadOnly, Known,
        "Partitions of `__transaction_state`."),
    key("transaction.state.log.replication.factor", Short, Is("3"), AtLeast(1), ReadOnly, Known,
        "Replicas of `__transaction_state`."),
    key("transaction.state.log.segment.bytes", Int, Is("104857600"), AtLeast(1), ReadOnly, Known,
        "Segment size of `__transaction_state`."),
    key("transaction.two.phase.commit.enable", Boolean, Is("false"), Any, ReadOnly, Known,
        "Whether producers may take part in two-phase commits (KIP-939)."),
    key("transactional.id.expiration.ms", Int, Is("604800000"), AtLeast(1), ReadOnly, Known,
        "After how long without use a transactional id is forgotten."),
    key("add.partitions.to.txn.retry.backoff.ms", Int, Is("20"), AtLeast(1), ReadOnly, Known,
        "Pause before AddPartitionsToTxn is tried again by the broker."),
    key("add.partitions.to.txn.retry.backoff.max.ms", Int, Is("100"), AtLeast(0), ReadOnly, Known,
        "How long AddPartitionsToTxn is tried again by the broker."),
];
