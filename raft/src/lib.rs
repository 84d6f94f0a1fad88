//! The cluster's metadata and who decides it.
//!
//! Owns: the metadata records and the image built from them (`metadata`), what may be asked of the controller and
//! what it answers (`requests`), and the Raft quorum that makes records durable and orders them (`quorum`). Knows
//! records and nodes; it does not know partitions' data, the client protocol or the meaning of config keys.
//!
//! The path of a change: `Metadata::submit` -> the controller's queue -> `metadata::decide` against the image (reads
//! only) -> one Raft entry for all requests that waited -> committed and synced -> `metadata::replay` on every node ->
//! the image is published -> the answers leave.

pub mod metadata;
pub mod planted;
pub mod quorum;
pub mod random;
pub mod requests;

pub use metadata::features;
pub use metadata::ids::{
    BrokerEpoch, BrokerId, ClusterId, LeaderEpoch, PartitionEpoch, TopicId, cluster_id_generate,
};
pub use metadata::image::{
    Broker, DeletedTier, Image, Partition, PartitionReassignment, TierPosition, Topic,
};
pub use metadata::records::{ConfigResource, ConfigResourceType, Endpoint, FeatureRange};
pub use quorum::{
    Lane, Metadata, MetadataConfig, NoPeers, ObserverInfo, PEER_MESSAGE_BYTES_MAX, PeerRefused, PeerService,
    QuorumInfo, QuorumRole, StartError, StaticSettings, SubmitError, TopicDefaults, Transport,
    TransportError, VoterChangeError, VoterInfo,
};
