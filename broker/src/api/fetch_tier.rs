//! The partitions of a fetch whose offset lies before what is on this broker's disk: they are read from the tier while the others
//! are looked at as ever.
//!
//! A fetch that finds local records answers with them at once; what of the tier was not there yet is on its way, and
//! comes with a later fetch of the client. One that finds nothing waits up to `remote.fetch.max.wait.ms` for any of them. What the
//! tier gives no answer to is KAFKA_STORAGE_ERROR, on which all clients ask again; it is told when the fetch has waited as
//! long as it would have for records, so that they do not ask all the time.
//!
//! Different from Kafka, where a fetch with a tiered partition answers when all of them are read, and what is the object store's
//! fault is UNKNOWN_SERVER_ERROR, which some clients hand to the application.

use std::collections::HashMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use kafka_protocol::error::ResponseError;
use ottla_batch::Offset;

use super::RequestContext;
use crate::error_map;
use crate::replica::{ReadBound, Replica};
use crate::tier::read::{Aborted, ReadPlace, TierRead, TierReadError};

pub(super) type Outcome = Result<TierRead, ResponseError>;

/// What the tier is asked for one fetch, by the index of the partition in it.
pub(super) struct TierReads<'a> {
    cx: &'a RequestContext,
    bound: ReadBound,
    pending: FuturesUnordered<BoxFuture<'a, (usize, Outcome)>>,
    /// `None`: not there yet.
    reads: HashMap<usize, Option<Outcome>>,
}

impl<'a> TierReads<'a> {
    pub(super) fn new(cx: &'a RequestContext, bound: ReadBound) -> TierReads<'a> {
        TierReads { cx, bound, pending: FuturesUnordered::new(), reads: HashMap::new() }
    }

    pub(super) fn has(&self, index: usize) -> bool {
        self.reads.contains_key(&index)
    }

    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What came for a partition; it is asked for with the first word of it.
    pub(super) fn look(
        &mut self,
        index: usize,
        replica: &Arc<Replica>,
        from: Offset,
        bytes_max: usize,
    ) -> Option<&Outcome> {
        let (cx, bound, pending) = (self.cx, self.bound, &self.pending);
        let read = self.reads.entry(index).or_insert_with(|| {
            let replica = Arc::clone(replica);
            pending.push(async move { (index, read(cx, &replica, from, bytes_max, bound).await) }.boxed());
            None
        });
        read.as_ref()
    }

    /// Takes what is in memory. Whether anything is new.
    pub(super) fn take_ready(&mut self) -> bool {
        let mut is_new = false;
        while let Some(Some((index, outcome))) = self.pending.next().now_or_never() {
            self.reads.insert(index, Some(outcome));
            is_new = true;
        }
        is_new
    }

    /// Waits for one more; for ever if nothing is on its way.
    pub(super) async fn next(&mut self) {
        match self.pending.next().await {
            Some((index, outcome)) => {
                self.reads.insert(index, Some(outcome));
            }
            None => std::future::pending().await,
        }
    }

    /// Whether something came that is to be answered at once, and how many bytes did.
    pub(super) fn came(&self) -> (bool, usize) {
        let outcomes = || self.reads.values().flatten();
        // What is read on from the local log counts as come; how much it is shows then.
        let is_urgent = |outcome: &Outcome| match outcome {
            Ok(read) => read.bytes.is_empty(),
            Err(error) => *error != ResponseError::KafkaStorageError,
        };
        (outcomes().any(is_urgent), outcomes().flatten().map(|read| read.bytes.len()).sum())
    }
}

async fn read(
    cx: &RequestContext,
    replica: &Replica,
    from: Offset,
    bytes_max: usize,
    bound: ReadBound,
) -> Outcome {
    let aborted = if bound == ReadBound::LastStable { Aborted::Wanted } else { Aborted::NotWanted };
    let read = match &cx.broker.tier {
        Some(tier) => tier.read(&place(cx, replica, from), bytes_max, aborted).await,
        None => Err(TierReadError::NoTier),
    };
    match read {
        Ok(mut read) if read.has_undecided => {
            let known = replica.aborted_transactions(from, read.next_offset);
            let known = known.map_err(|error| error_map::log_read(&error))?;
            let new: Vec<_> = known.into_iter().filter(|aborted| !read.aborted.contains(aborted)).collect();
            read.aborted.extend(new);
            Ok(read)
        }
        Ok(read) => Ok(read),
        Err(error) => {
            // Deleted while it was asked for.
            if from < replica.log_start_offset() {
                return Err(ResponseError::OffsetOutOfRange);
            }
            let code = error_map::tier_read(&error);
            if let Some(tier) = &cx.broker.tier
                && code == ResponseError::KafkaStorageError
            {
                tier.on_read_failed(replica.topic(), replica.partition(), from, &error);
            }
            Err(code)
        }
    }
}

/// Where in the tier a partition's `from` lies, as this broker knows it.
pub(super) fn place(cx: &RequestContext, replica: &Replica, from: Offset) -> ReadPlace {
    let (topic, partition) = (replica.topic_id(), replica.partition());
    let position = cx.broker.metadata.image().tier_position(topic, partition);
    ReadPlace {
        topic,
        partition,
        manifest: position.map_or(0, |position| position.manifest),
        from,
        local_start: replica.local_start_offset(),
    }
}
