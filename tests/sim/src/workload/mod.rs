//! What clients do while things break. Each runs on a host of its own and tells the world what it saw; none decides what is
//! right. A client that is told of an error does what an application does: it goes on.

pub mod commits;
pub mod finish;
pub mod group;
pub mod moves;
pub mod producer;
pub mod reader;
pub mod topics;

/// A topic that producers write and readers read; it is never deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkTopic {
    pub name: String,
    pub partitions: i32,
    pub replication_factor: i16,
    pub configs: Vec<(String, String)>,
}

impl WorkTopic {
    pub fn partitions(&self) -> impl Iterator<Item = (String, i32)> {
        (0..self.partitions).map(|index| (self.name.clone(), index))
    }
}
