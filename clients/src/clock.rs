//! The only place of this crate that reads the time of day.

use std::time::Duration;

/// Since 1970; zero before.
#[cfg(not(ottla_sim))]
pub fn since_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// The simulation's time; clients have no clock of their own that could be wrong.
#[cfg(ottla_sim)]
pub fn since_epoch() -> Duration {
    turmoil::since_epoch().unwrap_or_default()
}
