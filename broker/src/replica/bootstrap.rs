//! A follower whose leader has the next records in the tier alone (KIP-405): a new replica, a replaced disk, or a broker that was
//! away for longer than local retention. It does not copy what lies there. Its log begins where an object of the tier ends, with the
//! leader epochs and producers that the object holds as of there, and is filled from the leader from then on.
//!
//! The leader's local log begins at or before the end of that object, for nothing goes from there before it is in the tier.

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_batch::{LeaderEpoch, Offset};
use ottla_clients::error::ClientError;
use ottla_storage::log::{BehindTier, BootstrapError as BehindTierError};
use ottla_storage::tiering::manifest::{Manifest, ManifestError, TieredSegment};
use ottla_storage::tiering::object::Section;
use ottla_storage::tiering::reader::RemoteReadError;

use super::fetcher::FetcherContext;
use super::following::FollowError;
use super::links::LeaderLink;
use super::partition::Replica;

/// ListOffsets' word for the first offset on the leader's disk.
const EARLIEST_LOCAL: i64 = -4;

#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error("this node has no tier (remote.log.storage.system.enable)")]
    NoTier,
    #[error("asking the leader where its local log begins: {0}")]
    Leader(#[from] ClientError),
    #[error("the leader does not say where its local log begins: {0:?}")]
    Refused(Option<ResponseError>),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Remote(#[from] RemoteReadError),
    #[error("no object of the tier ends at or after {0}, where the leader's local log begins")]
    NotThere(Offset),
    #[error(transparent)]
    BehindTier(#[from] BehindTierError),
    #[error(transparent)]
    Follow(#[from] FollowError),
}

/// Lets the log begin anew where the tier allows it, and says where; `None` if it goes on there already. `log_start`: the leader's.
pub(super) async fn start_behind_tier(
    context: &FetcherContext,
    link: &dyn LeaderLink,
    replica: &Arc<Replica>,
    epoch: LeaderEpoch,
    log_start: Offset,
) -> Result<Option<Offset>, BootstrapError> {
    let tier = context.tier.as_ref().ok_or(BootstrapError::NoTier)?;
    let local_start = leaders_local_start(context, link, replica, epoch).await?;
    let (topic, partition) = (replica.topic_id(), replica.partition());
    let number = context.metadata.image().tier_position(topic, partition).map_or(0, |tier| tier.manifest);
    let manifest = tier.manifest(topic, partition, number).await?;
    let manifest = manifest.ok_or(BootstrapError::NotThere(local_start))?;
    let segment = first_behind(&manifest, local_start, context.node.dynamic().begins_at_last_tiered);
    let segment = segment.ok_or(BootstrapError::NotThere(local_start))?;
    let key = manifest.key_of(segment);
    let epochs = tier.reader().section(&key, Section::LeaderEpochs).await?;
    let producers = tier.reader().section(&key, Section::ProducerSnapshot).await?;
    let before = BehindTier::new(log_start.max(manifest.log_start_offset), &epochs, &producers)?;
    let begins = replica.start_behind_tier(epoch, segment.end_offset, before)?;
    Ok(begins.then_some(segment.end_offset))
}

/// The segment at whose end the log begins: the first one that ends where the leader has the next record, or the last (KIP-1023).
/// What an object says about its end holds of the partition only if the partition's history goes to its end.
fn first_behind(manifest: &Manifest, local_start: Offset, takes_last: bool) -> Option<&TieredSegment> {
    let holds = |segment: &&TieredSegment| {
        segment.valid_to == segment.end_offset && segment.end_offset >= local_start
    };
    let mut segments = manifest.segments().iter().filter(holds);
    if takes_last { segments.next_back() } else { segments.next() }
}

async fn leaders_local_start(
    context: &FetcherContext,
    link: &dyn LeaderLink,
    replica: &Replica,
    epoch: LeaderEpoch,
) -> Result<Offset, BootstrapError> {
    let partition = ListOffsetsPartition::default()
        .with_partition_index(replica.partition())
        .with_current_leader_epoch(epoch.0)
        .with_timestamp(EARLIEST_LOCAL);
    let topic = ListOffsetsTopic::default()
        .with_name(TopicName(StrBytes::from_string(replica.topic().to_string())))
        .with_partitions(vec![partition]);
    let request =
        ListOffsetsRequest::default().with_replica_id(BrokerId(context.local.0)).with_topics(vec![topic]);
    let response = link.list_offsets(request).await?;
    let answer = response.topics.first().and_then(|topic| topic.partitions.first());
    match answer {
        Some(answer) if answer.error_code == 0 && answer.offset >= 0 => Ok(Offset(answer.offset)),
        answer => {
            let error = answer.and_then(|answer| ResponseError::try_from_code(answer.error_code));
            Err(BootstrapError::Refused(error))
        }
    }
}
