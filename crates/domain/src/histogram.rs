//! Counting how long things take, and how large they are, without locks: fixed buckets of atomic counters.
//!
//! Observing is a search among a few bounds and two additions, cheap enough for every call. Reading is for whoever reports.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds of durations, in microseconds: from a step in memory to a patient upstream.
pub const MICROS: &[u64] = &[
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];
/// Bounds of counts.
pub const COUNTS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// Observed values, sorted into buckets.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what is above all of them.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// A histogram at one moment. Counters move while they are read, so the parts may differ by what came in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Upper bounds, inclusive.
    pub bounds: &'static [u64],
    /// How many values were at most each bound.
    pub cumulative: Vec<u64>,
    /// How many values there were.
    pub count: u64,
    /// Their sum.
    pub sum: u64,
}

impl Histogram {
    /// An empty histogram of durations in microseconds.
    pub fn of_durations() -> Self {
        Self::new(MICROS)
    }

    /// An empty histogram of counts.
    pub fn of_counts() -> Self {
        Self::new(COUNTS)
    }

    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    pub fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Counts a duration, in microseconds.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
    }

    /// What was counted so far.
    pub fn read(&self) -> Reading {
        let mut count = 0;
        let mut cumulative: Vec<u64> = Vec::with_capacity(self.buckets.len());
        for bucket in &self.buckets {
            count += bucket.load(Ordering::Relaxed);
            cumulative.push(count);
        }
        cumulative.pop();
        Reading { bounds: self.bounds, cumulative, count, sum: self.sum.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_first_bucket_that_holds_them() {
        let histogram = Histogram::of_counts();
        for value in [0, 1, 2, 3, 1024, 1025] {
            histogram.observe(value);
        }
        let reading = histogram.read();
        assert_eq!(reading.cumulative, [2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5]);
        assert_eq!((reading.count, reading.sum), (6, 2055));
    }

    #[test]
    fn durations_are_counted_in_microseconds() {
        let histogram = Histogram::of_durations();
        histogram.observe_duration(Duration::from_millis(3));
        histogram.observe_duration(Duration::MAX);
        assert_eq!(histogram.read().count, 2);
        assert_eq!(histogram.read().cumulative.iter().filter(|n| **n == 1).count(), 9);
    }
}
