//! AlterPartitionReassignments (KIP-455, KIP-860): new replicas for partitions, while they are used.
//!
//! A partition that is moving has the new replicas, and after them those that are to go. Followers of both fetch; once all
//! that are to stay are in sync, the change of the in-sync set that says so also ends the move (`election`).

use std::collections::BTreeSet;

use super::{Draft, check_manual_replicas};
use crate::metadata::election::{Assignment, Election, Proposal};
use crate::metadata::ids::BrokerId;
use crate::metadata::image::Partition;
use crate::metadata::records::Record;
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
            result: reassign(item, request.allow_replication_factor_change, draft),
        })
        .collect()
}

fn reassign(
    item: &ReassignmentItem,
    may_change_factor: bool,
    draft: &mut Draft<'_>,
) -> Result<(), ReassignmentError> {
    let topic =
        draft.image.topic_by_name(&item.topic).cloned().ok_or(ReassignmentError::UnknownTopicOrPartition)?;
    let state = topic.partition(item.partition).ok_or(ReassignmentError::UnknownTopicOrPartition)?;
    if !draft.room_for(1) {
        return Err(ReassignmentError::LimitReached(format!(
            "the request is too large: it may write {} records",
            super::RECORDS_PER_REQUEST_MAX
        )));
    }
    let rules = draft.topic_rules(&topic.name);
    let proposal = match &item.replicas {
        Some(replicas) => {
            check_manual_replicas(&draft.image, item.partition, replicas, None)
                .map_err(ReassignmentError::InvalidReplicaAssignment)?;
            if !may_change_factor {
                check_factor(state, replicas)?;
            }
            Proposal { assignment: Some(assignment(state, replicas)), ..Proposal::new(Election::Online) }
        }
        None => cancel(state, rules.election)?,
    };
    let change = draft.partition_change(&topic, item.partition, state, &proposal, &rules, None);
    if let Some(change) = change {
        draft.push(Record::PartitionChanged(change));
    }
    Ok(())
}

/// KIP-860: the factor that the partition has, or will have when what is under way is done.
fn check_factor(state: &Partition, replicas: &[BrokerId]) -> Result<(), ReassignmentError> {
    let current = state.replicas.iter().filter(|id| !state.removing_replicas.contains(id)).count();
    if current == replicas.len() {
        return Ok(());
    }
    Err(ReassignmentError::InvalidReplicationFactor(format!(
        "the replication factor would change from {current} to {}",
        replicas.len()
    )))
}

fn assignment(state: &Partition, wanted: &[BrokerId]) -> Assignment {
    // What a reassignment under way was adding is not part of what a cancellation goes back to.
    let is_original = |id: &BrokerId| state.replicas.contains(id) && !state.adding_replicas.contains(id);
    let removing: BTreeSet<BrokerId> =
        state.replicas.iter().copied().filter(|id| !wanted.contains(id)).collect();
    let replicas: Vec<BrokerId> = wanted.iter().copied().chain(removing.iter().copied()).collect();
    let adding: BTreeSet<BrokerId> = replicas.iter().copied().filter(|id| !is_original(id)).collect();
    Assignment { replicas, adding: adding.into_iter().collect(), removing: removing.into_iter().collect() }
}

/// Back to the replicas before. If none of them is in sync any more, that is an unclean election.
fn cancel(state: &Partition, election: Election) -> Result<Proposal, ReassignmentError> {
    if !state.is_reassigning() {
        return Err(ReassignmentError::NoReassignmentInProgress);
    }
    let original = |ids: &[BrokerId]| -> Vec<BrokerId> {
        ids.iter().copied().filter(|id| !state.adding_replicas.contains(id)).collect()
    };
    let replicas = original(&state.replicas);
    let isr = original(&state.isr);
    let keeps_data = !isr.is_empty() || state.elr.iter().any(|id| replicas.contains(id));
    if replicas.is_empty() || (!keeps_data && election != Election::Unclean) {
        return Err(ReassignmentError::InvalidReplicaAssignment(
            "none of the replicas before the reassignment is in sync: going back would lose data, and unclean \
             elections are not enabled"
                .into(),
        ));
    }
    Ok(Proposal {
        isr: Some(isr),
        assignment: Some(Assignment { replicas, adding: Vec::new(), removing: Vec::new() }),
        ..Proposal::new(election)
    })
}
