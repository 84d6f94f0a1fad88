//! RegisterBroker and UnregisterBroker. A registered broker is fenced until its first heartbeats show that it has
//! applied its own registration; a process that takes over a broker id loses that id's leaderships first, so that a
//! restarted broker leads again only under a new leader epoch.

use super::Draft;
use super::broker_heartbeat::remove_from_leadership;
use crate::metadata::ids::BrokerEpoch;
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
    if existing.is_some() && !same_process {
        remove_from_leadership(request.id, draft);
    }
    draft.push(Record::BrokerRegistered {
        id: request.id,
        epoch,
        incarnation: request.incarnation,
        endpoints: request.endpoints.clone(),
        rack: request.rack.clone(),
        features: request.features.clone(),
        log_dirs: request.log_dirs.clone(),
        // A repeated registration of a living process changes nothing about its standing.
        fenced: !same_process || existing.is_none_or(|existing| existing.fenced),
        in_controlled_shutdown: false,
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
    remove_from_leadership(request.id, draft);
    draft.push(Record::BrokerUnregistered { id: request.id, epoch });
    Ok(())
}
