//! BrokerHeartbeat: fencing, unfencing and the controlled shutdown of a broker, and what each means for the partitions
//! it leads.

use super::Draft;
use crate::metadata::election::{Election, decide_partition_change};
use crate::metadata::ids::{BrokerEpoch, BrokerId};
use crate::metadata::image::Image;
use crate::metadata::records::{PartitionState, Record};
use crate::requests::{BrokerEpochError, BrokerHeartbeat, BrokerHeartbeatState};

pub(super) fn check_broker_epoch(
    image: &Image,
    id: BrokerId,
    given: BrokerEpoch,
) -> Result<(), BrokerEpochError> {
    match image.broker(id) {
        None => Err(BrokerEpochError::NotRegistered(id)),
        Some(broker) if broker.epoch != given => {
            Err(BrokerEpochError::Stale { id, current: broker.epoch, given })
        }
        Some(_) => Ok(()),
    }
}

pub(super) fn decide(
    request: &BrokerHeartbeat,
    draft: &mut Draft<'_>,
) -> Result<BrokerHeartbeatState, BrokerEpochError> {
    check_broker_epoch(&draft.image, request.id, request.epoch)?;
    let (fenced, shutting_down) = match draft.image.broker(request.id) {
        Some(broker) => (broker.fenced, broker.in_controlled_shutdown),
        None => return Err(BrokerEpochError::NotRegistered(request.id)),
    };
    // The broker's epoch is the offset of its registration: past it, the broker knows who it is.
    let is_caught_up = i64::try_from(request.metadata_offset).unwrap_or(i64::MAX) >= request.epoch.0;
    let change = |draft: &mut Draft<'_>, fenced, in_controlled_shutdown| {
        draft.push(Record::BrokerChanged {
            id: request.id,
            epoch: request.epoch,
            fenced,
            in_controlled_shutdown,
        });
    };
    let mut should_shut_down = false;
    match (request.want_shut_down, request.want_fence) {
        (true, _) if fenced => should_shut_down = true,
        (true, _) => {
            if !shutting_down {
                change(draft, None, Some(true));
            }
            // Replicas elsewhere take over; what has none goes offline with this broker.
            remove_from_leadership(request.id, draft);
            should_shut_down = !leads_any(&draft.image, request.id);
            if should_shut_down {
                change(draft, Some(true), None);
            }
        }
        (false, true) if !fenced => {
            change(draft, Some(true), None);
            remove_from_leadership(request.id, draft);
        }
        // A shutdown once begun is not taken back: only a new registration ends it.
        (false, false) if fenced && is_caught_up && !shutting_down => {
            change(draft, Some(false), None);
            offer_leadership(request.id, draft);
        }
        _ => {}
    }
    let is_fenced = draft.image.broker(request.id).is_none_or(|broker| broker.fenced);
    Ok(BrokerHeartbeatState { is_caught_up, is_fenced, should_shut_down })
}

fn leads_any(image: &Image, id: BrokerId) -> bool {
    image.topics.values().any(|topic| topic.partitions.iter().any(|state| state.leader == Some(id)))
}

/// Takes the broker out of the in-sync sets and the leaderships it has; where it is the last in sync, it stays listed
/// and the partition waits for it.
pub(super) fn remove_from_leadership(gone: BrokerId, draft: &mut Draft<'_>) {
    change_partitions(
        draft,
        |state| state.isr.contains(&gone) || state.leader == Some(gone),
        |state| Some(state.isr.iter().copied().filter(|id| *id != gone).collect()),
        |image, id| id != gone && image.is_active(id),
    );
}

/// Elects leaders for the partitions that have none and for which the broker is eligible.
fn offer_leadership(back: BrokerId, draft: &mut Draft<'_>) {
    change_partitions(
        draft,
        |state| state.leader.is_none() && state.replicas.contains(&back),
        |_| None,
        |image, id| image.is_active(id),
    );
}

fn change_partitions(
    draft: &mut Draft<'_>,
    affected: impl Fn(&PartitionState) -> bool,
    target_isr: impl Fn(&PartitionState) -> Option<Vec<BrokerId>>,
    may_lead: impl Fn(&Image, BrokerId) -> bool,
) {
    let mut changes = Vec::new();
    for topic in draft.image.topics.values() {
        let mut election = None;
        for (partition, state) in topic.partitions.iter().enumerate().filter(|(_, state)| affected(state)) {
            let election =
                *election.get_or_insert_with(|| match draft.unclean_election_enabled(&topic.name) {
                    true => Election::Unclean,
                    false => Election::Online,
                });
            changes.extend(decide_partition_change(
                topic.id,
                partition as i32,
                state,
                target_isr(state),
                election,
                |id| may_lead(&draft.image, id),
            ));
        }
    }
    for change in changes {
        draft.push(change);
    }
}
