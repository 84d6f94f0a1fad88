//! The ways from this node to its peers: one call after the other, and what became of them.
//!
//! Every call and answer carries cluster, node and directory of its sender, so that a node never takes the word of a
//! process that only happens to listen where a peer once did. What calls tell by the way is remembered per peer: when it
//! was reached, whether its address refuses connections, what it acknowledged. Only monotonic time counts.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use super::doubt::Doubts;
use super::encoding::{StoredLogId, decode, encode};
use super::messages::{Answer, Call, Denied, Envelope, Promised, RPC_VERSION, Reply};
use super::state_machine::Published;
use super::transport::{Lane, PEER_MESSAGE_BYTES_MAX, Transport, TransportError};
use super::types::{Member, Raft};
use crate::metadata::ids::{BrokerId, ClusterId};
use crate::random;

/// An address that refuses connections twice, so far apart, has no process behind it.
const REFUSALS_APART: Duration = Duration::from_millis(50);

pub struct Links {
    pub node_id: u64,
    pub directory_id: Uuid,
    /// Tells this process from any other that has a copy of its directory.
    pub process: Uuid,
    transport: Arc<dyn Transport>,
    /// What the configuration or the disk says, until the log says it.
    expected_cluster: Option<ClusterId>,
    published: Arc<Published>,
    /// Set once it runs.
    raft: OnceLock<Raft>,
    contacts: Mutex<BTreeMap<u64, Contact>>,
    /// Who led last besides this node, and when that was last heard of.
    last_leader: Mutex<Option<(u64, Instant)>>,
    /// Told when the address of a peer has refused connections twice.
    pub gone: Notify,
    pub doubts: Doubts,
}

/// What is known of a peer from its answers.
#[derive(Clone, Debug, Default)]
pub struct Contact {
    pub directory_id: Option<Uuid>,
    /// The last answer of the right node.
    pub reached: Option<Instant>,
    /// The first refused connection since then.
    pub refused_since: Option<Instant>,
    /// The last one.
    pub refused_last: Option<Instant>,
    /// Nobody listens at its address.
    pub gone: bool,
    pub promised: Promised,
    /// The epoch of this leader that `promised.last` was acknowledged in: a later leader may take it back.
    promised_in: u64,
    /// When it last had everything that this leader has.
    pub caught_up: Option<Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("{0}")]
    Denied(#[from] Denied),
    /// Whoever answered is not who was asked, or speaks nonsense. What was done is not known.
    #[error("{0}")]
    WrongAnswer(String),
}

impl CallError {
    /// Whether the call certainly had no effect.
    pub fn nothing_done(&self) -> bool {
        match self {
            CallError::Transport(error) => error.nothing_done(),
            CallError::Denied(_) => true,
            CallError::WrongAnswer(_) => false,
        }
    }
}

/// Whom a call is for.
#[derive(Clone, Debug)]
pub struct Peer {
    pub id: Option<u64>,
    pub address: String,
    pub directory_id: Option<Uuid>,
}

impl Peer {
    /// Somebody at an address.
    pub fn at(address: &str) -> Peer {
        Peer { id: None, address: address.to_owned(), directory_id: None }
    }

    pub fn member(id: u64, member: &Member) -> Peer {
        let directory_id = Some(member.directory_id).filter(|id| !id.is_nil());
        Peer { id: Some(id), address: member.address.clone(), directory_id }
    }
}

impl Links {
    pub fn new(
        node_id: u64,
        directory_id: Uuid,
        transport: Arc<dyn Transport>,
        expected_cluster: Option<ClusterId>,
        published: Arc<Published>,
    ) -> Arc<Links> {
        Arc::new(Links {
            node_id,
            directory_id,
            process: random::uuid(),
            transport,
            expected_cluster,
            published,
            raft: OnceLock::new(),
            contacts: Mutex::new(BTreeMap::new()),
            last_leader: Mutex::new(None),
            gone: Notify::new(),
            doubts: Doubts::default(),
        })
    }

    pub fn set_raft(&self, raft: Raft) {
        let _ = self.raft.set(raft);
    }

