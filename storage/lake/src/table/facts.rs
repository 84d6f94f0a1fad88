//! What a table amounts to, for people.

use ottla_storage::batch::TimestampMs;

use super::manifests::is_of_deletes;
use super::{Table, TableError};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Rows that somebody deleted by files of deletes are counted still.
    pub rows: u64,
    pub files: u64,
    pub bytes: u64,
    pub snapshots: usize,
    /// Of the newest snapshot.
    pub changed_at: Option<TimestampMs>,
}

impl Table {
    pub async fn facts(&self) -> Result<Facts, TableError> {
        let snapshot = self.metadata().current_snapshot();
        let mut facts = Facts {
            snapshots: self.metadata().snapshots().len(),
            changed_at: snapshot.map(|snapshot| TimestampMs(snapshot.timestamp_ms())),
            ..Facts::default()
        };
        for manifest in self.manifests().await?.iter().filter(|manifest| !is_of_deletes(manifest)) {
            for live in self.at.read_live(manifest).await? {
                facts.files += 1;
                facts.rows += live.file.record_count();
                facts.bytes += live.file.file_size_in_bytes();
            }
        }
        Ok(facts)
    }
}
