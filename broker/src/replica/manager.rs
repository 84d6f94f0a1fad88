//! All replicas of this broker. Follows the metadata image: opens what is assigned here, leads what the image says, removes
//! what was deleted, applies changed topic configs.
//!
//! Who calls: the node starts and stops it; handlers and coordinators look replicas up. One image is applied at a time,
//! on a blocking thread, because it opens and renames files; lookups never wait for that.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use imbl::ordmap::DiffItem;
use ottla_batch::{LeaderEpoch, Offset};
use ottla_raft::{BrokerEpoch, BrokerId, ConfigResourceType, Image, Metadata, Partition, TopicId};
use ottla_storage::log::LastShutdown;
use ottla_storage::logdir::LogDir;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::counters::Counters;
use super::directory::{Directory, TopicReplicas};
use super::fetcher::{FetcherContext, Fetchers};
use super::follower_sessions::FollowerSessions;
use super::group_commit::{OnFatal, SyncQueue};
use super::in_sync::Membership;
use super::isr_changes::IsrChanges;
use super::links::LeaderLinks;
use super::log_dirs::{Assignments, FailedDir, OnDirFailed, UnusableDir, on_sync_failed};
use super::maintenance::Maintenance;
use super::moves::Moves;
use super::partition::{Queues, Replica, TopicSettings, TopicSettingsOf};
use super::placement::{Found, OnDisk, survey};
use super::producer_ids::ProducerIds;
use super::quota::Quotas;
use super::sessions::FetchSessions;
use crate::clock;
use crate::config::NodeConfig;
use crate::metrics::Metrics;
use crate::threads;
use crate::tier::Tier;

/// Below this many logs, opening them one after the other is faster than starting threads.
const OPEN_IN_PARALLEL_FROM: usize = 8;
/// Logs created at the same time in each directory. They wait for the file system's journal, which takes many at once.
const CREATING_THREADS: usize = 8;

/// What a manager is made of.
pub struct ReplicaOptions {
    pub local: BrokerId,
    pub config: Arc<NodeConfig>,
    /// Opened (and so locked) by the node, in the order of `log.dirs`.
    pub log_dirs: Vec<LogDir>,
    /// Entries of `log.dirs` that could not be opened.
    pub unusable_dirs: Vec<UnusableDir>,
    pub metadata: Metadata,
    /// This broker's epoch as the controller gave it; changes when it registers anew.
    pub broker_epoch: watch::Receiver<BrokerEpoch>,
    pub metrics: Arc<Metrics>,
    pub topic_settings: TopicSettingsOf,
    pub on_fatal: OnFatal,
    pub on_dir_failed: OnDirFailed,
    pub links: Arc<dyn LeaderLinks>,
    pub tier: Option<Arc<Tier>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("no log directory can be used: {0}")]
    NoLogDir(String),
    #[error("starting a thread: {0}")]
    Thread(io::Error),
}

/// Why this broker has no replica of a partition that a client names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("this server does not host this topic-partition")]
    UnknownTopicOrPartition,
    #[error("this server does not host this topic id")]
    UnknownTopicId,
    #[error("the partition is on other brokers")]
    NotHere,
    #[error("the log of the partition could not be opened")]
    Failed,
}

pub(super) struct Dir {
    pub log_dir: Arc<LogDir>,
    pub syncs: Arc<SyncQueue>,
    /// How many replicas it holds: new ones go where the fewest are.
    pub replicas: AtomicUsize,
    /// As in its file.
    pub high_watermarks: Mutex<BTreeMap<(String, i32), Offset>>,
}

pub struct ReplicaManager {
    local: BrokerId,
    config: Arc<NodeConfig>,
    pub(super) dirs: Vec<Dir>,
    unusable_dirs: Vec<UnusableDir>,
    metadata: Metadata,
    broker_epoch: watch::Receiver<BrokerEpoch>,
    counters: Arc<Counters>,
    topic_settings: TopicSettingsOf,
    directory: Directory,
    /// Held while an image is applied.
    applying: Mutex<Applied>,
    /// Offset of the newest image that was applied here.
    applied: watch::Sender<u64>,
    /// Assigned to this broker, but their logs could not be opened.
    failed: Mutex<HashSet<(TopicId, i32)>>,
    maintenance: Maintenance,
    sessions: FetchSessions,
    follower_sessions: FollowerSessions,
    producer_ids: ProducerIds,
    quotas: Arc<Quotas>,
    pub(super) fetchers: Fetchers,
    pub(super) on_fatal: OnFatal,
    pub(super) on_dir_failed: OnDirFailed,
    pub(super) assignments: Arc<Assignments>,
    pub(super) moves: Moves,
    isr_changes: Arc<IsrChanges>,
    /// Ends the task that carries in-sync sets to the controller.
    pub(super) stop: watch::Sender<bool>,
    runtime: tokio::runtime::Handle,
}

