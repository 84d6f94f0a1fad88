//! One partition of `__consumer_offsets` that this broker leads: the machine, the requests parked in it, and the queue of
//! what must go to the log.
//!
//! One lock guards all of it and is never held across an await. One writer at a time takes everything that has queued
//! up while the last batch became durable and appends it as the next; so commits that arrive together share one sync,
//! and records are applied in the order of the log. The writer task exists only while there is something to write.
//!
//! Jobs that decide by what is there (deletion, expiry) wait for their turn at the front of the queue, when every
//! earlier write is settled.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use ottla_batch::{BatchBuilder, BatchOptions, Codec, LeaderEpoch, TimestampMs};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::decide::{Answer, Effects, Now, Rules, Write};
use super::machine::Machine;
use super::records::Record;
use super::state::Token;
use super::{DeleteOffsets, GroupError, GroupId, JoinRefused};

/// Keys and values that wait for the log in one shard. Reached only when the log hardly moves; then clients are told to
/// come again rather than kept waiting.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// More than the framing of any record (lengths, deltas, attributes) and, once, of a batch.
const RECORD_OVERHEAD_BYTES: usize = 64;
const BATCH_OVERHEAD_BYTES: usize = 128;

pub struct Shard {
    pub partition: i32,
    pub core: Mutex<Core>,
    /// Tells those in `await_loaded` that the shard is loading no longer.
    loaded: Notify,
}

pub struct Core {
    pub leader_epoch: LeaderEpoch,
    pub status: Status,
    pub machine: Machine,
    /// Who waits for which answer. Bounded by the connections: each waits for one answer at a time.
    parked: HashMap<Token, (oneshot::Sender<Answer>, Kind)>,
    queue: VecDeque<Job>,
    queued_bytes: usize,
    /// A writer task runs.
    pub is_writing: bool,
    next_token: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Loading,
    Active,
    /// Led no longer; whoever still holds the shard finds it so.
    Closed,
}

/// What kind of answer a parked request expects when there is none to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Join,
    Sync,
    Partitions,
    Done,
}

pub enum Job {
    Write(Write),
    Delete(Token, GroupId),
    DeleteOffsets(Token, DeleteOffsets),
    Expire(GroupId),
    Forget(GroupId, Arc<str>),
}

/// What the writer appends next, and what it has to settle afterwards.
pub struct NextAppend {
    /// More than one only for tombstones that do not fit into one.
    pub batches: Vec<Bytes>,
    pub writes: Vec<Write>,
}

impl Shard {
    pub fn new(partition: i32, leader_epoch: LeaderEpoch, rules: Rules) -> Arc<Shard> {
        let core = Core {
            leader_epoch,
            status: Status::Loading,
            machine: Machine::new(rules),
            parked: HashMap::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            is_writing: false,
            next_token: 0,
        };
        Arc::new(Shard { partition, core: Mutex::new(core), loaded: Notify::new() })
    }

    pub fn is_loading(&self) -> bool {
        self.core.lock().status == Status::Loading
    }

    /// Resolves when the shard answers, or never will.
    pub async fn await_loaded(&self) {
        let mut loaded = std::pin::pin!(self.loaded.notified());
        // ORDER: listen before looking, or a change between the look and the wait is missed.
        loaded.as_mut().enable();
        if self.is_loading() {
            loaded.await;
        }
    }

    /// After every change of the status from loading to another.
    pub fn tell_loaded(&self) {
        self.loaded.notify_waiters();
    }
}

impl Core {
    pub fn check_active(&self) -> Result<(), GroupError> {
        match self.status {
            Status::Active => Ok(()),
            Status::Loading => Err(GroupError::CoordinatorLoadInProgress),
            Status::Closed => Err(GroupError::NotCoordinator),
        }
    }

    /// Whether the log keeps up well enough to take more.
    pub fn check_backlog(&self) -> Result<(), GroupError> {
        if self.queued_bytes > QUEUED_BYTES_MAX { Err(GroupError::CoordinatorNotAvailable) } else { Ok(()) }
    }

    /// A place to wait for an answer.
    pub fn park(&mut self, kind: Kind) -> (Token, oneshot::Receiver<Answer>) {
        self.next_token += 1;
        let token = Token(self.next_token);
        let (sender, receiver) = oneshot::channel();
        self.parked.insert(token, (sender, kind));
        (token, receiver)
    }

    pub fn perform(&mut self, effects: Effects) {
        for (token, answer) in effects.answers {
            if let Some((sender, _)) = self.parked.remove(&token) {
                // The client may be gone, which its session will show.
                let _ = sender.send(answer);
            }
        }
        if let Some(write) = effects.write {
            self.enqueue(Job::Write(write));
        }
    }

    pub fn enqueue(&mut self, job: Job) {
        self.queued_bytes += job.bytes();
        self.queue.push_back(job);
    }

