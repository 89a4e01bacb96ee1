#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use std::sync::atomic::AtomicBool;
use std::thread;

use tokio::task::yield_now;

use super::*;
use crate::block_on;

/// Looks at a thread's usage that is made up.
struct Thread {
    seat: Seat,
    usage: Usage,
}

impl Thread {
    fn new(processors: &Arc<Processors>, group: usize) -> Self {
        Self { seat: processors.seat(group), usage: Usage::default() }
    }

    /// Run until `now` without a pause.
    fn runs(&mut self, took: Nanos, now: Nanos) -> bool {
        self.usage.processor += took;
        self.seat.judge(self.usage, now)
    }

    /// Run until `now`, with pauses.
    fn pauses(&mut self, took: Nanos, now: Nanos) -> bool {
        self.usage.pauses += 1;
        self.runs(took, now)
    }
}

#[test]
fn who_goes_without_a_pause_leaves_processors_to_others_that_pause() {
    let (processors, now) = (Processors::new(1), now() + LATELY);
    let (mut busy, mut quiet) = (Thread::new(&processors, 0), Thread::new(&processors, 1));
    assert!(!busy.runs(LONG, now), "nobody else is there");
    assert!(!quiet.pauses(LONG * 10, now));
    assert!(busy.runs(LONG, now));
    assert!(!busy.runs(LONG, now + LATELY), "the others have left");
}

#[test]
fn threads_of_the_same_group_do_not_make_room_for_each_other() {
    let (processors, now) = (Processors::new(1), now() + LATELY);
    let (mut busy, mut quiet) = (Thread::new(&processors, 0), Thread::new(&processors, 0));
    quiet.pauses(LONG, now);
    assert!(!busy.runs(LONG, now));
    Thread::new(&processors, 1).pauses(LONG, now);
    quiet.pauses(LONG, now);
    assert!(busy.runs(LONG, now), "the other group is remembered beside the own");
}

#[test]
fn where_none_is_spared_nobody_stays_away() {
    let (processors, now) = (Processors::new(0), now() + LATELY);
    Thread::new(&processors, 1).pauses(LONG, now);
    assert!(!Thread::new(&processors, 0).runs(LONG, now));
}

#[test]
fn two_that_go_without_a_pause_do_not_make_room_for_each_other() {
    let (processors, now) = (Processors::new(1), now() + LATELY);
    let mut busy = [0, 1].map(|group| Thread::new(&processors, group));
    assert!(!busy.iter_mut().any(|thread| thread.runs(LONG, now)));
}

#[test]
fn it_is_expected_again_the_longer_the_longer_it_was() {
    let (processors, now) = (Processors::new(1), now() + LATELY);
    let (mut busy, mut quiet) = (Thread::new(&processors, 0), Thread::new(&processors, 1));
    let mut restricted = |took: Nanos, after: Nanos| {
        quiet.pauses(LONG, now);
        busy.runs(took, now);
        quiet.pauses(LONG, now + after);
        busy.pauses(0, now + after)
    };
    assert!(!restricted(LONG / 2, 1_000_000));
    assert!(restricted(LONG, 99_000_000));
    assert!(!restricted(LONG, 201_000_000));
    assert!(!restricted(LONG * 100, EXPECTED_MOST), "a second at most");
}

#[test]
fn one_processor_remains_for_those_without_a_pause() {
    let mut all = CpuSet::new();
    [1, 4, 6].into_iter().for_each(|number| all.set(number).unwrap());
    let rest = |spare| {
        let rest = Processors::new(spare).without_spare(&all)?;
        Some((0..CpuSet::count()).filter(|number| rest.is_set(*number).unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(rest(0), None);
    assert_eq!(rest(1), Some(vec![1, 4]));
    assert_eq!(rest(2), Some(vec![1]));
    assert_eq!(rest(9), Some(vec![1]));
    all = CpuSet::new();
    all.set(3).unwrap();
    assert_eq!(Processors::new(1).without_spare(&all), None);
}

#[test]
fn a_thread_that_pauses_again_has_all_its_processors() {
    let all = sched_getaffinity(getpid()).unwrap();
    let processors = Processors::new(1);
    let Some(rest) = processors.without_spare(&all) else { return };
    let ends = Arc::new(AtomicBool::new(false));
    let quiet = {
        let (seat, ends) = (processors.seat(1), ends.clone());
        thread::spawn(move || run(seat, async move { pause_until(|| ends.load(Ordering::Relaxed)).await }))
    };
    let busy = {
        let (seat, deadline) = (processors.seat(0), now() + 20_000_000_000);
        let allowed = move || {
            assert!(now() < deadline, "not within 20 s");
            sched_getaffinity(Pid::from_raw(0)).unwrap()
        };
        thread::spawn(move || {
            run(seat, async move {
                while allowed() != rest {
                    yield_now().await;
                }
                pause_until(|| allowed() == all).await;
            });
        })
    };
    let outcome = busy.join();
    ends.store(true, Ordering::Relaxed);
    quiet.join().unwrap();
    outcome.unwrap();
    assert_eq!(processors.restricted(), 0);
}

async fn pause_until(done: impl Fn() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn run(seat: Seat, main: impl Future<Output = ()> + 'static) {
    block_on(&tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(), Some(seat), main);
}
