//! The checkers: one promise, one file. Each is told everything that clients and probes saw, in the order of simulated time,
//! and objects; each has a test that makes it object.
//!
//! A checker believes clients and files, not the cluster's own word, but where the promise is about that word.

mod acked;
mod controllers;
mod duplicates;
mod groups;
mod high_watermark;
mod leaders;
mod metadata;
mod offsets;
mod replicas;

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

pub type TopicPartition = (String, i32);

/// One record's value, by the number that its producer gave it.
pub type RecordId = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    None,
    Leader,
    All,
}

#[derive(Debug, Clone)]
pub enum Event {
    /// A producer was told that a record is at an offset.
    Acked { producer: u32, partition: TopicPartition, offset: i64, id: RecordId, acks: Acks },
    /// A reader that reads a partition from its start to its end and never goes back was handed records.
    Read { reader: String, partition: TopicPartition, records: Vec<(i64, RecordId)>, high_watermark: i64 },
    /// A record that nobody wrote.
    Corrupt { partition: TopicPartition, offset: i64, found: String },
    /// A node believes that it leads.
    Leads { node: i32, topic: Uuid, partition: i32, epoch: i32 },
    /// A node believes that it is the active controller.
    Controls { node: i32, epoch: i32 },
    /// The metadata of a node, as of an offset.
    Image { node: i32, process: u32, offset: u64, digest: u64 },
    /// What a node's replica has on its disk, below the high watermark that it knows: the digest of each batch by its base
    /// offset.
    Replica { node: i32, topic: Uuid, partition: i32, batches: BTreeMap<i64, u64> },
    /// A member of a group was assigned these.
    Assigned { group: String, generation: i32, member: String, partitions: BTreeSet<TopicPartition> },
    /// A member was told that its commit is there.
    Committed { group: String, partition: TopicPartition, offset: i64 },
    /// A member does not know whether its commit is there: it may be, and may still come.
    CommitUnknown { group: String, partition: TopicPartition, offset: i64 },
    /// An OffsetFetch is sent.
    CommittedAsked { number: u64 },
    /// The OffsetFetch of that number says this.
    CommittedSeen { number: u64, group: String, partition: TopicPartition, offset: Option<i64> },
    /// The whole of a partition, after all faults healed and all producers stopped.
    Final { partition: TopicPartition, records: Vec<(i64, RecordId)> },
}

pub trait Checker {
    fn name(&self) -> &'static str;
    /// An error is a violation of the promise.
    fn on(&mut self, event: &Event) -> Result<(), String>;
    /// What can only be said when there is no more to come.
    fn finish(&mut self) -> Result<(), String> {
        Ok(())
    }
}

pub fn all() -> Vec<Box<dyn Checker>> {
    vec![
        Box::<acked::Acked>::default(),
        Box::<controllers::Controllers>::default(),
        Box::<duplicates::Duplicates>::default(),
        Box::<groups::Groups>::default(),
        Box::<high_watermark::HighWatermark>::default(),
        Box::<leaders::Leaders>::default(),
        Box::<metadata::Metadata>::default(),
        Box::<offsets::Offsets>::default(),
        Box::<replicas::Replicas>::default(),
    ]
}

#[cfg(test)]
mod testing {
    use super::*;

    pub fn partition(index: i32) -> TopicPartition {
        ("topic".to_owned(), index)
    }

    pub fn acked(producer: u32, offset: i64, id: RecordId, acks: Acks) -> Event {
        Event::Acked { producer, partition: partition(0), offset, id, acks }
    }

    pub fn read(reader: &str, records: &[(i64, RecordId)], high_watermark: i64) -> Event {
        Event::Read {
            reader: reader.to_owned(),
            partition: partition(0),
            records: records.to_vec(),
            high_watermark,
        }
    }

    pub fn at_the_end(records: &[(i64, RecordId)]) -> Event {
        Event::Final { partition: partition(0), records: records.to_vec() }
    }

    /// Whether the checker objects, and to which of the events (their number: at the end).
    pub fn objects(mut checker: impl Checker, events: &[Event]) -> Option<usize> {
        let found = events.iter().position(|event| checker.on(event).is_err());
        found.or_else(|| checker.finish().is_err().then_some(events.len()))
    }
}