    pub fn has_work(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes from the front of the queue what goes into the next append; `None` when there is nothing to write.
    pub fn next_append(&mut self, now: Now, batch_bytes_max: usize, codec: Codec) -> Option<NextAppend> {
        let mut writes: Vec<Write> = Vec::new();
        let mut bytes = BATCH_OVERHEAD_BYTES;
        while let Some(job) = self.queue.front() {
            let fits = bytes + job.bytes() <= batch_bytes_max;
            if !writes.is_empty() && (!fits || job.needs_turn()) {
                break;
            }
            let Some(job) = self.queue.pop_front() else { break };
            self.queued_bytes -= job.bytes();
            let Some(write) = self.take_turn(job, now) else { continue };
            let write_bytes = bytes_of(&write.records);
            if bytes + write_bytes > batch_bytes_max {
                if write.records.iter().all(is_tombstone) {
                    let batches = batches_of(&write.records, now.timestamp(), batch_bytes_max, codec);
                    return Some(NextAppend { batches, writes: vec![write] });
                }
                let error = match write.records.first() {
                    Some(Record::Group { .. }) => GroupError::AssignmentTooLarge,
                    Some(Record::Offset { .. }) | None => GroupError::InvalidCommitOffsetSize,
                };
                let effects = self.machine.on_lost(now, write, error);
                self.perform(effects);
                continue;
            }
            bytes += write_bytes;
            writes.push(write);
        }
        if writes.is_empty() {
            return None;
        }
        let batches = batches_of(
            writes.iter().flat_map(|write| &write.records),
            now.timestamp(),
            batch_bytes_max,
            codec,
        );
        Some(NextAppend { batches, writes })
    }

    /// Runs a job that was waiting for its turn; what it writes goes into this very append.
    fn take_turn(&mut self, job: Job, now: Now) -> Option<Write> {
        let again = match &job {
            Job::Expire(group_id) => Some(Job::Expire(group_id.clone())),
            Job::Forget(group_id, topic) => Some(Job::Forget(group_id.clone(), topic.clone())),
            Job::Write(_) | Job::Delete(..) | Job::DeleteOffsets(..) => None,
        };
        let mut effects = match job {
            Job::Write(write) => return Some(write),
            Job::Delete(token, group_id) => self.machine.delete(now, token, &group_id),
            Job::DeleteOffsets(token, request) => self.machine.delete_offsets(token, &request),
            Job::Expire(group_id) => self.machine.expire(now, &group_id),
            Job::Forget(group_id, topic) => self.machine.forget_topic(&group_id, &topic),
        };
        let write = effects.write.take();
        self.perform(effects);
        if let Some(again) = again.filter(|_| write.is_some()) {
            // There may be more than one write takes; it ends with a turn that writes nothing.
            self.enqueue(again);
        }
        write
    }

    /// The shard is led no longer, or must be read again: everyone who waits is told so.
    pub fn dismiss(&mut self, status: Status, error: GroupError) {
        self.status = status;
        self.queue.clear();
        self.queued_bytes = 0;
        for (_, (sender, kind)) in self.parked.drain() {
            let answer = match kind {
                Kind::Join => Answer::Join(Err(JoinRefused { error, member_id: "".into() })),
                Kind::Sync => Answer::Sync(Err(error)),
                Kind::Partitions => Answer::Partitions(Err(error)),
                Kind::Done => Answer::Done(Err(error)),
            };
            let _ = sender.send(answer);
        }
    }
}

impl Job {
    fn needs_turn(&self) -> bool {
        match self {
            Job::Write(_) => false,
            Job::Delete(..) | Job::DeleteOffsets(..) | Job::Expire(_) | Job::Forget(..) => true,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Job::Write(write) => bytes_of(&write.records),
            Job::Delete(..) | Job::DeleteOffsets(..) | Job::Expire(_) | Job::Forget(..) => 0,
        }
    }
}

fn is_tombstone(record: &Record) -> bool {
    match record {
        Record::Offset { value, .. } => value.is_none(),
        Record::Group { value, .. } => value.is_none(),
    }
}

/// An upper bound of what records take in a batch, without encoding them.
fn bytes_of(records: &[Record]) -> usize {
    records.iter().map(record_bytes).sum()
}

fn record_bytes(record: &Record) -> usize {
    let text = |text: &Option<Arc<str>>| 2 + text.as_ref().map_or(0, |text| text.len());
    let body = match record {
        Record::Offset { topic, value, .. } => {
            topic.len() + 8 + value.as_ref().map_or(0, |value| value.metadata.len() + 32)
        }
        Record::Group { value, .. } => value.as_ref().map_or(0, |value| {
            let members = value.members.iter().map(|member| {
                let names = member.member_id.len() + member.client_id.len() + member.client_host.len() + 6;
                names + text(&member.instance_id) + 16 + member.subscription.len() + member.assignment.len()
            });
            value.protocol_type.len()
                + text(&value.protocol)
                + text(&value.leader)
                + 24
                + members.sum::<usize>()
        }),
    };
    RECORD_OVERHEAD_BYTES + record.group_id().len() + body
}

/// Batches of at most `batch_bytes_max`. A single record is known to fit.
pub fn batches_of<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    now: TimestampMs,
    batch_bytes_max: usize,
    codec: Codec,
) -> Vec<Bytes> {
    let options = BatchOptions { codec, ..BatchOptions::default() };
    let build = |builder: BatchBuilder| match builder.build() {
        Ok(batch) => batch,
        Err(error) => panic!("a batch of records within the topic's bounds was not built: {error}"),
    };
    let mut batches = Vec::new();
    let mut builder = BatchBuilder::new(options);
    for record in records {
        if !builder.is_empty() && builder.uncompressed_bytes() + record_bytes(record) > batch_bytes_max {
            batches.push(build(std::mem::replace(&mut builder, BatchBuilder::new(options))));
        }
        let (key, value) = (record.key(), record.value());
        if let Err(error) = builder.push(now, Some(&key), value.as_deref(), &[]) {
            panic!("a record within the topic's bounds was not taken: {error}");
        }
    }
    batches.push(build(builder));
    batches
}
