//! Carrying connections: what happens on a core.

mod attempts;
mod connections;
mod core;
mod dns;
mod inbound;
mod outbound;
mod pace;
mod plaintext;
mod pod;
mod tasks;

pub(crate) use connections::Connections;
pub(crate) use core::{Command, CoreHandle, Started, Stopped};
pub(crate) use pod::{Bounds, PodInfo};
