//! UpdateFeatures (KIP-584, KIP-778): all levels change or none.

use std::collections::BTreeSet;

use super::partitions::{MIN_ISR_KEY, Progress};
use super::{Draft, StaticSettings};
use crate::metadata::features::{ELR_VERSION, METADATA_VERSION, metadata_changed_between, supported};
use crate::metadata::image::Image;
use crate::metadata::records::{ConfigResource, ConfigResourceType, FeatureRange, PartitionChange, Record};
use crate::requests::{
    FeatureUpdate, FeatureUpdateType, UpdateFeatureResult, UpdateFeatures, UpdateFeaturesError,
};

const UPDATES_MAX: usize = 1000;

pub(super) fn decide(
    request: &UpdateFeatures,
    draft: &mut Draft<'_>,
) -> Result<Vec<UpdateFeatureResult>, UpdateFeaturesError> {
    if request.updates.len() > UPDATES_MAX {
        return Err(UpdateFeaturesError::InvalidRequest(format!("more than {UPDATES_MAX} features")));
    }
    let mut names = BTreeSet::new();
    let mut changes = Vec::new();
    for update in &request.updates {
        if !names.insert(&update.name) {
            return Err(UpdateFeaturesError::InvalidRequest(format!("{} is given twice", update.name)));
        }
        let current = draft.image.features.get(update.name.as_str()).copied().unwrap_or(0);
        check(update, current, draft).map_err(|reason| {
            UpdateFeaturesError::InvalidUpdateVersion(format!(
                "{} cannot go to level {}: {reason}",
                update.name, update.level
            ))
        })?;
        if update.level != current {
            changes.push(Record::FeatureLevelSet { name: update.name.as_str().into(), level: update.level });
        }
    }
    if !request.validate_only {
        let elr =
            request.updates.iter().find(|update| update.name == ELR_VERSION).map(|update| update.level > 0);
        match elr {
            Some(true) if !draft.elr_enabled() => {
                for record in min_isr_records(&draft.image, &draft.context.static_settings) {
                    draft.push(record);
                }
            }
            Some(false) if forget_eligible(draft) == Progress::Unfinished => return Ok(Vec::new()),
            _ => {}
        }
        for change in changes {
            draft.push(change);
        }
    }
    Ok(request
        .updates
        .iter()
        .map(|update| UpdateFeatureResult { name: update.name.clone(), level: update.level })
        .collect())
}

/// What makes it safe to switch eligible leader replicas on: one `min.insync.replicas` that the controller knows, instead
/// of one of each broker.
pub(crate) fn min_isr_records(image: &Image, settings: &StaticSettings) -> Vec<Record> {
    let mut records = Vec::new();
    let of_all = ConfigResource::all_brokers();
    if image.config(&of_all, MIN_ISR_KEY).is_none() {
        records.push(Record::ConfigSet {
            resource: of_all.clone(),
            key: MIN_ISR_KEY.into(),
            value: Some(settings.min_insync_replicas.to_string().into()),
        });
    }
    for (resource, configs) in &image.configs {
        if resource.kind == ConfigResourceType::Broker
            && *resource != of_all
            && configs.contains_key(MIN_ISR_KEY)
        {
            records.push(Record::ConfigSet {
                resource: resource.clone(),
                key: MIN_ISR_KEY.into(),
                value: None,
            });
        }
    }
    records
}

/// Before eligible leader replicas are switched off: no in-sync set is empty without them, and none is left that would be
/// wrong if they were switched on again.
fn forget_eligible(draft: &mut Draft<'_>) -> Progress {
    draft.change_partitions(|_, topic, partition, state| {
        let back = if state.elr.is_empty() { &state.last_known_elr } else { &state.elr };
        let change = PartitionChange {
            isr: (state.isr.is_empty() && !back.is_empty()).then(|| back.clone()),
            elr: (!state.elr.is_empty()).then(Vec::new),
            last_known_elr: (!state.last_known_elr.is_empty()).then(Vec::new),
            ..PartitionChange::of(topic.id, partition)
        };
        (change != PartitionChange::of(topic.id, partition)).then_some(change)
    })
}

fn check(update: &FeatureUpdate, current: i16, draft: &Draft<'_>) -> Result<(), String> {
    if let FeatureUpdateType::Unknown(code) = update.kind {
        return Err(format!("upgrade type {code} is not known"));
    }
    if update.level < 0 {
        return Err("a level is not negative".into());
    }
    check_supported("this controller", supported().get(&update.name), update.level)?;
    for broker in draft.image.brokers.values() {
        check_supported(&format!("broker {}", broker.id), broker.features.get(&update.name), update.level)?;
    }
    if update.level < current && update.kind == FeatureUpdateType::Upgrade {
        return Err(format!("it is at {current}, and a downgrade must be asked for as safe or unsafe"));
    }
    if update.level > current && update.kind != FeatureUpdateType::Upgrade {
        return Err(format!("it is at {current}, which is lower, and a downgrade was asked for"));
    }
    if update.name == METADATA_VERSION && metadata_changed_between(update.level, current) {
        return Err(match update.kind {
            FeatureUpdateType::UnsafeDowngrade => "an unsafe downgrade of metadata is not supported".into(),
            _ => "stored metadata would be lost".into(),
        });
    }
    Ok(())
}

fn check_supported(who: &str, range: Option<&FeatureRange>, level: i16) -> Result<(), String> {
    // A feature that a node does not know is one that it has switched off.
    let range = range.copied().unwrap_or(FeatureRange { min: 0, max: 0 });
    if range.min <= level && level <= range.max {
        return Ok(());
    }
    Err(match range.max {
        0 => format!("{who} does not support this feature"),
        _ => format!("{who} supports levels {} to {}", range.min, range.max),
    })
}
