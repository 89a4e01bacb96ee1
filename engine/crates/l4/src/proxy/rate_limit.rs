//! A bound on how much a workload's connections carry in a second, all of them together.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::ready;
use std::time::{Duration, Instant};

use culvert_net::copy::SMALL_STEP;
use tokio::time::Sleep;

/// How far ahead a workload may be. Timers are exact to a millisecond; more would be bursts, which neighbours feel.
const AHEAD: Duration = Duration::from_millis(4);

/// See the module. ProxyState by the workers.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    bytes_per_s: u64,
    began: Instant,
    /// Nanoseconds after `began` at which all that was carried so far is paid for.
    paid_ns: AtomicU64,
}

impl RateLimiter {
    /// `None` for no bound.
    pub(super) fn new(bytes_per_s: u64) -> Option<Self> {
        (bytes_per_s > 0).then(|| Self { bytes_per_s, began: Instant::now(), paid_ns: AtomicU64::new(0) })
    }

    /// What a connection may read at once: a millisecond's worth, but no less than a small step.
    pub(super) fn max_io(&self) -> usize {
        usize::try_from(self.bytes_per_s / 1000).unwrap_or(usize::MAX).max(SMALL_STEP)
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Count `bytes`.
    pub(super) fn carried(&self, bytes: u64) {
        let (now, cost) = (self.now_ns(), u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX);
        let paid = |paid: u64| Some(paid.max(now).saturating_add(cost));
        // The closure always has an answer.
        let _ = self.paid_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid);
    }

    /// How long to wait until more may be carried.
    fn wait(&self) -> Option<Duration> {
        let ahead = Duration::from_nanos(self.paid_ns.load(Ordering::Relaxed).saturating_sub(self.now_ns()));
        // Some of the way back, so that waits are not all for one step.
        (ahead > AHEAD).then(|| ahead.saturating_sub(AHEAD / 2))
    }
}

/// Carry at the workload's rate_limiter. `total` says what has been carried so far, `slowed` is called for each wait.
pub(super) fn throttled<T>(
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
            let Some(wait) = rate_limiter.wait() else { break };
            slowed();
            waiting = Some(Box::pin(tokio::time::sleep(wait)));
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
    fn waits_follow_what_was_carried() {
        let rate_limiter = RateLimiter::new(1_000_000).unwrap();
        assert_eq!(rate_limiter.wait(), None);
        rate_limiter.carried(3_000);
        assert_eq!(rate_limiter.wait(), None, "3 ms ahead");
        rate_limiter.carried(997_000);
        let wait = rate_limiter.wait().unwrap();
        assert!((Duration::from_millis(900)..Duration::from_secs(1)).contains(&wait), "{wait:?}");
        assert_eq!(rate_limiter.max_io(), SMALL_STEP);
        assert_eq!(RateLimiter::new(125_000_000).unwrap().max_io(), 125_000);
        assert!(RateLimiter::new(0).is_none());
    }
}
