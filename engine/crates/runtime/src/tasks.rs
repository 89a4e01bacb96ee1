//! Tasks, the groups they belong to, and the loop that runs them.

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

use crate::affinity::CpuAffinity;
use crate::budget;
use crate::clock::{Nanos, now};
use crate::queue::FairQueue;

/// How long tasks run before the kernel is polled for further readiness.
const BATCH: Nanos = 100_000;
/// How long a group must have had the thread to itself to get the larger budget.
const BUSY_WINDOW: Nanos = 10_000_000;

/// The group of tasks that belong to none.
const UNGROUPED: usize = 0;

thread_local! {
    static HERE: RefCell<Option<Rc<Thread>>> = const { RefCell::new(None) };
}

/// Tasks that share one part of a thread's time, such as those of one pod.
#[derive(Debug)]
pub struct TaskGroup {
    key: usize,
    thread: Rc<Thread>,
    aborted: Cell<bool>,
}

impl TaskGroup {
    /// Add a group to this thread.
    ///
    /// # Panics
    /// Outside of [`block_on`].
    #[must_use]
    pub fn new() -> Self {
        let thread = here();
        let key = thread.queue.borrow_mut().add();
        Self { key, thread, aborted: Cell::new(false) }
    }

    /// Spawn a task that `abort` ends.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if !self.aborted.get() {
            self.thread.spawn(self.key, true, task);
        }
    }

    /// Spawn a task that ends by itself, and that `abort` does not end.
    pub fn spawn_detached(&self, task: impl Future<Output = ()> + 'static) {
        self.thread.spawn(self.key, false, task);
    }

    /// End the group's tasks and refuse new ones, detached tasks excepted.
    pub fn abort(&self) {
        self.aborted.set(true);
        self.thread.cancel(|task| task.group == self.key && task.abortable);
    }
}

impl Default for TaskGroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TaskGroup {
    fn drop(&mut self) {
        self.thread.release(self.key);
    }
}

/// Spawn a detached task in the group of the running task.
///
/// # Panics
/// Outside of [`block_on`].
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    let thread = here();
    thread.spawn(thread.running.get(), false, task);
}

