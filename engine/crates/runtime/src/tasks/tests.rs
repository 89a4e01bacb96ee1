#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed unwrap is a failed test")]
use std::future::pending;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::*;

fn run<T: 'static>(main: impl Future<Output = T> + 'static) -> T {
    block_on(&tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(), None, main)
}

/// Says when it is dropped.
struct OnDrop(Option<std::sync::mpsc::Sender<&'static str>>, &'static str);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.take().unwrap().send(self.1).unwrap();
    }
}

#[test]
fn tasks_run_sleep_and_are_woken_from_other_threads() {
    let answer = run(async {
        let (received, answer) = oneshot::channel();
        let (from_thread, woken) = oneshot::channel();
        spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            received.send(woken.await.unwrap()).unwrap();
        });
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            from_thread.send("woken").unwrap();
        });
        answer.await.unwrap()
    });
    assert_eq!(answer, "woken");
}

#[test]
fn a_group_with_many_tasks_does_not_starve_others() {
    let most = run(async {
        let (busy, quiet) = (TaskGroup::new(), TaskGroup::new());
        let rounds = Rc::new(Cell::new(0_u32));
        for _ in 0..200 {
            let rounds = rounds.clone();
            busy.spawn(async move {
                loop {
                    rounds.set(rounds.get() + 1);
                    let began = Instant::now();
                    while began.elapsed() < Duration::from_micros(20) {}
                    yield_now().await;
                }
            });
        }
        let (received, most) = oneshot::channel();
        quiet.spawn(async move {
            let mut waited = Vec::new();
            for _ in 0..101 {
                let before = rounds.get();
                yield_now().await;
                waited.push(rounds.get() - before);
            }
            waited.sort_unstable();
            received.send(waited.get(50).copied()).unwrap();
        });
        most.await.unwrap()
    });
    assert!(most.is_some_and(|most| most <= 10), "{most:?} of 200 came first");
}

#[test]
fn a_panic_ends_its_task_alone() {
    run(async {
        let (received, dropped) = oneshot::channel::<()>();
        spawn(async move {
            let _held = received;
            panic!("a fault");
        });
        assert!(dropped.await.is_err());
        yield_now().await;
    });
}

#[test]
#[should_panic(expected = "the main one's")]
fn a_panic_of_the_main_task_is_passed_on() {
    run(async {
        yield_now().await;
        panic!("the main one's");
    });
}

#[test]
fn aborting_a_group_ends_its_abortable_tasks_and_refuses_new_ones() {
    let (sender, received) = std::sync::mpsc::channel();
    let again = sender.clone();
    run(async move {
        let group = TaskGroup::new();
        let (abortable, detached, late) = (
            OnDrop(Some(sender.clone()), "abortable"),
            OnDrop(Some(sender.clone()), "detached"),
            OnDrop(Some(sender), "late"),
        );
        group.spawn(async move {
            let _held = abortable;
            pending::<()>().await;
        });
        group.spawn_detached(async move {
            let _held = detached;
            pending::<()>().await;
        });
        yield_now().await;
        group.abort();
        yield_now().await;
        again.send("was aborted").unwrap();
        group.spawn(async move {
            let _held = late;
            pending::<()>().await;
        });
        yield_now().await;
        drop(group);
        again.send("ends").unwrap();
    });
    assert_eq!(received.iter().collect::<Vec<_>>(), ["abortable", "was aborted", "late", "ends", "detached"]);
}

#[test]
fn remaining_tasks_are_dropped_even_while_others_wake_them() {
    for _ in 0..200 {
        let (sender, received) = std::sync::mpsc::channel();
        let (wake, woken) = oneshot::channel::<()>();
        let waking = std::thread::spawn(move || wake.send(()));
        run(async move {
            let held = OnDrop(Some(sender), "dropped");
            spawn(async move {
                let _held = held;
                let _ = woken.await;
                pending::<()>().await;
            });
        });
        assert_eq!(received.recv().unwrap(), "dropped");
        let _ = waking.join().unwrap();
    }
}

#[test]
fn a_task_yields_when_its_budget_is_used_up() {
    let turns = run(async {
        let mut turns = 1;
        let mut left = 0;
        poll_fn(|context| {
            while left < 100 {
                if budget::poll_proceed(context).is_pending() {
                    turns += 1;
                    return Poll::Pending;
                }
                budget::consume(60 * 1024);
                left += 1;
            }
            Poll::Ready(())
        })
        .await;
        turns
    });
    assert!((12..=100).contains(&turns), "{turns}");
}
