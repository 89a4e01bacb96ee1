//! How much a task moves in one turn.
//!
//! The runtime counts a task's operations and ends its turn after 128 of them. An operation of ours moves up to 256 KiB,
//! so that a turn could take ten milliseconds. Here each of them counts by what it moves.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll};

use tokio::task::coop;

/// Bytes that count as one operation.
const STEP: usize = 2 * 1024;

thread_local! {
    static SPENT: Cell<u64> = const { Cell::new(0) };
}

/// Bytes that tasks of this thread have moved so far, and what costs as much.
#[must_use]
pub fn spent() -> u64 {
    SPENT.get()
}

/// Count `bytes` that this task has moved, or work that costs as much.
pub fn spend(bytes: usize, context: &mut Context<'_>) {
    SPENT.set(SPENT.get() + bytes as u64);
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

/// Count work that is about to be done and costs as much as moving `bytes`, and give way if this turn has had enough.
pub async fn give_way_after(bytes: usize) {
    poll_fn(|context| {
        spend(bytes, context);
        Poll::Ready(())
    })
    .await;
    poll_fn(poll_left).await;
}
