//! Carrying connections: what happens on the workers, threads with a runtime each.

mod admission;
mod connections;
mod dns;
mod inbound;
mod outbound;
mod plaintext;
mod pod;
mod pool;
mod rate_limit;
mod refusal;
mod retry;
mod worker;

pub(crate) use connections::Connections;
pub(crate) use pod::{Bounds, PodInfo};
pub(crate) use pool::WorkerPool;
pub(crate) use worker::{Command, Started, Stopped, WorkerHandle};
