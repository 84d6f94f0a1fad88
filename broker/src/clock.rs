//! The clock: the only place of the broker that reads the time of day. How long something takes is measured with
//! `tokio::time::Instant`, which a simulation runs as it likes.

#[cfg(not(ottla_sim))]
pub use real::now;
#[cfg(ottla_sim)]
pub use simulated::{now, set_error_of_this_host};

#[cfg(not(ottla_sim))]
mod real {
    use std::time::{SystemTime, UNIX_EPOCH};

    use ottla_batch::TimestampMs;

    /// The wall clock. Before 1970 it is 0.
    pub fn now() -> TimestampMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimestampMs(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// The simulation's time, off by as much as the clock of the simulated host is wrong.
#[cfg(ottla_sim)]
mod simulated {
    use std::cell::RefCell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use ottla_batch::TimestampMs;
    use tokio::runtime::{Handle, Id};

    thread_local! {
        /// By the runtime of the host; one simulation is one thread.
        static ERRORS_MS: RefCell<Vec<(Id, Arc<AtomicI64>)>> = const { RefCell::new(Vec::new()) };
    }

    pub fn now() -> TimestampMs {
        let right = turmoil::since_epoch().unwrap_or_default().as_millis() as i64;
        let Ok(host) = Handle::try_current() else { return TimestampMs(right) };
        let error = ERRORS_MS.with_borrow(|errors| {
            let of_host = errors.iter().rev().find(|(id, _)| *id == host.id());
            of_host.map_or(0, |(_, error)| error.load(Ordering::Relaxed))
        });
        TimestampMs((right + error).max(0))
    }

    /// The clock of the host that calls is wrong by what `error_ms` holds at the time, until the host restarts.
    pub fn set_error_of_this_host(error_ms: Arc<AtomicI64>) {
        ERRORS_MS.with_borrow_mut(|errors| errors.push((Handle::current().id(), error_ms)));
    }
}
