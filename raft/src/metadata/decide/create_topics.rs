//! CreateTopics: names, counts or manual assignments, configs; each topic by itself, in the order given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::RngCore;
use uuid::Uuid;

use super::alter_configs::check_key_value;
use super::partitions::default_directory;
use super::{CONFIG_KEYS_MAX, Draft, PARTITIONS_MAX, check_manual_replicas, placer};
use crate::metadata::ids::{BrokerId, LeaderEpoch, PartitionEpoch, TopicId};
use crate::metadata::image::Image;
use crate::metadata::records::{ConfigResource, PartitionState, Record};
use crate::metadata::replay::{collision_key, configs_from};
use crate::requests::{CreateTopicError, CreateTopicResult, CreateTopics, CreatedTopic, NewTopic};

/// So that `<topic>-<partition>` fits a file name with room for suffixes.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

const METADATA_TOPIC_NAME: &str = "__cluster_metadata";

pub(super) fn decide(request: &CreateTopics, draft: &mut Draft<'_>) -> Vec<CreateTopicResult> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in &request.topics {
        *seen.entry(&topic.name).or_default() += 1;
    }
    // As Kafka: a request of which only a part would fit is refused as a whole, before anything is placed.
    let records: usize =
        request.topics.iter().map(|topic| records_of(topic, draft)).fold(0, usize::saturating_add);
    let fits = draft.room_for(records);
    let mut answered = BTreeSet::new();
    let mut results = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        if !answered.insert(topic.name.as_str()) {
            continue;
        }
        let result = if seen[topic.name.as_str()] > 1 {
            Err(CreateTopicError::InvalidRequest("the request names this topic more than once".into()))
        } else if fits {
            create(topic, draft)
        } else {
            Err(too_large())
        };
        results.push(CreateTopicResult { name: topic.name.clone(), result });
    }
    if request.validate_only {
        draft.discard();
        for created in results.iter_mut().filter_map(|result| result.result.as_mut().ok()) {
            created.id = TopicId::ZERO;
        }
    }
    results
}

/// What creating the topic writes at least, if it is not refused.
fn records_of(topic: &NewTopic, draft: &Draft<'_>) -> usize {
    let partitions = match topic.partitions {
        _ if !topic.assignments.is_empty() => topic.assignments.len(),
        -1 => usize::try_from(draft.context.topic_defaults.partitions).unwrap_or(0),
        // A negative number is refused for what it is.
        given => usize::try_from(given).unwrap_or(0),
    };
    partitions.saturating_add(topic.configs.len()).saturating_add(1)
}

fn too_large() -> CreateTopicError {
    CreateTopicError::LimitReached(format!(
        "the request is too large: it may write {} records",
        super::RECORDS_PER_REQUEST_MAX
    ))
}

fn create(topic: &NewTopic, draft: &mut Draft<'_>) -> Result<CreatedTopic, CreateTopicError> {
    if topic.name == METADATA_TOPIC_NAME {
        return Err(CreateTopicError::InvalidRequest(format!("{METADATA_TOPIC_NAME} is the cluster's own")));
    }
    check_topic_name(&topic.name).map_err(CreateTopicError::InvalidName)?;
    if draft.image.topic_names.contains_key(topic.name.as_str()) {
        return Err(CreateTopicError::AlreadyExists(topic.name.clone()));
    }
    check_collision(&draft.image, &topic.name)?;
    check_configs(&topic.name, &topic.configs, draft)?;
    let partitions = if topic.assignments.is_empty() {
        place(topic, draft)?
    } else {
        if topic.replication_factor != -1 {
            return Err(CreateTopicError::InvalidRequest(
                "with a manual assignment the replication factor must be -1".into(),
            ));
        }
        if topic.partitions != -1 {
            return Err(CreateTopicError::InvalidRequest(
                "with a manual assignment the number of partitions must be -1".into(),
            ));
        }
        check_room(draft, topic.assignments.len(), topic.configs.len())?;
        manual(topic, &draft.image)?
    };

    let id = draft.topic_id();
    let created = CreatedTopic {
        id,
        partitions: partitions.len() as i32,
        replication_factor: partitions[0].replicas.len() as i16,
    };
    let name: Arc<str> = topic.name.as_str().into();
    draft.push(Record::TopicCreated { name: name.clone(), id });
    for (key, value) in &topic.configs {
        draft.push(Record::ConfigSet {
            resource: ConfigResource::topic(name.clone()),
            key: key.as_str().into(),
            value: Some(value.as_str().into()),
        });
    }
    for (partition, state) in partitions.into_iter().enumerate() {
        draft.push(Record::PartitionCreated { topic: id, partition: partition as i32, state });
    }
    Ok(created)
}

/// Kafka's rules for topic names.
pub fn check_topic_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the empty string is no topic name".into());
    }
    if name == "." || name == ".." {
        return Err(format!("`{name}` is no topic name"));
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(format!(
            "the topic name has {} characters, {TOPIC_NAME_BYTES_MAX} are allowed",
            name.len()
        ));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        return Err(format!(
            "the topic name `{}` has characters other than ASCII letters and digits, `.`, `_` and `-`",
            name.escape_debug()
        ));
    }
    Ok(())
}

