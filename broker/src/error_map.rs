//! The only place where internal errors become Kafka error codes. Every match is exhaustive and has no wildcard arm, so
//! that a new internal error cannot be answered by accident.

use kafka_protocol::error::ResponseError;
use ottla_batch::{BatchError, LeaderEpoch};
use ottla_raft::requests::{
    AllocateProducerIdsError, AlterConfigsError, CreatePartitionsError, CreateTopicError, DeleteTopicError,
    ElectLeaderError, ReassignmentError, UnregisterBrokerError, UpdateFeaturesError,
};
use ottla_raft::{SubmitError, VoterChangeError};
use ottla_storage::log;

use crate::config::alter::Refusal;
use crate::group::GroupError;
use crate::replica::in_sync::NotAFollower;
use crate::replica::sessions::SessionError;
use crate::replica::{
    AlterLogDirError, AppendError, LeaderError, LookupError, NotCommitted, ProducerIdError, ReadError,
};
use crate::tier::read::TierReadError;

// ---- replicas

pub fn lookup(error: &LookupError) -> ResponseError {
    match error {
        LookupError::UnknownTopicOrPartition => ResponseError::UnknownTopicOrPartition,
        LookupError::UnknownTopicId => ResponseError::UnknownTopicId,
        LookupError::NotHere => ResponseError::NotLeaderOrFollower,
        LookupError::Failed => ResponseError::KafkaStorageError,
    }
}

pub fn alter_log_dir(error: &AlterLogDirError) -> ResponseError {
    match error {
        AlterLogDirError::TopicNameTooLong => ResponseError::InvalidTopicException,
        AlterLogDirError::LogDirNotFound(_) => ResponseError::LogDirNotFound,
        AlterLogDirError::LogDirOffline(_) | AlterLogDirError::ReplicaOffline | AlterLogDirError::Open(_) => {
            ResponseError::KafkaStorageError
        }
        AlterLogDirError::UnknownTopicOrPartition => ResponseError::UnknownTopicOrPartition,
        AlterLogDirError::ReplicaNotAvailable => ResponseError::ReplicaNotAvailable,
    }
}

pub fn leader(error: &LeaderError) -> ResponseError {
    match error {
        LeaderError::NotLeader => ResponseError::NotLeaderOrFollower,
        LeaderError::FencedEpoch { .. } => ResponseError::FencedLeaderEpoch,
        LeaderError::UnknownEpoch { .. } => ResponseError::UnknownLeaderEpoch,
        LeaderError::Offline => ResponseError::KafkaStorageError,
        LeaderError::Deleted => ResponseError::UnknownTopicOrPartition,
    }
}

pub fn append(error: &AppendError) -> ResponseError {
    match error {
        AppendError::Leader(error) => leader(error),
        AppendError::NotEnoughReplicas { .. } => ResponseError::NotEnoughReplicas,
        AppendError::Log(error) => log_append(error),
    }
}

pub fn not_committed(error: &NotCommitted) -> ResponseError {
    match error {
        NotCommitted::Leader(error) => leader(error),
        NotCommitted::NotEnoughReplicas { .. } => ResponseError::NotEnoughReplicasAfterAppend,
    }
}

pub fn read(error: &ReadError) -> ResponseError {
    match error {
        ReadError::Leader(error) => leader(error),
        ReadError::Follower(_) => ResponseError::NotLeaderOrFollower,
        ReadError::Log(error) => log_read(error),
    }
}

pub fn tier_read(error: &TierReadError) -> ResponseError {
    match error {
        TierReadError::NotThere { from, tier_start, .. } if from < tier_start => {
            ResponseError::OffsetOutOfRange
        }
        TierReadError::NotThere { .. }
        | TierReadError::NoTier
        | TierReadError::Manifest(_)
        | TierReadError::Remote(_) => ResponseError::KafkaStorageError,
    }
}

/// For a follower that believes in `epoch`. One that has the leader's epoch, but is none of its replicas, knows of a newer assignment
/// than the leader, which will hear of it.
pub fn follower_read(error: &ReadError, epoch: LeaderEpoch) -> ResponseError {
    match error {
        ReadError::Follower(NotAFollower::NoReplica(_)) if epoch != LeaderEpoch::NONE => {
            ResponseError::UnknownLeaderEpoch
        }
        error => read(error),
    }
}

