//! What leaders do for the tier: copy sealed segments there, keep the retention of the whole, delete what is no longer read.
//!
//! One task looks over the replicas every `remote.log.manager.task.interval.ms` and lets those with work have a turn, at most
//! `remote.log.manager.copier.thread.pool.size` at once; there is no task per partition. What a leader knows of its partition's tier
//! ([`partition::Leading`]) is kept between turns and ends with its leader epoch.
//!
//! What makes it safe is the order: the object, the manifest that names it, the report to the metadata, and only then the local
//! deletion. The other way round the manifest forgets a segment before its object is deleted. Wherever a process dies, something is
//! there twice, or an object is there that nobody names; the next leader removes those.

pub mod agree;
mod deletion;
mod metrics;
pub mod partition;
mod reports;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ottla_batch::LeaderEpoch;
use ottla_raft::TopicId;
use tokio::task::{Id, JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::group_offsets::GroupOffsetsWriter;
use super::{Tier, cluster_state};
use crate::config::{NodeConfig, TierWriteConfig};
use crate::group::GroupCoordinator;
use crate::metrics::Metrics;
use crate::replica::quota::Quota;
use crate::replica::{Replica, ReplicaManager};
use deletion::Deletions;
use metrics::{Lag, WriteMetrics};
use partition::{Leading, WorkError};
use reports::Reports;

type Key = (TopicId, i32);

/// What the work on all partitions shares.
pub(crate) struct Context {
    pub tier: Arc<Tier>,
    pub replicas: Arc<ReplicaManager>,
    pub config: Arc<NodeConfig>,
    pub reports: Arc<Reports>,
    pub metrics: WriteMetrics,
    /// `remote.log.manager.copy.max.bytes.per.second`
    pub rate: Quota,
}

impl Context {
    fn settings(&self) -> &TierWriteConfig {
        &self.config.tier_write
    }
}

/// The running tasks.
pub struct TierWriter {
    tasks: Vec<JoinHandle<()>>,
}

impl TierWriter {
    /// Needs a tokio runtime.
    pub fn start(
        tier: Arc<Tier>,
        replicas: Arc<ReplicaManager>,
        groups: Arc<GroupCoordinator>,
        config: Arc<NodeConfig>,
        metrics: &Metrics,
    ) -> TierWriter {
        let metrics = WriteMetrics::register(metrics);
        let reports = Arc::new(Reports::default());
        let window = config.tier_write.copy_quota_window;
        let rate = Quota::new(&config, |dynamic| dynamic.remote_copy_rate, window);
        let reporting = tokio::spawn(Arc::clone(&reports).run(Arc::clone(&replicas)));
        let context = Arc::new(Context { tier, replicas, config, reports, metrics, rate });
        let turns = tokio::spawn(Turns::new(Arc::clone(&context)).run());
        let replicas = &context.replicas;
        let (metadata, local) = (replicas.metadata().clone(), replicas.local());
        let offsets =
            GroupOffsetsWriter { tier: context.tier.clone(), groups, metadata: metadata.clone(), local };
        let noting = tokio::spawn(offsets.run(context.settings().interval));
        let describing = tokio::spawn(cluster_state::run(context.tier.clone(), metadata, local));
        let deleting = tokio::spawn(Deletions::new(context).run());
        TierWriter { tasks: vec![reporting, turns, noting, describing, deleting] }
    }

    /// Whatever is under way is given up: it is as if the process had been killed, which is safe at any moment.
    pub async fn stop(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        for task in self.tasks {
            // Cancelled, or it panicked and said so.
            let _ = task.await;
        }
    }
}

/// Whose turn it is.
struct Turns {
    context: Arc<Context>,
    /// The partitions that are led here.
    led: HashMap<Key, Led>,
    waiting: VecDeque<Key>,
    running: JoinSet<Leading>,
    keys: HashMap<Id, Key>,
}

#[derive(Default)]
struct Led {
    /// None while a turn has it.
    leading: Option<Leading>,
    is_waiting: bool,
    /// As of the last turn.
    lag: Lag,
}

impl Turns {
    fn new(context: Arc<Context>) -> Turns {
        Turns {
            context,
            led: HashMap::new(),
            waiting: VecDeque::new(),
            running: JoinSet::new(),
            keys: HashMap::new(),
        }
    }

    async fn run(mut self) {
        let mut tick = interval(self.context.settings().interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.look(),
                Some(ended) = self.running.join_next_with_id(), if !self.running.is_empty() => self.on_ended(ended),
            }
            self.start_turns();
        }
    }

    /// Finds the partitions that this broker leads and that have something to do with the tier.
    fn look(&mut self) {
        let mut seen = HashSet::new();
        let image = self.context.replicas.metadata().image();
        for replica in self.context.replicas.replicas() {
            let Some(epoch) = replica.leader_epoch() else { continue };
            let key = (replica.topic_id(), replica.partition());
            let settings = replica.settings();
            let is_leaving =
                settings.deletes_tier_when_disabled && image.tier_position(key.0, key.1).is_some();
            if !settings.log.remote_storage && !is_leaving {
                continue;
            }
            seen.insert(key);
            let begun = || Led { leading: Some(Leading::new(epoch)), ..Led::default() };
            // Of another epoch nothing counts: another leader may have written since.
            let led = self.led.entry(key).or_insert_with(begun);
            if let Some(leading) = &mut led.leading {
                if leading.epoch() != epoch {
                    *leading = Leading::new(epoch);
                }
                if leading.is_due(Instant::now()) && !std::mem::replace(&mut led.is_waiting, true) {
                    self.waiting.push_back(key);
                }
            }
        }
        self.led.retain(|key, led| led.leading.is_none() || seen.contains(key));
        self.context.metrics.on_look(self.led.values().map(|led| led.lag));
    }

    fn start_turns(&mut self) {
        while self.running.len() < self.context.config.dynamic().tier_copiers.max(1) {
            let Some(key) = self.waiting.pop_front() else { return };
            let Some(led) = self.led.get_mut(&key) else { continue };
            led.is_waiting = false;
            let Some(replica) = self.context.replicas.get_by_id(key.0, key.1) else { continue };
            let Some(mut leading) = led.leading.take() else { continue };
            let context = Arc::clone(&self.context);
            let turn = self.running.spawn(async move {
                leading.take_turn(&context, &replica).await;
                leading
            });
            self.keys.insert(turn.id(), key);
        }
    }

    fn on_ended(&mut self, ended: Result<(Id, Leading), tokio::task::JoinError>) {
        let (id, leading) = match ended {
            Ok((id, leading)) => (id, Some(leading)),
            Err(error) => {
                tracing::error!(%error, "work on the tier failed");
                (error.id(), None)
            }
        };
        let Some(key) = self.keys.remove(&id) else { return };
        match leading {
            Some(leading) => {
                let (lag, is_waiting) = (leading.lag(), leading.has_more());
                if is_waiting {
                    self.waiting.push_back(key);
                }
                self.led.insert(key, Led { leading: Some(leading), lag, is_waiting });
            }
            // Begun anew at the next look.
            None => drop(self.led.remove(&key)),
        }
    }
}

/// How long after so many failures in a row the next try comes.
fn backoff(settings: &TierWriteConfig, failures: u32) -> Duration {
    let doubled = settings.backoff.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let jitter = 1.0 + settings.backoff_jitter * rand::random_range(-1.0..=1.0);
    doubled.min(settings.backoff_max).mul_f64(jitter)
}

/// Says so once in a while: a store that is away for an hour would fill the log.
fn tell(replica: &Replica, epoch: LeaderEpoch, error: &WorkError, failures: u32) {
    let (topic, partition) = (replica.topic(), replica.partition());
    match failures {
        1 | 10 | 100 | 1000 => {
            tracing::warn!(%topic, partition, %epoch, failures, %error, "work on the tier failed; it is tried again");
        }
        _ => tracing::debug!(%topic, partition, %epoch, failures, %error, "work on the tier failed again"),
    }
}
