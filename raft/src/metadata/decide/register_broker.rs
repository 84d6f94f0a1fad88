//! RegisterBroker and UnregisterBroker. A registered broker is fenced until its first heartbeats show that it has
//! applied its own registration; a process that takes over a broker id loses that id's leaderships first, so that a
//! restarted broker leads again only under a new leader epoch. If the process before did not stop cleanly, its replicas
//! are no longer eligible leader replicas (KIP-966) where they may have lost what they acknowledged.

use super::Draft;
use super::partitions::{Leaving, Progress};
use crate::metadata::ids::{BrokerEpoch, TopicId};
use crate::metadata::records::Record;
use crate::requests::{RegisterBroker, RegisterBrokerError, UnregisterBroker, UnregisterBrokerError};

const ENDPOINTS_MAX: usize = 64;
const LOG_DIRS_MAX: usize = 1024;
const TEXT_BYTES_MAX: usize = 1024;

pub(super) fn decide(
    request: &RegisterBroker,
    draft: &mut Draft<'_>,
) -> Result<BrokerEpoch, RegisterBrokerError> {
    check(request)?;
    let existing = draft.image.broker(request.id).cloned();
    if let Some(existing) = &existing
        && existing.incarnation != request.incarnation
        && draft.context.live_brokers.contains(&request.id)
        && !existing.in_controlled_shutdown
    {
        return Err(RegisterBrokerError::Duplicate(request.id));
    }
    for broker in draft.image.brokers.values().filter(|broker| broker.id != request.id) {
        if let Some(shared) = request.log_dirs.iter().find(|directory| broker.log_dirs.contains(directory)) {
            return Err(RegisterBrokerError::Invalid(format!(
                "the log directory with id {} is registered with broker {}: one of the two is a copy",
                TopicId(*shared),
                broker.id
            )));
        }
    }
    for (name, level) in &draft.image.features {
        let range = request.features.get(&**name);
        if !range.is_some_and(|range| range.min <= *level && *level <= range.max) {
            return Err(RegisterBrokerError::UnsupportedFeatures(format!(
                "the cluster runs {name} at level {level}, the broker supports {}",
                range.map_or("none".to_owned(), |range| format!("{} to {}", range.min, range.max))
            )));
        }
    }
    let same_process = existing.as_ref().is_some_and(|existing| existing.incarnation == request.incarnation);
    let epoch = BrokerEpoch(
        i64::try_from(draft.context.next.offset)
            .unwrap_or(i64::MAX)
            .max(existing.as_ref().map_or(0, |existing| existing.epoch.0.saturating_add(1))),
    );
    if !same_process {
        let is_clean = request.previous_epoch.is_some()
            && request.previous_epoch == existing.as_ref().map(|existing| existing.epoch);
        let leaving = Leaving::Restarted { is_clean, log_dirs: &request.log_dirs };
        if draft.remove_from_leadership(request.id, leaving, |_| true) == Progress::Unfinished {
            return Ok(epoch);
        }
    }
    let standing = existing.filter(|_| same_process);
    draft.push(Record::BrokerRegistered {
        id: request.id,
        epoch,
        incarnation: request.incarnation,
        endpoints: request.endpoints.clone(),
        rack: request.rack.clone(),
        features: request.features.clone(),
        log_dirs: request.log_dirs.clone(),
        // A repeated registration of a living process changes nothing about its standing.
        fenced: standing.as_ref().is_none_or(|existing| existing.fenced),
        in_controlled_shutdown: standing.as_ref().is_some_and(|existing| existing.in_controlled_shutdown),
        shut_down_offset: standing.and_then(|existing| existing.shut_down_offset),
    });
    Ok(epoch)
}

fn check(request: &RegisterBroker) -> Result<(), RegisterBrokerError> {
    let invalid = |reason: String| Err(RegisterBrokerError::Invalid(reason));
    if request.id.0 < 0 {
        return invalid(format!("{} is no broker id", request.id));
    }
    if request.endpoints.is_empty() || request.endpoints.len() > ENDPOINTS_MAX {
        return invalid(format!(
            "a broker has 1 to {ENDPOINTS_MAX} endpoints, not {}",
            request.endpoints.len()
        ));
    }
    if request.log_dirs.len() > LOG_DIRS_MAX || request.features.len() > LOG_DIRS_MAX {
        return invalid("too many log directories or features".into());
    }
    for (index, directory) in request.log_dirs.iter().enumerate() {
        if request.log_dirs[..index].contains(directory) {
            return invalid(format!("the log directory with id {} is given twice", TopicId(*directory)));
        }
    }
    let too_long = |text: &str| text.len() > TEXT_BYTES_MAX;
    if request.endpoints.iter().any(|endpoint| too_long(&endpoint.name) || too_long(&endpoint.host))
        || request.rack.as_deref().is_some_and(too_long)
        || request.features.keys().any(|name| too_long(name))
    {
        return invalid(format!("a name, host or rack is longer than {TEXT_BYTES_MAX} bytes"));
    }
    for (index, endpoint) in request.endpoints.iter().enumerate() {
        if request.endpoints[..index].iter().any(|earlier| earlier.name == endpoint.name) {
            return invalid(format!("the listener {} is given twice", endpoint.name));
        }
    }
    Ok(())
}

pub(super) fn decide_unregister(
    request: &UnregisterBroker,
    draft: &mut Draft<'_>,
) -> Result<(), UnregisterBrokerError> {
    let epoch = draft.image.broker(request.id).ok_or(UnregisterBrokerError::NotRegistered(request.id))?.epoch;
    if draft.remove_from_leadership(request.id, Leaving::Complete, |_| true) == Progress::Done {
        draft.push(Record::BrokerUnregistered { id: request.id, epoch });
    }
    Ok(())
}
