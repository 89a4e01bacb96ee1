//! Carrying connections: what happens on the workers, threads with a runtime each.

mod admission;
mod attempts;
mod connections;
mod dns;
mod inbound;
mod lanes;
mod outbound;
mod pace;
mod plaintext;
mod pod;
mod refusal;
mod worker;

pub(crate) use connections::Connections;
pub(crate) use lanes::Lanes;
pub(crate) use pod::{Bounds, PodInfo};
pub(crate) use worker::{Command, Started, Stopped, WorkerHandle};
