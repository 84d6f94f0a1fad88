//! AssignReplicasToDirs (KIP-858): where on a broker its replicas lie.

use uuid::Uuid;

use super::Draft;
use super::broker_heartbeat::check_broker_epoch;
use crate::metadata::ids::{BrokerId, TopicId};
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
    _directory: Uuid,
    draft: &mut Draft<'_>,
) -> Result<(), AssignReplicaError> {
    let topic = draft.image.topic_by_id(topic).ok_or(AssignReplicaError::UnknownTopicId)?;
    let state = topic.partition(partition).ok_or(AssignReplicaError::UnknownPartition)?;
    if !state.replicas.contains(&broker) {
        return Err(AssignReplicaError::NotAReplica(broker));
    }
    Err(AssignReplicaError::InvalidRequest("this release does not record log directories".into()))
}
