//! A new cluster from what a lost one left in the tier: its topics with their ids and configs, every record up to the end of each
//! partition's tier, at the offset that it had, and how far consumer groups had read. Runs on the first node of the new cluster, between its registration and the opening of
//! its logs: the node is fenced, and nobody else is there.
//!
//! ORDER: the log of a partition is made before the metadata knows of it. A leader with an empty log would take what is in the tier
//! for another history, and forget it. A restore that was cut off is run again: topics that are known are left as they are, logs that
//! nobody knows are made anew. Before that, the topic's table is told where the rows that it has end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use ottla_batch::{AppendOrigin, BatchError, Codec, LeaderEpoch, Offset, TimestampMs, check_replicated};
use ottla_raft::requests::{
    BrokerEpochError, CreateTopicError, RestoreTopics, RestoredPartition, RestoredTopic,
};
use ottla_raft::{BrokerEpoch, BrokerId, Image, Metadata, SubmitError, TopicId};
use ottla_storage::log::{AppendError, BehindTier, BootstrapError, ChangeError, Log, LogConfig, OpenError};
use ottla_storage::logdir::LogDir;
use ottla_storage::tiering::cluster::{self, TopicState};
use ottla_storage::tiering::groups::{self, CommittedOffsets, GroupOffset};
use ottla_storage::tiering::manifest::{self, Manifest, ManifestError};
use ottla_storage::tiering::numbered::NumberedError;
use ottla_storage::tiering::object::Section;
use ottla_storage::tiering::reader::RemoteReadError;
use ottla_storage::tiering::store::StoreError;

use super::{Tier, cluster_state};
use crate::clock;
use crate::config::NodeConfig;
use crate::group::records::{CommittedOffset, Record};
use crate::group::{OFFSETS_TOPIC, batches_of, topic_configs};
#[cfg(feature = "lake")]
use crate::lake::Tables;

/// Partitions whose manifest and last object are read at the same time.
const PARTITIONS_IN_FLIGHT: usize = 16;
/// Of a batch of committed offsets: below what any broker takes.
const BATCH_BYTES: usize = 512 << 10;

/// What was restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    pub topics: usize,
    pub partitions: usize,
    /// From the log starts to the ends.
    pub offsets: u64,
    /// With committed offsets.
    pub groups: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("remote.log.storage.system.enable is not true: there is no tier to restore from")]
    NoTier,
    #[error("this node is no broker")]
    NoBroker,
    #[error("{0} holds no topics of a cluster: nothing can be restored from it")]
    Nothing(String),
    #[error("this cluster has topics of its own ({0}): restoring needs an empty one")]
    NotEmpty(String),
    #[error(transparent)]
    State(#[from] NumberedError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Remote(#[from] RemoteReadError),
    #[error("the end of the tier of {topic}-{partition}: {source}")]
    BehindTier { topic: String, partition: i32, source: BootstrapError },
    #[error(
        "no object of the tier of {topic}-{partition} ends within its history: what producers did is not known"
    )]
    NoWholeObject { topic: String, partition: i32 },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Log(#[from] ChangeError),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Epoch(#[from] BrokerEpochError),
    #[error("topic {topic}: {source}")]
    Topic { topic: String, source: CreateTopicError },
    #[error("an offset committed by group {group} makes no record: {source}")]
    GroupOffset { group: String, source: BatchError },
    #[error(transparent)]
    Append(#[from] AppendError),
    /// Without it, the new cluster would take all records for new ones.
    #[cfg(feature = "lake")]
    #[error("the table of topic {topic} must be told where its records go on: {source}")]
    Table { topic: String, source: Box<ottla_lake::table::TableError> },
    #[error("taking over the tier: {0}")]
    TakeOver(StoreError),
}

/// The broker that restores.
pub struct Restorer<'a> {
    pub tier: &'a Tier,
    pub metadata: &'a Metadata,
    pub local: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// Never empty.
    pub log_dirs: &'a [LogDir],
    pub config: &'a NodeConfig,
    #[cfg(feature = "lake")]
    pub tables: Tables,
}

/// Where the log of a partition is to begin.
enum Beginning {
    /// Nothing was ever there, or all of it is deleted.
    At(Offset),
    /// Behind what lies in the tier.
    BehindTier(Offset, BehindTier),
}

