//! How a request reaches the active controller from any node, and how its answer comes back.
//!
//! A request that certainly had no effect is tried again, on whoever leads then, until it is answered or its time is up.
//! One whose fate is not known is tried again only if twice is as good as once; otherwise the caller is told
//! (`OutcomeUnknown`). An answer is given when this node's image shows what was done.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::controller::{Origin, WAITING_REQUESTS_MAX, Waiting};
use super::links::{CallError, Peer};
use super::messages::{Answer, Call, Submitted};
use super::transport::Lane;
use super::{Metadata, QuorumInfo, SubmitError, broker_id};
use crate::metadata::decide::ITEMS_PER_REQUEST_MAX;
use crate::requests::{Request, Submit};

/// How long a request looks for an active controller and waits for it.
const SUBMIT_MAX: Duration = Duration::from_secs(30);
/// A heartbeat has done its work when the controller has heard it: a node that lags behind the log is alive.
const HEARTBEAT_VISIBLE_MAX: Duration = Duration::from_millis(500);
/// One try of a request that may be tried again.
const TRY_MAX: Duration = Duration::from_secs(5);
/// Between tries.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// When another node leads, an answer of the one that was asked is not worth waiting for, but it may be on its way.
const LATE_ANSWER: Duration = Duration::from_millis(500);
const DESCRIBE_MAX: Duration = Duration::from_secs(5);

/// What came of one try.
enum Tried {
    Done(Submitted),
    /// It had no effect; the same request may be tried anew.
    Nothing,
    /// It may have had its effect.
    Unknown,
    Failed(SubmitError),
}

