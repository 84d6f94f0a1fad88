//! RestoreTopics: topics of a lost cluster, with the ids that their objects in the tier go by.

use std::sync::Arc;

use uuid::Uuid;

use super::Draft;
use super::broker_heartbeat::check_broker_epoch;
use super::create_topics::{check_collision, check_configs, check_room, check_topic_name};
use crate::metadata::ids::{BrokerId, LeaderEpoch, PartitionEpoch};
use crate::metadata::records::{ConfigResource, PartitionState, Record};
use crate::requests::{
    BrokerEpochError, CreateTopicError, CreateTopicResult, CreatedTopic, RestoreTopics, RestoredPartition,
    RestoredTopic,
};

pub(super) fn decide(
    request: &RestoreTopics,
    draft: &mut Draft<'_>,
) -> Result<Vec<CreateTopicResult>, BrokerEpochError> {
    check_broker_epoch(&draft.image, request.broker, request.broker_epoch)?;
    if request.producer_ids_from > draft.image.next_producer_id {
        let (broker, epoch) = (request.broker, request.broker_epoch);
        draft.push(Record::ProducerIdsAllocated { broker, epoch, next: request.producer_ids_from });
    }
    let result = |topic: &RestoredTopic, draft: &mut Draft<'_>| CreateTopicResult {
        name: topic.name.clone(),
        result: restore(topic, request.broker, draft),
    };
    Ok(request.topics.iter().map(|topic| result(topic, draft)).collect())
}

fn restore(
    topic: &RestoredTopic,
    asker: BrokerId,
    draft: &mut Draft<'_>,
) -> Result<CreatedTopic, CreateTopicError> {
    let invalid = |reason: &str| Err(CreateTopicError::InvalidRequest(reason.into()));
    let restored =
        CreatedTopic { id: topic.id, partitions: topic.partitions.len() as i32, replication_factor: 1 };
    match draft.image.topic_by_id(topic.id) {
        // Restored before, and perhaps changed since.
        Some(known) if *known.name == *topic.name => return Ok(restored),
        Some(_) => return invalid("the topic's id is another topic's"),
        None => {}
    }
    check_topic_name(&topic.name).map_err(CreateTopicError::InvalidName)?;
    if draft.image.topic_by_name(&topic.name).is_some() {
        return Err(CreateTopicError::AlreadyExists(topic.name.clone()));
    }
    check_collision(&draft.image, &topic.name)?;
    if topic.id.is_reserved() || draft.image.tiers_to_delete.contains_key(&topic.id) {
        return invalid("the topic's id is not to be used");
    }
    let is_sound = |partition: &RestoredPartition| {
        partition.leader_epoch.0 >= 0
            && partition.tier.is_none_or(|(manifest, end_offset)| manifest > 0 && end_offset >= 0)
    };
    if topic.partitions.is_empty() || !topic.partitions.iter().all(is_sound) {
        return invalid("partitions that cannot be");
    }
    check_configs(&topic.name, &topic.configs, draft)?;
    // A partition may take two records.
    check_room(draft, topic.partitions.len(), topic.configs.len().saturating_add(topic.partitions.len()))?;

    let is_active = draft.image.is_active(asker);
    let name: Arc<str> = topic.name.as_str().into();
    draft.push(Record::TopicCreated { name: name.clone(), id: topic.id });
    for (key, value) in &topic.configs {
        draft.push(Record::ConfigSet {
            resource: ConfigResource::topic(name.clone()),
            key: key.as_str().into(),
            value: Some(value.as_str().into()),
        });
    }
    for (index, partition) in topic.partitions.iter().enumerate() {
        let index = index as i32;
        draft.push(Record::PartitionCreated {
            topic: topic.id,
            partition: index,
            state: state(partition, asker, is_active),
        });
        if let Some((manifest, end_offset)) = partition.tier {
            draft.push(Record::TierReported {
                topic: topic.id,
                partition: index,
                manifest,
                end_offset,
                leader_epoch: partition.leader_epoch,
                is_doubtful: false,
            });
        }
    }
    Ok(restored)
}

/// While the asker is fenced there is no leader: it is elected when it no longer is.
fn state(partition: &RestoredPartition, asker: BrokerId, is_active: bool) -> PartitionState {
    let directories = if partition.directory == Uuid::nil() { Vec::new() } else { vec![partition.directory] };
    PartitionState {
        replicas: vec![asker].into(),
        isr: vec![asker].into(),
        leader: is_active.then_some(asker),
        leader_epoch: LeaderEpoch(partition.leader_epoch.0.saturating_add(1)),
        partition_epoch: PartitionEpoch(0),
        elr: Vec::new(),
        last_known_elr: Vec::new(),
        adding_replicas: Vec::new(),
        removing_replicas: Vec::new(),
        leader_recovering: false,
        directories,
    }
}
