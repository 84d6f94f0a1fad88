//! Throttles of replication (KIP-73): how many bytes of throttled partitions may go now. Values in, values out.
//!
//! Each broker has three quotas: what it sends to followers as the leader, what it fetches as a follower, and what it copies
//! between its log directories. A quota is a bucket that fills at the rate. It holds at most what the rate gives in all windows
//! (`replication.quota.window.num` of `.size.seconds`), and what it gives in one window when the rate is set. What was sent over it
//! (a batch is never cut) is owed and paid before anything else goes, so the rate holds over any long time.
//!
//! Different from Kafka, which looks only whether the mean rate over the windows is exceeded: there every answer may take as much as
//! a fetch asks for, and what went over the rate is forgotten when its window is.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::config::{DynamicConfig, NodeConfig, QuotaWindow};

/// When a bucket is empty it opens again with what the rate gives in this time: fetches that carry a few bytes each would cost
/// more than they bring.
const SHARE_MIN: Duration = Duration::from_millis(100);

const NANOS: i128 = 1_000_000_000;

/// Which partitions of a topic are throttled at this broker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Throttled {
    #[default]
    None,
    All,
    Partitions(Arc<[i32]>),
}

impl Throttled {
    pub fn contains(&self, partition: i32) -> bool {
        match self {
            Throttled::None => false,
            Throttled::All => true,
            Throttled::Partitions(partitions) => partitions.contains(&partition),
        }
    }
}

/// What a quota allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Unlimited,
    /// At least 1. Whole batches may go over it.
    Bytes(usize),
    /// Nothing, before this time at the earliest.
    NoneUntil(Instant),
}

/// One quota, at the rate that is configured at the time.
pub struct Quota {
    config: Arc<NodeConfig>,
    /// Bytes per second; `None` without a limit.
    rate_of: fn(&DynamicConfig) -> Option<u64>,
    bucket: Mutex<Bucket>,
}

impl Quota {
    pub fn new(
        config: &Arc<NodeConfig>,
        rate_of: fn(&DynamicConfig) -> Option<u64>,
        window: QuotaWindow,
    ) -> Quota {
        let bucket = Mutex::new(Bucket::new(window, Instant::now()));
        Quota { config: Arc::clone(config), rate_of, bucket }
    }

    fn rate(&self) -> Option<u64> {
        (self.rate_of)(&self.config.dynamic())
    }

    pub fn is_limited(&self) -> bool {
        self.rate().is_some()
    }

    pub fn room(&self, now: Instant) -> Room {
        self.bucket.lock().room(self.rate(), now)
    }

    pub fn spend(&self, bytes: usize, now: Instant) {
        self.bucket.lock().spend(self.rate(), bytes, now);
    }

    /// What was spent did not go after all.
    pub fn give_back(&self, bytes: usize, now: Instant) {
        self.bucket.lock().give_back(self.rate(), bytes, now);
    }
}

/// The quotas of a broker.
pub struct Quotas {
    /// `leader.replication.throttled.rate`
    pub leader: Quota,
    /// `follower.replication.throttled.rate`
    pub follower: Quota,
    /// `replica.alter.log.dirs.io.max.bytes.per.second`: all moves between directories, whatever the partition.
    pub alter_log_dirs: Quota,
}

impl Quotas {
    pub fn new(config: &Arc<NodeConfig>) -> Quotas {
        let replication = &config.replication;
        let window = replication.quota_window;
        Quotas {
            leader: Quota::new(config, |dynamic| dynamic.leader_throttled_rate, window),
            follower: Quota::new(config, |dynamic| dynamic.follower_throttled_rate, window),
            alter_log_dirs: Quota::new(
                config,
                |dynamic| dynamic.alter_log_dirs_rate,
                replication.alter_log_dirs_quota_window,
            ),
        }
    }
}

/// See the module's head.
#[derive(Debug)]
struct Bucket {
    window: QuotaWindow,
    rate: Option<u64>,
    /// Bytes times [`NANOS`], so that nothing is lost to rounding. Negative: owed.
    level: i128,
    /// When `level` was counted.
    at: Instant,
    /// It was empty and has not opened again.
    is_shut: bool,
}

impl Bucket {
    fn new(window: QuotaWindow, now: Instant) -> Bucket {
        Bucket { window, rate: None, level: 0, at: now, is_shut: false }
    }

    fn room(&mut self, rate: Option<u64>, now: Instant) -> Room {
        let Some(rate) = self.fill(rate, now) else { return Room::Unlimited };
        let share = given(rate, SHARE_MIN).clamp(NANOS, self.capacity(rate).max(NANOS));
        if self.level <= 0 {
            self.is_shut = true;
        } else if self.level >= share {
            self.is_shut = false;
        }
        if !self.is_shut {
            return Room::Bytes(usize::try_from(self.level / NANOS).unwrap_or(usize::MAX).max(1));
        }
        let missing = share - self.level;
        let wait = match rate {
            0 => u64::MAX,
            rate => u64::try_from((missing + i128::from(rate) - 1) / i128::from(rate)).unwrap_or(u64::MAX),
        };
        // Further away than a year is as good as never, and Instants end somewhere.
        Room::NoneUntil(now + Duration::from_nanos(wait).min(Duration::from_secs(365 * 24 * 3600)))
    }

    fn spend(&mut self, rate: Option<u64>, bytes: usize, now: Instant) {
        if self.fill(rate, now).is_some() {
            self.level -= bytes as i128 * NANOS;
        }
    }

