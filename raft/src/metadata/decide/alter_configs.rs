//! IncrementalAlterConfigs (KIP-339) and the old AlterConfigs that replaces all. Each resource by itself, whole or not.
//! What a key means is the caller's business: it checked the values it was given, and `Context::config_check` judges
//! the configs that come out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::partitions::{MIN_ISR_KEY, Progress, min_isr};
use super::{CONFIG_KEYS_MAX, CONFIG_RESOURCES_MAX, CONFIG_VALUE_BYTES_MAX, Draft};
use crate::metadata::features;
use crate::metadata::ids::BrokerId;
use crate::metadata::image::Configs;
use crate::metadata::records::{ConfigResource, ConfigResourceType, PartitionChange, Record};
use crate::requests::{
    AlterConfigs, AlterConfigsError, AlterConfigsResult, ConfigOperation, IncrementalAlterConfigs,
};

/// What a request wants each key to become; `None` is to be removed.
type Wanted = BTreeMap<String, Option<String>>;

pub(super) fn decide_incremental(
    request: &IncrementalAlterConfigs,
    draft: &mut Draft<'_>,
) -> Vec<AlterConfigsResult> {
    let repeated = repeated(request.resources.iter().map(|(resource, _)| resource));
    let mut results = Vec::with_capacity(request.resources.len());
    for (resource, operations) in unique(&request.resources) {
        let result = if repeated.contains(resource) {
            Err(twice())
        } else {
            incremental(resource, operations, draft).and_then(|wanted| apply(resource, wanted, draft))
        };
        results.push(AlterConfigsResult { resource: resource.clone(), result });
    }
    if request.validate_only {
        draft.discard();
    }
    results
}

pub(super) fn decide_replace(request: &AlterConfigs, draft: &mut Draft<'_>) -> Vec<AlterConfigsResult> {
    let repeated = repeated(request.resources.iter().map(|(resource, _)| resource));
    let mut results = Vec::with_capacity(request.resources.len());
    for (resource, entries) in unique(&request.resources) {
        let result = if repeated.contains(resource) {
            Err(twice())
        } else {
            replace(resource, entries, draft).and_then(|wanted| apply(resource, wanted, draft))
        };
        results.push(AlterConfigsResult { resource: resource.clone(), result });
    }
    if request.validate_only {
        draft.discard();
    }
    results
}

fn twice() -> AlterConfigsError {
    AlterConfigsError::InvalidRequest("the request names this resource more than once".into())
}

fn repeated<'a>(resources: impl Iterator<Item = &'a ConfigResource>) -> BTreeSet<&'a ConfigResource> {
    let mut seen = BTreeSet::new();
    resources.filter(|resource| !seen.insert(*resource)).collect()
}

/// The first mention of each resource.
fn unique<T>(resources: &[(ConfigResource, T)]) -> impl Iterator<Item = (&ConfigResource, &T)> {
    let mut seen = BTreeSet::new();
    resources
        .iter()
        .filter(move |(resource, _)| seen.insert(resource))
        .map(|(resource, rest)| (resource, rest))
}

fn incremental(
    resource: &ConfigResource,
    operations: &[(String, ConfigOperation)],
    draft: &Draft<'_>,
) -> Result<Wanted, AlterConfigsError> {
    let mut wanted = Wanted::new();
    for (key, operation) in operations {
        let current = || draft.image.config(resource, key).map(|value| value.to_string());
        let value = match operation {
            ConfigOperation::Set(value) => Some(value.clone()),
            ConfigOperation::Delete => None,
            ConfigOperation::Append { items, default } => {
                let mut list = split_list(current().or_else(|| default.clone()));
                for item in items.split(',') {
                    if !list.iter().any(|known| known == item) {
                        list.push(item.to_owned());
                    }
                }
                Some(list.join(","))
            }
            ConfigOperation::Subtract { items, default } => {
                let mut list = split_list(current().or_else(|| default.clone()));
                list.retain(|known| !items.split(',').any(|item| item == known));
                Some(list.join(","))
            }
            ConfigOperation::OnlyForLists => {
                return Err(AlterConfigsError::InvalidConfig(format!(
                    "APPEND and SUBTRACT need a list, `{key}` is none"
                )));
            }
        };
        if wanted.insert(key.clone(), value).is_some() {
            return Err(AlterConfigsError::InvalidRequest(format!("the config key `{key}` is given twice")));
        }
    }
    Ok(wanted)
}