pub fn session(error: &SessionError) -> ResponseError {
    match error {
        SessionError::IdNotFound => ResponseError::FetchSessionIdNotFound,
        SessionError::InvalidEpoch { .. } => ResponseError::InvalidFetchSessionEpoch,
        SessionError::TopicIdError => ResponseError::FetchSessionTopicIdError,
    }
}

/// What an idempotent producer is told when no id can be given to it: something it tries again, unless nobody ever can.
pub fn producer_id(error: &ProducerIdError) -> ResponseError {
    match error {
        ProducerIdError::NotRegistered => ResponseError::CoordinatorNotAvailable,
        ProducerIdError::Refused(error) => match error {
            AllocateProducerIdsError::BrokerEpoch(_) => ResponseError::CoordinatorNotAvailable,
            AllocateProducerIdsError::Exhausted => ResponseError::UnknownServerError,
        },
        ProducerIdError::Submit(error) => match error {
            SubmitError::NotController { .. }
            | SubmitError::OutcomeUnknown
            | SubmitError::Refused(_)
            | SubmitError::NoRoom(_)
            | SubmitError::Stopped(_)
            | SubmitError::NoController(_) => ResponseError::CoordinatorNotAvailable,
        },
    }
}

// ---- the log

pub fn log_append(error: &log::AppendError) -> ResponseError {
    match error {
        log::AppendError::DiskFull { .. } | log::AppendError::Io { .. } | log::AppendError::Offline(_) => {
            ResponseError::KafkaStorageError
        }
        log::AppendError::LargerThanSegment { .. } => ResponseError::RecordListTooLarge,
        log::AppendError::OutOfOrderSequence { .. } => ResponseError::OutOfOrderSequenceNumber,
        log::AppendError::InvalidProducerEpoch { .. } => ResponseError::InvalidProducerEpoch,
        log::AppendError::DuplicateSequence { .. } => ResponseError::DuplicateSequenceNumber,
        log::AppendError::InvalidTxnState { .. } => ResponseError::InvalidTxnState,
        log::AppendError::TransactionCoordinatorFenced { .. } => ResponseError::TransactionCoordinatorFenced,
        log::AppendError::UnexpectedOffset { .. }
        | log::AppendError::LeaderEpochWentBack { .. }
        | log::AppendError::OffsetsUsedUp => ResponseError::UnknownServerError,
        log::AppendError::Batch(error) => batch(error),
    }
}

pub fn log_read(error: &log::ReadError) -> ResponseError {
    match error {
        log::ReadError::OffsetOutOfRange { .. } => ResponseError::OffsetOutOfRange,
        log::ReadError::OnlyInTier { .. } => ResponseError::OffsetMovedToTieredStorage,
        log::ReadError::Io { .. } | log::ReadError::Offline(_) => ResponseError::KafkaStorageError,
        log::ReadError::Corrupt { .. } => ResponseError::CorruptMessage,
    }
}

pub fn log_change(error: &log::ChangeError) -> ResponseError {
    match error {
        log::ChangeError::OffsetOutOfRange { .. } => ResponseError::OffsetOutOfRange,
        log::ChangeError::Io { .. } | log::ChangeError::Offline(_) => ResponseError::KafkaStorageError,
        log::ChangeError::Read(error) => log_read(error),
    }
}

/// For a produce request.
pub fn batch(error: &BatchError) -> ResponseError {
    match error {
        BatchError::Truncated { .. }
        | BatchError::BatchTooSmall { .. }
        | BatchError::CrcMismatch { .. }
        | BatchError::UnknownMagic { .. } => ResponseError::CorruptMessage,
        BatchError::UnknownCodec { .. } => ResponseError::UnsupportedCompressionType,
        BatchError::BatchTooLarge { .. } | BatchError::DecompressedTooLarge { .. } => {
            ResponseError::MessageTooLarge
        }
        BatchError::OldMagic { .. }
        | BatchError::NoBatch
        | BatchError::TooManyBatches { .. }
        | BatchError::Decompression { .. }
        | BatchError::BaseOffsetNotZero { .. }
        | BatchError::CountMismatch { .. }
        | BatchError::ControlBatch
        | BatchError::InvalidSequence { .. }
        | BatchError::MalformedRecord { .. }
        | BatchError::TrailingBytes { .. }
        | BatchError::InvalidRecords { .. } => ResponseError::InvalidRecord,
        BatchError::InvalidTimestamps { .. } => ResponseError::InvalidTimestamp,
        BatchError::Compression { .. } => ResponseError::UnknownServerError,
    }
}

