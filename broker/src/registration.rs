//! This broker as the controller knows it: registered at the start, alive by heartbeats, fenced until it can serve, and
//! moved out of its leaderships before it stops.
//!
//! One task sends all heartbeats; what they ask for is a wish that the node's start and stop set. Invariants: the broker asks to
//! be unfenced only after it has opened its logs; a broker id that a living process holds is never taken from it, and a
//! process whose id was taken over while it was away stops.

use std::sync::Arc;
use std::time::Duration;

use ottla_raft::requests::{
    BrokerEpochError, BrokerHeartbeat, BrokerHeartbeatState, RegisterBroker, RegisterBrokerError,
};
use ottla_raft::{BrokerEpoch, BrokerId, Metadata};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::LivenessConfig;
use crate::replica::FailedDir;

/// The epoch of a node that is not registered as a broker.
pub const NOT_REGISTERED: BrokerEpoch = BrokerEpoch(-1);

/// Pause after an attempt that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How often a start that waits says why.
const PROGRESS: Duration = Duration::from_secs(5);
/// Between heartbeats while the broker waits for the controller to unfence it, or to let it go.
const CHANGE_PAUSE: Duration = Duration::from_millis(50);
/// A process that is gone is noticed within its session. A broker id that is still taken after so many sessions
/// belongs to a process that lives.
const SESSIONS_BEFORE_DUPLICATE: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error(
        "node.id {0}: another living process is registered with this id; two nodes must not share one (check node.id, or stop the other process)"
    )]
    Duplicate(BrokerId),
    #[error("the controller refuses this broker: {0}")]
    Refused(RegisterBrokerError),
    #[error(
        "no controller registered this broker within {} ms (initial.broker.registration.timeout.ms): {last}", .after.as_millis()
    )]
    TimedOut { after: Duration, last: String },
}

/// A log directory that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OfflineDir {
    id: Uuid,
    /// By when the controller must have heard of it; `None` when it has, or if nothing hangs on it.
    tell_until: Option<Instant>,
}

/// What the next heartbeats ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// The broker opens its logs.
    StayFenced,
    Serve,
    ShutDown,
}

/// What the controller answered to the newest heartbeat, in answer to which wish.
#[derive(Clone, Copy, Debug)]
struct Answer {
    wish: Wish,
    state: BrokerHeartbeatState,
}

pub struct Registration {
    metadata: Metadata,
    liveness: LivenessConfig,
    request: RegisterBroker,
    epoch: watch::Sender<BrokerEpoch>,
    wish: watch::Sender<Wish>,
    answer: watch::Sender<Option<Answer>>,
    /// Set when the broker cannot go on: another process has its id.
    lost: watch::Sender<Option<String>>,
    offline_log_dirs: watch::Sender<Vec<OfflineDir>>,
    heartbeats: Mutex<Option<JoinHandle<()>>>,
}

impl Registration {
    /// Registers the broker, waiting for a controller as long as `initial.broker.registration.timeout.ms` says, and keeps it alive
    /// but fenced until `serve`. Needs a tokio runtime.
    pub async fn start(
        metadata: Metadata,
        liveness: LivenessConfig,
        request: RegisterBroker,
    ) -> Result<Arc<Registration>, RegistrationError> {
        let registration = Arc::new(Registration {
            metadata,
            liveness,
            request,
            epoch: watch::Sender::new(NOT_REGISTERED),
            wish: watch::Sender::new(Wish::StayFenced),
            answer: watch::Sender::new(None),
            lost: watch::Sender::new(None),
            offline_log_dirs: watch::Sender::new(Vec::new()),
            heartbeats: Mutex::default(),
        });
        let limit = registration.liveness.registration_timeout;
        let mut last = "no answer yet".to_owned();
        match tokio::time::timeout(limit, registration.register(&mut last)).await {
            Ok(registered) => registered?,
            Err(_) => return Err(RegistrationError::TimedOut { after: limit, last }),
        }
        let alive = Arc::clone(&registration);
        *registration.heartbeats.lock() = Some(tokio::spawn(async move {
            tokio::select! {
                () = Arc::clone(&alive).keep_alive() => {}
                reason = alive.untold_too_long() => {
                    alive.lost.send_replace(Some(reason));
                }
            }
        }));
        Ok(registration)
    }

    /// This broker's epoch, as it goes into requests that the controller and leaders check (`AlterPartition`, the replica state of
    /// Fetch). It changes when the broker has to register anew.
    pub fn epoch(&self) -> watch::Receiver<BrokerEpoch> {
        self.epoch.subscribe()
    }

