//! Tasks, whose they are, and the loop that runs them.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_task::{Builder, Runnable, Task};
use parking_lot::Mutex;
use pin_project_lite::pin_project;
use slab::Slab;
use tokio::runtime::Runtime;
use tokio::task::coop;

use crate::clock::{Nanos, now};
use crate::queue::FairQueue;
use crate::spare::Seat;
use crate::turn;

/// Tasks run for so long before the kernel is asked what else is ready.
const ROUND: Nanos = 100_000;
/// Who was busy so long ago is still taken into account.
const LATELY: Nanos = 10_000_000;

/// The share of what belongs to nobody.
const OWN: usize = 0;

thread_local! {
    static HERE: RefCell<Option<Rc<Thread>>> = const { RefCell::new(None) };
}

/// The part of a thread's time that belongs to somebody, and the tasks that use it.
#[derive(Debug)]
pub struct Share {
    key: usize,
    thread: Rc<Thread>,
    cut: Cell<bool>,
}

impl Share {
    /// Make a share of this thread's time.
    ///
    /// # Panics
    /// Outside of [`block_on`].
    #[must_use]
    pub fn new() -> Self {
        let thread = here();
        let key = thread.queue.borrow_mut().add();
        Self { key, thread, cut: Cell::new(false) }
    }

    /// Run a task that ends when the share is cut, at the latest.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if !self.cut.get() {
            self.thread.spawn(self.key, true, task);
        }
    }

    /// Run a task that ends by itself.
    pub fn spawn_uncut(&self, task: impl Future<Output = ()> + 'static) {
        self.thread.spawn(self.key, false, task);
    }

    /// End the tasks; there will be no others, but those that end by themselves.
    pub fn cut(&self) {
        self.cut.set(true);
        self.thread.cancel(|task| task.share == self.key && task.cut);
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.thread.release(self.key);
    }
}

/// Run a task of whom the running task belongs to. It ends by itself.
///
/// # Panics
/// Outside of [`block_on`].
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    let thread = here();
    thread.spawn(thread.running.get(), false, task);
}

/// Run `main` and the tasks that come of it, until it has ended; what is left of them is dropped. With a seat, the thread
/// leaves some processors to others while it goes without a pause.
///
/// A task that panics ends alone; a panic of `main` is passed on.
///
/// # Panics
/// Within another on the same thread.
pub fn block_on<T: 'static>(runtime: &Runtime, mut seat: Option<Seat>, main: impl Future<Output = T> + 'static) -> T {
    let _entered = runtime.enter();
    let running = Running::begin();
    let thread = &running.0;
    let outcome = Rc::new(Cell::new(None));
    spawn(keep_outcome(main, outcome.clone()));
    // Each task counts for itself (`turn`), so that the runtime need not count for all of them together.
    let outcome = runtime.block_on(coop::unconstrained(poll_fn(|context| {
        thread.inbox.wakes(context.waker());
        let (more, at) = thread.round();
        if let Some(seat) = &mut seat {
            seat.look(at);
        }
        if let Some(outcome) = outcome.take() {
            return Poll::Ready(outcome);
        }
        if more {
            context.waker().wake_by_ref();
        } else {
            thread.awake.set(false);
        }
        Poll::Pending
    })));
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

type Outcome<T> = Result<T, Box<dyn Any + Send>>;

async fn keep_outcome<T>(future: impl Future<Output = T>, outcome: Rc<Cell<Option<Outcome<T>>>>) {
    let mut future = pin!(future);
    let guarded = poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    });
    outcome.set(Some(guarded.await));
}

fn here() -> Rc<Thread> {
    #[allow(clippy::expect_used, reason = "a fault of the caller's")]
    HERE.with_borrow(Clone::clone).expect("a task runs within block_on only")
}

/// The thread's tasks, for as long as they run.
struct Running(Rc<Thread>);

impl Running {
    fn begin() -> Self {
        let thread = Rc::new(Thread::default());
        let own = thread.queue.borrow_mut().add();
        debug_assert_eq!(own, OWN);
        let before = HERE.replace(Some(thread.clone()));
        assert!(before.is_none(), "block_on within block_on");
        Self(thread)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.end();
        HERE.take();
    }
}

#[derive(Default)]
struct Thread {
    inbox: Arc<Inbox>,
    queue: RefCell<FairQueue<Runnable<usize>>>,
    tasks: RefCell<Slab<Listed>>,
    /// Whose task runs.
    running: Cell<usize>,
    /// A round is going on, or has been asked for.
    awake: Cell<bool>,
    ended: Cell<bool>,
    busy: Cell<Option<Busy>>,
}

