//! Keys of replication and quotas.

use super::Check::*;
use super::Default::*;
use super::Effect::*;
use super::Kind::*;
use super::Update::*;
use super::{Key, key};

#[rustfmt::skip] // One key is one row.
pub(super) const KEYS: &[Key] = &[
    key("num.replica.fetchers", Int, Is("1"), AtLeast(1), ClusterWide, Used,
        "Fetchers to each other broker. A change holds for partitions that change their leader."),
    key("num.replica.alter.log.dirs.threads", Int, Null, Any, ReadOnly, Known,
        "Threads that move replicas between directories."),
    key("replica.fetch.max.bytes", Int, Is("1048576"), AtLeast(0), ReadOnly, Used,
        "Bytes a follower asks for per partition."),
    key("replica.fetch.min.bytes", Int, Is("1"), Any, ReadOnly, Used,
        "Bytes a follower waits for."),
    key("replica.fetch.response.max.bytes", Int, Is("10485760"), AtLeast(0), ReadOnly, Used,
        "Bytes a follower asks for in all."),
    key("replica.fetch.wait.max.ms", Int, Is("500"), Any, ReadOnly, Used,
        "How long a follower's fetch waits."),
    key("replica.fetch.backoff.ms", Int, Is("1000"), AtLeast(0), ReadOnly, Used,
        "Longest pause after a failed fetch of a follower; the first ones are shorter."),
    key("replica.lag.time.max.ms", Long, Is("30000"), Any, ReadOnly, Used,
        "After how long without catching up a follower leaves the in-sync set."),
    key("replica.high.watermark.checkpoint.interval.ms", Long, Is("5000"), Any, ReadOnly, Used,
        "How often high watermarks are written to disk."),
    key("replica.selector.class", String, Null,
        OneOf(&["org.apache.kafka.common.replica.LeaderSelector", "org.apache.kafka.common.replica.RackAwareReplicaSelector"]),
        ReadOnly, Used,
        "Which replica a consumer reads from: the leader (also by default), or one in the rack of its `client.rack`."),
    key("replica.socket.receive.buffer.bytes", Int, Is("65536"), Any, ReadOnly, Known,
        "Receive buffer of a follower's socket."),
    key("replica.socket.timeout.ms", Int, Is("30000"), Any, ReadOnly, Used,
        "How long a follower waits for an answer."),
    key("follower.fetch.last.tiered.offset.enable", Boolean, Is("false"), Any, ClusterWide, Used,
        "Whether a new follower begins at the last tiered offset."),
    key("leader.replication.throttled.rate", Long, Is("9223372036854775807"), AtLeast(0), ClusterWide, Used,
        "Bytes per second that leaders send of throttled replicas to followers that are not in sync.").hidden(),
    key("follower.replication.throttled.rate", Long, Is("9223372036854775807"), AtLeast(0), ClusterWide, Used,
        "Bytes per second that followers fetch of throttled replicas while they are behind.").hidden(),
    key("replica.alter.log.dirs.io.max.bytes.per.second", Long, Is("9223372036854775807"), AtLeast(0), ClusterWide, Used,
        "Bytes per second of all moves of replicas between the log directories of a broker."),
    key("replication.quota.window.num", Int, Is("11"), AtLeast(1), ReadOnly, Used,
        "For how many windows a throttle of replication keeps what was not used."),
    key("replication.quota.window.size.seconds", Int, Is("1"), AtLeast(1), ReadOnly, Used,
        "Length of such a window; what a throttle lets through at once when its rate is set."),
    key("alter.log.dirs.replication.quota.window.num", Int, Is("11"), AtLeast(1), ReadOnly, Used,
        "Samples of the quota on moves between directories."),
    key("alter.log.dirs.replication.quota.window.size.seconds", Int, Is("1"), AtLeast(1), ReadOnly, Used,
        "Length of a sample of that quota."),
    key("quota.window.num", Int, Is("11"), AtLeast(1), ReadOnly, Known,
        "Samples of client quotas."),
    key("quota.window.size.seconds", Int, Is("1"), AtLeast(1), ReadOnly, Known,
        "Length of a sample of client quotas."),
    key("controller.quota.window.num", Int, Is("11"), AtLeast(1), ReadOnly, Known,
        "Samples of the quota on changes of metadata."),
    key("controller.quota.window.size.seconds", Int, Is("1"), AtLeast(1), ReadOnly, Known,
        "Length of a sample of that quota."),
    key("client.quota.callback.class", Class, Null, Any, ReadOnly, OnlyDefault,
        "Java class that decides about quotas."),
];