// ---- metadata

/// A change that did not reach the controller or whose fate is not known: all but `Refused` are worth another try.
pub fn voter_change(error: &VoterChangeError) -> ResponseError {
    match error {
        VoterChangeError::DuplicateVoter(_) => ResponseError::DuplicateVoter,
        VoterChangeError::VoterNotFound(_) => ResponseError::VoterNotFound,
        VoterChangeError::InvalidRequest(_) => ResponseError::InvalidRequest,
        VoterChangeError::TimedOut(_) => ResponseError::RequestTimedOut,
        VoterChangeError::Submit(error) => submit(error),
    }
}

/// CONTROLLER_ID_NOT_REGISTERED, new in Kafka 4.4.
const CONTROLLER_ID_NOT_REGISTERED: i16 = 136;

pub fn unregister_controller(error: &VoterChangeError) -> i16 {
    match error {
        VoterChangeError::VoterNotFound(_) => CONTROLLER_ID_NOT_REGISTERED,
        VoterChangeError::DuplicateVoter(_)
        | VoterChangeError::InvalidRequest(_)
        | VoterChangeError::TimedOut(_)
        | VoterChangeError::Submit(_) => voter_change(error).code(),
    }
}

pub fn submit(error: &SubmitError) -> ResponseError {
    match error {
        SubmitError::NotController { .. } | SubmitError::Stopped(_) => ResponseError::NotController,
        SubmitError::OutcomeUnknown | SubmitError::NoController(_) => ResponseError::RequestTimedOut,
        SubmitError::Refused(_) => ResponseError::PolicyViolation,
        SubmitError::NoRoom(_) => ResponseError::KafkaStorageError,
    }
}

pub fn create_topic(error: &CreateTopicError) -> ResponseError {
    match error {
        CreateTopicError::InvalidName(_) => ResponseError::InvalidTopicException,
        CreateTopicError::AlreadyExists(_) => ResponseError::TopicAlreadyExists,
        CreateTopicError::InvalidRequest(_) => ResponseError::InvalidRequest,
        CreateTopicError::InvalidPartitions(_) => ResponseError::InvalidPartitions,
        CreateTopicError::InvalidReplicationFactor(_) => ResponseError::InvalidReplicationFactor,
        CreateTopicError::InvalidReplicaAssignment(_) => ResponseError::InvalidReplicaAssignment,
        CreateTopicError::InvalidConfig(_) => ResponseError::InvalidConfig,
        CreateTopicError::LimitReached(_) => ResponseError::PolicyViolation,
    }
}

pub fn delete_topic(error: &DeleteTopicError) -> ResponseError {
    match error {
        DeleteTopicError::UnknownName => ResponseError::UnknownTopicOrPartition,
        DeleteTopicError::UnknownId => ResponseError::UnknownTopicId,
        DeleteTopicError::InvalidRequest(_) => ResponseError::InvalidRequest,
    }
}

pub fn create_partitions(error: &CreatePartitionsError) -> ResponseError {
    match error {
        CreatePartitionsError::UnknownTopic => ResponseError::UnknownTopicOrPartition,
        CreatePartitionsError::InvalidRequest(_) => ResponseError::InvalidRequest,
        CreatePartitionsError::InvalidPartitions(_) => ResponseError::InvalidPartitions,
        CreatePartitionsError::InvalidReplicationFactor(_) => ResponseError::InvalidReplicationFactor,
        CreatePartitionsError::InvalidReplicaAssignment(_) => ResponseError::InvalidReplicaAssignment,
        CreatePartitionsError::LimitReached(_) => ResponseError::PolicyViolation,
    }
}

pub fn config_refusal(error: &Refusal) -> ResponseError {
    match error {
        Refusal::InvalidConfig(_) => ResponseError::InvalidConfig,
        Refusal::InvalidRequest(_) => ResponseError::InvalidRequest,
        Refusal::InvalidTopicName(_) => ResponseError::InvalidTopicException,
        Refusal::UnknownTopic(_) => ResponseError::UnknownTopicOrPartition,
    }
}

