//! The log directories of a broker as places of replicas: which of them failed, which replica lies where (KIP-858), and the
//! high watermarks that they remember (`replication-offset-checkpoint`).
//!
//! A directory fails when a sync in it does, or an error leaves a log in a state that only recovery can judge. Its replicas go offline,
//! the controller is told by the heartbeat, and the others go on. Without another directory there is nothing to go on with.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use ottla_raft::TopicId;
use ottla_raft::requests::AssignReplicasToDirs;
use ottla_storage::disk::device_failure;
use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use super::group_commit::{Fatal, OnFatal};
use super::manager::ReplicaManager;
use super::partition::Replica;

/// Replicas in one request; the controller makes one entry of its log of it.
const ASSIGNMENTS_PER_REQUEST_MAX: usize = 1_000;
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A log directory that failed while the broker ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedDir {
    pub id: Uuid,
    /// Whether the broker led partitions in it.
    pub led_partitions: bool,
}

/// Told when a directory fails.
pub type OnDirFailed = Arc<dyn Fn(FailedDir) + Send + Sync>;

/// An entry of `log.dirs` that could not be used when the node started. What lies in it is not known.
#[derive(Debug, Clone)]
pub struct UnusableDir {
    pub path: PathBuf,
    pub reason: String,
}

/// What a failed sync leads to, for the queue of one directory: which is started before there is a manager.
pub(super) fn on_sync_failed(
    manager: &Arc<OnceLock<Weak<ReplicaManager>>>,
    dir: usize,
    on_fatal: &OnFatal,
) -> OnFatal {
    let (manager, on_fatal) = (Arc::clone(manager), Arc::clone(on_fatal));
    Arc::new(move |fatal: Fatal| match manager.get().and_then(Weak::upgrade) {
        Some(manager) => manager.fail_dir(dir, fatal),
        None => on_fatal(fatal),
    })
}

/// Told whether the controller took an assignment.
type OnAssigned = Box<dyn FnOnce(bool) + Send>;

struct Assignment {
    topic: TopicId,
    partition: i32,
    directory: Uuid,
    on_assigned: Option<OnAssigned>,
}

/// Replicas whose directories the controller has to hear of, in the order in which they came there.
#[derive(Default)]
pub(super) struct Assignments {
    queued: Mutex<VecDeque<Assignment>>,
    wake: Notify,
}

impl Assignments {
    pub fn push(&self, topic: TopicId, partition: i32, directory: Uuid, on_assigned: Option<OnAssigned>) {
        self.queued.lock().push_back(Assignment { topic, partition, directory, on_assigned });
        self.wake.notify_one();
    }

    fn put_back(&self, mut assignments: Vec<Assignment>) {
        let mut queued = self.queued.lock();
        while let Some(assignment) = assignments.pop() {
            queued.push_front(assignment);
        }
    }

