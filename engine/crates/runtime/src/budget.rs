//! How many bytes a task may move before it yields.
//!
//! An operation on a socket moves up to 256 KiB, so operations cannot be counted alike: each consumes as much budget as it
//! moves bytes. While tasks of other groups are ready on the same thread, budgets and operations are small, because those
//! tasks wait that long. The words are tokio's (`tokio::task::coop`).

use std::cell::Cell;
use std::task::{Context, Poll};

/// Budget that an operation consumes besides the bytes that it moves.
const OPERATION: usize = 4 * 1024;

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    left: usize,
    max_io: usize,
}

impl Budget {
    const fn less(self, bytes: usize) -> Self {
        Self { left: self.left.saturating_sub(bytes), max_io: self.max_io }
    }
}

/// For a group that has the thread to itself.
pub(crate) const EXCLUSIVE: Budget = Budget { left: 512 * 1024, max_io: 256 * 1024 };
/// While other groups are ready; takes about 50 µs.
pub(crate) const SHARED: Budget = Budget { left: 64 * 1024, max_io: 64 * 1024 };
/// Outside of [`crate::block_on`].
const UNLIMITED: Budget = Budget { left: usize::MAX, max_io: EXCLUSIVE.max_io };

thread_local! {
    /// Budget of the running task. One variable, because in a library each access is a call.
    static CURRENT: Cell<Budget> = const { Cell::new(UNLIMITED) };
}

/// Set the budget of the task that runs next.
pub(crate) fn set(budget: Budget) {
    CURRENT.set(budget);
}

/// No task runs.
pub(crate) fn clear() {
    set(UNLIMITED);
}

/// Bytes that one operation of the task may move at most.
#[must_use]
pub fn max_io() -> usize {
    CURRENT.get().max_io
}

/// Consume budget for `bytes` that the task has moved, or for work that costs as much.
pub fn consume(bytes: usize) {
    CURRENT.with(|current| current.set(current.get().less(bytes)));
}

/// Ready if budget is left, of which one operation is consumed; else the task is woken to run again after the others.
pub fn poll_proceed(context: &mut Context<'_>) -> Poll<()> {
    CURRENT.with(|current| {
        if current.get().left == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        current.set(current.get().less(OPERATION));
        Poll::Ready(())
    })
}
