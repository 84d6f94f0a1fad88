//! What leaders tell the metadata of their partitions' tiers: gathered while one request is under way, told in the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_raft::requests::{ReportTier, ReportTierError, ReportTierItem};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Key;
use crate::replica::ReplicaManager;

/// Items of one request.
const ITEMS_MAX: usize = 5_000;
/// Before what could not be told is told again.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(crate) struct Reports {
    /// The newest word of each partition.
    waiting: Mutex<BTreeMap<Key, ReportTierItem>>,
    ready: Notify,
}

impl Reports {
    pub(super) fn tell(&self, item: ReportTierItem) {
        self.put(item);
        self.ready.notify_one();
    }

    fn put(&self, item: ReportTierItem) {
        let mut waiting = self.waiting.lock();
        let word = |item: &ReportTierItem| (item.leader_epoch, item.manifest);
        let known = waiting.get(&(item.topic, item.partition));
        if known.is_none_or(|known| word(known) < word(&item)) {
            waiting.insert((item.topic, item.partition), item);
        }
    }

    fn take(&self) -> Vec<ReportTierItem> {
        let mut waiting = self.waiting.lock();
        let mut taken = Vec::new();
        while taken.len() < ITEMS_MAX
            && let Some((_, item)) = waiting.pop_first()
        {
            taken.push(item);
        }
        taken
    }

    pub(super) async fn run(self: Arc<Reports>, replicas: Arc<ReplicaManager>) {
        loop {
            let items = self.take();
            if items.is_empty() {
                self.ready.notified().await;
                continue;
            }
            for item in submit(&replicas, items.clone()).await.unwrap_or(items) {
                self.put(item);
            }
            if !self.waiting.lock().is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Those that have to be told again; None if all have.
pub(super) async fn submit(
    replicas: &ReplicaManager,
    items: Vec<ReportTierItem>,
) -> Option<Vec<ReportTierItem>> {
    let request =
        ReportTier { broker: replicas.local(), broker_epoch: replicas.broker_epoch(), items: items.clone() };
    let results = match replicas.metadata().submit(request).await {
        Ok(Ok(results)) => results,
        Ok(Err(error)) => {
            // Until it has registered anew.
            tracing::debug!(%error, "what is in the tier is told again");
            return None;
        }
        Err(error) => {
            tracing::debug!(%error, "what is in the tier is told again");
            return None;
        }
    };
    let again = items.into_iter().zip(results).filter(|(item, told)| match &told.result {
        Ok(()) => false,
        Err(ReportTierError::NotController | ReportTierError::NotAttempted) => true,
        // Another leader tells, or nobody asks any more.
        Err(error) => {
            tracing::info!(topic = %item.topic, partition = item.partition, %error, "the tier was not reported");
            false
        }
    });
    Some(again.map(|(item, _)| item).collect())
}