    fn give_back(&mut self, rate: Option<u64>, bytes: usize, now: Instant) {
        if let Some(rate) = self.fill(rate, now) {
            self.level = (self.level + bytes as i128 * NANOS).min(self.capacity(rate));
        }
    }

    fn capacity(&self, rate: u64) -> i128 {
        given(rate, self.window.size * self.window.count)
    }

    /// Counts what came in since the last look, at the rate of that time, and goes over to the rate of now.
    fn fill(&mut self, rate: Option<u64>, now: Instant) -> Option<u64> {
        if let Some(rate) = self.rate {
            let came = given(rate, now.saturating_duration_since(self.at));
            self.level = self.level.saturating_add(came).min(self.capacity(rate));
        }
        self.at = self.at.max(now);
        if self.rate != rate {
            if let Some(new) = rate {
                let first = given(new, self.window.size);
                self.level = if self.rate.is_some() { self.level.min(first) } else { first };
            }
            self.rate = rate;
        }
        rate
    }
}

fn given(rate: u64, time: Duration) -> i128 {
    i128::from(rate).saturating_mul(i128::try_from(time.as_nanos()).unwrap_or(i128::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: QuotaWindow = QuotaWindow { count: 11, size: Duration::from_secs(1) };
    const RATE: Option<u64> = Some(1_000);

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn without_a_rate_everything_goes_and_nothing_is_counted() {
        let start = Instant::now();
        let mut bucket = Bucket::new(WINDOW, start);
        bucket.spend(None, 1 << 40, start);
        assert_eq!(bucket.room(None, start), Room::Unlimited);
        assert_eq!(bucket.room(RATE, start), Room::Bytes(1_000), "what one window gives");
    }

    #[test]
    fn what_goes_over_the_rate_is_owed() {
        let start = Instant::now();
        let mut bucket = Bucket::new(WINDOW, start);
        assert_eq!(bucket.room(RATE, start), Room::Bytes(1_000));
        // Far more than all windows give.
        bucket.spend(RATE, 51_000, start);
        let opens = start + seconds(50.1);
        assert_eq!(bucket.room(RATE, start), Room::NoneUntil(opens));
        assert_eq!(bucket.room(RATE, start + seconds(50.05)), Room::NoneUntil(opens), "not for 50 bytes");
        assert_eq!(bucket.room(RATE, opens), Room::Bytes(100));
        // Once open it is used up to its last byte.
        bucket.spend(RATE, 99, opens);
        assert_eq!(bucket.room(RATE, opens), Room::Bytes(1));
        bucket.spend(RATE, 1, opens);
        assert_eq!(bucket.room(RATE, opens), Room::NoneUntil(opens + seconds(0.1)));
        bucket.give_back(RATE, 100, opens);
        assert_eq!(bucket.room(RATE, opens), Room::Bytes(100));
    }

    #[test]
    fn what_was_not_used_is_kept_for_all_windows_and_no_longer() {
        let start = Instant::now();
        let mut bucket = Bucket::new(WINDOW, start);
        bucket.room(RATE, start);
        assert_eq!(bucket.room(RATE, start + seconds(5.0)), Room::Bytes(6_000));
        assert_eq!(bucket.room(RATE, start + seconds(5_000.0)), Room::Bytes(11_000));
    }

    #[test]
    fn another_rate_holds_from_now_on() {
        let start = Instant::now();
        let mut bucket = Bucket::new(WINDOW, start);
        bucket.spend(RATE, 11_000, start);
        // 10,000 bytes are owed, which is little at the new rate.
        let faster = Some(10_000);
        assert_eq!(bucket.room(faster, start), Room::NoneUntil(start + seconds(1.1)));
        assert_eq!(bucket.room(faster, start + seconds(20.0)), Room::Bytes(110_000));
        assert_eq!(
            bucket.room(RATE, start + seconds(20.0)),
            Room::Bytes(1_000),
            "no windfall of the faster one"
        );
        assert_eq!(bucket.room(None, start + seconds(20.0)), Room::Unlimited);
        assert!(matches!(bucket.room(Some(0), start + seconds(20.0)), Room::NoneUntil(_)));
    }

    #[test]
    fn lists_of_partitions() {
        assert!(!Throttled::None.contains(0));
        assert!(Throttled::All.contains(7));
        let some = Throttled::Partitions(Arc::new([1, 3]));
        assert!(some.contains(3) && !some.contains(2));
    }

    proptest! {
        /// Whoever sends as soon as there is room, a batch at a time, sends at the rate: never more than the first window, the time
        /// gone by, and one batch; never less than the time gone by, and what it takes to open again.
        #[test]
        fn the_rate_holds(rate in 1u64..1 << 33, batches in prop::collection::vec(1usize..1 << 22, 1..100)) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(WINDOW, start);
            let mut sent = 0u128;
            let largest = *batches.iter().max().unwrap() as u128;
            for batch in batches {
                if let Room::NoneUntil(at) = bucket.room(Some(rate), now) {
                    prop_assert!(at > now);
                    prop_assert!(at - now <= Duration::from_secs_f64(largest as f64 / rate as f64) + seconds(0.100_001) + seconds(1.0 / rate as f64));
                    now = at;
                }
                prop_assert!(matches!(bucket.room(Some(rate), now), Room::Bytes(_)));
                bucket.spend(Some(rate), batch, now);
                sent += batch as u128;
                let gone = (now - start).as_nanos() * u128::from(rate) / NANOS as u128;
                prop_assert!(sent <= gone + u128::from(rate) + largest, "sent {} in {:?}", sent, now - start);
            }
        }
    }
}