    /// The cluster's id as far as this node knows.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        let of_image = self.published.image().cluster_id.clone();
        if of_image.is_known() { Some(of_image) } else { self.expected_cluster.clone() }
    }

    /// Whether the log names the cluster: from then on only voters with a known directory count.
    pub fn is_named(&self) -> bool {
        self.published.image().cluster_id.is_known()
    }

    /// A member as the newest membership has it, committed or not.
    pub fn member(&self, id: u64) -> Option<Member> {
        let metrics = self.raft.get()?.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&id).cloned()
    }

    pub fn contact(&self, id: u64) -> Contact {
        self.contacts.lock().get(&id).cloned().unwrap_or_default()
    }

    pub fn contacts(&self) -> BTreeMap<u64, Contact> {
        self.contacts.lock().clone()
    }

    fn note(&self, id: u64, change: impl FnOnce(&mut Contact)) {
        change(self.contacts.lock().entry(id).or_default());
    }

    /// `id` has all entries up to `last` on stable storage, and said so to the leader of `epoch`.
    pub fn note_acknowledged(&self, id: u64, epoch: u64, last: Option<StoredLogId>) {
        self.note(id, |contact| {
            if contact.promised_in != epoch {
                contact.promised_in = epoch;
                contact.promised.last = None;
            }
            contact.promised.last = contact.promised.last.max(last);
        });
    }

    /// What `id` acknowledged to the leader of `epoch`.
    pub fn acknowledged(&self, id: u64, epoch: u64) -> Option<StoredLogId> {
        let contact = self.contact(id);
        contact.promised.last.filter(|_| contact.promised_in == epoch)
    }

    pub fn note_voted(&self, id: u64, epoch: u64) {
        self.note(id, |contact| contact.promised.epoch = contact.promised.epoch.max(epoch));
    }

    pub fn note_caught_up(&self, id: u64) {
        self.note(id, |contact| contact.caught_up = Some(Instant::now()));
    }

    /// The leader `id` spoke.
    pub fn note_leader(&self, id: u64) {
        *self.last_leader.lock() = Some((id, Instant::now()));
    }

    /// The leader before this node took office. Once: later it may be alive again, and this node would not know.
    pub fn take_last_leader(&self) -> Option<(u64, Instant)> {
        self.last_leader.lock().take()
    }

    /// When `id` spoke as the leader last, if nobody else did since.
    pub fn heard_leader(&self, id: u64) -> Option<Instant> {
        self.last_leader.lock().filter(|(leader, _)| *leader == id).map(|(_, heard)| heard)
    }

    /// Whether nobody listens at the address of `id` any more, and `id` was not heard of since that began.
    pub fn has_ended(&self, id: u64, heard: Option<Instant>) -> bool {
        let contact = self.contact(id);
        contact.gone && contact.refused_since.is_some_and(|refused| heard.is_none_or(|heard| heard < refused))
    }

    pub fn is_fenced_broker(&self, id: u64) -> bool {
        let image = self.published.image();
        let broker = i32::try_from(id).ok().and_then(|id| image.broker(BrokerId(id)));
        broker.is_some_and(|broker| broker.fenced)
    }

    /// Forgets a node that has left.
    pub fn forget(&self, id: u64) {
        self.contacts.lock().remove(&id);
    }

    pub async fn call(
        &self,
        peer: &Peer,
        lane: Lane,
        call: Call,
        limit: Duration,
    ) -> Result<Answer, CallError> {
        self.call_from(peer, lane, call, limit).await.map(|(_, answer)| answer)
    }

    /// The answer, with who gave it (node and directory).
    pub async fn call_from(
        &self,
        peer: &Peer,
        lane: Lane,
        call: Call,
        limit: Duration,
    ) -> Result<((u64, Uuid), Answer), CallError> {
        let request = self.envelope(peer, call);
        let request = encode(&request).map_err(|error| CallError::WrongAnswer(error.to_string()))?;
        if request.len() > PEER_MESSAGE_BYTES_MAX {
            let refused = format!("{} bytes are more than a message may have", request.len());
            return Err(TransportError::Rejected(refused).into());
        }
        let called = self.transport.call(&peer.address, lane, request.into(), limit);
        // The limit is the transport's to keep; this holds if it does not.
        let answered = match tokio::time::timeout(limit + limit / 4, called).await {
            Ok(answered) => answered,
            Err(_) => Err(TransportError::TimedOut(limit)),
        };
        let answered = answered.map_err(CallError::from).and_then(|bytes| self.open(peer, bytes));
        if let Some(id) = peer.id {
            self.note_outcome(id, &answered);
        }
        let (from, reply) = answered?;
        Ok((from, reply?))
    }

    /// A probe, as it goes over the wire.
    #[cfg(test)]
    pub fn envelope_for_test(&self, peer: &Peer) -> Bytes {
        let probe = Call::Probe(super::messages::Probe { voters: Vec::new() });
        encode(&self.envelope(peer, probe)).unwrap().into()
    }

    fn envelope(&self, peer: &Peer, body: Call) -> Envelope<Call> {
        Envelope {
            version: RPC_VERSION,
            cluster_id: self.cluster_id(),
            from: self.node_id,
            from_directory: self.directory_id,
            to: peer.id,
            to_directory: peer.directory_id,
            body,
        }
    }

    fn open(&self, peer: &Peer, bytes: Bytes) -> Result<((u64, Uuid), Reply), CallError> {
        let nonsense = |error: &dyn std::fmt::Display| {
            CallError::WrongAnswer(format!("what answered at {} is no node: {error}", peer.address))
        };
        let envelope: Envelope<Reply> = decode(&bytes).map_err(|error| nonsense(&error))?;
        // A refusal says by itself who is wrong here.
        if envelope.body.is_ok() {
            if let Some(expected) = peer.id.filter(|id| *id != envelope.from) {
                let text = format!("at {} is node {}, not {expected}", peer.address, envelope.from);
                return Err(CallError::WrongAnswer(text));
            }
            if let (Some(mine), Some(theirs)) = (self.cluster_id(), &envelope.cluster_id)
                && mine != *theirs
            {
                return Err(Denied::OtherCluster(theirs.clone()).into());
            }
        }
        Ok(((envelope.from, envelope.from_directory), envelope.body))
    }

    fn note_outcome(&self, id: u64, answered: &Result<((u64, Uuid), Reply), CallError>) {
        let now = Instant::now();
        let mut contacts = self.contacts.lock();
        let contact = contacts.entry(id).or_default();
        match answered {
            Ok(((_, directory_id), Ok(_) | Err(Denied::NotReady(_)))) => {
                contact.directory_id = Some(*directory_id);
                contact.reached = Some(now);
                contact.refused_since = None;
                contact.refused_last = None;
                contact.gone = false;
                self.doubts.end(id);
            }
            Err(CallError::Transport(TransportError::Refused)) => {
                let since = *contact.refused_since.get_or_insert(now);
                contact.refused_last = Some(now);
                self.doubts.add(id);
                if now - since >= REFUSALS_APART {
                    contact.gone = true;
                    // Each time: what another controller found out counts only when this one finds it too.
                    self.gone.notify_one();
                }
            }
            // Somebody else is there, or nobody knows.
            Ok((_, Err(_))) | Err(_) => {}
        }
    }
}
