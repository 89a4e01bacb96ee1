//! The tasks of one thread, and a fair share of its time for each of those they belong to.
//!
//! The runtime's own queue is one for all: a pod with five hundred busy connections would be served five hundred times
//! before its neighbour is once. Here each pod has a queue of its own, and the thread runs a task of the pod that has had
//! least of its time. I/O, timers and sleep are tokio's. Threads leave processors to each other, too ([`Processors`]).

mod clock;
mod queue;
mod spare;
mod tasks;
pub mod turn;

pub use spare::{Processors, Seat};
pub use tasks::{Share, block_on, spawn};
