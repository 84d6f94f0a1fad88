//! How far a table is behind its topic, for the metrics.
//!
//! The committer says it as it reads and commits. While it waits for the store or the catalog, leaders are asked where committed
//! records end: an outage shows in both metrics and grows, however long it is.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use kafka_protocol::messages::ListOffsetsRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::protocol::StrBytes;
use ottla_batch::Offset;
use ottla_clients::connection::Connection;
use ottla_clients::error::ClientError;
use ottla_raft::{BrokerId, TopicId};
use parking_lot::Mutex;

use super::Context;
use super::counters::TableCounters;
use crate::clock;

/// Between two looks at the clock.
const SHOW_PAUSE: Duration = Duration::from_secs(1);
/// Between two questions to leaders, in such pauses.
const ASK_EVERY: u32 = 5;
const ANSWER_MAX: Duration = Duration::from_secs(5);

pub struct Lag {
    counters: TableCounters,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// What the table says. None: it could not be asked yet.
    committed: Option<BTreeMap<i32, Offset>>,
    /// Where committed records end, as leaders said last.
    ends: BTreeMap<i32, i64>,
    /// Of what was read and is not in the table.
    oldest_timestamp_ms: Option<i64>,
    /// What was read is forgotten, and not read again yet.
    is_begun_anew: bool,
    /// Since when the store or the catalog is waited for.
    waits_since_ms: Option<i64>,
}

impl Known {
    /// In records, and in milliseconds.
    fn behind(&self, now_ms: i64) -> (u64, Option<i64>) {
        let Some(committed) = &self.committed else {
            return (0, self.waits_since_ms.map(|since| now_ms - since));
        };
        let records = self.ends.iter().map(|(partition, end)| {
            let committed = committed.get(partition).map_or(0, |offset| offset.0);
            u64::try_from(end - committed).unwrap_or(0)
        });
        let records = records.sum();
        // What came after the committer began to wait was not read, and is not older than that.
        let since = self.oldest_timestamp_ms.or(self.waits_since_ms.filter(|_| records > 0));
        (records, since.map(|since| now_ms - since))
    }
}

impl Lag {
    pub fn new(counters: TableCounters) -> Lag {
        Lag { counters, known: Mutex::default() }
    }

    /// The committer begins where the table says.
    pub fn on_loaded(&self, committed: &BTreeMap<i32, Offset>) {
        let mut known = self.known.lock();
        if known.committed.as_ref() != Some(committed) {
            known.oldest_timestamp_ms = None;
            known.committed = Some(committed.clone());
        }
        known.is_begun_anew = true;
    }

    /// `oldest_timestamp_ms`: of some of what was read since the last commit.
    pub fn on_read(&self, ends: &BTreeMap<i32, i64>, oldest_timestamp_ms: Option<i64>) {
        let mut known = self.known.lock();
        known.ends.extend(ends);
        known.waits_since_ms = None;
        if std::mem::take(&mut known.is_begun_anew) {
            known.oldest_timestamp_ms = None;
        }
        known.oldest_timestamp_ms = known.oldest_timestamp_ms.into_iter().chain(oldest_timestamp_ms).min();
        self.show(&known);
    }

    /// All that was read is in the table, or is nothing for it.
    pub fn on_turn_end(&self, committed: &BTreeMap<i32, Offset>, ends: &BTreeMap<i32, i64>) {
        let mut known = self.known.lock();
        *known = Known { committed: Some(committed.clone()), ends: ends.clone(), ..Known::default() };
        self.show(&known);
    }

    /// The store or the catalog refused, or did not answer.
    pub fn on_wait(&self) {
        self.known.lock().waits_since_ms.get_or_insert(clock::now().0);
    }

    fn show(&self, known: &Known) {
        let (records, age_ms) = known.behind(clock::now().0);
        self.counters.on_lag(records, age_ms);
    }

    /// Runs until it is dropped.
    pub async fn run(&self, context: &Context, topic: TopicId) {
        for pauses in 1.. {
            tokio::time::sleep(SHOW_PAUSE).await;
            let waits = self.known.lock().waits_since_ms.is_some();
            if waits && pauses % ASK_EVERY == 0 {
                let ends = ends(context, topic).await;
                self.known.lock().ends.extend(ends);
            }
            self.show(&self.known.lock());
        }
    }
}

/// Where committed records end, by the leaders that answer.
async fn ends(context: &Context, topic: TopicId) -> BTreeMap<i32, i64> {
    let image = context.metadata.image();
    let Some(topic) = image.topic_by_id(topic) else { return BTreeMap::new() };
    let mut by_leader: BTreeMap<BrokerId, Vec<i32>> = BTreeMap::new();
    for (partition, state) in (0..).zip(&topic.partitions) {
        if let Some(leader) = state.leader {
            by_leader.entry(leader).or_default().push(partition);
        }
    }
    let asked = by_leader.into_iter().filter_map(|(leader, partitions)| {
        let address = context.config.inter_broker_address(&image, leader)?;
        let client_id = format!("ottla-lake-{}", context.config.node_id);
        let name = StrBytes::from_string(topic.name.to_string());
        Some(async move { ends_at(&address, &client_id, name, &partitions).await })
    });
    let answers = join_all(asked).await;
    answers.into_iter().filter_map(Result::ok).flatten().collect()
}

async fn ends_at(
    address: &str,
    client_id: &str,
    topic: StrBytes,
    partitions: &[i32],
) -> Result<Vec<(i32, i64)>, ClientError> {
    const LATEST: i64 = -1;
    const READ_COMMITTED: i8 = 1;
    let partitions = partitions.iter().map(|partition| {
        ListOffsetsPartition::default()
            .with_partition_index(*partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(LATEST)
    });
    let request = ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_isolation_level(READ_COMMITTED)
        .with_topics(vec![
            ListOffsetsTopic::default().with_name(topic.into()).with_partitions(partitions.collect()),
        ]);
    let connection = Connection::open(address, client_id, ANSWER_MAX, ANSWER_MAX).await?;
    let response = connection.send(&request).await?;
    let found = response.topics.iter().flat_map(|topic| &topic.partitions);
    Ok(found
        .filter(|found| found.error_code == 0)
        .map(|found| (found.partition_index, found.offset))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(committed: i64, end: i64) -> Known {
        Known {
            committed: Some(BTreeMap::from([(0, Offset(committed))])),
            ends: BTreeMap::from([(0, end)]),
            ..Known::default()
        }
    }

    #[test]
    fn records_between_the_table_and_the_ends_are_behind() {
        let mut known = known(10, 30);
        known.ends.insert(1, 5);
        assert_eq!(known.behind(1_000), (25, None));
        known.oldest_timestamp_ms = Some(400);
        assert_eq!(known.behind(1_000), (25, Some(600)));
    }

    #[test]
    fn a_table_that_waits_with_nothing_missing_is_not_late() {
        let waits_since_ms = Some(100);
        assert_eq!(Known { waits_since_ms, ..known(30, 30) }.behind(1_000), (0, None));
        assert_eq!(Known { waits_since_ms, ..known(30, 31) }.behind(1_000), (1, Some(900)));
    }

    #[test]
    fn a_table_that_could_not_be_asked_is_late_since_then() {
        let known = Known { waits_since_ms: Some(100), ..Known::default() };
        assert_eq!(known.behind(1_000), (0, Some(900)));
        assert_eq!(Known::default().behind(1_000), (0, None));
    }
}
