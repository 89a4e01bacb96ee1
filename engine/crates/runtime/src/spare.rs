//! Processors that threads without a pause leave to the others.
//!
//! The kernel lets a thread that runs go on to the end of its slice, which may be a tick of some milliseconds, whoever
//! else is woken meanwhile. Short slices or priorities of threads do not help where the programs that wait are in groups
//! of their own. So a thread that runs on and on stays away from some processors for as long as threads of other groups
//! are there that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{Pid, getpid};
use parking_lot::Mutex;

use crate::clock::{Nanos, nanos, now};

/// How often a thread looks at itself.
const LOOK: Nanos = nanos(Duration::from_micros(250));
/// A thread that used the processor for so long has gone without a pause.
const LONG: Nanos = nanos(Duration::from_micros(250));
/// Such a thread is expected to do so again for so many times as long. Who does so more seldom takes far less than a
/// hundredth of a processor's time that way, which nobody's p99 shows.
const EXPECTED: u64 = 400;
/// But not for longer.
const EXPECTED_MOST: Nanos = nanos(Duration::from_secs(1));
/// Threads that were there so long ago are expected again.
const LATELY: Nanos = nanos(Duration::from_secs(1));
/// How often a thread that was restricted follows changes of what the process may use.
const FOLLOW: Nanos = nanos(Duration::from_secs(1));

/// The processors that a process may use, and who uses them.
#[derive(Debug)]
pub struct Processors {
    spare: usize,
    /// The groups whose threads paused last, the latest first.
    pausing: Mutex<[Option<(usize, Nanos)>; 2]>,
    restricted: AtomicUsize,
}

impl Processors {
    /// Processors of which up to `spare` are left to threads that pause; one at least remains for the others.
    #[must_use]
    pub fn new(spare: usize) -> Arc<Self> {
        Arc::new(Self { spare, pausing: Mutex::default(), restricted: AtomicUsize::new(0) })
    }

    /// A place for the calling thread, as one of `group`.
    #[must_use]
    pub fn seat(self: &Arc<Self>, group: usize) -> Seat {
        let now = now();
        Seat { group, looked: now, burst: Usage::default(), restless: now, mask: None, processors: self.clone() }
    }

    /// How many threads stay away from some processors now.
    #[must_use]
    pub fn restricted(&self) -> usize {
        self.restricted.load(Ordering::Relaxed)
    }

    fn pauses(&self, group: usize, now: Nanos) {
        let mut pausing = self.pausing.lock();
        let [latest, older] = &mut *pausing;
        if latest.is_some_and(|(other, _)| other != group) {
            *older = *latest;
        }
        *latest = Some((group, now));
    }

    /// Whether threads of other groups are there that pause.
    fn others_pause(&self, group: usize, now: Nanos) -> bool {
        let recent = |(other, at): &(usize, Nanos)| *other != group && now.saturating_sub(*at) < LATELY;
        self.pausing.lock().iter().flatten().any(recent)
    }

    /// The processors that remain for a thread without a pause, if that is less than `all`.
    fn without_spare(&self, all: &CpuSet) -> Option<CpuSet> {
        let numbers: Vec<_> = (0..CpuSet::count()).filter(|number| all.is_set(*number) == Ok(true)).collect();
        let left = numbers.len().saturating_sub(self.spare).max(1);
        // The last, as device interrupts often go to the first. Each process of a machine chooses the same.
        let mut rest = *all;
        for number in numbers.get(left..)? {
            rest.unset(*number).ok()?;
        }
        (rest != *all).then_some(rest)
    }
}

/// A thread's place among the processors.
#[derive(Debug)]
pub struct Seat {
    group: usize,
    looked: Nanos,
    /// What the thread had used when it was last seen to have paused.
    burst: Usage,
    /// Until when it is expected to go without a pause.
    restless: Nanos,
    /// What it was told to use; none until it has been restricted for the first time.
    mask: Option<Mask>,
    processors: Arc<Processors>,
}

#[derive(Debug, Clone, Copy)]
struct Mask {
    restrict: bool,
    /// It does make a difference.
    restricted: bool,
    set: CpuSet,
    at: Nanos,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    processor: Nanos,
    pauses: i64,
}

impl Seat {
    /// See what the calling thread, whose seat this is, has used, and act on it. Where the kernel refuses, all stays as
    /// it is.
    pub(crate) fn look(&mut self, now: Nanos) {
        if now.saturating_sub(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        if let Some(usage) = usage() {
            let restrict = self.judge(usage, now);
            self.settle(restrict, now);
        }
    }

    /// Whether the thread should stay away from the spare processors.
    fn judge(&mut self, usage: Usage, now: Nanos) -> bool {
        if usage.pauses != self.burst.pauses {
            self.burst = usage;
        }
        let took = usage.processor.saturating_sub(self.burst.processor);
        if took >= LONG {
            self.burst = usage;
            self.restless = (self.restless.max(now) + took * EXPECTED).min(now + EXPECTED_MOST);
        }
        let restless = now < self.restless;
        if !restless {
            self.processors.pauses(self.group, now);
        }
        restless && self.processors.spare > 0 && self.processors.others_pause(self.group, now)
    }

    fn settle(&mut self, restrict: bool, now: Nanos) {
        let stands = |mask: Mask| mask.restrict == restrict && now.saturating_sub(mask.at) < FOLLOW;
        if self.mask.map_or(!restrict, stands) {
            return;
        }
        // The main thread's: what an administrator or the kubelet allows the process at this moment.
        let Ok(all) = sched_getaffinity(getpid()) else { return };
        let rest = restrict.then(|| self.processors.without_spare(&all)).flatten();
        let restricted = rest.is_some();
        let set = rest.unwrap_or(all);
        let changes = self.mask.map_or(restricted, |mask| mask.set != set);
        if changes && sched_setaffinity(Pid::from_raw(0), &set).is_err() {
            return;
        }
        self.count(restricted);
        self.mask = Some(Mask { restrict, restricted, set, at: now });
    }

    fn count(&self, restricted: bool) {
        match (self.mask.is_some_and(|mask| mask.restricted), restricted) {
            (false, true) => self.processors.restricted.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.processors.restricted.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.count(false);
    }
}

/// What the calling thread has used, and how often others had the processor instead: whether it waited or had to.
fn usage() -> Option<Usage> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let processor = u64::try_from(micros).ok()? * 1_000;
    Some(Usage { processor, pauses: usage.voluntary_context_switches() + usage.involuntary_context_switches() })
}

#[cfg(test)]
mod tests;
