//! Carries the proposals of this broker's leaders to the controller (AlterPartition), many in one request, one request at
//! a time, and the answers back.
//!
//! A replica queues itself when its machine has a proposal, and is asked for it when the request is made: so a request
//! carries what is true then. What fails is tried again with whatever is proposed by then, which the partition epoch makes safe.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ottla_raft::requests::{AlterPartition, AlterPartitionError, AlterPartitionItem};
use ottla_raft::{BrokerEpoch, BrokerId, LeaderEpoch, Metadata, PartitionEpoch};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::in_sync::{Membership, ProposalOutcome};
use super::partition::Replica;

/// Partitions in one request: the controller makes one entry of its log of it.
const ITEMS_PER_REQUEST_MAX: usize = 1_000;
/// Kafka's pause after a request that failed as a whole.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The replicas that have something to propose.
#[derive(Debug, Default)]
pub struct IsrChanges {
    queued: Mutex<Vec<Arc<Replica>>>,
    wake: Notify,
}

impl IsrChanges {
    pub fn push(&self, replica: &Arc<Replica>) {
        if replica.isr_change_is_queued.swap(true, Ordering::AcqRel) {
            return;
        }
        self.queued.lock().push(Arc::clone(replica));
        self.wake.notify_one();
    }

    fn take(&self) -> Vec<Arc<Replica>> {
        let mut queued = self.queued.lock();
        let count = queued.len().min(ITEMS_PER_REQUEST_MAX);
        let taken: Vec<_> = queued.drain(..count).collect();
        for replica in &taken {
            // ORDER: before the replica is asked for its proposal, so that a newer one queues it anew.
            replica.isr_change_is_queued.store(false, Ordering::Release);
        }
        taken
    }

    /// Runs until `stop` turns true.
    pub async fn run(
        self: Arc<IsrChanges>,
        metadata: Metadata,
        local: BrokerId,
        broker_epoch: watch::Receiver<BrokerEpoch>,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            let queued = self.take();
            if queued.is_empty() {
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = self.wake.notified() => continue,
                }
            }
            let epoch = *broker_epoch.borrow();
            let proposed = async {
                let again = propose(&metadata, local, epoch, queued).await;
                if !again.is_empty() {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    again.iter().for_each(|replica| self.push(replica));
                }
            };
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = proposed => {}
            }
        }
    }
}

/// Answers those whose proposals have to be tried again.
async fn propose(
    metadata: &Metadata,
    local: BrokerId,
    broker_epoch: BrokerEpoch,
    replicas: Vec<Arc<Replica>>,
) -> Vec<Arc<Replica>> {
    let mut asked = HashMap::new();
    let mut partitions = Vec::new();
    for replica in replicas {
        let Some((item, partition_epoch)) = replica.isr_item(local, broker_epoch) else { continue };
        asked.insert((item.topic, item.partition), (replica, partition_epoch));
        partitions.push(item);
    }
    if partitions.is_empty() {
        return Vec::new();
    }
    let results = match metadata.submit(AlterPartition { broker: local, broker_epoch, partitions }).await {
        Ok(Ok(results)) => results,
        // Registered anew meanwhile: the next attempt carries the new epoch.
        Ok(Err(error)) => {
            tracing::info!(%error, "the controller did not take proposed in-sync sets");
            return asked.into_values().map(|(replica, _)| replica).collect();
        }
        Err(error) => {
            tracing::warn!(%error, "the controller could not be asked for other in-sync sets");
            return asked.into_values().map(|(replica, _)| replica).collect();
        }
    };
    let (mut again, mut refused) = (Vec::new(), Refused::default());
    for result in results {
        let Some((replica, partition_epoch)) = asked.remove(&(result.topic, result.partition)) else {
            continue;
        };
        match result.result {
            Ok(state) => {
                replica.on_isr_changed(state.leader_epoch, Membership::of(&state, local));
            }
            Err(error) => {
                refused.note(&replica, &error);
                match outcome(&error) {
                    None => again.push(replica),
                    Some(outcome) => replica.on_leader(|in_sync| {
                        in_sync.on_proposal_failed(partition_epoch, outcome, Instant::now())
                    }),
                }
            }
        }
    }
    refused.tell();
    again
}

/// One line for a request, not one for each of a thousand partitions whose follower shuts down.
#[derive(Default)]
struct Refused {
    count: usize,
    first: Option<(Arc<Replica>, String)>,
}

impl Refused {
    fn note(&mut self, replica: &Arc<Replica>, error: &AlterPartitionError) {
        tracing::debug!(topic = %replica.topic(), partition = replica.partition(), %error, "a proposed in-sync set was refused");
        self.count += 1;
        self.first.get_or_insert_with(|| (Arc::clone(replica), error.to_string()));
    }

    fn tell(self) {
        let Some((replica, error)) = self.first else { return };
        let (count, topic, partition) = (self.count, replica.topic(), replica.partition());
        tracing::info!(count, %topic, partition, error, "proposed in-sync sets were refused; the first of them");
    }
}

/// `None`: to be tried again as it is.
fn outcome(error: &AlterPartitionError) -> Option<ProposalOutcome> {
    match error {
        // The controller was elected a moment ago and is behind this broker's image, or it had more to do than one entry holds.
        AlterPartitionError::NotController | AlterPartitionError::NotAttempted => None,
        AlterPartitionError::IneligibleReplica(_) | AlterPartitionError::InvalidRequest(_) => {
            Some(ProposalOutcome::Refused)
        }
        AlterPartitionError::UnknownTopicId
        | AlterPartitionError::UnknownPartition
        | AlterPartitionError::FencedLeaderEpoch { .. }
        | AlterPartitionError::InvalidUpdateVersion { .. }
        | AlterPartitionError::NewLeaderElected(_) => Some(ProposalOutcome::AwaitImage),
    }
}

impl Membership {
    pub(super) fn of(state: &ottla_raft::Partition, local: BrokerId) -> Membership {
        let others = |ids: &[BrokerId]| ids.iter().copied().filter(|id| *id != local).collect();
        Membership {
            partition_epoch: state.partition_epoch,
            others: others(&state.replicas),
            in_sync_others: others(&state.isr),
            is_recovering: state.leader_recovering,
        }
    }
}

impl Replica {
    /// What the controller is asked for, and the partition epoch it starts from.
    fn isr_item(
        &self,
        local: BrokerId,
        broker_epoch: BrokerEpoch,
    ) -> Option<(AlterPartitionItem, PartitionEpoch)> {
        let state = self.state.lock();
        let leader = state.leader.as_ref()?;
        let proposal = leader.in_sync.proposal()?;
        let mut isr = vec![(local, broker_epoch)];
        isr.extend(proposal.in_sync_others);
        let item = AlterPartitionItem {
            topic: self.topic_id,
            partition: self.partition,
            leader_epoch: LeaderEpoch(leader.epoch.0),
            partition_epoch: proposal.partition_epoch,
            isr,
            recovered: true,
        };
        Some((item, proposal.partition_epoch))
    }

    fn on_isr_changed(self: &Arc<Replica>, epoch: LeaderEpoch, membership: Membership) {
        let mut state = self.state.lock();
        if let Some(leader) = state.leader.as_mut().filter(|leader| leader.epoch.0 == epoch.0) {
            let actions = leader.in_sync.on_membership(membership, Instant::now());
            self.act(state, actions);
        }
    }
}
