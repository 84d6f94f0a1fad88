//! The topic configs that a log acts on, already parsed and bounded by the broker's key table.
//! Names and meanings are Kafka's topic configs; a field says the unit last. Replaced as a whole by `Log::update_config`.

/// `cleanup.policy`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanupPolicy {
    Delete,
    Compact,
    CompactAndDelete,
}

impl CleanupPolicy {
    pub fn deletes(self) -> bool {
        matches!(self, CleanupPolicy::Delete | CleanupPolicy::CompactAndDelete)
    }

    pub fn compacts(self) -> bool {
        matches!(self, CleanupPolicy::Compact | CleanupPolicy::CompactAndDelete)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment never grows past it (one batch alone may not be larger either).
    pub segment_bytes: u32,
    /// `segment.ms`: age, by batch timestamps, at which an append rolls.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: at most this much is taken off `segment_ms`, a fixed random part of it per log.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`: largest size of one index file.
    pub segment_index_bytes: u32,
    /// `index.interval.bytes`: an index entry at most every so many bytes of log.
    pub index_interval_bytes: u32,
    /// `retention.ms`, None for unlimited (-1).
    pub retention_ms: Option<i64>,
    /// `retention.bytes`, None for unlimited (-1).
    pub retention_bytes: Option<u64>,
    /// `remote.storage.enable`: sealed segments lie in the tier too, and go here by `local_*` once they do.
    pub remote_storage: bool,
    /// `remote.log.copy.disable`: nothing more goes to the tier.
    pub remote_copy_disabled: bool,
    /// `local.retention.ms`, None for unlimited; the caller has put `retention_ms` in the place of -2.
    pub local_retention_ms: Option<i64>,
    /// `local.retention.bytes`, likewise.
    pub local_retention_bytes: Option<u64>,
    /// `file.delete.delay.ms`: how long a `.deleted` file stays for readers that still hold it.
    pub file_delete_delay_ms: i64,
    /// `cleanup.policy`
    pub cleanup_policy: CleanupPolicy,
    /// `delete.retention.ms`: how long tombstones and transaction markers outlive the compaction that first saw them.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`
    pub max_compaction_lag_ms: i64,
    /// `min.cleanable.dirty.ratio`
    pub min_cleanable_dirty_ratio: f64,
    /// `max.message.bytes`: only compaction asks (a rewritten batch must still fit); appends are bounded by the batch check.
    pub message_bytes_max: u32,
    /// `producer.id.expiration.ms` (a broker config)
    pub producer_id_expiration_ms: i64,
    /// `log.cleaner.dedupe.buffer.size` (a broker config): bound of the memory one compaction may take for its key map.
    pub dedupe_buffer_bytes: usize,
    /// Bound of the decompressed size of one batch while compacting.
    pub decompressed_bytes_max: usize,
}

impl Default for LogConfig {
    /// Kafka's defaults.
    fn default() -> LogConfig {
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        LogConfig {
            segment_bytes: 1 << 30,
            segment_ms: 7 * DAY_MS,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            remote_storage: false,
            remote_copy_disabled: false,
            local_retention_ms: Some(7 * DAY_MS),
            local_retention_bytes: None,
            file_delete_delay_ms: 60_000,
            cleanup_policy: CleanupPolicy::Delete,
            delete_retention_ms: DAY_MS,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            min_cleanable_dirty_ratio: 0.5,
            message_bytes_max: 1_048_588,
            producer_id_expiration_ms: DAY_MS,
            dedupe_buffer_bytes: 128 << 20,
            decompressed_bytes_max: 128 << 20,
        }
    }
}
