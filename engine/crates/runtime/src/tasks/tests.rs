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
struct Told(Option<std::sync::mpsc::Sender<&'static str>>, &'static str);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.take().unwrap().send(self.1).unwrap();
    }
}

#[test]
fn tasks_run_sleep_and_are_woken_from_other_threads() {
    let answer = run(async {
        let (told, answer) = oneshot::channel();
        let (from_thread, woken) = oneshot::channel();
        spawn(async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            told.send(woken.await.unwrap()).unwrap();
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
fn who_has_much_to_do_does_not_keep_others_waiting() {
    let most = run(async {
        let (busy, quiet) = (Share::new(), Share::new());
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
        let (told, most) = oneshot::channel();
        quiet.spawn(async move {
            let mut waited = Vec::new();
            for _ in 0..101 {
                let before = rounds.get();
                yield_now().await;
                waited.push(rounds.get() - before);
            }
            waited.sort_unstable();
            told.send(waited.get(50).copied()).unwrap();
        });
        most.await.unwrap()
    });
    assert!(most.is_some_and(|most| most <= 10), "{most:?} of 200 came first");
}

#[test]
fn a_panic_ends_its_task_alone() {
    run(async {
        let (told, dropped) = oneshot::channel::<()>();
        spawn(async move {
            let _held = told;
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
fn a_share_that_is_cut_ends_what_may_be_cut_and_takes_no_more() {
    let (tell, told) = std::sync::mpsc::channel();
    let again = tell.clone();
    run(async move {
        let share = Share::new();
        let (cut, uncut, late) =
            (Told(Some(tell.clone()), "cut"), Told(Some(tell.clone()), "uncut"), Told(Some(tell), "late"));
        share.spawn(async move {
            let _held = cut;
            pending::<()>().await;
        });
        share.spawn_uncut(async move {
            let _held = uncut;
            pending::<()>().await;
        });
        yield_now().await;
        share.cut();
        yield_now().await;
        again.send("has been cut").unwrap();
        share.spawn(async move {
            let _held = late;
            pending::<()>().await;
        });
        yield_now().await;
        drop(share);
        again.send("ends").unwrap();
    });
    assert_eq!(told.iter().collect::<Vec<_>>(), ["cut", "has been cut", "late", "ends", "uncut"]);
}

#[test]
fn what_is_left_at_the_end_is_dropped_even_while_others_wake_it() {
    for _ in 0..200 {
        let (tell, told) = std::sync::mpsc::channel();
        let (wake, woken) = oneshot::channel::<()>();
        let waking = std::thread::spawn(move || wake.send(()));
        run(async move {
            let held = Told(Some(tell), "dropped");
            spawn(async move {
                let _held = held;
                let _ = woken.await;
                pending::<()>().await;
            });
        });
        assert_eq!(told.recv().unwrap(), "dropped");
        let _ = waking.join().unwrap();
    }
}

#[test]
fn a_turn_ends_when_it_is_used_up() {
    let turns = run(async {
        let mut turns = 1;
        let mut left = 0;
        poll_fn(|context| {
            while left < 100 {
                if turn::poll_left(context).is_pending() {
                    turns += 1;
                    return Poll::Pending;
                }
                turn::spend(60 * 1024);
                left += 1;
            }
            Poll::Ready(())
        })
        .await;
        turns
    });
    assert!((12..=100).contains(&turns), "{turns}");
}
