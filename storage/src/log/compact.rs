use ottla_batch::{Offset, TimestampMs};

use super::{CompactError, DeletedSegments, Log};

/// What one compaction will do; see [`Log::plan_compaction`].
pub struct CompactionPlan {}

impl CompactionPlan {
    pub fn dirty_ratio(&self) -> f64 {
        0.0
    }

    /// Rewrites without the lock. `go_on` is asked between chunks; false abandons.
    pub fn rewrite(self, _now: TimestampMs, _go_on: &dyn Fn() -> bool) -> Result<Compacted, CompactError> {
        Err(CompactError::Abandoned("not landed"))
    }
}

pub struct Compacted {}

pub struct CompactionResult {
    /// What the cleaner-offset checkpoint should say.
    pub cleaner_offset: Offset,
    pub bytes_before: u64,
    pub bytes_after: u64,
    /// The old files; `run` them after file.delete.delay.ms.
    pub deleted: DeletedSegments,
}

impl Log {
    /// None: nothing to compact now (ratio, lags, policy). `stable_limit` is the last stable offset.
    pub fn plan_compaction(&self, _stable_limit: Offset, _now: TimestampMs) -> Option<CompactionPlan> {
        None
    }

    /// Puts the rewritten segments in the place of the old ones.
    pub fn swap_compacted(&mut self, _compacted: Compacted) -> Result<CompactionResult, CompactError> {
        Err(CompactError::Abandoned("not landed"))
    }
}
