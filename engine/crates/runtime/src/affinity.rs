//! CPUs that CPU-bound threads leave free for the threads of other groups.
//!
//! The kernel lets a running thread finish its slice, which may be a tick of some milliseconds, even if others are woken
//! meanwhile. Shorter slices or thread priorities do not help where the waiting programs are in scheduling groups of their
//! own. So a CPU-bound thread keeps off the reserved CPUs while threads of other groups are there that do yield.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::{Pid, getpid};
use parking_lot::Mutex;

use crate::clock::{Nanos, nanos, now};

/// How often a thread checks its own CPU usage.
const CHECK_INTERVAL: Nanos = nanos(Duration::from_micros(250));
/// A thread is CPU-bound once it has run this long without a context switch.
const CPU_BOUND_AFTER: Nanos = nanos(Duration::from_micros(250));
/// A CPU-bound run predicts CPU-bound behaviour for this many times its length. A thread that is CPU-bound more rarely
/// uses far less than a hundredth of a CPU that way, which does not show in the p99 of others.
const PREDICTION_FACTOR: u64 = 400;
/// Longest prediction.
const MAX_PREDICTION: Nanos = nanos(Duration::from_secs(1));
/// A group counts as present for this long after one of its threads yielded.
const GROUP_TIMEOUT: Nanos = nanos(Duration::from_secs(1));
/// How often a restricted thread re-reads the CPUs that the process may use.
const RECHECK_INTERVAL: Nanos = nanos(Duration::from_secs(1));

/// The CPUs that a process may use, those reserved of them, and the groups whose threads yield.
#[derive(Debug)]
pub struct CpuReservation {
    reserved: usize,
    /// The groups whose threads yielded last, the latest first.
    yielding: Mutex<[Option<(usize, Nanos)>; 2]>,
    restricted: AtomicUsize,
}

impl CpuReservation {
    /// Reserve up to `reserved` CPUs for threads that yield; at least one CPU remains for CPU-bound threads.
    #[must_use]
    pub fn new(reserved: usize) -> Arc<Self> {
        Arc::new(Self { reserved, yielding: Mutex::default(), restricted: AtomicUsize::new(0) })
    }

    /// The affinity of the calling thread, which belongs to `group`.
    #[must_use]
    pub fn affinity(self: &Arc<Self>, group: usize) -> CpuAffinity {
        let now = now();
        CpuAffinity {
            group,
            checked: now,
            burst: Usage::default(),
            cpu_bound_until: now,
            mask: None,
            cpus: self.clone(),
        }
    }

    /// Number of threads that keep off the reserved CPUs now.
    #[must_use]
    pub fn restricted(&self) -> usize {
        self.restricted.load(Ordering::Relaxed)
    }

    fn note_yield(&self, group: usize, now: Nanos) {
        let mut yielding = self.yielding.lock();
        let [latest, previous] = &mut *yielding;
        if latest.is_some_and(|(other, _)| other != group) {
            *previous = *latest;
        }
        *latest = Some((group, now));
    }

    /// Whether threads of other groups have yielded recently.
    fn others_yield(&self, group: usize, now: Nanos) -> bool {
        let recent = |(other, at): &(usize, Nanos)| *other != group && now.saturating_sub(*at) < GROUP_TIMEOUT;
        self.yielding.lock().iter().flatten().any(recent)
    }

    /// The CPUs that remain for a CPU-bound thread, if fewer than `all`.
    fn without_reserved(&self, all: &CpuSet) -> Option<CpuSet> {
        let numbers: Vec<_> = (0..CpuSet::count()).filter(|number| all.is_set(*number) == Ok(true)).collect();
        let left = numbers.len().saturating_sub(self.reserved).max(1);
        // The last ones, because device interrupts often go to the first. Every process of a machine picks the same.
        let mut rest = *all;
        for number in numbers.get(left..)? {
            rest.unset(*number).ok()?;
        }
        (rest != *all).then_some(rest)
    }
}

/// The CPU affinity of one thread.
#[derive(Debug)]
pub struct CpuAffinity {
    group: usize,
    checked: Nanos,
    /// Usage at the last context switch that was seen.
    burst: Usage,
    /// Until when the thread is predicted to be CPU-bound.
    cpu_bound_until: Nanos,
    /// The mask last applied; none before the first restriction.
    mask: Option<Mask>,
    cpus: Arc<CpuReservation>,
}

#[derive(Debug, Clone, Copy)]
struct Mask {
    restrict: bool,
    /// The mask excludes at least one CPU.
    restricted: bool,
    set: CpuSet,
    at: Nanos,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Usage {
    cpu_time: Nanos,
    switches: i64,
}

impl CpuAffinity {
    /// Read the CPU usage of the calling thread, which this affinity belongs to, and apply the resulting mask. Where the
    /// kernel refuses, the mask stays.
    pub(crate) fn update(&mut self, now: Nanos) {
        if now.saturating_sub(self.checked) < CHECK_INTERVAL {
            return;
        }
        self.checked = now;
        if let Some(usage) = usage() {
            let restrict = self.must_restrict(usage, now);
            self.apply(restrict, now);
        }
    }

    /// Whether the thread has to keep off the reserved CPUs.
    fn must_restrict(&mut self, usage: Usage, now: Nanos) -> bool {
        if usage.switches != self.burst.switches {
            self.burst = usage;
        }
        let took = usage.cpu_time.saturating_sub(self.burst.cpu_time);
        if took >= CPU_BOUND_AFTER {
            self.burst = usage;
            self.cpu_bound_until = (self.cpu_bound_until.max(now) + took * PREDICTION_FACTOR).min(now + MAX_PREDICTION);
        }
        let cpu_bound_until = now < self.cpu_bound_until;
        if !cpu_bound_until {
            self.cpus.note_yield(self.group, now);
        }
        cpu_bound_until && self.cpus.reserved > 0 && self.cpus.others_yield(self.group, now)
    }

    fn apply(&mut self, restrict: bool, now: Nanos) {
        let is_current = |mask: Mask| mask.restrict == restrict && now.saturating_sub(mask.at) < RECHECK_INTERVAL;
        if self.mask.map_or(!restrict, is_current) {
            return;
        }
        // The main thread's mask: what an administrator or the kubelet allows the process now.
        let Ok(all) = sched_getaffinity(getpid()) else { return };
        let rest = restrict.then(|| self.cpus.without_reserved(&all)).flatten();
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
            (false, true) => self.cpus.restricted.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.cpus.restricted.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

impl Drop for CpuAffinity {
    fn drop(&mut self) {
        self.count(false);
    }
}

/// CPU time of the calling thread, and its context switches, voluntary or not.
fn usage() -> Option<Usage> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let cpu_time = u64::try_from(micros).ok()? * 1_000;
    Some(Usage { cpu_time, switches: usage.voluntary_context_switches() + usage.involuntary_context_switches() })
}

#[cfg(test)]
mod tests;
