//! Carrying connections: what happens on the workers, threads with a runtime each.
//!
//! In layers, from below: limits, context, connections, pod; then what opens connections (connect, dns, retry) and what
//! authorizes them (admission); then each kind of connection (outbound, inbound, plaintext); then serve, worker and pool.

mod admission;
mod connect;
mod connections;
mod context;
mod dns;
mod drain;
mod inbound;
mod limits;
mod outbound;
mod plaintext;
mod pod;
mod pool;
mod rate_limit;
mod refusal;
mod retry;
mod serve;
mod worker;

pub(crate) use connections::Connections;
pub(crate) use drain::Held;
pub(crate) use limits::{LimitSettings, Limits, PodInfo};
pub(crate) use pool::WorkerPool;
pub(crate) use worker::{Command, Started, Stopped, WorkerHandle};
