//! Monotonic time as a number: it is read for each task, and arithmetic with `Instant` costs more than the reading.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds: a time of the monotonic clock, or a duration.
pub type Nanos = u64;

/// The current time, as BPF programs have it (`bpf_ktime_get_ns`).
#[must_use]
pub fn now() -> Nanos {
    // The clock exists on every Linux that has epoll.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}

/// Convert a duration, which must be shorter than 584 years.
#[allow(clippy::cast_possible_truncation, reason = "see above")]
pub(crate) const fn nanos(time: Duration) -> Nanos {
    time.as_nanos() as Nanos
}
