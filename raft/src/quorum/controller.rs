//! The active controller: takes the requests that wait, decides them on an image ahead of the log, writes their records
//! as one entry, and answers when that entry is applied.
//!
//! One entry is on its way at a time; what arrives meanwhile forms the next. So a decision always starts from the image of
//! everything in the log, and the image ahead lives no longer than its entry. Invariants: decisions begin only after this
//! epoch's first entry is applied, which means that every entry of earlier epochs is; the entry is appended only in the
//! epoch of the decision (openraft refuses it otherwise, and replay would); no answer leaves before its entry is applied here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::ProgressResponder;
use rand::RngCore;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::state_machine::Published;
use super::store::{self, Store};
use super::types::{Change, Raft};
use super::{MetadataConfig, SubmitError};
use crate::metadata::decide::{Context, RECORDS_PER_REQUEST_MAX, StaticSettings, decide, min_isr_records};
use crate::metadata::features;
use crate::metadata::ids::BrokerId;
use crate::metadata::image::Image;
use crate::metadata::records::Record;
use crate::metadata::replay::Position;
use crate::requests::{BalanceLeaders, BrokerHeartbeat, ElectUnclean, Request, Response};

/// Requests that may wait; one more is refused.
pub const WAITING_REQUESTS_MAX: usize = 1024;
/// Requests decided together.
const REQUESTS_PER_ENTRY_MAX: usize = 256;
/// Entries differ in size by four orders of magnitude, so besides their number (`ENTRIES_PER_SNAPSHOT`) the records in them
/// bound the log too.
const RECORDS_PER_SNAPSHOT: usize = 200_000;
/// How long a new leader may take to apply what it inherited before requests are told to look elsewhere.
const TAKE_OVER_MAX: Duration = Duration::from_secs(10);
/// Right after an election openraft may send a leader's own writes elsewhere until its lease is settled.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// What the disk must be able to take before changes are tried: a write without room would stop this node, and no start
/// would be possible before somebody made some.
const ROOM_FOR_GROWTH: u64 = 8 << 20;
/// What keeps brokers alive or frees space may use most of what the other changes have to leave.
const ROOM_FOR_UPKEEP: u64 = 1 << 20;

pub(super) struct Waiting {
    pub request: Request,
    pub answer: oneshot::Sender<Result<Response, SubmitError>>,
}

pub(super) struct Controller {
    raft: Raft,
    published: Arc<Published>,
    store: Arc<dyn Store>,
    config: MetadataConfig,
    /// When each broker was last heard of, in this epoch of this controller.
    sessions: BTreeMap<BrokerId, Instant>,
    /// What each broker said last that it has applied, in this epoch.
    applied_offsets: BTreeMap<BrokerId, u64>,
    /// The epoch that `sessions` is of.
    sessions_epoch: u64,
    records_since_snapshot: usize,
    /// Whether the last change but heartbeats found its disk full; said once.
    is_full: bool,
}

/// Why nothing was written.
enum WriteFailure {
    NotLeader,
    Error(SubmitError),
}

impl Controller {
    pub(super) fn new(
        raft: Raft,
        published: Arc<Published>,
        store: Arc<dyn Store>,
        config: MetadataConfig,
    ) -> Controller {
        Controller {
            raft,
            published,
            store,
            config,
            sessions: BTreeMap::new(),
            applied_offsets: BTreeMap::new(),
            sessions_epoch: 0,
            is_full: false,
            records_since_snapshot: 0,
        }
    }

