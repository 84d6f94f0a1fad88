//! A committed record on its way into a table, borrowed from the batch that it came in.

use ottla_storage::batch::{Offset, TimestampMs};

#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub partition: i32,
    pub offset: Offset,
    pub timestamp: TimestampMs,
    pub key: Option<&'a [u8]>,
    /// None is a tombstone.
    pub value: Option<&'a [u8]>,
    /// In the order of the record; Kafka allows a name twice.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}
