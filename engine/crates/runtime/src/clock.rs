//! The time as a number: it is asked for with each task, and arithmetic with `Instant` costs more than asking.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds, of the monotonic clock or between two of its moments.
pub(crate) type Nanos = u64;

/// The moment.
pub(crate) fn now() -> Nanos {
    // Linux has had this clock for as long as it has had epoll.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}

/// The same length of time; what a `u64` does not hold, 584 years, is none here.
#[allow(clippy::cast_possible_truncation, reason = "see above")]
pub(crate) const fn nanos(time: Duration) -> Nanos {
    time.as_nanos() as Nanos
}