    /// Ends when all handles are gone or `stop` fires; what waits then is answered.
    pub(super) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Waiting>,
        mut stop: oneshot::Receiver<()>,
    ) {
        let mut waiting = VecDeque::new();
        let mut arrived = Vec::new();
        let mut next_tick = Instant::now() + self.tick();
        let mut next_leaderless_check = Instant::now() + self.config.leaderless_check_interval;
        let balance_interval = self.config.leader_balance_interval;
        let mut next_balance = Instant::now() + balance_interval.unwrap_or(Duration::ZERO);
        loop {
            if waiting.is_empty() {
                tokio::select! {
                    biased;
                    _ = &mut stop => break,
                    // Before the requests: however many come, silence is noticed.
                    () = tokio::time::sleep_until(next_tick), if self.config.broker_session_timeout.is_some() => {
                        next_tick = Instant::now() + self.tick();
                        waiting.extend(self.silent_brokers());
                    }
                    () = tokio::time::sleep_until(next_leaderless_check) => {
                        next_leaderless_check = Instant::now() + self.config.leaderless_check_interval;
                        waiting.extend(self.own_request(ElectUnclean {}));
                    }
                    () = tokio::time::sleep_until(next_balance), if balance_interval.is_some() => {
                        next_balance = Instant::now() + balance_interval.unwrap_or(Duration::ZERO);
                        waiting.extend(self.own_request(BalanceLeaders {}));
                    }
                    count = requests.recv_many(&mut arrived, REQUESTS_PER_ENTRY_MAX) => {
                        if count == 0 {
                            break;
                        }
                    }
                }
                waiting.extend(arrived.drain(..));
            }
            if !waiting.is_empty() {
                self.serve(&mut waiting).await;
            }
        }
        requests.close();
        while let Ok(left) = requests.try_recv() {
            let _ = left.answer.send(Err(SubmitError::Stopped("it is shutting down".into())));
        }
    }

    fn tick(&self) -> Duration {
        self.config.broker_session_timeout.unwrap_or(Duration::from_secs(3600)) / 4
    }

    /// Serves from the front of `waiting` as much as one entry takes.
    async fn serve(&mut self, waiting: &mut VecDeque<Waiting>) {
        let deadline = Instant::now() + TAKE_OVER_MAX;
        let failure = loop {
            match self.try_serve(waiting).await {
                Ok(()) => return,
                Err(WriteFailure::NotLeader) if self.leads() && Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(WriteFailure::NotLeader) => break SubmitError::NotController { leader: self.leader() },
                Err(WriteFailure::Error(error)) => break error,
            }
        };
        for left in waiting.drain(..) {
            let _ = left.answer.send(Err(failure.clone()));
        }
    }

    async fn try_serve(&mut self, waiting: &mut VecDeque<Waiting>) -> Result<(), WriteFailure> {
        // Heartbeats come all the time and seldom change anything.
        if !waiting.iter().all(|entry| matches!(entry.request, Request::BrokerHeartbeat(_))) {
            self.refuse_without_room(waiting).await;
            if waiting.is_empty() {
                return Ok(());
            }
        }
        let (epoch, next_offset) = self.take_over().await?;
        let image = self.published.image();
        self.renew_sessions(epoch, &image);
        let next = Position { offset: next_offset.max(image.last_offset + 1), epoch };
        let live_brokers = self.live_brokers();

        let mut ahead = Image::clone(&image);
        let mut records: Vec<Record> = initial_records(&ahead, &self.config.static_settings);
        for record in &records {
            ahead.replay(record, next);
        }
        let mut responses = Vec::new();
        for entry in waiting.iter() {
            // The first is always taken, however large: `decide` has its own bounds.
            if records.len() >= RECORDS_PER_REQUEST_MAX {
                break;
            }
            let mut seed = [0; 32];
            rand::rng().fill_bytes(&mut seed);
            let context = Context {
                next,
                seed,
                live_brokers: &live_brokers,
                topic_defaults: self.config.topic_defaults,
                static_settings: self.config.static_settings,
                applied_offsets: &self.applied_offsets,
                config_check: self.config.config_check.as_ref(),
            };
            let decision = decide(&entry.request, &ahead, &context);
            records.extend(decision.records);
            ahead = decision.ahead;
            match decision.response {
                Some(response) => responses.push(response),
                // Its next step is decided on what this one leaves, before anything else is.
                None => break,
            }
        }
        drop(ahead);

        if records.is_empty() {
            // A refusal is an answer about the newest state too: only a leader that is still in office may give it.
            if let Err(error) = self.raft.ensure_linearizable(ReadPolicy::LeaseRead).await {
                return Err(match error {
                    RaftError::Fatal(fatal) => WriteFailure::Error(SubmitError::Stopped(fatal.to_string())),
                    RaftError::APIError(_) => WriteFailure::NotLeader,
                });
            }
        } else {
            let written = records.len();
            self.write(Change { decided_in: epoch, records }).await?;
            self.records_since_snapshot += written;
            if self.records_since_snapshot >= RECORDS_PER_SNAPSHOT {
                self.records_since_snapshot = 0;
                // If the quorum is gone, the next request hears of it.
                let _ = self.raft.trigger().snapshot().await;
            }
        }
        for (served, response) in waiting.drain(..responses.len()).zip(responses) {
            self.note_session(&served.request, &response);
            // The asker may have gone away; what was decided stands.
            let _ = served.answer.send(Ok(response));
        }
        Ok(())
    }

    /// Answers what the disk has no room for.
    async fn refuse_without_room(&mut self, waiting: &mut VecDeque<Waiting>) {
        let Err(full) = self.reserve(ROOM_FOR_GROWTH).await else {
            self.is_full = false;
            return;
        };
        if !std::mem::replace(&mut self.is_full, true) {
            tracing::error!(error = %full, "the disk of the metadata log is full: changes are refused until there is room");
        }
        let upkeep = self.reserve(ROOM_FOR_UPKEEP).await;
        let (taken, refused): (VecDeque<_>, VecDeque<_>) =
            waiting.drain(..).partition(|entry| upkeep.is_ok() && entry.request.is_upkeep());
        *waiting = taken;
        for entry in refused {
            let _ = entry.answer.send(Err(SubmitError::NoRoom(full.to_string())));
        }
    }

    async fn reserve(&self, bytes: u64) -> std::io::Result<()> {
        store::beside(&self.store, move |store| store.reserve(bytes)).await
    }

    /// Waits until this node leads and has applied everything before its own epoch. The epoch, and an offset that no entry
    /// has yet.
    async fn take_over(&self) -> Result<(u64, u64), WriteFailure> {
        let mut metrics = self.raft.metrics();
        let deadline = Instant::now() + TAKE_OVER_MAX;
        loop {
            {
                let now = metrics.borrow_watched();
                if let Err(fatal) = &now.running_state {
                    return Err(WriteFailure::Error(SubmitError::Stopped(fatal.to_string())));
                }
                if !now.state.is_leader() {
                    return Err(WriteFailure::NotLeader);
                }
                if now.last_applied.as_ref().is_some_and(|applied| applied.leader_id.term == now.current_term)
                {
                    return Ok((now.current_term, now.last_log_index.map_or(0, |last| last + 1)));
                }
            }
            match tokio::time::timeout_at(deadline, metrics.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => {
                    return Err(WriteFailure::Error(SubmitError::Stopped("the quorum is shut down".into())));
                }
                Err(_) => return Err(WriteFailure::NotLeader),
            }
        }
    }

    async fn write(&self, change: Change) -> Result<(), WriteFailure> {
        let epoch = change.decided_in;
        let (responder, completed) = ProgressResponder::complete_only();
        self.raft
            .write(change)
            .with_leader(epoch)
            .responder(responder)
            .await
            .map_err(|fatal| WriteFailure::Error(SubmitError::Stopped(fatal.to_string())))?;
        match completed.await {
            Ok(Ok(written)) if written.data.accepted => Ok(()),
            // Void in the log: nothing was changed, and the next try decides anew.
            Ok(Ok(_)) | Ok(Err(ClientWriteError::ForwardToLeader(_))) => Err(WriteFailure::NotLeader),
            Ok(Err(ClientWriteError::LogEntryDiscarded(_))) => {
                Err(WriteFailure::Error(SubmitError::OutcomeUnknown))
            }
            Ok(Err(error)) => Err(WriteFailure::Error(SubmitError::Refused(error.to_string()))),
            Err(_) => {
                Err(WriteFailure::Error(match self.raft.metrics().borrow_watched().running_state.clone() {
                    Err(fatal) => SubmitError::Stopped(fatal.to_string()),
                    Ok(()) => SubmitError::OutcomeUnknown,
                }))
            }
        }
    }

    fn leads(&self) -> bool {
        self.raft.metrics().borrow_watched().state.is_leader()
    }

    fn leader(&self) -> Option<BrokerId> {
        super::broker_id(self.raft.metrics().borrow_watched().current_leader)
    }

    /// A new controller does not know when brokers were heard of last: all begin with a full session.
    fn renew_sessions(&mut self, epoch: u64, image: &Image) {
        if self.sessions_epoch == epoch {
            return;
        }
        self.sessions_epoch = epoch;
        self.sessions.clear();
        self.applied_offsets.clear();
        if self.config.broker_session_timeout.is_some() {
            let now = Instant::now();
            // This node's own registration is from before its restart, so nobody else can be using it.
            let others = image.brokers.values().filter(|broker| broker.id != self.config.node_id);
            self.sessions = others.filter(|broker| !broker.fenced).map(|broker| (broker.id, now)).collect();
        }
    }

    fn live_brokers(&self) -> BTreeSet<BrokerId> {
        let Some(timeout) = self.config.broker_session_timeout else { return BTreeSet::new() };
        self.sessions.iter().filter(|(_, heard)| heard.elapsed() < timeout).map(|(id, _)| *id).collect()
    }

    fn note_session(&mut self, request: &Request, response: &Response) {
        match (request, response) {
            (Request::RegisterBroker(request), Response::RegisterBroker(Ok(_))) => {
                self.sessions.insert(request.id, Instant::now());
            }
            (Request::BrokerHeartbeat(request), Response::BrokerHeartbeat(Ok(state))) => {
                self.applied_offsets.insert(request.id, request.metadata_offset);
                if state.should_shut_down || request.want_fence {
                    self.sessions.remove(&request.id);
                } else {
                    self.sessions.insert(request.id, Instant::now());
                }
            }
            (Request::UnregisterBroker(request), Response::UnregisterBroker(Ok(()))) => {
                self.sessions.remove(&request.id);
                self.applied_offsets.remove(&request.id);
            }
            _ => {}
        }
    }

    /// A request that only the active controller makes, of itself.
    fn own_request(&self, request: impl Into<Request>) -> Option<Waiting> {
        self.leads().then(|| Waiting { request: request.into(), answer: oneshot::channel().0 })
    }

    /// Requests to fence the brokers whose session is over.
    fn silent_brokers(&self) -> Vec<Waiting> {
        if !self.leads() {
            return Vec::new();
        }
        let live = self.live_brokers();
        let image = self.published.image();
        let silent = image.brokers.values().filter(|broker| {
            !broker.fenced && self.sessions.contains_key(&broker.id) && !live.contains(&broker.id)
        });
        silent
            .map(|broker| {
                tracing::warn!(broker = broker.id.0, "a broker was not heard of for too long and is fenced");
                let request = BrokerHeartbeat {
                    id: broker.id,
                    epoch: broker.epoch,
                    metadata_offset: 0,
                    want_fence: true,
                    want_shut_down: false,
                    offline_log_dirs: Vec::new(),
                };
                Waiting { request: request.into(), answer: oneshot::channel().0 }
            })
            .collect()
    }
}

/// What the first controller of a cluster writes before anything else.
fn initial_records(image: &Image, settings: &StaticSettings) -> Vec<Record> {
    if image.last_offset > 0 {
        return Vec::new();
    }
    let levels = features::initial().into_iter();
    levels
        .map(|(name, level)| Record::FeatureLevelSet { name: name.into(), level })
        .chain(min_isr_records(image, settings))
        .collect()
}
