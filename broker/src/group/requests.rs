//! What may be asked of the group coordinator, and what it answers: values without wire versions or error codes.
//!
//! Strings are owned (`Arc<str>`): a slice of a request's frame kept in a group would pin the whole frame.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

pub type GroupId = Arc<str>;
pub type MemberId = Arc<str>;
pub type InstanceId = Arc<str>;

/// Why a request was refused. One Kafka code each; the map is `crate::error_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum GroupError {
    #[error("this broker does not lead the group's partition of __consumer_offsets")]
    NotCoordinator,
    #[error("the group's partition of __consumer_offsets is being read")]
    CoordinatorLoadInProgress,
    #[error("the coordinator cannot serve the group now")]
    CoordinatorNotAvailable,
    #[error("the group id is not valid")]
    InvalidGroupId,
    #[error("the session timeout is outside group.min.session.timeout.ms and group.max.session.timeout.ms")]
    InvalidSessionTimeout,
    #[error("the group has group.max.size members")]
    GroupMaxSizeReached,
    #[error("no member of the group shares a protocol with this one, or the protocol type is another")]
    InconsistentGroupProtocol,
    #[error("the member must join again with the member id it was given")]
    MemberIdRequired,
    #[error("the group has no such member")]
    UnknownMemberId,
    #[error("another member joined with the same group.instance.id")]
    FencedInstanceId,
    #[error("the generation is not the group's")]
    IllegalGeneration,
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    #[error("there is no such group")]
    GroupIdNotFound,
    #[error("the group is not empty")]
    NonEmptyGroup,
    #[error("the group consumes the topic")]
    GroupSubscribedToTopic,
    #[error("the metadata of the offset is larger than offset.metadata.max.bytes")]
    OffsetMetadataTooLarge,
    #[error("the offsets do not fit into one batch of __consumer_offsets")]
    InvalidCommitOffsetSize,
    #[error("the assignment does not fit into one batch of __consumer_offsets")]
    AssignmentTooLarge,
    #[error("the member's subscription does not fit into one batch of __consumer_offsets")]
    SubscriptionTooLarge,
}

/// A member that wants to be in the next generation.
#[derive(Clone, Debug)]
pub struct JoinGroup {
    pub group_id: GroupId,
    /// Empty for a member that has none yet.
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub protocol_type: Arc<str>,
    /// In the order of the member's preference.
    pub protocols: Vec<Protocol>,
    pub session_timeout_ms: i32,
    pub rebalance_timeout_ms: i32,
    pub member_id_rule: MemberIdRule,
    pub static_rejoin: StaticRejoin,
}

/// An assignor of the member and what it wants to tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    pub name: Arc<str>,
    pub metadata: Bytes,
}

/// Whether a dynamic member's first join is answered with its id only (JoinGroup v4+, KIP-394).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberIdRule {
    Assign,
    Require,
}

/// What a static leader that came back is told when its group need not rebalance (JoinGroup v9, KIP-814).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaticRejoin {
    /// Its predecessor's id as the leader's, so that it does not assign again.
    AsFollower,
    /// That it leads, with all members, and that it must not assign.
    SkipAssignment,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub member_id: MemberId,
    pub generation: i32,
    pub protocol_type: Option<Arc<str>>,
    pub protocol_name: Option<Arc<str>>,
    pub leader: MemberId,
    pub skip_assignment: bool,
    /// All members for the leader, none for the others.
    pub members: Vec<JoinedMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub metadata: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRefused {
    pub error: GroupError,
    pub member_id: MemberId,
}

#[derive(Clone, Debug)]
pub struct SyncGroup {
    pub group_id: GroupId,
    pub generation: i32,
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    /// From v5 on.
    pub protocol_type: Option<Arc<str>>,
    pub protocol_name: Option<Arc<str>>,
    pub assignments: Vec<(MemberId, Bytes)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    pub protocol_type: Option<Arc<str>>,
    pub protocol_name: Option<Arc<str>>,
    pub assignment: Bytes,
}

#[derive(Clone, Debug)]
pub struct Heartbeat {
    pub group_id: GroupId,
    pub generation: i32,
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
}

#[derive(Clone, Debug)]
pub struct LeaveGroup {
    pub group_id: GroupId,
    pub members: Vec<LeavingMember>,
}

/// A member id may be empty when the instance id is given (removal by an operator).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeavingMember {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftMember {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub result: Result<(), GroupError>,
}

#[derive(Clone, Debug)]
pub struct CommitOffsets {
    pub group_id: GroupId,
    /// -1 from who commits without being a member.
    pub generation: i32,
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    /// OffsetCommit v2 to v4; otherwise the broker's retention holds.
    pub retention_ms: Option<i64>,
    pub topics: Vec<CommitTopic>,
}

#[derive(Clone, Debug)]
pub struct CommitTopic {
    pub name: Arc<str>,
    pub partitions: Vec<CommitPartition>,
}

#[derive(Clone, Debug)]
pub struct CommitPartition {
    pub partition: i32,
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: Arc<str>,
}

/// One result per partition asked, in the order of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionResults {
    pub topics: Vec<(Arc<str>, Vec<PartitionResult>)>,
}

/// The partition, and what became of what was asked of it.
pub type PartitionResult = (i32, Result<(), GroupError>);

#[derive(Clone, Debug)]
pub struct FetchOffsets {
    pub group_id: GroupId,
    /// `None`: all that the group has committed.
    pub topics: Option<Vec<(Arc<str>, Vec<i32>)>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOffsets {
    pub topics: Vec<(Arc<str>, Vec<FetchedOffset>)>,
}

/// A partition without a committed offset has offset -1, epoch -1 and empty metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedOffset {
    pub partition: i32,
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupState {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

impl GroupState {
    /// The name in responses and in filters.
    pub fn name(self) -> &'static str {
        match self {
            GroupState::Empty => "Empty",
            GroupState::PreparingRebalance => "PreparingRebalance",
            GroupState::CompletingRebalance => "CompletingRebalance",
            GroupState::Stable => "Stable",
            GroupState::Dead => "Dead",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedGroup {
    pub state: GroupState,
    pub protocol_type: Arc<str>,
    /// Empty unless the group is stable, as are the members' metadata and assignments.
    pub protocol_name: Arc<str>,
    pub members: Vec<DescribedMember>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    pub member_id: MemberId,
    pub instance_id: Option<InstanceId>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub metadata: Bytes,
    pub assignment: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    pub group_id: GroupId,
    pub protocol_type: Arc<str>,
    pub state: GroupState,
}

#[derive(Clone, Debug)]
pub struct DeleteOffsets {
    pub group_id: GroupId,
    pub topics: Vec<(Arc<str>, Vec<i32>)>,
}

/// Randomness enters the machine as a value: the part of a new member's id that makes it unique.
#[derive(Clone, Copy, Debug)]
pub struct MemberIdSuffix(pub Uuid);