    /// Runs until the manager goes away.
    pub async fn run(self: Arc<Assignments>, manager: Weak<ReplicaManager>) {
        loop {
            let assignments = {
                let mut queued = self.queued.lock();
                let count = queued.len().min(ASSIGNMENTS_PER_REQUEST_MAX);
                queued.drain(..count).collect::<Vec<_>>()
            };
            if assignments.is_empty() {
                self.wake.notified().await;
                continue;
            }
            let (metadata, request) = {
                let Some(manager) = manager.upgrade() else { return };
                let request = AssignReplicasToDirs {
                    broker: manager.local(),
                    broker_epoch: manager.broker_epoch(),
                    assignments: assignments
                        .iter()
                        .map(|one| (one.topic, one.partition, one.directory))
                        .collect(),
                };
                (manager.metadata().clone(), request)
            };
            let error = match metadata.submit(request).await {
                Ok(Ok(results)) => {
                    for (assignment, result) in assignments.into_iter().zip(results) {
                        // Refused ones were deleted or assigned to others meanwhile.
                        assignment.on_assigned.into_iter().for_each(|tell| tell(result.result.is_ok()));
                    }
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(error, "the controller could not be told in which directories replicas lie");
            // ORDER: in front of what came meanwhile, which may be of the same replicas.
            self.put_back(assignments);
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
}

impl ReplicaManager {
    /// Ids of the directories that failed.
    pub fn offline_log_dirs(&self) -> Vec<Uuid> {
        let failed = self.dirs.iter().filter(|dir| dir.log_dir.offline().is_some());
        failed.map(|dir| dir.log_dir.directory_id()).collect()
    }

    /// Has the controller hear where a replica lies.
    pub(super) fn tell_directory(&self, replica: &Replica) {
        let directory = self.log_dir_of(replica).directory_id();
        self.assignments.push(replica.topic_id(), replica.partition(), directory, None);
    }

    pub(super) fn tell_directory_and_then(
        &self,
        replica: &Replica,
        directory: Uuid,
        on_assigned: impl FnOnce(bool) + Send + 'static,
    ) {
        let (topic, partition) = (replica.topic_id(), replica.partition());
        self.assignments.push(topic, partition, directory, Some(Box::new(on_assigned)));
    }

    /// A directory can't be trusted any more.
    pub(super) fn fail_dir(&self, index: usize, reason: Fatal) {
        let log_dir = &self.dirs[index].log_dir;
        // Logs that were closed are offline too.
        if log_dir.offline().is_some() || *self.stop.borrow() {
            return;
        }
        log_dir.mark_offline(reason.to_string());
        let path = log_dir.path().display().to_string();
        if self.dirs.iter().all(|dir| dir.log_dir.offline().is_some()) {
            (self.on_fatal)(Fatal::NoLogDirLeft { path, reason: reason.to_string() });
            return;
        }
        tracing::error!(path, %reason, "a log directory failed; its replicas are offline");
        // ORDER: nothing is acknowledged any more before anybody else is told.
        let mut led_partitions = false;
        for replica in self.replicas().iter().filter(|replica| replica.dir() == index) {
            led_partitions |= replica.leader_epoch().is_some();
            self.take_offline(replica, index);
        }
        self.moves.on_dir_failed(self, index);
        (self.on_dir_failed)(FailedDir { id: log_dir.directory_id(), led_partitions });
    }

    fn take_offline(&self, replica: &Replica, dir: usize) {
        replica.go_offline_in(dir);
        self.fetchers.leave((replica.topic_id(), replica.partition()));
    }

    /// Replicas that were being opened while their directory failed.
    pub(super) fn check_dirs_of(&self, replicas: &[Arc<Replica>]) {
        for replica in replicas {
            let dir = replica.dir();
            if self.dirs[dir].log_dir.offline().is_some() {
                self.take_offline(replica, dir);
            }
        }
    }

    /// After an error of something in a directory: the directory is given up if its device failed.
    pub(super) fn check_dir(&self, index: usize, what: &str, error: &(dyn std::error::Error + 'static)) {
        if let Some(reason) = device_failure(error) {
            let log = format!("{} of {}", what, self.dirs[index].log_dir.path().display());
            self.fail_dir(index, Fatal::DeviceFailed { log, reason: reason.to_string() });
        }
    }

    /// Recovery points and log start offsets of all logs, durably.
    pub(super) fn write_checkpoints(&self) {
        for (index, dir) in self.dirs.iter().enumerate() {
            if dir.log_dir.offline().is_some() {
                continue;
            }
            if let Err(error) = dir.log_dir.write_checkpoints() {
                tracing::error!(path = %dir.log_dir.path().display(), %error, "checkpoints not written");
                self.check_dir(index, "checkpoints", &error);
            }
        }
    }

    /// What each directory remembers of how far its replicas were committed, for their next start.
    pub(super) fn write_high_watermarks(&self) {
        let mut by_dir: Vec<_> = self.dirs.iter().map(|_| BTreeMap::new()).collect();
        for replica in self.replicas() {
            let key = (replica.topic().to_string(), replica.partition());
            by_dir[replica.dir()].insert(key, replica.high_watermark());
        }
        for (index, (dir, high_watermarks)) in self.dirs.iter().zip(by_dir).enumerate() {
            let mut written = dir.high_watermarks.lock();
            if dir.log_dir.offline().is_some() || *written == high_watermarks {
                continue;
            }
            match dir.log_dir.write_high_watermarks(&high_watermarks) {
                Ok(()) => *written = high_watermarks,
                Err(error) => {
                    tracing::error!(path = %dir.log_dir.path().display(), %error, "high watermarks not written");
                    self.check_dir(index, "checkpoints", &error);
                }
            }
        }
    }
}