struct Applied {
    image: Arc<Image>,
    /// What lay on the disks at start and was not opened yet, by topic and partition.
    on_disk: OnDisk,
    stopped: bool,
}

/// A replica to be opened.
struct Wanted {
    topic: Arc<str>,
    topic_id: TopicId,
    partition: i32,
    dir: usize,
    state: Arc<Partition>,
    /// Shared by the partitions of the topic.
    settings: Arc<TopicSettings>,
}

impl ReplicaManager {
    /// Opens everything that the current image assigns to this broker, recovering what was not closed cleanly, and goes on
    /// following the image. Needs a tokio runtime.
    pub async fn start(options: ReplicaOptions) -> Result<Arc<ReplicaManager>, StartError> {
        let ReplicaOptions {
            local,
            config,
            log_dirs,
            unusable_dirs,
            metadata,
            broker_epoch,
            metrics,
            topic_settings,
            on_fatal,
            on_dir_failed,
            links,
            tier,
        } = options;
        let this = Arc::new(OnceLock::new());
        let counters = Arc::new(Counters::register(&metrics));
        let mut dirs = Vec::new();
        let mut on_disk = OnDisk::new();
        let mut futures = Vec::new();
        for (index, log_dir) in log_dirs.into_iter().enumerate() {
            let (found, copies, high_watermarks) = match survey(&log_dir) {
                Ok(surveyed) => surveyed,
                Err(error) => {
                    let (path, reason) = (log_dir.path().display(), error.to_string());
                    tracing::error!(%path, reason, "a log directory can't be read; its replicas are offline");
                    log_dir.mark_offline(reason);
                    Default::default()
                }
            };
            for partition in found {
                let key = (partition.topic, partition.partition);
                let found = Found { dir: index, topic_id: partition.topic_id, path: partition.path };
                on_disk.entry(key).or_default().push(found);
            }
            futures.extend(copies.into_iter().map(|found| (index, found)));
            let syncs = SyncQueue::start(
                &index.to_string(),
                log_dir.disk().clone(),
                on_sync_failed(&this, index, &on_fatal),
                Some(Arc::clone(&counters)),
            )
            .map_err(StartError::Thread)?;
            let high_watermarks = Mutex::new(high_watermarks);
            let (log_dir, replicas) = (Arc::new(log_dir), AtomicUsize::new(0));
            dirs.push(Dir { log_dir, syncs, replicas, high_watermarks });
        }
        if let Some(last) = dirs.last().filter(|_| dirs.iter().all(|dir| dir.log_dir.offline().is_some())) {
            return Err(StartError::NoLogDir(last.log_dir.offline().unwrap_or_default().to_owned()));
        }
        let slots = config.replication.fetch_session_slots_max;
        let quotas = Arc::new(Quotas::new(&config));
        let fetchers = Fetchers::new(FetcherContext {
            local,
            metadata: metadata.clone(),
            broker_epoch: broker_epoch.clone(),
            node: Arc::clone(&config),
            config: config.replication.fetch.clone(),
            inter_broker_listener: config.inter_broker_listener_name.clone(),
            links,
            quotas: Arc::clone(&quotas),
            tier,
            directories: dirs.iter().map(|dir| dir.log_dir.directory_id()).collect(),
        });
        let isr_changes = Arc::new(IsrChanges::default());
        let stop = watch::Sender::new(false);
        let changes = Arc::clone(&isr_changes);
        tokio::spawn(changes.run(metadata.clone(), local, broker_epoch.clone(), stop.subscribe()));
        let empty = Arc::new(Image::empty(metadata.image().cluster_id.clone()));
        let manager = Arc::new(ReplicaManager {
            local,
            config,
            dirs,
            unusable_dirs,
            metadata: metadata.clone(),
            broker_epoch,
            counters,
            topic_settings,
            directory: Directory::default(),
            applying: Mutex::new(Applied { image: empty, on_disk, stopped: false }),
            applied: watch::Sender::new(0),
            failed: Mutex::default(),
            maintenance: Maintenance::default(),
            sessions: FetchSessions::new(slots),
            follower_sessions: FollowerSessions::default(),
            producer_ids: ProducerIds::default(),
            quotas,
            fetchers,
            on_fatal,
            on_dir_failed,
            assignments: Arc::default(),
            moves: Moves::default(),
            isr_changes,
            stop,
            runtime: tokio::runtime::Handle::current(),
        });
        let _ = this.set(Arc::downgrade(&manager));
        // The broker registered with them.
        for id in manager.offline_log_dirs() {
            (manager.on_dir_failed)(FailedDir { id, led_partitions: false });
        }
        tokio::spawn(Arc::clone(&manager.assignments).run(Arc::downgrade(&manager)));
        let mut changes = metadata.changes();
        changes.mark_unchanged();
        let began = Instant::now();
        Arc::clone(&manager).apply_newest().await;
        manager.tell_recovery(began.elapsed());
        let resumed = Arc::clone(&manager);
        if let Err(error) = threads::blocking(move || resumed.resume_moves(futures)).await {
            tracing::error!(%error, "going on with moves between log directories failed");
        }
        manager.maintenance.start(&manager).map_err(StartError::Thread)?;
        manager.moves.start(&manager).map_err(StartError::Thread)?;
        tokio::spawn(follow(Arc::downgrade(&manager), changes));
        Ok(manager)
    }

