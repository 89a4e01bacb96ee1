//! A limit on the bytes per second of all connections of a workload together.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::ready;
use std::time::{Duration, Instant};

use culvert_net::copy::SMALL_STEP;
use tokio::time::Sleep;

/// Burst that a workload may send ahead of its rate. Timers are exact to a millisecond; a larger burst would delay
/// neighbours.
const AHEAD: Duration = Duration::from_millis(4);

/// See the module. Shared by the workers.
#[derive(Debug)]
pub struct RateLimiter {
    bytes_per_s: u64,
    began: Instant,
    /// Time, in nanoseconds after `began`, by which the bytes carried so far are within the rate.
    due_ns: AtomicU64,
}

impl RateLimiter {
    /// `None` without a limit.
    #[must_use]
    pub fn new(bytes_per_s: u64) -> Option<Self> {
        (bytes_per_s > 0).then(|| Self { bytes_per_s, began: Instant::now(), due_ns: AtomicU64::new(0) })
    }

    /// The most that a connection may read at once: the bytes of a millisecond, but at least a small read.
    #[must_use]
    pub fn max_io(&self) -> usize {
        usize::try_from(self.bytes_per_s / 1000).unwrap_or(usize::MAX).max(SMALL_STEP)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Count `bytes`.
    pub fn carried(&self, bytes: u64) {
        let (now, cost) = (self.now_ns(), u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let due = |due: u64| Some(due.max(now).saturating_add(cost));
        // The closure always has an answer.
        let _ = self.due_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due);
    }

    /// How long to delay before more may be carried.
    fn delay(&self) -> Option<Duration> {
        let ahead = Duration::from_nanos(self.due_ns.load(Ordering::Relaxed).saturating_sub(self.now_ns()));
        // Delay for half of the burst more, so that not each read is delayed.
        (ahead > AHEAD).then(|| ahead.saturating_sub(AHEAD / 2))
    }
}

/// Carry at the workload's rate. `total` returns the bytes carried so far, `slowed` is called for each delay.
pub fn throttled<T>(
    rate_limiter: Option<&RateLimiter>,
    mut carried: Pin<&mut impl Future<Output = T>>,
    total: impl Fn() -> u64,
    slowed: impl Fn(),
) -> impl Future<Output = T> {
    let mut waiting: Option<Pin<Box<Sleep>>> = None;
    let mut counted = 0;
    poll_fn(move |context| {
        let Some(rate_limiter) = rate_limiter else { return carried.as_mut().poll(context) };
        loop {
            if let Some(sleep) = &mut waiting {
                ready!(sleep.as_mut().poll(context));
                waiting = None;
            }
            let Some(delay) = rate_limiter.delay() else { break };
            slowed();
            waiting = Some(Box::pin(tokio::time::sleep(delay)));
        }
        let polled = carried.as_mut().poll(context);
        let now = total();
        rate_limiter.carried(now - counted);
        counted = now;
        polled
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn delays_follow_the_bytes_carried() {
        let rate_limiter = RateLimiter::new(1_000_000).unwrap();
        assert_eq!(rate_limiter.delay(), None);
        rate_limiter.carried(3_000);
        assert_eq!(rate_limiter.delay(), None, "3 ms ahead");
        rate_limiter.carried(997_000);
        let delay = rate_limiter.delay().unwrap();
        assert!((Duration::from_millis(900)..Duration::from_secs(1)).contains(&delay), "{delay:?}");
        assert_eq!(rate_limiter.max_io(), SMALL_STEP);
        assert_eq!(RateLimiter::new(125_000_000).unwrap().max_io(), 125_000);
        assert!(RateLimiter::new(0).is_none());
    }
}
