//! How far consumer groups have read, so that those of a new cluster go on where those of the lost one were.
//!
//! `tier/v1/groups/<broker>/<number>.json`: what a broker knows as the coordinator of groups, all of it, each number in place of the one
//! before. Of a partition of `__consumer_offsets` that several brokers wrote down, the newest leader's word counts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::manifest::topic_id;
use super::numbered::{self, Numbered, NumberedError, PARTITIONS_MAX};
use super::object::Damaged;
use super::store::{ObjectStore, StoreError};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommittedOffsets {
    /// From 1 on.
    pub number: u64,
    pub broker: i32,
    /// Of `__consumer_offsets`.
    #[serde(with = "topic_id")]
    pub topic_id: Uuid,
    /// How many the topic has.
    pub partition_count: i32,
    /// Those that the broker leads.
    pub partitions: Vec<CoordinatedPartition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatedPartition {
    pub partition: i32,
    pub leader_epoch: i32,
    pub offsets: Vec<GroupOffset>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOffset {
    pub group: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// -1: not known.
    pub leader_epoch: i32,
    /// The client's.
    pub metadata: String,
}

impl GroupOffset {
    /// Of `__consumer_offsets`, whose strings have a length of 16 bits.
    fn fits_a_record(&self) -> bool {
        let is_short = |text: &String| i16::try_from(text.len()).is_ok();
        [&self.group, &self.topic, &self.metadata].into_iter().all(is_short)
            && self.partition >= 0
            && self.offset >= 0
    }
}

impl Numbered for CommittedOffsets {
    const FORMAT: u32 = 1;
    /// A million offsets or so.
    const BYTES_MAX: usize = 128 << 20;
    const WHAT: &'static str = "list of committed offsets";

    fn number(&self) -> u64 {
        self.number
    }

    fn check(&self) -> Result<(), Damaged> {
        let is_one = |partition: &CoordinatedPartition| {
            (0..self.partition_count).contains(&partition.partition) && partition.leader_epoch >= 0
        };
        if !(1..=PARTITIONS_MAX).contains(&self.partition_count) || !self.partitions.iter().all(is_one) {
            return Err(Damaged::new("a partition that cannot be"));
        }
        let mut offsets = self.partitions.iter().flat_map(|partition| &partition.offsets);
        if offsets.all(GroupOffset::fits_a_record) {
            Ok(())
        } else {
            Err(Damaged::new("a committed offset that cannot be"))
        }
    }
}

const ALL: &str = "tier/v1/groups/";

fn folder(prefix: &str, broker: i32) -> String {
    format!("{prefix}{ALL}{broker:010}/")
}

/// The newest of a broker; None if it never wrote any. `prefix`: of all keys of the cluster, empty or with a slash at its end.
pub async fn load(
    store: &dyn ObjectStore,
    prefix: &str,
    broker: i32,
) -> Result<Option<CommittedOffsets>, NumberedError> {
    numbered::load(store, &folder(prefix, broker)).await
}

/// The newest of each broker that ever wrote any.
pub async fn load_all(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<CommittedOffsets>, NumberedError> {
    let all = format!("{prefix}{ALL}");
    let mut brokers: Vec<i32> = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list(&all, after.as_deref()).await?;
        for object in &page.objects {
            let broker = object.key[all.len()..].split('/').next().and_then(|name| name.parse().ok());
            brokers.extend(broker.filter(|broker| brokers.last() != Some(broker)));
        }
        match page.objects.into_iter().next_back() {
            Some(last) if page.is_cut => after = Some(last.key),
            _ => break,
        }
    }
    let mut found = Vec::with_capacity(brokers.len());
    for broker in brokers {
        found.extend(load(store, prefix, broker).await?);
    }
    Ok(found)
}

/// Writes the next; [`StoreError::Exists`] if the number was written before. Then removes one that is too old to be of use.
pub async fn commit(
    store: &dyn ObjectStore,
    prefix: &str,
    offsets: &CommittedOffsets,
) -> Result<(), StoreError> {
    let folder = folder(prefix, offsets.broker);
    numbered::claim(store, &folder, offsets).await?;
    numbered::remove_old(store, &folder, offsets.number).await;
    Ok(())
}

/// Of each partition, what its newest leader wrote.
pub fn newest(all: Vec<CommittedOffsets>) -> BTreeMap<i32, CoordinatedPartition> {
    let mut newest: BTreeMap<i32, CoordinatedPartition> = BTreeMap::new();
    for partition in all.into_iter().flat_map(|written| written.partitions) {
        let known = newest.get(&partition.partition);
        if known.is_none_or(|known| known.leader_epoch < partition.leader_epoch) {
            newest.insert(partition.partition, partition);
        }
    }
    newest
}
