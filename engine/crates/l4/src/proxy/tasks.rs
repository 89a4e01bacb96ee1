//! The tasks of one pod on one core, which are cut when the pod is stopped.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use slab::Slab;
use tokio::task::AbortHandle;

/// Bytes that a connection's task may keep while the connection stands. Without optimisation it is a word more.
const MAX_TASK: usize = if cfg!(debug_assertions) { 664 } else { 656 };

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    /// What is cut when the pod is stopped: a list costs each task less memory than a wait for the pod's end would.
    running: RefCell<Slab<AbortHandle>>,
    stopped: Cell<bool>,
}

impl Tasks {
    /// Run a task that ends with the pod at the latest.
    pub(super) fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, task: F) {
        const { assert!(size_of::<F>() <= MAX_TASK) };
        if self.stopped.get() {
            return;
        }
        let mut running = self.running.borrow_mut();
        let entry = running.vacant_entry();
        let listed = Listed { tasks: self.clone(), key: entry.key() };
        entry.insert(tokio::task::spawn_local(Task { task, _listed: listed }).abort_handle());
    }

    /// Cut all tasks; there will be no others.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
        // Taken out first: a task that ends takes itself off the list.
        let tasks: Vec<_> = self.running.borrow().iter().map(|(_, task)| task.clone()).collect();
        tasks.iter().for_each(AbortHandle::abort);
    }
}

pin_project! {
    /// A task on its pod's list. By hand, because an `async` block would hold the task twice.
    struct Task<F> {
        #[pin]
        task: F,
        _listed: Listed,
    }
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.project().task.poll(context)
    }
}

/// Takes a task off the list when it ends, however it does.
#[derive(Debug)]
struct Listed {
    tasks: Rc<Tasks>,
    key: usize,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.tasks.running.borrow_mut().try_remove(self.key);
    }
}
