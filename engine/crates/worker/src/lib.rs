//! Worker threads that serve pods, and what their host sees of them, whatever protocol is served.
//!
//! A [`WorkerPool`] assigns each pod to a group of threads, each with its own single-threaded runtime. A [`Protocol`] says
//! what happens on a thread: its [`Worker`] serves pods, and each [`Pod`] has a [`PodLife`]. The [`Host`] is what all
//! protocols share: events, certificates, and the count of what is still open. This crate does not know what a connection
//! carries.

mod certificates;
mod command;
mod drain;
mod events;
mod host;
mod limits;
mod pool;
mod protocol;
mod rate_limit;
mod thread;

pub use certificates::{CertificateState, CertificateUse, Certificates};
pub use drain::{Held, OpenListener, Phase, PodLife};
pub use events::Events;
pub use host::{Host, WorkerSettings};
pub use limits::{LimitSettings, Limits, Permit, PodInfo, Semaphore};
pub use pool::{PoolError, WorkerPool};
pub use protocol::{Pod, Protocol, Worker};
pub use rate_limit::{RateLimiter, throttled};
