//! A histogram of durations.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Durations by bucket. `N` is the number of upper bounds; what is above the last has a bucket of its own.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    buckets: [AtomicU64; N],
    above: AtomicU64,
    micros: AtomicU64,
}

/// The values of a [`Histogram`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistogramValues<const N: usize> {
    buckets: [u64; N],
    above: u64,
    micros: u64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: array::from_fn(|_| AtomicU64::new(0)), above: AtomicU64::new(0), micros: AtomicU64::new(0) }
    }
}

impl<const N: usize> Histogram<N> {
    /// Record `duration` in the first of `bounds`, in seconds and ascending, that is not below it.
    pub fn observe(&self, bounds: &[f64; N], duration: Duration) {
        let position = bounds.iter().position(|bound| duration.as_secs_f64() <= *bound);
        let bucket = position.and_then(|position| self.buckets.get(position)).unwrap_or(&self.above);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The values now.
    #[must_use]
    pub fn values(&self) -> HistogramValues<N> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HistogramValues {
            buckets: array::from_fn(|index| self.buckets.get(index).map_or(0, load)),
            above: load(&self.above),
            micros: load(&self.micros),
        }
    }
}

impl<const N: usize> Default for HistogramValues<N> {
    fn default() -> Self {
        Self { buckets: [0; N], above: 0, micros: 0 }
    }
}

impl<const N: usize> HistogramValues<N> {
    /// Observations in each bucket, not cumulative; the last bucket has no bound.
    pub(crate) fn buckets(&self) -> Vec<u64> {
        self.buckets.iter().copied().chain([self.above]).collect()
    }

    /// The sum of all durations, in seconds.
    pub(crate) const fn sum(&self) -> f64 {
        Duration::from_micros(self.micros).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_part_of_its_bucket() {
        let (histogram, bounds) = (Histogram::default(), [0.001, 1.0]);
        for millis in [0, 1, 2, 1000, 1001] {
            histogram.observe(&bounds, Duration::from_millis(millis));
        }
        let values = histogram.values();
        assert_eq!(values.buckets(), [2, 2, 1]);
        assert!((values.sum() - 2.004).abs() < 1e-9);
    }
}
