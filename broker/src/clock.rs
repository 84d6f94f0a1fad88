//! The clock: the only place of the broker that reads the time of day.

use std::time::{SystemTime, UNIX_EPOCH};

use ottla_batch::TimestampMs;

/// The wall clock. Before 1970 it is 0.
pub fn now() -> TimestampMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