/// Who had the thread last.
#[derive(Debug, Clone, Copy)]
struct Busy {
    share: usize,
    since: Nanos,
}

struct Listed {
    /// Taken when the task is cancelled.
    task: Option<Task<(), usize>>,
    share: usize,
    cut: bool,
}

impl Thread {
    fn spawn<F: Future<Output = ()> + 'static>(&self, share: usize, cut: bool, future: F) {
        if self.ended.get() {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let listing = Listing { key: entry.key() };
        let inbox = self.inbox.clone();
        let (runnable, task) = Builder::new()
            .metadata(share)
            .spawn_local(move |_| Spawned { future, _listing: listing }, move |runnable| inbox.schedule(runnable));
        entry.insert(Listed { task: Some(task), share, cut });
        drop(tasks);
        self.queue.borrow_mut().hold(share);
        runnable.schedule();
    }

    fn push(&self, runnable: Runnable<usize>) {
        self.queue.borrow_mut().push(*runnable.metadata(), runnable);
        if !self.awake.replace(true) {
            self.inbox.wake();
        }
    }

    /// Run tasks for a while. Returns whether some are left, and the time.
    fn round(&self) -> (bool, Nanos) {
        self.awake.set(true);
        for runnable in self.inbox.take() {
            self.push(runnable);
        }
        let began = now();
        let mut at = began;
        while at - began < ROUND {
            let Some((share, runnable)) = self.queue.borrow_mut().pop() else { break };
            self.running.set(share);
            turn::begin(self.turn(share, at));
            // The task is dropped and the panic has been reported; nothing else of it is left.
            let _ = catch_unwind(AssertUnwindSafe(|| runnable.run()));
            let ended = now();
            self.queue.borrow_mut().served(share, ended - at);
            at = ended;
        }
        self.running.set(OWN);
        turn::end();
        (!self.queue.borrow().is_empty(), at)
    }

    /// How long a turn `share` has.
    fn turn(&self, share: usize, now: Nanos) -> turn::Length {
        let same = self.busy.get().filter(|busy| busy.share == share);
        let busy = same.unwrap_or(Busy { share, since: now });
        self.busy.set(Some(busy));
        if now - busy.since < LATELY { turn::SHORT } else { turn::LONG }
    }

    fn cancel(&self, which: impl Fn(&Listed) -> bool) {
        let taken = |(_, task): (usize, &mut Listed)| if which(task) { task.task.take() } else { None };
        // Dropped, which cancels them, when nothing is borrowed any more.
        let cancelled: Vec<_> = self.tasks.borrow_mut().iter_mut().filter_map(taken).collect();
        drop(cancelled);
    }

    fn release(&self, share: usize) {
        self.queue.borrow_mut().release(share);
    }

    /// Drop all tasks. One that another thread is just about to wake is with us in a moment.
    fn end(&self) {
        self.ended.set(true);
        // There is nobody to wake any more.
        self.awake.set(true);
        self.cancel(|_| true);
        while !self.tasks.borrow().is_empty() {
            self.round();
            std::thread::yield_now();
        }
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("tasks", &self.tasks.borrow().len()).finish_non_exhaustive()
    }
}

/// Tasks that other threads have woken.
#[derive(Default)]
struct Inbox {
    woken: Mutex<Vec<Runnable<usize>>>,
    waker: Mutex<Option<Waker>>,
}

impl Inbox {
    /// Called by whoever wakes a task, on any thread.
    fn schedule(self: &Arc<Self>, runnable: Runnable<usize>) {
        let thread = HERE.try_with(|here| here.borrow().as_ref().filter(|it| Arc::ptr_eq(&it.inbox, self)).cloned());
        if let Ok(Some(thread)) = thread {
            thread.push(runnable);
        } else {
            self.woken.lock().push(runnable);
            self.wake();
        }
    }

    fn take(&self) -> Vec<Runnable<usize>> {
        std::mem::take(&mut *self.woken.lock())
    }

    fn wakes(&self, waker: &Waker) {
        let mut known = self.waker.lock();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }
}

pin_project! {
    /// A task on the thread's list. By hand, because an `async` block would hold the future twice.
    struct Spawned<F> {
        #[pin]
        future: F,
        _listing: Listing,
    }
}

impl<F: Future> Future for Spawned<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(context)
    }
}

/// Takes a task off the list when it has ended, however it has.
struct Listing {
    key: usize,
}

impl Drop for Listing {
    fn drop(&mut self) {
        let thread = here();
        let ended = thread.tasks.borrow_mut().try_remove(self.key);
        if let Some(Listed { task, share, .. }) = ended {
            if let Some(task) = task {
                task.detach();
            }
            thread.release(share);
        }
    }
}

#[cfg(test)]
mod tests;
