//! AssignReplicasToDirs (KIP-858): in which of its log directories a broker keeps its replicas. Needed when one of several
//! fails: then just the replicas there leave.

use uuid::Uuid;

use super::Draft;
use super::broker_heartbeat::check_broker_epoch;
use crate::metadata::election::Proposal;
use crate::metadata::ids::{BrokerId, TopicId};
use crate::metadata::records::Record;
use crate::requests::{AssignReplicaError, AssignReplicaResult, AssignReplicasToDirs, BrokerEpochError};

pub(super) fn decide(
    request: &AssignReplicasToDirs,
    draft: &mut Draft<'_>,
) -> Result<Vec<AssignReplicaResult>, BrokerEpochError> {
    check_broker_epoch(&draft.image, request.broker, request.broker_epoch)?;
    Ok(request
        .assignments
        .iter()
        .map(|(topic, partition, directory)| AssignReplicaResult {
            topic: *topic,
            partition: *partition,
            result: assign(request.broker, *topic, *partition, *directory, draft),
        })
        .collect())
}

fn assign(
    broker: BrokerId,
    topic: TopicId,
    partition: i32,
    directory: Uuid,
    draft: &mut Draft<'_>,
) -> Result<(), AssignReplicaError> {
    let topic = draft.image.topic_by_id(topic).cloned().ok_or(AssignReplicaError::UnknownTopicId)?;
    let state = topic.partition(partition).ok_or(AssignReplicaError::UnknownPartition)?;
    if !state.replicas.contains(&broker) {
        return Err(AssignReplicaError::NotAReplica(broker));
    }
    if !draft.room_for(1) {
        return Err(AssignReplicaError::NotAttempted);
    }
    let rules = draft.topic_rules(&topic.name);
    let mut proposal = Proposal { directory: Some((broker, directory)), ..Proposal::new(rules.election) };
    // A replica that is moved to a directory that failed meanwhile is as gone as those that were there.
    let is_offline = draft.image.broker(broker).is_some_and(|known| !known.has_directory(directory));
    if is_offline {
        proposal.isr = Some(state.isr.iter().copied().filter(|id| *id != broker).collect());
    }
    let gone = is_offline.then_some(broker);
    if let Some(change) = draft.partition_change(&topic, partition, state, &proposal, &rules, gone) {
        draft.push(Record::PartitionChanged(change));
    }
    Ok(())
}
