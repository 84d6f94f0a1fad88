//! AlterPartitionReassignments (KIP-455, KIP-860).

use super::Draft;
use crate::requests::{AlterPartitionReassignments, ReassignmentError, ReassignmentItem, ReassignmentResult};

pub(super) fn decide(
    request: &AlterPartitionReassignments,
    draft: &mut Draft<'_>,
) -> Vec<ReassignmentResult> {
    request
        .items
        .iter()
        .map(|item| ReassignmentResult {
            topic: item.topic.clone(),
            partition: item.partition,
            result: reassign(item, draft),
        })
        .collect()
}

fn reassign(item: &ReassignmentItem, draft: &mut Draft<'_>) -> Result<(), ReassignmentError> {
    if draft.image.partition(&item.topic, item.partition).is_none() {
        return Err(ReassignmentError::UnknownTopicOrPartition);
    }
    match &item.replicas {
        None => Err(ReassignmentError::NoReassignmentInProgress),
        Some(_) => Err(ReassignmentError::InvalidReplicaAssignment(
            "this release does not move partitions between brokers".into(),
        )),
    }
}