impl Metadata {
    /// Asks the active controller, on whichever node it is; returns after the change is committed, durable and visible in
    /// `image` on this node. A caller that gives up does not take its request back.
    pub async fn submit<R: Submit>(&self, request: R) -> Result<R::Response, SubmitError> {
        let request: Request = request.into();
        check_items(&request)?;
        let deadline = Instant::now() + SUBMIT_MAX;
        let is_heartbeat = matches!(request, Request::BrokerHeartbeat(_));
        let submitted = self.submit_until(request, deadline).await?;
        let mut changes = self.published.changes();
        let visible = changes.wait_for(|offset| *offset >= submitted.visible_at);
        let visible_by = match is_heartbeat {
            true => deadline.min(Instant::now() + HEARTBEAT_VISIBLE_MAX),
            false => deadline,
        };
        match tokio::time::timeout_at(visible_by, visible).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(SubmitError::Stopped("it is shut down".into())),
            Err(_) if is_heartbeat => {}
            Err(_) => return Err(SubmitError::OutcomeUnknown),
        }
        let Some(response) = R::response(submitted.response) else {
            unreachable!("the controller answers a request with its own kind of response");
        };
        Ok(response)
    }

    async fn submit_until(&self, request: Request, deadline: Instant) -> Result<Submitted, SubmitError> {
        self.check_runs()?;
        let mut is_unknown = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = if request.is_repeatable() { left.min(TRY_MAX) } else { left };
            let tried = match self.leader() {
                Some((id, _)) if id == self.links.node_id => self.try_here(request.clone(), limit).await,
                Some((id, peer)) => self.try_there(id, &peer, &request, limit).await,
                None => Tried::Nothing,
            };
            match tried {
                Tried::Done(submitted) => return Ok(submitted),
                Tried::Failed(error) => return Err(error),
                Tried::Unknown if !request.is_repeatable() => return Err(SubmitError::OutcomeUnknown),
                Tried::Unknown => is_unknown = true,
                Tried::Nothing => {}
            }
            self.check_runs()?;
            if Instant::now() + PAUSE >= deadline {
                return Err(match is_unknown {
                    true => SubmitError::OutcomeUnknown,
                    false => SubmitError::NoController(SUBMIT_MAX),
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(super) fn check_runs(&self) -> Result<(), SubmitError> {
        if self.running.lock().is_none() {
            return Err(SubmitError::Stopped("it is shut down".into()));
        }
        match &self.raft.metrics().borrow_watched().running_state {
            Ok(()) => Ok(()),
            Err(fatal) => Err(SubmitError::Stopped(fatal.to_string())),
        }
    }

    /// The active controller as this node knows it, this node included.
    pub(super) fn leader(&self) -> Option<(u64, Peer)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let id = metrics.current_leader?;
        let member = metrics.membership_config.membership().get_node(&id)?;
        Some((id, Peer::member(id, member)))
    }

    /// A controller without a quorum answers when it has one again, or is told that another leads.
    async fn try_here(&self, request: Request, limit: Duration) -> Tried {
        let own = Origin::Member(self.links.node_id);
        let answered = tokio::time::timeout(limit, self.enqueue(request, own)).await;
        match answered.unwrap_or(Err(SubmitError::OutcomeUnknown)) {
            Ok(submitted) => Tried::Done(submitted),
            Err(SubmitError::NotController { .. }) => Tried::Nothing,
            Err(SubmitError::OutcomeUnknown) => Tried::Unknown,
            Err(error) => Tried::Failed(error),
        }
    }

    async fn try_there(&self, id: u64, peer: &Peer, request: &Request, limit: Duration) -> Tried {
        let calling = self.links.call(peer, Lane::Submit, Call::Submit(request.clone()), limit);
        let called = tokio::select! {
            biased;
            called = calling => called,
            () = self.leads_no_more(id) => return Tried::Unknown,
        };
        match called {
            Ok(Answer::Submit(Ok(submitted))) => Tried::Done(submitted),
            Ok(Answer::Submit(Err(SubmitError::NotController { .. }))) => Tried::Nothing,
            Ok(Answer::Submit(Err(SubmitError::OutcomeUnknown | SubmitError::Stopped(_)))) => Tried::Unknown,
            Ok(Answer::Submit(Err(error))) => Tried::Failed(error),
            Ok(_) => Tried::Unknown,
            Err(error) => {
                tracing::debug!(controller = id, %error, "a request did not reach the controller");
                if error.nothing_done() { Tried::Nothing } else { Tried::Unknown }
            }
        }
    }

    /// Resolves a little after somebody else is known to lead.
    pub(super) async fn leads_no_more(&self, id: u64) {
        let mut metrics = self.raft.metrics();
        loop {
            if metrics.borrow_watched().current_leader.is_some_and(|leader| leader != id) {
                tokio::time::sleep(LATE_ANSWER).await;
                return;
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// Hands a request to this node's controller.
    async fn enqueue(&self, request: Request, origin: Origin) -> Result<Submitted, SubmitError> {
        let (answer, answered) = oneshot::channel();
        self.requests.try_send(Waiting { request, origin, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                SubmitError::Refused(format!("{WAITING_REQUESTS_MAX} requests wait already"))
            }
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopped("it is shut down".into()),
        })?;
        answered.await.unwrap_or_else(|_| Err(SubmitError::Stopped("it is shut down".into())))
    }

    /// A request that a peer forwards.
    pub(super) async fn submit_of_peer(
        &self,
        (from, directory_id): (u64, Uuid),
        request: Request,
    ) -> Result<Submitted, SubmitError> {
        check_items(&request)?;
        if !self.is_controller() {
            return Err(self.not_controller());
        }
        match self.links.member(from) {
            Some(member) if member.directory_id == directory_id => {}
            Some(_) => {
                return Err(SubmitError::Refused(format!(
                    "node {from} is known by another metadata directory: two nodes have this id, or one lost its directory"
                )));
            }
            None => return Err(SubmitError::Refused(format!("node {from} has not joined this cluster"))),
        }
        match self.enqueue(request, Origin::Member(from)).await {
            // It never reached the controller of a node that shuts down.
            Err(SubmitError::Stopped(_)) if self.raft.metrics().borrow_watched().running_state.is_ok() => {
                Err(self.not_controller())
            }
            answered => answered,
        }
    }

    pub(super) fn not_controller(&self) -> SubmitError {
        SubmitError::NotController { leader: self.controller_id().filter(|id| *id != self.node_id) }
    }

    /// The offset up to which everything is committed now; only the active controller knows, and only after a majority of the
    /// voters has said that it still is.
    pub(super) async fn committed_now(&self) -> Result<u64, SubmitError> {
        if !self.is_controller() || !self.links.is_named() {
            return Err(self.not_controller());
        }
        match self.raft.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _)) => Ok(read.log_id().index),
            Err(_) => Err(self.not_controller()),
        }
    }

    pub(super) async fn describe_here(&self) -> Result<QuorumInfo, SubmitError> {
        if !self.is_controller() {
            return Err(self.not_controller());
        }
        Ok(self.quorum())
    }

    /// The quorum as the active controller sees it: only it knows how far the others are.
    pub async fn describe_quorum(&self) -> Result<QuorumInfo, SubmitError> {
        let deadline = Instant::now() + DESCRIBE_MAX;
        loop {
            match self.leader() {
                Some((id, _)) if id == self.links.node_id => return Ok(self.quorum()),
                Some((_, peer)) => {
                    let limit = deadline.saturating_duration_since(Instant::now());
                    match self.links.call(&peer, Lane::Submit, Call::Describe, limit).await {
                        Ok(Answer::Describe(Ok(info))) => return Ok(info),
                        Ok(_)
                        | Err(CallError::Transport(_) | CallError::Denied(_) | CallError::WrongAnswer(_)) => {
                        }
                    }
                }
                None => {}
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(SubmitError::NoController(DESCRIBE_MAX));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The quorum as this node sees it.
    pub fn quorum(&self) -> QuorumInfo {
        let metrics = self.raft.metrics().borrow_watched().clone();
        QuorumInfo::new(&metrics, &self.links.contacts(), broker_id(metrics.current_leader))
    }
}

fn check_items(request: &Request) -> Result<(), SubmitError> {
    let items = request.item_count();
    if items > ITEMS_PER_REQUEST_MAX {
        return Err(SubmitError::Refused(format!(
            "it has {items} items, {ITEMS_PER_REQUEST_MAX} are allowed"
        )));
    }
    Ok(())
}
