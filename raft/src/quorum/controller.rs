//! The active controller: takes the requests that wait, decides them on an image ahead of the log, writes their records
//! as one entry, and answers when that entry is applied.
//!
//! One entry is on its way at a time; what arrives meanwhile forms the next. So a decision always starts from the image of
//! everything in the log, and the image ahead lives no longer than its entry. Invariants: decisions begin only after this
//! epoch's first entry is applied, which means that every entry of earlier epochs is; the entry is appended only in the
//! epoch of the decision (openraft refuses it otherwise, and replay would); no answer leaves before its entry is applied here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::{Instant as _, ReadPolicy};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::links::Links;
use super::messages::Submitted;
use super::room::Room;
use super::sessions::Sessions;
use super::state_machine::Published;
use super::types::{Change, Raft};
use super::{MetadataConfig, SubmitError};
use crate::metadata::decide::{Context, RECORDS_PER_REQUEST_MAX, decide};
use crate::metadata::ids::BrokerId;
use crate::metadata::image::Image;
use crate::metadata::records::Record;
use crate::metadata::replay::Position;
use crate::random;
use crate::requests::{BalanceLeaders, BrokerHeartbeat, ElectUnclean, Request, Response};

/// Requests that may wait; one more is refused.
pub const WAITING_REQUESTS_MAX: usize = 1024;
/// Requests decided together.
const REQUESTS_PER_ENTRY_MAX: usize = 256;
/// Entries differ in size by four orders of magnitude, so besides their number (`ENTRIES_PER_SNAPSHOT`) the records in them
/// bound the log too.
const RECORDS_PER_SNAPSHOT: usize = 200_000;
/// How long a new leader may take to apply what it inherited before requests are told to look elsewhere.
pub(super) const TAKE_OVER_MAX: Duration = Duration::from_secs(10);
/// A leader that has not heard of a quorum for so long does not judge brokers.
const QUORUM_HEARD_MAX: Duration = Duration::from_secs(1);
/// Right after an election openraft may send a leader's own writes elsewhere until its lease is settled.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

pub(super) struct Waiting {
    pub request: Request,
    pub origin: Origin,
    pub answer: oneshot::Sender<Result<Submitted, SubmitError>>,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A member, this node or another, known by its directory.
    Member(u64),
    Controller,
}

pub(super) struct Controller {
    pub(super) raft: Raft,
    pub(super) published: Arc<Published>,
    room: Arc<Room>,
    pub(super) config: MetadataConfig,
    pub(super) links: Arc<Links>,
    pub(super) sessions: Sessions,
    /// The epoch in which this node took office last.
    pub(super) office_epoch: u64,
    records_since_snapshot: usize,
}

/// Why nothing was written.
pub(super) enum WriteFailure {
    NotLeader,
    Error(SubmitError),
}