/// Run `main` and the tasks that it spawns until `main` has ended; then drop the remaining tasks. With an affinity, the
/// thread leaves reserved CPUs to others while it is CPU-bound.
///
/// A task that panics ends alone; a panic of `main` is passed on.
///
/// # Panics
/// Within another on the same thread.
pub fn block_on<T: 'static>(
    runtime: &Runtime,
    mut affinity: Option<CpuAffinity>,
    main: impl Future<Output = T> + 'static,
) -> T {
    let _entered = runtime.enter();
    let running = Running::begin();
    let thread = &running.0;
    let outcome = Rc::new(Cell::new(None));
    spawn(catch_panic(main, outcome.clone()));
    // Each task has a budget of its own (`budget`), so tokio's budget for all of them together is turned off.
    let outcome = runtime.block_on(coop::unconstrained(poll_fn(|context| {
        thread.inbox.set_waker(context.waker());
        let (more, at) = thread.run_batch();
        if let Some(affinity) = &mut affinity {
            affinity.update(at);
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

async fn catch_panic<T>(future: impl Future<Output = T>, outcome: Rc<Cell<Option<Outcome<T>>>>) {
    let mut future = pin!(future);
    let guarded = poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(polled) => polled.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    });
    outcome.set(Some(guarded.await));
}

fn here() -> Rc<Thread> {
    #[allow(clippy::expect_used, reason = "a bug of the caller")]
    HERE.with_borrow(Clone::clone).expect("tasks are spawned within block_on only")
}

/// Registers the thread's scheduler while `block_on` runs.
struct Running(Rc<Thread>);

impl Running {
    fn begin() -> Self {
        let thread = Rc::new(Thread::default());
        let own = thread.queue.borrow_mut().add();
        debug_assert_eq!(own, UNGROUPED);
        let before = HERE.replace(Some(thread.clone()));
        assert!(before.is_none(), "block_on is not reentrant");
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
    tasks: RefCell<Slab<TaskEntry>>,
    /// Group of the running task.
    running: Cell<usize>,
    /// A batch runs or is scheduled.
    awake: Cell<bool>,
    ended: Cell<bool>,
    busy: Cell<Option<Busy>>,
}

/// The group that ran last, and since when.
#[derive(Debug, Clone, Copy)]
struct Busy {
    group: usize,
    since: Nanos,
}

struct TaskEntry {
    /// Taken when the task is cancelled.
    task: Option<Task<(), usize>>,
    group: usize,
    abortable: bool,
}

impl Thread {
    fn spawn<F: Future<Output = ()> + 'static>(&self, group: usize, abortable: bool, future: F) {
        if self.ended.get() {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let guard = EntryGuard { key: entry.key() };
        let inbox = self.inbox.clone();
        let (runnable, task) = Builder::new()
            .metadata(group)
            .spawn_local(move |_| Spawned { future, _guard: guard }, move |runnable| inbox.schedule(runnable));
        entry.insert(TaskEntry { task: Some(task), group, abortable });
        drop(tasks);
        self.queue.borrow_mut().hold(group);
        runnable.schedule();
    }

    fn push(&self, runnable: Runnable<usize>) {
        self.queue.borrow_mut().push(*runnable.metadata(), runnable);
        if !self.awake.replace(true) {
            self.inbox.wake();
        }
    }

    /// Run one batch of tasks. Returns whether ready tasks are left, and the time.
    fn run_batch(&self) -> (bool, Nanos) {
        self.awake.set(true);
        for runnable in self.inbox.take() {
            self.push(runnable);
        }
        let began = now();
        let mut at = began;
        while at - began < BATCH {
            let Some((group, runnable)) = self.queue.borrow_mut().pop() else { break };
            self.running.set(group);
            budget::set(self.budget(group, at));
            // A panic was reported by the hook, and the task is dropped: it costs one connection.
            let _ = catch_unwind(AssertUnwindSafe(|| runnable.run()));
            let ended = now();
            self.queue.borrow_mut().served(group, ended - at);
            at = ended;
        }
        self.running.set(UNGROUPED);
        budget::clear();
        (!self.queue.borrow().is_empty(), at)
    }

    /// The budget of the next task of `group`.
    fn budget(&self, group: usize, now: Nanos) -> budget::Budget {
        let same = self.busy.get().filter(|busy| busy.group == group);
        let busy = same.unwrap_or(Busy { group, since: now });
        self.busy.set(Some(busy));
        if now - busy.since < BUSY_WINDOW { budget::SHARED } else { budget::EXCLUSIVE }
    }

    fn cancel(&self, which: impl Fn(&TaskEntry) -> bool) {
        let taken = |(_, task): (usize, &mut TaskEntry)| if which(task) { task.task.take() } else { None };
        // Dropping a task cancels it; that must happen while nothing is borrowed.
        let cancelled: Vec<_> = self.tasks.borrow_mut().iter_mut().filter_map(taken).collect();
        drop(cancelled);
    }

    fn release(&self, group: usize) {
        self.queue.borrow_mut().release(group);
    }

    /// Drop all tasks. A task that another thread is waking arrives in a moment, so loop.
    fn end(&self) {
        self.ended.set(true);
        // Nothing is left to wake.
        self.awake.set(true);
        self.cancel(|_| true);
        while !self.tasks.borrow().is_empty() {
            self.run_batch();
            std::thread::yield_now();
        }
    }
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("tasks", &self.tasks.borrow().len()).finish_non_exhaustive()
    }
}

/// Tasks woken by other threads.
#[derive(Default)]
struct Inbox {
    woken: Mutex<Vec<Runnable<usize>>>,
    waker: Mutex<Option<Waker>>,
}

impl Inbox {
    /// Called when a task is woken, on any thread.
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

    fn set_waker(&self, waker: &Waker) {
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
    /// A task with its entry in the table. Written by hand, because an `async` block would store the future twice.
    struct Spawned<F> {
        #[pin]
        future: F,
        _guard: EntryGuard,
    }
}

impl<F: Future> Future for Spawned<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(context)
    }
}

/// Removes a task's entry when the task ends, in whatever way.
struct EntryGuard {
    key: usize,
}

impl Drop for EntryGuard {
    fn drop(&mut self) {
        let thread = here();
        let ended = thread.tasks.borrow_mut().try_remove(self.key);
        if let Some(TaskEntry { task, group, .. }) = ended {
            if let Some(task) = task {
                task.detach();
            }
            thread.release(group);
        }
    }
}

#[cfg(test)]
mod tests;
