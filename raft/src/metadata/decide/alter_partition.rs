//! AlterPartition (KIP-497, KIP-841, KIP-903): a leader proposes the in-sync set that it sees. The checks and their
//! order are those of Kafka's controller.

use std::collections::BTreeSet;

use super::Draft;
use super::broker_heartbeat::check_broker_epoch;
use crate::metadata::election::Proposal;
use crate::metadata::ids::{BrokerEpoch, BrokerId};
use crate::metadata::image::{Image, Partition};
use crate::metadata::records::Record;
use crate::requests::{
    AlterPartition, AlterPartitionError, AlterPartitionItem, AlterPartitionResult, BrokerEpochError,
};

/// A member whose fetches carried no broker epoch; KIP-903 then has nothing to compare.
const UNKNOWN_EPOCH: BrokerEpoch = BrokerEpoch(-1);

pub(super) fn decide(
    request: &AlterPartition,
    draft: &mut Draft<'_>,
) -> Result<Vec<AlterPartitionResult>, BrokerEpochError> {
    check_broker_epoch(&draft.image, request.broker, request.broker_epoch)?;
    Ok(request
        .partitions
        .iter()
        .map(|item| AlterPartitionResult {
            topic: item.topic,
            partition: item.partition,
            result: alter(request.broker, item, draft),
        })
        .collect())
}

fn alter(
    asker: BrokerId,
    item: &AlterPartitionItem,
    draft: &mut Draft<'_>,
) -> Result<Partition, AlterPartitionError> {
    let topic = draft.image.topic_by_id(item.topic).cloned().ok_or(AlterPartitionError::UnknownTopicId)?;
    let state = topic.partition(item.partition).ok_or(AlterPartitionError::UnknownPartition)?;
    check(asker, item, state, &draft.image)?;
    if !draft.room_for(1) {
        return Err(AlterPartitionError::NotAttempted);
    }
    let rules = draft.topic_rules(&topic.name);
    let proposal = Proposal {
        isr: Some(item.isr.iter().map(|(id, _)| *id).collect()),
        leader_recovering: Some(!item.recovered),
        ..Proposal::new(rules.election)
    };
    let change = draft.partition_change(&topic, item.partition, state, &proposal, &rules, None);
    if let Some(change) = change {
        draft.push(Record::PartitionChanged(change));
    }
    let now = draft
        .image
        .topic_by_id(item.topic)
        .and_then(|topic| topic.partition(item.partition))
        .ok_or(AlterPartitionError::UnknownPartition)?;
    // Only a completed reassignment takes the leadership from the asker, who was in the new in-sync set.
    if now.leader == Some(asker) {
        Ok(Partition::clone(now))
    } else {
        Err(AlterPartitionError::NewLeaderElected(now.leader))
    }
}

fn check(
    asker: BrokerId,
    item: &AlterPartitionItem,
    state: &Partition,
    image: &Image,
) -> Result<(), AlterPartitionError> {
    let invalid = |reason: String| Err(AlterPartitionError::InvalidRequest(reason));
    // Who knows more than this controller heard it from a newer one.
    if item.leader_epoch > state.leader_epoch || item.partition_epoch > state.partition_epoch {
        return Err(AlterPartitionError::NotController);
    }
    if item.leader_epoch < state.leader_epoch {
        return Err(AlterPartitionError::FencedLeaderEpoch {
            current: state.leader_epoch,
            given: item.leader_epoch,
        });
    }
    if state.leader != Some(asker) {
        return invalid(format!("broker {asker} does not lead the partition"));
    }
    if item.partition_epoch < state.partition_epoch {
        return Err(AlterPartitionError::InvalidUpdateVersion {
            current: state.partition_epoch,
            given: item.partition_epoch,
        });
    }
    let members: BTreeSet<BrokerId> = item.isr.iter().map(|(id, _)| *id).collect();
    if members.is_empty() || members.len() != item.isr.len() {
        return invalid("the in-sync set is empty or names a broker twice".into());
    }
    if let Some(stranger) = members.iter().find(|id| !state.replicas.contains(id)) {
        return invalid(format!("broker {stranger} is no replica of the partition"));
    }
    if !members.contains(&asker) {
        return invalid("the leader is not in the in-sync set".into());
    }
    if !item.recovered && members.len() > 1 {
        return invalid("a leader that is recovering is alone in sync".into());
    }
    if !item.recovered && !state.leader_recovering {
        return invalid("a leader that has recovered does not recover again".into());
    }
    for (id, epoch) in &item.isr {
        check_eligible(*id, *epoch, image).map_err(AlterPartitionError::IneligibleReplica)?;
    }
    Ok(())
}

fn check_eligible(id: BrokerId, epoch: BrokerEpoch, image: &Image) -> Result<(), String> {
    let Some(broker) = image.broker(id) else { return Err(format!("broker {id} is not registered")) };
    // An older incarnation may have fetched what the present one has lost.
    if epoch != UNKNOWN_EPOCH && epoch != broker.epoch {
        return Err(format!("broker {id} has epoch {}, not {epoch}", broker.epoch));
    }
    if broker.fenced {
        return Err(format!("broker {id} is fenced"));
    }
    if broker.in_controlled_shutdown {
        return Err(format!("broker {id} is shutting down"));
    }
    Ok(())
}