    /// Tells the controller, at once and from then on, that a log directory failed (KIP-858). While the controller does not know, it
    /// leaves partitions that this broker led there without a leader: then there is a limit (`log.dir.failure.timeout.ms`), after
    /// which the broker is lost.
    pub fn report_offline(&self, failed: FailedDir) {
        let limit = self.liveness.log_dir_failure_timeout;
        self.offline_log_dirs.send_if_modified(|dirs| {
            let is_new = dirs.iter().all(|dir| dir.id != failed.id);
            if is_new {
                let tell_until = failed.led_partitions.then(|| Instant::now() + limit);
                dirs.push(OfflineDir { id: failed.id, tell_until });
            }
            is_new
        });
    }

    /// The controller has heard of these.
    fn on_told(&self, told: &[Uuid]) {
        self.offline_log_dirs.send_if_modified(|dirs| {
            dirs.iter_mut().filter(|dir| told.contains(&dir.id)).for_each(|dir| dir.tell_until = None);
            // Nobody waits for less to do.
            false
        });
    }

    /// Resolves with the reason when the controller could not be told of a failed directory in time.
    async fn untold_too_long(&self) -> String {
        let mut dirs = self.offline_log_dirs.subscribe();
        loop {
            let next = dirs.borrow_and_update().iter().filter_map(|dir| dir.tell_until).min();
            match next {
                Some(until) if until <= Instant::now() => {
                    return format!(
                        "the controller could not be told within {} ms (log.dir.failure.timeout.ms) of a failed log directory in which \
                         this broker led partitions",
                        self.liveness.log_dir_failure_timeout.as_millis()
                    );
                }
                Some(until) => {
                    let _ = tokio::time::timeout_at(until, dirs.changed()).await;
                }
                // The sender lives in `self`.
                None => {
                    let _ = dirs.changed().await;
                }
            }
        }
    }

    /// Has the broker unfenced: from now on it is given leaderships and clients. Returns when it is.
    pub async fn serve(&self) {
        self.wish.send_replace(Wish::Serve);
        let served = |answer: &Option<Answer>| {
            answer.is_some_and(|answer| answer.wish == Wish::Serve && !answer.state.is_fenced)
        };
        let mut answers = self.answer.subscribe();
        // The sender lives in `self`.
        while tokio::time::timeout(PROGRESS, answers.wait_for(served)).await.is_err() {
            match *self.answer.borrow() {
                Some(answer) if answer.state.is_fenced => {
                    tracing::info!(
                        "waiting: the controller keeps this broker fenced; it must have all metadata and be reachable"
                    );
                }
                _ => tracing::info!("waiting: no controller answers the heartbeats of this broker"),
            }
        }
    }

    /// Ends the registration. With `controlled.shutdown.enable` the controller is told that this broker goes, and others
    /// get what it leads first, within bounds.
    pub async fn leave(&self) {
        if self.liveness.controlled_shutdown {
            self.be_relieved().await;
        }
        if let Some(heartbeats) = self.heartbeats.lock().take() {
            heartbeats.abort();
        }
    }