pub(super) fn check_collision(image: &Image, name: &str) -> Result<(), CreateTopicError> {
    let existing = collision_key(name)
        .and_then(|key| image.colliding_names.get(&key))
        .and_then(|names| names.iter().find(|existing| ***existing != *name));
    match existing {
        None => Ok(()),
        Some(existing) => Err(CreateTopicError::InvalidName(format!(
            "the topic name `{name}` collides with the existing topic `{existing}`: `.` and `_` are one in metric names"
        ))),
    }
}

pub(super) fn check_configs(
    name: &str,
    configs: &[(String, String)],
    draft: &Draft<'_>,
) -> Result<(), CreateTopicError> {
    if configs.len() > CONFIG_KEYS_MAX {
        return Err(CreateTopicError::LimitReached(format!("more than {CONFIG_KEYS_MAX} configs")));
    }
    let mut keys = BTreeSet::new();
    for (key, value) in configs {
        check_key_value(key, Some(value)).map_err(CreateTopicError::InvalidConfig)?;
        if !keys.insert(key) {
            return Err(CreateTopicError::InvalidConfig(format!("the config key `{key}` is given twice")));
        }
    }
    if let Some(check) = draft.context.config_check {
        let given = configs_from(configs.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        check(&ConfigResource::topic(name), &given).map_err(CreateTopicError::InvalidConfig)?;
    }
    Ok(())
}

pub(super) fn check_room(
    draft: &Draft<'_>,
    partitions: usize,
    configs: usize,
) -> Result<(), CreateTopicError> {
    if !draft.room_for(partitions.saturating_add(configs).saturating_add(1)) {
        return Err(too_large());
    }
    if draft.image.partition_count.saturating_add(partitions) > PARTITIONS_MAX {
        return Err(CreateTopicError::LimitReached(format!(
            "the cluster may have {PARTITIONS_MAX} partitions"
        )));
    }
    Ok(())
}

fn place(topic: &NewTopic, draft: &mut Draft<'_>) -> Result<Vec<PartitionState>, CreateTopicError> {
    let replication_factor = match topic.replication_factor {
        -1 => draft.context.topic_defaults.replication_factor,
        given if given > 0 => given,
        given => {
            return Err(CreateTopicError::InvalidReplicationFactor(format!(
                "the replication factor must be positive, or -1 for the default; it is {given}"
            )));
        }
    };
    let count = match topic.partitions {
        -1 => draft.context.topic_defaults.partitions,
        given if given > 0 => given,
        given => {
            return Err(CreateTopicError::InvalidPartitions(format!(
                "the number of partitions must be positive, or -1 for the default; it is {given}"
            )));
        }
    };
    check_room(draft, usize::try_from(count).unwrap_or(0), topic.configs.len())?;
    let refused = |reason: String| {
        CreateTopicError::InvalidReplicationFactor(format!(
            "a partition cannot have {replication_factor} replica(s): {reason}"
        ))
    };
    let mut placer = placer(&draft.image, &mut draft.random);
    let mut partitions = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let replicas = placer.place(replication_factor.into()).map_err(|error| refused(error.to_string()))?;
        let state = new_partition(&draft.image, replicas)
            .ok_or_else(|| refused("all brokers are fenced or shutting down".into()))?;
        partitions.push(state);
    }
    Ok(partitions)
}

fn manual(topic: &NewTopic, image: &Image) -> Result<Vec<PartitionState>, CreateTopicError> {
    let invalid = CreateTopicError::InvalidReplicaAssignment;
    let mut factor = None;
    let mut partitions: BTreeMap<i32, PartitionState> = BTreeMap::new();
    for (partition, replicas) in &topic.assignments {
        if partitions.contains_key(partition) {
            return Err(invalid(format!("partition {partition} is assigned more than once")));
        }
        check_manual_replicas(image, *partition, replicas, factor).map_err(invalid)?;
        factor = Some(replicas.len());
        let state = new_partition(image, replicas.clone()).ok_or_else(|| {
            invalid(format!("all brokers assigned to partition {partition} are fenced or shutting down"))
        })?;
        partitions.insert(*partition, state);
    }
    if !partitions.keys().copied().eq(0..partitions.len() as i32) {
        return Err(invalid("the assigned partitions must be 0, 1, 2 and so on without a gap".into()));
    }
    Ok(partitions.into_values().collect())
}

/// `None` if no replica can be in sync.
pub(super) fn new_partition(image: &Image, replicas: Vec<BrokerId>) -> Option<PartitionState> {
    let isr: Vec<BrokerId> = replicas.iter().copied().filter(|id| image.is_active(*id)).collect();
    let leader = *isr.first()?;
    let mut directories: Vec<Uuid> = replicas.iter().map(|id| default_directory(image, *id)).collect();
    if directories.iter().all(Uuid::is_nil) {
        directories.clear();
    }
    Some(PartitionState {
        replicas: replicas.into(),
        isr: isr.into(),
        leader: Some(leader),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(0),
        elr: Vec::new(),
        last_known_elr: Vec::new(),
        adding_replicas: Vec::new(),
        removing_replicas: Vec::new(),
        leader_recovering: false,
        directories,
    })
}

impl Draft<'_> {
    fn topic_id(&mut self) -> TopicId {
        loop {
            let mut bytes = [0; 16];
            self.random.fill_bytes(&mut bytes);
            let id = TopicId(uuid::Builder::from_random_bytes(bytes).into_uuid());
            // Kafka's tools take a leading dash for an option.
            let usable = !id.is_reserved() && id.0 != Uuid::nil() && !id.to_string().starts_with('-');
            if usable && !self.image.topics.contains_key(&id) {
                return id;
            }
        }
    }
}
