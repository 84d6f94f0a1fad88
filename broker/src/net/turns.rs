//! How far a connection's answers have come, for a request that is started before its answer can leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The answers that a connection has sent, in the order of the requests.
#[derive(Default)]
pub struct Turns {
    started: u64,
    sent: Arc<Sent>,
}

#[derive(Default)]
struct Sent {
    count: AtomicU64,
    more: Notify,
}

/// A request's place among those of its connection.
#[derive(Clone, Default)]
pub struct Turn {
    before: u64,
    sent: Arc<Sent>,
}

impl Turns {
    /// For the request that starts next, if it is to be answered.
    pub fn next(&self) -> Turn {
        Turn { before: self.started, sent: Arc::clone(&self.sent) }
    }

    pub fn on_started(&mut self) {
        self.started += 1;
    }

    pub fn on_sent(&self) {
        self.sent.count.fetch_add(1, Ordering::Release);
        self.sent.more.notify_waiters();
    }
}

impl Turn {
    /// Returns when every request before this one is answered.
    pub async fn come(&self) {
        loop {
            // ORDER: before the look, so that what is sent meanwhile is not missed.
            let more = self.sent.more.notified();
            if self.sent.count.load(Ordering::Acquire) >= self.before {
                return;
            }
            more.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_turn_comes_when_all_before_it_are_answered() {
        let mut turns = Turns::default();
        assert!(turns.next().come().now_or_never().is_some(), "nothing is before the first");
        turns.on_started();
        turns.on_started();
        let third = turns.next();
        let mut coming = Box::pin(third.come());
        assert!((&mut coming).now_or_never().is_none());
        turns.on_sent();
        assert!((&mut coming).now_or_never().is_none());
        turns.on_sent();
        assert!((&mut coming).now_or_never().is_some());
    }
}