impl Controller {
    pub(super) fn new(
        raft: Raft,
        published: Arc<Published>,
        room: Arc<Room>,
        links: Arc<Links>,
        config: MetadataConfig,
    ) -> Controller {
        Controller {
            raft,
            published,
            room,
            sessions: Sessions::new(config.broker_session_timeout),
            config,
            links,
            office_epoch: 0,
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
        let tick = self.tick();
        let mut next_tick = Instant::now() + tick;
        let mut next_leaderless_check = Instant::now() + self.config.leaderless_check_interval;
        let balance_interval = self.config.leader_balance_interval;
        let mut next_balance = Instant::now() + balance_interval.unwrap_or(Duration::ZERO);
        let mut metrics = self.raft.metrics();
        let links = self.links.clone();
        let has_sessions = self.config.broker_session_timeout.is_some();
        loop {
            if waiting.is_empty() {
                if self.is_newly_elected() {
                    // Without waiting for a request: a cluster is to be founded, and sessions begin. Whatever hinders it
                    // hinders the first request too, which says so.
                    tokio::select! {
                        biased;
                        _ = &mut stop => break,
                        () = self.try_to_take_office() => {}
                    }
                }
                tokio::select! {
                    biased;
                    _ = &mut stop => break,
                    changed = metrics.changed() => {
                        if changed.is_err() {
                            break;
                        }
                    }
                    () = links.gone.notified() => waiting.extend(self.dead_brokers()),
                    // Before the requests: however many come, silence is noticed.
                    () = tokio::time::sleep_until(next_tick), if has_sessions => {
                        let late = next_tick.elapsed();
                        if late > tick {
                            self.sessions.forgive(late);
                        }
                        next_tick = Instant::now() + tick;
                        waiting.extend(self.dead_brokers());
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
        let left = std::iter::from_fn(|| requests.try_recv().ok());
        for left in waiting.into_iter().chain(left) {
            let _ = left.answer.send(Err(SubmitError::Stopped("it is shutting down".into())));
        }
    }

    async fn try_to_take_office(&mut self) {
        match self.take_office().await {
            // Among them most often the one on the node whose end was the reason for the election.
            Ok(_) => self.links.gone.notify_one(),
            Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }

    fn tick(&self) -> Duration {
        self.config.broker_session_timeout.unwrap_or(Duration::from_secs(3600)) / 8
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
        let (epoch, next_offset) = self.take_office().await?;
        let image = self.published.image();
        let next = Position { offset: next_offset.max(image.last_offset + 1), epoch };
        let live_brokers = self.sessions.live();
        for entry in waiting.iter_mut() {
            self.keep_fenced_if_unreachable(&mut entry.request);
        }

        let mut ahead = Image::clone(&image);
        let mut records: Vec<Record> = Vec::new();
        let mut responses = Vec::new();
        for entry in waiting.iter() {
            // The first is always taken, however large: `decide` has its own bounds.
            if records.len() >= RECORDS_PER_REQUEST_MAX {
                break;
            }
            let mut seed = [0; 32];
            random::fill(&mut seed);
            let without_asker = restarted_broker(entry).and_then(|id| {
                let mut others = live_brokers.clone();
                others.remove(&id).then_some(others)
            });
            let context = Context {
                next,
                seed,
                live_brokers: without_asker.as_ref().unwrap_or(&live_brokers),
                topic_defaults: self.config.topic_defaults,
                static_settings: self.config.static_settings,
                applied_offsets: self.sessions.applied_offsets(),
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
            if let Err(error) = self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
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
        let visible_at = self.published.image().last_offset;
        for (served, response) in waiting.drain(..responses.len()).zip(responses) {
            self.sessions.note(&served.request, &response);
            self.forget_unregistered(&served.request, &response);
            // The asker may have gone away; what was decided stands.
            let _ = served.answer.send(Ok(Submitted { response, visible_at }));
        }
        Ok(())
    }

    /// Answers what the disk has no room for.
    async fn refuse_without_room(&mut self, waiting: &mut VecDeque<Waiting>) {
        let Err(full) = self.room.for_growth().await else { return };
        let upkeep = self.room.for_upkeep().await;
        let (taken, refused): (VecDeque<_>, VecDeque<_>) =
            waiting.drain(..).partition(|entry| upkeep.is_ok() && entry.request.is_upkeep());
        *waiting = taken;
        for entry in refused {
            let _ = entry.answer.send(Err(SubmitError::NoRoom(full.to_string())));
        }
    }

    pub(super) async fn write(&self, change: Change) -> Result<(), WriteFailure> {
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

    /// A request that only the active controller makes, of itself.
    fn own_request(&self, request: impl Into<Request>) -> Option<Waiting> {
        let answer = oneshot::channel().0;
        self.leads().then(|| Waiting { request: request.into(), origin: Origin::Controller, answer })
    }

    /// Whether the other voters were heard of lately: a leader that is not may have been replaced, and it is not for it to say
    /// who is silent.
    fn has_quorum(&self) -> bool {
        let (is_alone, acked) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters = metrics.membership_config.membership().voter_ids().count();
            (voters == 1, metrics.last_quorum_acked)
        };
        is_alone || acked.is_some_and(|acked| acked.into_inner().elapsed() < QUORUM_HEARD_MAX)
    }

    /// Requests to fence the brokers that are alive no more.
    fn dead_brokers(&self) -> Vec<Waiting> {
        if !self.leads() || !self.has_quorum() {
            return Vec::new();
        }
        let image = self.published.image();
        let dead = self.sessions.dead(&image, &self.links);
        let fence = dead.into_iter().filter_map(|(id, reason)| {
            tracing::warn!(broker = id.0, "a broker is fenced: {reason}");
            let request = BrokerHeartbeat {
                id,
                epoch: image.broker(id)?.epoch,
                metadata_offset: 0,
                want_fence: true,
                want_shut_down: false,
                offline_log_dirs: Vec::new(),
            };
            Some(Waiting {
                request: request.into(),
                origin: Origin::Controller,
                answer: oneshot::channel().0,
            })
        });
        fence.collect()
    }

    /// A broker that this controller cannot reach would never hear of what it is given.
    fn keep_fenced_if_unreachable(&self, request: &mut Request) {
        if let Request::BrokerHeartbeat(beat) = request
            && self.published.image().broker(beat.id).is_some_and(|broker| broker.fenced)
            && self.sessions.is_unreachable(beat.id, &self.links)
        {
            tracing::debug!(broker = beat.id.0, "a broker stays fenced: it cannot be reached");
            beat.want_fence = true;
        }
    }

    /// A node that is no broker any more need not follow the log; if it lives, it joins again by itself.
    fn forget_unregistered(&self, request: &Request, response: &Response) {
        if let (Request::UnregisterBroker(request), Response::UnregisterBroker(Ok(()))) = (request, response)
            && let Ok(id) = u64::try_from(request.id.0)
        {
            tokio::spawn(super::membership::drop_observer(self.raft.clone(), self.links.clone(), id));
        }
    }
}

/// The broker that registers anew from the node that it is itself: that node's metadata directory is locked by the process
/// that asks, so the one before it is gone.
fn restarted_broker(entry: &Waiting) -> Option<BrokerId> {
    match (&entry.request, entry.origin) {
        (Request::RegisterBroker(request), Origin::Member(from)) => {
            (u64::try_from(request.id.0) == Ok(from)).then_some(request.id)
        }
        _ => None,
    }
}