    /// An operator who finds a slow start wants to know why.
    fn tell_recovery(&self, elapsed: Duration) {
        for dir in &self.dirs {
            let logs = dir.replicas.load(Ordering::Relaxed);
            if dir.log_dir.last_shutdown() == LastShutdown::Unclean && logs > 0 {
                let path = dir.log_dir.path().display();
                let elapsed_ms = elapsed.as_millis() as u64;
                tracing::info!(%path, logs, elapsed_ms, "the last shutdown was not clean: logs are recovered");
            }
        }
    }

    /// False once the manager was shut down.
    async fn apply_newest(self: Arc<ReplicaManager>) -> bool {
        let applied = threads::blocking(move || {
            let image = self.metadata.image();
            self.apply(image)
        });
        match applied.await {
            Ok(going_on) => going_on,
            Err(error) => {
                tracing::error!(%error, "applying a metadata image failed");
                true
            }
        }
    }

    /// This broker's epoch, which the controller and leaders check in what it asks of them.
    pub fn broker_epoch(&self) -> BrokerEpoch {
        *self.broker_epoch.borrow()
    }

    /// The replica of a partition of this name, if this broker has one.
    pub fn get(&self, topic: &str, partition: i32) -> Option<Arc<Replica>> {
        self.directory.by_name(topic)?.get(partition).cloned()
    }

    pub fn get_by_id(&self, topic_id: TopicId, partition: i32) -> Option<Arc<Replica>> {
        self.directory.by_id(topic_id)?.get(partition).cloned()
    }

    /// For several partitions of one topic: look up once.
    pub fn topic(&self, name: &str) -> Option<Arc<TopicReplicas>> {
        self.directory.by_name(name)
    }

    pub fn topic_by_id(&self, topic_id: TopicId) -> Option<Arc<TopicReplicas>> {
        self.directory.by_id(topic_id)
    }

    /// The replica of a partition, or why there is none here.
    pub fn find(&self, topic: &str, partition: i32) -> Result<Arc<Replica>, LookupError> {
        if let Some(replica) = self.get(topic, partition) {
            return Ok(replica);
        }
        let image = self.metadata.image();
        self.why_missing(image.topic_by_name(topic), partition)
    }

    pub fn find_by_id(&self, topic_id: TopicId, partition: i32) -> Result<Arc<Replica>, LookupError> {
        if let Some(replica) = self.get_by_id(topic_id, partition) {
            return Ok(replica);
        }
        let image = self.metadata.image();
        let topic = image.topic_by_id(topic_id).ok_or(LookupError::UnknownTopicId)?;
        self.why_missing(Some(topic), partition)
    }