impl Beginning {
    /// Of the next record.
    fn offset(&self) -> Offset {
        match self {
            Beginning::At(offset) | Beginning::BehindTier(offset, _) => *offset,
        }
    }
}

/// By topic, where each partition goes on.
type Ends = BTreeMap<String, Vec<Offset>>;

struct Planned {
    beginning: Beginning,
    leader_epoch: LeaderEpoch,
    tier: Option<(u64, i64)>,
    offsets: u64,
    producer_id_max: Option<i64>,
}

impl Restorer<'_> {
    pub async fn run(&self) -> Result<Restored, RestoreError> {
        let state = cluster::load(&**self.tier.store(), self.tier.prefix()).await?;
        let state = state.ok_or_else(|| RestoreError::Nothing(self.tier.prefix().to_owned()))?;
        check_empty(&self.metadata.image(), &state.topics)?;
        let mut restored = Restored::default();
        let mut ends = Ends::new();
        for topic in &state.topics {
            let planned = self.plan_all(topic).await?;
            ends.insert(
                topic.name.clone(),
                planned.iter().map(|planned| planned.beginning.offset()).collect(),
            );
            if self.metadata.image().topic_by_id(TopicId(topic.id)).is_none() {
                #[cfg(feature = "lake")]
                self.keep_rows(topic, &state.cluster_id, &planned).await?;
                let offsets = self.restore(topic, planned).await?;
                tracing::info!(topic = topic.name, partitions = topic.partitions, offsets, "restored");
                restored.offsets += offsets;
                restored.topics += 1;
                restored.partitions += topic.partitions as usize;
            }
        }
        restored.groups = self.restore_groups(&ends).await?;
        let image = self.metadata.image();
        cluster_state::take_over(self.tier, &image, &state).await.map_err(RestoreError::TakeOver)?;
        Ok(restored)
    }

    async fn plan_all(&self, topic: &TopicState) -> Result<Vec<Planned>, RestoreError> {
        let partitions = stream::iter(0..topic.partitions).map(|partition| self.plan(topic, partition));
        partitions.buffered(PARTITIONS_IN_FLIGHT).try_collect().await
    }

    /// Returns how many offsets the topic has.
    async fn restore(&self, topic: &TopicState, planned: Vec<Planned>) -> Result<u64, RestoreError> {
        let producer_id_max = planned.iter().filter_map(|planned| planned.producer_id_max).max();
        let mut partitions = Vec::with_capacity(planned.len());
        let mut offsets = 0;
        for (index, planned) in planned.into_iter().enumerate() {
            let dir = &self.log_dirs[index % self.log_dirs.len()];
            let directory = dir.directory_id();
            // Here and now: nobody else waits for this node yet.
            make_log(dir, &topic.name, index as i32, topic.id, planned.beginning)?;
            offsets += planned.offsets;
            let (leader_epoch, tier) = (ottla_raft::LeaderEpoch(planned.leader_epoch.0), planned.tier);
            partitions.push(RestoredPartition { leader_epoch, directory, tier });
        }
        let request = RestoredTopic {
            name: topic.name.clone(),
            id: TopicId(topic.id),
            configs: topic.configs.clone().into_iter().collect(),
            partitions,
        };
        self.submit(request, producer_id_max.map_or(0, |max| max.saturating_add(1))).await?;
        Ok(offsets)
    }

    async fn submit(&self, topic: RestoredTopic, producer_ids_from: i64) -> Result<(), RestoreError> {
        let request = RestoreTopics {
            broker: self.local,
            broker_epoch: self.broker_epoch,
            producer_ids_from,
            topics: vec![topic],
        };
        for answer in self.metadata.submit(request).await?? {
            answer.result.map_err(|source| RestoreError::Topic { topic: answer.name, source })?;
        }
        Ok(())
    }

    /// Makes `__consumer_offsets` with what was known of committed offsets. One beyond the end of the tier becomes that end: what came
    /// after it is lost, and the group is to go on with what comes now. Returns how many groups have offsets.
    async fn restore_groups(&self, ends: &Ends) -> Result<usize, RestoreError> {
        let written = groups::load_all(&**self.tier.store(), self.tier.prefix()).await?;
        let epoch = |written: &CommittedOffsets| {
            written.partitions.iter().map(|partition| partition.leader_epoch).max()
        };
        let Some(newest) = written.iter().max_by_key(|written| epoch(written)) else { return Ok(0) };
        let (topic_id, partition_count) = (newest.topic_id, newest.partition_count);
        if let Some(known) = self.metadata.image().topic_by_name(OFFSETS_TOPIC) {
            if known.id != TopicId(topic_id) {
                tracing::warn!(
                    "groups of this cluster were there before the restore: what groups of the lost one had committed is not restored"
                );
            }
            return Ok(0);
        }
        // The topic may have been deleted and made anew.
        let of_topic = written.into_iter().filter(|written| written.topic_id == topic_id);
        let known = groups::newest(of_topic.collect());
        let now = clock::now();
        let mut found = BTreeSet::new();
        let mut partitions = Vec::new();
        for index in 0..partition_count {
            let known = known.get(&index);
            let offsets = known.map_or(&[][..], |known| &known.offsets);
            let records: Vec<Record> =
                offsets.iter().filter_map(|offset| record(offset, ends, now)).collect();
            found.extend(records.iter().map(|record| record.group_id().clone()));
            let leader_epoch = known.map_or(0, |known| known.leader_epoch);
            let dir = &self.log_dirs[index as usize % self.log_dirs.len()];
            let mut log = open_log(dir, OFFSETS_TOPIC, index, topic_id, false)?;
            log.truncate_fully_and_start_at(Offset(0))?;
            if !records.is_empty() {
                for batch in batches_of(&records, now, BATCH_BYTES, Codec::None) {
                    let group = records[0].group_id().to_string();
                    let batch = check_replicated(batch);
                    let batch = batch.map_err(|source| RestoreError::GroupOffset { group, source })?;
                    let epoch = LeaderEpoch(leader_epoch);
                    log.append_as_leader(&batch, epoch, AppendOrigin::Coordinator, now)?;
                }
            }
            log.close()?;
            partitions.push(RestoredPartition {
                leader_epoch: ottla_raft::LeaderEpoch(leader_epoch),
                directory: dir.directory_id(),
                tier: None,
            });
        }
        let topic = RestoredTopic {
            name: OFFSETS_TOPIC.to_owned(),
            id: TopicId(topic_id),
            configs: topic_configs(self.config),
            partitions,
        };
        self.submit(topic, 0).await?;
        tracing::info!(groups = found.len(), "committed offsets are restored");
        Ok(found.len())
    }

    /// Tells the topic's table where its records go on; `lost`: the cluster that had it.
    /// ORDER: before the topic is there, for then somebody may commit to its table.
    #[cfg(feature = "lake")]
    async fn keep_rows(
        &self,
        topic: &TopicState,
        lost: &str,
        planned: &[Planned],
    ) -> Result<(), RestoreError> {
        let Some(table) = crate::config::lake_table_of(&topic.name, &topic.configs) else { return Ok(()) };
        let ends = (0..).zip(planned).map(|(partition, planned)| (partition, planned.beginning.offset()));
        let origin = |cluster_id: &str| ottla_lake::table::Origin {
            cluster_id: cluster_id.to_owned(),
            topic_id: TopicId(topic.id).to_string(),
        };
        let (from, to) = (origin(lost), origin(&self.metadata.image().cluster_id.to_string()));
        let adopted = self.tables.adopt(&table, &from, &to, &ends.collect()).await;
        adopted.map_err(|error| RestoreError::Table { topic: topic.name.clone(), source: Box::new(error) })
    }

    async fn plan(&self, topic: &TopicState, partition: i32) -> Result<Planned, RestoreError> {
        let (store, prefix) = (&**self.tier.store(), self.tier.prefix());
        let Some(manifest) = manifest::load(store, prefix, topic.id, partition).await? else {
            let beginning = Beginning::At(Offset(0));
            return Ok(Planned {
                beginning,
                leader_epoch: LeaderEpoch(0),
                tier: None,
                offsets: 0,
                producer_id_max: None,
            });
        };
        let leader_epoch = newest_epoch(&manifest);
        let Some(end) = manifest.end_offset() else {
            let beginning = Beginning::At(manifest.log_start_offset);
            return Ok(Planned { beginning, leader_epoch, tier: None, offsets: 0, producer_id_max: None });
        };
        // What an object says of its end holds of the partition only if the partition's history goes to its end. Epochs may be
        // cut, what producers did may not: then it is that of an older object, and some retries are not known again.
        let segments = manifest.segments();
        let whole = segments.iter().rev().find(|segment| segment.valid_to == segment.end_offset);
        let (Some(last), Some(whole)) = (segments.last(), whole) else {
            return Err(RestoreError::NoWholeObject { topic: topic.name.clone(), partition });
        };
        let reader = self.tier.reader();
        let epochs = reader.section(&manifest.key_of(last), Section::LeaderEpochs).await?;
        let producers = reader.section(&manifest.key_of(whole), Section::ProducerSnapshot).await?;
        let behind = BehindTier::new(manifest.log_start_offset, &epochs, &producers)
            .map_err(|source| RestoreError::BehindTier { topic: topic.name.clone(), partition, source })?;
        let producer_id_max = behind.producer_id_max().map(|id| id.0);
        Ok(Planned {
            producer_id_max,
            beginning: Beginning::BehindTier(end, behind),
            leader_epoch,
            tier: Some((manifest.number, end.0)),
            offsets: (end.0 - manifest.log_start_offset.0).max(0) as u64,
        })
    }
}