pub fn alter_configs(error: &AlterConfigsError) -> ResponseError {
    match error {
        AlterConfigsError::InvalidRequest(_) => ResponseError::InvalidRequest,
        AlterConfigsError::InvalidConfig(_) => ResponseError::InvalidConfig,
        AlterConfigsError::UnknownTopic => ResponseError::UnknownTopicOrPartition,
        AlterConfigsError::UnknownBroker(_) => ResponseError::BrokerIdNotRegistered,
    }
}

pub fn reassignment(error: &ReassignmentError) -> ResponseError {
    match error {
        ReassignmentError::UnknownTopicOrPartition => ResponseError::UnknownTopicOrPartition,
        ReassignmentError::InvalidReplicaAssignment(_) => ResponseError::InvalidReplicaAssignment,
        ReassignmentError::InvalidReplicationFactor(_) => ResponseError::InvalidReplicationFactor,
        ReassignmentError::NoReassignmentInProgress => ResponseError::NoReassignmentInProgress,
        ReassignmentError::LimitReached(_) => ResponseError::PolicyViolation,
    }
}

pub fn unregister_broker(error: &UnregisterBrokerError) -> ResponseError {
    match error {
        UnregisterBrokerError::NotRegistered(_) => ResponseError::BrokerIdNotRegistered,
    }
}

pub fn elect_leader(error: &ElectLeaderError) -> ResponseError {
    match error {
        ElectLeaderError::UnknownTopicOrPartition(_) => ResponseError::UnknownTopicOrPartition,
        ElectLeaderError::NotNeeded => ResponseError::ElectionNotNeeded,
        ElectLeaderError::PreferredLeaderNotAvailable => ResponseError::PreferredLeaderNotAvailable,
        ElectLeaderError::EligibleLeadersNotAvailable => ResponseError::EligibleLeadersNotAvailable,
        ElectLeaderError::InvalidRequest(_) => ResponseError::InvalidRequest,
        ElectLeaderError::LimitReached(_) => ResponseError::PolicyViolation,
    }
}

pub fn update_features(error: &UpdateFeaturesError) -> ResponseError {
    match error {
        UpdateFeaturesError::InvalidUpdateVersion(_) => ResponseError::InvalidUpdateVersion,
        UpdateFeaturesError::InvalidRequest(_) => ResponseError::InvalidRequest,
    }
}

// ---- groups

pub fn group(error: GroupError) -> ResponseError {
    match error {
        GroupError::NotCoordinator => ResponseError::NotCoordinator,
        GroupError::CoordinatorLoadInProgress => ResponseError::CoordinatorLoadInProgress,
        GroupError::CoordinatorNotAvailable => ResponseError::CoordinatorNotAvailable,
        GroupError::InvalidGroupId => ResponseError::InvalidGroupId,
        GroupError::InvalidSessionTimeout => ResponseError::InvalidSessionTimeout,
        GroupError::GroupMaxSizeReached => ResponseError::GroupMaxSizeReached,
        GroupError::InconsistentGroupProtocol => ResponseError::InconsistentGroupProtocol,
        GroupError::MemberIdRequired => ResponseError::MemberIdRequired,
        GroupError::UnknownMemberId => ResponseError::UnknownMemberId,
        GroupError::FencedInstanceId => ResponseError::FencedInstanceId,
        GroupError::IllegalGeneration => ResponseError::IllegalGeneration,
        GroupError::RebalanceInProgress => ResponseError::RebalanceInProgress,
        GroupError::GroupIdNotFound => ResponseError::GroupIdNotFound,
        GroupError::NonEmptyGroup => ResponseError::NonEmptyGroup,
        GroupError::GroupSubscribedToTopic => ResponseError::GroupSubscribedToTopic,
        GroupError::OffsetMetadataTooLarge => ResponseError::OffsetMetadataTooLarge,
        GroupError::InvalidCommitOffsetSize => ResponseError::InvalidCommitOffsetSize,
        // No error of SyncGroup says it; Kafka answers the same.
        GroupError::AssignmentTooLarge | GroupError::SubscriptionTooLarge => {
            ResponseError::UnknownServerError
        }
    }
}
