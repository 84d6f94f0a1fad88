//! AlterReplicaLogDirs (key 34, versions 1 and 2, KIP-113): moves replicas between the log directories of this broker. v2: flexible.
//!
//! Answered when the moves have begun; DescribeLogDirs shows how far they are.

use std::collections::BTreeMap;

use kafka_protocol::messages::alter_replica_log_dirs_response::{
    AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
};
use kafka_protocol::messages::{AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, TopicName};

use super::{Close, RequestContext};
use crate::error_map;
use crate::threads;

pub async fn handle(
    cx: RequestContext,
    request: AlterReplicaLogDirsRequest,
) -> Result<AlterReplicaLogDirsResponse, Close> {
    // A partition that is named for several directories goes to the last one, as in Kafka.
    let mut wanted: BTreeMap<(TopicName, i32), String> = BTreeMap::new();
    for dir in request.dirs {
        for topic in dir.topics {
            for partition in topic.partitions {
                wanted.insert((topic.name.clone(), partition), dir.path.to_string());
            }
        }
    }
    let replicas = cx.broker.replicas.clone();
    let altered = threads::blocking(move || {
        let mut topics: BTreeMap<TopicName, Vec<AlterReplicaLogDirPartitionResult>> = BTreeMap::new();
        for ((topic, partition), path) in wanted {
            let altered = replicas.alter_replica_log_dir(&topic, partition, &path);
            let code = altered.as_ref().err().map_or(0, |error| error_map::alter_log_dir(error).code());
            let result = AlterReplicaLogDirPartitionResult::default().with_partition_index(partition);
            topics.entry(topic).or_default().push(result.with_error_code(code));
        }
        topics
    });
    // A panic of it was logged; the client is told nothing that is not so.
    let topics = altered.await.map_err(|error| Close::new(error.to_string()))?;
    let results = topics.into_iter().map(|(name, partitions)| {
        AlterReplicaLogDirTopicResult::default().with_topic_name(name).with_partitions(partitions)
    });
    Ok(AlterReplicaLogDirsResponse::default().with_results(results.collect()))
}
