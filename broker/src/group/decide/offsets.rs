//! Committed offsets: who may commit, what is deleted, and when offsets expire.

use std::collections::BTreeMap;

use ottla_batch::planted;

use super::*;
use crate::group::records::CommittedOffset;
use crate::group::{CommitOffsets, CommitPartition, DeleteOffsets};

/// The offsets of one group: topic, partition.
pub type Offsets = BTreeMap<Arc<str>, BTreeMap<i32, CommittedOffset>>;

fn check_commit(group: Option<&Group>, request: &CommitOffsets) -> Result<(), GroupError> {
    let Some(group) = group else {
        // Whoever does not use group management may commit to a group that nobody else knows.
        return if request.generation < 0 { Ok(()) } else { Err(GroupError::IllegalGeneration) };
    };
    if group.state == GroupState::Dead {
        return Err(GroupError::CoordinatorNotAvailable);
    }
    if request.generation < 0 && group.state == GroupState::Empty {
        return Ok(());
    }
    if request.generation >= 0 || !request.member_id.is_empty() || request.instance_id.is_some() {
        check_member(group, &request.member_id, request.instance_id.as_deref())?;
        if request.generation != group.generation && !planted!("stale-generation-commits") {
            return Err(GroupError::IllegalGeneration);
        }
    } else if group.state != GroupState::Empty {
        return Err(GroupError::UnknownMemberId);
    }
    if group.state == GroupState::CompletingRebalance {
        // The member knows the generation but not yet what it owns; it may commit after its SyncGroup.
        return Err(GroupError::RebalanceInProgress);
    }
    Ok(())
}

/// What a commit writes, and its answer once that is durable.
pub fn decide_commit(
    group: Option<&Group>,
    request: &CommitOffsets,
    now: Now,
    rules: &Rules,
) -> Result<(Vec<Record>, PartitionResults), GroupError> {
    check_commit(group, request)?;
    let mut records = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let mut results = Vec::with_capacity(topic.partitions.len());
        for commit in &topic.partitions {
            if commit.metadata.len() > rules.metadata_bytes_max {
                results.push((commit.partition, Err(GroupError::OffsetMetadataTooLarge)));
                continue;
            }
            results.push((commit.partition, Ok(())));
            records.push(Record::Offset {
                group_id: request.group_id.clone(),
                topic: topic.name.clone(),
                partition: commit.partition,
                value: Some(committed(commit, request.retention_ms, now)),
            });
        }
        topics.push((topic.name.clone(), results));
    }
    Ok((records, PartitionResults { topics }))
}

fn committed(commit: &CommitPartition, retention_ms: Option<i64>, now: Now) -> CommittedOffset {
    CommittedOffset {
        offset: commit.offset,
        leader_epoch: commit.leader_epoch,
        metadata: commit.metadata.clone(),
        commit_ms: now.wall_ms,
        expire_ms: retention_ms.map(|retention_ms| now.wall_ms.saturating_add(retention_ms)),
    }
}

/// OffsetDelete: only of topics that no member consumes.
pub fn decide_delete_offsets(
    group: &Group,
    offsets: &Offsets,
    request: &DeleteOffsets,
) -> Result<(Vec<Record>, PartitionResults), GroupError> {
    match group.state {
        GroupState::Dead => return Err(GroupError::GroupIdNotFound),
        GroupState::Empty => {}
        GroupState::PreparingRebalance | GroupState::CompletingRebalance | GroupState::Stable => {
            // What other members than consumers (Connect) subscribe to cannot be known.
            if !group.is_consumer_group() {
                return Err(GroupError::NonEmptyGroup);
            }
        }
    }
    let mut records = Vec::new();
    let mut topics = Vec::with_capacity(request.topics.len());
    for (topic, partitions) in &request.topics {
        let known = offsets.get(topic);
        let result = if group.state != GroupState::Empty && group.is_subscribed_to(topic) {
            Err(GroupError::GroupSubscribedToTopic)
        } else {
            Ok(())
        };
        for partition in partitions {
            if result.is_ok() && known.is_some_and(|known| known.contains_key(partition)) {
                records.push(tombstone(&request.group_id, topic, *partition));
            }
        }
        topics.push((topic.clone(), partitions.iter().map(|partition| (*partition, result)).collect()));
    }
    Ok((records, PartitionResults { topics }))
}

pub fn tombstone(group_id: &GroupId, topic: &Arc<str>, partition: i32) -> Record {
    Record::Offset { group_id: group_id.clone(), topic: topic.clone(), partition, value: None }
}

/// From when on an offset's retention runs (KIP-211); `None`: it does not expire.
fn retention_base_ms(group: &Group, topic: &str, committed: &CommittedOffset) -> Option<i64> {
    match (&group.protocol_type, group.state) {
        // A group of committed offsets only.
        (None, _) => Some(committed.commit_ms),
        (Some(_), GroupState::Empty) => Some(group.state_since_ms.unwrap_or(committed.commit_ms)),
        (Some(_), GroupState::Stable)
            if group.subscribed_topics.is_some() && !group.is_subscribed_to(topic) =>
        {
            Some(committed.commit_ms)
        }
        (Some(_), _) => None,
    }
}

/// The tombstones of the offsets that have expired.
pub fn decide_expiry(
    group_id: &GroupId,
    group: &Group,
    offsets: &Offsets,
    now: Now,
    rules: &Rules,
) -> Vec<Record> {
    let mut records = Vec::new();
    for (topic, partitions) in offsets {
        for (partition, committed) in partitions {
            let Some(base_ms) = retention_base_ms(group, topic, committed) else { continue };
            let expires_ms =
                committed.expire_ms.unwrap_or_else(|| base_ms.saturating_add(rules.retention_ms));
            if now.wall_ms >= expires_ms {
                records.push(tombstone(group_id, topic, *partition));
            }
        }
    }
    records
}

/// The tombstone of a group without members once its last offset is gone.
pub fn expired_group(group_id: &GroupId, group: &Group) -> Option<Record> {
    (group.state == GroupState::Empty && group.pending_members.is_empty())
        .then(|| Record::Group { group_id: group_id.clone(), value: None })
}
