//! A thread's tasks, scheduled fairly between the groups that they belong to.
//!
//! The runtime's own queue is one for all: a pod with five hundred busy connections would be served five hundred times
//! before its neighbour is served once. Here each pod is a group with a queue of its own, and the thread runs a task of the
//! group that has used the least time. I/O, timers and sleep are tokio's. Threads leave CPUs to each other, too
//! ([`CpuReservation`]).

mod affinity;
pub mod budget;
pub mod clock;
mod queue;
mod tasks;

pub use affinity::{CpuAffinity, CpuReservation};
pub use tasks::{TaskGroup, block_on, spawn};
