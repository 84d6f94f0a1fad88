//! DescribeLogDirs: API key 35, versions 1 to 5.
//!
//! v2: flexible. v3: a code for the whole request. v4: size and free space of the volume (KIP-827). v5: whether a directory is
//! cordoned (KIP-1066); none ever is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_storage::logdir::LogDir;

use super::{Close, RequestContext};
use crate::replica::{FutureReplica, Replica};

pub async fn handle(
    cx: RequestContext,
    request: DescribeLogDirsRequest,
) -> Result<DescribeLogDirsResponse, Close> {
    let asked: Option<HashMap<String, HashSet<i32>>> = request.topics.map(|topics| {
        let mut asked: HashMap<String, HashSet<i32>> = HashMap::new();
        for topic in topics {
            asked.entry(topic.topic.to_string()).or_default().extend(topic.partitions);
        }
        asked
    });
    let replicas = cx.broker.replicas.clone();
    let mut of_dir: HashMap<*const LogDir, Vec<Arc<Replica>>> = HashMap::new();
    for replica in replicas.replicas() {
        let name: &str = replica.topic();
        let is_asked = asked.as_ref().is_none_or(|asked| {
            asked.get(name).is_some_and(|partitions| partitions.contains(&replica.partition()))
        });
        if is_asked {
            of_dir.entry(Arc::as_ptr(replicas.log_dir_of(&replica))).or_default().push(replica);
        }
    }
    let mut response = DescribeLogDirsResponse::default();
    for log_dir in replicas.log_dirs() {
        let held = of_dir.remove(&Arc::as_ptr(log_dir)).unwrap_or_default();
        let is_asked = |future: &FutureReplica| {
            let name: &str = future.replica.topic();
            let asked = asked.as_ref();
            asked.is_none_or(|asked| {
                asked.get(name).is_some_and(|ids| ids.contains(&future.replica.partition()))
            })
        };
        let futures: Vec<_> = replicas.futures_in(log_dir).into_iter().filter(is_asked).collect();
        response.results.push(describe(log_dir, &held, &futures));
    }
    response.results.extend(
        replicas
            .unusable_dirs()
            .iter()
            .map(|dir| without_space(&dir.path).with_error_code(ResponseError::KafkaStorageError.code())),
    );
    Ok(response)
}

/// A directory of which nothing is known but its path.
fn without_space(path: &Path) -> DescribeLogDirsResult {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    DescribeLogDirsResult::default()
        .with_log_dir(StrBytes::from_string(path.display().to_string()))
        .with_total_bytes(-1)
        .with_usable_bytes(-1)
}

fn describe(log_dir: &LogDir, held: &[Arc<Replica>], futures: &[FutureReplica]) -> DescribeLogDirsResult {
    let result = without_space(log_dir.path());
    if log_dir.offline().is_some() {
        return result.with_error_code(ResponseError::KafkaStorageError.code());
    }
    let space = match log_dir.space() {
        Ok(space) => space,
        Err(error) => {
            tracing::error!(path = %log_dir.path().display(), %error, "the volume can't be asked for its space");
            return result.with_error_code(ResponseError::KafkaStorageError.code());
        }
    };
    let mut topics: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for replica in held {
        let lag = (replica.high_watermark().0 - replica.end_offset().0).max(0);
        let partition = DescribeLogDirsPartition::default()
            .with_partition_index(replica.partition())
            .with_partition_size(i64::try_from(replica.size_in_bytes()).unwrap_or(i64::MAX))
            .with_offset_lag(lag);
        topics.entry(replica.topic()).or_default().push(partition);
    }
    for future in futures {
        let partition = DescribeLogDirsPartition::default()
            .with_partition_index(future.replica.partition())
            .with_partition_size(i64::try_from(future.size).unwrap_or(i64::MAX))
            .with_offset_lag(future.lag)
            .with_is_future_key(true);
        topics.entry(future.replica.topic()).or_default().push(partition);
    }
    let topics = topics.into_iter().map(|(name, mut partitions)| {
        partitions.sort_by_key(|partition| partition.partition_index);
        DescribeLogDirsTopic::default()
            .with_name(TopicName(StrBytes::from_string(name.to_owned())))
            .with_partitions(partitions)
    });
    result
        .with_topics(topics.collect())
        .with_total_bytes(i64::try_from(space.total_bytes).unwrap_or(i64::MAX))
        .with_usable_bytes(i64::try_from(space.usable_bytes).unwrap_or(i64::MAX))
}