fn split_list(value: Option<String>) -> Vec<String> {
    match value {
        Some(value) if !value.is_empty() => value.split(',').map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn replace(
    resource: &ConfigResource,
    entries: &[(String, String)],
    draft: &Draft<'_>,
) -> Result<Wanted, AlterConfigsError> {
    let mut wanted = Wanted::new();
    for (key, value) in entries {
        if wanted.insert(key.clone(), Some(value.clone())).is_some() {
            return Err(AlterConfigsError::InvalidRequest(format!("the config key `{key}` is given twice")));
        }
    }
    if let Some(configs) = draft.image.configs_of(resource) {
        for key in configs.keys() {
            wanted.entry(key.to_string()).or_insert(None);
        }
    }
    Ok(wanted)
}

fn apply(resource: &ConfigResource, wanted: Wanted, draft: &mut Draft<'_>) -> Result<(), AlterConfigsError> {
    check_exists(resource, draft)?;
    for (key, value) in &wanted {
        check_key_value(key, value.as_deref()).map_err(AlterConfigsError::InvalidConfig)?;
    }
    let current = draft.image.configs_of(resource).cloned().unwrap_or_default();
    let mut after: Configs = current.clone();
    for (key, value) in &wanted {
        match value {
            Some(value) => after.insert(key.as_str().into(), value.as_str().into()),
            None => after.remove(key.as_str()),
        };
    }
    check_bounds(resource, &current, &after, draft)?;
    check_min_isr(resource, &wanted, draft)?;
    if let Some(check) = draft.context.config_check {
        check(resource, &after).map_err(AlterConfigsError::InvalidConfig)?;
    }
    // A key that keeps its value needs no record, except on brokers: there a repeated SET makes them read a secret or a
    // file again.
    let repeats_matter = resource.kind == ConfigResourceType::Broker;
    let changes: Vec<(Arc<str>, Option<Arc<str>>)> = wanted
        .into_iter()
        .filter(|(key, value)| {
            let known = current.get(key.as_str()).map(|value| &**value);
            known != value.as_deref() || (repeats_matter && value.is_some())
        })
        .map(|(key, value)| (key.into(), value.map(Into::into)))
        .collect();
    if !draft.room_for(changes.len()) {
        return Err(AlterConfigsError::InvalidRequest(format!(
            "the request is too large: it may write {} records",
            super::RECORDS_PER_REQUEST_MAX
        )));
    }
    if draft.elr_enabled()
        && changes.iter().any(|(key, _)| **key == *MIN_ISR_KEY)
        && clear_eligible(resource, after.get(MIN_ISR_KEY).cloned(), draft) == Progress::Unfinished
    {
        return Ok(());
    }
    for (key, value) in changes {
        draft.push(Record::ConfigSet { resource: resource.clone(), key, value });
    }
    Ok(())
}

/// With eligible leader replicas the controller must know what every leader takes for `min.insync.replicas`: it comes from
/// the topic or from the dynamic default of all brokers, which has it from the start.
fn check_min_isr(
    resource: &ConfigResource,
    wanted: &Wanted,
    draft: &Draft<'_>,
) -> Result<(), AlterConfigsError> {
    if resource.kind != ConfigResourceType::Broker || !draft.elr_enabled() {
        return Ok(());
    }
    match wanted.get(MIN_ISR_KEY) {
        Some(Some(_)) if !resource.name.is_empty() => Err(AlterConfigsError::InvalidConfig(format!(
            "{MIN_ISR_KEY} of a single broker cannot be set while {} is on",
            features::ELR_VERSION
        ))),
        Some(None) if resource.name.is_empty() => Err(AlterConfigsError::InvalidConfig(format!(
            "{MIN_ISR_KEY} of all brokers cannot be removed while {} is on",
            features::ELR_VERSION
        ))),
        _ => Ok(()),
    }
}

/// Before leaders may move high watermarks with fewer replicas in sync, the others stop to be eligible.
fn clear_eligible(resource: &ConfigResource, value: Option<Arc<str>>, draft: &mut Draft<'_>) -> Progress {
    let fixed = draft.context.static_settings.min_insync_replicas;
    draft.change_partitions(|draft, topic, partition, state| {
        if state.elr.is_empty() {
            return None;
        }
        let of_all = || draft.image.config(&ConfigResource::all_brokers(), MIN_ISR_KEY);
        let value = match resource.kind {
            ConfigResourceType::Topic if *resource.name == *topic.name => value.as_ref().or_else(of_all),
            ConfigResourceType::Broker
                if draft.image.config(&ConfigResource::topic(topic.name.clone()), MIN_ISR_KEY).is_none() =>
            {
                value.as_ref()
            }
            _ => return None,
        };
        let min_isr = min_isr(value.map(|value| &**value), fixed).min(state.replicas.len());
        (state.isr.len() >= min_isr)
            .then(|| PartitionChange { elr: Some(Vec::new()), ..PartitionChange::of(topic.id, partition) })
    })
}

fn check_exists(resource: &ConfigResource, draft: &Draft<'_>) -> Result<(), AlterConfigsError> {
    match resource.kind {
        ConfigResourceType::Topic => {
            if draft.image.topic_by_name(&resource.name).is_none() {
                return Err(AlterConfigsError::UnknownTopic);
            }
        }
        ConfigResourceType::Broker if resource.name.is_empty() => {}
        ConfigResourceType::Broker => {
            let id = resource.name.parse::<i32>().map_err(|_| {
                AlterConfigsError::InvalidRequest(format!("`{}` is no broker id", resource.name))
            })?;
            if draft.image.broker(BrokerId(id)).is_none() {
                return Err(AlterConfigsError::UnknownBroker(resource.name.to_string()));
            }
        }
        ConfigResourceType::ClientMetrics | ConfigResourceType::Group => {
            if resource.name.is_empty() {
                return Err(AlterConfigsError::InvalidRequest("the resource has no name".into()));
            }
            if resource.name.len() > CONFIG_VALUE_BYTES_MAX {
                return Err(AlterConfigsError::InvalidRequest("the name of the resource is too long".into()));
            }
        }
    }
    Ok(())
}

fn check_bounds(
    resource: &ConfigResource,
    current: &Configs,
    after: &Configs,
    draft: &Draft<'_>,
) -> Result<(), AlterConfigsError> {
    if after.len() > CONFIG_KEYS_MAX && after.len() > current.len() {
        return Err(AlterConfigsError::InvalidConfig(format!(
            "a resource may have {CONFIG_KEYS_MAX} configs"
        )));
    }
    let new_name = matches!(resource.kind, ConfigResourceType::ClientMetrics | ConfigResourceType::Group)
        && current.is_empty()
        && !after.is_empty();
    if new_name && draft.image.configs.len() >= CONFIG_RESOURCES_MAX {
        return Err(AlterConfigsError::InvalidConfig(format!(
            "{CONFIG_RESOURCES_MAX} resources have configs, no further one is taken"
        )));
    }
    Ok(())
}

pub(super) fn check_key_value(key: &str, value: Option<&str>) -> Result<(), String> {
    if key.is_empty() {
        return Err("a config key is empty".into());
    }
    if key.len() > CONFIG_VALUE_BYTES_MAX || value.is_some_and(|value| value.len() > CONFIG_VALUE_BYTES_MAX) {
        let shown: String = key.chars().take(64).collect();
        return Err(format!("the config `{shown}` is longer than {CONFIG_VALUE_BYTES_MAX} bytes"));
    }
    Ok(())
}
