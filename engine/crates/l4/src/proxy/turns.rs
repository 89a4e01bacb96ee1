//! How the pods on a core share its time.
//!
//! The runtime runs tasks in the order in which they became ready, so a pod with hundreds of busy connections would have
//! hundreds of turns to each one of its neighbour's. Here time is dealt out in rounds: the tasks of a pod that has used
//! its share wait until everything that was ready before them has run and the kernel has been asked what arrived
//! meanwhile. Where nobody else has work, a round is over at once and nothing is lost.
//!
//! What a task uses is not measured but reckoned, in bytes: a clock would charge it for what the kernel lets others do.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use culvert_net::turn;

/// What a pod may use in a round: some dozens of small turns, or two large steps of a bulk transfer. Half a millisecond.
const SHARE: u64 = 512 * 1024;

/// What each turn of a task costs, whatever it moves.
const TURN: u64 = 8 * 1024;

/// One core's rounds.
#[derive(Debug, Default)]
pub(super) struct Turns {
    round: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
    /// Ends the round.
    end: RefCell<Option<Waker>>,
}

/// One pod's share of a core.
#[derive(Debug)]
pub(super) struct Share {
    turns: Rc<Turns>,
    /// The round that `used` is of.
    round: Cell<u64>,
    used: Cell<u64>,
}

impl Turns {
    /// End each round in which somebody waits; runs as long as the core.
    pub(super) async fn run(&self) {
        loop {
            poll_fn(|context| {
                if self.waiting.borrow().is_empty() {
                    self.end.replace(Some(context.waker().clone()));
                    return Poll::Pending;
                }
                Poll::Ready(())
            })
            .await;
            // The runtime comes back to a task that yields only after it has asked the kernel for news.
            tokio::task::yield_now().await;
            self.round.set(self.round.get() + 1);
            self.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    fn wait(&self, task: &Waker) {
        self.waiting.borrow_mut().push(task.clone());
        if let Some(end) = self.end.take() {
            end.wake();
        }
    }
}

impl Share {
    pub(super) const fn new(turns: Rc<Turns>) -> Self {
        Self { turns, round: Cell::new(0), used: Cell::new(0) }
    }

    /// Let one of the pod's tasks run if there is something left of the pod's share; else it is woken in a later round.
    pub(super) fn poll<T>(&self, context: &mut Context<'_>, task: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if self.is_used_up() {
            self.turns.wait(context.waker());
            return Poll::Pending;
        }
        let before = turn::spent();
        let polled = task(context);
        self.used.set(self.used.get() + TURN + turn::spent() - before);
        polled
    }

    fn is_used_up(&self) -> bool {
        let now = self.turns.round.get();
        if self.round.replace(now) != now {
            self.used.set(0);
        }
        self.used.get() >= SHARE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::Pin;
    use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

    const FLOOD: usize = 600;
    const TURNS: usize = 200;

    /// Always ready.
    async fn busy(turns: usize, count: Rc<Cell<usize>>) {
        for _ in 0..turns {
            count.set(count.get() + 1);
            yield_now().await;
        }
    }

    fn spawn(share: &Rc<Share>, task: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
        let (share, mut task) = (share.clone(), Box::pin(task));
        spawn_local(poll_fn(move |context| share.poll(context, |context| Pin::new(&mut task).poll(context))))
    }

    async fn on_a_core(work: impl AsyncFnOnce(Rc<Turns>)) {
        let turns = Rc::new(Turns::default());
        let rounds = turns.clone();
        let local = LocalSet::new();
        local.spawn_local(async move { rounds.run().await });
        local.run_until(work(turns)).await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn many_busy_tasks_of_one_pod_get_no_more_than_its_share_for_each_turn_of_another() {
        on_a_core(async |turns| {
            let share = || Rc::new(Share::new(turns.clone()));
            let (flooding, neighbour) = (share(), share());
            let (floods, ours) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
            for _ in 0..FLOOD {
                spawn(&flooding, busy(usize::MAX, floods.clone()));
            }
            assert!(spawn(&neighbour, busy(TURNS, ours.clone())).await.is_ok());
            let each = floods.get() / TURNS;
            assert!(each <= 2 * (SHARE / TURN) as usize, "{each} turns of the flood to one of its neighbour's");
            assert!(each > 0);
        })
        .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_pod_alone_gets_everything() {
        on_a_core(async |turns| {
            let (share, count) = (Rc::new(Share::new(turns)), Rc::new(Cell::new(0)));
            let tasks: Vec<_> = (0..FLOOD).map(|_| spawn(&share, busy(50, count.clone()))).collect();
            for task in tasks {
                assert!(task.await.is_ok());
            }
            assert_eq!(count.get(), 50 * FLOOD);
        })
        .await;
    }
}