    fn why_missing(
        &self,
        topic: Option<&Arc<ottla_raft::Topic>>,
        partition: i32,
    ) -> Result<Arc<Replica>, LookupError> {
        let topic = topic.ok_or(LookupError::UnknownTopicOrPartition)?;
        let state = topic.partition(partition).ok_or(LookupError::UnknownTopicOrPartition)?;
        if state.replicas.contains(&self.local) && self.is_failed(topic.id, partition) {
            return Err(LookupError::Failed);
        }
        // Also while a topic that was just created is being opened: the client tries again.
        Err(LookupError::NotHere)
    }

    /// Resolves when everything up to this metadata offset is in force here, at most after `limit`; says whether it is.
    pub async fn await_applied(&self, offset: u64, limit: Duration) -> bool {
        let mut applied = self.applied.subscribe();
        let reached = applied.wait_for(|applied| *applied >= offset);
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }

    /// As [`ReplicaManager::get`], for code that has just created the topic: waits at most `limit` until this broker opened it.
    pub async fn await_local(&self, topic: &str, partition: i32, limit: Duration) -> Option<Arc<Replica>> {
        let mut applied = self.applied.subscribe();
        let wait = async {
            loop {
                applied.mark_unchanged();
                // A topic that was deleted and created again may still be here as what it was.
                let id = self.metadata.image().topic_by_name(topic).map(|topic| topic.id);
                if let Some(replica) =
                    self.get(topic, partition).filter(|replica| Some(replica.topic_id()) == id)
                {
                    return Some(replica);
                }
                applied.changed().await.ok()?;
            }
        };
        tokio::time::timeout(limit, wait).await.ok().flatten()
    }

    /// Carries the metadata offset up to which replicas, their roles and settings follow the image.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Whether this broker should have the replica but could not open it.
    pub fn is_failed(&self, topic_id: TopicId, partition: i32) -> bool {
        self.failed.lock().contains(&(topic_id, partition))
    }

