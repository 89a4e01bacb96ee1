//! How much a task moves in one turn.
//!
//! An operation on a socket moves up to 256 KiB, so that operations cannot be counted alike: each counts by what it moves.
//! While others are busy on the same thread, turns and steps are short, because that is how long they wait.

use std::cell::Cell;
use std::task::{Context, Poll};

/// What an operation costs that moves next to nothing, in bytes moved.
const OPERATION: usize = 4 * 1024;

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Length {
    turn: usize,
    step: usize,
}

impl Length {
    const fn less(self, bytes: usize) -> Self {
        Self { turn: self.turn.saturating_sub(bytes), step: self.step }
    }
}

/// Nobody else is there.
pub(crate) const LONG: Length = Length { turn: 512 * 1024, step: 256 * 1024 };
/// Others are: one turn takes some 50 µs.
pub(crate) const SHORT: Length = Length { turn: 64 * 1024, step: 64 * 1024 };
/// Outside of [`crate::block_on`] nobody counts.
const ENDLESS: Length = Length { turn: usize::MAX, step: LONG.step };

thread_local! {
    /// What is left of the running task's turn. One variable: in a library, each access is a call.
    static LEFT: Cell<Length> = const { Cell::new(ENDLESS) };
}

/// Begin a task's turn.
pub(crate) fn begin(length: Length) {
    LEFT.set(length);
}

/// No task's turn.
pub(crate) fn end() {
    begin(ENDLESS);
}

/// Bytes that an operation of the task should move at most.
#[must_use]
pub fn step() -> usize {
    LEFT.get().step
}

/// Count `bytes` that this task has moved, or work that costs as much.
pub fn spend(bytes: usize) {
    LEFT.with(|left| left.set(left.get().less(bytes)));
}

/// Ready if something is left of this turn, and takes an operation of it; else the task is woken for another.
pub fn poll_left(context: &mut Context<'_>) -> Poll<()> {
    LEFT.with(|left| {
        if left.get().turn == 0 {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        left.set(left.get().less(OPERATION));
        Poll::Ready(())
    })
}
