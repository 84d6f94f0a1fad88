//! ReportTier: how far the tiers of partitions reach. What is said counts only from the partition's leader in its present epoch,
//! and of what one leader says the word with the newest manifest. ReportTierDeleted: the objects of deleted topics are gone.

use super::Draft;
use super::broker_heartbeat::check_broker_epoch;
use crate::metadata::ids::BrokerId;
use crate::metadata::records::Record;
use crate::requests::{
    BrokerEpochError, ReportTier, ReportTierDeleted, ReportTierError, ReportTierItem, ReportTierResult,
};

pub(super) fn decide(
    request: &ReportTier,
    draft: &mut Draft<'_>,
) -> Result<Vec<ReportTierResult>, BrokerEpochError> {
    check_broker_epoch(&draft.image, request.broker, request.broker_epoch)?;
    let result = |item: &ReportTierItem, draft: &mut Draft<'_>| ReportTierResult {
        topic: item.topic,
        partition: item.partition,
        result: report(request.broker, item, draft),
    };
    Ok(request.items.iter().map(|item| result(item, draft)).collect())
}

fn report(asker: BrokerId, item: &ReportTierItem, draft: &mut Draft<'_>) -> Result<(), ReportTierError> {
    let topic = draft.image.topic_by_id(item.topic).ok_or(ReportTierError::UnknownTopicId)?;
    let state = topic.partition(item.partition).ok_or(ReportTierError::UnknownPartition)?;
    if item.leader_epoch > state.leader_epoch {
        return Err(ReportTierError::NotController);
    }
    if item.leader_epoch < state.leader_epoch {
        let (current, given) = (state.leader_epoch, item.leader_epoch);
        return Err(ReportTierError::FencedLeaderEpoch { current, given });
    }
    if state.leader != Some(asker) {
        return Err(ReportTierError::InvalidRequest(format!("broker {asker} does not lead the partition")));
    }
    if item.manifest == 0 || item.end_offset < 0 {
        return Err(ReportTierError::InvalidRequest("a manifest or an end that cannot be".into()));
    }
    if let Some(known) = draft.image.tier_position(item.topic, item.partition)
        && known.leader_epoch == item.leader_epoch
        && !known.is_doubtful
        && item.manifest <= known.manifest
    {
        // Said before, or overtaken by a later word of the same leader.
        return Ok(());
    }
    if !draft.room_for(1) {
        return Err(ReportTierError::NotAttempted);
    }
    draft.push(Record::TierReported {
        topic: item.topic,
        partition: item.partition,
        manifest: item.manifest,
        end_offset: item.end_offset,
        leader_epoch: item.leader_epoch,
        is_doubtful: false,
    });
    Ok(())
}

pub(super) fn decide_deleted(
    request: &ReportTierDeleted,
    draft: &mut Draft<'_>,
) -> Result<(), BrokerEpochError> {
    check_broker_epoch(&draft.image, request.broker, request.broker_epoch)?;
    for topic in &request.topics {
        // What does not fit is told again: it is still in the image.
        if draft.image.tiers_to_delete.contains_key(topic) && draft.room_for(1) {
            draft.push(Record::TierDeleted { topic: *topic });
        }
    }
    Ok(())
}