    /// All replicas, in no order.
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        self.directory
            .topics()
            .iter()
            .flat_map(|topic| topic.replicas().cloned().collect::<Vec<_>>())
            .collect()
    }

    pub fn local(&self) -> BrokerId {
        self.local
    }

    pub fn sessions(&self) -> &FetchSessions {
        &self.sessions
    }

    pub fn follower_sessions(&self) -> &FollowerSessions {
        &self.follower_sessions
    }

    pub fn producer_ids(&self) -> &ProducerIds {
        &self.producer_ids
    }

    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    pub fn log_dirs(&self) -> impl Iterator<Item = &Arc<LogDir>> {
        self.dirs.iter().map(|dir| &dir.log_dir)
    }

    /// Entries of `log.dirs` that could not be opened at the start.
    pub fn unusable_dirs(&self) -> &[UnusableDir] {
        &self.unusable_dirs
    }

    /// The log directory of a replica.
    pub fn log_dir_of(&self, replica: &Replica) -> &Arc<LogDir> {
        &self.dirs[replica.dir()].log_dir
    }

    pub(super) fn config(&self) -> &NodeConfig {
        &self.config
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn maintenance(&self) -> &Maintenance {
        &self.maintenance
    }

    /// Brings replicas, roles and settings to `image`. False once the manager was shut down.
    fn apply(self: &Arc<ReplicaManager>, image: Arc<Image>) -> bool {
        let mut applied = self.applying.lock();
        if applied.stopped {
            return false;
        }
        let before = std::mem::replace(&mut applied.image, Arc::clone(&image));
        let mut gone: Vec<TopicId> = Vec::new();
        let mut touched: Vec<(Option<&Arc<ottla_raft::Topic>>, &Arc<ottla_raft::Topic>)> = Vec::new();
        for change in before.topics.diff(&image.topics) {
            match change {
                DiffItem::Add(_, topic) => touched.push((None, topic)),
                DiffItem::Update { old: (_, old), new: (_, topic) } => touched.push((Some(old), topic)),
                DiffItem::Remove(id, _) => gone.push(*id),
            }
        }
        // ORDER: removals first, or a topic created again by the same name would find the old one's directories.
        for topic_id in &gone {
            if let Some(topic) = before.topic_by_id(*topic_id) {
                tracing::info!(topic = %topic.name, id = %topic_id, "topic deleted");
            }
            self.remove_topic(*topic_id);
        }
        self.directory.change(Vec::new(), &gone);

        self.set_strays_aside(&mut applied.on_disk, &image);
        let mut wanted = Vec::new();
        let mut left: Vec<(TopicId, i32)> = Vec::new();
        let is_first = before.topics.is_empty() && before.last_offset == 0;
        for (old, topic) in touched {
            let partitions = topic.partitions.len();
            match old {
                // What was there at the start is counted, not listed.
                None if is_first => {}
                None => tracing::info!(topic = %topic.name, id = %topic.id, partitions, "topic created"),
                Some(old) if old.partitions.len() < partitions => {
                    tracing::info!(topic = %topic.name, partitions, "partitions added");
                }
                Some(_) => {}
            }
            let known = self.directory.by_id(topic.id);
            let mut settings: Option<Arc<TopicSettings>> = None;
            for (partition, state) in topic.partitions.iter().enumerate() {
                let partition = partition as i32;
                let known = known.as_ref().and_then(|known| known.get(partition));
                if !state.replicas.contains(&self.local) {
                    if let Some(replica) = known {
                        tracing::info!(topic = %topic.name, partition, "the replica was assigned to others");
                        self.remove_replica(replica);
                        left.push((topic.id, partition));
                    }
                    continue;
                }
                match known {
                    Some(replica) => {
                        let before = old.and_then(|old| old.partition(partition));
                        if before.is_none_or(|before| !Arc::ptr_eq(before, state)) {
                            self.update_role(replica, state, &image);
                        }
                    }
                    None => {
                        let had_it = |old: &Arc<ottla_raft::Topic>| {
                            old.partition(partition).is_some_and(|state| state.replicas.contains(&self.local))
                        };
                        let is_new = !is_first && !old.is_some_and(had_it);
                        let Some(dir) = self.dir_for(&mut applied.on_disk, topic, partition, is_new) else {
                            self.failed.lock().insert((topic.id, partition));
                            continue;
                        };
                        let settings = settings
                            .get_or_insert_with(|| Arc::new((self.topic_settings)(&image, &topic.name)));
                        wanted.push(Wanted {
                            topic: Arc::clone(&topic.name),
                            topic_id: topic.id,
                            partition,
                            dir,
                            state: Arc::clone(state),
                            settings: Arc::clone(settings),
                        });
                    }
                }
            }
        }
        self.directory.remove(&left);
        let opened = self.open(wanted, is_first, &image);
        self.directory.change(opened.clone(), &[]);
        self.check_dirs_of(&opened);
        self.tell_leaders_of_brokers(&before, &image);
        self.update_settings(&before, &image);
        self.applied.send_replace(image.last_offset);
        true
    }

    fn open(&self, wanted: Vec<Wanted>, is_start: bool, image: &Image) -> Vec<Arc<Replica>> {
        if wanted.len() < OPEN_IN_PARALLEL_FROM {
            return wanted.iter().filter_map(|wanted| self.open_one(wanted, image)).collect();
        }
        let mut threads_per_dir = self.config.dynamic().recovery_threads_per_data_dir.max(1);
        if !is_start {
            threads_per_dir = threads_per_dir.max(CREATING_THREADS);
        }
        let mut by_dir: BTreeMap<usize, Vec<Wanted>> = BTreeMap::new();
        for wanted in wanted {
            by_dir.entry(wanted.dir).or_default().push(wanted);
        }
        for (dir, wanted) in &by_dir {
            let log_dir = &self.dirs[*dir].log_dir;
            let names = wanted.iter().map(|wanted| (&*wanted.topic, wanted.partition));
            if let Err(error) = log_dir.create_partitions(names) {
                // Opening each of them says which, and why.
                tracing::warn!(path = %log_dir.path().display(), %error, "directories can't be created");
            }
        }
        let opened = Mutex::new(Vec::new());
        let dirs = by_dir.len();
        // One from each directory in turn, so that all disks have work at any time.
        let mut queues: Vec<_> = by_dir.into_values().map(Vec::into_iter).collect();
        let mut order = Vec::new();
        while !queues.is_empty() {
            queues.retain_mut(|queue| queue.next().map(|next| order.push(next)).is_some());
        }
        each_on_threads(&order, threads_per_dir * dirs, |next| {
            if let Some(replica) = self.open_one(next, image) {
                opened.lock().push(replica);
            }
        });
        opened.into_inner()
    }

    fn open_one(&self, wanted: &Wanted, image: &Image) -> Option<Arc<Replica>> {
        let dir = &self.dirs[wanted.dir];
        let topic_id = Some(wanted.topic_id.0);
        let log_config = Arc::clone(&wanted.settings.log);
        match dir.log_dir.open_log(&wanted.topic, wanted.partition, topic_id, log_config, clock::now()) {
            Ok(log) => {
                let replica = Arc::new(Replica::new(
                    Arc::clone(&wanted.topic),
                    wanted.topic_id,
                    wanted.partition,
                    wanted.dir,
                    Arc::clone(&wanted.settings),
                    log,
                    Queues { syncs: Arc::clone(&dir.syncs), isr_changes: Arc::clone(&self.isr_changes) },
                ));
                self.failed.lock().remove(&(wanted.topic_id, wanted.partition));
                let key = (wanted.topic.to_string(), wanted.partition);
                if let Some(high_watermark) = dir.high_watermarks.lock().remove(&key) {
                    replica.restore_high_watermark(high_watermark);
                }
                let directory = dir.log_dir.directory_id();
                let known = wanted.state.directory(self.local);
                // With a single directory there is nothing to tell, unless it is not the one that there was: whoever is on
                // that one is gone, as the controller sees it, and may not lead.
                if known != directory && (self.dirs.len() > 1 || !known.is_nil()) {
                    self.tell_directory(&replica);
                }
                self.update_role(&replica, &wanted.state, image);
                Some(replica)
            }
            Err(error) => {
                tracing::error!(topic = %wanted.topic, partition = wanted.partition, %error, "the log can't be opened");
                dir.replicas.fetch_sub(1, Ordering::Relaxed);
                self.failed.lock().insert((wanted.topic_id, wanted.partition));
                self.check_dir(wanted.dir, "a log", &error);
                None
            }
        }
    }

    /// Leads or follows as the image says.
    fn update_role(&self, replica: &Arc<Replica>, state: &Partition, image: &Image) {
        let epoch = LeaderEpoch(state.leader_epoch.0);
        let key = (replica.topic_id(), replica.partition());
        if state.leader == Some(self.local) {
            // ORDER: first, so that no request that is made after this broker began to lead speaks for a follower of the leader before.
            self.fetchers.leave(key);
            let membership = Membership::of(state, self.local);
            let led = replica.become_leader(epoch, membership, |id| active_epoch(image, id), Instant::now());
            if let Err(error) = led {
                tracing::error!(topic = %replica.topic(), partition = replica.partition(), %error, "can't lead");
                replica.go_offline();
                replica.check_offline(&error);
            }
            return;
        }
        if !replica.become_follower(state.leader, epoch) {
            return;
        }
        match state.leader {
            Some(leader) => {
                let _runtime = self.runtime.enter();
                self.fetchers.follow(replica, leader, epoch, self.config.dynamic().replica_fetchers);
            }
            None => self.fetchers.leave(key),
        }
    }

    /// Whether a follower may join an in-sync set depends on its broker: leaders hear of those that came, went or restarted.
    fn tell_leaders_of_brokers(&self, before: &Image, image: &Image) {
        let is_changed = before.brokers.diff(&image.brokers).any(|change| match change {
            DiffItem::Add(..) | DiffItem::Remove(..) => true,
            DiffItem::Update { old: (_, old), new: (_, new) } => {
                (old.epoch, old.is_active()) != (new.epoch, new.is_active())
            }
        });
        if is_changed {
            for replica in self.replicas() {
                replica.on_leader(|in_sync| in_sync.on_brokers(|id| active_epoch(image, id)));
            }
        }
    }

    fn remove_topic(&self, topic_id: TopicId) {
        self.failed.lock().retain(|(failed, _)| *failed != topic_id);
        let Some(topic) = self.directory.by_id(topic_id) else { return };
        topic.replicas().for_each(|replica| self.remove_replica(replica));
    }

    /// On the word of the image: the topic is deleted, or others have the partition.
    fn remove_replica(&self, replica: &Arc<Replica>) {
        self.fetchers.leave((replica.topic_id(), replica.partition()));
        replica.mark_deleted();
        self.cancel_move((replica.topic_id(), replica.partition()));
        let dir = &self.dirs[replica.dir()];
        dir.replicas.fetch_sub(1, Ordering::Relaxed);
        let delay_ms = replica.settings().log.file_delete_delay_ms;
        let marked = replica.state.lock().log.mark_deleted();
        match marked {
            Ok(deleted) => self.maintenance.delete_log_later(deleted, clock::now(), delay_ms),
            Err(error) => tracing::error!(
                topic = %replica.topic(), partition = replica.partition(), %error,
                "the directory of a deleted partition can't be renamed"
            ),
        }
    }

    /// Replicas of topics whose configs changed get their new settings; a changed broker default concerns all topics.
    fn update_settings(&self, before: &Image, image: &Image) {
        let mut all = false;
        let mut names: HashSet<Arc<str>> = HashSet::new();
        for change in before.configs.diff(&image.configs) {
            let (DiffItem::Add(resource, _)
            | DiffItem::Update { new: (resource, _), .. }
            | DiffItem::Remove(resource, _)) = change;
            match resource.kind {
                ConfigResourceType::Topic => {
                    names.insert(Arc::clone(&resource.name));
                }
                ConfigResourceType::Broker => all = true,
                ConfigResourceType::ClientMetrics | ConfigResourceType::Group => {}
            }
        }
        let topics = if all {
            self.directory.topics()
        } else {
            names.iter().filter_map(|name| self.directory.by_name(name)).collect()
        };
        for topic in topics {
            let settings = Arc::new((self.topic_settings)(image, &topic.name));
            for replica in topic.replicas() {
                replica.update_settings(Arc::clone(&settings));
            }
        }
    }

    /// Controlled end: nothing more is applied or appended, everything is synced, and the directories are marked clean and
    /// free for the next owner. The network must have stopped before.
    pub async fn shutdown(self: &Arc<ReplicaManager>) {
        let manager = Arc::clone(self);
        if let Err(error) = threads::blocking(move || manager.stop()).await {
            tracing::error!(%error, "closing the logs failed");
        }
    }

    fn stop(self: &Arc<ReplicaManager>) {
        {
            let mut applied = self.applying.lock();
            if std::mem::replace(&mut applied.stopped, true) {
                return;
            }
        }
        self.fetchers.stop();
        self.stop.send_replace(true);
        self.maintenance.stop();
        let unclean = self.moves.stop();
        for dir in &self.dirs {
            dir.syncs.stop();
        }
        let broker_epoch = self.broker_epoch().0;
        let is_clean: Vec<_> = self.dirs.iter().map(|_| AtomicBool::new(true)).collect();
        unclean.into_iter().for_each(|dir| is_clean[dir].store(false, Ordering::Relaxed));
        let replicas = self.replicas();
        let threads = self.config.dynamic().recovery_threads_per_data_dir.max(1) * self.dirs.len();
        each_on_threads(&replicas, threads, |replica| {
            replica.resign();
            if let Err(error) = replica.state.lock().log.close() {
                tracing::error!(topic = %replica.topic(), partition = replica.partition(), %error, "the log did not close well");
                is_clean[replica.dir()].store(false, Ordering::Relaxed);
            }
        });
        self.write_checkpoints();
        self.write_high_watermarks();
        for (dir, is_clean) in self.dirs.iter().zip(is_clean) {
            if is_clean.into_inner()
                && let Err(error) = dir.log_dir.write_clean_shutdown_marker(broker_epoch)
            {
                tracing::error!(path = %dir.log_dir.path().display(), %error, "no clean shutdown marker");
            }
            // Here and not when the last handle of the manager is dropped, which a task that ends later may hold.
            dir.log_dir.release();
        }
    }
}

/// Does `work` to each item, on at most so many threads at once.
fn each_on_threads<T: Sync>(items: &[T], threads_max: usize, work: impl Fn(&T) + Sync) {
    let turn = AtomicUsize::new(0);
    threads::together(threads_max.min(items.len()), || {
        while let Some(item) = items.get(turn.fetch_add(1, Ordering::Relaxed)) {
            work(item);
        }
    });
}

/// The epoch of a broker that may be in sync.
fn active_epoch(image: &Image, id: BrokerId) -> Option<BrokerEpoch> {
    image.broker(id).filter(|broker| broker.is_active()).map(|broker| broker.epoch)
}

/// Ends when the metadata or the manager goes away; does not keep the manager, and with it the locks of its directories.
async fn follow(manager: Weak<ReplicaManager>, mut changes: watch::Receiver<u64>) {
    while changes.changed().await.is_ok() {
        let Some(manager) = manager.upgrade() else { return };
        if !manager.apply_newest().await {
            return;
        }
    }
}
