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

/// Nobody else is there.
pub(crate) const LONG: Length = Length { turn: 512 * 1024, step: 256 * 1024 };
/// Others are: one turn takes some 50 µs.
pub(crate) const SHORT: Length = Length { turn: 64 * 1024, step: 64 * 1024 };
/// Outside of [`crate::block_on`] nobody counts.
const ENDLESS: Length = Length { turn: usize::MAX, step: LONG.step };

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(ENDLESS.turn) };
    static STEP: Cell<usize> = const { Cell::new(ENDLESS.step) };
}

/// Begin a task's turn.
pub(crate) fn begin(length: Length) {
    LEFT.set(length.turn);
    STEP.set(length.step);
}

/// No task's turn.
pub(crate) fn end() {
    begin(ENDLESS);
}

/// Bytes that an operation of the task should move at most.
#[must_use]
pub fn step() -> usize {
    STEP.get()
}

/// Count `bytes` that this task has moved, or work that costs as much.
pub fn spend(bytes: usize) {
    LEFT.set(LEFT.get().saturating_sub(bytes));
}

/// Ready if something is left of this turn, and takes an operation of it; else the task is woken for another.
pub fn poll_left(context: &mut Context<'_>) -> Poll<()> {
    if LEFT.get() == 0 {
        context.waker().wake_by_ref();
        return Poll::Pending;
    }
    spend(OPERATION);
    Poll::Ready(())
}