/// Of any leader that wrote to the partition's tier, or that is known from its records.
fn newest_epoch(manifest: &Manifest) -> LeaderEpoch {
    let of_segments = manifest.segments().iter().flat_map(|segment| {
        let of_records = segment.epochs.iter().map(|(epoch, _)| *epoch);
        of_records.chain([segment.leader_epoch])
    });
    of_segments.chain([manifest.writer.leader_epoch]).max().unwrap_or(LeaderEpoch(0))
}

fn check_empty(image: &Image, wanted: &[TopicState]) -> Result<(), RestoreError> {
    let wanted: BTreeMap<_, _> = wanted.iter().map(|topic| (topic.id, &topic.name)).collect();
    let is_own = |name: &str, id: TopicId| !cluster_state::is_internal(name) && !wanted.contains_key(&id.0);
    match image.topics_by_name().find(|topic| is_own(&topic.name, topic.id)) {
        Some(topic) => Err(RestoreError::NotEmpty(topic.name.to_string())),
        None => Ok(()),
    }
}

/// As if it were committed now: offsets expire by the time of their commit. None: of a topic or partition that is not restored.
fn record(offset: &GroupOffset, ends: &Ends, now: TimestampMs) -> Option<Record> {
    let end = ends.get(&offset.topic)?.get(usize::try_from(offset.partition).ok()?)?;
    let is_known = offset.offset <= end.0;
    Some(Record::Offset {
        group_id: offset.group.as_str().into(),
        topic: offset.topic.as_str().into(),
        partition: offset.partition,
        value: Some(CommittedOffset {
            offset: offset.offset.min(end.0),
            leader_epoch: if is_known { offset.leader_epoch } else { -1 },
            metadata: offset.metadata.as_str().into(),
            commit_ms: now.0,
            expire_ms: None,
        }),
    })
}

fn open_log(
    dir: &LogDir,
    topic: &str,
    partition: i32,
    id: uuid::Uuid,
    remote_storage: bool,
) -> Result<Log, OpenError> {
    let config = LogConfig { remote_storage, ..LogConfig::default() };
    dir.open_log(topic, partition, Some(id), Arc::new(config), clock::now())
}

fn make_log(
    dir: &LogDir,
    topic: &str,
    partition: i32,
    id: uuid::Uuid,
    beginning: Beginning,
) -> Result<(), RestoreError> {
    let mut log = open_log(dir, topic, partition, id, true)?;
    match beginning {
        Beginning::At(Offset(0)) => {}
        Beginning::At(offset) => log.truncate_fully_and_start_at(offset)?,
        Beginning::BehindTier(end, behind) => log.start_behind_tier(end, behind)?,
    }
    log.close()?;
    Ok(())
}
