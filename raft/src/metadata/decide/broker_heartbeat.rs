//! BrokerHeartbeat (KIP-631): fencing, unfencing and the controlled shutdown of a broker, its failed log directories
//! (KIP-858), and what each means for the partitions that it has replicas of.
//!
//! A broker may have more partitions than one entry of the log takes: then they change in several steps, and what the
//! broker itself becomes is the last.

use uuid::Uuid;

use super::Draft;
use super::partitions::{Leaving, Progress};
use crate::metadata::ids::{BrokerEpoch, BrokerId};
use crate::metadata::image::{Broker, Image, Partition};
use crate::metadata::records::Record;
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
    // The broker's epoch is the offset of its registration: past it, the broker knows who it is.
    let is_caught_up = i64::try_from(request.metadata_offset).unwrap_or(i64::MAX) >= request.epoch.0;
    let should_shut_down =
        take_offline(request, draft) == Progress::Done && advance(request, is_caught_up, draft)?;
    let is_fenced = broker(request, draft)?.fenced;
    Ok(BrokerHeartbeatState { is_caught_up, is_fenced, should_shut_down })
}

fn broker<'a>(request: &BrokerHeartbeat, draft: &'a Draft<'_>) -> Result<&'a Broker, BrokerEpochError> {
    draft.image.broker(request.id).map(|broker| &**broker).ok_or(BrokerEpochError::NotRegistered(request.id))
}

/// Whether the broker may stop now.
fn advance(
    request: &BrokerHeartbeat,
    is_caught_up: bool,
    draft: &mut Draft<'_>,
) -> Result<bool, BrokerEpochError> {
    let Broker { fenced, in_controlled_shutdown, .. } = *broker(request, draft)?;
    let want_fence = request.want_fence || has_no_directory_left(request, draft);
    match (request.want_shut_down, want_fence) {
        (true, _) if fenced => Ok(true),
        (true, _) => {
            // Replicas elsewhere take over; what has none goes offline with this broker.
            if remove(request.id, draft) == Progress::Unfinished {
                return Ok(false);
            }
            if !in_controlled_shutdown {
                change(request, draft, None, Some(true));
            }
            if !is_known_to_all(request.id, draft) {
                return Ok(false);
            }
            change(request, draft, Some(true), None);
            Ok(true)
        }
        (false, true) if !fenced => {
            if remove(request.id, draft) == Progress::Done {
                change(request, draft, Some(true), None);
            }
            Ok(false)
        }
        (false, false) => {
            // A shutdown once begun is not taken back: only a new registration ends it.
            if fenced && is_caught_up && !in_controlled_shutdown {
                change(request, draft, Some(false), None);
            }
            // Asked of every heartbeat, since the steps of an earlier one may have been cut short.
            if draft.image.is_active(request.id) {
                let _ = draft.offer_leadership(request.id);
            }
            Ok(false)
        }
        (false, true) => Ok(false),
    }
}

fn change(
    request: &BrokerHeartbeat,
    draft: &mut Draft<'_>,
    fenced: Option<bool>,
    in_controlled_shutdown: Option<bool>,
) {
    draft.push(Record::BrokerChanged {
        id: request.id,
        epoch: request.epoch,
        fenced,
        in_controlled_shutdown,
        log_dirs: None,
    });
}

fn remove(id: BrokerId, draft: &mut Draft<'_>) -> Progress {
    draft.remove_from_leadership(id, Leaving::Complete, |_| true)
}

/// Whether every other active broker has applied what made this one lead nothing more: clients that ask them for the new
/// leaders are told.
fn is_known_to_all(leaving: BrokerId, draft: &Draft<'_>) -> bool {
    let Some(since) = draft.image.broker(leaving).and_then(|broker| broker.shut_down_offset) else {
        return false;
    };
    draft
        .image
        .brokers
        .values()
        .filter(|broker| broker.id != leaving && broker.is_active())
        .all(|broker| draft.context.applied_offsets.get(&broker.id).is_some_and(|applied| *applied >= since))
}

/// A broker without a directory can do nothing, and is about to stop.
fn has_no_directory_left(request: &BrokerHeartbeat, draft: &Draft<'_>) -> bool {
    draft.image.broker(request.id).is_some_and(|broker| {
        !broker.log_dirs.is_empty()
            && broker.log_dirs.iter().all(|directory| request.offline_log_dirs.contains(directory))
    })
}

/// Takes the replicas on newly failed directories out of leaderships and in-sync sets.
fn take_offline(request: &BrokerHeartbeat, draft: &mut Draft<'_>) -> Progress {
    let Some(broker) = draft.image.broker(request.id).cloned() else { return Progress::Done };
    if has_no_directory_left(request, draft) {
        return Progress::Done;
    }
    let (failed, left): (Vec<Uuid>, Vec<Uuid>) =
        broker.log_dirs.iter().partition(|directory| request.offline_log_dirs.contains(directory));
    if failed.is_empty() {
        return Progress::Done;
    }
    let on_failed = |state: &Partition| failed.contains(&state.directory(request.id));
    let progress = draft.remove_from_leadership(request.id, Leaving::Complete, on_failed);
    if progress == Progress::Done {
        draft.push(Record::BrokerChanged {
            id: request.id,
            epoch: request.epoch,
            fenced: None,
            in_controlled_shutdown: None,
            log_dirs: Some(left),
        });
    }
    progress
}
