//! The histogram that openraft counts its batches with, in 500 bytes.
//!
//! openraft takes it from the crate `base2histogram`, whose first use builds tables for 16 bucket widths: 26 MB that stay,
//! of which openraft reads 2 KB, and which would be most of an idle broker. This crate has the same name and the part of the
//! interface that openraft uses, and replaces it by `[patch.crates-io]`. Values are counted by powers of two, and a
//! percentile is the lower edge of its bucket: nothing in Ottla reads them.

use std::fmt;
use std::marker::PhantomData;

/// Bucket 0 counts zeroes, bucket n the values from 2^(n-1) to below 2^n.
const BUCKETS: usize = u64::BITS as usize + 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    buckets: [u64; BUCKETS],
    total: u64,
    /// The original keeps a value of this type per time slot; there are no slots here.
    slots: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Histogram::new()
    }
}

impl<T> Histogram<T> {
    pub fn new() -> Histogram<T> {
        Histogram { buckets: [0; BUCKETS], total: 0, slots: PhantomData }
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[bucket] = self.buckets[bucket].saturating_add(count);
        self.total = self.total.saturating_add(count);
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// `share` is between 0 and 1; 0 for an empty histogram.
    pub fn percentile(&self, share: f64) -> u64 {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0u64;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= rank {
                return if bucket == 0 { 0 } else { 1 << (bucket - 1) };
            }
        }
        0
    }

    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total,
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} samples, p50 {}, p90 {}, p99 {}", self.samples, self.p50, self.p90, self.p99)
    }
}

/// Series by name; the original draws them.
#[derive(Debug, Clone)]
pub struct AsciiChart<T = ()> {
    series: Vec<(String, Histogram<T>)>,
}

impl<T> Default for AsciiChart<T> {
    fn default() -> Self {
        AsciiChart::new()
    }
}

impl<T> AsciiChart<T> {
    pub fn new() -> AsciiChart<T> {
        AsciiChart { series: Vec::new() }
    }

    #[must_use]
    #[allow(clippy::should_implement_trait)]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> AsciiChart<T> {
        self.series.push((name.to_owned(), histogram));
        self
    }

    pub fn compact(&self) -> &AsciiChart<T> {
        self
    }

    pub fn detailed(&self) -> &AsciiChart<T> {
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, histogram) in &self.series {
            writeln!(f, "{name}: {}", histogram.percentile_stats())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_lower_edges() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile(0.5), 0);
        histogram.record(0);
        histogram.record_n(5, 8);
        histogram.record(u64::MAX);
        assert_eq!(histogram.total(), 10);
        assert_eq!((histogram.percentile(0.0), histogram.percentile(0.5)), (0, 4));
        assert_eq!(histogram.percentile_stats().p99, 1 << 63);
    }
}
