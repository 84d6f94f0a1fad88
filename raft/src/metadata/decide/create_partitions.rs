//! CreatePartitions: more partitions for an existing topic; each topic by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::create_topics::new_partition;
use super::{Draft, PARTITIONS_MAX, check_manual_replicas, placer};
use crate::metadata::ids::{BrokerId, TopicId};
use crate::metadata::records::{PartitionState, Record};
use crate::requests::{CreatePartitions, CreatePartitionsError, CreatePartitionsResult, NewPartitions};

pub(super) fn decide(request: &CreatePartitions, draft: &mut Draft<'_>) -> Vec<CreatePartitionsResult> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in &request.topics {
        *seen.entry(&topic.name).or_default() += 1;
    }
    let mut answered = BTreeSet::new();
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        if !answered.insert(topic.name.as_str()) {
            continue;
        }
        let result = if seen[topic.name.as_str()] > 1 {
            Err(CreatePartitionsError::InvalidRequest("the request names this topic more than once".into()))
        } else {
            add(topic, draft)
        };
        results.push(CreatePartitionsResult { name: topic.name.clone(), result });
    }
    if request.validate_only {
        draft.discard();
    }
    results
}

fn add(request: &NewPartitions, draft: &mut Draft<'_>) -> Result<(), CreatePartitionsError> {
    let topic =
        draft.image.topic_by_name(&request.name).cloned().ok_or(CreatePartitionsError::UnknownTopic)?;
    let current = topic.partitions.len() as i32;
    if request.count == current {
        return Err(CreatePartitionsError::InvalidPartitions(format!(
            "the topic has {current} partition(s) already"
        )));
    }
    if request.count < current {
        return Err(CreatePartitionsError::InvalidPartitions(format!(
            "the topic has {current} partition(s), {} would be fewer",
            request.count
        )));
    }
    let additional = (request.count - current) as usize;
    if let Some(assignments) = &request.assignments
        && assignments.len() != additional
    {
        return Err(CreatePartitionsError::InvalidReplicaAssignment(format!(
            "{additional} partition(s) are to be added, but {} assignment(s) are given",
            assignments.len()
        )));
    }
    if !draft.room_for(additional) {
        return Err(CreatePartitionsError::LimitReached(format!(
            "the request is too large: it may write {} records",
            super::RECORDS_PER_REQUEST_MAX
        )));
    }
    if draft.image.partition_count + additional > PARTITIONS_MAX {
        return Err(CreatePartitionsError::LimitReached(format!(
            "the cluster may have {PARTITIONS_MAX} partitions"
        )));
    }
    // A topic always has partition 0, and new partitions take after it.
    let factor = topic.partitions.front().map_or(1, |first| first.replicas.len());
    let states = match &request.assignments {
        Some(assignments) => manual(assignments, current, factor, draft)?,
        None => place(additional, factor, draft)?,
    };
    push(topic.id, current, states, draft);
    Ok(())
}

fn manual(
    assignments: &[Vec<BrokerId>],
    first: i32,
    factor: usize,
    draft: &Draft<'_>,
) -> Result<Vec<PartitionState>, CreatePartitionsError> {
    let invalid = CreatePartitionsError::InvalidReplicaAssignment;
    let mut states = Vec::with_capacity(assignments.len());
    for (partition, replicas) in (first..).zip(assignments) {
        check_manual_replicas(&draft.image, partition, replicas, Some(factor)).map_err(invalid)?;
        let state = new_partition(&draft.image, replicas.clone()).ok_or_else(|| {
            invalid(format!("all brokers assigned to partition {partition} are fenced or shutting down"))
        })?;
        states.push(state);
    }
    Ok(states)
}

fn place(
    additional: usize,
    factor: usize,
    draft: &mut Draft<'_>,
) -> Result<Vec<PartitionState>, CreatePartitionsError> {
    let refused = |reason: String| {
        CreatePartitionsError::InvalidReplicationFactor(format!(
            "a partition cannot have {factor} replica(s): {reason}"
        ))
    };
    let mut placer = placer(&draft.image, &mut draft.random);
    let mut states = Vec::with_capacity(additional);
    for _ in 0..additional {
        let replicas = placer.place(factor as i32).map_err(|error| refused(error.to_string()))?;
        let state = new_partition(&draft.image, replicas)
            .ok_or_else(|| refused("all brokers are fenced or shutting down".into()))?;
        states.push(state);
    }
    Ok(states)
}

fn push(topic: TopicId, first: i32, states: Vec<PartitionState>, draft: &mut Draft<'_>) {
    for (partition, state) in (first..).zip(states) {
        draft.push(Record::PartitionCreated { topic, partition, state });
    }
}