    async fn be_relieved(&self) {
        self.wish.send_replace(Wish::ShutDown);
        let gone = |answer: &Option<Answer>| {
            answer.is_some_and(|answer| answer.wish == Wish::ShutDown && answer.state.should_shut_down)
        };
        let mut answers = self.answer.subscribe();
        let left = async {
            // Without a controller nobody can take over, and waiting longer changes nothing.
            let told = answers.wait_for(|answer| answer.is_some_and(|answer| answer.wish == Wish::ShutDown));
            tokio::select! {
                told = tokio::time::timeout(self.liveness.session_timeout, told) => {
                    if told.is_err() {
                        return false;
                    }
                }
                () = self.metadata.quorum_ended() => return false,
            }
            answers.wait_for(gone).await.is_ok()
        };
        match tokio::time::timeout(self.liveness.controlled_shutdown_max, left).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!("no controller could be told of the shutdown"),
            Err(_) => tracing::warn!(
                "leaderships were not taken over in time (ottla.controlled.shutdown.max.ms); shutting down with them"
            ),
        }
    }

    /// Resolves when this broker must not go on, with the reason.
    pub async fn lost(&self) -> String {
        let mut lost = self.lost.subscribe();
        match lost.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// With the directories that work now.
    fn introduction(&self) -> RegisterBroker {
        let mut request = self.request.clone();
        let offline = self.offline_log_dirs.borrow();
        request.log_dirs.retain(|id| offline.iter().all(|dir| dir.id != *id));
        request
    }

    /// Tries until the controller takes or refuses the broker. `last` is told what the newest attempt failed of.
    async fn register(&self, last: &mut String) -> Result<(), RegistrationError> {
        let id = self.request.id;
        let patience = self.liveness.session_timeout * SESSIONS_BEFORE_DUPLICATE;
        let mut taken_since: Option<Instant> = None;
        loop {
            match self.metadata.submit(self.introduction()).await {
                Ok(Ok(epoch)) => {
                    tracing::debug!(broker_epoch = epoch.0, "registered");
                    self.epoch.send_replace(epoch);
                    return Ok(());
                }
                Ok(Err(RegisterBrokerError::Duplicate(_))) => {
                    if taken_since.is_none() {
                        tracing::info!(
                            broker = id.0,
                            "the controller still hears of another process with this broker id; waiting for its session to end"
                        );
                    }
                    if taken_since.get_or_insert_with(Instant::now).elapsed() >= patience {
                        return Err(RegistrationError::Duplicate(id));
                    }
                    *last = RegisterBrokerError::Duplicate(id).to_string();
                }
                Ok(Err(refused)) => return Err(RegistrationError::Refused(refused)),
                Err(error) => {
                    let error = error.to_string();
                    if *last != error {
                        tracing::info!(error, "the broker is not registered yet");
                    }
                    *last = error;
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Sends heartbeats until the controller has let the broker go, or the node drops the registration.
    async fn keep_alive(self: Arc<Self>) {
        let mut wishes = self.wish.subscribe();
        let mut offline_log_dirs = self.offline_log_dirs.subscribe();
        let mut failing_since: Option<Instant> = None;
        loop {
            let wish = *wishes.borrow_and_update();
            offline_log_dirs.mark_unchanged();
            let beat = self.beat(wish);
            // A controller that cannot be reached for a session has fenced this broker anyway.
            let pause = match tokio::time::timeout(self.liveness.session_timeout, beat).await {
                Ok(Ok(state)) => {
                    if let Some(since) = failing_since.take() {
                        let silent_ms = since.elapsed().as_millis() as u64;
                        tracing::info!(silent_ms, "heartbeats reach the controller again");
                    }
                    self.answer.send_replace(Some(Answer { wish, state }));
                    match wish {
                        Wish::ShutDown if state.should_shut_down => return,
                        Wish::ShutDown => CHANGE_PAUSE,
                        Wish::Serve if state.is_fenced => CHANGE_PAUSE,
                        _ => self.liveness.heartbeat_interval,
                    }
                }
                Ok(Err(Unheard::EpochUnknown(reason))) if wish != Wish::ShutDown => {
                    tracing::warn!(
                        reason,
                        "the controller does not know this broker's epoch: registering again"
                    );
                    if let Err(error) = self.register(&mut String::new()).await {
                        self.lost.send_replace(Some(error.to_string()));
                        return;
                    }
                    continue;
                }
                failed => {
                    let error = match failed {
                        Ok(Err(error)) => error.to_string(),
                        _ => "no answer within broker.session.timeout.ms".to_owned(),
                    };
                    if failing_since.is_none() {
                        tracing::warn!(error, "heartbeats do not reach the controller");
                    }
                    failing_since.get_or_insert_with(Instant::now);
                    self.liveness.heartbeat_interval.min(RETRY_PAUSE)
                }
            };
            tokio::select! {
                biased;
                _ = wishes.changed() => {}
                _ = offline_log_dirs.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn beat(&self, wish: Wish) -> Result<BrokerHeartbeatState, Unheard> {
        let beat = BrokerHeartbeat {
            id: self.request.id,
            epoch: *self.epoch.borrow(),
            metadata_offset: *self.metadata.changes().borrow(),
            want_fence: wish == Wish::StayFenced,
            want_shut_down: wish == Wish::ShutDown,
            offline_log_dirs: self.offline_log_dirs.borrow().iter().map(|dir| dir.id).collect(),
        };
        let told = beat.offline_log_dirs.clone();
        match self.metadata.submit(beat).await {
            Ok(Ok(state)) => {
                self.on_told(&told);
                Ok(state)
            }
            Ok(Err(error @ (BrokerEpochError::NotRegistered(_) | BrokerEpochError::Stale { .. }))) => {
                Err(Unheard::EpochUnknown(error.to_string()))
            }
            Err(error) => Err(Unheard::NoController(error.to_string())),
        }
    }
}

/// Why a heartbeat had no effect.
#[derive(Debug, thiserror::Error)]
enum Unheard {
    #[error("{0}")]
    EpochUnknown(String),
    #[error("{0}")]
    NoController(String),
}

#[cfg(test)]
#[path = "registration_tests.rs"]
mod tests;
