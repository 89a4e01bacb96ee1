#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use std::sync::atomic::AtomicBool;
use std::thread;

use tokio::task::yield_now;

use super::*;
use crate::block_on;

/// Looks at a thread's usage that is made up.
struct Thread {
    affinity: CpuAffinity,
    usage: Usage,
}

impl Thread {
    fn new(cpus: &Arc<CpuReservation>, group: usize) -> Self {
        Self { affinity: cpus.affinity(group), usage: Usage::default() }
    }

    /// Run until `now` without a context switch.
    fn runs(&mut self, took: Nanos, now: Nanos) -> bool {
        self.usage.cpu_time += took;
        self.affinity.must_restrict(self.usage, now)
    }

    /// Run until `now`, with switches.
    fn note_yield(&mut self, took: Nanos, now: Nanos) -> bool {
        self.usage.switches += 1;
        self.runs(took, now)
    }
}

#[test]
fn a_cpu_bound_thread_leaves_cpus_to_groups_that_yield() {
    let (cpus, now) = (CpuReservation::new(1), now() + GROUP_TIMEOUT);
    let (mut busy, mut quiet) = (Thread::new(&cpus, 0), Thread::new(&cpus, 1));
    assert!(!busy.runs(CPU_BOUND_AFTER, now), "no other group is there");
    assert!(!quiet.note_yield(CPU_BOUND_AFTER * 10, now));
    assert!(busy.runs(CPU_BOUND_AFTER, now));
    assert!(!busy.runs(CPU_BOUND_AFTER, now + GROUP_TIMEOUT), "the others have left");
}

#[test]
fn threads_of_the_same_group_do_not_make_room_for_each_other() {
    let (cpus, now) = (CpuReservation::new(1), now() + GROUP_TIMEOUT);
    let (mut busy, mut quiet) = (Thread::new(&cpus, 0), Thread::new(&cpus, 0));
    quiet.note_yield(CPU_BOUND_AFTER, now);
    assert!(!busy.runs(CPU_BOUND_AFTER, now));
    Thread::new(&cpus, 1).note_yield(CPU_BOUND_AFTER, now);
    quiet.note_yield(CPU_BOUND_AFTER, now);
    assert!(busy.runs(CPU_BOUND_AFTER, now), "the other group is remembered beside the own");
}

#[test]
fn without_reserved_cpus_no_thread_is_restricted() {
    let (cpus, now) = (CpuReservation::new(0), now() + GROUP_TIMEOUT);
    Thread::new(&cpus, 1).note_yield(CPU_BOUND_AFTER, now);
    assert!(!Thread::new(&cpus, 0).runs(CPU_BOUND_AFTER, now));
}

#[test]
fn cpu_bound_threads_do_not_make_room_for_each_other() {
    let (cpus, now) = (CpuReservation::new(1), now() + GROUP_TIMEOUT);
    let mut busy = [0, 1].map(|group| Thread::new(&cpus, group));
    assert!(!busy.iter_mut().any(|thread| thread.runs(CPU_BOUND_AFTER, now)));
}

#[test]
fn longer_cpu_bound_runs_predict_longer_ones() {
    let (cpus, now) = (CpuReservation::new(1), now() + GROUP_TIMEOUT);
    let (mut busy, mut quiet) = (Thread::new(&cpus, 0), Thread::new(&cpus, 1));
    let mut restricted = |took: Nanos, after: Nanos| {
        quiet.note_yield(CPU_BOUND_AFTER, now);
        busy.runs(took, now);
        quiet.note_yield(CPU_BOUND_AFTER, now + after);
        busy.note_yield(0, now + after)
    };
    assert!(!restricted(CPU_BOUND_AFTER / 2, 1_000_000));
    assert!(restricted(CPU_BOUND_AFTER, 99_000_000));
    assert!(!restricted(CPU_BOUND_AFTER, 201_000_000));
    assert!(!restricted(CPU_BOUND_AFTER * 100, MAX_PREDICTION), "a second at most");
}

#[test]
fn one_cpu_remains_for_cpu_bound_threads() {
    let mut all = CpuSet::new();
    [1, 4, 6].into_iter().for_each(|number| all.set(number).unwrap());
    let rest = |reserved| {
        let rest = CpuReservation::new(reserved).without_reserved(&all)?;
        Some((0..CpuSet::count()).filter(|number| rest.is_set(*number).unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(rest(0), None);
    assert_eq!(rest(1), Some(vec![1, 4]));
    assert_eq!(rest(2), Some(vec![1]));
    assert_eq!(rest(9), Some(vec![1]));
    all = CpuSet::new();
    all.set(3).unwrap();
    assert_eq!(CpuReservation::new(1).without_reserved(&all), None);
}

#[test]
fn a_thread_that_yields_again_gets_all_cpus_back() {
    let all = sched_getaffinity(getpid()).unwrap();
    let cpus = CpuReservation::new(1);
    let Some(rest) = cpus.without_reserved(&all) else { return };
    let ends = Arc::new(AtomicBool::new(false));
    let quiet = {
        let (affinity, ends) = (cpus.affinity(1), ends.clone());
        thread::spawn(move || run(affinity, async move { yield_until(|| ends.load(Ordering::Relaxed)).await }))
    };
    let busy = {
        let (affinity, deadline) = (cpus.affinity(0), now() + 20_000_000_000);
        let allowed = move || {
            assert!(now() < deadline, "not within 20 s");
            sched_getaffinity(Pid::from_raw(0)).unwrap()
        };
        thread::spawn(move || {
            run(affinity, async move {
                while allowed() != rest {
                    yield_now().await;
                }
                yield_until(|| allowed() == all).await;
            });
        })
    };
    let outcome = busy.join();
    ends.store(true, Ordering::Relaxed);
    quiet.join().unwrap();
    outcome.unwrap();
    assert_eq!(cpus.restricted(), 0);
}

async fn yield_until(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn run(affinity: CpuAffinity, main: impl Future<Output = ()> + 'static) {
    block_on(&tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(), Some(affinity), main);
}
