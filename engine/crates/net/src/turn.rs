//! How much a task moves in one turn.
//!
//! The runtime counts a task's operations and ends its turn after 128 of them. An operation of ours moves up to 256 KiB,
//! so that a turn could take ten milliseconds. Here each of them counts by what it moves.

use std::task::{Context, Poll};

use tokio::task::coop;

/// Bytes that count as one operation.
const STEP: usize = 4 * 1024;

/// Count `bytes` that this task has moved, or work that costs as much.
pub fn spend(bytes: usize, context: &mut Context<'_>) {
    for _ in 0..bytes / STEP {
        if poll_left(context).is_pending() {
            break;
        }
    }
}

/// Ready if something is left of this turn, and takes one operation of it; else the task is woken for another.
pub(crate) fn poll_left(context: &mut Context<'_>) -> Poll<()> {
    coop::poll_proceed(context).map(|operation| operation.made_progress())
}
