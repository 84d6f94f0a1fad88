//! Keys of the metadata quorum and its log.

use super::Check::*;
use super::Default::*;
use super::Effect::*;
use super::Kind::*;
use super::Update::*;
use super::{Key, key};

#[rustfmt::skip] // One key is one row.
pub(super) const KEYS: &[Key] = &[
    key("controller.quorum.voters", List, Is(""), Any, ReadOnly, Used,
        "Voters of the metadata quorum, `id@host:port`, when the cluster starts for the first time; from then on the metadata knows them. Without it and without `controller.quorum.bootstrap.servers`, a node is a cluster of its own."),
    key("controller.quorum.bootstrap.servers", List, Is(""), Any, ReadOnly, Used,
        "Controllers by which an existing quorum is found, `host:port`. The first controller of a new cluster names itself."),
    key("controller.quorum.append.linger.ms", Int, Is("25"), AtLeast(0), ReadOnly, Known,
        "How long metadata changes are gathered into one write. Ottla gathers while a write is under way."),
    key("controller.quorum.auto.join.enable", Boolean, Is("false"), Any, ReadOnly, Used,
        "Whether a controller that is not a voter asks to become one by itself."),
    key("controller.quorum.election.backoff.max.ms", Int, Is("1000"), AtLeast(0), ReadOnly, Known,
        "Longest pause between elections."),
    key("controller.quorum.election.timeout.ms", Int, Is("1000"), AtLeast(0), ReadOnly, Used,
        "How long voters hold to an active controller that fell silent, before they stand for election after half to the whole of this time again. One whose process has ended is replaced at once."),
    key("controller.quorum.fetch.max.bytes", Int, Is("1048576"), AtLeast(1), ReadOnly, Known,
        "Largest answer to a fetch of the metadata log."),
    key("controller.quorum.fetch.snapshot.max.bytes", Int, Is("1048576"), AtLeast(1), ReadOnly, Known,
        "Largest piece of a metadata snapshot in one answer."),
    key("controller.quorum.fetch.timeout.ms", Int, Is("2000"), AtLeast(0), ReadOnly, Known,
        "How long a voter of Kafka goes without a leader. Ottla goes by `controller.quorum.election.timeout.ms`."),
    key("controller.quorum.request.timeout.ms", Int, Is("2000"), AtLeast(0), ReadOnly, Known,
        "How long a request between voters may take."),
    key("controller.quorum.retry.backoff.ms", Int, Is("20"), AtLeast(0), ReadOnly, Known,
        "Pause between attempts of requests between voters."),
    key("controller.socket.timeout.ms", Int, Is("30000"), Any, ReadOnly, Known,
        "Socket timeout of requests to the controller."),
    key("controller.performance.always.log.threshold.ms", Long, Is("2000"), AtLeast(0), ReadOnly, Known,
        "A metadata event slower than this is logged.").hidden(),
    key("controller.performance.sample.period.ms", Long, Is("60000"), AtLeast(100), ReadOnly, Known,
        "How often the controller's speed is summed up.").hidden(),
    key("metadata.log.max.record.bytes.between.snapshots", Long, Is("20971520"), AtLeast(1), ReadOnly, Known,
        "Bytes of the metadata log after which a snapshot is taken."),
    key("metadata.log.max.snapshot.interval.ms", Long, Is("3600000"), AtLeast(0), ReadOnly, Known,
        "Time after which a metadata snapshot is taken."),
    key("metadata.log.segment.bytes", Int, Is("1073741824"), AtLeast(8388608), ReadOnly, Known,
        "Size of a segment of the metadata log."),
    key("metadata.log.segment.ms", Long, Is("604800000"), Any, ReadOnly, Known,
        "Age of a segment of the metadata log."),
    key("metadata.max.idle.interval.ms", Int, Is("500"), AtLeast(0), ReadOnly, Known,
        "How often an idle controller writes to the metadata log."),
    key("metadata.max.retention.bytes", Long, Is("104857600"), Any, ReadOnly, Known,
        "Size of metadata log and snapshots above which old ones are deleted."),
    key("metadata.max.retention.ms", Long, Is("604800000"), Any, ReadOnly, Known,
        "Age of metadata log and snapshots above which old ones are deleted."),
    key("internal.metadata.delete.delay.millis", Long, Is("60000"), Any, ReadOnly, Known,
        "Delay before deleted metadata files are removed.").hidden(),
    key("internal.metadata.log.segment.bytes", Int, Null, Any, ReadOnly, Known,
        "Size of a segment of the metadata log, in tests.").hidden(),
    key("internal.metadata.max.batch.size.in.bytes", Int, Is("8388608"), Any, ReadOnly, Known,
        "Largest batch of the metadata log.").hidden(),
];
